//! What a run came to: a table for people, JSON for programs.

use std::fmt::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use crate::options::{Options, Pace};

/// What happened, counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) events: u64,
    pub(crate) up: u64,
    pub(crate) given_up: u64,
    pub(crate) recovered: u64,
    pub(crate) recovered_kept: u64,
    pub(crate) kept: u64,
    pub(crate) changed: u64,
    pub(crate) roamed: u64,
    pub(crate) taken_over: u64,
    pub(crate) signed_in_again: u64,
    pub(crate) wrong_passwords: u64,
    pub(crate) busy: u64,
    pub(crate) busy_in_ramp: u64,
    pub(crate) unreachable: u64,
    pub(crate) longest_queue: u64,
    pub(crate) longest_queue_in_ramp: u64,
    pub(crate) packets: u64,
    pub(crate) questions: u64,
    pub(crate) questions_before_steady: u64,
}

/// The site at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Duration,
    /// Sessions that both ends have.
    pub(crate) up: u64,
    /// Those of the clients that were on the servers that die.
    pub(crate) of_the_doomed: u64,
}

/// From the death until so many of its clients are back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Recovery {
    pub(crate) half: Option<Duration>,
    /// 99 of 100.
    pub(crate) most: Option<Duration>,
    pub(crate) all: Option<Duration>,
}

/// Bytes for each session of the full site.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) server: u64,
    pub(crate) client: u64,
    pub(crate) stored: u64,
}

/// All of it.
pub(crate) struct Report {
    options: Options,
    pub(crate) counts: Counts,
    pub(crate) samples: Vec<Sample>,
    pub(crate) sessions_before_death: u64,
    pub(crate) sessions_up: u64,
    pub(crate) victims: u64,
    pub(crate) told: u64,
    pub(crate) ramp: Duration,
    /// Since the start.
    pub(crate) death: Duration,
    pub(crate) recovery: Recovery,
    pub(crate) virtual_time: Duration,
    pub(crate) questions_per_second: u64,
    pub(crate) memory: Memory,
    pub(crate) peak_resident_bytes: Option<u64>,
    pub(crate) run_time: Duration,
}

