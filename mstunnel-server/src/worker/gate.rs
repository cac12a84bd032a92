//! How many strangers may be inside before they have shown a cookie: in all, and for each source.
//!
//! A connection holds a [`Pass`] from its accept until its CONNECT is accepted; sessions hold none,
//! so that no number of strangers takes a place from them. When every place is taken, a newcomer
//! displaces the oldest stranger of the source that has the most, unless his own source has as many:
//! whoever floods displaces himself, and who comes back with a cookie is let in. Where every source
//! has one, the oldest of all goes: a reconnect takes a second, and nobody refills all places in one.
//!
//! # Source
//! R54.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use rustc_hash::FxHashMap;
use tokio::sync::Notify;

/// Connections without a session, in all. A stranger costs about 10 KiB, and with the longest head, body
/// and record some 110 KiB, so that this is 450 MiB when every one of them does its worst.
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

/// A place in the order of arrival.
type Age = u64;

#[derive(Default)]
struct Inside {
    next_age: Age,
    total: usize,
    by_source: FxHashMap<IpAddr, BTreeMap<Age, Arc<Notify>>>,
    by_load: BTreeSet<(usize, IpAddr)>,
    by_age: BTreeMap<Age, IpAddr>,
}

impl Inside {
    fn load(&self, source: IpAddr) -> usize {
        self.by_source.get(&source).map_or(0, BTreeMap::len)
    }

    fn add(&mut self, source: IpAddr, displaced: Arc<Notify>) -> Age {
        let age = self.next_age;
        self.next_age += 1;
        self.total += 1;
        self.by_age.insert(age, source);
        self.change_load(source, |strangers| strangers.insert(age, displaced));
        age
    }

    /// Takes one out; nothing happens if it was displaced before.
    fn remove(&mut self, source: IpAddr, age: Age) -> Option<Arc<Notify>> {
        let removed = self.change_load(source, |strangers| strangers.remove(&age));
        self.total -= usize::from(removed.is_some());
        self.by_age.remove(&age);
        removed
    }

    /// Makes room for one of `newcomer` at the cost of whoever has the most.
    fn displace_for(&mut self, newcomer: IpAddr) -> Result<(), Crowded> {
        let &(most, heaviest) = self.by_load.last().ok_or(Crowded::Total)?;
        let first = match (most, self.load(newcomer)) {
            (1, 0) => self.by_age.first_key_value().map(|(&age, &source)| (source, age)),
            (most, own) if most > own + 1 => {
                let oldest = self.by_source.get(&heaviest).and_then(|strangers| strangers.keys().next());
                oldest.map(|&age| (heaviest, age))
            }
            _ => None,
        };
        let (source, age) = first.ok_or(Crowded::Total)?;
        let displaced = self.remove(source, age).ok_or(Crowded::Total)?;
        displaced.notify_one();
        Ok(())
    }

    fn change_load<T>(
        &mut self,
        source: IpAddr,
        change: impl FnOnce(&mut BTreeMap<Age, Arc<Notify>>) -> T,
    ) -> T {
        let strangers = self.by_source.entry(source).or_default();
        self.by_load.remove(&(strangers.len(), source));
        let changed = change(strangers);
        if strangers.is_empty() {
            self.by_source.remove(&source);
        } else {
            self.by_load.insert((strangers.len(), source));
        }
        changed
    }
}

/// Counts the strangers inside.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<Mutex<Inside>>);

