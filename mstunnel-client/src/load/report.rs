//! What a load test tells at its end.

use std::time::Duration;

use super::setup::Times;

/// The result of a load test.
#[derive(Clone, Debug)]
pub struct Report {
    /// Sessions that were asked for.
    pub sessions: u32,
    /// Whether it was stopped before its end.
    pub was_stopped: bool,
    /// The first set-up of every session; none if nothing began.
    pub set_up: Option<SeriesReport>,
    /// All rounds of coming back by cookie together.
    pub reconnect: Option<SeriesReport>,
    /// Sessions open at the same time, at most.
    pub most_open: u32,
    /// Sessions with a datagram channel at the same time, at most.
    pub datagram_channels: u32,
    /// Set-ups that failed, by kind.
    pub errors: Vec<Failure>,
    /// Sessions that ended without being asked to.
    pub lost: u32,
    /// Those by kind.
    pub losses: Vec<Failure>,
    /// Bytes of packets sent through the tunnels.
    pub bytes_to_server: u64,
    /// Bytes of packets that came through them.
    pub bytes_from_server: u64,
    /// Echo requests sent.
    pub echo_requests: u64,
    /// Echo replies that came back whole.
    pub echo_replies: u64,
}

/// Failures of one kind.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The kind, in a few words.
    pub kind: &'static str,
    /// How many.
    pub count: u32,
    /// What the first one said.
    pub example: String,
}

/// Set-ups of one sort.
#[derive(Clone, Debug)]
pub struct SeriesReport {
    /// Set-ups begun.
    pub begun: u32,
    /// Of those, opened.
    pub opened: u32,
    /// Of those, failed.
    pub failed: u32,
    /// From the first begin to the last one open.
    pub seconds: f64,
    /// The whole set-up.
    pub total: Percentiles,
    /// TCP and TLS.
    pub connection: Percentiles,
    /// Sign-in; none where a cookie did without.
    pub sign_in: Option<Percentiles>,
    /// CONNECT.
    pub connect: Percentiles,
}

/// Percentiles in milliseconds; zero of nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Percentiles {
    /// Half took no longer.
    pub p50: f64,
    /// Nine of ten.
    pub p90: f64,
    /// 99 of 100.
    pub p99: f64,
    /// All.
    pub max: f64,
}

impl Report {
    /// Whether every session came up, stayed, and came back when it was to.
    pub fn is_good(&self) -> bool {
        self.errors.is_empty() && self.lost == 0
    }
}

impl SeriesReport {
    pub(super) fn new(begun: u32, failed: u32, seconds: f64, times: &[Times]) -> Self {
        let of = |step: fn(&Times) -> Duration| Percentiles::of(times.iter().map(step).collect());
        let has_sign_in = times.iter().any(|times| times.sign_in.is_some());
        Self {
            begun,
            opened: u32::try_from(times.len()).unwrap_or(u32::MAX),
            failed,
            seconds,
            total: of(|times| times.connection + times.sign_in.unwrap_or_default() + times.connect),
            connection: of(|times| times.connection),
            sign_in: has_sign_in.then(|| of(|times| times.sign_in.unwrap_or_default())),
            connect: of(|times| times.connect),
        }
    }

    /// Set-ups done in a second.
    pub fn rate(&self) -> f64 {
        if self.seconds > 0.0 { f64::from(self.opened) / self.seconds } else { 0.0 }
    }
}

impl Percentiles {
    /// Of these durations, by nearest rank.
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let rank = (times.len() * percent).div_ceil(100).max(1);
            times.get(rank - 1).map_or(0.0, |time| time.as_secs_f64() * 1_000.0)
        };
        Self { p50: at(50), p90: at(90), p99: at(99), max: at(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_times_that_occurred() {
        let times = (1..=200).rev().map(Duration::from_millis).collect();
        let found = Percentiles::of(times);
        assert_eq!(found, Percentiles { p50: 100.0, p90: 180.0, p99: 198.0, max: 200.0 });
        assert_eq!(Percentiles::of(Vec::new()), Percentiles::default());
        let one = Percentiles::of(vec![Duration::from_millis(7)]);
        assert_eq!(one, Percentiles { p50: 7.0, p90: 7.0, p99: 7.0, max: 7.0 });
    }
}
