//! Pools, DNS servers and split-tunnel rules of a configuration, each alone and against each other.
//!
//! Limits: IPv4 pools /8 to /30, IPv6 pools /16 to /127, 8 DNS servers, [`DEFAULT_MAX_RULES`]
//! include and exclude rules together, counted after de-duplication and aggregation, per list.
//!
//! # Source
//! product.md a.3 rows 18 to 21 and b.1.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::json::{Node, Report};
use crate::prefix::Prefix;

/// Include and exclude rules together, product.md a.3 row 21; an operator may raise it.
pub const DEFAULT_MAX_RULES: usize = 500;

/// Rules of one list as written, before neighbours are merged: the lists are held against each other,
/// which takes as many steps as their product. Raised limits stay below it.
const MAX_WRITTEN_RULES: usize = 10_000;

/// Client systems keep few resolvers, and each is a header line; product.md b.1.
const MAX_DNS_SERVERS: usize = 8;

const POOL_V4_LENGTHS: RangeInclusive<u8> = 8..=30;
const POOL_V6_LENGTHS: RangeInclusive<u8> = 16..=127;

/// The literal that means "everything", as the agent's own file writes a full tunnel.
const DEFAULT_ROUTE: &str = "default";

#[derive(Clone, Copy)]
pub(super) enum Family {
    V4,
    V6,
}

/// Reads a pool of the given family.
pub(super) fn pool(node: &Node<'_>, family: Family, report: &mut Report<'_>) -> Option<Prefix> {
    let (lengths, name) = match family {
        Family::V4 => (POOL_V4_LENGTHS, "IPv4"),
        Family::V6 => (POOL_V6_LENGTHS, "IPv6"),
    };
    let want = format!("an {name} prefix from /{} to /{}", lengths.start(), lengths.end());
    let prefix = prefix(node, &want, report)?;
    if prefix.is_ipv4() != matches!(family, Family::V4) || !lengths.contains(&prefix.length()) {
        report.refuse(node, want);
        return None;
    }
    if !is_assignable(prefix) {
        report.refuse(node, format!("{want} of unicast addresses that a host may have"));
        return None;
    }
    Some(prefix)
}

/// Whether addresses of the prefix can be given to hosts at all.
fn is_assignable(pool: Prefix) -> bool {
    let reserved = ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/16", "fe80::/10", "ff00::/8"];
    !reserved.iter().filter_map(|text| text.parse().ok()).any(|other: Prefix| pool.overlaps(other))
}

/// Reads one list of addresses of DNS servers.
pub(super) fn dns_servers(node: &Node<'_>, report: &mut Report<'_>) -> Vec<IpAddr> {
    let want = "the address of a DNS server, IPv4 or IPv6";
    let mut servers = Vec::new();
    let items = node.items("a list of 0 to 8 addresses", report);
    if items.len() > MAX_DNS_SERVERS {
        let value = format!("{} servers", items.len());
        report.refuse_at(&node.pointer, &value, format!("at most {MAX_DNS_SERVERS} servers"));
        return servers;
    }
    for item in items {
        let Some(text) = item.text(want, report) else { continue };
        match text.parse::<IpAddr>() {
            Ok(address) if address.is_unspecified() || address.is_multicast() || address.is_loopback() => {
                report.refuse(&item, format!("{want}, that clients can reach"));
            }
            Ok(address) if servers.contains(&address) => report.warn(&item, "every server once"),
            Ok(address) => servers.push(address),
            Err(_) => report.refuse(&item, want),
        }
    }
    servers
}

