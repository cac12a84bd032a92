//! Records, windows, limits and takeovers of the registry.

use super::*;

const COOKIE: CookieHash = CookieHash::from_bytes([1; 32]);

fn registry_with(config: RegistryConfig) -> Registry {
    let pool = PoolConfig { hold_back: config.cookie_timeout, reserved: Vec::new(), excluded: Vec::new() };
    let v4 = Pool::new("10.9.0.0/29".parse().unwrap(), &pool).unwrap();
    let v6 = Pool::new("fd00:9::/64".parse().unwrap(), &pool).unwrap();
    Registry::new(config, Some(v4), Some(v6))
}

fn limits() -> RegistryConfig {
    RegistryConfig {
        cookie_timeout: secs(300),
        session_timeout: Some(secs(3600)),
        max_sessions: 100,
        max_per_user: None,
    }
}

fn admit(user: &str, cookie: CookieHash) -> Admit {
    Admit {
        user: user.to_owned(),
        groups: vec!["staff".to_owned()],
        group: None,
        method: AuthMethod::Password,
        cookie,
        owner: OwnerKey::new(u64::from(user.as_bytes()[0])),
    }
}

fn cookie(n: u8) -> CookieHash {
    CookieHash::from_bytes([n; 32])
}

fn connect(cookie: CookieHash) -> Attach {
    Attach { cookie, wants_v4: true, wants_v6: true, holder: 3 }
}

fn lose(registry: &mut Registry, attachment: &Attachment, reason: CloseReason, now: Instant) -> Detached {
    registry.detach(attachment.id, attachment.generation, reason, &SessionCounters::default(), now)
}

/// Covers: statement 25, R4
#[test]
fn a_reconnect_by_cookie_gets_the_same_addresses() {
    let start = origin();
    let mut registry = registry_with(limits());
    registry.admit(admit("alice", COOKIE), start).unwrap();
    let first = registry.attach(connect(COOKIE), start).unwrap();
    assert!(first.leases.v4.is_some() && first.leases.v6.is_some());
    lose(&mut registry, &first, CloseReason::StreamClosed, start + secs(10));
    let second = registry.attach(connect(COOKIE), start + secs(309)).unwrap();
    assert_eq!((second.id, second.leases), (first.id, first.leases));
    assert_eq!(second.replaced, None);
    assert_eq!(second.ends_at, first.ends_at, "a reconnect does not extend the session");
}

/// Covers: statement 27, R3
#[test]
fn unknown_cookies_are_refused_and_lease_nothing() {
    let now = origin();
    let mut registry = registry_with(limits());
    assert_eq!(registry.attach(connect(COOKIE), now), Err(AttachRefused::UnknownCookie));
    assert_eq!(registry.pools().map(|pool| pool.stats().leased).sum::<u64>(), 0);
}

/// Covers: statement 41, P-009, R6
#[test]
fn who_looks_at_new_sessions_finds_each_once_and_none_that_has_ended() {
    let mut registry = registry_with(limits());
    let before = registry.newest();
    let ids: Vec<SessionId> =
        (1..=3).map(|n| registry.admit(admit("ann", cookie(n)), origin()).unwrap()).collect();
    let found = |registry: &Registry, id| registry.records_after(id).map(Record::id).collect::<Vec<_>>();
    assert_eq!(found(&registry, before), ids);
    assert_eq!(found(&registry, ids[0]), ids[1..]);
    assert_eq!(found(&registry, registry.newest()), []);
    let attachment = registry.attach(connect(cookie(2)), origin()).unwrap();
    lose(&mut registry, &attachment, CloseReason::UserLeft, origin());
    assert_eq!(found(&registry, before), [ids[0], ids[2]]);
}

#[test]
fn a_goodbye_kills_the_cookie_and_a_lost_stream_keeps_it_for_the_window() {
    let start = origin();
    for (reason, within, after) in [
        (CloseReason::UserLeft, false, false),
        (CloseReason::AdminDisconnect, false, false),
        (CloseReason::SessionTimeout, false, false),
        (CloseReason::StreamClosed, true, false),
        (CloseReason::DpdTimeout, true, false),
        (CloseReason::ClientPaused, true, false),
    ] {
        for (at, allowed) in [(299, within), (300, after)] {
            let mut registry = registry_with(limits());
            registry.admit(admit("alice", COOKIE), start).unwrap();
            let attachment = registry.attach(connect(COOKIE), start).unwrap();
            lose(&mut registry, &attachment, reason, start);
            let again = registry.attach(connect(COOKIE), start + secs(at));
            assert_eq!(again.is_ok(), allowed, "{reason:?} after {at} s");
        }
    }
}

