//! Behaviours of sessions and their registry, in virtual time.

mod datagrams;
mod registry;

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

/// Covers: R55
#[test]
fn a_client_that_reads_nothing_is_stalled_however_often_the_stream_is_tried() {
    let start = origin();
    let mut session = open(SessionConfig { dpd: None, ..config() }, None, start);
    for second in 0..60 {
        session.handle_stream_blocked(start + secs(second));
    }
    assert_eq!(run_alone(&mut session, start), (CloseReason::Stalled, 60));
}

/// Covers: R55: an administrator ends a session whose client does not read.
#[test]
fn a_farewell_to_a_client_that_does_not_read_ends_at_the_stall_limit() {
    let start = origin();
    let mut session = open(SessionConfig { dpd: None, ..config() }, None, start);
    session.handle_stream_blocked(start);
    session.close(CloseReason::AdminDisconnect);
    let stalled = session.poll_timeout().expect("a time for the end");
    assert_eq!(stalled.at, start + secs(60));
    session.handle_timeout(stalled.at);
    assert_eq!(closed(&mut session), Some(CloseReason::AdminDisconnect));
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

    /// Covers: statement 45, P-112, R8: the stream is asked, and its silence alone ends nothing.
    #[test]
    fn a_busy_datagram_channel_does_not_hide_a_silent_stream() {
        let start = origin();
        let mut session = live(start);
        session.handle_datagram_open();
        let mut asked = Vec::new();
        for tenth in 1..=100 {
            let now = start + Duration::from_millis(100) * tenth;
            let mut packet = udp(CORPORATE, LEASE, 1);
            let heard = session.decapsulate(Channel::Datagram, FrameKind::Data, &mut packet, now);
            assert!(matches!(heard, Inbound::Packet(_)), "at {tenth}");
            session.handle_timeout(now);
            asked.extend(transmit(&mut session).map(|frame| (tenth, frame[6])));
        }
        let question = FrameKind::DpdRequest.byte();
        assert_eq!(asked, [20, 30, 40, 50, 60, 70, 80, 90, 100].map(|tenth| (tenth, question)));
        assert_eq!(session.poll_event(), None, "the server is there");
        while let Some(due) = session.poll_timeout() {
            assert!(due.at <= start + secs(14), "{due:?}");
            session.handle_timeout(due.at);
            transmit(&mut session);
        }
        assert_eq!(session.poll_event(), Some(ClientEvent::Lost), "both are silent");
    }

    /// Covers: statement 45: a NAT box forgets the stream that nothing goes through.
    #[test]
    fn packets_by_datagram_keep_no_stream_alive() {
        let start = origin();
        let mut session = live(start);
        session.handle_datagram_open();
        for second in 1..=60 {
            let now = start + secs(second);
            let answer = session.decapsulate(Channel::Stream, FrameKind::DpdResponse, &mut [], now);
            assert_eq!(answer, Inbound::Handled);
            let mut packet = PacketBuf::new(200);
            packet.fill(&udp(LEASE, CORPORATE, 1));
            let heard = session.decapsulate(Channel::Datagram, FrameKind::Keepalive, &mut [], now);
            assert_eq!(
                (heard, session.encapsulate(&mut packet, now)),
                (Inbound::Handled, Ok(Channel::Datagram))
            );
            session.handle_timeout(now);
        }
        let kinds = std::iter::from_fn(|| transmit(&mut session)).filter(|frame| frame.starts_with(b"STF"));
        assert_eq!(kinds.map(|frame| frame[6]).collect::<Vec<_>>(), [FrameKind::Keepalive.byte()]);
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
