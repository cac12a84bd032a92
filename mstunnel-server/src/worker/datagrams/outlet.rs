//! The way out for datagrams of one worker: its sockets, and the burst in the making.

use std::rc::Rc;

use mstunnel_proto::dtls::{Burst, Path, Taken};

use super::socket::DatagramSocket;

/// The sockets of a worker and its burst.
pub(crate) struct Outlet {
    sockets: Rc<[DatagramSocket]>,
    burst: Burst<Path>,
}

impl Outlet {
    /// An outlet over `sockets`; a [`Path`] says which by its place.
    pub(crate) fn new(sockets: Rc<[DatagramSocket]>) -> Self {
        let max_segments = sockets.iter().map(DatagramSocket::max_segments).min().unwrap_or(1);
        Self { sockets, burst: Burst::new(max_segments) }
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
        let Some(Taken { destination: path, bytes, segment }) = self.burst.take() else {
            return;
        };
        let Some(socket) = self.sockets.get(usize::from(path.socket)) else {
            return;
        };
        // No room in the kernel, no route at the moment, a link that became smaller: what a network may do at any
        // time. The tunnelled flows repair it.
        if let Err(error) = socket.send(&path, bytes, segment) {
            tracing::trace!(%error, remote = %path.remote, "cannot send datagrams");
        }
    }
}
