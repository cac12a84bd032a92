//! CSTP frames: the packets and control messages of the stream channel.
//!
//! ```text
//!  0     1     2     3     4     5     6     7     8
//! | 'S' | 'T' | 'F' | 0x01| length    | type| 0x00| payload ... |
//! ```
//!
//! The length is big endian and counts the payload alone. On send, one frame is one TLS record: the
//! stock client reads a record and expects exactly one frame in it. On receipt the bytes are a stream:
//! any split or coalescing gives the same frames. Memory is never reserved from a declared length.
//!
//! # Source
//! protocol.md 4.1 and 4.2; R1, R2.

use crate::buf::{MAX_PACKET, PacketBuf};

/// Bytes of a frame header.
pub const HEADER_LEN: usize = 8;

/// The longest payload: a frame fits one TLS record of 16,384 bytes of plaintext.
pub const MAX_PAYLOAD: usize = MAX_PACKET;

/// The longest frame.
pub const MAX_FRAME: usize = HEADER_LEN + MAX_PAYLOAD;

const MAGIC: [u8; 4] = [b'S', b'T', b'F', 0x01];

/// What a frame carries; the same numbers serve as the type byte of the datagram channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// One IPv4 or IPv6 packet.
    Data,
    /// Asks whether the peer is there; answered by [`FrameKind::DpdResponse`] with the same payload.
    DpdRequest,
    /// The answer; its payload may be empty whatever was asked.
    DpdResponse,
    /// The sender ends the session (server, or client with first byte `0xB0`) or pauses it (no payload).
    Disconnect,
    /// Keeps middleboxes open and expects no answer.
    Keepalive,
    /// A compressed packet; an error unless compression was negotiated.
    Compressed,
    /// The server is going down; never sent by ocserv.
    Terminate,
    /// A type this crate does not know.
    Unknown(u8),
}

impl FrameKind {
    /// Reads the type byte.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0x00 => Self::Data,
            0x03 => Self::DpdRequest,
            0x04 => Self::DpdResponse,
            0x05 => Self::Disconnect,
            0x07 => Self::Keepalive,
            0x08 => Self::Compressed,
            0x09 => Self::Terminate,
            other => Self::Unknown(other),
        }
    }

    /// The type byte.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Data => 0x00,
            Self::DpdRequest => 0x03,
            Self::DpdResponse => 0x04,
            Self::Disconnect => 0x05,
            Self::Keepalive => 0x07,
            Self::Compressed => 0x08,
            Self::Terminate => 0x09,
            Self::Unknown(byte) => byte,
        }
    }
}

/// The header of a frame whose payload is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it carries.
    pub kind: FrameKind,
    /// Bytes of payload behind the header.
    pub payload_len: usize,
}

impl FrameHeader {
    /// Reads a header at the start of `bytes`; `None` means not enough bytes yet.
    ///
    /// A header that can never become valid is refused as soon as its first wrong byte is there.
    ///
    /// # Errors
    /// [`FrameError`] on a wrong magic, a set reserved byte or a length above [`MAX_PAYLOAD`].
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, FrameError> {
        let given = bytes.len().min(MAGIC.len());
        if bytes[..given] != MAGIC[..given] {
            let mut got = [0; 4];
            got[..given].copy_from_slice(&bytes[..given]);
            return Err(FrameError::Magic { got });
        }
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Ok(None);
        };
        if header[7] != 0 {
            return Err(FrameError::Reserved { got: header[7] });
        }
        let payload_len = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if payload_len > MAX_PAYLOAD {
            return Err(FrameError::TooLong { len: payload_len, limit: MAX_PAYLOAD });
        }
        Ok(Some(Self { kind: FrameKind::from_byte(header[6]), payload_len }))
    }

    /// The bytes of this header.
    ///
    /// # Panics
    /// When the payload is longer than [`MAX_PAYLOAD`]: callers size their buffers by it.
    pub fn encode(self) -> [u8; HEADER_LEN] {
        assert!(self.payload_len <= MAX_PAYLOAD, "a payload is at most MAX_PAYLOAD bytes");
        let length = u16::try_from(self.payload_len).expect("MAX_PAYLOAD fits sixteen bits").to_be_bytes();
        [MAGIC[0], MAGIC[1], MAGIC[2], MAGIC[3], length[0], length[1], self.kind.byte(), 0]
    }
}

