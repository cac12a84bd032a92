//! Random histories: what users, networks, administrators and strangers do, one thing after another.
//!
//! A history is a list of [`Transition`]s; the same list and seed give the same run. [`History::shrink`] makes a failing one
//! shorter.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use fastrand::Rng;
use mstunnel_proto::connect::Families;
use mstunnel_proto::frame::{FrameHeader, FrameKind};

use super::{ClientId, Death, NatKind, PASSWORD, Profile, Rebinding, ServerId, Settings, Wish, World};
use crate::inner;

/// Clients of a history.
const CLIENTS: usize = 4;

/// One thing that happens; numbers are taken modulo what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// A user signs in afresh.
    SignIn(u8),
    /// With a wrong password.
    SignInWrongly(u8),
    /// A client that was closed comes back with its cookie.
    Reconnect(u8),
    /// A second connection with the cookie of a live one.
    TakeOver(u8),
    /// A user leaves.
    Leave(u8),
    /// A client ends without a word.
    KillClient(u8, bool),
    /// The NAT box forgets its ports, or gets another address too.
    Rebind(u8, bool),
    /// A machine sleeps for so many seconds.
    Sleep(u8, u16),
    /// UDP is blocked or not.
    Udp(u8, bool),
    /// The path is gone or back.
    Path(u8, bool),
    /// The path carries packets of so many bytes.
    PathMtu(u8, u16),
    /// Loss, doubles and damage, in thousandths, and jitter in milliseconds.
    Weather(u8, u16, u16, u16, u16),
    /// A server process ends, or its machine; it is back after so many seconds.
    KillServer(bool, u16),
    /// An administrator ends the sessions of a user.
    Disconnect(u8),
    /// Other routes; whether UDP is offered.
    Reload(u8, bool),
    /// Applications send: the size, to a place inside or outside of the routes, what the far side does.
    Send(u8, u16, u8),
    /// The network sends to an address of the pool.
    Scan(u8, u16),
    /// A client's connection carries what no client of good will sends.
    HostileFrames(u8, u8, u8),
    /// A stranger sends datagrams.
    HostileDatagrams(u8, u8),
    /// Nothing happens for so many seconds.
    Wait(u16),
}

impl Transition {
    fn random(rng: &mut Rng) -> Self {
        let who = rng.u8(..);
        match rng.u8(..26) {
            0 | 1 => Self::SignIn(who),
            2 => Self::SignInWrongly(who),
            3 | 4 => Self::Reconnect(who),
            5 => Self::TakeOver(who),
            6 => Self::Leave(who),
            7 => Self::KillClient(who, rng.bool()),
            8 => Self::Rebind(who, rng.bool()),
            9 => Self::Sleep(who, rng.u16(1..8_000)),
            10 => Self::Udp(who, rng.bool()),
            11 => Self::Path(who, rng.bool()),
            12 => Self::PathMtu(who, rng.u16(600..=1_500)),
            13 => Self::Weather(who, rng.u16(..400), rng.u16(..300), rng.u16(..200), rng.u16(..80)),
            14 => Self::KillServer(rng.bool(), rng.u16(1..500)),
            15 => Self::Disconnect(who),
            16 => Self::Reload(rng.u8(..), rng.u8(..4) != 0),
            17..=20 => Self::Send(who, rng.u16(..1_500), rng.u8(..)),
            21 => Self::Scan(rng.u8(..), rng.u16(..1_500)),
            22 => Self::HostileFrames(who, rng.u8(..), rng.u8(..)),
            23 => Self::HostileDatagrams(who, rng.u8(..)),
            _ => Self::Wait(if rng.bool() { rng.u16(1..5) } else { rng.u16(1..400) }),
        }
    }

    /// Reads a transition from bytes of any kind, for the fuzzer; `None` at their end.
    pub fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (seed, rest) = bytes.split_first_chunk::<4>()?;
        *bytes = rest;
        let mut rng = Rng::with_seed(u64::from(u32::from_be_bytes(*seed)));
        Some(Self::random(&mut rng))
    }
}

/// A seed and what happens.
#[derive(Clone, Debug)]
pub struct History {
    /// The seed of the world.
    pub seed: u64,
    /// What happens, in order.
    pub transitions: Vec<Transition>,
}

impl History {
    /// A random history of `len` transitions.
    pub fn random(seed: u64, len: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        Self { seed, transitions: (0..len).map(|_| Transition::random(&mut rng)).collect() }
    }

