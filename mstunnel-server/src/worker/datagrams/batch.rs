//! Records of one client on their way out: sealed side by side, sent as one burst.
//!
//! ```text
//!   | record 1 (segment bytes) | record 2 (segment bytes) | .. | last, at most segment bytes |
//! ```
//!
//! One batch serves all tunnels of a worker: whoever comes next flushes what the one before left. The kernel
//! cuts the burst into datagrams of `segment` bytes (UDP GSO).

use std::net::{IpAddr, SocketAddr};

/// The most bytes of one burst: the largest UDP payload over IPv4.
const MAX_BYTES: usize = 65_507;

/// Where a burst goes, and how it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// Which socket of the worker.
    pub(crate) socket: usize,
    /// The client.
    pub(crate) remote: SocketAddr,
    /// The address of ours that the client talks to.
    pub(crate) local: Option<IpAddr>,
}

/// A burst in the making.
pub(crate) struct Batch {
    bytes: Box<[u8]>,
    len: usize,
    segment: usize,
    segments: usize,
    max_segments: usize,
    target: Option<Target>,
}

impl Batch {
    /// An empty batch; the kernel takes `max_segments` datagrams at once.
    pub(crate) fn new(max_segments: usize) -> Self {
        Self {
            bytes: vec![0; MAX_BYTES].into_boxed_slice(),
            len: 0,
            segment: 0,
            segments: 0,
            max_segments: max_segments.max(1),
            target: None,
        }
    }

    /// Room for a record of `len` bytes to `target`; `None` if the batch has to be flushed first.
    ///
    /// Call [`Batch::commit`] when the room is filled.
    pub(crate) fn room(&mut self, target: Target, len: usize) -> Option<&mut [u8]> {
        let fits = match self.target {
            None => len <= MAX_BYTES,
            Some(current) => {
                // Once a shorter record is in, it is the last.
                let is_full_segments = self.len == self.segment * self.segments;
                current == target
                    && is_full_segments
                    && len <= self.segment
                    && self.segments < self.max_segments
                    && self.len + len <= MAX_BYTES
            }
        };
        fits.then(|| {
            self.target = Some(target);
            &mut self.bytes[self.len..self.len + len]
        })
    }

    /// Adds the `len` bytes that were written to the room.
    pub(crate) fn commit(&mut self, len: usize) {
        if self.segments == 0 {
            self.segment = len;
        }
        self.len += len;
        self.segments += 1;
    }

    /// Takes the burst out: where to, the bytes, and the size of a segment if there are several.
    pub(crate) fn take(&mut self) -> Option<(Target, &[u8], Option<usize>)> {
        let target = self.target.take()?;
        let (len, segments) = (std::mem::take(&mut self.len), std::mem::take(&mut self.segments));
        (segments > 0).then(|| (target, &self.bytes[..len], (segments > 1).then_some(self.segment)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(port: u16) -> Target {
        Target { socket: 0, remote: SocketAddr::new([192, 0, 2, 1].into(), port), local: None }
    }

    fn put(batch: &mut Batch, target: Target, len: usize) -> bool {
        let Some(room) = batch.room(target, len) else { return false };
        room.fill(u8::try_from(len % 251).unwrap());
        batch.commit(len);
        true
    }

    #[test]
    fn equal_records_and_a_shorter_last_one_make_a_burst() {
        let mut batch = Batch::new(64);
        assert!(put(&mut batch, target(1), 1400));
        assert!(put(&mut batch, target(1), 1400));
        assert!(put(&mut batch, target(1), 90));
        assert!(!put(&mut batch, target(1), 90), "behind a shorter record nothing fits");
        let (to, bytes, segment) = batch.take().unwrap();
        assert_eq!((to, bytes.len(), segment), (target(1), 2890, Some(1400)));
        assert!(batch.take().is_none());
    }

    #[test]
    fn a_longer_record_or_another_client_needs_a_flush() {
        let mut batch = Batch::new(64);
        assert!(put(&mut batch, target(1), 100));
        assert!(!put(&mut batch, target(1), 101));
        assert!(!put(&mut batch, target(2), 100));
        let (_, bytes, segment) = batch.take().unwrap();
        assert_eq!((bytes.len(), segment), (100, None));
        assert!(put(&mut batch, target(2), 101));
    }

    #[test]
    fn a_burst_is_no_longer_than_the_kernel_takes() {
        let mut batch = Batch::new(64);
        let count = (0..100).take_while(|_| put(&mut batch, target(1), 1400)).count();
        assert_eq!(count, 46, "65,507 bytes");
        batch.take();
        let count = (0..100).take_while(|_| put(&mut batch, target(1), 100)).count();
        assert_eq!(count, 64);
    }
}
