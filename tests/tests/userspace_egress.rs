//! Egress through ordinary sockets: a server without root, capabilities or TUN, and stock clients.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use mstunnel_tests::{
    Frame, Gateway, Heard, Inner, LONG, Netns, Network, Openconnect, Process, RawClient, SHORT, Setup,
    Stream, TunnelAnswer, icmp_echo, udp, uninterrupted, until,
};
use serde_json::json;

const PASSWORD: &str = "secret of alice";

/// Where the test's own service of the corporate host listens.
const SERVICE: u16 = 7000;

fn both_families() -> [IpAddr; 2] {
    [Network::CORPORATE_V4.into(), Network::CORPORATE_V6.into()]
}

/// Byte `at` of a stream.
fn pattern(seed: u8, at: usize) -> u8 {
    let mixed = at.wrapping_mul(31).wrapping_add(at / 253).wrapping_add(usize::from(seed));
    u8::try_from(mixed % 256).expect("below 256")
}

/// Listens in `netns` and serves each connection in a thread of its own, until the test ends.
fn serve(netns: &Netns, port: u16, serve: impl Fn(TcpStream) + Send + Clone + 'static) {
    let listener = netns.with(|| TcpListener::bind(("::", port))).expect("the port is free");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || {
                stream.set_read_timeout(Some(LONG)).ok();
                stream.set_write_timeout(Some(LONG)).ok();
                serve(stream);
            });
        }
    });
}

/// Reads a seed and a length, sends so many bytes, and closes.
fn send_pattern(mut stream: TcpStream) {
    let mut request = [0; 9];
    if stream.read_exact(&mut request).is_err() {
        return;
    }
    let [seed, length @ ..] = request;
    let length = usize::try_from(u64::from_be_bytes(length)).expect("a length of this test");
    let body: Vec<u8> = (0..length).map(|at| pattern(seed, at)).collect();
    stream.write_all(&body).ok();
}

fn dial(netns: &Netns, to: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = netns.with(|| TcpStream::connect_timeout(&to, limit))?;
    stream.set_read_timeout(Some(LONG))?;
    stream.set_write_timeout(Some(LONG))?;
    Ok(stream)
}

fn ask(stream: &mut TcpStream, seed: u8, length: usize) -> io::Result<()> {
    let mut request = vec![seed];
    request.extend(u64::try_from(length).expect("a small length").to_be_bytes());
    stream.write_all(&request)
}

fn tunnel(network: &Network, gateway: &Gateway) -> (RawClient, TunnelAnswer) {
    let mut raw = gateway.raw(network);
    let cookie = raw.cookie("alice", PASSWORD);
    let tunnel = raw.open_tunnel(&cookie);
    (raw, tunnel)
}

fn capabilities(id: u32) -> Vec<String> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("the server runs");
    status
        .lines()
        .filter(|line| line.starts_with("Cap") || line.starts_with("Uid"))
        .map(str::to_owned)
        .collect()
}

/// Covers: R44
#[test]
fn a_server_without_any_privilege_carries_pages_and_pings_of_both_families() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().userspace().start_ours(&network) else { return };
    for line in capabilities(gateway.id()) {
        let zeroes = line.split_whitespace().skip(1).all(|value| value.trim_matches('0').is_empty());
        assert!(line.starts_with("Uid:\t65534\t65534\t65534") || zeroes, "{line}");
    }
    let interfaces = network.server().run("ip", &["-brief", "link"]);
    assert!(!interfaces.contains("mst0"), "{interfaces}");
    let _client = Openconnect::alice(&network, &gateway);
    for (target, seen) in both_families().into_iter().zip(["10.20.0.1", "fd00:20::1"]) {
        let page = network.client(0).page(target, "");
        assert_eq!(page, format!("corporate page for {seen}\n"));
        assert_eq!(network.client(0).page(target, "bytes/3000000").len(), 3_000_000);
        network.client(0).ping(target);
    }
    // The server's own inside addresses answer, and nothing else does there.
    for own in ["10.77.0.1", "fd00:77::1"] {
        network.client(0).run("ip", &["route", "replace", own, "dev", "tun0"]);
        network.client(0).ping(own.parse().expect("an address"));
        let refused = dial(network.client(0), SocketAddr::new(own.parse().expect("an address"), 80), SHORT);
        assert_eq!(refused.map(drop).map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionRefused));
    }
    assert_eq!(gateway.drops(&network, "malformed"), 0);
}

