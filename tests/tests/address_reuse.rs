//! What an address of the pool has open with the network when it changes hands, in kernel mode.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use mstunnel_tests::{Gateway, LONG, Netns, Network, Openconnect, SHORT, Setup, UdpSink, until};
use serde_json::json;

const PORT: u16 = 9000;
const FAMILIES: [&str; 2] = ["INTERNAL_IP4_ADDRESS", "INTERNAL_IP6_ADDRESS"];

/// How long what has been overtaken by an answer may still be under way.
const STRAGGLER: Duration = Duration::from_millis(500);

/// A server that has one address of each family to lease, for alice or for bob.
fn one_address_each() -> Setup {
    Setup::new()
        .user("bob", "secret of bob", &[])
        .set("network", "10.77.0.0/30")
        .set("ipv6Network", "fd00:77::/127")
        .advanced("cookie-timeout", 8)
}

fn connect(network: &Network, index: usize, gateway: &Gateway, user: &str) -> Openconnect {
    let client = Openconnect::to(network, index, gateway).password(user, &format!("secret of {user}"));
    client.argument("--no-dtls").connect()
}

fn addresses(client: &Openconnect) -> [IpAddr; 2] {
    FAMILIES.map(|family| client.environment().get(family).parse().expect("an address of each family"))
}

/// A UDP socket of a client with what the corporate host sees of it, having heard from it.
struct Flow {
    socket: UdpSocket,
    seen: SocketAddr,
}

impl Flow {
    fn open(client: &Netns, from: SocketAddr, sink: &UdpSink) -> Self {
        let to: IpAddr = match from {
            SocketAddr::V4(_) => Network::CORPORATE_V4.into(),
            SocketAddr::V6(_) => Network::CORPORATE_V6.into(),
        };
        let socket = client.with(|| UdpSocket::bind(from)).expect("an address of the client");
        socket.send_to(b"question", (to, PORT)).expect("the tunnel takes it");
        let (seen, _) = sink.receive(SHORT).expect("the question arrives");
        sink.send(seen, b"answer");
        let flow = Self { socket, seen };
        assert!(flow.hears(SHORT), "the answer to {from}");
        flow
    }

    fn hears(&self, limit: Duration) -> bool {
        self.socket.set_read_timeout(Some(limit)).expect("a time");
        self.socket.recv(&mut [0; 64]).is_ok()
    }
}

/// The protocols of the flows with one of `addresses` that the server's kernel knows.
fn tracked(network: &Network, addresses: &[IpAddr]) -> Vec<String> {
    // Of the namespace that the thread is in, not of the process.
    let table = network.server().with(|| fs::read_to_string("/proc/thread-self/net/nf_conntrack"));
    let table = table.expect("a kernel with CONFIG_NF_CONNTRACK_PROCFS");
    let is_concerned = |line: &&str| {
        let ends = line.split(' ').filter_map(|word| word.strip_prefix("src=")?.parse::<IpAddr>().ok());
        ends.into_iter().any(|end| addresses.contains(&end))
    };
    let concerned = table.lines().filter(is_concerned);
    let mut protocols: Vec<_> =
        concerned.map(|line| line.split_whitespace().nth(2).unwrap_or("?").to_owned()).collect();
    protocols.sort();
    protocols.dedup();
    protocols
}

/// Alice opens flows of each family and leaves.
fn alice_leaves_with_open_flows(network: &Network, gateway: &Gateway, sink: &UdpSink) -> Vec<Flow> {
    let mut alice = connect(network, 0, gateway, "alice");
    let flows = addresses(&alice).map(|from| Flow::open(network.client(0), (from, 0).into(), sink));
    for host in [Network::CORPORATE_V4.into(), Network::CORPORATE_V6.into()] {
        network.client(0).ping(host);
        network.client(0).page(host, "");
    }
    assert_eq!(tracked(network, &addresses(&alice)), ["icmp", "icmpv6", "tcp", "udp"]);
    alice.signal(libc::SIGINT);
    alice.wait_end(SHORT);
    flows.into()
}

/// Bob has alice's addresses, listens at the ports of her flows, and hears nothing that is for her.
fn bob_hears_nothing_for(flows: &[Flow], network: &Network, gateway: &Gateway, sink: &UdpSink) {
    let bob = connect(network, 1, gateway, "bob");
    let client = network.client(1);
    for (flow, own) in flows.iter().zip(addresses(&bob)) {
        let hers = flow.socket.local_addr().expect("it is bound");
        assert_eq!(hers.ip(), own, "the only address");
        let socket = client.with(|| UdpSocket::bind(hers)).expect("the address is bob's now");
        for _ in 0..3 {
            sink.send(flow.seen, b"for alice");
        }
        let _answered = Flow::open(client, (own, 0).into(), sink);
        assert!(!Flow { socket, seen: flow.seen }.hears(STRAGGLER), "bob got what was for alice at {hers}");
    }
}

/// Covers: P-075, R50
#[test]
fn what_the_network_still_sends_to_the_last_owner_of_an_address_does_not_reach_the_next_one() {
    let Some(mut network) = Network::new() else { return };
    network.add_client();
    let Some(gateway) = one_address_each().start_ours(&network) else { return };
    let sink = network.corporate().udp_sink(PORT);
    let flows = alice_leaves_with_open_flows(&network, &gateway, &sink);
    until("the end of the hold-back", LONG, || {
        (gateway.show(&network, "status")["problems"] == json!([])).then_some(())
    });
    let hers = flows.iter().map(|flow| flow.socket.local_addr().expect("it is bound").ip());
    assert_eq!(tracked(&network, &hers.collect::<Vec<_>>()), [""; 0]);
    bob_hears_nothing_for(&flows, &network, &gateway, &sink);
}

/// Covers: P-075, R50: the server that starts knows nothing of who had the address.
#[test]
fn nor_does_it_after_a_restart_of_a_server_that_keeps_nothing() {
    let Some(mut network) = Network::new() else { return };
    network.add_client();
    let setup = one_address_each().key("state", "store", "\"memory\"");
    let Some(mut gateway) = setup.start_ours(&network) else { return };
    let sink = network.corporate().udp_sink(PORT);
    let flows = alice_leaves_with_open_flows(&network, &gateway, &sink);
    gateway.kill();
    gateway.start_again(&network);
    bob_hears_nothing_for(&flows, &network, &gateway, &sink);
}

/// Covers: R31, R79: a session that is still there after a restart keeps what it has open.
#[test]
fn the_flows_of_a_session_outlive_the_server() {
    let Some(network) = Network::new() else { return };
    let Some(mut gateway) = Setup::new().start_ours(&network) else { return };
    let sink = network.corporate().udp_sink(PORT);
    let mut alice = Openconnect::alice(&network, &gateway);
    let flows = addresses(&alice).map(|from| Flow::open(network.client(0), (from, 0).into(), &sink));
    gateway.terminate();
    gateway.start_again(&network);
    alice.wait_calls("reconnect", 1, LONG);
    for flow in flows {
        until("an answer through the flow of before", LONG, || {
            sink.send(flow.seen, b"again");
            flow.hears(STRAGGLER).then_some(())
        });
    }
}