/// Include rules of both property names; no prefix stands for the full tunnel.
pub(super) fn includes(nodes: &[Node<'_>], report: &mut Report<'_>) -> Vec<Prefix> {
    let mut rules = Vec::new();
    let mut everything = None;
    for node in nodes {
        for item in node.items("a list of prefixes", report) {
            if item.text("a prefix", report) == Some(DEFAULT_ROUTE) {
                everything.get_or_insert(item);
            } else {
                rules.extend(rule(&item, report));
            }
        }
    }
    if let Some(item) = everything {
        if !rules.is_empty() {
            report.warn(&item, "no other include beside it: everything goes through the tunnel already");
        }
        return Vec::new();
    }
    without_doubles(rules)
}

/// Exclude rules of both property names.
pub(super) fn excludes(nodes: &[Node<'_>], report: &mut Report<'_>) -> Vec<Prefix> {
    let mut rules = Vec::new();
    for node in nodes {
        for item in node.items("a list of prefixes", report) {
            rules.extend(rule(&item, report));
        }
    }
    without_doubles(rules)
}

fn rule(item: &Node<'_>, report: &mut Report<'_>) -> Option<Prefix> {
    let want = "a prefix (10.0.0.0/8, 10.0.0.0/255.0.0.0 or fd00::/8) or a single address";
    let prefix = prefix(item, want, report)?;
    if prefix.network().is_unspecified() {
        report.refuse(
            item,
            "a prefix that does not begin at 0.0.0.0 or ::; the full tunnel is an empty include list or \"default\"",
        );
        return None;
    }
    Some(prefix)
}

/// Reads a prefix in any spelling; host bits are cleared with a warning.
fn prefix(node: &Node<'_>, want: &str, report: &mut Report<'_>) -> Option<Prefix> {
    let text = node.text(want, report)?;
    match Prefix::parse_noting_host_bits(text) {
        Ok((prefix, false)) => Some(prefix),
        Ok((prefix, true)) => {
            report.warn(node, format!("no bits behind the length; it is read as {prefix}"));
            Some(prefix)
        }
        Err(error) => {
            report.refuse(node, format!("{want} ({error})"));
            None
        }
    }
}

/// Keeps the first of equal rules, in the order of the file.
fn without_doubles(rules: Vec<Prefix>) -> Vec<Prefix> {
    let mut seen = std::collections::BTreeSet::new();
    rules.into_iter().filter(|rule| seen.insert(*rule)).collect()
}

/// How many rules are left when neighbours and contained prefixes are merged.
pub(super) fn aggregated_len(rules: &[Prefix]) -> usize {
    let mut v4: Vec<Ipv4Net> = Vec::new();
    let mut v6: Vec<Ipv6Net> = Vec::new();
    for rule in rules {
        match rule.to_ipnet() {
            IpNet::V4(net) => v4.push(net),
            IpNet::V6(net) => v6.push(net),
        }
    }
    Ipv4Net::aggregate(&v4).len() + Ipv6Net::aggregate(&v6).len()
}

/// The networks of one configuration, to be held against each other.
pub(super) struct Networks<'c> {
    pub(super) pools: [Option<Prefix>; 2],
    pub(super) dns: &'c [IpAddr],
    pub(super) includes: &'c [Prefix],
    pub(super) excludes: &'c [Prefix],
    pub(super) max_rules: usize,
}

impl Networks<'_> {
    /// Refuses what cannot work together and warns of what probably should not be.
    ///
    /// An include that contains the pool is a warning: the longer pool route wins on the server, and
    /// a pool cut out of the internal range is common. An include equal to the pool, or a DNS server
    /// inside it, would send clients to each other.
    pub(super) fn check(&self, place: impl Fn(&str) -> String, report: &mut Report<'_>) {
        let (include, exclude) = (place("routeIncludes"), place("routeExcludes"));
        for (pointer, rules) in [(&include, self.includes), (&exclude, self.excludes)] {
            if rules.len() > MAX_WRITTEN_RULES {
                let value = format!("{} rules", rules.len());
                report.refuse_at(pointer, &value, format!("at most {MAX_WRITTEN_RULES}"));
                return;
            }
        }
        for pool in self.pools.into_iter().flatten() {
            let pool_place = place(if pool.is_ipv4() { "network" } else { "ipv6Network" });
            let shown = format!("\"{pool}\"");
            for address in self.dns.iter().filter(|address| pool.contains(**address)) {
                report.refuse_at(&pool_place, &shown, format!("a pool without the DNS server {address}"));
            }
            for rule in self.includes.iter().filter(|rule| rule.overlaps(pool)) {
                if *rule == pool {
                    report.refuse_at(&pool_place, &shown, "a pool that is not itself an include rule");
                } else {
                    let want = format!("a pool apart from internal networks; it overlaps the include {rule}");
                    report.warn_at(&pool_place, &shown, want);
                }
            }
        }
        for rule in self.excludes {
            if self.includes.contains(rule) {
                let want = "a prefix that is not also an include (the exclude wins)";
                report.warn_at(&exclude, &format!("\"{rule}\""), want);
            } else if !self.includes.is_empty() && !self.includes.iter().any(|other| other.overlaps(*rule)) {
                let want = "a part of some include; this exclude changes nothing";
                report.warn_at(&exclude, &format!("\"{rule}\""), want);
            }
        }
        let rules = aggregated_len(self.includes) + aggregated_len(self.excludes);
        if rules > self.max_rules {
            let value = format!("{rules} include and exclude rules after merging neighbours");
            report.refuse_at(&include, &value, format!("at most {}", self.max_rules));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn neighbours_and_contained_prefixes_count_once() {
        assert_eq!(aggregated_len(&prefixes(&["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16"])), 1);
        assert_eq!(aggregated_len(&prefixes(&["10.0.0.0/9", "fd00::/8"])), 2);
        assert_eq!(aggregated_len(&[]), 0);
    }

    #[test]
    fn only_unicast_space_becomes_a_pool() {
        for text in ["169.254.0.0/16", "10.0.0.0/8", "100.64.0.0/10", "fd00::/48", "2001:db8::/64"] {
            assert!(is_assignable(text.parse().unwrap()), "{text}");
        }
        for text in ["127.1.0.0/16", "224.0.0.0/8", "0.0.0.0/8", "::/64", "fe80::/64", "ff02::/16"] {
            assert!(!is_assignable(text.parse().unwrap()), "{text}");
        }
    }
}
