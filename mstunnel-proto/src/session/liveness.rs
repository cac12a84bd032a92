//! Dead-peer detection: when to ask "are you there", and when silence means death.
//!
//! Every record received counts as life; for a client those of the stream, beside which it listens for datagrams. The two ends differ only in their patience:
//!
//! | end | asks after | asks again every | dead after |
//! | --- | --- | --- | --- |
//! | client | D | D/2 | 2D |
//! | server | 2D | D/2 | 3D |
//!
//! The client drives DPD; the server is the more patient end so that the two do not ask in step.
//! Death needs at least one unanswered request of age D/2, so that a process that slept through its
//! deadlines asks before it gives up.
//!
//! # Source
//! protocol.md 8.1, statements 45 and 46.

use std::time::{Duration, Instant};

/// What [`Liveness::check`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// Nothing is due.
    Quiet,
    /// A DPD request has to be sent.
    Ask,
    /// The peer was asked and stayed silent.
    Dead,
}

/// The DPD clock of one channel.
#[derive(Clone, Debug)]
pub(crate) struct Liveness {
    ask_after: Duration,
    repeat: Duration,
    dead_after: Duration,
    last_heard: Instant,
    first_unanswered: Option<Instant>,
    last_asked: Option<Instant>,
}

impl Liveness {
    /// The server's patience for the advertised interval `dpd`.
    pub(crate) fn server(dpd: Duration, now: Instant) -> Self {
        Self::new(dpd * 2, dpd / 2, dpd * 3, now)
    }

    /// The client's patience for the interval `dpd` that the server advertised.
    pub(crate) fn client(dpd: Duration, now: Instant) -> Self {
        Self::new(dpd, dpd / 2, dpd * 2, now)
    }

    fn new(ask_after: Duration, repeat: Duration, dead_after: Duration, now: Instant) -> Self {
        Self { ask_after, repeat, dead_after, last_heard: now, first_unanswered: None, last_asked: None }
    }

    /// Notes that the peer sent something. One store in the common case.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        if self.first_unanswered.is_some() {
            self.first_unanswered = None;
            self.last_asked = None;
        }
    }

    /// When [`Liveness::check`] next has something to say.
    pub(crate) fn due(&self) -> Instant {
        match (self.first_unanswered, self.last_asked) {
            (Some(first), Some(last)) => {
                let dead = (self.last_heard + self.dead_after).max(first + self.repeat);
                dead.min(last + self.repeat)
            }
            _ => self.last_heard + self.ask_after,
        }
    }

    /// Decides what silence up to `now` means.
    pub(crate) fn check(&mut self, now: Instant) -> Pulse {
        if now < self.due() {
            return Pulse::Quiet;
        }
        if let Some(first) = self.first_unanswered
            && now >= self.last_heard + self.dead_after
            && now >= first + self.repeat
        {
            return Pulse::Dead;
        }
        self.first_unanswered.get_or_insert(now);
        self.last_asked = Some(now);
        Pulse::Ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::origin;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    /// Drives the clock to each deadline and returns (seconds, pulse) until death.
    fn silence(mut liveness: Liveness, start: Instant) -> Vec<(u64, Pulse)> {
        let mut seen = Vec::new();
        loop {
            let at = liveness.due();
            let pulse = liveness.check(at);
            seen.push(((at - start).as_secs(), pulse));
            if pulse == Pulse::Dead {
                return seen;
            }
            assert!(seen.len() < 20, "silence ends in death: {seen:?}");
        }
    }

    /// Covers: statement 45
    #[test]
    fn a_client_asks_after_d_and_every_half_d_and_gives_up_after_two() {
        let start = origin();
        assert_eq!(
            silence(Liveness::client(secs(2), start), start),
            [(2, Pulse::Ask), (3, Pulse::Ask), (4, Pulse::Dead)]
        );
    }

    /// Covers: statement 46
    #[test]
    fn a_server_asks_at_two_d_and_gives_up_at_three() {
        let start = origin();
        assert_eq!(
            silence(Liveness::server(secs(90), start), start),
            [(180, Pulse::Ask), (225, Pulse::Ask), (270, Pulse::Dead)]
        );
    }

    /// Covers: statement 46
    #[test]
    fn a_process_that_slept_asks_before_it_gives_up() {
        let start = origin();
        let mut liveness = Liveness::server(secs(10), start);
        let woken = start + secs(3600);
        assert_eq!(liveness.check(woken), Pulse::Ask);
        assert_eq!(liveness.check(woken + secs(4)), Pulse::Quiet);
        assert_eq!(liveness.check(woken + secs(5)), Pulse::Dead);
    }

    #[test]
    fn any_record_resets_the_clock() {
        let start = origin();
        let mut liveness = Liveness::server(secs(10), start);
        assert_eq!(liveness.check(start + secs(20)), Pulse::Ask);
        liveness.heard(start + secs(21));
        assert_eq!(liveness.due(), start + secs(41));
        assert_eq!(liveness.check(start + secs(30)), Pulse::Quiet);
    }
}
