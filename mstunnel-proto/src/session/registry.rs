//! What outlives a connection: cookies, leases and limits of every session of a server.
//!
//! ```text
//!            admit            attach                     detach (cookie waits)
//!  (login) --------> Admitted --------> Attached  <----------------------------> Detached
//!                       |                  |  ^ attach: takeover                    |
//!                       | cookie timeout   |  +--- same lease, newer generation     | reconnect window,
//!                       v                  v end, session timeout                   v session timeout
//!                     gone               gone                                     gone
//! ```
//!
//! A record is found by the hash of its cookie; the cookie itself is never kept. A connection is known
//! by its generation: what an older connection reports after a takeover changes nothing.
//!
//! Limits: [`RegistryConfig::max_sessions`] records in all; for each user `max_per_user` attached ones,
//! [`MAX_WAITING_PER_USER`] that wait for a first CONNECT, and that many, or one in [`LOST_SHARE`] of what
//! there is, that wait for a reconnect.
//!
//! # Source
//! protocol.md 4.6, 4.7; R4, R6, R7, R10, R31, R40, R50, R51.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::{Leases, SessionCounters, SessionId};
use crate::auth::{AuthMethod, CookieHash};
use crate::close::{CloseReason, CookieFate};
use crate::pool::{HeldBack, Lease, OwnerKey, Pool};

/// Cookies of one user that wait for their first CONNECT: the oldest gives way to a new login, so
/// that a script with a valid password cannot fill the table.
pub const MAX_WAITING_PER_USER: usize = 16;

/// The share of the addresses, and of the records, that the lost sessions of one user may hold, for a script
/// that signs in, connects and hangs up: the oldest gives way. At least [`MAX_WAITING_PER_USER`], so that the
/// devices of a person, and in a large pool those of a shared account, find their sessions again.
pub const LOST_SHARE: usize = 16;

/// How long after its session timeout an attached session ends here, if its connection has not ended it: far
/// longer than a busy holder takes.
const LATEST_END: Duration = Duration::from_secs(60);

/// The limits and windows of a [`Registry`].
#[derive(Clone, Debug)]
pub struct RegistryConfig {
    /// How long a cookie waits for its first CONNECT and for a reconnect.
    pub cookie_timeout: Duration,
    /// Total age of a session since authentication; `None` is unlimited.
    pub session_timeout: Option<Duration>,
    /// The most records at one time.
    pub max_sessions: usize,
    /// The most attached sessions of one user; `None` is unlimited.
    pub max_per_user: Option<usize>,
}

/// A completed authentication.
#[derive(Clone, Debug)]
pub struct Admit {
    /// The canonical user name.
    pub user: String,
    /// The groups the user is in.
    pub groups: Vec<String>,
    /// The group chosen at login.
    pub group: Option<String>,
    /// How the user proved who they are.
    pub method: AuthMethod,
    /// The hash of the cookie that was made for it.
    pub cookie: CookieHash,
    /// Keeps the same user on the same addresses.
    pub owner: OwnerKey,
}

/// What a CONNECT asks for.
#[derive(Clone, Copy, Debug)]
pub struct Attach {
    /// The hash of the cookie it carries.
    pub cookie: CookieHash,
    /// Whether the client takes an IPv4 address.
    pub wants_v4: bool,
    /// Whether the client takes an IPv6 address (and the MTU allows one).
    pub wants_v6: bool,
    /// Who will hold the connection; opaque here, given back with whatever concerns it.
    pub holder: u32,
}

/// An accepted CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Which session.
    pub id: SessionId,
    /// Which of its connections.
    pub generation: u32,
    /// Its addresses: the same at every reconnect.
    pub leases: Leases,
    /// When the session timeout strikes.
    pub ends_at: Option<Instant>,
    /// The connection that was taken over: its holder and generation.
    pub replaced: Option<Standing>,
    /// The user.
    pub user: String,
    /// The groups of the user.
    pub groups: Vec<String>,
}

/// A live connection as its holder knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Which session.
    pub id: SessionId,
    /// Which of its connections.
    pub generation: u32,
    /// Who holds it.
    pub holder: u32,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Authenticated; waits for its first CONNECT.
    Admitted {
        /// When the cookie dies.
        until: Instant,
    },
    /// A connection is live.
    Attached {
        /// Who holds it.
        holder: u32,
    },
    /// The connection is lost; the lease is kept for the reconnect.
    Detached {
        /// When the cookie dies.
        until: Instant,
    },
}

