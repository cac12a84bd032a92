//! The anti-replay window of one epoch.
//!
//! ```text
//!          next - 1024                       next - 1   next
//!   too old |  one bit each: seen or not          |  |  newer: always admitted
//! ```
//!
//! It is touched twice: [`ReplayWindow::admits`] before the tag is checked, [`ReplayWindow::record`] after
//! (R16), so that nothing unauthentic moves it (CVE-2016-2181).
//!
//! # Source
//! RFC 6347 section 4.1.2.6.

/// How far behind the newest record another one may come; reordering on real paths stays far below.
pub const REPLAY_WINDOW: u64 = 1_024;

const WORDS: usize = 16;
const _: () = assert!(WORDS as u64 * 64 == REPLAY_WINDOW);

/// Which sequence numbers were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplayWindow {
    /// One past the highest sequence number seen.
    next: u64,
    /// The bit of a sequence number is at its remainder.
    seen: [u64; WORDS],
}

impl ReplayWindow {
    /// Whether `sequence` is neither seen nor too old.
    #[inline]
    pub fn admits(&self, sequence: u64) -> bool {
        if sequence >= self.next {
            return true;
        }
        let (word, bit) = place(sequence);
        self.next - sequence <= REPLAY_WINDOW && self.seen[word] & bit == 0
    }

    /// Whether `sequence` is above all that was seen.
    #[inline]
    pub fn is_newest(&self, sequence: u64) -> bool {
        sequence >= self.next
    }

    /// Remembers an authentic record that was admitted.
    #[inline]
    pub fn record(&mut self, sequence: u64) {
        if sequence == self.next {
            // The usual case: in order.
            self.next += 1;
        } else if sequence > self.next {
            let passed = sequence - self.next;
            if passed >= REPLAY_WINDOW {
                self.seen = [0; WORDS];
            } else {
                for skipped in self.next..sequence {
                    let (word, bit) = place(skipped);
                    self.seen[word] &= !bit;
                }
            }
            self.next = sequence + 1;
        }
        let (word, bit) = place(sequence);
        self.seen[word] |= bit;
    }
}

#[inline]
fn place(sequence: u64) -> (usize, u64) {
    let position = (sequence % REPLAY_WINDOW) as usize;
    (position / 64, 1 << (position % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The model: every number ever seen.
    fn admitted(seen: &BTreeSet<u64>, sequence: u64) -> bool {
        let highest = seen.last().copied().unwrap_or(0);
        !seen.contains(&sequence) && sequence + REPLAY_WINDOW > highest
    }

    proptest! {
        /// Covers: P-022, R16.
        #[test]
        fn the_window_admits_what_the_model_admits(
            start in prop_oneof![Just(0u64), Just((1 << 48) - 4_000), 0u64..1 << 40],
            steps in proptest::collection::vec((0u64..4_000, any::<bool>()), 1..400),
        ) {
            let (mut window, mut seen) = (ReplayWindow::default(), BTreeSet::new());
            for (step, authentic) in steps {
                let sequence = start + step;
                let admits = window.admits(sequence);
                prop_assert_eq!(admits, admitted(&seen, sequence), "{}", sequence);
                if admits && authentic {
                    window.record(sequence);
                    seen.insert(sequence);
                }
            }
        }
    }

    #[test]
    fn the_oldest_number_of_the_window_is_admitted_and_the_one_before_is_not() {
        let mut window = ReplayWindow::default();
        window.record(2_000);
        assert!(window.admits(2_000 - 1_023));
        assert!(!window.admits(2_000 - 1_024));
        assert!(!window.admits(2_000));
        assert!(window.is_newest(2_001) && !window.is_newest(1_999));
    }
}
