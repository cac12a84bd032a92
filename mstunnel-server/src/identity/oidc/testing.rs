//! An issuer on loopback with its own certificate authority, and keys that sign whatever is asked.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::config::OidcConfig;
use super::jwks::KeySet;

/// The time of tests that need none: 2027-01-15.
pub(super) const NOW: u64 = 1_800_000_000;

/// Good claims at [`NOW`] of `https://issuer.example`.
pub(super) fn claims() -> Value {
    claims_of("https://issuer.example", NOW)
}

pub(super) fn claims_of(issuer: &str, now: u64) -> Value {
    json!({
        "iss": issuer, "aud": "our-app", "exp": now + 300, "iat": now - 10, "nbf": now - 10,
        "sub": "0815", "preferred_username": "alice@example.com",
    })
}

/// ocserv's three keys, and `options` over them.
pub(super) fn config(options: Value) -> OidcConfig {
    let mut file = json!({
        "openid_configuration_url": "https://issuer.example/.well-known/openid-configuration",
        "user_name_claim": "preferred_username",
        "required_claims": { "aud": "our-app" },
    });
    if let Value::Object(options) = options {
        file.as_object_mut().unwrap().extend(options);
    }
    OidcConfig::parse(file.to_string().as_bytes(), Path::new("oidc.json")).unwrap().0
}

pub(super) fn key_set(keys: &[&SigningKey]) -> KeySet {
    KeySet::parse(key_set_text(keys).as_bytes()).unwrap()
}

fn key_set_text(keys: &[&SigningKey]) -> String {
    json!({ "keys": keys.iter().map(|key| key.jwk()).collect::<Vec<_>>() }).to_string()
}

/// A private key and its public half.
pub(super) struct SigningKey {
    algorithm: Algorithm,
    private: EncodingKey,
    jwk: Value,
    public: Vec<Vec<u8>>,
}

impl SigningKey {
    pub(super) fn p256(id: &str) -> Self {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        Self::new(id, Algorithm::ES256, EncodingKey::from_ec_der(&pair.serialize_der()), &pair)
    }

    /// One for all tests: it takes long to make.
    pub(super) fn rsa(id: &str) -> &'static Self {
        static KEY: OnceLock<SigningKey> = OnceLock::new();
        assert_eq!(id, "rsa");
        KEY.get_or_init(|| {
            let pair = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
            let private = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
            Self::new(id, Algorithm::RS256, private, &pair)
        })
    }

    pub(super) fn ed25519(id: &str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8v1(&aws_lc_rs::rand::SystemRandom::new()).unwrap();
        let public = Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap().public_key().as_ref().to_vec();
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "x": URL_SAFE_NO_PAD.encode(&public)});
        let private = EncodingKey::from_ed_der(document.as_ref());
        Self { algorithm: Algorithm::EdDSA, private, jwk, public: vec![public] }
    }

    fn new(id: &str, algorithm: Algorithm, private: EncodingKey, pair: &KeyPair) -> Self {
        let jwk = Jwk::from_encoding_key(&private, algorithm).unwrap();
        let mut jwk = serde_json::to_value(jwk).unwrap();
        jwk["kid"] = json!(id);
        jwk.as_object_mut().unwrap().remove("alg");
        let public = vec![
            pair.public_key_pem().into_bytes(),
            pair.public_key_pem().trim_end().as_bytes().to_vec(),
            pair.public_key_raw().to_vec(),
            jwk.to_string().into_bytes(),
        ];
        Self { algorithm, private, jwk, public }
    }

    /// What is published of it.
    pub(super) fn jwk(&self) -> Value {
        self.jwk.clone()
    }

    /// The public key in every form that somebody might take for a secret.
    pub(super) fn public_forms(&self) -> Vec<Vec<u8>> {
        self.public.clone()
    }

    /// A token with the usual header.
    pub(super) fn sign(&self, claims: &Value) -> String {
        let algorithm = serde_json::to_value(self.algorithm).unwrap();
        self.sign_with(&json!({"typ": "JWT", "alg": algorithm, "kid": self.jwk["kid"]}), claims)
    }

    /// A token with any header, signed as it says if this key can do that.
    pub(super) fn sign_with(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        let said = serde_json::from_value(header["alg"].clone()).unwrap_or(self.algorithm);
        format!("{message}.{}", self.signature(&message, said))
    }

    /// The signature of a message, in base64.
    pub(super) fn signature(&self, message: &str, algorithm: Algorithm) -> String {
        let sign = |algorithm| jsonwebtoken::crypto::sign(message.as_bytes(), &self.private, algorithm);
        sign(algorithm).or_else(|_| sign(self.algorithm)).unwrap()
    }
}

