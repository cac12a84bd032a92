//! The client's end of one live connection, and when it comes back after losing one.
//!
//! ```text
//!   Live --(DISCONNECT, TERMINATE)----------------> Ended        never reconnects
//!   Live --(EOF, DPD death, rekey new-tunnel)-----> Lost         reconnects with the same cookie
//!   Live --(leave)--> BYE 0xB0 sent --------------> Ended
//! ```
//!
//! # Source
//! protocol.md 4.4 to 4.6 and 8.1; statements 36, 37, 40, 43, 45.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::liveness::{Liveness, Pulse};
use super::path::DatagramPath;
use super::server::MAX_OWED_RESPONSES;
use super::{Channel, Inbound, Leases, SessionCounters, take_datagram};
use crate::buf::PacketBuf;
use crate::drop::DropReason;
use crate::frame::FrameKind;
use crate::mix::mixed;
use crate::packet::Packet;
use crate::timer::{Deadline, TimerKey, Timers};

/// The most bytes of text that follow the code in a BYE.
pub const MAX_BYE_TEXT: usize = 64;

/// What the server said at CONNECT, as far as the connection's life goes.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// The DPD interval.
    pub dpd: Option<Duration>,
    /// A keepalive after so long without a packet on the stream.
    pub keepalive: Option<Duration>,
    /// A new connection after so long (rekey `new-tunnel`).
    pub rekey: Option<Duration>,
    /// The longest packet sent, in bytes.
    pub mtu: u16,
    /// Our addresses.
    pub leases: Leases,
}

/// The timers of a [`ClientSession`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientTimer {
    /// Ask the server, or give it up.
    Dpd,
    /// Nothing was sent.
    Keepalive,
    /// The keys are old.
    Rekey,
    /// Ask on the datagram channel, or doubt it.
    DatagramPath,
}

impl TimerKey for ClientTimer {
    const ALL: &'static [Self] = &[Self::Dpd, Self::Keepalive, Self::Rekey, Self::DatagramPath];

    fn index(self) -> usize {
        self as usize
    }
}

/// How a client's connection ended; said once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientEvent {
    /// For good: the server said so, or we left.
    Ended,
    /// Lost, or due for new keys: connect again with the same cookie.
    Lost,
    /// The server broke the framing: for good.
    ServerFault,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Live,
    Leaving,
    Over(ClientEvent),
    Told,
}

/// One live connection of a client.
pub struct ClientSession {
    config: ClientConfig,
    state: State,
    /// Of the stream.
    liveness: Option<Liveness>,
    datagram_heard: Option<Instant>,
    /// By the stream.
    last_sent: Instant,
    timers: Timers<ClientTimer, 4>,
    path: DatagramPath,
    ask: bool,
    ask_datagram: bool,
    keep: bool,
    owed: VecDeque<(Channel, Box<[u8]>)>,
    bye: Vec<u8>,
    left: bool,
    counters: SessionCounters,
}

impl ClientSession {
    /// The CONNECT was accepted at `now`.
    pub fn new(config: ClientConfig, now: Instant) -> Self {
        let liveness = config.dpd.map(|dpd| Liveness::client(dpd, now));
        let mut timers = Timers::default();
        if let Some(liveness) = &liveness {
            timers.arm(ClientTimer::Dpd, liveness.due());
        }
        if let Some(keepalive) = config.keepalive {
            timers.arm(ClientTimer::Keepalive, now + keepalive);
        }
        if let Some(rekey) = config.rekey {
            timers.arm(ClientTimer::Rekey, now + rekey);
        }
        Self {
            config,
            state: State::Live,
            liveness,
            datagram_heard: None,
            last_sent: now,
            timers,
            path: DatagramPath::default(),
            ask: false,
            ask_datagram: false,
            keep: false,
            owed: VecDeque::new(),
            bye: Vec::new(),
            left: false,
            counters: SessionCounters::default(),
        }
    }

