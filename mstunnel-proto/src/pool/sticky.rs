//! Who had which address last, after its hold-back: a bounded memory that loses its oldest entry first.

use std::collections::VecDeque;
use std::collections::hash_map::Entry;

use rustc_hash::FxHashMap;

use super::OwnerKey;

/// The most owners remembered beyond their hold-back: as many as a large server has sessions.
///
/// An entry costs about 60 bytes. Only owners that did not have the address their key leads to are
/// entered, so a pool that is large for its users remembers nearly nobody.
pub(super) const MAX_REMEMBERED: usize = 65_536;

/// The memory: a number an owner.
#[derive(Debug, Default)]
pub(super) struct Sticky {
    numbers: FxHashMap<OwnerKey, (u64, u64)>,
    /// Owners in the order of entry with their serial; an entry whose serial is not the owner's is stale.
    order: VecDeque<(OwnerKey, u64)>,
    serial: u64,
}

impl Sticky {
    /// Remembers that `owner` had `number`, instead of what was remembered of it.
    pub(super) fn remember(&mut self, owner: OwnerKey, number: u64) {
        self.serial += 1;
        self.numbers.insert(owner, (number, self.serial));
        self.order.push_back((owner, self.serial));
        while self.numbers.len() > MAX_REMEMBERED || self.order.len() > 2 * MAX_REMEMBERED {
            let Some((oldest, serial)) = self.order.pop_front() else { return };
            if let Entry::Occupied(entry) = self.numbers.entry(oldest)
                && entry.get().1 == serial
            {
                entry.remove();
            }
        }
    }

    /// Forgets `owner` and says which number it had.
    pub(super) fn forget(&mut self, owner: OwnerKey) -> Option<u64> {
        if self.numbers.is_empty() {
            return None;
        }
        self.numbers.remove(&owner).map(|(number, _)| number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_owner_is_forgotten_first() {
        let mut sticky = Sticky::default();
        let owner = |n: usize| OwnerKey::new(n as u64);
        for n in 0..MAX_REMEMBERED {
            sticky.remember(owner(n), 1);
        }
        sticky.remember(owner(0), 2);
        sticky.remember(owner(MAX_REMEMBERED), 3);
        assert_eq!(sticky.forget(owner(1)), None, "the oldest one made room");
        assert_eq!(sticky.forget(owner(0)), Some(2), "remembering again made it young");
        assert_eq!(sticky.forget(owner(0)), None);
        assert_eq!(sticky.forget(owner(MAX_REMEMBERED)), Some(3));
    }

    #[test]
    fn one_restless_owner_does_not_make_the_memory_grow() {
        let mut sticky = Sticky::default();
        for n in 0..5 * MAX_REMEMBERED as u64 {
            sticky.remember(OwnerKey::new(7), n);
        }
        assert!(sticky.order.len() <= 2 * MAX_REMEMBERED && sticky.numbers.len() == 1);
        assert_eq!(sticky.forget(OwnerKey::new(7)), Some(5 * MAX_REMEMBERED as u64 - 1));
    }
}
