//! The server's end of one live connection: packets in and out, liveness, time-outs, the end.
//!
//! A session outlives its connections; what outlives them (cookie, lease, limits) is kept by
//! [`Registry`](super::Registry). A [`Session`] is what one connection needs on its worker.
//!
//! ```text
//!   TUN  -> encapsulate -> stream channel        stream channel -> decapsulate -> Inbound::Packet -> TUN
//!                                                                            \-> Inbound::Handled: drain
//! ```
//!
//! Limits: [`MAX_OWED_RESPONSES`] DPD answers of [`MAX_OWED_BYTES`] wait at most; further requests are dropped and counted.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::access::Access;
use super::liveness::{Liveness, Pulse};
use super::path::DatagramPath;
use super::state::{Cue, SessionState};
use super::{Channel, Inbound, Leases, SessionCounters, SessionId, take_datagram};
use crate::buf::PacketBuf;
use crate::close::CloseReason;
use crate::drop::DropReason;
use crate::frame::FrameKind;
use crate::packet::{self, Packet};
use crate::timer::{Deadline, TimerKey, Timers};

/// DPD answers that may wait for a client that asks but does not read: one request in flight is the
/// protocol, the others are patience.
pub const MAX_OWED_RESPONSES: usize = 32;

/// The bytes of these answers together: a few of the largest, all of the usual ones.
pub const MAX_OWED_BYTES: usize = 64 * 1024;

/// A client that takes no byte for this long while bytes wait is closed (R55).
pub const STALL_LIMIT: Duration = Duration::from_secs(60);

/// First payload byte of a DISCONNECT that ends the session for good.
const BYE: u8 = 0xB0;

/// What is the same for every session of a configuration.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// The advertised DPD interval; `None` asks never.
    pub dpd: Option<Duration>,
    /// No data packets for so long ends the session; `None` never.
    pub idle_timeout: Option<Duration>,
    /// What sessions may reach.
    pub access: Access,
}

/// What one connection of a session was given at CONNECT.
#[derive(Clone, Debug)]
pub struct SessionParams {
    /// Which session.
    pub id: SessionId,
    /// Its addresses.
    pub leases: Leases,
    /// The longest packet that is sent to the client, in bytes.
    pub mtu: u16,
    /// When the session timeout strikes, counted from authentication; `None` never.
    pub ends_at: Option<Instant>,
}

/// The timers of a [`Session`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionTimer {
    /// Ask the client, or give it up.
    Dpd,
    /// No packets.
    Idle,
    /// Total age since authentication.
    SessionEnd,
    /// The client reads nothing.
    Stall,
    /// Ask on the datagram channel, or doubt it.
    DatagramPath,
}

impl TimerKey for SessionTimer {
    const ALL: &'static [Self] = &[Self::Dpd, Self::Idle, Self::SessionEnd, Self::Stall, Self::DatagramPath];

    fn index(self) -> usize {
        self as usize
    }
}

/// What a [`Session`] tells its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    /// The connection is over; said exactly once, after everything to transmit was taken.
    Closed {
        /// Why.
        reason: CloseReason,
    },
}

/// One live connection of one session.
pub struct Session {
    config: Arc<SessionConfig>,
    params: SessionParams,
    state: SessionState,
    reason: Option<CloseReason>,
    liveness: Option<Liveness>,
    last_active: Instant,
    timers: Timers<SessionTimer, 5>,
    path: DatagramPath,
    ask: bool,
    ask_datagram: bool,
    owed: VecDeque<(Channel, Box<[u8]>)>,
    counters: SessionCounters,
}

impl Session {
    /// Opens the connection: the CONNECT was accepted at `now`.
    pub fn new(config: Arc<SessionConfig>, params: SessionParams, now: Instant) -> Self {
        let liveness = config.dpd.map(|dpd| Liveness::server(dpd, now));
        let mut timers = Timers::default();
        if let Some(liveness) = &liveness {
            timers.arm(SessionTimer::Dpd, liveness.due());
        }
        if let Some(idle) = config.idle_timeout {
            timers.arm(SessionTimer::Idle, now + idle);
        }
        if let Some(end) = params.ends_at {
            timers.arm(SessionTimer::SessionEnd, end);
        }
        Self {
            config,
            params,
            state: SessionState::Open,
            reason: None,
            liveness,
            last_active: now,
            timers,
            path: DatagramPath::default(),
            ask: false,
            ask_datagram: false,
            owed: VecDeque::new(),
            counters: SessionCounters::default(),
        }
    }

