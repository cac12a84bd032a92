//! The answers of the control socket, as rows: also the shape of `mst-cli --json`.
//!
//! Field names are a contract with scripts (design.md 6): fields are added, never renamed. Directions
//! are the server's: `bytes_in` came from the client, `bytes_out` went to it; both count inner packets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mstunnel_proto::drop::DropCounters;
use serde::{Deserialize, Serialize};

/// Whether the server takes new sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// Accepting.
    #[default]
    Running,
    /// Old sessions live on, new ones are refused.
    Draining,
    /// On its way out.
    Stopping,
}

impl ServerState {
    /// The word in `State: running`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }
}

/// How sign-ins ended since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Logins {
    /// Admitted.
    pub ok: u64,
    /// Refused: wrong credentials, policy, bans.
    pub failed: u64,
}

/// How TCP connections were received since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Connections {
    /// Taken.
    pub accepted: u64,
    /// Turned away before the handshake: limits and bans.
    pub refused: u64,
}

/// The whole server at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(default)]
pub struct Status {
    /// The version of the server.
    pub version: String,
    /// Whether it takes new sessions.
    pub state: ServerState,
    /// What an administrator should look at, one sentence each; empty means healthy.
    pub problems: Vec<String>,
    /// The same for what leaves the server healthy: to start it again would make it worse.
    pub warnings: Vec<String>,
    /// Since the start.
    pub uptime_seconds: u64,
    /// Data threads.
    pub workers: usize,
    /// Sessions that hold a lease now, waiting ones included.
    pub sessions: usize,
    /// How sign-ins ended.
    pub logins: Logins,
    /// How TCP connections were received.
    pub connections: Connections,
    /// Ended sessions by `CloseReason::name`.
    pub closes: BTreeMap<String, u64>,
    /// Dropped packets by `DropReason::name`; every reason is there, zeros too (see [`drop_counts`]).
    pub drops: BTreeMap<String, u64>,
    /// Bytes of inner packets that came from clients.
    pub bytes_in: u64,
    /// Bytes of inner packets that went to clients.
    pub bytes_out: u64,
    /// Inner packets that came from clients.
    pub packets_in: u64,
    /// Inner packets that went to clients.
    pub packets_out: u64,
}

impl Status {
    /// Whether the server takes sessions and there is nothing to look at. A server that drains is not
    /// healthy, so that a load balancer turns to another one (R78).
    pub fn is_healthy(&self) -> bool {
        self.state == ServerState::Running && self.problems.is_empty()
    }
}

/// The drop counters by name, with every reason that exists.
pub fn drop_counts(counters: &DropCounters) -> BTreeMap<String, u64> {
    counters.iter().map(|(reason, count)| (reason.name().to_owned(), count)).collect()
}

/// One connected session: a line of `server show users`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRow {
    /// The session's number.
    pub id: u64,
    /// Who signed in.
    pub user: String,
    /// The groups of the user.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The leased IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// The leased IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// Where the client is now.
    pub remote: Option<SocketAddr>,
    /// `dtls` or `tls`: where packets to the client go now.
    pub channel: String,
    /// The cipher suite of that channel.
    pub cipher: String,
    /// What the client calls itself; peer text.
    pub user_agent: String,
    /// Bytes of inner packets from the client.
    pub bytes_in: u64,
    /// Bytes of inner packets to the client.
    pub bytes_out: u64,
    /// Since the CONNECT that opened the session.
    pub connected_seconds: u64,
}

/// One session in full: a line of `server show sessions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// What `server show users` shows too; inlined in JSON.
    #[serde(flatten)]
    pub row: UserRow,
    /// `open`, or `waiting` for the client to come back by its cookie.
    pub state: String,
    /// The inside MTU.
    #[serde(default)]
    pub mtu: u16,
    /// Which worker owns the session.
    #[serde(default)]
    pub worker: usize,
    /// Until the session timeout; `None` is never.
    #[serde(default)]
    pub expires_in_seconds: Option<u64>,
    /// Since the last packet from the client.
    #[serde(default)]
    pub idle_seconds: u64,
    /// Dropped packets of this session by reason; reasons that never occurred may be left out.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
}

/// A source with ban points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BanRow {
    /// An IPv4 address, or the first address of an IPv6 /64.
    pub source: IpAddr,
    /// The points now.
    pub points: u32,
    /// Whether the points are enough to be refused.
    pub banned: bool,
    /// Until the points are forgotten.
    pub expires_in_seconds: Option<u64>,
}

/// What happened to a user or session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A user was admitted.
    Login,
    /// A sign-in was refused.
    LoginFailed,
    /// A session opened.
    Open,
    /// A session came back by its cookie.
    Reconnect,
    /// A session moved to a new remote address.
    Roam,
    /// A session's connection ended.
    Close,
    /// A source was banned.
    Ban,
}

impl EventKind {
    /// The word in the event feed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::LoginFailed => "login_failed",
            Self::Open => "open",
            Self::Reconnect => "reconnect",
            Self::Roam => "roam",
            Self::Close => "close",
            Self::Ban => "ban",
        }
    }
}

/// One line of `server show events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since 1970 in UTC, for people; nothing is decided by it.
    pub unix_seconds: u64,
    /// What happened.
    pub kind: EventKind,
    /// To which session.
    pub id: Option<u64>,
    /// To whom.
    pub user: Option<String>,
    /// From where.
    pub remote: Option<SocketAddr>,
    /// Why: `CloseReason::name` for a close, a few words else.
    pub reason: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use mstunnel_proto::drop::DropReason;

    #[test]
    fn the_drops_name_every_reason_even_at_zero() {
        let counts = drop_counts(&DropCounters::default());
        for reason in DropReason::ALL {
            assert_eq!(counts.get(reason.name()), Some(&0), "{reason}");
        }
    }

    #[test]
    fn a_session_row_is_flat_in_json() {
        let json = serde_json::to_value(crate::admin::testing::session()).unwrap();
        for key in ["id", "user", "groups", "ipv4", "ipv6", "remote", "channel", "cipher", "user_agent"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        for key in ["bytes_in", "bytes_out", "connected_seconds", "state", "mtu"] {
            assert!(json.get(key).is_some(), "{key}");
        }
        let back: SessionRow = serde_json::from_value(json).unwrap();
        assert_eq!(back, crate::admin::testing::session());
    }
}
