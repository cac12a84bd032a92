//! How much memory the buffers of TCP flows take: shrinking with the flows of a session and with those of a worker.

use std::cell::Cell;
use std::rc::Rc;

const KB: usize = 1024;

/// What all buffers of one worker may take: some hundred flows at full speed and thousands of small ones.
pub(super) const MAX_BYTES: usize = 512 * 1024 * KB;

/// The sizes of the two buffers of one flow, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sizes {
    /// What waits for the host's socket: also the window that the client may fill.
    pub(super) from_client: usize,
    /// What waits for the client's acknowledgement.
    pub(super) to_client: usize,
}

impl Sizes {
    const LARGE: Self = Self { from_client: 512 * KB, to_client: 512 * KB };
    const MEDIUM: Self = Self { from_client: 128 * KB, to_client: 128 * KB };
    const SMALL: Self = Self { from_client: 32 * KB, to_client: 32 * KB };

    /// The sizes for one more flow beside `others` of its session, with `used` bytes of the worker taken.
    ///
    /// A few flows get what fills 1 Gbit/s over 4 ms; 256 of one session take 8 * 1 MB + 56 * 256 KB + 192 * 64 KB,
    /// which are 34 MB. A worker whose budget is half used gives small ones only.
    fn beside(others: usize, used: usize) -> Self {
        match others {
            _ if used > MAX_BYTES / 2 => Self::SMALL,
            0..8 => Self::LARGE,
            8..64 => Self::MEDIUM,
            _ => Self::SMALL,
        }
    }

    fn total(self) -> usize {
        self.from_client + self.to_client
    }
}

/// The bytes that buffers of one worker have taken.
#[derive(Debug, Default)]
pub(super) struct Budget {
    used: Rc<Cell<usize>>,
}

/// A share of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) sizes: Sizes,
    used: Rc<Cell<usize>>,
}

impl Budget {
    /// Takes the share of one more flow beside `others` of its session; `None` when all is taken.
    pub(super) fn take(&self, others: usize) -> Option<Share> {
        let sizes = Sizes::beside(others, self.used.get());
        let used = self.used.get() + sizes.total();
        (used <= MAX_BYTES).then(|| {
            self.used.set(used);
            Share { sizes, used: Rc::clone(&self.used) }
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.used.set(self.used.get() - self.sizes.total());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: R55, R59
    #[test]
    fn buffers_shrink_with_their_number_and_end_at_the_budget() {
        let budget = Budget::default();
        assert_eq!(budget.take(0).unwrap().sizes, Sizes::LARGE);
        assert_eq!(budget.used.get(), 0);
        let of_one_session: Vec<Share> = (0..256).map(|others| budget.take(others).unwrap()).collect();
        assert!(budget.used.get() <= 36 << 20);
        let mut others = Vec::new();
        while let Some(share) = budget.take(0) {
            others.push(share);
            assert!(budget.used.get() <= MAX_BYTES);
        }
        assert_eq!(others.last().unwrap().sizes, Sizes::SMALL);
        drop((of_one_session, others));
        assert_eq!(budget.used.get(), 0);
    }
}
