//! One live tunnel on its worker: the drive loop that joins a session, its TLS records and the TUN.
//!
//! ```text
//!   socket -> records -> frames -> session -> TUN            (task of the connection)
//!   TUN -> session -> records -> socket                      (task of the TUN queue, same thread)
//! ```
//!
//! Packets for the client go straight into records while the socket takes them; else they wait in a
//! bounded queue that drops from its front.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::close::CloseReason;
use mstunnel_proto::drop::DropReason;
use mstunnel_proto::frame::{Frames, MAX_FRAME, Remainder};
use mstunnel_proto::packet;
use mstunnel_proto::session::{Channel, Inbound, PacketQueue, Session, SessionEvent, SessionState, Waiting};

use super::buffers::Buffers;
use super::live::Live;
use super::records::{Flushed, Records};
use crate::egress::AsyncTunQueue;

/// Bytes of a read buffer: what is left of a frame, and a few full TLS records behind it.
pub(crate) const READ_BUFFER: usize = MAX_FRAME + 4 * 16_384;

/// Reads of one turn before other tasks of the worker get theirs (R57).
const READS_PER_TURN: usize = 8;

/// Queued packets that are sealed before a flush, so that records never pile up unbounded.
const PACKETS_PER_FLUSH: usize = 64;

/// What tunnels of one worker share: buffers for the moment, never across an await.
pub(crate) struct Bench {
    pub(crate) read: RefCell<Box<[u8]>>,
    pub(crate) control: RefCell<PacketBuf>,
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) tun: Rc<AsyncTunQueue>,
    /// The sources of ICMP errors that the server makes, IPv4 and IPv6.
    pub(crate) own_addresses: Vec<std::net::IpAddr>,
}

/// One live tunnel.
pub(crate) struct Tunnel {
    session: Session,
    records: Records,
    remainder: Remainder,
    queue: PacketQueue,
    blocked: bool,
    failed: bool,
    waker: Option<Waker>,
    live: Arc<Live>,
}

impl Tunnel {
    /// Joins the parts; `rest` is what came behind the CONNECT request.
    pub(crate) fn new(session: Session, records: Records, rest: &[u8], live: Arc<Live>) -> Self {
        let mut remainder = Remainder::default();
        remainder.keep(rest);
        Self {
            session,
            records,
            remainder,
            queue: PacketQueue::default(),
            blocked: false,
            failed: false,
            waker: None,
            live,
        }
    }

    /// Takes in a packet from the network for this client; call [`Tunnel::flush`] after a burst.
    ///
    /// The buffer's contents are used up; when the packet has to wait, `packet` is replaced.
    pub(crate) fn send(&mut self, packet: &mut PacketBuf, bench: &Bench, now: Instant) {
        if self.blocked || !self.queue.is_empty() {
            let waiting = std::mem::replace(packet, bench.buffers.take());
            let drops = &mut self.session.counters_mut().drops;
            self.queue.push(waiting, drops, |buffer| bench.buffers.give(buffer), now);
            return;
        }
        self.seal(packet, bench, now);
    }

    fn seal(&mut self, packet: &mut PacketBuf, bench: &Bench, now: Instant) {
        match self.session.encapsulate(packet, now) {
            Ok(Channel::Stream | Channel::Datagram) => {
                if self.records.write_frame(packet.as_slice()).is_err() {
                    self.failed = true;
                }
            }
            Err(DropReason::TooBig) => self.answer_too_big(packet.as_slice(), bench),
            Err(_) => {}
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
            // A TUN that takes no packet loses an ICMP error; the sender will ask again.
            let _ = bench.tun.try_send(answer.as_slice());
        }
    }

    /// Sends what is sealed and, while the socket takes it, what waits.
    pub(crate) fn flush(&mut self, bench: &Bench, now: Instant) {
        self.flush_records(bench, now);
        self.live.publish(self.session.counters(), now);
    }

