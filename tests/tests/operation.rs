//! Starting, looking, changing, stopping; and what happens at the limits of the machine.

use std::io::Write;
use std::net::TcpStream;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mstunnel_tests::{
    FrameType, Heard, LONG, Network, Openconnect, Peer, RawClient, SHORT, Setup, program, run_server, until,
};
use serde_json::{Value, json};

const PASSWORD: &str = "secret of alice";

/// Covers: statement 42, R32
#[test]
fn mst_cli_shows_the_user_and_disconnects_it_for_good() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let cookie = Openconnect::to(&network, 0, &gateway).password("alice", PASSWORD).authenticate();
    let mut client = Openconnect::to(&network, 0, &gateway).argument("--no-dtls").cookie(&cookie).connect();
    network.client(0).ping(Network::CORPORATE_V4.into());
    let users = gateway.show(&network, "users");
    let user = &users[0];
    assert_eq!(users.as_array().map(Vec::len), Some(1), "{users}");
    assert_eq!(user["user"], "alice");
    assert_eq!(user["channel"], "tls");
    assert_eq!(user["ipv4"], client.environment().get("INTERNAL_IP4_ADDRESS"));
    assert_eq!(user["ipv6"], client.environment().get("INTERNAL_IP6_ADDRESS"));
    let remote = user["remote"].as_str().unwrap_or_default();
    assert!(remote.starts_with(&network.ports(0).client_v4.to_string()), "{remote}");
    assert!(user["user_agent"].as_str().is_some_and(|agent| agent.contains("AnyConnect")), "{user}");
    for name in ["bytes_in", "bytes_out"] {
        assert!(user[name].as_u64().is_some_and(|bytes| bytes >= 84), "{name} in {user}");
    }
    for name in ["id", "groups", "cipher", "connected_seconds"] {
        assert!(!user[name].is_null(), "{name} in {user}");
    }
    let status = gateway.show(&network, "status");
    assert_eq!(status["sessions"], 1, "{status}");
    assert!(status["uptime_seconds"].is_u64(), "{status}");

    gateway.mst_cli(&network, &["server", "disconnect", "user", "alice"]).expect_success("disconnect");
    assert_ne!(client.wait_end(LONG).code(), Some(0));
    assert!(client.calls("attempt-reconnect").is_empty(), "it was told to stay away");
    let refused = Openconnect::to(&network, 0, &gateway).cookie(&cookie).run();
    assert_eq!(refused.code, Some(2), "{}", refused.stderr);
    until("the end of the session", SHORT, || (gateway.sessions(&network) == 0).then_some(()));
}

/// Covers: statement 42
#[test]
fn one_of_two_sessions_is_disconnected_by_its_id() {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new().user("bob", "secret of bob", &[]);
    let Some(gateway) = setup.start_ours(&network) else { return };
    let open = |user: &str| {
        let mut raw = gateway.raw(&network);
        let cookie = raw.cookie(user, &format!("secret of {user}"));
        raw.open_tunnel(&cookie);
        raw
    };
    let (mut alice, mut bob) = (open("alice"), open("bob"));
    let users = gateway.show(&network, "users");
    let id =
        users.as_array().into_iter().flatten().find(|user| user["user"] == "alice").expect("alice")["id"]
            .clone();
    let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
    gateway.mst_cli(&network, &["server", "disconnect", "id", &id]).expect_success("disconnect id");
    let frames = alice.wait_closed(SHORT);
    assert!(frames.iter().any(|frame| frame.kind == FrameType::DISCONNECT), "{frames:?}");
    bob.expect_alive();
    assert_ne!(gateway.mst_cli(&network, &["server", "disconnect", "id", &id]).code, Some(0), "it is gone");
}

#[test]
fn sigterm_ends_the_server_well_and_leaves_nothing_behind() {
    let Some(network) = Network::new() else { return };
    let Some(mut gateway) = Setup::new().start_ours(&network) else { return };
    let client = Openconnect::alice(&network, &gateway);
    assert!(network.server().run("ip", &["link", "show"]).contains("mst0"));
    assert!(!network.server().run("nft", &["list", "tables"]).is_empty());
    assert_eq!(gateway.terminate().code(), Some(0));
    assert!(!network.server().run("ip", &["link", "show"]).contains("mst0"));
    assert_eq!(network.server().run("nft", &["list", "tables"]), "");
    assert_eq!(gateway.mst_cli(&network, &["server", "show", "status"]).code, Some(3), "not running");
    drop(client);
    // What a killed run leaves is no obstacle for the next one.
    gateway.start_again(&network);
    gateway.signal(libc::SIGKILL);
    until("the end of the killed server", SHORT, || (!gateway.runs()).then_some(()));
    gateway.start_again(&network);
    let _client = Openconnect::alice(&network, &gateway);
    network.client(0).ping(Network::CORPORATE_V4.into());
}

