//! The life of our client's session: what it survives, what it ends of, and what it says.

use std::net::{IpAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use mstunnel_tests::{
    Certificate, Client, Gateway, LONG, Netns, Network, Peer, Process, RunningClient, SHORT, Scripted, Setup,
    Stream, Visit, until,
};

type Start = fn(&Setup, &Network) -> Option<Gateway>;

const BOTH: [Start; 2] = [Setup::start_ours, Setup::start_ocserv];

/// Probes every second or two, so that a dead connection is found out within four.
fn lively() -> Setup {
    Setup::new().advanced("dpd", 2)
}

/// A proxy whose port 1080 leads to the corporate page.
fn proxy(network: &Network, gateway: &Gateway) -> Option<RunningClient> {
    Some(Client::to(network, 0, gateway, "proxy")?.as_alice().listen(1))
}

/// A page through the proxy.
fn page(network: &Network, path: &str) -> String {
    let url = format!("http://10.20.0.2/{path}");
    let common = ["--silent", "--show-error", "--noproxy", "none.example", "--max-time", "25"];
    let arguments = [&common[..], &["--socks5-hostname", "127.0.0.1:1080", &url]].concat();
    network.client(0).try_run("curl", &arguments, LONG).expect_success("curl")
}

/// A download through the proxy that takes `tenths` of a second.
fn slow_page(network: &Network, tenths: usize, directory: &std::path::Path) -> Process {
    let url = format!("http://10.20.0.2/slow/{tenths}");
    // Each piece is written as it comes.
    let arguments =
        ["--silent", "--show-error", "--no-buffer", "--noproxy", "none.example", "--max-time", "40"];
    let through = ["--socks5-hostname", "127.0.0.1:1080", &url];
    network.client(0).start("curl", &[&arguments[..], &through].concat(), directory)
}

/// Which address the session has: ours masquerades, so its own words count; ocserv does not.
fn address(network: &Network, gateway: &Gateway) -> String {
    match gateway.peer() {
        Peer::Mstunnel => {
            let users = gateway.show(network, "users");
            assert_eq!(users.as_array().map(Vec::len), Some(1), "{users}");
            format!("{} {}", users[0]["ipv4"], users[0]["ipv6"])
        }
        Peer::Ocserv => page(network, ""),
    }
}

/// Resets the server's connection with the client, as a middlebox that forgets does.
fn reset(network: &Network) {
    network.server().run("ss", &["--kill", "--tcp", "state", "established", "sport", "=", ":443"]);
}

/// Loses what comes from the client to the server's TLS port, until dropped.
struct Wall<'n>(&'n Netns);

impl<'n> Wall<'n> {
    fn build(server: &'n Netns) -> Self {
        let rules = "table inet mst_test_wall { chain input { type filter hook input priority -200; \
             iifname \"cli*\" tcp dport 443 drop; }; }";
        server.run("nft", &[rules]);
        Self(server)
    }
}

impl Drop for Wall<'_> {
    fn drop(&mut self) {
        self.0.run("nft", &["delete table inet mst_test_wall"]);
    }
}

/// Covers: statement 27, statement 43, P-006
#[test]
fn a_reset_connection_comes_back_with_its_address_and_its_downloads() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let Some(gateway) = start(&Setup::new(), &network) else { return };
        let Some(mut client) = proxy(&network, &gateway) else { return };
        let before = address(&network, &gateway);
        let mut download = slow_page(&network, 60, gateway.directory());
        download.wait_for(Stream::Stdout, ".", 5, SHORT);
        let wall = Wall::build(network.server());
        reset(&network);
        client.wait_for(Stream::Stderr, "connection lost", 1, SHORT);
        sleep(Duration::from_millis(500));
        drop(wall);
        client.wait_for(Stream::Stderr, "connected again", 1, LONG);
        assert_eq!(download.wait_end(LONG).code(), Some(0), "the download was cut");
        assert_eq!(download.text(Stream::Stdout).len(), 60);
        assert_eq!(address(&network, &gateway), before);
        assert_eq!(client.terminate().output.code, Some(0));
    }
}

