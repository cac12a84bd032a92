//! A token of an OpenID issuer, with a person at a browser: on this machine, or on any other.
//!
//! | flow | what the person does |
//! | --- | --- |
//! | [`Flow::Device`] | opens a page anywhere and types a short code |
//! | [`Flow::Browser`] | signs in here; the issuer sends the browser back to a port of this machine |
//!
//! Everything goes over HTTPS to endpoints that the issuer's own discovery document names.
//!
//! # Source
//! RFC 8628 (device), RFC 8252 and RFC 7636 (browser, PKCE), OpenID Connect Discovery 1.0.

mod browser;
mod device;
mod endpoint;

use std::path::PathBuf;

use zeroize::Zeroizing;

use self::endpoint::{Endpoint, Json};
use crate::tls::{TlsOptions, TlsOptionsError};

/// Who asks whom for a token.
#[derive(Clone, Debug)]
pub struct OidcClient {
    /// The issuer's URL, `https`.
    pub issuer: String,
    /// What the issuer knows this client as.
    pub client_id: String,
    /// What is asked for; `openid profile` if nothing is said.
    pub scope: String,
    /// The only authorities to believe; none for the system's.
    pub authorities: Vec<PathBuf>,
}

/// How the person signs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// With a code, at any browser.
    Device,
    /// At a browser of this machine.
    Browser,
}

/// Why there is no token. Texts of the issuer are bounded and printable.
#[derive(Debug, thiserror::Error)]
pub enum OidcError {
    /// The TLS options.
    #[error(transparent)]
    Tls(#[from] TlsOptionsError),
    /// A URL that is not to be used.
    #[error("{url:?} is no https URL of an issuer")]
    Url {
        /// What was given, or what the issuer named.
        url: String,
    },
    /// The network, or HTTP.
    #[error("cannot ask {url}: {why}")]
    Fetch {
        /// The endpoint.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// An answer that is not what the standard says.
    #[error("{url} answers without {what}")]
    Answer {
        /// The endpoint.
        url: String,
        /// What is missing or wrong.
        what: &'static str,
    },
    /// The issuer says no.
    #[error("the issuer refuses: {0}")]
    Refused(String),
    /// The person took too long.
    #[error("nobody signed in within {0} s")]
    TimedOut(u64),
    /// This machine.
    #[error("cannot wait for the browser: {0}")]
    Local(#[from] std::io::Error),
}

/// Gets a token; `say` shows lines to the person.
///
/// # Errors
/// [`OidcError`], without secrets.
pub async fn fetch_token(
    client: &OidcClient,
    flow: Flow,
    say: &(dyn Fn(&str) + Send + Sync),
) -> Result<Zeroizing<String>, OidcError> {
    let tls = TlsOptions { authorities: client.authorities.clone(), ..TlsOptions::default() };
    let endpoint = Endpoint::new(tls.config()?);
    let url = format!("{}/.well-known/openid-configuration", client.issuer.trim_end_matches('/'));
    let discovery = endpoint.get(&url).await?;
    if discovery.text("issuer").map(|issuer| issuer.trim_end_matches('/'))
        != Some(client.issuer.trim_end_matches('/'))
    {
        return Err(OidcError::Answer { url, what: "its own name as issuer" });
    }
    let answer = match flow {
        Flow::Device => device::run(client, &endpoint, &discovery, say).await?,
        Flow::Browser => browser::run(client, &endpoint, &discovery, say).await?,
    };
    token_of(&answer)
}

/// The access token if it is one that a server can check by itself, else the identity token.
fn token_of(answer: &Json) -> Result<Zeroizing<String>, OidcError> {
    let is_jwt =
        |token: &&str| token.split('.').count() == 3 && token.bytes().all(|byte| byte.is_ascii_graphic());
    let token = answer.text("access_token").filter(is_jwt).or_else(|| answer.text("id_token").filter(is_jwt));
    token
        .map(|token| Zeroizing::new(token.to_owned()))
        .ok_or_else(|| OidcError::Answer { url: answer.url().to_owned(), what: "a signed token" })
}
