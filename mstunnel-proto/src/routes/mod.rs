//! Split tunnel evaluation: which destinations go through the tunnel, and what the client is told.
//!
//! ```text
//! include 10.0.0.0/8, exclude 10.5.0.0/16
//!
//!          0.0.0.0        10.0.0.0      10.5.0.0       10.6.0.0      11.0.0.0
//! v4:      | Bypass       | Tunnel      | Bypass       | Tunnel      | Bypass ...
//!          first          flip          flip           flip          flip
//! ```
//!
//! A [`RouteSet`] is built once from the include and exclude lists. It aggregates them without changing
//! what any address gets (`aggregate.rs`), counts what is left against the rule limit, and flattens both
//! families into sorted boundaries at which the verdict flips (`table.rs`).
//!
//! # Limits
//! At most [`MAX_RULES`] rules of both lists together, counted after aggregation (product.md a.3 row 21).
//! No rule may cover a whole family: an empty include list means everything.
//!
//! # One family only (R53)
//! A client that has an address of a family and is told no include of that family sends *all* of the
//! family into the tunnel. A server therefore leases an address of a family only when
//! [`RouteSet::coverage`] of it is not [`Coverage::Nothing`], and otherwise tells the client with
//! `X-CSTP-Client-Bypass-Protocol` what to do with it.

mod aggregate;
mod boundaries;
mod split_dns;
mod table;

use std::net::IpAddr;

use crate::packet::Family;
use crate::prefix::Prefix;

pub use split_dns::{MAX_DOMAINS, SplitDns, SplitDnsError};
use table::Table;

/// The most rules, include and exclude together, after aggregation.
///
/// # Source
/// The documented limit of the product: product.md a.3 row 21.
pub const MAX_RULES: usize = 500;

/// Where a packet to some destination belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Through the tunnel.
    Tunnel,
    /// Beside the tunnel; a server drops it.
    Bypass,
}

/// The list that a rule is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A split include: through the tunnel.
    Include,
    /// A split exclude: beside the tunnel.
    Exclude,
}

impl Action {
    fn verdict(self) -> Verdict {
        match self {
            Self::Include => Verdict::Tunnel,
            Self::Exclude => Verdict::Bypass,
        }
    }
}

/// One rule as the client is told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The destinations.
    pub prefix: Prefix,
    /// What happens to them.
    pub action: Action,
}

/// How much of a family goes through the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Coverage {
    /// Every address.
    Everything,
    /// Some addresses.
    Part,
    /// No address: the client must not be given one of this family.
    Nothing,
}

/// The split tunnel rules of a server: immutable, built once, asked for every packet.
#[derive(Clone, Debug)]
pub struct RouteSet {
    rules: Box<[Route]>,
    full_tunnel: bool,
    v4: Table,
    v6: Table,
}

impl RouteSet {
    /// Builds the rules with the limit of [`MAX_RULES`].
    ///
    /// # Errors
    /// As [`RouteSet::new_with_limit`].
    pub fn new(include: &[Prefix], exclude: &[Prefix]) -> Result<Self, RouteError> {
        Self::new_with_limit(include, exclude, MAX_RULES)
    }

    /// Builds the rules; an empty `include` is a full tunnel.
    ///
    /// # Errors
    /// [`RouteError`]: a rule for a whole family, more rules than `limit` after aggregation, or lists that
    /// leave nothing to tunnel (whose empty include list a client would read as a full tunnel).
    pub fn new_with_limit(include: &[Prefix], exclude: &[Prefix], limit: usize) -> Result<Self, RouteError> {
        let whole = |list: &[Prefix]| list.iter().copied().find(|prefix| prefix.length() == 0);
        if let Some(prefix) = whole(include) {
            return Err(RouteError::WholeFamily { prefix, list: Action::Include });
        }
        if let Some(prefix) = whole(exclude) {
            return Err(RouteError::WholeFamily { prefix, list: Action::Exclude });
        }
        let full_tunnel = include.is_empty();
        let default = if full_tunnel { Action::Include } else { Action::Exclude };
        let rules = aggregate::aggregate(include, exclude, default);
        let includes = rules.iter().filter(|rule| rule.action == Action::Include).count();
        if rules.len() > limit {
            return Err(RouteError::TooMany {
                includes,
                excludes: rules.len() - includes,
                given: include.len() + exclude.len(),
                limit,
            });
        }
        let of = |family| rules.iter().filter(move |rule| Family::of(rule.prefix.network()) == family);
        let set = Self {
            v4: Table::new(of(Family::V4), default.verdict()),
            v6: Table::new(of(Family::V6), default.verdict()),
            rules: rules.into_boxed_slice(),
            full_tunnel,
        };
        if [Family::V4, Family::V6].iter().all(|family| set.coverage(*family) == Coverage::Nothing) {
            return Err(RouteError::NothingTunnelled);
        }
        Ok(set)
    }

