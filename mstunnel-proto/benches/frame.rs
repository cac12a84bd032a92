//! CSTP encode and decode, beside a memcpy of the same packet.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::frame::{FrameKind, Frames, encapsulate};

fn frames(c: &mut Criterion) {
    for len in [64usize, 1400] {
        let mut group = c.benchmark_group(format!("cstp_{len}"));
        group.throughput(Throughput::Bytes(len as u64));
        let packet = vec![0x45u8; len];
        let mut buf = PacketBuf::new(1500);
        group.bench_function("memcpy", |b| b.iter(|| black_box(buf.fill(black_box(&packet)))));
        buf.fill(&packet);
        group.bench_function("encode", |b| {
            b.iter(|| {
                buf.set_len(len);
                encapsulate(FrameKind::Data, black_box(&mut buf));
            });
        });
        let mut frame = buf.as_slice().to_vec();
        group.bench_function("decode", |b| {
            b.iter(|| {
                let mut frames = Frames::new(black_box(&mut frame));
                black_box(frames.take_next().map(|frame| frame.map(|frame| frame.payload.len()))).ok();
            });
        });
        group.finish();
    }
}

criterion_group!(benches, frames);
criterion_main!(benches);
