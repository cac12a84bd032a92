//! Stock ocserv with the configuration of a [`Setup`]: tells whether a test is true of the reference.
//!
//! ocserv does not masquerade, so the corporate host is given routes to the pools and the server's namespace
//! forwards. Bearer sign-in is not in Debian's build.

use std::fmt::Write as _;
use std::process::Command;

use crate::certificate::write_private;
use crate::gateway::{Files, Gateway, Setup};
use crate::network::Network;
use crate::process::{Process, Stream};
use crate::requirement::{find_program, skip};
use crate::wait::SHORT;

pub(crate) fn start(setup: &Setup, network: &Network) -> Option<Gateway> {
    let files = setup.write_files(network);
    write_private(&files.path("ocserv.conf"), &configuration(setup, &files));
    let process = spawn(&files, network)?;
    let pools: Vec<&str> =
        ["network", "ipv6Network"].iter().filter_map(|&name| setup.configuration[name].as_str()).collect();
    network.corporate().route_pools_to_the_server(&pools);
    network.server().write_sysctl("net/ipv4/ip_forward", "1");
    network.server().write_sysctl("net/ipv6/conf/all/forwarding", "1");
    Some(Gateway::of_ocserv(process, files, setup.clone()))
}

/// Starts it with the configuration that is there; skips the test if it is not installed.
pub(crate) fn spawn(files: &Files, network: &Network) -> Option<Process> {
    let Some(ocserv) = find_program("ocserv") else {
        skip("ocserv is not installed (tests/run installs it)");
        return None;
    };
    let mut command: Command = network.server().command(&ocserv);
    command.args(["--foreground", "--debug=2", "--config"]).arg(files.path("ocserv.conf"));
    let mut process = Process::start("ocserv", command, files.directory.path(), b"");
    // One socket for each family.
    process.wait_for(Stream::Stderr, "listening (TCP) on ", 2, SHORT);
    process.wait_for(Stream::Stderr, "initialized ocserv", 1, SHORT);
    Some(process)
}

fn configuration(setup: &Setup, files: &Files) -> String {
    let path = |name: &str| files.path(name).display().to_string();
    let graph = &setup.configuration;
    let strings = |name: &str| {
        let list = graph[name].as_array().cloned().unwrap_or_default();
        list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect::<Vec<_>>()
    };
    let mut text = String::new();
    let is_replaced = |name: &str| setup.ocserv.iter().any(|(other, _)| other == name);
    let mut line = |name: &str, value: &str| {
        if !is_replaced(name) {
            writeln!(text, "{name} = {value}").expect("writing to a string");
        }
    };
    line("auth", &format!("\"plain[passwd={}]\"", path("users.passwd")));
    line("tcp-port", &setup.port().to_string());
    if graph["disableUdpConnections"] != true {
        line("udp-port", &setup.port().to_string());
    }
    // One namespace each: nothing here is shared with another server, and root keeps the temporary files usable.
    line("run-as-user", "root");
    line("run-as-group", "root");
    line("socket-file", &path("ocserv-socket"));
    line("occtl-socket-file", &path("occtl-socket"));
    line("use-occtl", "true");
    line("server-cert", &path("site.crt"));
    line("server-key", &path("site.key"));
    line("isolate-workers", "false");
    line("tls-priorities", "\"NORMAL:%SERVER_PRECEDENCE:%COMPAT:-VERS-TLS1.0:-VERS-TLS1.1\"");
    line("device", "vpns");
    line("predictable-ips", "true");
    line("ping-leases", "false");
    line("cisco-client-compat", "true");
    line("auth-timeout", "240");
    let defaults = [
        ("max-ban-score", "0"),
        ("rate-limit-ms", "0"),
        ("max-clients", "0"),
        ("max-same-clients", "0"),
        ("cookie-timeout", "300"),
        ("dpd", "90"),
        ("keepalive", "32400"),
        ("rekey-time", "172800"),
        ("rekey-method", "new-tunnel"),
    ];
    for (name, value) in defaults {
        if setup.advanced_value(name).is_none() {
            line(name, value);
        }
    }
    for setting in graph["advancedSettings"].as_array().into_iter().flatten() {
        if let (Some(name), Some(value)) = (setting["name"].as_str(), setting["value"].as_str()) {
            line(name, value);
        }
    }
    for (name, property) in [("ipv4-network", "network"), ("ipv6-network", "ipv6Network")] {
        if let Some(pool) = graph[property].as_str() {
            line(name, pool);
        }
    }
    if let Some(domain) = graph["defaultDomainSuffix"].as_str() {
        line("default-domain", domain);
    }
    for (name, property) in [
        ("dns", "dnsServers"),
        ("split-dns", "splitDNS"),
        ("route", "routeIncludes"),
        ("no-route", "routeExcludes"),
    ] {
        for value in strings(property) {
            line(name, &value);
        }
    }
    for group in &setup.groups {
        line("select-group", group);
    }
    for (name, value) in &setup.ocserv {
        writeln!(text, "{name} = {value}").expect("writing to a string");
    }
    text
}
