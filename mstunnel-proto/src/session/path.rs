//! Whether the datagram channel may be trusted with traffic: it is, while it is proven alive.
//!
//! ```text
//!           open                silence of DOUBT_AFTER while we send, or traffic on the stream
//!   Closed ------> Proven  -----------------------------------------------------------> Doubted
//!     ^              ^  '------------------------ close --------------------------.       |
//!     |              '------------------------ any authentic record --------------+-------'
//!     '---------------------------------------------------------------------------'
//! ```
//!
//! While packets go out and nothing comes back, the peer is asked after `ASK_AFTER` and then every
//! `ASK_EVERY`; a peer that answers neither is doubted, and traffic takes the stream. A doubted channel is asked
//! now and then, so that traffic returns when the path does. Both ends do the same and need not agree: both
//! channels are accepted at all times.
//!
//! # Source
//! R8; protocol.md 5.7. ocserv waits for 25 s; the numbers here are ours.

use std::time::{Duration, Instant};

/// Silence while we send, before the peer is asked: longer than the round trip of any usable path.
const ASK_AFTER: Duration = Duration::from_secs(1);

/// Time between two questions.
const ASK_EVERY: Duration = Duration::from_millis(700);

/// Silence while we send, before traffic takes the stream: three questions went unanswered.
const DOUBT_AFTER: Duration = Duration::from_millis(3_100);

/// First and last wait between two questions on a doubted channel; each wait doubles the one before.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// The datagram channel of one session, as far as its trust goes.
#[derive(Clone, Debug, Default)]
pub(crate) struct DatagramPath {
    state: State,
}

#[derive(Clone, Debug, Default)]
enum State {
    #[default]
    Closed,
    Proven(Option<Wait>),
    Doubted {
        ask_at: Instant,
        wait: Duration,
    },
}

/// Something was sent and nothing came since.
#[derive(Clone, Copy, Debug)]
struct Wait {
    since: Instant,
    ask_at: Instant,
}

impl DatagramPath {
    /// The channel is up: its handshake has finished.
    pub(crate) fn open(&mut self) {
        self.state = State::Proven(None);
    }

    /// The channel is gone.
    pub(crate) fn close(&mut self) {
        self.state = State::Closed;
    }

    /// Whether traffic takes it.
    pub(crate) fn carries(&self) -> bool {
        matches!(self.state, State::Proven(_))
    }

    /// Notes that a packet was sent on it; returns whether [`DatagramPath::due`] is new.
    pub(crate) fn sent(&mut self, now: Instant) -> bool {
        match &mut self.state {
            State::Proven(wait @ None) => {
                *wait = Some(Wait { since: now, ask_at: now + ASK_AFTER });
                true
            }
            State::Proven(Some(_)) | State::Doubted { .. } | State::Closed => false,
        }
    }

    /// Notes an authentic record of the peer; returns whether [`DatagramPath::due`] has changed.
    pub(crate) fn heard(&mut self) -> bool {
        match &mut self.state {
            State::Proven(wait) => wait.take().is_some(),
            State::Doubted { .. } => {
                self.state = State::Proven(None);
                true
            }
            State::Closed => false,
        }
    }

    /// The peer sends its traffic on the stream: it does not trust the channel.
    pub(crate) fn doubt(&mut self, now: Instant) {
        if self.carries() {
            self.state = State::Doubted { ask_at: now + RETRY.0, wait: RETRY.0 };
        }
    }

    /// When [`DatagramPath::check`] next has something to say.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self.state {
            State::Proven(Some(wait)) => Some(wait.ask_at.min(wait.since + DOUBT_AFTER)),
            State::Doubted { ask_at, .. } => Some(ask_at),
            State::Proven(None) | State::Closed => None,
        }
    }

    /// Acts on the time; returns whether the peer has to be asked on this channel.
    pub(crate) fn check(&mut self, now: Instant) -> bool {
        match &mut self.state {
            State::Proven(Some(wait)) if now >= wait.since + DOUBT_AFTER => {
                self.state = State::Doubted { ask_at: now + RETRY.0, wait: RETRY.0 };
                false
            }
            State::Proven(Some(wait)) if now >= wait.ask_at => {
                wait.ask_at = now + ASK_EVERY;
                true
            }
            State::Doubted { ask_at, wait } if now >= *ask_at => {
                *wait = (*wait * 2).min(RETRY.1);
                *ask_at = now + *wait;
                true
            }
            State::Proven(_) | State::Doubted { .. } | State::Closed => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::origin;

    fn open() -> DatagramPath {
        let mut path = DatagramPath::default();
        path.open();
        path
    }

    /// Jumps from deadline to deadline for `limit`; returns (milliseconds, asked, still carries).
    fn run(path: &mut DatagramPath, start: Instant, limit: Duration) -> Vec<(u128, bool, bool)> {
        let mut seen = Vec::new();
        while let Some(at) = path.due().filter(|&at| at <= start + limit) {
            let asked = path.check(at);
            seen.push(((at - start).as_millis(), asked, path.carries()));
        }
        seen
    }

    /// Covers: R8
    #[test]
    fn a_silent_peer_is_asked_three_times_and_then_doubted() {
        let (mut path, start) = (open(), origin());
        assert!(path.sent(start));
        let seen = run(&mut path, start, Duration::from_secs(4));
        assert_eq!(seen, [(1000, true, true), (1700, true, true), (2400, true, true), (3100, false, false)]);
    }

    /// Covers: R8
    #[test]
    fn a_doubted_channel_is_asked_now_and_then_and_trusted_after_any_record() {
        let (mut path, start) = (open(), origin());
        path.doubt(start);
        assert!(!path.carries());
        let asked: Vec<u128> =
            run(&mut path, start, Duration::from_secs(200)).iter().map(|s| s.0 / 1000).collect();
        assert_eq!(asked, [5, 15, 35, 75, 135, 195]);
        assert!(path.heard());
        assert!(path.carries());
        assert_eq!(path.due(), None);
    }

    #[test]
    fn a_channel_that_answers_is_never_doubted() {
        let (mut path, start) = (open(), origin());
        for second in 0..100 {
            let now = start + Duration::from_secs(second);
            path.sent(now);
            assert!(!path.check(now + Duration::from_millis(900)));
            path.heard();
            assert!(path.carries());
        }
    }

    #[test]
    fn silence_without_traffic_means_nothing() {
        let path = open();
        assert_eq!(path.due(), None);
    }

    #[test]
    fn a_closed_channel_carries_nothing_whatever_happens() {
        let (mut path, now) = (DatagramPath::default(), origin());
        path.sent(now);
        path.heard();
        path.doubt(now);
        assert!(!path.carries() && !path.check(now) && path.due().is_none());
    }
}
