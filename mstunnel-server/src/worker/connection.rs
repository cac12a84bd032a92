//! From a CONNECT to the end of the connection: lease, headers, tunnel, farewell.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

use aws_lc_rs::rand;
use mstunnel_proto::auth::{Admission, Cookie, CookieHash};
use mstunnel_proto::close::CloseReason;
use mstunnel_proto::connect::{ConnectRequest, DtlsKey, Refusal, TUNNEL_PATH};
use mstunnel_proto::dtls::{Keying, Suite, SuiteHeader};
use mstunnel_proto::http::{Request, Response};
use mstunnel_proto::pool::OwnerKey;
use mstunnel_proto::session::{
    Admit, Attach, AttachRefused, Attachment, Leases, Session, SessionCounters, SessionParams, Standing,
};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::WorkerContext;
use super::datagrams::{APP_ID_BYTES, DatagramLeg, DatagramOffer, Holder};
use super::front;
use super::gate::Pass;
use super::inward::Inward;
use super::live::{Live, Who};
use super::mailbox::Letter;
use super::records::Records;
use super::shared::{Shared, Told};
use super::tunnel::{Tunnel, Turn};
use crate::admin::{EventKind, ServerState};
use crate::serve::effective::Effective;

/// What the key of the datagram channel is exported under. protocol.md 5.1.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-openconnect-psk";

/// The longest user agent kept for display.
const MAX_USER_AGENT: usize = 128;

/// An accepted tunnel.
pub(crate) struct Opened {
    tunnel: Rc<RefCell<Tunnel>>,
    papers: Papers,
}

/// A tunnel between two workers.
pub(crate) struct Moving {
    tunnel: Tunnel,
    papers: Papers,
}

/// What goes with a tunnel to its end.
struct Papers {
    number: u64,
    live: Arc<Live>,
    standing: Standing,
    attachment: Attachment,
    remote: SocketAddr,
}

/// Answers a CONNECT request; `None` when it is refused or the client is gone.
pub(crate) async fn open(
    mut tls: TlsStream<TcpStream>,
    request: Request,
    rest: Vec<u8>,
    remote: SocketAddr,
    pass: Pass,
    context: &WorkerContext,
) -> Option<Opened> {
    let effective = context.shared.effective.load_full();
    let (connect, attachment) = match attach(&request, remote, &effective, context) {
        Ok(accepted) => accepted,
        Err(refused) => {
            // The client reads the refusal or is gone; both are the end.
            let _ = front::send(&mut tls, &refused).await;
            front::finish(tls).await;
            return None;
        }
    };
    let standing =
        Standing { id: attachment.id, generation: attachment.generation, holder: holder(context.index) };
    let now = Instant::now();
    let number = context.next_connection();
    let offer = offer(&tls, &connect, &effective, &context.shared);
    let channel = offer.as_ref().map(|offer| (offer.app_id, offer.key));
    let head = effective.connect_params(&connect, &attachment, channel, remote, now);
    let mtu = head.mtu.get();
    // Before the client reads of it: its hello may be faster than our next line.
    let leg = offer.map(|offer| {
        let holder = Holder { worker: context.index, tunnel: number };
        DatagramLeg::new(offer, Arc::clone(&context.shared.directory), holder)
    });
    if front::send_bytes(&mut tls, &head.encode(&connect)).await.is_err() {
        context.shared.detach(standing, CloseReason::StreamClosed, &SessionCounters::default());
        return None;
    }
    drop(pass);
    let (tcp, tls) = tls.into_inner();
    let live = Arc::new(Live::new(Who {
        id: attachment.id,
        worker: context.index,
        remote,
        user_agent: printable(connect.user_agent.as_deref().unwrap_or_default()),
        cipher: cipher_of(&tls),
        since: now,
        mtu,
    }));
    let params =
        SessionParams { id: attachment.id, leases: attachment.leases, mtu, ends_at: attachment.ends_at };
    let session = Session::new(effective.session(&connect), params, now);
    let tunnel = Tunnel::new(session, Records::new(tcp, tls), leg, &rest, Arc::clone(&live));
    audit_open(&context.shared, &attachment, remote);
    let tunnel = Rc::new(RefCell::new(tunnel));
    Some(Opened { tunnel, papers: Papers { number, live, standing, attachment, remote } })
}

