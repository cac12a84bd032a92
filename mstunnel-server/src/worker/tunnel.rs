//! One live tunnel on its worker: the drive loop that joins a session, its two channels and the TUN.
//!
//! ```text
//!   TCP -> records -> frames -> session -> TUN               (task of the connection)
//!   UDP -> datagram leg ------> session -> TUN               (task of the UDP socket, same thread)
//!   TUN -> session -> records -> TCP                         (task of the TUN queue, same thread)
//!                  \-> datagram leg -> outlet -> UDP
//! ```
//!
//! Packets for the client go straight into records while the socket takes them; else they wait in a
//! bounded queue that drops from its front. Datagrams wait for nothing.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::close::CloseReason;
use mstunnel_proto::drop::DropReason;
use mstunnel_proto::dtls::{self, Greeting, Opened, Path};
use mstunnel_proto::frame::{FrameKind, Frames, MAX_FRAME, Remainder};
use mstunnel_proto::packet;
use mstunnel_proto::session::{Channel, Inbound, PacketQueue, Session, SessionEvent, SessionState, Waiting};

use super::WorkerContext;
use super::buffers::Buffers;
use super::datagrams::{Change, DatagramLeg, DatagramSocket, Holder, Intake, Outlet};
use super::live::Live;
use super::mailbox::DatagramKind;
use super::records::{Arrived, Flushed, LONGEST_RECORD, Records};
use super::relocation::Relocation;
use crate::egress::Egress;

/// Bytes of one read of a TCP socket: a few full TLS records.
pub(crate) const WIRE_BUFFER: usize = 3 * LONGEST_RECORD;

/// Bytes of a read buffer: what is left of a frame, what rustls may hold, and what one read brings.
pub(crate) const READ_BUFFER: usize = MAX_FRAME + LONGEST_RECORD + WIRE_BUFFER;

/// Reads of one turn before other tasks of the worker get theirs (R57): some 130 full packets.
const READS_PER_TURN: usize = 4;

/// And no further read after so long, which is about what 40 full packets take: bytes in tiny frames and tiny records
/// cost ten times as much (R57).
const TURN: Duration = Duration::from_micros(100);

/// Queued packets that are sealed before a flush, so that records never pile up unbounded.
const PACKETS_PER_FLUSH: usize = 64;

/// The most that wait for room in one tunnel: its flows, and some that are gone by now.
const MAX_WAITING: usize = 512;

/// What tunnels of one worker share: buffers for the moment, never across an await.
pub(crate) struct Bench {
    pub(crate) read: RefCell<Box<[u8]>>,
    /// Sealed bytes on their way from a socket to rustls.
    pub(crate) wire: RefCell<Box<[u8]>>,
    pub(crate) control: RefCell<PacketBuf>,
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) egress: Egress,
    /// A socket for each listening address; none without a datagram channel.
    pub(crate) sockets: Rc<[DatagramSocket]>,
    pub(crate) intake: RefCell<Intake>,
    pub(crate) outlet: RefCell<Outlet>,
    /// The sources of ICMP errors that the server makes, IPv4 and IPv6.
    pub(crate) own_addresses: Vec<std::net::IpAddr>,
}

/// How a turn ended that did not end with waiting.
pub(crate) enum Turn {
    /// There is more to read. Others come first.
    CutShort,
    /// It goes on with another worker.
    Moves(usize),
    /// The session is over.
    Closed(CloseReason),
}

/// One live tunnel.
pub(crate) struct Tunnel {
    session: Session,
    records: Records,
    leg: Option<DatagramLeg>,
    relocation: Relocation,
    /// The worker to move to.
    moves_to: Option<usize>,
    remainder: Remainder,
    queue: PacketQueue,
    blocked: bool,
    failed: bool,
    waker: Option<Waker>,
    armed: Option<Instant>,
    /// Flows that wait until the socket takes packets again, each once.
    waiting: Vec<Waker>,
    live: Arc<Live>,
}

