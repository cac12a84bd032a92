//! The run: who joins, what is counted, who dies, and when it is over.
//!
//! ```text
//!   ramp                  steady                     storm                       tail
//!   everybody signs in    DPD; some roam             the clients of the dead     all are back
//!                                                    find out and come back      or gave up
//!   |---------------------|--------------------------|---------------------------|--------|
//!                        all up                      death
//! ```
//!
//! Not simulated: TLS, HTTP, DTLS and traffic. A request reaches its server after three ways (TCP, then TLS), an
//! answer takes one; a stream keeps its order. A connection costs a server the same whatever it asks for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::prefix::Prefix;
use mstunnel_proto::session::{Access, SessionConfig};

use crate::agenda::{Agenda, Event, Letters};
use crate::client::{Client, INSIDE, Phase};
use crate::memory::{self, Tally, charged};
use crate::options::{HEALTH_CHECK, MISTYPES, Options, ROAMS, SESSION_TIMEOUT, TAIL};
use crate::report::{Counts, Memory, Report, Sample};
use crate::server::Server;
use crate::site::Site;

/// Between two points of the plot.
const SAMPLE: Duration = Duration::from_secs(1);

/// The way between a client and the server that accepted it.
#[derive(Clone, Copy)]
pub(crate) struct Wire {
    pub(crate) server: u16,
    pub(crate) slot: u32,
    /// Nothing overtakes what was sent before: when the last of it is there.
    pub(crate) to_server: Instant,
    pub(crate) to_client: Instant,
}

/// Where the run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Ramp,
    Steady,
    Storm,
    Tail,
}

/// A whole site with its clients.
pub(crate) struct Simulation {
    pub(crate) options: Options,
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) agenda: Agenda,
    pub(crate) letters: Letters,
    pub(crate) rng: fastrand::Rng,
    pub(crate) site: Site,
    /// By number; a dead one is `None`, and so is what it held in memory.
    pub(crate) servers: Vec<Option<Server>>,
    pub(crate) clients: Vec<Client>,
    pub(crate) wires: Vec<Wire>,
    pub(crate) out: PacketBuf,
    pub(crate) tally: Tally,
    pub(crate) counts: Counts,
    stage: Stage,
    doomed: Vec<u16>,
    joined: u32,
    ends_at: Option<Instant>,
    samples: Vec<Sample>,
    report: Report,
}

impl Simulation {
    pub(crate) fn new(options: Options) -> Result<Self> {
        // Only differences matter: the machines of the core want an `Instant`, whichever it is.
        let start = Instant::now();
        let mut rng = fastrand::Rng::with_seed(options.seed);
        let mut tally = Tally::default();
        let site = Site::new(&options);
        let config = Arc::new(SessionConfig {
            dpd: Some(Duration::from_secs(options.dpd)),
            idle_timeout: Some(SESSION_TIMEOUT / 2),
            access: Access::new(&["10.0.0.0/8".parse()?], &[Prefix::single(INSIDE.into())], None),
        });
        let servers: Result<Vec<_>> = charged(&mut tally.servers, || {
            (0..options.servers).map(|number| Server::new(number, config.clone(), &site).map(Some)).collect()
        });
        let clients = charged(&mut tally.clients, || {
            (0..options.clients).map(|number| Client::new(number, &options, &mut rng)).collect()
        });
        let mut doomed: Vec<u16> = (0..options.servers).collect();
        rng.shuffle(&mut doomed);
        doomed.truncate(options.kill.into());
        doomed.sort_unstable();
        let nowhere = Wire { server: 0, slot: 0, to_server: start, to_client: start };
        let mut agenda = Agenda::default();
        agenda.note(start, Event::Join);
        agenda.note(start, Event::Sample);
        Ok(Self {
            wires: vec![nowhere; options.clients as usize],
            report: Report::new(&options),
            start,
            now: start,
            agenda,
            letters: Letters::default(),
            rng,
            site,
            servers: servers?,
            clients,
            out: PacketBuf::new(64),
            tally,
            counts: Counts::default(),
            stage: Stage::Ramp,
            doomed,
            joined: 0,
            ends_at: None,
            samples: Vec::new(),
            options,
        })
    }

    /// Runs to the end; `tell` hears where it stands after every virtual second.
    pub(crate) fn run(mut self, mut tell: impl FnMut(Stage, &Sample)) -> Result<Report> {
        let began = Instant::now();
        while let Some((at, event)) = self.agenda.take_next() {
            if self.ends_at.is_some_and(|end| at > end) {
                break;
            }
            self.now = at;
            self.counts.events += 1;
            if event == Event::Sample {
                tell(self.stage, &self.sample());
            } else {
                self.step(event)?;
            }
        }
        self.audit()?;
        let run_time = began.elapsed();
        self.report.virtual_time = self.ends_at.unwrap_or(self.now) - self.start;
        self.report.sessions_up = self.counts.up;
        self.report.counts = self.counts;
        self.report.samples = self.samples;
        self.report.run_time = run_time;
        self.report.peak_resident_bytes = memory::peak_resident_bytes();
        Ok(self.report)
    }

    /// The next client signs in.
    pub(crate) fn join(&mut self) {
        let client = self.joined;
        self.joined += 1;
        if self.joined < self.options.clients {
            self.agenda.note(self.now + self.options.ramp_pause(), Event::Join);
        }
        self.agenda.note(self.now, Event::Try { client });
    }

