//! The command line, and the numbers of the scenario that it does not change.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, ValueEnum};
use mstunnel_proto::session::Backoff;

/// A connect that nobody answers fails after so long, as in our client.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the balancer of the site sends connections to a dead server.
pub(crate) const HEALTH_CHECK: Duration = Duration::from_secs(10);

/// The reconnect window: how long a cookie and its address wait.
pub(crate) const COOKIE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a client tries, all its waits together; the stock client's default.
pub(crate) const RECONNECT_LIMIT: Duration = Duration::from_secs(300);

/// The total age of a session; the idle timeout is half of it.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(24 * 3_600);

/// A client that sends nothing says so this often.
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(150);

/// The share of what the servers can take at which clients sign in, in percent.
pub(crate) const RAMP_LOAD_PERCENT: u64 = 80;

/// One client in so many mistypes its password once.
pub(crate) const MISTYPES: u32 = 100;

/// One client in so many changes its network during the steady time.
pub(crate) const ROAMS: u32 = 100;

/// How long such a client is without a network.
pub(crate) const ROAM_TIME: Duration = Duration::from_secs(20);

/// How long the run goes on after the last client came back.
pub(crate) const TAIL: Duration = Duration::from_secs(30);

/// Simulates the control plane of a site: servers, clients, and the death of servers, in virtual time
#[derive(Clone, Debug, Parser)]
#[command(name = "site_simulation", max_term_width = 100)]
pub(crate) struct Options {
    /// Run so many servers
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(2..=1_000))]
    pub(crate) servers: u16,
    /// Run so many clients
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub(crate) clients: u32,
    /// Kill so many servers, all at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) kill: u16,
    /// Tell so many percent of their clients by a closed connection; the others find out by DPD
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) told: u8,
    /// Draw everything random from this seed
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Use this DPD interval
    #[arg(long, value_name = "SECONDS", default_value_t = 90, value_parser = clap::value_parser!(u64).range(4..=3_600))]
    pub(crate) dpd: u64,
    /// Hold the full site so long before servers die
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(60..=36_000))]
    pub(crate) steady: u64,
    /// Let each server take so many connections a second: a handshake, with what it asks for
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rate: u32,
    /// Let so many connections wait at each server; the next is answered 503
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) queue: u32,
    /// Reconnect at this pace
    #[arg(long, value_enum, default_value_t = Pace::Eager)]
    pub(crate) pace: Pace,
    /// Write a plot of the sessions over time
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// How soon a client tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pace {
    /// As our client: at once, then after 1, 2, 4, ... 60 seconds, spread by half
    Eager,
    /// As the stock client: at once, then after 10, 20, ... 100 seconds
    Stock,
}

impl Options {
    /// Reads the command line; a wrong one ends the process with code 2.
    pub(crate) fn read() -> Self {
        let options = Self::parse();
        if let Err(problem) = options.check() {
            Self::command().error(ErrorKind::ValueValidation, problem).exit();
        }
        options
    }

    /// What does not go together.
    fn check(&self) -> Result<(), String> {
        if self.kill >= self.servers {
            return Err(format!(
                "--kill {} of --servers {}: at least one has to be left",
                self.kill, self.servers
            ));
        }
        let addresses = u64::from(self.servers) << self.block_bits();
        if addresses > 1 << 24 {
            return Err(format!(
                "--clients {} on --servers {} need {addresses} addresses, 10.0.0.0/8 has 16777216",
                self.clients, self.servers
            ));
        }
        // Who gives up while it waits in a queue would be served for nothing; this is not modelled.
        let longest = Duration::from_secs_f64(f64::from(self.queue) / f64::from(self.rate));
        if longest + Duration::from_secs(1) > CONNECT_TIMEOUT {
            return Err(format!(
                "--queue {} at --rate {} is a wait of {:.1} s, a client's patience is {} s with its way",
                self.queue,
                self.rate,
                longest.as_secs_f64(),
                CONNECT_TIMEOUT.as_secs()
            ));
        }
        let length = self.ramp_pause() * self.clients + Duration::from_secs(self.steady + 3 * self.dpd);
        if length > SESSION_TIMEOUT / 3 {
            return Err(format!(
                "a run of {} virtual seconds is longer than {}: fewer --clients, more --servers or a higher --rate",
                length.as_secs(),
                SESSION_TIMEOUT.as_secs() / 3
            ));
        }
        Ok(())
    }

    /// Between two first sign-ins.
    pub(crate) fn ramp_pause(&self) -> Duration {
        let per_second = u64::from(self.servers) * u64::from(self.rate);
        Duration::from_nanos(100_000_000_000 / RAMP_LOAD_PERCENT / per_second)
    }

    /// How many bits of an address number it within the block of its server: room for twice the mean.
    pub(crate) fn block_bits(&self) -> u32 {
        let mean = self.clients.div_ceil(u32::from(self.servers));
        (2 * mean + 128).next_power_of_two().ilog2()
    }

    /// A fresh reconnect policy.
    pub(crate) fn backoff(&self, seed: u64) -> Backoff {
        match self.pace {
            Pace::Eager => Backoff::eager(RECONNECT_LIMIT).spread(seed),
            Pace::Stock => Backoff::stock(RECONNECT_LIMIT),
        }
    }
}
