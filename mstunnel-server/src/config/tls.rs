//! `[tls]`: where the certificate and its key are, and the versions.

use std::path::PathBuf;

use mstunnel_proto::config::TlsVersion;

use super::document::{Item, Report, Section};
use super::paths::Base;

/// Where the server's identity comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateSource {
    /// A PEM file with the chain and one with the private key.
    Pem {
        /// The chain.
        certificate: PathBuf,
        /// The key: PKCS#8, PKCS#1 or SEC1.
        key: PathBuf,
        /// The password of an encrypted key, on the first line of a file.
        password_file: Option<PathBuf>,
    },
    /// A PKCS#12 bundle with chain and key.
    Pfx {
        /// The bundle.
        pfx: PathBuf,
        /// Its password, on the first line of a file; without one the password is empty.
        password_file: Option<PathBuf>,
    },
}

/// The checked `[tls]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificate and key.
    pub source: CertificateSource,
    /// The oldest version that is spoken.
    pub minimum: TlsVersion,
    /// The newest version that is spoken; 1.3 unless an operator has to go round a broken middlebox.
    pub maximum: TlsVersion,
    /// Authorities of client certificates; only with one are clients asked for a certificate.
    pub client_ca: Option<PathBuf>,
}

/// The section with the places of its keys, for what is found wrong in the files later.
pub(super) struct TlsSection<'d> {
    pub(super) settings: TlsSettings,
    pub(super) places: Vec<(&'static str, Item<'d>)>,
}

const VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];

/// Reads the section; `None` says that no identity can be loaded from it.
pub(super) fn read<'d>(
    section: Option<Section<'d>>,
    base: Base<'_>,
    report: &mut Report,
) -> Option<TlsSection<'d>> {
    let mut section = section?;
    let mut places = Vec::new();
    let mut path = |key: &'static str, want: &str, section: &mut Section<'d>, report: &mut Report| {
        let item = section.take(key)?;
        let path = base.path(&item, want, report);
        places.push((key, item));
        path
    };
    let certificate = path("certificate", "a PEM file with the certificate chain", &mut section, report);
    let key = path("key", "a PEM file with the private key", &mut section, report);
    let pfx = path("pfx", "a PFX (PKCS#12) file", &mut section, report);
    let password_file = path("password_file", "a file with the password", &mut section, report);
    let minimum = section.take("minimum_version").and_then(|item| item.choice(&VERSIONS, report));
    let maximum_item = section.take("maximum_version");
    let maximum = maximum_item.as_ref().and_then(|item| item.choice(&VERSIONS, report));
    let minimum = minimum.unwrap_or(TlsVersion::Tls12);
    let maximum = maximum.unwrap_or(TlsVersion::Tls13);
    if let Some(item) = maximum_item {
        if maximum < TlsVersion::Tls13 {
            let want = "TLS 1.3 allowed; without it older and weaker handshakes are used";
            report.warn(&item, &item.shown(), want);
        }
        places.push(("maximum_version", item));
    }
    let written: Vec<&str> = places.iter().map(|(key, _)| *key).collect();
    let source = match (certificate, key, pfx) {
        (Some(certificate), Some(key), None) => {
            Some(CertificateSource::Pem { certificate, key, password_file })
        }
        (None, None, Some(pfx)) => Some(CertificateSource::Pfx { pfx, password_file }),
        (certificate, key, None) => {
            for (name, path) in [("certificate", certificate), ("key", key)] {
                if path.is_none() && !written.contains(&name) {
                    section.refuse_missing(name, "certificate and key, or pfx", report);
                }
            }
            None
        }
        (_, _, Some(_)) => {
            for (_, item) in places.iter().filter(|(name, _)| *name == "pfx") {
                report.refuse(item, "either pfx, or certificate and key, not both");
            }
            None
        }
    };
    section.finish(report);
    let settings = TlsSettings { source: source?, minimum, maximum, client_ca: None };
    Some(TlsSection { settings, places })
}

impl TlsSection<'_> {
    /// Takes the stricter of both files' oldest versions; one above the newest allowed is refused.
    pub(super) fn raise_minimum(&mut self, other: Option<TlsVersion>, report: &mut Report) -> bool {
        self.settings.minimum = self.settings.minimum.max(other.unwrap_or(TlsVersion::Tls12));
        let fits = self.settings.minimum <= self.settings.maximum;
        if !fits && let Some(item) = self.place("maximum_version") {
            report.refuse(item, "a version that is not older than minimum_version and tls-min-version");
        }
        fits
    }

    /// Where `key` is written.
    pub(super) fn place(&self, key: &str) -> Option<&Item<'_>> {
        self.places.iter().find(|(name, _)| *name == key).map(|(_, item)| item)
    }
}
