//! `advancedSettings`: pairs of an ocserv option name and a value, both strings.
//!
//! Microsoft does not publish the names; we take ocserv's, with ocserv's units and its meaning of
//! zero, because the real product writes an `ocserv.conf`. Seconds for times, bytes a second for
//! rates, unless the name ends in `-ms`. Unknown names are kept and reported.
//!
//! # Source
//! product.md b.6 for the names, f.1 for the defaults.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::json::{Json, Node, Report};
use super::problem::nearest;

/// A year: longer than any credential behind a session lives.
const MAX_SESSION: u64 = 365 * 86_400;

/// A week, for every other time.
const MAX_TIME: u64 = 7 * 86_400;

/// The longest banner in bytes: it travels percent-encoded in one response header, which clients
/// read into bounded lines (three bytes for one, below 8 KiB).
const MAX_BANNER_LEN: usize = 2_048;

/// Settings of a Graph object are a handful; this bounds what is kept of a wrong file.
const MAX_SETTINGS: usize = 256;

/// The documented capacity of one server, product.md section 0 point 7.
const DEFAULT_MAX_CLIENTS: u32 = 64_000;

/// A TLS protocol version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2, RFC 5246: the floor (R11).
    Tls12,
    /// TLS 1.3, RFC 8446.
    Tls13,
}

impl TlsVersion {
    /// Reads `1.2` or `1.3`, with or without `TLS` before it.
    pub fn parse(text: &str) -> Option<Self> {
        let number = text.trim_start_matches(|char: char| char.is_ascii_alphabetic());
        match number.trim_start_matches(['v', ' ']) {
            "1.2" => Some(Self::Tls12),
            "1.3" => Some(Self::Tls13),
            _ => None,
        }
    }
}

/// How a client renews its keys, `X-CSTP-Rekey-Method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RekeyMethod {
    /// In band.
    Ssl,
    /// By a new connection with the same cookie.
    NewTunnel,
}

/// The timers, limits and texts of a server, with defaults where the file is silent.
///
/// Where a field is an `Option`, `None` means off or unlimited, unless it says otherwise.
#[derive(Clone, Debug, PartialEq)]
pub struct Advanced {
    /// The total age of a session, counted from authentication (R10).
    pub session_timeout: Option<Duration>,
    /// How long a session may carry no packets.
    pub idle_timeout: Option<Duration>,
    /// The same for phones; as `idle_timeout` if the file does not say.
    pub mobile_idle_timeout: Option<Duration>,
    /// How long a cookie outlives its connection: the reconnect window.
    pub cookie_timeout: Duration,
    /// The interval of dead peer detection.
    pub dpd: Duration,
    /// The same for phones, which are woken by it.
    pub mobile_dpd: Duration,
    /// The interval of keepalives.
    pub keepalive: Duration,
    /// The age of keys at which a client renews them.
    pub rekey_time: Option<Duration>,
    /// How it does so.
    pub rekey_method: RekeyMethod,
    /// Silence on the datagram channel after which packets go by the stream channel.
    pub switch_to_tcp_timeout: Option<Duration>,
    /// The inside MTU; `None`: found from the link.
    pub mtu: Option<u16>,
    /// Whether the MTU is probed with padded DPD.
    pub try_mtu_discovery: bool,
    /// Sessions of the whole server.
    pub max_clients: u32,
    /// Sessions of one user.
    pub max_same_clients: Option<u32>,
    /// The least time between two accepted connections.
    pub rate_limit: Option<Duration>,
    /// How long sessions go on after a request to stop.
    pub server_drain: Duration,
    /// The score at which a source is banned.
    pub max_ban_score: Option<u32>,
    /// How long a score is remembered.
    pub ban_reset_time: Duration,
    /// How long a banned source is refused.
    pub min_reauth_time: Duration,
    /// Whether the client is told to send all DNS queries through the tunnel.
    pub tunnel_all_dns: bool,
    /// Whether a family without an address may leave beside the tunnel (R53).
    pub client_bypass_protocol: bool,
    /// Whether the server lets a session reach only what its routes say (R43).
    pub restrict_user_to_routes: bool,
    /// Bytes a second that one client may send.
    pub rx_data_per_sec: Option<u64>,
    /// Bytes a second that are sent to one client.
    pub tx_data_per_sec: Option<u64>,
    /// Shown after login.
    pub banner: Option<String>,
    /// Shown in the login form.
    pub pre_login_banner: Option<String>,
    /// The oldest TLS version, if the file says one.
    pub tls_min_version: Option<TlsVersion>,
    /// ocserv's log level, 0 (errors) to 9 (everything), if the file says one.
    pub log_level: Option<u8>,
    /// Settings that are not ours, as written.
    pub unknown: BTreeMap<String, String>,
}

