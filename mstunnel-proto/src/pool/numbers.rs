//! A set of numbers below a size, of which some are taken; any free one is found in O(1).
//!
//! ```text
//!            edge = how many are taken (here 4)
//!   0  1  2  3 | 4  5  6  7  8  9 ...  size
//!   T  o  T  o | .  T  .  .  T  .          T taken, o hole (free, below the edge), . free
//! ```
//!
//! There are as many taken numbers at or above the edge as there are holes below it. So when there is
//! no hole, the number at the edge is free; and the memory is one entry a taken number and at most one
//! a hole, however large the size.

use super::marks::{Mark, Marks};

/// Below this capacity the list of holes keeps its memory.
const SMALL: usize = 1_024;

/// The sparse set.
#[derive(Debug)]
pub(super) struct Numbers {
    size: u64,
    edge: u64,
    marks: Marks,
    holes: Vec<u64>,
}

impl Numbers {
    /// Starts with every number below `size` free.
    pub(super) fn new(size: u64) -> Self {
        Self { size, edge: 0, marks: Marks::new(size), holes: Vec::new() }
    }

    /// The key that `number` was taken with.
    pub(super) fn get(&self, number: u64) -> Option<u32> {
        match self.marks.get(number) {
            Some(Mark::Taken(key)) => Some(key),
            Some(Mark::Hole(_)) | None => None,
        }
    }

    /// Whether `number` exists and is free.
    pub(super) fn is_free(&self, number: u64) -> bool {
        number < self.size && self.get(number).is_none()
    }

    /// Whether more than half of the numbers are taken.
    pub(super) fn is_crowded(&self) -> bool {
        self.edge > self.size / 2
    }

    /// A free number; `None` when all are taken.
    pub(super) fn any_free(&self) -> Option<u64> {
        self.holes.last().copied().or_else(|| (self.edge < self.size).then_some(self.edge))
    }

    /// Takes `number` with `key`; false, and nothing changes, when it is not free.
    pub(super) fn take(&mut self, number: u64, key: u32) -> bool {
        if number >= self.size {
            return false;
        }
        match self.marks.insert(number, Mark::Taken(key)) {
            Some(taken @ Mark::Taken(_)) => {
                self.marks.insert(number, taken);
                return false;
            }
            Some(Mark::Hole(position)) => self.fill_hole(position),
            None => {}
        }
        let crossed = self.edge;
        self.edge += 1;
        if crossed != number {
            self.open_hole(crossed);
        }
        true
    }

    /// Gives `number` back; false, and nothing changes, when it was not taken.
    pub(super) fn give_back(&mut self, number: u64) -> bool {
        match self.marks.remove(number) {
            Some(Mark::Taken(_)) => {}
            Some(hole @ Mark::Hole(_)) => {
                self.marks.insert(number, hole);
                return false;
            }
            None => return false,
        }
        self.edge -= 1;
        let crossed = self.edge;
        if let Some(Mark::Hole(position)) = self.marks.get(crossed) {
            self.marks.remove(crossed);
            self.fill_hole(position);
        }
        if number < crossed {
            self.open_hole(number);
        }
        if self.holes.capacity() > SMALL && self.holes.len() < self.holes.capacity() / 8 {
            self.holes.shrink_to(self.holes.len() * 2);
        }
        true
    }

    /// How many numbers it knows something about: what its memory grows with.
    #[cfg(test)]
    pub(super) fn marks_len(&self) -> usize {
        self.marks.len()
    }

    /// Makes `number` a hole unless it is taken.
    fn open_hole(&mut self, number: u64) {
        if self.marks.get(number).is_none() {
            let position = u32::try_from(self.holes.len()).expect("no more holes than keys");
            self.holes.push(number);
            self.marks.insert(number, Mark::Hole(position));
        }
    }

    /// Takes the hole at `position` off the list; the last one moves there.
    fn fill_hole(&mut self, position: u32) {
        self.holes.swap_remove(position as usize);
        if let Some(moved) = self.holes.get(position as usize) {
            self.marks.insert(*moved, Mark::Hole(position));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Take(u64),
        TakeAny,
        GiveBack(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            2 => (0_u64..20).prop_map(Step::Take),
            3 => Just(Step::TakeAny),
            4 => (0_u64..20).prop_map(Step::GiveBack),
        ]
    }

    proptest! {
        /// Covers: P-076
        #[test]
        fn it_is_a_set_of_taken_numbers(
            size in 0_u64..18,
            has_map in any::<bool>(),
            steps in proptest::collection::vec(step(), 0..200),
        ) {
            let mut numbers = Numbers::new(size);
            if has_map {
                numbers.marks = Marks::new(u64::MAX);
            }
            let mut model = BTreeMap::new();
            for (key, step) in (0_u32..).zip(steps) {
                match step {
                    Step::Take(number) => {
                        let free = number < size && !model.contains_key(&number);
                        prop_assert_eq!(numbers.is_free(number), free);
                        prop_assert_eq!(numbers.take(number, key), free);
                        if free {
                            model.insert(number, key);
                        }
                    }
                    Step::TakeAny => match numbers.any_free() {
                        Some(number) => {
                            prop_assert!(number < size && model.insert(number, key).is_none());
                            prop_assert!(numbers.take(number, key));
                        }
                        None => prop_assert_eq!(model.len() as u64, size),
                    },
                    Step::GiveBack(number) => {
                        prop_assert_eq!(numbers.give_back(number), model.remove(&number).is_some());
                    }
                }
                for number in 0..20 {
                    prop_assert_eq!(numbers.get(number), model.get(&number).copied());
                }
                prop_assert!(numbers.marks.len() <= 2 * model.len());
                prop_assert_eq!(numbers.marks.len(), model.len() + numbers.holes.len());
            }
        }
    }

    #[test]
    fn the_memory_of_a_crowd_is_returned() {
        let mut numbers = Numbers::new(u64::MAX);
        for number in 0..100_000_u64 {
            assert!(numbers.take(number * 1_000_003, 0));
        }
        for number in 0..100_000_u64 {
            assert!(numbers.give_back(number * 1_000_003));
        }
        assert_eq!((numbers.marks.len(), numbers.holes.len()), (0, 0));
        assert!(numbers.holes.capacity() <= 2 * SMALL);
    }
}
