//! Many real sessions with one server, for load tests.
//!
//! ```text
//!                  .--(cut, and back by cookie: reconnecting)--.
//!                  v                                            |
//!   setting up --> holding -------------------------------------'
//!      '--(stopped)---'--(over, stopped)--> leaving --> report
//! ```
//!
//! Every session is what a client's is: TLS, sign-in, CONNECT, the datagram channel where the server offers one,
//! answers to DPD, keepalives, and a goodbye. What it does without is a user: no stack, no queues. A session that is
//! lost stays lost, so that the report shows it.
//!
//! | file | holds |
//! | --- | --- |
//! | `pace` | who begins when, and how many at the same time |
//! | `session` | the life of one session |
//! | `setup` | from nothing, or from a cookie, to a live connection |
//! | `echo` | the traffic of a session |
//! | `stats` | what is counted meanwhile |
//! | `report` | what is told at the end |
//! | `fit` | whether this process may have so many sessions |

mod echo;
mod fit;
mod pace;
mod report;
mod session;
mod setup;
mod stats;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mstunnel_proto::prefix::Prefix;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use self::echo::Traffic;
pub use self::fit::TooMany;
use self::pace::Pace;
pub use self::report::{Failure, Percentiles, Report, SeriesReport};
use self::stats::Stats;
use crate::server_url::ServerUrl;
use crate::signin::Credentials;
use crate::tls::{TlsOptions, TlsOptionsError};
use crate::transport::{LocalEnd, Outer, UseDatagrams};

/// What a load test does.
#[derive(Debug)]
pub struct LoadOptions {
    /// The server.
    pub server: ServerUrl,
    /// How it is known.
    pub tls: TlsOptions,
    /// Who signs in, for every session; nobody is asked.
    pub credentials: Credentials,
    /// The name of this machine, if the server is to know it.
    pub hostname: Option<String>,
    /// Whether packets may travel as datagrams.
    pub datagrams: UseDatagrams,
    /// How many sessions.
    pub sessions: u32,
    /// Set-ups begun in a second; as many as `at_once` lets without one.
    pub rate: Option<f64>,
    /// Set-ups at the same time, at most.
    pub at_once: u32,
    /// How long they are held, each time that all are up.
    pub hold: Duration,
    /// How many times every session is cut and brought back by its cookie.
    pub reconnects: u32,
    /// What every session sends meanwhile.
    pub traffic: Option<Traffic>,
    /// The addresses that sessions come from, in turn; the kernel's choice without them.
    pub sources: Option<Prefix>,
}

/// Why a load test does not begin.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The TLS options.
    #[error(transparent)]
    Tls(#[from] TlsOptionsError),
    /// This process may not have so many sessions.
    #[error(transparent)]
    TooMany(#[from] TooMany),
}

/// What a load test is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Signing in and connecting.
    SettingUp,
    /// Cutting every session and bringing it back, in this round of all rounds.
    Reconnecting(u32),
    /// Everything is up.
    Holding,
    /// Saying goodbye.
    Leaving,
}

/// Where a load test stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it is at.
    pub stage: Stage,
    /// Stages that have begun so far: one may be over before anybody looks.
    pub stages_begun: u32,
    /// Set-ups of this stage that are done, well or not.
    pub done: u32,
    /// Sessions open now.
    pub open: u32,
    /// Of those, with a datagram channel.
    pub datagram_channels: u32,
    /// Set-ups that failed, in all.
    pub failed: u32,
    /// Sessions that ended without being asked to.
    pub lost: u32,
}

/// What sessions are told to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Hold,
    Reconnect(u32),
    Leave,
}

/// What all sessions share.
struct Shared {
    /// Where the server was found: the name is not asked for again by every session.
    outer: Mutex<Outer>,
    server: ServerUrl,
    credentials: Credentials,
    hostname: Option<String>,
    datagrams: UseDatagrams,
    traffic: Option<Traffic>,
    sources: Option<Prefix>,
    pace: Pace,
    stats: Stats,
    order: watch::Sender<Order>,
}

/// A load test.
pub struct Load {
    shared: Arc<Shared>,
    sessions: u32,
    hold: Duration,
    reconnects: u32,
}

