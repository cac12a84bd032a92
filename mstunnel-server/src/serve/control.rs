//! What the administrator sees of a running server, and what he may do to it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mstunnel_proto::close::CloseReason;
use mstunnel_proto::drop::DropReason;
use mstunnel_proto::session::{Record, SessionId, Stage};
use tokio::sync::broadcast;

use super::Running;
use crate::admin::{
    BanRow, Connections, Event, Logins, ServerControl, ServerState, SessionRow, Status, UserRow, drop_counts,
};
use crate::identity::canonical;
use crate::worker::{Live, Shared};

impl ServerControl for Running {
    fn status(&self) -> Status {
        let shared = &self.shared;
        let mut counters = shared.totals.ended();
        for live in shared.live.all() {
            counters.merge(&live.counters());
        }
        for &reason in DropReason::ALL {
            counters.drops.add(reason, shared.strays.get(reason));
        }
        let registry = shared.registry();
        let sessions =
            registry.records().filter(|record| !matches!(record.stage(), Stage::Admitted { .. })).count();
        let pool_is_full = registry.pools().any(|pool| {
            let stats = pool.stats();
            stats.leased + stats.held_back >= stats.size
        });
        drop(registry);
        let mut problems = Vec::new();
        if shared.stage() != ServerState::Running {
            problems.push(format!("the server is {} and takes no new sessions", shared.stage().name()));
        }
        if pool_is_full {
            problems.push("the address pool is full; choose a larger network".to_owned());
        }
        problems.extend(self.conditions.problems());
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: shared.stage(),
            problems,
            warnings: self.conditions.warnings().collect(),
            uptime_seconds: shared.started.elapsed().as_secs(),
            workers: shared.mailboxes.len(),
            sessions,
            logins: Logins { ok: load(&shared.totals.logins_ok), failed: load(&shared.totals.logins_failed) },
            connections: Connections {
                accepted: load(&shared.totals.accepted),
                refused: load(&shared.totals.refused),
            },
            closes: shared.totals.closes(),
            drops: drop_counts(&counters.drops),
            bytes_in: counters.bytes_in,
            bytes_out: counters.bytes_out,
            packets_in: counters.packets_in,
            packets_out: counters.packets_out,
        }
    }

    fn users(&self) -> Vec<UserRow> {
        let registry = self.shared.registry();
        let attached = registry.records().filter(|record| matches!(record.stage(), Stage::Attached { .. }));
        attached.map(|record| user_row(record, self.shared.live.get(record.id()).as_deref())).collect()
    }

    fn sessions(&self) -> Vec<SessionRow> {
        let now = Instant::now();
        self.shared.registry().records().map(|record| session_row(record, &self.shared, now)).collect()
    }

    fn session(&self, id: u64) -> Option<SessionRow> {
        let registry = self.shared.registry();
        registry.record(SessionId::new(id)).map(|record| session_row(record, &self.shared, Instant::now()))
    }

    fn bans(&self) -> Vec<BanRow> {
        super::bans::rows(self.shared.desk().bans(), Instant::now())
    }

    fn disconnect_user(&self, user: &str) -> usize {
        // Sessions have canonical names; who has none has no session.
        let Some(user) = canonical(user) else { return 0 };
        let ids: Vec<SessionId> = self.shared.registry().sessions_of(&user).map(Record::id).collect();
        ids.into_iter().filter(|&id| self.shared.end(id, CloseReason::AdminDisconnect)).count()
    }

    fn disconnect_id(&self, id: u64) -> bool {
        self.shared.end(SessionId::new(id), CloseReason::AdminDisconnect)
    }

    fn unban(&self, address: IpAddr) -> bool {
        self.shared.desk().bans_mut().unban(address)
    }

    fn reload(&self) -> Result<String, String> {
        self.reload_configuration()
    }

    fn drain(&self) {
        self.shared.advance(ServerState::Draining);
    }

    fn stop(&self) {
        self.stop.notify_one();
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.shared.events()
    }
}

fn user_row(record: &Record, live: Option<&Live>) -> UserRow {
    let leases = record.leases();
    let mut counters = record.counters().clone();
    if let Some(live) = live {
        counters.merge(&live.counters());
    }
    let datagram = live.and_then(Live::datagram);
    UserRow {
        id: record.id().get(),
        user: record.user().to_owned(),
        groups: record.groups().to_vec(),
        ipv4: leases.v4,
        ipv6: leases.v6,
        remote: live.map(|live| live.remote),
        channel: if datagram.is_some() { "dtls" } else { "tls" }.to_owned(),
        cipher: datagram
            .map(str::to_owned)
            .or_else(|| live.map(|live| live.cipher.clone()))
            .unwrap_or_default(),
        user_agent: live.map(|live| live.user_agent.clone()).unwrap_or_default(),
        bytes_in: counters.bytes_in,
        bytes_out: counters.bytes_out,
        connected_seconds: live.map_or(0, |live| live.since.elapsed().as_secs()),
    }
}

fn session_row(record: &Record, shared: &Shared, now: Instant) -> SessionRow {
    let live: Option<Arc<Live>> = shared.live.get(record.id());
    let expires = match record.stage() {
        Stage::Admitted { until } | Stage::Detached { until } => {
            Some(record.ends_at().map_or(until, |end| end.min(until)))
        }
        Stage::Attached { .. } => record.ends_at(),
    };
    let state = match record.stage() {
        Stage::Attached { .. } => "open",
        Stage::Admitted { .. } | Stage::Detached { .. } => "waiting",
    };
    let mut counters = record.counters().clone();
    if let Some(live) = &live {
        counters.merge(&live.counters());
    }
    SessionRow {
        row: user_row(record, live.as_deref()),
        state: state.to_owned(),
        mtu: live.as_ref().map_or(0, |live| live.mtu),
        worker: live.as_ref().map_or(0, |live| live.worker()),
        expires_in_seconds: expires.map(|at| at.saturating_duration_since(now).as_secs()),
        idle_seconds: live.as_ref().map_or(Duration::ZERO, |live| live.idle(now)).as_secs(),
        drops: drop_counts(&counters.drops).into_iter().filter(|&(_, count)| count > 0).collect(),
    }
}

fn load(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(std::sync::atomic::Ordering::Relaxed)
}
