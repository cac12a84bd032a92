//! Records what stock openconnect and stock ocserv say to each other, for `tests/golden`.
//!
//! `sudo cargo run -p mstunnel-tests --bin capture -- DIRECTORY` writes one text for each conversation. The
//! texts in the tree were made once; making them again shows what a new version of a peer does differently.

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use mstunnel_tests::{LONG, Network, Openconnect, OpenconnectBuilder, Setup, Tap, Transcript};

const HEAD: &str = "# openconnect 9.01-3 and ocserv 1.1.6-3 of Debian 12; throwaway addresses and secrets.\n";

fn main() -> ExitCode {
    let Some(directory) = std::env::args().nth(1) else {
        eprintln!("usage: capture DIRECTORY");
        return ExitCode::from(2);
    };
    let Some(network) = Network::new() else { return ExitCode::FAILURE };
    let setup = Setup::new()
        .user("carol", "secret of carol", &["staff", "eng"])
        .set("splitDNS", serde_json::json!(["corp.example", "lab.example"]))
        .set("routeExcludes", serde_json::json!(["10.20.0.128/25", "fd00:20::8000/113"]))
        .set("disableUdpConnections", false)
        .advanced("banner", "Be nice & patient")
        .advanced("pre-login-banner", "Before you sign in")
        .advanced("dpd", 2);
    let save = |name: &str, tap: &Tap| {
        let texts: Vec<String> = tap.take().iter().map(Transcript::to_text).collect();
        let text = format!("{HEAD}{}", texts.join("# another connection\n"));
        let path = Path::new(&directory).join(format!("{name}.txt"));
        fs::write(&path, text).unwrap_or_else(|e| panic!("cannot write {path:?}: {e}"));
    };
    let tunnel = |name: &str, tap: &Tap, client: OpenconnectBuilder<'_>| {
        let mut client = client.password("carol", "secret of carol").connect();
        sleep(Duration::from_secs(5)); // two rounds of DPD
        client.signal(libc::SIGINT);
        client.wait_end(LONG);
        save(name, tap);
    };
    {
        let Some(gateway) = setup.start_ocserv(&network) else { return ExitCode::FAILURE };
        let tap = Tap::start(&network, &gateway);
        let client = || Openconnect::to(&network, 0, &gateway).through(&tap);
        tunnel("password", &tap, client());
        tunnel("password-without-xml", &tap, client().argument("--no-xmlpost"));
        tunnel("only-ipv4-without-dtls", &tap, client().argument("--disable-ipv6").argument("--no-dtls"));
        client().password("carol", "wrong").run();
        save("wrong-password", &tap);
        client().cookie("AAAA").run();
        save("cookie-that-is-none", &tap);
        client().cookie(&format!("{}=", "A".repeat(43))).run();
        save("cookie-that-is-unknown", &tap);
    }
    // The client stops at a choice that it was not told to make, so groups have a server of their own.
    let Some(network) = Network::new() else { return ExitCode::FAILURE };
    let Some(gateway) = setup.offer_groups(&["staff", "eng"]).start_ocserv(&network) else {
        return ExitCode::FAILURE;
    };
    let tap = Tap::start(&network, &gateway);
    let client = Openconnect::to(&network, 0, &gateway).through(&tap).argument("--authgroup=eng");
    tunnel("group", &tap, client);
    ExitCode::SUCCESS
}
