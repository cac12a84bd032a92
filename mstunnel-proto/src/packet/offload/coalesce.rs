//! Packets of one flow joined into one write of a device with offloads (GRO).
//!
//! ```text
//!   push -> Kept   the packet waits in its flow's place; then, and at the end of the burst after
//!        |         Coalescer::close, poll_due gives what is ready to be written
//!        '> Alone  poll_due first (its flow's earlier packets), then write the packet by itself
//! ```
//!
//! What joins: TCP data with nothing but ACK and PSH set, and UDP datagrams, whose headers are the same but for what
//! counts on from packet to packet. Each checksum is verified first, for joining writes a new one: damage stays damage.
//! A PSH, a packet shorter than those before it, or a full 64 KB ends a super-packet.
//!
//! Limits: [`MAX_FLOWS`] flows wait at once, the one that has waited longest makes room; a packet waits no longer than
//! the caller's burst.
//!
//! # Source
//! The conditions are those of RFC 9293 for one sender's stream of segments, as Linux `tcp_gro_receive` has them; RFC 6864
//! section 4.1 for the identification.

use std::net::IpAddr;

use super::super::checksum::Sum;
use super::super::{Family, Packet, Protocol, u16_at, v4, v6};
use super::header::{HEADER_LEN, OffloadHeader, Segmentation};
use super::{put_u16, tcp, udp};

/// Flows that wait side by side: a few streams of a few sessions in one burst of the kernel.
pub const MAX_FLOWS: usize = 16;

/// The longest packet that is made: what the IPv4 length field can say.
const MAX_LEN: usize = 65_535;

/// The least payload of the first of several packets. Below it there is little to win, and a network card or driver may
/// never have been tried with a super-packet of such segments.
const MIN_SEGMENT: usize = 64;

/// The most datagrams of one UDP super-packet: Linux `UDP_MAX_SEGMENTS` before 6.9.
const MAX_DATAGRAMS: usize = 64;

const DONT_FRAGMENT: u16 = 0x4000;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Push {
    /// It was copied and waits for others of its flow.
    Kept,
    /// It joins nothing: write it by itself, after what [`Coalescer::poll_due`] gives.
    Alone,
}

/// What is ready to be written.
#[derive(Debug)]
pub struct Coalesced<'a> {
    /// The offload header and the packet.
    pub bytes: &'a [u8],
    /// How many packets it stands for.
    pub packets: u64,
    /// Who sent them.
    pub source: IpAddr,
}

/// Joins the packets of a burst. Allocates when made, never after.
#[derive(Debug)]
pub struct Coalescer {
    /// One more than flows may wait, so that a new one has a place while an old one is taken out.
    slots: Box<[Slot]>,
    udp: bool,
    /// Counts slots as they are opened.
    opened: u64,
}

#[derive(Debug)]
struct Slot {
    /// Room for the offload header, and the packet.
    bytes: Box<[u8]>,
    len: usize,
    state: SlotState,
    /// Which one it was to be opened.
    number: u64,
    shape: Shape,
    packets: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SlotState {
    Free,
    Open,
    Due,
}

/// What is to know of a packet that may join others.
#[derive(Clone, Copy, Debug)]
struct Shape {
    family: Family,
    protocol: Protocol,
    source: IpAddr,
    destination: IpAddr,
    /// The offset of the TCP or UDP header.
    transport: usize,
    /// The length of all headers.
    headers: usize,
    payload: usize,
    /// Whether nothing may follow it.
    is_last: bool,
}

impl Coalescer {
    /// A coalescer for TCP, and for UDP if the device takes UDP super-packets.
    pub fn new(udp: bool) -> Self {
        Self { slots: (0..=MAX_FLOWS).map(|_| Slot::new()).collect(), udp, opened: 0 }
    }

    /// Takes in one packet that was checked. Take out what is due before the next one.
    pub fn push(&mut self, packet: &[u8]) -> Push {
        let Ok(view) = Packet::parse(packet) else { return Push::Alone };
        let open = self.open_slot_of(&view);
        let Some(shape) = self.shape_of(&view) else {
            if let Some(open) = open {
                self.slots[open].state = SlotState::Due;
            }
            return Push::Alone;
        };
        if let Some(open) = open {
            let slot = &mut self.slots[open];
            if slot.continues(packet, &shape) {
                slot.append(packet, &shape);
                return Push::Kept;
            }
            slot.state = SlotState::Due;
        }
        // Nothing could follow it, or nobody would want such small segments split.
        if shape.is_last || shape.payload < MIN_SEGMENT {
            return Push::Alone;
        }
        self.open(packet, shape)
    }

    /// Ends the burst: everything that waits is due.
    pub fn close(&mut self) {
        for slot in &mut self.slots {
            if slot.state == SlotState::Open {
                slot.state = SlotState::Due;
            }
        }
    }

