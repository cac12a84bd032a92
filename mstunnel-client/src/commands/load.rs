//! `load`: many sessions at once, and how the server took it.

use std::io::{self, IsTerminal, Write};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use mstunnel_client::load::{
    Failure, Load, LoadOptions, Percentiles, Progress, Report, SeriesReport, Stage, Traffic,
};
use mstunnel_proto::prefix::Prefix;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::online::interrupted;
use super::target::Target;

/// How often the bar moves.
const TICK: Duration = Duration::from_millis(100);

/// How often a line is written where there is no terminal.
const LINE: Duration = Duration::from_secs(5);

/// The template of the bar on a terminal.
const BAR: &str = "{prefix:13} {bar:30} {pos}/{len}  {msg}";

/// Open many sessions with one server, hold them, and report how it went
///
/// Every session is a real one: TLS, sign-in, CONNECT, a datagram channel where the server offers it, answers to DPD,
/// keepalives and a goodbye. All sign in with the same credentials, and nobody is asked for any. Exit code 1 when a
/// session failed or was lost.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Open N sessions
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000),
          help_heading = "Load")]
    sessions: u32,
    /// Begin R set-ups a second; without it, as many as --at-once lets
    #[arg(short, long, value_name = "R", value_parser = rate, help_heading = "Load")]
    rate: Option<f64>,
    /// Have up to N set-ups under way at the same time; servers bound what one user has signed in and not yet connected
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000), default_value_t = 16,
          help_heading = "Load")]
    at_once: u32,
    /// Hold the sessions for SECONDS each time that all are up
    #[arg(long, value_name = "SECONDS", default_value_t = 10, help_heading = "Load")]
    hold: u64,
    /// Cut every session COUNT times without a goodbye, and bring it back by its cookie, at the same rate
    #[arg(long, value_name = "COUNT", default_value_t = 0, help_heading = "Load")]
    reconnect: u32,
    /// Send KBIT/S of echo requests through every session while it is up
    #[arg(long, value_name = "KBIT/S", value_parser = clap::value_parser!(u32).range(1..=100_000), requires = "to",
          help_heading = "Load")]
    traffic: Option<u32>,
    /// Send the echo requests to ADDRESS behind the tunnel
    #[arg(long, value_name = "ADDRESS", requires = "traffic", help_heading = "Load")]
    to: Option<IpAddr>,
    /// Connect from the addresses of PREFIX in turn (127.0.0.0/8 on loopback); one has some 28,000 ports
    #[arg(long, value_name = "PREFIX", help_heading = "Load")]
    source: Option<Prefix>,
    /// Run on N threads
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256), default_value_t = 1,
          help_heading = "Load")]
    threads: u32,
    /// Print a JSON object
    #[arg(long)]
    json: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.01..=1_000_000.0).contains(&rate) { Ok(rate) } else { Err("want 0.01 to 1000000".to_owned()) }
}

impl Args {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let report = runtime(self.threads)?.block_on(self.run())?;
        let processor = processor_seconds();
        let mut out = io::stdout().lock();
        if self.json {
            writeln!(out, "{:#}", describe(&report, processor))?;
        } else {
            out.write_all(text(&report, processor).as_bytes())?;
        }
        Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn run(&self) -> anyhow::Result<Report> {
        let load = Load::new(LoadOptions {
            server: self.target.server().clone(),
            tls: self.target.tls(),
            credentials: self.target.credentials_of_nobody().await?,
            hostname: self.target.hostname().map(str::to_owned),
            datagrams: self.target.datagrams(),
            sessions: self.sessions,
            rate: self.rate,
            at_once: self.at_once,
            hold: Duration::from_secs(self.hold),
            reconnects: self.reconnect,
            traffic: self.traffic.zip(self.to).map(|(kbit_per_second, to)| Traffic { kbit_per_second, to }),
            sources: self.source,
        })?;
        let show = async {
            let mut display = Display::new(self);
            loop {
                tokio::time::sleep(TICK).await;
                display.show(load.progress());
            }
        };
        tokio::select! {
            report = load.run(interrupted()) => Ok(report),
            () = show => unreachable!("the display goes on until the test is over"),
            // The first one ends the test with a goodbye, the second one without.
            () = interrupted_twice() => anyhow::bail!("interrupted twice: no goodbye, no report"),
        }
    }
}

async fn interrupted_twice() {
    interrupted().await;
    interrupted().await;
}

/// One core drives a few thousand set-ups a second; more threads are for larger machines.
fn runtime(threads: u32) -> anyhow::Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        threads => {
            let mut builder = tokio::runtime::Builder::new_multi_thread();
            builder.worker_threads(threads as usize);
            builder
        }
    };
    builder.enable_all().build().context("cannot start the runtime")
}

/// User and system time of this process: whether it was the server that was slow.
fn processor_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default().as_secs_f64()
}

/// The progress: a bar on a terminal, a line now and then elsewhere.
struct Display {
    bar: Option<ProgressBar>,
    sessions: u32,
    hold: Duration,
    stages_begun: u32,
    since: Instant,
    told: Instant,
}

impl Display {
    fn new(args: &Args) -> Self {
        let style = ProgressStyle::with_template(BAR).ok().filter(|_| io::stderr().is_terminal());
        let bar = style.map(|style| ProgressBar::new(args.sessions.into()).with_style(style));
        let now = Instant::now();
        let hold = Duration::from_secs(args.hold);
        Self { bar, sessions: args.sessions, hold, stages_begun: 0, since: now, told: now }
    }

