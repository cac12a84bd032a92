//! Splitting beside a sender that writes each packet by itself; joining beside splitting.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::prelude::*;

use super::super::Packet;
use super::super::testing::{
    CLIENT_V4, CLIENT_V6, HOST_V4, HOST_V6, fix_header, naive_checksum, naive_transport,
};
use super::*;
use crate::drop::DropReason;

const PSH_ACK: u8 = tcp::ACK | tcp::PSH;

/// One packet of a flow, in the words of its sender.
#[derive(Clone, Debug)]
struct Sent {
    is_v4: bool,
    is_tcp: bool,
    port: u16,
    identification: u16,
    fragmenting: u16,
    hops: u8,
    class: u8,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
    window: u16,
    urgent: u16,
    options: Vec<u8>,
    payload: Vec<u8>,
}

impl Sent {
    fn new(is_v4: bool, is_tcp: bool, payload: usize) -> Self {
        Self {
            is_v4,
            is_tcp,
            port: 4_000,
            identification: 0xFFFE,
            fragmenting: 0,
            hops: 64,
            class: 0,
            sequence: u32::MAX - 1_000,
            acknowledged: 7,
            flags: tcp::ACK,
            window: 501,
            urgent: 0,
            options: vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2],
            payload: (0..payload).map(|at| u8::try_from(at % 251).unwrap()).collect(),
        }
    }

    fn addresses(&self) -> (IpAddr, IpAddr) {
        if self.is_v4 { (CLIENT_V4.into(), HOST_V4.into()) } else { (CLIENT_V6.into(), HOST_V6.into()) }
    }

    fn transport(&self) -> Vec<u8> {
        let ports = [self.port.to_be_bytes(), 80_u16.to_be_bytes()].concat();
        let mut bytes = ports;
        if self.is_tcp {
            bytes.extend(self.sequence.to_be_bytes());
            bytes.extend(self.acknowledged.to_be_bytes());
            bytes.extend([u8::try_from(5 + self.options.len() / 4).unwrap() << 4, self.flags]);
            bytes.extend(self.window.to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend(self.urgent.to_be_bytes());
            bytes.extend(&self.options);
        } else {
            bytes.extend(u16::try_from(8 + self.payload.len()).unwrap().to_be_bytes());
            bytes.extend([0, 0]);
        }
        bytes.extend(&self.payload);
        bytes
    }

    fn ip(&self, transport: &[u8]) -> Vec<u8> {
        let protocol = if self.is_tcp { 6 } else { 17 };
        let mut packet;
        if self.is_v4 {
            packet = vec![0x45, self.class];
            packet.extend(u16::try_from(20 + transport.len()).unwrap().to_be_bytes());
            packet.extend(self.identification.to_be_bytes());
            packet.extend(self.fragmenting.to_be_bytes());
            packet.extend([self.hops, protocol, 0, 0]);
            packet.extend(CLIENT_V4.octets());
            packet.extend(HOST_V4.octets());
        } else {
            packet = vec![0x60 | self.class >> 4, self.class << 4, 0, 0];
            packet.extend(u16::try_from(transport.len()).unwrap().to_be_bytes());
            packet.extend([protocol, self.hops]);
            packet.extend(CLIENT_V6.octets());
            packet.extend(HOST_V6.octets());
        }
        packet.extend(transport);
        fix_header(&mut packet);
        packet
    }

    /// The packet as it is on the wire.
    fn bytes(&self) -> Vec<u8> {
        let mut transport = self.transport();
        let (source, destination) = self.addresses();
        let (protocol, at) = if self.is_tcp { (6, 16) } else { (17, 6) };
        let checksum = match naive_transport(source, destination, protocol, &transport) {
            0 if !self.is_tcp => 0xFFFF,
            checksum => checksum,
        };
        transport[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        self.ip(&transport)
    }

    fn transport_offset(&self) -> u16 {
        if self.is_v4 { 20 } else { 40 }
    }

    /// The super-packet as the kernel hands it out: unfinished checksum, and the header before it.
    fn super_packet(&self, segment: u16) -> Vec<u8> {
        let mut transport = self.transport();
        let (source, destination) = self.addresses();
        let (protocol, at, segmentation) = match (self.is_tcp, self.is_v4) {
            (true, true) => (6, 16, Segmentation::TcpV4),
            (true, false) => (6, 16, Segmentation::TcpV6),
            (false, _) => (17, 6, Segmentation::Udp),
        };
        let len = u32::try_from(transport.len()).unwrap();
        let pseudo = super::super::checksum::Sum::pseudo_header(source, destination, protocol, len).fold();
        transport[at..at + 2].copy_from_slice(&pseudo.to_be_bytes());
        let checksum = Some((self.transport_offset(), u16::try_from(at).unwrap()));
        let header = OffloadHeader { checksum, segmentation, headers: 0, segment };
        [&header.bytes()[..], &self.ip(&transport)].concat()
    }

    /// The packets that it would have sent one by one.
    fn one_by_one(&self, segment: usize) -> Vec<Self> {
        let count = self.payload.len().div_ceil(segment).max(1);
        let part = |index: usize| {
            let start = index * segment;
            let end = (start + segment).min(self.payload.len());
            let mut flags = self.flags;
            if index + 1 < count {
                flags &= !(tcp::FIN | tcp::PSH);
            }
            if index > 0 {
                flags &= !tcp::CWR;
            }
            Self {
                identification: self.identification.wrapping_add(u16::try_from(index).unwrap()),
                sequence: self.sequence.wrapping_add(u32::try_from(start).unwrap()),
                flags,
                payload: self.payload[start..end].to_vec(),
                ..self.clone()
            }
        };
        (0..count).map(part).collect()
    }
}

fn split(read: &[u8], room: usize) -> Vec<Result<Vec<u8>, DropReason>> {
    let mut segments = Segments::new(read);
    let mut out = vec![0xAA; room];
    let mut all = Vec::new();
    while let Some(next) = segments.next_into(&mut out) {
        all.push(next.map(|len| out[..len].to_vec()));
    }
    assert!(segments.next_into(&mut out).is_none());
    all
}

fn split_well(read: &[u8]) -> Vec<Vec<u8>> {
    split(read, MAX_SUPER_PACKET).into_iter().map(|packet| packet.expect("a packet")).collect()
}

/// Pushes each packet and splits what comes out; packets in the order in which they left, and how many writes it took.
fn joined_and_split(packets: &[Vec<u8>], udp: bool) -> (Vec<Vec<u8>>, usize) {
    fn drain(coalescer: &mut Coalescer, left: &mut Vec<Vec<u8>>) -> usize {
        let mut writes = 0;
        while let Some(joined) = coalescer.poll_due() {
            let split = split_well(joined.bytes);
            assert_eq!(split.len() as u64, joined.packets);
            assert_eq!(Packet::parse(&split[0]).unwrap().source(), joined.source);
            left.extend(split);
            writes += 1;
        }
        writes
    }
    let (mut coalescer, mut left, mut writes) = (Coalescer::new(udp), Vec::new(), 0);
    for packet in packets {
        let push = coalescer.push(packet);
        writes += drain(&mut coalescer, &mut left);
        if push == Push::Alone {
            left.push(packet.clone());
            writes += 1;
        }
    }
    coalescer.close();
    writes += drain(&mut coalescer, &mut left);
    assert!(coalescer.poll_due().is_none());
    (left, writes)
}

fn bytes_of(sent: &[Sent]) -> Vec<Vec<u8>> {
    sent.iter().map(Sent::bytes).collect()
}

#[test]
fn a_packet_without_segmentation_has_its_checksum_completed() {
    for (is_v4, is_tcp) in [(true, true), (true, false), (false, true), (false, false)] {
        let sent = Sent::new(is_v4, is_tcp, 33);
        let mut read = sent.super_packet(0);
        read[1] = 0;
        assert_eq!(split_well(&read), [sent.bytes()]);
        read[0] = 0;
        assert_eq!(split_well(&read), [read[HEADER_LEN..].to_vec()], "and is left alone when it is complete");
    }
}

#[test]
fn a_checksum_that_comes_out_as_zero_is_written_as_the_other_zero() {
    let mut sent = Sent::new(true, false, 20);
    // The one's complement of what all else adds up to.
    sent.payload[..2].fill(0);
    let (source, destination) = sent.addresses();
    let rest = naive_transport(source, destination, 17, &sent.transport());
    sent.payload[..2].copy_from_slice(&rest.to_be_bytes());
    let at = 20 + udp::CHECKSUM;
    assert_eq!(sent.bytes()[at..at + 2], [0xFF, 0xFF]);
    assert_eq!(split_well(&sent.super_packet(20)), [sent.bytes()]);
    let mut read = sent.super_packet(0);
    read[1] = 0;
    assert_eq!(split_well(&read), [sent.bytes()]);
}

#[test]
fn what_does_not_fit_is_said_packet_by_packet() {
    let sent = Sent::new(true, true, 250);
    let len = sent.one_by_one(100)[0].bytes().len();
    let too_big = Err(DropReason::TooBig);
    let last = sent.one_by_one(100)[2].bytes();
    assert_eq!(split(&sent.super_packet(100), len - 1), [too_big.clone(), too_big.clone(), Ok(last)]);
    assert_eq!(split(&sent.super_packet(100), 0), vec![too_big; 3]);
}

/// Covers: R44
#[test]
fn what_contradicts_its_header_is_malformed() {
    let good = Sent::new(true, true, 250).super_packet(100);
    let datagrams = Sent::new(true, false, 250).super_packet(100);
    let mut bad =
        vec![vec![], good[..9].to_vec(), good[..HEADER_LEN].to_vec(), good[..good.len() - 1].to_vec()];
    for (at, value) in [(1, 4), (1, 5), (1, 3), (4, 0), (HEADER_LEN, 0x65), (HEADER_LEN + 6, 0x20)] {
        let mut changed = good.clone();
        changed[at] = value;
        if at == 4 {
            changed[5] = 0;
        }
        fix_header(&mut changed[HEADER_LEN..]);
        bad.push(changed);
    }
    let mut changed = datagrams;
    changed[1] = 1;
    bad.push(changed);
    // A checksum behind the end.
    for (at, value) in [(6, 0xFFFF_u16), (8, 0xFFFF), (8, 300)] {
        let mut changed = good.clone();
        changed[1] = 0;
        changed[at..at + 2].copy_from_slice(&value.to_ne_bytes());
        bad.push(changed);
    }
    for read in bad {
        assert_eq!(split(&read, MAX_SUPER_PACKET), [Err(DropReason::Malformed)], "{read:02x?}");
    }
}

#[test]
fn a_stream_is_one_write_and_comes_apart_as_it_was() {
    for (is_v4, is_tcp) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut sent = Sent::new(is_v4, is_tcp, 40_050);
        sent.flags = PSH_ACK;
        let packets = bytes_of(&sent.one_by_one(1_000));
        assert_eq!(joined_and_split(&packets, true), (packets.clone(), 1), "v4 {is_v4}, tcp {is_tcp}");
    }
}

