//! Signing in with a password: the stock client, and a raw one where bytes matter.

use mstunnel_tests::{Heard, Network, Openconnect, Peer, RawClient, SHORT, Setup, Tls};

const PASSWORD: &str = "secret of alice";

/// Covers: statement 3, statement 4, statement 5, statement 9, statement 13, statement 73
#[test]
fn a_good_password_signs_in_and_a_wrong_one_does_not() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start(&network) else { return };
    let client = || Openconnect::to(&network, 0, &gateway);
    let cookie = client().password("alice", PASSWORD).authenticate();
    assert!(cookie.len() >= 22 && !cookie.contains([';', ',', ' ']), "{cookie:?}");
    let refused = client().password("alice", "secret of bob").argument("--authenticate").run();
    assert_ne!(refused.code, Some(0));
    assert!(!refused.stdout.contains("COOKIE="), "{}", refused.stdout);
}

/// Covers: statement 14, statement 73
#[test]
fn a_client_without_xml_signs_in_with_forms() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start(&network) else { return };
    let client = Openconnect::to(&network, 0, &gateway).argument("--no-xmlpost").argument("--no-dtls");
    let client = client.password("alice", PASSWORD).connect();
    assert!(!client.environment().get("INTERNAL_IP4_ADDRESS").is_empty());
    network.client(0).ping(Network::CORPORATE_V4.into());
}

/// Covers: statement 10, statement 73
#[test]
fn a_group_is_chosen_by_those_who_belong_to_it() {
    let Some(network) = Network::new() else { return };
    let setup =
        Setup::new().user("carol", "secret of carol", &["staff", "eng"]).offer_groups(&["staff", "eng"]);
    let Some(gateway) = setup.start(&network) else { return };
    let client = |group: &str, user: &str| {
        let client = Openconnect::to(&network, 0, &gateway).argument(format!("--authgroup={group}"));
        client.argument("--no-dtls").password(user, &format!("secret of {user}"))
    };
    client("eng", "carol").authenticate();
    let connected = client("staff", "carol").connect();
    if gateway.peer() == Peer::Mstunnel {
        let users = gateway.show(&network, "users");
        let groups = users[0]["groups"].as_array().cloned().unwrap_or_default();
        assert!(groups.iter().any(|group| group == "staff"), "{users}");
    }
    drop(connected);
    let refused = client("eng", "alice").argument("--authenticate").run();
    assert_ne!(refused.code, Some(0), "alice is not in eng");
}

/// Covers: statement 8
#[test]
fn banners_with_markup_reach_the_client_as_they_are() {
    let Some(network) = Network::new() else { return };
    let banner = "Welcome, <all> & \"sundry\"";
    let setup = Setup::new().advanced("pre-login-banner", "Before & <after>").advanced("banner", banner);
    let Some(gateway) = setup.start_ours(&network) else { return };
    let client = Openconnect::alice(&network, &gateway);
    assert_eq!(client.environment().get("CISCO_BANNER"), banner);
    assert!(client.output().contains("Before & <after>"), "the client shows the banner of the login page");
}

/// Covers: statement 1, R11
#[test]
fn clients_of_tls_1_2_only_and_of_1_3_only_get_a_tunnel() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start(&network) else { return };
    // The second is without extended_master_secret.
    for (version, more) in [("1.2", ""), ("1.2", ":%NO_SESSION_HASH"), ("1.3", "")] {
        let client = Openconnect::to(&network, 0, &gateway).argument("--no-dtls").password("alice", PASSWORD);
        // The client's own default begins with NORMAL and has %COMPAT, too.
        let priority = format!("--gnutls-priority=NORMAL:%COMPAT:-VERS-ALL:+VERS-TLS{version}{more}");
        let client = client.argument(priority).connect();
        assert!(client.output().contains(&format!("(TLS{version})")), "{}", client.output());
        network.client(0).ping(Network::CORPORATE_V4.into());
    }
    for tls in [Tls::Only12, Tls::Only13] {
        let mut raw = gateway.try_raw(&network, 0, tls).expect("a handshake");
        let cookie = raw.cookie("alice", PASSWORD);
        let tunnel = raw.open_tunnel(&cookie);
        raw.ping(tunnel.v4().into(), Network::CORPORATE_V4.into(), b"through the tunnel");
    }
}

