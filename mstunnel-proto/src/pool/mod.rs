//! Leases of addresses: one prefix, IPv4 or IPv6, sticky and with a hold-back.
//!
//! ```text
//!   owner ---> its reservation | what is held back for it | what it had last | where its key leads | any
//!                                          (the first of these that is free, all O(1))
//!   session ends ---> held back for its owner ---> free for anybody
//! ```
//!
//! An address is the lease of one session at every instant (R51). After its release it is held back: the
//! same owner gets it again at once, another owner only after [`PoolConfig::hold_back`] (R50), even when
//! the pool is otherwise full. Two sessions of one owner have an address each.
//!
//! # After a restart
//! [`Pool::restore`] takes a recorded lease again. A record of an address that was held back is restored
//! and then released, which starts its hold-back anew.
//!
//! # Limits
//! IPv4 from /8 to /30, IPv6 from /8 to /127, of prefixes shorter than /64 the lowest 2^64 - 1 addresses.
//! Memory grows with what is leased and held back, about 150 bytes each, never with the prefix, but for an
//! array of 8 bytes an address when they are no more than a /16 of IPv4 has. What is remembered of former
//! owners is at most 1 MiB.
//!
//! # Source
//! threats.md R50 and R51; the order of choice is ours.

mod lease;
mod marks;
mod numbers;
mod records;
mod span;
mod sticky;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::prefix::Prefix;
use lease::PoolIdentity;
use numbers::Numbers;
use records::{Records, State};
use span::Span;
use sticky::Sticky;

pub use lease::{Lease, OwnerKey};

/// How often an owner's key is asked for another address before any free one is taken.
///
/// At half load one address in eight is then not where its owner's key leads.
const ATTEMPTS: u64 = 3;

/// The same when more than half of the addresses are out, where most answers would be taken.
const ATTEMPTS_IN_A_CROWD: u64 = 1;

/// The longest hold-back: a longer one is cut to it, so that no date overflows.
pub const MAX_HOLD_BACK: Duration = Duration::from_secs(365 * 24 * 3_600);

/// What a pool is built with, besides its prefix.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// How long an address is kept for its last owner, at most [`MAX_HOLD_BACK`]. At least the reconnect
    /// window (R50).
    pub hold_back: Duration,
    /// Addresses kept for one owner; those of the other family are for the other pool.
    pub reserved: Vec<(OwnerKey, IpAddr)>,
    /// Addresses never leased; those outside the prefix are not this pool's concern.
    pub excluded: Vec<IpAddr>,
}

impl Default for PoolConfig {
    /// Holds back for 300 s, the default reconnect window; nothing reserved or excluded.
    fn default() -> Self {
        Self { hold_back: Duration::from_secs(300), reserved: Vec::new(), excluded: Vec::new() }
    }
}

/// The addresses of one prefix.
#[derive(Debug)]
pub struct Pool {
    span: Span,
    hold_back: Duration,
    identity: PoolIdentity,
    numbers: Numbers,
    records: Records,
    reservations: FxHashMap<OwnerKey, Vec<u32>>,
    sticky: Sticky,
    excluded: u64,
}

/// An address that waits for its last owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldBack {
    /// The address.
    pub address: IpAddr,
    /// Who may have it meanwhile.
    pub owner: OwnerKey,
    /// When anybody may, once [`Pool::handle_timeout`] was called.
    pub until: Instant,
}

/// What a pool has out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// Addresses that sessions have.
    pub leased: u64,
    /// Addresses that wait for their last owner.
    pub held_back: u64,
    /// Addresses that can be leased at all, reservations included; at most 2^64 - 1.
    pub size: u64,
}

impl Pool {
    /// Builds the pool of `prefix`; costs nothing for its size.
    ///
    /// # Errors
    /// [`PoolError`] when `prefix` cannot be a pool or a reservation cannot be kept.
    pub fn new(prefix: Prefix, config: &PoolConfig) -> Result<Self, PoolError> {
        let span = Span::new(prefix)?;
        let mut pool = Self {
            numbers: Numbers::new(span.size()),
            span,
            hold_back: config.hold_back.min(MAX_HOLD_BACK),
            identity: PoolIdentity::default(),
            records: Records::default(),
            reservations: FxHashMap::default(),
            sticky: Sticky::new(span.size()),
            excluded: 0,
        };
        let nobody = OwnerKey::new(0);
        for number in config.excluded.iter().filter_map(|address| span.number(*address)) {
            if pool.numbers.is_free(number) && pool.add(number, nobody, State::Excluded, false).is_some() {
                pool.excluded += 1;
            }
        }
        for &(owner, address) in &config.reserved {
            if address.is_ipv4() == prefix.is_ipv4() {
                pool.reserve(owner, address)?;
            }
        }
        if pool.excluded == span.size() {
            return Err(PoolError::NothingLeft { prefix });
        }
        Ok(pool)
    }

