//! A server process: the machines of the core, joined as a server joins them.
//!
//! What a real server does with sockets, tasks and threads is one method call here, and what it sends comes out as an
//! [`Act`]. The front and the directory of datagrams are the shortest code that does the same as
//! `mstunnel-server`'s; all decisions are the core's.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use mstunnel_proto::auth::{
    Answer, AuthMethod, ConnectionId, Cookie, CookieHash, Credentials, LoginConfig, LoginDesk, QuestionId,
    Verdict,
};
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::close::CloseReason;
use mstunnel_proto::connect::{
    ConnectParams, ConnectRequest, DtlsKey, DtlsOffer, InsideAddress, Refusal, RekeyMethod,
};
use mstunnel_proto::drop::{DropCounters, DropReason};
use mstunnel_proto::dtls::{
    self, ClientHello, CookieKeys, Greeting, Keying, Opened, Path, RecordHeader, ServerChannel,
};
use mstunnel_proto::frame::{FrameKind, Frames};
use mstunnel_proto::http::{Method, Request, RequestReader};
use mstunnel_proto::mtu::{self, Mtu, RecordSuite};
use mstunnel_proto::packet;
use mstunnel_proto::pool::{HeldBack, OwnerKey};
use mstunnel_proto::session::{
    Admit, Attach, AttachRefused, Attachment, Channel, Ended, Leases, Registry, Session, SessionConfig,
    SessionEvent, SessionParams, SessionState, Stage,
};

use super::audit::Audit;
use super::settings::Settings;
use super::stream::ConnId;
use super::tunnel::{Leg, Tunnel};

/// From the accept to the CONNECT, as in the server.
const FRONT_TIMEOUT: Duration = Duration::from_secs(300);

/// Tunnels that are tried for a record from an unknown port, as in the server.
const MAX_ROAMERS: usize = 8;

/// The cookie keys of DTLS change so often.
const ROTATION: Duration = Duration::from_secs(3_600);

/// What a server does to the world.
#[derive(Debug)]
pub(crate) enum Act {
    Datagram {
        path: Path,
        bytes: Vec<u8>,
    },
    Record {
        conn: ConnId,
        bytes: Vec<u8>,
    },
    Hangup {
        conn: ConnId,
    },
    /// A packet of a client for the network.
    Packet {
        packet: Vec<u8>,
        leases: Leases,
    },
    /// An ICMP error of the server for the network.
    Answer,
    /// Credentials to be checked.
    Verify {
        conn: ConnId,
        question: QuestionId,
        credentials: Credentials,
    },
    /// Something that the models follow.
    Told(Told),
    /// The machines contradict themselves.
    Broken(String),
}

/// What the models are told.
#[derive(Debug)]
pub(crate) enum Told {
    Admitted { cookie: CookieHash, user: String },
    Attached { cookie: CookieHash, conn: ConnId, leases: Leases, wants: (bool, bool) },
    Refused { cookie: Option<CookieHash>, why: AttachRefused },
    Ended { cookie: CookieHash, conn: ConnId, reason: CloseReason },
}

enum Connection {
    Front(Front),
    Tunnel(Box<Tunnel>),
}

struct Front {
    reader: RequestReader,
    remote: SocketAddr,
    exporter: [u8; 32],
    until: Instant,
}

/// One server, in one of its lives.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) incarnation: u32,
    pub(crate) settings: Settings,
    pub(crate) registry: Registry,
    pub(crate) strays: DropCounters,
    config: Arc<SessionConfig>,
    desk: LoginDesk,
    keys: CookieKeys,
    rotate_at: Instant,
    connections: BTreeMap<ConnId, Connection>,
    apps: BTreeMap<[u8; 32], ConnId>,
    remotes: BTreeMap<SocketAddr, ConnId>,
    handshakes: BTreeMap<SocketAddr, ConnId>,
    inside: BTreeMap<IpAddr, ConnId>,
    touched: Vec<ConnId>,
    rng: Rng,
    out: PacketBuf,
}

/// What outlives a process.
pub(crate) struct Stored {
    sessions: Vec<StoredSession>,
    held_back: Vec<HeldBack>,
}

