//! What clients reach of the gateway itself in kernel mode, and that the fences stay whatever happens to them.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use mstunnel_tests::{Gateway, Netns, Network, Openconnect, SHORT, Setup, program, until};
use serde_json::json;

/// How long a connection is waited for that must not come about.
const QUIET: Duration = Duration::from_secs(1);

/// Says whether the client reaches a TCP service.
fn is_reached(client: &Netns, to: &str) -> bool {
    let to: SocketAddr = to.parse().expect("an address");
    client.with(|| TcpStream::connect_timeout(&to, QUIET)).is_ok()
}

/// Covers: P-066, R43: each of the gateway's addresses, its inside ones too, and the one of the name server.
#[test]
fn the_gateways_own_services_are_closed_but_for_the_name_server_that_clients_are_told() {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new().set("routeIncludes", json!([])).set("dnsServers", json!(["10.20.0.1"]));
    let Some(mut gateway) = setup.start_ours(&network) else { return };
    let listen = |port: u16| network.server().with(|| TcpListener::bind(("::", port))).expect("a free port");
    let _services = [listen(2222), listen(53)];
    let _client = Openconnect::alice(&network, &gateway);
    let client = network.client(0);
    client.ping("10.77.0.1".parse().expect("an address"));
    assert!(is_reached(client, "10.20.0.1:53"), "the name server");
    for service in
        ["10.77.0.1:2222", "[fd00:77::1]:2222", "10.77.0.1:53", "10.20.0.1:2222", "[fd00:20::1]:2222"]
    {
        assert!(!is_reached(client, service), "{service}");
    }
    gateway.rewrite(|setup| setup.set("dnsServers", json!(["fd00:20::1"])));
    gateway.mst_cli(&network, &["server", "reload"]).expect_success("reload");
    assert!(is_reached(client, "[fd00:20::1]:53"), "the new name server");
    assert!(!is_reached(client, "10.20.0.1:53"), "the old one");
}

fn has_fences(network: &Network) -> bool {
    let listed = network.server().try_run("nft", &["list", "chain", "inet", "mstunnel", "clients"], SHORT);
    listed.stdout.contains("client to client")
}

fn warned(gateway: &Gateway, of: &str) {
    until(of, SHORT, || gateway.log().contains(of).then_some(()));
}

/// Covers: P-121, R82: an administrator reloads another firewall, or tidies up.
#[test]
fn what_others_take_away_comes_back_and_is_told() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let _client = Openconnect::alice(&network, &gateway);
    network.server().run("nft", &["flush", "ruleset"]);
    until("the table", SHORT, || has_fences(&network).then_some(()));
    warned(&gateway, "the nftables table was missing");
    network.server().run("ip", &["link", "set", "mst0", "down"]);
    warned(&gateway, "the interface was down");
    network.client(0).ping(Network::CORPORATE_V4.into());
    network.client(0).ping(Network::CORPORATE_V6.into());
    assert_eq!(gateway.show(&network, "status")["problems"], json!([]));
}

/// Covers: R82: whoever starts a second server by mistake takes nothing away from the first one.
#[test]
fn a_second_server_is_refused_and_leaves_the_first_its_fences() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let Some(server) = program("mstunnel-server") else { return };
    let file = |name: &str| gateway.directory().join(name);
    let rewrite = |from: &str, to: &str, changes: &[(&str, &str)]| {
        let mut text = fs::read_to_string(file(from)).expect("our own file");
        for (old, new) in changes {
            assert!(text.contains(old), "{old} in {text}");
            text = text.replace(old, new);
        }
        fs::write(file(to), text).expect("our own directory");
    };
    rewrite("configuration.json", "other.json", &[("10.77.0.", "10.78.0."), ("fd00:77:", "fd00:78:")]);
    let device = ("mode = \"kernel\"", "mode = \"kernel\"\ninterface = \"mst1\"");
    let changes = [("configuration.json", "other.json"), device, ("\"state\"", "\"other-state\"")];
    rewrite("gateway.toml", "same-socket.toml", &changes);
    let socket = ("control.sock", "other.sock");
    rewrite("gateway.toml", "other-socket.toml", &[&changes[..], &[socket]].concat());
    for (name, reason) in [("same-socket.toml", "control.sock"), ("other-socket.toml", "mst0")] {
        let arguments = ["serve", "--config", &gateway.file(name)];
        let refused = network.server().try_run(&server.to_string_lossy(), &arguments, SHORT);
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(reason) && !refused.stderr.contains("listening on"), "{refused:?}");
        assert!(has_fences(&network), "{name}: the fences are gone");
    }
    let _client = Openconnect::alice(&network, &gateway);
    network.client(0).ping(Network::CORPORATE_V4.into());
}
