//! The datagram channel, with the stock client at the other end.

use std::time::Duration;

use mstunnel_tests::{Gateway, LONG, Network, Openconnect, OpenconnectBuilder, Relay, Setup, Weather, until};
use serde_json::Value;

const UP: &str = "Established DTLS connection";

fn with_udp() -> Setup {
    Setup::new().set("disableUdpConnections", false)
}

fn alice<'n>(network: &'n Network, gateway: &Gateway) -> OpenconnectBuilder<'n> {
    Openconnect::to(network, 0, gateway).password("alice", "secret of alice")
}

/// The only row of `mst-cli server show users`.
fn row(network: &Network, gateway: &Gateway) -> Value {
    gateway.show(network, "users")[0].clone()
}

fn wait_channel(network: &Network, gateway: &Gateway, channel: &str) {
    until(&format!("channel {channel}"), LONG, || {
        (row(network, gateway)["channel"] == channel).then_some(())
    });
}

/// Bytes that a transfer of `seconds` brought to the far end; `direction` is `--reverse` for downwards.
fn iperf(network: &Network, seconds: u32, direction: &[&str]) -> f64 {
    let seconds = seconds.to_string();
    let mut arguments = vec!["--client", "10.20.0.2", "--time", &seconds, "--json"];
    arguments.extend(direction);
    let limit = Duration::from_secs(30);
    let text = network.client(0).try_run("iperf3", &arguments, limit).expect_success("iperf3");
    let report: Value = serde_json::from_str(&text).expect("iperf3 says JSON");
    report["end"]["sum_received"]["bytes"].as_f64().expect("a number of bytes")
}

/// Covers: statement 2, statement 28, statement 30, statement 47, statement 49, statement 50, statement 51
/// Covers: statement 52, statement 53, R8, R9, R12, R13
#[test]
fn the_stock_client_carries_both_directions_over_datagrams_that_fit_its_link() {
    let Some(network) = Network::new() else { return };
    let relay = Relay::start(&network, 1);
    let Some(gateway) = with_udp().start_ours(&network) else { return };
    let client = alice(&network, &gateway).connect();
    assert!(client.output().contains(UP), "{}", client.output());
    assert!(client.output().contains("AES-256-GCM"), "{}", client.output());
    let server = network.corporate().start_iperf3(gateway.directory());
    network.client(0).ping(Network::CORPORATE_V4.into());
    network.client(0).ping(Network::CORPORATE_V6.into());
    let before = relay.delivered();
    assert!(iperf(&network, 2, &[]) > 1e6);
    assert!(iperf(&network, 2, &["--reverse"]) > 1e6);
    drop(server);
    assert!(relay.delivered() > before + 1_000, "the packets went by UDP");
    assert!(relay.longest() <= 1500 - 20 - 8, "{} bytes do not fit the link", relay.longest());
    assert!(relay.longest() > 1400, "the client's MTU probe was answered at full length");
    let row = row(&network, &gateway);
    assert_eq!(row["channel"], "dtls", "{row}");
    assert!(
        row["cipher"]
            .as_str()
            .is_some_and(|cipher| cipher.contains("AES256-GCM") || cipher.contains("AES-256-GCM")),
        "{row}"
    );
    let mtu = client.environment().get("INTERNAL_IP4_MTU").to_owned();
    assert_eq!(mtu, "1434", "the probe lowered the MTU");
}

