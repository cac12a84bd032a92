//! The CONNECT request, both directions.
//!
//! ```text
//! CONNECT /CSCOSSLC/tunnel HTTP/1.1
//! Host: vpn.example
//! User-Agent: Open AnyConnect VPN Agent v9.01-3
//! Cookie: webvpn=<the session cookie>
//! X-CSTP-Version: 1
//! X-CSTP-Hostname: laptop
//! X-CSTP-Accept-Encoding: oc-lz4,lzs
//! X-CSTP-Base-MTU: 1500
//! X-CSTP-MTU: 1390
//! X-CSTP-Address-Type: IPv6,IPv4
//! X-CSTP-Address: <the IPv4 address it had>          on a reconnect
//! X-CSTP-Full-IPv6-Capability: true
//! X-CSTP-Address: <the IPv6 address it had>          on a reconnect
//! X-DTLS-Master-Secret: <96 hexadecimal digits>      legacy DTLS only
//! X-DTLS-CipherSuite: PSK-NEGOTIATE:<more>
//! X-DTLS12-CipherSuite: <list>
//! X-DTLS-Accept-Encoding: oc-lz4,lzs
//! ```
//!
//! The server asks for the path and nothing else: a value that makes no sense counts as not sent, so
//! that no client is turned away for a header that it need not have sent (P-004). Lists are cut at
//! [`MAX_LIST`] names.
//!
//! # Source
//! protocol.md 3.1.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zeroize::Zeroizing;

use super::agent::Agent;
use crate::http::{Method, Request, Response, without_controls};

/// The target of a CONNECT.
pub const TUNNEL_PATH: &str = "/CSCOSSLC/tunnel";

/// The suite name that asks for DTLS with a key of the TLS connection.
pub const PSK_NEGOTIATE: &str = "PSK-NEGOTIATE";

/// The most names that are kept of one list; the stock client sends 8 suites.
const MAX_LIST: usize = 32;

/// The longest name in a list; the longest suite name of the stock client has 31 bytes.
const MAX_NAME_BYTES: usize = 64;

/// The longest host name that is kept and echoed; one DNS label, as ocserv.
const MAX_HOSTNAME_BYTES: usize = 63;

/// The longest User-Agent that is kept.
const MAX_USER_AGENT_CHARS: usize = 128;

/// The families that a client takes addresses of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Families {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Families {
    /// Both families: what a client means that does not say.
    pub const BOTH: Self = Self { v4: true, v6: true };
}

/// What a client says when it opens the tunnel.
#[derive(Clone, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The session cookie, `webvpn`.
    pub cookie: Option<String>,
    /// The program and its version, bounded; not escaped for any place.
    pub user_agent: Option<String>,
    /// The client's host name: letters, digits, `-`, `_` and dots.
    pub hostname: Option<String>,
    /// Codecs for the stream channel.
    pub accept_encoding: Vec<String>,
    /// The link MTU toward the server; not clamped, see [`link_mtu`](crate::mtu::link_mtu).
    pub base_mtu: Option<u16>,
    /// The tunnel MTU that the client would like.
    pub mtu: Option<u16>,
    /// Which address families it takes.
    pub families: Families,
    /// The IPv4 address that it had, on a reconnect; a wish, never an authority.
    pub address_v4: Option<Ipv4Addr>,
    /// Whether it knows the `-IP6` names.
    pub full_ipv6: bool,
    /// The IPv6 address that it had, on a reconnect.
    pub address_v6: Option<Ipv6Addr>,
    /// The master secret of legacy DTLS.
    pub master_secret: Option<Zeroizing<[u8; 48]>>,
    /// Whether it can do DTLS with a key of the TLS connection.
    pub psk_negotiate: bool,
    /// The other suites of `X-DTLS-CipherSuite`.
    pub dtls_suites: Vec<String>,
    /// The suites of `X-DTLS12-CipherSuite`.
    pub dtls12_suites: Vec<String>,
    /// Codecs for the datagram channel.
    pub dtls_accept_encoding: Vec<String>,
}

