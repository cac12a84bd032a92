//! Reads certificates and the private key from PEM files or a PFX bundle.
//!
//! Files with a key or a password are secrets: who else can read them is looked at first (R86).

use std::path::{Path, PathBuf};

use p12_keystore::Pkcs12Archive;
use pkcs5::EncryptionScheme;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::asn1_rs::{FromDer, OctetString, Sequence};
use zeroize::Zeroizing;

use super::{TlsError, TlsProblem};
use crate::config::CertificateSource;
use crate::config::files::{read_bytes, read_secret};

/// A chain of ten certificates with large keys and many names has under 100 KB.
const MAX_CERTIFICATE_LEN: u64 = 1 << 20;

/// Certificates in one file: more than any chain, fewer than a trust store.
const MAX_CERTIFICATES: usize = 32;

const WANT_CHAIN: &str = "a PEM file with the server's certificate and its issuers";
const WANT_KEY: &str = "a PEM private key: PKCS#8, PKCS#1 or SEC1";
const WANT_PASSWORD: &str = "the right password on the first line of password_file";

/// What the files hold, not yet checked against each other.
pub(super) struct Material {
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// One key of a PEM file, or all of a bundle.
    pub(super) keys: Vec<PrivateKeyDer<'static>>,
    pub(super) certificate_file: (&'static str, PathBuf),
    pub(super) key_file: (&'static str, PathBuf),
}

/// Reads the files of `source`.
pub(super) fn read(source: &CertificateSource) -> Result<Material, TlsError> {
    match source {
        CertificateSource::Pem { certificate, key, password_file } => {
            let certificates = read_certificates("certificate", certificate);
            let private = read_key(key, password_file.as_deref());
            match (certificates, private) {
                (Ok(certificates), Ok(private)) => Ok(Material {
                    certificates,
                    keys: vec![private],
                    certificate_file: ("certificate", certificate.clone()),
                    key_file: ("key", key.clone()),
                }),
                (certificates, private) => {
                    let errors = [certificates.err(), private.err()].into_iter().flatten();
                    Err(TlsError(errors.flat_map(|error| error.0).collect()))
                }
            }
        }
        CertificateSource::Pfx { pfx, password_file } => read_pfx(pfx, password_file.as_deref()),
    }
}

/// Reads all certificates of a PEM file; `key` names the setting.
pub(super) fn read_certificates(
    key: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read_bytes(path, MAX_CERTIFICATE_LEN)
        .map_err(|error| TlsProblem::new(key, path, error.to_string(), error.want()))?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let certificates =
        certificates.map_err(|error| TlsProblem::new(key, path, error.to_string(), WANT_CHAIN))?;
    match certificates.len() {
        0 => Err(TlsProblem::new(key, path, "no certificate inside", WANT_CHAIN).into()),
        1..=MAX_CERTIFICATES => Ok(certificates),
        count => {
            let what = format!("{count} certificates, limit {MAX_CERTIFICATES}");
            Err(TlsProblem::new(key, path, what, WANT_CHAIN).into())
        }
    }
}

fn read_key(path: &Path, password_file: Option<&Path>) -> Result<PrivateKeyDer<'static>, TlsError> {
    let refuse = |what: String, want| TlsError::from(TlsProblem::new("key", path, what, want));
    let pem = read_secret(path).map_err(|error| refuse(error.to_string(), error.want()))?;
    let has = |mark: &[u8]| pem.windows(mark.len()).any(|window| window == mark);
    if has(b"BEGIN ENCRYPTED PRIVATE KEY") {
        let Some(password_file) = password_file else {
            return Err(refuse("an encrypted key".to_owned(), "a password_file beside it, or a plain key"));
        };
        let password = read_password(password_file)?;
        return decrypt(&pem, &password)
            .ok_or_else(|| refuse("cannot be decrypted".to_owned(), WANT_PASSWORD));
    }
    if has(b"Proc-Type: 4,ENCRYPTED") {
        let want = "a PKCS#8 key: openssl pkcs8 -topk8 -in OLD -out NEW";
        return Err(refuse("encrypted the old way of OpenSSL".to_owned(), want));
    }
    PrivateKeyDer::from_pem_slice(&pem).map_err(|error| {
        let empty = matches!(error, rustls_pki_types::pem::Error::NoItemsFound);
        refuse(if empty { "no private key inside".to_owned() } else { error.to_string() }, WANT_KEY)
    })
}

/// Opens an encrypted PKCS#8 key.
///
/// ```text
/// EncryptedPrivateKeyInfo ::= SEQUENCE { algorithm AlgorithmIdentifier, data OCTET STRING }
/// ```
///
/// # Source
/// RFC 5958 section 3.
fn decrypt(pem: &[u8], password: &[u8]) -> Option<PrivateKeyDer<'static>> {
    let text = std::str::from_utf8(pem).ok()?;
    let (_, rest) = text.split_once("-----BEGIN ENCRYPTED PRIVATE KEY-----")?;
    let (body, _) = rest.split_once("-----END ENCRYPTED PRIVATE KEY-----")?;
    let body: String = body.split_whitespace().collect();
    let der = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, body).ok()?;
    let (_, outer) = Sequence::from_der(&der).ok()?;
    let (rest, algorithm) = Sequence::from_der(&outer.content).ok()?;
    let algorithm_der = outer.content.get(..outer.content.len() - rest.len())?;
    drop(algorithm);
    let (_, data) = OctetString::from_der(rest).ok()?;
    let scheme = EncryptionScheme::try_from(algorithm_der).ok()?;
    let plain = scheme.decrypt(password, data.as_ref()).ok()?;
    Some(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(plain)))
}

/// The first line of a password file.
fn read_password(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let bytes = read_secret(path)
        .map_err(|error| TlsProblem::new("password_file", path, error.to_string(), error.want()))?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(Zeroizing::new(line.strip_suffix(b"\r").unwrap_or(line).to_vec()))
}

fn read_pfx(path: &Path, password_file: Option<&Path>) -> Result<Material, TlsError> {
    let refuse = |what: String, want| TlsError::from(TlsProblem::new("pfx", path, what, want));
    let bundle = read_secret(path).map_err(|error| refuse(error.to_string(), error.want()));
    let password = password_file.map_or_else(|| Ok(Zeroizing::default()), read_password);
    let (bundle, password) = match (bundle, password) {
        (Ok(bundle), Ok(password)) => (bundle, password),
        (bundle, password) => {
            let errors = [bundle.err(), password.err()].into_iter().flatten();
            return Err(TlsError(errors.flat_map(|error| error.0).collect()));
        }
    };
    let password = std::str::from_utf8(&password)
        .map_err(|_| refuse("the password is not UTF-8".to_owned(), WANT_PASSWORD))?;
    let archive = Pkcs12Archive::from_pkcs12(&bundle, password)
        .map_err(|error| refuse(format!("cannot be opened ({error})"), WANT_PASSWORD))?;
    let certificates: Vec<_> = archive
        .certs
        .iter()
        .take(MAX_CERTIFICATES)
        .map(|bag| CertificateDer::from(bag.cert.as_der().to_vec()))
        .collect();
    let keys: Vec<_> = archive
        .keys
        .iter()
        .map(|bag| PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(bag.key.as_der().to_vec())))
        .collect();
    if certificates.is_empty() || keys.is_empty() {
        let what = format!("{} certificates and {} keys inside", certificates.len(), keys.len());
        return Err(refuse(what, "a bundle with certificate, issuers and private key"));
    }
    let file = || ("pfx", path.to_owned());
    Ok(Material { certificates, keys, certificate_file: file(), key_file: file() })
}