impl Opened {
    /// Serves the tunnel to its end, or until it moves.
    pub(crate) async fn run(self, context: Rc<WorkerContext>) {
        self.enter(&context);
        self.serve(context).await;
    }

    /// Lets packets and datagrams find the tunnel at this worker.
    fn enter(&self, context: &WorkerContext) {
        let Self { tunnel, papers: Papers { number, live, standing, attachment, .. } } = self;
        let addresses = attachment.leases;
        live.move_to(context.index);
        // Under one lock: whoever takes the session over or ends it either finds this connection entered,
        // or has done so before and is found here. Else the older one would take the newer one's packets.
        let registry = context.shared.registry();
        if let Some(reason) = registry.lost_meanwhile(*standing) {
            live.close(reason);
        } else {
            context.shared.live.enter(live, addresses.iter());
            context.tunnels.enter(*number, addresses, tunnel);
        }
    }

    async fn serve(mut self, context: Rc<WorkerContext>) {
        while let Some(worker) = self.drive(&context).await {
            let Some(back) = self.hand_over(worker, &context) else { return };
            self = back;
            self.enter(&context);
        }
    }

    /// Gives the tunnel to another worker; returns it when it has to stay.
    fn hand_over(self, worker: usize, context: &WorkerContext) -> Option<Self> {
        let Self { tunnel, papers } = self;
        let tunnel = match Rc::try_unwrap(tunnel) {
            Ok(tunnel) => tunnel.into_inner(),
            Err(tunnel) => return Some(Self { tunnel, papers }),
        };
        let shared = &context.shared;
        // Before the stage is asked: a stop that is not seen here sees the tunnel and waits for it.
        shared.moving.fetch_add(1, Ordering::SeqCst);
        papers.live.move_to(worker);
        let letter = Letter::Tunnel(Box::new(Moving { tunnel, papers }));
        let left = match shared.mailboxes.get(worker) {
            Some(mailbox) if shared.stage() == ServerState::Running => mailbox.put(letter),
            Some(_) | None => Err(letter),
        };
        let Err(back) = left else { return None };
        shared.moving.fetch_sub(1, Ordering::SeqCst);
        let back = back.into_tunnel().expect("the letter that was put comes back");
        Some(Self { tunnel: Rc::new(RefCell::new(back.tunnel)), papers: back.papers })
    }

    /// Runs the tunnel in a task of its own, so that a defect ends this session alone (R82). Returns the worker that it moves
    /// to, or nothing when it is over.
    async fn drive(&self, context: &Rc<WorkerContext>) -> Option<usize> {
        let Self { tunnel, papers: Papers { number, live, standing, attachment, remote } } = self;
        let (number, addresses) = (*number, attachment.leases);
        let attached = context
            .bench
            .egress
            .attach(attachment.id, addresses.iter(), || Rc::new(Inward::new(tunnel, &context.bench)));
        if context.shared.stage() == ServerState::Stopping {
            // The stop looked for live connections before this one was entered.
            live.close(CloseReason::ServerShutdown);
        }
        let turns = turns(Rc::clone(tunnel), number, addresses, Rc::clone(context));
        let ended = tokio::task::spawn_local(turns).await;
        drop(attached);
        let closed = match ended {
            Ok(Departure::Moves(worker)) => return Some(worker),
            Ok(Departure::Closed(reason)) => Ok(reason),
            Err(panic) => Err(panic),
        };
        context.tunnels.leave(number, addresses);
        context.shared.live.leave(live, addresses.iter());
        let (reason, counters) = match closed {
            Ok(reason) => (reason, tunnel.borrow_mut().finish(&context.bench)),
            Err(panic) => {
                tracing::error!(session = %attachment.id, %panic, "a defect ended a session");
                (CloseReason::InternalError, live.counters())
            }
        };
        context.shared.detach(*standing, reason, &counters);
        audit_close(&context.shared, attachment, *remote, reason, &counters);
        None
    }
}

