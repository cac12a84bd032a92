//! The datagram channel beside a link: a UDP socket, the DTLS engine, and when there is one.
//!
//! ```text
//!   Waiting --due--> Handshake --12 s, refused----------------> Waiting (60 s)
//!                        '------> Probing --nothing passes----> Waiting (60 s)
//!                                    '------> Open --silence, closed by the server--> Handshake, Waiting
//! ```
//!
//! Packets take the stream until the channel is open, so that nobody waits for it. While it is open the session
//! decides whether to trust it; a channel on which nothing was heard for twice the DPD interval is made anew from
//! another port.
//!
//! # Source
//! protocol.md 5.6 to 5.8; statements 58 to 63; R8.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use mstunnel_proto::buf::{MAX_PACKET, PacketBuf};
use mstunnel_proto::connect::{DtlsOffer, RekeyMethod};
use mstunnel_proto::dtls::{self, ClientChannel, ClientChannelEvent, Keying, Opened};
use mstunnel_proto::frame::FrameKind;
use mstunnel_proto::mtu::{self, Mtu};
use mstunnel_proto::session::{Found, MtuProbe};
use tokio::net::UdpSocket;
use zeroize::Zeroizing;

/// The wait after a channel could not be opened (statement 60).
const RETRY: Duration = Duration::from_secs(60);

/// Datagrams of one turn before others get theirs.
const DATAGRAMS_PER_TURN: usize = 64;

/// What is asked of the kernel to hold for us, in bytes: a few milliseconds of a fast link.
const SOCKET_BUFFER: usize = 2 << 20;

/// What the channel is made of; the same for every try of one connection.
pub(super) struct Plan {
    /// The key that both ends have from TLS.
    pub(super) psk: Zeroizing<[u8; 32]>,
    /// What the server offers.
    pub(super) offer: DtlsOffer,
    /// The address of the server that TLS is connected to.
    pub(super) server: IpAddr,
    /// The mark of our sockets, if they have one.
    pub(super) mark: Option<u32>,
    /// The tunnel MTU that the server announced.
    pub(super) mtu: Mtu,
    /// The link MTU that both know.
    pub(super) link: Option<Mtu>,
    /// The least that has to pass: the floor of IPv6 if the session has it.
    pub(super) floor: u16,
}

/// What became of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It carries packets of this length, in bytes.
    Opened(u16),
    /// It is gone.
    Closed,
}

/// The datagram channel of one link, there or not.
pub(super) struct Datagrams {
    plan: Plan,
    state: State,
    buffer: Box<[u8]>,
    control: PacketBuf,
    change: Option<Change>,
}

enum State {
    Waiting { until: Instant },
    Live(Box<Live>),
}

struct Live {
    socket: UdpSocket,
    /// The same socket, around the reactor: that believes it unwritable until its first turn, and the first hello
    /// would be lost.
    sender: std::net::UdpSocket,
    channel: ClientChannel,
    stage: Stage,
    heard: Instant,
    asked: Instant,
    rekey_at: Option<Instant>,
}

enum Stage {
    Handshake,
    Probing(MtuProbe),
    Open,
}

impl Datagrams {
    /// Begins with a handshake at once.
    pub(super) fn new(plan: Plan, now: Instant) -> Self {
        Self {
            plan,
            state: State::Waiting { until: now },
            buffer: vec![0; MAX_PACKET].into_boxed_slice(),
            control: PacketBuf::new(MAX_PACKET),
            change: None,
        }
    }

