//! The flows that the kernel tracks (conntrack), found by address and forgotten.
//!
//! A masqueraded flow leads what the outside sends back to the address that began it, whoever has that address by
//! then, and what the outside sends keeps it alive. So the flows of an address are forgotten before another client can
//! have it (R50).
//!
//! Requests are those of ctnetlink. A flow is deleted as soon as the list names it, on a second socket, so that a client
//! with very many flows takes no memory here.

use std::io;
use std::net::IpAddr;

use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, Tuple};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};
use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols};

use super::EgressError;

/// More than the kernel puts into one answer to a dump (32 KiB).
const ANSWER_LEN: usize = 64 * 1024;

/// What no other flow has: `CTA_TUPLE_ORIG`, the addresses and ports of its first packet; `CTA_ID`, which a later flow
/// with the same ones has not; `CTA_ZONE`, where two flows with the same ones may be.
const DISTINCTIVE: [u16; 3] = [1, 12, 18];

/// Forgets every flow of which `is_over` names an end, and tells how many there were. Blocks while the kernel goes
/// through its table.
pub(super) fn forget(is_over: impl Fn(IpAddr) -> bool) -> Result<usize, EgressError> {
    let forget = || {
        let (mut list, mut removal) = (Tracker::open()?, Tracker::open()?);
        let mut count = 0;
        let request = ConntrackMessage::Get(Vec::new());
        list.ask(NetfilterProtoFamily::Unspec, request, NLM_F_DUMP, |answer| {
            if let Some(flow) = Flow::of(answer, &is_over) {
                removal.remove(flow)?;
                count += 1;
            }
            Ok(())
        })?;
        Ok(count)
    };
    forget().map_err(|source: io::Error| match source.raw_os_error() {
        Some(libc::EPERM) => EgressError::NotPermitted { what: "forgetting flows" },
        _ => EgressError::Flows { source },
    })
}

/// A flow as a request to delete it names it.
#[derive(Debug)]
struct Flow {
    family: NetfilterProtoFamily,
    attributes: Vec<ConntrackAttribute>,
}

impl Flow {
    /// The flow of an answer to a dump, if `is_over` names an end of it: who began it, or whom it went to.
    fn of(answer: NetfilterMessage, is_over: impl Fn(IpAddr) -> bool) -> Option<Self> {
        let NetfilterMessageInner::Conntrack(ConntrackMessage::New(mut attributes)) = answer.inner else {
            return None;
        };
        attributes.retain(|attribute| DISTINCTIVE.contains(&attribute.kind()));
        let concerned = attributes.iter().flat_map(parts).flat_map(addresses).any(is_over);
        concerned.then_some(Self { family: answer.header.family, attributes })
    }
}

/// The parts of the tuple of a flow's first packet.
fn parts(attribute: &ConntrackAttribute) -> &[Tuple] {
    if let ConntrackAttribute::CtaTupleOrig(parts) = attribute { parts } else { &[] }
}

fn addresses(part: &Tuple) -> impl Iterator<Item = IpAddr> {
    let addresses: &[IPTuple] = if let Tuple::Ip(addresses) = part { addresses } else { &[] };
    addresses.iter().filter_map(|address| {
        let (IPTuple::SourceAddress(address) | IPTuple::DestinationAddress(address)) = address else {
            return None;
        };
        Some(*address)
    })
}

/// A socket to ctnetlink.
struct Tracker {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Tracker {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(protocols::NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, buffer: vec![0; ANSWER_LEN] })
    }

    /// One that has ended by itself meanwhile is as good.
    fn remove(&mut self, flow: Flow) -> io::Result<()> {
        match self.ask(flow.family, ConntrackMessage::Delete(flow.attributes), NLM_F_ACK, |_| Ok(())) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            outcome => outcome,
        }
    }

    /// Sends a request, and hands the answers to `take` until the kernel says that they were all.
    fn ask(
        &mut self,
        family: NetfilterProtoFamily,
        request: ConntrackMessage,
        flags: u16,
        mut take: impl FnMut(NetfilterMessage) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let request = NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), request);
        let mut request = NetlinkMessage::new(header, NetlinkPayload::from(request));
        request.finalize();
        let buffer = &mut self.buffer[..];
        let len = request.buffer_len();
        request.serialize(&mut buffer[..len]);
        self.socket.send(&buffer[..len], 0)?;
        loop {
            let len = self.socket.recv(&mut &mut *buffer, 0)?;
            let mut rest = &buffer[..len];
            while !rest.is_empty() {
                let answer = NetlinkMessage::<NetfilterMessage>::deserialize(rest)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                match answer.payload {
                    NetlinkPayload::InnerMessage(message) => take(message)?,
                    NetlinkPayload::Done(done) => return outcome(done.code),
                    NetlinkPayload::Error(error) => return outcome(error.raw_code()),
                    NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
                }
                let len = usize::try_from(answer.header.length)
                    .map_or(rest.len(), |len| len.next_multiple_of(ALIGNMENT));
                rest = rest.get(len..).unwrap_or_default();
            }
        }
    }
}

/// Of netlink messages (`NLMSG_ALIGNTO`).
const ALIGNMENT: usize = 4;

/// The kernel says zero, or an error number below it.
fn outcome(code: i32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.saturating_abs())) }
}

#[cfg(test)]
mod tests {
    use netlink_packet_netfilter::conntrack::{ProtoTuple, Protocol};
    use rtnetlink::packet_core::DefaultNla;

    use super::*;

    /// A flow of 10.8.0.2 to a name server, as a dump tells it.
    fn answer() -> NetfilterMessage {
        let tuple = |source: [u8; 4], destination: [u8; 4]| {
            vec![
                Tuple::Ip(vec![
                    IPTuple::SourceAddress(source.into()),
                    IPTuple::DestinationAddress(destination.into()),
                ]),
                Tuple::Proto(vec![ProtoTuple::Protocol(Protocol::Udp), ProtoTuple::DestinationPort(53)]),
            ]
        };
        let attributes = vec![
            ConntrackAttribute::CtaTupleOrig(tuple([10, 8, 0, 2], [192, 0, 2, 53])),
            ConntrackAttribute::CtaTupleReply(tuple([192, 0, 2, 53], [198, 51, 100, 1])),
            ConntrackAttribute::CtaTimeout(30),
            ConntrackAttribute::Other(DefaultNla::new(12, vec![1, 2, 3, 4])),
            ConntrackAttribute::Other(DefaultNla::new(18, vec![0, 7])),
        ];
        let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
        NetfilterMessage::new(header, ConntrackMessage::New(attributes))
    }

    /// Covers: R50
    #[test]
    fn a_flow_is_found_by_either_end_and_not_by_the_gateways_own_address() {
        for (end, concerned) in [
            ([10, 8, 0, 2], true),
            ([192, 0, 2, 53], true),
            ([198, 51, 100, 1], false),
            ([10, 8, 0, 3], false),
        ] {
            let flow = Flow::of(answer(), |address| address == IpAddr::from(end));
            assert_eq!(flow.is_some(), concerned, "{end:?}");
        }
    }

    /// Covers: R50: a later flow with the same ports, or one of another zone, stays.
    #[test]
    fn a_flow_is_forgotten_by_what_no_other_flow_has() {
        let flow = Flow::of(answer(), |_| true).unwrap();
        let kinds: Vec<u16> = flow.attributes.iter().map(Nla::kind).collect();
        assert_eq!(kinds, [1, 12, 18]);
    }
}