impl Moving {
    /// Arrives at the calling worker, which serves the tunnel from now on.
    pub(crate) fn settle(self, context: &Rc<WorkerContext>) {
        let Self { tunnel, papers } = self;
        let shared = &context.shared;
        match tunnel.settle(Holder { worker: context.index, tunnel: papers.number }) {
            Ok(tunnel) => {
                let opened = Opened { tunnel: Rc::new(RefCell::new(tunnel)), papers };
                opened.enter(context);
                tracing::debug!(session = %opened.papers.attachment.id, worker = context.index, "moved to its datagrams");
                tokio::task::spawn_local(opened.serve(Rc::clone(context)));
            }
            Err(error) => {
                let Papers { live, standing, attachment, remote, .. } = papers;
                tracing::warn!(session = %attachment.id, %error, "a connection could not be taken along");
                let counters = live.counters();
                shared.live.leave(&live, attachment.leases.iter());
                shared.detach(standing, CloseReason::StreamClosed, &counters);
                audit_close(shared, &attachment, remote, CloseReason::StreamClosed, &counters);
            }
        }
        shared.moving.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Why the drive loop ended.
enum Departure {
    Closed(CloseReason),
    Moves(usize),
}

/// Decides a CONNECT: the cookie first, before anything is spent on it (R30).
fn attach(
    request: &Request,
    remote: SocketAddr,
    effective: &Effective,
    context: &WorkerContext,
) -> Result<(ConnectRequest, Attachment), Response> {
    if request.path() != TUNNEL_PATH {
        return Err(Response::new(404, "Not found").close());
    }
    let shared = &context.shared;
    let cookie = request.cookie("webvpn").and_then(Cookie::parse).map(|cookie| cookie.hash());
    let Some(cookie) = cookie.filter(|cookie| shared.registry().knows(cookie, Instant::now())) else {
        return Err(Refusal::Unauthorized.response());
    };
    let goes_down = match shared.stage() {
        ServerState::Running => false,
        ServerState::Draining => shared.registry().is_new(&cookie, Instant::now()),
        ServerState::Stopping => true,
    };
    if goes_down {
        return Err(Refusal::Unavailable("the server is going down for maintenance").response());
    }
    let connect = ConnectRequest::parse(request).map_err(|error| {
        tracing::debug!(%remote, %error, "bad CONNECT request");
        error.response()
    })?;
    let carries_ipv6 = effective.carries_ipv6(&connect, remote);
    if !connect.families.v4 && !carries_ipv6 {
        return Err(Refusal::Unavailable("the link is too small for IPv6").response());
    }
    let attach = Attach {
        cookie,
        wants_v4: connect.families.v4,
        wants_v6: connect.families.v6 && carries_ipv6,
        holder: holder(context.index),
    };
    let attached = {
        // Under one lock, as in `Opened::enter`: what is live is older, and not who takes over from this one meanwhile.
        let mut registry = shared.registry();
        let attached = registry.attach(attach, Instant::now());
        if let Ok(Attachment { id, replaced: Some(_), .. }) = &attached
            && let Some(old) = shared.live.get(*id)
        {
            old.close(CloseReason::TakenOver);
        }
        attached
    };
    shared.registry_changed.notify_one();
    match attached {
        Ok(attachment) => Ok((connect, attachment)),
        Err(AttachRefused::UnknownCookie) => Err(Refusal::Unauthorized.response()),
        Err(AttachRefused::TooManySessions { .. }) => {
            Err(Refusal::Unavailable("too many sessions of this user").response())
        }
        Err(AttachRefused::NoAddress) => {
            if let Some(left_out) = shared.complaints.no_address.permit() {
                tracing::warn!(left_out, "no free address in the pool");
            }
            Err(Refusal::Unavailable("no free address").response())
        }
    }
}

/// The datagram channel for a client that asked for one, with a secret of this TLS connection (R13).
fn offer(
    tls: &TlsStream<TcpStream>,
    connect: &ConnectRequest,
    effective: &Effective,
    shared: &Shared,
) -> Option<DatagramOffer> {
    if !(shared.has_datagrams && effective.offers_datagrams()) {
        return None;
    }
    // Without randomness or a key the client stays on TLS.
    let mut app_id = [0; APP_ID_BYTES];
    rand::fill(&mut app_id).ok()?;
    if connect.psk_negotiate {
        let psk = tls.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None).ok()?;
        return Some(DatagramOffer { app_id, key: DtlsKey::Exported, keying: Keying::psk(psk) });
    }
    let master_secret = connect.master_secret.as_ref()?;
    let (header, name, suite) = legacy_suite(connect)?;
    let key = DtlsKey::Preset { header, suite: name };
    Some(DatagramOffer { app_id, key, keying: Keying::preset(**master_secret, app_id, suite) })
}

/// The best suite of those that a client of the legacy mode names.
fn legacy_suite(connect: &ConnectRequest) -> Option<(SuiteHeader, &'static str, Suite)> {
    Suite::legacy().find(|(header, name, _)| {
        let named = match header {
            SuiteHeader::Dtls => &connect.dtls_suites,
            SuiteHeader::Dtls12 => &connect.dtls12_suites,
        };
        named.iter().any(|other| other == name)
    })
}

/// The drive loop: a turn whenever the socket, a timer or somebody else wants one.
async fn turns(
    tunnel: Rc<RefCell<Tunnel>>,
    number: u64,
    addresses: Leases,
    context: Rc<WorkerContext>,
) -> Departure {
    let departure = until_gone(&tunnel, &context).await;
    // In the turn that said goodbye: a packet that comes now is for who took the session over elsewhere.
    context.tunnels.leave(number, addresses);
    departure
}

async fn until_gone(tunnel: &RefCell<Tunnel>, context: &WorkerContext) -> Departure {
    let timer = tokio::time::sleep(std::time::Duration::ZERO);
    tokio::pin!(timer);
    let mut turn = std::future::poll_fn(|cx| {
        let mut tunnel = tunnel.borrow_mut();
        if let Poll::Ready(turn) = tunnel.poll(cx, context, Instant::now()) {
            return Poll::Ready(turn);
        }
        if let Some(at) = tunnel.arm() {
            let at = tokio::time::Instant::from_std(at);
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    });
    loop {
        match (&mut turn).await {
            // A task that wakes itself is asked again, some sixty times, before the runtime looks what else has arrived. One
            // that yields comes after that (R57).
            Turn::CutShort => tokio::task::yield_now().await,
            Turn::Moves(worker) => return Departure::Moves(worker),
            Turn::Closed(reason) => return Departure::Closed(reason),
        }
    }
}

/// What an admission is to the registry.
pub(crate) fn admit_of(admission: &Admission, cookie: CookieHash) -> Admit {
    Admit {
        user: admission.user.clone(),
        groups: admission.groups.clone(),
        group: admission.group.clone(),
        method: admission.method,
        cookie,
        owner: OwnerKey::of_device(&admission.user, ""),
    }
}

fn holder(worker: usize) -> u32 {
    u32::try_from(worker).expect("there are a few workers")
}

fn cipher_of(tls: &rustls::ServerConnection) -> String {
    let version = tls.protocol_version().map_or("TLS", |version| version.as_str().unwrap_or("TLS"));
    let suite = tls.negotiated_cipher_suite().map(|suite| suite.suite());
    let suite = suite.as_ref().and_then(|suite| suite.as_str()).unwrap_or("unknown");
    format!("{version} {suite}")
}

/// Peer text for tables and logs: printable ASCII, bounded.
fn printable(text: &str) -> String {
    text.chars().filter(|c| (' '..='~').contains(c)).take(MAX_USER_AGENT).collect()
}

fn audit_open(shared: &Shared, attachment: &Attachment, remote: SocketAddr) {
    let first = attachment.generation == 1;
    let (v4, v6) = (attachment.leases.v4, attachment.leases.v6);
    tracing::info!(session = %attachment.id, user = attachment.user, %remote, ?v4, ?v6, first, "open");
    shared.tell(Told {
        kind: if first { EventKind::Open } else { EventKind::Reconnect },
        id: Some(attachment.id),
        user: Some(&attachment.user),
        remote: Some(remote),
        reason: None,
    });
}

fn audit_close(
    shared: &Shared,
    attachment: &Attachment,
    remote: SocketAddr,
    reason: CloseReason,
    counters: &SessionCounters,
) {
    let (bytes_in, bytes_out) = (counters.bytes_in, counters.bytes_out);
    let reason = reason.name();
    tracing::info!(session = %attachment.id, user = attachment.user, %remote, reason, bytes_in, bytes_out, "close");
    shared.tell(Told {
        kind: EventKind::Close,
        id: Some(attachment.id),
        user: Some(&attachment.user),
        remote: Some(remote),
        reason: Some(reason),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: R25, R58
    #[test]
    fn peer_text_is_bounded_and_printable() {
        assert_eq!(printable("Open\x1b[31m\r\nAgent é"), "Open[31mAgent ");
        assert_eq!(printable(&"x".repeat(1000)).len(), MAX_USER_AGENT);
    }
}
