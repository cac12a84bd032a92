//! One server of the site: its registry, the sessions it took over, its live connections and its queue.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use mstunnel_proto::auth::{AuthMethod, BanConfig, BanTable, Cookie, CookieHash};
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::close::CloseReason;
use mstunnel_proto::frame::{FrameKind, Frames};
use mstunnel_proto::pool::OwnerKey;
use mstunnel_proto::session::{
    Admit, Attach, AttachRefused, Attachment, Channel, Inbound, Registry, Session, SessionConfig,
    SessionEvent, SessionParams,
};

use crate::agenda::Letter;
use crate::site::Site;

/// The tunnel MTU.
pub(crate) const MTU: u16 = 1_400;

/// A connection that waits for its turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request {
    pub(crate) client: u32,
    pub(crate) attempt: u16,
    /// With it, a CONNECT; without, a login and then a CONNECT.
    pub(crate) cookie: Option<Letter>,
}

/// What a login shows.
pub(crate) struct Credentials {
    pub(crate) user: String,
    pub(crate) source: IpAddr,
    pub(crate) are_right: bool,
}

/// Why an attempt was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 401.
    Unauthorized,
    /// 503.
    Busy,
}

/// A live connection.
pub(crate) struct Link {
    session: Session,
    client: u32,
    attempt: u16,
    block: u16,
    generation: u32,
    wake: Option<Instant>,
}

/// An accepted CONNECT.
pub(crate) struct Opened {
    pub(crate) slot: u32,
    pub(crate) address: Ipv4Addr,
    /// Whether an older connection of the session was ended for it.
    pub(crate) took_over: bool,
}

/// What came in.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Received {
    pub(crate) questions: u32,
    pub(crate) packets: u32,
}

/// One server.
pub(crate) struct Server {
    number: u16,
    home: Registry,
    adopted: BTreeMap<u16, Registry>,
    bans: BanTable,
    config: Arc<SessionConfig>,
    /// Boxed: the table grows by doubling, and half of it may be empty.
    links: Vec<Option<Box<Link>>>,
    vacant: Vec<u32>,
    wake: Option<Instant>,
    /// Connections that wait; the first is being served.
    pub(crate) queue: VecDeque<Request>,
}

impl Server {
    pub(crate) fn new(number: u16, config: Arc<SessionConfig>, site: &Site) -> Result<Self> {
        Ok(Self {
            number,
            home: site.registry(number)?,
            adopted: BTreeMap::new(),
            bans: BanTable::new(BanConfig::default()),
            config,
            links: Vec::new(),
            vacant: Vec::new(),
            wake: None,
            queue: VecDeque::new(),
        })
    }

    /// How many connections are live.
    pub(crate) fn live(&self) -> usize {
        self.links.len() - self.vacant.len()
    }

    /// Checks the credentials and admits the session of `cookie`.
    pub(crate) fn login(
        &mut self,
        credentials: Credentials,
        cookie: CookieHash,
        now: Instant,
    ) -> Result<(), Refusal> {
        let Credentials { user, source, are_right } = credentials;
        self.bans.handle_timeout(now);
        if self.bans.is_banned(source, now) || self.bans.is_user_throttled(&user, now) {
            return Err(Refusal::Unauthorized);
        }
        if !are_right {
            self.bans.record_failure(source, Some(&user), now);
            return Err(Refusal::Unauthorized);
        }
        let owner = OwnerKey::of_device(&user, "");
        let admit =
            Admit { user, groups: Vec::new(), group: None, method: AuthMethod::Password, cookie, owner };
        self.home.admit(admit, now).map(drop).map_err(|_| Refusal::Busy)
    }