    /// Makes `packet` a frame for the server, in place.
    ///
    /// # Errors
    /// The reason for which the packet is dropped, already counted.
    pub fn encapsulate(&mut self, packet: &mut PacketBuf, now: Instant) -> Result<Channel, DropReason> {
        if self.state != State::Live {
            return Err(self.drop(DropReason::SessionClosed));
        }
        if packet.len() > usize::from(self.config.mtu) {
            return Err(self.drop(DropReason::TooBig));
        }
        let Ok(view) = Packet::parse(packet.as_slice()) else {
            return Err(self.drop(DropReason::Malformed));
        };
        if !self.config.leases.holds(view.source()) {
            return Err(self.drop(DropReason::SourceNotLeased));
        }
        let channel = self.channel();
        // A busy datagram channel must not let the stream go silent: the way there is another one.
        if channel == Channel::Stream {
            self.last_sent = now;
        }
        self.counters.packets_out += 1;
        self.counters.bytes_out += packet.len() as u64;
        if self.path.sent(now) {
            self.arm_path();
        }
        Ok(channel.encapsulate(FrameKind::Data, packet))
    }

    /// Takes in one frame (or datagram record) of the server: its type and its payload.
    pub fn decapsulate<'b>(
        &mut self,
        channel: Channel,
        kind: FrameKind,
        payload: &'b mut [u8],
        now: Instant,
    ) -> Inbound<'b> {
        if self.state != State::Live {
            return Inbound::Dropped(self.drop(DropReason::SessionClosed));
        }
        match (channel, &mut self.liveness) {
            (Channel::Stream, Some(liveness)) => liveness.heard(now),
            (Channel::Stream, None) => {}
            (Channel::Datagram, _) => {
                self.datagram_heard = Some(now);
                if self.path.heard() {
                    self.arm_path();
                }
            }
        }
        match kind {
            FrameKind::Data if payload.is_empty() => Inbound::Handled,
            FrameKind::Data => {
                let Ok(view) = Packet::parse(payload) else {
                    return Inbound::Dropped(self.drop(DropReason::Malformed));
                };
                if !self.config.leases.holds(view.destination()) && !view.is_multicast() {
                    return Inbound::Dropped(self.drop(DropReason::NotPermitted));
                }
                self.counters.packets_in += 1;
                self.counters.bytes_in += payload.len() as u64;
                Inbound::Packet(payload)
            }
            FrameKind::DpdRequest if self.owed.len() >= MAX_OWED_RESPONSES => {
                Inbound::Dropped(self.drop(DropReason::RateLimited))
            }
            FrameKind::DpdRequest => {
                self.owed.push_back((channel, (&*payload).into()));
                Inbound::Handled
            }
            FrameKind::DpdResponse | FrameKind::Keepalive => Inbound::Handled,
            FrameKind::Disconnect | FrameKind::Terminate => {
                self.end(ClientEvent::Ended);
                Inbound::Handled
            }
            FrameKind::Compressed => {
                let reason = self.drop(DropReason::NotNegotiated);
                self.end(ClientEvent::ServerFault);
                Inbound::Dropped(reason)
            }
            FrameKind::Unknown(_) => Inbound::Dropped(self.drop(DropReason::UnknownFrame)),
        }
    }

    /// The user leaves: a BYE that ends session and cookie is sent, `why` cut to [`MAX_BYE_TEXT`].
    ///
    /// Not to be called by a client that plans to come back (statement 40).
    pub fn leave(&mut self, why: &str) {
        if self.state == State::Live {
            self.bye = why.bytes().filter(|byte| (b' '..=b'~').contains(byte)).take(MAX_BYE_TEXT).collect();
            self.timers = Timers::default();
            self.state = State::Leaving;
            self.left = true;
        }
    }

    /// The TLS or TCP connection is gone.
    pub fn handle_stream_closed(&mut self) {
        match self.state {
            State::Live => self.end(ClientEvent::Lost),
            State::Leaving => self.end(ClientEvent::Ended),
            State::Over(_) | State::Told => {}
        }
    }

    /// The datagram channel is up: packets take it from now on.
    pub fn handle_datagram_open(&mut self) {
        if self.state == State::Live {
            self.path.open();
            self.arm_path();
        }
    }

    /// The datagram channel is gone: packets take the stream.
    pub fn handle_datagram_closed(&mut self) {
        self.path.close();
        self.ask_datagram = false;
        self.owed.retain(|(channel, _)| *channel == Channel::Stream);
        self.arm_path();
    }

    fn arm_path(&mut self) {
        match self.path.due() {
            Some(at) => self.timers.arm(ClientTimer::DatagramPath, at),
            None => self.timers.disarm(ClientTimer::DatagramPath),
        }
    }

    /// The path carries no packets longer than `mtu` bytes; never more than the server announced.
    pub fn limit_mtu(&mut self, mtu: u16) {
        self.config.mtu = self.config.mtu.min(mtu);
    }

    /// The bytes of the stream are not CSTP.
    pub fn handle_frame_error(&mut self) {
        self.end(ClientEvent::ServerFault);
    }

    /// Acts on every timer that is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(timer) = self.timers.take_due(now) {
            match timer {
                ClientTimer::Dpd => self.check_liveness(now),
                ClientTimer::Keepalive => self.check_keepalive(now),
                ClientTimer::Rekey => self.end(ClientEvent::Lost),
                ClientTimer::DatagramPath => {
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
            // The stream is held up, and the server is there: its datagrams say so (R8).
            Pulse::Dead if self.hears_datagrams(now) => {
                self.ask = true;
                let repeat = self.config.dpd.map_or(Duration::ZERO, |dpd| dpd / 2);
                self.timers.arm(ClientTimer::Dpd, now + repeat);
            }
            Pulse::Dead => self.end(ClientEvent::Lost),
            Pulse::Ask => {
                self.ask = true;
                self.timers.arm(ClientTimer::Dpd, next);
            }
            Pulse::Quiet => self.timers.arm(ClientTimer::Dpd, next),
        }
    }

    /// As patient as with the stream.
    fn hears_datagrams(&self, now: Instant) -> bool {
        let heard = self.datagram_heard.zip(self.config.dpd);
        heard.is_some_and(|(heard, dpd)| now < heard + 2 * dpd)
    }

    fn check_keepalive(&mut self, now: Instant) {
        let Some(keepalive) = self.config.keepalive else {
            return;
        };
        if now >= self.last_sent + keepalive {
            self.keep = true;
            self.last_sent = now;
        }
        self.timers.arm(ClientTimer::Keepalive, self.last_sent + keepalive);
    }

    fn end(&mut self, event: ClientEvent) {
        if matches!(self.state, State::Live | State::Leaving) {
            self.state = State::Over(event);
            self.timers = Timers::default();
            self.path.close();
            self.ask_datagram = false;
            self.owed.clear();
        }
    }

    /// Takes one control frame to be sent, whole.
    pub fn poll_transmit(&mut self, out: &mut PacketBuf) -> Option<Channel> {
        out.clear();
        match self.state {
            State::Live => {
                if let Some((channel, payload)) = self.owed.pop_front() {
                    out.fill(&payload);
                    Some(channel.encapsulate(FrameKind::DpdResponse, out))
                } else if std::mem::take(&mut self.ask_datagram) {
                    Some(Channel::Datagram.encapsulate(FrameKind::DpdRequest, out))
                } else if std::mem::take(&mut self.ask) {
                    Some(Channel::Stream.encapsulate(FrameKind::DpdRequest, out))
                } else if std::mem::take(&mut self.keep) {
                    Some(Channel::Stream.encapsulate(FrameKind::Keepalive, out))
                } else {
                    None
                }
            }
            State::Leaving => {
                let mut payload = vec![0xB0];
                payload.append(&mut self.bye);
                out.fill(&payload);
                self.end(ClientEvent::Ended);
                Some(Channel::Stream.encapsulate(FrameKind::Disconnect, out))
            }
            State::Over(_) | State::Told => None,
        }
    }

    /// As [`ClientSession::poll_transmit`], but only what travels as a datagram: for a caller whose stream is
    /// blocked.
    pub fn poll_datagram(&mut self, out: &mut PacketBuf) -> bool {
        out.clear();
        self.state == State::Live && take_datagram(&mut self.owed, &mut self.ask_datagram, out)
    }

    /// Takes how the connection ended, once.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        let State::Over(event) = self.state else {
            return None;
        };
        self.state = State::Told;
        Some(event)
    }

    /// When [`ClientSession::handle_timeout`] is wanted, and for which timer.
    pub fn poll_timeout(&self) -> Option<Deadline<ClientTimer>> {
        self.timers.next()
    }

    /// Whether [`ClientSession::leave`] ended it, or is about to.
    pub fn has_left(&self) -> bool {
        self.left
    }

    /// The channel that a packet would take now.
    pub fn channel(&self) -> Channel {
        if self.path.carries() { Channel::Datagram } else { Channel::Stream }
    }

    /// What passed; "out" is toward the server.
    pub fn counters(&self) -> &SessionCounters {
        &self.counters
    }

    fn drop(&mut self, reason: DropReason) -> DropReason {
        self.counters.drops.count(reason);
        reason
    }
}

