//! Our client without privileges: `get`, `ping` and `proxy` through our server and through stock ocserv.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use mstunnel_tests::{
    Client, Gateway, LONG, Network, Output, Process, RunningClient, SHORT, Setup, Stream, stream_digest,
    until,
};
use serde_json::{Value, json};

/// What curl may take for one transfer; the tests share two cores.
const PATIENCE: &str = "40";

/// The address of the corporate name server.
const NAMES: &str = "10.20.0.53";

/// Starts a corporate name server that knows web.corp.example (both families) and out.corp.example (not routed).
fn start_names(network: &Network, directory: &Path) -> Process {
    let netns = network.corporate().netns();
    netns.run("ip", &["addr", "add", "10.20.0.53/24", "dev", "eth0"]);
    let mut names = netns.start(
        "dnsmasq",
        &[
            "--no-daemon",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
            "--bind-interfaces",
            "--listen-address=10.20.0.53",
            "--local=/corp.example/",
            "--host-record=web.corp.example,10.20.0.2,fd00:20::2",
            "--host-record=out.corp.example,198.51.100.1",
        ],
        directory,
    );
    names.wait_for(Stream::Stderr, "started", 1, SHORT);
    names
}

/// Our server, and stock ocserv, with what these tests need.
fn setup() -> Setup {
    Setup::new().set("dnsServers", json!([NAMES]))
}

/// Runs the client to its end.
fn run(network: &Network, gateway: &Gateway, command: &str, arguments: &[&str]) -> Option<Output> {
    let client = Client::to(network, 0, gateway, command)?.as_alice().arguments(arguments);
    Some(client.run().output)
}

/// Starts `proxy` and waits until it listens on `ports` ports.
fn proxy(network: &Network, gateway: &Gateway, arguments: &[&str], ports: usize) -> Option<RunningClient> {
    Some(Client::to(network, 0, gateway, "proxy")?.as_alice().arguments(arguments).listen(ports))
}

fn curl(network: &Network, arguments: &[&str]) -> Output {
    let common =
        ["--silent", "--show-error", "--globoff", "--noproxy", "none.example", "--max-time", PATIENCE];
    network.client(0).try_run("curl", &[&common, arguments].concat(), LONG + SHORT)
}

fn both(network: impl Fn() -> Option<Network>, check: impl Fn(&Network, &Gateway)) {
    for start in [
        Setup::start_ours as fn(&Setup, &Network) -> Option<Gateway>,
        Setup::start_as_nobody,
        Setup::start_ocserv,
    ] {
        let Some(network) = network() else { return };
        let Some(gateway) = start(&setup(), &network) else { return };
        check(&network, &gateway);
    }
}

#[test]
fn pages_are_fetched_over_both_families_and_by_name() {
    both(Network::new, |network, gateway| {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let _names = start_names(network, directory.path());
        for host in ["10.20.0.2", "[fd00:20::2]", "web.corp.example", "web"] {
            let page = format!("http://{host}/");
            let Some(output) = run(network, gateway, "get", &[&page]) else { return };
            let text = output.expect_success(&page);
            assert!(text.starts_with("corporate page for "), "{host}: {text:?}");
        }
        let file = directory.path().join("page");
        let arguments = ["http://10.20.0.2/bytes/20000000", "--output", &file.to_string_lossy()];
        let Some(output) = run(network, gateway, "get", &arguments) else { return };
        assert_eq!(output.expect_success("get --output"), "");
        assert!(
            fs::read(&file).expect("the page").iter().filter(|byte| **byte == b'.').count() == 20_000_000
        );
    });
}

#[test]
fn pages_that_are_not_there_and_destinations_outside_are_errors() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = setup().start_ours(&network) else { return };
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let _names = start_names(&network, directory.path());
    for (page, reason) in [
        ("http://10.20.0.2/missing", "404"),
        ("http://10.20.0.2:81/", "refused"),
        ("http://198.51.100.1/", "does not belong to the tunnel"),
        ("http://out.corp.example/", "does not belong to the tunnel"),
        ("http://127.0.0.1/", "does not belong to the tunnel"),
        ("http://nowhere.corp.example/", "no host"),
        ("http://refused.example/", "no name server has an answer"),
        ("https://10.20.0.2/", "not a http:// URL"),
    ] {
        let Some(output) = run(&network, &gateway, "get", &[page]) else { return };
        assert_eq!((output.code, output.stdout.as_str()), (Some(1), ""), "{page}: {output:?}");
        assert!(output.stderr.contains(reason), "{page}: {output:?}");
    }
}

#[test]
fn pings_are_answered_over_both_families_and_counted() {
    both(Network::new, |network, gateway| {
        for host in ["10.20.0.2", "fd00:20::2"] {
            let arguments = [host, "--count", "3", "--interval", "0.2", "--timeout", "30"];
            let start = Instant::now();
            let Some(output) = run(network, gateway, "ping", &arguments) else { return };
            let text = output.expect_success("ping");
            assert!(
                start.elapsed() < Duration::from_secs(25),
                "{:?} with every answer there",
                start.elapsed()
            );
            assert!(text.contains("3 packets transmitted, 3 received, 0% packet loss"), "{text}");
            for number in 1..=3 {
                assert!(text.contains(&format!("icmp_seq={number} ttl=")), "{text}");
            }
        }
        let arguments = ["10.20.0.99", "--count", "1", "--timeout", "1", "--json"];
        let Some(output) = run(network, gateway, "ping", &arguments) else { return };
        assert_eq!(output.code, Some(1), "{output:?}");
        let object: Value = serde_json::from_str(&output.stdout).expect("one JSON object");
        assert_eq!((&object["sent"], &object["received"]), (&json!(1), &json!(0)));
    });
}

