//! How our client signs in: to our server and to stock ocserv, with everything that they take.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mstunnel_tests::{
    Certificate, Client, Gateway, Issuer, LONG, Network, SHORT, Setup, Stream, program, until,
};
use serde_json::Value;
use tempfile::TempDir;

type Start = fn(&Setup, &Network) -> Option<Gateway>;

const BOTH: [Start; 2] = [Setup::start_ours, Setup::start_ocserv];

fn scratch() -> TempDir {
    tempfile::tempdir().expect("a directory for temporary files")
}

/// A file for its owner only.
fn private(path: &Path, text: &str) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("ours");
}

/// What `show --json` says of a client that must get in.
fn shown(client: Client<'_>) -> Value {
    let text = client.argument("--json").run().expect_success("show");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON ({e}): {text}"))
}

/// Covers: statement 18, statement 19, statement 31, R70
#[test]
fn a_password_from_a_file_gets_addresses_of_both_families() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let setup = Setup::new().advanced("banner", "Welcome <all> & sundry");
        let Some(gateway) = start(&setup, &network) else { return };
        let Some(client) = Client::to(&network, 0, &gateway, "show") else { return };
        let shown = shown(client.as_alice());
        assert!(shown["ipv4"].as_str().is_some_and(|address| address.starts_with("10.77.0.")), "{shown}");
        assert!(shown["ipv6"].as_str().is_some_and(|address| address.starts_with("fd00:77::")), "{shown}");
        assert_eq!(shown["include"], serde_json::json!(["10.20.0.0/24", "fd00:20::/64"]), "{shown}");
        assert_eq!(shown["dns"][0], "10.20.0.53", "{shown}");
        let banner = shown["banner"].as_str().unwrap_or_default();
        assert!(banner.contains("<all> & sundry"), "{shown}");
    }
}

/// Covers: statement 19, R70
#[test]
fn a_wrong_password_is_said_to_be_one() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let Some(gateway) = start(&Setup::new(), &network) else { return };
        let Some(client) = Client::to(&network, 0, &gateway, "show") else { return };
        let message =
            client.password("alice", "secret of bob").run().expect_failure("refused the credentials");
        assert!(message.contains("ogin failed"), "the server's own words are missing: {message}");
    }
}

/// Covers: statement 19
#[test]
fn a_group_is_chosen_by_name_and_one_that_is_not_there_is_refused() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let setup =
            Setup::new().user("carol", "secret of carol", &["staff", "eng"]).offer_groups(&["staff", "eng"]);
        let Some(gateway) = start(&setup, &network) else { return };
        let client = |group: &str| {
            let client = Client::to(&network, 0, &gateway, "show")?;
            Some(client.password("carol", "secret of carol").arguments(&["--group", group]))
        };
        let Some(good) = client("eng") else { return };
        shown(good);
        let Some(bad) = client("board") else { return };
        let message = bad.run().expect_failure("no group \"board\"");
        assert!(message.contains("staff") && message.contains("eng"), "{message}");
    }
}

/// A person at a terminal: the name is seen, the password is not.
///
/// Covers: R70
#[test]
fn what_is_missing_is_asked_for_at_the_terminal() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let Some(gateway) = start(&Setup::new(), &network) else { return };
        let Some(program) = program("mstunnel-client") else { return };
        let script = format!(
            "import os, pty, sys, termios, time\n\
             pid, fd = pty.fork()\n\
             if pid == 0:\n    os.execv(sys.argv[1], sys.argv[1:])\n\
             seen = b''\n\
             for question, answer in ((b'sername', b'alice\\n'), (b'assword', b'{}\\n')):\n    \
             at = len(seen)\n    \
             while question not in seen[at:]:\n        \
             seen += os.read(fd, 4096)\n    \
             while question == b'assword' and termios.tcgetattr(fd)[3] & termios.ECHO:\n        \
             time.sleep(0.02)\n    \
             os.write(fd, answer)\n\
             try:\n    while True:\n        chunk = os.read(fd, 4096)\n        \
             if not chunk: break\n        seen += chunk\n\
             except OSError: pass\n\
             sys.stdout.buffer.write(seen)\n\
             sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n",
            "secret of alice"
        );
        let url = format!("https://{}", gateway.address(&network, 0));
        let authority = gateway.directory().join("authority.pem");
        let arguments =
            ["-c", &script, &program.to_string_lossy(), "show", &url, "--ca", &authority.to_string_lossy()];
        let output = network.client(0).try_run("python3", &arguments, LONG);
        let text = output.expect_success("show at a terminal");
        assert!(text.contains("10.77.0."), "{text}");
        assert!(text.contains("alice") && !text.contains("secret of alice"), "echo: {text}");
    }
}

