//! The record of every address that is not free, and the order in which hold-backs end.
//!
//! ```text
//!            lease                 release
//!   (free) ---------> Leased ----------------> Held --- hold-back over ---> (free)
//!                        ^                      |
//!                        +---- same owner ------+
//!   Idle <--> Leased      a reservation: never free, leased to its owner only
//!   Excluded              never leased
//! ```
//!
//! Records lie in a slab and are named by their position. Those held back hang in two doubly linked
//! lists, one by age and one for their owner, so that every change is O(1) and nothing stale is left
//! behind however often an owner comes and goes.

use std::num::NonZeroU32;
use std::time::Instant;

use rustc_hash::FxHashMap;

use super::OwnerKey;

/// What a record says of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Given to a session.
    Leased,
    /// Given back; until then it is for its owner only.
    Held {
        /// When it is free again.
        until: Instant,
    },
    /// Reserved for its owner and not leased now.
    Idle,
    /// Never leased.
    Excluded,
}

/// One address that is not free; in one cache line, because a crowd of them is in no near cache.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Record {
    /// The number of the address in its span.
    pub(super) number: u64,
    /// Whose it is.
    pub(super) owner: OwnerKey,
    /// What it is.
    pub(super) state: State,
    /// Whether it is a reservation.
    pub(super) reserved: bool,
    /// Its place among the records held back: by age, and of its owner.
    links: [Link; 2],
}

/// The neighbours in a list.
#[derive(Clone, Copy, Debug, Default)]
struct Link {
    older: Neighbour,
    newer: Neighbour,
}

/// The key of a record, or none, in four bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Neighbour(Option<NonZeroU32>);

impl Neighbour {
    fn new(key: Option<u32>) -> Self {
        Self(key.and_then(|key| NonZeroU32::MIN.checked_add(key)))
    }

    fn key(self) -> Option<u32> {
        self.0.map(|above| above.get() - 1)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    oldest: Option<u32>,
    newest: Option<u32>,
}

const BY_AGE: usize = 0;
const BY_OWNER: usize = 1;

/// The slab of records.
#[derive(Debug, Default)]
pub(super) struct Records {
    slots: Vec<Option<Record>>,
    vacant: Vec<u32>,
    held: Ends,
    held_by: FxHashMap<OwnerKey, Ends>,
    leased: u64,
    held_back: u64,
}

impl Records {
    /// Adds a record and returns its key; `None` when the keys are used up.
    pub(super) fn insert(
        &mut self,
        number: u64,
        owner: OwnerKey,
        state: State,
        reserved: bool,
    ) -> Option<u32> {
        let key = match self.vacant.pop() {
            Some(key) => key,
            None => {
                // The greatest u32 is no key: a [`Neighbour`] has no room for it.
                let key = u32::try_from(self.slots.len()).ok().filter(|key| *key < u32::MAX)?;
                self.slots.push(None);
                key
            }
        };
        self.leased += u64::from(state == State::Leased);
        self.slots[key as usize] = Some(Record { number, owner, state, reserved, links: Default::default() });
        Some(key)
    }

    /// The record of `key`.
    pub(super) fn get(&self, key: u32) -> &Record {
        self.slots[key as usize].as_ref().expect("a key names a record until it is removed")
    }

    fn get_mut(&mut self, key: u32) -> &mut Record {
        self.slots[key as usize].as_mut().expect("a key names a record until it is removed")
    }

    /// Leases a record that was held back or idle.
    pub(super) fn lease(&mut self, key: u32) {
        self.let_go(key);
        self.leased += 1;
        self.get_mut(key).state = State::Leased;
    }

    /// Makes a leased reservation idle.
    pub(super) fn idle(&mut self, key: u32) {
        self.leased -= 1;
        self.get_mut(key).state = State::Idle;
    }

    /// Holds a leased record back.
    pub(super) fn hold(&mut self, key: u32, until: Instant) {
        self.leased -= 1;
        self.held_back += 1;
        let record = self.get_mut(key);
        record.state = State::Held { until };
        let owner = record.owner;
        let mut ends = self.held;
        self.append(key, BY_AGE, &mut ends);
        self.held = ends;
        let before = self.held_by.insert(owner, Ends { oldest: Some(key), newest: Some(key) });
        if let Some(mut ends) = before {
            self.append(key, BY_OWNER, &mut ends);
            self.held_by.insert(owner, ends);
        }
    }

    /// Removes a record; its key may be used again.
    pub(super) fn remove(&mut self, key: u32) {
        self.let_go(key);
        if self.get(key).state == State::Leased {
            self.leased -= 1;
        }
        self.slots[key as usize] = None;
        self.vacant.push(key);
        if self.vacant.len() == self.slots.len() {
            *self = Self::default();
        }
    }