/// Covers: statement 1, P-015, R11
#[test]
fn old_versions_and_old_ciphers_are_refused() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let address = gateway.address(&network, 0);
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let attempt = |priority: &str| {
        let arguments = ["--insecure", "--priority", priority, "--port", &port, &host];
        network.client(0).try_run("gnutls-cli", &arguments, SHORT)
    };
    let good = attempt("NORMAL:-VERS-ALL:+VERS-TLS1.2");
    assert!(good.stdout.contains("Handshake was completed"), "{}{}", good.stdout, good.stderr);
    let without_ems = attempt("NORMAL:-VERS-ALL:+VERS-TLS1.2:%NO_SESSION_HASH").stdout;
    assert!(without_ems.contains("Handshake was completed"), "{without_ems}");
    assert!(good.stdout.contains("extended master secret"), "{}", good.stdout);
    assert!(!without_ems.contains("extended master secret"), "{without_ems}");
    for priority in [
        "LEGACY:-VERS-ALL:+VERS-TLS1.0",
        "LEGACY:-VERS-ALL:+VERS-TLS1.1",
        "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-CBC:+AES-256-CBC",
        "NORMAL:-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+RSA",
    ] {
        let refused = attempt(priority);
        assert_ne!(refused.code, Some(0), "{priority}");
        assert!(!refused.stdout.contains("Handshake was completed"), "{priority}: {}", refused.stdout);
    }
}

/// Covers: statement 11, statement 12, P-053, R35
#[test]
fn an_unknown_user_a_wrong_password_and_a_locked_account_look_the_same() {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new().locked_user("lenny", "secret of lenny").advanced("max-ban-score", 0);
    let Some(gateway) = setup.start(&network) else { return };
    let conversation = |user: &str| {
        let mut raw = gateway.raw(&network);
        let mut steps = vec![raw.init(None)];
        steps.push(raw.reply("username", user, None));
        let context = steps[1].cookie("webvpncontext");
        for _ in 0..3 {
            // Right for the locked account, wrong for alice.
            steps.push(raw.reply("password", "secret of lenny", context.as_deref()));
        }
        let statuses: Vec<u16> = steps.iter().map(|step| step.status).collect();
        assert_eq!(statuses, [200, 200, 200, 200, 401], "{user}");
        assert!(matches!(raw.hear(SHORT), Heard::Closed(_)), "the connection ends with the last attempt");
        steps.iter().map(mstunnel_tests::Answer::without_cookies).collect::<Vec<_>>()
    };
    let wrong = conversation("alice");
    assert_eq!(conversation("nobody"), wrong);
    assert_eq!(conversation("lenny"), wrong);
}

/// Covers: statement 4, statement 7
#[test]
fn a_conversation_moves_between_connections_and_comes_in_single_bytes() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start(&network) else { return };
    let mut first = gateway.raw(&network);
    first.init(None);
    let context = first.reply("username", "alice", None).cookie("webvpncontext").expect("a conversation");
    drop(first);
    let mut second = gateway.raw(&network);
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\" type=\"auth-reply\">\
         <auth><password>{PASSWORD}</password></auth></config-auth>\n"
    );
    let cookie = format!("unrelated=1; webvpncontext={context}");
    let request = second.request_bytes("POST", "/auth", &[("Cookie", &cookie), ("X-Unknown", "?")], &body);
    // The reference mistakes a path that comes in pieces.
    let size = if gateway.peer() == Peer::Ocserv { request.len() } else { 1 };
    second.send_in_records_of(size, &request);
    let answer = second.answer();
    assert_eq!(answer.status, 200, "{answer:?}");
    let cookie = answer.cookie("webvpn").expect("a session");
    // And CONNECT comes on a third connection.
    gateway.raw(&network).open_tunnel(&cookie);
}