impl Load {
    /// Raises the descriptor limit, and checks that the sessions fit this process.
    ///
    /// # Errors
    /// [`LoadError`], which says what to do.
    pub fn new(options: LoadOptions) -> Result<Self, LoadError> {
        fit::check(&options)?;
        let tls = Arc::new(options.tls.config()?);
        let shared = Shared {
            outer: Mutex::new(Outer::new(options.server.clone(), tls, LocalEnd::default())),
            server: options.server,
            credentials: options.credentials,
            hostname: options.hostname,
            datagrams: options.datagrams,
            traffic: options.traffic,
            sources: options.sources,
            pace: Pace::new(options.rate, options.at_once),
            stats: Stats::default(),
            order: watch::Sender::new(Order::Hold),
        };
        Ok(Self {
            shared: Arc::new(shared),
            sessions: options.sessions,
            hold: options.hold,
            reconnects: options.reconnects,
        })
    }

    /// Runs it, until it is over or `stop` is; then every session says goodbye.
    pub async fn run(&self, stop: impl Future<Output = ()>) -> Report {
        let mut tasks = JoinSet::new();
        let was_stopped = tokio::select! {
            () = self.stages(&mut tasks) => false,
            () = stop => true,
        };
        self.shared.stats.enter(Stage::Leaving);
        self.shared.order.send_replace(Order::Leave);
        while let Some(ended) = tasks.join_next().await {
            if let Err(defect) = ended {
                self.shared.stats.defect(&defect.to_string());
            }
        }
        self.shared.stats.report(self.sessions, was_stopped)
    }

    async fn stages(&self, tasks: &mut JoinSet<()>) {
        let stats = &self.shared.stats;
        stats.enter(Stage::SettingUp);
        for number in 0..self.sessions {
            let turn = self.shared.pace.turn().await;
            tasks.spawn(session::live(Arc::clone(&self.shared), number, turn));
        }
        self.shared.pace.idle().await;
        self.hold().await;
        for round in 1..=self.reconnects {
            stats.enter(Stage::Reconnecting(round));
            stats.begin_round(round, || self.shared.order.send_replace(Order::Reconnect(round)));
            stats.round_is_over().await;
            self.hold().await;
        }
    }

    async fn hold(&self) {
        self.shared.stats.enter(Stage::Holding);
        tokio::time::sleep(self.hold).await;
    }

    /// Where it stands.
    pub fn progress(&self) -> Progress {
        self.shared.stats.progress()
    }
}

impl Shared {
    /// A way to the server from the source of session `number`.
    fn outer(&self, number: u32) -> Outer {
        let outer = self.outer.lock().expect("no panic while this lock is held").clone();
        outer.with_source(self.sources.map(|sources| source(sources, number)))
    }

    /// Remembers where the server was found.
    fn settle(&self, outer: &Outer) {
        let mut shared = self.outer.lock().expect("no panic while this lock is held");
        if !shared.is_settled() {
            *shared = outer.clone();
        }
    }
}

/// The address of `sources` for session `number`: all but the first and the last of the prefix, in turn.
fn source(sources: Prefix, number: u32) -> IpAddr {
    let place = u128::from(number) % (source_count(sources)).max(1);
    match sources.network() {
        IpAddr::V4(first) if sources.length() < 31 => {
            let place = u32::try_from(place).unwrap_or_default();
            IpAddr::V4((first.to_bits() + 1 + place).into())
        }
        IpAddr::V6(first) if sources.length() < 127 => IpAddr::V6((first.to_bits() + 1 + place).into()),
        first @ (IpAddr::V4(_) | IpAddr::V6(_)) => first,
    }
}

/// How many addresses [`source`] chooses from.
fn source_count(sources: Prefix) -> u128 {
    let bits = if sources.is_ipv4() { 32 } else { 128 } - u32::from(sources.length());
    if bits < 2 { 1 } else { (1_u128 << bits.min(100)) - 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_come_from_the_hosts_of_a_prefix_in_turn() {
        let from = |prefix: &str, number| source(prefix.parse().unwrap(), number).to_string();
        assert_eq!(from("127.0.0.0/8", 0), "127.0.0.1");
        assert_eq!(from("127.0.1.0/30", 1), "127.0.1.2");
        assert_eq!(from("127.0.1.0/30", 2), "127.0.1.1");
        assert_eq!(from("192.0.2.7/32", 9), "192.0.2.7");
        assert_eq!(from("fd00::/64", 300), "fd00::12d");
        assert_eq!(source_count("127.0.1.0/30".parse().unwrap()), 2);
        assert_eq!(source_count("::1/128".parse().unwrap()), 1);
    }
}
