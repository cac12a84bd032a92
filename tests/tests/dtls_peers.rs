//! The DTLS engine against the two stacks that stock peers are made with, over UDP on loopback.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mstunnel_proto::drop::DropReason;
use mstunnel_proto::dtls::{Keying, Suite};
use mstunnel_tests::{DtlsCaller, DtlsEcho, Process, SHORT, Stream, find_program, skip, until};
use tempfile::TempDir;

const PSK: [u8; 32] = [0x5c; 32];
const APP_ID: [u8; 32] = [0xe7; 32];

/// A suite and what the two stacks call it.
struct Named {
    suite: Suite,
    openssl: &'static str,
    gnutls: &'static str,
}

const SUITES: &[Named] = &[
    Named { suite: Suite::PskAes256Gcm, openssl: "PSK-AES256-GCM-SHA384", gnutls: "AES-256-GCM" },
    Named { suite: Suite::PskAes128Gcm, openssl: "PSK-AES128-GCM-SHA256", gnutls: "AES-128-GCM" },
    Named {
        suite: Suite::PskChaCha20Poly1305,
        openssl: "PSK-CHACHA20-POLY1305",
        gnutls: "CHACHA20-POLY1305",
    },
];

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The programs, or `None` with the reason on stderr.
fn found(programs: &[&str]) -> Option<()> {
    match programs.iter().find(|program| find_program(program).is_none()) {
        None => Some(()),
        Some(missing) => {
            skip(&format!("{missing} is not installed (tests/run installs it)"));
            None
        }
    }
}

/// Starts `script` in a shell that replaces itself with the peer where the script says `exec`.
fn start(name: &str, script: &str, directory: &TempDir) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    Process::start(name, command, directory.path(), b"")
}

/// A shell's wait until the program `name`, started by [`start`], has written `text`.
fn heard(name: &str, text: &str, directory: &TempDir) -> String {
    let output = directory.path().join(format!("{name}.stdout"));
    format!("until grep -q '{text}' {}; do sleep 0.1; done", output.display())
}

/// A port of loopback that was free a moment ago.
fn free_port() -> u16 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    socket.local_addr().expect("a bound socket").port()
}

fn gnutls_priority(cipher: &str) -> String {
    format!("NONE:+VERS-DTLS1.2:+PSK:+{cipher}:+AEAD:+SIGN-ALL:+COMP-NULL:+GROUP-ALL")
}

/// Covers: statements 49, 50, 51, 52, 54: a stock client of OpenSSL, every suite, new keys midway.
#[test]
fn openssl_calls_us_and_renews_its_keys() {
    let Some(()) = found(&["openssl"]) else { return };
    for named in SUITES {
        let directory = tempfile::tempdir().unwrap();
        let echo = DtlsEcho::start(Keying::psk(PSK));
        let script = format!(
            "(echo first words; {}; echo R; sleep 1; echo second words; {}; echo Q) | \
             openssl s_client -dtls1_2 -psk_identity psk -psk {} -cipher {} -connect 127.0.0.1:{}",
            heard("s_client", "FIRST WORDS", &directory),
            heard("s_client", "SECOND WORDS", &directory),
            hex(&PSK),
            named.openssl,
            echo.port(),
        );
        let mut peer = start("s_client", &script, &directory);
        assert_eq!(echo.witness().suite(), named.suite);
        peer.wait_for(Stream::Stdout, "FIRST WORDS", 1, SHORT);
        echo.witness().wait_rekeyed(1);
        peer.wait_for(Stream::Stdout, "SECOND WORDS", 1, SHORT);
        echo.witness().wait_closed();
        assert_eq!(echo.witness().drops(), [], "{}", named.openssl);
        let said = peer.text(Stream::Stdout);
        assert!(said.contains("Secure Renegotiation IS supported"), "{said}");
        assert!(said.contains("Extended master secret: yes"), "{said}");
    }
}

/// Covers: statements 49, 50, 51, 52, 54: the stack of stock openconnect and ocserv, every suite.
#[test]
fn gnutls_calls_us() {
    let Some(()) = found(&["gnutls-cli"]) else { return };
    for named in SUITES {
        let directory = tempfile::tempdir().unwrap();
        let echo = DtlsEcho::start(Keying::psk(PSK));
        let script = format!(
            "(sleep 1; echo first words; {}) | \
             stdbuf -oL gnutls-cli --udp --priority {} --pskusername psk --pskkey {} --port {} 127.0.0.1",
            heard("gnutls-cli", "FIRST WORDS", &directory),
            gnutls_priority(named.gnutls),
            hex(&PSK),
            echo.port(),
        );
        let mut peer = start("gnutls-cli", &script, &directory);
        assert_eq!(echo.witness().suite(), named.suite);
        peer.wait_for(Stream::Stdout, "FIRST WORDS", 1, SHORT);
        echo.witness().wait_closed();
        assert_eq!(echo.witness().drops(), [], "{}", named.gnutls);
    }
}

