//! What is counted while a load test runs.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use mstunnel_proto::session::SessionCounters;
use tokio::sync::Notify;

use super::echo::EchoCounts;
use super::report::{Failure, Report, SeriesReport};
use super::setup::Times;
use super::{Progress, Stage};

/// Which set-ups: the first ones, or those by cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Series {
    SetUp,
    Reconnect,
}

/// Failures of one kind: how many, and what the first one said.
type Kinds = BTreeMap<&'static str, (u32, String)>;

#[derive(Default)]
struct Run {
    begin: Option<Instant>,
    end: Option<Instant>,
    begun: u32,
    failed: u32,
    times: Vec<Times>,
}

#[derive(Default)]
struct Inner {
    stage: Option<Stage>,
    stages_begun: u32,
    /// Set-ups that were done before this stage.
    done_before: u32,
    set_up: Run,
    reconnect: Run,
    errors: Kinds,
    lost: u32,
    losses: Kinds,
    open: u32,
    most_open: u32,
    with_datagrams: u32,
    most_with_datagrams: u32,
    /// Sessions that have not ended, open or on their way back.
    alive: u32,
    round: u32,
    /// Sessions of `alive` that have not come back in this round.
    behind: u32,
    passed: SessionCounters,
    echo: EchoCounts,
}

impl Inner {
    fn run(&mut self, series: Series) -> &mut Run {
        match series {
            Series::SetUp => &mut self.set_up,
            Series::Reconnect => &mut self.reconnect,
        }
    }

    fn done(&self) -> u32 {
        [&self.set_up, &self.reconnect].map(Run::done).iter().sum()
    }
}

impl Run {
    fn done(&self) -> u32 {
        self.failed + u32::try_from(self.times.len()).unwrap_or(u32::MAX)
    }

    fn report(&self) -> Option<SeriesReport> {
        let begin = self.begin?;
        let seconds = self.end.map_or(0.0, |end| (end - begin).as_secs_f64());
        Some(SeriesReport::new(self.begun, self.failed, seconds, &self.times))
    }
}

/// The counts of all sessions.
#[derive(Default)]
pub(super) struct Stats {
    inner: Mutex<Inner>,
    /// Somebody came back, or will not.
    moved: Notify,
}

