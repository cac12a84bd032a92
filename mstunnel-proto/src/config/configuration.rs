//! A Server configuration: pool, DNS, routes, port and timers of every server of a site.
//!
//! ```text
//! { "@odata.type": "#microsoft.graph.microsoftTunnelConfiguration", "id": ..., "displayName": ...,
//!   "network": CIDR, "ipv6Network": CIDR, "dnsServers": [...], "defaultDomainSuffix": ...,
//!   "routeIncludes": [...], "routeExcludes": [...], "splitDNS": [...], "listenPort": 443,
//!   "advancedSettings": [ { "name": ..., "value": ... } ], "disableUdpConnections": false }
//! ```
//!
//! A configuration that comes from Graph or from an existing installation (it carries OData
//! annotations, or is an `admin-settings.json`) is *imported* and keeps the product's session length
//! of an hour; one written by hand is *native* and has a day (product.md a.8 row 67).
//!
//! # Source
//! product.md b.1 and b.5.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::admin_settings;
use super::advanced::Advanced;
use super::json::{self, Node, Object, Report};
use super::names::{WANT_DOMAIN, domain, suffix};
use super::networks::{self, DEFAULT_MAX_RULES, Family, Networks};
use super::odata;
use super::problem::{Parsed, Problems};
use crate::prefix::Prefix;

/// The port of TCP and UDP where the file is silent; product.md b.1.
pub const DEFAULT_PORT: u16 = 443;

/// The session length of Microsoft's product; product.md a.8 row 67.
const IMPORTED_SESSION_TIMEOUT: Duration = Duration::from_secs(3_600);

/// Names in split DNS; each is a header line in the answer to every CONNECT.
const MAX_SPLIT_DNS: usize = 256;

/// Search domains of a client system; resolvers traditionally take six.
const MAX_SEARCH_DOMAINS: usize = 6;

/// Lengths of texts that are only displayed, in characters.
pub(super) const MAX_ID_LEN: usize = 64;
pub(super) const MAX_DISPLAY_NAME_LEN: usize = 200;
const MAX_DESCRIPTION_LEN: usize = 4_096;

/// One Server configuration, checked as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Configuration {
    /// The key by which sites refer to it, usually a GUID.
    pub id: String,
    /// Its name for people.
    pub display_name: String,
    /// Free text.
    pub description: Option<String>,
    /// The IPv4 pool; at least one of the two pools is there.
    pub pool_v4: Option<Prefix>,
    /// The IPv6 pool.
    pub pool_v6: Option<Prefix>,
    /// DNS servers for clients, in the order of the file.
    pub dns: Vec<IpAddr>,
    /// The search domain, or several separated by one space.
    pub default_domain: Option<String>,
    /// Split includes, each once; empty is the full tunnel.
    pub includes: Vec<Prefix>,
    /// Split excludes, each once.
    pub excludes: Vec<Prefix>,
    /// Domains that the given DNS servers resolve.
    pub split_dns: Vec<String>,
    /// The port of TCP and UDP.
    pub listen_port: u16,
    /// Whether the datagram channel is offered.
    pub udp: bool,
    /// Timers, limits and banners.
    pub advanced: Advanced,
    /// The last change, as written.
    pub last_update: Option<String>,
    /// Scope tags, as written.
    pub role_scope_tags: Vec<String>,
    /// Whether Graph or an existing installation wrote the file.
    pub imported: bool,
    /// Properties that are not ours, as written.
    pub unknown: BTreeMap<String, serde_json::Value>,
}

/// Which configuration of a file is wanted, and the limit that an operator may raise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// The id that the site names; without one the file holds exactly one configuration.
    pub id: Option<String>,
    /// Include and exclude rules together, after merging neighbours.
    pub max_rules: usize,
}

impl Default for Selection {
    fn default() -> Self {
        Self { id: None, max_rules: DEFAULT_MAX_RULES }
    }
}

impl Configuration {
    /// Reads the one configuration of `json`; `file` is its name in problems.
    ///
    /// # Errors
    /// Every problem of the file.
    pub fn parse(json: &str, file: &str) -> Result<Parsed<Self>, Problems> {
        Self::parse_selected(json, file, &Selection::default())
    }