/// One whole frame, borrowed from the bytes it came in.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'b> {
    /// What it carries.
    pub kind: FrameKind,
    /// Its payload, to be opened or changed in place.
    pub payload: &'b mut [u8],
}

/// The whole frames at the front of a read buffer, one after the other.
#[derive(Debug)]
pub struct Frames<'b> {
    rest: &'b mut [u8],
}

impl<'b> Frames<'b> {
    /// Reads frames from the front of `bytes`.
    pub fn new(bytes: &'b mut [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Takes the next whole frame; `None` means that the rest is not a whole frame yet.
    ///
    /// # Errors
    /// As [`FrameHeader::parse`]; the stream cannot be resumed after one.
    pub fn take_next(&mut self) -> Result<Option<Frame<'b>>, FrameError> {
        let Some(header) = FrameHeader::parse(self.rest)? else {
            return Ok(None);
        };
        let end = HEADER_LEN + header.payload_len;
        if self.rest.len() < end {
            return Ok(None);
        }
        let (frame, rest) = std::mem::take(&mut self.rest).split_at_mut(end);
        self.rest = rest;
        Ok(Some(Frame { kind: header.kind, payload: &mut frame[HEADER_LEN..] }))
    }

    /// The bytes behind the last frame taken.
    pub fn rest(&self) -> &[u8] {
        self.rest
    }
}

/// Makes the contents of `buf` the payload of a frame: writes the header before it, in place.
pub fn encapsulate(kind: FrameKind, buf: &mut PacketBuf) {
    buf.prepend(FrameHeader { kind, payload_len: buf.len() }.encode());
}

/// The bytes of an incomplete frame, kept from one read to the next.
///
/// A reader copies them to the front of its read buffer ([`Remainder::take_into`]), reads behind
/// them, takes off whole frames and keeps what is left ([`Remainder::keep`]). It holds less than
/// [`MAX_FRAME`] bytes, and none while reads end on a frame boundary.
#[derive(Debug, Default)]
pub struct Remainder(Vec<u8>);

impl Remainder {
    /// Moves the kept bytes to the front of `buffer` and returns how many there were.
    ///
    /// # Panics
    /// When `buffer` is shorter than [`MAX_FRAME`], or [`MAX_FRAME`] bytes or more are kept.
    pub fn take_into(&mut self, buffer: &mut [u8]) -> usize {
        let len = self.0.len();
        assert!(len < MAX_FRAME && buffer.len() >= MAX_FRAME, "a remainder is shorter than a frame");
        buffer[..len].copy_from_slice(&self.0);
        self.0.clear();
        len
    }

