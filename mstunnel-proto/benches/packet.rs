//! What every packet pays before it is sealed: validation and the look for a SYN.

use std::hint::black_box;
use std::net::{Ipv4Addr, Ipv6Addr};

use criterion::{Criterion, criterion_group, criterion_main};
use etherparse::PacketBuilder;
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::packet::checksum::Sum;
use mstunnel_proto::packet::{Packet, clamp_mss, too_big};

const PAYLOAD: [u8; 1_360] = [7; 1_360];

fn packets() -> [(&'static str, Vec<u8>); 2] {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    let from = (Ipv4Addr::new(10, 0, 0, 2).octets(), Ipv4Addr::new(192, 0, 2, 80).octets());
    let header = PacketBuilder::ipv4(from.0, from.1, 64).tcp(50_000, 443, 1, 65_535).ack(1);
    header.write(&mut v4, &PAYLOAD).expect("fits");
    let from =
        (Ipv6Addr::from_bits(0xFD << 120 | 2).octets(), Ipv6Addr::from_bits(0x20 << 120 | 80).octets());
    let header = PacketBuilder::ipv6(from.0, from.1, 64).tcp(50_000, 443, 1, 65_535).ack(1);
    header.write(&mut v6, &PAYLOAD).expect("fits");
    [("v4", v4), ("v6", v6)]
}

fn every_packet(criterion: &mut Criterion) {
    for (name, mut bytes) in packets() {
        criterion.bench_function(&format!("packet/parse {name}"), |bencher| {
            bencher.iter(|| {
                let packet = Packet::parse(black_box(&bytes)).ok();
                packet.map(|packet| (packet.source(), packet.destination(), packet.counts_as_activity()))
            });
        });
        criterion.bench_function(&format!("packet/clamp {name}, not a SYN"), |bencher| {
            bencher.iter(|| clamp_mss(black_box(&mut bytes), 1_280));
        });
    }
}

fn some_packets(criterion: &mut Criterion) {
    let [(_, bytes), _] = packets();
    let mut out = PacketBuf::new(1_500);
    let server = Ipv4Addr::new(10, 0, 0, 1).into();
    criterion.bench_function("packet/too big v4", |bencher| {
        bencher.iter(|| too_big(black_box(&bytes), 1_280, server, &mut out));
    });
    criterion.bench_function("packet/checksum of 1,400 bytes", |bencher| {
        bencher.iter(|| Sum::default().bytes(black_box(&bytes)).checksum());
    });
}

criterion_group!(benches, every_packet, some_packets);
criterion_main!(benches);
