//! TLS resumption gives no authority: whatever session a client brings, the handshake is a full one.

use std::path::Path;
use std::time::Duration;

use mstunnel_tests::{Certificate, Gateway, Network, SHORT, Setup, Stream, find_program, skip};

/// What `openssl s_client` says after `input`, until the server closes; `options` has the version and the session.
fn s_client(network: &Network, to: &str, options: &str, input: &str) -> String {
    let script =
        format!("printf '{input}' | openssl s_client -ign_eof -nocommands -connect {to} {options} 2>&1");
    network.client(0).try_run("sh", &["-c", &script], Duration::from_secs(20)).stdout
}

const CONNECT: &str = "CONNECT /CSCOSSLC/tunnel HTTP/1.1\\r\\nHost: server\\r\\n\\r\\n";

/// A session that another server gave, with its ticket.
fn session_of_another(network: &Network, directory: &Path, version: &str) -> String {
    let certificate = Certificate::for_addresses(&[network.ports(0).client_v4.into()]);
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).expect("a file in the test's directory");
        path.to_string_lossy().into_owned()
    };
    let (chain, key) = (file("other.crt", certificate.chain_pem()), file("other.key", certificate.key_pem()));
    let arguments = ["s_server", "-accept", "8443", "-cert", &chain, "-key", &key, "-www"];
    let mut other = network.client(0).start("openssl", &arguments, directory);
    other.wait_for(Stream::Stdout, "ACCEPT", 1, SHORT);
    let session = directory.join(format!("other{version}.pem")).to_string_lossy().into_owned();
    let get = "GET / HTTP/1.0\\r\\n\\r\\n";
    s_client(network, "127.0.0.1:8443", &format!("{version} -sess_out {session}"), get);
    let again = s_client(network, "127.0.0.1:8443", &format!("{version} -sess_in {session}"), get);
    assert!(again.contains("Reused, TLS"), "the session is good where it is from: {again}");
    session
}

/// A session of ours, if the server gave one that a client can keep.
fn session_of_ours(network: &Network, gateway: &Gateway, version: &str) -> Option<String> {
    let path = gateway.directory().join(format!("own{version}.pem"));
    let session = path.to_string_lossy().into_owned();
    let to = gateway.address(network, 0).to_string();
    let said = s_client(network, &to, &format!("{version} -sess_out {session}"), CONNECT);
    assert!(said.contains("New, TLS"), "{said}");
    path.exists().then_some(session)
}

/// Covers: P-028, R20: before and after the user is locked, with our session and with that of another server.
///
/// No ticket key can be rotated, because there is none: a ticket is nothing to us, whoever made it and when.
#[test]
fn whatever_session_a_client_brings_the_handshake_is_full_and_it_is_nobody() {
    if find_program("openssl").is_none() {
        return skip("openssl is not installed (tests/run installs it)");
    }
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let to = gateway.address(&network, 0).to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let sessions = [
            session_of_ours(&network, &gateway, version),
            Some(session_of_another(&network, gateway.directory(), version)),
        ];
        for session in sessions.into_iter().flatten() {
            let said = s_client(&network, &to, &format!("{version} -sess_in {session}"), CONNECT);
            assert!(said.contains("New, TLS") && !said.contains("Reused"), "{version}: {said}");
            assert!(!said.contains("session ticket:"), "{version}: a ticket was given: {said}");
            assert!(
                said.contains("HTTP/1.1 401 "),
                "{version}: a connection without a cookie is nobody: {said}"
            );
        }
    }
    // A session that was made while its user could sign in opens nothing when the user cannot any more.
    let cookie = gateway.raw(&network).cookie("alice", "secret of alice");
    assert!(!cookie.is_empty());
    let session = session_of_ours(&network, &gateway, "-tls1_2");
    gateway.lock_user("alice");
    let options = session.map_or("-tls1_2".to_owned(), |session| format!("-tls1_2 -sess_in {session}"));
    let said = s_client(&network, &to, &options, CONNECT);
    assert!(said.contains("New, TLS") && said.contains("HTTP/1.1 401 "), "{said}");
    assert_eq!(gateway.sessions(&network), 0);
}
