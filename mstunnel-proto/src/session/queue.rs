//! Packets that wait for a client that reads slowly: bounded in packets, bytes and age, and shared by its flows.
//!
//! ```text
//!   flow A, a download   [9][8][7][6][5][4]--.
//!   flow B, a download         [5][4][3][2]---+--> one of each in turn
//!   flow C, a ping                      [1]--'
//! ```
//!
//! Each flow waits in a line of its own, and the lines are served in turn: what sends little does not wait behind what
//! sends much. When there is no more room, the longest line loses its oldest packet: the newest is worth most to a TCP
//! flow, and a queue that drops from the front keeps delay short. The caller owns the buffers: what is dropped comes back
//! to be reused.
//!
//! Flows are told apart by a hash of 8 bits; those that share one share a line. Order within a flow is kept.
//!
//! # Source
//! R55; RFC 8290 section 3 (flow queueing). Neither its timing of drops nor its preference for new flows is here: a
//! turn is short.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use rustc_hash::FxHasher;

use crate::buf::PacketBuf;
use crate::drop::{DropCounters, DropReason};
use crate::packet::Packet;

/// The most packets that wait for one client: enough small ones beside the bound in bytes.
pub const MAX_QUEUED_PACKETS: usize = 512;

/// The most bytes that wait for one client: a super-packet of each of a few flows. At 100 Mbit/s they are 20 ms.
pub const MAX_QUEUED_BYTES: usize = 256 * 1024;

/// A packet that waited longer is dropped: a path that takes nothing for so long is no better served by what is old.
pub const MAX_QUEUED_AGE: Duration = Duration::from_millis(250);

/// A packet that waits, in a place of [`PacketQueue::places`].
struct Waiting {
    packet: PacketBuf,
    since: Instant,
    /// The place of the next one of its line.
    next: Option<u16>,
}

/// A line that is not empty.
struct Line {
    flow: u8,
    oldest: u16,
    newest: u16,
    bytes: usize,
}

/// The packets that wait for one client.
#[derive(Default)]
pub struct PacketQueue {
    places: Vec<Option<Waiting>>,
    free: Vec<u16>,
    /// Whose turn it is comes first.
    lines: VecDeque<Line>,
    bytes: usize,
}

impl PacketQueue {
    /// Appends `packet` to the line of its flow, dropping from the longest until it fits; dropped buffers go to `recycle`.
    ///
    /// O(lines), of which there are as many as flows with packets here, and 256 at most.
    pub fn push(
        &mut self,
        packet: PacketBuf,
        drops: &mut DropCounters,
        mut recycle: impl FnMut(PacketBuf),
        now: Instant,
    ) {
        while self.len() >= MAX_QUEUED_PACKETS || self.bytes + packet.len() > MAX_QUEUED_BYTES {
            let longest = self.lines.iter().enumerate().max_by_key(|(_, line)| line.bytes);
            let Some(oldest) = longest.map(|(index, _)| index).and_then(|index| self.take_oldest(index))
            else {
                break;
            };
            drops.count(DropReason::QueueFull);
            recycle(oldest.packet);
        }
        let (flow, len) = (flow(packet.as_slice()), packet.len());
        let place = self.place(Waiting { packet, since: now, next: None });
        self.bytes += len;
        if let Some(line) = self.lines.iter_mut().find(|line| line.flow == flow) {
            if let Some(newest) = &mut self.places[usize::from(line.newest)] {
                newest.next = Some(place);
            }
            line.newest = place;
            line.bytes += len;
        } else {
            self.lines.push_back(Line { flow, oldest: place, newest: place, bytes: len });
        }
    }

