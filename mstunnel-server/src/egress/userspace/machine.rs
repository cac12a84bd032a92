//! The client's side of one TCP flow: a smoltcp interface with a single socket, driven from outside.
//!
//! smoltcp looks at every socket of a set at each poll (27 us with a thousand of them); with an interface and a
//! set for each flow, a packet costs the same with one flow and with all that a session may have. An interface is
//! a quarter of a kilobyte.
//!
//! ```text
//!   client's packet -> handle_packet -> receive -> socket of the host
//!   socket of the host -> send -> pump -> packets to the client
//! ```

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mstunnel_proto::packet::{Packet, Tcp};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{self, State};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::buffers::Sizes;

/// How long the client may leave data without any answer: RFC 9293 section 3.8.3 asks for 100 s or more.
const USER_TIMEOUT: Duration = Duration::from_secs(120);

/// The pause before a machine that asks for "now" is polled again: no bug of a peer makes a busy loop (R60).
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// How often that pause doubles: to about a minute, as the probes of RFC 9293 section 3.8.6.1 may.
const MAX_DOUBLINGS: u32 = 16;

/// Answers to single packets that wait for the next pump; those beyond are repeated by TCP itself.
const MAX_REPLIES: usize = 8;

/// Packets of one pump before others get their turn.
const PACKETS_PER_PUMP: usize = 64;

/// Where packets to the client go.
pub(super) trait Exit {
    /// Whether a packet is taken now.
    fn has_room(&mut self) -> bool;

    /// Takes the packet of `len` bytes that `write` writes.
    fn send<R>(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> R) -> R;
}

/// What a machine wants after it was pumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// To be pumped when the exit has room.
    Blocked,
    /// To be pumped again after others.
    More,
    /// To be pumped at this time.
    At(Instant),
    /// Nothing, until a packet or a byte comes.
    Idle,
    /// To be forgotten: no packet of this flow matters any more.
    Gone,
}

/// The client's side of one flow.
pub(super) struct Machine {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    mtu: usize,
    epoch: Instant,
    replies: VecDeque<Vec<u8>>,
    was_reset: bool,
    /// The client has said that it sends no more.
    has_finished: bool,
    /// The sequence number behind its saying so.
    end: Option<u32>,
    /// The sequence number of the next byte that the host takes.
    next: u32,
    /// Packets that were sent in FIN-WAIT-2 since one came.
    unasked: u32,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("state", &self.socket().state()).finish_non_exhaustive()
    }
}

impl Machine {
    /// Accepts the flow that `syn` asks for, in the name of `here`; the answer leaves with the first pump.
    pub(super) fn accept(
        syn: &[u8],
        here: SocketAddr,
        mtu: usize,
        sizes: Sizes,
        seed: u64,
        now: Instant,
    ) -> Self {
        let buffer = |len| tcp::SocketBuffer::new(vec![0; len]);
        let mut socket = tcp::Socket::new(buffer(sizes.from_client), buffer(sizes.to_client));
        socket.set_congestion_control(tcp::CongestionControl::Cubic);
        socket.set_nagle_enabled(false);
        socket.listen(here).expect("the socket is new and the port of a SYN was checked");
        let mut config = Config::new(HardwareAddress::Ip);
        // Initial sequence numbers come from here.
        config.random_seed = seed;
        let mut interface = Interface::new(config, &mut Port::<Nowhere>::idle(mtu), SmolInstant::ZERO);
        interface.update_ip_addrs(|addresses| {
            let length = if here.is_ipv4() { 32 } else { 128 };
            addresses
                .push(IpCidr::new(here.ip().into(), length))
                .expect("the list of a new interface is empty");
        });
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        let mut machine = Self {
            interface,
            sockets,
            handle,
            mtu,
            epoch: now,
            replies: VecDeque::new(),
            was_reset: false,
            has_finished: false,
            end: None,
            next: 0,
            unasked: 0,
        };
        if let Some(segment) = Packet::parse(syn).ok().and_then(|packet| packet.tcp()) {
            // Bytes beside a SYN are not taken in.
            machine.next = segment.sequence().wrapping_add(1);
            machine.take_in(syn, &segment, now);
        }
        machine
    }