/// Half of them over each family, each with bytes of its own.
#[test]
fn three_hundred_fetches_at_once_get_their_own_bytes() {
    both(Network::new, |network, gateway| {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let _names = start_names(network, directory.path());
        let Some(_proxy) = proxy(network, gateway, &["--socks5", "1080"], 1) else { return };
        let output = format!("{}/#1", directory.path().display());
        let arguments = [
            ["--silent", "--show-error", "--fail", "--noproxy", "none.example"].as_slice(),
            &["--parallel", "--parallel-immediate", "--parallel-max", "300"],
            &["--socks5-hostname", "127.0.0.1:1080", "--max-time", "60"],
            &["--output", &output, "http://10.20.0.2/stream/50000/[1-150]"],
            &["--output", &output, "http://web.corp.example/stream/50000/[151-300]"],
        ];
        let fetched = network.client(0).try_run("curl", &arguments.concat(), LONG + LONG);
        fetched.expect_success("curl --parallel");
        for n in 1..=300 {
            let found = fs::read(directory.path().join(n.to_string())).unwrap_or_default();
            let digest = digest::digest(&digest::SHA256, &found);
            assert!(digest.as_ref() == stream_digest(50_000, n), "page {n}: {} other bytes", found.len());
        }
    });
}

#[test]
fn every_port_leads_to_the_corporate_network_and_nowhere_else() {
    both(Network::new, |network, gateway| {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let _names = start_names(network, directory.path());
        let ports = ["--socks5", "1080", "--http", "[::1]:3128", "-L", "8080:web.corp.example:80"];
        let Some(mut proxy) = proxy(network, gateway, &ports, 3) else { return };
        let page = |arguments: &[&str]| {
            let text = curl(network, arguments).expect_success(&format!("curl {arguments:?}"));
            assert!(text.starts_with("corporate page for "), "{arguments:?}: {text:?}");
        };
        for host in ["web.corp.example", "10.20.0.2", "[fd00:20::2]"] {
            let url = format!("http://{host}/");
            page(&["--socks5-hostname", "127.0.0.1:1080", &url]);
            page(&["--proxy", "http://[::1]:3128", &url]);
            page(&["--proxy", "http://[::1]:3128", "--proxytunnel", &url]);
        }
        page(&["http://127.0.0.1:8080/"]);
        for outside in ["198.51.100.1", "out.corp.example", "127.0.0.1"] {
            let url = format!("http://{outside}/");
            let refused = curl(network, &["--socks5-hostname", "127.0.0.1:1080", &url]);
            assert_eq!(refused.code, Some(97), "{outside}: {refused:?}");
            assert!(refused.stderr.contains("(2)"), "{outside}: {refused:?}");
            let status = ["--write-out", "%{http_code}", "--output", "/dev/null"];
            let refused = curl(network, &[&status[..], &["--proxy", "http://[::1]:3128", &url]].concat());
            assert_eq!(refused.stdout, "403", "{outside}: {refused:?}");
        }
        proxy.signal(libc::SIGTERM);
        assert_eq!(proxy.wait_end(SHORT).code(), Some(0));
    });
}

#[test]
fn datagrams_pass_by_udp_associate() {
    both(Network::new, |network, gateway| {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let _names = start_names(network, directory.path());
        let Some(_proxy) = proxy(network, gateway, &["--socks5", "1080"], 1) else { return };
        let answer = network.client(0).with(|| associate_and_ask(b"\x03web\x04corp\x07example\x00"));
        assert!(answer.ends_with(&[10, 20, 0, 2]), "{answer:?}");
    });
}

/// Asks the corporate name server for the address of a name, through an association.
fn associate_and_ask(name: &[u8]) -> Vec<u8> {
    let mut control = TcpStream::connect("127.0.0.1:1080").expect("the proxy listens");
    control.set_read_timeout(Some(SHORT)).expect("a limit above zero");
    control.write_all(&[5, 1, 0]).expect("a greeting");
    control.read_exact(&mut [0; 2]).expect("a method");
    control.write_all(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).expect("a request");
    let mut reply = [0; 10];
    control.read_exact(&mut reply).expect("a reply");
    assert_eq!(reply[1], 0, "{reply:?}");
    let relay = SocketAddr::from(([127, 0, 0, 1], u16::from_be_bytes([reply[8], reply[9]])));
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a limit above zero");
    let mut datagram = vec![0, 0, 0, 1, 10, 20, 0, 53, 0, 53];
    datagram.extend([0x4D, 0x53, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    datagram.extend(name);
    datagram.extend([0, 1, 0, 1]);
    // Datagrams may be lost: asked until there is an answer.
    until("an answer through the association", SHORT, || {
        socket.send_to(&datagram, relay).ok()?;
        let mut buffer = [0; 600];
        let len = socket.recv(&mut buffer).ok()?;
        Some(buffer[..len].to_vec())
    })
}

#[test]
fn ports_are_for_this_host_unless_asked_otherwise() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = setup().start_ours(&network) else { return };
    let Some(output) = run(&network, &gateway, "proxy", &["--socks5", "0.0.0.0:1080"]) else { return };
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("is not a loopback address"), "{output:?}");
}