    /// As [`Configuration::parse`], for one of several and with another limit of rules.
    ///
    /// # Errors
    /// Every problem of the file. Configurations that are not selected are checked too.
    pub fn parse_selected(json: &str, file: &str, selection: &Selection) -> Result<Parsed<Self>, Problems> {
        let tree = json::parse(json, file)?;
        let mut report = Report::new(file);
        let unwrapped = odata::unwrap(&tree, &mut report);
        let mut found = Vec::new();
        for node in &unwrapped.nodes {
            let Some(object) = node.object("a configuration object", &mut report) else { continue };
            let configuration = if admin_settings::is_admin_settings(&object) {
                admin_settings::read(object, selection.max_rules, &mut report)
            } else {
                read(object, unwrapped.exported, selection.max_rules, &mut report)
            };
            found.push(configuration);
        }
        let chosen = choose(found, selection, &mut report);
        report.finish(json, chosen)
    }
}

/// Picks the configuration of `selection`; none or several is a problem of the whole document.
fn choose(
    found: Vec<Configuration>,
    selection: &Selection,
    report: &mut Report<'_>,
) -> Option<Configuration> {
    let count = found.len();
    let wanted = |one: &Configuration| match &selection.id {
        Some(id) => one.id.eq_ignore_ascii_case(id),
        None => true,
    };
    let mut matching: Vec<Configuration> = found.into_iter().filter(wanted).collect();
    if matching.len() == 1 {
        return matching.pop();
    }
    // With other problems around, the one that is missing may just be unreadable.
    if report.is_clean() {
        let value = format!("{} of {count} configurations", matching.len());
        let want = match &selection.id {
            Some(id) => format!("exactly one with the id {id:?} that the site names"),
            None => "exactly one, or a site that names one of them".to_owned(),
        };
        report.refuse_at("", &value, want);
    }
    None
}

/// Reads one `microsoftTunnelConfiguration`.
fn read(mut object: Object<'_>, exported: bool, max_rules: usize, report: &mut Report<'_>) -> Configuration {
    let typed = odata::check_type(object.take("@odata.type"), "microsoftTunnelConfiguration", report);
    let imported = exported || typed;
    let id = object.demand("id", "the id of the configuration", report);
    let display_name = object.demand("displayName", "a name of 1 to 200 characters", report);
    let description = object.take("description");
    let default_domain = object.take("defaultDomainSuffix");
    let split_dns = object.take("splitDNS");
    let listen_port = object.take("listenPort");
    let no_udp = object.take("disableUdpConnections");
    let last_update = object.take("lastUpdateDateTime");
    let tags = object.take("roleScopeTagIds");
    let settings = object.take("advancedSettings");
    let routing = Routing {
        pool_v4: object.take("network"),
        pool_v6: object.take("ipv6Network"),
        dns: object.take("dnsServers"),
        includes: [object.take("routeIncludes"), object.take("routesInclude")]
            .into_iter()
            .flatten()
            .collect(),
        excludes: [object.take("routeExcludes"), object.take("routesExclude")]
            .into_iter()
            .flatten()
            .collect(),
    };
    let mut configuration = Configuration {
        id: text(id, MAX_ID_LEN, report).unwrap_or_default(),
        display_name: text(display_name, MAX_DISPLAY_NAME_LEN, report).unwrap_or_default(),
        description: text_or_empty(description, report),
        default_domain: default_domain.and_then(|node| search_domains(&node, report)),
        split_dns: split_dns.map(|node| split_domains(&node, report)).unwrap_or_default(),
        listen_port: listen_port.and_then(|node| port(&node, report)).unwrap_or(DEFAULT_PORT),
        udp: !no_udp.and_then(|node| node.boolean(report)).unwrap_or(false),
        last_update: last_update.and_then(|node| node.text("a time", report).map(str::to_owned)),
        role_scope_tags: tags.map(|node| texts(&node, report)).unwrap_or_default(),
        ..Configuration::empty(imported)
    };
    if let Some(settings) = settings {
        configuration.advanced.read(&settings, report);
    }
    routing.read_into(&mut configuration, max_rules, |name| object.place(name), report);
    configuration.unknown = object.unknown(report);
    configuration
}

impl Configuration {
    /// Nothing but defaults; it is not valid before its pool and names are filled in.
    pub(super) fn empty(imported: bool) -> Self {
        let mut advanced = Advanced::default();
        if imported {
            advanced.session_timeout = Some(IMPORTED_SESSION_TIMEOUT);
        }
        Self {
            id: String::new(),
            display_name: String::new(),
            description: None,
            pool_v4: None,
            pool_v6: None,
            dns: Vec::new(),
            default_domain: None,
            includes: Vec::new(),
            excludes: Vec::new(),
            split_dns: Vec::new(),
            listen_port: DEFAULT_PORT,
            udp: true,
            advanced,
            last_update: None,
            role_scope_tags: Vec::new(),
            imported,
            unknown: BTreeMap::new(),
        }
    }
}

