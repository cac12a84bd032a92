//! Frees the addresses whose hold-back has ended, without what their last owners had open in the kernel (R50).

use std::net::IpAddr;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use mstunnel_proto::session::Registry;
use rustc_hash::FxHashSet;

use super::conditions::Condition;
use crate::egress::{EgressError, Kept, forget_flows};
use crate::worker::Shared;

/// How often hold-backs that have ended are looked for.
const PACE: Duration = Duration::from_secs(1);

/// How long addresses gather whose flows are forgotten together: each time the kernel lists all of its flows.
const GATHER: Duration = Duration::from_secs(5);

/// The share of a processor that this may take, however many flows there are: one in so many.
const SHARE: u32 = 20;

/// When the next round is, and what it takes.
#[derive(Debug)]
pub(crate) struct Handover {
    forgets: bool,
    condition: Condition,
    due: Instant,
}

impl Handover {
    /// Forgets the flows of addresses that were given back while no server ran, if `kept` is an egress of the kernel;
    /// `condition` will hear of what keeps addresses back.
    ///
    /// # Errors
    /// The kernel does not let flows be forgotten, and has those of clients.
    pub(crate) fn open(
        kept: Option<&Kept>,
        registry: &Registry,
        condition: Condition,
    ) -> Result<Self, EgressError> {
        let forgets = match kept {
            None => false,
            Some(kept) => match forget_flows(|address| is_for_lease(registry, address)) {
                Ok(_) => true,
                // Single flows, and nobody may have their addresses yet.
                Err(error @ EgressError::Flows { .. }) => {
                    tracing::error!("flows of earlier clients may be left: {error}");
                    true
                }
                // Unless the host translates on its own account, there is nothing to forget.
                Err(error) if !kept.masquerades() => {
                    tracing::warn!("{error}");
                    false
                }
                Err(error) => return Err(error),
            },
        };
        Ok(Self { forgets, condition, due: Instant::now() })
    }

    /// Runs until the runtime ends: on its own, because a round may take seconds.
    pub(crate) async fn run(mut self, shared: Arc<Shared>) {
        loop {
            tokio::time::sleep(PACE).await;
            let now = Instant::now();
            if now >= self.due {
                self.round(&shared, now).await;
            }
        }
    }

    /// Frees what is over at `now`. What cannot be cleared stays held back until the next round.
    async fn round(&mut self, shared: &Arc<Shared>, now: Instant) {
        let ending: FxHashSet<IpAddr> = shared.registry().ending_hold_backs(now).collect();
        if ending.is_empty() {
            self.condition.set(None);
            return;
        }
        if !self.forgets {
            shared.registry().free_addresses(now);
            return;
        }
        let registry = Arc::clone(shared);
        let work = move || {
            let start = Instant::now();
            let freed = free(|| registry.registry(), &ending, |is_over| forget_flows(is_over), now);
            (freed.map_err(|error| error.to_string()), start.elapsed())
        };
        let done = tokio::task::spawn_blocking(work).await;
        let (freed, took) = done.unwrap_or_else(|panic| (Err(panic.to_string()), Duration::ZERO));
        self.due = Instant::now() + GATHER.max(took * SHARE);
        self.condition.set(freed.err().map(|reason| format!("addresses stay held back: {reason}")));
    }
}

/// Whether some session may get `address` now or later, and none has it.
fn is_for_lease(registry: &Registry, address: IpAddr) -> bool {
    let mut pools = registry.pools().filter(|pool| pool.prefix().contains(address));
    pools.any(|pool| pool.server_address() != address && pool.owner_of(address).is_none())
}

/// Frees `ending`, what is over at `now`, after `forget` has cleared it; but for an address that its owner has again.
fn free<'r>(
    registry: impl Fn() -> MutexGuard<'r, Registry>,
    ending: &FxHashSet<IpAddr>,
    forget: impl FnOnce(&dyn Fn(IpAddr) -> bool) -> Result<usize, EgressError>,
    now: Instant,
) -> Result<(), EgressError> {
    let flows = forget(&|address| ending.contains(&address) && is_for_lease(&registry(), address))?;
    tracing::debug!(addresses = ending.len(), flows, "addresses are free again, and their flows forgotten");
    registry().free_addresses(now);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use mstunnel_proto::auth::{AuthMethod, CookieHash};
    use mstunnel_proto::pool::{OwnerKey, Pool, PoolConfig};
    use mstunnel_proto::session::{Admit, Attach, RegistryConfig, SessionId};

    use super::*;

    const HOLD_BACK: Duration = Duration::from_secs(300);

    /// When a hold-back begins and when it ends.
    fn span() -> (Instant, Instant) {
        let start = Instant::now();
        (start, start + HOLD_BACK)
    }

    /// A registry whose only address is held back for ada from `now` on.
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
        let (id, address) = connect(&mut registry, 1, now);
        let _ = registry.end(id, now);
        (Mutex::new(registry), address)
    }

    /// Ada signs in, and gets an address.
    fn connect(registry: &mut Registry, cookie: u8, now: Instant) -> (SessionId, IpAddr) {
        let cookie = CookieHash::from_bytes([cookie; 32]);
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
        (id, registry.attach(attach, now).unwrap().leases.v4.unwrap().into())
    }

    fn held_back(registry: &Mutex<Registry>) -> Vec<IpAddr> {
        registry.lock().unwrap().held_back().map(|held| held.address).collect()
    }

    /// Covers: R50
    #[test]
    fn the_flows_of_an_address_are_forgotten_before_anybody_may_have_it() {
        let (start, end) = span();
        let (registry, address) = registry(start);
        let ending = FxHashSet::from_iter([address]);
        let forget = |is_over: &dyn Fn(IpAddr) -> bool| {
            assert!(
                is_over(address) && !is_over("10.9.0.1".parse().unwrap()) && !is_over([192, 0, 2, 1].into())
            );
            assert_eq!(held_back(&registry), [address], "not free yet");
            Ok(1)
        };
        free(|| registry.lock().unwrap(), &ending, forget, end).unwrap();
        assert!(held_back(&registry).is_empty());
    }

    /// Covers: R50
    #[test]
    fn an_address_whose_flows_cannot_be_forgotten_stays_held_back() {
        let (start, end) = span();
        let (registry, address) = registry(start);
        let refuse = |_: &dyn Fn(IpAddr) -> bool| Err(EgressError::NoConntrack);
        let ending = FxHashSet::from_iter([address]);
        assert!(free(|| registry.lock().unwrap(), &ending, refuse, end).is_err());
        assert_eq!(held_back(&registry), [address]);
    }

    #[test]
    fn an_owner_who_comes_back_meanwhile_keeps_what_is_open() {
        let (start, end) = span();
        let (registry, address) = registry(start);
        let ending = FxHashSet::from_iter([address]);
        let forget = |is_over: &dyn Fn(IpAddr) -> bool| {
            assert_eq!(connect(&mut registry.lock().unwrap(), 2, end).1, address);
            assert!(!is_over(address));
            Ok(0)
        };
        free(|| registry.lock().unwrap(), &ending, forget, end).unwrap();
        assert_eq!(registry.lock().unwrap().attached(), 1);
    }
}