#[test]
fn datagrams_join_only_for_a_device_that_takes_them() {
    let packets = bytes_of(&Sent::new(true, false, 4_000).one_by_one(1_000));
    assert_eq!(joined_and_split(&packets, true).1, 1);
    assert_eq!(joined_and_split(&packets, false), (packets, 4));
}

#[test]
fn a_super_packet_is_no_longer_than_the_length_field_says_and_has_no_more_datagrams_than_the_kernel_takes() {
    let packets = bytes_of(&Sent::new(true, true, 60_000).one_by_one(1_000));
    let more = bytes_of(
        &Sent { sequence: (u32::MAX - 1_000).wrapping_add(60_000), ..Sent::new(true, true, 60_000) }
            .one_by_one(1_000),
    );
    let mut all = packets;
    let identification = 0xFFFE_u16.wrapping_add(60);
    let more = more.into_iter().enumerate().map(|(index, mut packet)| {
        let id = identification.wrapping_add(u16::try_from(index).unwrap());
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        fix_header(&mut packet);
        packet
    });
    all.extend(more);
    assert_eq!(joined_and_split(&all, true), (all.clone(), 2), "65 packets, then 55");
    let datagrams = bytes_of(&Sent::new(true, false, 100 * 65).one_by_one(100));
    assert_eq!(joined_and_split(&datagrams, true), (datagrams.clone(), 2), "64, then 1");
}