impl Tunnel {
    /// What the rest of the server sees of it.
    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Joins the parts; `rest` is what came behind the CONNECT request.
    pub(crate) fn new(
        session: Session,
        records: Records,
        leg: Option<DatagramLeg>,
        rest: &[u8],
        live: Arc<Live>,
    ) -> Self {
        let mut remainder = Remainder::default();
        remainder.keep(rest);
        Self {
            session,
            records,
            leg,
            relocation: Relocation::new(),
            moves_to: None,
            remainder,
            queue: PacketQueue::default(),
            blocked: false,
            failed: false,
            waker: None,
            armed: None,
            waiting: Vec::new(),
            live,
        }
    }

    /// Takes in a packet from the network for this client; call [`Tunnel::flush`] after a burst.
    ///
    /// The buffer's contents are used up; when the packet has to wait, `packet` is replaced.
    pub(crate) fn send(&mut self, packet: &mut PacketBuf, bench: &Bench, now: Instant) {
        if self.session.channel() == Channel::Stream && (self.blocked || !self.queue.is_empty()) {
            let waiting = std::mem::replace(packet, bench.buffers.take());
            let drops = &mut self.session.counters_mut().drops;
            self.queue.push(waiting, drops, |buffer| bench.buffers.give(buffer), now);
            return;
        }
        self.seal(packet, bench, now);
    }

    fn seal(&mut self, packet: &mut PacketBuf, bench: &Bench, now: Instant) {
        match self.session.encapsulate(packet, now) {
            Ok(channel) => self.put(channel, packet.as_slice(), bench),
            Err(DropReason::TooBig) => self.answer_too_big(packet.as_slice(), bench),
            Err(_) => {}
        }
    }

    /// Seals a unit of `channel`.
    fn put(&mut self, channel: Channel, unit: &[u8], bench: &Bench) {
        match (channel, &mut self.leg) {
            (Channel::Datagram, Some(leg)) => {
                // The session trusts a channel only while the leg is open; between the two lies this moment.
                if !leg.put(unit, &mut bench.outlet.borrow_mut()) {
                    self.session.count_drop(DropReason::ChannelClosed);
                }
            }
            (Channel::Datagram, None) => self.session.count_drop(DropReason::ChannelClosed),
            (Channel::Stream, _) => {
                if self.records.write_frame(unit).is_err() {
                    self.failed = true;
                }
            }
        }
    }

    /// Takes in a datagram of the client; call [`Tunnel::flush`] after a burst.
    pub(crate) fn receive(
        &mut self,
        path: Path,
        kind: DatagramKind,
        datagram: &mut [u8],
        context: &WorkerContext,
        now: Instant,
    ) {
        let Some(leg) = &mut self.leg else { return };
        let bench = &context.bench;
        match kind {
            DatagramKind::Hello => {
                // Verified once more, since it may have come from another worker.
                let greeting = context.shared.greet(path.remote, datagram, &mut bench.control.borrow_mut());
                if let Greeting::Verified(hello) = greeting
                    && let Err(reason) = leg.receive_hello(path, &hello, now)
                {
                    self.session.count_drop(reason);
                }
            }
            DatagramKind::Records => self.open_records(path, datagram, context, now),
            DatagramKind::Stray => {
                let first = dtls::records(datagram).next();
                if first.is_some_and(|record| leg.recognizes(record, &mut Vec::new())) {
                    self.open_records(path, datagram, context, now);
                } else {
                    self.session.count_drop(DropReason::RecordForged);
                }
            }
        }
        self.drain_leg(context);
        self.transmit_control(bench);
    }

    /// Another worker has taken in a datagram of this client: if it takes in many, the tunnel moves there.
    ///
    /// Only what comes from where the channel is counts: others cannot send the tunnel about.
    pub(crate) fn note_handed_over(&mut self, from: usize, path: &Path, bench: &Bench, now: Instant) {
        if bench.egress.lets_tunnels_move()
            && self.session.channel() == Channel::Datagram
            && self.leg.as_ref().is_some_and(|leg| leg.is_at(path.remote))
            && self.relocation.handed_over(from, now)
        {
            self.relocation.settle(now);
            self.moves_to = Some(from);
            self.wake();
        }
    }

