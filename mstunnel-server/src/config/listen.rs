//! `[listen]`: the addresses; the port is `listenPort` of the configuration.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::document::{Report, Section};

/// Hosts have a handful of addresses; each becomes a socket in every worker.
const MAX_ADDRESSES: usize = 64;

/// Reads the section; without one all addresses of both families are listened on.
pub(super) fn read(section: Option<Section<'_>>, report: &mut Report) -> Vec<IpAddr> {
    let all = vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let Some(mut section) = section else { return all };
    let addresses = section.take("addresses");
    section.finish(report);
    let Some(list) = addresses else { return all };
    let want = "an IPv4 or IPv6 address without a port";
    let mut addresses = Vec::new();
    for item in list.items(1..=MAX_ADDRESSES, "a list of addresses", report) {
        match item.read(|text| text.parse().ok(), want, report) {
            Some(address) if addresses.contains(&address) => report.refuse(&item, "every address once"),
            Some(address) => addresses.push(address),
            None => {}
        }
    }
    addresses
}
