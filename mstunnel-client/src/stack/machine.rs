//! One TCP connection: a smoltcp interface with a single socket, driven from outside.
//!
//! smoltcp looks at every socket of a set at each poll. With a set of its own for each flow, a packet
//! costs the same with one flow and with a thousand.
//!
//! ```text
//!   handle_packet -> socket -> read        handle_*, read, write: then pump, which sends what there is
//!            write -> socket -> pump       and says when it wants to be called again
//! ```
//!
//! # Kept from smoltcp (0.14)
//! What a host sends and smoltcp does not survive, or does not answer as it should, is named where it is kept from
//! it; `fuzz/fuzz_targets/client_stack.rs` looks for more. A panic in there resets the connection, and nothing else.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Poll};
use std::time::Duration;

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::packet::Tcp;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, State};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{HardwareAddress, IpCidr};
use tokio::time::Instant;

use super::ConnectError;
use super::link::Link;
use super::random;

/// How long the other end may leave data without any answer: RFC 9293 section 3.8.3 asks for 100 s or more.
const USER_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a connection that nobody holds any more may take to say goodbye.
const LINGER: Duration = Duration::from_secs(30);

/// The pause before a machine that asks for "now" is polled again: no bug of a peer makes a busy loop (R60).
const MIN_PAUSE: Duration = Duration::from_millis(1);

/// How often that pause doubles: to about a minute, as the probes of RFC 9293 section 3.8.6.1 may.
const MAX_DOUBLINGS: u32 = 16;

/// The sizes of the buffers of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Buffers {
    /// What waits to be read, in bytes: also the window that the other end may fill.
    pub(super) receive: usize,
    /// What waits for its acknowledgement, in bytes.
    pub(super) send: usize,
}

impl Buffers {
    /// The sizes for one more connection beside `others`.
    ///
    /// A few connections get what fills 1 Gbit/s over 8 ms; many share what [`super::MAX_FLOWS`] allows:
    /// 32 * 1.5 MB + 224 * 384 KB + 768 * 128 KB are 230 MB at most.
    pub(super) fn beside(others: usize) -> Self {
        const KB: usize = 1024;
        match others {
            0..32 => Self { receive: 1024 * KB, send: 512 * KB },
            32..256 => Self { receive: 256 * KB, send: 128 * KB },
            _ => Self { receive: 64 * KB, send: 64 * KB },
        }
    }
}

/// What a machine wants after it was pumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// To be pumped when the tunnel's queue has room.
    Blocked,
    /// To be pumped at this time.
    At(Instant),
    /// Nothing, until a packet or its user comes.
    Idle,
    /// To be forgotten: no packet of this connection matters any more.
    Gone,
}

/// Why a connection ended, other than by both ends in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The other end reset it.
    Reset,
    /// The network said that the other end cannot be reached.
    Unreachable,
    /// The tunnel ended.
    TunnelEnded,
    /// The tunnel got another address.
    AddressChanged,
}

/// What a segment says beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers {
    sequence: u32,
    end: u32,
    is_reset: bool,
}

impl Numbers {
    /// Those of a segment.
    pub(super) fn of(segment: &Tcp<'_>) -> Self {
        Self { sequence: segment.sequence(), end: segment.end(), is_reset: segment.is_rst() }
    }
}

/// One connection.
pub(super) struct Machine {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    link: Link,
    local: IpAddr,
    epoch: Instant,
    fault: Option<Fault>,
    established: bool,
    /// The sequence number of the next byte that is read.
    next: u32,
    /// The sequence number behind the other end's FIN, once all before it has come.
    end: Option<u32>,
    /// Packets that were sent in FIN-WAIT-2 since one came.
    unasked: u32,
    /// Since when the end that we have said waits for its acknowledgement, or since the last packet meanwhile.
    closing: Option<Instant>,
    /// When TIME-WAIT began.
    time_wait: Option<SmolInstant>,
    /// Since nobody holds it: when it must be gone.
    orphan_until: Option<Instant>,
    /// The earliest deadline that is armed in [`super::timers::Timers`].
    pub(super) armed: Option<Instant>,
    /// Whether it waits in the list of those that found the queue full.
    pub(super) is_blocked: bool,
    /// Whether packets came in and it was not pumped since.
    pub(super) is_touched: bool,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").field("state", &self.socket().state()).finish_non_exhaustive()
    }
}

