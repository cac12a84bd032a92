//! The stream of frames, record by record.

use std::net::{IpAddr, SocketAddr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mstunnel_tests::{
    Frame, FrameType, Gateway, Heard, Inner, Network, RawClient, SHORT, Setup, TunnelAnswer, icmp_echo, udp,
};

const PASSWORD: &str = "secret of alice";

fn tunnel(network: &Network, gateway: &Gateway) -> (RawClient, TunnelAnswer) {
    let mut raw = gateway.raw(network);
    let cookie = raw.cookie("alice", PASSWORD);
    let tunnel = raw.open_tunnel(&cookie);
    (raw, tunnel)
}

/// Covers: statement 33, P-002, R1
#[test]
fn every_record_is_one_frame_under_back_pressure() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start(&network) else { return };
    let sink = network.corporate().udp_sink(9000);
    let (mut raw, tunnel) = tunnel(&network, &gateway);
    let from = SocketAddr::new(tunnel.v4().into(), 5000);
    let to = SocketAddr::new(Network::CORPORATE_V4.into(), 9000);
    raw.send_packet(&udp(from, to, b"begin"));
    let (reply_to, _) = sink.receive(SHORT).expect("the packet arrives");
    // Nothing is read meanwhile, and answers are owed in between.
    for round in 0..20 {
        for size in (1..1400).step_by(37) {
            sink.send(reply_to, &vec![7; size]);
        }
        raw.send_frame(FrameType::DPD_REQUEST, &[round; 100]);
        sleep(Duration::from_millis(5));
    }
    let (mut packets, mut answers) = (0, 0);
    let end = Instant::now() + SHORT;
    while answers < 20 {
        // `frame` refuses a record that is not one frame.
        let frame = raw.frame(end.saturating_duration_since(Instant::now()));
        match frame.kind {
            FrameType::DATA => packets += usize::from(Inner::parse(&frame.payload).is_some()),
            FrameType::DPD_RESPONSE => answers += 1,
            other => panic!("an unexpected frame {other:?}"),
        }
    }
    assert!(packets >= 100, "only {packets} packets came");
}

/// Covers: statement 36, statement 37, P-007, R5
#[test]
fn a_dpd_request_is_answered_with_its_payload_and_nothing_else_matters() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start(&network) else { return };
    let (mut raw, tunnel) = tunnel(&network, &gateway);
    for len in [0, 1, 100, tunnel.mtu() - 8] {
        let payload: Vec<u8> = (0..len).map(|n| u8::try_from(n % 251).expect("below 251")).collect();
        raw.send_frame(FrameType::DPD_REQUEST, &payload);
        assert_eq!(raw.frame_of(FrameType::DPD_RESPONSE, SHORT).payload, payload);
    }
    for _ in 0..3 {
        raw.send_frame(FrameType::DPD_RESPONSE, b"nobody asked");
        raw.send_frame(FrameType::KEEPALIVE, b"");
        raw.send_frame(FrameType::KEEPALIVE, b"with a payload");
    }
    raw.ping(tunnel.v4().into(), Network::CORPORATE_V4.into(), b"still well");
}

/// Covers: statement 38, R2
#[test]
fn a_frame_type_nobody_knows_is_ignored_and_counted() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let (mut raw, _) = tunnel(&network, &gateway);
    for kind in [1, 2, 6, 9, 10, 127, 255] {
        raw.send_frame(FrameType(kind), b"what is it");
        raw.expect_alive();
    }
    assert!(gateway.drops(&network, "unknown_frame") >= 5);
}

/// Covers: statement 34, P-001, R2
#[test]
fn frames_arrive_whole_however_they_are_cut_into_records() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let (mut raw, tunnel) = tunnel(&network, &gateway);
    let source: IpAddr = tunnel.v4().into();
    let echo = |data: &[u8]| {
        Frame::new(FrameType::DATA, icmp_echo(source, Network::CORPORATE_V4.into(), 1, data)).encode()
    };
    let expect = |raw: &mut RawClient, data: &[u8]| loop {
        let packet = raw.frame_of(FrameType::DATA, SHORT).payload;
        if Inner::parse(&packet).and_then(|inner| inner.echo_reply().map(<[u8]>::to_vec)).as_deref()
            == Some(data)
        {
            break;
        }
    };
    raw.send_in_records_of(1, &echo(b"byte by byte"));
    expect(&mut raw, b"byte by byte");
    raw.send_in_records_of(7, &[echo(b"one"), echo(b"two")].concat());
    expect(&mut raw, b"one");
    expect(&mut raw, b"two");
    raw.send(&[echo(b"three"), echo(b"four"), echo(b"five")].concat());
    for data in [&b"three"[..], b"four", b"five"] {
        expect(&mut raw, data);
    }
}

