//! What the fuzz targets do with their bytes: plain functions, so that the committed corpora are
//! replayed by `cargo test` on stable Rust too.
//!
//! Each function panics on a broken promise of the core and returns otherwise.

mod checksums;
mod dtls;
mod flow;
mod folder;
mod offload;
mod packets;
mod segments;
mod server;
mod session;
mod stack;
mod tokens;
mod world;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mstunnel_client::proxy::socks;
use mstunnel_client::resolve::fuzz_answer;
use mstunnel_proto::auth::signin::{SignIn, SignInConfig, Step};
use mstunnel_proto::auth::{Answer, AuthMethod, ConnectionId, GroupChoice, LoginConfig, LoginDesk, Verdict};
use mstunnel_proto::config::{Configuration, Site};
use mstunnel_proto::connect::{AnswerReader, ConnectParams, ConnectRequest};
use mstunnel_proto::frame::{Frames, MAX_FRAME, Remainder};
use mstunnel_proto::http::{HttpError, Reply, Request, RequestReader, Response, ResponseReader};

pub use dtls::{dtls_handshake, dtls_hello, dtls_record};
pub use flow::egress_flow;
pub use offload::{coalesce, super_packet};
pub use packets::inner_packet;
pub use server::{control_line, gateway_file, password_file, session_file};
pub use session::session_frames;
pub use stack::client_stack;
pub use tokens::{issuer, token};
pub use world::world_history;

/// A fuzz target: its name, which is also its corpus folder, and what it does.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "frame_stream", run: frame_stream },
    Target { name: "http_request", run: http_request },
    Target { name: "http_response", run: http_response },
    Target { name: "sign_in", run: sign_in },
    Target { name: "login_xml", run: login_xml },
    Target { name: "login_desk", run: login_desk },
    Target { name: "connect_request", run: connect_request },
    Target { name: "connect_answer", run: connect_answer },
    Target { name: "configuration", run: configuration },
    Target { name: "inner_packet", run: inner_packet },
    Target { name: "super_packet", run: super_packet },
    Target { name: "coalesce", run: coalesce },
    Target { name: "socks5", run: socks5 },
    Target { name: "dtls_hello", run: dtls_hello },
    Target { name: "dtls_record", run: dtls_record },
    Target { name: "dtls_handshake", run: dtls_handshake },
    Target { name: "session_frames", run: session_frames },
    Target { name: "dns_answer", run: dns_answer },
    Target { name: "token", run: token },
    Target { name: "issuer", run: issuer },
    Target { name: "gateway_file", run: gateway_file },
    Target { name: "password_file", run: password_file },
    Target { name: "control_line", run: control_line },
    Target { name: "session_file", run: session_file },
    Target { name: "egress_flow", run: egress_flow },
    Target { name: "client_stack", run: client_stack },
    Target { name: "world_history", run: world_history },
];

/// Bytes of the pieces in which a stream comes, beside all at once: whatever they are, what is read is the same.
const CUTS: [usize; 2] = [1, 7];

const SOURCE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

/// The first byte says how the rest is cut; any cut must give the same frames as no cut.
pub fn frame_stream(data: &[u8]) {
    let Some((&first, stream)) = data.split_first() else {
        return;
    };
    let whole = frames_of(stream, MAX_FRAME);
    assert_eq!(whole, frames_of(stream, usize::from(first) + 1), "a cut changed the frames");
}

fn frames_of(stream: &[u8], piece: usize) -> (Vec<(u8, Vec<u8>)>, bool) {
    let mut found = Vec::new();
    let mut remainder = Remainder::default();
    let mut buffer = vec![0; 2 * MAX_FRAME];
    for bytes in stream.chunks(piece) {
        let kept = remainder.take_into(&mut buffer);
        buffer[kept..kept + bytes.len()].copy_from_slice(bytes);
        let mut frames = Frames::new(&mut buffer[..kept + bytes.len()]);
        loop {
            match frames.take_next() {
                Ok(Some(frame)) => found.push((frame.kind.byte(), frame.payload.to_vec())),
                Ok(None) => break,
                Err(_) => return (found, true),
            }
        }
        remainder.keep(frames.rest());
        assert!(remainder.len() < MAX_FRAME, "a remainder outgrew a frame");
    }
    (found, false)
}

/// Requests from a byte stream; bytes behind one belong to the next, and what refuses them is a response.
pub fn http_request(data: &[u8]) {
    let whole = requests_in(data, data.len().max(1));
    for size in CUTS {
        assert!(requests_in(data, size) == whole, "a cut changed the requests");
    }
    for request in &whole.0 {
        let _ = (request.path(), request.cookie("webvpn"), request.keeps_alive());
        let _ = request.header("authorization");
    }
    if let Some(error) = whole.1 {
        assert!(error.response().closes(), "a bad request ends the connection");
        assert_whole(&error.response());
    }
}

fn requests(data: &[u8]) -> Vec<Request> {
    requests_in(data, data.len().max(1)).0
}

