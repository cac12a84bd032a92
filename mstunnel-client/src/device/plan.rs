//! What a server's parameters mean for a kernel: decided here, done elsewhere.
//!
//! | the server said | full tunnel | split tunnel |
//! | --- | --- | --- |
//! | an address of the family | everything, without the excludes | the includes, without the excludes |
//! | no address of the family | nothing of it leaves (R53) | the includes of it are unreachable |
//! | no address, and "bypass" | the family is left alone | the family is left alone |
//!
//! Name servers go through the tunnel, each by a route of its own. What belongs to this host or its links
//! (loopback, link-local, multicast) is never routed because a server says so, and never a name server (R62).

use std::net::IpAddr;

use mstunnel_proto::packet::Family;
use mstunnel_proto::prefix::Prefix;
use mstunnel_proto::routes::Action;

use super::DeviceError;
use crate::params::TunnelParams;
use crate::resolve::{MAX_SEARCH, MAX_SERVERS, is_name};

/// RFC 8200 section 5: the least MTU of a link that carries IPv6.
const MIN_IPV6_MTU: u16 = 1_280;

/// RFC 791: the least that every link carries.
const MIN_MTU: u16 = 68;

/// What to tell a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The MTU of the device.
    pub mtu: u16,
    /// The addresses of the device, at most one of each family.
    pub addresses: Vec<IpAddr>,
    /// Where destinations go; the longest prefix wins, and what has no route is not the tunnel's affair.
    pub routes: Vec<PlannedRoute>,
    /// Whether all that is not excluded goes through the tunnel.
    pub is_full: bool,
    /// The name servers, the first one preferred.
    pub dns: Vec<IpAddr>,
    /// The domains that short names are looked for in.
    pub search: Vec<String>,
    /// The domains whose names are asked through the tunnel; empty for all.
    pub split_dns: Vec<String>,
    /// What the server said that is not done, one sentence each.
    pub notes: Vec<String>,
}

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlannedRoute {
    /// The destinations.
    pub prefix: Prefix,
    /// Where they go.
    pub way: Way,
}

/// Where packets to some destinations go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Through the tunnel.
    Tunnel,
    /// Beside it.
    Beside,
    /// Nowhere: they are unreachable.
    Nowhere,
}

impl Way {
    /// One word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tunnel => "tunnel",
            Self::Beside => "beside",
            Self::Nowhere => "unreachable",
        }
    }
}

impl Plan {
    /// Decides what `params` mean for a device that carries packets of up to `max_packet` bytes.
    ///
    /// # Errors
    /// [`DeviceError::Assigned`] for an address that is none of a tunnel.
    pub fn new(params: &TunnelParams, max_packet: usize) -> Result<Self, DeviceError> {
        let said = &params.said;
        let mtu = said.mtu.get().min(u16::try_from(max_packet).unwrap_or(u16::MAX));
        if mtu < MIN_MTU {
            return Err(DeviceError::Assigned { what: format!("an MTU of {mtu}") });
        }
        let mut notes = Vec::new();
        let leases = params.leases();
        let v6 = leases.v6.filter(|_| mtu >= MIN_IPV6_MTU);
        if v6 != leases.v6 {
            notes.push(format!(
                "IPv6 is not tunnelled: it needs an MTU of {MIN_IPV6_MTU}, the tunnel has {mtu}"
            ));
        }
        let addresses: Vec<IpAddr> =
            leases.v4.map(IpAddr::from).into_iter().chain(v6.map(IpAddr::from)).collect();
        if let Some(address) = addresses.iter().find(|address| is_of_this_host(Prefix::single(**address))) {
            return Err(DeviceError::Assigned { what: format!("the address {address}") });
        }
        let mut plan = Self {
            mtu,
            addresses,
            routes: Vec::new(),
            is_full: params.routes.is_full_tunnel(),
            dns: Vec::new(),
            search: search(said.default_domain.as_deref().unwrap_or_default()),
            split_dns: params
                .split_dns
                .domains()
                .filter(|domain| is_name(domain))
                .map(str::to_owned)
                .collect(),
            notes,
        };
        plan.route(params);
        plan.ask(params);
        plan.routes.sort_unstable();
        Ok(plan)
    }

