//! The packet path allocates nothing (style.md section 3): counted by an allocator, not read off the code.
//!
//! Counts are per thread, so that tests may run side by side. A new function on the packet path gets a
//! test here: warm it up once if it may allocate at its start, then count a thousand calls.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::drop::DropCounters;
use mstunnel_proto::dtls::{Opened, Suite};
use mstunnel_proto::frame::{FrameKind, Frames};
use mstunnel_proto::packet::checksum::{Change, Sum};
use mstunnel_proto::packet::offload::{Coalescer, MAX_FLOWS, Push, Segments};
use mstunnel_proto::packet::{Packet, clamp_mss, too_big};
use mstunnel_proto::prefix::Prefix;
use mstunnel_proto::routes::{RouteSet, SplitDns};
use mstunnel_proto::session::{
    Access, Channel, Inbound, Leases, PacketQueue, Session, SessionConfig, SessionId, SessionParams,
};
use mstunnel_tests::{PAIR_PATH, open_pair};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// The system allocator with a count of its calls.
struct Counting;

// SAFETY: every call goes on to the system allocator unchanged. The count is a constant-initialised
// thread-local without a destructor, so that reaching it neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`, which is that of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `alloc` or `realloc` above, so from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: as for `dealloc`; the caller keeps the rest of the contract.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often what is counted is called; Miri takes a thousandth of a processor's speed.
const CALLS: u64 = if cfg!(miri) { 5 } else { 1_000 };

/// How often this thread allocated in so many calls of `call`.
fn allocations_in(mut call: impl FnMut()) -> u64 {
    let before = ALLOCATIONS.get();
    for _ in 0..CALLS {
        call();
    }
    ALLOCATIONS.get() - before
}

/// A TCP SYN of either family with an MSS of 1,460; checksums as a sender would write them.
fn syn(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    let mut segment =
        vec![0xC0, 0, 1, 187, 0, 0, 0, 1, 0, 0, 0, 0, 0x60, 2, 0xFF, 0xFF, 0, 0, 0, 0, 2, 4, 5, 180];
    let checksum = Sum::pseudo_header(source, destination, 6, 24).bytes(&segment).checksum();
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0, 0, 44, 0, 0, 0x40, 0, 64, 6, 0, 0];
            header.extend(source.octets());
            header.extend(destination.octets());
            let checksum = Sum::default().bytes(&header).checksum();
            header[10..12].copy_from_slice(&checksum.to_be_bytes());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 24, 6, 64];
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        _ => panic!("two addresses of one family"),
    };
    packet.extend(segment);
    packet
}

fn syns() -> [Vec<u8>; 2] {
    let address = |text: &str| text.parse().expect("an address");
    [syn(address("10.0.0.2"), address("192.0.2.80")), syn(address("fd00::2"), address("2001:db8::80"))]
}

#[test]
fn the_counter_counts() {
    assert_eq!(allocations_in(|| drop(black_box(Box::new(7)))), CALLS);
    assert_eq!(allocations_in(|| ()), 0);
}

#[test]
fn looking_at_a_packet_allocates_nothing() {
    for bytes in syns() {
        assert!(Packet::parse(&bytes).is_ok_and(|packet| packet.tcp().is_some_and(|tcp| tcp.is_syn())));
        let counted = allocations_in(|| {
            let packet = Packet::parse(black_box(&bytes));
            let _ = black_box(
                packet.map(|packet| (packet.source(), packet.ports(), packet.counts_as_activity())),
            );
            let _ = black_box(Packet::parse(black_box(&bytes[1..])).is_err());
        });
        assert_eq!(counted, 0);
    }
}

#[test]
fn clamping_and_checksums_allocate_nothing() {
    for bytes in syns() {
        let mut packet = bytes.clone();
        assert!(clamp_mss(&mut packet, 1_280));
        let counted = allocations_in(|| {
            packet.copy_from_slice(&bytes);
            black_box(clamp_mss(black_box(&mut packet), 1_280));
            black_box(Change::default().bytes(&bytes[..20], &packet[..20]).apply(7));
        });
        assert_eq!(counted, 0);
    }
}

#[test]
fn sealing_and_opening_a_record_allocates_nothing() {
    for &suite in Suite::PSK {
        let (mut server, client) = open_pair(suite);
        let (mut packet, mut segment, now) = (PacketBuf::new(1_500), [0; 1_500], Instant::now());
        let mut send = || {
            packet.set_len(1_400);
            client.seal(&mut packet).expect("an open channel seals");
            let opened = server.handle_record(PAIR_PATH, packet.as_mut_slice(), now);
            assert!(matches!(black_box(opened), Opened::Application(_)));
            server.seal_into(&[7; 1_400], black_box(&mut segment)).expect("an open channel seals");
        };
        // The first packet ends the handshake.
        send();
        assert_eq!(allocations_in(send), 0, "{}", suite.name());
    }
}

/// TCP data of a flow: a hundred bytes from this sequence number on.
fn data(source: IpAddr, destination: IpAddr, port: u16, sequence: u32) -> Vec<u8> {
    let mut packet = syn(source, destination);
    let transport = packet.len() - 24;
    packet.resize(transport + 20, 0);
    packet.extend([7; 100]);
    let len = u16::try_from(packet.len()).expect("short");
    if source.is_ipv4() {
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[10..12].fill(0);
        let checksum = Sum::default().bytes(&packet[..20]).checksum();
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    } else {
        packet[4..6].copy_from_slice(&(len - 40).to_be_bytes());
    }
    let segment = &mut packet[transport..];
    segment[..2].copy_from_slice(&port.to_be_bytes());
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    (segment[12], segment[13]) = (0x50, 0x10);
    segment[16..18].fill(0);
    let checksum = Sum::pseudo_header(source, destination, 6, 120).bytes(segment).checksum();
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    packet
}