    /// Takes in a packet of this flow, which is `segment`.
    pub(super) fn handle_packet(&mut self, packet: &[u8], segment: &Tcp<'_>, now: Instant) {
        // What was reset before it was open listens again.
        if self.socket().state() != State::Listen && self.is_acceptable(segment) {
            self.take_in(packet, segment, now);
        }
    }

    fn take_in(&mut self, packet: &[u8], segment: &Tcp<'_>, now: Instant) {
        self.unasked = 0;
        let before = self.socket().state();
        let time = self.clock(now);
        let mut port = Port {
            mtu: self.mtu,
            received: Some(packet),
            out: Out::Replies(&mut self.replies),
            blocked: false,
        };
        self.interface.poll_ingress_single(time, &mut port as &mut Port<'_, Nowhere>, &mut self.sockets);
        let after = self.socket().state();
        if matches!(after, State::CloseWait | State::Closing | State::LastAck | State::TimeWait)
            && !self.has_finished
        {
            self.has_finished = true;
            self.end = Some(segment.end());
        }
        self.was_reset |= segment.is_rst() && after == State::Closed && before != State::Closed;
    }

    /// Whether a segment has no bytes but those that the client may send: before its end, and no more than the
    /// buffer holds. smoltcp takes in the others; it shifts the window of its SYN-ACK, which RFC 7323 section 2.2
    /// forbids, and panics when its buffer is full.
    fn is_acceptable(&self, segment: &Tcp<'_>) -> bool {
        if segment.payload().is_empty() {
            return true;
        }
        let end = segment.end().wrapping_sub(u32::from(segment.is_fin()));
        let ahead = usize::try_from(end.wrapping_sub(self.next).cast_signed()).unwrap_or(0);
        ahead <= self.socket().recv_capacity() && !self.end.is_some_and(|end| segment.has_payload_behind(end))
    }

    /// Lends the bytes from the client to `take`, which says how many it took.
    pub(super) fn receive<R>(&mut self, take: impl FnOnce(&mut [u8]) -> (usize, R)) -> Option<R> {
        let socket = self.socket_mut();
        if !socket.can_recv() {
            return None;
        }
        let take = |bytes: &mut [u8]| {
            let (taken, result) = take(bytes);
            (taken, (taken, result))
        };
        let (taken, result) = socket.recv(take).ok()?;
        // A buffer is shorter than a stream's numbers.
        self.next = self.next.wrapping_add(u32::try_from(taken).unwrap_or(0));
        Some(result)
    }

    /// Lends room for bytes to the client to `put`, which says how many it put there; `None` while there is little.
    pub(super) fn send<R>(&mut self, put: impl FnOnce(&mut [u8]) -> (usize, R)) -> Option<R> {
        let socket = self.socket_mut();
        let queued = socket.send_queue();
        // Rather one large read than many small ones while a bulk transfer waits for its acknowledgements.
        let has_room = queued == 0 || socket.send_capacity() - queued >= socket.send_capacity() / 8;
        if !socket.may_send() || !has_room {
            return None;
        }
        socket.send(put).ok()
    }

    /// Whether the client has said its last byte and all of it was received.
    pub(super) fn is_drained(&self) -> bool {
        self.has_finished && !self.socket().can_recv()
    }

    /// Whether bytes of the client wait to be received; they do so after the flow's end in order, too.
    pub(super) fn has_unread(&self) -> bool {
        self.socket().can_recv()
    }

    /// Whether the client has reset the flow.
    pub(super) fn was_reset(&self) -> bool {
        self.was_reset
    }

    /// Says that no more bytes will come; those that were put still go out.
    pub(super) fn finish(&mut self) {
        self.socket_mut().close();
    }

    /// Ends the flow with a reset to the client.
    pub(super) fn abort(&mut self) {
        self.socket_mut().abort();
    }

    /// Sends what can be sent, and says when to be called again.
    pub(super) fn pump<E: Exit>(&mut self, exit: &mut E, now: Instant) -> Next {
        while let Some(reply) = self.replies.front() {
            if !exit.has_room() {
                return Next::Blocked;
            }
            exit.send(reply.len(), |room| room.copy_from_slice(reply));
            self.replies.pop_front();
        }
        // Only with data outstanding: smoltcp would also time out a connection that is merely quiet.
        let waits = self.socket().send_queue() > 0 || self.socket().state() == State::SynReceived;
        self.socket_mut().set_timeout(waits.then(|| USER_TIMEOUT.into()));
        let time = self.clock(now);
        // One acknowledgement says all that is left to say. smoltcp would go on: where the window was closed as the
        // last byte was acknowledged, it probes it with nothing, and again at once.
        let is_listening = self.socket().state() == State::FinWait2;
        let most = if is_listening { 1 } else { PACKETS_PER_PUMP };
        let mut port = Port { mtu: self.mtu, received: None, out: Out::Exit(exit), blocked: false };
        let mut is_more = true;
        for _ in 0..most {
            if self.interface.poll_egress(time, &mut port, &mut self.sockets)
                != PollResult::SocketStateChanged
            {
                is_more = false;
                break;
            }
        }
        let blocked = port.blocked;
        if is_listening && is_more {
            is_more = false;
            self.unasked += 1;
        }
        let socket = self.socket();
        let state = socket.state();
        // After TIME-WAIT comes nothing that matters: a late segment is answered with a reset.
        let is_over = state == State::Closed && socket.remote_endpoint().is_none();
        if is_over || state == State::TimeWait && !blocked && !is_more || state == State::Listen {
            return Next::Gone;
        }
        if blocked {
            return Next::Blocked;
        }
        if is_more {
            return Next::More;
        }
        match self.interface.poll_at(time, &self.sockets) {
            Some(at) => {
                let since = Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0));
                let pause = MIN_PAUSE * (1 << self.unasked.min(MAX_DOUBLINGS));
                Next::At((self.epoch + since).max(now + pause))
            }
            None => Next::Idle,
        }
    }

    fn clock(&self, now: Instant) -> SmolInstant {
        let micros = now.saturating_duration_since(self.epoch).as_micros();
        SmolInstant::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
    }

    fn socket(&self) -> &tcp::Socket<'static> {
        self.sockets.get(self.handle)
    }

    fn socket_mut(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }
}

