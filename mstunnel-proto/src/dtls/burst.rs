//! Datagrams to one place on their way out: side by side, sent as one burst.
//!
//! ```text
//!   | record 1 (segment bytes) | record 2 (segment bytes) | .. | last, at most segment bytes |
//! ```
//!
//! One burst serves all channels of a thread: whoever comes next sends what the one before left. The kernel cuts it into
//! datagrams of `segment` bytes.
//!
//! # Source
//! UDP GSO: Linux `udp(7)`, `UDP_SEGMENT`.

/// The most bytes of one burst: the largest UDP payload over IPv4.
const MAX_BYTES: usize = 65_507;

/// A burst in the making, to a destination that is a `D`. Allocates when made, never after.
#[derive(Debug)]
pub struct Burst<D> {
    bytes: Box<[u8]>,
    len: usize,
    segment: usize,
    segments: usize,
    max_segments: usize,
    destination: Option<D>,
}

/// What [`Burst::take`] takes out.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken<'a, D> {
    /// Where to.
    pub destination: D,
    /// The datagrams, one behind the other.
    pub bytes: &'a [u8],
    /// The length of each but the last, in bytes; `None` for a single one.
    pub segment: Option<usize>,
}

impl<D: Copy + PartialEq> Burst<D> {
    /// An empty burst; the kernel takes `max_segments` datagrams at once.
    pub fn new(max_segments: usize) -> Self {
        Self {
            bytes: vec![0; MAX_BYTES].into_boxed_slice(),
            len: 0,
            segment: 0,
            segments: 0,
            max_segments: max_segments.max(1),
            destination: None,
        }
    }

    /// Room for a datagram of `len` bytes to `destination`; `None` if the burst has to be sent first.
    ///
    /// Call [`Burst::commit`] when the room is filled.
    pub fn room(&mut self, destination: D, len: usize) -> Option<&mut [u8]> {
        let fits = match self.destination.filter(|_| self.segments > 0) {
            None => len <= MAX_BYTES,
            Some(current) => {
                // Once a shorter datagram is in, it is the last.
                let is_full_segments = self.len == self.segment * self.segments;
                current == destination
                    && is_full_segments
                    && len <= self.segment
                    && self.segments < self.max_segments
                    && self.len + len <= MAX_BYTES
            }
        };
        fits.then(|| {
            self.destination = Some(destination);
            &mut self.bytes[self.len..self.len + len]
        })
    }

    /// Adds the `len` bytes that were written to the room.
    pub fn commit(&mut self, len: usize) {
        if self.segments == 0 {
            self.segment = len;
        }
        self.len += len;
        self.segments += 1;
    }

    /// Takes the burst out, if there is anything in it.
    pub fn take(&mut self) -> Option<Taken<'_, D>> {
        let destination = self.destination.take()?;
        let (len, segments) = (std::mem::take(&mut self.len), std::mem::take(&mut self.segments));
        let segment = (segments > 1).then_some(self.segment);
        (segments > 0).then(|| Taken { destination, bytes: &self.bytes[..len], segment })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(burst: &mut Burst<u16>, destination: u16, len: usize) -> bool {
        let Some(room) = burst.room(destination, len) else { return false };
        room.fill(u8::try_from(len % 251).unwrap());
        burst.commit(len);
        true
    }

    #[test]
    fn equal_datagrams_and_a_shorter_last_one_make_a_burst() {
        let mut burst = Burst::new(64);
        assert!(put(&mut burst, 1, 1400));
        assert!(put(&mut burst, 1, 1400));
        assert!(put(&mut burst, 1, 90));
        assert!(!put(&mut burst, 1, 90), "behind a shorter datagram nothing fits");
        let taken = burst.take().unwrap();
        assert_eq!((taken.destination, taken.bytes.len(), taken.segment), (1, 2890, Some(1400)));
        assert!(burst.take().is_none());
    }

    #[test]
    fn a_longer_datagram_or_another_destination_needs_a_flush() {
        let mut burst = Burst::new(64);
        assert!(put(&mut burst, 1, 100));
        assert!(!put(&mut burst, 1, 101));
        assert!(!put(&mut burst, 2, 100));
        let taken = burst.take().unwrap();
        assert_eq!((taken.bytes.len(), taken.segment), (100, None));
        assert!(put(&mut burst, 2, 101));
    }

    #[test]
    fn room_that_was_not_used_is_as_if_never_asked_for() {
        let mut burst = Burst::new(64);
        assert!(burst.room(1, 100).is_some());
        assert!(burst.room(2, 200).is_some());
        assert!(burst.take().is_none());
        assert!(put(&mut burst, 3, 300));
    }

    #[test]
    fn a_burst_is_no_longer_than_the_kernel_takes() {
        let mut burst = Burst::new(64);
        let count = (0..100).take_while(|_| put(&mut burst, 1, 1400)).count();
        assert_eq!(count, 46, "65,507 bytes");
        burst.take();
        let count = (0..100).take_while(|_| put(&mut burst, 1, 100)).count();
        assert_eq!(count, 64);
    }
}
