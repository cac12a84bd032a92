//! The NAT box before a client, in the words of RFC 4787.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// What a mapping, or a filter, is the same for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependence {
    /// Every remote end.
    EndpointIndependent,
    /// Every port of one remote address.
    Address,
    /// One remote address and port.
    AddressAndPort,
}

/// How a NAT box behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatKind {
    /// Which packets share an outside port.
    pub mapping: Dependence,
    /// Who may answer.
    pub filtering: Dependence,
    /// A mapping is forgotten so long after the last packet from inside.
    pub expiry: Duration,
}

impl NatKind {
    /// A home router as most are.
    pub const HOME: Self = Self {
        mapping: Dependence::EndpointIndependent,
        filtering: Dependence::AddressAndPort,
        expiry: Duration::from_secs(120),
    };

    /// A carrier's, with little patience.
    pub const CARRIER: Self = Self {
        mapping: Dependence::AddressAndPort,
        filtering: Dependence::AddressAndPort,
        expiry: Duration::from_secs(30),
    };

    /// One that lets everything in.
    pub const OPEN: Self = Self {
        mapping: Dependence::EndpointIndependent,
        filtering: Dependence::EndpointIndependent,
        expiry: Duration::from_secs(300),
    };
}

/// What a mapping is found by: the inside port, and as much of the remote end as the kind asks for.
type Key = (u16, Option<IpAddr>, Option<u16>);

#[derive(Debug)]
struct Mapping {
    inside: u16,
    used: Instant,
    remotes: Vec<SocketAddr>,
}

/// One NAT box with one client behind it.
#[derive(Debug)]
pub(crate) struct Nat {
    pub(crate) kind: NatKind,
    pub(crate) outside: IpAddr,
    next_port: u16,
    ports: BTreeMap<Key, u16>,
    mappings: BTreeMap<u16, Mapping>,
}

impl Nat {
    pub(crate) fn new(kind: NatKind, outside: IpAddr) -> Self {
        Self { kind, outside, next_port: 1024, ports: BTreeMap::new(), mappings: BTreeMap::new() }
    }

    /// Forgets everything, as a box does that was restarted or got another address.
    pub(crate) fn rebind(&mut self, outside: IpAddr) {
        self.outside = outside;
        self.ports.clear();
        self.mappings.clear();
    }

    /// The outside address of a packet from inside.
    pub(crate) fn outbound(&mut self, inside: u16, remote: SocketAddr, now: Instant) -> SocketAddr {
        self.expire(now);
        let key = match self.kind.mapping {
            Dependence::EndpointIndependent => (inside, None, None),
            Dependence::Address => (inside, Some(remote.ip()), None),
            Dependence::AddressAndPort => (inside, Some(remote.ip()), Some(remote.port())),
        };
        let port = *self.ports.entry(key).or_insert_with(|| {
            self.next_port = self.next_port.checked_add(1).unwrap_or(1024);
            self.next_port
        });
        let mapping =
            self.mappings.entry(port).or_insert_with(|| Mapping { inside, used: now, remotes: Vec::new() });
        mapping.used = now;
        if !mapping.remotes.contains(&remote) {
            mapping.remotes.push(remote);
        }
        SocketAddr::new(self.outside, port)
    }

    /// The inside port of a packet to outside `port`; `None` if it does not pass.
    pub(crate) fn inbound(&mut self, port: u16, remote: SocketAddr, now: Instant) -> Option<u16> {
        self.expire(now);
        let mapping = self.mappings.get(&port)?;
        let passes = mapping.remotes.iter().any(|known| match self.kind.filtering {
            Dependence::EndpointIndependent => true,
            Dependence::Address => known.ip() == remote.ip(),
            Dependence::AddressAndPort => *known == remote,
        });
        passes.then_some(mapping.inside)
    }

    fn expire(&mut self, now: Instant) {
        let expiry = self.kind.expiry;
        self.mappings.retain(|_, mapping| mapping.used + expiry > now);
        let mappings = &self.mappings;
        self.ports.retain(|_, port| mappings.contains_key(port));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTSIDE: &str = "198.51.100.1";

    fn remote(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 1], port))
    }

    #[test]
    fn a_mapping_is_shared_as_far_as_the_kind_says_and_forgotten_after_its_time() {
        let now = Instant::now();
        let mut home = Nat::new(NatKind::HOME, OUTSIDE.parse().unwrap());
        let first = home.outbound(5000, remote(443), now);
        assert_eq!(home.outbound(5000, remote(444), now), first);
        assert_ne!(home.outbound(5001, remote(443), now), first);
        let mut carrier = Nat::new(NatKind::CARRIER, OUTSIDE.parse().unwrap());
        let first = carrier.outbound(5000, remote(443), now);
        assert_ne!(carrier.outbound(5000, remote(444), now), first);
        let later = now + NatKind::CARRIER.expiry;
        assert_eq!(carrier.inbound(first.port(), remote(443), later), None);
        assert_ne!(carrier.outbound(5000, remote(443), later), first);
    }

    #[test]
    fn a_filter_lets_in_whom_the_kind_says() {
        let now = Instant::now();
        for (kind, same_host, stranger) in [(NatKind::HOME, false, false), (NatKind::OPEN, true, true)] {
            let mut nat = Nat::new(kind, OUTSIDE.parse().unwrap());
            let port = nat.outbound(5000, remote(443), now).port();
            assert_eq!(nat.inbound(port, remote(443), now), Some(5000));
            assert_eq!(nat.inbound(port, remote(444), now).is_some(), same_host);
            assert_eq!(nat.inbound(port, SocketAddr::from(([192, 0, 2, 9], 443)), now).is_some(), stranger);
            assert_eq!(nat.inbound(port + 1, remote(443), now), None);
        }
    }
}
