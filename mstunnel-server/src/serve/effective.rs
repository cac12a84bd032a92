//! What a configuration means for the data path: built once at the start and at each reload.
//!
//! Two things are decided here that the configuration does not say:
//!
//! - A family that has a pool but no split include, beside another that has some, is told an include of
//!   its own pool. Clients read "no include" as "everything of this family", which nobody configured (R53).
//! - Split rules are told as they were written while they fit the limit, so that an operator finds them
//!   again on the client; merged ones are told only when the written ones are too many.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use mstunnel_proto::auth::{AuthMethod, BanConfig, GroupChoice, LoginConfig};
use mstunnel_proto::config::Configuration;
use mstunnel_proto::connect::{
    ConnectParams, ConnectRequest, DtlsKey, DtlsOffer, InsideAddress, RekeyMethod,
};
use mstunnel_proto::mtu::{self, Mtu, RecordSuite};
use mstunnel_proto::pool::{Pool, PoolConfig};
use mstunnel_proto::prefix::Prefix;
use mstunnel_proto::routes::{Action, RouteSet};
use mstunnel_proto::session::{Access, Attachment, RegistryConfig, SessionConfig};

use crate::config::{self, Settings};
use crate::tls::{self, TlsIdentity};
use crate::worker::FRONT_TIMEOUT;

/// A client's IPv4 prefix when there is no pool to take it from.
const IPV4_HOST: u8 = 32;

/// A client's IPv6 prefix: the address alone (product.md b.1), so that other clients are not on-link.
const IPV6_HOST: u8 = 128;

/// How much later than the stream channel the datagram channel makes new keys; ocserv's value.
const DTLS_REKEY_DELAY: Duration = Duration::from_secs(10);

/// Everything that is derived from [`Settings`] and needed while serving.
pub(crate) struct Effective {
    pub(crate) tls: Arc<rustls::ServerConfig>,
    pub(crate) certificate_end: SystemTime,
    pub(crate) login: Arc<LoginConfig>,
    pub(crate) registry: RegistryConfig,
    /// The least time between two connections that one listener accepts (`rate-limit-ms`).
    pub(crate) accept_pace: Option<Duration>,
    /// The MTU of the TUN device: no session has a larger one.
    pub(crate) device_mtu: u16,
    session: Arc<SessionConfig>,
    mobile_session: Arc<SessionConfig>,
    includes: Vec<Prefix>,
    excludes: Vec<Prefix>,
    configuration: Configuration,
}

impl Effective {
    /// Derives it all.
    ///
    /// # Errors
    /// What cannot be derived; [`Settings::load`] has found all that can be found in files.
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let identity = &settings.identity;
        let configuration = settings.configuration.clone();
        let routes = RouteSet::new_with_limit(
            &configuration.includes,
            &configuration.excludes,
            settings.max_split_rules,
        )
        .context("cannot use the split tunnel rules")?;
        let (includes, excludes) = told_rules(&configuration, &routes, settings.max_split_rules);
        let pools: Vec<Prefix> = configuration.pool_v4.into_iter().chain(configuration.pool_v6).collect();
        let own =
            pools.iter().filter_map(|pool| server_address(*pool)).map(Prefix::single).collect::<Vec<_>>();
        let advanced = &configuration.advanced;
        // The way to DNS is never cut by a rule about routes.
        let dns = configuration.dns.iter().copied().map(Prefix::single);
        let listed = settings.egress.allow.iter().map(|allowed| allowed.prefix);
        let published = settings.egress.publish.iter().map(|service| Prefix::single(service.inside.ip()));
        let permitted: Vec<Prefix> = own.into_iter().chain(dns).chain(listed).chain(published).collect();
        let restricted = advanced.restrict_user_to_routes.then(|| Arc::new(routes));
        let access = Access::new(&pools, &permitted, restricted);
        let session = |dpd: Duration, idle_timeout: Option<Duration>| {
            let dpd = Some(dpd).filter(|dpd| !dpd.is_zero());
            Arc::new(SessionConfig { dpd, idle_timeout, access: access.clone() })
        };
        Ok(Self {
            tls: tls::server_config(identity).context("cannot set TLS up")?,
            certificate_end: identity.not_after(),
            login: Arc::new(login_config(settings, identity)),
            registry: RegistryConfig {
                cookie_timeout: advanced.cookie_timeout,
                session_timeout: advanced.session_timeout,
                max_sessions: usize::try_from(advanced.max_clients)?,
                max_per_user: advanced.max_same_clients.map(usize::try_from).transpose()?,
            },
            accept_pace: accept_pace(advanced.rate_limit),
            device_mtu: device_mtu(&configuration),
            session: session(advanced.dpd, advanced.idle_timeout),
            mobile_session: session(advanced.mobile_dpd, advanced.mobile_idle_timeout),
            includes,
            excludes,
            configuration,
        })
    }
}

