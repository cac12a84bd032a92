//! What is a packet and what is not, with etherparse as the second opinion.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use super::testing::*;
use super::*;

fn refusal(bytes: &[u8]) -> PacketError {
    Packet::parse(bytes).expect_err("must be refused")
}

#[test]
fn the_views_read_what_is_there() {
    let bytes = tcp_packet(true, 0x12, &[2, 4, 5, 0xB4], b"hello");
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!((packet.family(), packet.protocol()), (Family::V4, Protocol::Tcp));
    assert_eq!((packet.source(), packet.destination()), (CLIENT_V4.into(), HOST_V4.into()));
    assert_eq!((packet.transport_offset(), packet.ports()), (20, Some((0xC000, 80))));
    let tcp = packet.tcp().unwrap();
    assert_eq!((tcp.is_syn(), tcp.is_ack(), tcp.is_fin(), tcp.is_rst()), (true, true, false, false));
    assert_eq!((tcp.options(), tcp.payload()), (&[2, 4, 5, 0xB4][..], &b"hello"[..]));
    assert!(packet.udp().is_none() && packet.icmp().is_none());

    let bytes = ipv6(17, &udp(b"query"));
    let packet = Packet::parse(&bytes).unwrap();
    assert_eq!((packet.family(), packet.protocol()), (Family::V6, Protocol::Udp));
    assert_eq!((packet.source(), packet.destination()), (CLIENT_V6.into(), HOST_V6.into()));
    let udp = packet.udp().unwrap();
    assert_eq!((udp.source_port(), udp.destination_port(), udp.payload()), (0xC000, 53, &b"query"[..]));
}

/// RFC 9293 section 3.4: SYN and FIN have numbers of their own, and numbers wrap.
#[test]
fn a_segment_ends_behind_its_payload_and_its_flags() {
    for (flags, payload, taken) in
        [(0x10, &b""[..], 0), (0x10, b"hello", 5), (0x02, b"", 1), (0x11, b"hello", 6), (0x13, b"hello", 7)]
    {
        for sequence in [0, 7, u32::MAX - 2] {
            let mut bytes = tcp_packet(true, flags, &[], payload);
            bytes[24..28].copy_from_slice(&sequence.to_be_bytes());
            let tcp = Packet::parse(&bytes).unwrap().tcp().unwrap();
            assert_eq!((tcp.sequence(), tcp.end()), (sequence, sequence.wrapping_add(taken)));
            let behind = taken - u32::from(tcp.is_fin());
            for (limit, is_behind) in [
                (behind + (1 << 30), false),
                (behind, false),
                (behind.wrapping_sub(1), true),
                (behind.wrapping_add(1 << 31), true),
                (behind.wrapping_add(1 << 31) - 1, true),
            ] {
                let is_behind = is_behind && !payload.is_empty();
                assert_eq!(
                    tcp.has_payload_behind(sequence.wrapping_add(limit)),
                    is_behind,
                    "{flags} {limit}"
                );
            }
        }
    }
}

/// Covers: R44
#[test]
fn lengths_that_disagree_are_refused() {
    let good = ipv4(17, &[], 0, &udp(b"x"));
    assert!(Packet::parse(&good).is_ok());
    assert_eq!(refusal(&good[..good.len() - 1]), PacketError::TotalLength { declared: 29, len: 28 });
    assert_eq!(refusal(&[&good[..], b"!"].concat()), PacketError::TotalLength { declared: 29, len: 30 });
    assert_eq!(refusal(&good[..19]), PacketError::Truncated { len: 19 });
    assert_eq!(refusal(&[]), PacketError::Truncated { len: 0 });
    let mut short = good.clone();
    short[0] = 0x44;
    assert_eq!(refusal(&short), PacketError::HeaderLength { header: 16, len: 29 });
    short[0] = 0x4F;
    assert_eq!(refusal(&short), PacketError::HeaderLength { header: 60, len: 29 });
    let good = ipv6(17, &udp(b"x"));
    assert!(Packet::parse(&good).is_ok());
    assert_eq!(refusal(&good[..48]), PacketError::TotalLength { declared: 49, len: 48 });
    assert_eq!(refusal(&good[..39]), PacketError::Truncated { len: 39 });
    for version in [0, 5, 7, 15] {
        let mut other = good.clone();
        other[0] = version << 4;
        assert_eq!(refusal(&other), PacketError::Version { version });
    }
}

