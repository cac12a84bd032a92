//! Packets that can be told from all others: what is counted in and out of the tunnel.
//!
//! ```text
//!   | IP | UDP | "PROBE" (5) | wish (1) | number (8) | filling |
//! ```

use std::net::{IpAddr, SocketAddr};

use crate::inner::{self, Inner};

const MAGIC: &[u8; 5] = b"PROBE";
const HEAD: usize = 14;
const UDP_HEADER: usize = 8;

/// What the far side shall do with a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Nothing.
    Sink,
    /// Send one of the same size back.
    Echo,
    /// Send eight full ones back.
    Serve,
}

impl Wish {
    const ALL: [Self; 3] = [Self::Sink, Self::Echo, Self::Serve];
}

/// What a probe says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) number: u64,
    pub(crate) wish: Wish,
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
}

impl Probe {
    /// The packet, `len` bytes of it, or as few as it takes.
    pub(crate) fn packet(self, len: usize) -> Vec<u8> {
        let ip_header = if self.source.is_ipv4() { 20 } else { 40 };
        let mut payload = MAGIC.to_vec();
        payload.push(self.wish as u8);
        payload.extend_from_slice(&self.number.to_be_bytes());
        payload.resize(len.saturating_sub(ip_header + UDP_HEADER).max(HEAD), 0x5a);
        let (from, to) = (SocketAddr::new(self.source, 4_000), SocketAddr::new(self.destination, 7));
        inner::udp(from, to, &payload)
    }

    pub(crate) fn parse(packet: &[u8]) -> Option<Self> {
        let Inner { source, destination, payload, .. } = Inner::parse(packet)?;
        let payload = payload.get(UDP_HEADER..)?.strip_prefix(MAGIC)?;
        let (wish, rest) = payload.split_first()?;
        let number = u64::from_be_bytes(*rest.first_chunk()?);
        Some(Self { number, wish: *Wish::ALL.get(usize::from(*wish))?, source, destination })
    }
}
