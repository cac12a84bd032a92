//! One session over several connections: what keeps the cookie alive and what ends it.

use std::net::IpAddr;
use std::sync::Barrier;
use std::thread::sleep;
use std::time::{Duration, Instant};

use mstunnel_tests::{
    Environment, Frame, FrameType, Gateway, Heard, Inner, LONG, Network, Openconnect, Peer, RawClient, SHORT,
    Setup, Tls, icmp_echo, until,
};

const PASSWORD: &str = "secret of alice";

/// What the client told its script.
fn addresses(environment: &Environment) -> (String, String) {
    let get = |name: &str| environment.get(name).to_owned();
    (get("INTERNAL_IP4_ADDRESS"), get("INTERNAL_IP6_ADDRESS"))
}

fn connect<'n>(
    network: &'n Network,
    gateway: &Gateway,
    cookie: &str,
) -> mstunnel_tests::OpenconnectBuilder<'n> {
    Openconnect::to(network, 0, gateway).argument("--no-dtls").cookie(cookie)
}

/// The status of a CONNECT with this cookie on a connection of its own.
fn status_of(network: &Network, gateway: &Gateway, cookie: &str) -> u16 {
    let cookie = format!("webvpn={cookie}");
    gateway.raw(network).connect_with(&[("Cookie", &cookie), ("X-CSTP-Address-Type", "IPv4")]).status
}

/// Covers: statement 25, statement 27, statement 41, P-006, R4, R6
#[test]
fn the_addresses_stay_over_sigusr2_sighup_and_a_kill() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start(&network) else { return };
    let cookie = Openconnect::to(&network, 0, &gateway).password("alice", PASSWORD).authenticate();
    let mut client = connect(&network, &gateway, &cookie).connect();
    let first = addresses(&client.environment());

    client.signal(libc::SIGUSR2); // reconnect now
    let told = client.wait_calls("reconnect", 1, LONG);
    network.client(0).ping(Network::CORPORATE_V4.into());
    network.client(0).ping(Network::CORPORATE_V6.into());
    assert_eq!(addresses(&told), first);

    client.signal(libc::SIGHUP); // leave without BYE
    client.wait_end(LONG);
    let mut client = connect(&network, &gateway, &cookie).connect();
    assert_eq!(addresses(&client.environment()), first, "after SIGHUP");

    client.signal(libc::SIGKILL);
    client.wait_end(LONG);
    let client = connect(&network, &gateway, &cookie).connect();
    assert_eq!(addresses(&client.environment()), first, "after SIGKILL");
    network.client(0).ping(Network::CORPORATE_V4.into());
    if gateway.peer() == Peer::Mstunnel {
        assert_eq!(gateway.sessions(&network), 1);
    }
}

/// Covers: statement 27, statement 41, P-009, R6
#[test]
fn sigint_ends_the_cookie() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start(&network) else { return };
    let cookie = Openconnect::to(&network, 0, &gateway).password("alice", PASSWORD).authenticate();
    let mut client = connect(&network, &gateway, &cookie).connect();
    client.signal(libc::SIGINT); // BYE
    client.wait_end(LONG);
    if gateway.peer() == Peer::Mstunnel {
        // Another worker may have the next connection.
        until("the goodbye", SHORT, || (gateway.sessions(&network) == 0).then_some(()));
    }
    let refused = connect(&network, &gateway, &cookie).run();
    assert_eq!(refused.code, Some(2), "{}{}", refused.stdout, refused.stderr);
    assert!(refused.stderr.contains("Cookie was rejected"), "{}", refused.stderr);
}

/// Covers: statement 27, statement 41, statement 70, P-009, R6, R10
#[test]
fn a_cookie_outlives_a_reset_for_its_window_and_no_longer() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().advanced("cookie-timeout", 6).start_ours(&network) else { return };
    let mut raw = gateway.raw(&network);
    let cookie = raw.cookie("alice", PASSWORD);
    let first = raw.open_tunnel(&cookie);
    raw.reset();
    sleep(Duration::from_secs(2));
    let mut raw = gateway.raw(&network);
    let second = raw.open_tunnel(&cookie);
    assert_eq!((first.v4(), first.v6()), (second.v4(), second.v6()));
    // In use, it does not age.
    sleep(Duration::from_secs(8));
    raw.expect_alive();
    raw.reset();
    let end = Instant::now();
    until("the end of the reconnect window", SHORT, || (gateway.sessions(&network) == 0).then_some(()));
    assert!(end.elapsed() >= Duration::from_secs(3), "the session went away at once");
    assert_eq!(status_of(&network, &gateway, &cookie), 401);
}