/// Covers: R43
#[test]
fn a_client_without_root_fetches_a_page_with_ocproxy() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().userspace().start_ours(&network) else { return };
    let client = network.client(0);
    let mut command = client.command_as_nobody("openconnect");
    command.args(["--non-inter", "--no-dtls", "--user=alice", "--passwd-on-stdin", "--script-tun"]);
    command.args(["--script", "ocproxy --dynfw 11080"]);
    command.arg(format!("--servercert={}", gateway.certificate().pin()));
    command.arg(format!("https://{}", gateway.address(&network, 0)));
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let input = format!("{PASSWORD}\n");
    let mut openconnect = Process::start("openconnect", command, directory.path(), input.as_bytes());
    let proxy = SocketAddr::from((Ipv4Addr::LOCALHOST, 11_080));
    until("ocproxy", LONG, || {
        assert!(openconnect.has_ended().is_none(), "{}", openconnect.output());
        client.with(|| TcpStream::connect(proxy).ok())
    });
    for path in ["", "bytes/2000000"] {
        let url = format!("http://10.20.0.2/{path}");
        let arguments = ["--silent", "--show-error", "--max-time", "30", "--socks5", "127.0.0.1:11080", &url];
        let page = client.try_run("curl", &arguments, LONG).expect_success("curl");
        let wanted =
            if path.is_empty() { page == "corporate page for 10.20.0.1\n" } else { page.len() == 2_000_000 };
        assert!(wanted, "{} bytes came", page.len());
    }
}

#[test]
fn datagrams_go_both_ways_and_a_closed_port_is_told() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().userspace().start_ours(&network) else { return };
    let _client = Openconnect::alice(&network, &gateway);
    let sink = network.corporate().udp_sink(5353);
    for target in both_families() {
        let socket =
            network.client(0).with(|| UdpSocket::bind(if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }));
        let socket = socket.expect("a free port");
        socket.set_read_timeout(Some(SHORT)).expect("a limit above zero");
        socket.connect((target, 5353)).expect("a route");
        for payload in [&b""[..], b"question", &[7; 1_200]] {
            socket.send(payload).expect("a datagram leaves");
            let (from, seen) = sink.receive(SHORT).expect("the datagram arrives");
            assert_eq!(seen, payload);
            sink.send(from, &[payload, b"!"].concat());
            let mut answer = [0; 2_000];
            let len = uninterrupted(|| socket.recv(&mut answer)).expect("an answer");
            assert_eq!(answer[..len], [payload, b"!"].concat());
        }
        socket.connect((target, 5354)).expect("a route");
        socket.send(b"nobody").expect("a datagram leaves");
        let refused = uninterrupted(|| socket.recv(&mut [0; 10])).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::ConnectionRefused), "{target}");
    }
}

/// Nobody answers for these addresses on the server's link: its kernel says so after a few seconds.
#[test]
fn a_datagram_to_a_host_that_is_not_there_is_answered() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().userspace().start_ours(&network) else { return };
    let (mut raw, leases) = tunnel(&network, &gateway);
    for (from, to, kind) in [
        (IpAddr::from(leases.v4()), "10.20.0.99:5353", [3, 1]),
        (leases.v6().into(), "[fd00:20::99]:5353", [1, 3]),
    ] {
        let packet = udp(SocketAddr::new(from, 40_000), to.parse().expect("an address"), b"anybody?");
        let header = if from.is_ipv4() { 20 } else { 40 };
        raw.send_packet(&packet);
        until("host unreachable", LONG, || {
            let Heard::Record(record) = raw.hear(SHORT) else { return None };
            let answer = Frame::from_record(&record).expect("a frame").payload;
            (answer.get(header..header + 2) == Some(&kind[..])).then_some(())
        });
    }
}