/// One session as the registry knows it.
#[derive(Debug)]
pub struct Record {
    id: SessionId,
    admit: Arc<Admit>,
    authenticated: Instant,
    ends_at: Option<Instant>,
    stage: Stage,
    generation: u32,
    lease_v4: Option<Lease>,
    lease_v6: Option<Lease>,
    counters: SessionCounters,
    expires: Option<Instant>,
}

impl Record {
    /// Which session.
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// The authentication that it came from; for a store, and [`Registry::restore`] of what was stored.
    pub fn admit(&self) -> &Admit {
        &self.admit
    }

    /// The same, shared: for who copies many records while others wait for the registry.
    pub fn shared_admit(&self) -> Arc<Admit> {
        Arc::clone(&self.admit)
    }

    /// The user.
    pub fn user(&self) -> &str {
        &self.admit.user
    }

    /// The groups of the user.
    pub fn groups(&self) -> &[String] {
        &self.admit.groups
    }

    /// The group chosen at login.
    pub fn group(&self) -> Option<&str> {
        self.admit.group.as_deref()
    }

    /// How the user proved who they are.
    pub fn method(&self) -> AuthMethod {
        self.admit.method
    }

    /// The hash of its cookie, for a store that outlives the process.
    pub fn cookie(&self) -> CookieHash {
        self.admit.cookie
    }

    /// Keeps the user on the same addresses.
    pub fn owner(&self) -> OwnerKey {
        self.admit.owner
    }

    /// When the user authenticated.
    pub fn authenticated(&self) -> Instant {
        self.authenticated
    }

    /// When the session timeout strikes.
    pub fn ends_at(&self) -> Option<Instant> {
        self.ends_at
    }

    /// Where it stands.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The addresses it holds.
    pub fn leases(&self) -> Leases {
        let mut leases = Leases::default();
        for lease in self.lease_v4.iter().chain(&self.lease_v6) {
            match lease.address() {
                IpAddr::V4(address) => leases.v4 = Some(address),
                IpAddr::V6(address) => leases.v6 = Some(address),
            }
        }
        leases
    }

    /// What passed on its ended connections.
    pub fn counters(&self) -> &SessionCounters {
        &self.counters
    }

    fn standing(&self) -> Option<Standing> {
        match self.stage {
            Stage::Attached { holder } => Some(Standing { id: self.id, generation: self.generation, holder }),
            Stage::Admitted { .. } | Stage::Detached { .. } => None,
        }
    }
}

/// What became of a connection's report that it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detached {
    /// The session is gone, its addresses are in hold-back.
    Ended,
    /// The session waits for its client.
    Waits {
        /// Until when.
        until: Instant,
    },
    /// A newer connection holds the session, or it had ended before: nothing changed.
    Superseded,
}

/// Every session of a server, by cookie, by number and by user.
#[derive(Debug)]
pub struct Registry {
    config: RegistryConfig,
    pool_v4: Option<Pool>,
    pool_v6: Option<Pool>,
    records: FxHashMap<SessionId, Record>,
    by_cookie: FxHashMap<CookieHash, SessionId>,
    by_user: BTreeMap<String, OfUser>,
    expiries: BTreeSet<(Instant, SessionId)>,
    next_id: u64,
    attached: usize,
}

/// The sessions of one user; those that wait also in the order in which they end.
#[derive(Debug, Default)]
struct OfUser {
    all: BTreeSet<SessionId>,
    admitted: BTreeSet<(Instant, SessionId)>,
    detached: BTreeSet<(Instant, SessionId)>,
}

impl Registry {
    /// Makes an empty registry over the pools.
    pub fn new(config: RegistryConfig, pool_v4: Option<Pool>, pool_v6: Option<Pool>) -> Self {
        Self {
            config,
            pool_v4,
            pool_v6,
            records: FxHashMap::default(),
            by_cookie: FxHashMap::default(),
            by_user: BTreeMap::new(),
            expiries: BTreeSet::new(),
            next_id: 1,
            attached: 0,
        }
    }

