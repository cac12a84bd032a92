//! A client that shows and sends single records, for what no stock client would send or notice.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, Connection, ProtocolVersion, SupportedProtocolVersion};

use crate::certificate::Certificate;
use crate::cstp::{Frame, FrameType};
use crate::http::Answer;
use crate::inner::{Inner, icmp_echo};
use crate::netns::Netns;
use crate::records::{Heard, Records};
use crate::wait::SHORT;

/// The longest answer head or body that a test reads.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Which versions a [`RawClient`] offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// 1.3 and 1.2.
    Both,
    /// 1.2 only.
    Only12,
    /// 1.3 only.
    Only13,
}

impl Tls {
    fn versions(self) -> Vec<&'static SupportedProtocolVersion> {
        match self {
            Self::Both => vec![&rustls::version::TLS13, &rustls::version::TLS12],
            Self::Only12 => vec![&rustls::version::TLS12],
            Self::Only13 => vec![&rustls::version::TLS13],
        }
    }
}

/// The parameters of a tunnel that was opened by hand.
#[derive(Clone, Debug)]
pub struct TunnelAnswer {
    /// The answer to CONNECT.
    pub answer: Answer,
}

impl TunnelAnswer {
    /// The leased IPv4 address.
    pub fn v4(&self) -> std::net::Ipv4Addr {
        let text = self.answer.fields_spelled("X-CSTP-Address");
        text.first().and_then(|text| text.parse().ok()).expect("X-CSTP-Address is an IPv4 address")
    }

    /// The leased IPv6 address.
    pub fn v6(&self) -> std::net::Ipv6Addr {
        let text = self.answer.fields_spelled("X-CSTP-Address-IP6");
        let address = text.first().and_then(|text| text.split('/').next()?.parse().ok());
        address.expect("X-CSTP-Address-IP6 is an IPv6 address with its prefix length")
    }

    /// The MTU inside the tunnel.
    pub fn mtu(&self) -> usize {
        let text = self.answer.fields_spelled("X-CSTP-MTU");
        text.first().and_then(|text| text.parse().ok()).expect("X-CSTP-MTU is a number")
    }
}

/// A client of a few hundred lines that does exactly what it is told.
#[derive(Debug)]
pub struct RawClient {
    records: Records,
    /// Records that were read beside the answer that was wanted.
    waiting: VecDeque<Vec<u8>>,
    host: String,
}

impl RawClient {
    /// Connects from inside `client` and finishes the handshake.
    ///
    /// # Errors
    /// What refused the connection.
    pub fn try_connect(
        client: &Netns,
        server: SocketAddr,
        certificate: &Certificate,
        tls: Tls,
    ) -> Result<Self, String> {
        let (stream, tls) = Self::begin(client, server, certificate, tls)?;
        let records = Records::handshake(stream, Connection::Client(tls))?;
        Ok(Self { records, waiting: VecDeque::new(), host: server.to_string() })
    }

    /// Connects from inside `client`, sends the first flight of a handshake, and no more than that.
    ///
    /// # Errors
    /// What refused the connection.
    pub fn say_hello(
        client: &Netns,
        server: SocketAddr,
        certificate: &Certificate,
    ) -> Result<TcpStream, String> {
        let (mut stream, mut tls) = Self::begin(client, server, certificate, Tls::Both)?;
        while tls.wants_write() {
            tls.write_tls(&mut stream).map_err(|e| e.to_string())?;
        }
        Ok(stream)
    }