impl Stats {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while this lock is held")
    }

    /// A stage begins.
    pub(super) fn enter(&self, stage: Stage) {
        let mut inner = self.inner();
        inner.stage = Some(stage);
        inner.stages_begun += 1;
        inner.done_before = inner.done();
    }

    /// Every session alive is to come back once; `tell` tells them, so that nobody ends in between.
    pub(super) fn begin_round<T>(&self, round: u32, tell: impl FnOnce() -> T) {
        let mut inner = self.inner();
        inner.round = round;
        inner.behind = inner.alive;
        tell();
    }

    /// Waits until all have come back, or never will.
    pub(super) async fn round_is_over(&self) {
        loop {
            let moved = self.moved.notified();
            if self.inner().behind == 0 {
                return;
            }
            moved.await;
        }
    }

    /// A set-up begins.
    pub(super) fn begin(&self, series: Series) {
        let mut inner = self.inner();
        let run = inner.run(series);
        run.begin.get_or_insert_with(Instant::now);
        run.begun += 1;
    }

    /// A set-up was stopped before its end; it counts for nothing.
    pub(super) fn give_up(&self, series: Series) {
        self.inner().run(series).begun -= 1;
    }

    /// A set-up failed.
    pub(super) fn failed(&self, series: Series, kind: &'static str, error: &dyn std::error::Error) {
        let mut inner = self.inner();
        inner.run(series).failed += 1;
        note(&mut inner.errors, kind, &error.to_string());
    }

    /// A session is up; returns the round that it is up in.
    pub(super) fn opened(&self, series: Series, times: &Times) -> u32 {
        let mut inner = self.inner();
        let run = inner.run(series);
        run.times.push(*times);
        run.end = Some(Instant::now());
        inner.open += 1;
        inner.most_open = inner.most_open.max(inner.open);
        match series {
            Series::SetUp => inner.alive += 1,
            Series::Reconnect => {
                inner.behind -= 1;
                self.moved.notify_one();
            }
        }
        inner.round
    }

    /// A session is open no more, by whatever cause.
    pub(super) fn closed(&self, passed: &SessionCounters, had_datagrams: bool) {
        let mut inner = self.inner();
        inner.open -= 1;
        inner.with_datagrams -= u32::from(had_datagrams);
        inner.passed.merge(passed);
    }

    /// A session that was up in `round` has ended as it should.
    pub(super) fn left(&self, round: u32) {
        let mut inner = self.inner();
        inner.alive -= 1;
        if round < inner.round {
            inner.behind -= 1;
            self.moved.notify_one();
        }
    }

    /// A session that was up in `round` has ended without being asked to.
    pub(super) fn lost(&self, round: u32, kind: &'static str, why: &str) {
        {
            let mut inner = self.inner();
            inner.lost += 1;
            note(&mut inner.losses, kind, why);
        }
        self.left(round);
    }

    /// A session's task broke.
    pub(super) fn defect(&self, why: &str) {
        let mut inner = self.inner();
        inner.lost += 1;
        note(&mut inner.losses, "a defect of this program", why);
    }

    /// A datagram channel is up, or down.
    pub(super) fn datagrams_changed(&self, is_up: bool) {
        let mut inner = self.inner();
        if is_up {
            inner.with_datagrams += 1;
            inner.most_with_datagrams = inner.most_with_datagrams.max(inner.with_datagrams);
        } else {
            inner.with_datagrams -= 1;
        }
    }

    /// Adds traffic.
    pub(super) fn traffic(&self, counts: EchoCounts) {
        if counts.sent + counts.answered > 0 {
            let mut inner = self.inner();
            inner.echo.sent += counts.sent;
            inner.echo.answered += counts.answered;
        }
    }

    pub(super) fn progress(&self) -> Progress {
        let inner = self.inner();
        Progress {
            stage: inner.stage.unwrap_or(Stage::SettingUp),
            stages_begun: inner.stages_begun,
            done: inner.done() - inner.done_before,
            open: inner.open,
            datagram_channels: inner.with_datagrams,
            failed: inner.set_up.failed + inner.reconnect.failed,
            lost: inner.lost,
        }
    }

    pub(super) fn report(&self, asked_for: u32, was_stopped: bool) -> Report {
        let inner = self.inner();
        Report {
            sessions: asked_for,
            was_stopped,
            set_up: inner.set_up.report(),
            reconnect: inner.reconnect.report(),
            most_open: inner.most_open,
            datagram_channels: inner.most_with_datagrams,
            errors: failures(&inner.errors),
            lost: inner.lost,
            losses: failures(&inner.losses),
            bytes_to_server: inner.passed.bytes_out,
            bytes_from_server: inner.passed.bytes_in,
            echo_requests: inner.echo.sent,
            echo_replies: inner.echo.answered,
        }
    }
}

fn note(kinds: &mut Kinds, kind: &'static str, example: &str) {
    kinds.entry(kind).or_insert_with(|| (0, example.to_owned())).0 += 1;
}

fn failures(kinds: &Kinds) -> Vec<Failure> {
    let failure = |(&kind, (count, example)): (&&'static str, &(u32, String))| Failure {
        kind,
        count: *count,
        example: example.clone(),
    };
    kinds.iter().map(failure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_round_is_over_when_all_have_come_back_or_ended() {
        let stats = Stats::default();
        for _ in 0..3 {
            stats.begin(Series::SetUp);
            assert_eq!(stats.opened(Series::SetUp, &Times::default()), 0);
        }
        stats.begin_round(1, || {});
        stats.closed(&SessionCounters::default(), false);
        stats.lost(0, "connection lost", "one was lost meanwhile");
        stats.closed(&SessionCounters::default(), false);
        assert_eq!(stats.opened(Series::Reconnect, &Times::default()), 1);
        stats.failed(Series::Reconnect, "CONNECT refused", &std::io::Error::other("no"));
        assert_eq!(stats.inner().behind, 1);
        stats.left(0);
        stats.round_is_over().await;
        let progress = stats.progress();
        assert_eq!((progress.failed, progress.lost, progress.done), (1, 1, 5));
        stats.lost(1, "connection lost", "after the round");
        assert_eq!(stats.inner().behind, 0);
    }

    #[test]
    fn errors_are_counted_by_kind_with_the_first_of_each() {
        let stats = Stats::default();
        stats.begin(Series::SetUp);
        for text in ["first", "second"] {
            stats.failed(Series::SetUp, "no connection", &std::io::Error::other(text));
        }
        let report = stats.report(2, false);
        assert_eq!(report.errors.len(), 1);
        assert_eq!((report.errors[0].count, report.errors[0].example.as_str()), (2, "first"));
        assert!(!report.is_good());
    }
}
