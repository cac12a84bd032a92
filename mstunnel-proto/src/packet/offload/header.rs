//! The header before each packet of a device with offloads.

/// Bytes of the header.
pub const HEADER_LEN: usize = 10;

/// The checksum is left to who sends the packet on.
const NEEDS_CHECKSUM: u8 = 1;

/// An explicit congestion notification is in the packet: CWR belongs to the first segment alone.
const ECN: u8 = 0x80;

const NONE: u8 = 0;
const TCP_V4: u8 = 1;
const TCP_V6: u8 = 4;
const UDP: u8 = 5;

/// How a packet is split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segmentation {
    /// Not at all.
    None,
    /// As TCP over IPv4.
    TcpV4,
    /// As TCP over IPv6.
    TcpV6,
    /// As datagrams of UDP, over either.
    Udp,
}

/// What the header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffloadHeader {
    /// Where the bytes under the checksum start, and the offset of its field from there, if it has to be completed.
    pub checksum: Option<(u16, u16)>,
    /// How the packet is split.
    pub segmentation: Segmentation,
    /// The length of all headers; a hint.
    pub headers: u16,
    /// The payload bytes of each packet but the last, which may have fewer.
    pub segment: u16,
}

impl OffloadHeader {
    /// The header of a packet that is as it should be.
    pub const PLAIN: Self = Self { checksum: None, segmentation: Segmentation::None, headers: 0, segment: 0 };

    /// Reads a header; `None` for a segmentation that is not known.
    pub fn parse(bytes: [u8; HEADER_LEN]) -> Option<Self> {
        let [flags, kind, fields @ ..] = bytes;
        let field = |at: usize| u16::from_ne_bytes([fields[at], fields[at + 1]]);
        let segmentation = match kind & !ECN {
            NONE => Segmentation::None,
            TCP_V4 => Segmentation::TcpV4,
            TCP_V6 => Segmentation::TcpV6,
            UDP => Segmentation::Udp,
            _ => return None,
        };
        Some(Self {
            checksum: (flags & NEEDS_CHECKSUM != 0).then(|| (field(4), field(6))),
            segmentation,
            headers: field(0),
            segment: field(2),
        })
    }

    /// Writes the header.
    pub fn bytes(&self) -> [u8; HEADER_LEN] {
        let kind = match self.segmentation {
            Segmentation::None => NONE,
            Segmentation::TcpV4 => TCP_V4,
            Segmentation::TcpV6 => TCP_V6,
            Segmentation::Udp => UDP,
        };
        let (start, offset) = self.checksum.unwrap_or_default();
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = if self.checksum.is_some() { NEEDS_CHECKSUM } else { 0 };
        bytes[1] = kind;
        for (at, field) in [(2, self.headers), (4, self.segment), (6, start), (8, offset)] {
            bytes[at..at + 2].copy_from_slice(&field.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        for segmentation in [Segmentation::None, Segmentation::TcpV4, Segmentation::TcpV6, Segmentation::Udp]
        {
            for checksum in [None, Some((20, 16))] {
                let header = OffloadHeader { checksum, segmentation, headers: 52, segment: 1_348 };
                assert_eq!(OffloadHeader::parse(header.bytes()), Some(header));
            }
        }
        assert_eq!(OffloadHeader::PLAIN.bytes(), [0; HEADER_LEN]);
    }

    /// UFO (3) is never asked for; a device that gives it would have its packets split wrongly.
    #[test]
    fn an_unknown_segmentation_is_refused_and_ecn_changes_nothing() {
        assert_eq!(OffloadHeader::parse([0, 3, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(OffloadHeader::parse([0, 2, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        let header = OffloadHeader::parse([0, ECN | TCP_V4, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(header.map(|header| header.segmentation), Some(Segmentation::TcpV4));
    }
}
