//! The bounded queue of IP packets between a tunnel and whoever uses it.
//!
//! ```text
//!   tunnel end  -- packets from the network -->  user end      (stack, TUN device, an embedder)
//!               <-- packets to the network ----
//! ```
//!
//! Both ends are the same type. Buffers come from one pool and go back to it, so that a packet costs no
//! allocation; [`QUEUE`] packets wait at most each way, and the pool keeps [`POOL`] buffers at most.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use mstunnel_proto::buf::PacketBuf;
use tokio::sync::mpsc;

/// Packets that wait at most each way: what a fast link sends in a few milliseconds.
pub const QUEUE: usize = 512;

/// Buffers that are kept for use again: both queues, and what is being worked on.
pub const POOL: usize = 2 * QUEUE + 64;

/// One end of the queue.
#[derive(Debug)]
pub struct Packets {
    sender: PacketSender,
    receiver: PacketReceiver,
}

/// The sending half of an end; cheap to clone.
#[derive(Clone, Debug)]
pub struct PacketSender {
    queue: mpsc::Sender<PacketBuf>,
    pool: Arc<Pool>,
}

/// The receiving half of an end.
#[derive(Debug)]
pub struct PacketReceiver {
    queue: mpsc::Receiver<PacketBuf>,
    pool: Arc<Pool>,
}

/// Why a packet was not queued; the packet comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// The other end is slow.
    Full(T),
    /// The other end is gone.
    Closed(T),
}

/// Room for one packet that is taken before the packet is made.
#[derive(Debug)]
pub struct Slot<'a> {
    permit: mpsc::Permit<'a, PacketBuf>,
    pool: &'a Pool,
}

struct Pool {
    free: ArrayQueue<PacketBuf>,
    max_packet: usize,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("free", &self.free.len()).finish_non_exhaustive()
    }
}

impl Pool {
    fn take(&self) -> PacketBuf {
        self.free.pop().unwrap_or_else(|| PacketBuf::new(self.max_packet))
    }

    fn give(&self, mut packet: PacketBuf) {
        packet.clear();
        // A full pool means more buffers than queues can hold: this one is freed.
        let _ = self.free.push(packet);
    }
}

impl Packets {
    /// Makes two joined ends for packets of up to `max_packet` bytes.
    pub fn pair(max_packet: usize) -> (Self, Self) {
        let pool = Arc::new(Pool { free: ArrayQueue::new(POOL), max_packet });
        let (to_b, from_a) = mpsc::channel(QUEUE);
        let (to_a, from_b) = mpsc::channel(QUEUE);
        let end = |queue, received| Self {
            sender: PacketSender { queue, pool: Arc::clone(&pool) },
            receiver: PacketReceiver { queue: received, pool: Arc::clone(&pool) },
        };
        (end(to_b, from_b), end(to_a, from_a))
    }

    /// The longest packet that a buffer holds, in bytes.
    pub fn max_packet(&self) -> usize {
        self.sender.max_packet()
    }

    /// The two halves, to be used by two tasks.
    pub fn split(self) -> (PacketSender, PacketReceiver) {
        (self.sender, self.receiver)
    }
}

impl PacketSender {
    /// An empty buffer for the next packet.
    pub fn buffer(&self) -> PacketBuf {
        self.pool.take()
    }

    /// The longest packet that a buffer holds, in bytes.
    pub fn max_packet(&self) -> usize {
        self.pool.max_packet
    }

    /// Gives back a buffer that was not sent.
    pub fn recycle(&self, packet: PacketBuf) {
        self.pool.give(packet);
    }

    /// Queues a packet if there is room.
    ///
    /// # Errors
    /// [`Refused`] with the packet.
    pub fn try_send(&self, packet: PacketBuf) -> Result<(), Refused<PacketBuf>> {
        self.queue.try_send(packet).map_err(|error| match error {
            mpsc::error::TrySendError::Full(packet) => Refused::Full(packet),
            mpsc::error::TrySendError::Closed(packet) => Refused::Closed(packet),
        })
    }

