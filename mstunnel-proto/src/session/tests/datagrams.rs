//! The datagram channel of a session, as far as its trust goes.

use super::*;

fn channel_of(session: &mut Session, now: Instant) -> Channel {
    let mut buf = PacketBuf::new(1400);
    buf.fill(&udp(CORPORATE, LEASE, 100));
    session.encapsulate(&mut buf, now).expect("a good packet")
}

/// Covers: statement 36, P-007, R5
#[test]
fn a_dpd_request_on_the_datagram_channel_is_answered_there_at_full_length() {
    let now = origin();
    let mut session = open(config(), None, now);
    session.handle_datagram_open();
    let mut asked = vec![9; 1399];
    let taken = session.decapsulate(Channel::Datagram, FrameKind::DpdRequest, &mut asked, now);
    assert_eq!(taken, Inbound::Handled);
    let (channel, record) = answer_of(&mut session);
    assert_eq!((channel, record.len(), record[0]), (Channel::Datagram, 1400, FrameKind::DpdResponse.byte()));
    assert_eq!(record[1..], asked);
}

/// Covers: R8
#[test]
fn traffic_takes_the_datagram_channel_while_it_is_proven_and_the_stream_else() {
    let start = origin();
    let mut session = open(config(), None, start);
    assert_eq!(channel_of(&mut session, start), Channel::Stream);
    session.handle_datagram_open();
    assert_eq!(channel_of(&mut session, start), Channel::Datagram);
    // Nobody answers: three questions, then the stream; the session lives on.
    let mut asked = 0;
    while session.channel() == Channel::Datagram {
        let due = session.poll_timeout().expect("a timer of the path").at;
        session.handle_timeout(due);
        while let Some(channel) = session.poll_transmit(&mut PacketBuf::new(1400)) {
            assert_eq!(channel, Channel::Datagram);
            asked += 1;
        }
        assert!(due <= start + secs(4), "the stream is taken within 4 s");
    }
    assert!(asked >= 3, "{asked}");
    assert_eq!(session.state(), SessionState::Open);
    // One authentic record brings it back.
    let taken = session.decapsulate(Channel::Datagram, FrameKind::DpdResponse, &mut [], start + secs(60));
    assert_eq!(taken, Inbound::Handled);
    assert_eq!(channel_of(&mut session, start + secs(60)), Channel::Datagram);
}

/// Covers: R8
#[test]
fn a_client_that_sends_data_on_the_stream_gets_its_data_there() {
    let now = origin();
    let mut session = open(config(), None, now);
    session.handle_datagram_open();
    assert!(give(&mut session, FrameKind::Data, &udp(LEASE, CORPORATE, 10), now).is_ok());
    assert_eq!(session.channel(), Channel::Stream);
    // Control frames of the stream say nothing about the other channel.
    let _ = session.decapsulate(Channel::Datagram, FrameKind::Keepalive, &mut [], now);
    let _ = give(&mut session, FrameKind::Keepalive, b"", now);
    assert_eq!(session.channel(), Channel::Datagram);
}

/// Covers: R8
#[test]
fn a_lost_datagram_channel_takes_its_answers_with_it() {
    let now = origin();
    let mut session = open(config(), None, now);
    session.handle_datagram_open();
    let _ = session.decapsulate(Channel::Datagram, FrameKind::DpdRequest, &mut [1; 20], now);
    session.handle_datagram_closed();
    assert_eq!(transmits(&mut session), Vec::<Vec<u8>>::new());
    assert_eq!(channel_of(&mut session, now), Channel::Stream);
    session.close(CloseReason::IdleTimeout);
    session.handle_datagram_open();
    assert_eq!(session.channel(), Channel::Stream, "a closed session opens nothing");
}

/// Covers: R8
#[test]
fn a_client_whose_datagrams_go_unanswered_takes_the_stream_and_comes_back_later() {
    let start = origin();
    let leases = Leases { v4: Some(LEASE), v6: None };
    let config = ClientConfig { dpd: None, keepalive: None, rekey: None, mtu: 1400, leases };
    let mut client = ClientSession::new(config, start);
    let send = |client: &mut ClientSession, now| {
        let mut packet = PacketBuf::new(1400);
        packet.fill(&udp(LEASE, CORPORATE, 100));
        client.encapsulate(&mut packet, now).expect("a good packet")
    };
    assert_eq!(send(&mut client, start), Channel::Stream);
    client.handle_datagram_open();
    assert_eq!(send(&mut client, start), Channel::Datagram);
    let mut now = start;
    while client.channel() == Channel::Datagram {
        now = client.poll_timeout().expect("a timer of the path").at;
        client.handle_timeout(now);
        while let Some(channel) = client.poll_transmit(&mut PacketBuf::new(1400)) {
            assert_eq!(channel, Channel::Datagram);
        }
    }
    assert!(now <= start + secs(4));
    // It goes on asking, quietly, and one answer is enough.
    let ask = client.poll_timeout().expect("a doubted channel is asked").at;
    client.handle_timeout(ask);
    assert_eq!(client.poll_transmit(&mut PacketBuf::new(1400)), Some(Channel::Datagram));
    let answer = client.decapsulate(Channel::Datagram, FrameKind::DpdResponse, &mut [], ask);
    assert_eq!(answer, Inbound::Handled);
    assert_eq!(send(&mut client, ask), Channel::Datagram);
    assert_eq!(client.poll_event(), None);
}

/// Covers: R8, R55
#[test]
fn what_travels_as_a_datagram_does_not_wait_for_the_stream() {
    let now = origin();
    let mut session = open(config(), None, now);
    session.handle_datagram_open();
    let _ = give(&mut session, FrameKind::DpdRequest, b"stream", now);
    let _ = session.decapsulate(Channel::Datagram, FrameKind::DpdRequest, &mut [1; 20], now);
    let mut out = PacketBuf::new(1400);
    assert!(session.poll_datagram(&mut out));
    assert_eq!(out.as_slice(), [&[FrameKind::DpdResponse.byte()][..], &[1; 20]].concat());
    assert!(!session.poll_datagram(&mut out), "the other answer is for the stream");
    assert_eq!(answer_of(&mut session).0, Channel::Stream);
    let _ = session.decapsulate(Channel::Datagram, FrameKind::DpdRequest, &mut [1; 20], now);
    session.close(CloseReason::IdleTimeout);
    assert!(!session.poll_datagram(&mut out), "a closed session owes nothing");
}