impl Default for ConnectRequest {
    /// A request that says nothing: no cookie, no DTLS, both families by their old names.
    fn default() -> Self {
        Self {
            cookie: None,
            user_agent: None,
            hostname: None,
            accept_encoding: Vec::new(),
            base_mtu: None,
            mtu: None,
            families: Families::BOTH,
            address_v4: None,
            full_ipv6: false,
            address_v6: None,
            master_secret: None,
            psk_negotiate: false,
            dtls_suites: Vec::new(),
            dtls12_suites: Vec::new(),
            dtls_accept_encoding: Vec::new(),
        }
    }
}

impl ConnectRequest {
    /// Reads a request that came with [`Method::Connect`].
    ///
    /// # Errors
    /// It is no CONNECT, or for another target; the server is never a proxy (P-042).
    pub fn parse(request: &Request) -> Result<Self, ConnectError> {
        if request.method != Method::Connect {
            return Err(ConnectError::NotConnect);
        }
        if request.target != TUNNEL_PATH {
            return Err(ConnectError::UnknownTarget);
        }
        let mut dtls_suites = list(request, "X-DTLS-CipherSuite", ':');
        let suites_offered = dtls_suites.len();
        dtls_suites.retain(|name| name != PSK_NEGOTIATE);
        Ok(Self {
            cookie: request.cookie("webvpn").map(str::to_owned),
            user_agent: request
                .header("User-Agent")
                .map(|text| without_controls(text.chars().take(MAX_USER_AGENT_CHARS).collect())),
            hostname: request.header("X-CSTP-Hostname").filter(|name| is_hostname(name)).map(str::to_owned),
            accept_encoding: list(request, "X-CSTP-Accept-Encoding", ','),
            base_mtu: request.header("X-CSTP-Base-MTU").and_then(mtu),
            mtu: request.header("X-CSTP-MTU").and_then(mtu),
            families: families(request.header("X-CSTP-Address-Type")),
            address_v4: addresses(request).find_map(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            }),
            full_ipv6: request
                .header("X-CSTP-Full-IPv6-Capability")
                .is_some_and(|value| value.eq_ignore_ascii_case("true")),
            address_v6: addresses(request).find_map(|address| match address {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            }),
            master_secret: request.header("X-DTLS-Master-Secret").and_then(master_secret),
            psk_negotiate: dtls_suites.len() < suites_offered,
            dtls_suites,
            dtls12_suites: list(request, "X-DTLS12-CipherSuite", ':'),
            dtls_accept_encoding: list(request, "X-DTLS-Accept-Encoding", ','),
        })
    }

    /// The bytes that a client sends to `host` (with `:port` unless that is 443; IPv6 in brackets).
    ///
    /// Fields and order are the stock client's; what is absent is left out.
    pub fn encode(&self, host: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        let mut put = |name: &str, value: &str| {
            out.extend_from_slice(name.as_bytes());
            out.extend(value.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
            out.extend_from_slice(b"\r\n");
        };
        put("CONNECT /CSCOSSLC/tunnel HTTP/1.1", "");
        put("Host: ", host);
        if let Some(agent) = &self.user_agent {
            put("User-Agent: ", agent);
        }
        if let Some(cookie) = &self.cookie {
            put("Cookie: webvpn=", cookie);
        }
        put("X-CSTP-Version: 1", "");
        if let Some(hostname) = &self.hostname {
            put("X-CSTP-Hostname: ", hostname);
        }
        if !self.accept_encoding.is_empty() {
            put("X-CSTP-Accept-Encoding: ", &self.accept_encoding.join(","));
        }
        if let Some(base_mtu) = self.base_mtu {
            put("X-CSTP-Base-MTU: ", &base_mtu.to_string());
        }
        if let Some(mtu) = self.mtu {
            put("X-CSTP-MTU: ", &mtu.to_string());
        }
        match self.families {
            Families { v4: true, v6: true } => put("X-CSTP-Address-Type: IPv6,IPv4", ""),
            Families { v4: true, v6: false } => put("X-CSTP-Address-Type: IPv4", ""),
            Families { v4: false, v6: true } => put("X-CSTP-Address-Type: IPv6", ""),
            Families { v4: false, v6: false } => {}
        }
        if let Some(address) = self.address_v4 {
            put("X-CSTP-Address: ", &address.to_string());
        }
        if self.full_ipv6 {
            put("X-CSTP-Full-IPv6-Capability: true", "");
        }
        if let Some(address) = self.address_v6 {
            put("X-CSTP-Address: ", &address.to_string());
        }
        if let Some(secret) = &self.master_secret {
            let digits: Zeroizing<String> =
                Zeroizing::new(secret.iter().map(|byte| format!("{byte:02X}")).collect());
            put("X-DTLS-Master-Secret: ", &digits);
        }
        let suites: Vec<&str> = self
            .psk_negotiate
            .then_some(PSK_NEGOTIATE)
            .into_iter()
            .chain(self.dtls_suites.iter().map(String::as_str))
            .collect();
        if !suites.is_empty() {
            put("X-DTLS-CipherSuite: ", &suites.join(":"));
        }
        if !self.dtls12_suites.is_empty() {
            put("X-DTLS12-CipherSuite: ", &self.dtls12_suites.join(":"));
        }
        if !self.dtls_accept_encoding.is_empty() {
            put("X-DTLS-Accept-Encoding: ", &self.dtls_accept_encoding.join(","));
        }
        out.extend_from_slice(b"\r\n");
        out
    }

    /// The family of clients that this one belongs to.
    pub fn agent(&self) -> Agent {
        Agent::of(self.user_agent.as_deref())
    }
}