    /// Takes room for a packet that is still to be made; `None` when there is none or the other end is gone.
    pub fn try_reserve(&self) -> Option<Slot<'_>> {
        let permit = self.queue.try_reserve().ok()?;
        Some(Slot { permit, pool: &self.pool })
    }

    /// Queues a packet, waiting for room.
    ///
    /// # Errors
    /// The packet, when the other end is gone.
    pub async fn send(&self, packet: PacketBuf) -> Result<(), PacketBuf> {
        self.queue.send(packet).await.map_err(|mpsc::error::SendError(packet)| packet)
    }

    /// Waits until there is room for `count` packets; `false` when the other end is gone.
    pub async fn room(&self, count: usize) -> bool {
        self.queue.reserve_many(count.min(QUEUE)).await.is_ok()
    }

    /// How many packets there is room for now.
    pub fn free(&self) -> usize {
        self.queue.capacity()
    }

    /// Queues a packet if there is room; else its buffer goes back to the pool.
    ///
    /// # Errors
    /// Why it was not queued.
    pub fn offer(&self, packet: PacketBuf) -> Result<(), Refused<()>> {
        self.try_send(packet).map_err(|refused| match refused {
            Refused::Full(packet) => {
                self.recycle(packet);
                Refused::Full(())
            }
            Refused::Closed(packet) => {
                self.recycle(packet);
                Refused::Closed(())
            }
        })
    }
}

impl Slot<'_> {
    /// An empty buffer for the packet.
    pub fn buffer(&self) -> PacketBuf {
        self.pool.take()
    }

    /// Queues the packet.
    pub fn send(self, packet: PacketBuf) {
        self.permit.send(packet);
    }
}

impl PacketReceiver {
    /// Waits for the next packet; `None` when the other end is gone.
    pub async fn recv(&mut self) -> Option<PacketBuf> {
        self.queue.recv().await
    }

    /// The next packet if one waits.
    pub fn try_recv(&mut self) -> Option<PacketBuf> {
        self.queue.try_recv().ok()
    }

    /// The waker's way: as [`PacketReceiver::recv`].
    pub fn poll_recv(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<PacketBuf>> {
        self.queue.poll_recv(cx)
    }

    /// Gives back the buffer of a packet that was worked off.
    pub fn recycle(&self, packet: PacketBuf) {
        self.pool.give(packet);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sender: &PacketSender, byte: u8) -> PacketBuf {
        let mut packet = sender.buffer();
        packet.fill(&[byte; 20]);
        packet
    }

    #[tokio::test]
    async fn packets_arrive_in_order_at_the_other_end() {
        let (a, b) = Packets::pair(1500);
        let (sender, _kept) = a.split();
        let (_also_kept, mut receiver) = b.split();
        for byte in 0..3 {
            sender.send(packet(&sender, byte)).await.unwrap();
        }
        for byte in 0..3 {
            assert_eq!(receiver.recv().await.unwrap().as_slice(), [byte; 20]);
        }
        drop((sender, _kept));
        assert!(receiver.recv().await.is_none());
    }

    #[test]
    fn the_queue_is_bounded_and_buffers_are_used_again() {
        let (a, b) = Packets::pair(1500);
        let (sender, _kept) = a.split();
        for _ in 0..QUEUE {
            sender.try_send(packet(&sender, 1)).unwrap();
        }
        let Err(Refused::Full(back)) = sender.try_send(packet(&sender, 2)) else {
            panic!("more than {QUEUE} packets wait");
        };
        sender.recycle(back);
        let (_also_kept, mut receiver) = b.split();
        while let Some(packet) = receiver.try_recv() {
            receiver.recycle(packet);
        }
        assert_eq!(sender.pool.free.len(), QUEUE + 1);
        for _ in 0..=QUEUE {
            drop(sender.buffer());
        }
        assert_eq!(sender.pool.free.len(), 0);
    }
}