/// Covers: statement 41, statement 42, R6
#[test]
fn a_bye_ends_the_cookie_and_an_empty_one_keeps_it() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start(&network) else { return };
    let mut raw = gateway.raw(&network);
    let cookie = raw.cookie("alice", PASSWORD);
    let first = raw.open_tunnel(&cookie);
    raw.send_frame(FrameType::DISCONNECT, b"");
    raw.wait_closed(SHORT);
    let mut raw = gateway.raw(&network);
    assert_eq!(raw.open_tunnel(&cookie).v4(), first.v4());
    raw.send_frame(FrameType::DISCONNECT, b"\xb0Aborted by caller");
    raw.wait_closed(SHORT);
    // The reference tells its other processes only after the close.
    sleep(Duration::from_secs(1));
    assert_eq!(status_of(&network, &gateway, &cookie), 401);
}

/// Covers: statement 25, statement 26, P-010, R7, R40
#[test]
fn a_second_connection_with_the_cookie_takes_the_session_over() {
    let Some(mut network) = Network::new() else { return };
    let elsewhere = network.add_client();
    let Some(gateway) = Setup::new().advanced("max-same-clients", 1).start(&network) else { return };
    let mut old = gateway.raw(&network);
    let cookie = old.cookie("alice", PASSWORD);
    let first = old.open_tunnel(&cookie);
    let mut new = gateway.raw_from(&network, elsewhere);
    let second = new.open_tunnel(&cookie);
    assert_eq!((first.v4(), first.v6()), (second.v4(), second.v6()));
    old.wait_closed(Duration::from_secs(5));
    new.ping(second.v4().into(), Network::CORPORATE_V4.into(), b"after the takeover");
    if gateway.peer() == Peer::Mstunnel {
        let sessions = gateway.show(&network, "sessions");
        assert_eq!(sessions.as_array().map(Vec::len), Some(1), "{sessions}");
        let remote = network.ports(elsewhere).client_v4.to_string();
        assert!(sessions[0]["remote"].to_string().contains(&remote), "{sessions}");
    }
}

/// Covers: statement 26, P-010, R7
#[test]
fn of_two_connects_at_the_same_moment_one_works_and_the_other_ends() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let cookie = gateway.raw(&network).cookie("alice", PASSWORD);
    for round in 0..40 {
        let start = Barrier::new(2);
        let open = || {
            let mut raw = gateway.raw(&network);
            start.wait();
            let lease = raw.open_tunnel(&cookie).v4();
            (raw, lease)
        };
        let mut both = std::thread::scope(|scope| {
            [scope.spawn(open), scope.spawn(open)].map(|opened| opened.join().expect("a tunnel"))
        });
        let ended = until("the end of one of them", SHORT, || {
            both.iter_mut().position(|(raw, _)| match raw.hear(Duration::from_millis(20)) {
                Heard::Record(record) => {
                    Frame::from_record(&record).expect("a frame").kind == FrameType::DISCONNECT
                }
                Heard::Closed(_) => true,
                Heard::Silence => false,
            })
        });
        let (raw, lease) = &mut both[1 - ended];
        let data = format!("round {round}");
        let echo = icmp_echo((*lease).into(), Network::CORPORATE_V4.into(), 1, data.as_bytes());
        // A packet on its way while the session changes hands may be lost.
        until("an answer on the other", SHORT, || {
            raw.send_packet(&echo);
            let Heard::Record(record) = raw.hear(Duration::from_secs(1)) else { return None };
            let packet = Frame::from_record(&record).expect("a frame").payload;
            let inner = Inner::parse(&packet)?;
            (inner.echo_reply() == Some(data.as_bytes())).then_some(())
        });
        assert_eq!(gateway.sessions(&network), 1);
    }
}

/// Covers: statement 27, statement 13, P-046, P-048, R30, R31
#[test]
fn cookies_that_were_never_given_or_are_over_open_nothing() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let attempt = |fields: &[(&str, &str)]| gateway.raw(&network).connect_with(fields);
    assert_eq!(attempt(&[]).status, 401, "no cookie");
    let forged = format!("webvpn={}=", "A".repeat(43));
    let long = format!("webvpn={}", "A".repeat(8_000));
    for cookie in
        ["webvpn=", "webvpn=A", "webvpn=(null)", "webvpn=\u{fc}\u{fc}", &forged, &long, "webvpncontext=AAAA"]
    {
        let answer = attempt(&[("Cookie", cookie)]);
        assert!(matches!(answer.status, 400 | 401), "{cookie:.40}: {answer:?}");
    }
    // A conversation that has not finished is no session.
    let mut half = gateway.raw(&network);
    half.init(None);
    let context = half.reply("username", "alice", None).cookie("webvpncontext").expect("a conversation");
    assert_eq!(attempt(&[("Cookie", &format!("webvpn={context}"))]).status, 401);
    // A cookie that the client brought along is not adopted.
    let mut raw = gateway.raw(&network);
    raw.init(None);
    let context = format!("webvpncontext={}=; {forged}", "A".repeat(43));
    let body = "<?xml version=\"1.0\"?><config-auth client=\"vpn\" type=\"auth-reply\"><auth>\
                <username>alice</username></auth></config-auth>";
    raw.request("POST", "/auth", &[("Cookie", &context)], body);
    let given = raw.reply("password", PASSWORD, None).cookie("webvpn");
    assert_ne!(given.map(|cookie| format!("webvpn={cookie}")), Some(forged.clone()));
    assert_eq!(attempt(&[("Cookie", &forged)]).status, 401);
    assert_eq!(gateway.sessions(&network), 0, "nothing above has leased an address");
}