impl Default for Advanced {
    fn default() -> Self {
        Self {
            session_timeout: Some(Duration::from_secs(86_400)),
            idle_timeout: None,
            mobile_idle_timeout: None,
            cookie_timeout: Duration::from_secs(300),
            dpd: Duration::from_secs(90),
            mobile_dpd: Duration::from_secs(1_800),
            keepalive: Duration::from_secs(32_400),
            rekey_time: Some(Duration::from_secs(172_800)),
            rekey_method: RekeyMethod::NewTunnel,
            switch_to_tcp_timeout: Some(Duration::from_secs(25)),
            mtu: None,
            try_mtu_discovery: false,
            max_clients: DEFAULT_MAX_CLIENTS,
            max_same_clients: None,
            rate_limit: None,
            server_drain: Duration::ZERO,
            max_ban_score: Some(80),
            ban_reset_time: Duration::from_secs(1_200),
            min_reauth_time: Duration::from_secs(300),
            tunnel_all_dns: false,
            client_bypass_protocol: false,
            restrict_user_to_routes: true,
            rx_data_per_sec: None,
            tx_data_per_sec: None,
            banner: None,
            pre_login_banner: None,
            tls_min_version: None,
            log_level: None,
            unknown: BTreeMap::new(),
        }
    }
}

/// Every name of product.md b.6, for the nearest one of a wrong name.
pub(super) const NAMES: &[&str] = &[
    "session-timeout",
    "idle-timeout",
    "mobile-idle-timeout",
    "cookie-timeout",
    "dpd",
    "mobile-dpd",
    "keepalive",
    "rekey-time",
    "rekey-method",
    "switch-to-tcp-timeout",
    "mtu",
    "try-mtu-discovery",
    "max-clients",
    "max-same-clients",
    "rate-limit-ms",
    "server-drain-ms",
    "max-ban-score",
    "ban-reset-time",
    "min-reauth-time",
    "tunnel-all-dns",
    "client-bypass-protocol",
    "restrict-user-to-routes",
    "rx-data-per-sec",
    "tx-data-per-sec",
    "banner",
    "pre-login-banner",
    "tls-min-version",
    "log-level",
];

impl Advanced {
    /// Reads the list of pairs into `self`, which holds the defaults.
    pub(super) fn read(&mut self, node: &Node<'_>, report: &mut Report<'_>) {
        let pairs = node.items("a list of {\"name\", \"value\"} pairs", report);
        if pairs.len() > MAX_SETTINGS {
            let value = format!("{} settings", pairs.len());
            report.refuse_at(&node.pointer, &value, format!("at most {MAX_SETTINGS}"));
            return;
        }
        let mut seen = Vec::new();
        for pair in pairs {
            let Some(mut object) = pair.object("a {\"name\", \"value\"} pair", report) else { continue };
            let name = object.demand("name", "the name of a setting", report);
            let value = object.take("value");
            object.unknown(report);
            let Some(name_node) = name else { continue };
            let Some(name) = name_node.text("the name of a setting", report) else { continue };
            if seen.contains(&name) {
                report.refuse(&name_node, "every setting once");
                continue;
            }
            seen.push(name);
            let Some(value) = value else { continue };
            let Some(text) = text_of(&value, report) else { continue };
            self.apply(name, &Setting { name, text: &text, node: &value }, &name_node, report);
        }
        if !seen.contains(&"mobile-idle-timeout") {
            self.mobile_idle_timeout = self.idle_timeout;
        }
    }

