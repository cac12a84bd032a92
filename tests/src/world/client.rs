//! A client machine: sign-in, CONNECT, both channels, and when it comes back.

use std::time::{Duration, Instant};

use fastrand::Rng;
use mstunnel_proto::auth::signin::{InputKind, SignIn, SignInConfig, Step};
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::connect::{
    AnswerError, AnswerReader, ConnectParams, ConnectRequest, Families, RekeyMethod,
};
use mstunnel_proto::drop::DropReason;
use mstunnel_proto::dtls::{self, Opened};
use mstunnel_proto::frame::{FrameKind, Frames};
use mstunnel_proto::http::ResponseReader;
use mstunnel_proto::mtu::{DEFAULT_LINK, MIN_IPV6, MIN_LINK, wanted_mtu};
use mstunnel_proto::routes::RouteSet;
use mstunnel_proto::session::{
    Backoff, Channel, ClientConfig, ClientDatagrams, ClientEvent, ClientSession, DatagramChange,
    DatagramPlan, Inbound, Leases,
};
use std::net::{IpAddr, SocketAddr};
use zeroize::Zeroizing;

use super::server::random;
use super::stream::ConnId;

/// How long a server may take for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a client tries to come back.
const RECONNECT_LIMIT: Duration = Duration::from_secs(3_600);

/// What a client does to the world.
#[derive(Debug)]
pub(crate) enum Deed {
    /// Opens a TLS connection; the world answers with [`Client::handle_connected`] or with a closed stream.
    Dial,
    Record {
        conn: ConnId,
        bytes: Vec<u8>,
    },
    Hangup {
        conn: ConnId,
    },
    Datagram {
        port: u16,
        to: SocketAddr,
        bytes: Vec<u8>,
    },
    /// A packet of the network arrived at the applications.
    Delivered {
        packet: Vec<u8>,
    },
    /// A sign-in gave a cookie.
    SignedIn {
        cookie: Zeroizing<String>,
    },
    /// The tunnel is open.
    Opened(Box<ConnectParams>),
    /// It is over, for good or until the user wants it again.
    Over(Ending),
}

/// How the life of a client ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The user left.
    Left,
    /// The server ended the session.
    EndedByServer,
    /// The cookie is good no more.
    CookieRefused,
    /// The credentials were not good.
    SignInFailed,
    /// Too long without a server.
    GaveUp,
    /// The server broke the protocol.
    ServerFault,
}

/// What a client is.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The account.
    pub user: String,
    /// What it types.
    pub password: String,
    /// Whether it wants a datagram channel.
    pub datagrams: bool,
    /// Which families it takes.
    pub families: Families,
}

pub(crate) struct Client {
    pub(crate) profile: Profile,
    pub(crate) server: SocketAddr,
    pub(crate) cookie: Option<Zeroizing<String>>,
    leases: Leases,
    state: State,
    backoff: Backoff,
    next_port: u16,
    rng: Rng,
    out: PacketBuf,
}

enum State {
    /// Switched off, or over.
    Off(Option<Ending>),
    /// Waits for TLS.
    Dialing {
        until: Instant,
        sign_in: Option<Box<SignIn>>,
    },
    SigningIn {
        conn: ConnId,
        until: Instant,
        sign_in: Box<SignIn>,
        reader: ResponseReader,
    },
    Connecting {
        conn: ConnId,
        until: Instant,
        exporter: [u8; 32],
        reader: AnswerReader,
    },
    Live(Box<Live>),
    Waiting {
        until: Instant,
    },
}

struct Live {
    conn: ConnId,
    session: ClientSession,
    datagrams: Option<ClientDatagrams>,
    routes: RouteSet,
    said: ConnectParams,
    socket: Option<(u64, u16)>,
    server: SocketAddr,
    inbox: Vec<u8>,
}

impl Client {
    pub(crate) fn new(profile: Profile, server: SocketAddr, rng: Rng) -> Self {
        Self {
            profile,
            server,
            cookie: None,
            leases: Leases::default(),
            state: State::Off(None),
            backoff: Backoff::eager(RECONNECT_LIMIT),
            next_port: 20_000,
            rng,
            out: PacketBuf::new(2_048),
        }
    }