/// Covers: statement 43, statement 45
#[test]
fn a_silent_network_is_found_out_by_dpd_and_survived() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let Some(gateway) = start(&lively(), &network) else { return };
        let Some(mut client) = proxy(&network, &gateway) else { return };
        let before = address(&network, &gateway);
        let wall = Wall::build(network.server());
        let cut = Instant::now();
        client.wait_for(Stream::Stderr, "connection lost", 1, SHORT);
        assert!(cut.elapsed() < Duration::from_secs(13), "DPD took {:?}", cut.elapsed());
        drop(wall);
        client.wait_for(Stream::Stderr, "connected again", 1, LONG);
        assert_eq!(address(&network, &gateway), before);
    }
}

/// The machine gets another address, as on the way from one network to the next.
///
/// Covers: statement 43, P-006, R4
#[test]
fn another_address_of_the_host_is_survived() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let Some(gateway) = start(&lively(), &network) else { return };
        let Some(mut client) = proxy(&network, &gateway) else { return };
        let before = address(&network, &gateway);
        network.server().run("ip", &["addr", "add", "198.18.0.1/24", "dev", "cli0"]);
        let netns = network.client(0);
        netns.run("ip", &["addr", "add", "198.18.0.2/24", "dev", "eth0"]);
        netns.run("ip", &["addr", "del", "192.0.2.2/30", "dev", "eth0"]);
        netns.run("ip", &["route", "add", "192.0.2.1", "via", "198.18.0.1", "src", "198.18.0.2"]);
        network.server().run("ip", &["addr", "del", "192.0.2.1/30", "dev", "cli0"]);
        network.server().run("ip", &["addr", "add", "192.0.2.1/32", "dev", "cli0"]);
        client.wait_for(Stream::Stderr, "connected again", 1, LONG);
        assert!(page(&network, "").starts_with("corporate page for "));
        assert_eq!(address(&network, &gateway), before);
    }
}

/// Stopped for longer than the server waits, like a laptop whose lid was closed.
///
/// Covers: statement 43, R4
#[test]
fn sleep_is_survived() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let Some(gateway) = start(&lively(), &network) else { return };
        let Some(mut client) = proxy(&network, &gateway) else { return };
        let before = address(&network, &gateway);
        client.pause();
        sleep(Duration::from_secs(9));
        client.resume();
        until("a page after the sleep", LONG, || {
            let arguments =
                ["--silent", "--max-time", "5", "--socks5-hostname", "127.0.0.1:1080", "http://10.20.0.2/"];
            let output = network.client(0).try_run("curl", &arguments, SHORT);
            output.stdout.starts_with("corporate page for ").then_some(())
        });
        assert_eq!(address(&network, &gateway), before);
        assert_eq!(client.terminate().output.code, Some(0));
    }
}

/// Covers: statement 43, R4
#[test]
fn a_server_that_starts_again_is_gone_back_to() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let Some(mut gateway) = start(&Setup::new(), &network) else { return };
        let Some(mut client) = proxy(&network, &gateway) else { return };
        let before = address(&network, &gateway);
        if gateway.peer() == Peer::Mstunnel {
            until("the stored session", SHORT, || {
                let stored = std::fs::read_to_string(gateway.directory().join("state/sessions.json")).ok()?;
                stored.contains("alice").then_some(())
            });
        }
        gateway.kill();
        client.wait_for(Stream::Stderr, "connection lost", 1, SHORT);
        sleep(Duration::from_millis(1_500));
        gateway.start_again(&network);
        client.wait_for(Stream::Stderr, "connected again", 1, LONG);
        assert!(page(&network, "").starts_with("corporate page for "));
        if gateway.peer() == Peer::Mstunnel {
            assert_eq!(address(&network, &gateway), before);
        } else {
            // It forgets its sessions: the cookie is refused, and the password file signs in again.
            client.wait_for(Stream::Stderr, "signing in again", 1, SHORT);
        }
    }
}

