//! The MSS option of TCP SYN segments, lowered to what fits the tunnel (R9).
//!
//! ```text
//! TCP options   ... | 2 | 4 |  MSS  | ...      at any offset, odd ones included
//! ```
//!
//! # Source
//! RFC 9293 section 3.7.1: the MSS is the MTU without the fixed headers, options not counted.

use super::checksum::Change;
use super::{Family, Packet, u16_at, v4, v6};

const TCP_HEADER: u16 = 20;
const TCP_CHECKSUM: usize = 16;
const TCP_OPTIONS: usize = 20;
const TCP_FLAGS: usize = 13;
const SYN: u8 = 0x02;
const TCP: u8 = 6;

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;

/// Lowers the MSS of a TCP SYN (with or without ACK) to what a packet of `mtu` bytes carries.
///
/// Returns whether it changed the packet; then the TCP checksum is updated too. Never raises an MSS, and
/// leaves alone what is not a valid packet. The checksum must be complete, not one that a network card was
/// to finish. Nearly free for all other packets; never allocates.
pub fn clamp_mss(packet: &mut [u8], mtu: u16) -> bool {
    if !may_be_syn(packet) {
        return false;
    }
    let Ok(view) = Packet::parse(packet) else { return false };
    let Some(tcp) = view.tcp().filter(|tcp| tcp.is_syn()) else { return false };
    let fixed_header = match view.family() {
        Family::V4 => v4::HEADER,
        Family::V6 => v6::HEADER,
    };
    let options = tcp.options().len();
    let most = usize::from(mtu.saturating_sub(TCP_HEADER)).saturating_sub(fixed_header);
    let Ok(most) = u16::try_from(most) else { return false };
    let segment = view.transport_offset();
    lower(&mut packet[segment..], TCP_OPTIONS + options, most)
}

/// Says no for most packets after a few bytes, so that only SYN segments are looked at closely.
fn may_be_syn(packet: &[u8]) -> bool {
    let flags_at = match *packet {
        [first, ..] if first >> 4 == 4 && packet.get(9) == Some(&TCP) => {
            usize::from(first & 0x0F) * 4 + TCP_FLAGS
        }
        [first, ..] if first >> 4 == 6 => match packet.get(6) {
            Some(&TCP) => v6::HEADER + TCP_FLAGS,
            Some(0 | 43 | 44 | 51 | 60 | 135 | 139 | 140) => return true, // behind extension headers
            _ => return false,
        },
        _ => return false,
    };
    packet.get(flags_at).is_some_and(|flags| flags & SYN != 0)
}

/// Lowers every MSS option in the header of `segment`, which ends at `header_len`, to `most`.
fn lower(segment: &mut [u8], header_len: usize, most: u16) -> bool {
    let mut changed = false;
    let mut at = TCP_OPTIONS;
    while at + 1 < header_len {
        let len = usize::from(segment[at + 1]);
        match segment[at] {
            END_OF_OPTIONS => break,
            NO_OPERATION => {
                at += 1;
                continue;
            }
            MAXIMUM_SEGMENT_SIZE if len == 4 && at + len <= header_len && u16_at(segment, at + 2) > most => {
                replace(segment, at + 2, most);
                changed = true;
            }
            _ if len < 2 => break,
            _ => {}
        }
        at += len;
    }
    changed
}

