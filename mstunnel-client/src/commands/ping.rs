//! `ping`: echo requests through the tunnel.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use mstunnel_client::dial::{Bypass, Dialer, Host, Way};
use mstunnel_client::stack::Ping;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::online::{Interrupts, Online, block_on};
use super::target::Target;

/// How many unanswered requests are remembered; at the shortest interval these are ten seconds.
const MAX_UNANSWERED: usize = 1_024;

/// Faster is a flood, which is not what this is for.
const MIN_WAIT: Duration = Duration::from_millis(10);

/// A day, which is within what a clock can add.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Send echo requests through the tunnel
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Host to ask, by name or address
    #[arg(value_name = "HOST")]
    host: String,
    /// Stop after COUNT requests
    #[arg(short, long, value_name = "COUNT")]
    count: Option<u16>,
    /// Wait SECONDS between requests
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = seconds)]
    interval: Duration,
    /// Send BYTES of data with each request
    #[arg(short, long, value_name = "BYTES", default_value_t = 56)]
    size: usize,
    /// Wait SECONDS for answers after the last request
    #[arg(short = 'W', long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    timeout: Duration,
    /// Print one JSON object at the end instead of lines
    #[arg(long)]
    json: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    let duration = Duration::try_from_secs_f64(seconds).map_err(|_| "not a number of seconds".to_owned())?;
    if duration < MIN_WAIT {
        Err(format!("at least {}", MIN_WAIT.as_secs_f64()))
    } else if duration > MAX_WAIT {
        Err(format!("at most {}", MAX_WAIT.as_secs()))
    } else {
        Ok(duration)
    }
}