    /// Keeps `rest`, the bytes behind the last whole frame: fewer than [`MAX_FRAME`] in all. Who has read more, behind the
    /// head of a request say, takes the whole frames off first ([`Frames`]).
    pub fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            self.0 = Vec::new();
        } else {
            self.0.extend_from_slice(rest);
        }
    }

    /// How many bytes are kept.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Why a stream is not CSTP; the session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first four bytes are not `STF` 1; `got` is zero-filled where fewer were there.
    #[error("frame magic {got:02x?}, want 53 54 46 01")]
    Magic {
        /// What came.
        got: [u8; 4],
    },
    /// The last header byte is set.
    #[error("reserved frame byte {got:#04x}, want 0x00")]
    Reserved {
        /// What came.
        got: u8,
    },
    /// The declared length does not fit a TLS record.
    #[error("frame of {len} bytes, limit {limit}")]
    TooLong {
        /// What was declared.
        len: usize,
        /// [`MAX_PAYLOAD`].
        limit: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `stream` in pieces of the given sizes through the reader's drive and collects the frames.
    fn read_in_pieces(stream: &[u8], sizes: &[usize]) -> Result<Vec<(u8, Vec<u8>)>, FrameError> {
        let mut frames = Vec::new();
        let mut remainder = Remainder::default();
        let mut buffer = vec![0; 2 * MAX_FRAME];
        let mut at = 0;
        let mut sizes = sizes.iter().cycle();
        while at < stream.len() {
            let kept = remainder.take_into(&mut buffer);
            let size = (*sizes.next().unwrap()).clamp(1, MAX_FRAME).min(stream.len() - at);
            buffer[kept..kept + size].copy_from_slice(&stream[at..at + size]);
            at += size;
            let mut whole = Frames::new(&mut buffer[..kept + size]);
            while let Some(frame) = whole.take_next()? {
                frames.push((frame.kind.byte(), frame.payload.to_vec()));
            }
            remainder.keep(whole.rest());
        }
        assert!(remainder.len() < MAX_FRAME);
        Ok(frames)
    }

    fn encode(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
        let mut stream = Vec::new();
        for (kind, payload) in frames {
            let header = FrameHeader { kind: FrameKind::from_byte(*kind), payload_len: payload.len() };
            stream.extend_from_slice(&header.encode());
            stream.extend_from_slice(payload);
        }
        stream
    }

    proptest! {
        /// Covers: statement 34, P-001, R2
        #[test]
        fn any_split_of_the_stream_gives_the_same_frames(
            frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..1500)), 0..40),
            sizes in prop::collection::vec(1usize..4000, 1..20),
        ) {
            let stream = encode(&frames);
            prop_assert_eq!(read_in_pieces(&stream, &sizes).unwrap(), frames.clone());
            prop_assert_eq!(read_in_pieces(&stream, &[1]).unwrap(), frames.clone());
            prop_assert_eq!(read_in_pieces(&stream, &[MAX_FRAME]).unwrap(), frames);
        }

        #[test]
        fn arbitrary_bytes_never_panic_and_never_outgrow_a_frame(
            bytes in prop::collection::vec(any::<u8>(), 0..5000),
            size in 1usize..600,
        ) {
            let _ = read_in_pieces(&bytes, &[size]);
        }
    }

    /// Covers: P-001, R2
    #[test]
    fn a_thousand_frames_survive_one_byte_at_a_time() {
        let frames: Vec<_> = (0..1024u32)
            .map(|n| {
                let kind = u8::try_from(n % 256).unwrap();
                (kind, vec![kind; usize::try_from(n).unwrap()])
            })
            .collect();
        assert_eq!(read_in_pieces(&encode(&frames), &[1]).unwrap(), frames);
    }

    /// Covers: statement 35, P-003, R2
    #[test]
    fn only_a_bad_header_ends_the_stream() {
        let frame = |magic: &[u8], len: u16, kind: u8, reserved: u8| {
            let mut bytes = magic.to_vec();
            bytes.extend_from_slice(&len.to_be_bytes());
            bytes.extend_from_slice(&[kind, reserved]);
            bytes
        };
        assert_eq!(
            FrameHeader::parse(&frame(b"STF\x02", 0, 0, 0)),
            Err(FrameError::Magic { got: *b"STF\x02" })
        );
        assert_eq!(FrameHeader::parse(b"X"), Err(FrameError::Magic { got: [b'X', 0, 0, 0] }));
        assert_eq!(FrameHeader::parse(&frame(b"STF\x01", 0, 0, 1)), Err(FrameError::Reserved { got: 1 }));
        for len in [u16::try_from(MAX_PAYLOAD).unwrap() + 1, u16::MAX] {
            assert_eq!(
                FrameHeader::parse(&frame(b"STF\x01", len, 0, 0)),
                Err(FrameError::TooLong { len: len.into(), limit: MAX_PAYLOAD })
            );
        }
        for kind in 0..=255 {
            for len in [0, 1, 1434, 1435, u16::try_from(MAX_PAYLOAD).unwrap()] {
                let header = FrameHeader::parse(&frame(b"STF\x01", len, kind, 0)).unwrap().unwrap();
                assert_eq!((header.kind.byte(), header.payload_len), (kind, usize::from(len)));
            }
        }
    }

    /// Covers: statement 33 (the bytes of protocol.md appendix D, seen from the stock peers)
    #[test]
    fn frames_of_the_stock_peers_are_read_and_reproduced() {
        let bye = b"STF\x01\x00\x12\x05\x00\xb0Aborted by caller";
        let mut bytes = bye.to_vec();
        let mut frames = Frames::new(&mut bytes);
        let frame = frames.take_next().unwrap().unwrap();
        assert_eq!(frame.kind, FrameKind::Disconnect);
        assert_eq!(frame.payload, b"\xb0Aborted by caller");
        assert!(frames.rest().is_empty());

        let mut buf = PacketBuf::new(100);
        buf.fill(b"\xb0Aborted by caller");
        encapsulate(FrameKind::Disconnect, &mut buf);
        assert_eq!(buf.as_slice(), bye);

        buf.clear();
        encapsulate(FrameKind::Keepalive, &mut buf);
        assert_eq!(buf.as_slice(), b"STF\x01\x00\x00\x07\x00");
    }
}