impl Machine {
    /// Starts a connection; the SYN leaves with the first [`Machine::pump`].
    pub(super) fn connect(
        local: SocketAddr,
        remote: SocketAddr,
        mut link: Link,
        buffers: Buffers,
        now: Instant,
    ) -> Result<Self, ConnectError> {
        let mut socket = tcp::Socket::new(
            tcp::SocketBuffer::new(vec![0; offered_whole(buffers.receive)]),
            tcp::SocketBuffer::new(vec![0; buffers.send]),
        );
        socket.set_congestion_control(tcp::CongestionControl::Cubic);
        socket.set_nagle_enabled(false);
        let mut interface = interface(&mut link, local.ip());
        socket
            .connect(interface.context(), remote, local)
            .map_err(|_| ConnectError::Destination { address: remote.ip() })?;
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Ok(Self {
            interface,
            sockets,
            handle,
            link,
            local: local.ip(),
            epoch: now,
            fault: None,
            established: false,
            next: 0,
            end: None,
            unasked: 0,
            closing: None,
            time_wait: None,
            orphan_until: None,
            armed: None,
            is_blocked: false,
            is_touched: false,
        })
    }

    /// The address of this end.
    pub(super) fn local(&self) -> IpAddr {
        self.local
    }

    /// Whether a segment has something behind the end of the other end's stream, which smoltcp would take in and
    /// acknowledge, or panic at (RFC 9293 section 3.10.7.4 ignores it).
    pub(super) fn has_ended_before(&self, segment: &Tcp<'_>) -> bool {
        self.end.is_some_and(|end| segment.has_payload_behind(end) && !segment.is_rst())
    }

    /// Takes in a packet of this connection, which has these numbers.
    pub(super) fn handle_packet(&mut self, packet: PacketBuf, numbers: Numbers, now: Instant) {
        self.unasked = 0;
        self.closing = self.closing.map(|_| now);
        let before = self.socket().state();
        self.link.put(packet);
        let time = self.clock(now);
        self.contained(|machine| {
            machine.interface.poll_ingress_single(time, &mut machine.link, &mut machine.sockets)
        });
        let after = self.socket().state();
        if after == State::TimeWait {
            self.time_wait.get_or_insert(time);
        }
        self.established |= after == State::Established;
        if before == State::SynSent && after != State::SynSent {
            self.next = numbers.sequence.wrapping_add(1);
        }
        let has_finished =
            matches!(after, State::CloseWait | State::Closing | State::LastAck | State::TimeWait);
        if has_finished && self.end.is_none() {
            let waiting = u32::try_from(self.socket().recv_queue()).unwrap_or(0);
            if self.next.wrapping_add(waiting).wrapping_add(1) == numbers.end {
                self.end = Some(numbers.end);
            } else {
                // smoltcp cuts a segment at the end of its window and takes its FIN nevertheless: rather a reset
                // than an end that looks like one.
                self.handle_fault(Fault::Reset);
            }
        }
        if after == State::Closed && before != State::Closed && numbers.is_reset {
            self.fault.get_or_insert(Fault::Reset);
        }
        if self.orphan_until.is_some() && self.socket().recv_queue() > 0 {
            // Data that nobody will read: say so.
            self.socket_mut().abort();
        }
    }

    /// Has smoltcp do something. Where it panics, the connection is reset, and nothing else ends.
    fn contained<R>(&mut self, step: impl FnOnce(&mut Self) -> R) -> Option<R> {
        let result = catch_unwind(AssertUnwindSafe(|| step(self)));
        if result.is_err() {
            tracing::error!(machine = ?self, "a defect ended a connection");
            // Wakes whoever waits for it.
            self.handle_fault(Fault::Reset);
            let empty = || tcp::SocketBuffer::new(Vec::new());
            self.sockets = SocketSet::new(Vec::with_capacity(1));
            self.handle = self.sockets.add(tcp::Socket::new(empty(), empty()));
            self.end = None;
        }
        result.ok()
    }

    /// Ends the connection because of what was learned beside it; a reset tells the other end if it may care.
    pub(super) fn handle_fault(&mut self, fault: Fault) {
        // RFC 5461 section 4.1 and RFC 1122 section 4.2.3.9: unreachable ends an attempt, not a connection.
        if fault == Fault::Unreachable && self.socket().state() != State::SynSent {
            return;
        }
        self.fault.get_or_insert(fault);
        self.socket_mut().abort();
    }

    /// Takes in that packets of more than `mtu` bytes do not get through.
    pub(super) fn handle_mtu(&mut self, mtu: usize) {
        if mtu < self.link.mtu() {
            self.link.set_mtu(mtu);
            // smoltcp asks the device once, when the interface is made; the connection is in the socket.
            self.interface = interface(&mut self.link, self.local);
        }
    }

    /// Takes in that its user let go of it.
    pub(super) fn handle_orphaned(&mut self, now: Instant) {
        self.orphan_until = Some(now + LINGER);
        if self.socket().recv_queue() > 0 {
            self.socket_mut().abort();
        } else {
            self.finish();
        }
    }

