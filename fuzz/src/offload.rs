//! Super-packets: any bytes as one that is split, and any packets joined and split again.

use std::collections::BTreeMap;

use mstunnel_proto::packet::Packet;
use mstunnel_proto::packet::offload::{Coalescer, MAX_SUPER_PACKET, Push, Segments};

use crate::checksums::make_right;

/// What a device may hand over, header first: the parts of a super-packet are packets.
pub fn super_packet(data: &[u8]) {
    let is_split = data.get(1).is_some_and(|kind| kind & 0x7F != 0);
    for part in split(data) {
        assert!(!is_split || Packet::parse(&part).is_ok(), "a part is no packet");
    }
}

/// Packets, each behind its length in two bytes: what was joined comes apart as it was, each flow in its order.
///
/// The first byte says whether the checksums are made right first, without which nothing ever joins.
pub fn coalesce(data: &[u8]) {
    let Some((&first, mut data)) = data.split_first() else { return };
    let mut packets = Vec::new();
    while let Some((len, rest)) = data.split_first_chunk::<2>() {
        let (packet, rest) = rest.split_at(usize::from(u16::from_be_bytes(*len)).min(rest.len()));
        let mut packet = packet.to_vec();
        if first & 1 == 0 {
            make_right(&mut packet);
        }
        packets.push(packet);
        data = rest;
    }
    let mut coalescer = Coalescer::new(first & 2 == 0);
    let mut left = Vec::new();
    for packet in &packets {
        let push = coalescer.push(packet);
        take_due(&mut coalescer, &mut left);
        if push == Push::Alone {
            left.push(packet.clone());
        }
    }
    coalescer.close();
    take_due(&mut coalescer, &mut left);
    assert_eq!(by_flow(&left), by_flow(&packets), "a flow has changed");
}

fn take_due(coalescer: &mut Coalescer, left: &mut Vec<Vec<u8>>) {
    while let Some(joined) = coalescer.poll_due() {
        let parts = split(joined.bytes);
        assert_eq!(parts.len() as u64, joined.packets);
        left.extend(parts);
    }
}

fn split(read: &[u8]) -> Vec<Vec<u8>> {
    let (mut segments, mut out, mut parts) = (Segments::new(read), vec![0; MAX_SUPER_PACKET], Vec::new());
    while let Some(next) = segments.next_into(&mut out) {
        parts.extend(next.map(|len| out[..len].to_vec()));
    }
    parts
}

type Flow = (Option<std::net::IpAddr>, Option<std::net::IpAddr>, u8, Option<(u16, u16)>);

fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<Flow, Vec<Vec<u8>>> {
    let mut flows: BTreeMap<Flow, Vec<Vec<u8>>> = BTreeMap::new();
    for packet in packets {
        let view = Packet::parse(packet).ok();
        let whole = view.filter(|view| view.fragment().is_none());
        let flow = (
            view.map(|view| view.source()),
            view.map(|view| view.destination()),
            view.map_or(0, |view| view.protocol().number()),
            whole.and_then(|view| view.ports()),
        );
        let mut packet = packet.clone();
        // The identification of a packet that must not be fragmented means nothing (RFC 6864).
        if view.is_some() && packet[0] >> 4 == 4 && packet[6] & 0x40 != 0 {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
        flows.entry(flow).or_default().push(packet);
    }
    flows
}
