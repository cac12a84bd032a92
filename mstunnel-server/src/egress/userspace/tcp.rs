//! One TCP flow: the client's side in a [`Machine`], the other as an ordinary socket of the host.
//!
//! ```text
//!   SYN -> connect -- done ------> SYN-ACK, then bytes both ways, each half closed by itself
//!                  -- refused ---> RST
//!                  -- no way ----> ICMP unreachable
//! ```
//!
//! The client learns of a connection when there is one. Neither side's bytes are read while the other side's buffer
//! is full, so that a slow reader slows its sender down and nobody else. A socket that is dropped sends a reset; only
//! a flow that both ends have closed in order takes its socket down in order.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::packet::{Tcp, Unreachable};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::ToClient;
use super::buffers::Share;
use super::machine::{Machine, Next};
use super::outlet::Entry;
use super::port::Exit;
use super::random;

/// How long a connection attempt may take: four SYNs of the host, after 0, 1, 3 and 7 seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection over which nothing passed for this long is ended. RFC 5382 section 5: 2 hours 4 minutes at least.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2 * 3_600 + 4 * 60);

/// The client's side of a flow, as packets find it.
#[derive(Debug)]
pub(super) struct TcpSide {
    state: RefCell<State>,
    /// The task that serves the flow, until a packet has woken it.
    waker: RefCell<Option<Waker>>,
    evicted: Cell<bool>,
}

#[derive(Debug)]
enum State {
    /// The host connects; the client's SYN waits.
    Connecting {
        syn: Box<[u8]>,
    },
    Open(Box<Machine>),
}

impl TcpSide {
    pub(super) fn new(syn: &[u8]) -> Self {
        Self {
            state: RefCell::new(State::Connecting { syn: syn.into() }),
            waker: RefCell::default(),
            evicted: Cell::new(false),
        }
    }

    /// Takes in a packet of this flow; whether the flow goes on.
    pub(super) fn handle_packet(&self, packet: &[u8], segment: &Tcp<'_>, now: Instant) -> bool {
        match &mut *self.state.borrow_mut() {
            // Only a repeated SYN makes sense, and a client that gave up.
            State::Connecting { .. } => return !segment.is_rst(),
            State::Open(machine) => machine.handle_packet(packet, segment, now),
        }
        self.wake();
        true
    }

    /// Has the flow look at its ends again.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Tells the flow to end; whether it does so by itself, with a reset to the client.
    pub(super) fn evict(&self) -> bool {
        self.evicted.set(true);
        match (&*self.state.borrow(), self.waker.take()) {
            (State::Open(_), Some(waker)) => {
                waker.wake();
                true
            }
            // It was woken already.
            (State::Open(_), None) => true,
            (State::Connecting { .. }, _) => false,
        }
    }
}

/// Two minutes until somebody who says nothing is known to be gone.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// Serves a flow to its end.
pub(super) async fn run(entry: Entry, to: SocketAddr, here: SocketAddr, share: Share) {
    let connected = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(to)).await;
    let Some(side) = entry.tcp() else { return };
    let syn = match &*side.state.borrow() {
        State::Connecting { syn } => syn.clone(),
        State::Open(_) => return,
    };
    let outcome = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let stream = match outcome.and_then(prepared) {
        Ok(stream) => stream,
        Err(error) => {
            entry.outlet().refuse_connection(&syn, &error);
            return;
        }
    };
    let client = entry.outlet().client();
    let now = Instant::now();
    let machine = Machine::accept(&syn, here, client.mtu(), share.sizes, random(), now);
    *side.state.borrow_mut() = State::Open(Box::new(machine));
    let relay = Relay {
        entry: &entry,
        side,
        stream,
        timer: Box::pin(tokio::time::sleep(IDLE_TIMEOUT)),
        has_read_all: false,
        has_shut_down: false,
    };
    relay.run().await;
}

/// A dropped socket resets until the flow has ended in order. A client's own keepalive ends at our machine: on the other side
/// the socket finds out who is gone, and keeps firewalls from forgetting.
fn prepared(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    Ok(stream)
}

/// Both sides of an open flow.
struct Relay<'a> {
    entry: &'a Entry,
    side: &'a TcpSide,
    stream: TcpStream,
    timer: Pin<Box<Sleep>>,
    has_read_all: bool,
    has_shut_down: bool,
}

