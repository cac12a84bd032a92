//! Records: the header, and the records of a datagram.
//!
//! ```text
//! 0      1        3       5            11       13
//! | type | version | epoch | sequence   | length | fragment, or explicit nonce | ciphertext | tag |
//! ```
//!
//! # Source
//! RFC 6347 section 4.1.

use super::sequences::MAX_SEQUENCE;

/// The length of a record header.
pub const HEADER_BYTES: usize = 13;

/// DTLS 1.2.
pub(crate) const VERSION_1_2: u16 = 0xfefd;

/// DTLS 1.0: what the record of a first hello says.
pub(crate) const VERSION_1_0: u16 = 0xfeff;

/// The longest plaintext of a record.
pub(crate) const MAX_PLAINTEXT: usize = 1 << 14;

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// The peer's next records are of the next epoch.
    ChangeCipherSpec,
    /// An alert.
    Alert,
    /// Handshake fragments.
    Handshake,
    /// Packets of the tunnel.
    ApplicationData,
}

impl ContentType {
    /// The byte on the wire.
    pub const fn byte(self) -> u8 {
        match self {
            Self::ChangeCipherSpec => 20,
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::ApplicationData => 23,
        }
    }

    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            20 => Some(Self::ChangeCipherSpec),
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            23 => Some(Self::ApplicationData),
            _ => None,
        }
    }
}

/// A record header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// What the record carries.
    pub content: ContentType,
    /// The version of the two that there are.
    pub(crate) version: u16,
    /// The key generation.
    pub epoch: u16,
    /// The number within the epoch, 48 bits.
    pub sequence: u64,
    /// The bytes after the header.
    pub len: usize,
}

impl RecordHeader {
    /// Reads the header of the record that `bytes` start with.
    ///
    /// `None` if it is cut, of an unknown type or version, or longer than `bytes`. Never allocates.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let [kind, v0, v1, n0, n1, n2, n3, n4, n5, n6, n7, l0, l1] = *header;
        let version = u16::from_be_bytes([v0, v1]);
        // Epoch and sequence in one load.
        let number = u64::from_be_bytes([n0, n1, n2, n3, n4, n5, n6, n7]);
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        if (version != VERSION_1_2 && version != VERSION_1_0) || len > rest.len() {
            return None;
        }
        Some(Self {
            content: ContentType::from_byte(kind)?,
            version,
            epoch: (number >> 48) as u16,
            sequence: number & MAX_SEQUENCE,
            len,
        })
    }

    /// The header on the wire.
    #[inline]
    pub(crate) fn bytes(&self) -> [u8; HEADER_BYTES] {
        let [n0, n1, n2, n3, n4, n5, n6, n7] = self.number().to_be_bytes();
        let [l0, l1] = u16::try_from(self.len).expect("a record is shorter than 2^16").to_be_bytes();
        let [v0, v1] = self.version.to_be_bytes();
        [self.content.byte(), v0, v1, n0, n1, n2, n3, n4, n5, n6, n7, l0, l1]
    }

    /// Epoch and sequence as one number.
    #[inline]
    pub(crate) fn number(&self) -> u64 {
        u64::from(self.epoch) << 48 | self.sequence
    }
}

/// The records of a datagram, one after the other.
///
/// What is no record ends the datagram: the rest cannot be cut, and is lent as one last piece, which a
/// channel then drops and names.
pub fn records(datagram: &mut [u8]) -> Records<'_> {
    Records { rest: datagram }
}

/// Iterator of [`records`].
#[derive(Debug)]
pub struct Records<'d> {
    rest: &'d mut [u8],
}

impl<'d> Iterator for Records<'d> {
    type Item = &'d mut [u8];

    #[inline]
    fn next(&mut self) -> Option<&'d mut [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let len = RecordHeader::parse(self.rest).map_or(self.rest.len(), |header| HEADER_BYTES + header.len);
        let (record, rest) = std::mem::take(&mut self.rest).split_at_mut(len);
        self.rest = rest;
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Appendix B: the second datagram of a stock client, its encrypted part cut off.
    const FLIGHT: [u8; 57] =
        *b"\x16\xfe\xfd\0\0\0\0\0\0\0\x01\0\x11\x10\0\0\x05\0\x01\0\0\0\0\0\x05\0\x03psk\
        \x14\xfe\xfd\0\0\0\0\0\0\0\x02\0\x01\x01\x16\xfe\xfd\0\x01\0\0\0\0\0\0\0\0";

    #[test]
    fn a_datagram_is_cut_into_its_records() {
        let mut datagram = FLIGHT;
        let found: Vec<_> = records(&mut datagram).map(|r| RecordHeader::parse(r).unwrap()).collect();
        assert_eq!(
            found.iter().map(|h| (h.content.byte(), h.epoch, h.sequence, h.len)).collect::<Vec<_>>(),
            [(22, 0, 1, 17), (20, 0, 2, 1), (22, 1, 0, 0)]
        );
        for header in found {
            assert_eq!(RecordHeader::parse(&[&header.bytes()[..], &[0; 17]].concat()), Some(header));
        }
    }

    #[test]
    fn what_is_no_record_is_lent_as_the_last_piece() {
        let mut datagram = FLIGHT;
        datagram[30 + 1] = 3;
        let found: Vec<_> = records(&mut datagram).map(|r| r.len()).collect();
        assert_eq!(found, [30, 27]);
        let mut cut = FLIGHT;
        assert_eq!(records(&mut cut[..29]).count(), 1);
        assert_eq!(RecordHeader::parse(&FLIGHT[..29]), None);
    }
}
