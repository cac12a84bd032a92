//! Checked views of inner packets, and the few changes a tunnel makes to them.
//!
//! [`Packet::parse`] validates before anything is used (R44) and remembers where the transport header
//! is; every accessor after that is a read at a known offset. Nothing here allocates.
//!
//! ```text
//! IPv4 0       1       2       3       4      IPv6 0       1       2       3       4
//!      |ver|ihl|  tos  |  total length |           |ver| traffic class, flow label |
//!      |      id       |flg|  offset   |           | payload len   | next  | hops  |
//!      |  ttl  | proto |   checksum    |           |        source (16)            |
//!      |            source             |           |        destination (16)       |
//!      |          destination          |           | extension headers, at most 8  |
//!      |      options (ihl > 5)        |
//! ```
//!
//! # What is refused (R44, R45)
//! Lengths that disagree with the bytes, a wrong IPv4 header checksum, more than [`MAX_EXTENSIONS`]
//! extension headers or one out of place, source routes (their real destination is not the one that was
//! checked), a transport header that is cut, fragments that are tiny, that end beyond 65,535 bytes or
//! that start inside a TCP header. Transport checksums are not verified: they are end to end.
//!
//! # Source
//! RFC 791, RFC 8200, RFC 9293, RFC 768, RFC 792, RFC 4443; fragments RFC 1858, RFC 3128 and RFC 7112;
//! source routes RFC 5095 and RFC 7126 section 4.3.

pub mod checksum;
mod icmp_error;
mod mss;
pub mod offload;
mod transport;
mod v4;
mod v6;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use crate::drop::DropReason;

pub use icmp_error::{Unreachable, too_big, unreachable};
pub use mss::clamp_mss;
pub use transport::{Icmp, Tcp, Udp};
pub use v6::MAX_EXTENSIONS;

/// The IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of `address`.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// 6.
    Tcp,
    /// 17.
    Udp,
    /// 1, inside IPv4.
    Icmp,
    /// 58, inside IPv6.
    Icmpv6,
    /// Any other, with its number.
    Other(u8),
}

impl Protocol {
    fn new(number: u8, family: Family) -> Self {
        match (number, family) {
            (6, _) => Self::Tcp,
            (17, _) => Self::Udp,
            (1, Family::V4) => Self::Icmp,
            (58, Family::V6) => Self::Icmpv6,
            _ => Self::Other(number),
        }
    }

    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Icmp => 1,
            Self::Icmpv6 => 58,
            Self::Other(number) => number,
        }
    }
}

/// Which part of a fragmented packet a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// The identification; 16 bits of it in IPv4.
    pub id: u32,
    /// Where its payload starts in the whole, in bytes.
    pub offset: u16,
    /// Whether others follow.
    pub more: bool,
}

/// Where things are in a packet that was checked.
#[derive(Clone, Copy, Debug)]
struct Layout {
    family: Family,
    protocol: Protocol,
    /// The offset of what follows the IP and extension headers.
    transport: usize,
    /// `None` for a whole packet.
    fragment: Option<Fragment>,
}

/// A valid IPv4 or IPv6 packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    bytes: &'a [u8],
    layout: Layout,
}

impl<'a> Packet<'a> {
    /// Checks that `bytes` are exactly one packet. O(headers); never allocates.
    ///
    /// # Errors
    /// [`PacketError`], which becomes [`DropReason::Malformed`].
    pub fn parse(bytes: &'a [u8]) -> Result<Self, PacketError> {
        let layout = match bytes.first().map(|first| first >> 4) {
            Some(4) => v4::layout(bytes)?,
            Some(6) => v6::layout(bytes)?,
            Some(version) => return Err(PacketError::Version { version }),
            None => return Err(PacketError::Truncated { len: 0 }),
        };
        transport::check(layout.protocol, layout.fragment, &bytes[layout.transport..])?;
        Ok(Self { bytes, layout })
    }

    /// The whole packet.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The IP version.
    pub fn family(&self) -> Family {
        self.layout.family
    }

    /// The source address.
    pub fn source(&self) -> IpAddr {
        match self.layout.family {
            Family::V4 => v4::address(self.bytes, v4::SOURCE).into(),
            Family::V6 => v6::address(self.bytes, v6::SOURCE).into(),
        }
    }

    /// The destination address.
    pub fn destination(&self) -> IpAddr {
        match self.layout.family {
            Family::V4 => v4::address(self.bytes, v4::DESTINATION).into(),
            Family::V6 => v6::address(self.bytes, v6::DESTINATION).into(),
        }
    }

    /// What it carries, after all extension headers.
    pub fn protocol(&self) -> Protocol {
        self.layout.protocol
    }

    /// The offset of the transport header: the length of the IP header with options and extensions.
    pub fn transport_offset(&self) -> usize {
        self.layout.transport
    }