    /// Decides whether `destination` goes through the tunnel.
    ///
    /// The longest matching prefix wins; on a tie an exclude beats an include. With no match the answer is
    /// [`Verdict::Tunnel`] for a full tunnel and [`Verdict::Bypass`] otherwise. O(log n) in the number of
    /// rules; never allocates.
    ///
    /// # Source
    /// Longest-match forwarding, RFC 1812 section 5.2.4.3; the tie rule is ours.
    pub fn evaluate(&self, destination: IpAddr) -> Verdict {
        match destination {
            IpAddr::V4(_) => self.v4.evaluate(destination),
            IpAddr::V6(_) => self.v6.evaluate(destination),
        }
    }

    /// The rules as the client is told them: aggregated, each prefix once, sorted, both families.
    ///
    /// A full tunnel has no includes here, which a client reads as "everything".
    pub fn advertised(&self) -> impl Iterator<Item = Route> + '_ {
        self.rules.iter().copied()
    }

    /// Whether everything that is not excluded goes through the tunnel.
    pub fn is_full_tunnel(&self) -> bool {
        self.full_tunnel
    }

    /// How much of `family` goes through the tunnel; see the module on families without a route (R53).
    pub fn coverage(&self, family: Family) -> Coverage {
        match family {
            Family::V4 => self.v4.coverage(),
            Family::V6 => self.v6.coverage(),
        }
    }
}