    /// Signs in afresh.
    pub(crate) fn sign_in(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        self.drop_connection(deeds);
        self.cookie = None;
        self.leases = Leases::default();
        self.backoff = Backoff::eager(RECONNECT_LIMIT);
        let config = SignInConfig { host: "vpn.example".into(), path: "/".into(), group: None, token: None };
        let sign_in = Some(Box::new(SignIn::new(config)));
        self.state = State::Dialing { until: now + PATIENCE, sign_in };
        deeds.push(Deed::Dial);
    }

    /// Connects with the cookie that it has, as a client does that was started again.
    pub(crate) fn reconnect(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        if self.cookie.is_none() {
            return self.sign_in(now, deeds);
        }
        self.drop_connection(deeds);
        self.backoff = Backoff::eager(RECONNECT_LIMIT);
        self.dial(now, deeds);
    }

    fn dial(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        self.state = State::Dialing { until: now + PATIENCE, sign_in: None };
        deeds.push(Deed::Dial);
    }

    /// TLS is up.
    pub(crate) fn handle_connected(
        &mut self,
        conn: ConnId,
        exporter: [u8; 32],
        now: Instant,
        deeds: &mut Vec<Deed>,
    ) {
        let until = now + PATIENCE;
        match std::mem::replace(&mut self.state, State::Off(None)) {
            State::Dialing { sign_in: Some(mut sign_in), .. } => {
                if let Some(bytes) = sign_in.poll_request() {
                    deeds.push(Deed::Record { conn, bytes: bytes.to_vec() });
                }
                self.state = State::SigningIn { conn, until, sign_in, reader: ResponseReader::new() };
            }
            State::Dialing { sign_in: None, .. } => {
                let request = ConnectRequest {
                    cookie: self.cookie.as_ref().map(|cookie| cookie.to_string()),
                    base_mtu: Some(DEFAULT_LINK.get()),
                    mtu: Some(wanted_mtu(DEFAULT_LINK, self.server.ip()).get()),
                    families: self.profile.families,
                    address_v4: self.leases.v4,
                    address_v6: self.leases.v6,
                    full_ipv6: true,
                    psk_negotiate: self.profile.datagrams,
                    ..ConnectRequest::default()
                };
                deeds.push(Deed::Record { conn, bytes: request.encode("vpn.example") });
                self.state = State::Connecting { conn, until, exporter, reader: AnswerReader::new() };
            }
            other @ (State::Off(_)
            | State::SigningIn { .. }
            | State::Connecting { .. }
            | State::Live(_)
            | State::Waiting { .. }) => {
                // Nobody waits for it any more.
                self.state = other;
                deeds.push(Deed::Hangup { conn });
            }
        }
    }

    /// The connection that it has.
    pub(crate) fn conn(&self) -> Option<ConnId> {
        match &self.state {
            State::SigningIn { conn, .. } | State::Connecting { conn, .. } => Some(*conn),
            State::Live(live) => Some(live.conn),
            State::Off(_) | State::Dialing { .. } | State::Waiting { .. } => None,
        }
    }

    fn drop_connection(&mut self, deeds: &mut Vec<Deed>) {
        if let Some(conn) = self.conn() {
            deeds.push(Deed::Hangup { conn });
        }
        self.state = State::Off(None);
    }

    fn over(&mut self, ending: Ending, deeds: &mut Vec<Deed>) {
        self.drop_connection(deeds);
        self.state = State::Off(Some(ending));
        deeds.push(Deed::Over(ending));
    }

    /// Waits for the next try, or gives up.
    fn lost(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        self.drop_connection(deeds);
        match self.backoff.next_wait() {
            Some(wait) => self.state = State::Waiting { until: now + wait },
            None => self.over(Ending::GaveUp, deeds),
        }
    }

    /// Takes in one record of the connection.
    pub(crate) fn receive(&mut self, conn: ConnId, bytes: &[u8], now: Instant, deeds: &mut Vec<Deed>) {
        if self.conn() != Some(conn) {
            return;
        }
        match &mut self.state {
            State::SigningIn { .. } => self.receive_page(bytes, now, deeds),
            State::Connecting { .. } => self.receive_answer(bytes, now, deeds),
            State::Live(live) => {
                live.inbox.extend_from_slice(bytes);
                self.read_frames(now, deeds);
            }
            State::Off(_) | State::Dialing { .. } | State::Waiting { .. } => {}
        }
    }

