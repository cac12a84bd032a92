//! The pool against sets: every address by itself, nothing clever.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Lease(u64),
    Release(usize),
    Restore(u64, u8),
    Pass(u64),
    Timeout,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u64..5).prop_map(Step::Lease),
        5 => any::<usize>().prop_map(Step::Release),
        1 => (0_u64..5, 0_u8..18).prop_map(|(key, last)| Step::Restore(key, last)),
        2 => (0_u64..90).prop_map(Step::Pass),
        1 => Just(Step::Timeout),
    ]
}

/// What is known of an address that is not free.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Known {
    Leased(OwnerKey),
    Held { owner: OwnerKey, released: usize, until: Instant },
}

/// The addresses of 10.0.0.0/28 or fd00::/124, by their last four bits.
struct Model {
    family: fn(u8) -> IpAddr,
    reserved: BTreeMap<IpAddr, OwnerKey>,
    leasable: Vec<IpAddr>,
    known: BTreeMap<IpAddr, Known>,
    last: BTreeMap<OwnerKey, IpAddr>,
    released: usize,
}

impl Model {
    /// Ends hold-backs in the order of their release.
    fn expire(&mut self, now: Instant) {
        let mut over: Vec<_> = self
            .known
            .iter()
            .filter_map(|(address, known)| match *known {
                Known::Held { owner, released, until } if until <= now => Some((released, *address, owner)),
                Known::Held { .. } | Known::Leased(_) => None,
            })
            .collect();
        over.sort_unstable();
        for (_, address, owner) in over {
            self.known.remove(&address);
            self.last.insert(owner, address);
        }
    }

    fn is_free_for_all(&self, address: IpAddr) -> bool {
        self.leasable.contains(&address)
            && !self.reserved.contains_key(&address)
            && !self.known.contains_key(&address)
    }

    /// What the owner must get: one of its reservations, else what it released last, else what it had last.
    fn must_get(&mut self, owner: OwnerKey) -> Option<Vec<IpAddr>> {
        let idle: Vec<_> = self
            .reserved
            .iter()
            .filter(|&(address, of)| *of == owner && !self.known.contains_key(address))
            .map(|(address, _)| *address)
            .collect();
        if !idle.is_empty() {
            return Some(idle);
        }
        let held = self
            .known
            .iter()
            .filter_map(|(address, known)| match *known {
                Known::Held { owner: of, released, .. } if of == owner => Some((released, *address)),
                Known::Held { .. } | Known::Leased(_) => None,
            })
            .max();
        if let Some((_, address)) = held {
            return Some(vec![address]);
        }
        self.last.remove(&owner).filter(|last| self.is_free_for_all(*last)).map(|last| vec![last])
    }

    fn may_restore(&self, owner: OwnerKey, address: IpAddr) -> bool {
        match (self.known.get(&address), self.reserved.get(&address)) {
            (Some(Known::Leased(_)), _) => false,
            (Some(Known::Held { owner: of, .. }), _) | (None, Some(of)) => *of == owner,
            (None, None) => self.leasable.contains(&address),
        }
    }

    fn counts(&self) -> PoolStats {
        let leased = self.known.values().filter(|known| matches!(known, Known::Leased(_))).count() as u64;
        PoolStats { leased, held_back: self.known.len() as u64 - leased, size: self.leasable.len() as u64 }
    }
}

fn v4(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn v6(last: u8) -> IpAddr {
    IpAddr::from([0xFD00, 0, 0, 0, 0, 0, 0, u16::from(last)])
}

proptest! {
    /// Covers: R50, R51, P-076
    #[test]
    fn leases_are_a_set(
        is_v4 in any::<bool>(),
        reserved in proptest::collection::btree_map(3_u8..14, 0_u64..3, 0..4),
        excluded in proptest::collection::btree_set(3_u8..14, 0..4),
        steps in proptest::collection::vec(step(), 0..150),
    ) {
        let family = if is_v4 { v4 } else { v6 };
        let prefix = if is_v4 { "10.0.0.0/28" } else { "fd00::/124" };
        let highest = if is_v4 { 14 } else { 15 };
        let reserved: BTreeMap<_, _> = reserved.into_iter().filter(|(last, _)| !excluded.contains(last))
            .map(|(last, key)| (family(last), owner(key))).collect();
        let config = PoolConfig {
            hold_back: HOLD_BACK,
            reserved: reserved.iter().map(|(address, owner)| (*owner, *address)).collect(),
            excluded: excluded.iter().map(|last| family(*last)).collect(),
        };
        let mut pool = Pool::new(prefix.parse().unwrap(), &config).unwrap();
        let leasable = (2..=highest).filter(|last| !excluded.contains(last)).map(family).collect();
        let (known, last) = (BTreeMap::new(), BTreeMap::new());
        let mut model = Model { family, reserved, leasable, known, last, released: 0 };
        let mut leases: Vec<Lease> = Vec::new();
        let mut now = origin();

        for step in steps {
            match step {
                Step::Lease(key) => {
                    let must = model.must_get(owner(key));
                    let any_free = model.leasable.iter().any(|address| model.is_free_for_all(*address));
                    match pool.lease(owner(key)) {
                        Ok(lease) => {
                            match must {
                                Some(must) => prop_assert!(must.contains(&lease.address())),
                                None => prop_assert!(model.is_free_for_all(lease.address())),
                            }
                            model.known.insert(lease.address(), Known::Leased(owner(key)));
                            leases.push(lease);
                        }
                        Err(_) => prop_assert!(must.is_none() && !any_free),
                    }
                }
                Step::Release(which) if !leases.is_empty() => {
                    let lease = leases.swap_remove(which % leases.len());
                    let (address, owner) = (lease.address(), lease.owner());
                    pool.release(lease, now).unwrap();
                    model.released += 1;
                    if model.reserved.contains_key(&address) {
                        model.known.remove(&address);
                    } else {
                        let held = Known::Held { owner, released: model.released, until: now + HOLD_BACK };
                        model.known.insert(address, held);
                    }
                }
                Step::Release(_) => {}
                Step::Restore(key, last) => {
                    let address = (model.family)(last);
                    let restored = pool.restore(owner(key), address);
                    prop_assert_eq!(restored.is_ok(), model.may_restore(owner(key), address), "{}", address);
                    if let Ok(lease) = restored {
                        model.known.insert(address, Known::Leased(owner(key)));
                        leases.push(lease);
                    }
                }
                Step::Pass(seconds) => now += secs(seconds),
                Step::Timeout => {
                    let ending = pool.held_back().take_while(|held| held.until <= now).map(|held| held.address);
                    let ending: Vec<_> = ending.collect();
                    let known = model.known.clone();
                    pool.handle_timeout(now);
                    model.expire(now);
                    let freed = known.keys().filter(|address| !model.known.contains_key(address));
                    prop_assert_eq!(freed.copied().collect::<BTreeSet<_>>(), ending.into_iter().collect());
                }
            }
            prop_assert_eq!(pool.stats(), model.counts());
            for last in 0..18 {
                let address = (model.family)(last);
                let leased_to = match model.known.get(&address) {
                    Some(Known::Leased(owner)) => Some(*owner),
                    Some(Known::Held { .. }) | None => None,
                };
                prop_assert_eq!(pool.owner_of(address), leased_to, "{}", address);
            }
            let next = model.known.values().filter_map(|known| match known {
                Known::Held { until, .. } => Some(*until),
                Known::Leased(_) => None,
            }).min();
            prop_assert_eq!(pool.poll_timeout(), next);
        }
    }
}