/// Why the lists are not rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// A rule of length 0.
    #[error("{prefix} covers a whole family; an empty include list is what means everything")]
    WholeFamily {
        /// The rule.
        prefix: Prefix,
        /// The list it is on.
        list: Action,
    },
    /// More rules than the limit.
    #[error(
        "{includes} include and {excludes} exclude rules after aggregation ({given} given), limit {limit} together"
    )]
    TooMany {
        /// Include rules after aggregation.
        includes: usize,
        /// Exclude rules after aggregation.
        excludes: usize,
        /// Rules of both lists as they were given.
        given: usize,
        /// The most rules of both lists together.
        limit: usize,
    },
    /// The exclude list cancels the whole include list.
    #[error("the exclude list leaves nothing to tunnel")]
    NothingTunnelled,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn routes(include: &[&str], exclude: &[&str]) -> RouteSet {
        RouteSet::new(&prefixes(include), &prefixes(exclude)).unwrap()
    }

    fn to(set: &RouteSet, address: &str) -> Verdict {
        set.evaluate(address.parse().unwrap())
    }

    #[test]
    fn the_longest_prefix_wins() {
        let set = routes(&["10.0.0.0/8", "10.5.7.0/24"], &["10.5.0.0/16"]);
        assert_eq!(to(&set, "10.4.255.255"), Verdict::Tunnel);
        assert_eq!(to(&set, "10.5.0.0"), Verdict::Bypass);
        assert_eq!(to(&set, "10.5.7.1"), Verdict::Tunnel);
        assert_eq!(to(&set, "10.5.8.0"), Verdict::Bypass);
        assert_eq!(to(&set, "10.255.255.255"), Verdict::Tunnel);
        assert_eq!(to(&set, "11.0.0.0"), Verdict::Bypass);
        assert_eq!(to(&set, "9.255.255.255"), Verdict::Bypass);
    }

    #[test]
    fn on_a_tie_the_exclude_wins() {
        let set = routes(&["10.0.0.0/8", "10.5.0.0/16"], &["10.5.0.0/16"]);
        assert_eq!(to(&set, "10.5.0.1"), Verdict::Bypass);
        assert_eq!(to(&set, "10.6.0.1"), Verdict::Tunnel);
    }

    /// Covers: R53
    #[test]
    fn an_empty_include_list_tunnels_both_families() {
        let set = routes(&[], &["192.168.0.0/16"]);
        assert!(set.is_full_tunnel());
        assert_eq!(to(&set, "8.8.8.8"), Verdict::Tunnel);
        assert_eq!(to(&set, "2001:db8::1"), Verdict::Tunnel);
        assert_eq!(to(&set, "192.168.1.1"), Verdict::Bypass);
        assert_eq!(set.coverage(Family::V4), Coverage::Part);
        assert_eq!(set.coverage(Family::V6), Coverage::Everything);
        let told: Vec<_> = set.advertised().collect();
        assert_eq!(
            told,
            [Route { prefix: "192.168.0.0/16".parse().unwrap(), action: Action::Exclude }],
            "no include is told, which a client reads as everything"
        );
    }

    /// Covers: R53, P-079
    #[test]
    fn a_family_without_an_include_is_said_to_have_no_route() {
        let set = routes(&["10.0.0.0/8"], &[]);
        assert_eq!(set.coverage(Family::V6), Coverage::Nothing);
        assert_eq!(to(&set, "2001:db8::1"), Verdict::Bypass);
        let set = routes(&["10.0.0.0/8", "fd00::/8"], &["fd00::/9", "fd80::/9"]);
        assert_eq!(set.coverage(Family::V6), Coverage::Nothing);
        let set = routes(&["0.0.0.0/1", "128.0.0.0/1"], &[]);
        assert_eq!(set.coverage(Family::V4), Coverage::Everything);
        assert_eq!(set.advertised().count(), 2, "no rule for a whole family is made up");
    }

    #[test]
    fn lists_that_cancel_out_are_refused_and_not_taken_for_a_full_tunnel() {
        for exclude in [&["10.0.0.0/8"][..], &["10.0.0.0/9", "10.128.0.0/9"], &["8.0.0.0/5"]] {
            let exclude = prefixes(exclude);
            let include = prefixes(&["10.0.0.0/8"]);
            let expect_open = exclude[0].length() < 8;
            let result = RouteSet::new(&include, &exclude);
            if expect_open {
                assert_eq!(result.unwrap().evaluate("10.0.0.1".parse().unwrap()), Verdict::Tunnel);
            } else {
                assert_eq!(result.unwrap_err(), RouteError::NothingTunnelled);
            }
        }
    }

    #[test]
    fn a_rule_for_a_whole_family_is_refused_in_either_list() {
        let whole = prefixes(&["0.0.0.0/0", "::/0"]);
        for prefix in whole {
            let refused = |list| Err(RouteError::WholeFamily { prefix, list });
            assert_eq!(RouteSet::new(&[prefix], &[]).map(drop), refused(Action::Include));
            assert_eq!(RouteSet::new(&[], &[prefix]).map(drop), refused(Action::Exclude));
        }
    }

    fn every_second(count: u32, first_octet: u32) -> Vec<Prefix> {
        (0..count)
            .map(|n| std::net::Ipv4Addr::from_bits((first_octet << 24) | (n << 9)))
            .map(|address| Prefix::new(address.into(), 24).unwrap())
            .collect()
    }

    #[test]
    fn three_hundred_includes_leave_two_hundred_excludes() {
        let inside = |exclude: u32| {
            let mut include = every_second(299, 20);
            include.push("10.0.0.0/8".parse().unwrap());
            RouteSet::new(&include, &every_second(exclude, 10))
        };
        assert!(inside(200).is_ok());
        let error = inside(201).unwrap_err();
        assert_eq!(error, RouteError::TooMany { includes: 300, excludes: 201, given: 501, limit: 500 });
        assert_eq!(
            error.to_string(),
            "300 include and 201 exclude rules after aggregation (501 given), limit 500 together"
        );
    }

    #[test]
    fn the_limit_counts_what_is_left_after_aggregation() {
        let neighbours: Vec<_> = (0..4_096_u32)
            .map(|n| std::net::Ipv4Addr::from_bits((10 << 24) | (n << 8)))
            .map(|address| Prefix::new(address.into(), 24).unwrap())
            .collect();
        let set = RouteSet::new(&neighbours, &[]).unwrap();
        assert_eq!(
            set.advertised().map(|route| route.prefix).collect::<Vec<_>>(),
            prefixes(&["10.0.0.0/12"])
        );
        assert!(RouteSet::new_with_limit(&every_second(600, 10), &[], 600).is_ok());
        assert!(RouteSet::new_with_limit(&every_second(601, 10), &[], 600).is_err());
    }

    /// Prefixes in a small corner of both families, so that they nest, touch and tie.
    fn some_prefixes() -> impl Strategy<Value = Vec<Prefix>> {
        let v4 = (0_u32..32, 25_u8..=32).prop_map(|(low, length)| {
            Prefix::new(std::net::Ipv4Addr::from_bits(0xFFFF_FFE0 | low).into(), length).unwrap()
        });
        let wide_v4 = (any::<u32>(), 1_u8..=32).prop_map(|(bits, length)| {
            Prefix::new(std::net::Ipv4Addr::from_bits(bits).into(), length).unwrap()
        });
        let v6 = (0_u128..16, 122_u8..=128).prop_map(|(low, length)| {
            Prefix::new(std::net::Ipv6Addr::from_bits(low).into(), length).unwrap()
        });
        proptest::collection::vec(prop_oneof![4 => v4, 1 => wide_v4, 3 => v6], 0..24)
    }

    fn some_address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            3 => (0_u32..32).prop_map(|low| IpAddr::from(std::net::Ipv4Addr::from_bits(0xFFFF_FFE0 | low))),
            1 => any::<u32>().prop_map(|bits| IpAddr::from(std::net::Ipv4Addr::from_bits(bits))),
            3 => (0_u128..64).prop_map(|low| IpAddr::from(std::net::Ipv6Addr::from_bits(low))),
        ]
    }

    fn longest(list: &[Prefix], to: IpAddr) -> Option<u8> {
        list.iter().filter(|prefix| prefix.contains(to)).map(|prefix| prefix.length()).max()
    }

    proptest! {
        #[test]
        fn longest_prefix_wins_and_a_tie_bypasses(
            include in some_prefixes(),
            exclude in some_prefixes(),
            to in proptest::collection::vec(some_address(), 32),
        ) {
            let Ok(routes) = RouteSet::new(&include, &exclude) else { return Ok(()) };
            for to in to {
                let include_length = if include.is_empty() { Some(0) } else { longest(&include, to) };
                let tunnelled = include_length > longest(&exclude, to);      // None < Some
                prop_assert_eq!(routes.evaluate(to) == Verdict::Tunnel, tunnelled, "{}", to);
            }
        }

        /// A client that applies what it is told by longest match comes to the server's verdict.
        #[test]
        fn what_is_advertised_means_the_same_and_is_never_longer(
            include in some_prefixes(),
            exclude in some_prefixes(),
            to in proptest::collection::vec(some_address(), 32),
        ) {
            let Ok(routes) = RouteSet::new(&include, &exclude) else { return Ok(()) };
            let told = |action| routes.advertised().filter(|route| route.action == action).map(|route| route.prefix)
                .collect::<Vec<_>>();
            let (told_include, told_exclude) = (told(Action::Include), told(Action::Exclude));
            prop_assert!(told_include.len() + told_exclude.len() <= include.len() + exclude.len());
            prop_assert_eq!(told_include.is_empty(), routes.is_full_tunnel());
            prop_assert!(!told_include.iter().any(|prefix| told_exclude.contains(prefix)));
            for to in to {
                let include_length = if told_include.is_empty() { Some(0) } else { longest(&told_include, to) };
                let tunnelled = include_length > longest(&told_exclude, to);
                prop_assert_eq!(routes.evaluate(to) == Verdict::Tunnel, tunnelled, "{}", to);
            }
        }
    }
}
