//! Logins by an OAuth 2.0 access token or OpenID Connect ID token, a JWT of one issuer.
//!
//! ```text
//! oidc.json -> config ──> keyring: discovery + key set over fetch, kept by cache
//!                            │ keys
//! token ───────> token ──────┴──> claims ──> user, groups
//! ```
//!
//! The same file as ocserv's, and what it leaves open made safe: see `config` for
//! the keys, `token` for what a token must be, and `keyring` for how keys come and go. Nothing a
//! client sends names what is fetched (threats.md R29); an unreachable issuer stops neither the
//! start nor the logins with the keys that are known.
//!
//! # Source
//! product.md b.8; threats.md R29, R33, R37, R38.

mod cache;
mod claims;
mod config;
mod discovery;
mod fetch;
mod json;
mod jwks;
mod keyring;
#[cfg(test)]
mod testing;
mod token;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tracing::{debug, warn};

pub use self::config::OidcConfigError;
pub use self::token::MAX_TOKEN_BYTES;

use self::claims::Identity;
use self::config::{MAX_CONFIG_BYTES, OidcConfig};
use self::discovery::Discovery;
use self::fetch::Fetcher;
use self::jwks::KeySet;
use self::keyring::{Keyring, Refresh};
use self::token::{TokenError, Trust};
use super::credentials::Verdict;
use super::secret_file;

/// How long a login waits for newer keys.
const KEY_WAIT: Duration = Duration::from_secs(2);

/// Decides about the tokens of one issuer. Clones share its keys.
#[derive(Clone)]
pub struct Oidc {
    keyring: Arc<Keyring>,
    /// [`KEY_WAIT`]; longer in tests, for a busy machine is no slow issuer.
    patience: Duration,
    _fetching: Arc<AbortOnDrop>,
}

/// What `token` is worth at `now` to a server with this `oidc.json`, whose issuer publishes these two documents;
/// nothing where one of the three is refused. The way in for fuzzers.
#[doc(hidden)]
pub fn fuzz_issuer(
    config: &[u8],
    discovery: &[u8],
    key_set: &[u8],
    token: &str,
    now: SystemTime,
) -> Option<Verdict> {
    let (config, _) = OidcConfig::parse(config, Path::new("oidc.json")).ok()?;
    let Discovery { issuer, .. } = Discovery::parse(discovery, config.issuer.as_deref()).ok()?;
    let keys = KeySet::parse(key_set).ok()?;
    let verdict = token::verify(token, Some(Trust { issuer: &issuer, keys: &keys }), &config, now);
    Some(match verdict {
        Ok(Identity { user, groups }) => Verdict::Accepted { user, groups },
        Err(_) => Verdict::Rejected,
    })
}

impl Oidc {
    /// Reads ocserv's `oidc.json` and begins to fetch the issuer's keys on `runtime`.
    ///
    /// The last good keys are kept in `state_directory`, if there is one. The fetching ends with
    /// the last clone.
    ///
    /// # Errors
    /// If the file, or one that it names, cannot be used. An issuer that cannot be reached is no
    /// error: logins are answered with [`Verdict::Unavailable`] until it can.
    pub fn from_file(
        file: &Path,
        state_directory: Option<&Path>,
        runtime: &Handle,
    ) -> Result<Self, OidcConfigError> {
        let (config, fetcher, warnings) = Self::read(file)?;
        for warning in warnings {
            warn!("{warning}");
        }
        Ok(Self::start(config, fetcher, state_directory, runtime))
    }

    /// Checks the file as [`Oidc::from_file`] would, fetches nothing, and returns its warnings.
    ///
    /// # Errors
    /// As [`Oidc::from_file`].
    pub fn check(file: &Path) -> Result<Vec<String>, OidcConfigError> {
        Self::read(file).map(|(_, _, warnings)| warnings)
    }

    fn read(file: &Path) -> Result<(OidcConfig, Fetcher, Vec<String>), OidcConfigError> {
        let error = |why: String| OidcConfigError::new(file, "", why);
        let opened = File::open(file).map_err(|why| error(why.to_string()))?;
        let text =
            secret_file::read_bounded(opened, MAX_CONFIG_BYTES).map_err(|why| error(why.to_string()))?;
        let (config, warnings) = OidcConfig::parse(&text, file)?;
        let fetcher = Fetcher::new(config.ca_file.as_deref())
            .map_err(|why| OidcConfigError::new(file, "ca_file", why.to_string()))?;
        Ok((config, fetcher, warnings))
    }

    fn start(config: OidcConfig, fetcher: Fetcher, state_directory: Option<&Path>, runtime: &Handle) -> Self {
        let cache = state_directory.map(|directory| directory.join(cache::FILE_NAME));
        let keyring = Arc::new(Keyring::new(config, fetcher, cache, SystemTime::now()));
        let fetching = Arc::clone(&keyring);
        let task = runtime.spawn(async move { fetching.run().await });
        Self { keyring, patience: KEY_WAIT, _fetching: Arc::new(AbortOnDrop(task.abort_handle())) }
    }

    /// Begins with the keys of the one before, if its issuer is the same: a reload while the issuer is away keeps nobody out.
    pub(crate) fn take_over(&self, before: &Self) {
        self.keyring.take_over(&before.keyring);
    }

    /// Decides about a token. Waits up to 2 s if its key has to be fetched first.
    pub async fn verify(&self, token: &str) -> Verdict {
        let outcome = match self.judge(token) {
            Err(error) if error.wants_keys() => match self.keyring.refresh(self.patience).await {
                Refresh::Done => self.judge(token),
                Refresh::NotDue => Err(error),
                Refresh::Failed => {
                    debug!(%error, "token not decided: the issuer's keys cannot be fetched");
                    return Verdict::Unavailable;
                }
            },
            outcome => outcome,
        };
        match outcome {
            Ok(Identity { user, groups }) => Verdict::Accepted { user, groups },
            Err(error) => {
                debug!(%error, "token refused");
                if matches!(error, TokenError::NoKeys) { Verdict::Unavailable } else { Verdict::Rejected }
            }
        }
    }

    fn judge(&self, token: &str) -> Result<Identity, TokenError> {
        let now = SystemTime::now();
        let known = self.keyring.usable(now);
        let trust = known.as_deref().map(|known| Trust { issuer: &known.issuer, keys: &known.keys });
        token::verify(token, trust, self.keyring.config(), now)
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