/// Covers: R76
#[test]
fn a_reload_takes_up_the_log_level_and_no_half_of_what_needs_a_restart() {
    let Some(network) = Network::new() else { return };
    let Some(mut gateway) = Setup::new().start_ours(&network) else { return };
    let told = |gateway: &mstunnel_tests::Gateway| {
        let mut raw = gateway.raw(&network);
        let cookie = raw.cookie("alice", PASSWORD);
        let told = raw.open_tunnel(&cookie);
        let mtu = told.answer.fields_spelled("X-CSTP-MTU").join(" ");
        let [a, b, c, _] = told.v4().octets();
        ([a, b, c], told.answer.fields_spelled("X-CSTP-Netmask").join(" "), mtu)
    };
    // Who speaks no TLS is worth a line of the level "debug".
    let babble = |gateway: &mstunnel_tests::Gateway| {
        let address = gateway.address(&network, 0);
        let stream = network.client(0).with(|| TcpStream::connect(address));
        stream.and_then(|mut stream| stream.write_all(b"hello?\r\n")).expect("it listens");
        gateway.log().contains("no TLS handshake")
    };
    babble(&gateway);
    let before = told(&gateway);
    assert!(!babble(&gateway), "{}", gateway.log());
    gateway.rewrite(|setup| {
        let setup = setup.set("network", "10.78.0.0/16").advanced("mtu", 1_300);
        setup.key("log", "level", "\"debug\"")
    });
    for _ in 0..2 {
        let report = gateway.mst_cli(&network, &["server", "reload"]).expect_success("reload");
        assert!(report.contains("needs a restart: network"), "{report}");
        assert!(report.contains("needs a restart: mtu"), "{report}");
        assert_eq!(told(&gateway), before);
    }
    until("a line of the new level", SHORT, || babble(&gateway).then_some(()));
}

/// Whoever hears that the server listens may send a signal: one that comes even earlier must not kill it.
#[test]
fn a_signal_before_the_first_word_ends_the_server_well() {
    let Some(network) = Network::new() else { return };
    let Some(mut gateway) = Setup::new().start_ours(&network) else { return };
    assert!(gateway.terminate().success());
    let Some(server) = program("mstunnel-server") else { return };
    // As much as a pipe holds (pipe(7)): the server's first word waits until the other end is closed.
    let (unread, mut stderr) = std::io::pipe().expect("a pipe");
    stderr.write_all(&[b'x'; 65_536]).expect("it is open");
    let mut command = network.server().command(&server.to_string_lossy());
    command.args(["serve", "--config", &gateway.file("gateway.toml")]).stdin(Stdio::null()).stderr(stderr);
    let mut child = command.spawn().expect("it ran before");
    let address = gateway.address(&network, 0);
    until("a port that listens", SHORT, || network.client(0).with(|| TcpStream::connect(address)).ok());
    let process = child.id().to_string();
    network.server().run("kill", &["-TERM", &process]);
    drop(unread);
    let ended = until("the end", SHORT, || child.try_wait().expect("it is a child"));
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    assert_eq!(network.server().run("nft", &["list", "tables"]), "");
}

/// Covers: statement 25, statement 73, P-110, R4, R78, R79
#[test]
fn the_stock_client_comes_back_to_a_restarted_and_to_a_killed_server_with_its_address() {
    let Some(network) = Network::new() else { return };
    let Some(mut gateway) = Setup::new().start_ours(&network) else { return };
    let mut client = Openconnect::alice(&network, &gateway);
    let addresses = |environment: mstunnel_tests::Environment| {
        ["INTERNAL_IP4_ADDRESS", "INTERNAL_IP6_ADDRESS"].map(|name| environment.get(name).to_owned())
    };
    let first = addresses(client.environment());
    assert_eq!(gateway.terminate().code(), Some(0));
    gateway.start_again(&network);
    let told = client.wait_calls("reconnect", 1, Duration::from_secs(60));
    network.client(0).ping(Network::CORPORATE_V4.into());
    assert_eq!(addresses(told), first, "after SIGTERM");

    // The store is written within half a second of a change.
    sleep(Duration::from_secs(2));
    gateway.signal(libc::SIGKILL);
    until("the end of the killed server", SHORT, || (!gateway.runs()).then_some(()));
    gateway.start_again(&network);
    let told = client.wait_calls("reconnect", 2, Duration::from_secs(60));
    network.client(0).ping(Network::CORPORATE_V6.into());
    assert_eq!(addresses(told), first, "after SIGKILL");
    assert_eq!(gateway.sessions(&network), 1);
}