/// The network device that smoltcp sees, for the time of one call.
struct Port<'a, E> {
    mtu: usize,
    received: Option<&'a [u8]>,
    out: Out<'a, E>,
    blocked: bool,
}

enum Out<'a, E> {
    /// Answers to what is being received.
    Replies(&'a mut VecDeque<Vec<u8>>),
    Exit(&'a mut E),
    Nothing,
}

impl Port<'_, Nowhere> {
    fn idle(mtu: usize) -> Self {
        Self { mtu, received: None, out: Out::Nothing, blocked: false }
    }
}

/// The exit of a machine that only receives.
enum Nowhere {}

impl Exit for Nowhere {
    fn has_room(&mut self) -> bool {
        match *self {}
    }

    fn send<R>(&mut self, _len: usize, _write: impl FnOnce(&mut [u8]) -> R) -> R {
        match *self {}
    }
}

impl<E: Exit> Device for Port<'_, E> {
    type RxToken<'b>
        = Received<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Outgoing<'b, E>
    where
        Self: 'b;

    fn receive(&mut self, _now: SmolInstant) -> Option<(Received<'_>, Outgoing<'_, E>)> {
        let packet = self.received.take()?;
        Some((Received(packet), Outgoing(self.out.reborrow())))
    }

    fn transmit(&mut self, _now: SmolInstant) -> Option<Outgoing<'_, E>> {
        if let Out::Exit(exit) = &mut self.out
            && !exit.has_room()
        {
            self.blocked = true;
            return None;
        }
        Some(Outgoing(self.out.reborrow()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

impl<E> Out<'_, E> {
    fn reborrow(&mut self) -> Out<'_, E> {
        match self {
            Self::Replies(replies) => Out::Replies(replies),
            Self::Exit(exit) => Out::Exit(exit),
            Self::Nothing => Out::Nothing,
        }
    }
}

struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

struct Outgoing<'a, E>(Out<'a, E>);

impl<E: Exit> TxToken for Outgoing<'_, E> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        match self.0 {
            Out::Exit(exit) => exit.send(len, write),
            Out::Replies(replies) => {
                let mut packet = vec![0; len];
                let result = write(&mut packet);
                if replies.len() < MAX_REPLIES {
                    replies.push_back(packet);
                }
                result
            }
            Out::Nothing => write(&mut vec![0; len]),
        }
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