    /// Takes the oldest packet of the line whose turn it is; stale ones are dropped on the way.
    pub fn pop(
        &mut self,
        drops: &mut DropCounters,
        mut recycle: impl FnMut(PacketBuf),
        now: Instant,
    ) -> Option<PacketBuf> {
        while let Some(oldest) = self.take_oldest(0) {
            if oldest.next.is_some() {
                self.lines.rotate_left(1);
            }
            if now.saturating_duration_since(oldest.since) <= MAX_QUEUED_AGE {
                return Some(oldest.packet);
            }
            drops.count(DropReason::QueueStale);
            recycle(oldest.packet);
        }
        // An idle client's queue keeps no memory.
        *self = Self::default();
        None
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// How many bytes wait.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the oldest packet of a line, and the line away with its last.
    fn take_oldest(&mut self, index: usize) -> Option<Waiting> {
        let line = self.lines.get_mut(index)?;
        let place = line.oldest;
        let oldest = self.places[usize::from(place)].take()?;
        self.free.push(place);
        self.bytes -= oldest.packet.len();
        line.bytes -= oldest.packet.len();
        match oldest.next {
            Some(next) => line.oldest = next,
            None => drop(self.lines.remove(index)),
        }
        Some(oldest)
    }

    /// Puts a packet into a place, which is returned.
    fn place(&mut self, waiting: Waiting) -> u16 {
        if let Some(place) = self.free.pop() {
            self.places[usize::from(place)] = Some(waiting);
            return place;
        }
        self.places.push(Some(waiting));
        u16::try_from(self.places.len() - 1).expect("MAX_QUEUED_PACKETS is in range")
    }
}

/// The flow of a packet for a client, whose own address says nothing. What is no packet belongs to flow 0.
fn flow(packet: &[u8]) -> u8 {
    let Ok(packet) = Packet::parse(packet) else { return 0 };
    let mut hasher = FxHasher::default();
    (packet.source(), packet.protocol().number(), packet.ports()).hash(&mut hasher);
    // Its upper bits are the mixed ones.
    hasher.finish().to_be_bytes()[0]
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::origin;

    /// A packet of a flow, with a number that tells it from others.
    fn packet(flow: u16, number: u32, len: usize) -> PacketBuf {
        let builder = PacketBuilder::ipv4([10, 20, 0, 2], [10, 9, 0, 5], 64).udp(flow, 5_000);
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(len.max(4), 0);
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &payload).unwrap();
        let mut buf = PacketBuf::new(bytes.len());
        assert!(buf.fill(&bytes));
        buf
    }

    fn read(packet: &PacketBuf) -> (u16, u32) {
        let packet = Packet::parse(packet.as_slice()).unwrap();
        let number = packet.payload()[8..12].try_into().unwrap();
        (packet.ports().unwrap().0, u32::from_be_bytes(number))
    }

    /// A queue with what goes in and comes out.
    #[derive(Default)]
    struct Bench {
        queue: PacketQueue,
        drops: DropCounters,
        dropped: Vec<(u16, u32)>,
    }

    impl Bench {
        fn push_at(&mut self, flow: u16, number: u32, len: usize, now: Instant) {
            let dropped = &mut self.dropped;
            self.queue.push(
                packet(flow, number, len),
                &mut self.drops,
                |packet| dropped.push(read(&packet)),
                now,
            );
        }

        fn push(&mut self, flow: u16, number: u32, len: usize) {
            self.push_at(flow, number, len, origin());
        }

        fn pop_at(&mut self, now: Instant) -> Option<(u16, u32)> {
            let dropped = &mut self.dropped;
            self.queue
                .pop(&mut self.drops, |packet| dropped.push(read(&packet)), now)
                .map(|packet| read(&packet))
        }

        fn pop(&mut self) -> Option<(u16, u32)> {
            self.pop_at(origin())
        }
    }

    /// Covers: R55
    #[test]
    fn a_full_queue_drops_its_oldest_packet_and_gives_the_buffer_back() {
        let mut bench = Bench::default();
        let count = u32::try_from(MAX_QUEUED_PACKETS).unwrap();
        for number in 0..=count {
            bench.push(1, number, 100);
        }
        assert_eq!(bench.queue.len(), MAX_QUEUED_PACKETS);
        assert_eq!((bench.drops.get(DropReason::QueueFull), &bench.dropped[..]), (1, &[(1, 0)][..]));
        assert_eq!(bench.pop(), Some((1, 1)));
    }

