//! One TCP connection: a smoltcp interface with a single socket, driven from outside.
//!
//! smoltcp looks at every socket of a set at each poll. With a set of its own for each flow, a packet
//! costs the same with one flow and with a thousand.
//!
//! ```text
//!   handle_packet -> socket -> read        handle_*, read, write: then pump, which sends what there is
//!            write -> socket -> pump       and says when it wants to be called again
//! ```

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::packet::Tcp;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{self, RecvError, State};
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
    /// The other end has said that it sends no more.
    finished: bool,
    /// The sequence number behind its saying so.
    end: Option<u32>,
    /// Packets that were sent in FIN-WAIT-2 since one came.
    unasked: u32,
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
            tcp::SocketBuffer::new(vec![0; buffers.receive]),
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
            finished: false,
            end: None,
            unasked: 0,
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

    /// Whether a segment has something behind the end of the other end's stream, which smoltcp would take in.
    pub(super) fn has_ended_before(&self, segment: &Tcp<'_>) -> bool {
        self.end.is_some_and(|end| segment.has_payload_behind(end))
    }

    /// Takes in a packet of this connection, whose sequence number behind it is `end`.
    pub(super) fn handle_packet(&mut self, packet: PacketBuf, is_reset: bool, end: u32, now: Instant) {
        self.unasked = 0;
        let before = self.socket().state();
        self.link.put(packet);
        let now = self.clock(now);
        self.interface.poll_ingress_single(now, &mut self.link, &mut self.sockets);
        let after = self.socket().state();
        self.established |= after == State::Established;
        if matches!(after, State::CloseWait | State::Closing | State::LastAck | State::TimeWait)
            && !self.finished
        {
            self.finished = true;
            self.end = Some(end);
        }
        if after == State::Closed && before != State::Closed && is_reset {
            self.fault.get_or_insert(Fault::Reset);
        }
        if self.orphan_until.is_some() && self.socket().recv_queue() > 0 {
            // Data that nobody will read: say so.
            self.socket_mut().abort();
        }
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
            self.socket_mut().close();
        }
    }

    /// Sends what can be sent, and says when to be called again.
    pub(super) fn pump(&mut self, now: Instant) -> Next {
        self.is_touched = false;
        if self.orphan_until.is_some_and(|until| until <= now) {
            self.socket_mut().abort();
        }
        // Only with data outstanding: smoltcp would also time out a connection that is merely quiet.
        let waits = self.socket().send_queue() > 0 || self.socket().state() == State::SynSent;
        self.socket_mut().set_timeout(waits.then(|| USER_TIMEOUT.into()));
        let time = self.clock(now);
        // One acknowledgement says all that is left to say. smoltcp would go on: where the window was closed as the
        // last byte was acknowledged, it probes it with nothing, and again at once.
        let is_listening = self.socket().state() == State::FinWait2;
        while self.interface.poll_egress(time, &mut self.link, &mut self.sockets)
            == PollResult::SocketStateChanged
        {
            if is_listening {
                self.unasked += 1;
                break;
            }
        }
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
        match [wanted, self.orphan_until].into_iter().flatten().min() {
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
            Ok(len) => Poll::Ready(Ok(len)),
            Err(RecvError::Finished) => Poll::Ready(Ok(0)),
            Err(RecvError::InvalidState) if self.finished => Poll::Ready(Ok(0)),
            Err(RecvError::InvalidState) => Poll::Ready(Err(self.error())),
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