#[test]
fn what_differs_in_anything_does_not_join() {
    type Change = fn(&mut Sent);
    let tcp_changes: &[(&str, Change)] = &[
        ("FIN", |sent| sent.flags |= 0x01),
        ("SYN", |sent| sent.flags |= 0x02),
        ("RST", |sent| sent.flags |= 0x04),
        ("URG", |sent| sent.flags |= 0x20),
        ("ECE", |sent| sent.flags |= 0x40),
        ("CWR", |sent| sent.flags |= 0x80),
        ("no ACK", |sent| sent.flags = 0),
        ("another acknowledgement", |sent| sent.acknowledged += 1),
        ("another window", |sent| sent.window += 1),
        ("an urgent pointer", |sent| sent.urgent = 1),
        ("another timestamp", |sent| sent.options[7] += 1),
        ("fewer options", |sent| sent.options.truncate(4)),
        ("a gap", |sent| sent.sequence = sent.sequence.wrapping_add(1)),
        ("a repetition", |sent| sent.sequence = sent.sequence.wrapping_sub(100)),
        ("no payload", |sent| sent.payload.clear()),
    ];
    let ip_changes: &[(&str, Change)] = &[
        ("another port", |sent| sent.port += 1),
        ("another hop limit", |sent| sent.hops -= 1),
        ("another class", |sent| sent.class = 4),
        ("a longer one", |sent| sent.payload.push(0)),
    ];
    for (is_v4, is_tcp) in [(true, true), (true, false), (false, true), (false, false)] {
        let changes = ip_changes.iter().chain(tcp_changes.iter().filter(|_| is_tcp));
        for (name, change) in changes {
            let mut parts = Sent::new(is_v4, is_tcp, 200).one_by_one(100);
            assert_eq!(joined_and_split(&bytes_of(&parts), true).1, 1);
            change(&mut parts[1]);
            let packets = bytes_of(&parts);
            assert_eq!(joined_and_split(&packets, true), (packets.clone(), 2), "{name}");
        }
    }
}