    fn receive_page(&mut self, bytes: &[u8], now: Instant, deeds: &mut Vec<Deed>) {
        let State::SigningIn { conn, sign_in, reader, until } = &mut self.state else { return };
        let conn = *conn;
        if reader.handle_bytes(bytes).is_err() {
            return self.over(Ending::ServerFault, deeds);
        }
        let Some(reply) = reader.poll_reply() else { return };
        let step = sign_in.handle_reply(&reply);
        match step {
            Ok(Step::Ask(_)) => {
                let Profile { user, password, .. } = &self.profile;
                let answered = sign_in.answer(|input| match input.kind {
                    InputKind::Secret => password.clone(),
                    InputKind::Text | InputKind::Hidden => user.clone(),
                });
                if answered.is_err() {
                    return self.over(Ending::SignInFailed, deeds);
                }
            }
            Ok(Step::Again) => {}
            Ok(Step::Complete(signed_in)) => {
                deeds.push(Deed::SignedIn { cookie: signed_in.cookie.clone() });
                self.cookie = Some(signed_in.cookie);
                deeds.push(Deed::Hangup { conn });
                return self.dial(now, deeds);
            }
            Err(_) => return self.over(Ending::SignInFailed, deeds),
        }
        *until = now + PATIENCE;
        if let Some(bytes) = sign_in.poll_request() {
            deeds.push(Deed::Record { conn, bytes: bytes.to_vec() });
        }
    }

    fn receive_answer(&mut self, bytes: &[u8], now: Instant, deeds: &mut Vec<Deed>) {
        let State::Connecting { conn, exporter, reader, .. } = &mut self.state else { return };
        let taken = match reader.handle_bytes(bytes) {
            Ok(taken) => taken,
            Err(error) if error.is_final() => {
                self.cookie = None;
                return self.over(Ending::CookieRefused, deeds);
            }
            Err(AnswerError::Refused { .. }) => return self.lost(now, deeds),
            Err(_) => return self.over(Ending::ServerFault, deeds),
        };
        let Some(said) = reader.poll_params() else { return };
        let leases = Leases { v4: said.v4.map(|v4| v4.address), v6: said.v6.map(|v6| v6.address) };
        let (conn, exporter) = (*conn, *exporter);
        let Ok(routes) = RouteSet::new(&said.include, &said.exclude) else {
            return self.over(Ending::ServerFault, deeds);
        };
        let config = ClientConfig {
            dpd: said.dpd,
            keepalive: said.keepalive,
            rekey: said.rekey_time.filter(|_| said.rekey_method == RekeyMethod::NewTunnel),
            mtu: said.mtu.get(),
            leases,
        };
        let floor = if leases.v6.is_some() { MIN_IPV6.get() } else { MIN_LINK.get() };
        let datagrams = said.dtls.clone().map(|offer| {
            let plan = DatagramPlan {
                psk: Zeroizing::new(exporter),
                offer,
                server: self.server.ip(),
                mtu: said.mtu,
                link: said.base_mtu,
                floor,
            };
            ClientDatagrams::new(plan, random(&mut self.rng), now)
        });
        self.leases = leases;
        self.backoff = Backoff::eager(RECONNECT_LIMIT);
        deeds.push(Deed::Opened(Box::new(said.clone())));
        let port = said.dtls.as_ref().map_or(self.server.port(), |offer| offer.port);
        self.state = State::Live(Box::new(Live {
            conn,
            session: ClientSession::new(config, now),
            datagrams,
            routes,
            said,
            socket: None,
            server: SocketAddr::new(self.server.ip(), port),
            inbox: bytes[taken..].to_vec(),
        }));
        if let State::Live(live) = &mut self.state
            && let Some(datagrams) = &mut live.datagrams
        {
            datagrams.handle_timeout(now);
        }
        self.read_frames(now, deeds);
    }

    fn read_frames(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        let State::Live(live) = &mut self.state else { return };
        let mut inbox = std::mem::take(&mut live.inbox);
        let mut frames = Frames::new(&mut inbox);
        loop {
            match frames.take_next() {
                Ok(Some(frame)) => {
                    if let Inbound::Packet(packet) =
                        live.session.decapsulate(Channel::Stream, frame.kind, frame.payload, now)
                    {
                        deeds.push(Deed::Delivered { packet: packet.to_vec() });
                    }
                }
                Ok(None) => break,
                Err(_) => {
                    live.session.handle_frame_error();
                    break;
                }
            }
        }
        live.inbox = frames.rest().to_vec();
        self.drain(now, deeds);
    }

