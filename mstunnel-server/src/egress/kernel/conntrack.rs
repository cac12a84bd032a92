//! The flows that the kernel tracks (conntrack), found by address and forgotten.
//!
//! A translated flow leads what the outside sends back to the address that began it, whoever has that address by then,
//! and what the outside sends keeps it alive. So the flows of an address are forgotten before another user can have it
//! (R50).
//!
//! Requests are those of ctnetlink. A flow is deleted as soon as the list names it, on a second socket, so that a client
//! with very many flows takes no memory here.

use std::io;
use std::net::IpAddr;

use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage, IPTuple, Tuple};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use rtnetlink::packet_core::{
    DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, Nla, NlasIterator, Parseable,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols};

use super::EgressError;

/// More than the kernel puts into one answer to a dump (32 KiB).
const ANSWER_LEN: usize = 64 * 1024;

/// Of netlink messages (`NLMSG_ALIGNTO`).
const ALIGNMENT: usize = 4;

/// The length of `struct nfgenmsg`.
const HEADER_LEN: usize = 4;

/// The addresses and ports of a flow's first packet.
const CTA_TUPLE_ORIG: u16 = 1;
/// Those of what answers it.
const CTA_TUPLE_REPLY: u16 = 2;
/// What a later flow with the same addresses and ports has not.
const CTA_ID: u16 = 12;
/// Where two flows may have the same.
const CTA_ZONE: u16 = 18;

/// Forgets every flow of which `is_over` names an end, and tells how many there were. Blocks while the kernel goes
/// through its table: some microseconds for each flow that it knows.
///
/// # Errors
/// [`EgressError::NoConntrack`] if it lists none; else the first thing that went wrong, after all that went well.
pub(crate) fn forget(is_over: impl Fn(IpAddr) -> bool) -> Result<usize, EgressError> {
    let (mut list, mut removal) = (Tracker::open()?, Tracker::open()?);
    let (mut count, mut failure) = (0, None);
    let request = ConntrackMessage::Get(Vec::new());
    let listed = list.ask(NetfilterProtoFamily::Unspec, request, NLM_F_DUMP, |flow| {
        if flow.has_end(&is_over) {
            match removal.remove(flow) {
                Ok(()) => count += 1,
                Err(error) => failure = failure.take().or(Some(error)),
            }
        }
    });
    listed.map_err(explain)?;
    failure.map_or(Ok(count), |source| Err(EgressError::Flows { source }))
}

/// What it means that the kernel does not list its flows.
fn explain(source: io::Error) -> EgressError {
    match source.raw_os_error() {
        Some(libc::EPERM) => EgressError::NotPermitted { what: "listing flows" },
        Some(libc::EINVAL | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT) => EgressError::NoConntrack,
        _ => EgressError::Flows { source },
    }
}

/// A tracked flow, by what no other has.
#[derive(Debug)]
struct Flow {
    family: NetfilterProtoFamily,
    attributes: Vec<ConntrackAttribute>,
}

impl Flow {
    /// Whether `is_over` names who began it, to whom it went, or who answers it: the last two differ where the
    /// destination is translated, as for the data of FTP.
    fn has_end(&self, is_over: impl Fn(IpAddr) -> bool) -> bool {
        self.attributes.iter().flat_map(tuple).any(|(is_answer, end)| match end {
            IPTuple::SourceAddress(address) => is_over(*address),
            // That of an answer is ours.
            IPTuple::DestinationAddress(address) => !is_answer && is_over(*address),
            IPTuple::Other(_) | _ => false,
        })
    }

    /// What a request to delete it says.
    fn into_identity(mut self) -> Vec<ConntrackAttribute> {
        self.attributes.retain(|attribute| !matches!(attribute, ConntrackAttribute::CtaTupleReply(_)));
        self.attributes
    }
}

/// The ends that a tuple names, and whether it is that of the answers.
fn tuple(attribute: &ConntrackAttribute) -> impl Iterator<Item = (bool, &IPTuple)> {
    let parts: &[Tuple] = match attribute {
        ConntrackAttribute::CtaTupleOrig(parts) | ConntrackAttribute::CtaTupleReply(parts) => parts,
        ConntrackAttribute::Other(_) | _ => &[],
    };
    let is_answer = attribute.kind() == CTA_TUPLE_REPLY;
    let ends = parts.iter().filter_map(|part| if let Tuple::Ip(ends) = part { Some(ends) } else { None });
    ends.flatten().map(move |end| (is_answer, end))
}

/// Of what the kernel says of a flow, only what is looked at is decoded.
impl NetlinkDeserializable for Flow {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let header = NetfilterHeader::parse(payload)?;
        let mut attributes = Vec::new();
        for attribute in NlasIterator::new(payload.get(HEADER_LEN..).unwrap_or_default()) {
            let attribute = attribute?;
            if matches!(attribute.kind(), CTA_TUPLE_ORIG | CTA_TUPLE_REPLY | CTA_ID | CTA_ZONE) {
                attributes.push(ConntrackAttribute::parse(&attribute)?);
            }
        }
        Ok(Self { family: header.family, attributes })
    }
}

/// A socket to ctnetlink.
struct Tracker {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Tracker {
    fn open() -> Result<Self, EgressError> {
        let open = || {
            let mut socket = Socket::new(protocols::NETLINK_NETFILTER)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            Ok(Self { socket, buffer: vec![0; ANSWER_LEN] })
        };
        open().map_err(explain)
    }