/// Shows neither cookie nor master secret.
impl fmt::Debug for ConnectRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectRequest")
            .field("cookie", &self.cookie.as_ref().map(|_| "..."))
            .field("user_agent", &self.user_agent)
            .field("hostname", &self.hostname)
            .field("base_mtu", &self.base_mtu)
            .field("mtu", &self.mtu)
            .field("families", &self.families)
            .field("full_ipv6", &self.full_ipv6)
            .field("master_secret", &self.master_secret.as_ref().map(|_| "..."))
            .field("psk_negotiate", &self.psk_negotiate)
            .finish_non_exhaustive()
    }
}

/// Why a request does not open a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Another method.
    #[error("not a CONNECT")]
    NotConnect,
    /// A CONNECT to a host and port, or to an unknown path.
    #[error("CONNECT to an unknown target")]
    UnknownTarget,
}

impl ConnectError {
    /// The answer: a constant page, and the connection closes.
    ///
    /// # Source
    /// R24; protocol.md 3.2.
    pub fn response(self) -> Response {
        const PAGE: &str = "<html><body><h1>404 Not Found</h1></body></html>\n";
        Response::new(404, "Not Found").body("text/html", PAGE).close()
    }
}

/// The names in a separated list, over all fields called `name`; empty ones are skipped, since older
/// clients begin with a comma.
fn list(request: &Request, name: &str, separator: char) -> Vec<String> {
    request
        .header_all(name)
        .flat_map(|value| value.split(separator))
        .map(|item| item.trim_matches([' ', '\t']))
        .filter(|item| is_name(item))
        .take(MAX_LIST)
        .map(str::to_owned)
        .collect()
}

fn is_name(item: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&item.len())
        && item.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_+.".contains(&byte))
}

fn is_hostname(name: &str) -> bool {
    (1..=MAX_HOSTNAME_BYTES).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

/// Plain digits; a number beyond 16 bits is the largest of them, to be clamped with the rest.
fn mtu(text: &str) -> Option<u16> {
    let digits = (1..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u16::MAX))
}

/// A value that names neither family counts as not sent.
fn families(value: Option<&str>) -> Families {
    let has = |family| value.is_some_and(|value| value.contains(family));
    match (has("IPv4"), has("IPv6")) {
        (false, false) => Families::BOTH,
        (v4, v6) => Families { v4, v6 },
    }
}

fn addresses(request: &Request) -> impl Iterator<Item = IpAddr> {
    request.header_all("X-CSTP-Address").filter_map(|value| value.parse().ok())
}