    /// Takes out what is ready to be written, the oldest first; `None` when there is no more.
    pub fn poll_due(&mut self) -> Option<Coalesced<'_>> {
        let slots = self.slots.iter_mut().filter(|slot| slot.state == SlotState::Due);
        let slot = slots.min_by_key(|slot| slot.number)?;
        slot.state = SlotState::Free;
        slot.finish();
        Some(Coalesced {
            bytes: &slot.bytes[..HEADER_LEN + slot.len],
            packets: slot.packets as u64,
            source: slot.shape.source,
        })
    }

    fn open_slot_of(&self, view: &Packet<'_>) -> Option<usize> {
        if view.fragment().is_some() {
            return None;
        }
        self.slots.iter().position(|slot| slot.state == SlotState::Open && slot.is_of_flow(view))
    }

    /// Looks whether a packet may join others at all.
    fn shape_of(&self, view: &Packet<'_>) -> Option<Shape> {
        let transport = view.transport_offset();
        let is_plain = match view.family() {
            // A checksum that was computed is never 0xFFFF, and would not come back as that.
            Family::V4 => {
                transport == v4::HEADER
                    && u16_at(view.bytes(), 6) & !DONT_FRAGMENT == 0
                    && u16_at(view.bytes(), 10) != 0xFFFF
            }
            Family::V6 => transport == v6::HEADER,
        };
        if !is_plain || view.fragment().is_some() {
            return None;
        }
        let (headers, is_last) = match view.protocol() {
            Protocol::Tcp => {
                let flags = view.payload()[tcp::FLAGS];
                let reserved = view.payload()[tcp::DATA_OFFSET] & 0x0F;
                let is_computed = u16_at(view.payload(), tcp::CHECKSUM) != 0xFFFF;
                if flags & !tcp::PSH != tcp::ACK || reserved != 0 || !is_computed {
                    return None;
                }
                (view.bytes().len() - view.tcp()?.payload().len(), flags & tcp::PSH != 0)
            }
            Protocol::Udp if self.udp => {
                let datagram = view.payload();
                if usize::from(u16_at(datagram, udp::LENGTH)) != datagram.len() || view.udp()?.checksum() == 0
                {
                    return None;
                }
                (transport + udp::HEADER, false)
            }
            Protocol::Udp | Protocol::Icmp | Protocol::Icmpv6 | Protocol::Other(_) => return None,
        };
        let payload = view.bytes().len() - headers;
        if payload == 0 || view.bytes().len() > MAX_LEN {
            return None;
        }
        let shape = Shape {
            family: view.family(),
            protocol: view.protocol(),
            source: view.source(),
            destination: view.destination(),
            transport,
            headers,
            payload,
            is_last,
        };
        let is_intact = shape.pseudo_header(view.payload().len())?.bytes(view.payload()).checksum() == 0;
        is_intact.then_some(shape)
    }

    fn open(&mut self, packet: &[u8], shape: Shape) -> Push {
        let is_crowded = self.slots.iter().filter(|slot| slot.state == SlotState::Open).count() >= MAX_FLOWS;
        let open = self.slots.iter_mut().filter(|slot| slot.state == SlotState::Open);
        if is_crowded && let Some(oldest) = open.min_by_key(|slot| slot.number) {
            oldest.state = SlotState::Due;
        }
        // None is free for a caller who did not take out what was due.
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.state == SlotState::Free) else {
            return Push::Alone;
        };
        self.opened += 1;
        slot.start(packet, shape, self.opened);
        Push::Kept
    }
}

impl Shape {
    /// The start of the checksum of `len` bytes of transport header and payload.
    fn pseudo_header(&self, len: usize) -> Option<Sum> {
        let len = u32::try_from(len).ok()?;
        Some(Sum::pseudo_header(self.source, self.destination, self.protocol.number(), len))
    }
}

impl Slot {
    fn new() -> Self {
        let nobody = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        Self {
            bytes: vec![0; HEADER_LEN + MAX_LEN].into_boxed_slice(),
            len: 0,
            state: SlotState::Free,
            number: 0,
            shape: Shape {
                family: Family::V4,
                protocol: Protocol::Tcp,
                source: nobody,
                destination: nobody,
                transport: 0,
                headers: 0,
                payload: 0,
                is_last: false,
            },
            packets: 0,
        }
    }

    fn packet(&self) -> &[u8] {
        &self.bytes[HEADER_LEN..HEADER_LEN + self.len]
    }

    fn start(&mut self, packet: &[u8], shape: Shape, number: u64) {
        self.bytes[HEADER_LEN..HEADER_LEN + packet.len()].copy_from_slice(packet);
        self.len = packet.len();
        self.state = SlotState::Open;
        self.number = number;
        self.shape = shape;
        self.packets = 1;
    }