#[test]
fn names_are_resolved_through_the_tunnel() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().userspace().start_ours(&network) else { return };
    let corporate = network.corporate().netns();
    corporate.run("ip", &["addr", "add", "10.20.0.53/24", "dev", "eth0"]);
    let arguments = [
        "--no-daemon",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        "--pid-file=",
        "--bind-interfaces",
        "--listen-address=10.20.0.53",
        "--host-record=web.corp.example,10.20.0.2",
    ];
    let mut names = corporate.start("dnsmasq", &arguments, gateway.directory());
    names.wait_for(Stream::Stderr, "started", 1, SHORT);
    let _client = Openconnect::alice(&network, &gateway);
    let question =
        b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03web\x04corp\x07example\x00\x00\x01\x00\x01";
    let socket = network.client(0).with(|| UdpSocket::bind("0.0.0.0:0")).expect("a free port");
    socket.set_read_timeout(Some(SHORT)).expect("a limit above zero");
    socket.send_to(question, "10.20.0.53:53").expect("a datagram leaves");
    let mut answer = [0; 512];
    let len = uninterrupted(|| socket.recv(&mut answer)).expect("an answer");
    assert_eq!(answer[..2], question[..2]);
    assert_eq!(answer[len - 4..len], [10, 20, 0, 2]);
    let mut stream =
        dial(network.client(0), "10.20.0.53:53".parse().expect("an address"), SHORT).expect("dnsmasq");
    let framed = [&u16::try_from(question.len()).expect("short").to_be_bytes()[..], question].concat();
    stream.write_all(&framed).expect("room");
    stream.read_exact(&mut answer[..2]).expect("an answer over TCP");
}

#[test]
fn refused_and_unreachable_connections_fail_as_they_would_without_a_tunnel() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().userspace().start_ours(&network) else { return };
    let _client = Openconnect::alice(&network, &gateway);
    for target in both_families() {
        let start = Instant::now();
        let refused = dial(network.client(0), SocketAddr::new(target, 81), SHORT).map(drop);
        assert_eq!(refused.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionRefused), "{target}");
        // Not the fifteen seconds after which the server gives up.
        assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    }
    for nobody in ["10.20.0.77:80", "[fd00:20::77]:80"] {
        // The server's kernel asks three seconds for the neighbour.
        let outcome = dial(network.client(0), nobody.parse().expect("an address"), SHORT).map(drop);
        assert_eq!(outcome.map_err(|error| error.kind()), Err(io::ErrorKind::HostUnreachable), "{nobody}");
    }
}

/// Covers: R42, R43, P-066
#[test]
fn the_host_itself_and_special_addresses_are_closed_unless_listed() {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new().userspace().key("egress", "allow", "[\"10.20.0.1:2222\", \"127.0.0.2:9000\"]");
    let setup = setup.set("routeIncludes", json!([]));
    let Some(gateway) = setup.start_ours(&network) else { return };
    let server = network.server();
    for port in [2222, 2223] {
        serve(server, port, |mut stream| drop(stream.write_all(b"the host's own")));
    }
    let loopback = server.with(|| UdpSocket::bind("0.0.0.0:9000")).expect("the port is free");
    loopback.set_read_timeout(Some(Duration::from_millis(500))).expect("a limit above zero");

    let (mut raw, leases) = tunnel(&network, &gateway);
    let from = SocketAddr::new(leases.v4().into(), 5000);
    for (count, to) in
        ["127.0.0.1:9000", "10.20.0.1:9000", "169.254.169.254:9000", "0.0.0.0:9000", "127.0.0.2:9001"]
            .iter()
            .enumerate()
    {
        raw.send_packet(&udp(from, to.parse().expect("an address"), b"let me in"));
        until("the drop", SHORT, || {
            (gateway.drops(&network, "not_permitted") > u64::try_from(count).expect("few")).then_some(())
        });
    }
    let v6 = SocketAddr::new(leases.v6().into(), 5000);
    for to in ["[::1]:9000", "[::ffff:127.0.0.1]:9000", "[fd00:20::1]:9000", "[fe80::1]:9000"] {
        raw.send_packet(&udp(v6, to.parse().expect("an address"), b"let me in"));
    }
    raw.send_packet(&icmp_echo(leases.v4().into(), "127.0.0.1".parse().expect("an address"), 1, b"ping"));
    until("ten drops", SHORT, || (gateway.drops(&network, "not_permitted") == 10).then_some(()));
    let nothing = uninterrupted(|| loopback.recv(&mut [0; 20]));
    assert!(nothing.is_err(), "something got through");
    loopback.set_read_timeout(Some(SHORT)).expect("a limit above zero");
    raw.send_packet(&udp(from, "127.0.0.2:9000".parse().expect("an address"), b"listed"));
    let mut seen = [0; 20];
    assert_eq!(uninterrupted(|| loopback.recv(&mut seen)).expect("what is listed arrives"), 6);
    drop(raw);

    let _client = Openconnect::alice(&network, &gateway);
    let mut text = String::new();
    let listed = dial(network.client(0), "10.20.0.1:2222".parse().expect("an address"), SHORT);
    listed.expect("what is listed is open").read_to_string(&mut text).expect("text");
    assert_eq!(text, "the host's own");
    for closed in ["10.20.0.1:2223", "10.20.0.1:8443", "[fd00:20::1]:8443"] {
        let outcome =
            dial(network.client(0), closed.parse().expect("an address"), Duration::from_secs(2)).map(drop);
        assert_eq!(outcome.map_err(|error| error.kind()), Err(io::ErrorKind::TimedOut), "{closed}");
    }
}