    /// The record of `owner` that was held back last.
    pub(super) fn newest_held(&self, owner: OwnerKey) -> Option<u32> {
        self.held_by.get(&owner)?.newest
    }

    /// The record whose hold-back ends first, and when.
    pub(super) fn oldest_held(&self) -> Option<(u32, Instant)> {
        let key = self.held.oldest?;
        match self.get(key).state {
            State::Held { until } => Some((key, until)),
            State::Leased | State::Idle | State::Excluded => None,
        }
    }

    /// The records held back, with when each is free: the first that ends first.
    pub(super) fn all_held(&self) -> impl Iterator<Item = (u32, Instant)> + '_ {
        let newer = |key: &u32| self.get(*key).links[BY_AGE].newer.key();
        std::iter::successors(self.held.oldest, newer).filter_map(|key| match self.get(key).state {
            State::Held { until } => Some((key, until)),
            State::Leased | State::Idle | State::Excluded => None,
        })
    }

    /// When the last hold-back ends.
    pub(super) fn last_end(&self) -> Option<Instant> {
        match self.get(self.held.newest?).state {
            State::Held { until } => Some(until),
            State::Leased | State::Idle | State::Excluded => None,
        }
    }

    /// How many records are leased.
    pub(super) fn leased(&self) -> u64 {
        self.leased
    }

    /// How many records are held back.
    pub(super) fn held_back(&self) -> u64 {
        self.held_back
    }

    /// Takes a record out of the lists of those held back, if it is there.
    fn let_go(&mut self, key: u32) {
        let &Record { owner, state: State::Held { .. }, .. } = self.get(key) else { return };
        self.held_back -= 1;
        let mut ends = self.held;
        self.unlink(key, BY_AGE, &mut ends);
        self.held = ends;
        let mut ends = self.held_by.remove(&owner).unwrap_or_default();
        self.unlink(key, BY_OWNER, &mut ends);
        if ends.newest.is_some() {
            self.held_by.insert(owner, ends);
        }
    }

    fn append(&mut self, key: u32, list: usize, ends: &mut Ends) {
        let older = ends.newest.replace(key);
        self.get_mut(key).links[list] = Link { older: Neighbour::new(older), newer: Neighbour::default() };
        match older {
            Some(older) => self.get_mut(older).links[list].newer = Neighbour::new(Some(key)),
            None => ends.oldest = Some(key),
        }
    }

    fn unlink(&mut self, key: u32, list: usize, ends: &mut Ends) {
        let Link { older, newer } = std::mem::take(&mut self.get_mut(key).links[list]);
        match older.key() {
            Some(older) => self.get_mut(older).links[list].newer = newer,
            None => ends.oldest = newer.key(),
        }
        match newer.key() {
            Some(newer) => self.get_mut(newer).links[list].older = older,
            None => ends.newest = older.key(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::origin;

    #[test]
    fn a_record_is_one_cache_line() {
        assert_eq!(size_of::<Option<Record>>(), 64);
    }

    fn leased(records: &mut Records, number: u64, owner: u64) -> u32 {
        records.insert(number, OwnerKey::new(owner), State::Leased, false).unwrap()
    }

    #[test]
    fn hold_backs_end_in_the_order_of_release_whichever_is_taken_from_between() {
        let start = origin();
        let mut records = Records::default();
        let keys: Vec<_> = (0..4).map(|n| leased(&mut records, n, n % 2)).collect();
        for key in &keys {
            records.hold(*key, start);
        }
        assert_eq!((records.leased(), records.held_back()), (0, 4));
        assert_eq!(records.newest_held(OwnerKey::new(0)), Some(keys[2]));
        records.lease(keys[2]);
        assert_eq!(records.newest_held(OwnerKey::new(0)), Some(keys[0]));
        let mut order = Vec::new();
        while let Some((key, _)) = records.oldest_held() {
            order.push(key);
            records.remove(key);
        }
        assert_eq!(order, [keys[0], keys[1], keys[3]]);
        assert_eq!(records.newest_held(OwnerKey::new(1)), None);
        assert_eq!((records.leased(), records.held_back()), (1, 0));
        records.remove(keys[2]);
        assert!(records.slots.is_empty() && records.held_by.is_empty(), "nothing is left of a crowd");
    }

    #[test]
    fn an_owner_that_comes_and_goes_leaves_nothing_behind() {
        let start = origin();
        let mut records = Records::default();
        let key = leased(&mut records, 0, 0);
        for second in 0..10_000 {
            records.hold(key, start + Duration::from_secs(second));
            records.lease(key);
        }
        assert_eq!((records.slots.len(), records.held_by.len()), (1, 0));
    }
}