/// The requests of a stream that comes in pieces, and what ended it.
fn requests_in(data: &[u8], size: usize) -> (Vec<Request>, Option<HttpError>) {
    let (mut reader, mut found) = (RequestReader::new(), Vec::new());
    for mut piece in data.chunks(size) {
        while !piece.is_empty() {
            match reader.handle_bytes(piece) {
                Ok(taken) => piece = &piece[taken..],
                Err(error) => return (found, Some(error)),
            }
            match reader.poll_request() {
                Some(request) => found.push(request),
                None => assert!(piece.is_empty(), "bytes were left without a request"),
            }
        }
    }
    (found, None)
}

/// What a client reads from these bytes is this response, and nothing behind it: no value has ended a field, or the
/// head.
fn assert_whole(response: &Response) {
    let bytes = response.encode();
    let (reply, taken) = reply_in(&bytes, bytes.len()).expect("a response").expect("a whole response");
    assert_eq!((reply.status, taken), (response.status(), bytes.len()), "a response in a response");
    assert!(reply.body == response.body_bytes(), "another body");
}

/// A server's answer, as the client reads it.
pub fn http_response(data: &[u8]) {
    let whole = reply_in(data, data.len().max(1));
    for size in CUTS {
        assert!(reply_in(data, size) == whole, "a cut changed the response");
    }
}

/// The first response of a stream that comes in pieces and ends, and how many bytes it had.
fn reply_in(data: &[u8], size: usize) -> Result<Option<(Reply, usize)>, HttpError> {
    let (mut reader, mut taken) = (ResponseReader::new(), 0);
    for piece in data.chunks(size) {
        taken += reader.handle_bytes(piece)?;
        if let Some(reply) = reader.poll_reply() {
            return Ok(Some((reply, taken)));
        }
    }
    reader.handle_end()?;
    Ok(reader.poll_reply().map(|reply| (reply, taken)))
}

/// A whole sign-in of the client: one response after the other, every question answered.
pub fn sign_in(mut data: &[u8]) {
    let mut sign_in = SignIn::new(SignInConfig {
        host: "vpn.example".to_owned(),
        path: "/".to_owned(),
        group: None,
        token: None,
    });
    let is_shown = |text: &str| !text.chars().any(|c| c.is_control() && c != '\n');
    while let Some(request) = sign_in.poll_request() {
        assert!(request.starts_with(b"POST /"), "a request to another place");
        let (said, error) = requests_in(&request, usize::MAX);
        // A client says at most what it was told to; a server takes less.
        let is_too_long = matches!(
            error,
            Some(
                HttpError::TargetTooLong { .. }
                    | HttpError::FirstLineTooLong { .. }
                    | HttpError::FieldTooLong { .. }
                    | HttpError::BodyTooLong { .. }
            )
        );
        assert!(said.len() == usize::from(error.is_none()), "a request in a request");
        assert!(error.is_none() || is_too_long, "no request: {error:?}");
        let Ok(Some((reply, taken))) = reply_in(data, data.len().max(1)) else { return };
        data = &data[taken..];
        match sign_in.handle_reply(&reply) {
            Ok(Step::Complete(signed_in)) => {
                assert!(signed_in.cookie.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';'));
                assert!(signed_in.banner.is_none_or(|banner| is_shown(&banner)));
                return;
            }
            Ok(Step::Again) => {}
            Ok(Step::Ask(form)) => {
                assert!(form.message.iter().chain(&form.error).all(|text| is_shown(text)));
                assert!(form.inputs.iter().all(|input| is_shown(&input.label)));
                if sign_in.answer(|_| "<&answer>").is_err() {
                    return;
                }
            }
            Err(error) => {
                assert!(is_shown(&error.to_string()), "{error}");
                return;
            }
        }
    }
}

/// The body of a login request, in either language.
pub fn login_xml(data: &[u8]) {
    let mut head =
        format!("POST /auth HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", data.len()).into_bytes();
    head.extend_from_slice(data);
    let mut desk = LoginDesk::new(Arc::new(LoginConfig::default()));
    let now = Instant::now();
    for request in requests(&head) {
        let answer = desk.handle_request(ConnectionId(1), SOURCE, &request, [7; 32], now);
        assert_harmless(&answer, "nobody was verified");
    }
}

/// A whole login: requests one after the other, every question answered no; where passwords are offered, and where
/// everything is.
pub fn login_desk(data: &[u8]) {
    let everything = LoginConfig {
        methods: vec![AuthMethod::Bearer, AuthMethod::Password],
        pre_login_banner: Some("a <banner> & more".to_owned()),
        groups: ["staff", "vpn"]
            .map(|name| GroupChoice { name: name.to_owned(), label: name.to_uppercase() })
            .to_vec(),
        domains: vec!["corp.example".to_owned()],
        ..LoginConfig::default()
    };
    for config in [LoginConfig::default(), everything] {
        let mut desk = LoginDesk::new(Arc::new(config));
        let mut now = Instant::now();
        for request in requests(data) {
            now += Duration::from_secs(1);
            let mut answer = desk.handle_request(ConnectionId(1), SOURCE, &request, [7; 32], now);
            while let Answer::Verify { question, .. } = answer {
                answer = desk.handle_verdict(question, Verdict::Rejected, now);
            }
            assert_harmless(&answer, "nobody was accepted");
            desk.handle_timeout(now);
        }
    }
}

