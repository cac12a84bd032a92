//! One end of a TCP connection whose segments are made of fuzzed bytes.
//!
//! What they say is relative to where the connection is, so that most of them belong to it. The payload is a pattern
//! of its place in the stream: whatever arrives, and however often, there is one right order of it.

use std::net::{IpAddr, SocketAddr};

use mstunnel_proto::packet::Packet;

use crate::checksums::make_right;

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

/// What a segment may have for options, padded to words.
const OPTIONS: [&[u8]; 8] = [
    &[],
    &[2, 4, 5, 0xb4],
    &[2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 1, 1],
    &[2, 4, 0, 1, 3, 3, 14, 0],
    &[8, 10, 0, 0, 0, 1, 0, 0, 0, 0, 1, 1],
    &[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2],
    &[2, 0, 3, 255],
    &[255, 4, 1, 1],
];

/// The byte at this place of a stream; what is before its start is at the end of all numbers.
fn pattern(at: u32) -> u8 {
    at.wrapping_mul(7).wrapping_add(at / 251).to_le_bytes()[0]
}

/// Fills `room` with what a stream has behind its first `from` bytes.
pub(crate) fn fill(room: &mut [u8], from: u32) {
    for (byte, at) in room.iter_mut().zip(0..) {
        *byte = pattern(from.wrapping_add(at));
    }
}

/// Whether `bytes` are what a stream has behind its first `from` bytes.
pub(crate) fn is_pattern(bytes: &[u8], from: u32) -> bool {
    bytes.iter().zip(0..).all(|(byte, at)| *byte == pattern(from.wrapping_add(at)))
}

/// The length of what was or will be sent.
pub(crate) fn len(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).expect("less than a stream can have")
}

/// A segment, in bytes as they come: flags, two distances and their scale, window, length, options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script(pub(crate) [u8; 7]);

/// One end, which says what scripts have it say.
pub(crate) struct Peer {
    local: SocketAddr,
    remote: SocketAddr,
    /// The number of its SYN.
    first: u32,
    /// The number behind what it has said in order.
    next: u32,
    /// The number of the other end's SYN.
    heard_first: Option<u32>,
    /// The number behind what it has heard.
    heard: u32,
    /// How long its stream is, by each FIN that it has sent.
    lengths: Vec<u32>,
}

impl Peer {
    /// An end at `local`; its SYN has number `first`.
    pub(crate) fn new(local: SocketAddr, remote: SocketAddr, first: u32) -> Self {
        Self { local, remote, first, next: first, heard_first: None, heard: 0, lengths: Vec::new() }
    }

    /// The segment of a script.
    pub(crate) fn segment(&mut self, script: Script) -> Vec<u8> {
        let [flags, sequence, acknowledgement, scales, window, payload, options] = script.0;
        let payload = usize::from(payload) * if options & 8 == 0 { 1 } else { 5 };
        // Another SYN than the first would be another connection.
        let sequence = match flags & SYN {
            0 => self.next.wrapping_add(distance(sequence, scales)),
            _ => self.first,
        };
        let acknowledgement = self.heard.wrapping_add(distance(acknowledgement, scales >> 4));
        let options = OPTIONS[usize::from(options & 7)];
        let window = u16::from(window) << if flags & 0x40 == 0 { 8 } else { 0 };
        let header = 20 + options.len();
        let mut segment = vec![0; header + payload];
        segment[..2].copy_from_slice(&self.local.port().to_be_bytes());
        segment[2..4].copy_from_slice(&self.remote.port().to_be_bytes());
        segment[4..8].copy_from_slice(&sequence.to_be_bytes());
        segment[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
        segment[12] = u8::try_from(header / 4).expect("options are short") << 4;
        segment[13] = flags & 0x3F;
        segment[14..16].copy_from_slice(&window.to_be_bytes());
        segment[20..header].copy_from_slice(options);
        // The first byte of the stream is behind the SYN.
        let from = sequence.wrapping_sub(self.first).wrapping_sub(u32::from(flags & SYN == 0));
        fill(&mut segment[header..], from);
        if flags & FIN != 0 {
            self.lengths.push(from.wrapping_add(len(&segment[header..])));
        }
        if sequence == self.next {
            let len = len(&segment[header..]);
            let ends = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            self.next = self.next.wrapping_add(len).wrapping_add(ends);
        }
        packet(self.local.ip(), self.remote.ip(), 6, &segment)
    }

    /// Whether it has said that its stream is so long.
    pub(crate) fn has_ended_at(&self, length: u32) -> bool {
        self.lengths.contains(&length)
    }

    /// Takes in what the other end sends, which must be whole, of this connection, no longer than `mtu`, and have the
    /// pattern where it has a payload.
    pub(crate) fn hear(&mut self, packet: &[u8], mtu: usize) {
        assert!(packet.len() <= mtu, "a packet of {} bytes", packet.len());
        let view = Packet::parse(packet).expect("what is sent is a packet");
        assert_eq!((view.source(), view.destination()), (self.remote.ip(), self.local.ip()));
        let mut right = packet.to_vec();
        make_right(&mut right);
        assert!(right == packet, "a wrong checksum");
        let segment = view.payload();
        assert_eq!(view.ports(), Some((self.remote.port(), self.local.port())));
        let tcp = view.tcp().expect("what is sent is TCP");
        let flags = segment[13];
        let sequence = tcp.sequence();
        if flags & RST != 0 {
            return;
        }
        if flags & SYN != 0 {
            let first = *self.heard_first.get_or_insert(sequence);
            assert_eq!(first, sequence, "a second SYN is another");
        }
        let Some(first) = self.heard_first else {
            return;
        };
        let from = sequence.wrapping_sub(first).wrapping_sub(u32::from(flags & SYN == 0));
        let payload = tcp.payload();
        assert!(payload.is_empty() || is_pattern(payload, from), "other bytes than were sent");
        let len = u32::try_from(payload.len()).expect("a segment is short");
        let end = sequence
            .wrapping_add(len)
            .wrapping_add(u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0));
        if end.wrapping_sub(self.heard) < 1 << 31 || flags & SYN != 0 {
            self.heard = end;
        }
        debug_assert!(flags & ACK != 0 || flags & SYN != 0, "a segment without ACK");
    }
}

/// A signed byte in steps of 1, 16, 4,096 or 2^24; the largest is as far as numbers are compared.
fn distance(byte: u8, scale: u8) -> u32 {
    match (byte, scale & 3) {
        (0x7F, 3) => i32::MAX.cast_unsigned(),
        (byte, scale) => i32::from(byte.cast_signed()).cast_unsigned() << [0, 4, 12, 24][usize::from(scale)],
    }
}

/// An IP packet with the right checksums.
pub(crate) fn packet(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("a packet is short");
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut header = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0];
            header[2..4].copy_from_slice(&(len + 20).to_be_bytes());
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
            header[4..6].copy_from_slice(&len.to_be_bytes());
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        _ => panic!("two families"),
    };
    packet.extend_from_slice(payload);
    make_right(&mut packet);
    packet
}
