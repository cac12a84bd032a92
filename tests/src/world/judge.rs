//! The models: what may be true of cookies, leases and packets, in a form that is believed at a glance.
//!
//! | model | is |
//! | --- | --- |
//! | cookies | a table: waits until then, lives in this connection, dead since then |
//! | leases | for each address the cookie that had it last |
//! | packets | the numbers that were sent, each with its bytes and whether it has arrived |
//!
//! Nothing here asks the code that is judged.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use mstunnel_proto::auth::CookieHash;
use mstunnel_proto::close::CloseReason;
use mstunnel_proto::prefix::Prefix;
use mstunnel_proto::session::{AttachRefused, Leases};

use super::stream::ConnId;

/// A user with so many sessions that wait loses the oldest.
const WAITING_LIMIT: usize = 16;

/// Who a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toward {
    Network,
    /// The client that has the address, if one has.
    Client(Option<usize>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waits(Instant),
    Lives(ConnId),
    Dead(Instant),
}

#[derive(Debug)]
struct Cookie {
    server: usize,
    user: String,
    fate: Fate,
    ends_at: Option<Instant>,
    leases: Leases,
}

#[derive(Debug)]
struct Sent {
    toward: Toward,
    packet: Vec<u8>,
    arrived: bool,
}

/// What the judge has to know of a server's settings.
#[derive(Clone, Debug)]
pub(crate) struct Law {
    pub(crate) server: usize,
    /// The reconnect window, which is the hold-back too.
    pub(crate) window: Duration,
    pub(crate) session_timeout: Option<Duration>,
    pub(crate) max_per_user: Option<usize>,
    /// Each pool and how many addresses it can lease.
    pub(crate) pools: Vec<(Prefix, u64)>,
}

/// `Err` says what is wrong.
type Judgement = Result<(), String>;

/// All models of one world.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    cookies: BTreeMap<[u8; 32], Cookie>,
    last_holder: BTreeMap<(usize, IpAddr), [u8; 32]>,
    sent: BTreeMap<u64, Sent>,
    arrived: u64,
}

impl Cookie {
    /// When it died or will have died, if nothing more happens; `None` while it lives.
    fn dies_at(&self) -> Option<Instant> {
        let end = |at: Instant| self.ends_at.map_or(at, |end| end.min(at));
        match self.fate {
            Fate::Waits(until) => Some(end(until)),
            Fate::Lives(_) => self.ends_at,
            Fate::Dead(at) => Some(at),
        }
    }

    fn is_dead(&self, now: Instant) -> bool {
        self.dies_at().is_some_and(|at| at <= now)
    }
}

impl Judge {
    /// Somebody signed in.
    pub(crate) fn admitted(&mut self, law: &Law, cookie: &CookieHash, user: &str, now: Instant) -> Judgement {
        let model = Cookie {
            server: law.server,
            user: user.to_owned(),
            fate: Fate::Waits(now + law.window),
            ends_at: law.session_timeout.map(|timeout| now + timeout),
            leases: Leases::default(),
        };
        match self.cookies.insert(*cookie.as_bytes(), model) {
            None => Ok(()),
            Some(_) => Err("one cookie for two sessions".to_owned()),
        }
    }

