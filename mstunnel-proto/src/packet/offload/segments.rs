//! One read of a device with offloads, as the packets it stands for.

use std::net::IpAddr;

use super::super::checksum::Sum;
use super::super::{Family, Packet, Protocol, u16_at};
use super::header::{HEADER_LEN, OffloadHeader, Segmentation};
use super::{put_u16, tcp, udp};
use crate::drop::DropReason;

/// The packets of one read; take them with [`Segments::next_into`].
#[derive(Debug)]
pub struct Segments<'a>(State<'a>);

#[derive(Debug)]
enum State<'a> {
    /// One packet; where its checksum starts and the offset of the field, if it has to be completed.
    Whole(&'a [u8], Option<(u16, u16)>),
    Split(Split<'a>),
    /// Something that is no packet; said once.
    Bad,
    Done,
}

#[derive(Debug)]
struct Split<'a> {
    /// All headers, as they were read.
    headers: &'a [u8],
    /// What is left of the payload.
    payload: &'a [u8],
    family: Family,
    protocol: Protocol,
    addresses: (IpAddr, IpAddr),
    /// The offset of the TCP or UDP header.
    transport: usize,
    segment: usize,
    /// How many packets were taken.
    taken: u16,
    /// How many payload bytes were taken.
    offset: u32,
}

impl<'a> Segments<'a> {
    /// One packet that is as it should be: the read of a device without offloads.
    pub fn whole(packet: &'a [u8]) -> Self {
        Self(State::Whole(packet, None))
    }

    /// What was read from a device with offloads: its header and a packet.
    pub fn new(read: &'a [u8]) -> Self {
        Self(Self::examine(read).unwrap_or(State::Bad))
    }

    fn examine(read: &'a [u8]) -> Option<State<'a>> {
        let (header, packet) = read.split_first_chunk::<HEADER_LEN>()?;
        let header = OffloadHeader::parse(*header)?;
        let (family, protocol) = match header.segmentation {
            Segmentation::None => return Some(State::Whole(packet, header.checksum)),
            Segmentation::TcpV4 => (Some(Family::V4), Protocol::Tcp),
            Segmentation::TcpV6 => (Some(Family::V6), Protocol::Tcp),
            Segmentation::Udp => (None, Protocol::Udp),
        };
        let view = Packet::parse(packet).ok()?;
        let is_as_said = view.protocol() == protocol && family.is_none_or(|family| family == view.family());
        if !is_as_said || view.fragment().is_some() || header.segment == 0 {
            return None;
        }
        let transport = view.transport_offset();
        let headers = match view.tcp() {
            Some(tcp) => packet.len() - tcp.payload().len(),
            None => transport + udp::HEADER,
        };
        let (headers, payload) = packet.split_at_checked(headers)?;
        Some(State::Split(Split {
            headers,
            payload,
            family: view.family(),
            protocol,
            addresses: (view.source(), view.destination()),
            transport,
            segment: header.segment.into(),
            taken: 0,
            offset: 0,
        }))
    }

    /// Writes the next packet to the start of `out` and returns its length; `None` when there is none left.
    ///
    /// Its lengths, checksums, sequence number, IPv4 identification and TCP flags are those that the sender would have
    /// written. Never allocates.
    ///
    /// # Errors
    /// [`DropReason::Malformed`], once, if what was read is no super-packet; [`DropReason::TooBig`] for each packet that
    /// `out` has no room for.
    pub fn next_into(&mut self, out: &mut [u8]) -> Option<Result<usize, DropReason>> {
        match std::mem::replace(&mut self.0, State::Done) {
            State::Whole(packet, checksum) => Some(whole_into(packet, checksum, out)),
            State::Split(mut split) => {
                let written = split.next_into(out);
                // A packet without payload is a packet; after that, what is left of the payload says whether there are more.
                if !split.payload.is_empty() {
                    self.0 = State::Split(split);
                }
                Some(written)
            }
            State::Bad => Some(Err(DropReason::Malformed)),
            State::Done => None,
        }
    }
}

fn whole_into(packet: &[u8], checksum: Option<(u16, u16)>, out: &mut [u8]) -> Result<usize, DropReason> {
    let out = out.get_mut(..packet.len()).ok_or(DropReason::TooBig)?;
    out.copy_from_slice(packet);
    if let Some((start, field)) = checksum {
        let covered = out.get_mut(start.into()..).ok_or(DropReason::Malformed)?;
        let field = usize::from(field);
        if covered.len() < field + 2 {
            return Err(DropReason::Malformed);
        }
        // The field holds the sum of the pseudo header and is part of what is summed up.
        let checksum = Sum::default().bytes(covered).checksum();
        // Only UDP gives zero a meaning, and only there it is never written; for the others both zeros are right.
        put_u16(covered, field, if checksum == 0 { 0xFFFF } else { checksum });
    }
    Ok(packet.len())
}

impl Split<'_> {
    fn next_into(&mut self, out: &mut [u8]) -> Result<usize, DropReason> {
        let (payload, rest) = self.payload.split_at(self.segment.min(self.payload.len()));
        self.payload = rest;
        let (taken, offset) = (self.taken, self.offset);
        self.taken = taken.wrapping_add(1);
        self.offset = offset.wrapping_add(u32::try_from(payload.len()).expect("a segment is a u16"));
        let len = self.headers.len() + payload.len();
        let packet = out.get_mut(..len).ok_or(DropReason::TooBig)?;
        let (headers, body) = packet.split_at_mut(self.headers.len());
        headers.copy_from_slice(self.headers);
        body.copy_from_slice(payload);
        self.write_ip(packet, taken);
        let segment = &mut packet[self.transport..];
        if self.protocol == Protocol::Tcp {
            self.write_tcp(segment, offset);
        } else {
            self.write_udp(segment);
        }
        Ok(len)
    }