    /// Runs it, and demands that the world recovers and that nothing is left behind.
    ///
    /// # Panics
    /// Where a rule of the world is broken, with the seed and what happened before.
    pub fn run(&self) -> Outcome {
        let mut world = furnish(self.seed);
        for transition in &self.transitions {
            apply(&mut world, transition);
        }
        world.recover();
        let outcome = Outcome { happened: world.happened(), arrivals: world.arrivals(), age: world.age() };
        world.end();
        outcome
    }

    /// Runs it; `Err` tells what was wrong.
    ///
    /// # Errors
    /// What [`History::run`] panics with.
    pub fn try_run(&self) -> Result<Outcome, String> {
        catch_unwind(AssertUnwindSafe(|| self.run())).map_err(|panic| match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(panic) => panic.downcast_ref::<&str>().map_or("a panic", |text| text).to_owned(),
        })
    }

    /// The shortest history that still fails and that is found by leaving out one transition after the other.
    #[must_use]
    pub fn shrink(mut self) -> Self {
        let mut at = self.transitions.len();
        while at > 0 {
            at -= 1;
            let mut shorter = self.clone();
            shorter.transitions.remove(at);
            if shorter.try_run().is_err() {
                self = shorter;
            }
        }
        self
    }
}

/// What a run was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How many things happened.
    pub happened: u64,
    /// How many packets came out of the tunnel.
    pub arrivals: u64,
    /// The virtual time.
    pub age: Duration,
}

/// A server and some clients, different ones for each seed.
fn furnish(seed: u64) -> World {
    let mut rng = Rng::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let settings = Settings {
        // A pool of five addresses, where four clients with old leases in hold-back run out of them.
        pool_v4: if rng.u8(..4) == 0 { "10.9.0.0/29" } else { "10.9.0.0/24" }.parse().expect("a prefix"),
        pool_v6: if rng.u8(..3) == 0 { None } else { Settings::default().pool_v6 },
        session_timeout: (rng.u8(..4) == 0).then(|| Duration::from_secs(rng.u64(600..7_200))),
        idle_timeout: (rng.u8(..6) == 0).then(|| Duration::from_secs(rng.u64(300..3_600))),
        rekey: (rng.u8(..3) == 0).then(|| Duration::from_secs(rng.u64(60..900))),
        dpd: Duration::from_secs(*rng.choice(&[10, 30, 90]).expect("three")),
        max_per_user: (rng.u8(..4) == 0).then_some(1),
        ..Settings::default()
    };
    let mut world =
        World::seeded(seed).with_settings(settings).with_latency(Duration::from_millis(rng.u64(1..120)));
    for number in 0..CLIENTS {
        let profile = Profile {
            // The last two are devices of one user.
            user: format!("user{}", number.min(CLIENTS - 2)),
            password: PASSWORD.to_owned(),
            datagrams: rng.u8(..4) != 0,
            families: Families { v4: true, v6: rng.u8(..3) != 0 },
        };
        let nat = *rng.choice(&[NatKind::HOME, NatKind::CARRIER, NatKind::OPEN]).expect("three");
        let client = world.add_client_with(profile, nat, ServerId(0));
        world.sign_in(client);
    }
    world.advance(Duration::from_secs(5));
    world
}