impl Relay<'_> {
    async fn run(mut self) {
        std::future::poll_fn(|cx| self.turn(cx, Instant::now())).await;
        if self.has_read_all && self.has_shut_down {
            // What waits in the socket still goes out. A socket that refuses this resets.
            let _ = SockRef::from(&self.stream).set_linger(None);
        }
    }

    /// Moves what can be moved; ready when the flow is over.
    fn turn(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let side = self.side;
        let mut state = side.state.borrow_mut();
        let State::Open(machine) = &mut *state else { return Poll::Ready(()) };
        *self.side.waker.borrow_mut() = Some(cx.waker().clone());
        let idle_at = self.entry.flow().active() + IDLE_TIMEOUT;
        if machine.was_reset() {
            return Poll::Ready(());
        }
        let ends = self.side.evicted.get() || idle_at <= now;
        let has_failed = ends || self.relay(machine, cx, now).is_err();
        if has_failed {
            machine.abort();
        }
        let client = self.entry.outlet().client();
        machine.shrink(client.mtu());
        let mut courier = Courier::new(&*client, now);
        let next = machine.pump(&mut courier, now);
        courier.finish();
        let next_at = match next {
            // Both ends are done with each other, but the host's socket has not taken all.
            Next::Gone if machine.has_unread() && !has_failed => idle_at,
            Next::Gone => return Poll::Ready(()),
            Next::Blocked if ends => return Poll::Ready(()),
            Next::Blocked => {
                if client.poll_room(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
                idle_at
            }
            Next::More => {
                cx.waker().wake_by_ref();
                idle_at
            }
            Next::At(at) => at.min(idle_at),
            Next::Idle => idle_at,
        };
        self.arm(next_at, cx);
        Poll::Pending
    }

    /// Moves bytes both ways.
    fn relay(&mut self, machine: &mut Machine, cx: &mut Context<'_>, now: Instant) -> io::Result<()> {
        to_host(machine, &mut self.stream, &mut self.has_shut_down, cx)?;
        if self.has_read_all {
            return Ok(());
        }
        match to_client(machine, &mut self.stream, cx)? {
            Passed::Some => self.entry.flow().touch(now),
            Passed::Nothing => {}
            Passed::All => {
                self.has_read_all = true;
                machine.finish();
            }
        }
        Ok(())
    }

    /// Sees to it that there is a turn at `at`. An earlier one does no harm, so that moving the time later, which
    /// every packet does, costs nothing.
    fn arm(&mut self, at: Instant, cx: &mut Context<'_>) {
        let at = tokio::time::Instant::from_std(at);
        if self.timer.is_elapsed() || at < self.timer.deadline() {
            self.timer.as_mut().reset(at);
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
    }
}

/// Writes what the client has sent, and its end.
fn to_host(
    machine: &mut Machine,
    stream: &mut TcpStream,
    has_shut_down: &mut bool,
    cx: &mut Context<'_>,
) -> io::Result<()> {
    let mut write = |bytes: &mut [u8]| match Pin::new(&mut *stream).poll_write(cx, bytes) {
        Poll::Ready(Ok(len)) => (len, Ok(len > 0)),
        Poll::Ready(Err(error)) => (0, Err(error)),
        Poll::Pending => (0, Ok(false)),
    };
    while let Some(written) = machine.receive(&mut write) {
        if !written? {
            break;
        }
    }
    if machine.is_drained() && !*has_shut_down {
        *has_shut_down = true;
        SockRef::from(&*stream).shutdown(Shutdown::Write)?;
    }
    Ok(())
}

/// What a turn took from the host's socket.
enum Passed {
    Nothing,
    Some,
    /// The end.
    All,
}

/// Reads for the client, as much as there is room for.
fn to_client(machine: &mut Machine, stream: &mut TcpStream, cx: &mut Context<'_>) -> io::Result<Passed> {
    let mut read = |room: &mut [u8]| {
        let mut buffer = ReadBuf::new(room);
        match Pin::new(&mut *stream).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) => (buffer.filled().len(), Ok(Some(buffer.filled().len()))),
            Poll::Ready(Err(error)) => (0, Err(error)),
            Poll::Pending => (0, Ok(None)),
        }
    };
    let mut passed = Passed::Nothing;
    while let Some(done) = machine.send(&mut read) {
        match done? {
            None => break,
            Some(0) => return Ok(Passed::All),
            Some(_) => passed = Passed::Some,
        }
    }
    Ok(passed)
}

/// Takes packets of one turn to the client.
struct Courier<'a> {
    client: &'a dyn ToClient,
    packet: Option<PacketBuf>,
    now: Instant,
}

impl<'a> Courier<'a> {
    fn new(client: &'a dyn ToClient, now: Instant) -> Self {
        Self { client, packet: None, now }
    }

    fn finish(self) {
        if let Some(packet) = self.packet {
            self.client.recycle(packet);
            self.client.flush(self.now);
        }
    }
}

impl Exit for Courier<'_> {
    fn has_room(&mut self) -> bool {
        self.client.has_room()
    }

    fn send<R>(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let packet = self.packet.get_or_insert_with(|| self.client.buffer());
        // The MTU of a machine never exceeds the room of a buffer.
        let result = write(&mut packet.room()[..len]);
        packet.set_len(len);
        self.client.send(packet, self.now);
        result
    }
}

/// What a client is told about a connection that did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Reset,
    Icmp(Unreachable),
    /// Nothing: the trouble is ours, and its next SYN tries again.
    Silence,
}

/// Translates the failure of a connect.
pub(super) fn verdict(error: &io::Error) -> Verdict {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED | libc::ECONNRESET) => Verdict::Reset,
        Some(libc::EACCES | libc::EPERM) => Verdict::Icmp(Unreachable::Prohibited),
        Some(
            libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM | libc::EADDRNOTAVAIL | libc::EAGAIN,
        ) => Verdict::Silence,
        // No way to the host, and no answer from it.
        _ => Verdict::Icmp(Unreachable::Host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_of_a_connect_has_its_answer() {
        let of = |code| verdict(&io::Error::from_raw_os_error(code));
        assert_eq!(of(libc::ECONNREFUSED), Verdict::Reset);
        assert_eq!(of(libc::EHOSTUNREACH), Verdict::Icmp(Unreachable::Host));
        assert_eq!(of(libc::ENETUNREACH), Verdict::Icmp(Unreachable::Host));
        assert_eq!(of(libc::EPERM), Verdict::Icmp(Unreachable::Prohibited));
        assert_eq!(of(libc::EMFILE), Verdict::Silence);
        assert_eq!(verdict(&io::ErrorKind::TimedOut.into()), Verdict::Icmp(Unreachable::Host));
    }
}