    /// Covers: R55
    #[test]
    fn the_byte_bound_holds_too() {
        let mut bench = Bench::default();
        for number in 0..200 {
            bench.push(1, number, 16_000);
            assert!(bench.queue.len_bytes() <= MAX_QUEUED_BYTES);
        }
        assert_eq!(bench.drops.get(DropReason::QueueFull) + bench.queue.len() as u64, 200);
    }

    /// Covers: R55
    #[test]
    fn a_stale_packet_is_not_sent() {
        let mut bench = Bench::default();
        bench.push(1, 1, 10);
        let later = origin() + MAX_QUEUED_AGE + Duration::from_millis(1);
        bench.push_at(1, 2, 10, later);
        assert_eq!(bench.pop_at(later), Some((1, 2)));
        assert_eq!((bench.drops.get(DropReason::QueueStale), &bench.dropped[..]), (1, &[(1, 1)][..]));
        assert_eq!(bench.pop_at(later), None);
        assert_eq!((bench.queue.len_bytes(), bench.queue.places.capacity()), (0, 0));
    }

    /// Covers: R55
    #[test]
    fn what_sends_little_loses_nothing_and_waits_for_one_packet_of_each_download() {
        let mut bench = Bench::default();
        bench.push(9, 0, 56);
        for number in 0..2_000 {
            bench.push(1, number, 1_300);
            bench.push(2, number, 1_300);
        }
        bench.push(8, 0, 56);
        assert!(bench.dropped.len() > 3_000 && bench.dropped.iter().all(|&(flow, _)| flow < 3));
        let first: Vec<_> = (0..4).map(|_| bench.pop().unwrap().0).collect();
        assert_eq!(first, [9, 1, 2, 8]);
        let rest: Vec<_> = std::iter::from_fn(|| bench.pop()).map(|(flow, _)| flow).collect();
        assert!(rest.len() > 100 && rest.chunks_exact(2).all(|turn| turn == [1, 2]), "{rest:?}");
    }

    #[test]
    fn flows_rarely_share_a_line_and_what_is_no_packet_has_one_too() {
        let whole = packet(1, 0, 100);
        assert_eq!(flow(&whole.as_slice()[..30]), 0);
        assert_eq!(flow(&[]), 0);
        let mut distinct: Vec<u8> = (0..64).map(|port| flow(packet(port, 0, 8).as_slice())).collect();
        distinct.sort_unstable();
        distinct.dedup();
        // Of 64 flows in 256 lines, 57 are expected to be alone or the first of their line.
        assert!(distinct.len() > 45, "{}", distinct.len());
    }

    proptest! {
        #[test]
        fn every_packet_comes_out_once_and_each_flow_in_order(
            steps in prop::collection::vec((0..6_u16, 0..1_400_usize, 0..3_u8), 0..3_000),
        ) {
            let mut bench = Bench::default();
            let (mut pushed, mut popped) = (0, Vec::new());
            for (flow, len, pops) in steps {
                bench.push(flow, pushed, len);
                pushed += 1;
                // More goes in than comes out.
                if pops == 0 {
                    popped.extend(bench.pop());
                }
                prop_assert!(bench.queue.len() <= MAX_QUEUED_PACKETS);
                prop_assert!(bench.queue.len_bytes() <= MAX_QUEUED_BYTES);
            }
            popped.extend(std::iter::from_fn(|| bench.pop()));
            prop_assert!(bench.queue.is_empty());
            prop_assert_eq!((bench.queue.len(), bench.queue.len_bytes()), (0, 0));
            for flow in 0..6 {
                prop_assert!(popped.iter().filter(|one| one.0 == flow).is_sorted());
            }
            prop_assert_eq!(bench.drops.get(DropReason::QueueFull), bench.dropped.len() as u64);
            popped.append(&mut bench.dropped);
            let mut numbers: Vec<u32> = popped.into_iter().map(|(_, number)| number).collect();
            numbers.sort_unstable();
            prop_assert!(numbers.into_iter().eq(0..pushed));
        }
    }
}
