//! The way out of one session: finds the flow of each packet, opens new ones, and answers for what has none.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Instant;

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::drop::DropReason;
use mstunnel_proto::packet::{self, Family, Packet, Protocol, Unreachable};
use tokio::task::AbortHandle;

use super::echo::{self, EchoSide};
use super::fence::Way;
use super::limit::Limit;
use super::table::{Flow, Key, Kind, Table};
use super::tcp::{self, TcpSide, Verdict};
use super::udp::{self, UdpSide};
use super::{Common, Ticket, ToClient, wire};

/// Packets of the server's own that wait for the client; [`Limit`] keeps them few.
const MAX_ANSWERS: usize = 128;

/// Flows whose tasks were told to end and have not had their turn; a new flow waits for them.
const MAX_ENDING: usize = 64;

/// The way out of one session.
pub(super) struct Outlet {
    common: Rc<Common>,
    client: RefCell<Rc<dyn ToClient>>,
    table: RefCell<Table<Held>>,
    /// The flows in the table, and those that are ending.
    alive: Rc<Cell<usize>>,
    limit: RefCell<Limit>,
    answers: RefCell<VecDeque<PacketBuf>>,
    /// Whether a task is on its way with the answers.
    delivers: Cell<bool>,
    has_ended: Cell<bool>,
}

/// What the table holds of a flow.
#[derive(Debug)]
pub(super) struct Held {
    side: Side,
    task: RefCell<Option<AbortHandle>>,
    /// Given back with the flow.
    _ticket: Ticket,
    alive: Rc<Cell<usize>>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.alive.set(self.alive.get() - 1);
    }
}

/// What packets of a flow are given to.
#[derive(Debug)]
enum Side {
    Tcp(TcpSide),
    Udp(UdpSide),
    Echo(EchoSide),
}

impl Held {
    /// Makes room for another flow: a connection takes one more turn, in which it resets the client.
    fn evict(&self) {
        let resets = matches!(&self.side, Side::Tcp(side) if side.evict());
        if !resets {
            self.end();
        }
    }