/// How long a client that lost its connection waits before the next try.
///
/// | | waits |
/// | --- | --- |
/// | [`Backoff::stock`] | at once, then 10, 20, ... 100 seconds |
/// | [`Backoff::eager`] | at once, then 1, 2, 4, ... 60 seconds |
///
/// until the sum reaches the limit. Clients that lost their server at the same moment would come back at the
/// same moments too, and most find the others' queue: [`Backoff::spread`] sets them apart.
///
/// # Source
/// protocol.md 4.6 for the stock client; a restart of a server takes a second or two.
#[derive(Clone, Debug)]
pub struct Backoff {
    next: Duration,
    spent: Duration,
    limit: Duration,
    pace: Pace,
    spread: Option<Spread>,
}

#[derive(Clone, Copy, Debug)]
struct Spread {
    seed: u64,
    step: u64,
}

#[derive(Clone, Copy, Debug)]
enum Pace {
    Stock,
    Eager,
}

impl Backoff {
    /// The stock client's pace; waits at most `limit` in all (its default is 300 s).
    pub fn stock(limit: Duration) -> Self {
        Self { next: Duration::ZERO, spent: Duration::ZERO, limit, pace: Pace::Stock, spread: None }
    }

    /// Our own client's pace; waits at most `limit` in all.
    pub fn eager(limit: Duration) -> Self {
        Self { pace: Pace::Eager, ..Self::stock(limit) }
    }

    /// Makes every wait one between half and one and a half of what it would be, drawn from `seed`.
    ///
    /// Only waits that follow a failure: the first try stays at once.
    #[must_use]
    pub fn spread(self, seed: u64) -> Self {
        Self { spread: Some(Spread { seed, step: 0 }), ..self }
    }

    /// The wait before the next try; `None` when the limit is used up.
    pub fn next_wait(&mut self) -> Option<Duration> {
        let wait = self.next.mul_f64(self.draw());
        if self.spent + wait > self.limit {
            return None;
        }
        self.spent += wait;
        self.next = match self.pace {
            Pace::Stock => (self.next + Duration::from_secs(10)).min(Duration::from_secs(100)),
            Pace::Eager => (self.next * 2).clamp(Duration::from_secs(1), Duration::from_secs(60)),
        };
        Some(wait)
    }

    /// What the next wait is multiplied by.
    fn draw(&mut self) -> f64 {
        let Some(spread) = &mut self.spread else {
            return 1.0;
        };
        let drawn = u32::try_from(mixed(spread.seed, spread.step) >> 32).expect("the upper half of 64 bits");
        spread.step += 1;
        0.5 + f64::from(drawn) / f64::from(u32::MAX)
    }
}
