//! Fetching one document of the issuer: verified HTTPS, bounded, and nothing is followed.
//!
//! A redirect is an error: where the keys are is said by the discovery document and by nobody else
//! (threats.md R38, P-060). Each fetch makes its own connection, which ends with it.
//!
//! | bound | value |
//! | --- | --- |
//! | from name look-up to the last byte | 10 s |
//! | body | 1 MiB |

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri, header};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// How long one fetch may take (R38).
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest document (R38).
pub(super) const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;

/// Why a document could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no answer from {0} in time")]
    Timeout(Uri),
    #[error("cannot fetch {0}: {1}")]
    Connection(Uri, String),
    #[error("{0} answers {1}; want 200 (redirects are not followed)")]
    Status(Uri, StatusCode),
    #[error("{0} sends more than {MAX_DOCUMENT_BYTES} bytes")]
    TooLong(Uri),
}

/// Why the certificates of the issuer's authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootsError {
    #[error("{0}: {1}")]
    File(PathBuf, String),
    #[error("the system has no certificates of authorities; name some as \"ca_file\"")]
    NoneOfTheSystem,
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Fetches documents.
pub(super) struct Fetcher {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    timeout: Duration,
}

impl Fetcher {
    /// Trusts the authorities of `ca_file`, or those of the system.
    ///
    /// # Errors
    /// If there are none.
    pub(super) fn new(ca_file: Option<&Path>) -> Result<Self, RootsError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(ca_file)?)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector);
        Ok(Self { client, timeout: FETCH_TIMEOUT })
    }

    #[cfg(test)]
    pub(super) fn with_timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Fetches the document at `url`.
    ///
    /// # Errors
    /// If it does not come whole, in time, and with status 200.
    pub(super) async fn get(&self, url: &Uri) -> Result<Bytes, FetchError> {
        tokio::time::timeout(self.timeout, self.get_unhurried(url))
            .await
            .unwrap_or_else(|_| Err(FetchError::Timeout(url.clone())))
    }

    async fn get_unhurried(&self, url: &Uri) -> Result<Bytes, FetchError> {
        let broken = |error: &dyn std::error::Error| FetchError::Connection(url.clone(), chain(error));
        let request = Request::get(url.clone())
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, concat!("mstunnel/", env!("CARGO_PKG_VERSION")))
            .body(Empty::new())
            .map_err(|error| broken(&error))?;
        let response = self.client.request(request).await.map_err(|error| broken(&error))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(url.clone(), response.status()));
        }
        match Limited::new(response.into_body(), MAX_DOCUMENT_BYTES).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLong(url.clone())),
            Err(error) => Err(broken(error.as_ref())),
        }
    }
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, RootsError> {
    let mut roots = RootCertStore::empty();
    match ca_file {
        Some(path) => {
            let error = |why: String| RootsError::File(path.to_owned(), why);
            let pem = fs::read(path).map_err(|why| error(why.to_string()))?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|why| error(why.to_string()))?;
                roots.add(certificate).map_err(|why| error(why.to_string()))?;
            }
            if roots.is_empty() {
                return Err(error("no certificate in PEM form".to_owned()));
            }
        }
        None => {
            // Some of the system's may be unusable; that is no reason to trust none.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(RootsError::NoneOfTheSystem);
            }
        }
    }
    Ok(roots)
}

