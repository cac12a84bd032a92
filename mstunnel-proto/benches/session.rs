//! A packet through a session each way, with all its checks, and through the queue for a client that reads slowly.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::drop::DropCounters;
use mstunnel_proto::frame::{FrameKind, Frames, encapsulate};
use mstunnel_proto::session::{
    Access, Channel, Inbound, Leases, PacketQueue, Session, SessionConfig, SessionId, SessionParams,
};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 5);
const CORPORATE: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);

#[expect(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
fn clock() -> Instant {
    Instant::now()
}

fn session(now: Instant) -> Session {
    let config = SessionConfig {
        dpd: Some(Duration::from_secs(90)),
        idle_timeout: Some(Duration::from_secs(600)),
        access: Access::new(&["10.9.0.0/16".parse().expect("a prefix")], &[], None),
    };
    let leases = Leases { v4: Some(CLIENT), v6: None };
    let params = SessionParams { id: SessionId::new(1), leases, mtu: 1_434, ends_at: None };
    Session::new(Arc::new(config), params, now)
}

fn packet(from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(from.octets(), to.octets(), 64)
        .tcp(port, 443, 1, 65_535)
        .ack(1)
        .write(&mut bytes, &[7; 1_360])
        .expect("fits");
    bytes
}

fn both_ways(criterion: &mut Criterion) {
    let now = clock();
    let mut session = session(now);
    let to_client = packet(CORPORATE, CLIENT, 50_000);
    let mut buf = PacketBuf::new(1_500);
    buf.fill(&to_client);
    criterion.bench_function("session/to the client", |bencher| {
        bencher.iter(|| {
            buf.set_len(to_client.len());
            session.encapsulate(black_box(&mut buf), now)
        });
    });
    buf.fill(&packet(CLIENT, CORPORATE, 50_000));
    encapsulate(FrameKind::Data, &mut buf);
    let mut bytes = buf.as_slice().to_vec();
    criterion.bench_function("session/from the client, with its frame", |bencher| {
        bencher.iter(|| {
            let mut frames = Frames::new(black_box(&mut bytes));
            let Ok(Some(frame)) = frames.take_next() else { panic!("one frame") };
            let taken = session.decapsulate(Channel::Stream, frame.kind, frame.payload, now);
            assert!(matches!(taken, Inbound::Packet(_)));
        });
    });
}

fn queue(criterion: &mut Criterion) {
    let (now, mut drops) = (clock(), DropCounters::default());
    for flows in [1, 16] {
        let mut queue = PacketQueue::default();
        let mut push = |queue: &mut PacketQueue, packet: PacketBuf| {
            queue.push(packet, &mut drops, |_| unreachable!("there is room"), now);
        };
        for number in 0..128 {
            let mut buf = PacketBuf::new(1_500);
            buf.fill(&packet(CORPORATE, CLIENT, 50_000 + number % flows));
            push(&mut queue, buf);
        }
        let mut unused = DropCounters::default();
        criterion.bench_function(&format!("session/queue, in and out, flows: {flows}"), |bencher| {
            bencher.iter(|| {
                let packet = queue.pop(&mut unused, |_| unreachable!("none is stale"), now);
                push(&mut queue, packet.expect("it is never empty"));
            });
        });
    }
}

criterion_group!(benches, both_ways, queue);
criterion_main!(benches);