#[test]
fn sighup_and_reload_take_up_a_changed_configuration_and_keep_sessions() {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new().user("bob", "secret of bob", &[]);
    let Some(mut gateway) = setup.start_ours(&network) else { return };
    let mut live = gateway.raw(&network);
    let cookie = live.cookie("alice", PASSWORD);
    live.open_tunnel(&cookie);
    let dns = |gateway: &mstunnel_tests::Gateway| {
        let mut raw = gateway.raw(&network);
        let cookie = raw.cookie("bob", "secret of bob");
        let told = raw.open_tunnel(&cookie).answer.fields_spelled("X-CSTP-DNS").join(" ");
        raw.send_frame(FrameType::DISCONNECT, b"\xb0done");
        told
    };
    assert_eq!(dns(&gateway), "10.20.0.53");
    gateway.rewrite(|setup| setup.set("dnsServers", json!(["10.20.0.99"])));
    gateway.signal(libc::SIGHUP);
    until("the new DNS server", SHORT, || (dns(&gateway) == "10.20.0.99").then_some(()));
    live.expect_alive();

    gateway.rewrite(|setup| setup.set("dnsServers", json!(["10.20.0.100"])));
    gateway.mst_cli(&network, &["server", "reload"]).expect_success("reload");
    assert_eq!(dns(&gateway), "10.20.0.100");

    gateway.rewrite(|setup| setup.set("network", json!("10.77.0.0/33")));
    let refused = gateway.mst_cli(&network, &["server", "reload"]);
    assert_ne!(refused.code, Some(0));
    assert!((refused.stdout + &refused.stderr).contains("10.77.0.0/33"), "the refusal names the value");
    gateway.signal(libc::SIGHUP);
    sleep(Duration::from_millis(500));
    assert!(gateway.runs(), "a bad configuration at reload ended the server");
    assert_eq!(dns(&gateway), "10.20.0.100");
    live.expect_alive();
}

/// Covers: R32
#[test]
fn an_account_that_is_locked_or_added_counts_without_a_restart() {
    let Some(network) = Network::new() else { return };
    // The tries until the file is looked at again must not end in a ban.
    let setup = Setup::new().user("bob", "secret of bob", &[]).advanced("max-ban-score", 0);
    let Some(gateway) = setup.start_ours(&network) else { return };
    let mut live = gateway.raw(&network);
    let cookie = live.cookie("bob", "secret of bob");
    live.open_tunnel(&cookie);
    let mut other = gateway.raw(&network);
    let others = other.cookie("alice", PASSWORD);
    other.open_tunnel(&others);
    gateway.lock_user("bob");
    live.wait_closed(Duration::from_secs(5));
    other.expect_alive();
    let refused = || gateway.raw(&network).sign_in("bob", "secret of bob").cookie("webvpn").is_none();
    until("the lock", SHORT, || refused().then_some(()));
    let password = gateway.directory().join("new-password");
    std::fs::write(&password, "secret of dora\n").expect("a file of the test");
    let arguments = ["passwd", "users.passwd", "dora", "--password-file", "new-password"];
    let Some(output) = run_server(&arguments, gateway.directory(), "") else { return };
    output.expect_success("mstunnel-server passwd");
    let accepted = || gateway.raw(&network).sign_in("dora", "secret of dora").cookie("webvpn").is_some();
    until("the new account", SHORT, || accepted().then_some(()));
}