    /// Arrives from another worker at the calling one, as `holder`.
    ///
    /// # Errors
    /// The connection could not be taken along, and is lost.
    pub(crate) fn settle(self, holder: Holder) -> io::Result<Self> {
        let (records, mut leg) = (self.records.settle()?, self.leg);
        if let Some(leg) = &mut leg {
            leg.move_to(holder);
        }
        // Whoever waited, waited there.
        Ok(Self { records, leg, waker: None, armed: None, ..self })
    }

    fn open_records(&mut self, path: Path, datagram: &mut [u8], context: &WorkerContext, now: Instant) {
        let Some(leg) = &mut self.leg else { return };
        let (bench, mut is_bad) = (&context.bench, false);
        for record in dtls::records(datagram) {
            let plaintext = match leg.receive(path, record, now) {
                Opened::Application(plaintext) => plaintext,
                Opened::Handled => continue,
                Opened::Dropped(reason) => {
                    self.session.count_drop(reason);
                    is_bad = true;
                    continue;
                }
            };
            let Some((kind, payload)) = plaintext.split_first_mut() else { continue };
            match self.session.decapsulate(Channel::Datagram, FrameKind::from_byte(*kind), payload, now) {
                Inbound::Packet(packet) => {
                    if let Err(reason) = bench.egress.send(packet, now) {
                        self.session.count_drop(reason);
                    }
                }
                Inbound::Handled | Inbound::Dropped(_) => {}
            }
        }
        if is_bad && leg.is_noisy(now) {
            context.apart.ask(path);
        }
    }

    /// Sends what the datagram leg wants sent, and tells the session what became of the channel.
    fn drain_leg(&mut self, context: &WorkerContext) {
        let Some(leg) = &mut self.leg else { return };
        let bench = &context.bench;
        match leg.drain(&mut bench.control.borrow_mut(), &mut bench.outlet.borrow_mut()) {
            Some(Change::Opened(suite)) => {
                tracing::debug!(session = %self.session.id(), suite = suite.name(), "datagram channel open");
                self.session.handle_datagram_open();
                self.live.set_datagram(Some(suite.name()));
            }
            Some(Change::Closed) => {
                tracing::debug!(session = %self.session.id(), "datagram channel closed");
                self.session.handle_datagram_closed();
                self.live.set_datagram(None);
            }
            Some(Change::Moved { from, to }) => {
                // One of the four audit lines (login, open, roam, close).
                tracing::info!(session = %self.session.id(), %from, %to, "roam");
            }
            None => {}
        }
    }

    /// Tells the sender of a packet that does not fit which size would.
    fn answer_too_big(&self, original: &[u8], bench: &Bench) {
        let mut answer = bench.control.borrow_mut();
        let is_v4 = original.first().is_some_and(|byte| byte >> 4 == 4);
        let Some(&from) = bench.own_addresses.iter().find(|address| address.is_ipv4() == is_v4) else {
            return;
        };
        if packet::too_big(original, self.session.mtu(), from, &mut answer) {
            bench.egress.answer(answer.as_slice());
        }
    }

    /// Counts the packets that the egress had taken and then could not pass on.
    fn count_refused(&mut self, bench: &Bench) {
        let refused = bench.egress.take_refused(self.session.leases());
        self.session.counters_mut().drops.add(DropReason::EgressRefused, refused);
    }