/// Covers: R70
#[test]
fn misuse_has_its_own_code_and_nobody_to_ask_is_said_at_once() {
    let Some(network) = Network::new() else { return };
    let netns = network.client(0);
    for arguments in [
        ["--no-such-option", "x"].as_slice(),
        &["--pin", "pin-sha256:short"],
        &["--certificate", "only.pem"],
        &["--oidc-issuer", "https://login.example"],
    ] {
        let Some(client) = Client::at(netns, "show", "https://192.0.2.1") else { return };
        let ended = client.arguments(arguments).run();
        assert_eq!(ended.output.code, Some(2), "{arguments:?}: {:?}", ended.output);
    }
    for url in ["http://192.0.2.1", "https://alice:secret@192.0.2.1", "https://"] {
        let Some(client) = Client::at(netns, "show", url) else { return };
        assert_eq!(client.run().output.code, Some(2), "{url}");
    }
    let Some(client) = Client::at(netns, "show", "https://192.0.2.1") else { return };
    client.run().expect_failure("--user with --password-file");
    let Some(client) = Client::at(netns, "show", "https://192.0.2.1") else { return };
    client.arguments(&["--token-file", "/nowhere"]).run().expect_failure("/nowhere");
}

/// Covers: statement 19, R61
#[test]
fn a_client_certificate_signs_in_and_comes_back_when_its_cookie_is_stale() {
    let Some(network) = Network::new() else { return };
    let (dora, files) = (Certificate::for_user("dora"), scratch());
    let authority = files.path().join("clients.pem");
    fs::write(&authority, dora.authority_pem()).expect("a file");
    let setup = Setup::new()
        .ocserv("auth", "\"certificate\"")
        .ocserv("ca-cert", &authority.to_string_lossy())
        .ocserv("cert-user-oid", "0.9.2342.19200300.100.1.1")
        .ocserv("cisco-client-compat", "false");
    let Some(gateway) = setup.start_ocserv(&network) else { return };
    let Some(client) = Client::to(&network, 0, &gateway, "proxy") else { return };
    let cookie = files.path().join("cookie");
    let first = client.certificate(&dora).argument("--cookie-file").argument(&cookie).listen(1);
    let line = fs::read_to_string(&cookie).expect("a cookie file");
    first.terminate();
    private(&cookie, &line);
    let Some(client) = Client::to(&network, 0, &gateway, "show") else { return };
    shown(client.certificate(&dora).argument("--cookie-file").argument(&cookie));

    let Some(client) = Client::to(&network, 0, &gateway, "show") else { return };
    let stranger = Certificate::for_user("dora");
    let ended = client.certificate(&stranger).run();
    assert_eq!(ended.output.code, Some(1), "a stranger's certificate: {:?}", ended.output);
    let Some(client) = Client::to(&network, 0, &gateway, "show") else { return };
    let message = client.arguments(&["--user", "dora"]).run().message();
    // ocserv closes with our request unread, and that may overtake what it said before.
    assert!(message.contains("certificate") || message.contains(" broke: "), "{message}");
}

/// Covers: statement 22, R70
#[test]
fn a_token_from_a_file_signs_in_and_a_server_that_wants_one_says_so() {
    let Some(network) = Network::new() else { return };
    let issuer = Issuer::start(&network);
    let Some(gateway) = Setup::new().issuer(&issuer).start_ours(&network) else { return };
    until("the first fetch of the key set", SHORT, || (issuer.key_set_fetches() > 0).then_some(()));
    let Some(client) = Client::to(&network, 0, &gateway, "show") else { return };
    shown(client.token(&issuer.sign(&issuer.token("ann@corp.example"))));
    let Some(client) = Client::to(&network, 0, &gateway, "show") else { return };
    let expired = issuer.token("ann@corp.example").claim("exp", 1_000_000);
    client.token(&issuer.sign(&expired)).run().expect_failure("refused the credentials");
    let Some(client) = Client::to(&network, 0, &gateway, "show") else { return };
    client.as_alice().run().expect_failure("--token-file");
}

