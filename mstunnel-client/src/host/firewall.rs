//! The packet rules: one nftables table, made and removed as a whole by the program `nft`.
//!
//! The routes decide where packets go; the rules are for what goes around routes:
//!
//! - a packet for our address that comes by another interface is dropped (R49);
//! - a packet to a tunnelled destination that leaves by another interface is dropped: IPv4 takes a socket that is
//!   bound to an interface (SO_BINDTODEVICE, which needs no rights) for on link whatever the routes say, and the
//!   broadcast address of a local network wins over every route of ours (R64);
//! - the mark of our own connections is put on their answers, for a strict `rp_filter`.
//!
//! What keeps an interface alive may leave: finding neighbours and routers, and DHCP, from its privileged port.
//!
//! Everything in the text is a number, an address or a checked interface name.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::process::{Command, Stdio};

use crate::device::{Plan, Way};

/// Where the program is, in the order of the search. Users often run without the last two in `PATH`.
const PROGRAMS: [&str; 3] = ["nft", "/usr/sbin/nft", "/sbin/nft"];

/// How much of the program's complaint is kept.
const MAX_REASON_CHARS: usize = 300;

/// Why the packet rules cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// The program is not installed.
    #[error(
        "the program nft is missing, which closes the tunnel's address to the local network: install nftables"
    )]
    Missing,
    /// It says no.
    #[error("nft could not {what}: {reason}")]
    Refused {
        /// What was attempted.
        what: &'static str,
        /// Its own words, on one line and cut.
        reason: String,
    },
    /// It could not be run.
    #[error("cannot run nft: {0}")]
    Run(#[from] io::Error),
}

/// The rules for one plan.
#[derive(Debug)]
pub(super) struct Firewall<'a> {
    pub(super) interface: &'a str,
    pub(super) mark: u32,
    pub(super) plan: &'a Plan,
}

impl Firewall<'_> {
    /// Whether the program is there and may be used.
    pub(super) fn check() -> Result<(), FirewallError> {
        nft("list the rules", "list tables\n")
    }

    /// Makes the table, in place of a former one, in one transaction.
    pub(super) fn apply(&self) -> Result<(), FirewallError> {
        nft("make the rules", &self.text())
    }

    fn text(&self) -> String {
        let (interface, mark) = (self.interface, self.mark);
        let mut drops = String::new();
        for address in &self.plan.addresses {
            let family = if address.is_ipv4() { "ip" } else { "ip6" };
            // What this host sends to itself comes by lo; nothing else may reach the address but the tunnel.
            let _ = writeln!(
                drops,
                "    iifname != {{ \"lo\", \"{interface}\" }} {family} daddr {address} counter drop"
            );
        }
        let fence = fence(self.plan);
        format!(
            "{REMOVE}table inet mstunnel-client {{
  chain foreign {{
    type filter hook prerouting priority raw; policy accept;
{drops}  }}
  chain leaving {{
    type filter hook postrouting priority filter; policy accept;
    meta mark {mark} accept
    oifname {{ \"lo\", \"{interface}\" }} accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, mld-listener-report, mld2-listener-report }} accept
    udp sport 68 udp dport 67 accept
    udp sport 546 udp dport 547 accept
{fence}  }}
  chain outbound {{
    type filter hook output priority mangle; policy accept;
    meta mark {mark} ct mark set meta mark
  }}
  chain inbound {{
    type filter hook prerouting priority mangle; policy accept;
    ct mark {mark} meta mark set ct mark
  }}
}}
"
        )
    }
}

/// The longest prefix decides, as in the routing table: rules from long to short. Prefixes of one length have no
/// address in common.
fn fence(plan: &Plan) -> String {
    let mut rules = String::new();
    for (is_ipv4, family) in [(true, "ip"), (false, "ip6")] {
        for length in (0..=128).rev() {
            for (verdict, is_inside) in [("accept", false), ("counter drop", true)] {
                let prefixes: Vec<String> = plan
                    .routes
                    .iter()
                    .filter(|route| route.prefix.is_ipv4() == is_ipv4 && route.prefix.length() == length)
                    .filter(|route| (route.way != Way::Beside) == is_inside)
                    .map(|route| route.prefix.to_string())
                    .collect();
                let _ = match (prefixes.is_empty(), length) {
                    (true, _) => Ok(()),
                    (false, 0) => writeln!(
                        rules,
                        "    meta nfproto {} {verdict}",
                        if is_ipv4 { "ipv4" } else { "ipv6" }
                    ),
                    (false, _) => {
                        writeln!(rules, "    {family} daddr {{ {} }} {verdict}", prefixes.join(", "))
                    }
                };
            }
        }
    }
    rules
}

/// Removes the table whether or not it is there: naming it makes it.
const REMOVE: &str = "table inet mstunnel-client\ndelete table inet mstunnel-client\n";

/// Removes the table; none is as good.
pub(super) fn remove() -> Result<(), FirewallError> {
    nft("remove the rules", REMOVE)
}

fn nft(what: &'static str, text: &str) -> Result<(), FirewallError> {
    let mut child = PROGRAMS
        .iter()
        .map(|program| {
            let mut command = Command::new(program);
            command
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
        })
        .find(|child| !matches!(child, Err(error) if error.kind() == io::ErrorKind::NotFound))
        .ok_or(FirewallError::Missing)??;
    // A program that ends early closes the pipe; its exit status tells more than the write.
    if let Some(mut pipe) = child.stdin.take() {
        let _ = pipe.write_all(text.as_bytes());
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let words = complaint.split_whitespace().collect::<Vec<_>>().join(" ");
    Err(FirewallError::Refused { what, reason: words.chars().take(MAX_REASON_CHARS).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::PlannedRoute;

    fn text(include: &[&str], exclude: &[&str], address: &str) -> String {
        let routes = |list: &[&str], way| -> Vec<PlannedRoute> {
            list.iter().map(|prefix| PlannedRoute { prefix: prefix.parse().unwrap(), way }).collect()
        };
        let plan = Plan {
            mtu: 1400,
            addresses: vec![address.parse().unwrap()],
            routes: [routes(include, Way::Tunnel), routes(exclude, Way::Beside)].concat(),
            is_full: false,
            dns: Vec::new(),
            search: Vec::new(),
            split_dns: Vec::new(),
            notes: Vec::new(),
        };
        Firewall { interface: "mst0", mark: 7, plan: &plan }.text()
    }

    /// Covers: R49
    #[test]
    fn each_address_is_closed_to_other_interfaces() {
        for (address, family) in [("10.77.0.5", "ip"), ("fd00:77::5", "ip6")] {
            let text = text(&[], &[], address);
            let rule = format!("iifname != {{ \"lo\", \"mst0\" }} {family} daddr {address} counter drop\n");
            assert!(text.contains(&rule), "{text}");
            assert!(text.starts_with(REMOVE));
        }
    }

    /// Covers: R64, R68
    #[test]
    fn tunnelled_destinations_leave_by_nothing_else_and_the_longest_prefix_decides() {
        let text =
            text(&["0.0.0.0/0", "10.5.6.0/24", "10.7.6.0/24", "fd00::/8"], &["10.0.0.0/8"], "10.77.0.5");
        let fence = "ip daddr { 10.5.6.0/24, 10.7.6.0/24 } counter drop\n    ip daddr { 10.0.0.0/8 } accept\n    \
                     meta nfproto ipv4 counter drop\n    ip6 daddr { fd00::/8 } counter drop\n  }";
        assert!(text.contains(fence), "{text}");
    }
}
