//! Sorted numbers, and how many of them are at or below a number.
//!
//! ```text
//!            lowest                                               highest
//! cells      | 0      | 1      | 2      | 3      |   ...   | 254    | 255     equally wide
//! numbers    . .  .            . ...  . .                             .  .
//! before     0        3        3        8            ...     n-2      n-2     how many numbers are before the cell
//! ```
//!
//! Its cell says where to look for a number, and the fullest cell how far, so that every search takes the same few
//! steps, each without a branch. That matters more than how many they are: what a search of varying steps does next is
//! guessed by the processor, and for addresses that it has not seen half of the guesses are wrong.

/// With 1,000 numbers spread evenly, the fullest of so many cells has about a dozen.
const CELLS: usize = 256;

/// The numbers and their cells.
#[derive(Clone, Debug)]
pub(super) struct Boundaries {
    /// Ascending; behind the highest it is repeated, so that a window fits wherever a cell begins.
    numbers: Box<[u64]>,
    /// How many they are without the repetitions.
    len: usize,
    /// How many numbers are before each cell.
    before: Box<[u32; CELLS]>,
    /// A cell is two to this power wide.
    shift: u32,
    /// How many numbers are in the fullest cell.
    window: usize,
}

impl Boundaries {
    /// Takes numbers in ascending order, of which some may be equal.
    pub(super) fn new(mut numbers: Vec<u64>) -> Self {
        debug_assert!(numbers.is_sorted(), "boundaries are given in order");
        let len = numbers.len();
        let range = numbers.first().zip(numbers.last());
        let width = range.map_or(0, |(lowest, highest)| highest - lowest);
        let shift = (u64::BITS - width.leading_zeros()).saturating_sub(CELLS.ilog2());
        let mut sizes = [0_usize; CELLS];
        for number in &numbers {
            sizes[cell(*number, numbers[0], shift)] += 1;
        }
        let mut before = Box::new([0; CELLS]);
        let mut sum = 0;
        for (before, size) in before.iter_mut().zip(sizes) {
            *before = u32::try_from(sum).expect("fewer rules than addresses");
            sum += size;
        }
        let window = sizes.into_iter().max().unwrap_or_default();
        if let Some(highest) = numbers.last().copied() {
            numbers.resize(len + window, highest);
        }
        Self { numbers: numbers.into(), len, before, shift, window }
    }

    /// How many of the numbers are at or below `number`.
    pub(super) fn rank(&self, number: u64) -> usize {
        let Some(lowest) = self.numbers.first() else { return 0 };
        let start = self.before[cell(number, *lowest, self.shift)] as usize;
        let found = self.numbers[start..start + self.window].partition_point(|other| *other <= number);
        (start + found).min(self.len)
    }

    /// The numbers, ascending.
    pub(super) fn as_slice(&self) -> &[u64] {
        &self.numbers[..self.len]
    }
}

/// The cell of `number`: the first for what is below `lowest`, the last for what is above the highest.
fn cell(number: u64, lowest: u64, shift: u32) -> usize {
    usize::try_from(number.saturating_sub(lowest) >> shift).map_or(CELLS - 1, |cell| cell.min(CELLS - 1))
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    /// Numbers that are spread, crowded together, equal, and at both ends.
    fn number() -> impl Strategy<Value = u64> {
        let ends = prop_oneof![Just(0), Just(1), Just(u64::MAX - 1), Just(u64::MAX)];
        prop_oneof![any::<u64>(), 0x0A00_0000_u64..0x0A00_0200, ends]
    }

    proptest! {
        #[test]
        fn a_rank_is_the_number_of_those_at_or_below(
            mut numbers in vec(number(), 0..60),
            asked in vec(number(), 1..60),
        ) {
            numbers.sort_unstable();
            let boundaries = Boundaries::new(numbers.clone());
            prop_assert_eq!(boundaries.as_slice(), &*numbers);
            for number in asked.into_iter().chain(numbers.iter().copied()) {
                let below = numbers.iter().filter(|other| **other <= number).count();
                prop_assert_eq!(boundaries.rank(number), below);
            }
        }
    }

    #[test]
    fn a_thousand_numbers_spread_evenly_are_found_in_a_short_window() {
        let numbers: Vec<u64> = (0..1_000).map(|n| n * (u64::MAX / 1_000)).collect();
        assert!(Boundaries::new(numbers).window <= 4);
        let within_one_prefix: Vec<u64> = (0..1_000).map(|n| 0x0A00_0000 | (n << 8)).collect();
        assert!(Boundaries::new(within_one_prefix).window <= 4);
    }
}
