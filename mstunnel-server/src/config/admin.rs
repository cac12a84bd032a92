//! `[admin]`: the control socket and the metrics address.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::document::{Report, Section};
use super::paths::Base;
use super::unavailable;

/// The checked `[admin]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// The Unix socket that `mst-cli` talks to.
    pub socket: PathBuf,
    /// Where metrics are read, if anywhere.
    pub metrics: Option<SocketAddr>,
}

/// Where `mst-cli` looks unless told otherwise.
const DEFAULT_SOCKET: &str = "/run/mstunnel/control.sock";

/// The kernel's limit of a socket's path, `sun_path` without the final NUL, is 107; the socket is made with a dot and the
/// process's number behind its name, and renamed.
const MAX_SOCKET_LEN: usize = 99;

impl Default for AdminSettings {
    fn default() -> Self {
        Self { socket: DEFAULT_SOCKET.into(), metrics: None }
    }
}

pub(super) fn read(section: Option<Section<'_>>, base: Base<'_>, report: &mut Report) -> AdminSettings {
    let mut settings = AdminSettings::default();
    let Some(mut section) = section else { return settings };
    if let Some(item) = section.take("socket")
        && let Some(socket) = base.path(&item, "the path of a socket", report)
    {
        if socket.as_os_str().len() > MAX_SOCKET_LEN {
            report.refuse(&item, format!("a path of at most {MAX_SOCKET_LEN} bytes, directory included"));
        }
        settings.socket = socket;
    }
    if let Some(item) = section.take("metrics") {
        let want = "an address and port like \"127.0.0.1:9443\"";
        settings.metrics = item.read(|text| text.parse().ok(), want, report);
        unavailable::check(&item, "admin.metrics", report);
        if settings.metrics.is_some_and(|address| !address.ip().is_loopback()) {
            report.warn(
                &item,
                &item.shown(),
                "a loopback address; metrics are readable by whoever reaches it",
            );
        }
    }
    section.finish(report);
    settings
}
