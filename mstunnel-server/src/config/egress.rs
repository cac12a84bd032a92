//! `[egress]`: how packets of clients leave the host.

use std::net::SocketAddr;

use mstunnel_proto::prefix::Prefix;

use super::document::{Item, Report, Section};
use super::unavailable;
use crate::egress::{Allowed, Published};

/// The way out, design.md section 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EgressMode {
    /// TUN device, forwarding, masquerade.
    Kernel,
    /// TUN device without address translation.
    Routed,
    /// Ordinary sockets of this process.
    Userspace,
    /// TUN device and our own address translation.
    Nat,
}

const MODES: [(&str, EgressMode); 4] = [
    ("kernel", EgressMode::Kernel),
    ("routed", EgressMode::Routed),
    ("userspace", EgressMode::Userspace),
    ("nat", EgressMode::Nat),
];

/// The checked `[egress]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressSettings {
    /// The way out.
    pub mode: EgressMode,
    /// The name of the TUN device.
    pub interface: String,
    /// Whether the TUN device may give and take super-packets, if the kernel can.
    pub offload: bool,
    /// Special destinations that are open all the same.
    pub allow: Vec<Allowed>,
    /// Services of the host side with an address inside the tunnel.
    pub publish: Vec<Published>,
}

impl Default for EgressSettings {
    fn default() -> Self {
        Self {
            mode: EgressMode::Kernel,
            interface: "mst0".to_owned(),
            offload: true,
            allow: Vec::new(),
            publish: Vec::new(),
        }
    }
}

const SWITCH: [(&str, bool); 2] = [("on", true), ("off", false)];

/// The kernel's limit, `IFNAMSIZ` without the final NUL.
const MAX_INTERFACE_LEN: usize = 15;

/// Each one is looked at for every new flow, and for every packet while it is a prefix.
const MAX_ALLOWED: usize = 64;

/// A demonstration publishes one service, a small host a handful.
const MAX_PUBLISHED: usize = 64;

/// Reads the section; `pools` are the prefixes of clients, which nothing listed may touch.
pub(super) fn read(section: Option<Section<'_>>, pools: &[Prefix], report: &mut Report) -> EgressSettings {
    let mut settings = EgressSettings::default();
    let Some(mut section) = section else { return settings };
    if let Some(item) = section.take("mode") {
        unavailable::check(&item, "egress.mode", report);
        settings.mode = item.choice(&MODES, report).unwrap_or(settings.mode);
    }
    if let Some(item) = section.take("interface") {
        let want = "the name of a network interface: 1 to 15 letters, digits, '-', '_' or '.'";
        settings.interface = item.read(interface, want, report).unwrap_or(settings.interface);
    }
    if let Some(item) = section.take("offload") {
        settings.offload = item.choice(&SWITCH, report).unwrap_or(settings.offload);
    }
    if let Some(list) = section.take("allow") {
        for item in list.items(1..=MAX_ALLOWED, "a list of prefixes", report) {
            if let Some(allowed) = allowed(&item, settings.mode, pools, report) {
                if settings.allow.contains(&allowed) {
                    report.refuse(&item, "every prefix once");
                }
                settings.allow.push(allowed);
            }
        }
    }
    if let Some(item) = section.take("publish") {
        if settings.mode != EgressMode::Userspace {
            report.refuse(&item, "mode = \"userspace\": only there are services published");
        }
        if let Some(table) = item.section(report) {
            settings.publish = published(table, pools, report);
        }
    }
    section.finish(report);
    settings
}

fn allowed(item: &Item<'_>, mode: EgressMode, pools: &[Prefix], report: &mut Report) -> Option<Allowed> {
    let want = "a prefix like \"127.0.0.1/32\", or one with a port like \"127.0.0.1:8080\" or \"[::1]:8080\"";
    let allowed: Allowed = item.read(|text| text.parse().ok(), want, report)?;
    let prefix = allowed.prefix;
    let want = if prefix.length() == 0 {
        "a prefix longer than /0: only what is closed by itself needs opening".to_owned()
    } else if let Some(pool) = pools.iter().find(|pool| pool.overlaps(prefix)) {
        format!("a prefix outside of the pool {pool}: clients never reach each other")
    } else if allowed.port.is_some() && mode != EgressMode::Userspace {
        "a prefix without a port, or mode = \"userspace\", which tells ports apart".to_owned()
    } else {
        return Some(allowed);
    };
    report.refuse(item, want);
    None
}

fn published(table: Section<'_>, pools: &[Prefix], report: &mut Report) -> Vec<Published> {
    let mut services: Vec<Published> = Vec::new();
    for (inside, item) in table.entries(0..=MAX_PUBLISHED, report) {
        let address = inside.parse().ok().filter(|&inside| Published::is_usable_inside(inside));
        let Some(inside): Option<SocketAddr> = address else {
            let want =
                "as the key the address and port for clients, like \"198.18.0.80:80\" or \"[fd00::80]:80\"";
            report.refuse_with(&item, &format!("{inside:?}"), want);
            continue;
        };
        let want = "the address and port of a service as this host sees it, like \"127.0.0.1:8080\"";
        let usable = |text: &str| text.parse().ok().filter(|&host| Published::is_usable_host(host));
        let Some(host) = item.read(usable, want, report) else { continue };
        if let Some(pool) = pools.iter().find(|pool| pool.contains(inside.ip())) {
            report.refuse_with(&item, &inside.to_string(), format!("an address outside of the pool {pool}"));
        } else if services.iter().any(|other| other.inside == inside) {
            report.refuse_with(&item, &inside.to_string(), "every address and port once");
        } else {
            services.push(Published { inside, host });
        }
    }
    services
}

/// Names go to netlink and into nftables rules, so only harmless characters are let through.
fn interface(text: &str) -> Option<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let fits = text.len() <= MAX_INTERFACE_LEN
        && text.bytes().all(plain)
        && text.bytes().any(|byte| byte.is_ascii_alphanumeric())
        && !text.starts_with('-')
        && !["lo", "all", "default"].contains(&text);
    fits.then(|| text.to_owned())
}
