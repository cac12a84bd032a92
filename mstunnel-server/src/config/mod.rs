//! `gateway.toml` and the Graph-shaped JSON beside it, as one checked [`Settings`] value.
//!
//! ```text
//! gateway.toml ──┬─ configuration.json   pool, DNS, routes, port, timers   (mstunnel_proto::config)
//!                ├─ site.json            the site, optional
//!                ├─ site.crt, site.key   or site.pfx                        (crate::tls)
//!                └─ oidc.json, users.passwd                                 (crate::identity)
//! ```
//!
//! Everything is read before anything is used, and every problem of every file is reported at once,
//! each with file, place, value and want. A reload that fails therefore changes nothing (R76).
//! Relative paths are relative to the directory of `gateway.toml`.
//!
//! # Source
//! design.md section 6.

mod admin;
mod auth;
mod changes;
mod document;
mod egress;
pub(crate) mod files;
mod listen;
mod log;
mod paths;
mod state;
mod tls;
mod unavailable;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use mstunnel_proto::config::{
    Configuration, DEFAULT_MAX_RULES, MAX_FILE_LEN, Parsed, Problem, Problems, Selection, Site,
};

pub use self::admin::AdminSettings;
use self::auth::refuse_file;
pub use self::auth::{
    AuthGroup, AuthMethod, AuthSettings, BearerSettings, CertificateSettings, PasswordSettings,
};
use self::document::{Document, Item, Report, Section};
pub use self::egress::{EgressMode, EgressSettings};
pub use self::files::FileError;
pub use self::log::{LogFormat, LogLevel, LogSettings};
use self::paths::Base;
pub use self::state::{StateSettings, StateStore};
use self::tls::TlsSection;
pub use self::tls::{CertificateSource, TlsSettings};
use crate::tls::TlsIdentity;

/// `gateway.toml` is written by hand; this is a hundred times what its longest form needs.
const MAX_GATEWAY_LEN: u64 = 1 << 20;

/// The most that `[limits] split_rules` may raise: each rule is a header line for every client.
const MAX_SPLIT_RULES: i64 = 10_000;

/// Everything that `mstunnel-server serve` needs to know, checked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `gateway.toml` that was read.
    pub path: PathBuf,
    /// Pool, DNS, routes, port, timers, limits, banners.
    pub configuration: Configuration,
    /// Include and exclude rules that are allowed together, after merging neighbours.
    pub max_split_rules: usize,
    /// The site, if there is more than one server.
    pub site: Option<Site>,
    /// Addresses to listen on.
    pub listen: Vec<IpAddr>,
    /// Where the certificate is, and TLS versions.
    pub tls: TlsSettings,
    /// The certificate and key as they were when the settings were read.
    pub identity: TlsIdentity,
    /// How users sign in.
    pub auth: AuthSettings,
    /// Conditional access rules.
    pub policy: Option<PathBuf>,
    /// The way out.
    pub egress: EgressSettings,
    /// What outlives the process.
    pub state: StateSettings,
    /// Control socket and metrics.
    pub admin: AdminSettings,
    /// Logging.
    pub log: LogSettings,
}

/// Why no settings could be made of the files: every problem, one a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(Problems);

impl ConfigError {
    /// The problems in the order of the files.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> + '_ {
        self.0.iter()
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for ConfigError {}

impl Settings {
    /// Reads `path` and every file it names. The second value are warnings, one a line.
    ///
    /// # Errors
    /// Every problem of every file.
    pub fn load(path: &Path) -> Result<(Self, Vec<String>), ConfigError> {
        let mut report = Report::new(path.display().to_string());
        let settings = read(path, &mut report);
        let (problems, warnings) = report.into_parts();
        match (Problems::new(problems), settings) {
            (None, Some(settings)) => {
                let without_effect = unavailable::without_effect(&settings.configuration.advanced);
                let warnings = warnings.iter().map(ToString::to_string).chain(without_effect).collect();
                Ok((settings, warnings))
            }
            (Some(problems), _) => Err(ConfigError(problems)),
            (None, None) => {
                let file = path.display().to_string();
                Err(ConfigError(Problem::new(&file, "", "unusable", "a complete file").into()))
            }
        }
    }

