//! The examples do what they say.

use mstunnel_tests::{Network, Openconnect, Setup, program};

#[test]
fn the_tunnel_in_memory_comes_back_with_the_same_address() {
    let Some(example) = program("in_memory_tunnel") else { return };
    let output = std::process::Command::new(example).output().expect("the example starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    let address = |line: &str| text.lines().find_map(|l| l.strip_prefix(line)).map(str::to_owned);
    let first = address("connected as ").expect("a first line");
    let back = address("lost after 60 s, back with the cookie as ");
    assert_eq!(back, Some(first), "{text}");
    assert!(text.contains("600 s later: alive, the client asked 20 times"), "{text}");
}

#[test]
fn the_embedded_server_serves_the_stock_client_and_ends_at_sigint() {
    let Some(network) = Network::new() else { return };
    let Some(mut gateway) = Setup::new().start_embedded(&network) else { return };
    let client = Openconnect::alice(&network, &gateway);
    network.client(0).ping(Network::CORPORATE_V4.into());
    drop(client);
    gateway.signal(libc::SIGINT);
    assert_eq!(gateway.wait_end().code(), Some(0));
}
