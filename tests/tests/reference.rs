//! The harness against stock ocserv: what fails here is the harness, not the server under test.

use mstunnel_tests::{FrameType, Network, Openconnect, Setup};

#[test]
fn harness_reaches_ocserv_with_openconnect_over_both_families() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ocserv(&network) else { return };
    let client = Openconnect::alice(&network, &gateway);
    assert!(client.environment().get("INTERNAL_IP4_ADDRESS").starts_with("10.77.0."));
    for target in ["10.20.0.2", "fd00:20::2"] {
        network.client(0).run("ping", &["-c", "1", "-W", "5", target]);
    }
}

#[test]
fn harness_reaches_ocserv_with_a_raw_client() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ocserv(&network) else { return };
    let mut raw = gateway.raw(&network);
    let cookie = raw.cookie("alice", "secret of alice");
    let tunnel = raw.open_tunnel(&cookie);
    raw.ping(tunnel.v4().into(), Network::CORPORATE_V4.into(), b"who is there");
    raw.send_frame(FrameType(0x5a), b"");
    raw.expect_alive();
}
