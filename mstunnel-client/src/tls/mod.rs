//! TLS toward a server: 1.3 preferred, 1.2 the floor, AEAD suites only, and nothing unverified.
//!
//! | given | the server is known by |
//! | --- | --- |
//! | nothing | a chain to the system's authorities, and its name |
//! | `--ca` | a chain to these authorities and no others, and its name |
//! | `--pin` | its key alone: for servers whose certificate nobody signed |
//! | `--ca` and `--pin` | both |
//!
//! # Source
//! R61; protocol.md section 1.

mod pin;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub use self::pin::{Pin, PinError};
use self::verify::Verifier;
pub use self::verify::why;

/// How a server is known, and how the client shows who it is.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// PEM files with the only authorities to believe; none for the system's.
    pub authorities: Vec<PathBuf>,
    /// The server's key must be one of these, if there are any.
    pub pins: Vec<Pin>,
    /// The client's certificate chain and key, PEM.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

/// Why the options cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsOptionsError {
    /// A PEM file.
    #[error("{path}: {why}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The system has no certificate authorities.
    #[error("this system has no certificate authorities; name some with --ca ({0})")]
    NoAuthorities(String),
    /// Key and certificate do not fit.
    #[error("client certificate {path}: {source}", path = path.display())]
    Certificate {
        /// The certificate's file.
        path: PathBuf,
        /// What rustls says.
        source: rustls::Error,
    },
    /// TLS itself.
    #[error("cannot set TLS up: {0}")]
    Tls(#[from] rustls::Error),
}

impl TlsOptions {
    /// Builds what connections are made with.
    ///
    /// # Errors
    /// [`TlsOptionsError`], naming the file.
    pub fn config(&self) -> Result<ClientConfig, TlsOptionsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let chain = if self.pins.is_empty() || !self.authorities.is_empty() {
            Some(self.chain_verifier(&provider)?)
        } else {
            None
        };
        let verifier = Verifier::new(chain, self.pins.clone(), &provider);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates(certificate)?;
                let key = PrivateKeyDer::from_pem_file(key).map_err(|error| file(key, error))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|source| TlsOptionsError::Certificate { path: certificate.clone(), source })?
            }
        };
        // A resumed connection would have another exporter secret than its server expects, and no gain:
        // a tunnel connects once.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    fn chain_verifier(
        &self,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Arc<WebPkiServerVerifier>, TlsOptionsError> {
        let mut roots = RootCertStore::empty();
        for path in &self.authorities {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| file(path, error))?;
            }
        }
        if self.authorities.is_empty() {
            let found = rustls_native_certs::load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                let why: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
                return Err(TlsOptionsError::NoAuthorities(why.join("; ")));
            }
        }
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| TlsOptionsError::NoAuthorities(error.to_string()))
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsOptionsError> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found: Vec<_> = found.map_err(|error| file(path, error))?;
    if found.is_empty() {
        return Err(file(path, "holds no certificate"));
    }
    Ok(found)
}

fn file(path: &Path, why: impl ToString) -> TlsOptionsError {
    TlsOptionsError::File { path: path.to_owned(), why: why.to_string() }
}
