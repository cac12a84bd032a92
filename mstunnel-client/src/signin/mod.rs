//! Signing in: who the user is, asked for and answered, until there is a session cookie.
//!
//! | file | holds |
//! | --- | --- |
//! | `answers` | what is answered to which question |
//! | `cookie_file` | a cookie kept for the next start |
//! | `secret` | secrets read from files |
//! | `oidc` | tokens of an OpenID issuer: device code, or a browser |

mod answers;
mod cookie_file;
mod oidc;
mod secret;

use mstunnel_proto::auth::signin::{SignIn, SignInConfig, SignInError, SignedIn, Step};

pub use self::answers::{Credentials, Prompt};
pub use self::cookie_file::{CookieFile, CookieFileError};
pub use self::oidc::{Flow, OidcClient, OidcError, fetch_token};
pub use self::secret::{MAX_SECRET_BYTES, SecretError, read_secret};
use crate::transport::{Exchange, ExchangeError};

/// Why there is no cookie.
#[derive(Debug, thiserror::Error)]
pub enum SignInFailure {
    /// The network or HTTP.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    /// The server, or what it asks.
    #[error(transparent)]
    SignIn(#[from] SignInError),
    /// A question that nobody answers.
    #[error("the server asks for {label:?}, and there is no terminal to ask at")]
    Unanswered {
        /// What it calls it.
        label: String,
    },
    /// The terminal.
    #[error("cannot ask: {0}")]
    Terminal(#[source] std::io::Error),
}

/// Signs in over `exchange`.
pub(crate) async fn sign_in(
    exchange: &mut Exchange<'_>,
    host: String,
    path: &str,
    credentials: &Credentials,
) -> Result<SignedIn, SignInFailure> {
    let config = SignInConfig {
        host,
        path: path.to_owned(),
        group: credentials.group.clone(),
        token: credentials.token(),
    };
    let mut sign_in = SignIn::new(config);
    let mut answers = credentials.answers();
    while let Some(request) = sign_in.poll_request() {
        let reply = exchange.run(&request).await?;
        match sign_in.handle_reply(&reply)? {
            Step::Complete(signed_in) => return Ok(signed_in),
            Step::Again => {}
            Step::Ask(form) => {
                // One for each that is asked, in the order of the form.
                let mut given = answers.give(&form)?.into_iter();
                sign_in.answer(|_| given.next().unwrap_or_default())?;
            }
        }
    }
    Err(SignInFailure::SignIn(SignInError::Endless))
}