#[test]
fn check_accepts_a_good_configuration_and_names_place_value_and_want_of_a_bad_one() {
    let Some(network) = Network::new() else { return };
    let Some(mut gateway) = Setup::new().start_ours(&network) else { return };
    let check = |gateway: &mstunnel_tests::Gateway| {
        run_server(&["serve", "--config", "gateway.toml", "--check"], gateway.directory(), "")
            .expect("it is built")
    };
    check(&gateway).expect_success("serve --check");
    // What the files that it names say is checked as well.
    gateway.rewrite(|setup| {
        setup.key("auth", "methods", "[\"password\", \"bearer\"]").key("auth.bearer", "oidc", "\"oidc.json\"")
    });
    for (oidc, parts) in [
        ("{}", ["oidc.json", "openid_configuration_url"]),
        (
            r#"{"openid_configuration_url":"http://issuer.example","required_claims":{"aud":"x"}}"#,
            ["oidc.json", "http://issuer.example"],
        ),
    ] {
        std::fs::write(gateway.directory().join("oidc.json"), oidc).expect("a file of the test");
        let refused = check(&gateway);
        assert_eq!(refused.code, Some(1), "{oidc}: {}", refused.stderr);
        assert!(parts.iter().all(|part| refused.stderr.contains(part)), "{oidc}: {}", refused.stderr);
        let refused = gateway.mst_cli(&network, &["config", "validate", &gateway.file("gateway.toml")]);
        assert_eq!(refused.code, Some(5), "{oidc}: {}", refused.stdout);
    }
    gateway.rewrite(|setup| setup.key("auth", "methods", "[\"password\"]"));
    gateway.rewrite(|setup| {
        setup.set("network", json!("10.77.0.0/33")).set("listenPort", json!(70_000)).key(
            "tls",
            "certifcate",
            "\"x\"",
        )
    });
    let refused = check(&gateway);
    assert_eq!(refused.code, Some(1));
    for part in [
        "configuration.json",
        "/network",
        "10.77.0.0/33",
        "/listenPort",
        "70000",
        "gateway.toml:",
        "certificate",
    ] {
        assert!(refused.stderr.contains(part), "{part} is not in {}", refused.stderr);
    }
    let misuse = run_server(&["serve", "--no-such-option"], gateway.directory(), "").expect("it is built");
    assert_eq!(misuse.code, Some(2));
}

/// Covers: P-077, R3, R51
#[test]
fn a_full_pool_is_told_with_503_and_its_reason() {
    let Some(mut network) = Network::new() else { return };
    let second = network.add_client();
    // Hosts .1 (the server) and .2.
    let setup = Setup::new().user("bob", "secret of bob", &[]).set("network", "10.77.0.0/30");
    let Some(gateway) = setup.set("ipv6Network", Value::Null).start_ours(&network) else { return };
    let alice = Openconnect::alice(&network, &gateway);
    let bob = Openconnect::to(&network, second, &gateway).argument("--no-dtls");
    let refused = bob.password("bob", "secret of bob").run();
    assert_ne!(refused.code, Some(0));
    let mut raw = gateway.raw_from(&network, second);
    let cookie = format!("webvpn={}", raw.cookie("bob", "secret of bob"));
    let answer = raw.connect_with(&[("Cookie", &cookie), ("X-CSTP-Address-Type", "IPv4")]);
    assert_eq!(answer.status, 503, "{answer:?}");
    let reasons = answer.fields_spelled("X-Reason");
    assert!(reasons.len() == 1 && !reasons[0].is_empty(), "{answer:?}");
    assert!(refused.stderr.contains(reasons[0]), "the client shows {:?}: {}", reasons[0], refused.stderr);
    network.client(0).ping(Network::CORPORATE_V4.into());
    drop(alice);
}

/// Covers: P-084, R56, R60
#[test]
fn without_descriptors_live_sessions_go_on_and_new_ones_wait() {
    let Some(mut network) = Network::new() else { return };
    let crowd = network.add_client();
    let Some(mut gateway) = Setup::new().start_ours(&network) else { return };
    let mut live = gateway.raw(&network);
    let cookie = live.cookie("alice", PASSWORD);
    let lease = live.open_tunnel(&cookie).v4();
    gateway.leave_descriptors(6);
    let address = gateway.address(&network, crowd);
    let crowd: Vec<TcpStream> = network.client(crowd).with(|| {
        (0..40).filter_map(|_| TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()).collect()
    });
    assert!(!crowd.is_empty());
    let (before, start) = (gateway.processor_time(), Instant::now());
    while start.elapsed() < Duration::from_secs(3) {
        live.ping(lease.into(), Network::CORPORATE_V4.into(), b"live");
        sleep(Duration::from_millis(100));
    }
    let used = gateway.processor_time() - before;
    assert!(used < start.elapsed() / 4, "{used:?} of processor time while it waits for descriptors");
    let complaints = gateway.log().matches("cannot accept connections").count();
    assert_eq!(complaints, 1, "the operator is told once a minute");
    drop(crowd);
    until("a new sign-in", LONG, || {
        let mut raw = gateway.try_raw(&network, 0, mstunnel_tests::Tls::Both).ok()?;
        raw.sign_in("alice", PASSWORD).cookie("webvpn")
    });
    assert!(gateway.runs());
}

