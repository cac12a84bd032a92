//! A queue as the tunnels of its worker use it: their packets joined within a burst, and what the kernel refused.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;

use mstunnel_proto::drop::DropReason;
use mstunnel_proto::packet::offload::{Coalescer, Push, Segments};

use super::device::{AsyncTunQueue, Offloads};

/// Senders whose refused packets are remembered until their tunnels ask: more than a burst has. What is beyond is not
/// counted.
const MAX_REFUSED: usize = 256;

/// The way of a worker's packets into the kernel and back.
pub(crate) struct Uplink {
    queue: AsyncTunQueue,
    /// Empty for a queue without offloads.
    coalescer: RefCell<Option<Coalescer>>,
    /// Packets that were refused after [`Uplink::send`] had taken them, by their sender; at most [`MAX_REFUSED`].
    refused: RefCell<Vec<(IpAddr, u64)>>,
}

impl Uplink {
    /// Takes the queue over.
    pub(crate) fn new(queue: AsyncTunQueue) -> Self {
        let coalescer = match queue.offloads() {
            Offloads::None => None,
            Offloads::Tcp => Some(Coalescer::new(false)),
            Offloads::TcpAndUdp => Some(Coalescer::new(true)),
        };
        Self { queue, coalescer: RefCell::new(coalescer), refused: RefCell::default() }
    }

    /// Takes in a packet that was checked; it may wait for others until [`Uplink::flush`].
    ///
    /// # Errors
    /// [`DropReason::EgressRefused`]. What was taken may still be refused later: ask [`Uplink::take_refused`].
    pub(crate) fn send(&self, packet: &[u8]) -> Result<(), DropReason> {
        let mut coalescer = self.coalescer.borrow_mut();
        if let Some(coalescer) = &mut *coalescer {
            let push = coalescer.push(packet);
            self.write_due(coalescer);
            if push == Push::Kept {
                return Ok(());
            }
        }
        self.queue.try_send(packet).map_err(|_| DropReason::EgressRefused)
    }

    /// Ends the burst: nothing waits any longer.
    pub(crate) fn flush(&self) {
        if let Some(coalescer) = &mut *self.coalescer.borrow_mut() {
            coalescer.close();
            self.write_due(coalescer);
        }
    }

    fn write_due(&self, coalescer: &mut Coalescer) {
        while let Some(joined) = coalescer.poll_due() {
            if self.queue.try_send_super(joined.bytes).is_err() {
                self.note_refused(joined.source, joined.packets);
            }
        }
    }

    fn note_refused(&self, source: IpAddr, packets: u64) {
        let mut refused = self.refused.borrow_mut();
        if let Some((_, count)) = refused.iter_mut().find(|(known, _)| *known == source) {
            *count += packets;
        } else if refused.len() < MAX_REFUSED {
            refused.push((source, packets));
        }
    }

    /// How many packets from the addresses that `is_own` were refused since the last time.
    pub(crate) fn take_refused(&self, is_own: impl Fn(IpAddr) -> bool) -> u64 {
        let mut refused = self.refused.borrow_mut();
        let mut count = 0;
        refused.retain(|&(source, packets)| {
            let own = is_own(source);
            count += if own { packets } else { 0 };
            !own
        });
        count
    }

    /// Hands one packet of the server's own to the kernel.
    pub(crate) fn answer(&self, packet: &[u8]) {
        // A TUN that takes no packet loses an ICMP error; the sender will ask again.
        drop(self.queue.try_send(packet));
    }

    /// As [`AsyncTunQueue::readable`].
    pub(crate) async fn readable(&self) -> io::Result<()> {
        self.queue.readable().await
    }

    /// As [`AsyncTunQueue::try_recv`].
    pub(crate) fn try_recv<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Segments<'b>> {
        self.queue.try_recv(buffer)
    }
}