fn apply(world: &mut World, transition: &Transition) {
    let client = |who: u8| ClientId(usize::from(who) % CLIENTS);
    let server = ServerId(0);
    match *transition {
        Transition::SignIn(who) => {
            world.remember_password(client(who));
            world.sign_in(client(who));
        }
        Transition::SignInWrongly(who) => world.sign_in_wrongly(client(who)),
        Transition::Reconnect(who) => {
            if !world.is_live(client(who)) {
                world.remember_password(client(who));
                world.reconnect(client(who));
            }
        }
        Transition::TakeOver(who) => world.take_over(client(who)),
        Transition::Leave(who) => world.leave(client(who)),
        Transition::KillClient(who, process) => {
            world.kill_client(client(who), if process { Death::Process } else { Death::Machine });
        }
        Transition::Rebind(who, address) => {
            world.rebind(client(who), if address { Rebinding::Address } else { Rebinding::Ports });
        }
        Transition::Sleep(who, seconds) => {
            world.sleep(client(who));
            world.advance(Duration::from_secs(seconds.into()));
            world.wake(client(who));
        }
        Transition::Udp(who, passes) => world.relink(client(who), |link| link.udp = passes),
        Transition::Path(who, passes) => world.relink(client(who), |link| link.up = passes),
        Transition::PathMtu(who, mtu) => world.relink(client(who), |link| link.mtu = mtu),
        Transition::Weather(who, loss, duplicate, corrupt, jitter) => world.relink(client(who), |link| {
            (link.loss, link.duplicate, link.corrupt) = (loss, duplicate, corrupt);
            link.jitter = Duration::from_millis(jitter.into());
        }),
        Transition::KillServer(process, seconds) => {
            world.kill_server(server, if process { Death::Process } else { Death::Machine });
            world.advance(Duration::from_secs(seconds.into()));
            world.start_server(server);
        }
        Transition::Disconnect(who) => world.disconnect(client(who)),
        Transition::Reload(which, udp) => world.reload(server, |settings| {
            settings.udp = udp;
            settings.include = routes(which);
            settings.exclude = routes(which >> 4).into_iter().skip(1).collect();
        }),
        Transition::Send(who, len, how) => send(world, client(who), len.into(), how),
        Transition::Scan(last, len) => {
            world.probe_inside(server, IpAddr::V4(Ipv4Addr::new(10, 9, 0, last)), len.into());
        }
        Transition::HostileFrames(who, kind, how) => {
            let address = |who: usize| world.leases(ClientId(who % CLIENTS)).unwrap_or_default().v4;
            let (own, victim) = (address(who.into()), address(usize::from(who) + 1));
            // A device may have got what another one of its user had, which has not heard of it yet.
            if own.is_some() && victim != own {
                world.inject_frames(client(who), hostile_frames(kind, how, victim));
            }
        }
        Transition::HostileDatagrams(who, how) => {
            world.replay(client(who), how.into(), how % 2 == 0);
            let mut noise = vec![how; usize::from(how) + 1];
            noise.splice(..0, [20 + how % 5, 0xfe, 0xfd, 0, how % 3]);
            let from = SocketAddr::from(([192, 0, 2, how], 1_000 + u16::from(who)));
            world.inject_datagram(server, from, noise);
        }
        Transition::Wait(seconds) => world.advance(Duration::from_secs(seconds.into())),
    }
    world.advance(Duration::from_millis(200));
}

fn send(world: &mut World, client: ClientId, len: usize, how: u8) {
    let wish = [Wish::Sink, Wish::Echo, Wish::Serve][usize::from(how) % 3];
    let places: [IpAddr; 4] = [
        [10, 1, 0, 7].into(),
        // Excluded, a client, and of the other family.
        [10, 66, 0, 1].into(),
        [10, 9, 0, how].into(),
        "fd00::1:0:1".parse().expect("an address"),
    ];
    // Some are refused at the client, some at the server; what passes is judged where it comes out.
    let _ = world.probe(client, places[usize::from(how) / 3 % 4], len, wish);
}

fn routes(which: u8) -> Vec<mstunnel_proto::prefix::Prefix> {
    let all = ["10.0.0.0/8", "10.64.0.0/10", "10.66.0.0/16", "10.1.0.0/16", "fd00::/16"];
    let chosen = all.iter().enumerate().filter(|(bit, _)| which >> bit & 1 == 1 || *bit == 0);
    chosen.map(|(_, prefix)| prefix.parse().expect("a prefix")).collect()
}

/// What no client of good will sends.
fn hostile_frames(kind: u8, how: u8, victim: Option<Ipv4Addr>) -> Vec<u8> {
    let spoofed = |source: IpAddr| {
        inner::udp(SocketAddr::new(source, 1), SocketAddr::from(([10, 1, 0, 7], 7)), &[how; 20])
    };
    let payload = match how % 6 {
        0 => spoofed(victim.unwrap_or(Ipv4Addr::new(10, 9, 0, 77)).into()),
        1 => spoofed([192, 0, 2, 1].into()),
        2 => vec![0x45; usize::from(how)],
        3 => vec![],
        4 => vec![0xff; 1_500],
        _ => vec![how; 3],
    };
    let kind = match kind % 6 {
        // A BYE would be the end of the session, which is no hostility.
        0..=2 => FrameKind::Data,
        3 => FrameKind::DpdRequest,
        4 => FrameKind::DpdResponse,
        _ => FrameKind::Unknown(200 + kind % 50),
    };
    let header = FrameHeader { kind, payload_len: payload.len() };
    if how == 255 { b"STF\x02garbage".to_vec() } else { [&header.encode()[..], &payload].concat() }
}
