//! TCP flows of the server's userspace egress: what a client sends inside its tunnel.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use mstunnel_proto::packet::Packet;
use mstunnel_server::egress::FuzzFlow;

use crate::segments::{Peer, Script, fill, is_pattern, len};

const MTU: usize = 1_400;
/// Enough for what matters; more would only be slow.
const MAX_STEPS: usize = 256;

/// A flow, whose host and whose client do as the bytes say. The first byte is its family, its buffers and the start
/// of its numbers; each eight that follow are a step: a segment of the client, or something of the host, or time.
///
/// Both streams arrive as they were sent, every packet is whole, deadlines lie ahead, and an end is one.
pub fn egress_flow(data: &[u8]) {
    let _ = bytes_passed(data);
}

/// How many bytes the host has received and sent.
fn bytes_passed(data: &[u8]) -> (u32, u32) {
    let Some((&first, steps)) = data.split_first() else { return (0, 0) };
    let (client, host) = if first & 1 == 0 {
        let of = |last, port| SocketAddr::new(Ipv4Addr::new(10, 9, 0, last).into(), port);
        (of(2, 40_000), of(1, 443))
    } else {
        let of = |last, port| SocketAddr::new(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, last).into(), port);
        (of(2, 40_000), of(1, 443))
    };
    let buffer = if first & 2 == 0 { 2_048 } else { 128 * 1_024 };
    let start = if first & 4 == 0 { 1_000 } else { u32::MAX - 1_000 };
    let mut peer = Peer::new(client, host, start);
    let mut now = Instant::now();
    let syn = peer.segment(Script([2, 0, 0, 0, first, 0, first >> 3]));
    let mut run = Run {
        flow: FuzzFlow::accept(&syn, host, MTU, buffer, now),
        peer,
        received: 0,
        sent: 0,
        is_finished: false,
    };
    for step in steps.as_chunks::<8>().0.iter().take(MAX_STEPS) {
        let [kind, script @ ..] = *step;
        match kind & 7 {
            0..=3 => {
                let packet = run.peer.segment(Script(script));
                let segment = Packet::parse(&packet).expect("a packet").tcp().expect("TCP");
                run.flow.handle_packet(&packet, &segment, now);
            }
            4 => now += Duration::from_millis(u64::from(script[0]) << (script[1] & 15)),
            5 => run.send(usize::from(script[0]) * 64),
            6 => run.receive(usize::from(script[0]) * 64),
            _ => run.end(script[0]),
        }
        let room = if kind & 0x80 == 0 { 100 } else { usize::from(kind >> 3 & 3) };
        if run.pump(room, now) {
            // The host takes what is left, but not soon.
            now += Duration::from_secs(11);
            assert!(run.pump(100, now), "a flow came back");
            run.receive(usize::MAX);
            return run.bytes_passed();
        }
    }
    run.receive(usize::MAX);
    run.flow.abort();
    assert!(run.pump(100, now), "a flow outlived its end");
    run.bytes_passed()
}

struct Run {
    flow: FuzzFlow,
    peer: Peer,
    /// Bytes of the client that its host has taken.
    received: u32,
    /// Bytes of the host that the flow has taken.
    sent: u32,
    is_finished: bool,
}

impl Run {
    fn send(&mut self, limit: usize) {
        let sent = self.sent;
        let put = |room: &mut [u8]| {
            let len = room.len().min(limit);
            fill(&mut room[..len], sent);
            len
        };
        let len = self.flow.send(put);
        assert!(len == 0 || !self.is_finished, "more after the end");
        self.sent += u32::try_from(len).expect("a buffer is short");
    }

    fn receive(&mut self, mut limit: usize) {
        // What lies around the end of the buffer comes in two parts.
        for _ in 0..3 {
            let bytes = self.flow.receive(limit);
            assert!(is_pattern(&bytes, self.received), "the host was given other bytes than were sent");
            self.received += len(&bytes);
            limit -= bytes.len();
        }
    }

    fn bytes_passed(&self) -> (u32, u32) {
        let is_whole = !self.flow.is_drained() || self.peer.has_ended_at(self.received);
        assert!(is_whole, "the client has not ended after {} bytes", self.received);
        (self.received, self.sent)
    }

    fn end(&mut self, how: u8) {
        if how & 7 == 0 {
            self.flow.abort();
        } else {
            self.flow.finish();
            self.is_finished = true;
        }
    }

    /// Has the flow send up to `room` packets, and more if it is given much; whether it is over.
    fn pump(&mut self, room: usize, now: Instant) -> bool {
        let mut last = Vec::new();
        for _ in 0..100 {
            let pumped = self.flow.pump(room, now);
            assert!(pumped.packets.len() <= room, "more packets than there is room for");
            for packet in &pumped.packets {
                self.peer.hear(packet, MTU);
            }
            assert!(pumped.at.is_none_or(|at| at > now), "a deadline is past");
            if pumped.is_gone {
                return true;
            }
            if !pumped.is_more || room < 100 {
                return false;
            }
            last = pumped.packets;
        }
        panic!(
            "there is always more to send, {} packets at once, the last is {:x?}",
            last.len(),
            last.last()
        );
    }
}

/// What the seeds reach: a target whose flow never opens would find nothing.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed;

    /// Covers: R55, R69
    #[test]
    fn the_bytes_of_the_corpus_pass_both_ways_in_both_families() {
        assert_eq!(bytes_passed(&seed("egress_flow/both_ways")), (100, 640));
        let (received, sent) = bytes_passed(&seed("egress_flow/both_ways_v6"));
        assert!(received == 1_275 && sent > 16_000, "{received} and {sent} bytes");
    }
}
