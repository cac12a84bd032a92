//! An OpenID issuer: HTTPS, discovery, a key set that rotates, and tokens good and bad.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::certificate::Certificate;
use crate::corporate::Service;
use crate::network::Network;

const PORT: u16 = 8443;

/// An issuer at `https://10.20.0.2:8443`, on the corporate host; ends when dropped.
#[derive(Debug)]
pub struct Issuer {
    state: Arc<State>,
    certificate: Certificate,
    _service: Service,
}

#[derive(Debug)]
struct State {
    url: String,
    key: Mutex<SigningKey>,
    key_set_fetches: AtomicUsize,
}

struct SigningKey {
    id: String,
    pair: EcdsaKeyPair,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    fn generate(id: String) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self { id, pair }
    }

    fn jwk(&self) -> Value {
        // 0x04, x, y: an uncompressed point.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id,
                "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y) })
    }
}

impl Issuer {
    /// The audience of a token that nobody changed.
    pub const AUDIENCE: &'static str = "mstunnel-test";

    /// Starts the issuer on the corporate host.
    pub fn start(network: &Network) -> Self {
        let address = IpAddr::from(Network::CORPORATE_V4);
        let certificate = Certificate::for_addresses(&[address]);
        let listener = network.corporate().netns().with(|| TcpListener::bind(SocketAddr::new(address, PORT)));
        let state = Arc::new(State {
            url: format!("https://{address}:{PORT}"),
            key: Mutex::new(SigningKey::generate("key-1".to_owned())),
            key_set_fetches: AtomicUsize::new(0),
        });
        let tls = server_config(&certificate);
        let shared = Arc::clone(&state);
        let serve = move |stream| serve(stream, &tls, &shared);
        let service = Service::start(listener.expect("the issuer's port is free"), serve);
        Self { state, certificate, _service: service }
    }

    /// The file `oidc.json` that makes a server trust this issuer.
    pub fn oidc_json(&self) -> Value {
        json!({
            "openid_configuration_url": format!("{}/.well-known/openid-configuration", self.state.url),
            "user_name_claim": "preferred_username",
            "required_claims": { "aud": Self::AUDIENCE, "iss": self.state.url },
            "minimum_jwk_refresh_time": 0,
        })
    }

    /// The authority that signed the issuer's certificate, PEM.
    pub(crate) fn authority_pem(&self) -> &str {
        self.certificate.authority_pem()
    }

    /// Replaces the signing key; the old one leaves the key set.
    pub fn rotate(&self) {
        let mut key = self.state.key.lock().unwrap_or_else(PoisonError::into_inner);
        let number: usize = key.id.trim_start_matches("key-").parse().unwrap_or(0);
        *key = SigningKey::generate(format!("key-{}", number + 1));
    }

    /// How often the key set was asked for.
    pub fn key_set_fetches(&self) -> usize {
        self.state.key_set_fetches.load(Ordering::Relaxed)
    }

    /// A token for `user` that is good for ten minutes.
    pub fn token(&self, user: &str) -> Token {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        let key = self.state.key.lock().unwrap_or_else(PoisonError::into_inner);
        Token {
            header: json!({ "typ": "JWT", "alg": "ES256", "kid": key.id }),
            claims: json!({
                "iss": self.state.url, "aud": Self::AUDIENCE, "sub": format!("id of {user}"),
                "preferred_username": user, "iat": now - 1, "nbf": now - 1, "exp": now + 600,
            }),
        }
    }

    /// Signs with the current key.
    pub fn sign(&self, token: &Token) -> String {
        let key = self.state.key.lock().unwrap_or_else(PoisonError::into_inner);
        let input = token.signing_input();
        let signature = key.pair.sign(&SystemRandom::new(), input.as_bytes()).expect("a signature");
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }

    /// Signs with HMAC whose secret is the public key, as an attacker can.
    pub fn sign_with_public_key_as_secret(&self, token: &Token) -> String {
        let key = self.state.key.lock().unwrap_or_else(PoisonError::into_inner);
        let secret = hmac::Key::new(hmac::HMAC_SHA256, key.pair.public_key().as_ref());
        let input = token.signing_input();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&secret, input.as_bytes())))
    }
}

/// A token before it is signed: change what you like.
#[derive(Clone, Debug)]
pub struct Token {
    /// The JOSE header.
    pub header: Value,
    /// The claims.
    pub claims: Value,
}

impl Token {
    /// Replaces one claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims[name] = value.into();
        self
    }

    /// Replaces one header parameter.
    #[must_use]
    pub fn parameter(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header[name] = value.into();
        self
    }

    /// The token with an empty signature.
    pub fn unsigned(&self) -> String {
        self.signing_input() + "."
    }

    fn signing_input(&self) -> String {
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}", encode(&self.header), encode(&self.claims))
    }
}

pub(crate) fn server_config(certificate: &Certificate) -> Arc<ServerConfig> {
    let chain = CertificateDer::pem_slice_iter(certificate.chain_pem().as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .expect("our own PEM");
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem().as_bytes()).expect("our own PEM");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has both versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("our own certificate");
    Arc::new(config)
}

/// Answers requests on one connection until the client has no more.
fn serve(stream: TcpStream, tls: &Arc<ServerConfig>, state: &State) {
    let Ok(connection) = ServerConnection::new(Arc::clone(tls)) else { return };
    let mut reader = BufReader::new(StreamOwned::new(connection, stream));
    loop {
        let mut line = String::new();
        if !reader.read_line(&mut line).is_ok_and(|len| len > 0) {
            return;
        }
        let mut field = String::new();
        while reader.read_line(&mut field).is_ok_and(|len| len > 2) {
            field.clear();
        }
        let (status, body) = match line.split(' ').nth(1) {
            Some("/.well-known/openid-configuration") => ("200 OK", discovery(&state.url)),
            Some("/keys") => {
                state.key_set_fetches.fetch_add(1, Ordering::Relaxed);
                let key = state.key.lock().unwrap_or_else(PoisonError::into_inner);
                ("200 OK", json!({ "keys": [key.jwk()] }))
            }
            _ => ("404 Not Found", json!({})),
        };
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let stream = reader.get_mut();
        if stream.write_all((head + &body).as_bytes()).and_then(|()| stream.flush()).is_err() {
            return;
        }
    }
}

fn discovery(url: &str) -> Value {
    json!({
        "issuer": url,
        "jwks_uri": format!("{url}/keys"),
        "authorization_endpoint": format!("{url}/authorize"),
        "token_endpoint": format!("{url}/token"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}