    /// Ends the flow's task, whose socket resets.
    fn end(&self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// A flow as its task holds it: leaves the table when dropped.
pub(super) struct Entry {
    outlet: Rc<Outlet>,
    flow: Rc<Flow<Held>>,
    key: Key,
}

impl Entry {
    pub(super) fn outlet(&self) -> &Outlet {
        &self.outlet
    }

    pub(super) fn flow(&self) -> &Flow<Held> {
        &self.flow
    }

    pub(super) fn key(&self) -> Key {
        self.key
    }

    pub(super) fn tcp(&self) -> Option<&TcpSide> {
        match &self.flow.side.side {
            Side::Tcp(side) => Some(side),
            Side::Udp(_) | Side::Echo(_) => None,
        }
    }

    pub(super) fn udp(&self) -> Option<&UdpSide> {
        match &self.flow.side.side {
            Side::Udp(side) => Some(side),
            Side::Tcp(_) | Side::Echo(_) => None,
        }
    }

    pub(super) fn echo(&self) -> Option<&EchoSide> {
        match &self.flow.side.side {
            Side::Echo(side) => Some(side),
            Side::Tcp(_) | Side::Udp(_) => None,
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.outlet.table.borrow_mut().remove(&self.key, &self.flow);
    }
}

impl Outlet {
    pub(super) fn new(common: Rc<Common>, client: Rc<dyn ToClient>, now: Instant) -> Rc<Self> {
        Rc::new(Self {
            common,
            client: RefCell::new(client),
            table: RefCell::default(),
            alive: Rc::default(),
            limit: RefCell::new(Limit::new(now)),
            answers: RefCell::default(),
            delivers: Cell::new(false),
            has_ended: Cell::new(false),
        })
    }

    /// The client as it is connected now.
    pub(super) fn client(&self) -> Rc<dyn ToClient> {
        Rc::clone(&self.client.borrow())
    }

    /// Goes on with the same session over a new connection. What waited for the old one to take more asks the new one.
    pub(super) fn set_client(&self, client: Rc<dyn ToClient>) {
        *self.client.borrow_mut() = client;
        for flow in self.table.borrow().iter() {
            if let Side::Tcp(side) = &flow.side.side {
                side.wake();
            }
        }
    }

    /// Ends every flow: the other ends get resets.
    pub(super) fn end(&self) {
        self.has_ended.set(true);
        let flows: Vec<_> = self.table.borrow_mut().drain().collect();
        for flow in flows {
            flow.side.end();
        }
    }

    /// Takes a packet of the client, whose source and destination the session has checked.
    ///
    /// Called while the client's tunnel is in use: answers are queued for a task.
    pub(super) fn handle_packet(self: &Rc<Self>, packet: &[u8], now: Instant) -> Result<(), DropReason> {
        let parsed = Packet::parse(packet)?;
        // Not reassembled: what fragments are for, the MTU of connections and resolvers avoids.
        if parsed.fragment().is_some() {
            return Err(DropReason::EgressRefused);
        }
        match parsed.protocol() {
            Protocol::Tcp => self.handle_tcp(&parsed, now),
            Protocol::Udp => self.handle_udp(&parsed, now),
            Protocol::Icmp | Protocol::Icmpv6 => self.handle_icmp(&parsed, now),
            Protocol::Other(_) => {
                self.refuse(packet, Unreachable::Protocol, now);
                Err(DropReason::EgressRefused)
            }
        }
    }

    fn handle_tcp(self: &Rc<Self>, packet: &Packet<'_>, now: Instant) -> Result<(), DropReason> {
        let Some(tcp) = packet.tcp() else { return Err(DropReason::Malformed) };
        let key = Key {
            kind: Kind::Tcp,
            client: SocketAddr::new(packet.source(), tcp.source_port()),
            remote: SocketAddr::new(packet.destination(), tcp.destination_port()),
        };
        let flow = self.table.borrow().get(&key).cloned();
        if let Some(flow) = flow {
            flow.touch(now);
            if let Side::Tcp(side) = &flow.side.side
                && !side.handle_packet(packet.bytes(), &tcp, now)
            {
                flow.side.end();
            }
            return Ok(());
        }
        if !wire::is_intact(packet) || key.remote.port() == 0 || key.client.port() == 0 {
            return Err(DropReason::Malformed);
        }
        if !tcp.is_syn() || tcp.is_ack() || tcp.is_rst() {
            // Of a connection that is over, or of one before the server started.
            self.reset(packet, now);
            return Ok(());
        }
        let to = match self.way(key.remote.ip(), Some(key.remote.port()), now) {
            Way::Out(to) => to,
            Way::Here => {
                self.reset(packet, now);
                return Ok(());
            }
            Way::Closed => return Err(DropReason::NotPermitted),
        };
        let ticket = self.make_room(Kind::Tcp, now)?;
        let others = self.table.borrow().count(Kind::Tcp);
        let share = self.common.budget.take(others).ok_or(DropReason::EgressRefused)?;
        let side = Side::Tcp(TcpSide::new(packet.bytes()));
        self.open(key, side, ticket, |entry| tcp::run(entry, to, key.remote, share), now);
        Ok(())
    }

    fn handle_udp(self: &Rc<Self>, packet: &Packet<'_>, now: Instant) -> Result<(), DropReason> {
        let Some(udp) = packet.udp().filter(|_| wire::is_intact(packet)) else {
            return Err(DropReason::Malformed);
        };
        let key = Key {
            kind: Kind::Udp,
            client: SocketAddr::new(packet.source(), udp.source_port()),
            remote: SocketAddr::new(packet.destination(), udp.destination_port()),
        };
        if key.remote.port() == 0 {
            return Err(DropReason::Malformed);
        }
        let flow = self.table.borrow().get(&key).cloned();
        let flow = match flow {
            Some(flow) => flow,
            None => {
                let to = match self.way(key.remote.ip(), Some(key.remote.port()), now) {
                    Way::Out(to) => to,
                    Way::Here => {
                        self.refuse(packet.bytes(), Unreachable::Port, now);
                        return Err(DropReason::EgressRefused);
                    }
                    Way::Closed => return Err(DropReason::NotPermitted),
                };
                let ticket = self.make_room(Kind::Udp, now)?;
                let side = UdpSide::connect(to).map_err(|error| self.unsent(packet.bytes(), &error, now))?;
                self.open(key, Side::Udp(side), ticket, udp::run, now)
            }
        };
        flow.touch(now);
        let Side::Udp(side) = &flow.side.side else { return Err(DropReason::EgressRefused) };
        // The first error may be what an earlier datagram brought about; it is told, and this one goes all the same.
        match side.send(udp.payload()) {
            Err(error) if udp::unreachable(&error).is_some() => {
                self.unsent(packet.bytes(), &error, now);
                side.send(udp.payload())
            }
            other => other,
        }
        .map_err(|_| DropReason::EgressRefused)
    }

    fn handle_icmp(self: &Rc<Self>, packet: &Packet<'_>, now: Instant) -> Result<(), DropReason> {
        let Some(icmp) = packet.icmp().filter(|_| wire::is_intact(packet)) else {
            return Err(DropReason::Malformed);
        };
        let is_request = matches!((packet.family(), icmp.kind()), (Family::V4, 8) | (Family::V6, 128));
        // Errors of the client are about packets that the host's own sockets have long acknowledged.
        let Some(id) = icmp.echo_id().filter(|_| is_request) else { return Ok(()) };
        let key = Key {
            kind: Kind::Echo,
            client: SocketAddr::new(packet.source(), id),
            remote: SocketAddr::new(packet.destination(), 0),
        };
        let flow = self.table.borrow().get(&key).cloned();
        let flow = match flow {
            Some(flow) => flow,
            None => {
                match self.way(key.remote.ip(), None, now) {
                    Way::Out(_) => {}
                    Way::Here => {
                        self.echo(packet, id, now);
                        return Ok(());
                    }
                    Way::Closed => return Err(DropReason::NotPermitted),
                }
                let ticket = self.make_room(Kind::Echo, now)?;
                let side = EchoSide::connect(key.remote.ip())
                    .map_err(|error| self.unsent(packet.bytes(), &error, now))?;
                self.open(key, Side::Echo(side), ticket, echo::run, now)
            }
        };
        flow.touch(now);
        let Side::Echo(side) = &flow.side.side else { return Err(DropReason::EgressRefused) };
        side.send(packet.payload()).map_err(|error| self.unsent(packet.bytes(), &error, now))
    }

    fn way(&self, to: IpAddr, port: Option<u16>, now: Instant) -> Way {
        self.common.plan.fence.way(to, port, |address| self.common.host.contains(address, now))
    }

    /// Takes a descriptor for one more flow of `kind`; where there is none, this session's own oldest flow ends.
    fn make_room(&self, kind: Kind, now: Instant) -> Result<Ticket, DropReason> {
        if self.alive.get() >= self.table.borrow().len() + MAX_ENDING {
            return Err(DropReason::EgressRefused);
        }
        let mut table = self.table.borrow_mut();
        let evicted = table.make_room(kind, now).map_err(|_| DropReason::EgressRefused)?;
        if let Some(flow) = evicted {
            flow.side.evict();
        }
        self.common
            .plan
            .descriptors
            .take()
            .or_else(|| {
                self.common.complain_of_descriptors(now);
                if let Ok(flow) = table.take_oldest(kind, now) {
                    flow.side.evict();
                }
                None
            })
            .ok_or(DropReason::EgressRefused)
    }

    /// Enters a flow and starts the task that serves it.
    fn open<F: Future<Output = ()> + 'static>(
        self: &Rc<Self>,
        key: Key,
        side: Side,
        ticket: Ticket,
        serve: impl FnOnce(Entry) -> F,
        now: Instant,
    ) -> Rc<Flow<Held>> {
        self.alive.set(self.alive.get() + 1);
        let alive = Rc::clone(&self.alive);
        let flow = Flow::new(Held { side, task: RefCell::default(), _ticket: ticket, alive }, now);
        self.table.borrow_mut().insert(key, Rc::clone(&flow));
        let entry = Entry { outlet: Rc::clone(self), flow: Rc::clone(&flow), key };
        let task = tokio::task::spawn_local(serve(entry));
        *flow.side.task.borrow_mut() = Some(task.abort_handle());
        flow
    }

    /// Tells the client why its packet did not leave.
    fn unsent(self: &Rc<Self>, packet: &[u8], error: &io::Error, now: Instant) -> DropReason {
        if let Some(why) = udp::unreachable(error) {
            self.refuse(packet, why, now);
        }
        DropReason::EgressRefused
    }

    /// Answers an ICMP error to a packet of the client.
    fn refuse(self: &Rc<Self>, packet: &[u8], why: Unreachable, now: Instant) {
        self.answer(now, |out| self.write_error(packet, why, out));
    }

    fn write_error(&self, packet: &[u8], why: Unreachable, out: &mut PacketBuf) -> bool {
        let Ok(parsed) = Packet::parse(packet) else { return false };
        let from = match why {
            // The host itself says these.
            Unreachable::Port | Unreachable::Protocol => parsed.destination(),
            Unreachable::Host | Unreachable::Prohibited => {
                let own = self.common.plan.own.iter();
                match own.copied().find(|own| own.is_ipv4() == parsed.destination().is_ipv4()) {
                    Some(own) => own,
                    None => return false,
                }
            }
        };
        packet::unreachable(packet, why, from, out)
    }

    fn reset(self: &Rc<Self>, packet: &Packet<'_>, now: Instant) {
        self.answer(now, |out| write(out, |room| wire::reset(room, packet)));
    }

    /// Answers an echo request in the name of an address that exists inside the tunnel only.
    fn echo(self: &Rc<Self>, packet: &Packet<'_>, id: u16, now: Instant) {
        let message = packet.payload();
        let (sequence, payload) = (u16::from_be_bytes([message[6], message[7]]), &message[wire::HEADER..]);
        let (from, to) = (packet.destination(), packet.source());
        let at = wire::payload_offset(to);
        self.answer(now, |out| {
            write(out, |room| {
                room.get_mut(at..at + payload.len())?.copy_from_slice(payload);
                wire::echo_reply(room, from, to, (id, sequence), payload.len())
            })
        });
    }

    /// Queues what `write` writes, within the limit.
    fn answer(self: &Rc<Self>, now: Instant, write: impl FnOnce(&mut PacketBuf) -> bool) {
        if self.answers.borrow().len() >= MAX_ANSWERS || !self.limit.borrow_mut().take(now) {
            return;
        }
        let client = self.client();
        let mut packet = client.buffer();
        if !write(&mut packet) {
            return client.recycle(packet);
        }
        self.answers.borrow_mut().push_back(packet);
        if !self.delivers.replace(true) {
            tokio::task::spawn_local(deliver(Rc::clone(self)));
        }
    }

    /// Tells the client that its connection did not come about. Called by the flow's task.
    pub(super) fn refuse_connection(&self, syn: &[u8], error: &io::Error) {
        let client = self.client();
        let now = Instant::now();
        let mut packet = client.buffer();
        let is_written = match tcp::verdict(error) {
            Verdict::Reset => {
                Packet::parse(syn).is_ok_and(|segment| write(&mut packet, |room| wire::reset(room, &segment)))
            }
            Verdict::Icmp(why) => self.write_error(syn, why, &mut packet),
            Verdict::Silence => {
                tracing::debug!(%error, "cannot connect for a client");
                client.count_drop(DropReason::EgressRefused);
                false
            }
        };
        if is_written {
            client.send(&mut packet, now);
            client.flush(now);
        }
        client.recycle(packet);
    }

    /// Tells the client that a datagram of the flow did not arrive. Called by the flow's task.
    pub(super) fn refuse_datagram(&self, key: Key, why: Unreachable, now: Instant) {
        if !self.limit.borrow_mut().take(now) {
            return;
        }
        let client = self.client();
        // Which datagram it was, nobody tells; ends and ports are what the client finds its socket by.
        let mut original = client.buffer();
        let mut error = client.buffer();
        let is_written = write(&mut original, |room| wire::udp(room, key.client, key.remote, 0))
            && self.write_error(original.as_slice(), why, &mut error);
        if is_written {
            client.send(&mut error, now);
        }
        client.recycle(original);
        client.recycle(error);
    }
}

fn write(out: &mut PacketBuf, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> bool {
    let len = write(out.room());
    out.set_len(len.unwrap_or(0));
    len.is_some()
}

/// Takes the queued answers to the client.
async fn deliver(outlet: Rc<Outlet>) {
    outlet.delivers.set(false);
    let client = outlet.client();
    let now = Instant::now();
    let answers = std::mem::take(&mut *outlet.answers.borrow_mut());
    for mut packet in answers {
        if !outlet.has_ended.get() {
            client.send(&mut packet, now);
        }
        client.recycle(packet);
    }
    client.flush(now);
}
