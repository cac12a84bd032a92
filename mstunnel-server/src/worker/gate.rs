//! How many strangers may be inside before they have shown a cookie: in all, and for each source.
//!
//! A connection holds a [`Pass`] from its accept until its CONNECT is accepted; sessions hold none,
//! so that no number of strangers takes a place from them.
//!
//! # Source
//! R54.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use rustc_hash::FxHashMap;

/// Connections without a session, in all. With at most 64 KiB each this is 256 MiB at the worst.
pub(crate) const MAX_STRANGERS: usize = 4096;

/// Connections without a session from one source: an office behind one address signs in at a time.
pub(crate) const MAX_STRANGERS_PER_SOURCE: usize = 256;

/// An IPv4 address, or the /64 of an IPv6 address.
pub(crate) fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

#[derive(Default)]
struct Inside {
    total: usize,
    by_source: FxHashMap<IpAddr, usize>,
}

/// Counts the strangers inside.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<Inside>>);

impl Gate {
    /// Lets a connection in, unless too many are.
    pub(crate) fn enter(&self, remote: IpAddr) -> Result<Pass, Crowded> {
        let source = source_of(remote);
        let mut inside = self.0.lock().expect("no panic while this lock is held");
        if inside.total >= MAX_STRANGERS {
            return Err(Crowded::Total);
        }
        let here = inside.by_source.entry(source).or_default();
        if *here >= MAX_STRANGERS_PER_SOURCE {
            return Err(Crowded::Source);
        }
        *here += 1;
        inside.total += 1;
        Ok(Pass { gate: self.clone(), source })
    }

    /// How many are inside.
    #[cfg(test)]
    fn inside(&self) -> usize {
        self.0.lock().expect("no panic while this lock is held").total
    }
}

/// Why a connection is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Crowded {
    /// [`MAX_STRANGERS`].
    Total,
    /// [`MAX_STRANGERS_PER_SOURCE`].
    Source,
}

/// A place inside, given back when dropped.
pub(crate) struct Pass {
    gate: Gate,
    source: IpAddr,
}

impl Drop for Pass {
    fn drop(&mut self) {
        let mut inside = self.gate.0.lock().expect("no panic while this lock is held");
        inside.total -= 1;
        if let Some(here) = inside.by_source.get_mut(&self.source) {
            *here -= 1;
            if *here == 0 {
                inside.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Covers: R54
    #[test]
    fn one_source_cannot_take_every_place_and_leaves_nothing_behind() {
        let gate = Gate::default();
        let passes: Vec<_> = (0..MAX_STRANGERS_PER_SOURCE)
            .map(|n| gate.enter(ip(&format!("2001:db8:1:2::{n:x}"))).ok().unwrap())
            .collect();
        assert_eq!(gate.enter(ip("2001:db8:1:2:ffff::1")).err(), Some(Crowded::Source));
        assert!(gate.enter(ip("2001:db8:1:3::1")).is_ok());
        drop(passes);
        assert_eq!(gate.inside(), 0);
        assert!(gate.0.lock().unwrap().by_source.is_empty());
    }

    /// Covers: R54
    #[test]
    fn the_total_is_bounded() {
        let gate = Gate::default();
        let mut passes = Vec::new();
        for n in 0..u32::try_from(MAX_STRANGERS).unwrap() {
            passes.push(gate.enter(IpAddr::V4(n.into())).ok().unwrap());
        }
        assert_eq!(gate.enter(ip("192.0.2.1")).err(), Some(Crowded::Total));
        passes.pop();
        assert!(gate.enter(ip("192.0.2.1")).is_ok());
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_source() {
        assert_eq!(source_of(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert_eq!(source_of(ip("2001:db8:1:2:3::4")), ip("2001:db8:1:2::"));
    }
}