    fn is_of_flow(&self, view: &Packet<'_>) -> bool {
        let ours = self.packet();
        let ports = self.shape.transport..self.shape.transport + 4;
        view.protocol() == self.shape.protocol
            && view.payload().get(..4) == ours.get(ports)
            && view.source() == self.shape.source
            && view.destination() == self.shape.destination
    }

    /// Whether `packet` is what the sender would have sent next if it had been one super-packet.
    fn continues(&self, packet: &[u8], shape: &Shape) -> bool {
        let most = if self.shape.protocol == Protocol::Udp { MAX_DATAGRAMS } else { usize::MAX };
        shape.headers == self.shape.headers
            && shape.payload <= self.shape.payload
            && self.len + shape.payload <= MAX_LEN
            && self.packets < most
            && self.has_same_ip_header(packet)
            && self.has_next_transport_header(packet)
    }

    fn has_same_ip_header(&self, packet: &[u8]) -> bool {
        let ours = self.packet();
        let same = |range: std::ops::Range<usize>| ours[range.clone()] == packet[range];
        match self.shape.family {
            // All but length, identification and checksum.
            Family::V4 => {
                let counted = u16::try_from(self.packets)
                    .is_ok_and(|packets| u16_at(packet, 4) == u16_at(ours, 4).wrapping_add(packets));
                let is_atomic = u16_at(packet, 6) & DONT_FRAGMENT != 0;
                same(0..2) && (is_atomic || counted) && same(6..10) && same(12..20)
            }
            // All but the length.
            Family::V6 => same(0..4) && same(6..40),
        }
    }

    fn has_next_transport_header(&self, packet: &[u8]) -> bool {
        let (ours, theirs) = (&self.packet()[self.shape.transport..], &packet[self.shape.transport..]);
        if self.shape.protocol == Protocol::Udp {
            return true; // The ports are the flow's; length and checksum are each packet's.
        }
        let sequence = |header: &[u8]| u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        let passed = u32::try_from(self.len - self.shape.headers).expect("at most 64 KB");
        let header = self.shape.headers - self.shape.transport;
        sequence(theirs) == sequence(ours).wrapping_add(passed)
            && ours[8..tcp::FLAGS] == theirs[8..tcp::FLAGS]
            // The flags were looked at; then the window, and behind the checksum the urgent pointer and options.
            && ours[14..tcp::CHECKSUM] == theirs[14..tcp::CHECKSUM]
            && ours[18..header] == theirs[18..header]
    }

    fn append(&mut self, packet: &[u8], shape: &Shape) {
        let at = HEADER_LEN + self.len;
        self.bytes[at..at + shape.payload].copy_from_slice(&packet[shape.headers..]);
        self.len += shape.payload;
        self.packets += 1;
        if shape.is_last {
            self.bytes[HEADER_LEN + self.shape.transport + tcp::FLAGS] |= tcp::PSH;
        }
        if shape.is_last || shape.payload < self.shape.payload {
            self.state = SlotState::Due;
        }
    }

    /// Makes the headers those of a super-packet; a packet that stayed alone is left as it came.
    fn finish(&mut self) {
        let header = if self.packets == 1 { OffloadHeader::PLAIN } else { self.write_headers() };
        self.bytes[..HEADER_LEN].copy_from_slice(&header.bytes());
    }

    fn write_headers(&mut self) -> OffloadHeader {
        let Shape { transport, headers, payload, protocol, family, .. } = self.shape;
        let field =
            |value: usize| u16::try_from(value).expect("a super-packet is no longer than 65,535 bytes");
        let segment_len = self.len - transport;
        let pseudo = self.shape.pseudo_header(segment_len).expect("no longer than 65,535 bytes");
        let packet = &mut self.bytes[HEADER_LEN..HEADER_LEN + self.len];
        match family {
            Family::V4 => {
                put_u16(packet, 2, field(self.len));
                put_u16(packet, 10, 0);
                let checksum = Sum::default().bytes(&packet[..transport]).checksum();
                put_u16(packet, 10, checksum);
            }
            Family::V6 => put_u16(packet, 4, field(segment_len)),
        }
        let segment = &mut packet[transport..];
        let (checksum, segmentation) = match (protocol, family) {
            (Protocol::Udp, _) => {
                put_u16(segment, udp::LENGTH, field(segment_len));
                (udp::CHECKSUM, Segmentation::Udp)
            }
            (_, Family::V4) => (tcp::CHECKSUM, Segmentation::TcpV4),
            (_, Family::V6) => (tcp::CHECKSUM, Segmentation::TcpV6),
        };
        // Whoever splits it completes the checksums; until then the field holds the sum of the pseudo header.
        put_u16(segment, checksum, pseudo.fold());
        OffloadHeader {
            checksum: Some((field(transport), field(checksum))),
            segmentation,
            headers: field(headers),
            segment: field(payload),
        }
    }
}
