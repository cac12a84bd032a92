//! `[auth]`: how users prove who they are, and the groups they may choose from.
//!
//! ```toml
//! [auth]
//! methods = ["bearer", "password"]
//! attempts = 3                     # of one conversation
//! [[auth.groups]]                  # offered in the login form; optional
//! name = "staff"
//! label = "Staff and contractors"  # what people see; the name if absent
//! [auth.bearer]
//! oidc = "oidc.json"
//! [auth.password]
//! file = "users.passwd"
//! [auth.certificate]
//! ca = "clients.crt"
//! ```

use std::path::PathBuf;

use super::document::{Item, Report, Section};
use super::files::{self, FileError};
use super::paths::Base;
use super::unavailable;

/// One way to sign in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AuthMethod {
    /// A token of an OpenID Connect issuer.
    Bearer,
    /// A client certificate.
    Certificate,
    /// User name and password.
    Password,
}

const METHODS: [(&str, AuthMethod); 3] = [
    ("bearer", AuthMethod::Bearer),
    ("certificate", AuthMethod::Certificate),
    ("password", AuthMethod::Password),
];

/// A group that a user may choose at login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthGroup {
    /// What the client sends back.
    pub name: String,
    /// What people see.
    pub label: String,
}

/// The checked `[auth]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthSettings {
    /// What is offered, in the order of the file, each once.
    pub methods: Vec<AuthMethod>,
    /// The bearer method's file, if the method is offered.
    pub bearer: Option<BearerSettings>,
    /// The password method's file, if the method is offered.
    pub password: Option<PasswordSettings>,
    /// The certificate method's authorities, if the method is offered.
    pub certificate: Option<CertificateSettings>,
    /// Groups of the login form; empty: no choice is shown.
    pub groups: Vec<AuthGroup>,
    /// Wrong answers that one conversation may give.
    pub attempts: u8,
}

/// `[auth.bearer]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BearerSettings {
    /// ocserv's `oidc.json` (product.md b.8).
    pub oidc: PathBuf,
}

/// `[auth.password]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PasswordSettings {
    /// Lines as `ocpasswd` writes them.
    pub file: PathBuf,
}

/// `[auth.certificate]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSettings {
    /// PEM certificates of the authorities.
    pub ca: PathBuf,
}

/// Attempts in one conversation when the file does not say; ocserv's number.
const DEFAULT_ATTEMPTS: u8 = 3;

/// The choice travels in every login form.
const MAX_GROUPS: usize = 64;

/// Group names are compared byte by byte and come back from clients.
const MAX_GROUP_LEN: usize = 64;

/// An `oidc.json` has a few lines.
const MAX_OIDC_LEN: u64 = 1 << 20;

/// Reads the section and looks at the files it names.
pub(super) fn read(
    section: Option<Section<'_>>,
    base: Base<'_>,
    report: &mut Report,
) -> Option<AuthSettings> {
    let mut section = section?;
    let want = "a list of bearer, certificate, password";
    let methods = section.demand("methods", want, report).map(|item| methods(&item, report));
    let attempts = section.take("attempts").and_then(|item| item.integer(1..11, report));
    let groups = section.take("groups").map(|item| groups(&item, report)).unwrap_or_default();
    // Without a readable list nobody knows: no section is missed, and those that are there are checked.
    let offered = |method| methods.as_ref().map(|methods: &Vec<AuthMethod>| methods.contains(&method));
    let mut file = |key, inner, want: &str, method, report: &mut Report| {
        subsection(&mut section, key, inner, want, base, offered(method), report)
    };
    let oidc = file("bearer", "oidc", "an oidc.json", AuthMethod::Bearer, report);
    let passwords = file("password", "file", "a file of ocpasswd lines", AuthMethod::Password, report);
    let ca = file("certificate", "ca", "a PEM file of authorities", AuthMethod::Certificate, report);
    section.finish(report);
    if let Some((item, path)) = &oidc {
        check_oidc(item, path, report);
    }
    if let Some((item, path)) = &passwords
        && let Err(error) = files::read_secret(path)
    {
        refuse_file(item, &error, report);
    }
    if let Some((item, path)) = &ca
        && let Err(error) = files::read_bytes(path, MAX_OIDC_LEN)
    {
        refuse_file(item, &error, report);
    }
    Some(AuthSettings {
        methods: methods.unwrap_or_default(),
        bearer: oidc.map(|(_, oidc)| BearerSettings { oidc }),
        password: passwords.map(|(_, file)| PasswordSettings { file }),
        certificate: ca.map(|(_, ca)| CertificateSettings { ca }),
        groups,
        attempts: attempts.and_then(|attempts| u8::try_from(attempts).ok()).unwrap_or(DEFAULT_ATTEMPTS),
    })
}