fn assert_harmless(answer: &Answer, why: &str) {
    match answer {
        Answer::Respond(response) => assert_whole(response),
        Answer::Verify { .. } => {}
        Answer::Admit(_) => panic!("somebody was let in, and {why}"),
    }
}

/// The headers of a CONNECT: a client that says what was understood is understood, and says the same again.
pub fn connect_request(data: &[u8]) {
    for request in requests(data) {
        let Ok(understood) = ConnectRequest::parse(&request) else { continue };
        // A byte beyond ASCII is longer as text.
        if let Ok(said) = said_again(&understood) {
            assert!(said_again(&said).as_ref() == Ok(&said), "a request changed on its way");
        }
    }
}

fn said_again(request: &ConnectRequest) -> Result<ConnectRequest, HttpError> {
    let (requests, error) = requests_in(&request.encode("vpn.example"), usize::MAX);
    if let Some(error @ (HttpError::FieldTooLong { .. } | HttpError::HeadTooLong { .. })) = error {
        return Err(error);
    }
    assert_eq!((requests.len(), error), (1, None), "a request in a request");
    Ok(ConnectRequest::parse(&requests[0]).expect("a CONNECT"))
}

/// The server's answer to a CONNECT, as the client reads it.
pub fn connect_answer(data: &[u8]) {
    let whole = ConnectParams::parse(data);
    for size in CUTS {
        let (mut reader, mut taken) = (AnswerReader::new(), 0);
        let failed = data.chunks(size).find_map(|piece| match reader.handle_bytes(piece) {
            Ok(count) => {
                taken += count;
                None
            }
            Err(error) => Some(error),
        });
        let found = failed.map_or_else(|| Ok(reader.poll_params().map(|params| (params, taken))), Err);
        assert!(found == whole, "a cut changed the answer");
    }
}

/// Configuration and site files.
pub fn configuration(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = Configuration::parse(text, "configuration.json");
        let _ = Site::parse(text, "site.json");
    }
}

/// A message of a name server: what is taken from it is bounded, and of the kind that was asked for.
pub fn dns_answer(data: &[u8]) {
    for is_v6 in [false, true] {
        // The identifier is the message's own: what is behind it would be reached by one input in 65,536 otherwise.
        let id = data.first_chunk().map_or(0, |id| u16::from_be_bytes(*id));
        let addresses = fuzz_answer(id, "www.corp.example", is_v6, data);
        assert!(addresses.len() <= 16 && addresses.iter().all(|address| address.is_ipv6() == is_v6));
        assert!(
            fuzz_answer(!id, "www.corp.example", is_v6, data).is_empty(),
            "an answer to nobody's question"
        );
    }
}

/// What a client of the proxy sends: any cut of a message gives the same as the whole, and none is longer than
/// what the proxy keeps.
pub fn socks5(data: &[u8]) {
    prefixes_agree(data, socks::Greeting::parse);
    prefixes_agree(data, socks::Request::parse);
    if let Ok((destination, start)) = socks::parse_datagram(data) {
        assert!(start <= data.len().min(socks::MAX_DATAGRAM_HEADER), "a header outgrew its datagram");
        let _ = destination.to_string();
    }
}

fn prefixes_agree<T: PartialEq + std::fmt::Debug>(
    data: &[u8],
    parse: impl Fn(&[u8]) -> Result<Option<(T, usize)>, socks::SocksError>,
) {
    let whole = parse(data);
    if let Ok(Some((_, len))) = &whole {
        assert!(*len <= data.len().min(socks::MAX_MESSAGE), "a message outgrew its limit");
    }
    for cut in 0..data.len().min(socks::MAX_MESSAGE) {
        match parse(&data[..cut]) {
            Ok(None) => {}
            found => assert_eq!(found, whole, "more bytes changed what was found"),
        }
    }
    assert!(
        data.len() < socks::MAX_MESSAGE || !matches!(whole, Ok(None)),
        "a message is longer than its limit"
    );
}

/// An input of the corpus, by its folder and name.
#[cfg(test)]
fn seed(name: &str) -> Vec<u8> {
    std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name)).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_the_corpus_has_its_address() {
        let message = include_bytes!("../corpus/dns_answer/alias_pointer");
        let id = u16::from_be_bytes([message[0], message[1]]);
        let expected: IpAddr = [10, 20, 0, 2].into();
        assert_eq!(fuzz_answer(id, "www.corp.example", false, message), [expected]);
    }
}