    fn apply(&mut self, name: &str, value: &Setting<'_>, place: &Node<'_>, report: &mut Report<'_>) {
        match name {
            "session-timeout" => set(&mut self.session_timeout, value.seconds_or_off(MAX_SESSION, report)),
            "idle-timeout" => set(&mut self.idle_timeout, value.seconds_or_off(MAX_TIME, report)),
            "mobile-idle-timeout" => {
                set(&mut self.mobile_idle_timeout, value.seconds_or_off(MAX_TIME, report))
            }
            "cookie-timeout" => set(&mut self.cookie_timeout, value.seconds(MAX_TIME, report)),
            "dpd" => set(&mut self.dpd, value.seconds(MAX_TIME, report)),
            "mobile-dpd" => set(&mut self.mobile_dpd, value.seconds(MAX_TIME, report)),
            "keepalive" => set(&mut self.keepalive, value.seconds(MAX_TIME, report)),
            "rekey-time" => set(&mut self.rekey_time, value.seconds_or_off(MAX_SESSION, report)),
            "rekey-method" => set(&mut self.rekey_method, value.rekey_method(report)),
            "switch-to-tcp-timeout" => {
                set(&mut self.switch_to_tcp_timeout, value.seconds_or_off(MAX_TIME, report));
            }
            "mtu" => set(&mut self.mtu, value.mtu(report).map(Some)),
            "try-mtu-discovery" => set(&mut self.try_mtu_discovery, value.boolean(report)),
            "max-clients" => {
                let most = value.number(0..=DEFAULT_MAX_CLIENTS.into(), report).and_then(narrow);
                set(
                    &mut self.max_clients,
                    most.map(|most| if most == 0 { DEFAULT_MAX_CLIENTS } else { most }),
                );
            }
            "max-same-clients" => {
                let most = value.number(0..=DEFAULT_MAX_CLIENTS.into(), report).and_then(narrow);
                set(&mut self.max_same_clients, most.map(unless_zero));
            }
            "rate-limit-ms" => {
                let pause = value.number(0..=60_000, report).map(unless_zero);
                set(&mut self.rate_limit, pause.map(|pause| pause.map(Duration::from_millis)));
            }
            "server-drain-ms" => {
                let drain = value.number(0..=MAX_TIME * 1_000, report);
                set(&mut self.server_drain, drain.map(Duration::from_millis));
            }
            "max-ban-score" => {
                let score = value.number(0..=1_000_000, report).and_then(narrow);
                set(&mut self.max_ban_score, score.map(unless_zero));
            }
            "ban-reset-time" => set(&mut self.ban_reset_time, value.seconds(MAX_TIME, report)),
            "min-reauth-time" => set(&mut self.min_reauth_time, value.seconds(MAX_TIME, report)),
            "tunnel-all-dns" => set(&mut self.tunnel_all_dns, value.boolean(report)),
            "client-bypass-protocol" => set(&mut self.client_bypass_protocol, value.boolean(report)),
            "restrict-user-to-routes" => set(&mut self.restrict_user_to_routes, value.boolean(report)),
            "rx-data-per-sec" => set(&mut self.rx_data_per_sec, value.rate(report)),
            "tx-data-per-sec" => set(&mut self.tx_data_per_sec, value.rate(report)),
            "banner" => set(&mut self.banner, value.banner(report)),
            "pre-login-banner" => set(&mut self.pre_login_banner, value.banner(report)),
            "tls-min-version" => {
                set(&mut self.tls_min_version, value.read(TlsVersion::parse, "1.2 or 1.3", report).map(Some));
            }
            "log-level" => {
                let level = value.number(0..=9, report).and_then(|level| u8::try_from(level).ok());
                set(&mut self.log_level, level.map(Some));
            }
            _ => {
                let hint = nearest(name, NAMES).map(|known| format!(" (did you mean {known:?}?)"));
                let want = format!("a known setting{}; it is kept but not used", hint.unwrap_or_default());
                report.warn(place, want);
                self.unknown.insert(name.to_owned(), value.text.to_owned());
            }
        }
    }
}

