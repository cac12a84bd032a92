//! How long a lost connection is tried for, and when.
//!
//! A link that does not last is no success: the next loss goes on with the waits that are left. Else a server that opens
//! each tunnel and closes it at once would be visited without a pause, for ever. A network that cuts every link after a
//! while is none of that: what lived longer than it was waited for has lasted, and each life gives its time back.

use std::time::Duration;

use mstunnel_proto::session::Backoff;

use crate::stack::random;

/// From when on a link has lasted, if it was not waited for even longer.
const LASTING: Duration = Duration::from_secs(5);

/// What is left of the time for reconnects.
#[derive(Debug)]
pub(crate) struct Patience {
    limit: Duration,
    left: Duration,
    backoff: Backoff,
    attempts: u32,
    last_wait: Duration,
}

/// One try.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// Which it is, from one.
    pub(crate) number: u32,
    /// What to wait before it.
    pub(crate) wait: Duration,
}

impl Patience {
    /// For losses whose tries take `limit` in all.
    pub(crate) fn new(limit: Duration) -> Self {
        let backoff = Backoff::eager(limit).spread(random::u64());
        Self { limit, left: limit, backoff, attempts: 0, last_wait: Duration::ZERO }
    }

    /// A link is over that had lived for `life`.
    pub(crate) fn handle_loss(&mut self, life: Duration) {
        if life >= self.last_wait.max(LASTING) {
            *self = Self::new(self.limit);
        } else {
            self.left = self.limit.min(self.left + life);
        }
    }

    /// The next try; `None` when there is no patience left.
    pub(crate) fn next_attempt(&mut self) -> Option<Attempt> {
        let wait = self.backoff.next_wait()?;
        self.last_wait = wait;
        self.attempts = self.attempts.saturating_add(1);
        Some(Attempt { number: self.attempts, wait })
    }

    /// So much time may tries and waits still take.
    pub(crate) fn left(&self) -> Duration {
        self.left
    }

    /// Tries and waits took `time`.
    pub(crate) fn spend(&mut self, time: Duration) {
        self.left = self.left.saturating_sub(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(300);

    /// The wait after the loss of a link that had lived for `life`.
    fn wait(patience: &mut Patience, life: Duration) -> Option<Duration> {
        patience.handle_loss(life);
        patience.next_attempt().map(|attempt| attempt.wait)
    }

    #[test]
    fn links_that_do_not_last_use_the_patience_up() {
        let mut patience = Patience::new(LIMIT);
        let second = Duration::from_secs(1);
        let waits: Vec<Duration> = std::iter::from_fn(|| wait(&mut patience, second)).collect();
        assert_eq!(waits[0], Duration::ZERO);
        assert!(waits[1..].iter().all(|wait| *wait >= second / 2), "{waits:?}");
        assert!(waits.len() < 20 && waits.iter().sum::<Duration>() <= LIMIT, "{waits:?}");

        patience.spend(Duration::from_secs(200));
        patience.spend(Duration::from_secs(200));
        assert_eq!(patience.left(), Duration::ZERO);
    }

    #[test]
    fn a_link_that_lasted_is_gone_back_to_at_once() {
        let mut patience = Patience::new(LIMIT);
        for _ in 0..100 {
            patience.spend(Duration::from_secs(10));
            assert_eq!(wait(&mut patience, LASTING), Some(Duration::ZERO));
            assert_eq!(patience.left(), LIMIT);
            assert!(wait(&mut patience, Duration::ZERO) > Some(Duration::ZERO));
        }
        patience.handle_loss(LIMIT);
        assert_eq!(patience.next_attempt(), Some(Attempt { number: 1, wait: Duration::ZERO }));
    }

    /// A middlebox that forgets connections after half a minute.
    #[test]
    fn links_that_are_cut_again_and_again_are_gone_back_to_for_ever() {
        let mut patience = Patience::new(LIMIT);
        // A bad start: the tries before the first link that holds.
        for _ in 0..6 {
            patience.next_attempt().unwrap();
            patience.spend(Duration::from_secs(20));
        }
        for _ in 0..1_000 {
            let wait = wait(&mut patience, Duration::from_secs(30)).expect("it goes on");
            patience.spend(wait);
        }
        assert_eq!(wait(&mut patience, Duration::from_secs(30)), Some(Duration::ZERO));
    }
}