/// Covers: statement 20, statement 43
#[test]
fn a_session_that_the_server_ends_is_over() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let Some(gateway) = start(&Setup::new(), &network) else { return };
        let Some(client) = proxy(&network, &gateway) else { return };
        gateway.disconnect(&network, "alice");
        let ended = client.end();
        let text = ended.output.stderr.clone();
        ended.expect_failure("the server ended the session");
        assert!(!text.contains("connected again"), "{text}");
    }
}

/// Covers: statement 43
#[test]
fn a_server_that_does_not_come_back_is_given_up_in_time() {
    let Some(network) = Network::new() else { return };
    let Some(mut gateway) = Setup::new().start_ours(&network) else { return };
    for is_mute in [false, true] {
        let Some(client) = Client::to(&network, 0, &gateway, "proxy") else { return };
        let client = client.as_alice().arguments(&["--reconnect-timeout", "5"]).listen(1);
        // Nobody listens any more, and then nobody even answers.
        let _wall = is_mute.then(|| Wall::build(network.server()));
        gateway.kill();
        let start = Instant::now();
        if is_mute {
            network.client(0).run("ss", &["--kill", "--tcp", "dst", "192.0.2.1"]);
        }
        client.end().expect_failure("cannot be reached any more");
        let took = start.elapsed();
        // Five seconds were asked for; without them it would be five minutes.
        assert!(took < LONG, "given up after {took:?}");
        gateway.start_again(&network);
    }
}

// Scripted servers: what no real one does when it is asked.

struct Site {
    network: Network,
    certificate: Certificate,
}

fn site() -> Option<Site> {
    let network = Network::new()?;
    let certificate = Certificate::for_addresses(&network.server_addresses());
    Some(Site { network, certificate })
}

impl Site {
    fn serve(&self, script: impl Fn(&mut Visit) + Send + Sync + 'static) -> Scripted {
        Scripted::start(&self.network, 443, &self.certificate, script)
    }

    fn client(&self, arguments: &[&str]) -> Option<Client<'_>> {
        let url = format!("https://{}", self.network.ports(0).server_v4);
        let client = Client::at(self.network.client(0), "proxy", &url)?.authority(&self.certificate);
        Some(client.as_alice().secret("TOKEN@1@2").arguments(arguments))
    }
}

/// Ends the session, and waits until the client has gone.
fn end(visit: &mut Visit) {
    visit.frame(5, b"\xb0bye");
    visit.stall();
}

/// Covers: statement 45
#[test]
fn dpd_is_answered_with_its_own_bytes_and_sent_in_silence() {
    let Some(site) = site() else { return };
    let _server = site.serve(|visit| {
        if !visit.until_connect() {
            return;
        }
        visit.tunnel(1400, "X-CSTP-DPD: 1\r\n");
        visit.frame(3, b"forty-two");
        let is_answered = visit.hear_frame(SHORT) == Some((4, b"forty-two".to_vec()));
        let silent_since = Instant::now();
        let is_asked = matches!(visit.hear_frame(SHORT), Some((3, _)));
        let is_in_time = silent_since.elapsed() < Duration::from_secs(3);
        if is_answered && is_asked && is_in_time {
            end(visit);
        }
        // Closed without a word: the client comes back, and the test waits in vain for its end.
    });
    let Some(client) = site.client(&["--reconnect-timeout", "2"]) else { return };
    client.run().expect_failure("the server ended the session");
}

