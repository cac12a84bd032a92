//! `mstunnel-client load`: many sessions at once, to our server and to stock ocserv.

use std::collections::BTreeSet;

use mstunnel_tests::{Client, Gateway, Issuer, LONG, Network, SHORT, Setup, Stream, until};
use serde_json::Value;

const MANY: u64 = 200;

/// A pool with room for all of them.
fn with_room() -> Setup {
    Setup::new().set("network", "10.77.0.0/22").set("disableUdpConnections", false)
}

fn report(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("no report ({e}): {text}"))
}

/// `count` set-ups that all went well, and took the time that they say.
fn assert_series(series: &Value, count: u64) {
    assert_eq!(
        (&series["begun"], &series["opened"], &series["failed"]),
        (&count.into(), &count.into(), &0.into())
    );
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("no number in {series}"));
    let total = &series["ms"]["total"];
    let percentiles = ["p50", "p90", "p99", "max"].map(|name| number(&total[name]));
    assert!(percentiles[0] > 0.0 && percentiles.is_sorted(), "{series}");
    let seconds = number(&series["seconds"]);
    assert!(percentiles[3] <= seconds * 1_000.0, "one took longer than all: {series}");
    let rate = count as f64 / seconds;
    assert!((number(&series["rate"]) / rate - 1.0).abs() < 0.01, "{series}");
}

fn none_is_left(gateway: &Gateway, network: &Network) {
    until("the end of every session", SHORT, || (gateway.sessions(network) == 0).then_some(()));
}

#[test]
fn two_hundred_sessions_are_held_by_our_server_and_none_is_left() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = with_room().start_ours(&network) else { return };
    let Some(client) = Client::to(&network, 0, &gateway, "load") else { return };
    let load = client.as_alice().arguments(&["--sessions", "200", "--hold", "600", "--json"]);
    let mut load = load.arguments(&["--traffic", "8", "--to", "10.20.0.2"]).start();
    until("200 sessions that go by UDP, each with an answer", 3 * LONG, || {
        let users = gateway.show(&network, "users");
        let is_served = |user: &&Value| user["channel"] == "dtls" && user["bytes_out"].as_u64() >= Some(512);
        (users.as_array()?.iter().filter(is_served).count() == 200).then_some(())
    });
    assert_eq!(gateway.sessions(&network), MANY);
    load.signal(libc::SIGINT);
    let status = load.wait_end(LONG);
    assert_eq!(status.code(), Some(0), "{}", load.text(Stream::Stderr));
    let report = report(&load.text(Stream::Stdout));
    assert_series(&report["setup"], MANY);
    assert_eq!((&report["stopped"], &report["reconnect"]), (&true.into(), &Value::Null));
    assert_eq!((&report["open_at_once"], &report["datagram_channels"]), (&MANY.into(), &MANY.into()));
    assert_eq!((&report["failed"], &report["lost"]), (&0.into(), &0.into()), "{report}");
    assert!(report["echo_replies"].as_u64() > Some(MANY / 2), "{report}");
    assert!(report["echo_replies"].as_u64() <= report["echo_requests"].as_u64(), "{report}");
    assert!(report["setup"]["ms"]["sign_in"]["p50"].as_f64() > Some(0.0), "{report}");
    none_is_left(&gateway, &network);
}

#[test]
fn sessions_that_were_cut_come_back_by_their_cookies_with_their_addresses() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = with_room().userspace().start_ours(&network) else { return };
    let Some(client) = Client::to(&network, 0, &gateway, "load") else { return };
    let load =
        client.as_alice().arguments(&["--sessions", "30", "--hold", "0", "--reconnect", "4", "--json"]);
    let report = report(&load.argument("--no-dtls").run().expect_success("mstunnel-client load"));
    assert_series(&report["setup"], 30);
    assert_series(&report["reconnect"], 120);
    assert_eq!(report["reconnect"]["ms"]["sign_in"], Value::Null, "nobody signs in twice");
    assert_eq!((&report["open_at_once"], &report["datagram_channels"]), (&30.into(), &0.into()));
    none_is_left(&gateway, &network);
    // 30 and 120 times; another thread writes the log.
    until("150 lines", SHORT, || (gateway.log().matches(" open session=").count() >= 150).then_some(()));
    let log = gateway.log();
    let opened: Vec<(&str, &str)> =
        log.lines().filter_map(|line| line.split_once(" open session=")).collect();
    assert_eq!(opened.len(), 150, "{log}");
    let addresses =
        opened.iter().filter_map(|(_, rest)| Some(rest.split_once("v4=Some(")?.1.split_once(')')?.0));
    assert_eq!(addresses.collect::<BTreeSet<_>>().len(), 30, "an address for each session:\n{log}");
}

#[test]
fn a_token_opens_many_sessions_and_a_pool_that_is_full_refuses_the_others() {
    let Some(network) = Network::new() else { return };
    let issuer = Issuer::start(&network);
    let setup = with_room().set("network", "10.77.0.0/28").set("ipv6Network", Value::Null).issuer(&issuer);
    let Some(gateway) = setup.start_ours(&network) else { return };
    until("the first fetch of the key set", SHORT, || (issuer.key_set_fetches() > 0).then_some(()));
    let Some(client) = Client::to(&network, 0, &gateway, "load") else { return };
    let load =
        client.token(&issuer.sign(&issuer.token("alice"))).arguments(&["--sessions", "20", "--hold", "0"]);
    let load = load.arguments(&["--at-once", "4", "--json"]);
    let ended = load.run();
    assert_eq!(ended.output.code, Some(1), "{:?}", ended.output);
    let report = report(&ended.output.stdout);
    let opened = report["setup"]["opened"].as_u64().unwrap();
    assert!((1..=14).contains(&opened), "{report}");
    assert_eq!(report["failed"].as_u64(), Some(20 - opened), "{report}");
    let errors = report["errors"].as_array().unwrap();
    assert_eq!((errors.len(), &errors[0]["kind"]), (1, &"CONNECT refused".into()), "{report}");
    assert!(errors[0]["example"].as_str().unwrap().contains("no free address"), "{report}");
    none_is_left(&gateway, &network);
}

#[test]
fn fifteen_sessions_are_held_by_ocserv() {
    let Some(network) = Network::new() else { return };
    let setup = with_room().advanced("max-same-clients", 0);
    let Some(gateway) = setup.start_ocserv(&network) else { return };
    let Some(client) = Client::to(&network, 0, &gateway, "load") else { return };
    let load = client.as_alice().arguments(&["--sessions", "15", "--hold", "4", "--rate", "20", "--json"]);
    let report = report(&load.arguments(&["--reconnect", "1"]).run().expect_success("mstunnel-client load"));
    assert_series(&report["setup"], 15);
    assert_series(&report["reconnect"], 15);
    assert_eq!((&report["open_at_once"], &report["datagram_channels"]), (&15.into(), &15.into()), "{report}");
    assert!(report["setup"]["rate"].as_f64() < Some(23.0), "20 a second, and the first at once: {report}");
}

#[test]
fn more_sessions_than_descriptors_are_refused_before_the_first_one() {
    let Some(network) = Network::new() else { return };
    let Some(client) = Client::at(network.client(0), "load", "https://192.0.2.1") else { return };
    let load = client.as_alice().arguments(&["--pin", PIN, "--sessions", "1000000"]);
    let message = load.run().expect_failure("1000000 sessions need");
    assert!(message.contains("raise the hard limit") && message.contains("--no-dtls"), "{message}");
}

/// Of no key at all.
const PIN: &str = "pin-sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
