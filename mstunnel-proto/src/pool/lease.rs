//! A lease and its owner.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest;

use crate::mix::mixed;

/// Whose address it is: one user on one device, the same after every reconnect and restart.
///
/// Two owners with one key could take over each other's address within its hold-back, so a key is to be
/// made of what was authenticated, as [`OwnerKey::of_device`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerKey(u64);

impl OwnerKey {
    /// Takes a key that the caller made.
    pub const fn new(key: u64) -> Self {
        Self(key)
    }

    /// The key of `user` on `device` (any text that stays the same; may be empty).
    ///
    /// The first 64 bits of the SHA-256 of both, so that it is the same on every server and after a restart.
    pub fn of_device(user: &str, device: &str) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(&(user.len() as u64).to_be_bytes());
        context.update(user.as_bytes());
        context.update(device.as_bytes());
        let hash = context.finish();
        let first = hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
        Self(u64::from_be_bytes(*first))
    }

    /// The key as a number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// A number for the `attempt`th choice of an address, spread evenly over all of `u64`.
    pub(super) fn mixed(self, attempt: u64) -> u64 {
        mixed(self.0, attempt)
    }
}

/// One address for one session: given back exactly once, with [`Pool::release`](super::Pool::release).
///
/// It cannot be copied, and it knows its pool: another pool does not take it. One that is dropped
/// instead of released keeps its address for good.
#[must_use = "an address that is not released stays leased for ever"]
pub struct Lease {
    pub(super) address: IpAddr,
    pub(super) owner: OwnerKey,
    pub(super) key: u32,
    pub(super) pool: PoolIdentity,
}

impl Lease {
    /// The address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whose it is.
    pub fn owner(&self) -> OwnerKey {
        self.owner
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("address", &self.address)
            .field("owner", &self.owner)
            .finish_non_exhaustive()
    }
}

/// What tells two pools apart, without a counter that all pools would have to share.
#[derive(Clone, Debug, Default)]
pub(super) struct PoolIdentity(Arc<()>);

impl PartialEq for PoolIdentity {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_device_cannot_run_into_each_other() {
        let key = OwnerKey::of_device("anna", "phone");
        assert_eq!(key, OwnerKey::of_device("anna", "phone"));
        for (user, device) in [("annap", "hone"), ("annaphone", ""), ("", "annaphone"), ("phone", "anna")] {
            assert_ne!(key, OwnerKey::of_device(user, device));
        }
    }

    #[test]
    fn the_key_of_a_device_is_the_same_in_every_version() {
        // The first 8 bytes that sha256sum gives for 0000000000000004 and "annaphone".
        assert_eq!(OwnerKey::of_device("anna", "phone").get(), 0x28A3_83D6_2F69_9D92);
    }
}
