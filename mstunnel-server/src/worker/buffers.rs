//! A free list of packet buffers shared by the workers.
//!
//! A packet on the fast path reuses its reader's own buffer. Only packets that wait in a queue or go
//! to another worker take one from here, so that neither allocates once the list is warm.

use crossbeam_queue::ArrayQueue;
use mstunnel_proto::buf::PacketBuf;

/// Buffers kept for reuse: about 6 MB of 1,500-byte packets.
const MAX_FREE: usize = 4096;

/// The free list.
pub(crate) struct Buffers {
    free: ArrayQueue<PacketBuf>,
    max_packet: usize,
}

impl Buffers {
    /// Makes an empty list of buffers for packets of up to `max_packet` bytes.
    pub(crate) fn new(max_packet: usize) -> Self {
        Self { free: ArrayQueue::new(MAX_FREE), max_packet }
    }

    /// The longest packet that a buffer holds, in bytes.
    pub(crate) fn max_packet(&self) -> usize {
        self.max_packet
    }

    /// Takes a buffer, from the list or new.
    pub(crate) fn take(&self) -> PacketBuf {
        self.free.pop().unwrap_or_else(|| PacketBuf::new(self.max_packet))
    }

    /// Gives a buffer back; beyond [`MAX_FREE`] it is freed.
    pub(crate) fn give(&self, mut buffer: PacketBuf) {
        buffer.clear();
        // A full list means enough buffers: this one is dropped.
        let _ = self.free.push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_taken_again() {
        let buffers = Buffers::new(1500);
        let mut buffer = buffers.take();
        buffer.fill(b"old contents");
        let at = buffer.as_slice().as_ptr();
        buffers.give(buffer);
        let again = buffers.take();
        assert!(again.is_empty());
        assert_eq!(again.as_slice().as_ptr(), at);
    }

    #[test]
    fn the_list_is_bounded() {
        let buffers = Buffers::new(1);
        for _ in 0..MAX_FREE + 10 {
            buffers.give(PacketBuf::new(1));
        }
        assert_eq!(buffers.free.len(), MAX_FREE);
    }
}