    /// A CONNECT was accepted.
    pub(crate) fn attached(
        &mut self,
        law: &Law,
        cookie: &CookieHash,
        conn: ConnId,
        leases: Leases,
        wants: (bool, bool),
        now: Instant,
    ) -> Judgement {
        let key = *cookie.as_bytes();
        let known = self.cookies.get(&key).filter(|known| known.server == law.server);
        let Some(known) = known else { return Err(format!("{conn:?} was let in with a cookie of nobody")) };
        if known.is_dead(now) {
            return Err(format!("{conn:?} was let in with a dead cookie: {known:?}"));
        }
        let (old, user) = (known.leases, known.user.clone());
        if (old.v4.is_some() && wants.0 && leases.v4 != old.v4)
            || (old.v6.is_some() && wants.1 && leases.v6 != old.v6)
        {
            return Err(format!("{conn:?} had {old:?} and got {leases:?}"));
        }
        if let Some(limit) = law.max_per_user {
            let others = self.cookies.iter().filter(|(other, _)| **other != key).map(|(_, other)| other);
            let live = others.filter(|other| {
                other.server == law.server
                    && other.user == user
                    && matches!(other.fate, Fate::Lives(_))
                    && !other.is_dead(now)
            });
            if live.count() >= limit {
                return Err(format!("{user} has more than {limit} sessions"));
            }
        }
        for address in leases.iter() {
            if !law.pools.iter().any(|(pool, _)| pool.contains(address)) {
                return Err(format!("{address} is of no pool"));
            }
            let last = self.last_holder.insert((law.server, address), key).filter(|last| *last != key);
            let Some(last) = last.and_then(|last| self.cookies.get(&last)) else { continue };
            match last.dies_at() {
                Some(died) if died <= now && (last.user == user || died + law.window <= now) => {}
                died => {
                    return Err(format!(
                        "{address} was given to {user}; {} has it until {died:?}, now {now:?}",
                        last.user
                    ));
                }
            }
        }
        let known = self.cookies.get_mut(&key).expect("looked up above");
        known.leases = Leases { v4: leases.v4.or(old.v4), v6: leases.v6.or(old.v6) };
        known.fate = Fate::Lives(conn);
        Ok(())
    }

    /// A CONNECT was refused.
    pub(crate) fn refused(
        &mut self,
        law: &Law,
        cookie: Option<&CookieHash>,
        why: AttachRefused,
        now: Instant,
    ) -> Judgement {
        let Some(known) = cookie.and_then(|cookie| self.cookies.get(cookie.as_bytes())) else {
            return Ok(());
        };
        let of_user =
            |other: &&Cookie| other.server == law.server && other.user == known.user && !other.is_dead(now);
        match why {
            AttachRefused::UnknownCookie => {
                let waiting = self.cookies.values().filter(of_user).count();
                if known.server != law.server || known.is_dead(now) || waiting > WAITING_LIMIT {
                    return Ok(());
                }
                Err(format!("a good cookie was refused: {known:?}"))
            }
            AttachRefused::TooManySessions { limit } => {
                let live = self
                    .cookies
                    .values()
                    .filter(of_user)
                    .filter(|other| matches!(other.fate, Fate::Lives(_)));
                if live.count() >= limit {
                    Ok(())
                } else {
                    Err(format!("{} has no {limit} sessions", known.user))
                }
            }
            AttachRefused::NoAddress => {
                let taken = |pool: &Prefix| {
                    let holders = self.last_holder.iter().filter(|((server, address), key)| {
                        let dies = self.cookies.get(*key).and_then(Cookie::dies_at);
                        *server == law.server
                            && pool.contains(*address)
                            && dies.is_none_or(|at| at + law.window > now)
                    });
                    holders.count() as u64
                };
                match law.pools.iter().find(|(pool, size)| taken(pool) < *size) {
                    Some((pool, size)) if law.pools.len() == 1 => Err(format!(
                        "no address for {}, but {} of {size} are taken in {pool}",
                        known.user,
                        taken(pool)
                    )),
                    _ => Ok(()),
                }
            }
        }
    }

