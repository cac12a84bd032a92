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
//!
//! # Kept from smoltcp (0.14)
//! What a client sends and smoltcp does not survive, or does not answer as it should, is named where it is kept from
//! it; `fuzz/fuzz_targets/egress_flow.rs` looks for more. A panic in there ends the flow, and nothing else.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use mstunnel_proto::packet::{Packet, Tcp};
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, State};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::buffers::Sizes;
use super::port::{Exit, Nowhere, Out, Port};
use crate::logs::RateLimit;

/// How long the client may leave data without any answer: RFC 9293 section 3.8.3 asks for 100 s or more.
const USER_TIMEOUT: Duration = Duration::from_secs(120);

/// The pause before a machine that asks for "now" is polled again: no bug of a peer makes a busy loop (R60).
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// How often that pause doubles: to about a minute, as the probes of RFC 9293 section 3.8.6.1 may.
const MAX_DOUBLINGS: u32 = 16;

/// Packets of one pump before others get their turn.
const PACKETS_PER_PUMP: usize = 64;

static DEFECT: RateLimit = RateLimit::once_a_minute();

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
    /// The sequence number of the next byte that the host takes.
    next: u32,
    /// The sequence number behind the client's FIN, once all before it has come.
    end: Option<u32>,
    /// Packets that were sent in FIN-WAIT-2 since one came.
    unasked: u32,
    /// Since when the end that we have said waits for its acknowledgement, or since the last packet meanwhile.
    closing: Option<Instant>,
    /// When TIME-WAIT began.
    time_wait: Option<SmolInstant>,
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
        let mut socket = tcp::Socket::new(buffer(offered_whole(sizes.from_client)), buffer(sizes.to_client));
        socket.set_congestion_control(tcp::CongestionControl::Cubic);
        socket.set_nagle_enabled(false);
        socket.listen(here).expect("the socket is new and the port of a SYN was checked");
        let mut config = Config::new(HardwareAddress::Ip);
        // Initial sequence numbers come from here.
        config.random_seed = seed;
        let length = if here.is_ipv4() { 32 } else { 128 };
        let interface = interface(config, IpCidr::new(here.ip().into(), length), mtu);
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
            next: 0,
            end: None,
            unasked: 0,
            closing: None,
            time_wait: None,
        };
        if let Some(segment) = Packet::parse(syn).ok().and_then(|packet| packet.tcp()) {
            // Bytes beside a SYN are not taken in.
            machine.next = segment.sequence().wrapping_add(1);
            machine.take_in(syn, &segment, now);
        }
        machine
    }

    /// The client takes packets of at most `mtu` bytes from now on: a session may come back over a narrower path (R9).
    /// What is on its way is sent again in smaller ones. A wider path changes nothing.
    pub(super) fn shrink(&mut self, mtu: usize) {
        if mtu >= self.mtu {
            return;
        }
        self.mtu = mtu;
        // The interface asks for the MTU once, when it is made.
        if let Some(&own) = self.interface.ip_addrs().first() {
            self.interface = interface(Config::new(HardwareAddress::Ip), own, mtu);
        }
    }

    /// Takes in a packet of this flow, which is `segment`.
    pub(super) fn handle_packet(&mut self, packet: &[u8], segment: &Tcp<'_>, now: Instant) {
        // What was reset before it was open listens again. What is behind the end smoltcp would take in and
        // acknowledge, or panic at (RFC 9293 section 3.10.7.4 ignores it).
        let is_refused = self.socket().state() == State::Listen
            || self.end.is_some_and(|end| segment.has_payload_behind(end) && !segment.is_rst());
        if !is_refused {
            self.take_in(packet, segment, now);
        }
    }

    fn take_in(&mut self, packet: &[u8], segment: &Tcp<'_>, now: Instant) {
        self.unasked = 0;
        self.closing = self.closing.map(|_| now);
        let before = self.socket().state();
        let time = self.clock(now);
        self.contained(|machine| {
            let mut port = Port {
                mtu: machine.mtu,
                received: Some(packet),
                out: Out::Replies(&mut machine.replies),
                blocked: false,
            };
            let port: &mut Port<'_, Nowhere> = &mut port;
            machine.interface.poll_ingress_single(time, port, &mut machine.sockets)
        });
        let after = self.socket().state();
        if after == State::TimeWait {
            self.time_wait.get_or_insert(time);
        }
        let has_finished =
            matches!(after, State::CloseWait | State::Closing | State::LastAck | State::TimeWait);
        if has_finished && self.end.is_none() {
            let end = segment.end();
            let taken = u32::try_from(self.socket().recv_queue()).unwrap_or(0);
            if self.next.wrapping_add(taken).wrapping_add(1) == end {
                self.end = Some(end);
            } else {
                // smoltcp cuts a segment at the end of its window and takes its FIN nevertheless: rather a reset
                // than an end that looks like one.
                self.abort();
            }
        }
        self.was_reset |= segment.is_rst() && after == State::Closed && before != State::Closed;
    }

    /// Has smoltcp do something. Where it panics, the flow is over.
    fn contained<R>(&mut self, step: impl FnOnce(&mut Self) -> R) -> Option<R> {
        let result = catch_unwind(AssertUnwindSafe(|| step(self)));
        if result.is_err() {
            if let Some(missed) = DEFECT.permit() {
                tracing::error!(machine = ?self, missed, "a defect ended a flow");
            }
            let empty = || tcp::SocketBuffer::new(Vec::new());
            self.sockets = SocketSet::new(Vec::with_capacity(1));
            self.handle = self.sockets.add(tcp::Socket::new(empty(), empty()));
            self.replies.clear();
            self.end = None;
        }
        result.ok()
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
        // A buffer is shorter than a stream has numbers.
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
        self.end.is_some() && !self.socket().can_recv()
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
        // The last acknowledgement comes with the pump after which nobody asks again.
        self.socket_mut().set_ack_delay(None);
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
        let state = self.socket().state();
        // Only with data outstanding: smoltcp would also time out a connection that is merely quiet.
        let waits = self.socket().send_queue() > 0 || state == State::SynReceived;
        self.socket_mut().set_timeout(waits.then(|| USER_TIMEOUT.into()));
        // An end that nobody acknowledges, which smoltcp would time from the last packet before it.
        let is_closing = matches!(state, State::FinWait1 | State::Closing | State::LastAck);
        self.closing = is_closing.then(|| self.closing.unwrap_or(now));
        let gives_up_at = self.closing.map(|since| since + USER_TIMEOUT);
        if gives_up_at.is_some_and(|at| at <= now) {
            self.abort();
        }
        // One acknowledgement says all that is left to say. smoltcp would go on: where the window was closed as the
        // last byte was acknowledged, it probes it with nothing, and again at once.
        let is_listening = state == State::FinWait2;
        // When TIME-WAIT ends, smoltcp forgets what the host has not taken yet: for it, it never does.
        let time = self.time_wait.unwrap_or(self.clock(now));
        let most = if is_listening { 1 } else { PACKETS_PER_PUMP };
        let polled = self.contained(|machine| {
            let mut port = Port { mtu: machine.mtu, received: None, out: Out::Exit(exit), blocked: false };
            let is_more = (0..most).all(|_| {
                let result = machine.interface.poll_egress(time, &mut port, &mut machine.sockets);
                result == PollResult::SocketStateChanged
            });
            (is_more, port.blocked)
        });
        let (mut is_more, blocked) = polled.unwrap_or((false, false));
        if is_listening && is_more {
            is_more = false;
            self.unasked += 1;
        }
        let socket = self.socket();
        let state = socket.state();
        // After TIME-WAIT comes nothing that matters: a late segment is answered with a reset.
        let is_closed = state == State::Closed && socket.remote_endpoint().is_none();
        if is_closed || state == State::TimeWait && !blocked && !is_more || state == State::Listen {
            return Next::Gone;
        }
        if blocked {
            return Next::Blocked;
        }
        if is_more {
            return Next::More;
        }
        let wanted = self.interface.poll_at(time, &self.sockets).map(|at| {
            let since = Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0));
            let pause = MIN_PAUSE * (1 << self.unasked.min(MAX_DOUBLINGS));
            (self.epoch + since).max(now + pause)
        });
        wanted.into_iter().chain(gives_up_at).min().map_or(Next::Idle, Next::At)
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

fn interface(config: Config, own: IpCidr, mtu: usize) -> Interface {
    let mut interface = Interface::new(config, &mut Port::<Nowhere>::idle(mtu), SmolInstant::ZERO);
    interface.update_ip_addrs(|addresses| addresses.push(own).expect("the list of a new interface is empty"));
    interface
}

/// The largest receive buffer of up to `len` bytes that is the window of a SYN-ACK, shifted: smoltcp reckons with that
/// one, though the window is not shifted (RFC 7323 section 2.2), and panics when more comes than its buffer holds.
fn offered_whole(len: usize) -> usize {
    const MOST: usize = 65_535;
    match (len / MOST).checked_ilog2() {
        Some(shift) => MOST << shift,
        None => len,
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
