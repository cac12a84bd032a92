//! How a server of the world is configured.

use std::time::Duration;

use mstunnel_proto::pool::{Pool, PoolConfig};
use mstunnel_proto::prefix::Prefix;
use mstunnel_proto::routes::RouteSet;
use mstunnel_proto::session::{Access, RegistryConfig, SessionConfig};
use std::sync::Arc;

/// The settings of a server; the fields are those of product.md b.1 and b.6.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The IPv4 pool.
    pub pool_v4: Prefix,
    /// The IPv6 pool.
    pub pool_v6: Option<Prefix>,
    /// What clients send through the tunnel; empty for everything.
    pub include: Vec<Prefix>,
    /// What they send beside it.
    pub exclude: Vec<Prefix>,
    /// Whether clients reach nothing else.
    pub restrict: bool,
    /// Whether there is a datagram channel.
    pub udp: bool,
    /// The DPD interval.
    pub dpd: Duration,
    /// The keepalive interval.
    pub keepalive: Duration,
    /// No packets for so long ends a session.
    pub idle_timeout: Option<Duration>,
    /// The age of a session.
    pub session_timeout: Option<Duration>,
    /// New keys after so long.
    pub rekey: Option<Duration>,
    /// The reconnect window, and the hold-back.
    pub cookie_timeout: Duration,
    /// The most live sessions of a user.
    pub max_per_user: Option<usize>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pool_v4: "10.9.0.0/24".parse().expect("a prefix"),
            pool_v6: Some("fd00:9::/112".parse().expect("a prefix")),
            include: vec!["10.0.0.0/8".parse().expect("a prefix"), "fd00::/16".parse().expect("a prefix")],
            exclude: vec!["10.66.0.0/16".parse().expect("a prefix")],
            restrict: true,
            udp: true,
            dpd: Duration::from_secs(30),
            keepalive: Duration::from_secs(20),
            idle_timeout: None,
            session_timeout: None,
            rekey: None,
            cookie_timeout: Duration::from_secs(300),
            max_per_user: None,
        }
    }
}

impl Settings {
    pub(crate) fn registry(&self) -> RegistryConfig {
        RegistryConfig {
            cookie_timeout: self.cookie_timeout,
            session_timeout: self.session_timeout,
            max_sessions: 100_000,
            max_per_user: self.max_per_user,
        }
    }

    pub(crate) fn pools(&self) -> (Option<Pool>, Option<Pool>) {
        let config = PoolConfig { hold_back: self.cookie_timeout, ..PoolConfig::default() };
        let pool = |prefix| Pool::new(prefix, &config).expect("the world's pools are good");
        (Some(pool(self.pool_v4)), self.pool_v6.map(pool))
    }

    pub(crate) fn session(&self) -> Arc<SessionConfig> {
        let routes = RouteSet::new(&self.include, &self.exclude).expect("the world's routes are good");
        let (v4, v6) = self.pools();
        let own: Vec<Prefix> =
            v4.iter().chain(&v6).map(|pool| Prefix::single(pool.server_address())).collect();
        let pools: Vec<Prefix> = std::iter::once(self.pool_v4).chain(self.pool_v6).collect();
        Arc::new(SessionConfig {
            dpd: Some(self.dpd),
            idle_timeout: self.idle_timeout,
            access: Access::new(&pools, &own, self.restrict.then(|| Arc::new(routes))),
        })
    }
}