impl Report {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            options: options.clone(),
            counts: Counts::default(),
            samples: Vec::new(),
            sessions_before_death: 0,
            sessions_up: 0,
            victims: 0,
            told: 0,
            ramp: Duration::ZERO,
            death: Duration::ZERO,
            recovery: Recovery::default(),
            virtual_time: Duration::ZERO,
            questions_per_second: 0,
            memory: Memory::default(),
            peak_resident_bytes: None,
            run_time: Duration::ZERO,
        }
    }

    fn events_per_second(&self) -> u64 {
        let micros = self.run_time.as_micros().max(1);
        u64::try_from(u128::from(self.counts.events) * 1_000_000 / micros).unwrap_or(u64::MAX)
    }

    /// For programs: `options` and `virtual` are the same for the same command line, `measured` is of this machine.
    pub(crate) fn json(&self) -> Value {
        let Self { options, counts, recovery, memory, .. } = self;
        json!({
            "options": {
                "servers": options.servers,
                "clients": options.clients,
                "kill": options.kill,
                "told_percent": options.told,
                "seed": options.seed,
                "dpd_seconds": options.dpd,
                "steady_seconds": options.steady,
                "connections_per_second_and_server": options.rate,
                "queue": options.queue,
                "pace": match options.pace { Pace::Eager => "eager", Pace::Stock => "stock" },
            },
            "virtual": {
                "sessions_before_death": self.sessions_before_death,
                "sessions_up": self.sessions_up,
                "gave_up": counts.given_up,
                "ramp_seconds": self.ramp.as_secs_f64(),
                "death_at_seconds": self.death.as_secs_f64(),
                "total_seconds": self.virtual_time.as_secs_f64(),
                "clients_of_the_dead": self.victims,
                "clients_told": self.told,
                "recovered": counts.recovered,
                "recovered_50_percent_seconds": recovery.half.as_ref().map(Duration::as_secs_f64),
                "recovered_99_percent_seconds": recovery.most.as_ref().map(Duration::as_secs_f64),
                "recovered_100_percent_seconds": recovery.all.as_ref().map(Duration::as_secs_f64),
                "recovered_with_their_address": counts.recovered_kept,
                "reconnects_with_their_address": counts.kept,
                "reconnects_with_another_address": counts.changed,
                "roamed": counts.roamed,
                "taken_over": counts.taken_over,
                "signed_in_again": counts.signed_in_again,
                "wrong_passwords": counts.wrong_passwords,
                "refused_busy_before_death": counts.busy_in_ramp,
                "refused_busy_after_death": counts.busy,
                "unreachable": counts.unreachable,
                "longest_queue_before_death": counts.longest_queue_in_ramp,
                "longest_queue_after_death": counts.longest_queue,
                "dpd_questions_per_second": self.questions_per_second,
                "dpd_questions": counts.questions,
                "packets_delivered": counts.packets,
                "events": counts.events,
            },
            "measured": {
                "server_bytes_per_session": memory.server,
                "client_bytes_per_session": memory.client,
                "stored_bytes_per_session": memory.stored,
                "peak_resident_bytes": self.peak_resident_bytes,
                "run_seconds": self.run_time.as_secs_f64(),
                "events_per_second": self.events_per_second(),
            },
        })
    }

    fn table(&self) -> Result<String, fmt::Error> {
        let Self { options, counts, memory, recovery, .. } = self;
        let mut out = String::new();
        let mut row = |name: &str, value: String| writeln!(out, "{name:<38} {value}");
        row("servers, of which die", format!("{}, {}", options.servers, options.kill))?;
        row("clients", grouped(options.clients.into()))?;
        row("sessions up before the death", grouped(self.sessions_before_death))?;
        row("sessions up at the end", grouped(self.sessions_up))?;
        row("clients that gave up", grouped(counts.given_up))?;
        row("ramp", seconds(self.ramp))?;
        row("virtual time in all", seconds(self.virtual_time))?;
        row("DPD questions, full site", format!("{} a second", grouped(self.questions_per_second)))?;
        row("roamed, by takeover", format!("{}, {}", grouped(counts.roamed), grouped(counts.taken_over)))?;
        row(
            "wrong passwords, signed in again",
            format!("{}, {}", grouped(counts.wrong_passwords), grouped(counts.signed_in_again)),
        )?;
        row(
            "clients of the dead, of which told",
            format!("{}, {}", grouped(self.victims), grouped(self.told)),
        )?;
        for (name, at) in [
            ("50 % of them back after", recovery.half),
            ("99 % of them back after", recovery.most),
            ("100 % of them back after", recovery.all),
        ] {
            row(name, at.map_or_else(|| "never".to_owned(), seconds))?;
        }
        row("back with their address", grouped(counts.recovered_kept))?;
        row("back with another address", grouped(counts.changed))?;
        row(
            "answered 503, before and after death",
            format!("{}, {}", grouped(counts.busy_in_ramp), grouped(counts.busy)),
        )?;
        row("attempts at a dead server", grouped(counts.unreachable))?;
        row(
            "longest queue, before and after death",
            format!("{}, {}", grouped(counts.longest_queue_in_ramp), grouped(counts.longest_queue)),
        )?;
        row("memory for a session, server", format!("{} bytes", grouped(memory.server)))?;
        row("memory for a session, client", format!("{} bytes", grouped(memory.client)))?;
        row("memory for a session, site's store", format!("{} bytes", grouped(memory.stored)))?;
        if let Some(bytes) = self.peak_resident_bytes {
            row("most memory resident", format!("{} MB", grouped(bytes / 1_000_000)))?;
        }
        row("events", grouped(counts.events))?;
        row("events a real second", grouped(self.events_per_second()))?;
        row("real time", seconds(self.run_time))?;
        Ok(out)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.table()?)
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

/// With a comma after every three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_come_in_groups_of_three() {
        let texts: Vec<_> = [0, 999, 1_000, 12_345, 1_000_000].map(grouped).into();
        assert_eq!(texts, ["0", "999", "1,000", "12,345", "1,000,000"]);
    }
}