/// Covers: R44, P-067
#[test]
fn a_wrong_header_checksum_is_refused_and_a_wrong_transport_checksum_is_not_ours() {
    let mut bytes = tcp_packet(true, 0x10, &[], b"");
    bytes[36] ^= 1;
    assert!(Packet::parse(&bytes).is_ok());
    bytes[8] -= 1;
    assert_eq!(refusal(&bytes), PacketError::HeaderChecksum);
}

/// Covers: R43, R44
#[test]
fn source_routes_are_refused_and_other_options_pass() {
    let with = |options: &[u8]| ipv4(17, options, 0, &udp(b""));
    assert!(Packet::parse(&with(&[1, 1, 1, 0])).is_ok());
    assert!(Packet::parse(&with(&[148, 4, 0, 0])).is_ok(), "router alert");
    assert!(Packet::parse(&with(&[0, 131, 3, 4])).is_ok(), "behind the end of the options");
    for kind in [131, 137] {
        assert_eq!(refusal(&with(&[1, kind, 7, 4, 192, 0, 2, 1])), PacketError::SourceRoute);
        assert_eq!(refusal(&with(&[148, 4, 0, 0, kind, 3, 4, 0])), PacketError::SourceRoute);
    }
    for cut in [[148, 5, 0, 0], [148, 0, 0, 0], [148, 1, 0, 0], [1, 1, 1, 148]] {
        assert_eq!(refusal(&with(&cut)), PacketError::Option);
    }
    let routing =
        |kind, segments_left| ipv6(43, &[&[17, 0, kind, segments_left, 0, 0, 0, 0], &udp(b"")[..]].concat());
    assert!(Packet::parse(&routing(0, 0)).is_ok());
    for kind in [0, 2, 3, 4] {
        assert_eq!(refusal(&routing(kind, 1)), PacketError::SourceRoute);
    }
}

