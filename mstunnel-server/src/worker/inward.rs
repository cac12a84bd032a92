//! A tunnel as the flows of userspace egress see it.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::drop::DropReason;

use super::table::with;
use super::tunnel::{Bench, Tunnel};
use crate::egress::userspace::ToClient;

/// The way to a client, for as long as its tunnel is there.
pub(crate) struct Inward {
    tunnel: Weak<RefCell<Tunnel>>,
    bench: Rc<Bench>,
    mtu: usize,
}

impl Inward {
    /// Makes the way to the client of `tunnel`.
    pub(crate) fn new(tunnel: &Rc<RefCell<Tunnel>>, bench: &Rc<Bench>) -> Self {
        let mtu = tunnel.borrow().mtu().min(bench.buffers.max_packet());
        Self { tunnel: Rc::downgrade(tunnel), bench: Rc::clone(bench), mtu }
    }

    fn with<T>(&self, act: impl FnOnce(&mut Tunnel) -> T) -> Option<T> {
        self.tunnel.upgrade().and_then(|tunnel| with(&tunnel, act))
    }
}

impl ToClient for Inward {
    fn mtu(&self) -> usize {
        self.mtu
    }

    fn buffer(&self) -> PacketBuf {
        self.bench.buffers.take()
    }

    fn recycle(&self, packet: PacketBuf) {
        self.bench.buffers.give(packet);
    }

    fn has_room(&self) -> bool {
        // What is sent to a tunnel that is gone goes nowhere and waits for nothing.
        self.tunnel.upgrade().is_none_or(|tunnel| tunnel.borrow().has_room())
    }

    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.with(|tunnel| tunnel.poll_room(cx)).unwrap_or(Poll::Ready(()))
    }

    fn send(&self, packet: &mut PacketBuf, now: Instant) {
        self.with(|tunnel| tunnel.send(packet, &self.bench, now));
    }

    fn flush(&self, now: Instant) {
        self.with(|tunnel| tunnel.flush(&self.bench, now));
        self.bench.outlet.borrow_mut().flush();
    }

    fn count_drop(&self, reason: DropReason) {
        self.with(|tunnel| tunnel.count_drop(reason));
    }
}
