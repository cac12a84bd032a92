//! Checks certificates and key against each other and puts the chain in order.
//!
//! The server's own certificate is the one that the private key belongs to, wherever it stands in
//! the file; Microsoft's documentation asks for the order root, intermediate, leaf (product.md a.5
//! row 35), TLS wants the opposite. Issuers follow by name and key identifier.
//!
//! | refused | warned of |
//! | --- | --- |
//! | a key that belongs to none of the certificates | another order than TLS wants; strangers in the file |
//! | expired or not yet valid | under 30 days left; an issuer that is expired |
//! | RSA under 2,048 bits, other curves than P-256, P-384, P-521, Ed25519 | a lifetime that iOS refuses (over 730 days) |
//! | | a certificate that is neither self-signed nor with its issuer; no subject alternative names |

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use super::source::Material;
use super::{TlsError, TlsProblem};

/// R77: expiry is reported this long before.
pub(super) const EXPIRY_WARNING: Duration = Duration::from_secs(30 * 86_400);

/// The longest life of a certificate under an authority that the user added, which iOS accepts;
/// product.md a.5 row 37.
const MAX_LIFE_DAYS: i64 = 730;

/// product.md a.5 rows 41 and 42.
const MIN_RSA_BITS: usize = 2_048;

const WANT_KEY: &str = "a private key: RSA of 2048 bits or more, P-256, P-384, P-521 or Ed25519";
const WANT_VALID: &str = "a certificate that is valid now";

/// An identity that TLS can be spoken with.
pub(super) struct Checked {
    pub(super) certified: CertifiedKey,
    pub(super) leaf: CertificateDer<'static>,
    pub(super) names: Vec<String>,
    pub(super) not_after: SystemTime,
    pub(super) warnings: Vec<TlsProblem>,
}

/// Checks `material` as of `now`.
pub(super) fn check(
    material: Material,
    provider: &CryptoProvider,
    now: SystemTime,
) -> Result<Checked, TlsError> {
    let (certificate_key, certificate_file) = material.certificate_file;
    let (key_key, key_file) = material.key_file;
    let problem = |what: String, want| TlsProblem::new(certificate_key, &certificate_file, what, want);
    let parsed: Result<Vec<_>, _> = material
        .certificates
        .iter()
        .map(|der| X509Certificate::from_der(der).map(|(_, cert)| cert))
        .collect();
    let parsed = parsed.map_err(|error| problem(error.to_string(), "X.509 certificates"))?;

    let mut unusable = None;
    let mut found = None;
    for key in material.keys {
        match provider.key_provider.load_private_key(key) {
            Err(error) => unusable = Some(error),
            Ok(key) => {
                let spki = key.public_key();
                let fits = |cert: &X509Certificate<'_>| {
                    spki.as_ref().is_some_and(|spki| cert.public_key().raw == &spki[..])
                };
                if let Some(leaf) = parsed.iter().position(fits) {
                    found = Some((key, leaf));
                    break;
                }
            }
        }
    }
    let Some((key, leaf)) = found else {
        let (what, want) = match unusable {
            Some(error) => (format!("unusable ({error})"), WANT_KEY),
            None => {
                let what = format!("belongs to none of the {} certificates", parsed.len());
                (what, "the private key of the certificate")
            }
        };
        return Err(TlsProblem::new(key_key, &key_file, what, want).into());
    };

    let order = order(&parsed, leaf);
    let mut faults = Vec::new();
    let mut warnings = Vec::new();
    if let Some(bits) = parsed.get(leaf).and_then(weak_rsa_bits) {
        faults.push(problem(format!("an RSA key of {bits} bits"), WANT_KEY));
    }
    for (position, certificate) in order.iter().filter_map(|&index| parsed.get(index)).enumerate() {
        let list = if position == 0 { &mut faults } else { &mut warnings };
        list.extend(validity_fault(certificate, now).map(|what| problem(what, WANT_VALID)));
    }
    if !faults.is_empty() {
        return Err(TlsError(faults));
    }
    let own = &parsed[leaf];
    let names = names(own);
    let mut warn = |what: String, want| warnings.push(problem(what, want));
    if order.len() < parsed.len() {
        let what = format!("{} certificates are not issuers of the server's own", parsed.len() - order.len());
        warn(what, "only the server's chain; the others are not sent");
    }
    if order.iter().enumerate().any(|(position, &index)| position != index) {
        warn(
            "the chain is in another order".to_owned(),
            "the server's own certificate first, then its issuers; it is sent so",
        );
    }
    if let [only] = order[..]
        && parsed[only].subject().as_raw() != parsed[only].issuer().as_raw()
    {
        let what = format!("the issuer ({}) is not in the file", parsed[only].issuer());
        warn(what, "the chain up to an authority that clients know");
    }
    let days = (own.validity().not_after.timestamp() - own.validity().not_before.timestamp()) / 86_400;
    if days > MAX_LIFE_DAYS {
        warn(format!("valid for {days} days"), "at most 730 days; iOS refuses longer ones");
    }
    let not_after = from_timestamp(own.validity().not_after.timestamp());
    if not_after.duration_since(now).unwrap_or_default() < EXPIRY_WARNING {
        warn(format!("expires at {}", own.validity().not_after), "a new certificate soon");
    }
    if names.is_empty() {
        warn("no subject alternative names".to_owned(), "the server's name or address among them");
    }
    let chain: Vec<CertificateDer<'static>> =
        order.iter().filter_map(|&index| material.certificates.get(index).cloned()).collect();
    let leaf = material.certificates[leaf].clone();
    Ok(Checked { certified: CertifiedKey::new(chain, key), leaf, names, not_after, warnings })
}