    /// A client came up, or gave up for good: is this what the stage waited for?
    pub(crate) fn check_stage(&mut self) {
        let settled = self.counts.up + self.counts.given_up == u64::from(self.options.clients);
        match self.stage {
            Stage::Ramp if settled => {
                self.stage = Stage::Steady;
                self.report.ramp = self.now - self.start;
                self.counts.questions_before_steady = self.counts.questions;
                let steady = Duration::from_secs(self.options.steady);
                self.agenda.note(self.now + steady, Event::Death);
                // All who roam are back before servers die.
                for client in (0..self.options.clients).filter(|client| client % ROAMS == ROAMS / 3) {
                    let at = self.now + steady.mul_f64(self.rng.f64() / 2.0);
                    let closes = self.rng.bool();
                    self.agenda.note(at, Event::Roam { client, closes });
                }
            }
            Stage::Storm => {
                self.note_recovery();
                if settled {
                    self.stage = Stage::Tail;
                    self.ends_at = Some(self.now + TAIL);
                }
            }
            Stage::Ramp | Stage::Steady | Stage::Tail => {}
        }
    }

    fn note_recovery(&mut self) {
        let (victims, recovered) = (self.report.victims, self.counts.recovered);
        let since = self.now - self.start - self.report.death;
        let enough = |percent: u64| recovered * 100 >= victims * percent;
        let recovery = &mut self.report.recovery;
        for (percent, at) in [(50, &mut recovery.half), (99, &mut recovery.most), (100, &mut recovery.all)] {
            if at.is_none() && enough(percent) {
                *at = Some(since);
            }
        }
    }

    /// The doomed servers die, with all that was in their memory.
    pub(crate) fn kill(&mut self) -> Result<()> {
        ensure!(self.stage == Stage::Steady, "servers die once, out of the steady time");
        self.measure();
        self.stage = Stage::Storm;
        self.report.death = self.now - self.start;
        self.counts.longest_queue_in_ramp = std::mem::take(&mut self.counts.longest_queue);
        self.counts.busy_in_ramp = std::mem::take(&mut self.counts.busy);
        for number in self.doomed.clone() {
            self.site.note_death(number, self.now);
            let mut dead = self.servers[usize::from(number)].take().context("a server dies once")?;
            let waiting = std::mem::take(&mut dead.queue);
            charged(&mut self.tally.servers, || drop(dead));
            for request in waiting {
                self.find_nobody(request);
            }
        }
        self.agenda.note(self.now + HEALTH_CHECK, Event::Rota);
        for number in 0..self.options.clients {
            let client = &mut self.clients[number as usize];
            let is_lost = self.doomed.binary_search(&self.wires[number as usize].server).is_ok();
            if !is_lost || !client.is_up {
                continue;
            }
            client.is_victim = true;
            client.is_up = false;
            self.counts.up -= 1;
            self.report.victims += 1;
            if client.is_told {
                self.report.told += 1;
                let attempt = client.attempt;
                let at = self.now + self.way(number);
                self.agenda.note(at, Event::ClosedByServer { client: number, attempt });
            }
        }
        self.check_stage();
        Ok(())
    }

    /// What the full site costs.
    fn measure(&mut self) {
        let sessions = self.counts.up.max(1);
        let each = |bytes: i64| u64::try_from(bytes).unwrap_or(0) / sessions;
        let Tally { servers, clients, site } = self.tally;
        self.report.memory = Memory { server: each(servers), client: each(clients), stored: each(site) };
        let questions = self.counts.questions - self.counts.questions_before_steady;
        self.report.questions_per_second = questions / self.options.steady;
        self.report.sessions_before_death = self.counts.up;
    }

    fn sample(&mut self) -> Sample {
        let of_the_doomed = match self.stage {
            Stage::Ramp | Stage::Steady => {
                let doomed =
                    self.doomed.iter().filter_map(|&number| self.servers[usize::from(number)].as_ref());
                doomed.map(|server| server.live() as u64).sum()
            }
            Stage::Storm | Stage::Tail => self.counts.recovered,
        };
        let sample = Sample { at: self.now - self.start, up: self.counts.up, of_the_doomed };
        self.samples.push(sample);
        self.agenda.note(self.now + SAMPLE, Event::Sample);
        sample
    }

    /// One way from or to a client, with what varies: up to a fifth more.
    pub(crate) fn way(&mut self, client: u32) -> Duration {
        let one_way = self.clients[client as usize].one_way;
        one_way + one_way.mul_f64(self.rng.f64() / 5.0)
    }

    /// What holds at the end of every run: each session has one owner in the site, its own address, and the client
    /// that believes so.
    fn audit(&self) -> Result<()> {
        let mut holders = HashMap::new();
        for (number, server) in self.servers.iter().enumerate() {
            for (address, cookie) in server.iter().flat_map(Server::leased) {
                let other = holders.insert(address, (number, cookie));
                ensure!(other.is_none(), "{address} is leased twice");
            }
        }
        for (number, client) in self.clients.iter().enumerate().filter(|(_, client)| client.is_up) {
            let (cookie, address) =
                client.cookie.as_ref().zip(client.address).context("a client that is up")?;
            let server = self.wires[number].server;
            let expected = Some(&(usize::from(server), cookie.hash()));
            ensure!(holders.get(&address) == expected, "client {number} is not the holder of {address}");
            ensure!(self.site.owner(&cookie.hash()) == Some(server), "the site knows another owner");
            ensure!(matches!(client.phase, Phase::Up(_)), "client {number} believes that it is up");
        }
        let mistyped = u64::from((self.options.clients + MISTYPES / 2) / MISTYPES);
        ensure!(self.counts.wrong_passwords <= mistyped, "a right password was refused");
        Ok(())
    }
}