/// The client signs in at the issuer; its browser is a script that follows the page.
///
/// Covers: statement 22, R70
#[test]
fn a_browser_brings_a_code_that_only_this_client_can_use() {
    let Some(network) = Network::new() else { return };
    let issuer = Issuer::start_outside(&network);
    let Some(gateway) = Setup::new().issuer(&issuer).start_ours(&network) else { return };
    let files = scratch();
    let (browser, page) = (files.path().join("browser"), files.path().join("page"));
    let script = format!(
        "#!/bin/sh\nprintf '%s\\n' \"$#\" >'{0}.count'\n\
         exec curl --silent --show-error --insecure --noproxy '*' --max-time 20 --location --output '{0}' \"$1\"\n",
        page.display()
    );
    fs::write(&browser, script).expect("a file");
    fs::set_permissions(&browser, fs::Permissions::from_mode(0o700)).expect("ours");
    let sign_in = |browser: &Path| {
        let client = Client::to(&network, 0, &gateway, "show")?.authority(issuer.certificate());
        let client = client.arguments(&["--oidc-issuer", issuer.url(), "--client-id", Issuer::AUDIENCE]);
        Some(client.argument("--browser").environment("BROWSER", browser))
    };
    let Some(client) = sign_in(&browser) else { return };
    shown(client);
    assert!(issuer.refusals().is_empty(), "{:?}", issuer.refusals());
    assert_eq!(issuer.given().len(), 1);
    // The browser writes it when it has all of it; the client does not wait for that.
    let page = until("the page in the browser", SHORT, || {
        fs::read_to_string(&page).ok().filter(|page| !page.is_empty())
    });
    assert!(page.contains("You are signed in"), "{page}");

    // Without a browser the person opens the URL; a callback with another's state counts for nothing.
    let Some(client) = sign_in(Path::new("/bin/false")) else { return };
    let mut client = client.start();
    client.wait_for(Stream::Stderr, "to sign in, open ", 1, LONG);
    let text = until("the URL", SHORT, || {
        let text = client.text(Stream::Stderr);
        let line = text.lines().find_map(|line| line.split_once("to sign in, open "))?.1.to_owned();
        text.contains(&format!("{line}\n")).then_some(line)
    });
    let redirect = text.split('&').find_map(|pair| pair.strip_prefix("redirect_uri=")).expect("a redirect");
    let redirect = redirect.replace("%3A", ":").replace("%2F", "/");
    let curl = |url: &str| {
        let status = ["--write-out", "%{http_code}", "--output", "/dev/null"];
        let common = ["--silent", "--insecure", "--location", "--noproxy", "*", "--max-time", "20"];
        let arguments = [&common[..], &status, &[url]].concat();
        network.client(0).try_run("curl", &arguments, LONG).expect_success("curl")
    };
    assert_eq!(curl(&format!("{redirect}?code=stolen&state=guessed-by-somebody")), "404");
    assert_eq!(curl(&text), "200");
    client.end().expect_success("show");
    assert_eq!(issuer.given().len(), 2);
}

/// Covers: statement 22, R70
#[test]
fn a_device_code_is_shown_and_its_approval_signs_in() {
    let Some(network) = Network::new() else { return };
    let issuer = Issuer::start_outside(&network);
    let Some(gateway) = Setup::new().issuer(&issuer).start_ours(&network) else { return };
    let client = || {
        let client = Client::to(&network, 0, &gateway, "show")?.authority(issuer.certificate());
        Some(client.arguments(&["--oidc-issuer", issuer.url()]))
    };
    let Some(good) = client() else { return };
    let mut good = good.arguments(&["--client-id", Issuer::AUDIENCE]).start();
    good.wait_for(Stream::Stderr, "enter the code WDJB-", 1, LONG);
    let text = good.text(Stream::Stderr);
    assert!(text.contains(&format!("{}/activate", issuer.url())), "{text}");
    let code = text.split("enter the code ").nth(1).expect("a code").trim().to_owned();
    let code = code.lines().next().expect("a line").to_owned();
    issuer.approve(&code, "bea@corp.example");
    good.end().expect_success("show");
    for token in issuer.given() {
        assert!(!text.contains(&token));
    }
    let Some(unknown) = client() else { return };
    unknown.arguments(&["--client-id", "somebody"]).run().expect_failure("invalid_client");
}

