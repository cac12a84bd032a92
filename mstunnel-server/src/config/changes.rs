//! What a reload can take up, and what waits for a restart.
//!
//! | changed | taken up |
//! | --- | --- |
//! | certificate and key, TLS versions, client authorities | by new handshakes |
//! | sign-in, groups, banners, DNS, routes, timers, limits, the end of UDP, site, log level | by new logins and new sessions; live ones keep theirs |
//! | addresses and port, the begin of UDP, pools, MTU, egress (and DNS with the userspace one), state, control socket, metrics, log format | by a restart |

use std::net::IpAddr;

use super::{EgressMode, Settings};

impl Settings {
    /// The names of what differs in `new` and can only be taken up by a restart; empty if a reload
    /// takes up everything. `has_datagrams` says whether there are UDP sockets.
    pub fn restart_needed(&self, new: &Self, has_datagrams: bool) -> Vec<&'static str> {
        let (old_json, new_json) = (&self.configuration, &new.configuration);
        let changed = [
            ("listen.addresses", self.listen != new.listen),
            ("listenPort", old_json.listen_port != new_json.listen_port),
            ("disableUdpConnections", new_json.udp && !has_datagrams),
            ("dnsServers", self.keeps_dns() && old_json.dns != new_json.dns),
            ("network", old_json.pool_v4 != new_json.pool_v4),
            ("ipv6Network", old_json.pool_v6 != new_json.pool_v6),
            ("mtu", old_json.advanced.mtu != new_json.advanced.mtu),
            ("egress.mode", self.egress.mode != new.egress.mode),
            ("egress.interface", self.egress.interface != new.egress.interface),
            ("egress.offload", self.egress.offload != new.egress.offload),
            ("egress.allow", self.egress.allow != new.egress.allow),
            ("egress.publish", self.egress.publish != new.egress.publish),
            ("state", self.state != new.state),
            ("admin.socket", self.admin.socket != new.admin.socket),
            ("admin.metrics", self.admin.metrics != new.admin.metrics),
            ("log.format", self.log.format != new.log.format),
        ];
        changed.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect()
    }

    /// Takes from `running` what sockets, pools, buffers and the egress were made of: half of a change would offer
    /// clients a port on which nobody listens, or fences around a pool that nobody leases from. The next comparison
    /// finds the change again.
    pub(crate) fn keep_until_restart(&mut self, running: &Self, has_datagrams: bool) {
        let (new, old) = (&mut self.configuration, &running.configuration);
        new.listen_port = old.listen_port;
        new.udp &= has_datagrams;
        (new.pool_v4, new.pool_v6) = (old.pool_v4, old.pool_v6);
        new.advanced.mtu = old.advanced.mtu;
        if running.keeps_dns() {
            new.dns.clone_from(&old.dns);
        }
        self.listen.clone_from(&running.listen);
        self.egress.clone_from(&running.egress);
        self.state.clone_from(&running.state);
        self.admin.clone_from(&running.admin);
        self.log.format = running.log.format;
    }

    /// The userspace egress opens the name servers of its start.
    fn keeps_dns(&self) -> bool {
        self.egress.mode == EgressMode::Userspace
    }

    /// Pools that stay until a restart may hold name servers that are new.
    pub(crate) fn refuse_dns_in_a_pool(&self) -> Result<(), String> {
        let pools = || self.configuration.pool_v4.into_iter().chain(self.configuration.pool_v6);
        let inside =
            |server: &IpAddr| pools().find(|pool| pool.contains(*server)).map(|pool| (*server, pool));
        match self.configuration.dns.iter().find_map(inside) {
            None => Ok(()),
            Some((server, pool)) => Err(format!(
                "dnsServers: {server} lies in the network {pool}, which stays until a restart; want one outside, or a restart"
            )),
        }
    }
}
