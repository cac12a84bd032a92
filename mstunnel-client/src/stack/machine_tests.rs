//! One connection against segments that no good host sends, in virtual time.

use std::net::Ipv4Addr;

use mstunnel_proto::packet::Packet;
use mstunnel_proto::packet::checksum::Sum;

use super::*;
use crate::packets::{PacketReceiver, Packets};

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 5);
const HOST: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A connection and its host, who says what a test has it say.
struct Pair {
    machine: Machine,
    receiver: PacketReceiver,
    now: Instant,
    /// The number behind what the client has sent.
    heard: u32,
}

impl Pair {
    fn connect() -> Self {
        let (ours, theirs) = Packets::pair(1_500);
        let (sender, _) = ours.split();
        let (_, receiver) = theirs.split();
        let now = Instant::now();
        let machine = Machine::connect(
            SocketAddr::new(CLIENT.into(), 5_000),
            SocketAddr::new(HOST.into(), 80),
            Link::new(sender, 1_400),
            Buffers { receive: 32_768, send: 32_768 },
            now,
        );
        let mut pair = Self { machine: machine.unwrap(), receiver, now, heard: 0 };
        assert_eq!(pair.pump().0, 1, "a SYN");
        pair.say(SYN | ACK, 0, pair.heard, 4_096, b"");
        pair
    }

    /// Lets the client send; returns how many packets came of it, and what it wants next.
    fn pump(&mut self) -> (usize, Next) {
        let next = self.machine.pump(self.now);
        let mut count = 0;
        while let Some(packet) = self.receiver.try_recv() {
            count += 1;
            self.heard = Packet::parse(packet.as_slice()).unwrap().tcp().unwrap().end();
        }
        (count, next)
    }

    fn say(&mut self, flags: u8, sequence: u32, acknowledgement: u32, window: u16, payload: &[u8]) {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0];
        packet.extend([HOST.octets(), CLIENT.octets()].concat());
        packet.extend([0, 80, 0x13, 0x88]);
        packet.extend([sequence.to_be_bytes(), acknowledgement.to_be_bytes()].concat());
        packet.extend([0x50, flags]);
        packet.extend(window.to_be_bytes());
        packet.extend([0; 4]);
        packet.extend(payload);
        let len = u16::try_from(packet.len()).unwrap();
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        let sum = Sum::default().bytes(&packet[..20]).checksum();
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        let pseudo = Sum::pseudo_header(HOST.into(), CLIENT.into(), 6, u32::from(len) - 20);
        let sum = pseudo.bytes(&packet[20..]).checksum();
        packet[36..38].copy_from_slice(&sum.to_be_bytes());
        let tcp = Packet::parse(&packet).unwrap().tcp().unwrap();
        if !self.machine.has_ended_before(&tcp) {
            let mut buffer = PacketBuf::new(1_500);
            assert!(buffer.fill(&packet));
            self.machine.handle_packet(buffer, false, tcp.end(), self.now);
        }
    }

    fn read(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 1_000];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self.machine.poll_read(&mut bytes, &mut cx) {
            Poll::Ready(len) => bytes[..len.unwrap()].to_vec(),
            Poll::Pending => panic!("nothing to read"),
        }
    }
}

/// RFC 9293 section 3.10.7.4: the text of a segment behind a FIN is ignored.
#[tokio::test]
async fn bytes_behind_the_last_one_are_nobodys() {
    let mut pair = Pair::connect();
    let heard = pair.heard;
    pair.say(ACK | FIN, 1, heard, 4_096, b"all of it");
    pair.say(ACK, 11, heard, 4_096, b"and more");
    assert_eq!(pair.read(), b"all of it");
    assert!(pair.read().is_empty(), "the end");
    pair.say(ACK, 11, heard, 4_096, b"and more");
    assert!(pair.read().is_empty(), "still the end");
}

/// Covers: R60, R69: smoltcp probes a window that was closed when the last byte came, and has nothing to probe it
/// with.
#[tokio::test]
async fn a_host_that_takes_the_end_and_closes_its_window_is_not_flooded() {
    let mut pair = Pair::connect();
    pair.pump();
    let start = pair.heard;
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(pair.machine.poll_write(&[7; 2_000], &mut cx).is_ready());
    pair.machine.finish();
    pair.pump();
    let end = pair.heard;
    assert_eq!(end, start.wrapping_add(2_001), "all of it and the end are out");
    pair.say(ACK, 1, start.wrapping_add(1_360), 0, b"");
    pair.say(ACK, 1, end, 0, b"");
    let (mut count, until) = (0, pair.now + Duration::from_secs(600));
    while pair.now < until {
        let (sent, next) = pair.pump();
        count += sent;
        let Next::At(at) = next else { break };
        assert!(at > pair.now);
        pair.now = at;
    }
    assert!(count < 30, "{count} packets in ten minutes");
    pair.say(ACK | FIN, 1, end, 0, b"goodbye");
    assert_eq!(pair.read(), b"goodbye");
    assert_eq!(pair.pump().1, Next::Gone);
}