    /// Leases an address to `owner`.
    ///
    /// In this order: its reservation, the address held back for it, the one it had last, the one its key
    /// leads to, any free one. O(1).
    ///
    /// # Errors
    /// [`Exhausted`] when every address is leased, held back for another owner, or reserved; one whose hold-back has
    /// ended is free after [`Pool::handle_timeout`].
    pub fn lease(&mut self, owner: OwnerKey) -> Result<Lease, Exhausted> {
        let known = self.idle_reservation(owner).or_else(|| self.records.newest_held(owner));
        if let Some(key) = known {
            self.records.lease(key);
            return Ok(self.lease_of(key));
        }
        let number = self.choose(owner);
        let key = number.and_then(|number| self.add(number, owner, State::Leased, false));
        key.map(|key| self.lease_of(key)).ok_or_else(|| self.exhausted())
    }

    /// Takes a recorded lease again, after a restart.
    ///
    /// # Errors
    /// [`RestoreError`] when `address` is not for leasing or not free for `owner`.
    pub fn restore(&mut self, owner: OwnerKey, address: IpAddr) -> Result<Lease, RestoreError> {
        let number = self.span.number(address);
        let number = number.ok_or(RestoreError::NotLeasable { address, prefix: self.span.prefix() })?;
        let taken = RestoreError::Taken { address };
        let key = match self.numbers.get(number) {
            None => self.add(number, owner, State::Leased, false).ok_or(taken)?,
            Some(key) => {
                let record = self.records.get(key);
                match record.state {
                    State::Held { .. } | State::Idle if record.owner == owner => self.records.lease(key),
                    State::Excluded => {
                        return Err(RestoreError::NotLeasable { address, prefix: self.span.prefix() });
                    }
                    State::Held { .. } | State::Idle | State::Leased => return Err(taken),
                }
                key
            }
        };
        Ok(self.lease_of(key))
    }

    /// Holds a free address back for its last owner, after a restart; the ones that end first come first.
    ///
    /// An address that cannot be leased, or is not free, is left as it is. One that comes out of turn is held until
    /// the one before it is free.
    pub fn hold_back(&mut self, held: HeldBack) {
        let free = self.span.number(held.address).filter(|number| self.numbers.is_free(*number));
        let key = free.and_then(|number| self.add(number, held.owner, State::Leased, false));
        if let Some(key) = key {
            self.hold(key, held.until);
        }
    }

    /// They end in the order in which they began, whatever a caller's clock says.
    fn hold(&mut self, key: u32, until: Instant) {
        let until = self.records.last_end().map_or(until, |last| last.max(until));
        self.records.hold(key, until);
    }

    /// Holds addresses back for `least` or more from now on.
    pub fn hold_back_at_least(&mut self, least: Duration) {
        self.hold_back = self.hold_back.max(least.min(MAX_HOLD_BACK));
    }

