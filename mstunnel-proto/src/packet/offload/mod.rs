//! Super-packets: what a TUN device with offloads gives and takes instead of one packet a system call.
//!
//! ```text
//!   one read or write of the device
//!   | offload header (10) | IP header | TCP or UDP header | payload of up to 64 KB |
//!                                                          '- segment -'- segment -'- .. -'
//!   flags 1 | kind 1 | headers' length 2 | segment 2 | checksum start 2 | its field 2     (host's byte order)
//! ```
//!
//! [`Segments`] splits what was read into the packets it stands for; [`Coalescer`] joins packets of one flow for a
//! write. Splitting what was joined gives the packets that went in, byte for byte; the one exception is the
//! identification of IPv4 packets that must not be fragmented, which means nothing (RFC 6864).
//!
//! # Source
//! Linux `include/uapi/linux/virtio_net.h` (`virtio_net_hdr`) and `drivers/net/tun.c`; the fields are in the host's byte
//! order unless another was asked for.

mod coalesce;
mod header;
mod segments;
#[cfg(test)]
mod tests;

pub use coalesce::{Coalesced, Coalescer, MAX_FLOWS, Push};
pub use header::{HEADER_LEN, OffloadHeader, Segmentation};
pub use segments::Segments;

/// The longest packet of an offload read: an IPv6 header and the longest payload that it can name.
pub const MAX_SUPER_PACKET: usize = 40 + 65_535;

/// Offsets in a TCP header, and its flags.
mod tcp {
    pub(super) const SEQUENCE: usize = 4;
    pub(super) const DATA_OFFSET: usize = 12;
    pub(super) const FLAGS: usize = 13;
    pub(super) const CHECKSUM: usize = 16;
    pub(super) const FIN: u8 = 0x01;
    pub(super) const PSH: u8 = 0x08;
    pub(super) const ACK: u8 = 0x10;
    pub(super) const CWR: u8 = 0x80;
}

/// Offsets in a UDP header, and its length.
mod udp {
    pub(super) const LENGTH: usize = 4;
    pub(super) const CHECKSUM: usize = 6;
    pub(super) const HEADER: usize = 8;
}

/// Writes a 16-bit field in network order.
fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