impl Gate {
    /// Lets a connection in, unless too many are and no room can be made.
    pub(crate) fn enter(&self, remote: IpAddr) -> Result<Pass, Crowded> {
        let source = source_of(remote);
        let mut inside = self.0.lock().expect("no panic while this lock is held");
        if inside.load(source) >= MAX_STRANGERS_PER_SOURCE {
            return Err(Crowded::Source);
        }
        if inside.total >= MAX_STRANGERS {
            inside.displace_for(source)?;
        }
        let displaced = Arc::new(Notify::new());
        let age = inside.add(source, Arc::clone(&displaced));
        Ok(Pass { gate: self.clone(), source, age, displaced })
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
    age: Age,
    displaced: Arc<Notify>,
}

impl Pass {
    /// Told when the place has gone to somebody else and the connection has to end.
    pub(crate) fn displaced(&self) -> Arc<Notify> {
        Arc::clone(&self.displaced)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.0.lock().expect("no panic while this lock is held").remove(self.source, self.age);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Places for as many sources as there are, `each` for each of them.
    fn crowd(gate: &Gate, each: usize) -> Vec<Pass> {
        (0..MAX_STRANGERS)
            .map(|n| IpAddr::V4(u32::try_from(n / each).unwrap().into()))
            .map(|source| gate.enter(source).ok().unwrap())
            .collect()
    }

    fn is_displaced(pass: &Pass) -> bool {
        pass.displaced().notified().now_or_never().is_some()
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
        assert!(gate.0.lock().unwrap().by_load.is_empty());
    }

    /// Covers: R54
    #[test]
    fn the_total_is_bounded_and_a_source_displaces_nobody_who_has_as_few() {
        let gate = Gate::default();
        let mut passes = crowd(&gate, 2);
        assert!(gate.enter(ip("192.0.2.1")).is_ok(), "who has none displaces one of two");
        passes.push(gate.enter(ip("192.0.2.1")).ok().unwrap());
        assert_eq!(gate.inside(), MAX_STRANGERS);
        assert_eq!(gate.enter(ip("192.0.2.1")).err(), Some(Crowded::Total));
        assert!(!is_displaced(passes.last().unwrap()));
        passes.remove(0);
        passes.remove(0);
        assert!(gate.enter(ip("192.0.2.1")).is_ok(), "there is room");
    }

    /// Covers: R54: thousands of sources with an idle connection each keep nobody out who comes back.
    #[test]
    fn where_every_source_has_one_the_oldest_goes() {
        let gate = Gate::default();
        let flood = crowd(&gate, 1);
        let user = gate.enter(ip("192.0.2.1")).ok().unwrap();
        assert!(is_displaced(&flood[0]));
        assert_eq!(gate.enter(ip("192.0.2.1")).err(), Some(Crowded::Total), "he has his one");
        let again: Vec<_> = (1..MAX_STRANGERS)
            .map(|n| gate.enter(IpAddr::V4((1 << 24 | u32::try_from(n).unwrap()).into())).ok().unwrap())
            .collect();
        assert!(!is_displaced(&user), "before the whole flood has come anew");
        assert_eq!(gate.inside(), MAX_STRANGERS);
        drop((flood, user, again));
        assert_eq!(gate.inside(), 0);
        assert!(gate.0.lock().unwrap().by_age.is_empty());
    }

    /// Covers: R54, P-081
    #[test]
    fn who_floods_from_a_few_sources_displaces_himself_and_keeps_nobody_out() {
        let gate = Gate::default();
        let flood = crowd(&gate, MAX_STRANGERS_PER_SOURCE);
        let user = gate.enter(ip("192.0.2.1")).ok().unwrap();
        assert_eq!(gate.inside(), MAX_STRANGERS);
        // The last source has as many as the others and comes last in their order.
        let displaced: Vec<usize> = (0..flood.len()).filter(|&n| is_displaced(&flood[n])).collect();
        assert_eq!(displaced, [MAX_STRANGERS - MAX_STRANGERS_PER_SOURCE]);
        // The flood goes on: each of its sources may only displace those who have more.
        for n in 0..MAX_STRANGERS {
            drop(gate.enter(IpAddr::V4((u32::try_from(n).unwrap() % 16).into())));
        }
        assert!(!is_displaced(&user));
        drop(flood);
        assert_eq!(gate.inside(), 1);
        drop(user);
        assert_eq!(gate.inside(), 0);
    }

    #[test]
    fn a_mapped_address_is_its_ipv4_source() {
        assert_eq!(source_of(ip("::ffff:192.0.2.1")), ip("192.0.2.1"));
        assert_eq!(source_of(ip("2001:db8:1:2:3::4")), ip("2001:db8:1:2::"));
    }
}
