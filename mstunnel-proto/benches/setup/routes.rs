//! Rules and destinations.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mstunnel_proto::prefix::Prefix;
use mstunnel_proto::routes::RouteSet;

/// A seeded sequence, the same in every run (xorshift).
pub(crate) fn numbers() -> impl Iterator<Item = u64> {
    std::iter::successors(Some(0x9E37_79B9_7F4A_7C15_u64), |last| {
        let mut next = last ^ (last << 13);
        next ^= next >> 7;
        Some(next ^ (next << 17))
    })
}

pub(crate) fn address(bits: u64, is_v4: bool) -> IpAddr {
    if is_v4 {
        Ipv4Addr::from_bits(u32::try_from(bits >> 32).unwrap_or_default()).into()
    } else {
        Ipv6Addr::from_bits((0x2000_u128 << 112) | (u128::from(bits) << 60)).into()
    }
}

/// 500 rules that aggregation leaves alone, three fifths of them includes.
pub(crate) fn rules(is_v4: bool) -> RouteSet {
    let length = |bits: u64| u8::try_from(bits % 25).unwrap_or_default() + if is_v4 { 8 } else { 24 };
    let mut prefixes = numbers().filter_map(|bits| Prefix::new(address(bits, is_v4), length(bits >> 8)).ok());
    let mut include: Vec<_> = prefixes.by_ref().take(280).collect();
    let mut exclude: Vec<_> = prefixes.by_ref().take(180).collect();
    loop {
        let routes = RouteSet::new_with_limit(&include, &exclude, 1_000).expect("below the limit");
        match routes.advertised().count() {
            500.. => return routes,
            _ if include.len() * 2 < exclude.len() * 3 => include.extend(prefixes.next()),
            _ => exclude.extend(prefixes.next()),
        }
    }
}

/// So many that a branch predictor cannot know the way to each by heart, as it knew the ways to 4,096.
const DESTINATIONS: usize = 1 << 17;

/// Destinations that are no rule's.
pub(crate) fn destinations(is_v4: bool) -> Vec<IpAddr> {
    numbers().skip(10_000).take(DESTINATIONS).map(|bits| address(bits, is_v4)).collect()
}