/// Covers: statement 35, statement 39, P-003, R2
#[test]
fn a_broken_stream_ends_its_own_session_only() {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new().user("bob", "secret of bob", &[]);
    let Some(gateway) = setup.start(&network) else { return };
    let mut bystander = gateway.raw(&network);
    let cookie = bystander.cookie("bob", "secret of bob");
    let lease = bystander.open_tunnel(&cookie).v4();
    for (what, bytes) in [
        ("a wrong magic", &b"STX\x01\0\0\0\0"[..]),
        ("a wrong version", b"STF\x02\0\0\0\0"),
        ("a reserved byte", b"STF\x01\0\0\0\x01"),
        ("a huge declared length", b"STF\x01\xff\xff\0\0"),
        ("a compressed packet", b"STF\x01\0\x04\x08\0abcd"),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n"),
    ] {
        let (mut raw, _) = tunnel(&network, &gateway);
        raw.send(bytes);
        if what == "a compressed packet" && raw.hear(Duration::from_secs(2)) == Heard::Silence {
            continue; // dropping it is as good as ending the session
        }
        raw.wait_closed(SHORT);
    }
    bystander.ping(lease.into(), Network::CORPORATE_V4.into(), b"undisturbed");
}

/// Covers: P-064, R41
#[test]
fn packets_with_a_source_that_is_not_the_lease_go_nowhere() {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new().user("bob", "secret of bob", &[]);
    let Some(gateway) = setup.start_ours(&network) else { return };
    let sink = network.corporate().udp_sink(9000);
    let mut bob = gateway.raw(&network);
    let cookie = bob.cookie("bob", "secret of bob");
    let other = bob.open_tunnel(&cookie);
    let (mut raw, lease) = tunnel(&network, &gateway);
    let v4 = [
        IpAddr::from(other.v4()),
        Network::CORPORATE_V4.into(),
        Network::SERVER_INSIDE_V4.into(),
        [10, 77, 0, 1].into(),
        [0, 0, 0, 0].into(),
        [127, 0, 0, 1].into(),
        [224, 0, 0, 1].into(),
        [255, 255, 255, 255].into(),
    ];
    let v6 = [
        IpAddr::from(other.v6()),
        Network::CORPORATE_V6.into(),
        Network::SERVER_INSIDE_V6.into(),
        "::".parse().expect("an address"),
        "::1".parse().expect("an address"),
        "ff02::1".parse().expect("an address"),
        "fe80::1".parse().expect("an address"),
    ];
    for source in v4.iter().chain(&v6) {
        let target =
            if source.is_ipv4() { Network::CORPORATE_V4.into() } else { Network::CORPORATE_V6.into() };
        let packet =
            udp(SocketAddr::new(*source, 5000), SocketAddr::new(target, 9000), source.to_string().as_bytes());
        raw.send_packet(&packet);
    }
    for (source, target) in [
        (IpAddr::from(lease.v4()), IpAddr::from(Network::CORPORATE_V4)),
        (lease.v6().into(), Network::CORPORATE_V6.into()),
    ] {
        raw.send_packet(&udp(SocketAddr::new(source, 5000), SocketAddr::new(target, 9000), b"honest"));
        let (_, data) = sink.receive(SHORT).expect("the honest packet arrives");
        assert_eq!(data, b"honest", "{}", String::from_utf8_lossy(&data));
    }
    assert_eq!(sink.receive(Duration::from_millis(300)), None);
    let counted = gateway.drops(&network, "source_not_leased");
    assert_eq!(counted, u64::try_from(v4.len() + v6.len()).expect("a handful"));
    bob.expect_alive();
}

/// Covers: statement 66, P-067, R44
#[test]
fn packets_that_are_no_packets_are_dropped_and_counted() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let (mut raw, lease) = tunnel(&network, &gateway);
    let good = icmp_echo(lease.v4().into(), Network::CORPORATE_V4.into(), 1, b"good");
    let mut long = good.clone();
    long[2..4].copy_from_slice(&60_000_u16.to_be_bytes());
    let mut short_header = good.clone();
    short_header[0] = 0x41;
    for packet in [&b""[..], b"\0", b"not a packet at all, is it?", &good[..19], &long, &short_header] {
        raw.send_packet(packet);
        raw.expect_alive();
    }
    raw.send_packet(&[0x45; 16_376]);
    raw.ping(lease.v4().into(), Network::CORPORATE_V4.into(), b"good");
    assert!(gateway.drops(&network, "malformed") >= 4);
}

