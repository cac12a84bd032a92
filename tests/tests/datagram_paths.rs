//! The datagram channel of a stock client through weather, moves and outages of its path.

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use mstunnel_tests::{Gateway, LONG, Network, Openconnect, Relay, Setup, Weather, stream_digest, until};
use serde_json::Value;

const UP: &str = "Established DTLS connection";

/// A server with the datagram channel, and the stock client on it.
fn connected(network: &Network, setup: Setup) -> Option<(Gateway, Openconnect)> {
    let gateway = setup.set("disableUdpConnections", false).start_ours(network)?;
    let client = Openconnect::to(network, 0, &gateway).password("alice", "secret of alice").connect();
    assert!(client.output().contains(UP), "{}", client.output());
    Some((gateway, client))
}

fn row(network: &Network, gateway: &Gateway) -> Value {
    gateway.show(network, "users")[0].clone()
}

/// Fetches a page of `len` bytes through the tunnel, at most `rate` a second, and compares its hash.
fn download(network: &Network, len: u64, seed: u64, rate: &str) {
    let url = format!("http://{}/stream/{len}/{seed}", Network::CORPORATE_V4);
    let script = format!("curl --silent --show-error --max-time 110 --limit-rate {rate} {url} | sha256sum");
    let limit = Duration::from_secs(120);
    let said = network.client(0).try_run("sh", &["-c", &script], limit).expect_success("curl");
    let wanted: String = stream_digest(len, seed).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(said.split_whitespace().next(), Some(&wanted[..]), "{len} bytes");
}

/// Covers: P-111, R8, R15, R16: whole downloads in each weather, on one session, without flapping.
#[test]
fn downloads_are_whole_in_any_weather_and_stay_on_the_channel() {
    let Some(network) = Network::new() else { return };
    let relay = Relay::start(&network, 111);
    let Some((gateway, client)) = connected(&network, Setup::new()) else { return };
    let fair = Weather::FAIR;
    let weathers = [
        (fair, 50_000_000),
        (Weather { loss: 1, ..fair }, 20_000_000),
        (Weather { loss: 5, ..fair }, 6_000_000),
        (Weather { loss: 20, ..fair }, 300_000),
        (Weather { reorder: 25, ..fair }, 20_000_000),
        (Weather { duplicate: 10, ..fair }, 50_000_000),
        (Weather { corrupt: 1, ..fair }, 50_000_000),
        (Weather { loss: 5, reorder: 25, duplicate: 10, corrupt: 1, ..fair }, 2_000_000),
    ];
    for (seed, (weather, len)) in (0..).zip(weathers) {
        relay.set(weather);
        let (before, start) = (relay.delivered(), Instant::now());
        download(&network, len, seed, "100M");
        eprintln!("{len} bytes in {:?}: {weather:?}", start.elapsed());
        // One way, in packets of the tunnel's MTU.
        assert!(relay.delivered() - before > len / 1_434 * 9 / 10, "{weather:?}: the page went another way");
        assert_eq!(row(&network, &gateway)["channel"], "dtls", "{weather:?}");
    }
    assert_eq!(gateway.sessions(&network), 1);
    assert_eq!(client.output().matches(UP).count(), 1, "{}", client.output());
    assert!(gateway.drops(&network, "record_forged") > 0, "damage was noticed");
    assert!(gateway.drops(&network, "record_replayed") > 0, "doubles were noticed");
}

/// Covers: P-114, R4, R19: a new address of the client during a download, for both channels.
///
/// A record of DTLS 1.2 has no name on it, and from a host that nobody is at, the server tries it on nobody: the
/// stream channel comes back first, by its cookie, and brings the datagram channel with it.
#[test]
fn a_client_with_another_address_keeps_its_transfer_and_its_lease() {
    let Some(network) = Network::new() else { return };
    let Some((gateway, client)) = connected(&network, Setup::new().advanced("dpd", 5)) else { return };
    let before = row(&network, &gateway);
    let (old, new) = (network.ports(0).client_v4, "198.51.100.77");
    network.client(0).run("ip", &["addr", "add", &format!("{new}/32"), "dev", "eth0"]);
    network.server().run("ip", &["route", "add", new, "via", &old.to_string()]);
    // Stateless, so that it bites at once: the TCP connection of the old address is unknown from the new one.
    let rules = format!(
        "table ip elsewhere {{ \
         chain out {{ type filter hook output priority -300; ip daddr 192.0.2.1 ip saddr set {new}; }}; \
         chain in {{ type filter hook prerouting priority -300; ip saddr 192.0.2.1 ip daddr set {old}; }}; }}"
    );
    thread::scope(|scope| {
        let transfer = scope.spawn(|| download(&network, 8_000_000, 114, "1M"));
        thread::sleep(Duration::from_secs(2));
        network.client(0).run("nft", &[&rules]);
        transfer.join().expect("the transfer is whole");
    });
    until("the channel at the new address", LONG, || {
        network.client(0).reaches(Network::CORPORATE_V4.into());
        let now = row(&network, &gateway);
        (now["channel"] == "dtls" && now["remote"].as_str().is_some_and(|remote| remote.starts_with(new)))
            .then_some(())
    });
    let after = row(&network, &gateway);
    assert_eq!((&after["ipv4"], &after["ipv6"]), (&before["ipv4"], &before["ipv6"]), "{after}");
    assert_eq!(gateway.sessions(&network), 1);
    assert_eq!(client.output().matches(UP).count(), 2, "{}", client.output());
}