#[test]
fn the_identification_counts_only_for_packets_that_may_be_fragmented() {
    for (fragmenting, writes) in [(0, 2), (0x4000, 1)] {
        let mut parts = Sent::new(true, true, 200).one_by_one(100);
        for part in &mut parts {
            part.fragmenting = fragmenting;
            part.identification = 0;
        }
        assert_eq!(joined_and_split(&bytes_of(&parts), true).1, writes);
    }
    let mut parts = Sent::new(true, true, 200).one_by_one(100);
    parts[1].fragmenting = 0x4000;
    assert_eq!(joined_and_split(&bytes_of(&parts), true).1, 2);
}

/// Joining would write a good checksum over damage.
#[test]
fn a_damaged_packet_stays_damaged() {
    for is_tcp in [true, false] {
        let mut packets = bytes_of(&Sent::new(true, is_tcp, 300).one_by_one(100));
        for damaged in 0..3 {
            *packets[damaged].last_mut().unwrap() ^= 1;
            let (left, writes) = joined_and_split(&packets, true);
            assert_eq!((left, writes), (packets.clone(), if damaged == 1 { 3 } else { 2 }));
            *packets[damaged].last_mut().unwrap() ^= 1;
        }
    }
    let mut unchecked = bytes_of(&Sent::new(true, false, 200).one_by_one(100));
    for packet in &mut unchecked {
        packet[26..28].fill(0);
    }
    assert_eq!(joined_and_split(&unchecked, true), (unchecked.clone(), 2), "no checksum at all");
}