/// Covers: statement 42, statement 70, P-012, R10
#[test]
fn the_session_timeout_counts_from_sign_in_whatever_reconnects() {
    let Some(network) = Network::new() else { return };
    let total = 10;
    let setup = Setup::new().advanced("session-timeout", total);
    let Some(gateway) = setup.start_ours(&network) else { return };
    let mut raw = gateway.raw(&network);
    let cookie = raw.cookie("alice", PASSWORD);
    let start = Instant::now();
    let mut last = u64::MAX;
    for _ in 0..3 {
        raw = gateway.raw(&network);
        let told = raw.open_tunnel(&cookie);
        let remaining = told.answer.fields_spelled("X-CSTP-Session-Timeout-Remaining");
        let remaining: u64 = remaining[0].parse().expect("seconds");
        assert!(remaining <= total && remaining < last, "{remaining} of {total}, {last} before");
        last = remaining;
        sleep(Duration::from_secs(2));
    }
    let frames = raw.wait_closed(Duration::from_secs(total));
    assert!(frames.iter().any(|frame| frame.kind == FrameType::DISCONNECT), "{frames:?}");
    let age = start.elapsed();
    assert!(age >= Duration::from_secs(total - 1) && age < Duration::from_secs(total + 4), "{age:?}");
    assert_eq!(status_of(&network, &gateway, &cookie), 401);
}

/// Covers: statement 36, statement 70, P-008, R5, R10
#[test]
fn dpd_and_keepalive_do_not_keep_an_idle_session_but_packets_do() {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new().user("bob", "secret of bob", &[]).advanced("idle-timeout", 5);
    let Some(gateway) = setup.start_ours(&network) else { return };
    let mut idle = gateway.raw(&network);
    let cookie = idle.cookie("alice", PASSWORD);
    idle.open_tunnel(&cookie);
    let mut busy = gateway.raw(&network);
    let cookie = busy.cookie("bob", "secret of bob");
    let lease: IpAddr = busy.open_tunnel(&cookie).v4().into();
    let start = Instant::now();
    let mut ended = None;
    while start.elapsed() < Duration::from_secs(13) {
        busy.ping(lease, Network::CORPORATE_V4.into(), b"busy");
        if ended.is_none() {
            idle.send_frame(FrameType::KEEPALIVE, b"");
            if idle.try_send(&Frame::new(FrameType::DPD_REQUEST, *b"x").encode()).is_err() {
                ended = Some(start.elapsed());
            }
            while let Heard::Record(record) = idle.hear(Duration::from_millis(10)) {
                let frame = Frame::from_record(&record).expect("one frame");
                if frame.kind == FrameType::DISCONNECT {
                    ended = ended.or(Some(start.elapsed()));
                }
            }
        }
        sleep(Duration::from_secs(1));
    }
    let ended = ended.expect("the idle session has ended");
    assert!(ended >= Duration::from_secs(4) && ended < Duration::from_secs(10), "{ended:?}");
    busy.expect_alive();
}

/// Covers: statement 41, statement 45, statement 46, R6
#[test]
fn a_client_that_falls_silent_is_asked_then_dropped_and_may_come_back() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().advanced("dpd", 2).start_ours(&network) else { return };
    let mut raw = gateway.raw(&network);
    let cookie = raw.cookie("alice", PASSWORD);
    let first = raw.open_tunnel(&cookie);
    let frames = raw.wait_closed(Duration::from_secs(20));
    assert!(frames.iter().any(|frame| frame.kind == FrameType::DPD_REQUEST), "{frames:?}");
    assert!(frames.iter().all(|frame| frame.kind != FrameType::DISCONNECT), "a client would not come back");
    assert_eq!(gateway.raw(&network).open_tunnel(&cookie).v4(), first.v4());
}

/// Covers: statement 44, statement 73
#[test]
fn the_stock_client_renews_its_tunnel_when_told_to() {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new().advanced("rekey-time", 5).advanced("rekey-method", "new-tunnel");
    let Some(gateway) = setup.start_ours(&network) else { return };
    let mut client = Openconnect::alice(&network, &gateway);
    let first = addresses(&client.environment());
    let told = client.wait_calls("reconnect", 1, Duration::from_secs(60));
    network.client(0).ping(Network::CORPORATE_V4.into());
    assert_eq!(addresses(&told), first);
}

/// Covers: P-063, R30
#[test]
fn frames_before_connect_are_not_taken() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let mut raw: RawClient = gateway.try_raw(&network, 0, Tls::Both).expect("a handshake");
    raw.send_frame(FrameType::DPD_REQUEST, b"too early");
    let answer = raw.answer();
    assert!(answer.status == 0 || (400..500).contains(&answer.status), "{answer:?}");
    assert!(raw.wait_closed(SHORT).is_empty());
}