/// Covers: P-122, R19: the server's cable is out for 1 s and 10 s, its address goes and comes back.
#[test]
fn a_session_outlives_an_outage_of_the_servers_interface() {
    let Some(network) = Network::new() else { return };
    let Some((gateway, client)) = connected(&network, Setup::new()) else { return };
    let before = row(&network, &gateway);
    let address = format!("{}/30", network.ports(0).server_v4);
    for seconds in [1, 10] {
        network.server().run("ip", &["link", "set", "cli0", "down"]);
        thread::sleep(Duration::from_secs(seconds));
        network.server().run("ip", &["link", "set", "cli0", "up"]);
        download(&network, 1_000_000, seconds, "100M");
    }
    network.server().run("ip", &["addr", "del", &address, "dev", "cli0"]);
    thread::sleep(Duration::from_secs(1));
    network.server().run("ip", &["addr", "add", &address, "dev", "cli0"]);
    download(&network, 1_000_000, 122, "100M");
    let after = row(&network, &gateway);
    assert_eq!(
        (&after["ipv4"], &after["id"], &after["channel"]),
        (&before["ipv4"], &before["id"], &"dtls".into())
    );
    assert_eq!(client.output().matches(UP).count(), 1, "{}", client.output());
    // The listener answers without a restart.
    drop(client);
    let again = Openconnect::to(&network, 0, &gateway).password("alice", "secret of alice").connect();
    assert!(again.output().contains(UP), "{}", again.output());
    until("an answer", LONG, || network.client(0).reaches(Network::CORPORATE_V4.into()).then_some(()));
}

/// The kernel gives a client's TCP and UDP to workers by their ports, so that every other session begins on the wrong one
/// of two.
///
/// Covers: R7, R57
#[test]
fn a_session_moves_to_the_worker_that_takes_in_its_datagrams() {
    if thread::available_parallelism().is_ok_and(|workers| workers.get() == 1) {
        return; // There is nobody to move to.
    }
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().set("disableUdpConnections", false).start_ours(&network) else { return };
    let session = || gateway.show(&network, "sessions")[0].clone();
    let moved = (0..20).find(|&seed| {
        let mut client =
            Openconnect::to(&network, 0, &gateway).password("alice", "secret of alice").connect();
        let before = session();
        // Some hundred datagrams each way, in the middle of which it moves.
        download(&network, 1_000_000, seed, "100M");
        let after = session();
        for kept in ["id", "ipv4", "channel", "remote", "state"] {
            assert_eq!(after[kept], before[kept], "{kept}: {before} {after}");
        }
        let has_moved = after["worker"] != before["worker"];
        if has_moved {
            for _ in 0..10 {
                assert!(network.client(0).reaches(Network::CORPORATE_V4.into()));
            }
            download(&network, 1_000_000, seed, "100M");
            assert_eq!(session()["worker"], after["worker"], "it is where its datagrams arrive");
            assert_eq!(client.output().matches(UP).count(), 1, "{}", client.output());
            // And it can be ended from outside there.
            let id = after["id"].as_u64().expect("a number").to_string();
            gateway.mst_cli(&network, &["server", "disconnect", "id", &id]).expect_success("disconnect");
        } else {
            client.signal(libc::SIGINT);
        }
        client.wait_end(LONG);
        until("the end of the session", LONG, || (gateway.sessions(&network) == 0).then_some(()));
        has_moved
    });
    assert!(moved.is_some(), "20 sessions began where their datagrams arrived");
    for reason in ["source_not_leased", "record_forged", "record_replayed"] {
        assert_eq!(gateway.drops(&network, reason), 0, "{reason}");
    }
}

/// Covers: R57
#[test]
fn strangers_at_the_hosts_address_do_not_send_its_session_about() {
    if thread::available_parallelism().is_ok_and(|workers| workers.get() == 1) {
        return; // There is nobody to move to.
    }
    let Some(network) = Network::new() else { return };
    let Some((gateway, client)) = connected(&network, Setup::new()) else { return };
    let worker = || gateway.show(&network, "sessions")[0]["worker"].clone();
    let (before, server) = (worker(), gateway.address(&network, 0));
    // A sealed record of nobody. From 16 ports, so that both workers take some in.
    let mut record = [0; 13 + 40];
    record[..13].copy_from_slice(&[23, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9, 0, 40]);
    let sockets: Vec<UdpSocket> = (0..16)
        .map(|_| network.client(0).with(|| UdpSocket::bind("0.0.0.0:0")).expect("a free port"))
        .collect();
    until("a thousand records", LONG, || {
        for socket in &sockets {
            for _ in 0..8 {
                socket.send_to(&record, server).expect("room in the socket");
            }
        }
        (gateway.drops(&network, "record_forged") > 1_000).then_some(())
    });
    assert_eq!(worker(), before);
    assert_eq!(client.output().matches(UP).count(), 1, "{}", client.output());
}