/// What the issuer answers at a path.
#[derive(Clone)]
pub(super) enum Reply {
    Json(Bytes),
    Redirect(String),
    Status(u16),
    /// Megabytes and no end.
    Endless,
    /// A byte every 20 ms.
    Drip,
    /// The head never comes.
    Silence,
    /// The connection ends in the body.
    CutOff,
}

impl Reply {
    pub(super) fn json(text: &str) -> Self {
        Self::Json(Bytes::copy_from_slice(text.as_bytes()))
    }
}

#[derive(Default)]
struct Shared {
    replies: Mutex<HashMap<String, Reply>>,
    hits: Mutex<HashMap<String, u64>>,
    connections: AtomicU64,
}

/// An HTTPS server on loopback; ends with the runtime of its test.
pub(super) struct TestIssuer {
    port: u16,
    dir: tempfile::TempDir,
    shared: Arc<Shared>,
}

pub(super) const DISCOVERY: &str = "/.well-known/openid-configuration";
pub(super) const KEYS: &str = "/keys";

impl TestIssuer {
    /// Starts one that answers 404 to everything.
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let acceptor = acceptor(&dir.path().join("ca.pem"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                serving.connections.fetch_add(1, Ordering::SeqCst);
                let (acceptor, shared) = (acceptor.clone(), Arc::clone(&serving));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                    let http = hyper::server::conn::http1::Builder::new();
                    // The client hangs up in many tests.
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { port, dir, shared }
    }

    /// Starts one that is an issuer with these keys.
    pub(super) async fn with_keys(keys: &[&SigningKey]) -> Self {
        let issuer = Self::start().await;
        issuer.publish(keys);
        issuer
    }

    /// Puts the discovery document and these keys up.
    pub(super) fn publish(&self, keys: &[&SigningKey]) {
        let document = json!({ "issuer": self.name(), "jwks_uri": self.url(KEYS).to_string() });
        self.reply(DISCOVERY, Reply::json(&document.to_string()));
        self.reply(KEYS, Reply::json(&key_set_text(keys)));
    }

    pub(super) fn reply(&self, path: &str, reply: Reply) {
        self.shared.replies.lock().unwrap().insert(path.to_owned(), reply);
    }

    pub(super) fn hits(&self, path: &str) -> u64 {
        self.shared.hits.lock().unwrap().get(path).copied().unwrap_or_default()
    }

    pub(super) fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    pub(super) fn name(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub(super) fn url(&self, path: &str) -> Uri {
        format!("{}{path}", self.name()).parse().unwrap()
    }

    /// The authority that vouches for it.
    pub(super) fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// Its `oidc.json`, with `options` over ocserv's three keys.
    pub(super) fn config_file(&self, options: Value) -> PathBuf {
        let mut file = json!({
            "openid_configuration_url": self.url(DISCOVERY).to_string(),
            "user_name_claim": "preferred_username",
            "required_claims": { "aud": "our-app" },
            "ca_file": "ca.pem",
        });
        if let Value::Object(options) = options {
            file.as_object_mut().unwrap().extend(options);
        }
        let path = self.dir.path().join("oidc.json");
        std::fs::write(&path, file.to_string()).unwrap();
        path
    }
}

/// A certificate for 127.0.0.1 and nothing else, of an authority that is written to `ca_file`.
fn acceptor(ca_file: &Path) -> TlsAcceptor {
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(ca_file, ca.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

type Body = BoxBody<Bytes, io::Error>;

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    *shared.hits.lock().unwrap().entry(path.clone()).or_default() += 1;
    let reply = shared.replies.lock().unwrap().get(&path).cloned();
    let full = |bytes: Bytes| Full::new(bytes).map_err(|never| match never {}).boxed();
    let response = match reply.unwrap_or(Reply::Status(404)) {
        Reply::Json(text) => Response::new(full(text)),
        Reply::Redirect(to) => {
            Response::builder().status(302).header("location", to).body(full(Bytes::new())).unwrap()
        }
        Reply::Status(status) => Response::builder().status(status).body(full(Bytes::new())).unwrap(),
        Reply::Endless => Response::new(BodyExt::boxed(StreamBody::new(stream::unfold((), |()| async {
            tokio::task::yield_now().await;
            Some((Ok(Frame::data(Bytes::from(vec![b' '; 64 * 1024]))), ()))
        })))),
        Reply::Drip => Response::new(BodyExt::boxed(StreamBody::new(stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok(Frame::data(Bytes::from_static(b" "))), ()))
        })))),
        Reply::Silence => pending().await,
        Reply::CutOff => Response::new(BodyExt::boxed(StreamBody::new(stream::iter([
            Ok(Frame::data(Bytes::from_static(b"{\"keys\":["))),
            Err(io::Error::other("cut off")),
        ])))),
    };
    Ok(response)
}