/// Covers: statement 26, P-010, R7
#[test]
fn a_takeover_keeps_the_lease_and_silences_the_old_connection() {
    let start = origin();
    let mut registry = registry_with(RegistryConfig { max_per_user: Some(1), ..limits() });
    registry.admit(admit("alice", COOKIE), start).unwrap();
    let old = registry.attach(connect(COOKIE), start).unwrap();
    let new = registry.attach(connect(COOKIE), start + secs(5)).unwrap();
    assert_eq!(new.leases, old.leases);
    assert_eq!(new.replaced, Some(Standing { id: old.id, generation: old.generation, holder: 3 }));
    assert_eq!(registry.attached(), 1);
    // Whatever the old connection reports, the new one stays.
    for reason in [CloseReason::TakenOver, CloseReason::UserLeft, CloseReason::StreamClosed] {
        assert_eq!(lose(&mut registry, &old, reason, start + secs(6)), Detached::Superseded);
    }
    assert_eq!(registry.attached(), 1);
    assert_eq!(lose(&mut registry, &new, CloseReason::UserLeft, start + secs(7)), Detached::Ended);
    assert!(registry.is_empty());
}

/// Covers: R7, R51: who took over was itself replaced before it told the old connection, and told the newest.
#[test]
fn a_newest_connection_that_was_told_of_a_takeover_leaves_the_session_waiting() {
    let start = origin();
    let mut registry = registry_with(limits());
    let id = registry.admit(admit("alice", COOKIE), start).unwrap();
    let middle = registry.attach(connect(COOKIE), start).unwrap();
    let newest = registry.attach(connect(COOKIE), start).unwrap();
    assert_eq!(lose(&mut registry, &middle, CloseReason::TakenOver, start), Detached::Superseded);
    let until = start + secs(300);
    assert_eq!(lose(&mut registry, &newest, CloseReason::TakenOver, start), Detached::Waits { until });
    assert_eq!(registry.record(id).map(Record::stage), Some(Stage::Detached { until }));
    registry.handle_timeout(until);
    assert!(registry.is_empty());
}

/// Covers: R10, R51
#[test]
fn a_session_that_no_connection_ends_is_over_soon_after_its_time() {
    let start = origin();
    let mut registry = registry_with(limits());
    registry.admit(admit("alice", COOKIE), start).unwrap();
    let attachment = registry.attach(connect(COOKIE), start).unwrap();
    let end = attachment.ends_at.unwrap();
    registry.handle_timeout(end);
    assert_eq!(registry.attached(), 1, "its connection has time to end it");
    let due = registry.poll_timeout().expect("somebody looks after it");
    assert!(due > end && due <= end + secs(60));
    registry.handle_timeout(due);
    assert_eq!((registry.attached(), registry.len()), (0, 0));
    assert_eq!(registry.pools().map(|pool| pool.stats().leased).sum::<u64>(), 0);
    assert_eq!(lose(&mut registry, &attachment, CloseReason::SessionTimeout, due), Detached::Superseded);
}

/// Covers: R7, R32
#[test]
fn a_connection_learns_what_happened_between_its_connect_and_its_first_packet() {
    let now = origin();
    let mut registry = registry_with(limits());
    registry.admit(admit("alice", COOKIE), now).unwrap();
    let standing = |attachment: &Attachment| Standing {
        id: attachment.id,
        generation: attachment.generation,
        holder: 3,
    };
    let first = standing(&registry.attach(connect(COOKIE), now).unwrap());
    assert_eq!(registry.lost_meanwhile(first), None);
    let second = standing(&registry.attach(connect(COOKIE), now).unwrap());
    assert_eq!(registry.lost_meanwhile(first), Some(CloseReason::TakenOver));
    assert_eq!(registry.lost_meanwhile(second), None);
    assert_eq!(registry.end(second.id, now), Ended::Live(second));
    assert_eq!(registry.lost_meanwhile(second), Some(CloseReason::AdminDisconnect));
}

/// Covers: statement 71, R40
#[test]
fn the_limit_per_user_counts_live_sessions_and_not_the_reconnecting_one() {
    let start = origin();
    let mut registry = registry_with(RegistryConfig { max_per_user: Some(2), ..limits() });
    for n in 1..=3 {
        registry.admit(admit("alice", cookie(n)), start).unwrap();
    }
    registry.admit(admit("bob", cookie(9)), start).unwrap();
    let first = registry.attach(connect(cookie(1)), start).unwrap();
    registry.attach(connect(cookie(2)), start).unwrap();
    let refused = registry.attach(connect(cookie(3)), start);
    assert_eq!(refused, Err(AttachRefused::TooManySessions { limit: 2 }));
    assert!(registry.attach(connect(cookie(1)), start).is_ok(), "a reconnect does not count against itself");
    assert!(registry.attach(connect(cookie(9)), start).is_ok(), "others are not affected");
    let newest = Attachment { generation: first.generation + 1, ..first };
    lose(&mut registry, &newest, CloseReason::StreamClosed, start);
    assert!(registry.attach(connect(cookie(3)), start).is_ok(), "a lost session leaves its place");
}