    fn write_ip(&self, packet: &mut [u8], taken: u16) {
        let len = |bytes: usize| u16::try_from(bytes).expect("no longer than what was read");
        match self.family {
            Family::V4 => {
                put_u16(packet, 2, len(packet.len()));
                put_u16(packet, 4, u16_at(packet, 4).wrapping_add(taken));
                put_u16(packet, 10, 0);
                let checksum = Sum::default().bytes(&packet[..self.transport]).checksum();
                put_u16(packet, 10, checksum);
            }
            Family::V6 => put_u16(packet, 4, len(packet.len() - 40)),
        }
    }

    fn write_tcp(&self, segment: &mut [u8], offset: u32) {
        let sequence = &mut segment[tcp::SEQUENCE..tcp::SEQUENCE + 4];
        let first = u32::from_be_bytes(sequence.try_into().expect("four bytes"));
        sequence.copy_from_slice(&first.wrapping_add(offset).to_be_bytes());
        if !self.payload.is_empty() {
            segment[tcp::FLAGS] &= !(tcp::FIN | tcp::PSH);
        }
        if offset > 0 {
            segment[tcp::FLAGS] &= !tcp::CWR;
        }
        put_u16(segment, tcp::CHECKSUM, 0);
        let checksum = self.checksum(segment);
        put_u16(segment, tcp::CHECKSUM, checksum);
    }

    fn write_udp(&self, datagram: &mut [u8]) {
        let len = u16::try_from(datagram.len()).expect("no longer than what was read");
        put_u16(datagram, udp::LENGTH, len);
        put_u16(datagram, udp::CHECKSUM, 0);
        let checksum = self.checksum(datagram);
        put_u16(datagram, udp::CHECKSUM, if checksum == 0 { 0xFFFF } else { checksum });
    }

    fn checksum(&self, segment: &[u8]) -> u16 {
        let (source, destination) = self.addresses;
        let len = u32::try_from(segment.len()).expect("no longer than what was read");
        Sum::pseudo_header(source, destination, self.protocol.number(), len).bytes(segment).checksum()
    }
}
