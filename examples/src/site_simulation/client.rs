//! One client machine: its cookie, its way to the site, and its connection.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use etherparse::PacketBuilder;
use mstunnel_proto::auth::Cookie;
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::frame::{FrameKind, Frames};
use mstunnel_proto::session::{Backoff, Channel, ClientConfig, ClientEvent, ClientSession, Inbound, Leases};

use crate::options::{KEEPALIVE, MISTYPES, Options};
use crate::server::MTU;

/// A host behind the servers that every client sends one packet to when it is connected.
pub(crate) const INSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

/// Where a client stands.
pub(crate) enum Phase {
    /// Has not signed in yet, or waits for its next try.
    Down,
    /// Waits for an answer.
    Trying,
    /// Connected.
    Up(Box<ClientSession>),
    /// Waited as long as its policy lets it.
    GivenUp,
}

/// One client.
pub(crate) struct Client {
    pub(crate) phase: Phase,
    pub(crate) cookie: Option<Cookie>,
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) backoff: Backoff,
    seed: u64,
    pub(crate) attempt: u16,
    /// Where its last attempt went.
    pub(crate) server: Option<u16>,
    pub(crate) wake: Option<Instant>,
    /// One way to the site, without what varies.
    pub(crate) one_way: Duration,
    pub(crate) mistypes: bool,
    /// Whether it is told when its server dies.
    pub(crate) is_told: bool,
    /// Whether its server died.
    pub(crate) is_victim: bool,
    /// Whether both ends have its session.
    pub(crate) is_up: bool,
}

impl Client {
    pub(crate) fn new(number: u32, options: &Options, rng: &mut fastrand::Rng) -> Self {
        let seed = rng.u64(..);
        Self {
            phase: Phase::Down,
            cookie: None,
            address: None,
            backoff: options.backoff(seed),
            seed,
            attempt: 0,
            server: None,
            wake: None,
            one_way: Duration::from_micros(rng.u64(5_000..60_000)),
            mistypes: number % MISTYPES == MISTYPES / 2,
            is_told: rng.u8(..100) < options.told,
            is_victim: false,
            is_up: false,
        }
    }

    /// The name of a client's user.
    pub(crate) fn user(number: u32) -> String {
        format!("user{number:07}")
    }

    /// Where a client's connections come from: an address of 100.64.0.0/10.
    pub(crate) fn source(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x6440_0000 + number))
    }

    /// Connected, as `address`.
    pub(crate) fn open(&mut self, address: Ipv4Addr, options: &Options, now: Instant) {
        let config = ClientConfig {
            dpd: Some(Duration::from_secs(options.dpd)),
            keepalive: Some(KEEPALIVE),
            rekey: None,
            mtu: MTU,
            leases: Leases { v4: Some(address), v6: None },
        };
        self.phase = Phase::Up(Box::new(ClientSession::new(config, now)));
        self.backoff = options.backoff(self.seed ^ u64::from(self.attempt));
        self.address = Some(address);
        self.wake = None;
    }

    /// Writes one packet to [`INSIDE`], which the server takes if the address is the session's own.
    pub(crate) fn encapsulate(&mut self, out: &mut PacketBuf, now: Instant) -> Result<()> {
        let (Phase::Up(session), Some(address)) = (&mut self.phase, self.address) else {
            bail!("only a connected client sends packets");
        };
        let mut packet = [0; 32];
        let builder = PacketBuilder::ipv4(address.octets(), INSIDE.octets(), 64).udp(4_000, 53);
        builder.write(&mut packet.as_mut_slice(), b"here")?;
        out.fill(&packet);
        let sent = session.encapsulate(out, now);
        sent.map(drop).map_err(|reason| anyhow::anyhow!("the client dropped its packet: {reason}"))
    }

    /// Takes bytes of the server in.
    pub(crate) fn receive(&mut self, bytes: &mut [u8], now: Instant) -> Result<u32> {
        let mut questions = 0;
        let Phase::Up(session) = &mut self.phase else {
            return Ok(questions);
        };
        let mut frames = Frames::new(bytes);
        while let Some(frame) = frames.take_next()? {
            questions += u32::from(frame.kind == FrameKind::DpdRequest);
            let taken = session.decapsulate(Channel::Stream, frame.kind, frame.payload, now);
            ensure!(matches!(taken, Inbound::Handled), "the client got {taken:?}");
        }
        Ok(questions)
    }

    /// The connection is closed.
    pub(crate) fn handle_closed(&mut self) {
        if let Phase::Up(session) = &mut self.phase {
            session.handle_stream_closed();
        }
    }

    /// Acts on what is due, unless the timer is an old one.
    pub(crate) fn handle_timer(&mut self, now: Instant) -> bool {
        let is_due = self.wake == Some(now);
        if is_due && let Phase::Up(session) = &mut self.phase {
            self.wake = None;
            session.handle_timeout(now);
        }
        is_due
    }

    /// Takes one frame for the server out.
    pub(crate) fn poll_transmit(&mut self, out: &mut PacketBuf) -> bool {
        match &mut self.phase {
            Phase::Up(session) => session.poll_transmit(out).is_some(),
            Phase::Down | Phase::Trying | Phase::GivenUp => false,
        }
    }

    /// Takes the end of the connection out.
    pub(crate) fn poll_event(&mut self) -> Option<ClientEvent> {
        match &mut self.phase {
            Phase::Up(session) => session.poll_event(),
            Phase::Down | Phase::Trying | Phase::GivenUp => None,
        }
    }

    /// When the connection has to be woken, if that is news.
    pub(crate) fn poll_timer(&mut self) -> Option<Instant> {
        let Phase::Up(session) = &self.phase else {
            return None;
        };
        let due = session.poll_timeout()?.at;
        if self.wake.is_some_and(|wake| wake <= due) {
            return None;
        }
        self.wake = Some(due);
        Some(due)
    }
}
