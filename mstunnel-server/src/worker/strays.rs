//! Packets and datagrams that reached no session, by reason.

use std::sync::atomic::{AtomicU64, Ordering};

use mstunnel_proto::drop::DropReason;

/// The counters, shared by the workers.
#[derive(Default)]
pub(crate) struct Strays([AtomicU64; DropReason::ALL.len()]);

impl Strays {
    /// Counts one.
    pub(crate) fn count(&self, reason: DropReason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were for `reason`.
    pub(crate) fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }
}
