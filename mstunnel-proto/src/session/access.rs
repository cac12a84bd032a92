//! What a session may reach: enforced here for every egress, whatever routes the client was told.
//!
//! A destination is refused when it lies in a closed prefix (loopback, link-local with the cloud
//! metadata address, multicast, the pools of other clients) unless it is opened by name, and, where the
//! operator asked for it (`restrict-user-to-routes`), when no pushed route leads to it.
//!
//! # Source
//! R42, R43.

use std::net::IpAddr;
use std::sync::Arc;

use crate::prefix::Prefix;
use crate::routes::{RouteSet, Verdict};

/// Prefixes closed to every session: this host, link-local and what else is cloud metadata (of most clouds, of Alibaba, of
/// Amazon), multicast and reserved space.
const ALWAYS_CLOSED: &[&str] = &[
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",
    "::/127",
    "::ffff:0:0/96",
    "fe80::/10",
    "ff00::/8",
    "100.100.100.200/32",
    "fd00:ec2::254/128",
];

/// The destinations that sessions of one configuration may reach. Built once, shared by all.
#[derive(Clone, Debug)]
pub struct Access {
    closed: Vec<Prefix>,
    open: Vec<Prefix>,
    routes: Option<Arc<RouteSet>>,
}

impl Access {
    /// Closes the prefixes that are always closed and `pools`, and opens `open` within them.
    ///
    /// `open` holds the server's own inside addresses and what the operator listed. With `routes`,
    /// only destinations that evaluate to the tunnel are reached.
    pub fn new(pools: &[Prefix], open: &[Prefix], routes: Option<Arc<RouteSet>>) -> Self {
        let always = ALWAYS_CLOSED
            .iter()
            .map(|text| text.parse::<Prefix>().expect("the constant prefixes are well formed"));
        Self { closed: always.chain(pools.iter().copied()).collect(), open: open.to_vec(), routes }
    }

    /// Whether a packet to `destination` may pass. Never allocates.
    pub fn permits(&self, destination: IpAddr) -> bool {
        if self.open.iter().any(|prefix| prefix.contains(destination)) {
            return true;
        }
        if self.closed.iter().any(|prefix| prefix.contains(destination)) {
            return false;
        }
        self.routes.as_ref().is_none_or(|routes| routes.evaluate(destination) == Verdict::Tunnel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn prefixes(texts: &[&str]) -> Vec<Prefix> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Covers: R42, R43
    #[test]
    fn this_host_metadata_and_other_clients_are_closed() {
        let access = Access::new(&prefixes(&["10.9.0.0/16", "fd00:9::/64"]), &prefixes(&["10.9.0.1"]), None);
        for closed in [
            "127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.251",
            "255.255.255.255",
            "10.9.0.7",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "fd00:9::5",
            "100.100.100.200",
            "fd00:ec2::254",
        ] {
            assert!(!access.permits(ip(closed)), "{closed}");
        }
        for open in ["10.9.0.1", "10.20.0.53", "192.0.2.1", "fd00:20::1", "2001:db8::1"] {
            assert!(access.permits(ip(open)), "{open}");
        }
    }

    /// Covers: R43
    #[test]
    fn restricted_sessions_reach_only_what_is_routed_to_them() {
        let routes =
            Arc::new(RouteSet::new(&prefixes(&["10.0.0.0/8"]), &prefixes(&["10.99.0.0/16"])).unwrap());
        let access = Access::new(&[], &[], Some(routes));
        assert!(access.permits(ip("10.20.0.1")));
        assert!(!access.permits(ip("10.99.0.1")));
        assert!(!access.permits(ip("192.0.2.1")));
    }
}
