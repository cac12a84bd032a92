//! Where packets of clients may go from here, and what stands for an address that exists inside only (R43).

use std::net::{IpAddr, SocketAddr};

use mstunnel_proto::prefix::Prefix;
use mstunnel_proto::session::Access;

use super::super::listed::{Allowed, DNS_PORTS, Published};

/// What is closed, what is opened and what is published.
#[derive(Debug)]
pub(super) struct Fence {
    closed: Access,
    allow: Vec<Allowed>,
    publish: Vec<Published>,
    /// The server's own inside addresses.
    own: Vec<IpAddr>,
}

/// The way of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To this destination; the port is 0 for protocols without one.
    Out(SocketAddr),
    /// The address is one of ours inside the tunnel, and nothing but echo answers there.
    Here,
    /// Nowhere.
    Closed,
}

impl Fence {
    /// Closes `pools` and what is special, and opens what is listed and the DNS servers that clients are told.
    pub(super) fn new(
        pools: &[Prefix],
        dns: &[IpAddr],
        own: Vec<IpAddr>,
        allow: &[Allowed],
        publish: &[Published],
    ) -> Self {
        let dns = dns.iter().flat_map(|&server| {
            DNS_PORTS.map(|port| Allowed { prefix: Prefix::single(server), port: Some(port) })
        });
        Self {
            closed: Access::new(pools, &[], None),
            allow: allow.iter().copied().chain(dns).collect(),
            publish: publish.to_vec(),
            own,
        }
    }

    /// Decides about a new flow; `is_this_host` tells whether an address is one of this host's interfaces.
    ///
    /// All of this host is closed: what comes from the host to itself passes its packet filter, and its
    /// services trust it.
    pub(super) fn way(
        &self,
        to: IpAddr,
        port: Option<u16>,
        is_this_host: impl FnOnce(IpAddr) -> bool,
    ) -> Way {
        let mut published = self.publish.iter().filter(|service| service.inside.ip() == to).peekable();
        if published.peek().is_some() {
            return match published.find(|service| Some(service.inside.port()) == port) {
                Some(service) => Way::Out(service.host),
                None => Way::Here,
            };
        }
        if self.own.contains(&to) {
            return Way::Here;
        }
        let is_open = self.allow.iter().any(|allowed| allowed.covers(to, port))
            || (self.closed.permits(to) && !is_this_host(to));
        if is_open { Way::Out(SocketAddr::new(to, port.unwrap_or(0))) } else { Way::Closed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn fence(allow: &[&str], publish: &[(&str, &str)]) -> Fence {
        let pools: Vec<Prefix> =
            ["10.9.0.0/16", "fd00:9::/64"].iter().map(|text| text.parse().unwrap()).collect();
        let allow: Vec<Allowed> = allow.iter().map(|text| text.parse().unwrap()).collect();
        let publish: Vec<Published> = publish
            .iter()
            .map(|(inside, host)| Published { inside: inside.parse().unwrap(), host: host.parse().unwrap() })
            .collect();
        let own = vec![ip("10.9.0.1"), ip("fd00:9::1")];
        Fence::new(&pools, &[ip("192.0.2.1"), ip("127.0.0.53")], own, &allow, &publish)
    }

    /// 192.0.2.1 and ::1 are this host's.
    fn way(fence: &Fence, to: &str, port: u16) -> Way {
        fence.way(ip(to), Some(port), |address| address == ip("192.0.2.1"))
    }

    /// Covers: R42, R43
    #[test]
    fn special_destinations_this_host_and_other_clients_are_closed() {
        let fence = fence(&[], &[]);
        for closed in [
            "127.0.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "100.100.100.200",
            "224.0.0.1",
            "255.255.255.255",
            "10.9.0.7",
            "192.0.2.1",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "fd00:ec2::254",
            "fd00:9::7",
        ] {
            assert_eq!(way(&fence, closed, 443), Way::Closed, "{closed}");
            assert_eq!(
                fence.way(ip(closed), None, |address| address == ip("192.0.2.1")),
                Way::Closed,
                "{closed}"
            );
        }
        for open in ["10.20.0.2", "192.0.2.2", "fd00:20::2", "2001:db8::1"] {
            assert_eq!(way(&fence, open, 443), Way::Out(SocketAddr::new(ip(open), 443)), "{open}");
        }
    }

    /// Covers: R43
    #[test]
    fn what_is_listed_is_open_and_only_at_its_port() {
        let fence = fence(&["127.0.0.1:8080", "169.254.169.254", "192.0.2.1:22"], &[]);
        assert_eq!(way(&fence, "127.0.0.1", 8080), Way::Out("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(way(&fence, "127.0.0.1", 8081), Way::Closed);
        assert_eq!(fence.way(ip("127.0.0.1"), None, |_| false), Way::Closed);
        assert_eq!(way(&fence, "169.254.169.254", 80), Way::Out("169.254.169.254:80".parse().unwrap()));
        assert_eq!(way(&fence, "192.0.2.1", 22), Way::Out("192.0.2.1:22".parse().unwrap()));
        assert_eq!(way(&fence, "192.0.2.1", 443), Way::Closed);
    }

    #[test]
    fn a_name_server_on_this_host_is_open_for_names_alone() {
        let fence = fence(&[], &[]);
        assert_eq!(way(&fence, "192.0.2.1", 53), Way::Out("192.0.2.1:53".parse().unwrap()));
        assert_eq!(way(&fence, "127.0.0.53", 53), Way::Out("127.0.0.53:53".parse().unwrap()));
        assert_eq!(way(&fence, "192.0.2.1", 80), Way::Closed);
    }

    #[test]
    fn a_published_service_is_reached_at_its_inside_address_alone() {
        let fence =
            fence(&[], &[("198.18.0.80:80", "127.0.0.1:34567"), ("198.18.0.80:443", "127.0.0.1:4433")]);
        assert_eq!(way(&fence, "198.18.0.80", 80), Way::Out("127.0.0.1:34567".parse().unwrap()));
        assert_eq!(way(&fence, "198.18.0.80", 443), Way::Out("127.0.0.1:4433".parse().unwrap()));
        assert_eq!(way(&fence, "198.18.0.80", 81), Way::Here);
        assert_eq!(fence.way(ip("198.18.0.80"), None, |_| false), Way::Here);
        assert_eq!(way(&fence, "127.0.0.1", 34567), Way::Closed);
    }

    #[test]
    fn the_servers_inside_address_is_here() {
        assert_eq!(way(&fence(&[], &[]), "10.9.0.1", 443), Way::Here);
    }
}