/// Both zeros are right in TCP, but splitting writes the one that computing gives.
#[test]
fn a_checksum_that_nobody_computes_is_passed_on_as_it_is() {
    let mut parts = Sent::new(true, true, 200).one_by_one(100);
    parts[1].payload[..2].fill(0);
    let (source, destination) = parts[1].addresses();
    let rest = naive_transport(source, destination, 6, &parts[1].transport());
    parts[1].payload[..2].copy_from_slice(&rest.to_be_bytes());
    let mut packets = bytes_of(&parts);
    assert_eq!(packets[1][36..38], [0, 0]);
    assert_eq!(joined_and_split(&packets, true), (packets.clone(), 1));
    packets[1][36..38].fill(0xFF);
    assert_eq!(joined_and_split(&packets, true), (packets.clone(), 2));
}

#[test]
fn a_push_and_a_short_packet_end_a_super_packet() {
    let mut parts = Sent::new(true, true, 400).one_by_one(100);
    parts[1].flags = PSH_ACK;
    let packets = bytes_of(&parts);
    assert_eq!(joined_and_split(&packets, true), (packets.clone(), 2));
    let mut parts = Sent::new(true, true, 400).one_by_one(100);
    parts[1].payload.pop();
    for part in &mut parts[2..] {
        part.sequence = part.sequence.wrapping_sub(1);
    }
    let packets = bytes_of(&parts);
    assert_eq!(joined_and_split(&packets, true), (packets.clone(), 2));
    let lone = bytes_of(&[Sent { flags: PSH_ACK, ..Sent::new(true, true, 100) }]);
    assert_eq!(joined_and_split(&lone, true), (lone.clone(), 1));
}

#[test]
fn tiny_segments_are_not_joined() {
    let packets = bytes_of(&Sent::new(true, true, 63 * 4).one_by_one(63));
    assert_eq!(joined_and_split(&packets, true), (packets.clone(), 4));
}

#[test]
fn the_oldest_flow_makes_room_for_a_new_one() {
    let flows: Vec<Vec<Sent>> = (0..=MAX_FLOWS)
        .map(|flow| Sent { port: u16::try_from(flow).unwrap(), ..Sent::new(true, true, 200) }.one_by_one(100))
        .collect();
    let firsts = flows.iter().map(|flow| flow[0].bytes());
    let seconds = flows.iter().skip(1).map(|flow| flow[1].bytes());
    let packets: Vec<_> = firsts.chain(seconds).collect();
    let (left, writes) = joined_and_split(&packets, true);
    assert_eq!(left[0], packets[0], "the first flow left when the last came");
    assert_eq!(writes, 1 + MAX_FLOWS, "all others are pairs");
}

#[test]
fn a_caller_who_takes_nothing_out_is_told_to_write_by_himself() {
    let mut coalescer = Coalescer::new(true);
    let mut alone = 0;
    for port in 0..100 {
        let packet = Sent { port, ..Sent::new(true, true, 100) }.bytes();
        alone += usize::from(coalescer.push(&packet) == Push::Alone);
        coalescer.close();
    }
    assert_eq!(alone, 100 - MAX_FLOWS - 1);
}

