//! A Site: the connection point that one or more servers share.
//!
//! ```text
//! { "@odata.type": "#microsoft.graph.microsoftTunnelSite", "id": ..., "displayName": ...,
//!   "publicAddress": "vpn.corp.example", "internalNetworkProbeUrl": "https://intranet.corp.example/",
//!   "upgradeAutomatically": true, "upgradeWindowUtcOffsetInMinutes": 60,
//!   "upgradeWindowStartTime": "01:00:00.0000000", "upgradeWindowEndTime": "05:00:00.0000000",
//!   "microsoftTunnelConfiguration": { "id": ... } }
//! ```
//!
//! A server joins exactly one site (product.md a.1 row 7), so a file with several is refused.
//!
//! # Source
//! product.md b.2.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::configuration::{MAX_DISPLAY_NAME_LEN, MAX_ID_LEN, text, text_or_empty, texts};
use super::json::{self, Node, Object, Report};
use super::names::{WANT_DOMAIN, domain};
use super::odata;
use super::problem::{Parsed, Problems};

/// URLs of probes are short; this is what servers take as a request line.
const MAX_URL_LEN: usize = 2_048;

/// The shortest upgrade window, product.md a.8 row 69.
const MIN_WINDOW: Duration = Duration::from_secs(3_600);

const DAY: Duration = Duration::from_secs(86_400);

/// The widest offset of a time zone in use is UTC+14.
const MAX_OFFSET_MINUTES: i64 = 14 * 60;

/// When an upgrade may start, in the site's own time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UpgradeWindow {
    /// The beginning, since midnight.
    pub start: Duration,
    /// The end, since midnight; before `start` if the window spans midnight.
    pub end: Duration,
    /// The site's time zone, minutes east of UTC.
    pub utc_offset_minutes: i16,
}

/// One site, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Its key, usually a GUID.
    pub id: String,
    /// Its name for people.
    pub display_name: String,
    /// Free text.
    pub description: Option<String>,
    /// The address or name that devices connect to, without a port.
    pub public_address: String,
    /// When upgrades may start, if that is limited.
    pub upgrade_window: Option<UpgradeWindow>,
    /// Whether upgrades need no approval.
    pub upgrade_automatically: bool,
    /// What each server fetches to see that the internal network is reachable.
    pub internal_network_probe_url: Option<String>,
    /// The configuration of its servers.
    pub configuration_id: Option<String>,
    /// Scope tags, as written.
    pub role_scope_tags: Vec<String>,
    /// Properties that are not ours, as written.
    pub unknown: BTreeMap<String, serde_json::Value>,
}

impl Site {
    /// Reads the one site of `json`; `file` is its name in problems.
    ///
    /// # Errors
    /// Every problem of the file.
    pub fn parse(json: &str, file: &str) -> Result<Parsed<Self>, Problems> {
        let tree = json::parse(json, file)?;
        let mut report = Report::new(file);
        let unwrapped = odata::unwrap(&tree, &mut report);
        let mut sites = Vec::new();
        for node in &unwrapped.nodes {
            let Some(object) = node.object("a site object", &mut report) else { continue };
            sites.push(read(object, &mut report));
        }
        if sites.len() != 1 && report.is_clean() {
            let value = format!("{} sites", sites.len());
            report.refuse_at("", &value, "exactly one, the site of this server");
        }
        report.finish(json, sites.pop())
    }
}

fn read(mut object: Object<'_>, report: &mut Report<'_>) -> Site {
    odata::check_type(object.take("@odata.type"), "microsoftTunnelSite", report);
    let id = object.demand("id", "the id of the site", report);
    let display_name = object.demand("displayName", "a name of 1 to 200 characters", report);
    let address = object.demand("publicAddress", "the address that devices connect to", report);
    let description = object.take("description");
    let automatically = object.take("upgradeAutomatically");
    let _reported_by_the_service = object.take("upgradeAvailable");
    let probe = object.take("internalNetworkProbeUrl");
    let tags = object.take("roleScopeTagIds");
    let configuration = object.take("microsoftTunnelConfiguration");
    let _registered_servers = object.take("microsoftTunnelServers");
    Site {
        id: text(id, MAX_ID_LEN, report).unwrap_or_default(),
        display_name: text(display_name, MAX_DISPLAY_NAME_LEN, report).unwrap_or_default(),
        description: text_or_empty(description, report),
        public_address: address.and_then(|node| public_address(&node, report)).unwrap_or_default(),
        upgrade_window: upgrade_window(&mut object, report),
        upgrade_automatically: automatically.and_then(|node| node.boolean(report)).unwrap_or(false),
        internal_network_probe_url: probe.and_then(|node| probe_url(&node, report)),
        configuration_id: configuration.and_then(|node| reference(&node, report)),
        role_scope_tags: tags.map(|node| texts(&node, report)).unwrap_or_default(),
        unknown: object.unknown(report),
    }
}

