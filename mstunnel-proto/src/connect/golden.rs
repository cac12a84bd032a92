//! Heads captured from the stock peers, read and reproduced.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::{ConnectParams, ConnectRequest, DtlsKey, DtlsOffer, Families, InsideAddress, RekeyMethod};
use crate::http::{HttpError, RequestReader};
use crate::mtu::{DEFAULT_LINK, Mtu, RecordSuite, link_mtu};

const CONNECT: &[u8] = include_bytes!("../../testdata/openconnect-9.01-connect.http");
const CONNECT_NO_DTLS: &[u8] = include_bytes!("../../testdata/openconnect-9.01-connect-no-dtls.http");
const CONNECTED: &[u8] = include_bytes!("../../testdata/ocserv-1.1.6-connected.http");
const CONNECTED_NO_DTLS: &[u8] = include_bytes!("../../testdata/ocserv-1.1.6-connected-no-dtls.http");
const LINK_1280: &[u8] = include_bytes!("../../testdata/ocserv-1.1.6-connected-link-1280.http");
const LINK_576: &[u8] = include_bytes!("../../testdata/ocserv-1.1.6-connected-link-576.http");
const ANYCONNECT: &[u8] = include_bytes!("../../testdata/ocserv-1.1.6-connected-anyconnect.http");
const NO_AGENT: &[u8] = include_bytes!("../../testdata/ocserv-1.1.6-connected-no-agent.http");
const OLD_IPV6: &[u8] = include_bytes!("../../testdata/ocserv-1.1.6-connected-old-ipv6.http");
const NEW_TUNNEL: &[u8] = include_bytes!("../../testdata/ocserv-1.1.6-connected-new-tunnel.http");
const NO_UDP: &[u8] = include_bytes!("../../testdata/ocserv-1.1.6-connected-no-udp.http");

const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn seconds(count: u64) -> Option<Duration> {
    Some(Duration::from_secs(count))
}

fn parse_request(bytes: &[u8]) -> Result<ConnectRequest, HttpError> {
    let mut reader = RequestReader::new();
    assert_eq!(reader.handle_bytes(bytes)?, bytes.len());
    let request = reader.poll_request().expect("a capture is one whole request");
    Ok(ConnectRequest::parse(&request).expect("a capture is a CONNECT"))
}