/// Covers: statement 40, statement 44
#[test]
fn keys_that_are_old_make_a_new_connection_with_the_same_cookie_and_no_goodbye() {
    let Some(site) = site() else { return };
    for method in ["new-tunnel", "ssl"] {
        let server = site.serve(move |visit| {
            let cookie = "Cookie: webvpn=TOKEN@1@2\r\n";
            // A session is signed in once; later connections begin with CONNECT.
            let request = visit.request().unwrap_or_default();
            let request = if visit.number == 0 {
                visit.admit();
                visit.request().unwrap_or_default()
            } else {
                request
            };
            if !request.starts_with("CONNECT ") || !request.contains(cookie) {
                return;
            }
            visit.tunnel(1400, &format!("X-CSTP-Rekey-Time: 1\r\nX-CSTP-Rekey-Method: {method}\r\n"));
            if visit.number == 2 {
                end(visit);
                return;
            }
            let start = Instant::now();
            let next = visit.hear_frame(SHORT);
            assert!(next.is_none(), "{next:?} before the new connection");
            assert!(start.elapsed() < Duration::from_secs(10), "no new keys");
        });
        let Some(client) = site.client(&[]) else { return };
        client.run().expect_failure("the server ended the session");
        assert_eq!(server.visits(), 3, "{method}");
    }
}

/// The same with real servers, whose times have some seconds of chance in them, in the middle of a download.
///
/// Covers: statement 44
#[test]
fn new_keys_cut_no_download() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let setup = Setup::new().advanced("rekey-time", 4).advanced("rekey-method", "new-tunnel");
        let Some(gateway) = start(&setup, &network) else { return };
        let Some(mut client) = proxy(&network, &gateway) else { return };
        let before = address(&network, &gateway);
        let mut download = slow_page(&network, 80, gateway.directory());
        client.wait_for(Stream::Stderr, "connected again", 1, LONG);
        assert_eq!(download.wait_end(LONG).code(), Some(0), "the download was cut");
        assert_eq!(download.text(Stream::Stdout).len(), 80);
        assert_eq!(address(&network, &gateway), before);
    }
}

/// Covers: statement 40, statement 43
#[test]
fn no_frame_that_ends_a_session_is_followed_by_a_reconnect_and_a_farewell_says_why() {
    let Some(site) = site() else { return };
    for (kind, payload) in [(5, &b""[..]), (5, b"\xb0text"), (9, b""), (9, b"\x1b[2Jtext")] {
        let server = site.serve(move |visit| {
            if visit.until_connect() {
                visit.tunnel(1400, "");
                visit.frame(kind, payload);
                visit.stall();
            }
        });
        let Some(client) = site.client(&[]) else { return };
        client.run().expect_failure("the server ended the session");
        assert_eq!(server.visits(), 1, "after type {kind}");
    }
    let (sender, heard) = std::sync::mpsc::channel();
    let _server = site.serve(move |visit| {
        if visit.until_connect() {
            visit.tunnel(1400, "");
            sender.send(visit.hear_frame(LONG)).ok();
        }
    });
    let Some(client) = site.client(&[]) else { return };
    let ended = client.listen(1).terminate();
    assert_eq!(ended.output.code, Some(0), "{:?}", ended.output);
    let (kind, payload) = heard.recv_timeout(SHORT).expect("the script ran").expect("a farewell");
    assert_eq!((kind, payload.first()), (5, Some(&0xB0)));
}

/// Covers: R63
#[test]
fn a_server_that_never_stops_sending_is_left_all_the_same() {
    let Some(site) = site() else { return };
    let _server = site.serve(|visit| {
        if visit.until_connect() {
            visit.tunnel(1400, "");
            visit.flood(&b"STF\x01\0\0\x07\0".repeat(1_000));
        }
    });
    let Some(client) = site.client(&["-vv"]) else { return };
    let ended = client.listen(1).terminate();
    assert_eq!(ended.output.code, Some(0), "{:?}", ended.output);
    // Else the tunnel is dropped after a while without a word.
    assert!(ended.output.stderr.contains("link ended end=Left"), "{:?}", ended.output);
}