/// The id inside a relation, which may be the whole object or `{ "id": ... }`.
fn reference(node: &Node<'_>, report: &mut Report<'_>) -> Option<String> {
    let mut object = node.object("an object with the id of the configuration", report)?;
    let id = object.demand("id", "the id of the configuration", report);
    text(id, MAX_ID_LEN, report)
}

fn public_address(node: &Node<'_>, report: &mut Report<'_>) -> Option<String> {
    let want = format!("an address or {WANT_DOMAIN}, without a port");
    let host = host(node.text(&want, report)?);
    if host.is_none() {
        report.refuse(node, want);
    }
    host
}

/// An address or a domain name. A name whose last label is a number would be read as an address by
/// most resolvers, so it is neither.
fn host(text: &str) -> Option<String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_string());
    }
    let name = domain(text)?;
    let last = name.rsplit('.').next().unwrap_or_default();
    (!last.bytes().all(|byte| byte.is_ascii_digit())).then_some(name)
}

/// An `http` or `https` URL without credentials, spaces or control characters.
fn probe_url(node: &Node<'_>, report: &mut Report<'_>) -> Option<String> {
    let want = "an http:// or https:// URL without credentials";
    let url = node.text(want, report)?;
    if url.is_empty() {
        return None;
    }
    if is_probe_url(url) {
        return Some(url.to_owned());
    }
    report.refuse(node, want);
    None
}

fn is_probe_url(url: &str) -> bool {
    let scheme_end = url.find("://").unwrap_or_default();
    let (scheme, rest) = url.split_at(scheme_end);
    let known = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    if !known || url.len() > MAX_URL_LEN || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return false;
    }
    let rest = rest.trim_start_matches("://");
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (name, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) if address.contains(':') => (address, rest.strip_prefix(':').or(none_if(rest))),
        _ => authority.rsplit_once(':').map_or((authority, Some("80")), |(name, port)| (name, Some(port))),
    };
    host(name).is_some() && port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
}

/// An absent port counts as a good one.
fn none_if(rest: &str) -> Option<&'static str> {
    rest.is_empty().then_some("80")
}

fn upgrade_window(object: &mut Object<'_>, report: &mut Report<'_>) -> Option<UpgradeWindow> {
    let offset = object.take("upgradeWindowUtcOffsetInMinutes");
    let offset = offset.and_then(|node| node.integer(-MAX_OFFSET_MINUTES..=MAX_OFFSET_MINUTES, report));
    let start_node = object.take("upgradeWindowStartTime");
    let end_node = object.take("upgradeWindowEndTime");
    let place = object.place("upgradeWindowEndTime");
    let (start_node, end_node) = match (start_node, end_node) {
        (None, None) => return None,
        (Some(start), Some(end)) => (start, end),
        (Some(_), None) | (None, Some(_)) => {
            report.refuse_at(&place, "one time", "both upgradeWindowStartTime and upgradeWindowEndTime");
            return None;
        }
    };
    let (start, end) = (time_of_day(&start_node, report)?, time_of_day(&end_node, report)?);
    let length = if end >= start { end - start } else { end + DAY - start };
    if length < MIN_WINDOW {
        report.refuse(&end_node, "a time at least one hour after upgradeWindowStartTime");
        return None;
    }
    let utc_offset_minutes = i16::try_from(offset.unwrap_or(0)).unwrap_or_default();
    Some(UpgradeWindow { start, end, utc_offset_minutes })
}

/// `HH:MM:SS` with an optional fraction of up to seven digits, which is dropped.
fn time_of_day(node: &Node<'_>, report: &mut Report<'_>) -> Option<Duration> {
    let want = "a time of day like \"01:00:00.0000000\"";
    let text = node.text(want, report)?;
    let time = parse_time(text);
    if time.is_none() {
        report.refuse(node, want);
    }
    time
}

