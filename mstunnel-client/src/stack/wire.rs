//! Writes the packets that smoltcp does not: UDP datagrams and echo requests.
//!
//! ```text
//! | IPv4 header (20) or IPv6 header (40) | UDP or ICMP header (8) | payload |
//! ```
//!
//! Nothing is ever fragmented: "don't fragment" is set, and what does not fit is refused before.

use std::net::{IpAddr, SocketAddr};

use mstunnel_proto::packet::checksum::Sum;
use mstunnel_proto::packet::{Packet, Protocol};

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u8 = 0x40;

/// The header of UDP, and of an ICMP echo.
pub(crate) const HEADER: usize = 8;

/// The length of an IP header of ours for `destination`.
pub(crate) fn ip_header_len(destination: IpAddr) -> usize {
    if destination.is_ipv4() { V4_HEADER } else { V6_HEADER }
}

/// Writes a UDP datagram to the start of `room`; `None` when it does not fit or the families differ.
pub(crate) fn udp(room: &mut [u8], from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<usize> {
    let datagram_len = HEADER + payload.len();
    let (len, datagram) = ip(room, from.ip(), to.ip(), 17, datagram_len)?;
    datagram[..2].copy_from_slice(&from.port().to_be_bytes());
    datagram[2..4].copy_from_slice(&to.port().to_be_bytes());
    datagram[4..6].copy_from_slice(&u16::try_from(datagram_len).ok()?.to_be_bytes());
    datagram[6..8].fill(0);
    datagram[HEADER..].copy_from_slice(payload);
    let sum = Sum::pseudo_header(from.ip(), to.ip(), 17, u32::try_from(datagram_len).ok()?).bytes(datagram);
    // RFC 768: a computed zero is sent as all ones, zero means "no checksum".
    let checksum = if sum.checksum() == 0 { 0xFFFF } else { sum.checksum() };
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    Some(len)
}

/// Writes an echo request with `payload_len` bytes of a pattern; `None` as in [`udp`].
pub(crate) fn echo_request(
    room: &mut [u8],
    from: IpAddr,
    to: IpAddr,
    (id, sequence): (u16, u16),
    payload_len: usize,
) -> Option<usize> {
    let message_len = HEADER + payload_len;
    let (protocol, kind) = if to.is_ipv4() { (1, 8) } else { (58, 128) };
    let (len, message) = ip(room, from, to, protocol, message_len)?;
    message[..4].copy_from_slice(&[kind, 0, 0, 0]);
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    for (byte, count) in message[HEADER..].iter_mut().zip((0..=u8::MAX).cycle()) {
        *byte = count;
    }
    let sum = match to {
        IpAddr::V4(_) => Sum::default(),
        IpAddr::V6(_) => Sum::pseudo_header(from, to, protocol, u32::try_from(message_len).ok()?),
    };
    let checksum = sum.bytes(message).checksum();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    Some(len)
}

/// Whether the checksum of a UDP datagram or an ICMP message is right.
pub(crate) fn is_intact(packet: &Packet<'_>) -> bool {
    let payload = packet.payload();
    let protocol = packet.protocol();
    let sum = match protocol {
        Protocol::Icmp => Sum::default(),
        Protocol::Udp if packet.family() == mstunnel_proto::packet::Family::V4 && payload[6..8] == [0, 0] => {
            return true;
        }
        Protocol::Tcp | Protocol::Udp | Protocol::Icmpv6 | Protocol::Other(_) => {
            let Ok(len) = u32::try_from(payload.len()) else { return false };
            Sum::pseudo_header(packet.source(), packet.destination(), protocol.number(), len)
        }
    };
    sum.bytes(payload).checksum() == 0
}

/// Writes an IP header for `payload_len` bytes; returns the length of the packet and its payload.
fn ip(
    room: &mut [u8],
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    payload_len: usize,
) -> Option<(usize, &mut [u8])> {
    let header_len = ip_header_len(to);
    let len = header_len + payload_len;
    let (header, payload) = room.get_mut(..len)?.split_at_mut(header_len);
    header.fill(0);
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header[0] = 0x45;
            header[2..4].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
            header[6] = DONT_FRAGMENT;
            header[8] = HOP_LIMIT;
            header[9] = protocol;
            header[12..16].copy_from_slice(&from.octets());
            header[16..20].copy_from_slice(&to.octets());
            let checksum = Sum::default().bytes(header).checksum();
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            header[0] = 0x60;
            header[4..6].copy_from_slice(&u16::try_from(payload_len).ok()?.to_be_bytes());
            header[6] = protocol;
            header[7] = HOP_LIMIT;
            header[8..24].copy_from_slice(&from.octets());
            header[24..40].copy_from_slice(&to.octets());
        }
        _ => return None,
    }
    Some((len, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_of_both_families_read_back_with_right_checksums() {
        for (from, to) in [("10.9.0.5:5000", "10.20.0.2:53"), ("[fd00::5]:5000", "[fd00::2]:53")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let mut room = [0xAA; 100];
            let len = udp(&mut room, from, to, b"odd").unwrap();
            let packet = Packet::parse(&room[..len]).unwrap();
            assert!(is_intact(&packet));
            assert_eq!(packet.udp().unwrap().payload(), b"odd");
            assert_eq!((packet.source(), packet.destination()), (from.ip(), to.ip()));
            room[len - 1] ^= 1;
            assert!(!is_intact(&Packet::parse(&room[..len]).unwrap()));
        }
    }

    #[test]
    fn echo_requests_of_both_families_have_right_checksums() {
        for (from, to) in [("10.9.0.5", "10.20.0.2"), ("fd00::5", "fd00::2")] {
            let mut room = [0; 200];
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let len = echo_request(&mut room, from, to, (7, 1), 56).unwrap();
            let packet = Packet::parse(&room[..len]).unwrap();
            assert!(is_intact(&packet));
            assert_eq!(packet.icmp().unwrap().echo_id(), Some(7));
        }
    }

    #[test]
    fn what_does_not_fit_or_mixes_families_is_not_written() {
        let (v4, v6) = ("10.9.0.5:1".parse().unwrap(), "[fd00::5]:1".parse().unwrap());
        assert_eq!(udp(&mut [0; 30], v4, v4, b"123"), None);
        assert_eq!(udp(&mut [0; 100], v4, v6, b"123"), None);
    }
}