/// Writes `value` at `at`, odd or even, and updates the checksum over the aligned words it touches.
fn replace(segment: &mut [u8], at: usize, value: u16) {
    let words = at & !1..(at + 3) & !1;
    let mut old = [0; 4];
    old[..words.len()].copy_from_slice(&segment[words.clone()]);
    segment[at..at + 2].copy_from_slice(&value.to_be_bytes());
    let change = Change::default().bytes(&old[..words.len()], &segment[words]);
    let checksum = change.apply(u16_at(segment, TCP_CHECKSUM));
    segment[TCP_CHECKSUM..TCP_CHECKSUM + 2].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::super::testing::*;
    use super::*;

    const SYN_ACK: u8 = 0x12;

    fn checksum_is_right(packet: &[u8]) -> bool {
        let view = Packet::parse(packet).unwrap();
        naive_transport(view.source(), view.destination(), TCP, view.payload()) == 0
    }

    fn mss(packet: &[u8]) -> Vec<u16> {
        let options = Packet::parse(packet).unwrap().tcp().unwrap().options();
        let mut found = Vec::new();
        let mut at = 0;
        while at < options.len() && options[at] != 0 {
            if options[at] == 1 {
                at += 1;
                continue;
            }
            if options[at] == 2 {
                found.push(u16_at(options, at + 2));
            }
            at += usize::from(options[at + 1]);
        }
        found
    }

    /// Covers: R9
    #[test]
    fn a_syn_is_lowered_to_the_mtu_in_both_directions_and_families() {
        for (is_v4, fits) in [(true, 1_360), (false, 1_340)] {
            for flags in [SYN, SYN_ACK] {
                let mut packet = tcp_packet(is_v4, flags, &[2, 4, 0x05, 0xB4], b"");
                assert!(clamp_mss(&mut packet, 1_400));
                assert_eq!(mss(&packet), [fits]);
                assert!(checksum_is_right(&packet));
                let done = packet.clone();
                assert!(!clamp_mss(&mut packet, 1_400));
                assert_eq!(packet, done);
            }
        }
    }

    /// Covers: R9, R44
    #[test]
    fn what_needs_no_change_is_left_alone() {
        let mss = [2, 4, 0x05, 0xB4];
        let fragment = ipv4(6, &[], 10, &tcp(SYN, &mss, b""));
        let udp = ipv4(17, &[], 0, &udp(&[2; 30]));
        let mut damaged = tcp_packet(true, SYN, &mss, b"");
        damaged[10] ^= 1;
        for before in [
            tcp_packet(true, 0x10, &mss, b""),
            tcp_packet(true, SYN, &[2, 4, 0x02, 0x18], b""),
            tcp_packet(true, SYN, &[], b""),
            tcp_packet(true, SYN, &[2, 3, 0xFF, 0xFF], b""),
            tcp_packet(true, SYN, &[0, 2, 4, 0xFF], &[0xFF; 8]),
            tcp_packet(true, SYN, &[1, 1, 2, 4], &[0xFF; 8]),
            tcp_packet(true, SYN, &[3, 0, 2, 4], &[0xFF; 8]),
            fragment,
            udp,
            damaged,
            vec![],
            vec![0x45],
            vec![0x60; 7],
        ] {
            let mut after = before.clone();
            assert!(!clamp_mss(&mut after, 1_400), "{before:02x?}");
            assert_eq!(after, before);
        }
    }

    #[test]
    fn a_syn_behind_extension_headers_is_found() {
        let mut segment = tcp(SYN, &[2, 4, 0x05, 0xB4], b"");
        let checksum = naive_transport(IpAddr::from(CLIENT_V6), IpAddr::from(HOST_V6), TCP, &segment);
        segment[16..18].copy_from_slice(&checksum.to_be_bytes());
        let mut packet = ipv6(60, &[&[6, 0, 1, 4, 0, 0, 0, 0][..], &segment].concat());
        assert!(clamp_mss(&mut packet, 1_280));
        assert_eq!(mss(&packet), [1_220]);
        assert!(checksum_is_right(&packet));
    }

    proptest! {
        /// Covers: R9, R44, P-068
        #[test]
        fn the_checksum_stays_right_wherever_the_option_stands(
            is_v4 in any::<bool>(),
            padding in 0_usize..8,
            values in proptest::collection::vec(prop_oneof![Just(0_u16), Just(0xFFFF), any::<u16>()], 1..4),
            payload in proptest::collection::vec(any::<u8>(), 0..40),
            mtu in prop_oneof![Just(0_u16), Just(1_280), Just(u16::MAX), any::<u16>()],
        ) {
            let mut options = vec![1; padding];
            for value in &values {
                options.extend([2, 4]);
                options.extend(value.to_be_bytes());
            }
            options.resize(options.len().next_multiple_of(4), 0);
            let before = tcp_packet(is_v4, SYN, &options, &payload);
            let mut after = before.clone();
            let changed = clamp_mss(&mut after, mtu);
            let most = mtu.saturating_sub(if is_v4 { 40 } else { 60 });
            prop_assert_eq!(changed, values.iter().any(|value| *value > most));
            prop_assert_eq!(mss(&after), values.iter().map(|value| *value.min(&most)).collect::<Vec<_>>());
            prop_assert!(checksum_is_right(&after));
            let differs = before.iter().zip(&after).filter(|(a, b)| a != b).count();
            prop_assert!(differs <= 2 * values.len() + 2, "only the values and the checksum");
        }
    }
}