fn parse_time(text: &str) -> Option<Duration> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if fraction.is_empty() || fraction.len() > 7 || !plain(fraction) {
        return None;
    }
    let mut parts = [0_u64; 3];
    let mut fields = clock.split(':');
    for part in &mut parts {
        let field = fields.next()?;
        if field.len() != 2 || !plain(field) {
            return None;
        }
        *part = field.parse().ok()?;
    }
    let [hours, minutes, seconds] = parts;
    if fields.next().is_some() || hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    Some(Duration::from_secs(hours * 3_600 + minutes * 60 + seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: &str = r##"{
        "@odata.type": "#microsoft.graph.microsoftTunnelSite",
        "id": "0a1b", "displayName": "hq", "description": null,
        "publicAddress": "VPN.corp.example", "upgradeWindowUtcOffsetInMinutes": -90,
        "upgradeWindowStartTime": "23:30:00.0000000", "upgradeWindowEndTime": "00:30:00",
        "upgradeAutomatically": true, "upgradeAvailable": false,
        "internalNetworkProbeUrl": "https://intranet.corp.example/up?x=1", "roleScopeTagIds": ["0"],
        "microsoftTunnelConfiguration": { "id": "6f2c" }, "microsoftTunnelServers": [] }"##;

    #[test]
    fn every_property_is_read() {
        let parsed = Site::parse(SITE, "site.json").unwrap();
        assert!(parsed.warnings.is_empty(), "{:?}", parsed.warnings);
        let site = parsed.value;
        assert_eq!(site.public_address, "vpn.corp.example");
        assert_eq!(site.configuration_id.as_deref(), Some("6f2c"));
        assert!(site.upgrade_automatically);
        let window = site.upgrade_window.unwrap();
        assert_eq!(window.start, Duration::from_secs(84_600));
        assert_eq!((window.end, window.utc_offset_minutes), (Duration::from_secs(1_800), -90));
        assert!(site.internal_network_probe_url.unwrap().starts_with("https://"));
    }

    #[test]
    fn every_refusal_names_its_place() {
        for (from, to, place) in [
            ("VPN.corp.example", "vpn.corp.example:443", "/publicAddress"),
            ("VPN.corp.example", "10.0.0.256", "/publicAddress"),
            ("\"0a1b\"", "7", "/id"),
            ("\"hq\"", "\" \"", "/displayName"),
            ("-90", "900", "/upgradeWindowUtcOffsetInMinutes"),
            ("23:30:00.0000000", "24:00:00", "/upgradeWindowStartTime"),
            ("\"00:30:00\"", "\"00:29:59\"", "/upgradeWindowEndTime"),
            ("\"00:30:00\"", "null", "/upgradeWindowEndTime"),
            ("https://intranet", "ftp://intranet", "/internalNetworkProbeUrl"),
            ("https://intranet", "https://user@intranet", "/internalNetworkProbeUrl"),
            ("{ \"id\": \"6f2c\" }", "\"6f2c\"", "/microsoftTunnelConfiguration"),
            ("{ \"id\": \"6f2c\" }", "{}", "/microsoftTunnelConfiguration/id"),
            ("microsoftTunnelSite\"", "microsoftTunnelServer\"", "/@odata.type"),
        ] {
            let text = SITE.replacen(from, to, 1);
            let problems = Site::parse(&text, "site.json").unwrap_err().into_vec();
            assert_eq!(problems.len(), 1, "{to}: {problems:?}");
            assert_eq!(problems[0].pointer, place, "{to}");
            assert!(problems[0].line.is_some());
        }
    }

    #[test]
    fn a_server_has_one_site() {
        let two = format!("[{SITE}, {SITE}]");
        let problems = Site::parse(&two, "site.json").unwrap_err().to_string();
        assert_eq!(problems, "site.json:1: 2 sites; want exactly one, the site of this server");
        assert!(Site::parse(&format!(r#"{{"value": [{SITE}]}}"#), "site.json").is_ok());
    }

    #[test]
    fn probe_urls_have_a_scheme_a_host_and_maybe_a_port() {
        for url in ["http://10.0.0.1", "https://[fd00::1]:8443/x", "https://a.example:444", "http://[::1]/"] {
            assert!(is_probe_url(url), "{url}");
        }
        for url in ["", "://", "http://", "http:///x", "http://a.example:0", "http://a b/", "http://[::1]x/"]
        {
            assert!(!is_probe_url(url), "{url}");
        }
    }
}
