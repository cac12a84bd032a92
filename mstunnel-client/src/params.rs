//! What the server assigned to this client, ready to be asked.

use std::net::IpAddr;

use mstunnel_proto::connect::{ConnectParams, MAX_ROUTES, MAX_SPLIT_DNS};
use mstunnel_proto::mtu::Mtu;
use mstunnel_proto::routes::{RouteError, RouteSet, SplitDns, SplitDnsError, Verdict};
use mstunnel_proto::session::Leases;

/// The parameters of a tunnel, checked when they came in.
#[derive(Clone, Debug)]
pub struct TunnelParams {
    /// Everything the server said.
    pub said: ConnectParams,
    /// Which destinations go through the tunnel.
    pub routes: RouteSet,
    /// Which names are asked through the tunnel; empty for all.
    pub split_dns: SplitDns,
}

/// Why a server's parameters cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ParamsError {
    /// The routes.
    #[error("the server's routes: {0}")]
    Routes(#[from] RouteError),
    /// The split DNS domains.
    #[error("the server's split DNS domains: {0}")]
    SplitDns(#[from] SplitDnsError),
    /// Neither an IPv4 nor an IPv6 address.
    #[error("the server assigned no address")]
    NoAddress,
}

impl TunnelParams {
    /// Checks what the server said.
    ///
    /// # Errors
    /// [`ParamsError`], before anything is configured from it.
    pub fn new(said: ConnectParams) -> Result<Self, ParamsError> {
        if said.v4.is_none() && said.v6.is_none() {
            return Err(ParamsError::NoAddress);
        }
        // How many rules there may be is for the server to say, within what its answer can hold.
        let routes = RouteSet::new_with_limit(&said.include, &said.exclude, MAX_ROUTES)?;
        let split_dns = SplitDns::new_with_limit(&said.split_dns, MAX_SPLIT_DNS)?;
        Ok(Self { said, routes, split_dns })
    }

    /// The same with a smaller MTU, in bytes: what the path was found to carry.
    #[must_use]
    pub fn with_mtu(&self, mtu: u16) -> Self {
        let mut params = self.clone();
        params.said.mtu = Mtu::new(mtu);
        params
    }

    /// The addresses of the client.
    pub fn leases(&self) -> Leases {
        Leases { v4: self.said.v4.map(|v4| v4.address), v6: self.said.v6.map(|v6| v6.address) }
    }

    /// Whether the server wants `destination` inside the tunnel: by the routes, or as a name server that it told.
    pub fn claims(&self, destination: IpAddr) -> bool {
        self.said.dns.contains(&destination) || self.routes.evaluate(destination) == Verdict::Tunnel
    }

    /// Whether `destination` is reached through the tunnel: what the server claims, but for a family without an
    /// address.
    pub fn tunnels(&self, destination: IpAddr) -> bool {
        let has_family = match destination {
            IpAddr::V4(_) => self.said.v4.is_some(),
            IpAddr::V6(_) => self.said.v6.is_some(),
        };
        has_family && self.claims(destination)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use mstunnel_proto::connect::InsideAddress;

    use super::*;

    fn params(include: &[&str]) -> TunnelParams {
        let mut said = ConnectParams::new(Mtu::new(1400));
        said.v4 = Some(InsideAddress { address: Ipv4Addr::new(10, 9, 0, 5), prefix_length: 16 });
        said.include = include.iter().map(|prefix| prefix.parse().unwrap()).collect();
        said.dns = vec!["192.0.2.53".parse().unwrap()];
        TunnelParams::new(said).unwrap()
    }

    #[test]
    fn a_client_without_an_address_is_refused() {
        let said = ConnectParams::new(Mtu::new(1400));
        assert!(matches!(TunnelParams::new(said), Err(ParamsError::NoAddress)));
    }

    /// Our own server tells 500 rules, and the pool of a family that has none; another operator may have allowed more.
    #[test]
    fn as_many_rules_are_taken_as_a_server_may_tell() {
        let rules: Vec<String> = (0..600).map(|n| format!("10.{}.{}.0/24", n / 128, n % 128 * 2)).collect();
        let mut rules: Vec<&str> = rules.iter().map(String::as_str).collect();
        rules.push("fd00:9::/64");
        let params = params(&rules);
        assert!(params.tunnels("10.4.174.1".parse().unwrap()));
        assert!(!params.tunnels("10.4.175.1".parse().unwrap()));
    }

    #[test]
    fn name_servers_are_reached_through_the_tunnel_and_a_missing_family_is_not() {
        let split = params(&["10.20.0.0/16"]);
        assert!(split.tunnels("10.20.1.1".parse().unwrap()));
        assert!(split.tunnels("192.0.2.53".parse().unwrap()));
        assert!(!split.tunnels("192.0.2.54".parse().unwrap()));
        assert!(!params(&[]).tunnels("2001:db8::1".parse().unwrap()));
    }
}
