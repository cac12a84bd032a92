//! One family's rules as sorted boundaries.
//!
//! Neighbouring boundaries always change the verdict, so the verdict of an address is the first one,
//! flipped as often as there are boundaries at or below the address: one search over plain integers
//! (`boundaries.rs`). `n` rules make at most `2n` boundaries of 16 bytes.

use std::net::IpAddr;

use super::boundaries::Boundaries;
use super::{Coverage, Route, Verdict};

/// Flattened rules of one family.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// The verdict of the lowest address, when no boundary is there.
    first: Verdict,
    /// The upper halves of the addresses at which the verdict flips: nearly always they decide alone.
    upper: Boundaries,
    /// Their lower halves.
    lower: Box<[u64]>,
}

impl Table {
    /// Builds the table from the rules of one family, sorted so that a prefix comes before those inside it.
    pub(super) fn new<'r>(rules: impl Iterator<Item = &'r Route>, default: Verdict) -> Self {
        let (upper, lower): (Vec<_>, Vec<_>) = flips(rules, default).into_iter().map(halves).unzip();
        Self { first: default, upper: Boundaries::new(upper), lower: lower.into() }
    }

    /// The verdict of `address`.
    pub(super) fn evaluate(&self, address: IpAddr) -> Verdict {
        if self.flips_up_to(number(address)).is_multiple_of(2) { self.first } else { opposite(self.first) }
    }

    /// How much of the family has the verdict [`Verdict::Tunnel`].
    pub(super) fn coverage(&self) -> Coverage {
        match self.flips_up_to(0) {
            flips if flips < self.lower.len() => Coverage::Part,
            flips if flips.is_multiple_of(2) == (self.first == Verdict::Tunnel) => Coverage::Everything,
            _ => Coverage::Nothing,
        }
    }

    /// How many flips are at or below `address`.
    fn flips_up_to(&self, address: u128) -> usize {
        let (upper, lower) = halves(address);
        let rank = self.upper.rank(upper);
        let numbers = self.upper.as_slice();
        if rank == 0 || numbers[rank - 1] != upper {
            return rank;
        }
        let start = numbers[..rank].partition_point(|other| *other < upper);
        start + self.lower[start..rank].partition_point(|other| *other <= lower)
    }
}

fn opposite(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Tunnel => Verdict::Bypass,
        Verdict::Bypass => Verdict::Tunnel,
    }
}

/// Walks the nested rules from the lowest address to the highest, noting where the verdict changes.
fn flips<'r>(rules: impl Iterator<Item = &'r Route>, default: Verdict) -> Vec<u128> {
    let mut starts = Vec::new();
    let mut around: Vec<(u128, Verdict)> = Vec::new(); // last address and verdict, the innermost rule last
    let leave = |around: &mut Vec<(u128, Verdict)>, starts: &mut Vec<(u128, Verdict)>, next: Option<u128>| {
        while let Some((last, _)) = around.pop_if(|(last, _)| next.is_none_or(|next| *last < next)) {
            let after = around.last().map_or(default, |&(_, verdict)| verdict);
            if let Some(next) = last.checked_add(1) {
                starts.push((next, after));
            }
        }
    };
    for route in rules {
        let (first, verdict) = (number(route.prefix.network()), route.action.verdict());
        leave(&mut around, &mut starts, Some(first));
        starts.push((first, verdict));
        around.push((last_number(route.prefix.last()), verdict));
    }
    leave(&mut around, &mut starts, None);
    boundaries(starts, default)
}

/// Keeps of several starts at one address the last, and of equal neighbours the first.
fn boundaries(mut starts: Vec<(u128, Verdict)>, default: Verdict) -> Vec<u128> {
    starts.dedup_by(|later, earlier| {
        let same = later.0 == earlier.0;
        if same {
            earlier.1 = later.1;
        }
        same
    });
    let mut verdict = default;
    starts.retain(|&(_, next)| std::mem::replace(&mut verdict, next) != next);
    starts.into_iter().map(|(at, _)| at).collect()
}

/// An address as a number; those of IPv4 stand in its upper 32 bits.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << V4_SHIFT,
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The last number that `address` stands for.
fn last_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(_) => number(address) | (u128::MAX >> (u128::BITS - V4_SHIFT)),
        IpAddr::V6(_) => number(address),
    }
}

const V4_SHIFT: u32 = u128::BITS - u32::BITS;

fn halves(number: u128) -> (u64, u64) {
    let upper = u64::try_from(number >> u64::BITS).expect("the upper half");
    let lower = u64::try_from(number & u128::from(u64::MAX)).expect("the lower half");
    (upper, lower)
}