/// 401 is final, 503 is not; what the server says is shown.
///
/// Covers: statement 21, statement 43
#[test]
fn a_busy_server_is_tried_again_and_a_dead_cookie_is_not() {
    let Some(site) = site() else { return };
    let server = site.serve(|visit| match visit.number {
        0 => {
            visit.until_connect();
            visit.tunnel(1400, "");
        }
        1 => {
            visit.request();
            visit.send(b"HTTP/1.1 503 Service Unavailable\r\nX-Reason: draining\r\n\r\n");
        }
        2 => {
            visit.request();
            visit.tunnel(1400, "");
        }
        _ => {
            visit.request();
            visit.send(b"HTTP/1.1 401 Cookie is not acceptable\r\n\r\n");
        }
    });
    let Some(client) = site.client(&[]) else { return };
    let ended = client.run();
    assert!(ended.output.stderr.contains("draining"), "{:?}", ended.output);
    ended.expect_failure("the session is over");
    // The last is the new sign-in with the password file, which is refused as well.
    assert_eq!(server.visits(), 5);
}

/// Covers: statement 43, R63
#[test]
fn a_server_that_opens_tunnels_and_closes_them_is_given_up_in_time() {
    let Some(site) = site() else { return };
    let server = site.serve(|visit| {
        if visit.until_connect() {
            visit.tunnel(1400, "");
        }
    });
    let Some(client) = site.client(&["--reconnect-timeout", "5"]) else { return };
    client.run().expect_failure("cannot be reached any more");
    // At first, at once, and after about one, two and four seconds.
    let visits = server.visits();
    assert!((3..=6).contains(&visits), "{visits} visits");
}

/// A hotel's sign-in page answers in the server's place for a while: nothing is told to it, and nothing ends.
///
/// Covers: statement 43, R61, R68
#[test]
fn a_stranger_in_the_servers_place_is_waited_out() {
    let Some(site) = site() else { return };
    let server = site.serve(|visit| {
        visit.until_connect();
        visit.tunnel(1400, "");
        visit.hear_frame(Duration::from_millis(500));
    });
    let Some(client) = site.client(&[]) else { return };
    let mut client = client.listen(1);
    until("the first connection", SHORT, || (server.visits() >= 1).then_some(()));
    drop(server);
    let hotel = Certificate::for_names(&["hotel.example"]);
    let hotel = Scripted::start(&site.network, 443, &hotel, |visit| {
        assert!(visit.request().is_none(), "the client told a stranger something");
    });
    client.wait_for(Stream::Stderr, "cannot trust", 1, LONG);
    drop(hotel);
    let _server = site.serve(|visit| {
        if visit.request().is_some_and(|request| request.starts_with("CONNECT ")) {
            visit.tunnel(1400, "");
            end(visit);
        }
    });
    client.end().expect_failure("the server ended the session");
}

/// Covers: R67, R68
#[test]
fn nothing_goes_around_a_tunnel_that_is_being_built_anew() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let Some(client) = Client::to(&network, 0, &gateway, "proxy") else { return };
    let mut client = client.as_alice().arguments(&["--bypass", "direct"]).listen(1);
    // The local network claims a corporate address, and answers.
    network.client(0).run("ip", &["addr", "add", "10.20.0.2/32", "dev", "lo"]);
    let here: IpAddr = Network::CORPORATE_V4.into();
    let decoy = network.client(0).with(|| TcpListener::bind((here, 80))).expect("the port is free");
    decoy.set_nonblocking(true).expect("a socket");
    assert!(page(&network, "").starts_with("corporate page for "));
    let wall = Wall::build(network.server());
    reset(&network);
    client.wait_for(Stream::Stderr, "connection lost", 1, SHORT);
    let arguments =
        ["--silent", "--max-time", "2", "--socks5-hostname", "127.0.0.1:1080", "http://10.20.0.2/"];
    let output = network.client(0).try_run("curl", &arguments, SHORT);
    assert_ne!(output.code, Some(0), "{output:?}");
    drop(wall);
    client.wait_for(Stream::Stderr, "connected again", 1, LONG);
    assert!(page(&network, "").starts_with("corporate page for "));
    assert!(decoy.accept().is_err(), "the decoy was visited");
    // It does listen.
    network.client(0).with(|| TcpStream::connect((here, 80))).expect("the decoy listens");
}