struct StoredSession {
    admit: Admit,
    leases: Leases,
    ends_at: Option<Instant>,
    until: Option<Instant>,
}

impl StoredSession {
    fn ended_at(&self) -> Option<Instant> {
        self.until.into_iter().chain(self.ends_at).min()
    }

    fn is_over(&self, now: Instant) -> bool {
        self.ended_at().is_some_and(|at| at <= now)
    }

    fn ended_before(&self, window: Duration, now: Instant) -> Vec<HeldBack> {
        let Some(ended) = self.ended_at().filter(|at| *at <= now) else { return Vec::new() };
        let held = |address| HeldBack { address, owner: self.admit.owner, until: ended + window };
        self.leases.iter().map(held).collect()
    }
}

impl Server {
    pub(crate) fn start(address: SocketAddr, settings: Settings, mut rng: Rng, now: Instant) -> Self {
        let (v4, v6) = settings.pools();
        Self {
            address,
            incarnation: 1,
            registry: Registry::new(settings.registry(), v4, v6),
            config: settings.session(),
            settings,
            strays: DropCounters::default(),
            desk: LoginDesk::new(Arc::new(LoginConfig::default())),
            keys: CookieKeys::new(random(&mut rng)),
            rotate_at: now + ROTATION,
            connections: BTreeMap::new(),
            apps: BTreeMap::new(),
            remotes: BTreeMap::new(),
            handshakes: BTreeMap::new(),
            inside: BTreeMap::new(),
            touched: Vec::new(),
            rng,
            out: PacketBuf::new(2_048),
        }
    }

    /// What the process has stored when it dies.
    pub(crate) fn stored(&self) -> Stored {
        let store = |record: &mstunnel_proto::session::Record| StoredSession {
            admit: record.admit().clone(),
            leases: record.leases(),
            ends_at: record.ends_at(),
            until: match record.stage() {
                Stage::Admitted { until } | Stage::Detached { until } => Some(until),
                Stage::Attached { .. } => None,
            },
        };
        Stored {
            sessions: self.registry.records().map(store).collect(),
            held_back: self.registry.held_back().collect(),
        }
    }

    /// Another process in the place of this one, from what it had stored.
    pub(crate) fn restart(&mut self, stored: Stored, now: Instant) {
        let settings = self.settings.clone();
        let incarnation = self.incarnation + 1;
        *self = Self::start(self.address, settings, self.rng.fork(), now);
        self.incarnation = incarnation;
        let window = self.settings.cookie_timeout;
        let mut held_back = stored.held_back;
        held_back.extend(stored.sessions.iter().flat_map(|session| session.ended_before(window, now)));
        held_back.retain(|held| held.until > now);
        held_back.sort_by_key(|held| held.until);
        held_back.into_iter().for_each(|held| self.registry.restore_held_back(held));
        for session in stored.sessions.into_iter().filter(|session| !session.is_over(now)) {
            let StoredSession { admit, leases, ends_at, until } = session;
            let until = until.unwrap_or(now + window);
            self.registry.restore(admit, leases, ends_at, until, now).expect("what fitted fits again");
        }
    }

    /// Takes up another configuration; live sessions keep the one that they were told.
    pub(crate) fn reload(&mut self, settings: Settings) {
        self.registry.set_config(settings.registry());
        self.config = settings.session();
        self.settings = settings;
    }

    pub(crate) fn accept(&mut self, conn: ConnId, remote: SocketAddr, exporter: [u8; 32], now: Instant) {
        let front = Front { reader: RequestReader::new(), remote, exporter, until: now + FRONT_TIMEOUT };
        self.connections.insert(conn, Connection::Front(front));
        self.touched.push(conn);
    }