/// Covers: statement 62, R8
#[test]
fn traffic_goes_on_over_tls_while_udp_is_blocked_and_returns_to_it() {
    let Some(network) = Network::new() else { return };
    // The client finds its channel dead after twice this.
    let Some(gateway) = with_udp().advanced("dpd", 5).start_ours(&network) else { return };
    let client = alice(&network, &gateway).connect();
    assert!(client.output().contains(UP), "{}", client.output());
    let lease = row(&network, &gateway)["ipv4"].clone();
    network.server().run(
        "nft",
        &["table inet block { chain input { type filter hook input priority 0; udp dport 443 drop; }; \
           chain output { type filter hook output priority 0; udp sport 443 drop; }; }"],
    );
    until("packets over TLS", Duration::from_secs(60), || {
        network.client(0).reaches(Network::CORPORATE_V4.into());
        (row(&network, &gateway)["channel"] == "tls").then_some(())
    });
    until("an answer over TLS", LONG, || {
        network.client(0).reaches(Network::CORPORATE_V4.into()).then_some(())
    });
    network.server().run("nft", &["delete", "table", "inet", "block"]);
    until("packets over UDP again", Duration::from_secs(90), || {
        network.client(0).reaches(Network::CORPORATE_V4.into());
        (row(&network, &gateway)["channel"] == "dtls").then_some(())
    });
    let after = row(&network, &gateway);
    assert_eq!(after["ipv4"], lease, "the session is unbroken");
    assert!(!client.output().contains("Reconnect"), "{}", client.output());
}

/// Covers: statement 54, R8, R15, P-024
#[test]
fn a_fifth_of_all_datagrams_may_be_lost_and_others_late_double_or_damaged() {
    let Some(network) = Network::new() else { return };
    let relay = Relay::start(&network, 20);
    let Some(gateway) = with_udp().start_ours(&network) else { return };
    relay.set(Weather { loss: 20, duplicate: 5, reorder: 5, corrupt: 2, ..Weather::FAIR });
    let mut client = alice(&network, &gateway).connect();
    client.wait_output(UP, Duration::from_secs(90));
    let (corporate, limit) = (Network::CORPORATE_V4.to_string(), Duration::from_secs(90));
    let pings = ["-q", "-i", "0.01", "-c", "1000", "-W", "1", &corporate];
    network.client(0).try_run("ping", &pings, limit).expect_success("ping");
    let script =
        format!("curl --silent --show-error --max-time 80 http://{corporate}/stream/100000/20 | wc --bytes");
    let received = network.client(0).try_run("sh", &["-c", &script], limit).expect_success("curl");
    assert_eq!(received.trim(), "100000");
    assert!(gateway.drops(&network, "record_forged") > 0, "damage was noticed");
    assert!(gateway.drops(&network, "record_replayed") > 0, "doubles were noticed");
    assert_eq!(gateway.sessions(&network), 1);
}

/// Covers: statement 56, R19, P-026
#[test]
fn the_channel_follows_a_client_whose_nat_forgets_its_port() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = with_udp().start_ours(&network) else { return };
    let client = alice(&network, &gateway).connect();
    assert!(client.output().contains(UP), "{}", client.output());
    network.client(0).ping(Network::CORPORATE_V4.into());
    // A NAT that has lost its table: the same client, another port. Stateless, so that it bites at once.
    let sockets = network.client(0).run("ss", &["-Hun", "dst", ":443"]);
    let local = sockets.split_whitespace().nth(3).expect("the client's UDP socket");
    let port = local.rsplit(':').next().expect("a port").to_owned();
    let rules = format!(
        "table ip rebind {{ chain out {{ type filter hook output priority -300; udp dport 443 udp sport set 47111; }}; \
         chain in {{ type filter hook prerouting priority -300; udp sport 443 udp dport set {port}; }}; }}"
    );
    network.client(0).run("nft", &[&rules]);
    network.client(0).reaches(Network::CORPORATE_V4.into());
    until("a move", LONG, || gateway.log().contains("roam").then_some(()));
    assert_eq!(row(&network, &gateway)["channel"], "dtls");
    assert_eq!(gateway.sessions(&network), 1);
}