/// The indices of the chain: `leaf`, then issuer after issuer. Each is used once, so that two
/// authorities that certify each other do not make it endless.
fn order(certificates: &[X509Certificate<'_>], leaf: usize) -> Vec<usize> {
    let mut chain = vec![leaf];
    let mut last = leaf;
    while certificates[last].subject().as_raw() != certificates[last].issuer().as_raw() {
        let next = (0..certificates.len())
            .find(|index| !chain.contains(index) && issued(&certificates[*index], &certificates[last]));
        let Some(next) = next else { break };
        chain.push(next);
        last = next;
    }
    chain
}

/// Whether `issuer` may have signed `subject`: its name, and its key identifier if both say one.
/// Clients check the signatures; this only puts the chain in order.
fn issued(issuer: &X509Certificate<'_>, subject: &X509Certificate<'_>) -> bool {
    let by_name = issuer.subject().as_raw() == subject.issuer().as_raw();
    let wanted = subject.extensions().iter().find_map(|extension| {
        let ParsedExtension::AuthorityKeyIdentifier(id) = extension.parsed_extension() else { return None };
        id.key_identifier.as_ref().map(|id| id.0)
    });
    let has = issuer.extensions().iter().find_map(|extension| {
        let ParsedExtension::SubjectKeyIdentifier(id) = extension.parsed_extension() else { return None };
        Some(id.0)
    });
    by_name && (wanted.is_none() || has.is_none() || wanted == has)
}

fn weak_rsa_bits(certificate: &X509Certificate<'_>) -> Option<usize> {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => Some(key.key_size()).filter(|bits| *bits < MIN_RSA_BITS),
        _ => None,
    }
}

fn validity_fault(certificate: &X509Certificate<'_>, now: SystemTime) -> Option<String> {
    let validity = certificate.validity();
    if now > from_timestamp(validity.not_after.timestamp()) {
        return Some(format!("{} expired at {}", certificate.subject(), validity.not_after));
    }
    if now < from_timestamp(validity.not_before.timestamp()) {
        return Some(format!("{} is not valid before {}", certificate.subject(), validity.not_before));
    }
    None
}

/// A time before 1970 counts as 1970, one past the clock's range as its end.
fn from_timestamp(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

/// DNS names in lower case and addresses, as they stand in the certificate.
fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    extension.value.general_names.iter().filter_map(name).collect()
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    if let GeneralName::DNSName(name) = name {
        return Some(name.to_ascii_lowercase());
    }
    let GeneralName::IPAddress(bytes) = name else { return None };
    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
    let address = v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
    address.ok().map(|address| address.to_string())
}