/// The message of an error and of what it comes from.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::oidc::testing::{Reply, TestIssuer};

    /// Covers: P-060, R38
    #[tokio::test]
    async fn a_document_comes_over_tls_that_the_given_authority_vouches_for() {
        let issuer = TestIssuer::start().await;
        issuer.reply("/doc", Reply::json("{}"));
        let url = issuer.url("/doc");
        let fetcher = Fetcher::new(Some(&issuer.ca_file())).unwrap();
        assert_eq!(fetcher.get(&url).await.unwrap(), "{}");
        // Another authority, or a name that the certificate has not.
        let stranger = TestIssuer::start().await;
        let fetcher = Fetcher::new(Some(&stranger.ca_file())).unwrap();
        assert!(matches!(fetcher.get(&url).await, Err(FetchError::Connection(..))));
        let fetcher = Fetcher::new(Some(&issuer.ca_file())).unwrap();
        let by_name = url.to_string().replace("127.0.0.1", "localhost").parse().unwrap();
        assert!(matches!(fetcher.get(&by_name).await, Err(FetchError::Connection(..))));
        assert_eq!(issuer.hits("/doc"), 1);
    }

    /// Covers: P-060, R38
    #[tokio::test]
    async fn redirects_and_anything_but_200_are_errors_and_nothing_is_followed() {
        let issuer = TestIssuer::start().await;
        let elsewhere = TestIssuer::start().await;
        elsewhere.reply("/doc", Reply::json("{}"));
        let fetcher = Fetcher::new(Some(&issuer.ca_file())).unwrap();
        let targets = [
            elsewhere.url("/doc").to_string(),
            issuer.url("/other").to_string(),
            "http://169.254.169.254/latest".to_owned(),
            "/other".to_owned(),
        ];
        issuer.reply("/other", Reply::json("{}"));
        for target in targets {
            issuer.reply("/doc", Reply::Redirect(target));
            let error = fetcher.get(&issuer.url("/doc")).await.unwrap_err();
            assert!(matches!(error, FetchError::Status(_, StatusCode::FOUND)), "{error}");
        }
        assert_eq!((elsewhere.hits("/doc"), issuer.hits("/other")), (0, 0));
        for status in [204, 401, 404, 500] {
            issuer.reply("/doc", Reply::Status(status));
            assert!(matches!(fetcher.get(&issuer.url("/doc")).await, Err(FetchError::Status(..))));
        }
    }

    /// Covers: P-060, P-051, R38
    #[tokio::test]
    async fn a_body_without_end_a_slow_one_and_a_silent_server_are_given_up() {
        let issuer = TestIssuer::start().await;
        let fetcher = Fetcher::new(Some(&issuer.ca_file())).unwrap();
        issuer.reply("/doc", Reply::Endless);
        assert!(matches!(fetcher.get(&issuer.url("/doc")).await, Err(FetchError::TooLong(_))));
        issuer.reply("/doc", Reply::json(&"x".repeat(MAX_DOCUMENT_BYTES)));
        assert_eq!(fetcher.get(&issuer.url("/doc")).await.unwrap().len(), MAX_DOCUMENT_BYTES);
        issuer.reply("/doc", Reply::json(&"x".repeat(MAX_DOCUMENT_BYTES + 1)));
        assert!(matches!(fetcher.get(&issuer.url("/doc")).await, Err(FetchError::TooLong(_))));

        let hasty = Fetcher::new(Some(&issuer.ca_file())).unwrap().with_timeout(Duration::from_millis(300));
        for reply in [Reply::Drip, Reply::Silence] {
            issuer.reply("/doc", reply);
            assert!(matches!(hasty.get(&issuer.url("/doc")).await, Err(FetchError::Timeout(_))));
        }
        issuer.reply("/doc", Reply::CutOff);
        assert!(matches!(fetcher.get(&issuer.url("/doc")).await, Err(FetchError::Connection(..))));
    }

    /// Covers: P-060, R38
    #[tokio::test]
    async fn plain_http_is_never_spoken() {
        let fetcher = Fetcher::new(None);
        let issuer = TestIssuer::start().await;
        let fetcher = fetcher.or_else(|_| Fetcher::new(Some(&issuer.ca_file()))).unwrap();
        let plain = issuer.url("/doc").to_string().replace("https:", "http:").parse().unwrap();
        assert!(matches!(fetcher.get(&plain).await, Err(FetchError::Connection(..))));
        assert_eq!(issuer.connections(), 0);
    }

    #[test]
    fn a_file_of_authorities_must_have_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        assert!(matches!(Fetcher::new(Some(&path)), Err(RootsError::File(..))));
        for text in ["", "no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            fs::write(&path, text).unwrap();
            assert!(matches!(Fetcher::new(Some(&path)), Err(RootsError::File(..))), "{text}");
        }
    }
}
