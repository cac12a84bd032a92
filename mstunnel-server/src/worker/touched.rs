//! The tunnels that a burst has given something to: flushed once, at its end.

use std::rc::Rc;
use std::time::Instant;

use super::table::{SharedTunnel, with};
use super::tunnel::Bench;

/// A short list, reused from burst to burst.
pub(crate) struct Touched(Vec<SharedTunnel>);

impl Touched {
    /// A list for bursts of `capacity` packets.
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// Notes that `tunnel` was given something. Packets of one tunnel mostly follow each other, so that the last
    /// entry is looked at first.
    pub(crate) fn note(&mut self, tunnel: &SharedTunnel) {
        if !self.0.iter().rev().any(|other| Rc::ptr_eq(other, tunnel)) {
            self.0.push(Rc::clone(tunnel));
        }
    }

    /// Sends what they have sealed, and on to the network what they have opened.
    pub(crate) fn flush(&mut self, bench: &Bench, now: Instant) {
        bench.egress.flush();
        for tunnel in self.0.drain(..) {
            with(&tunnel, |tunnel| tunnel.flush(bench, now));
        }
        bench.outlet.borrow_mut().flush();
    }
}