    /// Whether the device has an address of the family of `address`.
    fn has_family(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.is_ipv4() == address.is_ipv4())
    }

    fn route(&mut self, params: &TunnelParams) {
        let is_left_alone =
            |plan: &Self, address: IpAddr| !plan.has_family(address) && params.said.client_bypass_protocol;
        let inside = |plan: &Self, address| if plan.has_family(address) { Way::Tunnel } else { Way::Nowhere };
        if self.is_full {
            for family in [Family::V4, Family::V6] {
                let everything = match family {
                    Family::V4 => Prefix::new(std::net::Ipv4Addr::UNSPECIFIED.into(), 0),
                    Family::V6 => Prefix::new(std::net::Ipv6Addr::UNSPECIFIED.into(), 0),
                };
                let prefix = everything.expect("a length of zero fits");
                if !is_left_alone(self, prefix.network()) {
                    let way = inside(self, prefix.network());
                    self.routes.push(PlannedRoute { prefix, way });
                }
            }
        }
        for route in params.routes.advertised() {
            let prefix = route.prefix;
            if is_left_alone(self, prefix.network()) {
                continue;
            }
            match route.action {
                Action::Include if is_of_this_host(prefix) => {
                    self.notes
                        .push(format!("the server's route {prefix} is not taken: it is this host's own"));
                }
                Action::Include => {
                    let way = inside(self, prefix.network());
                    self.routes.push(PlannedRoute { prefix, way });
                }
                Action::Exclude => self.routes.push(PlannedRoute { prefix, way: Way::Beside }),
            }
        }
    }

    fn ask(&mut self, params: &TunnelParams) {
        for server in &params.said.dns {
            let prefix = Prefix::single(*server);
            if is_of_this_host(prefix) || !self.has_family(*server) {
                self.notes
                    .push(format!("the server's name server {server} is not used: no tunnel leads to it"));
            } else if self.dns.len() < MAX_SERVERS && !self.dns.contains(server) {
                self.dns.push(*server);
                self.routes.retain(|route| route.prefix != prefix);
                self.routes.push(PlannedRoute { prefix, way: Way::Tunnel });
            }
        }
    }
}

/// What a server's default domain is as a list.
fn search(domains: &str) -> Vec<String> {
    let domains = domains.split([' ', ',']).filter(|domain| is_name(domain));
    domains.take(MAX_SEARCH).map(|domain| domain.trim_end_matches('.').to_owned()).collect()
}