    /// Takes up other limits for what is admitted and attached from now on.
    ///
    /// A longer cookie timeout makes the hold-back of the pools as long (R50).
    pub fn set_config(&mut self, config: RegistryConfig) {
        for pool in self.pool_v4.iter_mut().chain(&mut self.pool_v6) {
            pool.hold_back_at_least(config.cookie_timeout);
        }
        self.config = config;
    }

    /// Records a completed authentication; its cookie may CONNECT until the cookie timeout.
    ///
    /// # Errors
    /// [`AdmitRefused::Full`] when the server holds its most sessions.
    pub fn admit(&mut self, admit: Admit, now: Instant) -> Result<SessionId, AdmitRefused> {
        self.drop_oldest_waiting(&admit.user, now);
        if self.records.len() >= self.config.max_sessions {
            return Err(AdmitRefused::Full { limit: self.config.max_sessions });
        }
        let ends_at = self.config.session_timeout.map(|timeout| now + timeout);
        let until = now + self.config.cookie_timeout;
        Ok(self.insert(admit, now, ends_at, Stage::Admitted { until }))
    }

    /// Takes up a record that an earlier process stored: detached, with its old addresses. It ends when a new one
    /// would at the latest, whatever that process took the time for.
    ///
    /// # Errors
    /// [`AdmitRefused`] when it does not fit any more; an address that is taken or outside the pool
    /// is left out, so that the reconnect gets what is free.
    pub fn restore(
        &mut self,
        admit: Admit,
        leases: Leases,
        ends_at: Option<Instant>,
        until: Instant,
        now: Instant,
    ) -> Result<SessionId, AdmitRefused> {
        if self.records.len() >= self.config.max_sessions {
            return Err(AdmitRefused::Full { limit: self.config.max_sessions });
        }
        if self.by_cookie.contains_key(&admit.cookie) {
            return Err(AdmitRefused::Known);
        }
        let owner = admit.owner;
        let lease_v4 =
            leases.v4.zip(self.pool_v4.as_mut()).and_then(|(a, pool)| pool.restore(owner, a.into()).ok());
        let lease_v6 =
            leases.v6.zip(self.pool_v6.as_mut()).and_then(|(a, pool)| pool.restore(owner, a.into()).ok());
        let latest = self.config.session_timeout.map(|timeout| now + timeout);
        let ends_at = ends_at.into_iter().chain(latest).min();
        let id = self.insert(admit, now, ends_at, Stage::Detached { until });
        let record = self.records.get_mut(&id).expect("the record was just inserted");
        record.lease_v4 = lease_v4;
        record.lease_v6 = lease_v6;
        Ok(id)
    }

    /// Holds an address back that an earlier process held back, or whose session ended meanwhile (R50); see
    /// [`Pool::hold_back`].
    pub fn restore_held_back(&mut self, held: HeldBack) {
        let pool = if held.address.is_ipv4() { &mut self.pool_v4 } else { &mut self.pool_v6 };
        if let Some(pool) = pool {
            pool.hold_back(held);
        }
    }