    /// The connections whose deadline may be another one now.
    pub(crate) fn take_touched(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.touched)
    }

    /// Takes in one record of a connection.
    pub(crate) fn receive(&mut self, conn: ConnId, bytes: &[u8], now: Instant, acts: &mut Vec<Act>) {
        match self.connections.get_mut(&conn) {
            None => {}
            Some(Connection::Front(_)) => self.receive_request(conn, bytes, now, acts),
            Some(Connection::Tunnel(tunnel)) => {
                tunnel.inbox.extend_from_slice(bytes);
                self.read_frames(conn, now, acts);
            }
        }
    }

    fn receive_request(&mut self, conn: ConnId, mut bytes: &[u8], now: Instant, acts: &mut Vec<Act>) {
        while let Some(Connection::Front(front)) = self.connections.get_mut(&conn) {
            let request = match front.reader.handle_bytes(bytes) {
                Ok(taken) => {
                    bytes = &bytes[taken..];
                    front.reader.poll_request()
                }
                Err(error) => {
                    self.respond(conn, error.response().close(), acts);
                    return;
                }
            };
            let Some(request) = request else { return };
            if matches!(request.method, Method::Connect) {
                self.connect(conn, &request, bytes, now, acts);
                return;
            }
            let (source, id) = (front.remote.ip(), ConnectionId(conn.0));
            let random = random(&mut self.rng);
            let answer = self.desk.handle_request(id, source, &request, random, now);
            self.follow(conn, answer, now, acts);
        }
    }

    pub(crate) fn handle_verdict(
        &mut self,
        conn: ConnId,
        question: QuestionId,
        verdict: Verdict,
        now: Instant,
        acts: &mut Vec<Act>,
    ) {
        let answer = self.desk.handle_verdict(question, verdict, now);
        self.follow(conn, answer, now, acts);
    }

    fn follow(&mut self, conn: ConnId, answer: Answer, now: Instant, acts: &mut Vec<Act>) {
        let response = match answer {
            Answer::Respond(response) => response,
            Answer::Verify { question, credentials } => {
                return acts.push(Act::Verify { conn, question, credentials });
            }
            Answer::Admit(admission) => {
                let cookie = Cookie::from_random(random(&mut self.rng));
                let admit = Admit {
                    user: admission.user.clone(),
                    groups: admission.groups.clone(),
                    group: admission.group.clone(),
                    method: AuthMethod::Password,
                    cookie: cookie.hash(),
                    owner: OwnerKey::of_device(&admission.user, ""),
                };
                match self.registry.admit(admit, now) {
                    Ok(_) => {
                        let user = admission.user.clone();
                        acts.push(Act::Told(Told::Admitted { cookie: cookie.hash(), user }));
                        self.desk.success(&admission, &cookie)
                    }
                    Err(_) => Refusal::Unavailable("the server is full").response().close(),
                }
            }
        };
        self.respond(conn, response, acts);
    }

    fn respond(&mut self, conn: ConnId, response: mstunnel_proto::http::Response, acts: &mut Vec<Act>) {
        acts.push(Act::Record { conn, bytes: response.encode() });
        if response.closes() {
            self.drop_front(conn, acts);
        }
    }

    fn drop_front(&mut self, conn: ConnId, acts: &mut Vec<Act>) {
        self.desk.handle_connection_closed(ConnectionId(conn.0));
        self.connections.remove(&conn);
        acts.push(Act::Hangup { conn });
    }

    fn connect(&mut self, conn: ConnId, request: &Request, rest: &[u8], now: Instant, acts: &mut Vec<Act>) {
        let Some(Connection::Front(front)) = self.connections.get(&conn) else { return };
        let (remote, exporter) = (front.remote, front.exporter);
        let cookie = request.cookie("webvpn").and_then(Cookie::parse).map(|cookie| cookie.hash());
        let Ok(connect) = ConnectRequest::parse(request) else {
            return self.refuse(conn, cookie, AttachRefused::UnknownCookie, acts);
        };
        let Some(known) = cookie.filter(|cookie| self.registry.knows(cookie, now)) else {
            return self.refuse(conn, cookie, AttachRefused::UnknownCookie, acts);
        };
        let link = mtu::link_mtu(mtu::DEFAULT_LINK, connect.base_mtu, connect.mtu, remote.ip());
        let inside = link.over_datagrams(remote.ip(), RecordSuite::AesGcm);
        let wants = (connect.families.v4, connect.families.v6 && inside.carries_ipv6());
        let attach = Attach { cookie: known, wants_v4: wants.0, wants_v6: wants.1, holder: 0 };
        let attachment = match self.registry.attach(attach, now) {
            Ok(attachment) => attachment,
            Err(why) => return self.refuse(conn, cookie, why, acts),
        };
        let leases = attachment.leases;
        acts.push(Act::Told(Told::Attached { cookie: known, conn, leases, wants }));
        let replaced =
            self.tunnels().find(|(_, tunnel)| tunnel.session.id() == attachment.id).map(|(old, _)| old);
        let app_id = (self.settings.udp && connect.psk_negotiate).then(|| random(&mut self.rng));
        let head = self.params(&connect, &attachment, app_id, link, inside, now);
        acts.push(Act::Record { conn, bytes: head.encode(&connect) });
        let params =
            SessionParams { id: attachment.id, leases, mtu: inside.get(), ends_at: attachment.ends_at };
        let leg = app_id.map(|app_id| {
            self.apps.insert(app_id, conn);
            let channel = ServerChannel::new(Keying::psk(exporter));
            Leg { channel, app_id, settled: None, begun: None }
        });
        let tunnel = Tunnel {
            session: Session::new(Arc::clone(&self.config), params, now),
            audit: Audit::default(),
            cookie: known,
            generation: attachment.generation,
            link,
            leg,
            inbox: rest.to_vec(),
        };
        self.desk.handle_connection_closed(ConnectionId(conn.0));
        if let Some(old) = replaced {
            self.close(old, CloseReason::TakenOver, now, acts);
        }
        self.connections.insert(conn, Connection::Tunnel(Box::new(tunnel)));
        self.inside.extend(leases.iter().map(|address| (address, conn)));
        self.read_frames(conn, now, acts);
    }

    fn refuse(&mut self, conn: ConnId, cookie: Option<CookieHash>, why: AttachRefused, acts: &mut Vec<Act>) {
        acts.push(Act::Told(Told::Refused { cookie, why }));
        let refusal = match why {
            AttachRefused::UnknownCookie => Refusal::Unauthorized,
            AttachRefused::TooManySessions { .. } => Refusal::Unavailable("too many sessions of this user"),
            AttachRefused::NoAddress => Refusal::Unavailable("no free address"),
        };
        acts.push(Act::Record { conn, bytes: refusal.response().encode() });
        self.drop_front(conn, acts);
    }

    fn params(
        &self,
        connect: &ConnectRequest,
        attachment: &Attachment,
        app_id: Option<[u8; 32]>,
        link: Mtu,
        inside: Mtu,
        now: Instant,
    ) -> ConnectParams {
        let settings = &self.settings;
        let (v4, v6) = (attachment.leases.v4, attachment.leases.v6);
        let method = |method| if settings.rekey.is_some() { method } else { RekeyMethod::None };
        ConnectParams {
            hostname: connect.hostname.clone(),
            dpd: Some(settings.dpd),
            v4: v4.map(|address| InsideAddress { address, prefix_length: settings.pool_v4.length() }),
            v6: v6.map(|address| InsideAddress { address, prefix_length: 128 }),
            include: settings.include.clone(),
            exclude: settings.exclude.clone(),
            keepalive: Some(settings.keepalive),
            idle_timeout: settings.idle_timeout,
            rekey_time: settings.rekey,
            // Half of the sessions renew both channels with a new connection, the others the datagram channel alone.
            rekey_method: method(if attachment.id.get().is_multiple_of(2) {
                RekeyMethod::NewTunnel
            } else {
                RekeyMethod::None
            }),
            session_timeout: settings.session_timeout,
            session_timeout_remaining: attachment.ends_at.map(|end| end.saturating_duration_since(now)),
            dtls: app_id.map(|app_id| DtlsOffer {
                port: self.address.port(),
                app_id,
                key: DtlsKey::Exported,
                dpd: Some(settings.dpd),
                keepalive: Some(settings.keepalive),
                rekey_time: settings.rekey,
                rekey_method: method(RekeyMethod::Ssl),
            }),
            base_mtu: Some(link),
            ..ConnectParams::new(inside)
        }
    }

    /// The connection is gone, without a word or with one.
    pub(crate) fn handle_closed(&mut self, conn: ConnId, now: Instant, acts: &mut Vec<Act>) {
        match self.connections.get_mut(&conn) {
            None => {}
            Some(Connection::Front(_)) => self.drop_front(conn, acts),
            Some(Connection::Tunnel(tunnel)) => {
                tunnel.session.handle_stream_closed();
                self.drain(conn, now, acts);
            }
        }
    }

    /// Ends every session of a user.
    pub(crate) fn disconnect(&mut self, user: &str, now: Instant, acts: &mut Vec<Act>) {
        let ids: Vec<_> =
            self.registry.sessions_of(user).map(|record| (record.id(), record.cookie())).collect();
        for (id, _) in ids {
            let live = self.tunnels().find(|(_, tunnel)| tunnel.session.id() == id).map(|(conn, _)| conn);
            let ended = self.registry.end(id, now);
            if let (Ended::Live(_), Some(conn)) = (ended, live) {
                self.close(conn, CloseReason::AdminDisconnect, now, acts);
            }
        }
    }

    fn close(&mut self, conn: ConnId, reason: CloseReason, now: Instant, acts: &mut Vec<Act>) {
        if let Some(Connection::Tunnel(tunnel)) = self.connections.get_mut(&conn) {
            tunnel.session.close(reason);
            self.drain(conn, now, acts);
        }
    }

    fn read_frames(&mut self, conn: ConnId, now: Instant, acts: &mut Vec<Act>) {
        let Some(Connection::Tunnel(tunnel)) = self.connections.get_mut(&conn) else { return };
        let mut inbox = std::mem::take(&mut tunnel.inbox);
        let mut frames = Frames::new(&mut inbox);
        loop {
            match frames.take_next() {
                Ok(Some(frame)) => tunnel.take(Channel::Stream, frame.kind, frame.payload, now, acts),
                Ok(None) => break,
                Err(_) => {
                    tunnel.session.close(CloseReason::ProtocolError);
                    break;
                }
            }
        }
        tunnel.inbox = frames.rest().to_vec();
        self.drain(conn, now, acts);
    }

    /// Takes in one datagram.
    pub(crate) fn receive_datagram(
        &mut self,
        remote: SocketAddr,
        datagram: &mut [u8],
        now: Instant,
        acts: &mut Vec<Act>,
    ) {
        let path = Path { remote, local: None, socket: 0 };
        if dtls::is_client_hello(datagram) {
            return self.greet(path, datagram, now, acts);
        }
        let known = match RecordHeader::parse(datagram) {
            None => return self.strays.count(DropReason::NotARecord),
            Some(header) if header.epoch == 0 => {
                self.handshakes.get(&remote).or_else(|| self.remotes.get(&remote)).copied()
            }
            Some(_) => self
                .remotes
                .get(&remote)
                .or_else(|| self.handshakes.get(&remote))
                .copied()
                .or_else(|| self.roamer(remote, datagram)),
        };
        let Some(conn) = known else { return self.strays.count(DropReason::UnknownAddress) };
        let Some(Connection::Tunnel(tunnel)) = self.connections.get_mut(&conn) else { return };
        for record in dtls::records(datagram) {
            let Some(leg) = &mut tunnel.leg else { return };
            match leg.channel.handle_record(path, record, now) {
                Opened::Application(plaintext) => {
                    if let Some((kind, payload)) = plaintext.split_first_mut() {
                        tunnel.take(Channel::Datagram, FrameKind::from_byte(*kind), payload, now, acts);
                    }
                }
                Opened::Handled => {}
                Opened::Dropped(reason) => tunnel.session.count_drop(reason),
            }
        }
        self.drain(conn, now, acts);
    }

    fn roamer(&self, remote: SocketAddr, datagram: &mut [u8]) -> Option<ConnId> {
        let at_host = self.remotes.iter().filter(|(other, _)| other.ip() == remote.ip());
        let candidates: Vec<ConnId> = at_host.map(|(_, conn)| *conn).collect();
        let first = dtls::records(datagram).next()?;
        (candidates.len() <= MAX_ROAMERS).then_some(())?;
        candidates.into_iter().find(|conn| match self.connections.get(conn) {
            Some(Connection::Tunnel(tunnel)) => {
                tunnel.leg.as_ref().is_some_and(|leg| leg.channel.recognizes(first, &mut Vec::new()))
            }
            Some(Connection::Front(_)) | None => false,
        })
    }

    fn greet(&mut self, path: Path, datagram: &[u8], now: Instant, acts: &mut Vec<Act>) {
        let Some(hello) = ClientHello::parse(datagram) else {
            return self.strays.count(DropReason::HelloRefused);
        };
        let app_id = hello.app_id().and_then(|app_id| <[u8; 32]>::try_from(app_id).ok());
        let Some(conn) = app_id.and_then(|app_id| self.apps.get(&app_id).copied()) else {
            return self.strays.count(DropReason::UnknownAppId);
        };
        match self.keys.greet(path.remote, datagram, &mut self.out) {
            Greeting::Answer => {
                let bytes = self.out.as_slice().to_vec();
                if bytes.len() > datagram.len() {
                    acts.push(Act::Broken(format!(
                        "{} bytes answer a hello of {}",
                        bytes.len(),
                        datagram.len()
                    )));
                }
                acts.push(Act::Datagram { path, bytes });
            }
            Greeting::Dropped(reason) => self.strays.count(reason),
            Greeting::Verified(hello) => {
                let entropy = random(&mut self.rng);
                if let Some(Connection::Tunnel(tunnel)) = self.connections.get_mut(&conn)
                    && let Some(leg) = &mut tunnel.leg
                    && let Err(reason) = leg.channel.handle_hello(path, &hello, entropy, now)
                {
                    tunnel.session.count_drop(reason);
                }
                self.drain(conn, now, acts);
            }
        }
    }

    /// Takes in a packet of the network for a client.
    pub(crate) fn deliver(&mut self, packet: &[u8], now: Instant, acts: &mut Vec<Act>) {
        let destination = packet::Packet::parse(packet).ok().map(|view| view.destination());
        let Some(conn) = destination.and_then(|address| self.inside.get(&address).copied()) else {
            return self.strays.count(DropReason::NoSession);
        };
        let Some(Connection::Tunnel(tunnel)) = self.connections.get_mut(&conn) else { return };
        self.out.fill(packet);
        let sent = tunnel.audit.outbound(&mut tunnel.session, &mut self.out, now);
        match sent {
            Ok(channel) => tunnel.put(conn, channel, self.out.as_slice(), acts),
            Err(DropReason::TooBig) => {
                let mut answer = PacketBuf::new(2_048);
                let is_v4 = destination.is_some_and(|address| address.is_ipv4());
                let mut own = self.registry.pools().map(|pool| pool.server_address());
                if let Some(from) = own.find(|address| address.is_ipv4() == is_v4)
                    && packet::too_big(packet, tunnel.session.mtu(), from, &mut answer)
                {
                    acts.push(Act::Answer);
                }
            }
            Err(_) => {}
        }
        self.drain(conn, now, acts);
    }

    /// Acts on every timer that is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.registry.handle_timeout(now);
        self.desk.handle_timeout(now);
        if now >= self.rotate_at {
            self.keys.rotate(random(&mut self.rng));
            self.rotate_at = now + ROTATION;
        }
    }

    /// Acts on the timers of one connection.
    pub(crate) fn handle_conn_timeout(&mut self, conn: ConnId, now: Instant, acts: &mut Vec<Act>) {
        match self.connections.get_mut(&conn) {
            None => {}
            Some(Connection::Front(front)) if now >= front.until => self.drop_front(conn, acts),
            Some(Connection::Front(_)) => {}
            Some(Connection::Tunnel(tunnel)) => {
                tunnel.session.handle_timeout(now);
                if let Some(leg) = &mut tunnel.leg {
                    leg.channel.handle_timeout(now);
                }
                self.drain(conn, now, acts);
            }
        }
    }

    /// When [`Server::handle_timeout`] is wanted.
    pub(crate) fn deadline(&self) -> Instant {
        let machines = [self.registry.poll_timeout(), self.desk.poll_timeout()];
        machines.into_iter().flatten().min().map_or(self.rotate_at, |at| at.min(self.rotate_at))
    }

    /// When [`Server::handle_conn_timeout`] is wanted.
    pub(crate) fn conn_deadline(&self, conn: ConnId) -> Option<Instant> {
        match self.connections.get(&conn)? {
            Connection::Front(front) => Some(front.until),
            Connection::Tunnel(tunnel) => {
                let leg = tunnel.leg.as_ref().and_then(|leg| leg.channel.poll_timeout());
                let session = tunnel.session.poll_timeout().map(|deadline| deadline.at);
                session.into_iter().chain(leg.map(|deadline| deadline.at)).min()
            }
        }
    }

    /// Drains one tunnel: transmit, event.
    fn drain(&mut self, conn: ConnId, now: Instant, acts: &mut Vec<Act>) {
        self.touched.push(conn);
        let Some(Connection::Tunnel(tunnel)) = self.connections.get_mut(&conn) else { return };
        tunnel.drain_leg(&mut self.out, acts);
        Self::tell_directory(&mut self.remotes, &mut self.handshakes, conn, tunnel);
        while let Some(channel) = tunnel.session.poll_transmit(&mut self.out) {
            tunnel.put(conn, channel, self.out.as_slice(), acts);
        }
        if let Some(complaint) = tunnel.audit.check(&tunnel.session) {
            acts.push(Act::Broken(complaint));
        }
        let Some(SessionEvent::Closed { reason }) = tunnel.session.poll_event() else {
            if tunnel.session.state() != SessionState::Open {
                acts.push(Act::Broken(format!("{conn:?} is drained, over, and says nothing")));
            }
            return;
        };
        if let Some(leg) = &mut tunnel.leg {
            leg.channel.close();
        }
        tunnel.drain_leg(&mut self.out, acts);
        Self::tell_directory(&mut self.remotes, &mut self.handshakes, conn, tunnel);
        if let Some(leg) = &tunnel.leg {
            self.apps.remove(&leg.app_id);
        }
        self.remotes.retain(|_, holder| *holder != conn);
        self.handshakes.retain(|_, holder| *holder != conn);
        self.inside.retain(|_, holder| *holder != conn);
        let (id, generation, cookie) = (tunnel.session.id(), tunnel.generation, tunnel.cookie);
        self.registry.detach(id, generation, reason, tunnel.session.counters(), now);
        acts.push(Act::Told(Told::Ended { cookie, conn, reason }));
        acts.push(Act::Hangup { conn });
        self.connections.remove(&conn);
    }

    fn tell_directory(
        remotes: &mut BTreeMap<SocketAddr, ConnId>,
        handshakes: &mut BTreeMap<SocketAddr, ConnId>,
        conn: ConnId,
        tunnel: &mut Tunnel,
    ) {
        let Some(leg) = &mut tunnel.leg else { return };
        let places = [
            (remotes, &mut leg.settled, leg.channel.path()),
            (handshakes, &mut leg.begun, leg.channel.pending_path()),
        ];
        for (map, told, path) in places {
            let is_at = path.map(|path| path.remote);
            if is_at == *told {
                continue;
            }
            if let Some(old) = told.take()
                && map.get(&old) == Some(&conn)
            {
                map.remove(&old);
            }
            if let Some(new) = is_at {
                map.insert(new, conn);
            }
            *told = is_at;
        }
    }

    pub(crate) fn tunnels(&self) -> impl Iterator<Item = (ConnId, &Tunnel)> {
        self.connections.iter().filter_map(|(conn, connection)| match connection {
            Connection::Tunnel(tunnel) => Some((*conn, &**tunnel)),
            Connection::Front(_) => None,
        })
    }

    /// What is left in the tables, for the end of a run.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let pools = self.registry.pools().map(|pool| pool.stats().leased).sum::<u64>();
        let tables = [
            ("connections", self.connections.len() as u64),
            ("App-IDs", self.apps.len() as u64),
            ("remote addresses", self.remotes.len() as u64),
            ("handshakes", self.handshakes.len() as u64),
            ("inside addresses", self.inside.len() as u64),
            ("records", self.registry.len() as u64),
            ("attached", self.registry.attached() as u64),
            ("leases", pools),
        ];
        tables.into_iter().filter(|(_, len)| *len > 0).map(|(table, len)| format!("{len} {table}")).collect()
    }
}

pub(crate) fn random(rng: &mut Rng) -> [u8; 32] {
    std::array::from_fn(|_| rng.u8(..))
}
