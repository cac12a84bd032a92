//! Handshake messages and their fragments.
//!
//! ```text
//! 0      1        4             6                 9                 12
//! | type | length | message seq | fragment offset | fragment length | body |
//! ```
//!
//! # Source
//! RFC 6347 section 4.2.2.

use super::reader::Reader;

/// The length of a handshake header.
pub(crate) const HANDSHAKE_HEADER_BYTES: usize = 12;

/// The messages that we know; others are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageType {
    HelloRequest,
    ClientHello,
    ServerHello,
    HelloVerifyRequest,
    ServerKeyExchange,
    ServerHelloDone,
    ClientKeyExchange,
    Finished,
}

impl MessageType {
    pub(crate) const fn byte(self) -> u8 {
        match self {
            Self::HelloRequest => 0,
            Self::ClientHello => 1,
            Self::ServerHello => 2,
            Self::HelloVerifyRequest => 3,
            Self::ServerKeyExchange => 12,
            Self::ServerHelloDone => 14,
            Self::ClientKeyExchange => 16,
            Self::Finished => 20,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::HelloRequest),
            1 => Some(Self::ClientHello),
            2 => Some(Self::ServerHello),
            3 => Some(Self::HelloVerifyRequest),
            12 => Some(Self::ServerKeyExchange),
            14 => Some(Self::ServerHelloDone),
            16 => Some(Self::ClientKeyExchange),
            20 => Some(Self::Finished),
            _ => None,
        }
    }
}

/// One fragment of a message; a whole message is one fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment<'a> {
    pub(crate) kind: MessageType,
    /// The length of the whole message.
    pub(crate) total: usize,
    pub(crate) sequence: u16,
    pub(crate) offset: usize,
    pub(crate) bytes: &'a [u8],
}

impl<'a> Fragment<'a> {
    /// Takes the next fragment of a record; `None` if it is malformed or reaches beyond its message.
    pub(crate) fn take(reader: &mut Reader<'a>) -> Option<Self> {
        let kind = MessageType::from_byte(reader.u8()?)?;
        let total = reader.u24()?;
        let sequence = reader.u16()?;
        let offset = reader.u24()?;
        let len = reader.u24()?;
        let bytes = reader.take(len)?;
        (offset + len <= total).then_some(Self { kind, total, sequence, offset, bytes })
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.bytes.len() == self.total
    }
}

/// A whole message as it is hashed and sent: header without fragmentation, and body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: MessageType,
    pub(crate) sequence: u16,
    /// Header and body.
    pub(crate) bytes: Vec<u8>,
}

impl Message {
    pub(crate) fn new(kind: MessageType, sequence: u16, body: &[u8]) -> Self {
        let mut bytes = fragment_header(kind, body.len(), sequence, 0, body.len()).to_vec();
        bytes.extend_from_slice(body);
        Self { kind, sequence, bytes }
    }

    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[HANDSHAKE_HEADER_BYTES..]
    }
}

/// The header of a fragment.
pub(crate) fn fragment_header(
    kind: MessageType,
    total: usize,
    sequence: u16,
    offset: usize,
    len: usize,
) -> [u8; HANDSHAKE_HEADER_BYTES] {
    let three = |number: usize| -> [u8; 3] {
        let [.., a, b, c] = number.to_be_bytes();
        [a, b, c]
    };
    let mut header = [0; HANDSHAKE_HEADER_BYTES];
    header[0] = kind.byte();
    header[1..4].copy_from_slice(&three(total));
    header[4..6].copy_from_slice(&sequence.to_be_bytes());
    header[6..9].copy_from_slice(&three(offset));
    header[9..].copy_from_slice(&three(len));
    header
}
