//! Pools with many leases out, and what their owners do.

use std::hint::black_box;
use std::time::{Duration, Instant};

use mstunnel_proto::pool::{Lease, OwnerKey, Pool, PoolConfig};

/// Leases that are out.
pub(crate) const OUT: u64 = 60_000;

#[expect(clippy::disallowed_methods, reason = "the origin of virtual time")]
fn origin() -> Instant {
    Instant::now()
}

/// A pool of which owners give a lease back and take one, in no particular order.
pub(crate) struct Crowd {
    pool: Pool,
    leases: Vec<Lease>,
    which: usize,
    newest_owner: u64,
    now: Instant,
}

impl Crowd {
    /// With `out` leases out, of a pool that holds back for `hold_back`.
    pub(crate) fn new(prefix: &str, out: u64, hold_back: Duration) -> Self {
        let now = origin();
        let config = PoolConfig { hold_back, ..PoolConfig::default() };
        let mut pool = Pool::new(prefix.parse().expect("a prefix"), &config).expect("a pool");
        let leases = (0..out).map(|key| pool.lease(OwnerKey::new(key)).expect("room")).collect();
        Self { pool, leases, which: 0, newest_owner: out, now }
    }

    /// One gives its lease back, and takes it again.
    pub(crate) fn reconnect(&mut self) {
        let owner = self.give_back();
        self.take(owner);
    }

    /// One gives its lease back, and one that was never there takes one.
    pub(crate) fn replace(&mut self) {
        self.give_back();
        self.pool.handle_timeout(self.now);
        self.newest_owner += 1;
        self.take(OwnerKey::new(self.newest_owner));
    }

    fn give_back(&mut self) -> OwnerKey {
        self.which = (self.which + 7_919) % self.leases.len();
        let lease = self.leases.swap_remove(self.which);
        let owner = lease.owner();
        self.pool.release(lease, self.now).expect("its own lease");
        owner
    }

    fn take(&mut self, owner: OwnerKey) {
        self.leases.push(self.pool.lease(black_box(owner)).expect("one was given back"));
    }
}