    /// Takes in a datagram to one of its ports.
    pub(crate) fn receive_datagram(
        &mut self,
        port: u16,
        datagram: &mut [u8],
        now: Instant,
        deeds: &mut Vec<Deed>,
    ) {
        let State::Live(live) = &mut self.state else { return };
        let Some(datagrams) =
            live.datagrams.as_mut().filter(|_| live.socket.is_some_and(|(_, own)| own == port))
        else {
            return;
        };
        for record in dtls::records(datagram) {
            if let Opened::Application(plaintext) = datagrams.handle_record(record, now)
                && let Some((kind, payload)) = plaintext.split_first_mut()
                && let Inbound::Packet(packet) =
                    live.session.decapsulate(Channel::Datagram, FrameKind::from_byte(*kind), payload, now)
            {
                deeds.push(Deed::Delivered { packet: packet.to_vec() });
            }
        }
        self.drain(now, deeds);
    }

    /// The connection is gone.
    pub(crate) fn handle_closed(&mut self, conn: Option<ConnId>, now: Instant, deeds: &mut Vec<Deed>) {
        match &mut self.state {
            State::Dialing { sign_in, .. } if conn.is_none() => match sign_in {
                Some(_) => self.over(Ending::SignInFailed, deeds),
                None => self.lost(now, deeds),
            },
            State::SigningIn { conn: own, .. } if conn == Some(*own) => {
                self.over(Ending::SignInFailed, deeds)
            }
            State::Connecting { conn: own, .. } if conn == Some(*own) => self.lost(now, deeds),
            State::Live(live) if conn == Some(live.conn) => {
                live.session.handle_stream_closed();
                self.drain(now, deeds);
            }
            State::Off(_)
            | State::Dialing { .. }
            | State::SigningIn { .. }
            | State::Connecting { .. }
            | State::Live(_)
            | State::Waiting { .. } => {}
        }
    }

    /// Acts on the time.
    pub(crate) fn handle_timeout(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        match &mut self.state {
            State::Off(_) => {}
            State::Dialing { until, sign_in } if now >= *until => match sign_in {
                Some(_) => self.over(Ending::SignInFailed, deeds),
                None => self.lost(now, deeds),
            },
            State::SigningIn { until, .. } if now >= *until => self.over(Ending::SignInFailed, deeds),
            State::Connecting { until, .. } if now >= *until => self.lost(now, deeds),
            State::Waiting { until } if now >= *until => self.dial(now, deeds),
            State::Dialing { .. }
            | State::SigningIn { .. }
            | State::Connecting { .. }
            | State::Waiting { .. } => {}
            State::Live(live) => {
                live.session.handle_timeout(now);
                if let Some(datagrams) = &mut live.datagrams {
                    datagrams.handle_timeout(now);
                }
                self.drain(now, deeds);
            }
        }
    }