#[test]
fn a_published_service_is_found_at_its_inside_address_and_nowhere_else() {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new()
        .userspace()
        .set("routeIncludes", json!(["198.18.0.80/32", "fd00:80::80/128", "10.20.0.0/24"]))
        .advanced("restrict-user-to-routes", "true")
        .key("egress.publish", "\"198.18.0.80:80\"", "\"127.0.0.1:34567\"")
        .key("egress.publish", "\"[fd00:80::80]:80\"", "\"127.0.0.1:34567\"");
    let Some(gateway) = setup.start_ours(&network) else { return };
    serve(network.server(), 34_567, |mut stream| drop(stream.write_all(b"intranet")));
    let _client = Openconnect::alice(&network, &gateway);
    for inside in ["198.18.0.80", "fd00:80::80"] {
        let inside: IpAddr = inside.parse().expect("an address");
        network.client(0).ping(inside);
        let mut text = String::new();
        let stream = dial(network.client(0), SocketAddr::new(inside, 80), SHORT);
        stream.expect("it is published").read_to_string(&mut text).expect("text");
        assert_eq!(text, "intranet");
        let other = dial(network.client(0), SocketAddr::new(inside, 81), SHORT).map(drop);
        assert_eq!(other.map_err(|error| error.kind()), Err(io::ErrorKind::ConnectionRefused));
    }
}

/// Covers: P-080, R83
#[test]
fn a_hundred_downloads_at_once_arrive_byte_for_byte() {
    const LENGTH: usize = 300_000;
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().userspace().start_ours(&network) else { return };
    serve(network.corporate().netns(), SERVICE, send_pattern);
    let _client = Openconnect::alice(&network, &gateway);
    let client = network.client(0);
    thread::scope(|scope| {
        for seed in 0..100_u8 {
            let to = SocketAddr::new(both_families()[usize::from(seed % 2)], SERVICE);
            scope.spawn(move || {
                let mut stream = dial(client, to, LONG).expect("a connection");
                ask(&mut stream, seed, LENGTH).expect("room");
                let mut body = Vec::new();
                stream.read_to_end(&mut body).expect("an orderly end");
                assert_eq!(body.len(), LENGTH, "stream {seed}");
                assert!(
                    body.iter().enumerate().all(|(at, &byte)| byte == pattern(seed, at)),
                    "stream {seed}"
                );
            });
        }
    });
}