    /// Opens a connection for the session of `cookie`: one of ours, or one of a dead server of the site.
    pub(crate) fn connect(
        &mut self,
        (client, attempt): (u32, u16),
        cookie: CookieHash,
        site: &mut Site,
        now: Instant,
    ) -> Result<Opened, Refusal> {
        let known = self.block_that_knows(&cookie, now);
        let block = match known {
            Some(block) => block,
            None => self.adopt(&cookie, site, now).ok_or(Refusal::Unauthorized)?,
        };
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.links.push(None);
            u32::try_from(self.links.len() - 1).expect("fewer connections than there are clients")
        });
        let attach = Attach { cookie, wants_v4: true, wants_v6: false, holder: slot };
        let registry = self.registry_mut(block).expect("the registry that knows the session");
        let attachment = registry.attach(attach, now).map_err(|refused| {
            self.vacant.push(slot);
            match refused {
                AttachRefused::UnknownCookie => Refusal::Unauthorized,
                AttachRefused::TooManySessions { .. } | AttachRefused::NoAddress => Refusal::Busy,
            }
        })?;
        let Attachment { id, generation, leases, ends_at, replaced, .. } = attachment;
        let params = SessionParams { id, leases, mtu: MTU, ends_at };
        let session = Session::new(self.config.clone(), params, now);
        self.links[slot as usize] =
            Some(Box::new(Link { session, client, attempt, block, generation, wake: None }));
        if let Some(old) = replaced {
            self.close(old.holder, CloseReason::TakenOver, now);
        }
        let address = leases.v4.expect("an IPv4 address was asked for, and nothing else");
        Ok(Opened { slot, address, took_over: replaced.is_some() })
    }

    /// The stored form of a live connection's session, for the site.
    pub(crate) fn stored(&self, slot: u32) -> Option<(Admit, Option<Instant>)> {
        let link = self.links.get(slot as usize)?.as_ref()?;
        let record = self.registry(link.block)?.record(link.session.id())?;
        Some((record.admit().clone(), record.ends_at()))
    }

    fn block_that_knows(&self, cookie: &CookieHash, now: Instant) -> Option<u16> {
        if self.home.knows(cookie, now) {
            return Some(self.number);
        }
        self.adopted.iter().find(|(_, registry)| registry.knows(cookie, now)).map(|(block, _)| *block)
    }

    /// Takes a session of a dead server up with its address, or not at all.
    fn adopt(&mut self, cookie: &CookieHash, site: &mut Site, now: Instant) -> Option<u16> {
        let (stored, until) = site.claim(cookie, self.number, now)?;
        let address = stored.leases.v4?;
        let block = site.block_of(address);
        let registry = match self.adopted.entry(block) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(site.registry(block).ok()?),
        };
        let id = registry.restore(stored.admit, stored.leases, stored.ends_at, until, now).ok()?;
        if registry.record(id)?.leases() != stored.leases {
            // An attach would lease any address of the block, which may be another session's elsewhere.
            let _ = registry.end(id, now);
            return None;
        }
        Some(block)
    }

    fn registry(&self, block: u16) -> Option<&Registry> {
        if block == self.number { Some(&self.home) } else { self.adopted.get(&block) }
    }

    fn registry_mut(&mut self, block: u16) -> Option<&mut Registry> {
        if block == self.number { Some(&mut self.home) } else { self.adopted.get_mut(&block) }
    }

    /// The slot, if it is this connection of the client.
    fn link_of(&mut self, slot: u32, (client, attempt): (u32, u16)) -> Option<&mut Link> {
        let link = self.links.get_mut(slot as usize)?.as_deref_mut()?;
        (link.client == client && link.attempt == attempt).then_some(link)
    }

    /// Takes bytes of a connection in.
    pub(crate) fn receive(
        &mut self,
        slot: u32,
        who: (u32, u16),
        bytes: &mut [u8],
        now: Instant,
    ) -> Result<Received> {
        let mut received = Received::default();
        let Some(link) = self.link_of(slot, who) else {
            return Ok(received);
        };
        let mut frames = Frames::new(bytes);
        while let Some(frame) = frames.take_next()? {
            received.questions += u32::from(frame.kind == FrameKind::DpdRequest);
            match link.session.decapsulate(Channel::Stream, frame.kind, frame.payload, now) {
                Inbound::Packet(_) => received.packets += 1,
                Inbound::Handled => {}
                Inbound::Dropped(reason) => anyhow::bail!("the server dropped a frame: {reason}"),
            }
        }
        Ok(received)
    }

    /// The client's end of a connection is gone.
    pub(crate) fn handle_closed(&mut self, slot: u32, who: (u32, u16), now: Instant) {
        if let Some(link) = self.link_of(slot, who) {
            link.session.handle_stream_closed();
            self.reap(slot, now);
        }
    }

    /// Acts on what is due for a connection, unless the timer is an old one.
    pub(crate) fn handle_link_timer(&mut self, slot: u32, now: Instant) -> bool {
        let link = self.links.get_mut(slot as usize).and_then(Option::as_mut);
        let Some(link) = link.filter(|link| link.wake == Some(now)) else {
            return false;
        };
        link.wake = None;
        link.session.handle_timeout(now);
        true
    }

    /// Takes one frame for the client of a connection out, and says whose it is.
    pub(crate) fn poll_transmit(&mut self, slot: u32, out: &mut PacketBuf) -> Option<(u32, u16)> {
        let link = self.links.get_mut(slot as usize)?.as_mut()?;
        link.session.poll_transmit(out)?;
        Some((link.client, link.attempt))
    }

    /// When the connection has to be woken, if that is news.
    pub(crate) fn poll_link_timer(&mut self, slot: u32) -> Option<Instant> {
        let link = self.links.get_mut(slot as usize)?.as_mut()?;
        let due = link.session.poll_timeout()?.at;
        if link.wake.is_some_and(|wake| wake <= due) {
            return None;
        }
        link.wake = Some(due);
        Some(due)
    }

    /// Forgets a connection that is over and says whose it was; what is left of the session waits in the registry.
    pub(crate) fn reap(&mut self, slot: u32, now: Instant) -> Option<(u32, u16)> {
        let link = self.links.get_mut(slot as usize)?.as_mut()?;
        let SessionEvent::Closed { reason } = link.session.poll_event()?;
        let link = self.links[slot as usize].take()?;
        self.vacant.push(slot);
        let counters = link.session.counters();
        let registry = self.registry_mut(link.block)?;
        registry.detach(link.session.id(), link.generation, reason, counters, now);
        Some((link.client, link.attempt))
    }

    /// Ends an older connection; its DISCONNECT goes to nobody.
    fn close(&mut self, slot: u32, reason: CloseReason, now: Instant) {
        if let Some(link) = self.links.get_mut(slot as usize).and_then(Option::as_mut) {
            link.session.close(reason);
            let mut nowhere = PacketBuf::new(MTU.into());
            while link.session.poll_transmit(&mut nowhere).is_some() {}
            self.reap(slot, now);
        }
    }

    /// Acts on what is due in the tables.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.wake.is_some_and(|wake| wake <= now) {
            self.wake = None;
            for registry in std::iter::once(&mut self.home).chain(self.adopted.values_mut()) {
                registry.handle_timeout(now);
            }
        }
    }

    /// When the tables have to be woken, if that is news.
    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        let registries = std::iter::once(&self.home).chain(self.adopted.values());
        let due = registries.filter_map(Registry::poll_timeout).min()?;
        if self.wake.is_some_and(|wake| wake <= due) {
            return None;
        }
        self.wake = Some(due);
        Some(due)
    }

    /// Every address that a session of this server has, with the cookie hash of the session.
    pub(crate) fn leased(&self) -> impl Iterator<Item = (Ipv4Addr, CookieHash)> + '_ {
        let registries = std::iter::once(&self.home).chain(self.adopted.values());
        registries
            .flat_map(Registry::records)
            .filter_map(|record| Some((record.leases().v4?, record.cookie())))
    }

    /// Reads a cookie as it came.
    pub(crate) fn read_cookie(text: &[u8]) -> Result<CookieHash> {
        let text = std::str::from_utf8(text)?;
        Ok(Cookie::parse(text).context("the client sends a cookie as it got it")?.hash())
    }
}
