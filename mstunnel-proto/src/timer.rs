//! A small table of deadlines keyed by an enum.

use std::time::Instant;

/// The next moment at which a machine wants `handle_timeout`, and which timer is due then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline<T> {
    /// When.
    pub at: Instant,
    /// Which timer, so that a busy loop names its culprit.
    pub timer: T,
}

/// A key of [`Timers`]: an enum with `N` variants.
pub trait TimerKey: Copy + 'static {
    /// Every variant, in the order of [`TimerKey::index`].
    const ALL: &'static [Self];

    /// The position in [`TimerKey::ALL`].
    fn index(self) -> usize;
}

/// Deadlines of one machine, at most one a key.
#[derive(Clone, Debug)]
pub struct Timers<T, const N: usize> {
    due: [Option<Instant>; N],
    keys: std::marker::PhantomData<T>,
}

impl<T: TimerKey, const N: usize> Default for Timers<T, N> {
    fn default() -> Self {
        Self { due: [None; N], keys: std::marker::PhantomData }
    }
}

impl<T: TimerKey, const N: usize> Timers<T, N> {
    /// Arms `timer` for `at`, replacing what it was armed for.
    pub fn arm(&mut self, timer: T, at: Instant) {
        self.due[timer.index()] = Some(at);
    }

    /// Disarms `timer`.
    pub fn disarm(&mut self, timer: T) {
        self.due[timer.index()] = None;
    }

    /// When `timer` is due, if it is armed.
    pub fn due(&self, timer: T) -> Option<Instant> {
        self.due[timer.index()]
    }

    /// Takes one timer that is due at `now`, the earliest first, and disarms it.
    pub fn take_due(&mut self, now: Instant) -> Option<T> {
        let next = self.next()?;
        if next.at > now {
            return None;
        }
        self.disarm(next.timer);
        Some(next.timer)
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Deadline<T>> {
        T::ALL
            .iter()
            .filter_map(|&timer| self.due[timer.index()].map(|at| Deadline { at, timer }))
            .min_by_key(|deadline| deadline.at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Key {
        A,
        B,
    }

    impl TimerKey for Key {
        const ALL: &'static [Self] = &[Self::A, Self::B];

        fn index(self) -> usize {
            self as usize
        }
    }

    #[test]
    fn timers_come_due_in_order_and_once() {
        let start = crate::testing::origin();
        let mut timers = Timers::<Key, 2>::default();
        timers.arm(Key::A, start + Duration::from_secs(2));
        timers.arm(Key::B, start + Duration::from_secs(1));
        assert_eq!(timers.take_due(start), None);
        let later = start + Duration::from_secs(2);
        assert_eq!(timers.take_due(later), Some(Key::B));
        assert_eq!(timers.take_due(later), Some(Key::A));
        assert_eq!(timers.next(), None);
    }
}
