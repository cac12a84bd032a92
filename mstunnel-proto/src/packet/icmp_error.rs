//! ICMP errors: what tells a sender that its packet does not fit, or that nobody takes it (R9, R48).
//!
//! ```text
//! ICMPv4  | type | code | checksum | 0 | next-hop MTU |  the packet, to 576 bytes in all
//! ICMPv6  | type | code | checksum |       MTU        |  the packet, to 1,280 bytes in all
//! ```
//!
//! # Source
//! RFC 1191 section 4, RFC 4443 sections 3.1 and 3.2; when none is sent: RFC 1812 section 4.3.2.7 and RFC 4443
//! section 2.4 (e). The exception that RFC 4443 makes for multicast is not used (R48).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::Sum;
use super::{Packet, v4, v6};
use crate::buf::PacketBuf;

/// The longest ICMPv4 error. RFC 1812 section 4.3.2.3.
const MAX_ERROR_V4: usize = 576;

/// The longest ICMPv6 error: the smallest MTU of IPv6. RFC 4443 section 2.4 (c).
const MAX_ERROR_V6: usize = 1_280;

const ICMP_HEADER: usize = 8;
const HOP_LIMIT: u8 = 64;
/// Internetwork control, as RFC 1812 section 4.3.2.5 asks for errors.
const PRECEDENCE: u8 = 0xC0;
const DONT_FRAGMENT: u8 = 0x40;

/// Why nobody takes a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// No way to the host, or no answer from it.
    Host,
    /// Nobody listens on the port.
    Port,
    /// The protocol is not carried.
    Protocol,
    /// It is not allowed.
    Prohibited,
}

impl Unreachable {
    /// Type and code of ICMPv4.
    const fn v4(self) -> (u8, u8) {
        match self {
            Self::Host => (3, 1),
            Self::Protocol => (3, 2),
            Self::Port => (3, 3),
            Self::Prohibited => (3, 13),
        }
    }

    /// Type and code of ICMPv6; a protocol that is not carried is "unrecognized next header".
    const fn v6(self) -> (u8, u8) {
        match self {
            Self::Host => (1, 3),
            Self::Protocol => (4, 1),
            Self::Port => (1, 4),
            Self::Prohibited => (1, 1),
        }
    }
}

/// Type, code and the last four header bytes of an error, for each family.
#[derive(Clone, Copy)]
struct Kind {
    v4: (u8, u8),
    v6: (u8, u8),
    field: u32,
}

/// Writes to `out` the answer to `original`, a packet of more than `mtu` bytes, on behalf of `from`.
///
/// Returns false, and leaves `out` empty, when there must be no answer: `original` is not valid, is
/// an ICMP error or a later fragment, goes to or comes from anything but one host, or is of another
/// family than `from`. Also answers IPv4 packets without "don't fragment", because the tunnel never
/// fragments. How often it is called is for the caller to limit. Never allocates.
#[must_use]
pub fn too_big(original: &[u8], mtu: u16, from: IpAddr, out: &mut PacketBuf) -> bool {
    write(original, Kind { v4: (3, 4), v6: (2, 0), field: mtu.into() }, from, out)
}

/// Writes to `out` that nobody takes `original`, on behalf of `from`; under the same conditions as [`too_big`].
#[must_use]
pub fn unreachable(original: &[u8], why: Unreachable, from: IpAddr, out: &mut PacketBuf) -> bool {
    write(original, Kind { v4: why.v4(), v6: why.v6(), field: 0 }, from, out)
}

fn write(original: &[u8], kind: Kind, from: IpAddr, out: &mut PacketBuf) -> bool {
    out.clear();
    let Ok(packet) = Packet::parse(original) else { return false };
    if packet.is_icmp_error() || packet.is_later_fragment() || packet.is_multicast() || packet.is_broadcast()
    {
        return false;
    }
    let room = out.room();
    let len = match (from, packet.source()) {
        (IpAddr::V4(from), IpAddr::V4(to)) if is_host_v4(to) => write_v4(original, kind, from, to, room),
        (IpAddr::V6(from), IpAddr::V6(to)) if is_host_v6(to) => write_v6(original, kind, from, to, room),
        _ => None,
    };
    out.set_len(len.unwrap_or(0));
    len.is_some()
}

fn is_host_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224
}

fn is_host_v6(address: Ipv6Addr) -> bool {
    !address.is_unspecified() && !address.is_loopback() && !address.is_multicast()
}

