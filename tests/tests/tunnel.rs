//! What the stock client is told, and what passes through its tunnel.

use std::net::IpAddr;
use std::time::Duration;

use mstunnel_tests::{Gateway, Network, Openconnect, Peer, Setup};
use serde_json::{Value, json};

const PASSWORD: &str = "secret of alice";

fn both_families() -> [IpAddr; 2] {
    [Network::CORPORATE_V4.into(), Network::CORPORATE_V6.into()]
}

/// The address that the corporate host sees: our server masquerades, the reference does not.
fn seen_from(gateway: &Gateway, client: &Openconnect, family: IpAddr) -> String {
    let environment = client.environment();
    match (gateway.peer(), family) {
        (Peer::Mstunnel, IpAddr::V4(_)) => Network::SERVER_INSIDE_V4.to_string(),
        (Peer::Mstunnel, IpAddr::V6(_)) => Network::SERVER_INSIDE_V6.to_string(),
        (Peer::Ocserv, IpAddr::V4(_)) => environment.get("INTERNAL_IP4_ADDRESS").to_owned(),
        (Peer::Ocserv, IpAddr::V6(_)) => environment.get("INTERNAL_IP6_ADDRESS").to_owned(),
    }
}

/// Covers: statement 6, statement 23, statement 24, statement 65, R3
#[test]
fn the_client_is_told_what_is_configured() {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new()
        .set("dnsServers", json!(["10.20.0.53", "10.20.0.54", "fd00:20::53"]))
        .set("defaultDomainSuffix", "corp.example")
        .set("splitDNS", json!(["corp.example", "lab.example"]))
        .set("routeIncludes", json!(["10.20.0.0/24", "172.16.0.0/255.240.0.0", "fd00:20::/64"]))
        .set("routeExcludes", json!(["172.16.9.0/24", "fd00:20::/96"]))
        .advanced("banner", "Be nice")
        .advanced("idle-timeout", 1200);
    let Some(gateway) = setup.start(&network) else { return };
    let client = Openconnect::alice(&network, &gateway);
    let environment = client.environment();
    let value = |name: &str| environment.get(name).to_owned();
    let lease: std::net::Ipv4Addr = value("INTERNAL_IP4_ADDRESS").parse().expect("an address");
    assert_eq!(lease.octets()[..3], [10, 77, 0]);
    assert!(!matches!(lease.octets()[3], 0 | 1 | 255), "{lease} is the network, the server or broadcast");
    assert_eq!(value("INTERNAL_IP4_NETMASK"), "255.255.255.0");
    let lease_v6: std::net::Ipv6Addr = value("INTERNAL_IP6_ADDRESS").parse().expect("an address");
    assert_eq!(lease_v6.segments()[..4], [0xfd00, 0x77, 0, 0]);
    assert!(value("INTERNAL_IP6_NETMASK").starts_with(&format!("{lease_v6}/")), "{environment:?}");
    assert_eq!(value("INTERNAL_IP4_DNS"), "10.20.0.53 10.20.0.54 fd00:20::53");
    assert_eq!(value("CISCO_DEF_DOMAIN"), "corp.example");
    assert_eq!(value("CISCO_BANNER"), "Be nice");
    assert_eq!(value("IDLE_TIMEOUT"), "1200");
    // The client builds its lists back to front.
    let sorted = |mut list: Vec<String>| {
        list.sort();
        list
    };
    let names = value("CISCO_SPLIT_DNS").split(',').map(str::to_owned).collect();
    assert_eq!(sorted(names), ["corp.example", "lab.example"]);
    assert_eq!(sorted(environment.prefixes("CISCO_SPLIT_INC")), ["10.20.0.0/24", "172.16.0.0/12"]);
    assert_eq!(environment.prefixes("CISCO_IPV6_SPLIT_INC"), ["fd00:20::/64"]);
    assert_eq!(environment.prefixes("CISCO_SPLIT_EXC"), ["172.16.9.0/24"]);
    assert_eq!(environment.prefixes("CISCO_IPV6_SPLIT_EXC"), ["fd00:20::/96"]);
    let mtu: u32 = value("INTERNAL_IP4_MTU").parse().expect("a number");
    assert!((1280..=1500 - 20 - 8).contains(&mtu), "an inner packet of {mtu} does not fit a link of 1500");
}

/// Covers: statement 65, R9
#[test]
fn a_packet_of_the_mtu_passes_unfragmented_and_a_smaller_link_gives_a_smaller_mtu() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start(&network) else { return };
    let mtu_with = |base_mtu: &str| {
        let client = Openconnect::to(&network, 0, &gateway).argument("--no-dtls").argument(base_mtu);
        let client = client.password("alice", PASSWORD).connect();
        let mtu: u32 = client.environment().get("INTERNAL_IP4_MTU").parse().expect("a number");
        let size = (mtu - 20 - 8).to_string();
        network.client(0).run("ping", &["-c", "1", "-w", "5", "-M", "do", "-s", &size, "10.20.0.2"]);
        mtu
    };
    let usual = mtu_with("--base-mtu=1500");
    assert!(mtu_with("--base-mtu=1400") <= usual - 100);
}

