//! The pool as sessions see it, and against a model of a few lines.

mod model;

use std::collections::BTreeSet;

use super::*;
use crate::testing::origin;

const HOLD_BACK: Duration = Duration::from_secs(120);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn owner(key: u64) -> OwnerKey {
    OwnerKey::new(key)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn pool_with(prefix: &str, reserved: &[(u64, &str)], excluded: &[&str]) -> Result<Pool, PoolError> {
    let config = PoolConfig {
        hold_back: HOLD_BACK,
        reserved: reserved.iter().map(|(key, text)| (owner(*key), address(text))).collect(),
        excluded: excluded.iter().map(|text| address(text)).collect(),
    };
    Pool::new(prefix.parse().unwrap(), &config)
}

fn pool(prefix: &str) -> Pool {
    pool_with(prefix, &[], &[]).unwrap()
}

/// Covers: R4, R50
#[test]
fn an_owner_gets_its_address_again_during_the_hold_back_and_after_it() {
    let start = origin();
    let mut pool = pool("10.0.0.0/16");
    let first = pool.lease(owner(1)).unwrap();
    let had = first.address();
    pool.release(first, start).unwrap();
    let again = pool.lease(owner(1)).unwrap();
    assert_eq!(again.address(), had);
    pool.release(again, start).unwrap();
    let much_later = start + secs(86_400);
    pool.handle_timeout(much_later);
    assert_eq!(pool.stats().held_back, 0);
    assert_eq!(pool.lease(owner(1)).unwrap().address(), had);
}

#[test]
fn an_owner_that_did_not_get_its_first_choice_still_gets_its_last_address() {
    let start = origin();
    let mut pool = pool("10.0.0.0/28");
    let leases: Vec<_> = (0..13).map(|key| pool.lease(owner(key)).unwrap()).collect();
    let had: Vec<_> = leases.iter().map(Lease::address).collect();
    for lease in leases {
        pool.release(lease, start).unwrap();
    }
    let later = start + HOLD_BACK;
    pool.handle_timeout(later);
    for (key, had) in (0_u32..13).zip(had).rev() {
        assert_eq!(pool.lease(owner(key.into())).unwrap().address(), had, "owner {key}");
    }
}

/// Covers: R50, R51, P-125
#[test]
fn a_full_pool_that_is_only_held_back_lets_its_owner_in_and_nobody_else() {
    let start = origin();
    let mut pool = pool("10.0.0.0/30");
    let lease = pool.lease(owner(1)).unwrap();
    pool.release(lease, start).unwrap();
    let almost = start + HOLD_BACK - Duration::from_nanos(1);
    pool.handle_timeout(almost);
    let refused = pool.lease(owner(2)).unwrap_err();
    assert_eq!(refused, Exhausted { leased: 0, held_back: 1, size: 1 });
    assert_eq!(refused.to_string(), "no free address: 0 leased and 1 held back of 1");
    let lease = pool.lease(owner(1)).unwrap();
    pool.release(lease, almost).unwrap();
    assert_eq!(pool.poll_timeout(), Some(almost + HOLD_BACK));
    pool.handle_timeout(start + HOLD_BACK);
    assert!(pool.lease(owner(2)).is_err(), "the second release holds back anew");
    pool.handle_timeout(almost + HOLD_BACK);
    assert!(pool.lease(owner(2)).is_ok());
}

/// Covers: R50: who waits for a lock has an older clock than who had it before.
#[test]
fn hold_backs_end_in_the_order_in_which_they_began_whatever_the_clocks_say() {
    let start = origin();
    let mut pool = pool("10.0.0.0/29");
    let leases = [1, 2, 3].map(|key| pool.lease(owner(key)).unwrap());
    let order = leases.each_ref().map(Lease::address);
    for (lease, at) in leases.into_iter().zip([start + secs(1), start + secs(9), start]) {
        pool.release(lease, at).unwrap();
    }
    let held: Vec<_> = pool.held_back().map(|held| (held.address, held.until)).collect();
    let ends = [start + secs(1), start + secs(9), start + secs(9)].map(|at| at + HOLD_BACK);
    assert_eq!(held, order.into_iter().zip(ends).collect::<Vec<_>>());
    pool.handle_timeout(ends[0]);
    assert_eq!(pool.stats().held_back, 2);
}

/// Covers: R50: what others keep of an address is cleared between the end of its hold-back and its next lease.
#[test]
fn an_address_is_free_when_the_end_of_its_hold_back_is_handled_and_not_before() {
    let start = origin();
    let mut pool = pool("10.0.0.0/30");
    let lease = pool.lease(owner(1)).unwrap();
    let had = lease.address();
    pool.release(lease, start).unwrap();
    let later = start + secs(86_400);
    assert!(pool.lease(owner(2)).is_err());
    assert_eq!(pool.held_back().map(|held| held.address).collect::<Vec<_>>(), [had]);
    assert_eq!(pool.poll_timeout(), Some(start + HOLD_BACK));
    pool.handle_timeout(later);
    assert_eq!(pool.lease(owner(2)).unwrap().address(), had);
}

/// Covers: R51
#[test]
fn two_sessions_of_one_owner_have_an_address_each_and_get_both_again() {
    let start = origin();
    let mut pool = pool("10.0.0.0/24");
    let both = [pool.lease(owner(1)).unwrap(), pool.lease(owner(1)).unwrap()];
    let had: BTreeSet<_> = both.iter().map(Lease::address).collect();
    assert_eq!(had.len(), 2);
    for lease in both {
        pool.release(lease, start).unwrap();
    }
    let again = [pool.lease(owner(1)).unwrap(), pool.lease(owner(1)).unwrap()];
    assert_eq!(again.iter().map(Lease::address).collect::<BTreeSet<_>>(), had);
}

/// Covers: R51
#[test]
fn every_address_but_those_set_aside_is_leased_once() {
    let mut pool =
        pool_with("10.0.0.0/28", &[(50, "10.0.0.5")], &["10.0.0.9", "192.0.2.1", "fd00::9"]).unwrap();
    assert_eq!(pool.server_address(), address("10.0.0.1"));
    assert_eq!(pool.stats(), PoolStats { leased: 0, held_back: 0, size: 12 });
    let mut leases = Vec::new();
    while let Ok(lease) = pool.lease(owner(leases.len() as u64)) {
        leases.push(lease);
    }
    let got: BTreeSet<_> = leases.iter().map(Lease::address).collect();
    let expected: BTreeSet<_> =
        [2, 3, 4, 6, 7, 8, 10, 11, 12, 13, 14].map(|last: u8| IpAddr::from([10, 0, 0, last])).into();
    assert_eq!(got, expected);
    assert_eq!(leases.len(), got.len());
    assert_eq!(pool.lease(owner(50)).unwrap().address(), address("10.0.0.5"));
    assert!(pool.lease(owner(50)).is_err(), "a second session has no reservation");
}

#[test]
fn a_reservation_waits_for_its_owner_without_end() {
    let start = origin();
    let mut pool = pool_with("fd00::/120", &[(7, "fd00::77"), (7, "10.0.0.7")], &[]).unwrap();
    for day in 0..3 {
        let now = start + secs(day * 86_400);
        let lease = pool.lease(owner(7)).unwrap();
        assert_eq!(lease.address(), address("fd00::77"));
        assert_eq!(pool.owner_of(address("fd00::77")), Some(owner(7)));
        let second = pool.lease(owner(7)).unwrap();
        assert_ne!(second.address(), address("fd00::77"));
        pool.release(second, now).unwrap();
        pool.release(lease, now).unwrap();
        assert_eq!(pool.stats().leased, 0);
    }
}

/// Covers: R51
#[test]
fn a_reservation_that_cannot_be_kept_is_refused() {
    for wrong in ["10.0.0.0", "10.0.0.1", "10.0.0.15", "10.0.1.4", "10.0.0.4"] {
        let refused = pool_with("10.0.0.0/28", &[(1, wrong)], &["10.0.0.4"]).unwrap_err();
        assert!(matches!(refused, PoolError::Reservation { .. }), "{wrong}: {refused}");
    }
    assert!(pool_with("10.0.0.0/28", &[(1, "10.0.0.5"), (2, "10.0.0.5")], &[]).is_err());
    let nothing = pool_with("10.0.0.0/30", &[], &["10.0.0.2", "10.0.0.2"]).unwrap_err();
    assert!(matches!(nothing, PoolError::NothingLeft { .. }));
}

/// Covers: R51
#[test]
fn a_lease_of_another_pool_is_handed_back_unchanged() {
    let start = origin();
    let (mut one, mut other) = (pool("10.0.0.0/24"), pool("10.0.0.0/24"));
    let lease = one.lease(owner(1)).unwrap();
    let twin = other.lease(owner(1)).unwrap();
    assert_eq!(lease.address(), twin.address());
    let ForeignLease(lease) = other.release(lease, start).unwrap_err();
    assert_eq!(other.stats().leased, 1);
    one.release(lease, start).unwrap();
    assert_eq!((one.stats().leased, one.stats().held_back), (0, 1));
}

#[test]
fn the_owner_of_an_address_is_who_leases_it_now() {
    let start = origin();
    let mut pool = pool("10.0.0.0/24");
    let lease = pool.lease(owner(9)).unwrap();
    let had = lease.address();
    assert_eq!((lease.owner(), pool.owner_of(had)), (owner(9), Some(owner(9))));
    pool.release(lease, start).unwrap();
    assert_eq!(pool.owner_of(had), None);
    for never in ["10.0.0.0", "10.0.0.1", "10.0.0.255", "10.0.1.2", "fd00::2"] {
        assert_eq!(pool.owner_of(address(never)), None, "{never}");
    }
}

/// Covers: R4, R51
#[test]
fn recorded_leases_are_taken_again_after_a_restart() {
    let mut before = pool("10.0.0.0/24");
    let leases: Vec<_> = (0..100).map(|key| before.lease(owner(key)).unwrap()).collect();
    let mut after = pool_with("10.0.0.0/24", &[(200, "10.0.0.200")], &["10.0.0.201"]);
    let after = after.as_mut().unwrap();
    for lease in &leases {
        let restored = after.restore(lease.owner(), lease.address());
        if [address("10.0.0.200"), address("10.0.0.201")].contains(&lease.address()) {
            assert!(restored.is_err());
        } else {
            assert_eq!(restored.unwrap().address(), lease.address());
        }
        assert!(after.restore(lease.owner(), lease.address()).is_err(), "only once");
    }
    assert_eq!(after.restore(owner(200), address("10.0.0.200")).unwrap().address(), address("10.0.0.200"));
    for never in ["10.0.0.0", "10.0.0.1", "10.0.0.255", "10.0.0.201", "10.0.1.2", "fd00::2"] {
        let refused = after.restore(owner(1), address(never)).unwrap_err();
        assert!(matches!(refused, RestoreError::NotLeasable { .. }), "{never}: {refused}");
    }
}

/// Covers: R50
#[test]
fn what_is_held_back_is_restored_for_its_owner_only() {
    let start = origin();
    let mut pool = pool("10.0.0.0/24");
    let held = address("10.0.0.77");
    let recorded = pool.restore(owner(1), held).unwrap();
    pool.release(recorded, start).unwrap();
    assert_eq!(pool.restore(owner(2), held).unwrap_err(), RestoreError::Taken { address: held });
    let lease = pool.restore(owner(1), held).unwrap();
    assert_eq!((lease.address(), pool.stats().held_back, pool.poll_timeout()), (held, 0, None));
}

/// Covers: R50, R51, R59, P-077
#[test]
fn a_small_pool_survives_ten_thousand_changes_of_hands_without_a_leak() {
    let mut now = origin();
    let mut pool = pool("10.0.0.0/29");
    for round in 0..10_000_u64 {
        let leases: Vec<_> = (0..5).map(|n| pool.lease(owner(round * 5 + n)).unwrap()).collect();
        assert_eq!(pool.lease(owner(u64::MAX)).unwrap_err().leased, 5);
        for lease in leases {
            pool.release(lease, now).unwrap();
        }
        assert!(pool.lease(owner(u64::MAX)).is_err(), "held back");
        now += HOLD_BACK;
        pool.handle_timeout(now);
    }
    assert_eq!(pool.stats(), PoolStats { leased: 0, held_back: 0, size: 5 });
    assert_eq!(pool.poll_timeout(), None);
}

#[test]
fn the_size_of_a_prefix_costs_nothing() {
    for prefix in ["10.0.0.0/8", "fd00::/48", "2001:db8::/64", "fd00::/8"] {
        let mut pool = pool(prefix);
        let leases: Vec<_> = (0..10).map(|key| pool.lease(owner(key)).unwrap()).collect();
        let different: BTreeSet<_> = leases.iter().map(Lease::address).collect();
        assert_eq!(different.len(), 10);
        assert!(different.iter().all(|address| pool.prefix().contains(*address)));
        assert!(!different.contains(&pool.server_address()));
        assert!(pool.numbers.marks_len() <= 20, "{prefix}");
    }
}

#[test]
fn an_earlier_instant_changes_nothing_and_an_endless_hold_back_does_not_overflow() {
    let start = origin();
    let config = PoolConfig { hold_back: Duration::MAX, ..PoolConfig::default() };
    let mut pool = Pool::new("10.0.0.0/30".parse().unwrap(), &config).unwrap();
    let lease = pool.lease(owner(1)).unwrap();
    pool.release(lease, start + secs(10)).unwrap();
    pool.handle_timeout(start);
    assert_eq!(pool.poll_timeout(), Some(start + secs(10) + MAX_HOLD_BACK));
    assert!(pool.lease(owner(2)).is_err());
    pool.handle_timeout(start + secs(10) + MAX_HOLD_BACK);
    assert!(pool.lease(owner(2)).is_ok());
}

#[test]
fn without_a_hold_back_the_address_is_free_at_the_same_instant() {
    let start = origin();
    let config = PoolConfig { hold_back: Duration::ZERO, ..PoolConfig::default() };
    let mut pool = Pool::new("10.0.0.0/30".parse().unwrap(), &config).unwrap();
    for key in 0..10 {
        let lease = pool.lease(owner(key)).unwrap();
        pool.release(lease, start).unwrap();
        pool.handle_timeout(start);
    }
}