/// Covers: R44
#[test]
fn eight_extension_headers_pass_and_a_ninth_does_not() {
    let chain = |count: usize| {
        let mut payload = Vec::new();
        for index in 0..count {
            payload.extend([if index + 1 == count { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
        }
        payload.extend(udp(b"x"));
        ipv6(60, &payload)
    };
    for count in 1..=8 {
        let bytes = chain(count);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.protocol(), packet.transport_offset()), (Protocol::Udp, 40 + 8 * count));
    }
    assert_eq!(refusal(&chain(9)), PacketError::Extension);
}

#[test]
fn extension_headers_that_are_cut_or_out_of_place_are_refused() {
    let options = |next| [next, 0, 1, 4, 0, 0, 0, 0];
    assert!(Packet::parse(&ipv6(0, &[&options(17)[..], &udp(b"")].concat())).is_ok());
    assert_eq!(
        refusal(&ipv6(60, &[&options(0)[..], &options(17), &udp(b"")].concat())),
        PacketError::Extension
    );
    assert_eq!(refusal(&ipv6(0, &[])), PacketError::Extension);
    assert_eq!(refusal(&ipv6(0, &[17, 1, 1, 4, 0, 0, 0, 0])), PacketError::Extension);
    assert_eq!(refusal(&ipv6(43, &[17, 0, 0])), PacketError::Extension);
    assert_eq!(refusal(&ipv6(44, &[17, 0, 0, 0, 0, 0, 0])), PacketError::Extension);
    let twice = [&fragment_v6(44, 0, true)[..], &fragment_v6(17, 0, true), &udp(b"")].concat();
    assert_eq!(refusal(&ipv6(44, &twice)), PacketError::Extension);
    let authenticated = |words: u8| ipv6(51, &[&[17, words][..], &[0; 10], &udp(b"")].concat());
    assert_eq!(Packet::parse(&authenticated(1)).unwrap().transport_offset(), 52);
    assert_eq!(refusal(&authenticated(0)), PacketError::Extension);
    let bytes = ipv6(59, &[]);
    assert_eq!(Packet::parse(&bytes).unwrap().protocol(), Protocol::Other(59));
}

/// Covers: R44
#[test]
fn a_cut_transport_header_is_refused() {
    for (protocol, header) in [(6, 20), (17, 8), (1, 8)] {
        for len in 0..header {
            let refused = refusal(&ipv4(protocol, &[], 0, &vec![0x50; len]));
            assert_eq!(refused, PacketError::Transport { protocol, len });
        }
    }
    assert!(Packet::parse(&ipv4(58, &[], 0, b"")).is_ok(), "ICMPv6 is only in IPv6");
    assert!(Packet::parse(&ipv6(1, b"")).is_ok(), "ICMP is only in IPv4");
    assert!(Packet::parse(&ipv6(58, &[128; 7])).is_err());
    let mut segment = tcp(0x10, &[], b"12345678");
    segment[12] = 0x40;
    assert!(Packet::parse(&ipv4(6, &[], 0, &segment)).is_err(), "a data offset of 4 words");
    segment[12] = 0x80;
    assert!(Packet::parse(&ipv4(6, &[], 0, &segment)).is_err(), "a data offset beyond the end");
    segment[12] = 0x70;
    assert!(Packet::parse(&ipv4(6, &[], 0, &segment)).is_ok());
    let mut datagram = udp(b"12345678");
    for (declared, good) in [(7, false), (8, true), (15, true), (16, true), (17, false)] {
        datagram[5] = declared;
        assert_eq!(Packet::parse(&ipv4(17, &[], 0, &datagram)).is_ok(), good, "{declared}");
    }
}

/// Covers: R45, P-069
#[test]
fn fragments_that_hide_something_are_refused() {
    let more = 0x2000;
    let first = ipv4(6, &[], more, &tcp(0x02, &[], b"1234"));
    let packet = Packet::parse(&first).unwrap();
    assert_eq!(packet.fragment(), Some(Fragment { id: 0x1234, offset: 0, more: true }));
    assert!(packet.tcp().is_some() && !packet.is_later_fragment());
    let tiny = refusal(&ipv4(6, &[], more, &tcp(0x02, &[], b"")[..16]));
    assert_eq!(tiny, PacketError::Transport { protocol: 6, len: 16 });
    for at in [1, 2] {
        let overlap = refusal(&ipv4(6, &[], at, &[0; 32]));
        assert_eq!(overlap, PacketError::Fragment { offset: usize::from(at) * 8, len: 32 });
    }
    assert_eq!(refusal(&ipv4(17, &[], more | 4, &[0; 12])), PacketError::Fragment { offset: 32, len: 12 });
    assert_eq!(refusal(&ipv4(17, &[], more | 4, &[])), PacketError::Fragment { offset: 32, len: 0 });
    let beyond = refusal(&ipv4(17, &[], 0x1FFF, &[0; 8]));
    assert_eq!(beyond, PacketError::Fragment { offset: 65_528, len: 8 });
    assert!(Packet::parse(&ipv4(17, &[], 0x1FFF, &[0; 7])).is_ok());

    let fragmented =
        |offset, more, rest: &[u8]| ipv6(44, &[&fragment_v6(6, offset, more)[..], rest].concat());
    assert!(Packet::parse(&fragmented(0, true, &tcp(0x02, &[], b"1234"))).is_ok());
    assert!(matches!(refusal(&fragmented(0, true, &[0; 16])), PacketError::Transport { .. }));
    assert!(matches!(refusal(&fragmented(8, true, &[0; 16])), PacketError::Fragment { .. }));
    assert!(matches!(refusal(&fragmented(0xFFF8, false, &[0; 8])), PacketError::Fragment { .. }));
}

#[test]
fn a_later_fragment_has_no_transport_header() {
    let v4 = ipv4(17, &[], 0x2000 | 10, &[0xFF; 16]);
    let v6 = ipv6(44, &[&fragment_v6(58, 80, false)[..], &[1; 9]].concat());
    for (bytes, id, len) in [(v4, 0x1234, 16), (v6, 7, 9)] {
        let packet = Packet::parse(&bytes).unwrap();
        assert!(packet.is_later_fragment());
        assert_eq!(packet.fragment().map(|fragment| (fragment.id, fragment.offset)), Some((id, 80)));
        assert_eq!((packet.ports(), packet.payload().len()), (None, len));
        assert!(packet.tcp().is_none() && packet.udp().is_none() && packet.icmp().is_none());
        assert!(!packet.is_icmp_error());
    }
    let atomic = ipv6(44, &[&fragment_v6(17, 0, false)[..], &udp(b"x")].concat());
    let packet = Packet::parse(&atomic).unwrap();
    assert_eq!((packet.fragment(), packet.ports()), (None, Some((0xC000, 53))));
}

/// Covers: R5
#[test]
fn icmp_errors_and_multicast_are_no_activity() {
    let icmp = |is_v4: bool, kind| {
        let message = [kind, 0, 0, 0, 0, 0, 0, 0];
        if is_v4 { ipv4(1, &[], 0, &message) } else { ipv6(58, &message) }
    };
    let active = |bytes: &[u8]| Packet::parse(bytes).unwrap().counts_as_activity();
    for (is_v4, kind) in [
        (true, 3),
        (true, 4),
        (true, 5),
        (true, 11),
        (true, 12),
        (false, 1),
        (false, 2),
        (false, 127),
        (false, 137),
    ] {
        assert!(Packet::parse(&icmp(is_v4, kind)).unwrap().is_icmp_error());
        assert!(!active(&icmp(is_v4, kind)), "{is_v4} {kind}");
    }
    for (is_v4, kind) in [(true, 0), (true, 8), (true, 13), (false, 128), (false, 129)] {
        assert!(active(&icmp(is_v4, kind)), "{is_v4} {kind}");
    }
    let mut bytes = ipv4(17, &[], 0, &udp(b"mdns"));
    assert!(active(&bytes));
    for group in [[224, 0, 0, 251], [239, 255, 255, 250], [255, 255, 255, 255]] {
        bytes[16..20].copy_from_slice(&group);
        fix_header(&mut bytes);
        assert!(!active(&bytes));
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.is_multicast(), packet.is_broadcast()), (group[0] < 240, group[0] == 255));
    }
    let mut bytes = ipv6(17, &udp(b"mdns"));
    assert!(active(&bytes));
    bytes[24..40].copy_from_slice(&"ff02::fb".parse::<std::net::Ipv6Addr>().unwrap().octets());
    assert!(!active(&bytes));
}

