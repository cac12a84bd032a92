//! What all workers of a server share. Locked for logins, connects and ends, never for a packet.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use mstunnel_proto::auth::{Health, LoginDesk};
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::close::CloseReason;
use mstunnel_proto::dtls::{CookieKeys, Greeting, Suite};
use mstunnel_proto::session::{Detached, Ended, Registry, SessionCounters, SessionId, Standing};
use tokio::sync::{Notify, broadcast};

use super::buffers::Buffers;
use super::datagrams::Directory;
use super::gate::Gate;
use super::live::LiveTable;
use super::mailbox::Mailbox;
use super::strays::Strays;
use crate::admin::{Event, EventKind, ServerState};
use crate::identity::Verifier;
use crate::logs::{RateLimit, SourceRateLimit};
use crate::serve::effective::Effective;

/// Events that a slow reader of `mst-cli server show events` may be behind.
const EVENTS_KEPT: usize = 1024;

/// The server's common state.
pub(crate) struct Shared {
    /// What the present configuration means; swapped whole at a reload.
    pub(crate) effective: ArcSwap<Effective>,
    /// Answers who somebody is.
    pub(crate) verifier: ArcSwap<Verifier>,
    /// Where logins are verified: never a worker.
    pub(crate) control: tokio::runtime::Handle,
    pub(crate) gate: Gate,
    pub(crate) live: LiveTable,
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) mailboxes: Box<[Mailbox]>,
    /// Tunnels on their way from a worker to another.
    pub(crate) moving: AtomicUsize,
    pub(crate) strays: Strays,
    pub(crate) directory: Arc<Directory>,
    /// The keys of the cookies in HelloVerifyRequest; locked for hellos.
    cookie_keys: RwLock<CookieKeys>,
    /// Whether there are UDP sockets.
    pub(crate) has_datagrams: bool,
    pub(crate) totals: Totals,
    pub(crate) complaints: Complaints,
    pub(crate) started: Instant,
    /// Wakes the task that watches over cookies and leases, and the store.
    pub(crate) registry_changed: Notify,
    desk: Mutex<LoginDesk>,
    registry: Mutex<Registry>,
    stage: AtomicU8,
    stage_changed: Notify,
    events: broadcast::Sender<Event>,
}

/// The parts a server is made of.
pub(crate) struct Parts {
    pub(crate) effective: Effective,
    pub(crate) verifier: Verifier,
    pub(crate) control: tokio::runtime::Handle,
    pub(crate) desk: LoginDesk,
    pub(crate) registry: Registry,
    pub(crate) workers: usize,
    pub(crate) max_packet: usize,
    pub(crate) cookie_keys: CookieKeys,
    pub(crate) has_datagrams: bool,
}

