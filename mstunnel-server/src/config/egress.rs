//! `[egress]`: how packets of clients leave the host.

use super::document::{Report, Section};
use super::unavailable;

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
}

impl Default for EgressSettings {
    fn default() -> Self {
        Self { mode: EgressMode::Kernel, interface: "mst0".to_owned() }
    }
}

/// The kernel's limit, `IFNAMSIZ` without the final NUL.
const MAX_INTERFACE_LEN: usize = 15;

pub(super) fn read(section: Option<Section<'_>>, report: &mut Report) -> EgressSettings {
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
    section.finish(report);
    settings
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
