//! Reads datagrams and what ICMP said about those that were sent.

use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mstunnel_proto::packet::Family;
use nix::sys::socket::{MsgFlags, recvmsg, setsockopt, sockopt};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::outlet::Entry;

/// An error of a datagram socket makes it not readable: it is waited for by itself.
const INTEREST: Interest = Interest::READABLE.add(Interest::ERROR);

/// Copies of errors that are thrown away at once; each was told by an error of its own.
const MAX_COPIES: usize = 16;

/// Asks for every ICMP error about `socket`: without, the kernel keeps to itself that a host is unreachable.
///
/// # Errors
/// The operating system's.
pub(super) fn hear_errors(socket: &impl AsFd, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => setsockopt(socket, sockopt::Ipv4RecvErr, &true)?,
        Family::V6 => setsockopt(socket, sockopt::Ipv6RecvErr, &true)?,
    }
    Ok(())
}

/// Throws away the copies that the kernel keeps of errors: they take the room of datagrams.
fn forget_copies(socket: &UdpSocket) {
    for _ in 0..MAX_COPIES {
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        if recvmsg::<()>(socket.as_raw_fd(), &mut [], None, flags).is_err() {
            return;
        }
    }
}

/// Takes one datagram, or the error that waits.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when there is neither; else what an earlier datagram has met.
pub(super) fn try_recv(socket: &UdpSocket, room: &mut [u8]) -> io::Result<usize> {
    // One by one: `try_io` takes no two interests at once, and would say "none" for ever.
    for interest in [Interest::READABLE, Interest::ERROR] {
        match socket.try_io(interest, || (&*SockRef::from(socket)).read(room)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                forget_copies(socket);
                return Err(error);
            }
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