fn methods(list: &Item<'_>, report: &mut Report) -> Vec<AuthMethod> {
    let items = list.items(1..=METHODS.len(), "a list of bearer, certificate, password", report);
    let mut methods = Vec::new();
    for item in &items {
        let Some(method) = item.choice(&METHODS, report) else { continue };
        unavailable::check(item, "auth.methods", report);
        if methods.contains(&method) {
            report.refuse(item, "every method once");
        } else {
            methods.push(method);
        }
    }
    methods
}

/// Reads the one path of `[auth.KEY]`. Only an offered method needs its section.
fn subsection<'d>(
    auth: &mut Section<'d>,
    key: &'static str,
    inner: &'static str,
    want: &str,
    base: Base<'_>,
    offered: Option<bool>,
    report: &mut Report,
) -> Option<(Item<'d>, PathBuf)> {
    let Some(item) = auth.take(key) else {
        if offered == Some(true) {
            auth.refuse_missing(
                key,
                &format!("a section with {inner}, because the method is offered"),
                report,
            );
        }
        return None;
    };
    if offered == Some(false) {
        report.warn(&item, "a section without effect", format!("{key:?} in methods, or no section"));
    }
    let mut section = item.section(report)?;
    let item = section.demand(inner, want, report);
    section.finish(report);
    let item = item?;
    let path = base.path(&item, want, report)?;
    (offered != Some(false)).then_some((item, path))
}

fn check_oidc(item: &Item<'_>, path: &std::path::Path, report: &mut Report) {
    match files::read_text(path, MAX_OIDC_LEN) {
        Err(error) => refuse_file(item, &error, report),
        Ok(text) => match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text) {
            Ok(_) => {}
            Err(error) => {
                report.refuse_with(item, &format!("{}: {error}", item.shown()), "a JSON object in the file");
            }
        },
    }
}

/// Reports a file that cannot be used at the key that names it.
pub(super) fn refuse_file(item: &Item<'_>, error: &FileError, report: &mut Report) {
    report.refuse_with(item, &format!("{}: {error}", item.shown()), error.want());
}

fn groups(list: &Item<'_>, report: &mut Report) -> Vec<AuthGroup> {
    let mut groups: Vec<AuthGroup> = Vec::new();
    for item in list.items(0..=MAX_GROUPS, "[[auth.groups]] tables", report) {
        let Some(mut section) = item.section(report) else { continue };
        let name = section.demand("name", "the name of the group", report);
        let label = section.take("label");
        section.finish(report);
        let Some(name_item) = name else { continue };
        let Some(name) = name_item.read(group_text, "1 to 64 printable characters", report) else { continue };
        let label = match label {
            Some(label) => label.read(group_text, "1 to 64 printable characters", report),
            None => Some(name.clone()),
        };
        if groups.iter().any(|group| group.name == name) {
            report.refuse(&name_item, "every group once");
        } else if let Some(label) = label {
            groups.push(AuthGroup { name, label });
        }
    }
    groups
}

fn group_text(text: &str) -> Option<String> {
    let fits =
        text.chars().count() <= MAX_GROUP_LEN && !text.chars().any(char::is_control) && text.trim() == text;
    fits.then(|| text.to_owned())
}