/// Covers: P-017, P-031, R22, R23, R54
#[test]
fn connections_that_dawdle_are_closed_and_hold_nobody_up() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let address = gateway.address(&network, 0);
    let start = Instant::now();
    let mute = network.client(0).with(|| TcpStream::connect(address)).expect("it listens");
    mute.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit above zero");
    let mut slow = gateway.raw(&network);
    let request = slow.request_bytes("GET", "/", &[("X-Slow", &"1".repeat(200))], "");
    let (mut closed, mut logins) = (None, 0);
    for byte in request {
        // A byte now and then must not move the deadline.
        if slow.try_send(&[byte]).is_err()
            || matches!(slow.hear(Duration::from_millis(250)), Heard::Closed(_))
        {
            closed = Some(start.elapsed());
            break;
        }
        // The H of "HTTP/1.1" and of "Host": early enough, before the ten seconds are over.
        if byte == b'H' {
            let attempt = Instant::now();
            gateway.raw(&network).cookie("alice", PASSWORD);
            assert!(attempt.elapsed() < Duration::from_secs(8), "a login took {:?}", attempt.elapsed());
            logins += 1;
        }
    }
    assert!(logins > 0, "nobody else came in the meantime");
    let closed = closed.expect("the slow head was taken to its end");
    assert!(closed < Duration::from_secs(20), "closed after {closed:?}");
    // The one that has not even begun its handshake is closed as well.
    let mut nothing = [0; 1];
    let mute_end = std::io::Read::read(&mut { mute }, &mut nothing);
    assert!(!matches!(mute_end, Ok(1)), "{mute_end:?}");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

/// Covers: P-031, P-081, R22, R54
#[test]
fn a_crowd_that_never_finishes_its_handshakes_keeps_nobody_out() {
    let Some(mut network) = Network::new() else { return };
    let crowded = network.add_client();
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let mut live = gateway.raw(&network);
    let cookie = live.cookie("alice", PASSWORD);
    live.open_tunnel(&cookie);
    let (client, address) = (network.client(crowded), gateway.address(&network, crowded));
    // As many as one source gets, of the two kinds that hold most for least.
    let mute = client.with(|| (0..160).map(|_| TcpStream::connect(address)).collect::<Vec<_>>());
    let half = (0..80).map(|_| RawClient::say_hello(client, address, gateway.certificate()));
    let half: Vec<_> = half.collect();
    let start = Instant::now();
    gateway.raw(&network).cookie("alice", PASSWORD);
    gateway.raw(&network).open_tunnel(&cookie);
    // The crowd is closed after ten.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?} for a login", start.elapsed());
    drop((mute, half));
}

/// Covers: statement 16, P-031, R23
#[test]
fn a_connection_that_asks_nothing_is_closed_and_one_between_two_requests_is_not() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let start = Instant::now();
    let (mut silent, mut typing) = (gateway.raw(&network), gateway.raw(&network));
    typing.init(None);
    assert!(silent.wait_closed(Duration::from_secs(20)).is_empty());
    assert!(start.elapsed() >= Duration::from_secs(8), "{:?} are not enough", start.elapsed());
    sleep(Duration::from_secs(2));
    assert_eq!(typing.reply("username", "alice", None).status, 200, "somebody may still be typing");
}

/// Covers: P-031, R23
#[test]
fn a_body_that_comes_byte_by_byte_is_given_half_a_minute() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let mut slow = gateway.raw(&network);
    let start = Instant::now();
    let request = slow.request_bytes("POST", "/", &[], &"x".repeat(100));
    slow.send(&request[..request.len() - 100]);
    let closed = until("the end of the connection", Duration::from_secs(45), || {
        let open = slow.try_send(b"x").is_ok() && slow.hear(Duration::from_millis(500)) == Heard::Silence;
        (!open).then(|| start.elapsed())
    });
    assert!((25..40).contains(&closed.as_secs()), "{closed:?}");
}