/// Covers: R83
#[test]
fn pings_and_pages_pass_over_both_families_and_leave_with_the_servers_address() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start(&network) else { return };
    for target in both_families() {
        assert!(!network.client(0).reaches(target), "there is a way beside the tunnel");
    }
    let client = Openconnect::alice(&network, &gateway);
    for target in both_families() {
        network.client(0).ping(target);
        let page = network.client(0).page(target, "");
        assert_eq!(page, format!("corporate page for {}\n", seen_from(&gateway, &client, target)));
        assert_eq!(network.client(0).page(target, "bytes/3000000").len(), 3_000_000);
    }
}

/// Covers: statement 30
#[test]
fn the_tunnel_itself_may_run_over_ipv6() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start(&network) else { return };
    let client = Openconnect::to(&network, 0, &gateway).over(gateway.address_v6(&network, 0));
    let client = client.argument("--no-dtls").password("alice", PASSWORD).connect();
    for target in both_families() {
        network.client(0).ping(target);
    }
    drop(client);
}

#[test]
fn without_includes_everything_goes_through_the_tunnel_except_what_is_excluded() {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new()
        .set("routeIncludes", json!([]))
        .set("routeExcludes", json!(["10.20.0.3/32", "fd00:20::3/128"]));
    let Some(gateway) = setup.start(&network) else { return };
    let corporate = network.corporate().netns();
    corporate.run("ip", &["addr", "add", "10.20.0.3/24", "dev", "eth0"]);
    corporate.run("ip", &["addr", "add", "10.20.0.4/24", "dev", "eth0"]);
    let client = Openconnect::alice(&network, &gateway);
    let environment = client.environment();
    assert_eq!(environment.prefixes("CISCO_SPLIT_INC").len(), 0);
    assert_eq!(environment.prefixes("CISCO_SPLIT_EXC"), ["10.20.0.3/32"]);
    for target in both_families() {
        network.client(0).ping(target);
    }
    network.client(0).ping("10.20.0.4".parse().expect("an address"));
    assert!(!network.client(0).reaches("10.20.0.3".parse().expect("an address")));
}

#[test]
fn two_hundred_and_fifty_six_split_includes_reach_the_client() {
    let Some(network) = Network::new() else { return };
    // No two of them can be aggregated.
    let mut includes: Vec<String> = (0..255).map(|n| format!("172.20.{n}.0/25")).collect();
    includes.push("10.20.0.0/24".to_owned());
    let setup = Setup::new().set("routeIncludes", json!(includes)).set("ipv6Network", Value::Null);
    let Some(gateway) = setup.start(&network) else { return };
    let client = Openconnect::alice(&network, &gateway);
    let mut told = client.environment().prefixes("CISCO_SPLIT_INC");
    told.sort();
    includes.sort();
    assert_eq!(told, includes);
    network.client(0).ping(Network::CORPORATE_V4.into());
}

#[test]
fn two_clients_have_their_own_addresses_and_work_at_once() {
    let Some(mut network) = Network::new() else { return };
    let second = network.add_client();
    let setup = Setup::new().user("bob", "secret of bob", &[]);
    let Some(gateway) = setup.start(&network) else { return };
    let alice = Openconnect::alice(&network, &gateway);
    let bob = Openconnect::to(&network, second, &gateway).argument("--no-dtls");
    let bob = bob.password("bob", "secret of bob").connect();
    for name in ["INTERNAL_IP4_ADDRESS", "INTERNAL_IP6_ADDRESS"] {
        assert_ne!(alice.environment().get(name), bob.environment().get(name));
    }
    for index in [0, second] {
        for target in both_families() {
            network.client(index).ping(target);
            assert!(network.client(index).page(target, "").starts_with("corporate page"));
        }
    }
    if gateway.peer() == Peer::Mstunnel {
        assert_eq!(gateway.sessions(&network), 2);
    }
}

/// Covers: P-080, R83
#[test]
fn a_bulk_transfer_makes_progress_both_ways() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start(&network) else { return };
    let _client = Openconnect::alice(&network, &gateway);
    let _iperf3 = network.corporate().start_iperf3(gateway.directory());
    for direction in [&[][..], &["--reverse"]] {
        let arguments = [&["--client", "10.20.0.2", "--time", "2", "--json"][..], direction].concat();
        let output = network.client(0).try_run("iperf3", &arguments, Duration::from_secs(30));
        let report: Value = serde_json::from_str(&output.stdout).expect("iperf3 speaks JSON");
        let rate = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or(0.0);
        assert!(rate > 5e6, "{direction:?}: {rate} bit/s; {}", report["error"]);
    }
}
