//! The caller-owned packet buffer: a packet with room before and after it.
//!
//! ```text
//! 0                HEADROOM              HEADROOM + len          capacity
//! | outer headers |  IP packet          |  tailroom (AEAD tag)  |
//! ```
//!
//! A TUN read lands at [`HEADROOM`]; each layer then claims bytes in front of what is there, so the
//! same memory goes from the TUN device to the socket.

/// Room before the packet: DTLS record header (13), explicit nonce (8), packet type (1).
///
/// The CSTP header (8) needs less.
pub const HEADROOM: usize = 13 + 8 + 1;

/// Room after the packet: one AEAD tag.
pub const TAILROOM: usize = 16;

/// The longest packet that a buffer of [`PacketBuf::new`] can hold.
///
/// The payload limit of a CSTP frame in one TLS record: 16,384 - 8 (protocol.md 4.2).
pub const MAX_PACKET: usize = 16_384 - 8;

/// One packet with headroom and tailroom.
pub struct PacketBuf {
    bytes: Box<[u8]>,
    start: usize,
    end: usize,
}

/// Shows the length: packets are users' data.
impl std::fmt::Debug for PacketBuf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PacketBuf").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl PacketBuf {
    /// Allocates a buffer for packets of up to `max_packet` bytes.
    pub fn new(max_packet: usize) -> Self {
        Self {
            bytes: vec![0; HEADROOM + max_packet.min(MAX_PACKET) + TAILROOM].into_boxed_slice(),
            start: HEADROOM,
            end: HEADROOM,
        }
    }

    /// Empties the buffer: an empty packet at [`HEADROOM`].
    pub fn clear(&mut self) {
        self.start = HEADROOM;
        self.end = HEADROOM;
    }

    /// The whole room for a packet, to be filled by a read; follow with [`PacketBuf::set_len`].
    pub fn room(&mut self) -> &mut [u8] {
        self.clear();
        let end = self.bytes.len() - TAILROOM;
        &mut self.bytes[HEADROOM..end]
    }

    /// Says how many bytes of [`PacketBuf::room`] were filled; more than the room is cut to it.
    pub fn set_len(&mut self, len: usize) {
        self.start = HEADROOM;
        self.end = (HEADROOM + len).min(self.bytes.len() - TAILROOM);
    }

    /// Copies `packet` in, cut to the room there is; returns whether all of it fitted.
    pub fn fill(&mut self, packet: &[u8]) -> bool {
        let room = self.room();
        let len = packet.len().min(room.len());
        room[..len].copy_from_slice(&packet[..len]);
        self.set_len(len);
        len == packet.len()
    }

    /// Claims `N` bytes in front of the present contents for a header.
    ///
    /// # Panics
    /// When the headers claimed exceed [`HEADROOM`]; which headers are stacked is fixed in this crate.
    pub fn prepend<const N: usize>(&mut self, header: [u8; N]) {
        let start = self.start.checked_sub(N).expect("the stacked headers fit HEADROOM");
        self.bytes[start..self.start].copy_from_slice(&header);
        self.start = start;
    }

    /// Claims `N` bytes behind the present contents for a trailer.
    ///
    /// # Panics
    /// When the trailers exceed the room behind the packet, which is [`TAILROOM`] at least; which trailers
    /// are put there is fixed in this crate.
    pub fn append<const N: usize>(&mut self, trailer: [u8; N]) {
        let end = self.end + N;
        self.bytes[self.end..end].copy_from_slice(&trailer);
        self.end = end;
    }

    /// The present contents.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The present contents, to be changed in place.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    /// The number of bytes of the present contents.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether there are no contents.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_goes_before_the_packet_without_moving_it() {
        let mut buf = PacketBuf::new(100);
        buf.room()[..3].copy_from_slice(b"abc");
        buf.set_len(3);
        let at = buf.as_slice().as_ptr();
        buf.prepend([1, 2]);
        assert_eq!(buf.as_slice(), b"\x01\x02abc");
        assert_eq!(buf.as_slice()[2..].as_ptr(), at);
    }

    #[test]
    fn a_full_buffer_takes_a_trailer() {
        let mut buf = PacketBuf::new(3);
        assert!(buf.fill(b"abc"));
        buf.append([7; TAILROOM]);
        assert_eq!(buf.as_slice()[..4], *b"abc\x07");
        assert_eq!(buf.len(), 3 + TAILROOM);
    }

    #[test]
    fn a_length_beyond_the_room_is_cut() {
        let mut buf = PacketBuf::new(4);
        buf.set_len(1_000);
        assert_eq!(buf.len(), 4);
        assert!(!buf.fill(b"12345"));
        assert_eq!(buf.as_slice(), b"1234");
    }
}