#[test]
fn each_half_of_a_connection_closes_by_itself_and_a_reset_passes_both_ways() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().userspace().start_ours(&network) else { return };
    let corporate = network.corporate().netns();
    // Hears everything, then says it all back.
    serve(corporate, SERVICE, |mut stream| {
        let mut heard = Vec::new();
        if stream.read_to_end(&mut heard).is_ok() {
            stream.write_all(&heard).ok();
        }
    });
    // Speaks first, then listens, and tells what it has heard to the next one who asks.
    let (told, tell) = std::sync::mpsc::channel();
    serve(corporate, SERVICE + 1, move |mut stream| {
        stream.write_all(b"only this").ok();
        stream.shutdown(Shutdown::Write).ok();
        let mut heard = Vec::new();
        let outcome = stream.read_to_end(&mut heard).map_err(|error| error.kind());
        told.send(outcome.map(|_| heard)).ok();
    });
    // Resets: it closes with bytes unread.
    serve(corporate, SERVICE + 2, |stream| {
        let mut peeked = [0; 1];
        stream.peek(&mut peeked).ok();
    });
    let _client = Openconnect::alice(&network, &gateway);
    let to = |port| SocketAddr::new(Network::CORPORATE_V4.into(), port);
    let client = network.client(0);

    let mut stream = dial(client, to(SERVICE), SHORT).expect("a connection");
    let said: Vec<u8> = (0..500_000).map(|at| pattern(3, at)).collect();
    stream.write_all(&said).expect("room");
    stream.shutdown(Shutdown::Write).expect("an open half");
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).expect("an orderly end");
    assert!(heard == said, "{} of {} bytes", heard.len(), said.len());

    let mut stream = dial(client, to(SERVICE + 1), SHORT).expect("a connection");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("text");
    assert_eq!(text, "only this");
    stream.write_all(b"and an answer").expect("the other half is open");
    drop(stream);
    assert_eq!(tell.recv_timeout(SHORT), Ok(Ok(b"and an answer".to_vec())));

    let mut stream = dial(client, to(SERVICE + 2), SHORT).expect("a connection");
    stream.write_all(b"unwanted").expect("room");
    let reset = uninterrupted(|| stream.read(&mut [0; 10])).map_err(|error| error.kind());
    assert_eq!(reset, Err(io::ErrorKind::ConnectionReset));

    // The client resets: it closes with bytes unread.
    let stream = dial(client, to(SERVICE + 1), SHORT).expect("a connection");
    let mut peeked = [0; 1];
    uninterrupted(|| stream.peek(&mut peeked)).expect("a byte");
    drop(stream);
    assert_eq!(tell.recv_timeout(SHORT), Ok(Err(io::ErrorKind::ConnectionReset)));
}

/// Covers: R55
#[test]
fn a_connection_that_is_not_read_stalls_itself_alone() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().userspace().start_ours(&network) else { return };
    serve(network.corporate().netns(), SERVICE, send_pattern);
    let _client = Openconnect::alice(&network, &gateway);
    let to = SocketAddr::new(Network::CORPORATE_V4.into(), SERVICE);
    const LONG_BODY: usize = 20_000_000;
    let mut slow = dial(network.client(0), to, SHORT).expect("a connection");
    ask(&mut slow, 1, LONG_BODY).expect("room");
    // Not reading: its window closes, and the server reads no more for it.
    let memory = || {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", gateway.id())).expect("the server runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("a line");
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<usize>().ok()).expect("a number")
    };
    let before = memory();
    for seed in 2..6 {
        let start = Instant::now();
        let mut other = dial(network.client(0), to, SHORT).expect("a connection");
        ask(&mut other, seed, 1_000_000).expect("room");
        let mut body = Vec::new();
        other.read_to_end(&mut body).expect("an orderly end");
        assert_eq!(body.len(), 1_000_000);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    }
    assert!(memory() < before + 10_000, "{before} kB became {} kB", memory());
    let mut body = Vec::new();
    slow.read_to_end(&mut body).expect("an orderly end");
    assert_eq!(body.len(), LONG_BODY);
    assert!(body.iter().enumerate().all(|(at, &byte)| byte == pattern(1, at)));
}

/// Covers: R59, R71
#[test]
fn everything_ends_with_the_session() {
    let Some(network) = Network::new() else { return };
    let Some(mut gateway) = Setup::new().userspace().start_ours(&network) else { return };
    let (told, tell) = std::sync::mpsc::channel();
    serve(network.corporate().netns(), SERVICE, move |mut stream| {
        let outcome = uninterrupted(|| stream.read(&mut [0; 10])).map_err(|error| error.kind());
        told.send(outcome).ok();
    });
    let before = gateway.descriptors_at_rest();
    let client = Openconnect::alice(&network, &gateway);
    let to = SocketAddr::new(Network::CORPORATE_V4.into(), SERVICE);
    let connections: Vec<TcpStream> =
        (0..20).map(|_| dial(network.client(0), to, SHORT).expect("a connection")).collect();
    network.client(0).ping(Network::CORPORATE_V4.into());
    assert!(gateway.descriptors() >= before + 22);
    drop(client);
    for _ in 0..20 {
        // Not an orderly end: what was sent may be cut.
        assert_eq!(tell.recv_timeout(SHORT), Ok(Err(io::ErrorKind::ConnectionReset)));
    }
    until("the last descriptor", SHORT, || (gateway.descriptors() == before).then_some(()));
    drop(connections);
    assert!(gateway.terminate().success());
}