#[test]
fn the_echo_identifier_is_read_from_echo_messages_only() {
    let id = |bytes: &[u8]| Packet::parse(bytes).unwrap().icmp().unwrap().echo_id();
    assert_eq!(id(&ipv4(1, &[], 0, &[8, 0, 0, 0, 0xAB, 0xCD, 0, 1])), Some(0xABCD));
    assert_eq!(id(&ipv6(58, &[129, 0, 0, 0, 0xAB, 0xCD, 0, 1])), Some(0xABCD));
    assert_eq!(id(&ipv4(1, &[], 0, &[3, 0, 0, 0, 0xAB, 0xCD, 0, 1])), None);
    assert_eq!(id(&ipv6(58, &[8, 0, 0, 0, 0xAB, 0xCD, 0, 1])), None);
}

fn agrees(packet: &Packet<'_>) {
    let oracle = SlicedPacket::from_ip(packet.bytes()).expect("etherparse takes it too");
    match oracle.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            assert_eq!(packet.source(), IpAddr::from(ip.header().source_addr()));
            assert_eq!(packet.destination(), IpAddr::from(ip.header().destination_addr()));
        }
        NetSlice::Ipv6(ip) => {
            assert_eq!(packet.source(), IpAddr::from(ip.header().source_addr()));
            assert_eq!(packet.destination(), IpAddr::from(ip.header().destination_addr()));
        }
        NetSlice::Arp(_) => panic!("an IP packet"),
    }
    match oracle.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            assert_eq!(packet.ports(), Some((tcp.source_port(), tcp.destination_port())));
            assert_eq!(packet.tcp().unwrap().payload(), tcp.payload());
        }
        Some(TransportSlice::Udp(udp)) => {
            assert_eq!(packet.ports(), Some((udp.source_port(), udp.destination_port())));
            assert_eq!(packet.udp().unwrap().payload(), udp.payload());
        }
        Some(TransportSlice::Icmpv4(icmp)) if packet.family() == Family::V4 => {
            assert_eq!(packet.icmp().unwrap().kind(), icmp.type_u8());
        }
        Some(TransportSlice::Icmpv6(icmp)) if packet.family() == Family::V6 => {
            assert_eq!(packet.icmp().unwrap().kind(), icmp.type_u8());
        }
        _ => assert!(packet.ports().is_none() && packet.icmp().is_none()),
    }
}

