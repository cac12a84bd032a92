//! Records of one client on their way out: sealed side by side, sent as one burst.
//!
//! ```text
//!   | record 1 (segment bytes) | record 2 (segment bytes) | .. | last, at most segment bytes |
//! ```
//!
//! One batch serves all tunnels of a worker: whoever comes next flushes what the one before left. The kernel
//! cuts the burst into datagrams of `segment` bytes (UDP GSO).

use mstunnel_proto::dtls::Path;

/// The most bytes of one burst: the largest UDP payload over IPv4.
const MAX_BYTES: usize = 65_507;

/// A burst in the making.
pub(crate) struct Batch {
    bytes: Box<[u8]>,
    len: usize,
    segment: usize,
    segments: usize,
    max_segments: usize,
    path: Option<Path>,
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
            path: None,
        }
    }

    /// Room for a record of `len` bytes to `path`; `None` if the batch has to be flushed first.
    ///
    /// Call [`Batch::commit`] when the room is filled.
    pub(crate) fn room(&mut self, path: Path, len: usize) -> Option<&mut [u8]> {
        let fits = match self.path.filter(|_| self.segments > 0) {
            None => len <= MAX_BYTES,
            Some(current) => {
                // Once a shorter record is in, it is the last.
                let is_full_segments = self.len == self.segment * self.segments;
                current == path
                    && is_full_segments
                    && len <= self.segment
                    && self.segments < self.max_segments
                    && self.len + len <= MAX_BYTES
            }
        };
        fits.then(|| {
            self.path = Some(path);
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
    pub(crate) fn take(&mut self) -> Option<(Path, &[u8], Option<usize>)> {
        let path = self.path.take()?;
        let (len, segments) = (std::mem::take(&mut self.len), std::mem::take(&mut self.segments));
        (segments > 0).then(|| (path, &self.bytes[..len], (segments > 1).then_some(self.segment)))
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn path(port: u16) -> Path {
        Path { socket: 0, remote: SocketAddr::new([192, 0, 2, 1].into(), port), local: None }
    }

    fn put(batch: &mut Batch, path: Path, len: usize) -> bool {
        let Some(room) = batch.room(path, len) else { return false };
        room.fill(u8::try_from(len % 251).unwrap());
        batch.commit(len);
        true
    }

    #[test]
    fn equal_records_and_a_shorter_last_one_make_a_burst() {
        let mut batch = Batch::new(64);
        assert!(put(&mut batch, path(1), 1400));
        assert!(put(&mut batch, path(1), 1400));
        assert!(put(&mut batch, path(1), 90));
        assert!(!put(&mut batch, path(1), 90), "behind a shorter record nothing fits");
        let (to, bytes, segment) = batch.take().unwrap();
        assert_eq!((to, bytes.len(), segment), (path(1), 2890, Some(1400)));
        assert!(batch.take().is_none());
    }

    #[test]
    fn a_longer_record_or_another_client_needs_a_flush() {
        let mut batch = Batch::new(64);
        assert!(put(&mut batch, path(1), 100));
        assert!(!put(&mut batch, path(1), 101));
        assert!(!put(&mut batch, path(2), 100));
        let (_, bytes, segment) = batch.take().unwrap();
        assert_eq!((bytes.len(), segment), (100, None));
        assert!(put(&mut batch, path(2), 101));
    }

    #[test]
    fn room_that_was_not_used_is_as_if_never_asked_for() {
        let mut batch = Batch::new(64);
        assert!(batch.room(path(1), 100).is_some());
        assert!(batch.room(path(2), 200).is_some());
        assert!(batch.take().is_none());
        assert!(put(&mut batch, path(3), 300));
    }

    #[test]
    fn a_burst_is_no_longer_than_the_kernel_takes() {
        let mut batch = Batch::new(64);
        let count = (0..100).take_while(|_| put(&mut batch, path(1), 1400)).count();
        assert_eq!(count, 46, "65,507 bytes");
        batch.take();
        let count = (0..100).take_while(|_| put(&mut batch, path(1), 100)).count();
        assert_eq!(count, 64);
    }
}
