//! Behaviours of sessions and their registry, in virtual time.

mod datagrams;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::*;
use crate::auth::{AuthMethod, CookieHash};
use crate::buf::PacketBuf;
use crate::close::CloseReason;
use crate::drop::DropReason;
use crate::frame::{FrameKind, HEADER_LEN};
use crate::pool::{OwnerKey, Pool, PoolConfig};
use crate::testing::origin;

const LEASE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 5);
const CORPORATE: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);

fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A UDP packet with `payload_len` bytes; checksums are not looked at by sessions.
fn udp(source: Ipv4Addr, destination: Ipv4Addr, payload_len: usize) -> Vec<u8> {
    ipv4(17, source, destination, &{
        let mut udp = vec![0x30, 0x39, 0x00, 0x35];
        udp.extend_from_slice(&u16::try_from(8 + payload_len).unwrap().to_be_bytes());
        udp.extend_from_slice(&[0, 0]);
        udp.resize(8 + payload_len, 0);
        udp
    })
}

/// An ICMP destination-unreachable that quotes nothing useful.
fn icmp_error(source: Ipv4Addr, destination: Ipv4Addr) -> Vec<u8> {
    let mut icmp = vec![3, 1, 0, 0, 0, 0, 0, 0];
    icmp.extend_from_slice(&udp(destination, source, 0));
    ipv4(1, source, destination, &icmp)
}

