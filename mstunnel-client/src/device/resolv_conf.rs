//! The text of a `resolv.conf` that knows only the tunnel's name servers.

use std::fmt::Write;

use super::Plan;

/// The first line: by it we know a file of ours.
pub(crate) const MARKER: &str = "# made by mstunnel-client; it puts the former one back when it ends\n";

/// Every value is typed or checked, so that no line can be made by the server.
pub(crate) fn resolv_conf(plan: &Plan) -> String {
    let mut text = MARKER.to_owned();
    if !plan.search.is_empty() {
        let _ = writeln!(text, "search {}", plan.search.join(" "));
    }
    for server in &plan.dns {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}