    fn flush_records(&mut self, bench: &Bench, now: Instant) {
        loop {
            match self.records.flush() {
                Ok(Flushed::All) => {
                    // What the session owes was held back meanwhile; another turn sends it.
                    if std::mem::replace(&mut self.blocked, false) {
                        self.wake();
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

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }

    /// One turn of the drive loop: inputs, then outputs in the order transmit, event.
    ///
    /// The caller re-arms its timer from [`Tunnel::deadline`] after every turn.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, bench: &Bench, now: Instant) -> Poll<CloseReason> {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        if let Some(reason) = self.live.poll_close(cx.waker()) {
            self.session.close(reason);
        }
        self.session.handle_timeout(now);
        if self.session.state() == SessionState::Open {
            self.poll_frames(cx, bench, now);
        }
        self.transmit_control(bench);
        if self.failed {
            self.session.handle_stream_closed();
        }
        self.flush(bench, now);
        if self.failed {
            self.session.handle_stream_closed();
        }
        if let Some(SessionEvent::Closed { reason }) = self.session.poll_event() {
            return Poll::Ready(reason);
        }
        // Readiness that is there already means another turn; registering is what matters else.
        if self.blocked && self.records.poll_writable(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn poll_frames(&mut self, cx: &mut Context<'_>, bench: &Bench, now: Instant) {
        let mut buffer = bench.read.borrow_mut();
        for turn in 0.. {
            if turn == READS_PER_TURN {
                cx.waker().wake_by_ref();
                return;
            }
            let kept = self.remainder.take_into(&mut buffer);
            // The first turn also looks at what came behind the CONNECT request.
            let read = match self.records.poll_read(cx, &mut buffer[kept..]) {
                Poll::Pending => 0,
                Poll::Ready(Ok(read)) if read > 0 => read,
                Poll::Ready(Ok(_) | Err(_)) => {
                    self.session.handle_stream_closed();
                    return;
                }
            };
            let mut frames = Frames::new(&mut buffer[..kept + read]);
            loop {
                match frames.take_next() {
                    Ok(Some(frame)) => {
                        let taken = self.session.decapsulate(Channel::Stream, frame.kind, frame.payload, now);
                        match taken {
                            Inbound::Packet(packet) => {
                                if bench.tun.try_send(packet).is_err() {
                                    self.session.count_drop(DropReason::EgressRefused);
                                }
                            }
                            Inbound::Handled => self.transmit_control(bench),
                            Inbound::Dropped(_) => {}
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::debug!(session = %self.session.id(), %error, "bad frame");
                        self.session.close(CloseReason::ProtocolError);
                        return;
                    }
                }
            }
            self.remainder.keep(frames.rest());
            if read == 0 || self.session.state() != SessionState::Open {
                return;
            }
        }
    }

    /// Seals the session's control frames; while the socket is blocked only a farewell, so that a
    /// client that asks without reading makes nothing grow.
    fn transmit_control(&mut self, bench: &Bench) {
        if self.blocked && self.session.state() == SessionState::Open {
            return;
        }
        let mut control = bench.control.borrow_mut();
        while self.session.poll_transmit(&mut control).is_some() {
            if self.records.write_frame(control.as_slice()).is_err() {
                self.failed = true;
            }
        }
    }

    /// When the session next wants a turn.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.session.poll_timeout().map(|deadline| deadline.at)
    }

    /// Ends the TLS connection; the remaining bytes are offered to the socket once.
    pub(crate) fn finish(&mut self, bench: &Bench) -> mstunnel_proto::session::SessionCounters {
        self.records.close_notify();
        let _: io::Result<Flushed> = self.records.flush();
        let buffers = &bench.buffers;
        let now = Instant::now();
        let drops = &mut self.session.counters_mut().drops;
        while let Some(packet) = self.queue.pop(drops, |buffer| buffers.give(buffer), now) {
            drops.count(DropReason::SessionClosed);
            buffers.give(packet);
        }
        self.live.publish(self.session.counters(), now);
        self.session.counters().clone()
    }
}