    /// Makes the IP packet in `buf` a frame for the client, in place.
    ///
    /// # Errors
    /// The reason for which the packet is dropped, already counted. On [`DropReason::TooBig`] the
    /// caller answers the sender with [`crate::packet::too_big`].
    pub fn encapsulate(&mut self, buf: &mut PacketBuf, now: Instant) -> Result<Channel, DropReason> {
        if self.state != SessionState::Open {
            return Err(self.drop(DropReason::SessionClosed));
        }
        if buf.len() > usize::from(self.params.mtu) {
            return Err(self.drop(DropReason::TooBig));
        }
        let Ok(view) = Packet::parse(buf.as_slice()) else {
            return Err(self.drop(DropReason::Malformed));
        };
        self.note_activity(&view, now);
        packet::clamp_mss(buf.as_mut_slice(), self.params.mtu);
        self.counters.packets_out += 1;
        self.counters.bytes_out += buf.len() as u64;
        if self.path.sent(now) {
            self.arm_path();
        }
        Ok(self.channel().encapsulate(FrameKind::Data, buf))
    }

    /// Takes in one frame (or datagram record) of the client: its type and its payload.
    pub fn decapsulate<'b>(
        &mut self,
        channel: Channel,
        kind: FrameKind,
        payload: &'b mut [u8],
        now: Instant,
    ) -> Inbound<'b> {
        if self.state != SessionState::Open {
            return Inbound::Dropped(self.drop(DropReason::SessionClosed));
        }
        if let Some(liveness) = &mut self.liveness {
            liveness.heard(now);
        }
        match channel {
            Channel::Datagram if self.path.heard() => self.arm_path(),
            // The client has a datagram channel and does not trust it.
            Channel::Stream if kind == FrameKind::Data && self.path.carries() => {
                self.path.doubt(now);
                self.arm_path();
            }
            Channel::Datagram | Channel::Stream => {}
        }
        match kind {
            FrameKind::Data => self.decapsulate_packet(payload, now),
            FrameKind::DpdRequest => self.owe_response(channel, payload),
            // TERMINATE is the server's word; from a client it means nothing.
            FrameKind::DpdResponse | FrameKind::Keepalive | FrameKind::Terminate => Inbound::Handled,
            FrameKind::Disconnect => {
                self.handle_disconnect(payload);
                Inbound::Handled
            }
            FrameKind::Compressed => {
                self.drop(DropReason::NotNegotiated);
                if channel == Channel::Stream {
                    self.close(CloseReason::ProtocolError);
                }
                Inbound::Dropped(DropReason::NotNegotiated)
            }
            FrameKind::Unknown(_) => Inbound::Dropped(self.drop(DropReason::UnknownFrame)),
        }
    }

    fn decapsulate_packet<'b>(&mut self, bytes: &'b mut [u8], now: Instant) -> Inbound<'b> {
        if bytes.is_empty() {
            return Inbound::Handled;
        }
        let Ok(view) = Packet::parse(bytes) else {
            return Inbound::Dropped(self.drop(DropReason::Malformed));
        };
        let (source, destination) = (view.source(), view.destination());
        if !self.params.leases.holds(source) {
            return Inbound::Dropped(self.drop(DropReason::SourceNotLeased));
        }
        if !self.config.access.permits(destination) {
            return Inbound::Dropped(self.drop(DropReason::NotPermitted));
        }
        self.note_activity(&view, now);
        packet::clamp_mss(bytes, self.params.mtu);
        self.counters.packets_in += 1;
        self.counters.bytes_in += bytes.len() as u64;
        Inbound::Packet(bytes)
    }

    fn note_activity(&mut self, packet: &Packet<'_>, now: Instant) {
        if packet.counts_as_activity() {
            self.last_active = now;
        }
    }

    fn owe_response(&mut self, channel: Channel, payload: &[u8]) -> Inbound<'static> {
        let owed_bytes = || self.owed.iter().map(|(_, owed)| owed.len()).sum::<usize>();
        // The number first: in a flood it is what is asked for every frame.
        if self.owed.len() >= MAX_OWED_RESPONSES || owed_bytes() + payload.len() > MAX_OWED_BYTES {
            return Inbound::Dropped(self.drop(DropReason::RateLimited));
        }
        self.owed.push_back((channel, payload.into()));
        Inbound::Handled
    }

    fn handle_disconnect(&mut self, payload: &[u8]) {
        match payload.first() {
            Some(&BYE) => self.end(Cue::PeerLeft, CloseReason::UserLeft),
            None => self.end(Cue::PeerLeft, CloseReason::ClientPaused),
            Some(_) => self.end(Cue::CloseRequested, CloseReason::ProtocolError),
        }
    }

    /// Ends the connection from our side; a second close changes nothing.
    pub fn close(&mut self, reason: CloseReason) {
        self.end(Cue::CloseRequested, reason);
    }

    /// The TLS or TCP connection is gone.
    pub fn handle_stream_closed(&mut self) {
        self.end(Cue::PeerLeft, CloseReason::StreamClosed);
    }

    /// The datagram channel is up: traffic takes it from now on.
    pub fn handle_datagram_open(&mut self) {
        if self.state == SessionState::Open {
            self.path.open();
            self.arm_path();
        }
    }

    /// The datagram channel is gone: traffic takes the stream.
    pub fn handle_datagram_closed(&mut self) {
        self.path.close();
        self.ask_datagram = false;
        self.owed.retain(|(channel, _)| *channel == Channel::Stream);
        self.arm_path();
    }

    fn arm_path(&mut self) {
        match self.path.due() {
            Some(at) => self.timers.arm(SessionTimer::DatagramPath, at),
            None => self.timers.disarm(SessionTimer::DatagramPath),
        }
    }

    /// The stream channel took no byte although bytes wait. The stall limit counts from the first time.
    pub fn handle_stream_blocked(&mut self, now: Instant) {
        if self.timers.due(SessionTimer::Stall).is_none() {
            self.timers.arm(SessionTimer::Stall, now + STALL_LIMIT);
        }
    }

    /// The stream channel took bytes; `waiting` tells whether more wait.
    pub fn handle_stream_progress(&mut self, waiting: Waiting, now: Instant) {
        match waiting {
            Waiting::Nothing => self.timers.disarm(SessionTimer::Stall),
            Waiting::More => self.timers.arm(SessionTimer::Stall, now + STALL_LIMIT),
        }
    }

    /// Acts on every timer that is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                SessionTimer::Dpd => self.check_liveness(now),
                SessionTimer::Idle => self.check_idle(now),
                SessionTimer::SessionEnd => self.end(Cue::CloseRequested, CloseReason::SessionTimeout),
                SessionTimer::Stall => self.end(Cue::PeerLeft, CloseReason::Stalled),
                SessionTimer::DatagramPath => {
                    self.ask_datagram |= self.path.check(now);
                    self.arm_path();
                }
            }
        }
    }

    fn check_liveness(&mut self, now: Instant) {
        let Some(liveness) = &mut self.liveness else {
            return;
        };
        let pulse = liveness.check(now);
        let next = liveness.due();
        match pulse {
            Pulse::Dead => self.end(Cue::DpdExpired, CloseReason::DpdTimeout),
            Pulse::Ask => {
                self.ask = true;
                self.timers.arm(SessionTimer::Dpd, next);
            }
            Pulse::Quiet => self.timers.arm(SessionTimer::Dpd, next),
        }
    }

    fn check_idle(&mut self, now: Instant) {
        let Some(idle) = self.config.idle_timeout else {
            return;
        };
        let due = self.last_active + idle;
        if now >= due {
            self.end(Cue::CloseRequested, CloseReason::IdleTimeout);
        } else {
            self.timers.arm(SessionTimer::Idle, due);
        }
    }

    fn end(&mut self, cue: Cue, reason: CloseReason) {
        let Some(next) = self.state.next(cue) else {
            return;
        };
        self.state = next;
        let stall = self.timers.due(SessionTimer::Stall);
        self.timers = Timers::default();
        self.path.close();
        self.ask = false;
        self.ask_datagram = false;
        self.owed.clear();
        // A peer that leaves while a DISCONNECT waits changes the state, not the reason.
        self.reason.get_or_insert(reason);
        if next == SessionState::Closing && !reason.sends_disconnect() {
            self.state = SessionState::Closed;
        }
        // Who does not read does not hold the farewell up for ever.
        if self.state == SessionState::Closing
            && let Some(at) = stall
        {
            self.timers.arm(SessionTimer::Stall, at);
        }
    }

    /// Takes one control frame to be sent, whole, on the returned channel.
    ///
    /// DPD answers carry the payload that was asked (R5); a DISCONNECT is the last frame.
    pub fn poll_transmit(&mut self, out: &mut PacketBuf) -> Option<Channel> {
        out.clear();
        match self.state {
            SessionState::Open => {
                if let Some((channel, payload)) = self.owed.pop_front() {
                    out.fill(&payload);
                    Some(channel.encapsulate(FrameKind::DpdResponse, out))
                } else if std::mem::take(&mut self.ask_datagram) {
                    Some(Channel::Datagram.encapsulate(FrameKind::DpdRequest, out))
                } else if std::mem::take(&mut self.ask) {
                    Some(Channel::Stream.encapsulate(FrameKind::DpdRequest, out))
                } else {
                    None
                }
            }
            SessionState::Closing => {
                self.state = self.state.next(Cue::Flushed).expect("closing can be flushed");
                self.timers = Timers::default();
                Some(Channel::Stream.encapsulate(FrameKind::Disconnect, out))
            }
            SessionState::Closed => None,
        }
    }

    /// As [`Session::poll_transmit`], but only what travels as a datagram: for a caller whose stream is blocked.
    pub fn poll_datagram(&mut self, out: &mut PacketBuf) -> bool {
        out.clear();
        self.state == SessionState::Open && take_datagram(&mut self.owed, &mut self.ask_datagram, out)
    }

    /// Takes what happened; [`SessionEvent::Closed`] comes once, after the last transmit was taken.
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        if self.state != SessionState::Closed {
            return None;
        }
        let reason = self.reason.take()?;
        Some(SessionEvent::Closed { reason })
    }

    /// When [`Session::handle_timeout`] is wanted, and for which timer.
    pub fn poll_timeout(&self) -> Option<Deadline<SessionTimer>> {
        self.timers.next()
    }

    /// Counts a drop that happened outside, for packets of this session.
    pub fn count_drop(&mut self, reason: DropReason) {
        self.drop(reason);
    }

    fn drop(&mut self, reason: DropReason) -> DropReason {
        self.counters.drops.count(reason);
        reason
    }

    /// Which session this connection belongs to.
    pub fn id(&self) -> SessionId {
        self.params.id
    }

    /// The longest packet sent to the client, in bytes.
    pub fn mtu(&self) -> u16 {
        self.params.mtu
    }

    /// The channel that a packet for the client would take now.
    pub fn channel(&self) -> Channel {
        if self.path.carries() { Channel::Datagram } else { Channel::Stream }
    }

    /// The addresses of the session.
    pub fn leases(&self) -> &Leases {
        &self.params.leases
    }

    /// Where the connection stands.
    pub fn state(&self) -> SessionState {
        self.state
    }

    /// What passed and what was dropped on this connection.
    pub fn counters(&self) -> &SessionCounters {
        &self.counters
    }

    /// The counters, for the drops that the caller's queues count.
    pub fn counters_mut(&mut self) -> &mut SessionCounters {
        &mut self.counters
    }

    /// Whether `address` is one of the session's own.
    pub fn holds(&self, address: IpAddr) -> bool {
        self.params.leases.holds(address)
    }
}

/// Whether bytes are left to be sent after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// All was taken.
    Nothing,
    /// Some wait for the socket.
    More,
}