    /// Sends what is sealed and, while the socket takes it, what waits; for whoever has sent or received.
    pub(crate) fn flush(&mut self, bench: &Bench, now: Instant) {
        self.count_refused(bench);
        self.flush_channels(bench, now);
        let is_earlier = match (self.deadline(), self.armed) {
            (Some(wanted), Some(armed)) => wanted < armed,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if is_earlier || self.session.state() != SessionState::Open {
            self.wake();
        }
    }

    fn flush_channels(&mut self, bench: &Bench, now: Instant) {
        if self.session.channel() == Channel::Datagram {
            // What waited for the stream need not wait any longer.
            while self.seal_queued(bench, now) {}
            self.waiting.drain(..).for_each(Waker::wake);
        }
        self.flush_records(bench, now);
        self.live.publish(self.session.counters(), self.session.channel(), now);
    }

    fn flush_records(&mut self, bench: &Bench, now: Instant) {
        loop {
            match self.records.flush() {
                Ok(Flushed::All) => {
                    // What the session owes was held back meanwhile; another turn sends it.
                    if std::mem::replace(&mut self.blocked, false) {
                        self.wake();
                    }
                    if self.queue.is_empty() {
                        self.waiting.drain(..).for_each(Waker::wake);
                    }
                    self.session.handle_stream_progress(Waiting::Nothing, now);
                }
                Ok(Flushed::Blocked { progress }) => {
                    match (progress, self.blocked) {
                        (true, _) => self.session.handle_stream_progress(Waiting::More, now),
                        (false, false) => self.session.handle_stream_blocked(now),
                        (false, true) => {}
                    }
                    // Once: the task registers with the socket and re-arms its timer. Waking it every time
                    // would keep it busy for as long as the client does not read (R60).
                    if !std::mem::replace(&mut self.blocked, true) {
                        self.wake();
                    }
                    return;
                }
                Err(_) => {
                    self.failed = true;
                    self.wake();
                    return;
                }
            }
            if !self.seal_queued(bench, now) {
                return;
            }
        }
    }

    /// Seals a burst of queued packets; `false` when none waited.
    fn seal_queued(&mut self, bench: &Bench, now: Instant) -> bool {
        let mut sealed = false;
        for _ in 0..PACKETS_PER_FLUSH {
            let drops = &mut self.session.counters_mut().drops;
            let Some(mut packet) = self.queue.pop(drops, |buffer| bench.buffers.give(buffer), now) else {
                break;
            };
            self.seal(&mut packet, bench, now);
            bench.buffers.give(packet);
            sealed = true;
        }
        sealed
    }

    /// Whether a packet that is sent now goes out at once.
    pub(crate) fn has_room(&self) -> bool {
        self.session.channel() == Channel::Datagram || !self.blocked && self.queue.is_empty()
    }

    /// Waits for [`Tunnel::has_room`].
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.has_room() {
            return Poll::Ready(());
        }
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            // Those who are gone drop out, and the others come again.
            if self.waiting.len() >= MAX_WAITING {
                self.waiting.drain(..).for_each(Waker::wake);
            }
            self.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// The longest packet for the client, in bytes.
    pub(crate) fn mtu(&self) -> usize {
        self.session.mtu().into()
    }

    /// Counts a drop of a packet of this session.
    pub(crate) fn count_drop(&mut self, reason: DropReason) {
        self.session.count_drop(reason);
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// One turn of the drive loop: inputs, then outputs in the order transmit, event.
    ///
    /// The caller re-arms its timer from [`Tunnel::arm`] when it waits for the next turn.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, context: &WorkerContext, now: Instant) -> Poll<Turn> {
        let bench = &context.bench;
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        if let Some(reason) = self.live.poll_close(cx.waker()) {
            self.session.close(reason);
        }
        self.session.handle_timeout(now);
        if let Some(leg) = &mut self.leg {
            leg.handle_timeout(now);
            self.drain_leg(context);
        }
        let mut is_cut_short = false;
        if self.session.state() == SessionState::Open {
            is_cut_short = self.poll_frames(cx, bench, now);
            bench.egress.flush();
            self.count_refused(bench);
        }
        self.transmit_control(bench);
        if self.failed {
            self.session.handle_stream_closed();
        }
        self.flush_channels(bench, now);
        if self.failed {
            self.session.handle_stream_closed();
        }
        bench.outlet.borrow_mut().flush();
        if let Some(SessionEvent::Closed { reason }) = self.session.poll_event() {
            return Poll::Ready(Turn::Closed(reason));
        }
        if let Some(worker) = self.moves_to.take()
            && self.session.state() == SessionState::Open
        {
            return Poll::Ready(Turn::Moves(worker));
        }
        if is_cut_short {
            return Poll::Ready(Turn::CutShort);
        }
        // Readiness that is there already means another turn; registering is what matters else.
        if self.blocked && self.records.poll_writable(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Takes frames in; whether it stopped with more to read, for which no waker is registered.
    fn poll_frames(&mut self, cx: &mut Context<'_>, bench: &Bench, now: Instant) -> bool {
        let (mut buffer, mut wire) = (bench.read.borrow_mut(), bench.wire.borrow_mut());
        let mut reads = 0;
        loop {
            if reads == READS_PER_TURN || reads > 0 && now.elapsed() >= TURN {
                return true;
            }
            reads += 1;
            let kept = self.remainder.take_into(&mut buffer);
            // The first turn also looks at what came behind the CONNECT request.
            let (read, waits) = match self.records.poll_read(cx, &mut wire, &mut buffer[kept..]) {
                Poll::Pending => (0, true),
                Poll::Ready(Ok(Arrived::Bytes(read))) => (read, false),
                Poll::Ready(Ok(Arrived::End) | Err(_)) => {
                    self.session.handle_stream_closed();
                    return false;
                }
            };
            let mut frames = Frames::new(&mut buffer[..kept + read]);
            loop {
                match frames.take_next() {
                    Ok(Some(frame)) => {
                        let taken = self.session.decapsulate(Channel::Stream, frame.kind, frame.payload, now);
                        match taken {
                            Inbound::Packet(packet) => {
                                if let Err(reason) = bench.egress.send(packet, now) {
                                    self.session.count_drop(reason);
                                }
                            }
                            Inbound::Handled | Inbound::Dropped(_) => {}
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(session = %self.session.id(), %error, "bad frame");
                        self.session.close(CloseReason::ProtocolError);
                        return false;
                    }
                }
            }
            self.remainder.keep(frames.rest());
            // Once for all that one read has brought: of a flood of questions the session answers the first.
            self.transmit_control(bench);
            if waits || self.session.state() != SessionState::Open {
                return false;
            }
        }
    }

    /// Seals the session's control frames; while the socket is blocked only those for datagrams and a farewell,
    /// so that a client that asks without reading makes nothing grow.
    fn transmit_control(&mut self, bench: &Bench) {
        let mut control = bench.control.borrow_mut();
        if self.blocked && self.session.state() == SessionState::Open {
            while self.session.poll_datagram(&mut control) {
                self.put(Channel::Datagram, control.as_slice(), bench);
            }
            return;
        }
        while let Some(channel) = self.session.poll_transmit(&mut control) {
            self.put(channel, control.as_slice(), bench);
        }
    }

    /// When the tunnel next wants a turn.
    fn deadline(&self) -> Option<Instant> {
        let session = self.session.poll_timeout().map(|deadline| deadline.at);
        let leg = self.leg.as_ref().and_then(DatagramLeg::deadline);
        session.into_iter().chain(leg).min()
    }

    /// [`Tunnel::deadline`], for the caller to arm its timer with: what changes it from outside of
    /// [`Tunnel::poll`] wakes the caller.
    pub(crate) fn arm(&mut self) -> Option<Instant> {
        self.armed = self.deadline();
        self.armed
    }

    /// Ends the TLS connection; the remaining bytes are offered to the socket once.
    pub(crate) fn finish(&mut self, bench: &Bench) -> mstunnel_proto::session::SessionCounters {
        if let Some(mut leg) = self.leg.take() {
            leg.close(&mut bench.control.borrow_mut(), &mut bench.outlet.borrow_mut());
        }
        self.records.close_notify();
        let _: io::Result<Flushed> = self.records.flush();
        let buffers = &bench.buffers;
        let now = Instant::now();
        let drops = &mut self.session.counters_mut().drops;
        while let Some(packet) = self.queue.pop(drops, |buffer| buffers.give(buffer), now) {
            drops.count(DropReason::SessionClosed);
            buffers.give(packet);
        }
        self.live.publish(self.session.counters(), Channel::Stream, now);
        self.session.counters().clone()
    }
}

#[cfg(test)]
mod tests;
