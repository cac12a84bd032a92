//! A world in memory: servers, clients, NAT boxes and bad networks, in virtual time.
//!
//! ```text
//!   client machines -- Link -- Nat ==(TLS records in order, DTLS datagrams)==> server machines -- network
//! ```
//!
//! All protocol is the core's own, on both sides; TLS is replaced by an ordered stream of records, DTLS is real. Time
//! jumps to whatever happens next. One seed gives one run, bit for bit; it is printed when a run fails.
//!
//! In every world these hold, and a breach ends the run (threats.md, harness rules): nothing comes out that did not go
//! in, nothing twice, nothing changed, nothing at another client; no datagram above the link's MTU; every drop in one
//! counter, in = out + drops; no cookie or password in what the machines print; no deadline in the past after a drain;
//! cookies and leases are as the models of [`judge`](self) say. [`World::end`] adds that nothing is left in any
//! table.

mod actions;
mod audit;
mod client;
mod connections;
pub mod history;
mod judge;
mod link;
mod nat;
mod probe;
mod questions;
mod run;
mod server;
mod settings;
mod stream;
mod trail;
mod tunnel;

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use fastrand::Rng;
use mstunnel_proto::auth::{QuestionId, Verdict};
use mstunnel_proto::connect::Families;

use self::client::Client;
pub use self::client::{Ending, Profile};
use self::judge::Judge;
pub use self::link::Link;
use self::nat::Nat;
pub use self::nat::{Dependence, NatKind};
pub use self::probe::Wish;
use self::server::{Server, Stored};
pub use self::settings::Settings;
use self::stream::{ConnId, End, Item, Streams};
use self::trail::Trail;

/// The password of every account; one more character makes it wrong.
const PASSWORD: &str = "correct horse battery staple";

/// Things that may happen at one instant before it counts as a loop.
const MAX_AT_ONCE: u32 = 200_000;

/// Datagrams of each client that a stranger has copied.
const MAX_COPIES: usize = 32;

/// Names a client of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientId(usize);

/// Names a server of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerId(usize);

/// How something ends without saying goodbye.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    /// The process: its system closes its connections.
    Process,
    /// The machine: nobody says anything.
    Machine,
}

/// What a NAT box loses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rebinding {
    /// Its ports.
    Ports,
    /// Its outside address too.
    Address,
}

/// A copy of a datagram, with where it came from.
type Copied = (SocketAddr, Vec<u8>);

enum Event {
    Stream { conn: ConnId, to: End, item: Item },
    TcpGivesUp { conn: ConnId, since: Instant },
    Accept { conn: ConnId },
    Connected { conn: ConnId },
    DialFailed { client: usize },
    ToServer { server: usize, from: SocketAddr, bytes: Vec<u8> },
    ToClient { to: SocketAddr, from: SocketAddr, bytes: Vec<u8> },
    Verdict { server: usize, incarnation: u32, conn: ConnId, question: QuestionId, verdict: Verdict },
    WakeClient(usize),
    WakeServer(usize),
    WakeConn(usize, ConnId),
}

struct Place {
    client: Client,
    link: Link,
    nat: Nat,
    server: usize,
    asleep: bool,
    armed: Option<Instant>,
    copies: VecDeque<Copied>,
}

impl Place {
    fn carries_tcp(&self) -> bool {
        self.link.up && self.link.tcp && !self.asleep
    }
}

struct Site {
    server: Server,
    /// `None` while it runs.
    down: Option<(Death, Stored)>,
    armed: Option<Instant>,
    armed_conns: BTreeMap<ConnId, Instant>,
}

/// The world.
pub struct World {
    seed: u64,
    origin: Instant,
    now: Instant,
    rng: Rng,
    agenda: BTreeMap<(Instant, u64), Event>,
    scheduled: u64,
    happened: u64,
    at_once: u32,
    places: Vec<Place>,
    sites: Vec<Site>,
    streams: Streams,
    outside: BTreeMap<IpAddr, usize>,
    next_outside: u32,
    next_probe: u64,
    judge: Judge,
    trail: Trail,
    default_link: Link,
}

impl World {
    /// A world with one server and the usual settings.
    pub fn seeded(seed: u64) -> Self {
        let mut world = Self::empty(seed);
        world.add_server(Settings::default());
        world
    }

    /// A world without anything.
    pub fn empty(seed: u64) -> Self {
        let origin = Instant::now();
        let mut trail = Trail::default();
        trail.keep_secret(PASSWORD);
        Self {
            seed,
            origin,
            now: origin,
            rng: Rng::with_seed(seed),
            agenda: BTreeMap::new(),
            scheduled: 0,
            happened: 0,
            at_once: 0,
            places: Vec::new(),
            sites: Vec::new(),
            streams: Streams::default(),
            outside: BTreeMap::new(),
            next_outside: 0,
            next_probe: 0,
            judge: Judge::default(),
            trail,
            default_link: Link::default(),
        }
    }

    /// The same with another latency on every path that is laid from now on.
    #[must_use]
    pub fn with_latency(mut self, latency: Duration) -> Self {
        self.default_link.latency = latency;
        self
    }

    /// The same with other settings of its only server.
    #[must_use]
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.sites.clear();
        self.agenda.clear();
        self.add_server(settings);
        self
    }

    /// Starts another server.
    pub fn add_server(&mut self, settings: Settings) -> ServerId {
        let number = self.sites.len();
        let host = Ipv4Addr::from_bits(
            u32::from(Ipv4Addr::new(203, 0, 113, 1)) + u32::try_from(number).expect("few servers"),
        );
        let server = Server::start(SocketAddr::from((host, 443)), settings, self.rng.fork(), self.now);
        self.sites.push(Site { server, down: None, armed: None, armed_conns: BTreeMap::new() });
        self.arm_server(number);
        ServerId(number)
    }

    /// The usual client: both families, a datagram channel, a home router.
    pub fn add_client(&mut self) -> ClientId {
        let user = format!("user{}", self.places.len());
        let profile =
            Profile { user, password: PASSWORD.to_owned(), datagrams: true, families: Families::BOTH };
        self.add_client_with(profile, NatKind::HOME, ServerId(0))
    }

    /// A client of a server, behind a NAT box.
    pub fn add_client_with(&mut self, profile: Profile, nat: NatKind, server: ServerId) -> ClientId {
        let number = self.places.len();
        let outside = self.new_outside(number);
        let client = Client::new(profile, self.sites[server.0].server.address, self.rng.fork());
        self.places.push(Place {
            client,
            link: self.default_link.clone(),
            nat: Nat::new(nat, outside),
            server: server.0,
            asleep: false,
            armed: None,
            copies: VecDeque::new(),
        });
        ClientId(number)
    }

    /// Adds the usual client and lets it sign in.
    pub fn connect(&mut self) -> ClientId {
        let client = self.add_client();
        self.sign_in(client);
        self.advance(Duration::from_secs(10));
        if !self.is_live(client) {
            self.fail(format_args!("{client:?} should be live and is {}", self.stage(client)));
        }
        client
    }

    fn new_outside(&mut self, client: usize) -> IpAddr {
        self.next_outside += 1;
        let address =
            IpAddr::V4(Ipv4Addr::from_bits(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + self.next_outside));
        self.outside.insert(address, client);
        address
    }

    /// The virtual time since the world began.
    pub fn age(&self) -> Duration {
        self.now - self.origin
    }

    /// How many things have happened.
    pub fn happened(&self) -> u64 {
        self.happened
    }
}

#[cfg(test)]
mod tests;
