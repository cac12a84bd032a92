//! One family's rules as sorted boundaries.
//!
//! Neighbouring boundaries always change the verdict, so the verdict of an address is the first one,
//! flipped as often as there are boundaries at or below the address: one binary search over plain
//! integers, and 4 bytes (IPv4) or 16 bytes (IPv6) a boundary. `n` rules make at most `2n` boundaries.

use std::net::IpAddr;

use super::{Coverage, Route, Verdict};

/// Flattened rules of one family; `T` is the address as an integer.
#[derive(Clone, Debug)]
pub(super) struct Table<T> {
    /// The verdict of the lowest address, when no boundary is there.
    first: Verdict,
    /// Ascending; at each of them the verdict flips.
    flips: Box<[T]>,
}

impl Table<u32> {
    /// Builds the table from IPv4 rules, sorted so that a prefix comes before those inside it.
    pub(super) fn v4<'r>(rules: impl Iterator<Item = &'r Route>, default: Verdict) -> Self {
        let flips = flips(rules, default, u32::MAX.into());
        let narrow = |flip| u32::try_from(flip).expect("a boundary of an IPv4 prefix is an IPv4 address");
        Self { first: default, flips: flips.into_iter().map(narrow).collect() }
    }
}

impl Table<u128> {
    /// Builds the table from IPv6 rules, sorted so that a prefix comes before those inside it.
    pub(super) fn v6<'r>(rules: impl Iterator<Item = &'r Route>, default: Verdict) -> Self {
        Self { first: default, flips: flips(rules, default, u128::MAX).into() }
    }
}

impl<T: Copy + Ord> Table<T> {
    /// The verdict of `address`.
    pub(super) fn evaluate(&self, address: T) -> Verdict {
        let flipped = self.flips.partition_point(|flip| *flip <= address);
        if flipped % 2 == 0 { self.first } else { opposite(self.first) }
    }
}

impl<T: Copy + Ord + From<u8>> Table<T> {
    /// How much of the family has the verdict [`Verdict::Tunnel`].
    pub(super) fn coverage(&self) -> Coverage {
        match (&*self.flips, self.evaluate(T::from(0))) {
            ([], Verdict::Tunnel) => Coverage::Everything,
            ([], Verdict::Bypass) => Coverage::Nothing,
            ([only], verdict) if *only == T::from(0) => match verdict {
                Verdict::Tunnel => Coverage::Everything,
                Verdict::Bypass => Coverage::Nothing,
            },
            _ => Coverage::Part,
        }
    }
}

fn opposite(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Tunnel => Verdict::Bypass,
        Verdict::Bypass => Verdict::Tunnel,
    }
}

/// Walks the nested rules from the lowest address to `highest`, noting where the verdict changes.
fn flips<'r>(rules: impl Iterator<Item = &'r Route>, default: Verdict, highest: u128) -> Vec<u128> {
    let mut starts = Vec::new();
    let mut around: Vec<(u128, Verdict)> = Vec::new(); // last address and verdict, the innermost rule last
    let leave = |around: &mut Vec<(u128, Verdict)>, starts: &mut Vec<(u128, Verdict)>, next: Option<u128>| {
        while let Some((last, _)) = around.pop_if(|(last, _)| next.is_none_or(|next| *last < next)) {
            let after = around.last().map_or(default, |&(_, verdict)| verdict);
            if last < highest {
                starts.push((last + 1, after));
            }
        }
    };
    for route in rules {
        let (first, verdict) = (number(route.prefix.network()), route.action.verdict());
        leave(&mut around, &mut starts, Some(first));
        starts.push((first, verdict));
        around.push((number(route.prefix.last()), verdict));
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

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}
