//! Who had which address last, after its hold-back: a bounded memory that loses what is old first.
//!
//! ```text
//! set of an owner, one cache line     | 4 owners, the one entered last first | their numbers |
//! ```
//!
//! Entering an owner pushes the oldest of its set out when the set is full. A map with a list of ages would lose the
//! oldest of all; it is also four times as large, and what such a memory costs is the way to the memory it lies in.

use super::OwnerKey;

/// The most owners remembered beyond their hold-back: as many as a large server has sessions.
///
/// An entry costs 16 bytes. Only owners that did not have the address their key leads to are entered, so a pool that
/// is large for its users remembers nearly nobody.
const MAX_REMEMBERED: usize = 65_536;

const WAYS: usize = 4;

/// Stands for "nobody" where a number is expected: no span has so many.
const NO_NUMBER: u64 = u64::MAX;

/// Spreads owners over the sets; other than any that spreads them over addresses.
const SPREAD: u64 = 1 << 32;

/// Owners whose keys lead to one set, the one entered last first.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Set {
    owners: [OwnerKey; WAYS],
    numbers: [u64; WAYS],
}

/// The memory: a number an owner.
#[derive(Debug)]
pub(super) struct Sticky {
    /// A power of two of them; none until somebody is remembered.
    sets: Vec<Set>,
    most: usize,
}

impl Sticky {
    /// Remembers nobody, and later at most as many owners as there are numbers.
    pub(super) fn new(numbers: u64) -> Self {
        let owners = usize::try_from(numbers).map_or(MAX_REMEMBERED, |numbers| numbers.min(MAX_REMEMBERED));
        Self { sets: Vec::new(), most: owners.div_ceil(WAYS).next_power_of_two() }
    }

    /// Remembers that `owner` had `number`, instead of what was remembered of it.
    pub(super) fn remember(&mut self, owner: OwnerKey, number: u64) {
        if self.sets.is_empty() {
            let nobody = Set { owners: [OwnerKey::new(0); WAYS], numbers: [NO_NUMBER; WAYS] };
            self.sets = vec![nobody; self.most];
        }
        let Some(set) = self.set(owner) else { return };
        let gone = set.way(owner).unwrap_or(WAYS - 1);
        set.owners[..=gone].rotate_right(1);
        set.numbers[..=gone].rotate_right(1);
        (set.owners[0], set.numbers[0]) = (owner, number);
    }

    /// Forgets `owner` and says which number it had.
    pub(super) fn forget(&mut self, owner: OwnerKey) -> Option<u64> {
        let set = self.set(owner)?;
        let way = set.way(owner)?;
        let number = std::mem::replace(&mut set.numbers[way], NO_NUMBER);
        // Free ways stay behind the others, so that the last one is free when any is.
        set.owners[way..].rotate_left(1);
        set.numbers[way..].rotate_left(1);
        Some(number)
    }

    fn set(&mut self, owner: OwnerKey) -> Option<&mut Set> {
        let spread = usize::try_from(owner.mixed(SPREAD) >> 32).ok()?;
        let last = self.sets.len().checked_sub(1)?;
        self.sets.get_mut(spread & last)
    }
}

impl Set {
    fn way(&self, owner: OwnerKey) -> Option<usize> {
        (0..WAYS).find(|way| self.owners[*way] == owner && self.numbers[*way] != NO_NUMBER)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner(n: usize) -> OwnerKey {
        OwnerKey::new(n as u64)
    }

    #[test]
    fn the_oldest_owner_of_a_set_is_forgotten_first() {
        let mut sticky = Sticky::new(WAYS as u64);
        for n in 0..WAYS {
            sticky.remember(owner(n), 1);
        }
        sticky.remember(owner(0), 2);
        sticky.remember(owner(WAYS), 3);
        assert_eq!(sticky.forget(owner(1)), None, "the oldest one made room");
        assert_eq!(sticky.forget(owner(0)), Some(2), "remembering again made it young");
        assert_eq!(sticky.forget(owner(0)), None);
        assert_eq!(sticky.forget(owner(WAYS)), Some(3));
        sticky.remember(owner(7), 7);
        sticky.remember(owner(8), 8);
        assert_eq!(sticky.forget(owner(2)), Some(1), "what was forgotten had left room for two");
    }

    proptest! {
        #[test]
        fn a_set_is_a_list_of_the_owners_entered_last(
            steps in proptest::collection::vec((0_usize..8, proptest::option::of(0_u64..100)), 0..100),
        ) {
            let mut sticky = Sticky::new(WAYS as u64);
            let mut model = Vec::new();
            for (n, remembered) in steps {
                let place = model.iter().position(|(other, _)| *other == n);
                let known = place.map(|place| model.remove(place).1);
                match remembered {
                    Some(number) => {
                        sticky.remember(owner(n), number);
                        model.insert(0, (n, number));
                        model.truncate(WAYS);
                    }
                    None => prop_assert_eq!(sticky.forget(owner(n)), known),
                }
            }
        }
    }

    #[test]
    fn a_crowd_of_restless_owners_does_not_make_the_memory_grow() {
        let mut sticky = Sticky::new(u64::MAX);
        assert_eq!(sticky.sets.len(), 0, "nobody is remembered, and nothing kept for it");
        for n in 0..3 * MAX_REMEMBERED {
            sticky.remember(owner(n), 1);
        }
        assert_eq!(sticky.sets.len() * WAYS, MAX_REMEMBERED);
        let young = (2 * MAX_REMEMBERED..3 * MAX_REMEMBERED).filter(|n| sticky.forget(owner(*n)).is_some());
        assert!(young.count() > MAX_REMEMBERED * 3 / 4, "most of the newest are remembered");
    }
}