    /// When [`Client::handle_timeout`] is wanted.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Off(_) => None,
            State::Dialing { until, .. }
            | State::SigningIn { until, .. }
            | State::Connecting { until, .. }
            | State::Waiting { until } => Some(*until),
            State::Live(live) => {
                let session = live.session.poll_timeout().map(|deadline| deadline.at);
                let datagrams = live.datagrams.as_ref().and_then(ClientDatagrams::poll_timeout);
                session.into_iter().chain(datagrams).min()
            }
        }
    }

    /// The applications send a packet.
    ///
    /// # Errors
    /// Why it goes nowhere.
    pub(crate) fn send(
        &mut self,
        packet: &[u8],
        now: Instant,
        deeds: &mut Vec<Deed>,
    ) -> Result<Channel, DropReason> {
        let State::Live(live) = &mut self.state else { return Err(DropReason::SessionClosed) };
        self.out.fill(packet);
        let channel = live.session.encapsulate(&mut self.out, now)?;
        live.put(channel, &mut self.out, now, deeds);
        self.drain(now, deeds);
        Ok(channel)
    }

    /// The user leaves.
    pub(crate) fn leave(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        let State::Live(live) = &mut self.state else {
            self.over(Ending::Left, deeds);
            return;
        };
        live.session.leave("the user is done");
        if let Some(datagrams) = &mut live.datagrams {
            datagrams.close(now);
        }
        self.drain(now, deeds);
    }

    fn drain(&mut self, now: Instant, deeds: &mut Vec<Deed>) {
        let State::Live(live) = &mut self.state else { return };
        if let Some(datagrams) = &mut live.datagrams {
            let attempt = datagrams.attempt();
            if attempt > 0 && live.socket.is_none_or(|(made_for, _)| made_for != attempt) {
                self.next_port = self.next_port.checked_add(1).unwrap_or(20_000);
                live.socket = Some((attempt, self.next_port));
            }
            if let Some((_, port)) = live.socket {
                while datagrams.poll_transmit(&mut self.out) {
                    let bytes = self.out.as_slice().to_vec();
                    deeds.push(Deed::Datagram { port, to: live.server, bytes });
                }
            }
            match datagrams.poll_change() {
                Some(DatagramChange::Opened(mtu)) => {
                    live.session.limit_mtu(mtu);
                    live.session.handle_datagram_open();
                }
                Some(DatagramChange::Closed) => live.session.handle_datagram_closed(),
                None => {}
            }
        }
        while let Some(channel) = live.session.poll_transmit(&mut self.out) {
            live.put(channel, &mut self.out, now, deeds);
        }
        let has_left = live.session.has_left();
        match live.session.poll_event() {
            None => {}
            Some(ClientEvent::Ended) => {
                // What it had is good no more; a client that left has said so itself.
                self.cookie = None;
                self.over(if has_left { Ending::Left } else { Ending::EndedByServer }, deeds);
            }
            Some(ClientEvent::Lost) => self.lost(now, deeds),
            Some(ClientEvent::ServerFault) => self.over(Ending::ServerFault, deeds),
        }
    }

    /// The process is gone, without a word; its files remain.
    pub(crate) fn forget(&mut self) -> Option<ConnId> {
        let conn = self.conn();
        self.state = State::Off(None);
        conn
    }

    fn live(&self) -> Option<&Live> {
        if let State::Live(live) = &self.state { Some(live) } else { None }
    }

    pub(crate) fn leases(&self) -> Option<Leases> {
        self.live().map(|live| Leases {
            v4: live.said.v4.map(|v4| v4.address),
            v6: live.said.v6.map(|v6| v6.address),
        })
    }

    /// What the server told the client, and the routes that it means.
    pub(crate) fn said(&self) -> Option<(&ConnectParams, &RouteSet)> {
        self.live().map(|live| (&live.said, &live.routes))
    }

    pub(crate) fn channel(&self) -> Option<Channel> {
        self.live().map(|live| live.session.channel())
    }

    pub(crate) fn is_off(&self) -> bool {
        matches!(self.state, State::Off(_))
    }

    pub(crate) fn ending(&self) -> Option<Ending> {
        if let State::Off(ending) = self.state { ending } else { None }
    }

    /// Where it stands, in a word.
    pub(crate) fn stage(&self) -> &'static str {
        match &self.state {
            State::Off(_) => "off",
            State::Dialing { .. } => "dialing",
            State::SigningIn { .. } => "signing in",
            State::Connecting { .. } => "connecting",
            State::Live(_) => "live",
            State::Waiting { .. } => "waiting",
        }
    }
}

impl Live {
    fn put(&mut self, channel: Channel, unit: &mut PacketBuf, now: Instant, deeds: &mut Vec<Deed>) {
        match channel {
            Channel::Stream => deeds.push(Deed::Record { conn: self.conn, bytes: unit.as_slice().to_vec() }),
            Channel::Datagram => {
                if let (Some(datagrams), Some((_, port))) = (&mut self.datagrams, self.socket)
                    && datagrams.seal(unit, now).is_ok()
                {
                    deeds.push(Deed::Datagram { port, to: self.server, bytes: unit.as_slice().to_vec() });
                }
            }
        }
    }
}

/// An address of either family among leases.
pub(crate) fn address_of(leases: Leases, v6: bool) -> Option<IpAddr> {
    if v6 { leases.v6.map(IpAddr::V6) } else { leases.v4.map(IpAddr::V4) }
}