/// Covers: P-087, R59
#[test]
fn when_everybody_has_left_nothing_is_left_of_them() {
    let Some(network) = Network::new() else { return };
    // Twelve logins and twelve handshakes lie between the first cookie and its use.
    let Some(gateway) = Setup::new().advanced("cookie-timeout", 12).start_ours(&network) else { return };
    let before = gateway.descriptors_at_rest();
    let cookies: Vec<_> = (0..12).map(|_| gateway.raw(&network).cookie("alice", PASSWORD)).collect();
    for round in 0..3 {
        let mut open: Vec<_> = cookies.iter().map(|_| gateway.raw(&network)).collect();
        for (raw, cookie) in open.iter_mut().zip(&cookies) {
            raw.open_tunnel(cookie);
        }
        assert_eq!(gateway.sessions(&network), 12, "round {round}");
        for (n, mut raw) in open.into_iter().enumerate() {
            match (round, n % 3) {
                (2, 0) => raw.send_frame(FrameType::DISCONNECT, b"\xb0done"),
                (_, 1) => raw.reset(),
                _ => drop(raw),
            }
        }
    }
    until("the end of the sessions", LONG, || (gateway.sessions(&network) == 0).then_some(()));
    until("the descriptors of the connections", SHORT, || (gateway.descriptors() == before).then_some(()));
    assert_eq!(gateway.show(&network, "sessions"), json!([]));
}

/// Covers: statement 72, R58, R86
#[test]
fn no_password_and_no_cookie_reaches_the_log() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let mut raw = gateway.raw(&network);
    let cookie = raw.cookie("alice", PASSWORD);
    raw.open_tunnel(&cookie);
    let wrong = gateway.raw(&network).sign_in("alice\u{9b}31m", "wrong secret").cookie("webvpn");
    assert_eq!(wrong, None);
    gateway.mst_cli(&network, &["server", "disconnect", "user", "alice"]).expect_success("disconnect");
    let log = gateway.log();
    for secret in [PASSWORD, "wrong secret", &cookie[..20]] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    assert!(!log.contains(['\u{1b}', '\u{9b}']), "an escape of the client's came through");
    assert_eq!(gateway.peer(), Peer::Mstunnel);
}

/// Covers: R3, R78: a server that goes down takes no new sessions; the old ones come back to it and live on.
#[test]
fn a_drained_server_takes_its_old_sessions_back_and_no_new_ones() {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new().advanced("server-drain-ms", 60_000);
    let Some(mut gateway) = setup.start_ours(&network) else { return };
    let mut old = gateway.raw(&network);
    let cookie = old.cookie("alice", PASSWORD);
    let first = old.open_tunnel(&cookie);
    let new = gateway.raw(&network).cookie("alice", PASSWORD);
    gateway.mst_cli(&network, &["server", "drain"]).expect_success("drain");
    old.reset();
    let mut old = gateway.raw(&network);
    assert_eq!(old.open_tunnel(&cookie).v4(), first.v4());
    let field = format!("webvpn={new}");
    let refused = gateway.raw(&network).connect_with(&[("Cookie", &field)]);
    assert_eq!(refused.status, 503, "a first CONNECT");
    // To stop is to drain first, and to ask again is to end.
    gateway.mst_cli(&network, &["server", "stop"]).expect_success("stop");
    until("the beginning of the end", SHORT, || gateway.log().contains("going down").then_some(()));
    old.expect_alive();
    gateway.mst_cli(&network, &["server", "stop"]).expect_success("stop");
    assert!(gateway.wait_end().success(), "{}", gateway.log());
}

/// Covers: R32, R34: an administrator writes a name as it stands in the password file.
#[test]
fn a_user_is_found_under_each_spelling_of_the_name() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let mut client = gateway.raw(&network);
    let cookie = client.cookie("Alice", PASSWORD);
    client.open_tunnel(&cookie);
    let shown = gateway.mst_cli(&network, &["server", "show", "user", "ALICE"]);
    assert!(shown.stdout.contains("\"user\":\"alice\""), "{shown:?}");
    gateway.disconnect(&network, "Alice");
    client.wait_closed(SHORT);
    assert_eq!(gateway.sessions(&network), 0);
}