    /// What follows the IP headers: the transport header, or a later fragment's share of the payload.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.layout.transport..]
    }

    /// Which fragment it is; `None` for a whole packet (an IPv6 atomic fragment is whole, RFC 6946).
    pub fn fragment(&self) -> Option<Fragment> {
        self.layout.fragment
    }

    /// Whether it is a fragment without the transport header.
    pub fn is_later_fragment(&self) -> bool {
        self.layout.fragment.is_some_and(|fragment| fragment.offset > 0)
    }

    /// The TCP header, unless another protocol or a later fragment.
    pub fn tcp(&self) -> Option<Tcp<'a>> {
        (self.protocol() == Protocol::Tcp).then(|| self.first_payload().map(Tcp::new)).flatten()
    }

    /// The UDP header, unless another protocol or a later fragment.
    pub fn udp(&self) -> Option<Udp<'a>> {
        (self.protocol() == Protocol::Udp).then(|| self.first_payload().map(Udp::new)).flatten()
    }

    /// The ICMP or ICMPv6 header, unless another protocol or a later fragment.
    pub fn icmp(&self) -> Option<Icmp<'a>> {
        let is_icmp = matches!(self.protocol(), Protocol::Icmp | Protocol::Icmpv6);
        is_icmp.then(|| self.first_payload().map(|payload| Icmp::new(self.family(), payload))).flatten()
    }

    /// Source and destination port of TCP or UDP; `None` for a later fragment.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.protocol() {
            Protocol::Tcp | Protocol::Udp => self.first_payload().map(transport::ports),
            Protocol::Icmp | Protocol::Icmpv6 | Protocol::Other(_) => None,
        }
    }

    /// Whether it is an ICMP error message (and not a query or an answer).
    pub fn is_icmp_error(&self) -> bool {
        self.icmp().is_some_and(|icmp| icmp.is_error())
    }

    /// Whether it goes to a multicast group.
    pub fn is_multicast(&self) -> bool {
        self.destination().is_multicast()
    }

    /// Whether it goes to 255.255.255.255; broadcasts of one network look like any other address.
    pub fn is_broadcast(&self) -> bool {
        match self.destination() {
            IpAddr::V4(address) => address.is_broadcast(),
            IpAddr::V6(_) => false,
        }
    }

    /// Whether it shows that somebody uses the session (R5): not ICMP errors, multicast and broadcast,
    /// which devices and networks send by themselves.
    pub fn counts_as_activity(&self) -> bool {
        !self.is_icmp_error() && !self.is_multicast() && !self.is_broadcast()
    }

    /// The payload when it starts with the transport header.
    fn first_payload(&self) -> Option<&'a [u8]> {
        (!self.is_later_fragment()).then(|| self.payload())
    }
}

/// Why bytes are not a packet that goes through the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// Shorter than the IP header.
    #[error("{len} bytes are shorter than an IP header")]
    Truncated {
        /// How many bytes came.
        len: usize,
    },
    /// Neither 4 nor 6.
    #[error("IP version {version}")]
    Version {
        /// The version field.
        version: u8,
    },
    /// The IPv4 header length is below 20 or beyond the packet.
    #[error("IPv4 header of {header} bytes in a packet of {len}")]
    HeaderLength {
        /// The header length in bytes.
        header: usize,
        /// How many bytes came.
        len: usize,
    },
    /// The length in the header is not the number of bytes.
    #[error("the header says {declared} bytes, {len} came")]
    TotalLength {
        /// The length of the whole packet that the header says.
        declared: usize,
        /// How many bytes came.
        len: usize,
    },
    /// The IPv4 header checksum is wrong.
    #[error("wrong IPv4 header checksum")]
    HeaderChecksum,
    /// An IPv4 option is cut.
    #[error("an IPv4 option does not fit its header")]
    Option,
    /// An IPv6 extension header is cut, out of place, or one too many.
    #[error("an IPv6 extension header is cut, out of place or one too many")]
    Extension,
    /// The sender has chosen the way: the destination in the header is not the last one.
    #[error("source route")]
    SourceRoute,
    /// The transport header is cut, or its lengths disagree with the packet.
    #[error("transport header of protocol {protocol} in {len} bytes")]
    Transport {
        /// The protocol number.
        protocol: u8,
        /// The bytes there are for it.
        len: usize,
    },
    /// A fragment that no honest sender makes.
    #[error("fragment of {len} bytes at {offset}")]
    Fragment {
        /// Where it starts, in bytes.
        offset: usize,
        /// Its length.
        len: usize,
    },
}

impl From<PacketError> for DropReason {
    fn from(_: PacketError) -> Self {
        Self::Malformed
    }
}

/// Checks what both families ask of a fragment's place.
fn check_fragment(fragment: Fragment, len: usize) -> Result<(), PacketError> {
    let offset = usize::from(fragment.offset);
    let cut = fragment.more && (len == 0 || !len.is_multiple_of(8));
    if cut || offset + len > usize::from(u16::MAX) {
        return Err(PacketError::Fragment { offset, len });
    }
    Ok(())
}

/// The 16-bit field at `offset`, which the caller has checked to be there.
fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_be_bytes([bytes[offset], bytes[offset + 1]])
}
