//! The issuer's keys over time: when they are fetched, and how long they are good.
//!
//! ```text
//!            every refresh_every; sooner after a failure; at once for an unknown key, if the
//!            last fetch for one began unknown_key_refresh ago
//!   idle ────────────────────────────────────────────────────────────> fetching
//!    ^                                                                    │
//!    └──── good: the new set replaces the old one, and is kept on disk ───┤
//!    └──── bad: the old set stays until it is stale_key_time old ─────────┘
//! ```
//!
//! There is never more than one fetch at a time, and whoever wants keys meanwhile waits for that
//! one. A key that is missing from a new set is no longer accepted. Keys that are too old are no
//! keys: then nobody is let in (threats.md R38).

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

use super::cache;
use super::config::OidcConfig;
use super::discovery::{Discovery, DiscoveryError};
use super::fetch::{FetchError, Fetcher};
use super::jwks::{KeySet, KeySetError};

/// The issuer as it was last heard of.
pub(super) struct Known {
    pub(super) issuer: String,
    pub(super) keys: KeySet,
    pub(super) fetched: SystemTime,
}

/// What came of asking for newer keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refresh {
    /// They were fetched just now.
    Done,
    /// They could not be fetched, or not in time.
    Failed,
    /// They were fetched so recently that the issuer is not asked again.
    NotDue,
}