    /// The addresses that wait for their last owner, IPv4 first.
    pub fn held_back(&self) -> impl Iterator<Item = HeldBack> + '_ {
        self.pools().flat_map(Pool::held_back)
    }

    fn insert(&mut self, admit: Admit, now: Instant, ends_at: Option<Instant>, stage: Stage) -> SessionId {
        let id = SessionId::new(self.next_id);
        self.next_id += 1;
        self.by_cookie.insert(admit.cookie, id);
        self.by_user.entry(admit.user.clone()).or_default().all.insert(id);
        self.records.insert(
            id,
            Record {
                id,
                admit: Arc::new(admit),
                authenticated: now,
                ends_at,
                stage,
                generation: 0,
                lease_v4: None,
                lease_v6: None,
                counters: SessionCounters::default(),
                expires: None,
            },
        );
        self.schedule(id);
        id
    }

    /// Accepts a CONNECT: leases addresses at the first, gives the same ones at every later one, and
    /// takes a live session over.
    ///
    /// # Errors
    /// [`AttachRefused`]; nothing has changed then.
    pub fn attach(&mut self, attach: Attach, now: Instant) -> Result<Attachment, AttachRefused> {
        let id = self.find(&attach.cookie, now).ok_or(AttachRefused::UnknownCookie)?;
        self.check_user_limit(id)?;
        let record = self.records.get_mut(&id).ok_or(AttachRefused::UnknownCookie)?;
        let owner = record.admit.owner;
        let v4 = lease_if_wanted(attach.wants_v4, &record.lease_v4, self.pool_v4.as_mut(), owner);
        let v6 = lease_if_wanted(attach.wants_v6, &record.lease_v6, self.pool_v6.as_mut(), owner);
        // One family is enough to come up; none is a refusal.
        if let Leased::New(lease) = v4 {
            record.lease_v4 = Some(lease);
        }
        if let Leased::New(lease) = v6 {
            record.lease_v6 = Some(lease);
        }
        let held = record.leases();
        let leases =
            Leases { v4: held.v4.filter(|_| attach.wants_v4), v6: held.v6.filter(|_| attach.wants_v6) };
        if leases == Leases::default() {
            return Err(AttachRefused::NoAddress);
        }
        let replaced = record.standing();
        record.generation = record.generation.wrapping_add(1);
        record.stage = Stage::Attached { holder: attach.holder };
        if replaced.is_none() {
            self.attached += 1;
        }
        let attachment = Attachment {
            id,
            generation: record.generation,
            leases,
            ends_at: record.ends_at,
            replaced,
            user: record.admit.user.clone(),
            groups: record.admit.groups.clone(),
        };
        self.schedule(id);
        Ok(attachment)
    }

    /// Whether a CONNECT with this cookie would find its session; changes nothing.
    ///
    /// The server asks before it spends anything on a CONNECT, and to let reconnects pass a ban (R36).
    pub fn knows(&self, cookie: &CookieHash, now: Instant) -> bool {
        self.find(cookie, now).is_some()
    }

    /// Whether a CONNECT with this cookie would be the first of its session: a server that is drained takes no new ones,
    /// and the old ones live on.
    pub fn is_new(&self, cookie: &CookieHash, now: Instant) -> bool {
        let record = self.find(cookie, now).and_then(|id| self.records.get(&id));
        record.is_some_and(|record| matches!(record.stage, Stage::Admitted { .. }))
    }

    /// Why this connection has no session any more, although nobody could tell it yet; `None` while it has.
    ///
    /// Between its CONNECT and the moment at which others can reach a connection, its session may be
    /// taken over or ended: the holder asks before it lets the connection carry a packet.
    pub fn lost_meanwhile(&self, standing: Standing) -> Option<CloseReason> {
        match self.records.get(&standing.id) {
            None => Some(CloseReason::AdminDisconnect),
            Some(record) if record.standing() != Some(standing) => Some(CloseReason::TakenOver),
            Some(_) => None,
        }
    }

    fn find(&self, cookie: &CookieHash, now: Instant) -> Option<SessionId> {
        let id = *self.by_cookie.get(cookie)?;
        let record = self.records.get(&id)?;
        let over = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        (!over(record.expires) && !over(record.ends_at)).then_some(id)
    }

    fn check_user_limit(&self, id: SessionId) -> Result<(), AttachRefused> {
        let (Some(limit), Some(record)) = (self.config.max_per_user, self.records.get(&id)) else {
            return Ok(());
        };
        let others = self.sessions_of(&record.admit.user);
        let attached = others.filter(|other| other.id != id && other.standing().is_some()).count();
        if attached >= limit { Err(AttachRefused::TooManySessions { limit }) } else { Ok(()) }
    }

    /// Notes that a connection ended; only the newest connection of a session can change anything.
    pub fn detach(
        &mut self,
        id: SessionId,
        generation: u32,
        reason: CloseReason,
        counters: &SessionCounters,
        now: Instant,
    ) -> Detached {
        let Some(record) = self.records.get_mut(&id) else {
            return Detached::Superseded;
        };
        record.counters.merge(counters);
        if record.generation != generation || record.standing().is_none() {
            return Detached::Superseded;
        }
        match reason.cookie_fate() {
            CookieFate::Dies => {
                self.remove(id, now);
                Detached::Ended
            }
            // The newest has no successor, whatever it was told: the session must not be live with nobody.
            CookieFate::WaitsForReconnect | CookieFate::BelongsToSuccessor => {
                let until = now + self.config.cookie_timeout;
                record.stage = Stage::Detached { until };
                let user = record.admit.user.clone();
                self.attached -= 1;
                self.schedule(id);
                self.drop_oldest_lost(&user, now);
                Detached::Waits { until }
            }
        }
    }

    /// Ends a session for good; returns its live connection, which the caller has to close.
    pub fn end(&mut self, id: SessionId, now: Instant) -> Ended {
        match self.remove(id, now) {
            None => Ended::Unknown,
            Some(None) => Ended::Idle,
            Some(Some(standing)) => Ended::Live(standing),
        }
    }

    /// The sessions of `user`, the oldest first.
    pub fn sessions_of(&self, user: &str) -> impl Iterator<Item = &Record> + '_ {
        self.by_user.get(user).into_iter().flat_map(|own| &own.all).filter_map(|id| self.records.get(id))
    }

    /// Every user that has a session, in order.
    pub fn users(&self) -> impl Iterator<Item = &str> + '_ {
        self.by_user.keys().map(String::as_str)
    }

    /// Every session, by user.
    pub fn records(&self) -> impl Iterator<Item = &Record> + '_ {
        self.by_user.values().flat_map(|own| &own.all).filter_map(|id| self.records.get(id))
    }

    /// The session that was made last, whether it lives or not; numbers grow.
    pub fn newest(&self) -> SessionId {
        SessionId::new(self.next_id - 1)
    }

    /// Every session that was made after `id`, in order; O(how many were made).
    pub fn records_after(&self, id: SessionId) -> impl Iterator<Item = &Record> + '_ {
        (id.get() + 1..self.next_id).filter_map(|number| self.records.get(&SessionId::new(number)))
    }

    /// One session.
    pub fn record(&self, id: SessionId) -> Option<&Record> {
        self.records.get(&id)
    }

    /// How many connections are live.
    pub fn attached(&self) -> usize {
        self.attached
    }

    /// How many records there may be.
    pub fn max_sessions(&self) -> usize {
        self.config.max_sessions
    }

    /// How many records there are, live or waiting.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are no records.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The pools, IPv4 first.
    pub fn pools(&self) -> impl Iterator<Item = &Pool> + '_ {
        self.pool_v4.iter().chain(&self.pool_v6)
    }

    /// Does what is due: [`Registry::free_addresses`] and [`Registry::end_records`].
    pub fn handle_timeout(&mut self, now: Instant) {
        self.free_addresses(now);
        self.end_records(now);
    }

    /// Frees the addresses of [`Registry::ending_hold_backs`].
    pub fn free_addresses(&mut self, now: Instant) {
        for pool in self.pool_v4.iter_mut().chain(&mut self.pool_v6) {
            pool.handle_timeout(now);
        }
    }

    /// Ends every record whose cookie or session time is over; attached ones end in their connection, and here only
    /// when that is long overdue.
    pub fn end_records(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.expiries.first() {
            if at > now {
                break;
            }
            self.remove(id, now);
        }
    }

    /// The addresses that [`Registry::free_addresses`] at `now` frees: whoever keeps something of them elsewhere, as a
    /// NAT does, clears it before (R50).
    pub fn ending_hold_backs(&self, now: Instant) -> impl Iterator<Item = IpAddr> + '_ {
        let ending = move |held: &HeldBack| held.until <= now;
        self.pools().flat_map(move |pool| pool.held_back().take_while(ending)).map(|held| held.address)
    }

    /// When [`Registry::handle_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_end().into_iter().chain(self.pools().filter_map(Pool::poll_timeout)).min()
    }

    /// When [`Registry::end_records`] is wanted.
    pub fn next_end(&self) -> Option<Instant> {
        self.expiries.first().map(|&(at, _)| at)
    }

    fn drop_oldest_waiting(&mut self, user: &str, now: Instant) {
        let waiting = self.by_user.get(user).map(|own| &own.admitted);
        let waiting = waiting.filter(|waiting| waiting.len() >= MAX_WAITING_PER_USER);
        if let Some(&(_, oldest)) = waiting.and_then(BTreeSet::first) {
            self.remove(oldest, now);
        }
    }

    fn drop_oldest_lost(&mut self, user: &str, now: Instant) {
        let addresses = self.pools().map(|pool| pool.stats().size).min().unwrap_or(0);
        let places = usize::try_from(addresses).unwrap_or(usize::MAX).min(self.config.max_sessions);
        let share = places / LOST_SHARE;
        let lost = self.by_user.get(user).map(|own| &own.detached);
        let lost = lost.filter(|lost| lost.len() > share.max(MAX_WAITING_PER_USER));
        if let Some(&(_, oldest)) = lost.and_then(BTreeSet::first) {
            self.remove(oldest, now);
        }
    }

    fn schedule(&mut self, id: SessionId) {
        self.unschedule(id);
        let Some(record) = self.records.get_mut(&id) else {
            return;
        };
        let own = self.by_user.entry(record.admit.user.clone()).or_default();
        let (until, waiting) = match record.stage {
            Stage::Admitted { until } => (until, &mut own.admitted),
            Stage::Detached { until } => (until, &mut own.detached),
            Stage::Attached { .. } => {
                record.expires = record.ends_at.map(|end| end + LATEST_END);
                self.expiries.extend(record.expires.map(|at| (at, id)));
                return;
            }
        };
        let at = record.ends_at.map_or(until, |end| end.min(until));
        record.expires = Some(at);
        waiting.insert((at, id));
        self.expiries.insert((at, id));
    }

    fn unschedule(&mut self, id: SessionId) {
        let Some(record) = self.records.get_mut(&id) else {
            return;
        };
        let Some(at) = record.expires.take() else {
            return;
        };
        self.expiries.remove(&(at, id));
        if let Some(own) = self.by_user.get_mut(&record.admit.user) {
            own.admitted.remove(&(at, id));
            own.detached.remove(&(at, id));
        }
    }

    /// Removes a record with everything it holds; the outer `None` means that there was none.
    fn remove(&mut self, id: SessionId, now: Instant) -> Option<Option<Standing>> {
        self.unschedule(id);
        let mut record = self.records.remove(&id)?;
        let standing = record.standing();
        self.by_cookie.remove(&record.admit.cookie);
        if let Some(own) = self.by_user.get_mut(&record.admit.user) {
            own.all.remove(&id);
            if own.all.is_empty() {
                self.by_user.remove(&record.admit.user);
            }
        }
        give_back(self.pool_v4.as_mut(), record.lease_v4.take(), now);
        give_back(self.pool_v6.as_mut(), record.lease_v6.take(), now);
        if standing.is_some() {
            self.attached -= 1;
        }
        Some(standing)
    }
}