impl Shared {
    /// Joins the parts.
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            effective: ArcSwap::from_pointee(parts.effective),
            verifier: ArcSwap::from_pointee(parts.verifier),
            control: parts.control,
            gate: Gate::default(),
            live: LiveTable::default(),
            buffers: Arc::new(Buffers::new(parts.max_packet + 1 + Suite::PskAes256Gcm.overhead())),
            moving: AtomicUsize::new(0),
            mailboxes: (0..parts.workers).map(|_| Mailbox::default()).collect(),
            strays: Strays::default(),
            directory: Arc::default(),
            cookie_keys: RwLock::new(parts.cookie_keys),
            has_datagrams: parts.has_datagrams,
            totals: Totals::default(),
            complaints: Complaints::default(),
            started: Instant::now(),
            registry_changed: Notify::new(),
            desk: Mutex::new(parts.desk),
            registry: Mutex::new(parts.registry),
            stage: AtomicU8::new(ServerState::Running as u8),
            stage_changed: Notify::new(),
            events: broadcast::channel(EVENTS_KEPT).0,
        }
    }

    /// The open login conversations.
    pub(crate) fn desk(&self) -> MutexGuard<'_, LoginDesk> {
        lock(&self.desk)
    }

    /// The sessions.
    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.registry)
    }

    /// What to do with a datagram that starts with a ClientHello; see [`CookieKeys::greet`].
    pub(crate) fn greet<'a>(
        &self,
        remote: SocketAddr,
        datagram: &'a [u8],
        answer: &mut PacketBuf,
    ) -> Greeting<'a> {
        self.cookie_keys.read().unwrap_or_else(PoisonError::into_inner).greet(remote, datagram, answer)
    }

    /// Takes a new key for cookies.
    pub(crate) fn rotate_cookie_keys(&self, entropy: [u8; 32]) {
        self.cookie_keys.write().unwrap_or_else(PoisonError::into_inner).rotate(entropy);
    }

    /// Whether new sessions are taken.
    pub(crate) fn stage(&self) -> ServerState {
        match self.stage.load(Ordering::Acquire) {
            running if running == ServerState::Running as u8 => ServerState::Running,
            draining if draining == ServerState::Draining as u8 => ServerState::Draining,
            _ => ServerState::Stopping,
        }
    }

    /// Moves on towards the end; never back.
    pub(crate) fn advance(&self, stage: ServerState) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
        if stage != ServerState::Running {
            self.desk().set_health(Health::Draining);
        }
        self.stage_changed.notify_waiters();
    }

    /// Waits until the server has at least reached `stage`.
    pub(crate) async fn reached(&self, stage: ServerState) {
        loop {
            let changed = self.stage_changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.stage() as u8 >= stage as u8 {
                return;
            }
            changed.await;
        }
    }

    /// Notes that a connection ended, and tells those who listen.
    pub(crate) fn detach(
        &self,
        standing: Standing,
        reason: CloseReason,
        counters: &SessionCounters,
    ) -> Detached {
        let now = Instant::now();
        let detached = self.registry().detach(standing.id, standing.generation, reason, counters, now);
        self.registry_changed.notify_one();
        self.totals.count_close(reason, counters);
        detached
    }

    /// Ends a session for good: its cookie is dead when this returns, its connection soon.
    pub(crate) fn end(&self, id: SessionId, reason: CloseReason) -> bool {
        let ended = self.registry().end(id, Instant::now());
        self.registry_changed.notify_one();
        match ended {
            Ended::Unknown => false,
            Ended::Idle => true,
            Ended::Live(_) => {
                if let Some(live) = self.live.get(id) {
                    live.close(reason);
                }
                true
            }
        }
    }

    /// Tells an event to whoever listens.
    pub(crate) fn tell(&self, told: Told<'_>) {
        // Nobody listening is the usual case.
        let _ = self.events.send(Event {
            unix_seconds: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            kind: told.kind,
            id: told.id.map(SessionId::get),
            user: told.user.map(str::to_owned),
            remote: told.remote,
            reason: told.reason.map(str::to_owned),
        });
    }

    /// The events from now on.
    pub(crate) fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }
}

/// An event in borrowed words.
pub(crate) struct Told<'a> {
    pub(crate) kind: EventKind,
    pub(crate) id: Option<SessionId>,
    pub(crate) user: Option<&'a str>,
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) reason: Option<&'a str>,
}

/// Counters since the start.
#[derive(Default)]
pub(crate) struct Totals {
    pub(crate) accepted: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) handshakes_failed: AtomicU64,
    pub(crate) logins_ok: AtomicU64,
    pub(crate) logins_failed: AtomicU64,
    ended: Mutex<EndedTotals>,
}

#[derive(Default)]
struct EndedTotals {
    counters: SessionCounters,
    closes: BTreeMap<&'static str, u64>,
}

impl Totals {
    fn count_close(&self, reason: CloseReason, counters: &SessionCounters) {
        let mut ended = lock(&self.ended);
        ended.counters.merge(counters);
        *ended.closes.entry(reason.name()).or_default() += 1;
    }

    /// What passed on connections that have ended.
    pub(crate) fn ended(&self) -> SessionCounters {
        lock(&self.ended).counters.clone()
    }

    /// How connections ended, by reason.
    pub(crate) fn closes(&self) -> BTreeMap<String, u64> {
        lock(&self.ended).closes.iter().map(|(&name, &count)| (name.to_owned(), count)).collect()
    }
}

/// How often lines that clients can cause are written (R58). The counters and the events leave none out.
pub(crate) struct Complaints {
    pub(crate) login_failed: SourceRateLimit,
    pub(crate) login_refused: RateLimit,
    pub(crate) no_address: RateLimit,
}

impl Default for Complaints {
    fn default() -> Self {
        Self {
            // A person who mistypes is slower.
            login_failed: SourceRateLimit::new(Duration::from_secs(1)),
            login_refused: RateLimit::once_a_minute(),
            no_address: RateLimit::once_a_minute(),
        }
    }
}

/// Adds one to a counter.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Locks over a panic of another holder: the tables are consistent between calls, and a defect in one
/// session's code must not end the others (R82).
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The address to score and to log: a mapped IPv4 address as IPv4.
pub(crate) fn canonical(remote: SocketAddr) -> SocketAddr {
    SocketAddr::new(remote.ip().to_canonical(), remote.port())
}