/// Says whether etherparse reads it in another way: what is a header to one of us and a payload to the other (IGMP; in
/// IPv4 the authentication header; in IPv6 mobility, HIP and shim6), what is in fragments, and time stamps of an
/// unusual length.
fn is_read_otherwise(packet: &Packet<'_>) -> bool {
    let is_time_stamp = packet.icmp().is_some_and(|icmp| matches!(icmp.kind(), 13 | 14));
    packet.fragment().is_some()
        || matches!(packet.protocol(), Protocol::Other(2 | 51))
        || match packet.family() {
            Family::V4 => is_time_stamp,
            Family::V6 => matches!(packet.bytes()[6], 135 | 139 | 140),
        }
}

proptest! {
    /// Covers: R44, P-067
    #[test]
    fn good_packets_are_read_as_etherparse_reads_them(bytes in some_packet()) {
        agrees(&Packet::parse(&bytes).unwrap());
    }

    /// Covers: R44, P-067
    #[test]
    fn of_damaged_packets_those_that_pass_are_still_what_etherparse_reads(
        bytes in some_packet(),
        damage in proptest::collection::vec((0_usize..64, any::<u8>()), 1..4),
        checksum_is_right in any::<bool>(),
    ) {
        let mut bytes = bytes;
        for (at, value) in damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        if checksum_is_right {
            fix_header(&mut bytes);
        }
        if let Ok(packet) = Packet::parse(&bytes)
            && !is_read_otherwise(&packet)
        {
            agrees(&packet);
        }
    }

    #[test]
    fn no_bytes_make_an_accessor_fail(bytes in proptest::collection::vec(any::<u8>(), 0..120), version in 0_u8..8) {
        let mut bytes = bytes;
        if let Some(first) = bytes.first_mut() {
            *first = (if version < 4 { 0x40 } else { 0x60 }) | (*first & 0x0F).max(5);
        }
        if bytes.len() > 40 {
            let len = u16::try_from(bytes.len()).unwrap();
            let at = if version < 4 { 2..4 } else { 4..6 };
            bytes[at].copy_from_slice(&(if version < 4 { len } else { len - 40 }).to_be_bytes());
            bytes[6] &= 0x3F; // every extension header number but 135 to 140, and small IPv4 offsets
        }
        fix_header(&mut bytes);
        if let Ok(packet) = Packet::parse(&bytes) {
            let _ = (packet.source(), packet.destination(), packet.ports(), packet.counts_as_activity());
            let _ = packet.tcp().map(|tcp| (tcp.options().len(), tcp.payload().len(), tcp.is_fin()));
            let _ = packet.udp().map(|udp| (udp.payload().len(), udp.checksum()));
            let _ = packet.icmp().map(|icmp| (icmp.kind(), icmp.code(), icmp.echo_id(), icmp.body().len()));
        }
        clamp_mss(&mut bytes, 1_280);
    }
}
