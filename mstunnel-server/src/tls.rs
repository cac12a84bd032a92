//! The server's certificate and its TLS configuration.
//!
//! ```text
//! files ── tls::load ──> TlsIdentity ── Tls::new ──> ServerConfig ──> each handshake
//!                                   └── Tls::replace: the next handshake has the new certificate
//! ```
//!
//! What is offered (R11): TLS 1.3, then 1.2 if allowed, ECDHE with AEAD only, the hybrid
//! post-quantum group first. No early data, no ALPN (the stock client offers none), no renegotiation.
//! No resumption either: a resumed connection carries no authority here (R20), a full handshake
//! costs a quarter of a millisecond, and after a reload every connection has the new certificate.
//!
//! # Source
//! protocol.md 0, dependencies.md section 2, product.md a.5.

mod chain;
mod source;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use mstunnel_proto::config::TlsVersion;
use rustls::crypto::CryptoProvider;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};

use crate::config::TlsSettings;

/// A certificate chain with its key, and what TLS is to be spoken with it.
#[derive(Clone)]
pub struct TlsIdentity {
    certified: Arc<CertifiedKey>,
    leaf_sha1: String,
    names: Vec<String>,
    not_after: SystemTime,
    warnings: Vec<TlsProblem>,
    minimum: TlsVersion,
    maximum: TlsVersion,
    client_roots: Option<Arc<RootCertStore>>,
}

impl TlsIdentity {
    /// The SHA-1 of the server's certificate, 40 upper-case hexadecimal digits: how clients
    /// recognise the server again (the `webvpnc` cookie). Not a security measure.
    pub fn leaf_sha1(&self) -> String {
        self.leaf_sha1.clone()
    }

    /// The DNS names and addresses of the certificate.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// When the certificate ends.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// What an operator should know although the identity is usable.
    pub fn warnings(&self) -> &[TlsProblem] {
        &self.warnings
    }

    /// Whether a client that connects to `host` finds it in the certificate. A wildcard stands for
    /// exactly one whole label, the first (RFC 6125 section 6.4.3; product.md a.5 row 38).
    pub fn covers(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        let is_address = host.parse::<IpAddr>().is_ok();
        self.names.iter().any(|name| {
            let wildcard = name.strip_prefix("*.").filter(|_| !is_address);
            *name == host
                || wildcard.is_some_and(|rest| host.split_once('.').is_some_and(|(_, tail)| tail == rest))
        })
    }
}

/// How long a certificate is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Validity {
    /// For more than 30 days.
    Long,
    /// For so many whole days.
    Ending(u64),
    /// No longer.
    Expired,
}

/// How long a certificate that ends at `not_after` is good for at `now` (R77).
pub(crate) fn validity(not_after: SystemTime, now: SystemTime) -> Validity {
    match not_after.duration_since(now) {
        Ok(left) if left > chain::EXPIRY_WARNING => Validity::Long,
        Ok(left) => Validity::Ending(left.as_secs() / 86_400),
        Err(_) => Validity::Expired,
    }
}

impl Validity {
    /// A sentence about a certificate that has expired.
    pub(crate) fn expired(self) -> Option<String> {
        let sentence =
            "the certificate has expired and clients refuse it: put a new one in its place, and reload";
        (self == Self::Expired).then(|| sentence.to_owned())
    }

    /// A sentence about one that is to expire; another one each day.
    pub(crate) fn ending(self) -> Option<String> {
        let Self::Ending(days) = self else { return None };
        Some(format!("the certificate expires in {days} days: put a new one in its place, and reload"))
    }
}

impl fmt::Debug for TlsIdentity {
    /// Never shows the key (R86).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("TlsIdentity");
        shown.field("leaf_sha1", &self.leaf_sha1).field("names", &self.names).finish_non_exhaustive()
    }
}

/// One thing that is wrong with a file of the `[tls]` section, or worth a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsProblem {
    /// The key of the section that names the file.
    pub key: &'static str,
    /// The file.
    pub file: String,
    /// What was found.
    pub what: String,
    /// What belongs there.
    pub want: &'static str,
}

impl TlsProblem {
    fn new(key: &'static str, file: &Path, what: impl Into<String>, want: &'static str) -> Self {
        Self { key, file: file.display().to_string(), what: what.into(), want }
    }
}

impl fmt::Display for TlsProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; want {}", self.file, self.what, self.want)
    }
}

/// Why no identity could be made of the files; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsError(Vec<TlsProblem>);

impl TlsError {
    /// The problems, one a file and fault.
    pub fn problems(&self) -> &[TlsProblem] {
        &self.0
    }
}

