//! Sealing and opening DTLS records, ours and with the raw AEAD of the same library.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::dtls::{
    ClientChannel, CookieKeys, Greeting, Keying, Opened, Path, Sealer, ServerChannel, Suite, is_client_hello,
    records,
};

/// Packets of one turn: a GSO send of 64 KB holds so many records of 1,400 bytes.
pub(crate) const BURST: usize = 44;

const TAG_BYTES: usize = 16;

#[expect(clippy::disallowed_methods, reason = "a benchmark looks at the clock")]
pub(crate) fn clock() -> Instant {
    Instant::now()
}

/// What is measured: [`BURST`] packets.
pub(crate) trait Side {
    /// Makes the input of the next turn, untimed.
    fn prepare(&mut self) {}
    fn run(&mut self);
}

/// A raw key with a nonce that counts, and the additional data of a record.
struct Raw {
    key: LessSafeKey,
    next: u64,
}

impl Raw {
    fn new(suite: Suite) -> Self {
        let (algorithm, len) = if suite == Suite::PskAes128Gcm {
            (&AES_128_GCM, 16)
        } else if suite == Suite::PskAes256Gcm {
            (&AES_256_GCM, 32)
        } else {
            (&CHACHA20_POLY1305, 32)
        };
        let key = UnboundKey::new(algorithm, &[7; 32][..len]).expect("the length is the cipher's");
        Self { key: LessSafeKey::new(key), next: 0 }
    }

    fn nonce(&mut self) -> Nonce {
        self.next += 1;
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&self.next.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    fn aad() -> Aad<[u8; 13]> {
        Aad::from([0; 13])
    }
}

/// In place, one buffer again and again; the tag goes behind it.
pub(crate) struct RawSeal {
    raw: Raw,
    bytes: Vec<u8>,
}

impl RawSeal {
    pub(crate) fn new(suite: Suite, len: usize) -> Self {
        Self { raw: Raw::new(suite), bytes: vec![0x45; len + TAG_BYTES] }
    }
}

impl Side for RawSeal {
    fn run(&mut self) {
        for _ in 0..BURST {
            let nonce = self.raw.nonce();
            let bytes = black_box(&mut self.bytes[..]);
            let (plaintext, tail) = bytes.split_at_mut(bytes.len() - TAG_BYTES);
            let sealed = self.raw.key.seal_in_place_scatter(nonce, Raw::aad(), plaintext, &[], tail);
            sealed.expect("a short record");
        }
    }
}

pub(crate) struct Seal<'a> {
    server: &'a ServerChannel,
    packet: PacketBuf,
    len: usize,
}

impl<'a> Seal<'a> {
    pub(crate) fn new(server: &'a ServerChannel, len: usize) -> Self {
        let mut packet = PacketBuf::new(1_500);
        packet.fill(&vec![0x45; len]);
        Self { server, packet, len }
    }
}

impl Side for Seal<'_> {
    fn run(&mut self) {
        for _ in 0..BURST {
            self.packet.set_len(self.len);
            assert!(self.server.seal(black_box(&mut self.packet)).is_ok());
        }
    }
}

/// In place, in the segments of one sending buffer.
pub(crate) struct RawSlots {
    raw: Raw,
    buffer: Vec<u8>,
    segment: usize,
    prefix: usize,
}

impl RawSlots {
    pub(crate) fn new(suite: Suite, len: usize) -> Self {
        let segment = len + suite.overhead();
        Self { raw: Raw::new(suite), buffer: vec![0x45; BURST * segment], segment, prefix: suite.prefix() }
    }
}

impl Side for RawSlots {
    fn run(&mut self) {
        for slot in self.buffer.chunks_exact_mut(self.segment) {
            let nonce = self.raw.nonce();
            let bytes = &mut black_box(slot)[self.prefix..];
            let (plaintext, tail) = bytes.split_at_mut(bytes.len() - TAG_BYTES);
            let sealed = self.raw.key.seal_in_place_scatter(nonce, Raw::aad(), plaintext, &[], tail);
            sealed.expect("a short record");
        }
    }
}

pub(crate) struct Slots<'a> {
    sealer: &'a Arc<Sealer>,
    buffer: Vec<u8>,
    len: usize,
}