fn parse_answer(bytes: &[u8]) -> ConnectParams {
    let (params, count) = ConnectParams::parse(bytes).unwrap().unwrap();
    assert_eq!(count, bytes.len());
    params
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The capture without the lines that only a Cisco server reads and that we never send.
fn without_strap(capture: &[u8]) -> String {
    text(capture).split_inclusive("\r\n").filter(|line| !line.contains("-STRAP-")).collect()
}

/// What the server was configured with when the answers were captured.
fn configured() -> ConnectParams {
    ConnectParams {
        server_name: Some("ocserv 1.1.6".into()),
        hostname: Some("pc".into()),
        dpd: seconds(90),
        default_domain: Some("example.com".into()),
        v4: Some(InsideAddress { address: Ipv4Addr::new(192, 168, 77, 50), prefix_length: 24 }),
        v6: Some(InsideAddress {
            address: "fd00:77:0:8e4f:9a7c:c09f:b76e:58ef".parse().unwrap(),
            prefix_length: 64,
        }),
        dns: vec!["192.168.77.1".parse().unwrap(), "fd00:77::53".parse().unwrap()],
        nbns: vec![Ipv4Addr::new(192, 168, 77, 2)],
        split_dns: vec!["corp.example.com".into(), "lab.example.com".into()],
        include: vec!["10.99.0.0/16".parse().unwrap(), "fd99::/32".parse().unwrap()],
        tunnel_all_dns: false,
        client_bypass_protocol: false,
        exclude: vec!["10.99.5.0/24".parse().unwrap()],
        keepalive: seconds(32_400),
        idle_timeout: seconds(1_200),
        rekey_time: seconds(172_779),
        rekey_method: RekeyMethod::Ssl,
        session_timeout: seconds(86_400),
        session_timeout_remaining: seconds(86_400),
        dtls: Some(DtlsOffer {
            key: DtlsKey::Exported,
            port: 4443,
            app_id: std::array::from_fn(|index| u8::try_from(index).unwrap()),
            dpd: seconds(90),
            keepalive: seconds(32_400),
            rekey_time: seconds(172_789),
            rekey_method: RekeyMethod::Ssl,
        }),
        base_mtu: Some(DEFAULT_LINK),
        mtu: Mtu::new(1434),
        banner: Some("Welcome to the example network".into()),
    }
}

/// The configuration as it looks over a smaller link; the rekey times differ in each capture.
fn configured_for_link(base: u16, rekey: u64) -> ConnectParams {
    let link = link_mtu(DEFAULT_LINK, Some(base), None, OUTSIDE);
    ConnectParams {
        hostname: None,
        rekey_time: seconds(rekey),
        dtls: configured().dtls.map(|offer| DtlsOffer { rekey_time: seconds(rekey + 10), ..offer }),
        base_mtu: Some(link),
        mtu: link.over_datagrams(OUTSIDE, RecordSuite::AesGcm),
        ..configured()
    }
}

fn stream_only(rekey: u64) -> ConnectParams {
    ConnectParams {
        rekey_time: seconds(rekey),
        dtls: None,
        mtu: DEFAULT_LINK.over_stream(OUTSIDE),
        ..configured()
    }
}

/// Covers: statement 31
#[test]
fn the_request_of_the_stock_client_is_read_and_reproduced() {
    let request = parse_request(CONNECT).unwrap();
    assert_eq!(request.cookie.as_deref(), Some("Abcdefghbcdefghbcdefghbcdefghbcdefghbcdefgg="));
    assert_eq!(request.user_agent.as_deref(), Some("Open AnyConnect VPN Agent v9.01-3"));
    assert_eq!(request.hostname.as_deref(), Some("pc"));
    assert_eq!((request.base_mtu, request.mtu), (Some(1500), Some(1390)));
    assert_eq!(request.families, Families::BOTH);
    assert!(request.full_ipv6 && request.psk_negotiate);
    assert_eq!((request.dtls_suites.len(), request.dtls12_suites.len()), (7, 8));
    assert_eq!(request.master_secret.as_ref().map(|secret| secret[47]), Some(47));
    assert_eq!(text(&request.encode("127.0.0.1:4444")), without_strap(CONNECT));
}

#[test]
fn the_request_without_dtls_is_read_and_reproduced() {
    let request = parse_request(CONNECT_NO_DTLS).unwrap();
    assert!(!request.psk_negotiate && request.dtls_suites.is_empty() && request.master_secret.is_none());
    assert_eq!(text(&request.encode("127.0.0.1:4445")), without_strap(CONNECT_NO_DTLS));
}

/// Covers: statements 6, 23, 24, 28, 30, 65
#[test]
fn the_answer_to_the_stock_client_is_that_of_the_stock_server() {
    let peer = parse_request(CONNECT).unwrap();
    assert_eq!(text(&configured().encode(&peer)), text(CONNECTED));
    assert_eq!(parse_answer(CONNECTED), configured());
}

/// Covers: statement 28
#[test]
fn a_client_without_dtls_gets_no_dtls_line() {
    let peer = parse_request(CONNECT_NO_DTLS).unwrap();
    let captured = parse_answer(CONNECTED_NO_DTLS);
    let params = ConnectParams { dtls: configured().dtls, ..captured.clone() };
    assert_eq!(text(&params.encode(&peer)), text(CONNECTED_NO_DTLS));
    let rekey = captured.rekey_time.unwrap().as_secs();
    assert_eq!(captured, stream_only(rekey));
}

/// Covers: statement 67, R9, P-004
#[test]
fn over_a_small_link_ipv6_is_withheld_as_the_stock_server_does() {
    let peer = parse_request(CONNECT).unwrap();
    assert_eq!(text(&configured_for_link(1280, 172_821).encode(&peer)), text(LINK_1280));
    assert_eq!(text(&configured_for_link(576, 172_795).encode(&peer)), text(LINK_576));
    assert_eq!(parse_answer(LINK_576).mtu.get(), 510);
    assert_eq!(parse_answer(LINK_1280).v6, None);
}

#[test]
fn a_cisco_client_gets_ipv6_name_servers_by_their_own_name() {
    let mut peer = parse_request(CONNECT_NO_DTLS).unwrap();
    let params = ConnectParams { hostname: None, ..stream_only(172_780) };
    peer.user_agent = Some("AnyConnect Linux_64 4.10.07061".into());
    assert_eq!(text(&params.encode(&peer)), text(ANYCONNECT));
    assert_eq!(parse_answer(ANYCONNECT), params);

    let params = ConnectParams { hostname: None, ..stream_only(172_820) };
    peer.user_agent = None;
    assert_eq!(text(&params.encode(&peer)), text(NO_AGENT));
}

/// Covers: statement 24
#[test]
fn the_old_pair_of_ipv6_is_read_and_written() {
    let captured = parse_answer(OLD_IPV6);
    assert_eq!((captured.v4, captured.v6), (configured().v4, configured().v6));
    let mut peer = parse_request(CONNECT_NO_DTLS).unwrap();
    peer.full_ipv6 = false;
    let ours = captured.encode(&peer);
    let pair = "X-CSTP-Address: fd00:77:0:8e4f:9a7c:c09f:b76e:58ef\r\n\
        X-CSTP-Netmask: fd00:77:0:8e4f:9a7c:c09f:b76e:58ef/64\r\n";
    assert!(text(OLD_IPV6).contains(pair));
    assert!(text(&ours).contains(pair));
    assert!(!text(&ours).contains("-IP6"));
}

/// Covers: statements 32, 44, 57
#[test]
fn rekeying_by_a_new_tunnel_names_no_method_for_dtls() {
    let captured = parse_answer(NEW_TUNNEL);
    assert_eq!(captured.rekey_method, RekeyMethod::NewTunnel);
    assert_eq!((captured.session_timeout, captured.session_timeout_remaining), (None, None));
    let peer = parse_request(CONNECT).unwrap();
    let captured_lines = text(NEW_TUNNEL).replace(
        "X-CSTP-Session-Timeout: 0\r\nX-CSTP-Session-Timeout-Remaining: 0\r\n",
        "X-CSTP-Session-Timeout: none\r\n",
    );
    assert_eq!(text(&captured.encode(&peer)), captured_lines);
}

/// Covers: statement 32
#[test]
fn a_server_with_everything_off_is_read() {
    let captured = parse_answer(NO_UDP);
    assert_eq!(captured.dtls, None);
    assert_eq!((captured.rekey_time, captured.rekey_method), (None, RekeyMethod::None));
    assert_eq!((captured.idle_timeout, captured.session_timeout), (None, None));
    assert_eq!(captured.mtu.get(), 1472);
}
