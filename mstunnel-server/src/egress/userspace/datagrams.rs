//! Reads datagrams and what ICMP said about those that were sent.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::outlet::Entry;

/// An error of a datagram socket makes it not readable: it is waited for by itself.
const INTEREST: Interest = Interest::READABLE.add(Interest::ERROR);

/// Takes one datagram, or the error that waits.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when there is neither; else what an earlier datagram has met.
pub(super) fn try_recv(socket: &UdpSocket, room: &mut [u8]) -> io::Result<usize> {
    // One by one: `try_io` takes no two interests at once, and would say "none" for ever.
    for interest in [Interest::READABLE, Interest::ERROR] {
        match socket.try_io(interest, || (&*SockRef::from(socket)).read(room)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
    }
    Err(io::ErrorKind::WouldBlock.into())
}

/// Calls `receive` whenever there is something, until the flow was idle for `limit` or `receive` fails.
pub(super) async fn serve(
    entry: &Entry,
    socket: &UdpSocket,
    limit: Duration,
    mut receive: impl FnMut(Instant) -> io::Result<()>,
) {
    loop {
        let idle_at = entry.flow().active() + limit;
        tokio::select! {
            ready = socket.ready(INTEREST) => {
                if ready.is_err() || receive(Instant::now()).is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
            () = tokio::time::sleep_until(tokio::time::Instant::from_std(idle_at)) => {
                if entry.flow().active() + limit <= Instant::now() {
                    return;
                }
            }
        }
    }
}