/// Whether every address of `prefix` belongs to a host or a link: loopback, link-local, multicast, "this network".
fn is_of_this_host(prefix: Prefix) -> bool {
    const OWN: [&str; 8] = [
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/3", // multicast, reserved, broadcast
        "::/127",
        "::ffff:0.0.0.0/96",
        "fe80::/10",
        "ff00::/8",
    ];
    OWN.iter().any(|own| {
        let own: Prefix = own.parse().expect("a prefix of this file");
        own.contains(prefix.network()) && prefix.length() >= own.length()
    })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use mstunnel_proto::connect::{ConnectParams, InsideAddress};
    use mstunnel_proto::mtu::Mtu;
    use proptest::prelude::*;

    use super::*;

    fn plan(change: impl FnOnce(&mut ConnectParams)) -> Result<Plan, DeviceError> {
        let mut said = ConnectParams::new(Mtu::new(1400));
        said.v4 = Some(InsideAddress { address: Ipv4Addr::new(10, 77, 0, 5), prefix_length: 24 });
        change(&mut said);
        Plan::new(&TunnelParams::new(said).unwrap(), 2_048)
    }

    fn with_v6(said: &mut ConnectParams) {
        let address = Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 5);
        said.v6 = Some(InsideAddress { address, prefix_length: 64 });
    }

    fn prefixes(list: &[&str]) -> Vec<Prefix> {
        list.iter().map(|prefix| prefix.parse().unwrap()).collect()
    }

    fn texts(plan: &Plan) -> Vec<String> {
        plan.routes.iter().map(|route| format!("{} {:?}", route.prefix, route.way)).collect()
    }

    /// Covers: R53
    #[test]
    fn a_full_tunnel_lets_no_family_out_that_it_does_not_carry() {
        assert_eq!(texts(&plan(|_| ()).unwrap()), ["0.0.0.0/0 Tunnel", "::/0 Nowhere"]);
        assert_eq!(texts(&plan(with_v6).unwrap()), ["0.0.0.0/0 Tunnel", "::/0 Tunnel"]);
        assert_eq!(texts(&plan(|said| said.client_bypass_protocol = true).unwrap()), ["0.0.0.0/0 Tunnel"]);
        let small = plan(|said| {
            with_v6(said);
            said.mtu = Mtu::new(1_200);
        });
        assert_eq!(texts(&small.unwrap()), ["0.0.0.0/0 Tunnel", "::/0 Nowhere"]);
    }

    #[test]
    fn a_split_tunnel_takes_its_includes_and_its_name_servers() {
        let plan = plan(|said| {
            said.include = prefixes(&["10.20.0.0/16", "fd00:20::/64"]);
            said.exclude = prefixes(&["10.20.9.0/24"]);
            said.dns = vec!["192.0.2.53".parse().unwrap(), "10.20.9.53".parse().unwrap()];
        });
        let want = [
            "10.20.0.0/16 Tunnel",
            "10.20.9.0/24 Beside",
            "10.20.9.53/32 Tunnel",
            "192.0.2.53/32 Tunnel",
            "fd00:20::/64 Nowhere",
        ];
        assert_eq!(texts(&plan.unwrap()), want);
    }

    /// Covers: R62
    #[test]
    fn what_belongs_to_the_host_is_not_the_servers_to_route_or_ask() {
        let plan = plan(|said| {
            with_v6(said);
            said.include =
                prefixes(&["127.0.0.0/8", "169.254.169.254/32", "224.0.0.0/4", "fe80::/64", "10.20.0.0/16"]);
            said.dns = ["127.0.0.53", "::1", "fe80::1", "224.0.0.251", "10.20.0.53"]
                .map(|a| a.parse().unwrap())
                .into();
        })
        .unwrap();
        assert_eq!(texts(&plan), ["10.20.0.0/16 Tunnel", "10.20.0.53/32 Tunnel"]);
        assert_eq!(plan.dns, ["10.20.0.53".parse::<IpAddr>().unwrap()]);
        assert_eq!(plan.notes.len(), 8, "{:?}", plan.notes);
    }

    /// Covers: R62, P-091
    #[test]
    fn an_address_of_the_host_is_refused_and_odd_domains_are_dropped() {
        let loopback = plan(|said| {
            said.v4 = Some(InsideAddress { address: Ipv4Addr::LOCALHOST, prefix_length: 8 });
        });
        assert!(matches!(loopback, Err(DeviceError::Assigned { .. })));
        let plan =
            plan(|said| said.default_domain = Some("corp.example a;b $(id) x\ny lab.example.".to_owned()));
        assert_eq!(plan.unwrap().search, ["corp.example", "lab.example"]);
    }

    /// Covers: R63, P-013
    #[test]
    fn a_growing_mtu_stays_within_the_buffers() {
        assert_eq!(plan(|said| said.mtu = Mtu::new(9_000)).unwrap().mtu, 2_048);
    }

    proptest! {
        #[test]
        fn the_plan_routes_what_the_parameters_tunnel(
            include in proptest::collection::vec((1_u8..224, 1_u8..=32), 0..6),
            exclude in proptest::collection::vec((1_u8..224, 9_u8..=32), 0..6),
            to in (1_u8..224, any::<u8>()),
        ) {
            let list = |list: &[(u8, u8)]| -> Vec<Prefix> {
                list.iter().map(|(byte, length)| Prefix::new([*byte, 1, 2, 3].into(), *length).unwrap()).collect()
            };
            let mut said = ConnectParams::new(Mtu::new(1400));
            said.v4 = Some(InsideAddress { address: Ipv4Addr::new(10, 77, 0, 5), prefix_length: 24 });
            (said.include, said.exclude) = (list(&include), list(&exclude));
            let Ok(params) = TunnelParams::new(said) else { return Ok(()) };
            let plan = Plan::new(&params, 2_048).unwrap();
            let to: IpAddr = [to.0, 1, 2, to.1].into();
            prop_assume!(!is_of_this_host(Prefix::single(to)));
            let best = plan.routes.iter().filter(|route| route.prefix.contains(to)).max_by_key(|r| r.prefix.length());
            prop_assert_eq!(best.is_some_and(|route| route.way == Way::Tunnel), params.tunnels(to));
        }
    }
}
