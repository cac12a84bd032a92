//! The quickstart does what it prints.

use std::time::Duration;

use mstunnel_tests::{LONG, Network, Openconnect, Stream, program, until};

#[test]
fn the_printed_command_reaches_the_quickstart_and_ctrl_c_leaves_nothing() {
    let Some(network) = Network::new() else { return };
    let Some(quickstart) = program("quickstart") else { return };
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let mut server = network.server().start(&quickstart.to_string_lossy(), &[], directory.path());
    let line = until("the openconnect command line", LONG, || {
        assert!(server.has_ended().is_none(), "the quickstart ended: {}", server.output());
        let text = server.text(Stream::Stdout) + &server.text(Stream::Stderr);
        let line = text.lines().find(|line| line.contains("openconnect ") && line.contains("https://"));
        line.map(|line| line.trim().replace("sudo ", ""))
    });
    let client = Openconnect::by_hand(network.server(), &line);
    assert!(!client.environment().get("INTERNAL_IP4_ADDRESS").is_empty());
    drop(client);
    server.signal(libc::SIGINT);
    assert_eq!(server.wait_end(Duration::from_secs(20)).code(), Some(0));
    assert!(!network.server().run("ip", &["link", "show"]).contains("mstquick0"), "an interface is left");
    assert_eq!(network.server().run("nft", &["list", "tables"]), "");
}