    /// A connection of a session ended.
    pub(crate) fn ended(
        &mut self,
        law: &Law,
        cookie: &CookieHash,
        conn: ConnId,
        reason: CloseReason,
        now: Instant,
    ) -> Judgement {
        let Some(known) = self.cookies.get_mut(cookie.as_bytes()) else {
            return Err(format!("{conn:?} of nobody ended"));
        };
        if known.fate != Fate::Lives(conn) {
            return Ok(());
        }
        known.fate = match reason {
            CloseReason::SessionTimeout if known.ends_at.is_none_or(|end| end > now) => {
                return Err(format!("{conn:?} ended before its time"));
            }
            CloseReason::UserLeft
            | CloseReason::SessionTimeout
            | CloseReason::IdleTimeout
            | CloseReason::AdminDisconnect
            | CloseReason::AccountRevoked => Fate::Dead(now),
            CloseReason::ClientPaused
            | CloseReason::StreamClosed
            | CloseReason::DpdTimeout
            | CloseReason::Stalled
            | CloseReason::ProtocolError
            | CloseReason::ServerShutdown => Fate::Waits(now + law.window),
            CloseReason::InternalError => return Err(format!("a defect ended {conn:?}")),
            CloseReason::TakenOver => return Err(format!("{conn:?} was taken over by nobody")),
        };
        Ok(())
    }

    /// An administrator ends all sessions of a user.
    pub(crate) fn disconnected(&mut self, server: usize, user: &str, now: Instant) {
        let of_user =
            self.cookies.values_mut().filter(|cookie| cookie.server == server && cookie.user == user);
        for cookie in of_user.filter(|cookie| !cookie.is_dead(now)) {
            cookie.fate = Fate::Dead(now);
        }
    }

    /// A server process died; another one takes up its records at `now`.
    pub(crate) fn restarted(&mut self, law: &Law, now: Instant) {
        for cookie in self.cookies.values_mut().filter(|cookie| cookie.server == law.server) {
            if matches!(cookie.fate, Fate::Lives(_)) && !cookie.is_dead(now) {
                cookie.fate = Fate::Waits(now + law.window);
            }
        }
    }

    /// Whether a reconnect with it has to succeed.
    pub(crate) fn is_good(&self, cookie: &CookieHash, now: Instant) -> bool {
        self.cookies.get(cookie.as_bytes()).is_some_and(|known| !known.is_dead(now))
    }

    /// The connection in which somebody has `address`.
    pub(crate) fn holder(&self, server: usize, address: IpAddr) -> Option<ConnId> {
        let key = self.last_holder.get(&(server, address))?;
        match self.cookies.get(key)?.fate {
            Fate::Lives(conn) => Some(conn),
            Fate::Waits(_) | Fate::Dead(_) => None,
        }
    }

    /// A probe sets out.
    pub(crate) fn sent(&mut self, number: u64, toward: Toward, packet: Vec<u8>) {
        self.sent.insert(number, Sent { toward, packet, arrived: false });
    }

    /// A packet came out of the tunnel.
    pub(crate) fn arrived(&mut self, number: Option<u64>, at: Toward, packet: &[u8]) -> Judgement {
        let Some(sent) = number.and_then(|number| self.sent.get_mut(&number)) else {
            return Err(format!("{} bytes came out at {at:?} that nobody sent: {packet:02x?}", packet.len()));
        };
        if sent.toward != at {
            return Err(format!("a packet for {:?} came out at {at:?}", sent.toward));
        }
        if sent.packet != packet {
            return Err(format!("a packet went in as {:02x?} and came out as {packet:02x?}", sent.packet));
        }
        if std::mem::replace(&mut sent.arrived, true) {
            return Err(format!("packet {number:?} came out twice"));
        }
        self.arrived += 1;
        Ok(())
    }

    /// Whether a probe has arrived.
    pub(crate) fn has_arrived(&self, number: u64) -> bool {
        self.sent.get(&number).is_some_and(|sent| sent.arrived)
    }

    /// How many probes have arrived.
    pub(crate) fn arrivals(&self) -> u64 {
        self.arrived
    }
}

/// Which way a destination takes: the longest prefix decides, and on a tie it goes beside the tunnel.
pub(crate) fn goes_through(include: &[Prefix], exclude: &[Prefix], destination: IpAddr) -> bool {
    let longest = |prefixes: &[Prefix]| {
        prefixes.iter().filter(|prefix| prefix.contains(destination)).map(|prefix| prefix.length()).max()
    };
    let includes_everything = include.is_empty().then_some(0);
    longest(include).or(includes_everything) > longest(exclude)
}