#[test]
fn joining_and_splitting_allocate_nothing() {
    let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
    let pairs = [(address("10.0.0.2"), address("192.0.2.80")), (address("fd00::2"), address("2001:db8::80"))];
    for (source, destination) in pairs {
        // More flows than wait at once, so that some make room for others; and three packets of the last one.
        let mut packets: Vec<_> = (0..MAX_FLOWS + 4)
            .map(|port| data(source, destination, u16::try_from(port).expect("a few flows"), 1))
            .collect();
        let last = u16::try_from(MAX_FLOWS + 3).expect("a few flows");
        packets.extend([101, 201].map(|sequence| data(source, destination, last, sequence)));
        let (mut coalescer, mut out) = (Coalescer::new(true), vec![0; 1_500]);
        let (mut writes, mut parts) = (0_u64, 0_u64);
        let mut take_due = |coalescer: &mut Coalescer| {
            while let Some(joined) = coalescer.poll_due() {
                writes += 1;
                let mut segments = Segments::new(joined.bytes);
                while let Some(part) = segments.next_into(&mut out) {
                    parts += u64::from(part.is_ok());
                }
            }
        };
        let counted = allocations_in(|| {
            for packet in &packets {
                assert_eq!(coalescer.push(black_box(packet)), Push::Kept);
                take_due(&mut coalescer);
            }
            coalescer.close();
            take_due(&mut coalescer);
        });
        assert_eq!(counted, 0);
        assert_eq!(parts, CALLS * packets.len() as u64);
        assert_eq!(writes, parts - 2 * CALLS, "three packets are one write");
    }
}

#[test]
fn answering_a_packet_that_is_too_big_allocates_nothing() {
    let mut out = PacketBuf::new(1_500);
    let servers: [IpAddr; 2] = [[10, 0, 0, 1].into(), [0xFD00, 0, 0, 0, 0, 0, 0, 1].into()];
    for (bytes, server) in syns().iter().zip(servers) {
        assert!(too_big(bytes, 1_280, server, &mut out));
        let counted = allocations_in(|| {
            black_box(too_big(black_box(bytes), 1_280, server, &mut out));
            out.prepend([0; 8]);
        });
        assert_eq!(counted, 0);
    }
}

#[test]
fn asking_for_a_route_or_a_name_allocates_nothing() {
    let prefixes: Vec<Prefix> =
        (0..500_u32).map(|n| Prefix::from(std::net::Ipv4Addr::from_bits(0x0A00_0000 | (n << 9)))).collect();
    let routes = RouteSet::new(&prefixes, &[]).expect("500 rules");
    let split = SplitDns::new(&["corp.example", "lab.example"]).expect("two domains");
    let destinations: [IpAddr; 2] = [[10, 0, 2, 0].into(), [0xFD00, 0, 0, 0, 0, 0, 0, 1].into()];
    let counted = allocations_in(|| {
        for destination in destinations {
            black_box(routes.evaluate(black_box(destination)));
        }
        black_box(split.matches(black_box("www.CORP.example.")));
        black_box(routes.advertised().count());
    });
    assert_eq!(counted, 0);
}

#[test]
fn a_packet_through_a_session_allocates_nothing_in_either_direction() {
    let (client, corporate) = (Ipv4Addr::new(10, 9, 0, 5), Ipv4Addr::new(10, 20, 0, 1));
    let config = SessionConfig {
        dpd: Some(Duration::from_secs(90)),
        idle_timeout: Some(Duration::from_secs(600)),
        access: Access::new(&["10.9.0.0/16".parse().expect("a prefix")], &[], None),
    };
    let leases = Leases { v4: Some(client), v6: None };
    let params = SessionParams { id: SessionId::new(1), leases, mtu: 1434, ends_at: None };
    let now = Instant::now();
    let mut session = Session::new(Arc::new(config), params, now);
    let inbound = syn(corporate.into(), client.into());
    let outbound = syn(client.into(), corporate.into());
    let mut buf = PacketBuf::new(1500);
    let count = allocations_in(|| {
        assert!(buf.fill(&inbound));
        assert_eq!(session.encapsulate(&mut buf, now), Ok(Channel::Stream));
    });
    assert_eq!(count, 0, "encapsulate");
    buf.fill(&outbound);
    mstunnel_proto::frame::encapsulate(FrameKind::Data, &mut buf);
    let count = allocations_in(|| {
        let mut frames = Frames::new(buf.as_mut_slice());
        let frame = frames.take_next().expect("our own frame").expect("a whole one");
        let taken = session.decapsulate(Channel::Stream, frame.kind, frame.payload, now);
        assert!(matches!(taken, Inbound::Packet(_)), "{taken:?}");
    });
    assert_eq!(count, 0, "decapsulate");
}

#[test]
fn a_packet_through_a_queue_that_holds_others_allocates_nothing() {
    let source: IpAddr = [192, 0, 2, 80].into();
    let (now, mut drops, mut queue) = (Instant::now(), DropCounters::default(), PacketQueue::default());
    for port in 0..32 {
        let bytes = data(source, [10, 0, 0, 2].into(), 80 + port % 5, 1);
        let mut packet = PacketBuf::new(bytes.len());
        assert!(packet.fill(&bytes));
        queue.push(packet, &mut drops, |_| panic!("there is room"), now);
    }
    let mut pass = || {
        let packet = queue.pop(&mut drops, |_| panic!("none is stale"), now).expect("it is never empty");
        queue.push(packet, &mut drops, |_| panic!("there is room"), now);
    };
    pass();
    assert_eq!(allocations_in(pass), 0);
}
