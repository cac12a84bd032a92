//! Writes the packets that smoltcp does not: UDP datagrams, echo messages and lone TCP resets.
//!
//! ```text
//! | IPv4 header (20) or IPv6 header (40) | UDP or ICMP header (8), TCP header (20) | payload |
//! ```
//!
//! Nothing is fragmented: "don't fragment" is set, and what does not fit is refused before.

use std::net::{IpAddr, SocketAddr};

use mstunnel_proto::packet::checksum::Sum;
use mstunnel_proto::packet::{Family, Packet, Protocol};

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const HOP_LIMIT: u8 = 64;
const DONT_FRAGMENT: u8 = 0x40;

/// The header of UDP, and of an ICMP echo.
pub(super) const HEADER: usize = 8;

/// The length of an IP header of ours to `destination`.
pub(super) fn ip_header_len(destination: IpAddr) -> usize {
    if destination.is_ipv4() { V4_HEADER } else { V6_HEADER }
}

/// Where the payload of a UDP datagram or an echo message to `destination` starts.
pub(super) fn payload_offset(destination: IpAddr) -> usize {
    ip_header_len(destination) + HEADER
}

/// Writes the headers of a UDP datagram around the `payload_len` bytes that are at [`payload_offset`] already;
/// `None` when they do not fit or the families differ.
pub(super) fn udp(room: &mut [u8], from: SocketAddr, to: SocketAddr, payload_len: usize) -> Option<usize> {
    let datagram_len = HEADER + payload_len;
    let (len, datagram) = ip(room, from.ip(), to.ip(), 17, datagram_len)?;
    datagram[..2].copy_from_slice(&from.port().to_be_bytes());
    datagram[2..4].copy_from_slice(&to.port().to_be_bytes());
    datagram[4..6].copy_from_slice(&u16::try_from(datagram_len).ok()?.to_be_bytes());
    datagram[6..8].fill(0);
    let sum = Sum::pseudo_header(from.ip(), to.ip(), 17, u32::try_from(datagram_len).ok()?).bytes(datagram);
    // RFC 768: a computed zero is sent as all ones, zero means "no checksum".
    let checksum = if sum.checksum() == 0 { 0xFFFF } else { sum.checksum() };
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    Some(len)
}

