//! What the servers of a site share: a stored record of every session, and who is alive.
//!
//! The servers do not share it yet; here it is a map, where a site would have a store such as etcd. A record
//! belongs to one server. Another one may take it when the owner is dead, and only one can: the compare-and-set
//! of a store. With it the session's address becomes the taker's, address by address, out of the block of the
//! dead server; nobody leases new addresses from that block. So the lease stays the same (R4), and no address
//! has two owners (R51).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::Result;
use mstunnel_proto::auth::CookieHash;
use mstunnel_proto::pool::{Pool, PoolConfig};
use mstunnel_proto::prefix::Prefix;
use mstunnel_proto::session::{Admit, Leases, Registry, RegistryConfig};

use crate::options::{COOKIE_TIMEOUT, Options, SESSION_TIMEOUT};

/// A session as the site knows it.
#[derive(Clone)]
pub(crate) struct Stored {
    /// User, owner and the hash of the cookie.
    pub(crate) admit: Admit,
    /// The addresses.
    pub(crate) leases: Leases,
    /// When the session timeout strikes.
    pub(crate) ends_at: Option<Instant>,
    server: u16,
}

/// The store of a site.
pub(crate) struct Site {
    records: HashMap<CookieHash, Stored>,
    died: Vec<Option<Instant>>,
    rota: Vec<u16>,
    block_bits: u32,
}

impl Site {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            records: HashMap::new(),
            died: vec![None; usize::from(options.servers)],
            rota: (0..options.servers).collect(),
            block_bits: options.block_bits(),
        }
    }

    /// The addresses of one server.
    pub(crate) fn block(&self, server: u16) -> Result<Prefix> {
        let first = (10 << 24) | (u32::from(server) << self.block_bits);
        let length = u8::try_from(32 - self.block_bits)?;
        Ok(Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(first)), length)?)
    }

    /// Whose block an address lies in.
    pub(crate) fn block_of(&self, address: Ipv4Addr) -> u16 {
        let number = (address.to_bits() & 0x00FF_FFFF) >> self.block_bits;
        u16::try_from(number).expect("there are fewer blocks than servers may be")
    }

    /// An empty registry over the block of a server.
    pub(crate) fn registry(&self, block: u16) -> Result<Registry> {
        let config = RegistryConfig {
            cookie_timeout: COOKIE_TIMEOUT,
            session_timeout: Some(SESSION_TIMEOUT),
            max_sessions: 1 << self.block_bits,
            max_per_user: Some(8),
        };
        let pool = PoolConfig { hold_back: COOKIE_TIMEOUT, ..PoolConfig::default() };
        Ok(Registry::new(config, Some(Pool::new(self.block(block)?, &pool)?), None))
    }

    /// Stores a session of `server`.
    pub(crate) fn store(&mut self, admit: Admit, leases: Leases, ends_at: Option<Instant>, server: u16) {
        self.records.insert(admit.cookie, Stored { admit, leases, ends_at, server });
    }

    /// Takes the record of a dead server's session over for `taker`, with the time until which it waits for its client;
    /// `None` when there is nothing to take.
    pub(crate) fn claim(
        &mut self,
        cookie: &CookieHash,
        taker: u16,
        now: Instant,
    ) -> Option<(Stored, Instant)> {
        let record = self.records.get_mut(cookie)?;
        let died = self.died[usize::from(record.server)]?;
        let until = died + COOKIE_TIMEOUT;
        if until <= now {
            return None;
        }
        record.server = taker;
        Some((record.clone(), until))
    }

    /// Which server holds the session.
    pub(crate) fn owner(&self, cookie: &CookieHash) -> Option<u16> {
        self.records.get(cookie).map(|record| record.server)
    }

    /// A server died.
    pub(crate) fn note_death(&mut self, server: u16, now: Instant) {
        self.died[usize::from(server)] = Some(now);
    }

    /// Whether a server lives.
    pub(crate) fn is_alive(&self, server: u16) -> bool {
        self.died[usize::from(server)].is_none()
    }

    /// The balancer has noticed who is dead.
    pub(crate) fn check_health(&mut self) {
        let died = &self.died;
        self.rota.retain(|server| died[usize::from(*server)].is_none());
    }

    /// Where the balancer sends a client: where it was, while that server is in the rota, else any.
    pub(crate) fn route(&self, last: Option<u16>, rng: &mut fastrand::Rng) -> u16 {
        match last {
            Some(last) if self.rota.binary_search(&last).is_ok() => last,
            _ => self.rota[rng.usize(..self.rota.len())],
        }
    }
}