#[derive(Debug, thiserror::Error)]
enum RoundError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Discovery(#[from] DiscoveryError),
    #[error(transparent)]
    Keys(#[from] KeySetError),
}

/// The keys of one issuer.
pub(super) struct Keyring {
    config: OidcConfig,
    fetcher: Fetcher,
    cache: Option<PathBuf>,
    known: ArcSwapOption<Known>,
    schedule: Mutex<Schedule>,
    wanted: Notify,
    finished: watch::Sender<Round>,
}

struct Schedule {
    fetching: bool,
    /// When a fetch was last begun for an unknown key.
    wished: Option<Instant>,
    failing: bool,
}

/// A finished fetch.
#[derive(Clone, Copy, Default)]
struct Round {
    number: u64,
    good: bool,
}

impl Keyring {
    /// Takes up what was kept in `cache`. Nothing is fetched before [`run`](Self::run).
    pub(super) fn new(config: OidcConfig, fetcher: Fetcher, cache: Option<PathBuf>, now: SystemTime) -> Self {
        let kept = cache.as_deref().and_then(|path| {
            cache::load(path, &config.discovery_url, now).unwrap_or_else(|why| {
                warn!("{}: {why}; not used", path.display());
                None
            })
        });
        // The configuration may have been changed since.
        let kept = kept.filter(|kept| config.issuer.as_ref().is_none_or(|issuer| *issuer == kept.issuer));
        Self {
            config,
            fetcher,
            cache,
            known: ArcSwapOption::from(kept.map(Arc::new)),
            // The first fetch begins as soon as `run` does; who comes before it waits for it.
            schedule: Mutex::new(Schedule { fetching: true, wished: None, failing: false }),
            wanted: Notify::new(),
            finished: watch::Sender::new(Round::default()),
        }
    }

    /// Begins with what another keyring knows, where both ask the same issuer in the same way.
    pub(super) fn take_over(&self, other: &Self) {
        let (new, old) = (&self.config, &other.config);
        if (&new.discovery_url, &new.ca_file) != (&old.discovery_url, &old.ca_file) {
            return;
        }
        let known = other.known.load_full();
        let Some(known) = known.filter(|known| new.issuer.as_ref().is_none_or(|name| *name == known.issuer))
        else {
            return;
        };
        // A fetch of our own may have ended meanwhile.
        self.known.rcu(|ours| match ours {
            Some(ours) if ours.fetched >= known.fetched => Arc::clone(ours),
            _ => Arc::clone(&known),
        });
    }

    pub(super) fn config(&self) -> &OidcConfig {
        &self.config
    }

    /// The keys, unless there are none or they are too old.
    pub(super) fn usable(&self, now: SystemTime) -> Option<Arc<Known>> {
        let known = self.known.load_full()?;
        // A clock that was set back makes keys look younger than they are, never usable for ever:
        // they age again from there.
        let age = now.duration_since(known.fetched).unwrap_or_default();
        (age < self.config.stale_key_time).then_some(known)
    }

    /// Asks for newer keys than these, and waits at most `patience` for them.
    pub(super) async fn refresh(&self, patience: Duration) -> Refresh {
        let mut finished = self.finished.subscribe();
        {
            let mut schedule = self.schedule();
            if !schedule.fetching {
                // Counted between such wishes alone: a key that is rotated in right after a regular
                // fetch is taken up at once.
                if schedule.wished.is_some_and(|at| at.elapsed() < self.config.unknown_key_refresh) {
                    return Refresh::NotDue;
                }
                schedule.wished = Some(Instant::now());
                schedule.begin();
                self.wanted.notify_one();
            }
            // Inside the lock: the round that is awaited cannot have ended yet.
            finished.mark_unchanged();
        }
        match tokio::time::timeout(patience, finished.changed()).await {
            Ok(Ok(())) if finished.borrow().good => Refresh::Done,
            _ => Refresh::Failed,
        }
    }

    /// Fetches keys for ever.
    pub(super) async fn run(&self) {
        loop {
            let outcome = self.round().await;
            let pause = self.finish(outcome);
            let due = tokio::time::sleep(pause);
            tokio::pin!(due);
            loop {
                tokio::select! {
                    () = &mut due => {
                        let mut schedule = self.schedule();
                        if !schedule.fetching {
                            schedule.begin();
                        }
                        break;
                    }
                    // May be left over from a wish that a timer fulfilled.
                    () = self.wanted.notified() => if self.schedule().fetching { break },
                }
            }
        }
    }

    fn schedule(&self) -> std::sync::MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches the discovery document and the keys, and takes them up.
    async fn round(&self) -> Result<usize, RoundError> {
        let before = self.known.load_full();
        let pinned = self.config.issuer.as_deref().or(before.as_deref().map(|known| known.issuer.as_str()));
        let url = &self.config.discovery_url;
        let discovery = Discovery::parse(&self.fetcher.get(url).await?, pinned)?;
        if pinned.is_none() && !discovery.is_where_it_belongs(url) {
            warn!(
                "the document at {url} is of issuer {:?}, which keeps its own elsewhere; put that into oidc.json as \
                 \"issuer\" if it is the right one",
                discovery.issuer
            );
        }
        let text = self.fetcher.get(&discovery.jwks_uri).await?;
        let keys = KeySet::parse(&text)?;
        let (count, fetched) = (keys.len(), SystemTime::now());
        if count == 0 {
            warn!("{}: no usable key; no token can be accepted", discovery.jwks_uri);
        }
        self.known.store(Some(Arc::new(Known { issuer: discovery.issuer.clone(), keys, fetched })));
        if let Some(path) = self.cache.clone() {
            let url = url.clone();
            let write = move || {
                cache::store(&path, &url, &discovery.issuer, &text, fetched)
                    .map_err(|error| format!("{}: {error}", path.display()))
            };
            if let Ok(Err(error)) = tokio::task::spawn_blocking(write).await {
                warn!("cannot keep the issuer's keys for the next start: {error}");
            }
        }
        Ok(count)
    }

    /// Notes how a round ended; returns how long to wait for the next.
    fn finish(&self, outcome: Result<usize, RoundError>) -> Duration {
        let good = outcome.is_ok();
        {
            let mut schedule = self.schedule();
            match (&outcome, schedule.failing) {
                (Ok(keys), true) => info!(keys, "issuer's keys fetched again"),
                (Ok(keys), false) => debug!(keys, "issuer's keys fetched"),
                (Err(error), false) => warn!("cannot fetch the issuer's keys: {error}"),
                (Err(error), true) => debug!("cannot fetch the issuer's keys: {error}"),
            }
            schedule.failing = !good;
            schedule.fetching = false;
            // Inside the lock: see `refresh`.
            self.finished.send_modify(|round| *round = Round { number: round.number + 1, good });
        }
        if good {
            self.config.refresh_every
        } else {
            self.config.refresh_every.min(self.config.unknown_key_refresh)
        }
    }

    /// How many fetches have ended.
    #[cfg(test)]
    pub(super) fn rounds(&self) -> u64 {
        self.finished.borrow().number
    }
}

impl Schedule {
    fn begin(&mut self) {
        self.fetching = true;
    }
}
