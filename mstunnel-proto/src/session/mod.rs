//! Sessions: one client's tunnel from CONNECT to the end, across its connections.
//!
//! | part | owns |
//! | --- | --- |
//! | [`Registry`] | cookies, leases, limits: what outlives a connection; one for a server |
//! | [`Session`] | one live connection on its worker: packets, liveness, time-outs |
//! | [`ClientSession`] | the client's end of one connection, and its reconnect policy |
//! | [`ClientDatagrams`] | when the client has a datagram channel, and what it carries |
//! | [`PacketQueue`] | packets for a client that reads slowly |
//! | [`MtuProbe`] | the search for what the datagram channel carries |
//! | [`Access`] | what sessions may reach |
//!
//! Sources: protocol.md sections 4 and 8; R1 to R10, R41, R51, R55.

mod access;
mod client;
mod client_datagrams;
mod liveness;
mod mtu_probe;
mod path;
mod queue;
mod registry;
mod server;
mod state;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use access::Access;
pub use client::{Backoff, ClientConfig, ClientEvent, ClientSession, ClientTimer, MAX_BYE_TEXT};
pub use client_datagrams::{ClientDatagrams, DATAGRAM_RETRY, DatagramChange, DatagramPlan};
pub use mtu_probe::{Found, MtuProbe};
pub use queue::{MAX_QUEUED_AGE, MAX_QUEUED_BYTES, MAX_QUEUED_PACKETS, PacketQueue};
pub use registry::{
    Admit, AdmitRefused, Attach, AttachRefused, Attachment, Detached, Ended, LOST_SHARE,
    MAX_WAITING_PER_USER, Record, Registry, RegistryConfig, Stage, Standing,
};
pub use server::{
    MAX_OWED_BYTES, MAX_OWED_RESPONSES, STALL_LIMIT, Session, SessionConfig, SessionEvent, SessionParams,
    SessionTimer, Waiting,
};
pub use state::SessionState;

use crate::buf::PacketBuf;
use crate::drop::{DropCounters, DropReason};
use crate::frame::{self, FrameKind};

/// Names a session for its whole life; never reused by one server process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(u64);

impl SessionId {
    /// Wraps a number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The way a frame travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// CSTP over TLS.
    Stream,
    /// DTLS.
    Datagram,
}

impl Channel {
    /// Makes the payload in `buf` a unit of this channel, in place: a CSTP frame, or the plaintext of a record.
    pub(crate) fn encapsulate(self, kind: FrameKind, buf: &mut PacketBuf) -> Self {
        match self {
            Self::Stream => frame::encapsulate(kind, buf),
            Self::Datagram => buf.prepend([kind.byte()]),
        }
        self
    }
}

/// Takes the next of the control frames that travel as datagrams: a DPD answer that is owed, or a question.
fn take_datagram(owed: &mut VecDeque<(Channel, Box<[u8]>)>, ask: &mut bool, out: &mut PacketBuf) -> bool {
    let place = owed.iter().position(|(channel, _)| *channel == Channel::Datagram);
    if let Some((channel, payload)) = place.and_then(|place| owed.remove(place)) {
        out.fill(&payload);
        channel.encapsulate(FrameKind::DpdResponse, out);
        return true;
    }
    let is_asked = std::mem::take(ask);
    if is_asked {
        Channel::Datagram.encapsulate(FrameKind::DpdRequest, out);
    }
    is_asked
}

/// The inside addresses of a session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leases {
    /// The IPv4 address, if one was leased.
    pub v4: Option<Ipv4Addr>,
    /// The IPv6 address, if one was leased.
    pub v6: Option<Ipv6Addr>,
}

impl Leases {
    /// Whether `address` is one of them.
    pub fn holds(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4 == Some(address),
            IpAddr::V6(address) => self.v6 == Some(address),
        }
    }

    /// Those there are, IPv4 first.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// What became of a frame from the client.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Inbound<'b> {
    /// A packet for the network; its source is the session's lease and its destination is permitted.
    Packet(&'b mut [u8]),
    /// Consumed: drain the outputs now.
    Handled,
    /// Discarded and counted.
    Dropped(DropReason),
}

/// What passed through a session and what did not; "in" is from the client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionCounters {
    /// Packets from the client that went on to the network.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Packets from the network made frames for the client.
    pub packets_out: u64,
    /// Their bytes, without frame headers.
    pub bytes_out: u64,
    /// What was dropped, by reason.
    pub drops: DropCounters,
}

impl SessionCounters {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.packets_in += other.packets_in;
        self.bytes_in += other.bytes_in;
        self.packets_out += other.packets_out;
        self.bytes_out += other.bytes_out;
        self.drops.merge(&other.drops);
    }
}