impl From<TlsProblem> for TlsError {
    fn from(problem: TlsProblem) -> Self {
        Self(vec![problem])
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for TlsError {}

/// Loads and checks certificate, key and client authorities.
///
/// # Errors
/// Every problem that can be told apart: unreadable or unprotected files, a key that belongs to no
/// certificate, an expired or too weak certificate.
pub fn load(settings: &TlsSettings) -> Result<TlsIdentity, TlsError> {
    load_at(settings, SystemTime::now())
}

/// As [`load`], with the date as an argument.
///
/// # Errors
/// As [`load`].
pub fn load_at(settings: &TlsSettings, now: SystemTime) -> Result<TlsIdentity, TlsError> {
    let provider = provider();
    let roots = settings.client_ca.as_deref().map(load_client_roots).transpose();
    let material = source::read(&settings.source);
    let (material, client_roots) = match (material, roots) {
        (Ok(material), Ok(roots)) => (material, roots),
        (material, roots) => {
            let problems = [material.err(), roots.err()].into_iter().flatten();
            return Err(TlsError(problems.flat_map(|error| error.0).collect()));
        }
    };
    let checked = chain::check(material, &provider, now)?;
    let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &checked.leaf);
    let identity = TlsIdentity {
        certified: Arc::new(checked.certified),
        leaf_sha1: digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect(),
        names: checked.names,
        not_after: checked.not_after,
        warnings: checked.warnings,
        minimum: settings.minimum,
        maximum: settings.maximum,
        client_roots: client_roots.map(Arc::new),
    };
    // Whatever rustls would refuse is refused now, while nothing depends on it yet.
    Tls::new(identity.clone()).map_err(|error| {
        let (key, file) = settings.source.main();
        TlsProblem::new(key, file, error.to_string(), "an identity that TLS can be spoken with")
    })?;
    Ok(identity)
}

/// The TLS configuration of a server that keeps `identity` for ever; see [`Tls`] for one that reloads.
///
/// # Errors
/// As [`Tls::new`].
pub fn server_config(identity: &TlsIdentity) -> Result<Arc<ServerConfig>, rustls::Error> {
    Tls::new(identity.clone()).map(|tls| tls.config())
}

/// The TLS side of a running server: one configuration whose certificate can be exchanged.
#[derive(Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    current: Arc<Current>,
}

/// The identity of new handshakes.
#[derive(Debug)]
struct Current(ArcSwap<TlsIdentity>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().certified.clone())
    }
}

impl Tls {
    /// Builds the configuration.
    ///
    /// # Errors
    /// rustls refuses the combination; [`load`] has already tried.
    pub fn new(identity: TlsIdentity) -> Result<Self, rustls::Error> {
        let provider = provider();
        let versions = versions(identity.minimum, identity.maximum);
        let builder =
            ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions)?;
        let builder = match &identity.client_roots {
            None => builder.with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| rustls::Error::General(error.to_string()))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let current = Arc::new(Current(ArcSwap::from_pointee(identity)));
        let mut config = builder.with_cert_resolver(current.clone());
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.alpn_protocols = Vec::new();
        Ok(Self { config: Arc::new(config), current })
    }

    /// The configuration, the same one for the life of the server.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// The identity that new handshakes see.
    pub fn identity(&self) -> Arc<TlsIdentity> {
        self.current.0.load_full()
    }

    /// Gives new handshakes another certificate (R77). Versions and client authorities stay: they
    /// belong to the configuration.
    pub fn replace(&self, identity: TlsIdentity) {
        self.current.0.store(Arc::new(identity));
    }
}

fn provider() -> Arc<CryptoProvider> {
    // aws-lc-rs has only ECDHE suites with AEAD; a test keeps it so.
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn versions(minimum: TlsVersion, maximum: TlsVersion) -> Vec<&'static SupportedProtocolVersion> {
    [(TlsVersion::Tls13, &rustls::version::TLS13), (TlsVersion::Tls12, &rustls::version::TLS12)]
        .into_iter()
        .filter(|(version, _)| (minimum..=maximum).contains(version))
        .map(|(_, version)| version)
        .collect()
}

fn load_client_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let want = "PEM certificates of authorities";
    let mut roots = RootCertStore::empty();
    for certificate in source::read_certificates("client_ca", path)? {
        roots
            .add(certificate)
            .map_err(|error| TlsProblem::new("client_ca", path, error.to_string(), want))?;
    }
    Ok(roots)
}

impl crate::config::CertificateSource {
    /// The file that holds the certificate, and the key that names it.
    fn main(&self) -> (&'static str, &PathBuf) {
        match self {
            Self::Pem { certificate, .. } => ("certificate", certificate),
            Self::Pfx { pfx, .. } => ("pfx", pfx),
        }
    }
}
