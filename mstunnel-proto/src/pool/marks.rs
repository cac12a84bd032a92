//! What is known of the numbers of a span: an array for a small span, a map for a large one.

use rustc_hash::FxHashMap;

/// The largest span with an array: that of an IPv4 /16, which takes 512 KiB.
const LARGEST_ARRAY: u64 = 1 << 16;

/// Below this many entries the map keeps its memory.
const SMALL: usize = 1_024;

/// What is known of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Taken, with the key of its record.
    Taken(u32),
    /// Free below the edge, with its position in the list of those.
    Hole(u32),
}

/// A mark for some of the numbers below a size.
#[derive(Debug)]
pub(super) enum Marks {
    /// One lookup is one read: a map of 60,000 is too large for a processor's nearest caches, and asks twice.
    Array(Box<[Option<Mark>]>),
    /// What it takes grows with the marks, not with the span.
    Map(FxHashMap<u64, Mark>),
}

impl Marks {
    /// Starts without a mark.
    pub(super) fn new(size: u64) -> Self {
        match usize::try_from(size) {
            Ok(length) if size <= LARGEST_ARRAY => Self::Array(vec![None; length].into()),
            _ => Self::Map(FxHashMap::default()),
        }
    }

    /// The mark of `number`.
    pub(super) fn get(&self, number: u64) -> Option<Mark> {
        match self {
            Self::Array(marks) => *marks.get(usize::try_from(number).ok()?)?,
            Self::Map(marks) => marks.get(&number).copied(),
        }
    }

    /// Marks `number`, which is below the size, and returns its old mark.
    pub(super) fn insert(&mut self, number: u64, mark: Mark) -> Option<Mark> {
        match self {
            Self::Array(marks) => marks.get_mut(usize::try_from(number).ok()?)?.replace(mark),
            Self::Map(marks) => marks.insert(number, mark),
        }
    }

    /// Takes the mark off `number`.
    pub(super) fn remove(&mut self, number: u64) -> Option<Mark> {
        match self {
            Self::Array(marks) => marks.get_mut(usize::try_from(number).ok()?)?.take(),
            Self::Map(marks) => {
                let mark = marks.remove(&number);
                if marks.capacity() > SMALL && marks.len() < marks.capacity() / 8 {
                    marks.shrink_to(marks.len() * 2);
                }
                mark
            }
        }
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Array(marks) => marks.iter().flatten().count(),
            Self::Map(marks) => marks.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_a_crowd_is_returned() {
        let mut marks = Marks::new(u64::MAX);
        for number in 0..100_000_u64 {
            marks.insert(number * 1_000_003, Mark::Taken(0));
        }
        for number in 0..100_000_u64 {
            assert_eq!(marks.remove(number * 1_000_003), Some(Mark::Taken(0)));
        }
        let Marks::Map(map) = marks else { panic!("a span of this size is a map") };
        assert!(map.is_empty() && map.capacity() <= 2 * SMALL, "{}", map.capacity());
    }
}
