//! Kernel settings under `/proc/sys/net`: forwarding for the host, strictness for our interface.
//!
//! | setting | value | why |
//! | --- | --- | --- |
//! | `ipv4.ip_forward` | 1 | with an IPv4 pool |
//! | `ipv6.conf.all.forwarding` | 1 | with an IPv6 pool |
//! | `ipv4.conf.IF.rp_filter` | 1 | a source on the interface lies in the pool (R41, R49); the kernel takes the higher of this and `all`, where 2 is loose, so that the table says it again |
//! | `ipv4.conf.IF.accept_redirects`, `send_redirects`, `accept_source_route` | 0 | a client routes for itself only |
//! | `ipv4.conf.IF.route_localnet` | 0 | 127.0.0.0/8 stays inside the host (R43) |
//! | `ipv6.conf.IF.accept_ra`, `accept_redirects`, `accept_source_route`, `router_solicitations` | 0 | the same |
//! | `ipv6.conf.IF.addr_gen_mode` | 1 | no link-local address: nothing to probe, no chatter |
//! | `ipv6.conf.IF.disable_ipv6` | 0 or 1 | 1 without an IPv6 pool |
//!
//! The settings of the interface end with it. Forwarding stays on after close, on purpose: by then
//! others (containers, virtual machines, a second VPN) may rely on it, which we cannot see, and a
//! killed run could not take it back either. Every change of it is logged.
//!
//! A value that is right already is not written, so that a container with a read-only `/proc/sys`
//! works when its host or its runtime set it.

use std::fs;
use std::io;

use super::{EgressConfig, EgressError};

const ROOT: &str = "/proc/sys/net";

/// Settings of the interface: path below `ROOT/FAMILY/conf/IF`, value.
const INTERFACE_V4: [(&str, &str); 5] = [
    ("rp_filter", "1"),
    ("accept_redirects", "0"),
    ("send_redirects", "0"),
    ("accept_source_route", "0"),
    ("route_localnet", "0"),
];
const INTERFACE_V6: [(&str, &str); 6] = [
    ("disable_ipv6", "0"),
    ("accept_ra", "0"),
    ("accept_redirects", "0"),
    ("accept_source_route", "0"),
    ("router_solicitations", "0"),
    ("addr_gen_mode", "1"),
];

/// Sets what the module documentation lists, and tells what an administrator should look at.
pub(super) fn enable(config: &EgressConfig) -> Result<Vec<String>, EgressError> {
    let name = &config.interface;
    let mut warnings = Vec::new();
    let mut best_effort = |path: String, value: &'static str| {
        if let Err(error) = set(&path, value) {
            warnings.push(error.to_string());
        }
    };
    for (key, value) in INTERFACE_V4 {
        best_effort(format!("ipv4/conf/{name}/{key}"), value);
    }
    if config.has_ipv6() {
        for (key, value) in INTERFACE_V6 {
            best_effort(format!("ipv6/conf/{name}/{key}"), value);
        }
    } else if fs::exists(format!("{ROOT}/ipv6")).unwrap_or(false) {
        best_effort(format!("ipv6/conf/{name}/disable_ipv6"), "1");
    }
    if config.has_ipv4() {
        set("ipv4/ip_forward", "1")?;
    }
    if config.has_ipv6() {
        set("ipv6/conf/all/forwarding", "1")?;
        warnings.extend(router_advertisement_warnings());
    }
    if config.masquerade {
        warnings.extend(port_warning(config));
    }
    Ok(warnings)
}

/// Whether forwarding is on for the families of the pools.
pub(super) fn is_enabled(config: &EgressConfig) -> bool {
    let on = |path: &str| read(path).is_ok_and(|value| value == "1");
    (!config.has_ipv4() || on("ipv4/ip_forward")) && (!config.has_ipv6() || on("ipv6/conf/all/forwarding"))
}

fn read(path: &str) -> io::Result<String> {
    Ok(fs::read_to_string(format!("{ROOT}/{path}"))?.trim().to_owned())
}

fn set(path: &str, want: &'static str) -> Result<(), EgressError> {
    let value = read(path).unwrap_or_else(|_| "not readable".to_owned());
    if value == want {
        return Ok(());
    }
    let key = format!("net.{}", dotted(path));
    fs::write(format!("{ROOT}/{path}"), want).map_err(|source| EgressError::Sysctl {
        key: key.clone(),
        value: value.clone(),
        want,
        source,
    })?;
    tracing::info!(%key, was = %value, now = want, "kernel setting changed");
    Ok(())
}

/// The name as `sysctl` takes it: slashes become dots, dots of an interface name become slashes.
fn dotted(path: &str) -> String {
    path.chars()
        .map(|letter| match letter {
            '/' => '.',
            '.' => '/',
            other => other,
        })
        .collect()
}

/// Linux stops listening to router advertisements on a forwarding host, unless told otherwise by the
/// value 2: an interface that has its default route from one would lose it when it expires.
fn router_advertisement_warnings() -> Vec<String> {
    let routes = fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default();
    let listening = |name: &str| read(&format!("ipv6/conf/{name}/accept_ra")).is_ok_and(|value| value == "1");
    advertised_default_routes(&routes)
        .into_iter()
        .filter(|name| listening(name))
        .map(|name| {
            format!(
                "interface {name} has its IPv6 default route from router advertisements, which Linux ignores \
                 while it forwards: set net.ipv6.conf.{}.accept_ra=2",
                dotted(&name)
            )
        })
        .collect()
}

/// The interfaces with a default route that came from a router advertisement.
///
/// # Source
/// proc(5) `/proc/net/ipv6_route`: destination, length, source, length, next hop, metric, references,
/// uses, flags, interface, all in hexadecimal; `RTF_ADDRCONF` is 0x40000.
fn advertised_default_routes(table: &str) -> Vec<String> {
    const RTF_ADDRCONF: u32 = 0x0004_0000;
    let mut names: Vec<String> = table
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let [destination, "00", _, _, _, _, _, _, flags, name] = fields[..] else { return None };
            let advertised = u32::from_str_radix(flags, 16).is_ok_and(|flags| flags & RTF_ADDRCONF != 0);
            (advertised && destination.bytes().all(|byte| byte == b'0')).then(|| name.to_owned())
        })
        .collect();
    names.dedup();
    names
}

fn port_warning(config: &EgressConfig) -> Option<String> {
    let range = super::ports::free_range(&config.listen_ports);
    let local = read("ipv4/ip_local_port_range").ok()?;
    let (low, high) = super::ports::overlap(&range, &local)?;
    Some(format!(
        "net.ipv4.ip_local_port_range is {low} to {high} and overlaps the ports of masqueraded flows, {} to {}: \
         set it to 32768 60999 or above",
        range.start(),
        range.end()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_route_by_router_advertisement_is_found_and_a_static_one_is_not() {
        let zero = "0".repeat(32);
        let hop = "fe800000000000000000000000000001";
        let table = format!(
            "{zero} 00 {zero} 00 {hop} 00000400 00000001 00000000 00450003 eth0\n\
             {zero} 00 {zero} 00 {hop} 00000400 00000001 00000000 00000003 eth1\n\
             fd000000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00440001 eth2\n\
             short line\n"
        );
        assert_eq!(advertised_default_routes(&table), ["eth0"]);
    }

    #[test]
    fn a_sysctl_name_keeps_the_dots_of_an_interface() {
        assert_eq!(dotted("ipv4/conf/eth0.12/rp_filter"), "ipv4.conf.eth0/12.rp_filter");
    }
}
