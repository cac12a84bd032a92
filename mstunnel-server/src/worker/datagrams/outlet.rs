//! The way out for datagrams of one worker: its sockets, and the burst in the making.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use mstunnel_proto::dtls::{Burst, Path, Taken};

use super::socket::DatagramSocket;

/// The sockets of a worker and its burst.
pub(crate) struct Outlet {
    sockets: Rc<[DatagramSocket]>,
    burst: Burst<Path>,
    /// While the kernel cuts no bursts: until when none are tried.
    uncut_until: Option<Instant>,
    is_told: bool,
}

/// How long bursts are not tried after the kernel could not cut one: it may be the way to one client alone.
const UNCUT: Duration = Duration::from_secs(60);

impl Outlet {
    /// An outlet over `sockets`; a [`Path`] says which by its place.
    pub(crate) fn new(sockets: Rc<[DatagramSocket]>) -> Self {
        let burst = whole_bursts(&sockets);
        Self { sockets, burst, uncut_until: None, is_told: false }
    }

    /// Adds a datagram of `len` bytes to the burst; `fill` writes it, or gives it up. Returns whether it did.
    ///
    /// What is there for another client, or is too much for one system call, is sent first.
    pub(crate) fn put(&mut self, path: Path, len: usize, fill: impl FnOnce(&mut [u8]) -> bool) -> bool {
        if self.burst.room(path, len).is_none() {
            self.flush();
        }
        let Some(room) = self.burst.room(path, len) else {
            return false;
        };
        let is_filled = fill(room);
        if is_filled {
            self.burst.commit(len);
        }
        is_filled
    }

    /// Sends a datagram, behind what is there already.
    pub(crate) fn send(&mut self, path: Path, datagram: &[u8]) {
        self.put(path, datagram.len(), |room| {
            room.copy_from_slice(datagram);
            true
        });
        self.flush();
    }

    /// Hands the burst to the kernel.
    pub(crate) fn flush(&mut self) {
        self.send_taken();
        if self.uncut_until.is_some_and(|until| Instant::now() >= until) {
            self.burst = whole_bursts(&self.sockets);
            self.uncut_until = None;
        }
    }

    fn send_taken(&mut self) {
        let Some(Taken { destination: path, bytes, segment }) = self.burst.take() else {
            return;
        };
        let Some(socket) = self.sockets.get(usize::from(path.socket)) else {
            return;
        };
        let Err(error) = send(socket, &path, bytes, segment) else { return };
        let Some(segment) = segment.filter(|_| is_uncut(&error)) else { return };
        for datagram in bytes.chunks(segment) {
            // Each may be lost by itself.
            let _ = send(socket, &path, datagram, None);
        }
        // Of the way to one client or of all: either way each burst would cost a call that fails.
        if error.raw_os_error() == Some(libc::EIO) {
            if !std::mem::replace(&mut self.is_told, true) {
                tracing::warn!(
                    "the kernel cannot cut bursts of datagrams; each is sent by itself for a while"
                );
            }
            self.burst = Burst::new(1);
            self.uncut_until = Some(Instant::now() + UNCUT);
        }
    }
}

fn whole_bursts(sockets: &[DatagramSocket]) -> Burst<Path> {
    Burst::new(sockets.iter().map(DatagramSocket::max_segments).min().unwrap_or(1))
}

/// Sends; what fails is lost. No room in the kernel, no route at the moment, a link that became smaller: what a network
/// may do at any time. The tunnelled flows repair it.
fn send(socket: &DatagramSocket, path: &Path, bytes: &[u8], segment: Option<usize>) -> io::Result<()> {
    let sent = socket.send(path, bytes, segment);
    if let Err(error) = &sent {
        tracing::trace!(%error, remote = %path.remote, "cannot send datagrams");
    }
    sent
}

/// Whether the kernel may have refused a burst because it cannot cut it, and not its datagrams: a route through IPsec,
/// a device that makes no checksums (before Linux 6.11), a path MTU that became smaller.
fn is_uncut(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::UdpSocket;

    use super::*;
    use crate::worker::datagrams::socket::{self, Intake};

    /// More datagrams than any kernel cuts out of one burst.
    const TOO_MANY: u8 = 200;

    /// The first bytes of the datagrams that `client` was sent.
    fn received(client: &UdpSocket) -> Vec<u8> {
        let receive = |_| {
            let mut datagram = [0; 100];
            client.recv(&mut datagram).unwrap();
            datagram[0]
        };
        (0..TOO_MANY).map(receive).collect()
    }

    #[tokio::test]
    async fn a_burst_that_the_kernel_does_not_cut_leaves_one_datagram_at_a_time() {
        let server = socket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        client.send_to(b"hello", server.local_addr().unwrap()).unwrap();
        let server = DatagramSocket::new(server).unwrap();
        // The reactor believes a socket unwritable until its first turn.
        let mut intake = Intake::new(1);
        poll_fn(|cx| server.poll_recv(cx, &mut intake, |_, _| {})).await.unwrap();

        let path = Path { remote: client.local_addr().unwrap(), local: None, socket: 0 };
        let mut outlet = Outlet { burst: Burst::new(TOO_MANY.into()), ..Outlet::new(Rc::new([server])) };
        for _ in 0..2 {
            for number in 0..TOO_MANY {
                let fill = |room: &mut [u8]| {
                    room.fill(number);
                    true
                };
                assert!(outlet.put(path, 100, fill));
            }
            outlet.flush();
            assert!(received(&client).into_iter().eq(0..TOO_MANY));
        }
    }
}
