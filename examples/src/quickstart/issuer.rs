//! An OpenID issuer for one user: discovery and a key set over HTTPS on the loopback, and tokens.
//!
//! In a company this is Entra ID, Keycloak or the like; the server does not see the difference.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::files;

/// Who tokens are for.
const AUDIENCE: &str = "mstunnel-quickstart";

/// The name of the only key.
const KEY_ID: &str = "key-1";

/// How long a token is good.
const LIFETIME: Duration = Duration::from_secs(3600);

/// The issuer's listener and its signing key.
pub(crate) struct Issuer {
    listener: TcpListener,
    tls: TlsAcceptor,
    signer: Signer,
    authority: PathBuf,
}

/// What signs tokens; outlives [`Issuer::serve`].
#[derive(Clone)]
pub(crate) struct Signer {
    url: String,
    key: Arc<rcgen::KeyPair>,
}

impl Issuer {
    /// Makes an authority, a certificate and a signing key; writes the authority into `home`.
    pub(crate) async fn bind(home: &Path) -> Result<Self> {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port on 127.0.0.1")?;
        let port = listener.local_addr()?.port();
        let authority_key = rcgen::KeyPair::generate()?;
        let mut authority = rcgen::CertificateParams::new(Vec::<String>::new())?;
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
        let pem = authority.self_signed(&authority_key)?.pem();
        let signer = rcgen::Issuer::new(authority, authority_key);
        let tls_key = rcgen::KeyPair::generate()?;
        let certificate = rcgen::CertificateParams::new(vec![Ipv4Addr::LOCALHOST.to_string()])?
            .signed_by(&tls_key, &signer)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::from(PrivatePkcs8KeyDer::from(tls_key.serialize_der())),
            )?;
        let file = home.join("issuer.pem");
        files::write_private(&file, &pem)?;
        Ok(Self {
            listener,
            tls: TlsAcceptor::from(Arc::new(config)),
            signer: Signer {
                url: format!("https://127.0.0.1:{port}"),
                key: Arc::new(rcgen::KeyPair::generate()?),
            },
            authority: file,
        })
    }

    /// Its URL, the `iss` of its tokens.
    pub(crate) fn url(&self) -> &str {
        &self.signer.url
    }

    /// What signs its tokens.
    pub(crate) fn signer(&self) -> Signer {
        self.signer.clone()
    }

    /// The file `oidc.json` of a server that trusts this issuer.
    pub(crate) fn oidc_json(&self) -> Value {
        json!({
            "openid_configuration_url": format!("{}/.well-known/openid-configuration", self.url()),
            "user_name_claim": "preferred_username",
            "required_claims": { "aud": AUDIENCE, "iss": self.url() },
            "ca_file": self.authority,
        })
    }

    /// Answers requests for as long as it is polled.
    pub(crate) async fn serve(self) -> Infallible {
        let pages = Arc::new(Pages::new(self.url(), &self.signer.key));
        loop {
            let Ok((tcp, _)) = self.listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let (tls, pages) = (self.tls.clone(), Arc::clone(&pages));
            tokio::spawn(async move {
                let Ok(stream) = tls.accept(tcp).await else { return };
                let answer = hyper::service::service_fn(move |request| {
                    let pages = Arc::clone(&pages);
                    async move { Ok::<_, Infallible>(pages.answer(&request)) }
                });
                // A client that goes away in the middle is its own affair.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
            });
        }
    }
}

impl Signer {
    /// A signed token for `user`.
    pub(crate) fn token(&self, user: &str) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
        let claims = json!({
            "iss": self.url, "aud": AUDIENCE, "sub": user, "preferred_username": user,
            "iat": now.as_secs(), "nbf": now.as_secs(), "exp": (now + LIFETIME).as_secs(),
        });
        let header = Header { kid: Some(KEY_ID.to_owned()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ec_der(&self.key.serialize_der()))
            .context("cannot sign a token")
    }
}

/// The two documents.
struct Pages {
    discovery: String,
    keys: String,
}

impl Pages {
    fn new(url: &str, key: &rcgen::KeyPair) -> Self {
        // 0x04, x, y: an uncompressed point.
        let (x, y) = key.public_key_raw()[1..].split_at(32);
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        let key = json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": KEY_ID, "x": x, "y": y });
        Self {
            discovery: json!({ "issuer": url, "jwks_uri": format!("{url}/keys") }).to_string(),
            keys: json!({ "keys": [key] }).to_string(),
        }
    }

    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let body = match request.uri().path() {
            "/.well-known/openid-configuration" => self.discovery.clone(),
            "/keys" => self.keys.clone(),
            _ => {
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::NOT_FOUND;
                return response;
            }
        };
        let mut response = Response::new(Full::from(body));
        let json = hyper::header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
        response
    }
}