/// Covers: statement 17, P-042, R24, R29
#[test]
fn what_is_not_served_is_answered_with_404_or_405_and_nothing_of_the_request() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let ask = |method: &str, path: &str| gateway.raw(&network).request(method, path, &[], "");
    let plain = ask("GET", "/no-such-page");
    assert_eq!(plain.status, 404);
    assert!(plain.field("content-length").is_some());
    for path in ["/../etc/passwd", "/%2e%2e/etc/passwd", "/+CSCOE+/logon.html", "/remote/fgt_lang?lang=../x"]
    {
        let answer = ask("GET", path);
        assert_eq!((answer.status, answer.body.as_str()), (404, plain.body.as_str()), "{path}");
    }
    for method in ["PUT", "DELETE", "TRACE", "OPTIONS"] {
        let answer = ask(method, "/");
        assert!(matches!(answer.status, 400 | 404 | 405), "{method}: {answer:?}");
        assert!(!String::from_utf8_lossy(&answer.raw).contains("AnyConnect"), "{method} echoes the request");
    }
    for target in ["10.20.0.2:80", "corp.example:443"] {
        let answer = ask("CONNECT", target);
        assert!(matches!(answer.status, 400 | 404 | 405), "{target}: {answer:?}");
    }
}

/// Covers: P-032, P-033, statement 16, R23, R24
#[test]
fn heads_and_bodies_that_are_too_big_or_ambiguous_are_refused_and_the_connection_ends() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let long = "a".repeat(100_000);
    let fields: String = (0..200).map(|n| format!("X-Field-{n}: 1\r\n")).collect();
    for (what, request) in [
        ("a long target", format!("GET /{long} HTTP/1.1\r\n\r\n")),
        ("many fields", format!("GET / HTTP/1.1\r\n{fields}\r\n")),
        ("a long field", format!("GET / HTTP/1.1\r\nX: {long}\r\n\r\n")),
        ("a long body", format!("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n{long}", long.len())),
        ("a negative length", "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n".to_owned()),
        ("a signed length", "POST / HTTP/1.1\r\nContent-Length: +5\r\n\r\nabcde".to_owned()),
        ("two lengths", "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab".to_owned()),
        (
            "a length and a coding",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(),
        ),
        ("bare line feeds", "GET / HTTP/1.1\nHost: x\n\n".to_owned()),
        ("a folded field", "GET / HTTP/1.1\r\nX: 1\r\n 2\r\n\r\n".to_owned()),
        ("a space before the colon", "GET / HTTP/1.1\r\nHost : x\r\n\r\n".to_owned()),
        ("a NUL", "GET / HTTP/1.1\r\nX: \0\r\n\r\n".to_owned()),
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
    ] {
        let mut raw = gateway.raw(&network);
        for piece in request.as_bytes().chunks(16_000) {
            if raw.try_send(piece).is_err() {
                break; // it may hang up before it has read all of it
            }
        }
        let answer = raw.answer();
        assert!(answer.status == 0 || (400..500).contains(&answer.status), "{what}: {answer:?}");
        assert!(matches!(raw.hear(SHORT), Heard::Closed(_)), "the connection stays open after {what}");
    }
    gateway.raw(&network).cookie("alice", PASSWORD);
}