fn master_secret(text: &str) -> Option<Zeroizing<[u8; 48]>> {
    let mut secret = Zeroizing::new([0; 48]);
    super::field::decode_hex(text, secret.as_mut_slice()).then_some(secret)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::RequestReader;

    fn read(bytes: &[u8]) -> Request {
        let mut reader = RequestReader::new();
        assert_eq!(reader.handle_bytes(bytes), Ok(bytes.len()));
        reader.poll_request().unwrap()
    }

    fn with_fields(fields: &str) -> ConnectRequest {
        let head = format!("CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nCookie: webvpn=x\r\n{fields}\r\n\r\n");
        ConnectRequest::parse(&read(head.as_bytes())).unwrap()
    }

    #[test]
    fn a_cookie_alone_is_enough() {
        let request = with_fields("Host: a");
        assert_eq!(request, ConnectRequest { cookie: Some("x".into()), ..ConnectRequest::default() });
    }

    /// Covers: R24, P-042
    #[test]
    fn only_the_tunnel_path_is_served_and_never_a_host() {
        for target in ["vpn.example:443", "/CSCOSSLC/tunnel/", "/CSCOSSLC/tunnel?x", "/cscosslc/tunnel", "*"]
        {
            let request = read(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes());
            assert_eq!(ConnectRequest::parse(&request), Err(ConnectError::UnknownTarget), "{target}");
        }
        let request = read(b"GET /CSCOSSLC/tunnel HTTP/1.1\r\n\r\n");
        assert_eq!(ConnectRequest::parse(&request), Err(ConnectError::NotConnect));
        assert_eq!(ConnectError::UnknownTarget.response().status(), 404);
        assert!(ConnectError::UnknownTarget.response().closes());
    }

    /// Covers: statement 6
    #[test]
    fn names_are_read_in_any_case() {
        let request = with_fields("x-cstp-base-mtu: 1400\r\nX-DTLS-CIPHERSUITE: PSK-NEGOTIATE");
        assert_eq!((request.base_mtu, request.psk_negotiate), (Some(1400), true));
    }

    /// Covers: P-004
    #[test]
    fn an_mtu_that_makes_no_sense_turns_nobody_away() {
        let mtu = |value: &str| with_fields(&format!("X-CSTP-Base-MTU: {value}")).base_mtu;
        assert_eq!(mtu("1500"), Some(1500));
        assert_eq!(mtu("0"), Some(0));
        assert_eq!(mtu("65536"), Some(u16::MAX));
        assert_eq!(mtu("9999999999"), Some(u16::MAX));
        for value in ["-1", "text", "", "1500.0", "+1500", "0x5dc", "99999999999"] {
            assert_eq!(mtu(value), None, "{value}");
        }
    }

    /// Covers: statement 28
    #[test]
    fn psk_negotiate_counts_anywhere_in_the_list_and_only_whole() {
        let psk = |list: &str| with_fields(&format!("X-DTLS-CipherSuite: {list}")).psk_negotiate;
        assert!(psk("PSK-NEGOTIATE"));
        assert!(psk("AES128-SHA:PSK-NEGOTIATE:AES256-SHA"));
        assert!(!psk("PSK-NEGOTIATE-X"));
        assert!(!psk("XPSK-NEGOTIATE:AES128-SHA"));
        assert!(!psk("psk-negotiate"));
        assert!(!psk(""));
    }

    /// Covers: P-005
    #[test]
    fn encodings_are_bounded_and_empty_names_skipped() {
        let encodings = |list: &str| with_fields(&format!("X-CSTP-Accept-Encoding:{list}")).accept_encoding;
        assert_eq!(encodings(",oc-lz4,lzs"), ["oc-lz4", "lzs"]);
        assert_eq!(encodings(" oc-lz4, lzs"), ["oc-lz4", "lzs"]);
        assert_eq!(encodings(&vec!["x"; 100].join(",")).len(), MAX_LIST);
        assert!(encodings(&"x".repeat(MAX_NAME_BYTES + 1)).is_empty());
    }

    #[test]
    fn a_family_list_that_names_none_counts_as_not_sent() {
        let of = |value: &str| with_fields(&format!("X-CSTP-Address-Type: {value}")).families;
        assert_eq!(of("IPv4"), Families { v4: true, v6: false });
        assert_eq!(of("IPv6"), Families { v4: false, v6: true });
        assert_eq!(of("IPv6,IPv4"), Families::BOTH);
        assert_eq!(of("AppleTalk"), Families::BOTH);
    }

    /// Covers: R25, P-035
    #[test]
    fn a_host_name_that_is_none_is_not_kept() {
        let hostname = |value: &str| with_fields(&format!("X-CSTP-Hostname: {value}")).hostname;
        assert_eq!(hostname("my-pc.local").as_deref(), Some("my-pc.local"));
        for value in ["a b", "%0d%0aX: y", "a\u{2028}b", "<b>", "$(id)", "a/b", &"a".repeat(64)] {
            assert_eq!(hostname(value), None, "{value:?}");
        }
    }

    /// Covers: R25, P-035
    #[test]
    fn a_user_agent_is_cut_and_has_no_controls() {
        let agent = with_fields(&format!("User-Agent: {}", "\u{85}\u{e9}".repeat(200))).user_agent.unwrap();
        assert_eq!(agent.chars().count(), MAX_USER_AGENT_CHARS);
        assert!(!agent.chars().any(char::is_control));
    }

    #[test]
    fn a_master_secret_is_48_bytes_or_none() {
        let secret = |digits: &str| with_fields(&format!("X-DTLS-Master-Secret: {digits}")).master_secret;
        assert!(secret(&"Af".repeat(48)).is_some());
        assert!(secret(&"Af".repeat(47)).is_none());
        assert!(secret(&"Ag".repeat(48)).is_none());
    }

    /// Covers: statement 72
    #[test]
    fn debug_output_has_no_secret() {
        let mut request = with_fields(&format!("X-DTLS-Master-Secret: {}", "5A".repeat(48)));
        request.cookie = Some("COOKIE".into());
        let shown = format!("{request:?}");
        assert!(!shown.contains("COOKIE") && !shown.contains("90, 90") && !shown.contains("5A5A"), "{shown}");
    }

    /// Covers: R25
    #[test]
    fn an_encoded_request_has_the_lines_of_the_code_and_no_other() {
        let request = ConnectRequest {
            cookie: Some("x\r\nX-Evil: 1".into()),
            user_agent: Some("a\nb\0".into()),
            ..ConnectRequest::default()
        };
        let text = String::from_utf8(request.encode("host\r\nX-Evil: 2")).unwrap();
        assert!(!text.contains("\nX-Evil"), "{text}");
        assert_eq!(text.matches("\r\n").count(), 7);
        assert!(!text.contains('\0'));
    }

    fn names() -> impl Strategy<Value = Vec<String>> {
        proptest::collection::vec("[A-Za-z0-9_-]{1,31}", 0..8)
    }

    fn requests() -> impl Strategy<Value = ConnectRequest> {
        let texts = (
            proptest::option::of("[A-Za-z0-9+/=]{1,44}"),
            proptest::option::of("[!-~]([ -~]{0,60}[!-~])?"),
            proptest::option::of("[a-z0-9.-]{1,63}"),
        );
        let numbers = (any::<Option<u16>>(), any::<Option<u16>>(), 0..3_u8, any::<bool>(), any::<bool>());
        let addresses = (any::<Option<[u8; 4]>>(), any::<Option<[u8; 16]>>());
        let lists = (names(), names(), names(), names());
        let secret = proptest::option::of(proptest::collection::vec(any::<u8>(), 48));
        (texts, numbers, addresses, lists, secret).prop_map(|(texts, numbers, addresses, lists, secret)| {
            ConnectRequest {
                cookie: texts.0,
                user_agent: texts.1,
                hostname: texts.2,
                base_mtu: numbers.0,
                mtu: numbers.1,
                families: Families { v4: numbers.2 != 1, v6: numbers.2 != 2 },
                full_ipv6: numbers.3,
                psk_negotiate: numbers.4,
                address_v4: addresses.0.map(Ipv4Addr::from),
                address_v6: addresses.1.map(Ipv6Addr::from),
                accept_encoding: lists.0,
                dtls_suites: lists.1,
                dtls12_suites: lists.2,
                dtls_accept_encoding: lists.3,
                master_secret: secret.map(|secret| Zeroizing::new(secret.try_into().unwrap())),
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed(request in requests()) {
            let parsed = ConnectRequest::parse(&read(&request.encode("vpn.example:4443")));
            prop_assert_eq!(parsed, Ok(request));
        }
    }
}