    fn show(&mut self, progress: Progress) {
        let now = Instant::now();
        let is_new = self.stages_begun != progress.stages_begun;
        if is_new {
            (self.stages_begun, self.since) = (progress.stages_begun, now);
        }
        let name = match progress.stage {
            Stage::SettingUp => "setting up".to_owned(),
            Stage::Reconnecting(round) => format!("reconnect {round}"),
            Stage::Holding => "holding".to_owned(),
            Stage::Leaving => "leaving".to_owned(),
        };
        let (position, length) = match progress.stage {
            Stage::SettingUp | Stage::Reconnecting(_) => (u64::from(progress.done), u64::from(self.sessions)),
            Stage::Holding => (self.since.elapsed().as_secs(), self.hold.as_secs()),
            Stage::Leaving => {
                (u64::from(self.sessions.saturating_sub(progress.open)), u64::from(self.sessions))
            }
        };
        let Progress { open, datagram_channels, failed, lost, .. } = progress;
        let message = format!("{open} open, {datagram_channels} by UDP, {failed} failed, {lost} lost");
        match &self.bar {
            Some(bar) => {
                bar.set_length(length);
                bar.set_position(position);
                bar.set_prefix(name);
                bar.set_message(message);
            }
            None if is_new || now >= self.told + LINE => {
                self.told = now;
                // A closed stderr is the caller's choice.
                let _ = writeln!(io::stderr(), "{name}: {position}/{length}; {message}");
            }
            None => {}
        }
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn describe(report: &Report, processor: f64) -> Value {
    json!({
        "sessions": report.sessions,
        "stopped": report.was_stopped,
        "setup": report.set_up.as_ref().map(describe_series),
        "reconnect": report.reconnect.as_ref().map(describe_series),
        "open_at_once": report.most_open,
        "datagram_channels": report.datagram_channels,
        "failed": failed(report),
        "errors": report.errors.iter().map(describe_failure).collect::<Vec<_>>(),
        "lost": report.lost,
        "losses": report.losses.iter().map(describe_failure).collect::<Vec<_>>(),
        "bytes_to_server": report.bytes_to_server,
        "bytes_from_server": report.bytes_from_server,
        "echo_requests": report.echo_requests,
        "echo_replies": report.echo_replies,
        "own_cpu_seconds": processor,
    })
}

fn failed(report: &Report) -> u32 {
    [&report.set_up, &report.reconnect].into_iter().flatten().map(|series| series.failed).sum()
}

fn describe_series(series: &SeriesReport) -> Value {
    let percentiles = |of: Percentiles| json!({ "p50": of.p50, "p90": of.p90, "p99": of.p99, "max": of.max });
    json!({
        "begun": series.begun,
        "opened": series.opened,
        "failed": series.failed,
        "seconds": series.seconds,
        "rate": series.rate(),
        "ms": {
            "total": percentiles(series.total),
            "connection": percentiles(series.connection),
            "sign_in": series.sign_in.map(percentiles),
            "connect": percentiles(series.connect),
        },
    })
}

fn describe_failure(failure: &Failure) -> Value {
    json!({ "kind": failure.kind, "count": failure.count, "example": failure.example })
}

fn text(report: &Report, processor: f64) -> String {
    let mut lines = Vec::new();
    if report.was_stopped {
        lines.push("stopped before its end".to_owned());
    }
    for (name, series) in [("set-up", &report.set_up), ("reconnect", &report.reconnect)] {
        let Some(series) = series else { continue };
        lines.push(format!(
            "{name}: {} of {} in {:.2} s, {:.1} a second",
            series.opened,
            series.begun,
            series.seconds,
            series.rate()
        ));
        lines.push(format!("  {:<12} {:>9} {:>9} {:>9} {:>9}", "ms", "p50", "p90", "p99", "max"));
        let steps = [
            ("all", Some(series.total)),
            ("TCP and TLS", Some(series.connection)),
            ("sign-in", series.sign_in),
            ("CONNECT", Some(series.connect)),
        ];
        for (step, of) in steps {
            let Some(Percentiles { p50, p90, p99, max }) = of else { continue };
            lines.push(format!("  {step:<12} {p50:>9.2} {p90:>9.2} {p99:>9.2} {max:>9.2}"));
        }
    }
    lines.push(format!("open at once: {}, by UDP: {}", report.most_open, report.datagram_channels));
    lines.push(format!("failed: {}", failed(report)));
    lines.extend(report.errors.iter().map(failure_line));
    lines.push(format!("lost: {}", report.lost));
    lines.extend(report.losses.iter().map(failure_line));
    if report.echo_requests > 0 {
        lines.push(format!("echo: {} requests, {} replies", report.echo_requests, report.echo_replies));
    }
    let (to, from) = (report.bytes_to_server, report.bytes_from_server);
    lines.push(format!("bytes in packets: {to} to the server, {from} from it"));
    lines.push(format!("processor time of this program: {processor:.2} s"));
    lines.join("\n") + "\n"
}

fn failure_line(failure: &Failure) -> String {
    format!("  {:>6} x {}: {}", failure.count, failure.kind, failure.example)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_of_set_ups_a_second() {
        assert_eq!(rate("250.5"), Ok(250.5));
        for wrong in ["0", "-1", "x", "NaN", "inf"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
