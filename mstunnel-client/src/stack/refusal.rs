//! What ICMP errors say about packets of ours.
//!
//! An error quotes the start of the packet it is about, often cut. The quote is checked as far as a flow
//! can be found by it; whether such a flow exists is the next check.
//!
//! # Source
//! RFC 792, RFC 1191 section 4, RFC 4443 section 3; which to believe: RFC 5927.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mstunnel_proto::packet::{Family, Packet};

use super::table::Port;

/// The smallest MTU that an error may bring down to; smaller ones are lies or of another age.
///
/// RFC 1191 section 3 allows 68: a source that believes it can be made to send a hundred bytes at a time.
const MIN_MTU_V4: usize = 576;
/// RFC 8200 section 5.
const MIN_MTU_V6: usize = 1_280;

/// An error about a packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Who sent the packet that it is about: we, or somebody is lying.
    pub(super) source: IpAddr,
    pub(super) about: About,
    pub(super) what: What,
}

/// Which flow the packet was of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum About {
    Connection { remote: SocketAddr, local_port: u16 },
    Mailbox { port: Port, destination: SocketAddr },
}

/// What happened to the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// It cannot arrive.
    Unreachable,
    /// It is longer than this, which does not go below what the family guarantees.
    TooBig { mtu: usize },
}

impl Refusal {
    /// Reads an ICMP error; `None` when it is none, or not about something of ours.
    pub(super) fn parse(packet: &Packet<'_>) -> Option<Self> {
        let icmp = packet.icmp()?;
        let body = icmp.body();
        let header = packet.payload();
        let what = match (packet.family(), icmp.kind(), icmp.code()) {
            (Family::V4, 3, 4) => {
                let mtu = u16::from_be_bytes([header[6], header[7]]);
                What::TooBig { mtu: usize::from(mtu).max(MIN_MTU_V4) }
            }
            (Family::V6, 2, _) => {
                let mtu = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                What::TooBig { mtu: usize::try_from(mtu).ok()?.max(MIN_MTU_V6) }
            }
            // Time exceeded: in transit only, not while reassembling.
            (Family::V4, 3, _) | (Family::V4, 11, 0) | (Family::V6, 1, _) | (Family::V6, 3, 0) => {
                What::Unreachable
            }
            _ => return None,
        };
        let (source, destination, protocol, transport) = match packet.family() {
            Family::V4 => quoted_v4(body)?,
            Family::V6 => quoted_v6(body)?,
        };
        let half =
            |offset: usize| Some(u16::from_be_bytes([*transport.get(offset)?, *transport.get(offset + 1)?]));
        let about = match (protocol, packet.family()) {
            (6, _) => {
                About::Connection { remote: SocketAddr::new(destination, half(2)?), local_port: half(0)? }
            }
            (17, family) => About::Mailbox {
                port: Port::Udp(family, half(0)?),
                destination: SocketAddr::new(destination, half(2)?),
            },
            (1, family @ Family::V4) | (58, family @ Family::V6) => About::Mailbox {
                port: Port::Echo(family, half(4)?),
                destination: SocketAddr::new(destination, 0),
            },
            _ => return None,
        };
        Some(Self { source, about, what })
    }
}

type Quoted<'a> = (IpAddr, IpAddr, u8, &'a [u8]);

fn quoted_v4(body: &[u8]) -> Option<Quoted<'_>> {
    let header = body.get(..20)?;
    // Ours never have options.
    if header[0] != 0x45 {
        return None;
    }
    let address = |at: usize| -> IpAddr {
        Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into()
    };
    Some((address(12), address(16), header[9], &body[20..]))
}

fn quoted_v6(body: &[u8]) -> Option<Quoted<'_>> {
    let header = body.first_chunk::<40>()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        Some(Ipv6Addr::from(*header.get(at..)?.first_chunk::<16>()?).into())
    };
    Some((address(8)?, address(24)?, header[6], &body[40..]))
}

#[cfg(test)]
mod tests {
    use mstunnel_proto::buf::PacketBuf;
    use mstunnel_proto::packet::too_big;

    use super::super::wire;
    use super::*;

    fn error_about(from: SocketAddr, to: SocketAddr, router: IpAddr, mtu: u16) -> PacketBuf {
        let mut room = [0; 2_000];
        let len = wire::udp(&mut room, from, to, &[0; 1_400]).unwrap();
        let mut out = PacketBuf::new(1_500);
        assert!(too_big(&room[..len], mtu, router, &mut out));
        out
    }

    #[test]
    fn the_flow_and_the_mtu_are_read_from_errors_of_both_families() {
        for (from, to, router, family, mtu) in [
            ("10.9.0.5:5000", "10.20.0.2:53", "10.9.0.1", Family::V4, 1_300),
            ("[fd00::5]:5000", "[fd00::2]:53", "fd00::1", Family::V6, 1_290),
        ] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let error = error_about(from, to, router.parse().unwrap(), mtu);
            let refusal = Refusal::parse(&Packet::parse(error.as_slice()).unwrap()).unwrap();
            assert_eq!(refusal.source, from.ip());
            assert_eq!(refusal.about, About::Mailbox { port: Port::Udp(family, 5000), destination: to });
            assert_eq!(refusal.what, What::TooBig { mtu: mtu.into() });
        }
    }

    #[test]
    fn an_error_cannot_bring_the_mtu_below_what_the_family_guarantees() {
        let (from, to) = ("10.9.0.5:5000".parse().unwrap(), "10.20.0.2:53".parse().unwrap());
        let error = error_about(from, to, "10.9.0.1".parse().unwrap(), 68);
        let refusal = Refusal::parse(&Packet::parse(error.as_slice()).unwrap()).unwrap();
        assert_eq!(refusal.what, What::TooBig { mtu: MIN_MTU_V4 });
    }

    #[test]
    fn a_quote_that_is_cut_short_is_about_nothing() {
        let (from, to) = ("10.9.0.5:5000".parse().unwrap(), "10.20.0.2:53".parse().unwrap());
        let error = error_about(from, to, "10.9.0.1".parse().unwrap(), 1_300);
        for len in 0..22 {
            let mut room = [0; 100];
            // The same error with less of the quote.
            let mut cut = error.as_slice()[..28 + len].to_vec();
            let total = u16::try_from(cut.len()).unwrap().to_be_bytes();
            cut[2..4].copy_from_slice(&total);
            cut[10..12].fill(0);
            let sum = mstunnel_proto::packet::checksum::Sum::default().bytes(&cut[..20]).checksum();
            cut[10..12].copy_from_slice(&sum.to_be_bytes());
            room[..cut.len()].copy_from_slice(&cut);
            assert_eq!(Refusal::parse(&Packet::parse(&room[..cut.len()]).unwrap()), None);
        }
    }
}