    /// Acts on the time.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::Waiting { until } if now < *until => return,
            State::Waiting { .. } => self.start(now),
            State::Live(live) => {
                live.channel.handle_timeout(now);
                if let Stage::Probing(probe) = &mut live.stage
                    && let Some(found) = probe.handle_timeout(now)
                {
                    self.found(found, now);
                }
                self.check_life(now);
            }
        }
        self.drain(now);
    }

    /// The next moment for [`Datagrams::handle_timeout`].
    pub(super) fn deadline(&self) -> Option<Instant> {
        let live = match &self.state {
            State::Waiting { until } => return Some(*until),
            State::Live(live) => live,
        };
        let engine = live.channel.poll_timeout().map(|deadline| deadline.at);
        let stage = match &live.stage {
            Stage::Handshake => None,
            Stage::Probing(probe) => Some(probe.poll_timeout()),
            Stage::Open => {
                let asks = self.plan.offer.dpd.map(|dpd| live.asked.max(live.heard) + dpd);
                asks.into_iter().chain(live.rekey_at).min()
            }
        };
        engine.into_iter().chain(stage).min()
    }

    /// Takes in what the socket has: the type and payload of each authentic record go to `each`. Returns whether there
    /// may be more.
    pub(super) fn receive(&mut self, now: Instant, mut each: impl FnMut(FrameKind, &mut [u8])) -> bool {
        let mut more = true;
        let mut found = None;
        for _ in 0..DATAGRAMS_PER_TURN {
            let State::Live(live) = &mut self.state else { return false };
            let len = match live.socket.try_recv(&mut self.buffer) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                // An ICMP error of the path, at most a hint: silence decides.
                Err(_) => continue,
            };
            for record in dtls::records(&mut self.buffer[..len]) {
                let Opened::Application(plaintext) = live.channel.handle_record(record, now) else {
                    continue;
                };
                live.heard = now;
                let Some((kind, payload)) = plaintext.split_first_mut() else { continue };
                let kind = FrameKind::from_byte(*kind);
                if kind == FrameKind::DpdResponse
                    && let Stage::Probing(probe) = &mut live.stage
                {
                    found = found.or(probe.handle_response(payload, now));
                }
                each(kind, payload);
            }
        }
        if let Some(found) = found {
            self.found(found, now);
        }
        self.drain(now);
        more
    }

    /// Seals `packet`, which has its type already, and sends it.
    pub(super) fn send(&mut self, packet: &mut PacketBuf) -> bool {
        let State::Live(live) = &mut self.state else { return false };
        // A full socket loses the packet as a full network would; other errors are the path's.
        live.channel.seal(packet).is_ok() && live.sender.send(packet.as_slice()).is_ok()
    }

    /// Takes what became of the channel.
    pub(super) fn take_change(&mut self) -> Option<Change> {
        self.change.take()
    }

    /// Waits until the socket has datagrams; for ever without one.
    pub(super) async fn readable(&self) {
        match &self.state {
            State::Waiting { .. } => std::future::pending().await,
            // An error shows itself in the next read.
            State::Live(live) => drop(live.socket.readable().await),
        }
    }

    /// Says goodbye on DTLS level.
    pub(super) fn close(&mut self, now: Instant) {
        if let State::Live(live) = &mut self.state {
            live.channel.close();
            self.drain(now);
        }
    }

    fn start(&mut self, now: Instant) {
        let mut entropy = [0; 32];
        let opened = rand::fill(&mut entropy)
            .map_err(|_| io::Error::other("no randomness"))
            .and_then(|()| self.plan.socket().map(|socket| (socket, entropy)));
        match opened {
            Ok(((socket, sender), entropy)) => {
                let keying = Keying::psk(*self.plan.psk);
                let channel = ClientChannel::start(keying, &self.plan.offer.app_id, &[], entropy, now);
                let stage = Stage::Handshake;
                let live = Live { socket, sender, channel, stage, heard: now, asked: now, rekey_at: None };
                self.state = State::Live(Box::new(live));
            }
            Err(error) => {
                tracing::debug!(%error, "no socket for datagrams");
                self.state = State::Waiting { until: now + RETRY };
            }
        }
    }

    /// Sends what the engine and the probe have to say, and takes what happened.
    fn drain(&mut self, now: Instant) {
        let State::Live(live) = &mut self.state else { return };
        while live.channel.poll_transmit(&mut self.control) {
            // Lost like any datagram; the engine repeats itself.
            let _ = live.sender.send(self.control.as_slice());
        }
        let mut is_over = false;
        while let Some(event) = live.channel.poll_event() {
            match event {
                ClientChannelEvent::Opened { suite } => {
                    tracing::debug!(suite = suite.name(), "datagram channel: keys agreed");
                    let (mtu, link) = (self.plan.mtu, self.plan.link);
                    let max = mtu::datagram_mtu(mtu, link, self.plan.server, suite.record_suite()).get();
                    let mut identifier = [0; 4];
                    // Any number does; a stranger's records are not authentic.
                    let _ = rand::fill(&mut identifier);
                    let identifier = u32::from_be_bytes(identifier);
                    live.stage = Stage::Probing(MtuProbe::new(max, self.plan.floor, identifier, now));
                    live.rekey_at = self.plan.rekey_after().map(|after| now + after);
                }
                ClientChannelEvent::Rekeyed { .. } => {
                    live.rekey_at = self.plan.rekey_after().map(|after| now + after);
                }
                ClientChannelEvent::Closed { end } => {
                    tracing::debug!(?end, "datagram channel over");
                    is_over = true;
                }
            }
        }
        if let Stage::Probing(probe) = &mut live.stage
            && probe.poll_transmit(&mut self.control)
            && live.channel.seal(&mut self.control).is_ok()
        {
            // Too long for the local link is an answer too: it is not repeated for ever.
            let _ = live.sender.send(self.control.as_slice());
        }
        if is_over {
            self.give_up(now + RETRY);
        }
    }

    fn found(&mut self, found: Found, now: Instant) {
        let State::Live(live) = &mut self.state else { return };
        match found {
            Found::Fits(len) => {
                live.stage = Stage::Open;
                self.change = Some(Change::Opened(len));
            }
            Found::Nothing => {
                tracing::debug!("datagram channel: no usable length passes");
                self.give_up(now + RETRY);
            }
        }
    }

    /// DPD and new keys of an open channel.
    fn check_life(&mut self, now: Instant) {
        let State::Live(live) = &mut self.state else { return };
        if !matches!(live.stage, Stage::Open) {
            return;
        }
        if let Some(dpd) = self.plan.offer.dpd {
            if now >= live.heard + 2 * dpd {
                tracing::debug!("datagram channel silent: a new one from another port");
                self.give_up(now);
                return self.start(now);
            }
            if now >= live.asked.max(live.heard) + dpd {
                live.asked = now - dpd / 2;
                self.control.clear();
                self.control.prepend([FrameKind::DpdRequest.byte()]);
                self.control_out();
            }
        }
        let State::Live(live) = &mut self.state else { return };
        if live.rekey_at.is_some_and(|at| now >= at) {
            live.rekey_at = None;
            let mut entropy = [0; 32];
            if rand::fill(&mut entropy).is_ok() {
                live.channel.rekey(entropy, now);
            }
        }
    }

    fn control_out(&mut self) {
        let State::Live(live) = &mut self.state else { return };
        if live.channel.seal(&mut self.control).is_ok() {
            // Lost like any datagram; asked again later.
            let _ = live.sender.send(self.control.as_slice());
        }
    }

    fn give_up(&mut self, until: Instant) {
        let was_open = matches!(&self.state, State::Live(live) if matches!(live.stage, Stage::Open));
        if was_open {
            self.change = Some(Change::Closed);
        }
        self.state = State::Waiting { until };
    }
}

impl Plan {
    fn rekey_after(&self) -> Option<Duration> {
        self.offer.rekey_time.filter(|_| self.offer.rekey_method == RekeyMethod::Ssl)
    }

    /// A socket from a new port, connected to the address that TLS has verified (R65).
    fn socket(&self) -> io::Result<(UdpSocket, std::net::UdpSocket)> {
        let any: IpAddr = match self.server {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = std::net::UdpSocket::bind((any, 0))?;
        let options = socket2::SockRef::from(&socket);
        if let Some(mark) = self.mark {
            options.set_mark(mark)?;
        }
        // Smaller buffers than asked for work too.
        let _ = options.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = options.set_send_buffer_size(SOCKET_BUFFER);
        socket.set_nonblocking(true)?;
        socket.connect(SocketAddr::new(self.server, self.offer.port))?;
        let sender = socket.try_clone()?;
        Ok((UdpSocket::from_std(socket)?, sender))
    }
}