/// Covers: statement 57: new keys as openconnect makes them, inside the live association.
#[test]
fn gnutls_renews_its_keys() {
    let Some(()) = found(&["gnutls-cli"]) else { return };
    let directory = tempfile::tempdir().unwrap();
    let echo = DtlsEcho::start(Keying::psk(PSK));
    let script = format!(
        "(sleep 2; echo first words; sleep 1) | \
         stdbuf -oL gnutls-cli --udp --rehandshake --priority {} --pskusername psk --pskkey {} --port {} 127.0.0.1",
        gnutls_priority("AES-256-GCM"),
        hex(&PSK),
        echo.port(),
    );
    let mut peer = start("gnutls-cli", &script, &directory);
    echo.witness().wait_rekeyed(1);
    peer.wait_for(Stream::Stdout, "FIRST WORDS", 1, SHORT);
    assert_eq!(echo.witness().drops(), []);
}

/// Covers: statements 58, 59, 64: a server of OpenSSL with a cookie, every suite.
#[test]
fn we_call_openssl() {
    let Some(()) = found(&["openssl"]) else { return };
    for named in SUITES {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let script = format!(
            "(sleep 2; echo words of the server; sleep 20) | \
             openssl s_server -dtls1_2 -listen -psk_identity psk -psk {} -cipher {} -nocert -accept 127.0.0.1:{port}",
            hex(&PSK),
            named.openssl,
        );
        let mut peer = start("s_server", &script, &directory);
        peer.wait_for(Stream::Stdout, "ACCEPT", 1, SHORT);
        let caller = DtlsCaller::start(port, Keying::psk(PSK), &APP_ID, &[named.suite]);
        assert_eq!(caller.witness().suite(), named.suite);
        caller.say("first words\n");
        peer.wait_for(Stream::Stdout, "first words", 1, SHORT);
        caller.witness().wait_text("words of the server");
        assert_eq!(caller.witness().drops(), [], "{}", named.openssl);
        caller.close();
        peer.wait_for(Stream::Stdout, "DONE", 1, SHORT);
    }
}

/// A server of OpenSSL with a cookie that runs `input` in the shell for its commands, and what calls it.
fn called_openssl(named: &Named, options: &str, input: &str, directory: &TempDir) -> (Process, DtlsCaller) {
    let port = free_port();
    let script = format!(
        "({input}) | openssl s_server -dtls1_2 -listen {options} -psk_identity psk -psk {} -cipher {} -nocert \
         -accept 127.0.0.1:{port}",
        hex(&PSK),
        named.openssl,
    );
    let mut peer = start("s_server", &script, directory);
    peer.wait_for(Stream::Stdout, "ACCEPT", 1, SHORT);
    let caller = DtlsCaller::start(port, Keying::psk(PSK), &APP_ID, &[named.suite]);
    assert_eq!(caller.witness().suite(), named.suite);
    caller.say("first words\n");
    peer.wait_for(Stream::Stdout, "first words", 1, SHORT);
    (peer, caller)
}

/// Covers: statements 57, 63: new keys with a server of OpenSSL that lets its clients renew them, every suite.
///
/// It takes a hello without the cookie of the first handshake for one that it has read already.
#[test]
fn we_call_openssl_and_renew_our_keys() {
    let Some(()) = found(&["openssl"]) else { return };
    for named in SUITES {
        let directory = tempfile::tempdir().unwrap();
        let (mut peer, caller) = called_openssl(named, "-client_renegotiation", "sleep 30", &directory);
        for round in 1..=2 {
            caller.rekey();
            caller.witness().wait_rekeyed(round);
            caller.say(&format!("words {round}\n"));
            peer.wait_for(Stream::Stdout, &format!("words {round}"), 1, SHORT);
        }
        assert_eq!(caller.witness().drops(), [], "{}", named.openssl);
        caller.close();
        peer.wait_for(Stream::Stdout, "DONE", 1, SHORT);
    }
}

/// Covers: statement 57: a HelloRequest, after which a server counts its messages from another number.
#[test]
fn openssl_asks_for_new_keys_and_gets_them() {
    let Some(()) = found(&["openssl"]) else { return };
    let directory = tempfile::tempdir().unwrap();
    let input = "sleep 2; echo r; sleep 30";
    let (mut peer, caller) = called_openssl(&SUITES[0], "", input, &directory);
    caller.witness().wait_rekeyed(1);
    caller.say("second words\n");
    peer.wait_for(Stream::Stdout, "second words", 1, SHORT);
    assert_eq!(caller.witness().drops(), []);
}

/// Covers: statement 57: OpenSSL 3 without -client_renegotiation says no_renegotiation; the keys in use stay.
#[test]
fn a_server_that_refuses_new_keys_keeps_its_channel() {
    let Some(()) = found(&["openssl"]) else { return };
    let directory = tempfile::tempdir().unwrap();
    let (mut peer, caller) = called_openssl(&SUITES[0], "", "sleep 30", &directory);
    caller.rekey();
    caller.witness().wait_refused();
    caller.say("second words\n");
    peer.wait_for(Stream::Stdout, "second words", 1, SHORT);
    assert_eq!(caller.witness().drops(), []);
}