    fn begin(
        client: &Netns,
        server: SocketAddr,
        certificate: &Certificate,
        tls: Tls,
    ) -> Result<(TcpStream, ClientConnection), String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&tls.versions())
            .map_err(|e| e.to_string())?
            .with_root_certificates(certificate.roots())
            .with_no_client_auth();
        let name = ServerName::IpAddress(server.ip().into());
        let tls = ClientConnection::new(Arc::new(config), name).map_err(|e| e.to_string())?;
        let stream = client.with(|| TcpStream::connect_timeout(&server, SHORT)).map_err(|e| e.to_string())?;
        Ok((stream, tls))
    }

    /// The version that was negotiated.
    pub fn version(&self) -> ProtocolVersion {
        self.records.version()
    }

    /// The address of this end.
    pub fn local_address(&self) -> SocketAddr {
        self.records.stream().local_addr().expect("a connected socket has an address")
    }

    /// Sends `bytes` as one record (at most 16,384 of them).
    pub fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).unwrap_or_else(|e| panic!("cannot send {} bytes: {e}", bytes.len()));
    }

    /// The same, for servers that may have hung up.
    ///
    /// # Errors
    /// What the socket said.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.records.send(bytes)
    }

    /// Sends `bytes` with `size` of them in each record.
    pub fn send_in_records_of(&mut self, size: usize, bytes: &[u8]) {
        for piece in bytes.chunks(size) {
            self.send(piece);
        }
    }

    /// Sends one frame in one record.
    pub fn send_frame(&mut self, kind: FrameType, payload: &[u8]) {
        self.send(&Frame::new(kind, payload).encode());
    }

    /// Sends one packet.
    pub fn send_packet(&mut self, packet: &[u8]) {
        self.send_frame(FrameType::DATA, packet);
    }

    /// Waits for the next record of application data.
    pub fn hear(&mut self, limit: Duration) -> Heard {
        if let Some(record) = self.waiting.pop_front() {
            return Heard::Record(record);
        }
        self.records.hear(limit)
    }

    /// The next record, which must be exactly one frame.
    pub fn frame(&mut self, limit: Duration) -> Frame {
        match self.hear(limit) {
            Heard::Record(record) => Frame::from_record(&record).unwrap_or_else(|e| panic!("{e}")),
            other @ (Heard::Closed(_) | Heard::Silence) => panic!("expected a frame, got {other:?}"),
        }
    }

    /// The next frame of this type; others are passed over.
    pub fn frame_of(&mut self, kind: FrameType, limit: Duration) -> Frame {
        let end = Instant::now() + limit;
        loop {
            let frame = self.frame(end.saturating_duration_since(Instant::now()));
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Asks for a DPD answer and waits for it: the session lives.
    pub fn expect_alive(&mut self) {
        self.send_frame(FrameType::DPD_REQUEST, b"still there?");
        assert_eq!(self.frame_of(FrameType::DPD_RESPONSE, SHORT).payload, b"still there?");
    }

    /// Sends an echo request for `target` and waits for the reply.
    pub fn ping(&mut self, source: IpAddr, target: IpAddr, data: &[u8]) {
        self.send_packet(&icmp_echo(source, target, 1, data));
        loop {
            let packet = self.frame_of(FrameType::DATA, SHORT).payload;
            let inner = Inner::parse(&packet).unwrap_or_else(|| panic!("not a packet: {packet:02x?}"));
            if inner.echo_reply() == Some(data) {
                assert_eq!((inner.source, inner.destination), (target, source));
                return;
            }
        }
    }

    /// Waits until the server ends the connection, passing over what it still says, and returns the frames.
    pub fn wait_closed(&mut self, limit: Duration) -> Vec<Frame> {
        let start = Instant::now();
        let end = start + limit;
        let mut frames = Vec::new();
        loop {
            match self.hear(end.saturating_duration_since(Instant::now())) {
                Heard::Record(record) => {
                    frames.push(Frame::from_record(&record).unwrap_or_else(|e| panic!("{e}")));
                }
                Heard::Closed(how) => {
                    eprintln!("closed after {:?}: {how}", start.elapsed());
                    return frames;
                }
                Heard::Silence => {
                    panic!("the server keeps the connection open after {limit:?}; heard {frames:?}")
                }
            }
        }
    }

    /// The bytes of a request with the fields of a stock client.
    pub fn request_bytes(&self, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.host);
        head.push_str("User-Agent: Open AnyConnect VPN Agent v9.01-3\r\n");
        for (name, value) in fields {
            write!(head, "{name}: {value}\r\n").expect("writing to a string");
        }
        if method != "CONNECT" {
            write!(head, "Content-Length: {}\r\n", body.len()).expect("writing to a string");
        }
        format!("{head}\r\n{body}").into_bytes()
    }

    /// Sends such a request and reads the answer.
    pub fn request(&mut self, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Answer {
        let bytes = self.request_bytes(method, path, fields, body);
        self.send(&bytes);
        self.answer()
    }

    /// Reads one answer; status 0 if the server closes before it is whole.
    pub fn answer(&mut self) -> Answer {
        let mut bytes = Vec::new();
        loop {
            match self.hear(SHORT) {
                Heard::Record(record) => bytes.extend(record),
                Heard::Closed(_) => return Answer { raw: bytes, ..Answer::default() },
                Heard::Silence => {
                    panic!("no whole answer within {SHORT:?}, only {:?}", String::from_utf8_lossy(&bytes));
                }
            }
            assert!(bytes.len() < MAX_ANSWER_BYTES, "an endless answer");
            let Some(head_len) = bytes.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)
            else {
                continue;
            };
            let head = String::from_utf8_lossy(&bytes[..head_len]);
            let mut answer = Answer::parse_head(&head).unwrap_or_else(|| panic!("not an answer: {head:?}"));
            let body_len = answer.field("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
            if bytes.len() < head_len + body_len {
                continue;
            }
            let rest = bytes.split_off(head_len + body_len);
            if !rest.is_empty() {
                self.waiting.push_front(rest);
            }
            answer.body = String::from_utf8_lossy(&bytes[head_len..]).into_owned();
            answer.raw = bytes;
            return answer;
        }
    }

    /// Sends the XML init of a stock client, with `group` if one is chosen.
    pub fn init(&mut self, group: Option<&str>) -> Answer {
        let select = group.map(|group| format!("<group-select>{group}</group-select>")).unwrap_or_default();
        let inner = format!("<group-access>https://{}/</group-access>{select}", self.host);
        self.post_xml("init", &inner, None)
    }

    /// Sends an XML reply with one form field.
    pub fn reply(&mut self, field: &str, value: &str, context: Option<&str>) -> Answer {
        self.post_xml("auth-reply", &format!("<auth><{field}>{value}</{field}></auth>"), context)
    }

    fn post_xml(&mut self, kind: &str, inner: &str, context: Option<&str>) -> Answer {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\" type=\"{kind}\" \
             aggregate-auth-version=\"2\"><version who=\"vpn\">v9.01-3</version>\
             <device-id>linux-64</device-id>{inner}</config-auth>\n"
        );
        let cookie = context.map(|context| format!("webvpncontext={context}"));
        let mut fields = vec![
            ("X-Transcend-Version", "1"),
            ("X-Aggregate-Auth", "1"),
            ("Content-Type", "application/xml; charset=utf-8"),
        ];
        fields.extend(cookie.as_deref().map(|cookie| ("Cookie", cookie)));
        let path = if kind == "init" { "/" } else { "/auth" };
        self.request("POST", path, &fields, &body)
    }

    /// Gives a name and a password, form by form, and returns the last answer.
    pub fn sign_in(&mut self, user: &str, password: &str) -> Answer {
        let form = self.init(None);
        assert_eq!(form.status, 200, "the init was answered with {form:?}");
        let form = self.reply("username", user, form.cookie("webvpncontext").as_deref());
        assert_eq!(form.status, 200, "the name was answered with {form:?}");
        self.reply("password", password, form.cookie("webvpncontext").as_deref())
    }

    /// Signs in with a good password and returns the value of the cookie `webvpn`.
    pub fn cookie(&mut self, user: &str, password: &str) -> String {
        let answer = self.sign_in(user, password);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.cookie("webvpn").unwrap_or_else(|| panic!("no cookie webvpn in {answer:?}"))
    }

    /// Sends CONNECT with these fields and nothing else, and reads the answer.
    pub fn connect_with(&mut self, fields: &[(&str, &str)]) -> Answer {
        self.request("CONNECT", "/CSCOSSLC/tunnel", fields, "")
    }

    /// Opens a tunnel for both families, as a client without DTLS.
    pub fn open_tunnel(&mut self, cookie: &str) -> TunnelAnswer {
        let answer = self.connect_with(&[
            ("Cookie", &format!("webvpn={cookie}")),
            ("X-CSTP-Version", "1"),
            ("X-CSTP-Hostname", "raw"),
            ("X-CSTP-Base-MTU", "1500"),
            ("X-CSTP-MTU", "1390"),
            ("X-CSTP-Address-Type", "IPv6,IPv4"),
            ("X-CSTP-Full-IPv6-Capability", "true"),
        ]);
        assert_eq!(answer.status, 200, "CONNECT was answered with {answer:?}");
        TunnelAnswer { answer }
    }

    /// Ends the TCP connection with a reset: no close_notify, no FIN.
    pub fn reset(self) {
        crate::sys::reset_on_close(self.records.stream()).expect("an open socket takes SO_LINGER");
    }
}