fn write_v4(original: &[u8], kind: Kind, from: Ipv4Addr, to: Ipv4Addr, room: &mut [u8]) -> Option<usize> {
    let len = MAX_ERROR_V4.min(room.len()).min(v4::HEADER + ICMP_HEADER + original.len());
    let quote = len.checked_sub(v4::HEADER + ICMP_HEADER)?;
    let packet = &mut room[..len];
    packet.fill(0);
    packet[0] = 0x45;
    packet[1] = PRECEDENCE;
    packet[2..4].copy_from_slice(&u16::try_from(len).ok()?.to_be_bytes());
    packet[6] = DONT_FRAGMENT;
    packet[8] = HOP_LIMIT;
    packet[9] = 1;
    packet[v4::SOURCE..][..4].copy_from_slice(&from.octets());
    packet[v4::DESTINATION..][..4].copy_from_slice(&to.octets());
    let (header, icmp) = packet.split_at_mut(v4::HEADER);
    let checksum = Sum::default().bytes(header).checksum();
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    (icmp[0], icmp[1]) = kind.v4;
    icmp[4..8].copy_from_slice(&kind.field.to_be_bytes());
    icmp[ICMP_HEADER..].copy_from_slice(&original[..quote]);
    let checksum = Sum::default().bytes(icmp).checksum();
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    Some(len)
}

