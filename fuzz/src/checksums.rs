//! The checksums that a sender would write: without them most packets are dropped before anything looks at them.

use mstunnel_proto::packet::checksum::Sum;
use mstunnel_proto::packet::{Packet, Protocol};

/// Writes them, where there is something to write them to.
pub(crate) fn make_right(packet: &mut [u8]) {
    if packet.first().is_some_and(|first| first >> 4 == 4) {
        let header = usize::from(packet[0] & 0x0F) * 4;
        if (20..=packet.len()).contains(&header) {
            packet[10..12].fill(0);
            let checksum = Sum::default().bytes(&packet[..header]).checksum();
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        }
    }
    let Ok(view) = Packet::parse(packet) else { return };
    let field = match view.protocol() {
        Protocol::Tcp => 16,
        Protocol::Udp => 6,
        Protocol::Icmp | Protocol::Icmpv6 => 2,
        // Those of the other family's ICMP among them, whose header nobody has looked at.
        Protocol::Other(_) => return,
    };
    if view.is_later_fragment() {
        return;
    }
    let (source, destination, number) = (view.source(), view.destination(), view.protocol().number());
    let transport = view.transport_offset();
    let segment = &mut packet[transport..];
    segment[field..field + 2].fill(0);
    let len = u32::try_from(segment.len()).expect("a packet is short");
    let start = match number {
        1 => Sum::default(),
        _ => Sum::pseudo_header(source, destination, number, len),
    };
    let checksum = match start.bytes(segment).checksum() {
        0 if number == 17 => 0xFFFF,
        checksum => checksum,
    };
    segment[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
}
