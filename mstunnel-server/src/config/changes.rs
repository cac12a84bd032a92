//! What a reload can take up, and what waits for a restart.
//!
//! | changed | taken up |
//! | --- | --- |
//! | certificate and key | by new handshakes |
//! | sign-in, groups, banners, DNS, routes, timers, limits, the end of UDP, site, log level | by new logins and new sessions; live ones keep theirs |
//! | addresses and port, the begin of UDP, pools, egress, state, control socket, metrics, TLS versions, client authorities, log format | by a restart |

use super::Settings;

impl Settings {
    /// The names of what differs in `new` and can only be taken up by a restart; empty if a reload
    /// takes up everything.
    pub fn restart_needed(&self, new: &Self) -> Vec<&'static str> {
        let (old_json, new_json) = (&self.configuration, &new.configuration);
        let changed = [
            ("listen.addresses", self.listen != new.listen),
            ("listenPort", old_json.listen_port != new_json.listen_port),
            ("disableUdpConnections", !old_json.udp && new_json.udp),
            ("network", old_json.pool_v4 != new_json.pool_v4),
            ("ipv6Network", old_json.pool_v6 != new_json.pool_v6),
            ("tls.minimum_version", self.tls.minimum != new.tls.minimum),
            ("tls.maximum_version", self.tls.maximum != new.tls.maximum),
            ("auth.certificate.ca", self.tls.client_ca != new.tls.client_ca),
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
}