/// Covers: R51
#[test]
fn a_full_pool_refuses_and_leaks_nothing() {
    let start = origin();
    let mut registry = registry_with(limits());
    let v4_only = |n| Attach { wants_v6: false, ..connect(cookie(n)) };
    let mut held = Vec::new();
    let mut refused = 0;
    for n in 0..20 {
        registry.admit(admit(&format!("{}user", char::from(b'a' + n)), cookie(n)), start).unwrap();
        match registry.attach(v4_only(n), start) {
            Ok(attachment) => held.push(attachment),
            Err(error) => {
                assert_eq!(error, AttachRefused::NoAddress);
                refused += 1;
            }
        }
    }
    // A /29 has eight addresses: network, broadcast and the server's own are never leased.
    assert_eq!((held.len(), refused), (5, 15));
    for attachment in &held {
        lose(&mut registry, attachment, CloseReason::UserLeft, start);
    }
    registry.handle_timeout(start + secs(3600));
    assert!(registry.is_empty());
    for pool in registry.pools() {
        let stats = pool.stats();
        assert_eq!((stats.leased, stats.held_back), (0, 0));
    }
    assert_eq!(registry.poll_timeout(), None);
}

/// Covers: statement 70, P-012, R10
#[test]
fn the_session_timeout_counts_from_authentication_across_reconnects() {
    let start = origin();
    let mut registry = registry_with(RegistryConfig { session_timeout: Some(secs(60)), ..limits() });
    registry.admit(admit("alice", COOKIE), start).unwrap();
    for at in [20, 40, 55] {
        let attachment = registry.attach(connect(COOKIE), start + secs(at)).unwrap();
        assert_eq!(attachment.ends_at, Some(start + secs(60)));
        lose(&mut registry, &attachment, CloseReason::StreamClosed, start + secs(at));
    }
    let late = registry.attach(connect(COOKIE), start + secs(60));
    assert_eq!(late, Err(AttachRefused::UnknownCookie));
    registry.handle_timeout(start + secs(60));
    assert!(registry.is_empty());
}

/// Covers: R10: a takeover at the last moment, before the old connection has noticed that its time is over.
#[test]
fn a_session_whose_time_is_over_cannot_be_taken_over() {
    let start = origin();
    let mut registry = registry_with(RegistryConfig { session_timeout: Some(secs(60)), ..limits() });
    registry.admit(admit("alice", COOKIE), start).unwrap();
    registry.attach(connect(COOKIE), start).unwrap();
    assert!(registry.knows(&COOKIE, start + secs(59)));
    let late = registry.attach(connect(COOKIE), start + secs(60));
    assert_eq!(late, Err(AttachRefused::UnknownCookie));
}

/// Covers: R59
#[test]
fn a_valid_password_cannot_fill_the_table_with_unused_cookies() {
    let start = origin();
    let mut registry = registry_with(limits());
    for n in 0..200 {
        registry.admit(admit("alice", cookie(n)), start).unwrap();
    }
    assert_eq!(registry.len(), MAX_WAITING_PER_USER);
    registry.handle_timeout(start + secs(300));
    assert!(registry.is_empty());
}

/// Covers: R40, R51, P-077
#[test]
fn one_user_cannot_hold_the_pool_with_sessions_that_he_loses() {
    let start = origin();
    for (prefix, kept) in [("10.0.0.0/26", MAX_WAITING_PER_USER), ("10.0.0.0/23", 508 / LOST_SHARE)] {
        let pool = PoolConfig { hold_back: secs(300), reserved: Vec::new(), excluded: Vec::new() };
        let v4 = Pool::new(prefix.parse().unwrap(), &pool).unwrap();
        let config = RegistryConfig { max_sessions: 1000, ..limits() };
        let mut registry = Registry::new(config, Some(v4), None);
        for n in 0..100 {
            let now = start + Duration::from_millis(u64::from(n));
            registry.admit(admit("mallory", cookie(n)), now).unwrap();
            let attachment = registry.attach(connect(cookie(n)), now).unwrap();
            lose(&mut registry, &attachment, CloseReason::StreamClosed, now);
        }
        assert_eq!(registry.len(), kept);
        let now = start + secs(1);
        registry.admit(admit("alice", cookie(200)), now).unwrap();
        assert!(registry.attach(connect(cookie(200)), now).is_ok(), "others get an address");
        assert!(registry.attach(connect(cookie(99)), now).is_ok(), "the newest lost session waits");
        assert_eq!(registry.attach(connect(cookie(0)), now), Err(AttachRefused::UnknownCookie));
        registry.handle_timeout(start + secs(400));
        assert_eq!(registry.len(), 2, "only the live ones are left");
    }
}

