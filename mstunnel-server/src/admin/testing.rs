//! A server that only remembers what it was asked, and sample rows.

use std::net::IpAddr;
use std::sync::Mutex;

use tokio::sync::broadcast;

use super::control::ServerControl;
use super::rows::{BanRow, Event, EventKind, SessionRow, Status, UserRow};

pub(crate) struct FakeServer {
    calls: Mutex<Vec<String>>,
    events: broadcast::Sender<Event>,
    pub(crate) status: Mutex<Status>,
}

impl Default for FakeServer {
    fn default() -> Self {
        let status = Status {
            version: "0.1.0".into(),
            uptime_seconds: 93_784,
            workers: 2,
            sessions: 1,
            bytes_in: 1536,
            bytes_out: 5_368_709_120,
            drops: super::drop_counts(&Default::default()),
            ..Status::default()
        };
        let (events, _) = broadcast::channel(4);
        Self { calls: Mutex::default(), events, status: Mutex::new(status) }
    }
}

impl FakeServer {
    pub(crate) fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }

    pub(crate) fn emit(&self, event: Event) {
        let _ = self.events.send(event);
    }

    pub(crate) fn watchers(&self) -> usize {
        self.events.receiver_count()
    }

    /// Events that a watcher has not taken yet.
    pub(crate) fn unread(&self) -> usize {
        self.events.len()
    }

    fn note(&self, call: impl Into<String>) {
        self.calls.lock().unwrap().push(call.into());
    }
}

impl ServerControl for FakeServer {
    fn status(&self) -> Status {
        self.note("status");
        self.status.lock().unwrap().clone()
    }

    fn users(&self) -> Vec<UserRow> {
        self.note("users");
        vec![user()]
    }

    fn sessions(&self) -> Vec<SessionRow> {
        self.note("sessions");
        vec![session()]
    }

    fn session(&self, id: u64) -> Option<SessionRow> {
        self.note(format!("session {id}"));
        (id == 7).then(session)
    }

    fn bans(&self) -> Vec<BanRow> {
        self.note("bans");
        let row = |source: &str, points, banned| BanRow {
            source: source.parse().unwrap(),
            points,
            banned,
            expires_in_seconds: Some(300),
        };
        vec![row("198.51.100.7", 80, true), row("2001:db8:7::", 10, false)]
    }

    fn disconnect_user(&self, user: &str) -> usize {
        assert_ne!(user, "panic", "as asked for");
        self.note(format!("disconnect user {user}"));
        if user == "ada" { 2 } else { 0 }
    }

    fn disconnect_id(&self, id: u64) -> bool {
        self.note(format!("disconnect id {id}"));
        id == 7
    }

    fn unban(&self, address: IpAddr) -> bool {
        self.note(format!("unban {address}"));
        address.is_ipv4()
    }

    fn reload(&self) -> Result<String, String> {
        self.note("reload");
        Err("gateway.toml:3: mode: \"kernle\": want kernel\nconfiguration.json: /network: \"x\": want a prefix".into())
    }

    fn drain(&self) {
        self.note("drain");
    }

    fn stop(&self) {
        self.note("stop");
    }

    fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }
}

pub(crate) fn user() -> UserRow {
    UserRow {
        id: 7,
        user: "ada".into(),
        groups: vec!["staff".into(), "ops".into()],
        ipv4: Some("10.8.0.5".parse().unwrap()),
        ipv6: None,
        remote: Some("198.51.100.20:51234".parse().unwrap()),
        channel: "dtls".into(),
        cipher: "PSK-NEGOTIATE AES-256-GCM".into(),
        user_agent: "Open AnyConnect\u{1b}[31m v9".into(),
        bytes_in: 1536,
        bytes_out: 5_368_709_120,
        connected_seconds: 3725,
    }
}

pub(crate) fn session() -> SessionRow {
    SessionRow {
        row: user(),
        state: "open".into(),
        mtu: 1400,
        worker: 1,
        expires_in_seconds: Some(86_400),
        idle_seconds: 2,
        drops: [("too_big".to_owned(), 3)].into(),
    }
}

pub(crate) fn event(id: u64) -> Event {
    Event {
        unix_seconds: 1_700_000_000,
        kind: EventKind::Open,
        id: Some(id),
        user: Some("ada".into()),
        remote: Some("198.51.100.20:51234".parse().unwrap()),
        reason: None,
    }
}