impl<'a> Slots<'a> {
    pub(crate) fn new(sealer: &'a Arc<Sealer>, len: usize) -> Self {
        let buffer = vec![0x45; BURST * (len + sealer.suite().overhead())];
        Self { sealer, buffer, len }
    }
}

impl Side for Slots<'_> {
    fn run(&mut self) {
        for slot in self.buffer.chunks_exact_mut(self.len + self.sealer.suite().overhead()) {
            assert!(self.sealer.seal_slot(black_box(slot), self.len).is_ok());
        }
    }
}

/// From one buffer into the segments of another.
pub(crate) struct RawInto {
    slots: RawSlots,
    plaintext: Vec<u8>,
}

impl RawInto {
    pub(crate) fn new(suite: Suite, len: usize) -> Self {
        Self { slots: RawSlots::new(suite, len), plaintext: vec![0x45; len] }
    }
}

impl Side for RawInto {
    fn run(&mut self) {
        let RawSlots { raw, buffer, segment, prefix } = &mut self.slots;
        for slot in buffer.chunks_exact_mut(*segment) {
            let nonce = raw.nonce();
            let (plaintext, out) = (black_box(&self.plaintext[..]), &mut black_box(slot)[*prefix..]);
            let (ciphertext, tag) = out.split_at_mut(plaintext.len());
            raw.key
                .seal_out_of_place_scatter(nonce, Raw::aad(), plaintext, ciphertext, &[], tag)
                .expect("the output is as long as the input");
        }
    }
}

pub(crate) struct Into<'a> {
    slots: Slots<'a>,
    plaintext: Vec<u8>,
}

impl<'a> Into<'a> {
    pub(crate) fn new(sealer: &'a Arc<Sealer>, len: usize) -> Self {
        Self { slots: Slots::new(sealer, len), plaintext: vec![0x45; len] }
    }
}

impl Side for Into<'_> {
    fn run(&mut self) {
        let Slots { sealer, buffer, len } = &mut self.slots;
        for slot in buffer.chunks_exact_mut(*len + sealer.suite().overhead()) {
            assert!(sealer.seal_into(black_box(&self.plaintext), black_box(slot)).is_ok());
        }
    }
}

/// What another key context has sealed a moment ago, one behind the other.
pub(crate) struct RawOpen {
    sealing: RawSlots,
    opening: Raw,
}

impl RawOpen {
    pub(crate) fn new(suite: Suite, len: usize) -> Self {
        Self { sealing: RawSlots::new(suite, len), opening: Raw::new(suite) }
    }
}

impl Side for RawOpen {
    fn prepare(&mut self) {
        self.sealing.run();
    }

    fn run(&mut self) {
        for slot in self.sealing.buffer.chunks_exact_mut(self.sealing.segment) {
            let nonce = self.opening.nonce();
            let bytes = &mut black_box(slot)[self.sealing.prefix..];
            assert!(self.opening.key.open_in_place(nonce, Raw::aad(), bytes).is_ok());
        }
    }
}

pub(crate) struct Open {
    server: ServerChannel,
    client: ClientChannel,
    buffer: Vec<u8>,
    len: usize,
    segment: usize,
    path: Path,
    now: Instant,
}

impl Open {
    pub(crate) fn new(server: ServerChannel, client: ClientChannel, len: usize) -> Self {
        let segment = len + server.suite().expect("an open channel has a suite").overhead();
        let buffer = vec![0; BURST * segment];
        Self { server, client, buffer, len, segment, path: path(), now: clock() }
    }
}

impl Side for Open {
    fn prepare(&mut self) {
        let sealer = self.client.sealer().expect("an open channel has a sealer");
        for slot in self.buffer.chunks_exact_mut(self.segment) {
            sealer.seal_slot(slot, self.len).expect("the slot has room");
        }
    }

    fn run(&mut self) {
        for slot in self.buffer.chunks_exact_mut(self.segment) {
            let opened = self.server.handle_record(self.path, black_box(slot), self.now);
            assert!(matches!(opened, Opened::Application(_)));
        }
    }
}

fn path() -> Path {
    Path { remote: SocketAddr::from(([198, 51, 100, 7], 5000)), local: None, socket: 0 }
}

/// Both ends, after their handshake.
pub(crate) fn open_channel(suite: Suite) -> (ServerChannel, ClientChannel) {
    let now = clock();
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
    while server.poll_event().is_some() {}
    assert!(server.is_open() && client.is_open());
    (server, client)
}
