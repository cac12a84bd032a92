//! How many packets a session gets that the server makes by itself: errors, resets, echoes of its own (R48, R57).

use std::time::{Duration, Instant};

/// As many at once: a page whose forty connections are refused, twice.
const MAX_BURST: u32 = 100;

/// One more after this time, which is 100 a second: ten times what Linux lets one destination have.
const REFILL: Duration = Duration::from_millis(10);

/// A bucket of permissions.
#[derive(Debug)]
pub(super) struct Limit {
    left: u32,
    filled: Instant,
}

impl Limit {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: MAX_BURST, filled: now }
    }

    /// Takes a permission, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let periods = now.saturating_duration_since(self.filled).as_nanos() / REFILL.as_nanos();
        if periods >= u128::from(MAX_BURST) {
            (self.left, self.filled) = (MAX_BURST, now);
        } else if let Ok(periods) = u32::try_from(periods) {
            self.left = (self.left + periods).min(MAX_BURST);
            self.filled += REFILL * periods;
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: R48, R57
    #[test]
    fn a_burst_passes_and_then_one_for_each_period() {
        let start = Instant::now();
        let mut limit = Limit::new(start);
        assert_eq!((0..1_000).filter(|_| limit.take(start)).count(), 100);
        assert!(!limit.take(start + REFILL / 2));
        assert!(limit.take(start + REFILL));
        assert!(!limit.take(start + REFILL));
        assert_eq!((0..1_000).filter(|_| limit.take(start + Duration::from_secs(3_600))).count(), 100);
    }
}