/// Covers: statement 27, statement 40, R61, R70
#[test]
fn a_cookie_file_saves_the_second_sign_in_and_goes_away_with_the_session() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let Some(gateway) = start(&Setup::new(), &network) else { return };
        let files = scratch();
        let path = files.path().join("cookie");
        let client =
            || Some(Client::to(&network, 0, &gateway, "proxy")?.argument("--cookie-file").argument(&path));
        let Some(first) = client() else { return };
        let mut first = first.as_alice().listen(1);
        let line = fs::read_to_string(&path).expect("a cookie file");
        let cookie = line.trim().rsplit(' ').next().expect("a cookie").to_owned();
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert!(!first.text(Stream::Stderr).contains(&cookie), "the log holds the cookie");
        assert!(first.has_hidden_secrets());
        first.kill_group(SHORT);

        // Nobody to ask and no password: the cookie alone.
        let Some(second) = client() else { return };
        let second = second.secret(&cookie).listen(1);
        let ended = second.terminate();
        assert_eq!(ended.output.code, Some(0), "{:?}", ended.output);
        assert!(!path.exists(), "the cookie file outlives its session");

        // The goodbye ended it at the server too.
        let third = || {
            let client = Client::to(&network, 0, &gateway, "show")?.argument("--cookie-file").argument(&path);
            Some(client.secret(&cookie).run())
        };
        let ended = until("the end of the cookie", SHORT, || {
            // A client that comes in time leaves like the one before, and takes the file with it.
            private(&path, &line);
            third().filter(|ended| ended.output.code != Some(0))
        });
        ended.expect_failure("401");
        // With a password it is only a detour.
        let Some(fourth) = client() else { return };
        fourth.as_alice().secret(&cookie).listen(1);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("ours");
        third().expect("it was built").expect_failure("lets others read");
    }
}

/// Covers: statement 74, R61, P-089
#[test]
fn a_server_is_known_by_authority_name_time_and_pin() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ocserv(&network) else { return };
    let url = format!("https://{}", gateway.address(&network, 0));
    let (pin, other) = (gateway.certificate().pin().to_owned(), Certificate::for_addresses(&[]));
    let client = || Some(Client::at(network.client(0), "show", &url)?.as_alice());
    let Some(pinned) = client() else { return };
    shown(pinned.arguments(&["--pin", &pin]));
    let Some(both) = client() else { return };
    shown(both.arguments(&["--pin", &pin, "--pin", other.pin()]).authority(gateway.certificate()));

    let Some(wrong_pin) = client() else { return };
    wrong_pin.arguments(&["--pin", other.pin()]).run().expect_failure("not pinned");
    let Some(added) = client() else { return };
    let added = added.arguments(&["--pin", other.pin()]).authority(gateway.certificate());
    added.run().expect_failure("not pinned");
    let Some(not_replaced) = client() else { return };
    let not_replaced = not_replaced.arguments(&["--pin", &pin]).authority(&other);
    not_replaced.run().expect_failure("signed by nobody that is trusted here");
    let Some(stranger) = client() else { return };
    stranger.authority(&other).run().expect_failure("signed by nobody that is trusted here");
}

/// Covers: statement 74
#[test]
fn ocserv_is_spoken_to_as_debian_and_others_set_it_up() {
    let newest = "\"NORMAL:%SERVER_PRECEDENCE:-VERS-TLS1.0:-VERS-TLS1.1\"";
    let debian = "\"NORMAL:%SERVER_PRECEDENCE:%COMPAT:-VERS-SSL3.0:-VERS-TLS1.0:-VERS-TLS1.1:-VERS-TLS1.3\"";
    let only_13 = "\"NORMAL:%SERVER_PRECEDENCE:-VERS-TLS1.0:-VERS-TLS1.1:-VERS-TLS1.2\"";
    for (priorities, compression, psk, udp) in [
        (debian, "true", "true", true),
        (debian, "false", "false", true),
        (newest, "true", "false", true),
        (only_13, "false", "true", false),
    ] {
        let Some(network) = Network::new() else { return };
        let setup = Setup::new()
            .set("disableUdpConnections", !udp)
            .ocserv("tls-priorities", priorities)
            .ocserv("compression", compression)
            .ocserv("no-compress-limit", "0")
            .ocserv("dtls-psk", psk);
        let Some(gateway) = setup.start_ocserv(&network) else { return };
        let Some(client) = Client::to(&network, 0, &gateway, "get") else { return };
        let page = client.as_alice().argument("http://10.20.0.2/bytes/300000").run();
        assert_eq!(page.expect_success("get").len(), 300_000);
    }
}