/// Covers: statement 57
#[test]
fn keys_are_renewed_on_both_channels_and_the_addresses_stay() {
    let Some(network) = Network::new() else { return };
    let setup = with_udp().advanced("rekey-time", 30);
    let Some(gateway) = setup.start_ours(&network) else { return };
    let mut client = alice(&network, &gateway).connect();
    let lease = row(&network, &gateway)["ipv4"].clone();
    client.wait_output("rekey due", Duration::from_secs(60));
    until("the channel after it", LONG, || {
        network.client(0).reaches(Network::CORPORATE_V4.into());
        (row(&network, &gateway)["channel"] == "dtls").then_some(())
    });
    assert_eq!(row(&network, &gateway)["ipv4"], lease);
}

/// Covers: statement 55, statement 63, R18
#[test]
fn a_reconnect_brings_a_new_channel_and_the_old_app_id_is_dead() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = with_udp().start_ours(&network) else { return };
    let mut client = alice(&network, &gateway).connect();
    assert!(client.output().contains(UP), "{}", client.output());
    client.signal(libc::SIGUSR2);
    client.wait_calls("reconnect", 1, LONG);
    until("a second channel", LONG, || (client.output().matches(UP).count() == 2).then_some(()));
    network.client(0).ping(Network::CORPORATE_V4.into());
    wait_channel(&network, &gateway, "dtls");
}

/// Covers: statement 28
#[test]
fn no_datagram_channel_is_offered_when_it_is_disabled_or_not_asked_for() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let client = alice(&network, &gateway).connect();
    assert!(!client.output().contains("X-DTLS-"), "{}", client.output());
    drop((client, gateway));
    let Some(gateway) = with_udp().start_ours(&network) else { return };
    let client = alice(&network, &gateway).argument("--no-dtls").connect();
    assert!(!client.output().contains("X-DTLS-"), "{}", client.output());
    assert_eq!(row(&network, &gateway)["channel"], "tls");
}

/// Covers: statement 29
#[test]
fn clients_without_negotiated_keys_resume_the_session_of_their_master_secret() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = with_udp().start_ours(&network) else { return };
    for (suites, cipher) in [
        ("OC-DTLS1_2-AES256-GCM", "AES256-GCM"),
        ("OC-DTLS1_2-AES128-GCM", "AES128-GCM"),
        ("OC2-DTLS1_2-CHACHA20-POLY1305", "CHACHA20-POLY1305"),
    ] {
        let client = alice(&network, &gateway).argument(format!("--dtls-ciphers={suites}")).connect();
        assert!(client.output().contains("X-DTLS-Session-ID: "), "{}", client.output());
        assert!(client.output().contains(UP), "{suites}: {}", client.output());
        network.client(0).ping(Network::CORPORATE_V4.into());
        let row = row(&network, &gateway);
        assert_eq!(row["channel"], "dtls", "{row}");
        assert!(row["cipher"].as_str().is_some_and(|name| name.contains(cipher)), "{row}");
    }
}

/// Covers: R11, P-029
#[test]
fn no_weak_suite_is_taken_over_datagrams() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = with_udp().start_ours(&network) else { return };
    let weak = "--dtls-ciphers=AES256-SHA:AES128-SHA:DES-CBC3-SHA";
    let client = alice(&network, &gateway).argument(weak).connect();
    assert!(!client.output().contains("X-DTLS-"), "{}", client.output());
    assert_eq!(row(&network, &gateway)["channel"], "tls");
}

/// Covers: R19, P-027
#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = with_udp().start_ours(&network) else { return };
    // Another address of the server; the route to the client would choose the first one as the source.
    network.server().run("ip", &["addr", "add", "192.0.2.129/32", "dev", "lo"]);
    network.client(0).run("ip", &["route", "add", "192.0.2.129", "via", "192.0.2.1"]);
    let second = "192.0.2.129:443".parse().expect("an address");
    let client = alice(&network, &gateway).over(second).connect();
    assert!(client.output().contains(UP), "{}", client.output());
    network.client(0).ping(Network::CORPORATE_V4.into());
    assert_eq!(row(&network, &gateway)["channel"], "dtls");
}