/// What [`Registry::end`] found.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No such session.
    Unknown,
    /// It ended; no connection was live.
    Idle,
    /// It ended; this connection has to be closed.
    Live(Standing),
}

fn give_back(pool: Option<&mut Pool>, lease: Option<Lease>, now: Instant) {
    if let (Some(pool), Some(lease)) = (pool, lease) {
        pool.release(lease, now).expect("a record's lease is of the registry's own pool");
    }
}

enum Leased {
    New(Lease),
    Kept,
    None,
}

fn lease_if_wanted(wanted: bool, held: &Option<Lease>, pool: Option<&mut Pool>, owner: OwnerKey) -> Leased {
    match (held, pool) {
        (Some(_), _) => Leased::Kept,
        (None, Some(pool)) if wanted => pool.lease(owner).map_or(Leased::None, Leased::New),
        (None, _) => Leased::None,
    }
}

/// Why an authentication gets no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmitRefused {
    /// The server holds its most sessions.
    #[error("no room for another session, limit {limit}")]
    Full {
        /// [`RegistryConfig::max_sessions`].
        limit: usize,
    },
    /// A restored record whose cookie is there already.
    #[error("the session is known already")]
    Known,
}

/// Why a CONNECT is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachRefused {
    /// Unknown, expired or ended: 401.
    #[error("no session has this cookie")]
    UnknownCookie,
    /// The user has as many live sessions as allowed: 503.
    #[error("the user has {limit} live sessions already")]
    TooManySessions {
        /// [`RegistryConfig::max_per_user`].
        limit: usize,
    },
    /// The pools are full: 503.
    #[error("no free address")]
    NoAddress,
}