    /// One that has ended by itself meanwhile is as good.
    fn remove(&mut self, flow: Flow) -> io::Result<()> {
        let family = flow.family;
        match self.ask(family, ConntrackMessage::Delete(flow.into_identity()), NLM_F_ACK, |_| {}) {
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
        mut take: impl FnMut(Flow),
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
            if let Some(outcome) = read_answers(&buffer[..len], &mut take)? {
                return outcome;
            }
        }
    }
}

/// Hands the flows of one read to `take`; `Some` is the outcome of the request, after which nothing comes.
fn read_answers(mut answers: &[u8], take: &mut impl FnMut(Flow)) -> io::Result<Option<io::Result<()>>> {
    while !answers.is_empty() {
        let answer = NetlinkMessage::<Flow>::deserialize(answers)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        match answer.payload {
            NetlinkPayload::InnerMessage(flow) => take(flow),
            NetlinkPayload::Done(done) => return Ok(Some(outcome(done.code))),
            NetlinkPayload::Error(error) => return Ok(Some(outcome(error.raw_code()))),
            NetlinkPayload::Noop | NetlinkPayload::Overrun(_) | _ => {}
        }
        let len = usize::try_from(answer.header.length)
            .map_or(answers.len(), |len| len.next_multiple_of(ALIGNMENT));
        answers = answers.get(len..).unwrap_or_default();
    }
    Ok(None)
}

/// The kernel says zero, or an error number below it.
fn outcome(code: i32) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(code.saturating_abs())) }
}

#[cfg(test)]
mod tests {
    use netlink_packet_netfilter::conntrack::{ProtoTuple, Protocol};
    use rtnetlink::packet_core::{DefaultNla, DoneMessage};

    use super::*;

    fn ends(source: [u8; 4], destination: [u8; 4]) -> Vec<Tuple> {
        vec![
            Tuple::Ip(vec![
                IPTuple::SourceAddress(source.into()),
                IPTuple::DestinationAddress(destination.into()),
            ]),
            Tuple::Proto(vec![ProtoTuple::Protocol(Protocol::Udp), ProtoTuple::DestinationPort(53)]),
        ]
    }

    /// What the kernel says of a flow of 10.8.0.2 to 192.0.2.53, which is answered by `by` at 198.51.100.1.
    fn told(by: [u8; 4]) -> Vec<u8> {
        let attributes = vec![
            ConntrackAttribute::CtaTupleOrig(ends([10, 8, 0, 2], [192, 0, 2, 53])),
            ConntrackAttribute::CtaTupleReply(ends(by, [198, 51, 100, 1])),
            ConntrackAttribute::CtaTimeout(30),
            ConntrackAttribute::Other(DefaultNla::new(CTA_ID, vec![1, 2, 3, 4])),
            ConntrackAttribute::Other(DefaultNla::new(CTA_ZONE, vec![0, 7])),
        ];
        let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
        bytes(NetlinkPayload::from(NetfilterMessage::new(header, ConntrackMessage::New(attributes))))
    }

    fn done(code: i32) -> Vec<u8> {
        let mut done = DoneMessage::default();
        done.code = code;
        bytes(NetlinkPayload::Done(done))
    }

    fn bytes(payload: NetlinkPayload<NetfilterMessage>) -> Vec<u8> {
        let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes
    }

    fn read(answers: &[u8]) -> (Vec<Flow>, Option<io::Result<()>>) {
        let mut flows = Vec::new();
        let outcome = read_answers(answers, &mut |flow| flows.push(flow)).unwrap();
        (flows, outcome)
    }

    /// Covers: R50
    #[test]
    fn a_flow_is_found_by_each_of_its_ends_and_not_by_the_gateways_own_address() {
        let (flows, _) = read(&told([10, 8, 0, 9]));
        for (end, is_found) in [
            ([10, 8, 0, 2], true),
            ([192, 0, 2, 53], true),
            ([10, 8, 0, 9], true),
            ([198, 51, 100, 1], false),
            ([10, 8, 0, 3], false),
        ] {
            assert_eq!(flows[0].has_end(|address| address == IpAddr::from(end)), is_found, "{end:?}");
        }
    }

    /// Covers: R50: a later flow with the same ports, or one of another zone, stays.
    #[test]
    fn a_flow_is_forgotten_by_what_no_other_flow_has() {
        let flow = read(&told([192, 0, 2, 53])).0.remove(0);
        assert_eq!(flow.family, NetfilterProtoFamily::IPv4);
        let kinds: Vec<u16> = flow.into_identity().iter().map(Nla::kind).collect();
        assert_eq!(kinds, [CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE]);
    }

    #[test]
    fn all_answers_of_a_read_count_and_the_last_one_says_how_it_went() {
        let two = [told([192, 0, 2, 53]), told([192, 0, 2, 53])].concat();
        let (flows, outcome) = read(&two);
        assert!(flows.len() == 2 && outcome.is_none(), "{outcome:?}");
        let (flows, outcome) = read(&[two, done(0)].concat());
        assert!(flows.len() == 2 && matches!(outcome, Some(Ok(()))), "{outcome:?}");
        let (_, outcome) = read(&done(-libc::EINVAL));
        let error = outcome.unwrap().unwrap_err();
        assert!(matches!(explain(error), EgressError::NoConntrack));
        assert!(read_answers(&told([192, 0, 2, 53])[..40], &mut |_| {}).is_err(), "cut short");
    }
}
