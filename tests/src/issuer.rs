//! An OpenID issuer: HTTPS, discovery, a key set that rotates, and tokens good and bad.
//!
//! Its people sign in without a question (`/authorize` redirects at once) or when the test says so
//! ([`Issuer::approve`]); `grants` checks what a client has to prove.

use std::io::{BufRead, BufReader, Read, Write};
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
use crate::grants::{Grants, Outcome};
use crate::netns::Netns;
use crate::network::Network;

const PORT: u16 = 8443;

/// The largest form that is read.
const MAX_FORM_BYTES: usize = 16 * 1024;

/// An issuer at `https://10.20.0.2:8443`, on the corporate host, or beside the server; ends when dropped.
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
    grants: Mutex<Grants>,
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
        Self::start_at(network.corporate().netns(), Network::CORPORATE_V4.into())
    }

    /// Starts the issuer where client 0 reaches it without a tunnel: at the server's address.
    pub fn start_outside(network: &Network) -> Self {
        Self::start_at(network.server(), network.ports(0).server_v4.into())
    }

    fn start_at(netns: &Netns, address: IpAddr) -> Self {
        let certificate = Certificate::for_addresses(&[address]);
        let listener = netns.with(|| TcpListener::bind(SocketAddr::new(address, PORT)));
        let state = Arc::new(State {
            url: format!("https://{address}:{PORT}"),
            key: Mutex::new(SigningKey::generate("key-1".to_owned())),
            key_set_fetches: AtomicUsize::new(0),
            grants: Mutex::default(),
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
        })
    }

    /// Its URL.
    pub fn url(&self) -> &str {
        &self.state.url
    }

    /// Its certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// Signs `user` in at the page for devices.
    pub fn approve(&self, user_code: &str, user: &str) {
        self.grants().approve(user_code, user);
    }

    /// Every token that it has given to a client so far.
    pub fn given(&self) -> Vec<String> {
        self.grants().given.clone()
    }

    /// Why it refused clients.
    pub fn refusals(&self) -> Vec<&'static str> {
        self.grants().refusals.clone()
    }

    fn grants(&self) -> std::sync::MutexGuard<'_, Grants> {
        self.state.grants.lock().unwrap_or_else(PoisonError::into_inner)
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
        self.state.token(user)
    }

    /// Signs with the current key.
    pub fn sign(&self, token: &Token) -> String {
        self.state.sign(token)
    }

    /// Signs with HMAC whose secret is the public key, as an attacker can.
    pub fn sign_with_public_key_as_secret(&self, token: &Token) -> String {
        let key = self.state.key.lock().unwrap_or_else(PoisonError::into_inner);
        let secret = hmac::Key::new(hmac::HMAC_SHA256, key.pair.public_key().as_ref());
        let input = token.signing_input();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&secret, input.as_bytes())))
    }
}

impl State {
    fn token(&self, user: &str) -> Token {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        Token {
            header: json!({ "typ": "JWT", "alg": "ES256", "kid": key.id }),
            claims: json!({
                "iss": self.url, "aud": Issuer::AUDIENCE, "sub": format!("id of {user}"),
                "preferred_username": user, "iat": now - 1, "nbf": now - 1, "exp": now + 600,
            }),
        }
    }

    fn sign(&self, token: &Token) -> String {
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        let input = token.signing_input();
        let signature = key.pair.sign(&SystemRandom::new(), input.as_bytes()).expect("a signature");
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
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
        let (mut field, mut length) = (String::new(), 0);
        while reader.read_line(&mut field).is_ok_and(|len| len > 2) {
            if let Some(value) = field.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0).min(MAX_FORM_BYTES);
            }
            field.clear();
        }
        let mut form = vec![0; length];
        if reader.read_exact(&mut form).is_err() {
            return;
        }
        let target = line.split(' ').nth(1).unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let grants = || state.grants.lock().unwrap_or_else(PoisonError::into_inner);
        let form = String::from_utf8_lossy(&form);
        let outcome = match path {
            "/.well-known/openid-configuration" => Outcome::Answer(discovery(&state.url)),
            "/keys" => {
                state.key_set_fetches.fetch_add(1, Ordering::Relaxed);
                let key = state.key.lock().unwrap_or_else(PoisonError::into_inner);
                Outcome::Answer(json!({ "keys": [key.jwk()] }))
            }
            "/authorize" => grants().authorize(query),
            "/device" => grants().device(&form, &state.url),
            "/token" => grants().token(&form, |user| state.sign(&state.token(user))),
            _ => Outcome::NotFound,
        };
        let (status, fields, body) = match outcome {
            Outcome::Answer(body) => ("200 OK", String::new(), body),
            Outcome::Redirect(location) => ("302 Found", format!("Location: {location}\r\n"), json!({})),
            Outcome::Error(error) => ("400 Bad Request", String::new(), json!({ "error": error })),
            Outcome::NotFound => ("404 Not Found", String::new(), json!({})),
        };
        let body = body.to_string();
        let head = format!(
            "HTTP/1.1 {status}\r\n{fields}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
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
        "device_authorization_endpoint": format!("{url}/device"),
        "response_types_supported": ["code"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    })
}