impl Args {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        block_on(async {
            let online = Online::open(&self.target).await?;
            let result = self.run(&online).await;
            online.leave("done").await;
            result
        })?
    }

    async fn run(&self, online: &Online) -> anyhow::Result<ExitCode> {
        let host: Host = self.host.parse().context("the host")?;
        let dialer = Dialer::new(online.stack.clone(), Bypass::Refuse);
        let ways = dialer.addresses(&host).await?;
        let Some((address, _)) = ways.into_iter().find(|(_, way)| *way == Way::Tunnel) else {
            bail!("{host} is not behind the tunnel");
        };
        let ping = online.stack.ping(address)?;
        if self.size > ping.max_payload() {
            bail!("{} bytes do not fit the tunnel, at most {}", self.size, ping.max_payload());
        }
        let mut rounds = Rounds::default();
        // Before the first word: who reads it may send a signal.
        let mut interrupts = Interrupts::new().context("cannot watch for signals")?;
        self.say(format_args!("PING {host} ({address}): {} data bytes", self.size))?;
        tokio::select! {
            result = self.rounds(&ping, address, &mut rounds) => result?,
            () = interrupts.next() => {}
        }
        self.summarize(address, &rounds)?;
        Ok(if rounds.times.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    async fn rounds(&self, ping: &Ping, address: IpAddr, rounds: &mut Rounds) -> anyhow::Result<()> {
        let mut sequence: u16 = 0;
        loop {
            sequence = sequence.wrapping_add(1);
            let sent = Instant::now();
            rounds.asked(sequence, sent);
            ping.send(sequence, self.size).await?;
            let is_last = self.count.is_some_and(|count| rounds.sent >= count.into());
            let until = sent + if is_last { self.timeout } else { self.interval };
            loop {
                tokio::select! {
                    reply = ping.recv() => match reply {
                        Ok(reply) => {
                            if let Some(time) = rounds.answered(reply.sequence, Instant::now()) {
                                let (len, number, hops, ms) =
                                    (reply.len + 8, reply.sequence, reply.hops, millis(time));
                                self.say(format_args!(
                                    "{len} bytes from {address}: icmp_seq={number} ttl={hops} time={ms:.3} ms"
                                ))?;
                            }
                        }
                        // It does not say which one.
                        Err(error) if error.kind() == io::ErrorKind::HostUnreachable => {
                            rounds.refused += 1;
                            self.say(format_args!("destination unreachable"))?;
                        }
                        Err(error) => return Err(error.into()),
                    },
                    () = sleep_until(until) => break,
                }
                if is_last && rounds.are_settled() {
                    break;
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    fn say(&self, line: std::fmt::Arguments<'_>) -> io::Result<()> {
        if self.json { Ok(()) } else { writeln!(io::stdout(), "{line}") }
    }

    fn summarize(&self, address: IpAddr, rounds: &Rounds) -> io::Result<()> {
        let (sent, received) = (rounds.sent, rounds.times.len());
        let statistics = rounds.statistics();
        if self.json {
            let rtt = statistics
                .map(|[min, avg, max, mdev]| json!({ "min": min, "avg": avg, "max": max, "mdev": mdev }));
            let object = json!({
                "host": self.host, "address": address, "sent": sent, "received": received, "rtt_ms": rtt,
            });
            return writeln!(io::stdout(), "{object}");
        }
        let lost = (sent - received) * 100 / sent.max(1);
        writeln!(io::stdout(), "\n--- {address} ping statistics ---")?;
        writeln!(io::stdout(), "{sent} packets transmitted, {received} received, {lost}% packet loss")?;
        match statistics {
            Some([min, avg, max, mdev]) => {
                writeln!(io::stdout(), "rtt min/avg/max/mdev = {min:.3}/{avg:.3}/{max:.3}/{mdev:.3} ms")
            }
            None => Ok(()),
        }
    }
}

/// What was sent and answered.
#[derive(Debug, Default)]
struct Rounds {
    sent: usize,
    times: Vec<Duration>,
    /// Requests that somebody on the way could not deliver.
    refused: usize,
    /// By sequence number, the oldest first.
    unanswered: VecDeque<(u16, Instant)>,
}

impl Rounds {
    /// Notes a request; what has waited behind too many others counts as lost.
    fn asked(&mut self, sequence: u16, now: Instant) {
        self.sent += 1;
        if self.unanswered.len() == MAX_UNANSWERED {
            self.unanswered.pop_front();
        }
        self.unanswered.push_back((sequence, now));
    }

    /// Whether nothing more is to come.
    fn are_settled(&self) -> bool {
        self.unanswered.len() <= self.refused
    }

    /// Notes an answer, however late; how long it took, unless it came twice.
    fn answered(&mut self, sequence: u16, now: Instant) -> Option<Duration> {
        let at = self.unanswered.iter().position(|(asked, _)| *asked == sequence)?;
        let (_, sent) = self.unanswered.remove(at)?;
        let time = now - sent;
        self.times.push(time);
        Some(time)
    }

    /// Minimum, average, maximum and mean deviation in milliseconds.
    fn statistics(&self) -> Option<[f64; 4]> {
        let times: Vec<f64> = self.times.iter().map(|time| millis(*time)).collect();
        #[expect(clippy::cast_precision_loss, reason = "nobody waits for 2^52 answers")]
        let count = times.len() as f64;
        let average = times.iter().sum::<f64>() / count;
        let deviation = (times.iter().map(|time| (time - average).powi(2)).sum::<f64>() / count).sqrt();
        let min = times.iter().copied().reduce(f64::min)?;
        let max = times.iter().copied().reduce(f64::max)?;
        Some([min, average, max, deviation])
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_those_of_ping() {
        let times = [1, 2, 3].map(Duration::from_millis).to_vec();
        let rounds = Rounds { sent: 3, times, ..Rounds::default() };
        let [min, avg, max, mdev] = rounds.statistics().unwrap();
        assert!(min < avg && avg < max && (mdev - 0.816).abs() < 0.001, "{mdev}");
        assert_eq!(Rounds::default().statistics(), None);
    }

    #[test]
    fn an_answer_counts_however_late_and_only_once() {
        let (mut rounds, start) = (Rounds::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        rounds.asked(1, start);
        rounds.asked(2, after(10));
        assert_eq!(rounds.answered(1, after(15)), Some(Duration::from_millis(15)), "after the next request");
        assert_eq!(rounds.answered(1, after(16)), None, "twice");
        assert_eq!(rounds.answered(3, after(16)), None, "nobody asked");
        assert_eq!(rounds.answered(2, after(17)), Some(Duration::from_millis(7)));
        assert_eq!((rounds.sent, rounds.times.len(), rounds.unanswered.len()), (2, 2, 0));
        rounds.asked(3, after(20));
        assert!(!rounds.are_settled());
        rounds.refused += 1;
        assert!(rounds.are_settled());
    }

    #[test]
    fn a_host_that_never_answers_costs_no_memory() {
        let (mut rounds, now) = (Rounds::default(), Instant::now());
        for sequence in 0..=u16::MAX {
            rounds.asked(sequence, now);
        }
        assert_eq!(rounds.unanswered.len(), MAX_UNANSWERED);
        assert_eq!(rounds.answered(0, now), None);
        assert_eq!(rounds.answered(u16::MAX, now), Some(Duration::ZERO));
    }

    #[test]
    fn an_interval_is_a_number_of_seconds_and_no_flood() {
        assert_eq!(seconds("0.2"), Ok(Duration::from_millis(200)));
        for wrong in ["0", "-1", "x", "0.001", "1e300"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