#[test]
fn a_full_server_refuses_the_login() {
    let start = origin();
    let mut registry = registry_with(RegistryConfig { max_sessions: 1, ..limits() });
    registry.admit(admit("alice", cookie(1)), start).unwrap();
    let refused = registry.admit(admit("bob", cookie(2)), start);
    assert_eq!(refused, Err(AdmitRefused::Full { limit: 1 }));
}

/// Covers: R3
#[test]
fn a_session_is_new_until_its_first_connect_and_never_again() {
    let start = origin();
    let mut registry = registry_with(limits());
    assert!(!registry.is_new(&COOKIE, start), "nobody's");
    registry.admit(admit("alice", COOKIE), start).unwrap();
    assert!(registry.is_new(&COOKIE, start));
    let attachment = registry.attach(connect(COOKIE), start).unwrap();
    assert!(!registry.is_new(&COOKIE, start));
    lose(&mut registry, &attachment, CloseReason::StreamClosed, start);
    assert!(!registry.is_new(&COOKIE, start));
}

/// Covers: R50: a reload gives cookies more time than the pools were made for.
#[test]
fn addresses_are_held_back_for_as_long_as_a_cookie_lives_now() {
    let start = origin();
    let mut registry = registry_with(limits());
    let ends = |registry: &mut Registry, timeout: u64| {
        registry.set_config(RegistryConfig { cookie_timeout: secs(timeout), ..limits() });
        registry.admit(admit("alice", COOKIE), start).unwrap();
        let attachment = registry.attach(connect(COOKIE), start).unwrap();
        let _ = registry.end(attachment.id, start);
        registry.held_back().map(|held| held.until).collect::<Vec<_>>()
    };
    assert_eq!(ends(&mut registry, 100), vec![start + secs(300); 2], "never shorter than they were made for");
    assert_eq!(ends(&mut registry, 900), vec![start + secs(900); 2]);
}

/// Covers: R50
#[test]
fn the_addresses_of_both_families_are_named_before_they_are_free_and_freed_apart_from_the_records() {
    let start = origin();
    let mut registry = registry_with(limits());
    let mut attach = |user: &str, n: u8| {
        registry.admit(admit(user, cookie(n)), start).unwrap();
        registry.attach(connect(cookie(n)), start).unwrap()
    };
    let (alice, bob) = (attach("alice", 1), attach("bob", 2));
    let _ = registry.end(alice.id, start);
    lose(&mut registry, &bob, CloseReason::StreamClosed, start);
    let end = start + secs(300);
    assert_eq!(registry.ending_hold_backs(end - Duration::from_nanos(1)).count(), 0);
    let named: Vec<IpAddr> = registry.ending_hold_backs(end).collect();
    let hers = [IpAddr::V4(alice.leases.v4.unwrap()), IpAddr::V6(alice.leases.v6.unwrap())];
    assert_eq!(named, hers);
    registry.end_records(end);
    assert!(registry.is_empty(), "bob's cookie is over");
    assert_eq!(registry.held_back().count(), 4, "his addresses are held back from now on, hers still");
    registry.free_addresses(end);
    assert_eq!(registry.held_back().count(), 2);
}

/// Covers: R32
#[test]
fn an_administrator_ends_a_session_and_its_cookie() {
    let start = origin();
    let mut registry = registry_with(limits());
    let id = registry.admit(admit("alice", COOKIE), start).unwrap();
    let attachment = registry.attach(connect(COOKIE), start).unwrap();
    let standing = Standing { id, generation: attachment.generation, holder: 3 };
    assert_eq!(registry.end(id, start), Ended::Live(standing));
    assert_eq!(registry.end(id, start), Ended::Unknown);
    assert_eq!(registry.attach(connect(COOKIE), start), Err(AttachRefused::UnknownCookie));
    assert_eq!(lose(&mut registry, &attachment, CloseReason::AdminDisconnect, start), Detached::Superseded);
}

/// Covers: R10, R79
#[test]
fn a_restored_record_reconnects_onto_its_old_addresses() {
    let start = origin();
    let mut before = registry_with(limits());
    before.admit(admit("alice", COOKIE), start).unwrap();
    let attachment = before.attach(connect(COOKIE), start).unwrap();
    let mut after = registry_with(limits());
    let until = start + secs(300);
    after.restore(admit("alice", COOKIE), attachment.leases, attachment.ends_at, until, start).unwrap();
    let again = after.attach(connect(COOKIE), start + secs(1)).unwrap();
    assert_eq!((again.leases, again.ends_at), (attachment.leases, attachment.ends_at));
    let known = after.restore(admit("alice", COOKIE), attachment.leases, None, until, start);
    assert_eq!(known, Err(AdmitRefused::Known));
}