/// Writes an echo reply around the `payload_len` bytes that are at [`payload_offset`] already; `None` as in [`udp`].
pub(super) fn echo_reply(
    room: &mut [u8],
    from: IpAddr,
    to: IpAddr,
    (id, sequence): (u16, u16),
    payload_len: usize,
) -> Option<usize> {
    let message_len = HEADER + payload_len;
    let (protocol, kind) = if to.is_ipv4() { (1, 0) } else { (58, 129) };
    let (len, message) = ip(room, from, to, protocol, message_len)?;
    message[..4].copy_from_slice(&[kind, 0, 0, 0]);
    message[4..6].copy_from_slice(&id.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let sum = match to {
        IpAddr::V4(_) => Sum::default(),
        IpAddr::V6(_) => Sum::pseudo_header(from, to, protocol, u32::try_from(message_len).ok()?),
    };
    let checksum = sum.bytes(message).checksum();
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    Some(len)
}

/// Writes the reset that refuses `segment`, a valid TCP segment; `None` when there must be none.
///
/// # Source
/// RFC 9293 section 3.10.7.1: a reset is not answered; without ACK, sequence 0 and an acknowledgement of all that
/// the segment occupies; with ACK, its acknowledgement as the sequence.
pub(super) fn reset(room: &mut [u8], segment: &Packet<'_>) -> Option<usize> {
    let tcp = segment.tcp()?;
    if tcp.is_rst() {
        return None;
    }
    let (from, to) = (segment.destination(), segment.source());
    let header = segment.payload();
    let (len, answer) = ip(room, from, to, 6, TCP_HEADER)?;
    answer.fill(0);
    answer[..2].copy_from_slice(&tcp.destination_port().to_be_bytes());
    answer[2..4].copy_from_slice(&tcp.source_port().to_be_bytes());
    answer[12] = 5 << 4;
    if tcp.is_ack() {
        answer[4..8].copy_from_slice(&header[8..12]);
        answer[13] = 0x04;
    } else {
        answer[8..12].copy_from_slice(&tcp.end().to_be_bytes());
        answer[13] = 0x14;
    }
    let sum = Sum::pseudo_header(from, to, 6, u32::try_from(TCP_HEADER).ok()?).bytes(answer);
    answer[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
    Some(len)
}

/// Whether the checksum of a whole TCP segment, UDP datagram or ICMP message is right.
pub(super) fn is_intact(packet: &Packet<'_>) -> bool {
    let payload = packet.payload();
    let protocol = packet.protocol();
    let sum = match protocol {
        Protocol::Icmp => Sum::default(),
        Protocol::Udp if packet.family() == Family::V4 && payload[6..8] == [0, 0] => return true,
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

    const PAIRS: [(&str, &str); 2] = [("10.9.0.5:5000", "10.20.0.2:53"), ("[fd00::5]:5000", "[fd00::2]:53")];

    fn datagram(room: &mut [u8], from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Option<usize> {
        let at = payload_offset(to.ip());
        room.get_mut(at..at + payload.len())?.copy_from_slice(payload);
        udp(room, from, to, payload.len())
    }

    #[test]
    fn datagrams_of_both_families_read_back_with_right_checksums() {
        for (from, to) in PAIRS {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let mut room = [0xAA; 100];
            let len = datagram(&mut room, from, to, b"odd").unwrap();
            let packet = Packet::parse(&room[..len]).unwrap();
            assert!(is_intact(&packet));
            assert_eq!(packet.udp().unwrap().payload(), b"odd");
            assert_eq!((packet.source(), packet.destination()), (from.ip(), to.ip()));
            room[len - 1] ^= 1;
            assert!(!is_intact(&Packet::parse(&room[..len]).unwrap()));
        }
    }

    #[test]
    fn echo_replies_of_both_families_have_right_checksums() {
        for (from, to) in PAIRS {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let mut room = [7; 200];
            let len = echo_reply(&mut room, from.ip(), to.ip(), (9, 1), 56).unwrap();
            let packet = Packet::parse(&room[..len]).unwrap();
            assert!(is_intact(&packet));
            assert_eq!(packet.icmp().unwrap().echo_id(), Some(9));
        }
    }

    /// A SYN of either family, with a right checksum.
    fn syn(room: &mut [u8], from: SocketAddr, to: SocketAddr, flags: u8) -> usize {
        let (len, segment) = ip(room, from.ip(), to.ip(), 6, TCP_HEADER).unwrap();
        segment.fill(0);
        segment[..2].copy_from_slice(&from.port().to_be_bytes());
        segment[2..4].copy_from_slice(&to.port().to_be_bytes());
        segment[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        segment[8..12].copy_from_slice(&77_u32.to_be_bytes());
        segment[12] = 5 << 4;
        segment[13] = flags;
        let sum = Sum::pseudo_header(from.ip(), to.ip(), 6, 20).bytes(segment);
        segment[16..18].copy_from_slice(&sum.checksum().to_be_bytes());
        len
    }

    #[test]
    fn a_reset_says_which_segment_it_refuses() {
        for (from, to) in PAIRS {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let (mut segment, mut room) = ([0; 100], [0xAA; 100]);
            let len = syn(&mut segment, from, to, 0x02);
            let len = reset(&mut room, &Packet::parse(&segment[..len]).unwrap()).unwrap();
            let answer = Packet::parse(&room[..len]).unwrap();
            let tcp = answer.tcp().unwrap();
            assert!(is_intact(&answer) && tcp.is_rst() && tcp.is_ack());
            assert_eq!((tcp.source_port(), tcp.destination_port()), (to.port(), from.port()));
            // The sequence wraps: 2^32 - 1 + SYN.
            assert_eq!(answer.payload()[8..12], [0; 4]);

            let len = syn(&mut segment, from, to, 0x10);
            let len = reset(&mut room, &Packet::parse(&segment[..len]).unwrap()).unwrap();
            let answer = Packet::parse(&room[..len]).unwrap();
            assert!(is_intact(&answer) && answer.tcp().unwrap().is_rst() && !answer.tcp().unwrap().is_ack());
            assert_eq!(answer.payload()[4..8], 77_u32.to_be_bytes());

            let len = syn(&mut segment, from, to, 0x04);
            assert_eq!(reset(&mut room, &Packet::parse(&segment[..len]).unwrap()), None);
        }
    }

    #[test]
    fn what_does_not_fit_or_mixes_families_is_not_written() {
        let (v4, v6) = ("10.9.0.5:1".parse().unwrap(), "[fd00::5]:1".parse().unwrap());
        assert_eq!(udp(&mut [0; 30], v4, v4, 3), None);
        assert_eq!(udp(&mut [0; 100], v4, v6, 3), None);
    }
}