/// Takes a value over if it could be read; if not, the report holds the reason.
fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

/// ocserv's zero: no limit.
fn unless_zero<T: PartialEq + Default>(value: T) -> Option<T> {
    (value != T::default()).then_some(value)
}

fn narrow(value: u64) -> Option<u32> {
    u32::try_from(value).ok()
}

/// The text of a value: only here numbers and truth values count as their spelling (product.md b.5).
fn text_of(node: &Node<'_>, report: &mut Report<'_>) -> Option<String> {
    match node.json {
        Json::Text(text) => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::Bool(value) => Some(value.to_string()),
        Json::Null | Json::Array(_) | Json::Object(_) => {
            report.refuse(node, "a string");
            None
        }
    }
}

/// One value with its place; every reader reports what it cannot use.
struct Setting<'s> {
    name: &'s str,
    text: &'s str,
    node: &'s Node<'s>,
}

impl Setting<'_> {
    fn refuse(&self, want: &str, report: &mut Report<'_>) {
        report.refuse(self.node, format!("{want} for {}", self.name));
    }

    fn read<T>(&self, parse: impl Fn(&str) -> Option<T>, want: &str, report: &mut Report<'_>) -> Option<T> {
        let value = parse(self.text.trim());
        if value.is_none() {
            self.refuse(want, report);
        }
        value
    }

    fn number(&self, range: RangeInclusive<u64>, report: &mut Report<'_>) -> Option<u64> {
        let want = format!("a whole number from {} to {}", range.start(), range.end());
        self.read(|text| digits(text).filter(|number| range.contains(number)), &want, report)
    }

    fn seconds(&self, most: u64, report: &mut Report<'_>) -> Option<Duration> {
        let want = format!("seconds from 1 to {most}");
        let read = |text: &str| digits(text).filter(|number| (1..=most).contains(number));
        self.read(read, &want, report).map(Duration::from_secs)
    }

    /// The outer `None`: not readable; the inner one: switched off.
    fn seconds_or_off(&self, most: u64, report: &mut Report<'_>) -> Option<Option<Duration>> {
        let want = format!("seconds from 1 to {most}, or 0 for none");
        let number = self.read(|text| digits(text).filter(|number| *number <= most), &want, report)?;
        Some(unless_zero(number).map(Duration::from_secs))
    }

    fn rate(&self, report: &mut Report<'_>) -> Option<Option<u64>> {
        let number = self.read(digits, "bytes a second, or 0 for no limit", report)?;
        Some(unless_zero(number))
    }

    fn boolean(&self, report: &mut Report<'_>) -> Option<bool> {
        let parse = |text: &str| match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "1" => Some(true),
            "false" | "no" | "0" => Some(false),
            _ => None,
        };
        self.read(parse, "true or false", report)
    }

    fn rekey_method(&self, report: &mut Report<'_>) -> Option<RekeyMethod> {
        let parse = |text: &str| match text {
            "ssl" => Some(RekeyMethod::Ssl),
            "new-tunnel" => Some(RekeyMethod::NewTunnel),
            _ => None,
        };
        self.read(parse, "\"ssl\" or \"new-tunnel\"", report)
    }

    /// From the least that IPv4 hosts must take (RFC 791) to the largest jumbo frame in use.
    fn mtu(&self, report: &mut Report<'_>) -> Option<u16> {
        self.number(576..=9_216, report).and_then(|mtu| u16::try_from(mtu).ok())
    }

    fn banner(&self, report: &mut Report<'_>) -> Option<Option<String>> {
        let plain = |char: char| !char.is_control() || char == '\n' || char == '\t';
        if self.text.len() > MAX_BANNER_LEN || !self.text.chars().all(plain) {
            self.refuse(&format!("at most {MAX_BANNER_LEN} bytes without control characters"), report);
            return None;
        }
        Some(unless_zero(self.text.to_owned()))
    }
}

/// A number of plain digits: no sign, no space inside.
fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}