fn some_sent() -> impl Strategy<Value = Sent> {
    let shape = (any::<bool>(), any::<bool>(), 0_usize..3_000, 0_usize..4);
    let numbers = (any::<u16>(), any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>());
    (shape, numbers, any::<u8>(), prop_oneof![Just(0_u16), Just(0x4000)]).prop_map(
        |(
            (is_v4, is_tcp, payload, words),
            (identification, sequence, acknowledged, hops, window),
            flags,
            fragmenting,
        )| {
            Sent {
                identification,
                fragmenting,
                hops,
                sequence,
                acknowledged,
                flags,
                window,
                options: vec![1; words * 4],
                ..Sent::new(is_v4, is_tcp, payload)
            }
        },
    )
}

/// A stream of packets of two flows that mostly continue each other.
fn some_stream() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let change = (0_u8..24, 0_u16..2, 1_usize..4);
    (any::<[bool; 2]>(), any::<[bool; 2]>(), proptest::collection::vec(change, 1..60)).prop_map(
        |(v4, tcp, steps)| {
            let mut flows: Vec<Sent> = (0..2_u16)
                .map(|flow| Sent {
                    port: flow,
                    ..Sent::new(v4[usize::from(flow)], tcp[usize::from(flow)], 100)
                })
                .collect();
            let mut packets = Vec::new();
            for (change, flow, len) in steps {
                let sent = &mut flows[usize::from(flow)];
                sent.flags = tcp::ACK;
                match change {
                    0 => sent.flags |= tcp::PSH,
                    1 => sent.flags |= tcp::FIN,
                    2 => sent.acknowledged += 1,
                    3 => sent.sequence = sent.sequence.wrapping_add(5),
                    4 => sent.hops ^= 1,
                    5 => sent.identification ^= 2,
                    6 => sent.payload = vec![7; len * 50],
                    7 => sent.fragmenting ^= 0x4000,
                    _ => {}
                }
                let mut packet = sent.bytes();
                if change == 8 {
                    *packet.last_mut().unwrap() ^= 1;
                }
                packets.push(packet);
                sent.sequence = sent.sequence.wrapping_add(u32::try_from(sent.payload.len()).unwrap());
                sent.identification = sent.identification.wrapping_add(1);
            }
            packets
        },
    )
}

/// The packets of each flow in their order, without what means nothing.
fn by_flow(packets: &[Vec<u8>]) -> BTreeMap<(u8, u16), Vec<Vec<u8>>> {
    let mut flows: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for packet in packets {
        let view = Packet::parse(packet).unwrap();
        let flow = (view.protocol().number(), view.ports().unwrap().0);
        let mut packet = packet.clone();
        if packet[0] == 0x45 && packet[6] & 0x40 != 0 {
            packet[4..6].fill(0);
            fix_header(&mut packet);
        }
        flows.entry(flow).or_default().push(packet);
    }
    flows
}

proptest! {
    #[test]
    fn a_super_packet_is_split_as_its_sender_would_have(sent in some_sent(), segment in 1_u16..1_500) {
        let expected = bytes_of(&sent.one_by_one(segment.into()));
        let read = sent.super_packet(segment);
        let packets = split_well(&read);
        prop_assert_eq!(&packets, &expected);
        for packet in &packets {
            let view = Packet::parse(packet).unwrap();
            let sum = naive_transport(view.source(), view.destination(), view.protocol().number(), view.payload());
            prop_assert_eq!(sum, 0);
            prop_assert!(packet[0] != 0x45 || naive_checksum(&packet[..20]) == 0);
        }
    }

    #[test]
    fn splitting_what_was_joined_gives_each_flow_its_packets_in_order(packets in some_stream(), udp in any::<bool>()) {
        let (left, writes) = joined_and_split(&packets, udp);
        prop_assert_eq!(by_flow(&left), by_flow(&packets));
        prop_assert!(writes <= packets.len());
    }

    #[test]
    fn any_bytes_end_and_stay_within_their_room(read in proptest::collection::vec(any::<u8>(), 0..300), room in 0_usize..300) {
        for packet in split(&read, room).into_iter().flatten() {
            prop_assert!(packet.len() <= room);
        }
        let _ = joined_and_split(&[read], true);
    }
}