    /// The addresses that are held back, the one that is free first first: for a store that outlives the process.
    pub fn held_back(&self) -> impl Iterator<Item = HeldBack> + '_ {
        self.records.all_held().map(|(key, until)| {
            let record = self.records.get(key);
            HeldBack { address: self.span.address(record.number), owner: record.owner, until }
        })
    }

    /// Takes a lease back; its address is held back for its owner from `now` on.
    ///
    /// # Errors
    /// [`ForeignLease`], with the lease in it, when it is of another pool.
    pub fn release(&mut self, lease: Lease, now: Instant) -> Result<(), ForeignLease> {
        if lease.pool != self.identity {
            return Err(ForeignLease(lease));
        }
        if self.records.get(lease.key).reserved {
            self.records.idle(lease.key);
        } else {
            self.hold(lease.key, now + self.hold_back);
        }
        Ok(())
    }

    /// Frees the addresses whose hold-back has ended; nothing else does, so that whoever keeps something of them
    /// elsewhere, as a NAT does, can clear it before (R50).
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((key, until)) = self.records.oldest_held() {
            if until > now {
                return;
            }
            self.free(key);
        }
    }

    /// When the next hold-back ends.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.records.oldest_held().map(|(_, until)| until)
    }

    /// Whose lease `address` is now; `None` also while it is held back.
    pub fn owner_of(&self, address: IpAddr) -> Option<OwnerKey> {
        let record = self.records.get(self.numbers.get(self.span.number(address)?)?);
        (record.state == State::Leased).then_some(record.owner)
    }

    /// The server's own address inside the tunnel: the first host address, never leased.
    pub fn server_address(&self) -> IpAddr {
        self.span.server()
    }

    /// The prefix.
    pub fn prefix(&self) -> Prefix {
        self.span.prefix()
    }

    /// What is out.
    pub fn stats(&self) -> PoolStats {
        PoolStats {
            leased: self.records.leased(),
            held_back: self.records.held_back(),
            size: self.span.size() - self.excluded,
        }
    }

    fn reserve(&mut self, owner: OwnerKey, address: IpAddr) -> Result<(), PoolError> {
        let number = self.span.number(address).filter(|number| self.numbers.is_free(*number));
        let key = number.and_then(|number| self.add(number, owner, State::Idle, true));
        let key = key.ok_or(PoolError::Reservation { address, prefix: self.span.prefix() })?;
        self.reservations.entry(owner).or_default().push(key);
        Ok(())
    }

    fn idle_reservation(&self, owner: OwnerKey) -> Option<u32> {
        if self.reservations.is_empty() {
            return None;
        }
        let keys = self.reservations.get(&owner)?;
        keys.iter().copied().find(|key| self.records.get(*key).state == State::Idle)
    }

    /// A free number for `owner`, best first.
    fn choose(&mut self, owner: OwnerKey) -> Option<u64> {
        let is_free = |number: &u64| self.numbers.is_free(*number);
        let remembered = self.sticky.forget(owner).filter(is_free);
        let attempts = if self.numbers.is_crowded() { ATTEMPTS_IN_A_CROWD } else { ATTEMPTS };
        remembered
            .or_else(|| (0..attempts).map(|attempt| self.choice(owner, attempt)).find(is_free))
            .or_else(|| self.numbers.any_free())
    }

    /// The number that the key of `owner` leads to.
    fn choice(&self, owner: OwnerKey, attempt: u64) -> u64 {
        let scaled = u128::from(owner.mixed(attempt)) * u128::from(self.span.size());
        u64::try_from(scaled >> 64).expect("the upper half of a product of two 64-bit numbers")
    }

    fn add(&mut self, number: u64, owner: OwnerKey, state: State, reserved: bool) -> Option<u32> {
        let key = self.records.insert(number, owner, state, reserved)?;
        let taken = self.numbers.take(number, key);
        debug_assert!(taken, "only free numbers are added");
        Some(key)
    }

    fn free(&mut self, key: u32) {
        let (number, owner) = (self.records.get(key).number, self.records.get(key).owner);
        self.records.remove(key);
        self.numbers.give_back(number);
        if self.choice(owner, 0) == number {
            self.sticky.forget(owner);
        } else {
            self.sticky.remember(owner, number);
        }
    }

    fn lease_of(&self, key: u32) -> Lease {
        let record = self.records.get(key);
        let address = self.span.address(record.number);
        Lease { address, owner: record.owner, key, pool: self.identity.clone() }
    }

    fn exhausted(&self) -> Exhausted {
        let PoolStats { leased, held_back, size } = self.stats();
        Exhausted { leased, held_back, size }
    }
}

/// Why a pool cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Too short or too long.
    #[error("pool {prefix}: the length must be {least} to {most}")]
    Length {
        /// What was given.
        prefix: Prefix,
        /// The shortest.
        least: u8,
        /// The longest of its family.
        most: u8,
    },
    /// It overlaps a block whose addresses no device may have.
    #[error("pool {prefix} has {what} addresses")]
    NeverAssigned {
        /// What was given.
        prefix: Prefix,
        /// What the block is.
        what: &'static str,
    },
    /// A reservation that is outside, excluded, doubled, or network, server or broadcast address.
    #[error("{address} cannot be reserved in pool {prefix}")]
    Reservation {
        /// What was to be reserved.
        address: IpAddr,
        /// The pool.
        prefix: Prefix,
    },
    /// Every address is excluded.
    #[error("every address of pool {prefix} is excluded")]
    NothingLeft {
        /// The pool.
        prefix: Prefix,
    },
}

/// There is no address for this owner now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no free address: {leased} leased and {held_back} held back of {size}")]
pub struct Exhausted {
    /// Addresses that sessions have.
    pub leased: u64,
    /// Addresses that wait for their last owner.
    pub held_back: u64,
    /// Addresses that can be leased at all, reservations included.
    pub size: u64,
}

/// Why a recorded lease cannot be taken again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Outside the prefix, excluded, or network, server or broadcast address.
    #[error("{address} is not an address that pool {prefix} leases")]
    NotLeasable {
        /// What was recorded.
        address: IpAddr,
        /// The pool.
        prefix: Prefix,
    },
    /// Leased, or kept for another owner.
    #[error("{address} is leased or kept for another owner")]
    Taken {
        /// What was recorded.
        address: IpAddr,
    },
}

/// A lease of another pool, handed back unchanged.
#[derive(Debug, thiserror::Error)]
#[error("{} is a lease of another pool", .0.address())]
pub struct ForeignLease(pub Lease);

#[cfg(test)]
mod tests;
