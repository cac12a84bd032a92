//! Our client's datagram channel: to our server, to stock ocserv, and through bad networks.

use std::time::Duration;

use mstunnel_tests::{Client, Gateway, LONG, Network, Relay, RunningClient, Setup, Stream, Weather, until};

type Start = fn(&Setup, &Network) -> Option<Gateway>;

const PAGE: &str = "http://10.20.0.2/bytes/";
const UP: &str = "packets go by UDP";

fn with_udp() -> Setup {
    Setup::new().set("disableUdpConnections", false)
}

/// A client that stays up: it forwards a port to the corporate page.
fn forwarding(network: &Network, gateway: &Gateway) -> Option<RunningClient> {
    let client = Client::to(network, 0, gateway, "proxy")?.as_alice();
    Some(client.arguments(&["-L", "127.0.0.1:8080:10.20.0.2:80"]).listen(1))
}

fn wait_up(client: &RunningClient, times: usize, limit: Duration) {
    until(&format!("{times} x {UP:?}"), limit, || {
        (client.text(Stream::Stderr).matches(UP).count() >= times).then_some(())
    });
}

/// The length of a page that was fetched through the forward.
fn fetch(network: &Network, len: usize) -> usize {
    let url = format!("http://127.0.0.1:8080/bytes/{len}");
    let arguments = ["--silent", "--show-error", "--noproxy", "*", "--max-time", "60", &url];
    network.client(0).try_run("curl", &arguments, 2 * LONG).expect_success("curl").len()
}

fn pages_travel_as_datagrams(start: Start) {
    let Some(network) = Network::new() else { return };
    let relay = Relay::start(&network, 3);
    let Some(gateway) = start(&with_udp(), &network) else { return };
    let Some(client) = forwarding(&network, &gateway) else { return };
    wait_up(&client, 1, LONG);
    let before = relay.delivered();
    assert_eq!(fetch(&network, 3_000_000), 3_000_000);
    assert!(relay.delivered() > before + 2_000, "the page went another way");
    assert!(relay.longest() <= 1500 - 20 - 8, "{} bytes do not fit the link", relay.longest());
    assert!(relay.longest() > 1400, "the MTU was probed at full length");
    client.terminate();
}

/// Covers: statement 58, statement 62, R8
#[test]
fn pages_travel_as_datagrams_from_our_server() {
    pages_travel_as_datagrams(Setup::start_ours);
}

/// Covers: statement 2, statement 58, statement 59, statement 61, statement 62, R8
#[test]
fn pages_travel_as_datagrams_from_ocserv() {
    pages_travel_as_datagrams(Setup::start_ocserv);
}

/// Covers: statement 60, statement 62, R8
#[test]
fn a_black_hole_for_udp_costs_no_time_at_the_start_and_little_in_the_middle() {
    let Some(network) = Network::new() else { return };
    let relay = Relay::start(&network, 4);
    let Some(gateway) = with_udp().start_ours(&network) else { return };
    relay.set(Weather::BLACK_HOLE);
    let timed = |options: &[&str]| {
        let client = Client::to(&network, 0, &gateway, "get")?.as_alice().arguments(options);
        let ended = client.argument(format!("{PAGE}1000")).run();
        assert_eq!(ended.output.code, Some(0), "{:?}", ended.output);
        Some(ended.took)
    };
    let (Some(without), Some(holed)) = (timed(&["--no-dtls"]), timed(&[])) else { return };
    // A handshake is given up after twelve.
    let waited = holed.saturating_sub(without);
    assert!(waited < Duration::from_secs(9), "it waited for UDP: {holed:?}, and {without:?} without it");

    relay.set(Weather::FAIR);
    let Some(client) = forwarding(&network, &gateway) else { return };
    wait_up(&client, 1, LONG);
    relay.set(Weather::BLACK_HOLE);
    assert_eq!(fetch(&network, 100_000), 100_000, "over TLS");
    relay.set(Weather::FAIR);
    let quiet = relay.delivered();
    until("packets by UDP again", Duration::from_secs(90), || {
        fetch(&network, 100_000);
        (relay.delivered() > quiet + 100).then_some(())
    });
    assert_eq!(gateway.sessions(&network), 1, "the session is unbroken");
    client.terminate();
}

/// Covers: statement 54, statement 64, R8, R16
#[test]
fn a_fifth_of_all_datagrams_may_be_lost() {
    for start in [Setup::start_ours, Setup::start_ocserv] as [Start; 2] {
        let Some(network) = Network::new() else { return };
        let relay = Relay::start(&network, 5);
        let Some(gateway) = start(&with_udp(), &network) else { return };
        relay.set(Weather { loss: 20, duplicate: 5, reorder: 5, corrupt: 2, ..Weather::FAIR });
        let Some(client) = forwarding(&network, &gateway) else { return };
        wait_up(&client, 1, Duration::from_secs(90));
        assert_eq!(fetch(&network, 50_000), 50_000);
        client.terminate();
    }
}

/// Covers: R9
#[test]
fn a_path_that_carries_less_lowers_the_mtu_and_nothing_is_lost_in_a_hole() {
    let Some(network) = Network::new() else { return };
    let relay = Relay::start(&network, 7);
    let Some(gateway) = with_udp().start_ours(&network) else { return };
    // A hole, as of a filter that eats ICMP: long datagrams vanish without a word.
    relay.set(Weather { longest: 1380 - 20 - 8, ..Weather::FAIR });
    let Some(client) = forwarding(&network, &gateway) else { return };
    wait_up(&client, 1, LONG);
    let told = client.text(Stream::Stderr);
    let mtu: usize = told
        .lines()
        .find_map(|line| line.split_once(UP)?.1.split("mtu=").nth(1)?.split_whitespace().next()?.parse().ok())
        .unwrap_or_else(|| panic!("no MTU in {told}"));
    let most = 1380 - 20 - 8 - 37 - 1;
    assert!(mtu <= most && mtu + 8 >= most, "{mtu} of {most}");
    let before = relay.delivered();
    assert_eq!(fetch(&network, 1_000_000), 1_000_000);
    assert!(relay.delivered() > before + 700, "the page went another way");
    client.terminate();
}

#[test]
fn without_udp_everything_stays_on_tls() {
    let Some(network) = Network::new() else { return };
    let relay = Relay::start(&network, 6);
    let Some(gateway) = with_udp().start_ours(&network) else { return };
    let Some(client) = Client::to(&network, 0, &gateway, "get") else { return };
    let ended = client.as_alice().argument("--no-dtls").argument(format!("{PAGE}100000")).run();
    assert_eq!(
        (ended.output.code, ended.output.stdout.len()),
        (Some(0), 100_000),
        "{:?}",
        ended.output.stderr
    );
    assert_eq!(relay.delivered(), 0);
}
