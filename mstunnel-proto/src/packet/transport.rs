//! The TCP, UDP and ICMP headers of a packet that was checked.

use super::{Family, Fragment, PacketError, Protocol, u16_at};

const TCP_HEADER: usize = 20;
const UDP_HEADER: usize = 8;
const ICMP_HEADER: usize = 8;

/// Checks that the transport header is there and that its lengths fit `payload`.
pub(super) fn check(
    protocol: Protocol,
    fragment: Option<Fragment>,
    payload: &[u8],
) -> Result<(), PacketError> {
    let len = payload.len();
    if let Some(Fragment { offset: offset @ 1.., .. }) = fragment {
        // A fragment at 8 replaces the TCP flags that a filter has seen in the first one (RFC 3128).
        if protocol == Protocol::Tcp && usize::from(offset) < TCP_HEADER {
            return Err(PacketError::Fragment { offset: offset.into(), len });
        }
        return Ok(());
    }
    let fits = match protocol {
        Protocol::Tcp => len >= TCP_HEADER && (TCP_HEADER..=len).contains(&tcp_header_len(payload)),
        Protocol::Udp => {
            let declared = if len >= UDP_HEADER { usize::from(u16_at(payload, 4)) } else { 0 };
            declared >= UDP_HEADER && (declared <= len || fragment.is_some())
        }
        Protocol::Icmp | Protocol::Icmpv6 => len >= ICMP_HEADER,
        Protocol::Other(_) => true,
    };
    if fits { Ok(()) } else { Err(PacketError::Transport { protocol: protocol.number(), len }) }
}

/// Source and destination port of a TCP or UDP header.
pub(super) fn ports(header: &[u8]) -> (u16, u16) {
    (u16_at(header, 0), u16_at(header, 2))
}

fn tcp_header_len(header: &[u8]) -> usize {
    usize::from(header[12] >> 4) * 4
}

/// A TCP segment, perhaps cut by fragmentation after its header.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'a>(&'a [u8]);

impl<'a> Tcp<'a> {
    pub(super) fn new(segment: &'a [u8]) -> Self {
        Self(segment)
    }

    /// The source port.
    pub fn source_port(&self) -> u16 {
        ports(self.0).0
    }

    /// The destination port.
    pub fn destination_port(&self) -> u16 {
        ports(self.0).1
    }

    /// Whether SYN is set: the first segment of either side.
    pub fn is_syn(&self) -> bool {
        self.0[13] & 0x02 != 0
    }

    /// Whether ACK is set.
    pub fn is_ack(&self) -> bool {
        self.0[13] & 0x10 != 0
    }

    /// Whether FIN is set.
    pub fn is_fin(&self) -> bool {
        self.0[13] & 0x01 != 0
    }

    /// Whether RST is set.
    pub fn is_rst(&self) -> bool {
        self.0[13] & 0x04 != 0
    }

    /// The sequence number: of the SYN if there is one, or else of the first byte of the payload.
    pub fn sequence(&self) -> u32 {
        u32::from_be_bytes([self.0[4], self.0[5], self.0[6], self.0[7]])
    }

    /// The sequence number behind it: behind its payload, with one number each for SYN and FIN.
    ///
    /// # Source
    /// RFC 9293 section 3.4.
    pub fn end(&self) -> u32 {
        // A packet has less than 64 KB.
        let len = u32::try_from(self.payload().len()).unwrap_or(u32::MAX);
        self.sequence().wrapping_add(len).wrapping_add(u32::from(self.is_syn()) + u32::from(self.is_fin()))
    }

    /// Whether some of its payload lies at or behind the number `limit`, or so far before it that no window reaches
    /// there: 2^30 is the largest (RFC 7323 section 2.3).
    pub fn has_payload_behind(&self, limit: u32) -> bool {
        let end = self.end().wrapping_sub(u32::from(self.is_fin()));
        !self.payload().is_empty() && limit.wrapping_sub(end) > 1 << 30
    }

    /// The option bytes, padding included.
    pub fn options(&self) -> &'a [u8] {
        &self.0[TCP_HEADER..tcp_header_len(self.0)]
    }

    /// What follows the header.
    pub fn payload(&self) -> &'a [u8] {
        &self.0[tcp_header_len(self.0)..]
    }
}

/// A UDP datagram, perhaps cut by fragmentation after its header.
#[derive(Clone, Copy, Debug)]
pub struct Udp<'a>(&'a [u8]);

impl<'a> Udp<'a> {
    pub(super) fn new(datagram: &'a [u8]) -> Self {
        Self(datagram)
    }

    /// The source port.
    pub fn source_port(&self) -> u16 {
        ports(self.0).0
    }

    /// The destination port.
    pub fn destination_port(&self) -> u16 {
        ports(self.0).1
    }

    /// The checksum field; 0 says "none" in IPv4.
    pub fn checksum(&self) -> u16 {
        u16_at(self.0, 6)
    }

    /// The payload, without what lies behind the UDP length.
    pub fn payload(&self) -> &'a [u8] {
        let declared = usize::from(u16_at(self.0, 4));
        &self.0[UDP_HEADER..declared.min(self.0.len())]
    }
}

/// An ICMP or ICMPv6 message.
#[derive(Clone, Copy, Debug)]
pub struct Icmp<'a> {
    family: Family,
    message: &'a [u8],
}

impl<'a> Icmp<'a> {
    pub(super) fn new(family: Family, message: &'a [u8]) -> Self {
        Self { family, message }
    }

    /// The type.
    pub fn kind(&self) -> u8 {
        self.message[0]
    }

    /// The code.
    pub fn code(&self) -> u8 {
        self.message[1]
    }

    /// Whether it is an error message, or a redirect, to which no error answers either.
    ///
    /// # Source
    /// IPv4: RFC 1122 section 3.2.2. IPv6: types below 128, RFC 4443 section 2.1; redirect 137, 2.4 (e).
    pub fn is_error(&self) -> bool {
        match self.family {
            Family::V4 => matches!(self.kind(), 3 | 4 | 5 | 11 | 12),
            Family::V6 => self.kind() < 128 || self.kind() == 137,
        }
    }

    /// The identifier of an echo request or answer.
    pub fn echo_id(&self) -> Option<u16> {
        let is_echo = match self.family {
            Family::V4 => matches!(self.kind(), 0 | 8),
            Family::V6 => matches!(self.kind(), 128 | 129),
        };
        is_echo.then(|| u16_at(self.message, 4))
    }

    /// What follows the first eight bytes: for an error, the start of the packet it is about.
    pub fn body(&self) -> &'a [u8] {
        &self.message[ICMP_HEADER..]
    }
}
