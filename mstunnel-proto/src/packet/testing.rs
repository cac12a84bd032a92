//! Packets for the tests of this module, and an Internet checksum that is nothing but its definition.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use proptest::prelude::*;

pub(super) const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub(super) const HOST_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
pub(super) const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 2);
pub(super) const HOST_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xDB8, 0, 0, 0, 0, 0, 0x80);

/// The checksum of RFC 1071 by its definition: 16-bit words, carry by carry.
pub(super) fn naive_checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        sum = (sum & 0xFFFF) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

/// What the checksum of `segment` from `source` to `destination` gives: 0 when it is right.
pub(super) fn naive_transport(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    for address in [source, destination] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend(u32::try_from(segment.len()).unwrap().to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes.extend(segment);
    naive_checksum(&bytes)
}

/// An IPv4 packet; `options` is a multiple of four bytes, `fragment` the flags and offset field.
pub(super) fn ipv4(protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
    packet.extend(u16::try_from(header + payload.len()).unwrap().to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(CLIENT_V4.octets());
    packet.extend(HOST_V4.octets());
    packet.extend(options);
    packet.extend(payload);
    fix_header(&mut packet);
    packet
}

/// Writes the right IPv4 header checksum, if there is a header.
pub(super) fn fix_header(packet: &mut [u8]) {
    let Some(first) = packet.first() else { return };
    let header = usize::from(first & 0x0F) * 4;
    if first >> 4 == 4 && (20..=packet.len()).contains(&header) {
        packet[10..12].fill(0);
        let checksum = naive_checksum(&packet[..header]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
}

/// An IPv6 packet whose first header after the fixed one is `next`.
pub(super) fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(payload.len()).unwrap().to_be_bytes());
    packet.extend([next, 64]);
    packet.extend(CLIENT_V6.octets());
    packet.extend(HOST_V6.octets());
    packet.extend(payload);
    packet
}

/// An IPv6 fragment header.
pub(super) fn fragment_v6(next: u8, offset: u16, more: bool) -> [u8; 8] {
    let [high, low] = (offset | u16::from(more)).to_be_bytes();
    [next, 0, high, low, 0, 0, 0, 7]
}

/// A TCP segment with checksum 0.
pub(super) fn tcp(flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let words = u8::try_from(5 + options.len() / 4).unwrap();
    let mut segment = vec![0xC0, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, words << 4, flags, 0xFF, 0xFF, 0, 0, 0, 0];
    segment.extend(options);
    segment.extend(payload);
    segment
}

/// A TCP packet of either family with the right checksum.
pub(super) fn tcp_packet(is_v4: bool, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut segment = tcp(flags, options, payload);
    let (source, destination): (IpAddr, IpAddr) =
        if is_v4 { (CLIENT_V4.into(), HOST_V4.into()) } else { (CLIENT_V6.into(), HOST_V6.into()) };
    let checksum = naive_transport(source, destination, 6, &segment);
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    if is_v4 { ipv4(6, &[], 0, &segment) } else { ipv6(6, &segment) }
}

/// A UDP datagram with checksum 0.
pub(super) fn udp(payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0xC0, 0, 0, 53];
    datagram.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// Packets of other people's making: both families, TCP, UDP and ICMP echo.
pub(super) fn some_packet() -> impl Strategy<Value = Vec<u8>> {
    let kind = (any::<bool>(), 0_u8..3);
    let payload = proptest::collection::vec(any::<u8>(), 0..80);
    let addresses = (any::<[u8; 16]>(), any::<[u8; 16]>());
    (kind, addresses, any::<[u16; 2]>(), payload).prop_map(|((is_v4, kind), (source, to), ports, payload)| {
        let four = |octets: [u8; 16]| [octets[0], octets[1], octets[2], octets[3]];
        let ip = if is_v4 {
            PacketBuilder::ipv4(four(source), four(to), 64)
        } else {
            PacketBuilder::ipv6(source, to, 64)
        };
        let mut packet = Vec::new();
        match (kind, is_v4) {
            (0, _) => ip.tcp(ports[0], ports[1], 1, 2).syn().write(&mut packet, &payload),
            (1, _) => ip.udp(ports[0], ports[1]).write(&mut packet, &payload),
            (_, true) => ip.icmpv4_echo_request(ports[0], ports[1]).write(&mut packet, &payload),
            (_, false) => ip.icmpv6_echo_request(ports[0], ports[1]).write(&mut packet, &payload),
        }
        .unwrap();
        packet
    })
}