/// Covers: P-035, P-036, P-037, R25, R26
#[test]
fn markup_that_no_client_sends_is_refused_and_text_never_comes_back_raw() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().advanced("max-ban-score", 0).start_ours(&network) else { return };
    let deep = "<a>".repeat(20_000);
    for body in [
        "<?xml version=\"1.0\"?><!DOCTYPE a [<!ENTITY b \"c\">]><config-auth client=\"vpn\" type=\"init\"/>",
        "<?xml version=\"1.0\"?><config-auth client=\"vpn\" type=\"init\">",
        "<?xml version=\"1.0\"?>",
        &format!("<?xml version=\"1.0\"?>{deep}"),
    ] {
        let mut raw = gateway.raw(&network);
        let request = raw.request_bytes("POST", "/", &[("Content-Type", "application/xml")], body);
        for piece in request.chunks(16_000) {
            raw.try_send(piece).ok();
        }
        let answer = raw.answer();
        assert!(answer.cookie("webvpn").is_none() && answer.status < 500, "{answer:?}");
        assert!(!answer.body.contains("DOCTYPE"), "{answer:?}");
    }
    let mut raw = gateway.raw(&network);
    raw.init(Some("&lt;script&gt;"));
    let answer = raw.reply("username", "&lt;b&gt;&#13;&#10;X-Injected: 1", None);
    assert!(answer.field("x-injected").is_none(), "{answer:?}");
    assert!(!answer.body.contains("<b>") && !answer.body.contains("<script>"), "{answer:?}");
}

/// Covers: statement 16, R23
#[test]
fn a_connection_has_a_number_of_requests_and_no_more() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let mut raw = gateway.raw(&network);
    let answered = (0..100)
        .take_while(|_| {
            let request = raw.request_bytes("GET", "/healthz", &[], "");
            raw.try_send(&request).is_ok() && raw.answer().status == 200
        })
        .count();
    assert_eq!(answered, 16);
}

/// Covers: R27, R36, P-055, P-056
#[test]
fn too_many_wrong_passwords_ban_the_source_and_nobody_else() {
    let Some(mut network) = Network::new() else { return };
    let other = network.add_client();
    // A wrong password costs 10 points.
    let setup = Setup::new().advanced("max-ban-score", 25).advanced("ban-reset-time", 600);
    let Some(gateway) = setup.start_ours(&network) else { return };
    let mut live = gateway.raw(&network);
    let cookie = live.cookie("alice", PASSWORD);
    live.open_tunnel(&cookie);
    let mut raw = gateway.raw(&network);
    raw.init(None);
    let context = raw.reply("username", "alice", None).cookie("webvpncontext");
    for _ in 0..3 {
        raw.reply("password", "wrong", context.as_deref());
    }
    let signs_in = |mut raw: RawClient| {
        let form = raw.init(None);
        if form.status != 200 {
            return false;
        }
        let context = raw.reply("username", "alice", None).cookie("webvpncontext");
        raw.reply("password", PASSWORD, context.as_deref()).cookie("webvpn").is_some()
    };
    assert!(!gateway.try_raw(&network, 0, Tls::Both).is_ok_and(signs_in), "a banned source signs in");
    // Whoever it says it forwards for, the source is the socket's (R27).
    let forwarded = [("X-Forwarded-For", "203.0.113.9"), ("Forwarded", "for=203.0.113.9")];
    assert_eq!(gateway.raw(&network).request("POST", "/", &forwarded, "").status, 429);
    // Who has a session keeps it, and gets back to it from the banned source.
    live.expect_alive();
    live.reset();
    let mut live = gateway.raw(&network);
    live.open_tunnel(&cookie);
    live.expect_alive();
    assert!(signs_in(gateway.raw_from(&network, other)), "another source is banned, too");
    let source = network.ports(0).client_v4.to_string();
    let bans = gateway.mst_cli(&network, &["server", "show", "ip", "bans"]).expect_success("show ip bans");
    assert!(bans.contains(&source), "{bans}");
    gateway.mst_cli(&network, &["server", "unban", "ip", &source]).expect_success("unban");
    assert!(signs_in(gateway.raw(&network)), "the ban was lifted");
}