    /// Sends what can be sent, and says when to be called again.
    pub(super) fn pump(&mut self, now: Instant) -> Next {
        self.is_touched = false;
        if self.orphan_until.is_some_and(|until| until <= now) {
            self.socket_mut().abort();
        }
        let state = self.socket().state();
        // Only with data outstanding: smoltcp would also time out a connection that is merely quiet.
        let waits = self.socket().send_queue() > 0 || state == State::SynSent;
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
        // When TIME-WAIT ends, smoltcp forgets what was not read yet: for it, it never does.
        let time = self.time_wait.unwrap_or(self.clock(now));
        self.contained(|machine| {
            while machine.interface.poll_egress(time, &mut machine.link, &mut machine.sockets)
                == PollResult::SocketStateChanged
            {
                if is_listening {
                    machine.unasked += 1;
                    break;
                }
            }
        });
        let blocked = self.link.take_blocked();
        let socket = self.socket();
        let state = socket.state();
        // After TIME-WAIT comes nothing that matters: the port is random, and the peer has our last word.
        if state == State::Closed && socket.remote_endpoint().is_none()
            || state == State::TimeWait && !blocked
        {
            return Next::Gone;
        }
        if blocked {
            return Next::Blocked;
        }
        let wanted = self.interface.poll_at(time, &self.sockets).map(|at| {
            let since = Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or(0));
            (self.epoch + since).max(now + MIN_PAUSE * (1 << self.unasked.min(MAX_DOUBLINGS)))
        });
        match [wanted, self.orphan_until, gives_up_at].into_iter().flatten().min() {
            Some(at) => Next::At(at),
            None => Next::Idle,
        }
    }

    /// Waits for the end of the handshake.
    pub(super) fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        if self.established {
            return Poll::Ready(Ok(()));
        }
        if matches!(self.socket().state(), State::SynSent | State::SynReceived) {
            self.socket_mut().register_send_waker(cx.waker());
            return Poll::Pending;
        }
        Poll::Ready(Err(match self.fault {
            Some(Fault::Reset) => ConnectError::Refused,
            Some(Fault::Unreachable) => ConnectError::Unreachable,
            Some(Fault::TunnelEnded) => ConnectError::TunnelEnded,
            Some(Fault::AddressChanged) => ConnectError::AddressChanged,
            None => ConnectError::TimedOut,
        }))
    }

    /// Reads what has come in; `Ok(0)` is the end.
    pub(super) fn poll_read(&mut self, buffer: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.socket_mut().recv_slice(buffer) {
            Ok(0) if !buffer.is_empty() => {
                self.socket_mut().register_recv_waker(cx.waker());
                Poll::Pending
            }
            Ok(len) => {
                // A buffer is shorter than a stream has numbers.
                self.next = self.next.wrapping_add(u32::try_from(len).unwrap_or(0));
                Poll::Ready(Ok(len))
            }
            Err(_) if self.end.is_some() => Poll::Ready(Ok(0)),
            Err(_) => Poll::Ready(Err(self.error())),
        }
    }

    /// Takes bytes to be sent, as many as there is room for.
    pub(super) fn poll_write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self.socket_mut().send_slice(bytes) {
            Ok(0) if !bytes.is_empty() => {
                self.socket_mut().register_send_waker(cx.waker());
                Poll::Pending
            }
            Ok(len) => Poll::Ready(Ok(len)),
            Err(_) if self.socket().state() == State::Closed => Poll::Ready(Err(self.error())),
            Err(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    /// Says that no more bytes will be sent; those that were taken still go out.
    pub(super) fn finish(&mut self) {
        // The last acknowledgement comes with the pump after which nobody asks again.
        self.socket_mut().set_ack_delay(None);
        self.socket_mut().close();
    }

    /// Ends the connection with a reset.
    pub(super) fn abort(&mut self) {
        self.socket_mut().abort();
    }

    fn error(&self) -> io::Error {
        match self.fault {
            Some(Fault::Reset) => io::ErrorKind::ConnectionReset.into(),
            Some(Fault::Unreachable) => io::ErrorKind::HostUnreachable.into(),
            Some(Fault::TunnelEnded) => io::Error::new(io::ErrorKind::NetworkDown, "the tunnel ended"),
            Some(Fault::AddressChanged) => {
                io::Error::new(io::ErrorKind::ConnectionAborted, "the tunnel got another address")
            }
            None => io::ErrorKind::TimedOut.into(),
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

/// The largest receive buffer of up to `len` bytes that is the window of a SYN, shifted: smoltcp reckons with that
/// one, though the window is not shifted (RFC 7323 section 2.2), and panics when more comes than its buffer holds.
fn offered_whole(len: usize) -> usize {
    const MOST: usize = 65_535;
    match (len / MOST).checked_ilog2() {
        Some(shift) => MOST << shift,
        None => len,
    }
}

fn interface(link: &mut Link, local: IpAddr) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    // Initial sequence numbers come from here.
    config.random_seed = random::u64();
    let mut interface = Interface::new(config, link, SmolInstant::ZERO);
    interface.update_ip_addrs(|addresses| {
        let length = if local.is_ipv4() { 32 } else { 128 };
        addresses.push(IpCidr::new(local.into(), length)).expect("the list of a new interface is empty");
    });
    interface
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