/// The members that are checked against each other, whatever their names in the file.
pub(super) struct Routing<'j> {
    pub(super) pool_v4: Option<Node<'j>>,
    pub(super) pool_v6: Option<Node<'j>>,
    pub(super) dns: Option<Node<'j>>,
    pub(super) includes: Vec<Node<'j>>,
    pub(super) excludes: Vec<Node<'j>>,
}

impl Routing<'_> {
    /// Reads all of them; `place` gives the pointer of a Graph property.
    pub(super) fn read_into(
        &self,
        configuration: &mut Configuration,
        max_rules: usize,
        place: impl Fn(&str) -> String,
        report: &mut Report<'_>,
    ) {
        if self.pool_v4.is_none() && self.pool_v6.is_none() {
            report.refuse_at(&place("network"), "missing", "a pool: network, ipv6Network or both");
        }
        let mut pool = |node: &Option<Node<'_>>, family| {
            node.as_ref().and_then(|node| networks::pool(node, family, report))
        };
        configuration.pool_v4 = pool(&self.pool_v4, Family::V4);
        configuration.pool_v6 = pool(&self.pool_v6, Family::V6);
        configuration.dns =
            self.dns.as_ref().map(|node| networks::dns_servers(node, report)).unwrap_or_default();
        configuration.includes = networks::includes(&self.includes, report);
        configuration.excludes = networks::excludes(&self.excludes, report);
        let networks = Networks {
            pools: [configuration.pool_v4, configuration.pool_v6],
            dns: &configuration.dns,
            includes: &configuration.includes,
            excludes: &configuration.excludes,
            max_rules,
        };
        networks.check(place, report);
    }
}

/// A text of 1 to `most` characters without control characters.
pub(super) fn text(node: Option<Node<'_>>, most: usize, report: &mut Report<'_>) -> Option<String> {
    let node = node?;
    let want = format!("a text of 1 to {most} characters");
    let text = node.text(&want, report)?;
    if text.trim().is_empty() || text.chars().count() > most || text.chars().any(char::is_control) {
        report.refuse(&node, want);
        return None;
    }
    Some(text.to_owned())
}

/// A text that may be empty, which is the same as absent.
pub(super) fn text_or_empty(node: Option<Node<'_>>, report: &mut Report<'_>) -> Option<String> {
    let node = node?;
    let want = format!("a text of at most {MAX_DESCRIPTION_LEN} characters");
    let text = node.text(&want, report)?;
    if text.chars().count() > MAX_DESCRIPTION_LEN {
        report.refuse(&node, want);
        return None;
    }
    (!text.is_empty()).then(|| text.to_owned())
}

pub(super) fn texts(node: &Node<'_>, report: &mut Report<'_>) -> Vec<String> {
    let items = node.items("a list of texts", report);
    items.iter().filter_map(|item| item.text("a text", report)).map(str::to_owned).collect()
}

pub(super) fn port(node: &Node<'_>, report: &mut Report<'_>) -> Option<u16> {
    node.integer(1..=65_535, report).and_then(|port| u16::try_from(port).ok())
}

/// One domain or several with spaces between them (product.md a.3 row 20); empty is none.
pub(super) fn search_domains(node: &Node<'_>, report: &mut Report<'_>) -> Option<String> {
    let names: Vec<&str> = node.text(WANT_DOMAIN, report)?.split_ascii_whitespace().collect();
    let domains: Option<Vec<String>> = names.iter().map(|name| domain(name)).collect();
    let domains = domains.filter(|domains| domains.len() <= MAX_SEARCH_DOMAINS);
    if domains.is_none() {
        report.refuse(node, format!("{WANT_DOMAIN}, or up to {MAX_SEARCH_DOMAINS} with spaces between"));
    }
    domains.filter(|domains| !domains.is_empty()).map(|domains| domains.join(" "))
}

fn split_domains(node: &Node<'_>, report: &mut Report<'_>) -> Vec<String> {
    let mut domains = Vec::new();
    for item in node.items("a list of domain names", report) {
        let Some(text) = item.text(WANT_DOMAIN, report) else { continue };
        match suffix(text) {
            Some(domain) if domains.contains(&domain) => {}
            Some(domain) if domains.len() < MAX_SPLIT_DNS => domains.push(domain),
            Some(_) => {
                report.refuse(&item, format!("at most {MAX_SPLIT_DNS} domains"));
                break;
            }
            None => report.refuse(&item, format!("{WANT_DOMAIN}, a leading *. or . is taken off")),
        }
    }
    domains
}
