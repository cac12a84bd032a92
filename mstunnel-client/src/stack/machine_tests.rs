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
        Self::with_buffers(Buffers { receive: 32_768, send: 32_768 })
    }

    fn with_buffers(buffers: Buffers) -> Self {
        let (ours, theirs) = Packets::pair(1_500);
        let (sender, _) = ours.split();
        let (_, receiver) = theirs.split();
        let now = Instant::now();
        let machine = Machine::connect(
            SocketAddr::new(CLIENT.into(), 5_000),
            SocketAddr::new(HOST.into(), 80),
            Link::new(sender, 1_400),
            buffers,
            now,
        );
        let mut pair = Self { machine: machine.unwrap(), receiver, now, heard: 0 };
        assert_eq!(pair.pump().0, 1, "a SYN");
        // A scale of 0, and words with selective acknowledgements.
        pair.say(SYN | ACK, 0, pair.heard, 4_096, &[3, 3, 0, 1, 4, 2, 1, 1]);
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
        // What a SYN brings are options.
        packet.extend([if flags & SYN == 0 { 0x50 } else { 0x70 }, flags]);
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
            self.machine.handle_packet(buffer, Numbers::of(&tcp), self.now);
        }
    }

    fn read(&mut self) -> Vec<u8> {
        self.read_some().expect("something to read, or the end")
    }

    fn read_some(&mut self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 1_000];
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match self.machine.poll_read(&mut bytes, &mut cx) {
            Poll::Ready(len) => Some(bytes[..len.unwrap()].to_vec()),
            Poll::Pending => None,
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
    assert_eq!(pair.pump(), (1, Next::Gone), "the last word is acknowledged");
    // Whoever reads may be slower than TIME-WAIT is long.
    pair.now += Duration::from_secs(11);
    assert_eq!(pair.pump(), (0, Next::Gone));
    assert_eq!(pair.read(), b"goodbye");
    assert!(pair.read().is_empty(), "the end");
}

/// Covers: R69: with the window full and the end one number behind it, this byte is in the window as smoltcp counts.
#[tokio::test]
async fn a_byte_half_of_all_numbers_behind_the_end_is_nobodys() {
    let mut pair = Pair::connect();
    pair.pump();
    let heard = pair.heard;
    for at in (0..32_768).step_by(1_024) {
        let flags = if at + 1_024 == 32_768 { ACK | FIN } else { ACK };
        pair.say(flags, 1 + at, heard, 4_096, &[7; 1_024]);
    }
    pair.say(ACK, (32_768u32 + 2).wrapping_add((1 << 31) - 1), heard, 4_096, b"x");
    let mut read = 0;
    while read < 32_768 {
        read += pair.read().len();
    }
    assert!(pair.read().is_empty(), "the end");
}

/// Covers: R69: smoltcp takes the window of its SYN for a shifted one.
#[tokio::test]
async fn bytes_beyond_the_buffer_are_nobodys() {
    let mut pair = Pair::with_buffers(Buffers { receive: 200_000, send: 32_768 });
    let heard = pair.heard;
    // The buffer is 131,070 bytes, the largest of these that 65,535 shifted can tell.
    pair.say(ACK, 1 + 131_000, heard, 4_096, &[7; 1_000]);
    for at in (0..131_000).step_by(1_000) {
        pair.say(ACK, 1 + at, heard, 4_096, &[7; 1_000]);
    }
    pair.pump();
    let mut read = 0;
    while let Some(bytes) = pair.read_some() {
        read += bytes.len();
    }
    assert!((131_069..=131_070).contains(&read), "{read} bytes");
}

#[tokio::test]
async fn a_connection_that_was_quiet_for_minutes_ends_in_order() {
    let mut pair = Pair::connect();
    pair.pump();
    let heard = pair.heard;
    pair.now += Duration::from_secs(200);
    pair.machine.finish();
    assert_eq!(pair.pump().0, 1);
    assert_eq!(pair.heard, heard.wrapping_add(1), "a FIN and no reset");
    pair.say(ACK | FIN, 1, pair.heard, 4_096, b"one more thing");
    assert_eq!(pair.read(), b"one more thing");
    assert!(pair.read().is_empty(), "the end");
}

/// smoltcp cuts the segment at the end of its window, and would take its FIN for the end.
#[tokio::test]
async fn an_end_that_does_not_fit_the_window_is_no_end() {
    let mut pair = Pair::connect();
    pair.pump();
    let heard = pair.heard;
    for at in (0..31_744).step_by(1_024) {
        pair.say(ACK, 1 + at, heard, 4_096, &[7; 1_024]);
    }
    pair.say(ACK | FIN, 1 + 31_744, heard, 4_096, &[7; 1_030]);
    for _ in 0..33 {
        let _ = pair.read_some();
    }
    let mut bytes = [0; 10];
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(
        matches!(pair.machine.poll_read(&mut bytes, &mut cx), Poll::Ready(Err(_))),
        "six bytes are missing"
    );
}

#[tokio::test]
async fn what_panics_resets_the_connection_alone() {
    let mut pair = Pair::connect();
    pair.pump();
    assert_eq!(pair.machine.contained(|_| panic!("as smoltcp might")), None::<()>);
    let mut bytes = [0; 10];
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let Poll::Ready(Err(error)) = pair.machine.poll_read(&mut bytes, &mut cx) else { panic!("no error") };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(pair.pump(), (0, Next::Gone));
}