fn write_v6(original: &[u8], kind: Kind, from: Ipv6Addr, to: Ipv6Addr, room: &mut [u8]) -> Option<usize> {
    let len = MAX_ERROR_V6.min(room.len()).min(v6::HEADER + ICMP_HEADER + original.len());
    let quote = len.checked_sub(v6::HEADER + ICMP_HEADER)?;
    let payload = u16::try_from(len - v6::HEADER).ok()?;
    let packet = &mut room[..len];
    packet.fill(0);
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&payload.to_be_bytes());
    packet[6] = 58;
    packet[7] = HOP_LIMIT;
    packet[v6::SOURCE..][..16].copy_from_slice(&from.octets());
    packet[v6::DESTINATION..][..16].copy_from_slice(&to.octets());
    let icmp = &mut packet[v6::HEADER..];
    (icmp[0], icmp[1]) = kind.v6;
    icmp[4..8].copy_from_slice(&kind.field.to_be_bytes());
    icmp[ICMP_HEADER..].copy_from_slice(&original[..quote]);
    let pseudo = Sum::pseudo_header(from.into(), to.into(), 58, payload.into());
    let checksum = pseudo.bytes(icmp).checksum();
    icmp[2..4].copy_from_slice(&checksum.to_be_bytes());
    Some(len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::*;
    use super::*;

    const SERVER_V4: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const SERVER_V6: Ipv6Addr = Ipv6Addr::new(0xFD00, 0, 0, 0, 0, 0, 0, 1);

    fn answer(original: &[u8], mtu: u16) -> Option<Vec<u8>> {
        let from: IpAddr = if original[0] >> 4 == 4 { SERVER_V4.into() } else { SERVER_V6.into() };
        let mut out = PacketBuf::new(2_000);
        too_big(original, mtu, from, &mut out).then(|| out.as_slice().to_vec())
    }

    /// Covers: R9
    #[test]
    fn the_sender_is_told_the_mtu_with_its_packet_quoted() {
        let original = tcp_packet(true, 0x10, &[], &[7; 1_400]);
        let bytes = answer(&original, 1_300).unwrap();
        assert_eq!(bytes.len(), 576);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.source(), packet.destination()), (SERVER_V4.into(), CLIENT_V4.into()));
        let icmp = packet.icmp().unwrap();
        assert_eq!((icmp.kind(), icmp.code(), icmp.body()), (3, 4, &original[..548]));
        assert_eq!(packet.payload()[4..8], [0, 0, 0x05, 0x14]);
        assert_eq!(naive_checksum(packet.payload()), 0);

        let original = tcp_packet(false, 0x10, &[], &[7; 1_400]);
        let bytes = answer(&original, 1_300).unwrap();
        assert_eq!(bytes.len(), 1_280);
        let packet = Packet::parse(&bytes).unwrap();
        assert_eq!((packet.source(), packet.destination()), (SERVER_V6.into(), CLIENT_V6.into()));
        let icmp = packet.icmp().unwrap();
        assert_eq!((icmp.kind(), icmp.code(), icmp.body()), (2, 0, &original[..1_232]));
        assert_eq!(packet.payload()[4..8], [0, 0, 0x05, 0x14]);
        assert_eq!(naive_transport(SERVER_V6.into(), CLIENT_V6.into(), 58, packet.payload()), 0);
    }

    #[test]
    fn a_short_packet_is_quoted_whole() {
        let original = ipv4(17, &[], 0x4000, &udp(b"abc"));
        assert_eq!(answer(&original, 20).unwrap()[28..], original);
        let original = ipv6(17, &udp(b"abc"));
        assert_eq!(answer(&original, 20).unwrap()[48..], original);
    }

    /// Covers: R48
    #[test]
    fn nothing_answers_an_icmp_error_a_later_fragment_or_a_group() {
        let message = |kind| [kind, 0, 0, 0, 0, 0, 0, 0];
        for kind in [3, 4, 5, 11, 12] {
            assert_eq!(answer(&ipv4(1, &[], 0, &message(kind)), 1_300), None, "{kind}");
        }
        for kind in [1, 2, 3, 4, 100, 127, 137] {
            assert_eq!(answer(&ipv6(58, &message(kind)), 1_300), None, "{kind}");
        }
        assert!(answer(&ipv4(1, &[], 0, &message(8)), 1_300).is_some());
        assert!(answer(&ipv6(58, &message(128)), 1_300).is_some());
        assert_eq!(answer(&ipv4(17, &[], 100, &[0; 20]), 1_300), None);
        assert!(answer(&ipv4(17, &[], 0x2000, &udp(&[0; 8])), 1_300).is_some());
        assert_eq!(answer(&ipv6(44, &[&fragment_v6(17, 80, false)[..], b"rest"].concat()), 1_300), None);
        assert_eq!(answer(&ipv4(17, &[], 0, b"cut"), 1_300), None, "not valid at all");

        for (at, octets) in [
            (16, [224, 0, 0, 1]),
            (16, [255, 255, 255, 255]),
            (12, [0, 0, 0, 0]),
            (12, [0, 1, 2, 3]),
            (12, [127, 0, 0, 1]),
            (12, [224, 0, 0, 1]),
            (12, [240, 0, 0, 1]),
            (12, [255, 255, 255, 255]),
        ] {
            let mut original = ipv4(17, &[], 0, &udp(b""));
            original[at..at + 4].copy_from_slice(&octets);
            fix_header(&mut original);
            assert_eq!(answer(&original, 1_300), None, "{octets:?} at {at}");
        }
        for (at, address) in [(24, "ff02::1"), (8, "::"), (8, "::1"), (8, "ff02::1")] {
            let mut original = ipv6(17, &udp(b""));
            original[at..at + 16].copy_from_slice(&address.parse::<Ipv6Addr>().unwrap().octets());
            assert_eq!(answer(&original, 1_300), None, "{address} at {at}");
        }
    }

    #[test]
    fn a_server_address_of_the_other_family_does_not_answer() {
        let mut out = PacketBuf::new(2_000);
        assert!(!too_big(&ipv4(17, &[], 0, &udp(b"")), 1_300, SERVER_V6.into(), &mut out));
        assert!(!too_big(&ipv6(17, &udp(b"")), 1_300, SERVER_V4.into(), &mut out));
        assert!(out.is_empty());
    }

    proptest! {
        /// Covers: R48, P-067
        #[test]
        fn an_answer_is_valid_fits_and_is_never_answered(original in some_packet(), mtu in any::<u16>(), room in 0_usize..1_400) {
            let from: IpAddr = if original[0] >> 4 == 4 { SERVER_V4.into() } else { SERVER_V6.into() };
            let mut out = PacketBuf::new(room);
            if too_big(&original, mtu, from, &mut out) {
                prop_assert!(out.len() <= room.min(1_280));
                prop_assert!(Packet::parse(out.as_slice()).unwrap().is_icmp_error());
                prop_assert_eq!(answer(out.as_slice(), mtu), None);
            } else {
                prop_assert!(out.is_empty());
            }
        }
    }

    #[test]
    fn an_unreachable_says_why_in_either_family() {
        let v4 = tcp_packet(true, 0x02, &[], &[]);
        let v6 = tcp_packet(false, 0x02, &[], &[]);
        for (why, want_v4, want_v6) in [
            (Unreachable::Host, (3, 1), (1, 3)),
            (Unreachable::Protocol, (3, 2), (4, 1)),
            (Unreachable::Port, (3, 3), (1, 4)),
            (Unreachable::Prohibited, (3, 13), (1, 1)),
        ] {
            for (original, from, want) in
                [(&v4, IpAddr::from(SERVER_V4), want_v4), (&v6, IpAddr::from(SERVER_V6), want_v6)]
            {
                let mut out = PacketBuf::new(2_000);
                assert!(unreachable(original, why, from, &mut out));
                let packet = Packet::parse(out.as_slice()).unwrap();
                let icmp = packet.icmp().unwrap();
                assert_eq!((icmp.kind(), icmp.code(), icmp.body()), (want.0, want.1, &original[..]));
                assert_eq!(packet.payload()[4..8], [0; 4]);
            }
        }
    }
}