    /// Every address with the port of the configuration.
    pub fn listen_addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.listen.iter().map(|address| SocketAddr::new(*address, self.configuration.listen_port))
    }
}

/// Reads everything; `None` if something is missing that has been reported.
fn read(path: &Path, report: &mut Report) -> Option<Settings> {
    let source = match files::read_text(path, MAX_GATEWAY_LEN) {
        Ok(source) => source,
        Err(error) => {
            let file = path.display().to_string();
            report.push(Problem::new(&file, "", &error.to_string(), error.want()));
            return None;
        }
    };
    let document = Document::parse(&source, report)?;
    let base = Base::of(path);
    let mut root = document.root();

    let max_split_rules = limits(root.section("limits", report), report);
    let site = root.take("site").and_then(|item| load_site(&item, base, report));
    let want = "a configuration JSON file";
    let configuration = root.demand("configuration", want, report);
    let configuration_item = configuration.clone();
    let selection = Selection {
        id: site.as_ref().and_then(|site| site.configuration_id.clone()),
        max_rules: max_split_rules,
    };
    let configuration = configuration.and_then(|item| load_configuration(&item, base, &selection, report));

    let listen = listen::read(root.section("listen", report), report);
    let tls_section = demand_section(&mut root, "tls", "a section with certificate and key, or pfx", report);
    let mut tls = tls::read(tls_section, base, report);
    let auth_section = demand_section(&mut root, "auth", "a section with methods", report);
    let auth = auth::read(auth_section, base, report);
    let policy = policy(root.section("policy", report), base, report);
    let pools =
        |configuration: &Configuration| configuration.pool_v4.into_iter().chain(configuration.pool_v6);
    let pools: Vec<_> = configuration.iter().flat_map(pools).collect();
    let egress = egress::read(root.section("egress", report), &pools, report);
    let state = state::read(root.section("state", report), base, report);
    let admin = admin::read(root.section("admin", report), base, report);
    let level = configuration.as_ref().and_then(|configuration| configuration.advanced.log_level);
    let log = log::read(root.section("log", report), level, report);
    root.finish(report);

    let mut versions_fit = true;
    if let Some(tls) = &mut tls {
        tls.settings.client_ca =
            auth.as_ref().and_then(|auth| auth.certificate.as_ref()).map(|settings| settings.ca.clone());
        let other = configuration.as_ref().and_then(|configuration| configuration.advanced.tls_min_version);
        versions_fit = tls.raise_minimum(other, report);
    }
    let identity = tls.as_ref().filter(|_| versions_fit).and_then(|tls| load_identity(tls, report));
    if let (Some(identity), Some(tls)) = (&identity, &tls) {
        check_name(identity, site.as_ref(), tls, report);
    }
    if let (Some(configuration), Some(item)) = (&configuration, &configuration_item) {
        check_listen(configuration, &listen, item, report);
    }
    Some(Settings {
        path: path.to_owned(),
        configuration: configuration?,
        max_split_rules,
        site,
        listen,
        tls: tls?.settings,
        identity: identity?,
        auth: auth?,
        policy,
        egress,
        state,
        admin,
        log,
    })
}

fn demand_section<'d>(
    root: &mut Section<'d>,
    key: &'static str,
    want: &str,
    report: &mut Report,
) -> Option<Section<'d>> {
    root.demand(key, want, report)?.section(report)
}

fn limits(section: Option<Section<'_>>, report: &mut Report) -> usize {
    let Some(mut section) = section else { return DEFAULT_MAX_RULES };
    let rules = section.take("split_rules").and_then(|item| item.integer(1..MAX_SPLIT_RULES + 1, report));
    section.finish(report);
    rules.and_then(|rules| usize::try_from(rules).ok()).unwrap_or(DEFAULT_MAX_RULES)
}

