//! Packets of a TCP flow joined into a super-packet, and split again: 44 of 1,400 bytes, or 60 acknowledgements, which
//! nothing joins.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use mstunnel_proto::packet::offload::{Coalescer, Push, Segments};

const PAYLOAD: u32 = 1_360;
const PACKETS: u32 = 44;

/// Data of one flow, each packet behind the one before.
fn data() -> Vec<Vec<u8>> {
    let payload = [7; PAYLOAD as usize];
    (0..PACKETS).map(|number| packet(1 + number * PAYLOAD, 1, &payload)).collect()
}

fn acknowledgements() -> Vec<Vec<u8>> {
    (0..60).map(|number| packet(1, 1 + number * 2 * PAYLOAD, &[])).collect()
}

fn packet(sequence: u32, acknowledged: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([10, 0, 0, 2], [192, 0, 2, 80], 64)
        .tcp(50_000, 443, sequence, 65_535)
        .ack(acknowledged)
        .write(&mut bytes, payload)
        .expect("fits");
    bytes
}

/// Pushes the packets, and says how many writes they would be.
fn join(coalescer: &mut Coalescer, packets: &[Vec<u8>]) -> usize {
    let mut writes = 0;
    for packet in packets {
        if coalescer.push(black_box(packet)) == Push::Alone {
            writes += 1;
        }
    }
    coalescer.close();
    while coalescer.poll_due().is_some() {
        writes += 1;
    }
    writes
}

fn joining(criterion: &mut Criterion) {
    let mut coalescer = Coalescer::new(true);
    for (name, packets) in [("data", data()), ("acknowledgements", acknowledgements())] {
        let mut group = criterion.benchmark_group("offload");
        group.throughput(Throughput::Elements(packets.len() as u64));
        group.bench_function(format!("join {name}"), |bencher| {
            bencher.iter(|| join(&mut coalescer, &packets));
        });
        group.finish();
    }
}

fn splitting(criterion: &mut Criterion) {
    let mut coalescer = Coalescer::new(true);
    for packet in &data() {
        assert_eq!(coalescer.push(packet), Push::Kept);
    }
    coalescer.close();
    let joined = coalescer.poll_due().expect("one super-packet").bytes.to_vec();
    let mut out = vec![0; 1_500];
    let mut group = criterion.benchmark_group("offload");
    group.throughput(Throughput::Elements(u64::from(PACKETS)));
    group.bench_function("split data", |bencher| {
        bencher.iter(|| {
            let mut segments = Segments::new(black_box(&joined));
            let mut bytes = 0;
            while let Some(Ok(len)) = segments.next_into(&mut out) {
                bytes += len;
            }
            bytes
        });
    });
    group.finish();
}

criterion_group!(benches, joining, splitting);
criterion_main!(benches);
