//! Packets that wait for a client that reads slowly: bounded in packets, bytes and age.
//!
//! When full, the oldest packet makes room: the newest is worth most to the TCP flows inside, and a
//! queue that drops from the front keeps delay short. The caller owns the buffers: what is dropped
//! comes back to be reused.
//!
//! # Source
//! R55.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::buf::PacketBuf;
use crate::drop::{DropCounters, DropReason};

/// The most packets that wait for one client: enough small ones beside the bound in bytes.
pub const MAX_QUEUED_PACKETS: usize = 512;

/// The most bytes that wait for one client: a super-packet of each of a few flows. At 100 Mbit/s they are 20 ms.
pub const MAX_QUEUED_BYTES: usize = 256 * 1024;

/// A packet that waited longer is dropped: a path that takes nothing for so long is no better served by what is old.
pub const MAX_QUEUED_AGE: Duration = Duration::from_millis(250);

struct Waiting {
    packet: PacketBuf,
    since: Instant,
}

/// The packets that wait for one client, oldest first.
#[derive(Default)]
pub struct PacketQueue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
}

impl PacketQueue {
    /// Appends `packet`, dropping from the front until it fits; dropped buffers go to `recycle`.
    pub fn push(
        &mut self,
        packet: PacketBuf,
        drops: &mut DropCounters,
        mut recycle: impl FnMut(PacketBuf),
        now: Instant,
    ) {
        while self.waiting.len() >= MAX_QUEUED_PACKETS
            || (self.bytes + packet.len() > MAX_QUEUED_BYTES && !self.waiting.is_empty())
        {
            if let Some(oldest) = self.take_front() {
                drops.count(DropReason::QueueFull);
                recycle(oldest.packet);
            }
        }
        self.bytes += packet.len();
        self.waiting.push_back(Waiting { packet, since: now });
    }

    /// Takes the oldest packet that is still worth sending; stale ones are dropped on the way.
    pub fn pop(
        &mut self,
        drops: &mut DropCounters,
        mut recycle: impl FnMut(PacketBuf),
        now: Instant,
    ) -> Option<PacketBuf> {
        while let Some(oldest) = self.take_front() {
            if now.saturating_duration_since(oldest.since) <= MAX_QUEUED_AGE {
                return Some(oldest.packet);
            }
            drops.count(DropReason::QueueStale);
            recycle(oldest.packet);
        }
        // An idle client's queue keeps no memory.
        self.waiting = VecDeque::new();
        None
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many packets wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How many bytes wait.
    pub fn len_bytes(&self) -> usize {
        self.bytes
    }

    fn take_front(&mut self) -> Option<Waiting> {
        let oldest = self.waiting.pop_front()?;
        self.bytes -= oldest.packet.len();
        Some(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::origin;

    fn packet(first: u8, len: usize) -> PacketBuf {
        let mut buf = PacketBuf::new(len);
        buf.room()[0] = first;
        buf.set_len(len);
        buf
    }

    /// Covers: R55
    #[test]
    fn a_full_queue_drops_its_oldest_packet_and_gives_the_buffer_back() {
        let now = origin();
        let mut queue = PacketQueue::default();
        let mut drops = DropCounters::default();
        let mut recycled = 0;
        for n in 0..=MAX_QUEUED_PACKETS {
            queue.push(packet(u8::try_from(n % 256).unwrap(), 100), &mut drops, |_| recycled += 1, now);
        }
        assert_eq!(queue.len(), MAX_QUEUED_PACKETS);
        assert_eq!((drops.get(DropReason::QueueFull), recycled), (1, 1));
        assert_eq!(queue.pop(&mut drops, |_| (), now).unwrap().as_slice()[0], 1);
    }

    /// Covers: R55
    #[test]
    fn the_byte_bound_holds_too() {
        let now = origin();
        let mut queue = PacketQueue::default();
        let mut drops = DropCounters::default();
        for _ in 0..200 {
            queue.push(packet(0, 16_000), &mut drops, |_| (), now);
            assert!(queue.len_bytes() <= MAX_QUEUED_BYTES);
        }
        assert_eq!(drops.get(DropReason::QueueFull) + queue.len() as u64, 200);
    }

    /// Covers: R55
    #[test]
    fn a_stale_packet_is_not_sent() {
        let now = origin();
        let mut queue = PacketQueue::default();
        let mut drops = DropCounters::default();
        queue.push(packet(1, 10), &mut drops, |_| (), now);
        let later = now + MAX_QUEUED_AGE + Duration::from_millis(1);
        queue.push(packet(2, 10), &mut drops, |_| (), later);
        assert_eq!(queue.pop(&mut drops, |_| (), later).unwrap().as_slice()[0], 2);
        assert_eq!(drops.get(DropReason::QueueStale), 1);
        assert!(queue.pop(&mut drops, |_| (), later).is_none());
        assert_eq!(queue.len_bytes(), 0);
    }
}