fn policy(section: Option<Section<'_>>, base: Base<'_>, report: &mut Report) -> Option<PathBuf> {
    let mut section = section?;
    let file = section.demand("file", "a policy file", report);
    section.finish(report);
    let item = file?;
    unavailable::check(&item, "policy.file", report);
    base.path(&item, "a policy file", report)
}

fn load_site(item: &Item<'_>, base: Base<'_>, report: &mut Report) -> Option<Site> {
    load_json(item, base, Site::parse, "a site JSON file", report)
}

fn load_configuration(
    item: &Item<'_>,
    base: Base<'_>,
    selection: &Selection,
    report: &mut Report,
) -> Option<Configuration> {
    let parse = |text: &str, file: &str| Configuration::parse_selected(text, file, selection);
    load_json(item, base, parse, "a configuration JSON file", report)
}

/// Reads one JSON file; its problems and warnings join those of `gateway.toml`.
fn load_json<T>(
    item: &Item<'_>,
    base: Base<'_>,
    parse: impl FnOnce(&str, &str) -> Result<Parsed<T>, Problems>,
    want: &str,
    report: &mut Report,
) -> Option<T> {
    let path = base.path(item, want, report)?;
    let text = match files::read_text(&path, MAX_FILE_LEN as u64) {
        Ok(text) => text,
        Err(error) => {
            refuse_file(item, &error, report);
            return None;
        }
    };
    match parse(&text, &path.display().to_string()) {
        Ok(parsed) => {
            report.push_warnings(parsed.warnings);
            Some(parsed.value)
        }
        Err(problems) => {
            problems.into_vec().into_iter().for_each(|problem| report.push(problem));
            None
        }
    }
}

fn load_identity(tls: &TlsSection<'_>, report: &mut Report) -> Option<TlsIdentity> {
    match crate::tls::load(&tls.settings) {
        Ok(identity) => {
            if let Some(item) = tls.place("certificate").or(tls.place("pfx")) {
                for warning in identity.warnings() {
                    report.warn(item, &format!("{}: {}", item.shown(), warning.what), warning.want);
                }
            }
            Some(identity)
        }
        Err(error) => {
            for problem in error.problems() {
                match tls.place(problem.key) {
                    Some(item) => {
                        report.refuse_with(
                            item,
                            &format!("{}: {}", item.shown(), problem.what),
                            problem.want,
                        );
                    }
                    None => report.push(Problem::new(&problem.file, "", &problem.what, problem.want)),
                }
            }
            None
        }
    }
}

/// Warns when devices that connect to the site's address would refuse the certificate.
fn check_name(identity: &TlsIdentity, site: Option<&Site>, tls: &TlsSection<'_>, report: &mut Report) {
    let Some(address) = site.map(|site| site.public_address.as_str()) else { return };
    if identity.covers(address) {
        return;
    }
    if let Some(item) = tls.place("certificate").or(tls.place("pfx")) {
        let value = format!("{}: names {}", item.shown(), identity.names().join(", "));
        let want = format!(
            "a certificate for the site's publicAddress {address} (a wildcard covers one whole label)"
        );
        report.warn(item, &value, want);
    }
}

/// Clients must not be given the address that they connect to.
fn check_listen(configuration: &Configuration, listen: &[IpAddr], item: &Item<'_>, report: &mut Report) {
    for pool in [configuration.pool_v4, configuration.pool_v6].into_iter().flatten() {
        for address in listen.iter().filter(|address| pool.contains(**address)) {
            let value = format!("{}: pool {pool}", item.shown());
            report.refuse_with(item, &value, format!("a pool without the listen address {address}"));
        }
    }
}

#[cfg(test)]
mod tests;
