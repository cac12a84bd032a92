//! The sequence numbers of one epoch: each is given out once, whichever thread asks, and none after the last.
//!
//! A nonce must never be used twice, and that is all there is to it: no other memory hangs on the number, so that
//! the atomic needs no ordering. `tests/loom` tries every interleaving of a few threads.
//!
//! # Source
//! RFC 6347 section 4.1.0: 48 bits, and no wrapping (R16).

use super::atomic::{AtomicU64, Ordering};

/// The last sequence number of an epoch.
pub(crate) const MAX_SEQUENCE: u64 = (1 << 48) - 1;

/// What is left of an epoch's numbers.
pub(crate) struct Sequences {
    next: AtomicU64,
}

impl Sequences {
    /// All of them.
    pub(crate) fn new() -> Self {
        Self { next: AtomicU64::new(0) }
    }

    /// Takes the next number; `None` for ever after the last one.
    #[inline]
    pub(crate) fn take(&self) -> Option<u64> {
        // 2^63 more calls would be needed to come around.
        let sequence = self.next.fetch_add(1, Ordering::Relaxed);
        (sequence <= MAX_SEQUENCE).then_some(sequence)
    }

    /// How many were asked for.
    pub(crate) fn used(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn skip_to(&self, sequence: u64) {
        self.next.store(sequence, Ordering::Relaxed);
    }
}