fn login_config(settings: &Settings, identity: &TlsIdentity) -> LoginConfig {
    let advanced = &settings.configuration.advanced;
    let method = |method: &config::AuthMethod| match method {
        config::AuthMethod::Bearer => AuthMethod::Bearer,
        config::AuthMethod::Certificate => AuthMethod::Certificate,
        config::AuthMethod::Password => AuthMethod::Password,
    };
    let group =
        |group: &config::AuthGroup| GroupChoice { name: group.name.clone(), label: group.label.clone() };
    LoginConfig {
        methods: settings.auth.methods.iter().map(method).collect(),
        pre_login_banner: advanced.pre_login_banner.clone(),
        banner: advanced.banner.clone(),
        groups: settings.auth.groups.iter().map(group).collect(),
        attempts: settings.auth.attempts,
        conversation_timeout: FRONT_TIMEOUT,
        certificate_sha1: identity.leaf_sha1(),
        domains: Vec::new(),
        bans: BanConfig {
            max_ban_score: advanced.max_ban_score.unwrap_or(0),
            ban_reset_time: advanced.ban_reset_time,
            min_reauth_time: advanced.min_reauth_time,
            ..BanConfig::default()
        },
    }
}

/// The rules as clients are told them.
fn told_rules(configuration: &Configuration, routes: &RouteSet, limit: usize) -> (Vec<Prefix>, Vec<Prefix>) {
    let mut includes = without_repeats(&configuration.includes);
    let mut excludes = without_repeats(&configuration.excludes);
    if includes.len() + excludes.len() > limit {
        let of =
            |action| routes.advertised().filter(move |rule| rule.action == action).map(|rule| rule.prefix);
        includes = of(Action::Include).collect();
        excludes = of(Action::Exclude).collect();
    }
    if !includes.is_empty() {
        for pool in configuration.pool_v4.into_iter().chain(configuration.pool_v6) {
            if !includes.iter().any(|include| include.is_ipv4() == pool.is_ipv4()) {
                includes.push(pool);
            }
        }
    }
    (includes, excludes)
}

/// Each worker has a listener of its own, and the rule is about all of them together.
fn accept_pace(rate_limit: Option<Duration>) -> Option<Duration> {
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    rate_limit.filter(|pace| !pace.is_zero()).map(|pace| pace * u32::try_from(workers).unwrap_or(1))
}

/// The server's own inside address in `pool`.
fn server_address(pool: Prefix) -> Option<IpAddr> {
    let config = PoolConfig { hold_back: Duration::ZERO, reserved: Vec::new(), excluded: Vec::new() };
    Pool::new(pool, &config).ok().map(|pool| pool.server_address())
}

/// The largest inside MTU: what is configured, else what fits the usual link in a datagram record.
fn device_mtu(configuration: &Configuration) -> u16 {
    let found = mtu::DEFAULT_LINK.over_datagrams(IpAddr::V4(Ipv4Addr::UNSPECIFIED), RecordSuite::AesGcm);
    let mtu = configuration.advanced.mtu.unwrap_or(found.get());
    // An interface below this carries no IPv6 at all; sessions keep their own, smaller MTU.
    if configuration.pool_v6.is_some() { mtu.max(mtu::MIN_IPV6.get()) } else { mtu }
}

fn without_repeats(prefixes: &[Prefix]) -> Vec<Prefix> {
    let mut seen = std::collections::BTreeSet::new();
    prefixes.iter().copied().filter(|prefix| seen.insert(*prefix)).collect()
}