fn ipv4(protocol: u8, source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend_from_slice(&u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
    packet.extend_from_slice(&[0, 0, 0, 0, 64, protocol, 0, 0]);
    packet.extend_from_slice(&source.octets());
    packet.extend_from_slice(&destination.octets());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap();
    packet[10..12].copy_from_slice(&(!folded).to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

fn config() -> SessionConfig {
    SessionConfig {
        dpd: Some(secs(90)),
        idle_timeout: None,
        access: Access::new(&["10.9.0.0/16".parse().unwrap()], &["10.9.0.1".parse().unwrap()], None),
    }
}

fn open(config: SessionConfig, ends_at: Option<Instant>, now: Instant) -> Session {
    let params = SessionParams {
        id: SessionId::new(1),
        leases: Leases { v4: Some(LEASE), v6: None },
        mtu: 1400,
        ends_at,
    };
    Session::new(Arc::new(config), params, now)
}

fn give(
    session: &mut Session,
    kind: FrameKind,
    payload: &[u8],
    now: Instant,
) -> Result<Vec<u8>, Option<DropReason>> {
    let mut payload = payload.to_vec();
    match session.decapsulate(Channel::Stream, kind, &mut payload, now) {
        Inbound::Packet(packet) => Ok(packet.to_vec()),
        Inbound::Handled => Err(None),
        Inbound::Dropped(reason) => Err(Some(reason)),
    }
}

fn transmits(session: &mut Session) -> Vec<Vec<u8>> {
    let mut out = PacketBuf::new(16_376);
    let mut frames = Vec::new();
    while session.poll_transmit(&mut out).is_some() {
        frames.push(out.as_slice().to_vec());
    }
    frames
}

fn closed(session: &mut Session) -> Option<CloseReason> {
    let event = session.poll_event();
    assert_eq!(session.poll_event(), None, "closed is said once");
    event.map(|SessionEvent::Closed { reason }| reason)
}

/// Runs the session alone until it closes; returns the reason and the seconds it took.
fn run_alone(session: &mut Session, start: Instant) -> (CloseReason, u64) {
    for _ in 0..1000 {
        let due = session.poll_timeout().expect("an open session has a timer").at;
        session.handle_timeout(due);
        transmits(session);
        if let Some(reason) = closed(session) {
            return (reason, (due - start).as_secs());
        }
    }
    panic!("the session never closed");
}

#[test]
fn a_packet_passes_both_ways_unchanged() {
    let now = origin();
    let mut session = open(config(), None, now);
    let out = udp(LEASE, CORPORATE, 100);
    assert_eq!(give(&mut session, FrameKind::Data, &out, now), Ok(out.clone()));
    let mut buf = PacketBuf::new(1400);
    let back = udp(CORPORATE, LEASE, 1000);
    buf.fill(&back);
    assert_eq!(session.encapsulate(&mut buf, now), Ok(Channel::Stream));
    assert_eq!(&buf.as_slice()[HEADER_LEN..], back);
    let counters = session.counters();
    assert_eq!((counters.packets_in, counters.bytes_in), (1, out.len() as u64));
    assert_eq!((counters.packets_out, counters.bytes_out), (1, back.len() as u64));
}

/// Covers: R41, P-064
#[test]
fn a_source_that_is_not_the_lease_is_dropped_and_counted() {
    let now = origin();
    let mut session = open(config(), None, now);
    for source in
        ["10.9.0.6", "10.9.0.1", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.20.0.1"]
    {
        let spoofed = udp(source.parse().unwrap(), CORPORATE, 10);
        let outcome = give(&mut session, FrameKind::Data, &spoofed, now);
        assert_eq!(outcome, Err(Some(DropReason::SourceNotLeased)), "{source}");
    }
    assert_eq!(session.counters().packets_in, 0);
    assert_eq!(session.counters().drops.total(), 7);
}

/// Covers: R42, R43
#[test]
fn closed_destinations_are_dropped_and_counted() {
    let now = origin();
    let mut session = open(config(), None, now);
    for destination in ["10.9.0.6", "127.0.0.1", "169.254.169.254", "224.0.0.251"] {
        let packet = udp(LEASE, destination.parse().unwrap(), 10);
        assert_eq!(
            give(&mut session, FrameKind::Data, &packet, now),
            Err(Some(DropReason::NotPermitted)),
            "{destination}"
        );
    }
    assert!(give(&mut session, FrameKind::Data, &udp(LEASE, Ipv4Addr::new(10, 9, 0, 1), 10), now).is_ok());
}

/// Covers: R9
#[test]
fn a_packet_above_the_mtu_is_refused() {
    let now = origin();
    let mut session = open(config(), None, now);
    let mut buf = PacketBuf::new(1500);
    buf.fill(&udp(CORPORATE, LEASE, 1400 - 28));
    assert_eq!(session.encapsulate(&mut buf, now), Ok(Channel::Stream));
    buf.fill(&udp(CORPORATE, LEASE, 1401 - 28));
    assert_eq!(session.encapsulate(&mut buf, now), Err(DropReason::TooBig));
}

/// Covers: statement 36, P-007, R5
#[test]
fn a_dpd_request_is_answered_with_its_payload() {
    let now = origin();
    let mut session = open(config(), None, now);
    for len in [0, 1, 100, 1392, 16_376] {
        let payload = vec![7; len];
        assert_eq!(give(&mut session, FrameKind::DpdRequest, &payload, now), Err(None));
        let frames = transmits(&mut session);
        assert_eq!(frames.len(), 1);
        assert_eq!(frames[0][6], FrameKind::DpdResponse.byte());
        assert_eq!(frames[0][HEADER_LEN..], payload);
    }
}

/// Covers: statement 37, P-007, R5
#[test]
fn keepalives_and_unasked_answers_change_nothing() {
    let now = origin();
    let mut session = open(config(), None, now);
    for kind in [FrameKind::DpdResponse, FrameKind::Keepalive, FrameKind::Terminate] {
        for payload in [&b""[..], b"payload"] {
            assert_eq!(give(&mut session, kind, payload, now), Err(None));
        }
    }
    assert_eq!(transmits(&mut session), Vec::<Vec<u8>>::new());
    assert_eq!(session.state(), SessionState::Open);
}

/// Covers: statement 38, R2
#[test]
fn unknown_types_are_counted_and_ignored() {
    let now = origin();
    let mut session = open(config(), None, now);
    for byte in [0x01, 0x02, 0x06, 0x0a, 0xff] {
        assert_eq!(
            give(&mut session, FrameKind::Unknown(byte), b"x", now),
            Err(Some(DropReason::UnknownFrame))
        );
    }
    assert_eq!(session.state(), SessionState::Open);
    assert_eq!(session.counters().drops.get(DropReason::UnknownFrame), 5);
}

/// Covers: statement 39
#[test]
fn a_compressed_frame_ends_a_session_that_negotiated_none() {
    let now = origin();
    let mut session = open(config(), None, now);
    assert_eq!(give(&mut session, FrameKind::Compressed, b"x", now), Err(Some(DropReason::NotNegotiated)));
    assert_eq!(transmits(&mut session).len(), 1);
    assert_eq!(closed(&mut session), Some(CloseReason::ProtocolError));
}

/// Covers: R57
#[test]
fn a_flood_of_dpd_requests_owes_a_bounded_number_of_answers() {
    let now = origin();
    let mut session = open(config(), None, now);
    for _ in 0..1000 {
        let _ = give(&mut session, FrameKind::DpdRequest, &[0; 1000], now);
    }
    assert_eq!(transmits(&mut session).len(), MAX_OWED_RESPONSES);
    assert_eq!(session.counters().drops.get(DropReason::RateLimited), 1000 - MAX_OWED_RESPONSES as u64);
    for _ in 0..1000 {
        let _ = give(&mut session, FrameKind::DpdRequest, &[0; 16_000], now);
    }
    assert_eq!(transmits(&mut session).len(), MAX_OWED_BYTES / 16_000);
}

/// Covers: statements 41 and 42, R6
#[test]
fn each_goodbye_has_its_own_effect() {
    let now = origin();
    for (payload, reason, frames) in [
        (&b"\xb0Aborted by caller"[..], CloseReason::UserLeft, 0),
        (b"", CloseReason::ClientPaused, 0),
        (b"\x01other", CloseReason::ProtocolError, 1),
    ] {
        let mut session = open(config(), None, now);
        assert_eq!(give(&mut session, FrameKind::Disconnect, payload, now), Err(None));
        assert_eq!(transmits(&mut session).len(), frames, "{reason:?}");
        assert_eq!(closed(&mut session), Some(reason));
    }
}

/// Covers: statement 46
#[test]
fn a_silent_client_is_asked_and_then_closed() {
    let start = origin();
    let mut session = open(config(), None, start);
    assert_eq!(session.poll_timeout().unwrap().at, start + secs(180));
    session.handle_timeout(start + secs(180));
    let frames = transmits(&mut session);
    assert_eq!(frames, [b"STF\x01\x00\x00\x03\x00".to_vec()]);
    assert_eq!(run_alone(&mut session, start), (CloseReason::DpdTimeout, 270));
}

/// Covers: R5, P-008
#[test]
fn only_data_counts_against_the_idle_timeout() {
    let start = origin();
    let idle = SessionConfig { idle_timeout: Some(secs(20)), dpd: None, ..config() };
    let mut session = open(idle.clone(), None, start);
    for second in 1..20 {
        let now = start + secs(second);
        let _ = give(&mut session, FrameKind::DpdRequest, b"", now);
        let _ = give(&mut session, FrameKind::Keepalive, b"", now);
        let _ = give(&mut session, FrameKind::Data, &icmp_error(LEASE, CORPORATE), now);
        transmits(&mut session);
    }
    assert_eq!(run_alone(&mut session, start), (CloseReason::IdleTimeout, 20));

    let mut session = open(idle, None, start);
    for second in (10..=100).step_by(10) {
        let now = start + secs(second);
        session.handle_timeout(now);
        assert!(give(&mut session, FrameKind::Data, &udp(LEASE, CORPORATE, 1), now).is_ok());
    }
    assert_eq!(run_alone(&mut session, start), (CloseReason::IdleTimeout, 120));
}

/// Covers: statement 70, R10
#[test]
fn the_session_timeout_strikes_however_busy_the_client() {
    let start = origin();
    let mut session = open(config(), Some(start + secs(60)), start);
    for second in 1..60 {
        let now = start + secs(second);
        session.handle_timeout(now);
        assert!(give(&mut session, FrameKind::Data, &udp(LEASE, CORPORATE, 1), now).is_ok());
    }
    session.handle_timeout(start + secs(60));
    assert_eq!(transmits(&mut session), [b"STF\x01\x00\x00\x05\x00".to_vec()]);
    assert_eq!(closed(&mut session), Some(CloseReason::SessionTimeout));
}

/// Covers: R55
#[test]
fn a_client_that_reads_nothing_is_closed_after_the_stall_limit() {
    let start = origin();
    let mut session = open(SessionConfig { dpd: None, ..config() }, None, start);
    session.handle_stream_blocked(start);
    session.handle_stream_progress(Waiting::More, start + secs(50));
    assert_eq!(run_alone(&mut session, start), (CloseReason::Stalled, 110));

    let mut session = open(SessionConfig { dpd: None, ..config() }, None, start);
    session.handle_stream_blocked(start);
    session.handle_stream_progress(Waiting::Nothing, start + secs(50));
    assert_eq!(session.poll_timeout(), None);
}

#[test]
fn after_the_end_nothing_passes_and_nothing_is_said_twice() {
    let now = origin();
    let mut session = open(config(), None, now);
    session.close(CloseReason::AdminDisconnect);
    session.close(CloseReason::IdleTimeout);
    assert_eq!(transmits(&mut session).len(), 1);
    assert_eq!(closed(&mut session), Some(CloseReason::AdminDisconnect));
    session.handle_stream_closed();
    assert_eq!(closed(&mut session), None);
    let late = give(&mut session, FrameKind::Data, &udp(LEASE, CORPORATE, 1), now);
    assert_eq!(late, Err(Some(DropReason::SessionClosed)));
    let mut buf = PacketBuf::new(100);
    buf.fill(&udp(CORPORATE, LEASE, 1));
    assert_eq!(session.encapsulate(&mut buf, now), Err(DropReason::SessionClosed));
    assert_eq!(session.poll_timeout(), None);
}

mod registry {
    use super::*;

    const COOKIE: CookieHash = CookieHash::from_bytes([1; 32]);

    fn registry_with(config: RegistryConfig) -> Registry {
        let pool =
            PoolConfig { hold_back: config.cookie_timeout, reserved: Vec::new(), excluded: Vec::new() };
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
        assert!(
            registry.attach(connect(cookie(1)), start).is_ok(),
            "a reconnect does not count against itself"
        );
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
        assert_eq!(
            lose(&mut registry, &attachment, CloseReason::AdminDisconnect, start),
            Detached::Superseded
        );
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
}

mod client {
    use super::*;

    fn live(now: Instant) -> ClientSession {
        let config = ClientConfig {
            dpd: Some(secs(2)),
            keepalive: Some(secs(60)),
            rekey: None,
            mtu: 1400,
            leases: Leases { v4: Some(LEASE), v6: None },
        };
        ClientSession::new(config, now)
    }

    fn transmit(session: &mut ClientSession) -> Option<Vec<u8>> {
        let mut out = PacketBuf::new(1500);
        session.poll_transmit(&mut out).map(|_| out.as_slice().to_vec())
    }

    /// Covers: statement 40
    #[test]
    fn leaving_sends_the_goodbye_and_ends_for_good() {
        let now = origin();
        let mut session = live(now);
        session.leave("Aborted by\r\n caller");
        assert_eq!(transmit(&mut session).unwrap(), b"STF\x01\x00\x12\x05\x00\xb0Aborted by caller");
        assert_eq!(session.poll_event(), Some(ClientEvent::Ended));
        assert_eq!(session.poll_event(), None);
    }

    /// Covers: statement 43
    #[test]
    fn a_lost_stream_comes_back_and_a_disconnect_does_not() {
        let now = origin();
        let mut session = live(now);
        session.handle_stream_closed();
        assert_eq!(session.poll_event(), Some(ClientEvent::Lost));
        assert_eq!(transmit(&mut session), None, "no goodbye from a client that comes back");
        for kind in [FrameKind::Disconnect, FrameKind::Terminate] {
            let mut session = live(now);
            assert_eq!(session.decapsulate(Channel::Stream, kind, &mut [], now), Inbound::Handled);
            assert_eq!(session.poll_event(), Some(ClientEvent::Ended));
        }
    }

    /// Covers: statement 45
    #[test]
    fn a_silent_server_is_asked_and_given_up_after_two_intervals() {
        let start = origin();
        let mut session = live(start);
        for second in [2, 3] {
            assert_eq!(session.poll_timeout().unwrap().at, start + secs(second));
            session.handle_timeout(start + secs(second));
            assert_eq!(transmit(&mut session).unwrap()[6], FrameKind::DpdRequest.byte());
        }
        session.handle_timeout(start + secs(4));
        assert_eq!(session.poll_event(), Some(ClientEvent::Lost));
    }

    /// Covers: R62
    #[test]
    fn packets_for_others_are_dropped() {
        let now = origin();
        let mut session = live(now);
        let mut packet = udp(CORPORATE, Ipv4Addr::new(10, 9, 0, 6), 1);
        assert_eq!(
            session.decapsulate(Channel::Stream, FrameKind::Data, &mut packet, now),
            Inbound::Dropped(DropReason::NotPermitted)
        );
    }

    /// Covers: statement 43
    #[test]
    fn the_backoff_grows_and_ends() {
        let mut backoff = Backoff::stock(secs(300));
        let waits: Vec<u64> = std::iter::from_fn(|| backoff.next_wait()).map(|wait| wait.as_secs()).collect();
        assert_eq!(waits, [0, 10, 20, 30, 40, 50, 60, 70]);
        let mut backoff = Backoff::eager(secs(300));
        let waits: Vec<u64> = std::iter::from_fn(|| backoff.next_wait()).map(|wait| wait.as_secs()).collect();
        assert_eq!(waits, [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    /// Covers: statement 43
    #[test]
    fn clients_that_lost_their_server_together_come_back_apart() {
        let even: Vec<Duration> = waits(Backoff::eager(secs(300)));
        let mut third = Vec::new();
        for seed in 0..1_000 {
            let waits = waits(Backoff::eager(secs(300)).spread(seed));
            assert_eq!(waits[0], Duration::ZERO);
            for (wait, even) in waits.iter().zip(&even) {
                assert!(*wait >= *even / 2 && *wait <= *even * 3 / 2, "{wait:?} of {even:?}");
            }
            assert!(waits.iter().sum::<Duration>() <= secs(300), "{waits:?}");
            third.push(waits[2]);
        }
        // Evenly over the two seconds from 1 to 3: about 50 in each tenth of a second.
        for tenth in 10..30 {
            let within = |wait: &&Duration| wait.as_millis() / 100 == tenth;
            let number = third.iter().filter(within).count();
            assert!((20..100).contains(&number), "{number} of 1,000 in the {tenth}th tenth of a second");
        }
    }

    fn waits(mut backoff: Backoff) -> Vec<Duration> {
        std::iter::from_fn(|| backoff.next_wait()).collect()
    }
}

#[test]
fn leases_know_their_own() {
    let leases = Leases { v4: Some(LEASE), v6: None };
    assert!(leases.holds(IpAddr::V4(LEASE)));
    assert!(!leases.holds("::1".parse().unwrap()));
}

fn answer_of(session: &mut Session) -> (Channel, Vec<u8>) {
    let mut out = PacketBuf::new(2000);
    let channel = session.poll_transmit(&mut out).expect("an answer");
    (channel, out.as_slice().to_vec())
}