/// Covers: R47, P-071
#[test]
fn a_greedy_session_loses_its_own_flows_and_another_has_no_failure() {
    let Some(mut network) = Network::new() else { return };
    let second = network.add_client();
    let setup = Setup::new().userspace().user("bob", "secret of bob", &[]);
    let Some(gateway) = setup.start_ours(&network) else { return };
    serve(network.corporate().netns(), SERVICE, send_pattern);
    let bob = Openconnect::to(&network, second, &gateway).argument("--no-dtls");
    let _bob = bob.password("bob", "secret of bob").connect();
    let (mut raw, leases) = tunnel(&network, &gateway);
    let to = SocketAddr::new(Network::CORPORATE_V4.into(), 9);
    for round in 0..10_u16 {
        for port in 0..500 {
            let from = SocketAddr::new(leases.v4().into(), 10_000 + 500 * round + port);
            raw.send_packet(&udp(from, to, b"flood"));
        }
        let mut stream =
            dial(network.client(second), SocketAddr::new(to.ip(), SERVICE), SHORT).expect("a connection");
        ask(&mut stream, 5, 50_000).expect("room");
        let mut body = Vec::new();
        stream.read_to_end(&mut body).expect("an orderly end");
        assert_eq!(body.len(), 50_000);
        let open = gateway.descriptors();
        // Its flows, some that are ending, and what the server has anyway.
        assert!(open < 256 + 64 + 60, "{open} descriptors");
    }
    // The greedy one still has what it is entitled to.
    let echo = icmp_echo(leases.v4().into(), to.ip(), 1, b"still here");
    until("an echo", LONG, || {
        // Its queue may still be full of what its flood brought.
        raw.send_packet(&echo);
        while let Heard::Record(record) = raw.hear(Duration::from_millis(500)) {
            let packet = Frame::from_record(&record).expect("a frame").payload;
            if Inner::parse(&packet).is_some_and(|inner| inner.echo_reply() == Some(b"still here")) {
                return Some(());
            }
        }
        None
    });
}

#[test]
fn echo_answers_keep_identifier_sequence_and_payload() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().userspace().start_ours(&network) else { return };
    let (mut raw, leases) = tunnel(&network, &gateway);
    for (from, to) in [
        (IpAddr::from(leases.v4()), IpAddr::from(Network::CORPORATE_V4)),
        (leases.v6().into(), Network::CORPORATE_V6.into()),
    ] {
        for sequence in 1..4 {
            let payload = vec![u8::try_from(sequence).expect("few"); 1_000];
            let request = icmp_echo(from, to, sequence, &payload);
            raw.send_packet(&request);
            let answer = until("the answer", SHORT, || {
                let frame = raw.frame(SHORT);
                Inner::parse(&frame.payload).and_then(|inner| inner.echo_reply().map(<[u8]>::to_vec))
            });
            assert_eq!(answer, payload);
        }
    }
}

/// Covers: R76
#[test]
fn what_is_missing_is_said_at_the_start() {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new().userspace();
    let Some(mut gateway) = setup.start_ours(&network) else { return };
    assert!(!gateway.log().contains("ping_group_range"), "{}", gateway.log());
    assert!(gateway.terminate().success());
    network.server().write_sysctl("net/ipv4/ping_group_range", "1 0");
    gateway.start_again(&network);
    let advice = "sysctl -w net.ipv4.ping_group_range";
    until("the advice", SHORT, || gateway.log().contains(advice).then_some(()));
    let _client = Openconnect::alice(&network, &gateway);
    assert!(!network.client(0).reaches(Network::CORPORATE_V4.into()));
    assert_eq!(network.client(0).page(Network::CORPORATE_V4.into(), ""), "corporate page for 10.20.0.1\n");
}