impl Effective {
    /// What the server answers to `connect`.
    pub(crate) fn connect_params(
        &self,
        connect: &ConnectRequest,
        attachment: &Attachment,
        channel: Option<([u8; 32], DtlsKey)>,
        remote: SocketAddr,
        now: Instant,
    ) -> ConnectParams {
        let configuration = &self.configuration;
        let advanced = &configuration.advanced;
        let session = self.session(connect);
        let mtu = self.tunnel_mtu(connect, remote);
        let has = |v4: bool| if v4 { attachment.leases.v4.is_some() } else { attachment.leases.v6.is_some() };
        let told = |prefixes: &[Prefix]| -> Vec<Prefix> {
            prefixes.iter().copied().filter(|prefix| has(prefix.is_ipv4())).collect()
        };
        ConnectParams {
            server_name: Some("mstunnel".to_owned()),
            hostname: connect.hostname.clone(),
            dpd: session.dpd,
            default_domain: configuration.default_domain.clone(),
            v4: attachment.leases.v4.map(|address| InsideAddress {
                address,
                prefix_length: configuration.pool_v4.map_or(IPV4_HOST, Prefix::length),
            }),
            v6: attachment.leases.v6.map(|address| InsideAddress { address, prefix_length: IPV6_HOST }),
            dns: configuration.dns.clone(),
            nbns: Vec::new(),
            split_dns: configuration.split_dns.clone(),
            include: told(&self.includes),
            tunnel_all_dns: advanced.tunnel_all_dns,
            client_bypass_protocol: advanced.client_bypass_protocol,
            exclude: told(&self.excludes),
            keepalive: Some(advanced.keepalive).filter(|keepalive| !keepalive.is_zero()),
            idle_timeout: session.idle_timeout,
            rekey_time: advanced.rekey_time,
            // rustls renegotiates nothing, so that keys are renewed by a new connection (statement 44).
            rekey_method: if advanced.rekey_time.is_some() {
                RekeyMethod::NewTunnel
            } else {
                RekeyMethod::None
            },
            session_timeout: advanced.session_timeout,
            session_timeout_remaining: attachment.ends_at.map(|end| end.saturating_duration_since(now)),
            dtls: channel.map(|(app_id, key)| DtlsOffer {
                port: configuration.listen_port,
                app_id,
                key,
                dpd: session.dpd,
                keepalive: Some(advanced.keepalive).filter(|keepalive| !keepalive.is_zero()),
                rekey_time: advanced.rekey_time.map(|time| time + DTLS_REKEY_DELAY),
                rekey_method: if advanced.rekey_time.is_some() {
                    RekeyMethod::Ssl
                } else {
                    RekeyMethod::None
                },
            }),
            base_mtu: Some(Self::link_mtu(connect, remote)),
            mtu,
            banner: advanced.banner.clone(),
        }
    }

    /// Whether clients are offered a datagram channel.
    pub(crate) fn offers_datagrams(&self) -> bool {
        self.configuration.udp
    }

    /// The longest packet that is sent to a client: the configured MTU or what its link carries in a
    /// datagram record, so that a packet fits either channel.
    fn tunnel_mtu(&self, connect: &ConnectRequest, remote: SocketAddr) -> Mtu {
        let fits = Self::link_mtu(connect, remote).over_datagrams(remote.ip(), RecordSuite::AesGcm);
        Mtu::new(self.configuration.advanced.mtu.unwrap_or(self.device_mtu)).min(fits)
    }

    fn link_mtu(connect: &ConnectRequest, remote: SocketAddr) -> Mtu {
        mtu::link_mtu(mtu::DEFAULT_LINK, connect.base_mtu, connect.mtu, remote.ip())
    }

    /// Whether the client's MTU carries IPv6 (statement 67).
    pub(crate) fn carries_ipv6(&self, connect: &ConnectRequest, remote: SocketAddr) -> bool {
        self.tunnel_mtu(connect, remote).carries_ipv6()
    }

    /// The session's share of the configuration.
    pub(crate) fn session(&self, connect: &ConnectRequest) -> Arc<SessionConfig> {
        let mobile = connect.user_agent.as_deref().is_some_and(is_mobile);
        Arc::clone(if mobile { &self.mobile_session } else { &self.session })
    }
}

/// Phones say so in their user agent; they are asked less often, since each question wakes them.
fn is_mobile(user_agent: &str) -> bool {
    ["iOS", "Android", "iPhone", "iPad"].iter().any(|word| user_agent.contains(word))
}