/// Covers: statement 6, statement 24, statement 29, statement 67, P-004, P-005, R3, R9
#[test]
fn whatever_connect_offers_the_answer_is_complete_and_sane() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let cookie = gateway.raw(&network).cookie("alice", PASSWORD);
    let cookie = format!("webvpn={cookie}");
    let ask = |fields: &[(&str, &str)]| {
        let all = [&[("cookie", cookie.as_str())][..], fields].concat();
        gateway.raw(&network).connect_with(&all)
    };
    for base_mtu in
        [None, Some("576"), Some("1280"), Some("1500"), Some("9000"), Some("0"), Some("-1"), Some("x")]
    {
        for families in [None, Some("IPv4"), Some("IPv6"), Some("IPv6,IPv4")] {
            let mut fields = vec![("x-cstp-full-ipv6-capability", "true")];
            fields.extend(base_mtu.map(|mtu| ("X-CSTP-Base-MTU", mtu)));
            fields.extend(families.map(|families| ("X-CSTP-Address-Type", families)));
            let answer = ask(&fields);
            let what = format!("{base_mtu:?} {families:?}: {answer:?}");
            if answer.status == 400 {
                continue;
            }
            let v4 = answer.fields_spelled("X-CSTP-Address").len();
            let v6 = answer.fields_spelled("X-CSTP-Address-IP6").len();
            if answer.status == 503 {
                // What a link of 1,280 bytes leaves inside the tunnel is too little for IPv6 (statement 67).
                assert!(matches!(base_mtu, Some("576" | "1280")) && families == Some("IPv6"), "{what}");
                continue;
            }
            assert_eq!(answer.status, 200, "{what}");
            assert!(v4 + v6 > 0, "no address: {what}");
            assert!(families != Some("IPv4") || v6 == 0, "{what}");
            assert!(families != Some("IPv6") || v4 == 0, "{what}");
            let mtu = answer.fields_spelled("X-CSTP-MTU")[0].parse::<u32>().expect("a number");
            assert!(mtu >= if v6 > 0 { 1280 } else { 296 } && mtu <= 9000, "{what}");
        }
    }
    for encodings in ["lzs", "oc-lz4,lzs", ":,lzs", "deflate", "gzip,br,zstd", &"x,".repeat(100)] {
        let answer = ask(&[("X-CSTP-Accept-Encoding", encodings)]);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.field("x-cstp-content-encoding"), None, "{encodings}");
        assert_eq!(answer.field("x-dtls-session-id"), None);
        assert_eq!(answer.field("content-length"), None);
    }
}

/// Covers: P-083, R55
#[test]
fn a_client_that_stops_reading_loses_its_own_packets_and_then_its_connection() {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new().user("bob", "secret of bob", &[]);
    let Some(gateway) = setup.start_ours(&network) else { return };
    let sink = network.corporate().udp_sink(9000);
    let (mut deaf, lease) = tunnel(&network, &gateway);
    let mut bob = gateway.raw(&network);
    let cookie = bob.cookie("bob", "secret of bob");
    let other = bob.open_tunnel(&cookie).v4();
    let from = SocketAddr::new(lease.v4().into(), 5000);
    deaf.send_packet(&udp(from, SocketAddr::new(Network::CORPORATE_V4.into(), 9000), b"begin"));
    let (reply_to, _) = sink.receive(SHORT).expect("the packet arrives");
    let (before, start) = (gateway.resident_bytes(), Instant::now());
    let mut slowest = Duration::ZERO;
    let closes = || gateway.show(&network, "status")["closes"]["stalled"].as_u64().unwrap_or(0);
    while closes() == 0 {
        assert!(start.elapsed() < Duration::from_secs(90), "it is never closed");
        // Fewer than the device holds (txqueuelen), so that the neighbour's answer finds a place.
        for _ in 0..400 {
            sink.send(reply_to, &[7; 1_300]);
        }
        let asked = Instant::now();
        bob.ping(other.into(), Network::CORPORATE_V4.into(), b"neighbour");
        slowest = slowest.max(asked.elapsed());
        sleep(Duration::from_millis(200));
    }
    assert!(start.elapsed() >= Duration::from_secs(55), "closed after {:?}", start.elapsed());
    assert!(slowest < Duration::from_secs(5), "the neighbour waited {slowest:?}");
    let grown = gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes for a client that does not read");
    assert!(gateway.drops(&network, "queue_full") + gateway.drops(&network, "queue_stale") > 0);
}

/// Covers: R55, R57, R60
#[test]
fn a_client_that_asks_and_never_reads_keeps_no_worker_busy() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let (mut deaf, _) = tunnel(&network, &gateway);
    // Far more than both sockets hold, so that the server's answers get stuck.
    for _ in 0..2_000 {
        deaf.send_frame(FrameType::DPD_REQUEST, &[0; 16_000]);
    }
    sleep(Duration::from_millis(500));
    let before = gateway.processor_time();
    sleep(Duration::from_secs(2));
    let used = gateway.processor_time() - before;
    assert!(
        used < Duration::from_millis(500),
        "{used:?} of processor time in 2 s, for a client that does nothing"
    );
    assert!(gateway.drops(&network, "rate_limited") > 0, "the answers never got stuck");
    let (mut other, _) = tunnel(&network, &gateway);
    other.expect_alive();
}
