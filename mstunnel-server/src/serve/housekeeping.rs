//! The slow clock of a server: cookies and leases that run out, open logins, bans, the store.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, anyhow};
use mstunnel_proto::auth::AuthMethod;
use mstunnel_proto::close::CloseReason;
use mstunnel_proto::dtls::{COOKIE_KEY_LIFETIME, CookieKeys};
use mstunnel_proto::session::{Record, SessionId};

use super::conditions::Conditions;
use super::store::{Clocks, FileStore, Snapshot};
use crate::tls;
use crate::worker::{FRONT_TIMEOUT, Shared};

/// How long changes gather before they are written: a reconnect storm is one write, not thousands.
const GATHER: Duration = Duration::from_millis(500);

/// The longest sleep: logins and bans that run out are forgotten at this pace.
const SLOWEST: Duration = Duration::from_secs(30);

/// How often removed and locked accounts are looked for: their sessions end within 5 s (R32), of which the password
/// file may take two looks.
const REVOCATION_CHECK: Duration = Duration::from_secs(1);

/// Ends the sessions of accounts that were removed or locked in the password file.
pub(crate) async fn revoke(shared: Arc<Shared>) {
    let mut watch = Watch::default();
    loop {
        tokio::time::sleep(REVOCATION_CHECK).await;
        let verifier = shared.verifier.load_full();
        let Some(accounts) = verifier.password() else {
            continue;
        };
        let generation = (Arc::as_ptr(&verifier) as usize, accounts.generation());
        let Some(look) = watch.look(generation, Instant::now()) else {
            continue;
        };
        let is_revoked =
            |record: &&Record| record.method() == AuthMethod::Password && !accounts.is_active(record.user());
        let revoked: Vec<SessionId> = {
            let registry = shared.registry();
            watch.looked_until = registry.newest();
            match look {
                Look::All => registry.records().filter(is_revoked).map(Record::id).collect(),
                Look::After(id) => registry.records_after(id).filter(is_revoked).map(Record::id).collect(),
            }
        };
        for id in revoked {
            tracing::info!(session = %id, "the account was removed or locked");
            shared.end(id, CloseReason::AccountRevoked);
        }
    }
}

/// The keys of the first cookies in HelloVerifyRequest.
///
/// # Errors
/// When the operating system has no randomness.
pub(crate) fn new_cookie_keys() -> Result<CookieKeys> {
    Ok(CookieKeys::new(entropy()?))
}

/// Changes these keys for as long as the runtime lives (R12).
pub(crate) async fn rotate_cookie_keys(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(COOKIE_KEY_LIFETIME).await;
        match entropy() {
            Ok(entropy) => shared.rotate_cookie_keys(entropy),
            Err(error) => tracing::warn!(%error, "the cookies of datagram handshakes keep their key"),
        }
    }
}

fn entropy() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow!("the operating system has no randomness"))?;
    Ok(bytes)
}

/// When sessions are compared with the accounts: all after a change, and for as long as a login may take those that are new.
///
/// A password that is being hashed while its account is locked is found right, by the table of before, and
/// becomes a session after the first look.
struct Watch {
    seen: Option<(usize, u64)>,
    until: Option<Instant>,
    /// The newest session at the last look.
    looked_until: SessionId,
}

/// Which sessions are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    All,
    After(SessionId),
}

impl Default for Watch {
    fn default() -> Self {
        Self { seen: None, until: None, looked_until: SessionId::new(0) }
    }
}

impl Watch {
    fn look(&mut self, generation: (usize, u64), now: Instant) -> Option<Look> {
        if self.seen.replace(generation) != Some(generation) {
            self.until = Some(now + FRONT_TIMEOUT + REVOCATION_CHECK);
            return Some(Look::All);
        }
        self.until.is_some_and(|until| now <= until).then_some(Look::After(self.looked_until))
    }
}

/// Runs until the runtime ends.
pub(crate) async fn run(shared: Arc<Shared>, store: Option<FileStore>, conditions: Conditions) {
    loop {
        let next = shared.registry().next_end();
        let latest = Instant::now() + SLOWEST;
        let until = next.map_or(latest, |at| at.min(latest));
        let changed = tokio::select! {
            () = tokio::time::sleep_until(until.into()) => false,
            () = shared.registry_changed.notified() => true,
        };
        if changed {
            tokio::time::sleep(GATHER).await;
        }
        let now = Instant::now();
        shared.registry().end_records(now);
        shared.desk().handle_timeout(now);
        if let Some(store) = &store {
            let (shared, store) = (Arc::clone(&shared), store.clone());
            let saved = tokio::task::spawn_blocking(move || save(&shared, &store)).await;
            let saved =
                saved.map_err(|panic| panic.to_string()).and_then(|saved| saved.map_err(|e| e.to_string()));
            let problem = |error| format!("sessions are not saved, and a restart would lose some: {error}");
            conditions.store.set(saved.err().map(problem));
        }
        let validity = tls::validity(shared.effective.load().certificate_end, SystemTime::now());
        conditions.certificate.set(validity.expired());
        conditions.renewal.warn(validity.ending());
    }
}

/// Writes the sessions now.
pub(crate) fn save(shared: &Shared, store: &FileStore) -> io::Result<()> {
    store.save(|| Snapshot::of(&shared.registry(), Clocks::now()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: R32
    #[test]
    fn a_login_that_began_before_its_account_was_locked_is_still_looked_at_when_it_ends() {
        let start = Instant::now();
        let secs = |n| start + Duration::from_secs(n);
        let mut watch = Watch::default();
        let new = Some(Look::After(SessionId::new(7)));
        assert_eq!(watch.look((1, 1), start), Some(Look::All));
        watch.looked_until = SessionId::new(7);
        assert_eq!(watch.look((1, 1), secs(300)), new, "the longest login has just ended");
        assert_eq!(watch.look((1, 1), secs(303)), None);
        assert_eq!(watch.look((1, 2), secs(400)), Some(Look::All), "the file has changed");
        assert_eq!(watch.look((1, 2), secs(402)), new);
        assert_eq!(watch.look((2, 1), secs(800)), Some(Look::All), "a reload has read another file");
        assert_eq!(watch.look((2, 1), secs(1_200)), None);
    }
}
