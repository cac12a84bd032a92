//! Lets go of what is over: records, and the addresses whose hold-back has ended, without what their last owners had
//! open (R50).

use std::net::IpAddr;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use mstunnel_proto::session::Registry;
use rustc_hash::FxHashSet;

use super::upkeep::Condition;
use crate::egress::{EgressError, Kept};
use crate::worker::Shared;

/// How long addresses gather whose flows are forgotten together: each time the kernel lists all of its flows.
const GATHER: Duration = Duration::from_secs(5);

/// The share of a processor that this may take, however many flows there are: one in so many.
const SHARE: u32 = 20;

/// When the next round is, and what it takes.
#[derive(Debug)]
pub(crate) struct Handover {
    kept: Option<Kept>,
    condition: Condition,
    due: Instant,
}

impl Handover {
    /// `kept` is the egress that has flows of its own, if there is one; `condition` hears of what keeps addresses back.
    pub(crate) fn new(kept: Option<Kept>, condition: Condition) -> Self {
        Self { kept, condition, due: Instant::now() }
    }

    /// When the next round may be.
    pub(crate) fn due(&self) -> Instant {
        self.due
    }

    /// Ends what is over at `now`. What cannot be cleared is tried again in the next round, and stays held back.
    pub(crate) async fn round(&mut self, shared: &Arc<Shared>, now: Instant) {
        let Some(kept) = self.kept.clone() else {
            shared.registry().handle_timeout(now);
            return;
        };
        let registry = Arc::clone(shared);
        let forget = move |ending: &FxHashSet<IpAddr>| kept.forget_flows(|address| ending.contains(&address));
        let work = move || end_what_is_over(|| registry.registry(), forget, now);
        let ended = tokio::task::spawn_blocking(work).await;
        self.due = now + GATHER.max(now.elapsed() * SHARE);
        let outcome =
            ended.map_err(|panic| panic.to_string()).and_then(|ended| ended.map_err(|e| e.to_string()));
        self.condition.set(outcome.err().map(|reason| format!("addresses stay held back: {reason}")));
    }
}

/// Forgets the flows of addresses that were given back while no server ran.
///
/// # Errors
/// The kernel does not let them be forgotten.
pub(crate) fn forget_earlier_flows(kept: &Kept, registry: &Registry) -> Result<(), EgressError> {
    kept.forget_flows(|address| {
        registry.pools().any(|pool| pool.prefix().contains(address) && pool.owner_of(address).is_none())
    })?;
    Ok(())
}

/// In this order: `forget` clears the addresses, then anybody may have them.
fn end_what_is_over<'r>(
    registry: impl Fn() -> MutexGuard<'r, Registry>,
    forget: impl FnOnce(&FxHashSet<IpAddr>) -> Result<usize, EgressError>,
    now: Instant,
) -> Result<(), EgressError> {
    let ending: FxHashSet<IpAddr> = registry().ending_hold_backs(now).collect();
    if !ending.is_empty() {
        let flows = forget(&ending)?;
        tracing::debug!(
            addresses = ending.len(),
            flows,
            "addresses are free again, and their flows forgotten"
        );
    }
    registry().handle_timeout(now);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use mstunnel_proto::auth::{AuthMethod, CookieHash};
    use mstunnel_proto::pool::{OwnerKey, Pool, PoolConfig};
    use mstunnel_proto::session::{Admit, Attach, RegistryConfig};

    use super::*;

    const HOLD_BACK: Duration = Duration::from_secs(300);

    /// A registry whose only address is held back from `now` on.
    fn registry(now: Instant) -> (Mutex<Registry>, IpAddr) {
        let config = RegistryConfig {
            cookie_timeout: HOLD_BACK,
            session_timeout: None,
            max_sessions: 10,
            max_per_user: None,
        };
        let pool = PoolConfig { hold_back: HOLD_BACK, reserved: Vec::new(), excluded: Vec::new() };
        let pool = Pool::new("10.9.0.0/30".parse().unwrap(), &pool).unwrap();
        let mut registry = Registry::new(config, Some(pool), None);
        let cookie = CookieHash::from_bytes([1; 32]);
        let admit = Admit {
            user: "ada".to_owned(),
            groups: Vec::new(),
            group: None,
            method: AuthMethod::Password,
            cookie,
            owner: OwnerKey::of_device("ada", ""),
        };
        let id = registry.admit(admit, now).unwrap();
        let attach = Attach { cookie, wants_v4: true, wants_v6: false, holder: 0 };
        let address = registry.attach(attach, now).unwrap().leases.v4.unwrap().into();
        let _ = registry.end(id, now);
        (Mutex::new(registry), address)
    }

    fn held_back(registry: &Mutex<Registry>) -> Vec<IpAddr> {
        registry.lock().unwrap().held_back().map(|held| held.address).collect()
    }

    /// Covers: R50
    #[test]
    fn the_flows_of_an_address_are_forgotten_before_anybody_may_have_it() {
        let start = Instant::now();
        let (registry, address) = registry(start);
        let almost = start + HOLD_BACK - Duration::from_nanos(1);
        let too_early = |_: &FxHashSet<IpAddr>| panic!("its owner may come back to its flows");
        end_what_is_over(|| registry.lock().unwrap(), too_early, almost).unwrap();
        let forget = |ending: &FxHashSet<IpAddr>| {
            assert_eq!(ending.iter().copied().collect::<Vec<_>>(), [address]);
            assert_eq!(held_back(&registry), [address], "not free yet");
            Ok(1)
        };
        end_what_is_over(|| registry.lock().unwrap(), forget, start + HOLD_BACK).unwrap();
        assert!(held_back(&registry).is_empty());
    }

    /// Covers: R50
    #[test]
    fn an_address_whose_flows_cannot_be_forgotten_stays_held_back() {
        let start = Instant::now();
        let (registry, address) = registry(start);
        let refuse = |_: &FxHashSet<IpAddr>| Err(EgressError::NoNft);
        assert!(end_what_is_over(|| registry.lock().unwrap(), refuse, start + HOLD_BACK).is_err());
        assert_eq!(held_back(&registry), [address]);
    }
}
