//! Sealing and opening DTLS records, beside the raw AEAD of the same library in the same run.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::dtls::{
    ClientChannel, CookieKeys, Greeting, Keying, Opened, Path, ServerChannel, Suite, is_client_hello, records,
};

/// Records of one burst: a GSO send of 64 KB holds so many of 1,400 bytes.
const BATCH: usize = 44;

#[expect(clippy::disallowed_methods, reason = "the origin of virtual time")]
fn origin() -> Instant {
    Instant::now()
}

fn path() -> Path {
    Path { remote: SocketAddr::from(([198, 51, 100, 7], 5000)), local: None, socket: 0 }
}

/// Both ends, after their handshake.
fn open(suite: Suite, now: Instant) -> (ServerChannel, ClientChannel) {
    let keys = CookieKeys::new([1; 32]);
    let mut server = ServerChannel::new(Keying::psk([2; 32]));
    let mut client = ClientChannel::start(Keying::psk([2; 32]), &[3; 32], &[suite], [4; 32], now);
    let (mut up, mut down) = (PacketBuf::new(1_500), PacketBuf::new(1_500));
    while client.poll_transmit(&mut up) {
        let mut answers = Vec::new();
        if is_client_hello(up.as_slice()) {
            match keys.greet(path().remote, up.as_slice(), &mut down) {
                Greeting::Answer => answers.push(down.as_slice().to_vec()),
                Greeting::Verified(hello) => {
                    server.handle_hello(path(), &hello, [5; 32], now).expect("a hello of ours is good");
                }
                Greeting::Dropped(reason) => panic!("{reason}"),
            }
        } else {
            for record in records(up.as_mut_slice()) {
                assert_eq!(server.handle_record(path(), record, now), Opened::Handled);
            }
        }
        while server.poll_transmit(&mut down).is_some() {
            answers.push(down.as_slice().to_vec());
        }
        for mut answer in answers {
            for record in records(&mut answer) {
                assert_eq!(client.handle_record(record, now), Opened::Handled);
            }
        }
    }
    assert!(server.is_open() && client.is_open());
    (server, client)
}

fn raw_key(suite: Suite) -> LessSafeKey {
    let (algorithm, len) = if suite == Suite::PskAes128Gcm {
        (&AES_128_GCM, 16)
    } else if suite == Suite::PskAes256Gcm {
        (&AES_256_GCM, 32)
    } else {
        (&CHACHA20_POLY1305, 32)
    };
    LessSafeKey::new(UnboundKey::new(algorithm, &[7; 32][..len]).expect("the length is the cipher's"))
}

fn seal(c: &mut Criterion) {
    let now = origin();
    for &suite in Suite::PSK {
        for len in [64usize, 1_400] {
            let mut group = c.benchmark_group(format!("dtls_seal_{len}/{}", suite.name()));
            group.throughput(Throughput::Bytes(len as u64));
            let raw = raw_key(suite);
            let mut bytes = vec![0x45; len];
            let mut counter = 0u64;
            group.bench_function("raw", |b| {
                b.iter(|| {
                    counter += 1;
                    let mut nonce = [0; 12];
                    nonce[4..].copy_from_slice(&counter.to_be_bytes());
                    let nonce = Nonce::assume_unique_for_key(nonce);
                    black_box(raw.seal_in_place_separate_tag(
                        nonce,
                        Aad::from([0; 13]),
                        black_box(&mut bytes),
                    ))
                    .is_ok()
                });
            });
            let (server, _) = open(suite, now);
            let mut packet = PacketBuf::new(1_500);
            packet.fill(&vec![0x45; len]);
            group.bench_function("record", |b| {
                b.iter(|| {
                    packet.set_len(len);
                    server.seal(black_box(&mut packet)).is_ok()
                });
            });
            group.finish();
        }
    }
}

fn open_records(c: &mut Criterion) {
    let now = origin();
    for &suite in Suite::PSK {
        for len in [64usize, 1_400] {
            let mut group = c.benchmark_group(format!("dtls_open_{len}/{}", suite.name()));
            group.throughput(Throughput::Bytes((BATCH * len) as u64));
            let raw = raw_key(suite);
            let mut sealed = vec![0x45; len];
            let tag = raw
                .seal_in_place_separate_tag(
                    Nonce::assume_unique_for_key([0; 12]),
                    Aad::from([0; 13]),
                    &mut sealed,
                )
                .expect("a short record");
            sealed.extend_from_slice(tag.as_ref());
            // Opening uses its input up, so both get a batch of fresh copies that is not timed.
            group.bench_function(format!("raw, {BATCH}"), |b| {
                b.iter_batched_ref(
                    || vec![sealed.clone(); BATCH],
                    |batch| {
                        for bytes in batch {
                            let nonce = Nonce::assume_unique_for_key([0; 12]);
                            black_box(raw.open_in_place(nonce, Aad::from([0; 13]), bytes)).ok();
                        }
                    },
                    BatchSize::SmallInput,
                );
            });
            let (mut server, client) = open(suite, now);
            let plaintext = vec![0x45; len];
            group.bench_function(format!("record, {BATCH}"), |b| {
                b.iter_batched_ref(
                    || -> Vec<Vec<u8>> {
                        let record = |_| {
                            let mut out = vec![0; len + suite.overhead()];
                            client.seal_into(&plaintext, &mut out).expect("an open channel seals");
                            out
                        };
                        (0..BATCH).map(record).collect()
                    },
                    |batch| {
                        for record in batch {
                            assert!(matches!(
                                black_box(server.handle_record(path(), record, now)),
                                Opened::Application(_)
                            ));
                        }
                    },
                    BatchSize::SmallInput,
                );
            });
            group.finish();
        }
    }
}

/// A burst into one sending buffer: every segment is a record of the same length.
fn batch(c: &mut Criterion) {
    const LEN: usize = 1_400;
    let now = origin();
    let mut group = c.benchmark_group("dtls_batch_44x1400");
    group.throughput(Throughput::Bytes((BATCH * LEN) as u64)).measurement_time(Duration::from_secs(3));
    for &suite in Suite::PSK {
        let (server, _) = open(suite, now);
        let sealer = server.sealer().expect("an open channel has a sealer");
        let segment = LEN + suite.overhead();
        let plaintext = vec![0x45; LEN];
        let mut buffer = vec![0; BATCH * segment];
        group.bench_function(format!("seal_into/{}", suite.name()), |b| {
            b.iter(|| {
                for slot in buffer.chunks_exact_mut(segment) {
                    black_box(sealer.seal_into(black_box(&plaintext), slot)).ok();
                }
            });
        });
        group.bench_function(format!("seal_slot/{}", suite.name()), |b| {
            b.iter(|| {
                for slot in buffer.chunks_exact_mut(segment) {
                    black_box(sealer.seal_slot(black_box(slot), LEN)).ok();
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, seal, open_records, batch);
criterion_main!(benches);