/// Covers: statements 58, 59, 64: the stack of ocserv, with its cookie, every suite, new keys midway.
#[test]
fn we_call_gnutls_and_renew_our_keys() {
    let Some(()) = found(&["gnutls-serv"]) else { return };
    for named in SUITES {
        let directory = tempfile::tempdir().unwrap();
        let passwords = directory.path().join("psk");
        fs::write(&passwords, format!("psk:{}\n", hex(&PSK))).unwrap();
        let port = free_port();
        let script = format!(
            "exec gnutls-serv --udp --echo --priority {} --pskpasswd {} --port {port}",
            gnutls_priority(named.gnutls),
            passwords.display(),
        );
        let mut peer = start("gnutls-serv", &script, &directory);
        peer.wait_for(Stream::Stderr, "UDP Echo Server listening", 1, SHORT);
        let caller = DtlsCaller::start(port, Keying::psk(PSK), &APP_ID, &[named.suite]);
        assert_eq!(caller.witness().suite(), named.suite);
        caller.say("first words\n");
        caller.witness().wait_text("first words");
        caller.rekey();
        caller.witness().wait_rekeyed(1);
        caller.say("second words\n");
        caller.witness().wait_text("second words");
        assert_eq!(caller.witness().drops(), [], "{}", named.gnutls);
        caller.close();
    }
}

/// An OpenSSL session that never was: our session id and master secret, as openconnect makes it.
///
/// `SSL_SESSION` of OpenSSL: version 1, protocol, suite, session id, master secret, time [1], timeout [2].
fn session_file(directory: &Path, suite: Suite, master_secret: &[u8; 48]) -> std::path::PathBuf {
    let element = |tag: u8, content: &[u8]| {
        let len = u8::try_from(content.len()).expect("a short form");
        assert!(len < 128, "a short form is enough");
        [&[tag, len][..], content].concat()
    };
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
    let now = u32::try_from(now).expect("before 2106").to_be_bytes();
    let content = [
        element(2, &[1]),
        element(2, &[0, 0xfe, 0xfd]),
        element(4, &suite.code().to_be_bytes()),
        element(4, &APP_ID),
        element(4, master_secret),
        element(0xa1, &element(2, &now)),
        element(0xa2, &element(2, &[0x1c, 0x20])),
    ]
    .concat();
    let session = element(0x30, &content);
    let file = directory.join("session.pem");
    let text = STANDARD.encode(session);
    let lines: Vec<_> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("base64 is ASCII")).collect();
    let pem = format!(
        "-----BEGIN SSL SESSION PARAMETERS-----\n{}\n-----END SSL SESSION PARAMETERS-----\n",
        lines.join("\n")
    );
    fs::write(&file, pem).expect("a file in a new directory");
    file
}

/// Covers: protocol.md 5.9: the abbreviated handshake of AnyConnect-type clients.
#[test]
fn openssl_resumes_a_session_that_never_was() {
    let Some(()) = found(&["openssl"]) else { return };
    for (suite, name) in [
        (Suite::RsaAes256Gcm, "AES256-GCM-SHA384"),
        (Suite::RsaAes128Gcm, "AES128-GCM-SHA256"),
        (Suite::EcdheRsaAes256Gcm, "ECDHE-RSA-AES256-GCM-SHA384"),
        (Suite::EcdheRsaAes128Gcm, "ECDHE-RSA-AES128-GCM-SHA256"),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let master_secret = [0x3d; 48];
        let session = session_file(directory.path(), suite, &master_secret);
        let echo = DtlsEcho::start(Keying::preset(master_secret, APP_ID, suite));
        let script = format!(
            "(sleep 1; echo first words; {}; echo Q) | \
             openssl s_client -dtls1_2 -sess_in {} -cipher {name} -connect 127.0.0.1:{}",
            heard("s_client", "FIRST WORDS", &directory),
            session.display(),
            echo.port(),
        );
        let mut peer = start("s_client", &script, &directory);
        assert_eq!(echo.witness().suite(), suite);
        peer.wait_for(Stream::Stdout, "FIRST WORDS", 1, SHORT);
        let said = peer.text(Stream::Stdout);
        assert!(said.contains("Reused"), "{said}");
        echo.witness().wait_closed();
        assert_eq!(echo.witness().drops(), [], "{name}");
    }
}

/// Covers: P-019, R13: a client with another key gets nothing, and is told nothing.
#[test]
fn a_stock_client_with_another_key_gets_nothing() {
    let Some(()) = found(&["openssl"]) else { return };
    let directory = tempfile::tempdir().unwrap();
    let echo = DtlsEcho::start(Keying::psk(PSK));
    let script = format!(
        "sleep 3 | openssl s_client -dtls1_2 -psk_identity psk -psk {} -cipher PSK -connect 127.0.0.1:{}",
        hex(&[1; 32]),
        echo.port(),
    );
    let mut peer = start("s_client", &script, &directory);
    until("a forged record", SHORT, || {
        echo.witness().drops().contains(&DropReason::RecordForged).then_some(())
    });
    assert!(!peer.text(Stream::Stderr).contains("alert"), "an alert would be an answer to a stranger");
    assert!(peer.has_ended().is_none_or(|status| !status.success()));
}
