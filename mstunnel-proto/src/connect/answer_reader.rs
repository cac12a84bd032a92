//! Bytes to [`ConnectParams`]: the client's side of CONNECT.
//!
//! The fields may come in any order, in any case, repeated, with unknown ones between them. Each known
//! one is typed; one that does not fit its type refuses the whole answer and says which it was, since a
//! tunnel with half its routes is worse than none (R62). Everything is bounded (R63).
//!
//! | repeated | counts |
//! | --- | --- |
//! | `X-CSTP-MTU`, `X-DTLS-MTU` | the largest |
//! | `X-CSTP-DPD`, `X-DTLS-DPD` | the first that is not zero |
//! | addresses | must be the same |
//! | lists | all |
//! | anything else | the first |
//!
//! # Source
//! protocol.md 3.2 and 3.3; statements 21 and 32.

use super::draft::Draft;
use super::field;
use super::params::ConnectParams;
use crate::http::HttpError;
use crate::http::head::{HeadLimits, HeadScanner};

/// The longest answer: more routes than any client's table wants, and no flood.
pub const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// The most fields of an answer.
pub const MAX_ANSWER_FIELDS: usize = 20_000;

/// The most included prefixes, and the most excluded ones; the public IPv4 list of a large office suite
/// has some hundred, one of all countries but one some thousand.
pub const MAX_ROUTES: usize = 8_192;

/// The most name servers; the stock client uses three.
pub const MAX_DNS_SERVERS: usize = 16;

/// The most domains of split DNS.
pub const MAX_SPLIT_DNS: usize = 1_024;

/// The longest line; a banner of several pages fits.
const MAX_LINE_BYTES: usize = 8 * 1024;

/// The longest piece of the server's text that is kept in an error.
const MAX_QUOTED_CHARS: usize = 80;

const LIMITS: HeadLimits =
    HeadLimits { head: MAX_ANSWER_BYTES, first_line: 1024, field: MAX_LINE_BYTES, fields: MAX_ANSWER_FIELDS };

/// Why an answer to CONNECT opens no tunnel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The bytes are not a response head.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// The server refused.
    #[error("server refused the tunnel with status {status}: {reason}")]
    Refused {
        /// The status code; 401 means that the cookie is dead.
        status: u16,
        /// `X-Reason`, or the text of the status line; escaped.
        reason: String,
    },
    /// A field whose value does not fit its type.
    #[error("{name}: \"{value}\" is not acceptable")]
    Value {
        /// The field.
        name: &'static str,
        /// What came, cut and escaped.
        value: String,
    },
    /// More of a field than the client takes.
    #[error("{name}: more than {limit}")]
    TooMany {
        /// The field.
        name: &'static str,
        /// The most that is taken.
        limit: usize,
    },
    /// Two different values where only one can be true.
    #[error("{name}: two different values")]
    Contradiction {
        /// The field.
        name: &'static str,
    },
    /// A field that must be there is not.
    #[error("no {name} in the answer")]
    Missing {
        /// The field.
        name: &'static str,
    },
}

impl AnswerError {
    /// Whether trying again with the same cookie is pointless.
    ///
    /// # Source
    /// Statement 21: 401 is final.
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Refused { status: 401, .. })
    }
}

/// Reads the answer from a stream, in any split.
#[derive(Debug)]
pub struct AnswerReader {
    state: State,
}

#[derive(Debug)]
enum State {
    Head(HeadScanner),
    Ready(Box<ConnectParams>),
    Done,
    Failed(AnswerError),
}

impl Default for AnswerReader {
    fn default() -> Self {
        Self::new()
    }
}

impl AnswerReader {
    /// A reader at the first byte of the answer.
    pub const fn new() -> Self {
        Self { state: State::Head(HeadScanner::new(LIMITS)) }
    }

    /// Takes bytes, at most to the end of the answer, and returns how many; what follows are frames.
    ///
    /// # Errors
    /// The answer opens no tunnel; every later call gives the same error.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<usize, AnswerError> {
        let (count, params) = match &mut self.state {
            State::Head(scanner) => match read(scanner, bytes) {
                Ok(read) => read,
                Err(error) => {
                    self.state = State::Failed(error.clone());
                    return Err(error);
                }
            },
            State::Ready(_) | State::Done => (0, None),
            State::Failed(error) => return Err(error.clone()),
        };
        if let Some(params) = params {
            self.state = State::Ready(Box::new(params));
        }
        Ok(count)
    }

    /// Takes the parameters out, once.
    pub fn poll_params(&mut self) -> Option<ConnectParams> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Ready(params) => Some(*params),
            other @ (State::Head(_) | State::Done | State::Failed(_)) => {
                self.state = other;
                None
            }
        }
    }
}

impl ConnectParams {
    /// Reads a whole answer; `None` while its empty line has not come.
    ///
    /// For bytes that come piece by piece [`AnswerReader`] is the way: this looks at all of them again.
    ///
    /// # Errors
    /// The answer opens no tunnel.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, AnswerError> {
        let (count, params) = read(&mut HeadScanner::new(LIMITS), bytes)?;
        Ok(params.map(|params| (params, count)))
    }
}

fn read(scanner: &mut HeadScanner, bytes: &[u8]) -> Result<(usize, Option<ConnectParams>), AnswerError> {
    let count = scanner.take(bytes)?;
    let params = scanner.complete().map(parse_head).transpose()?;
    Ok((count, params))
}

/// Reads a head that passed the scanner: CR LF lines, the last one empty.
fn parse_head(head: &[u8]) -> Result<ConnectParams, AnswerError> {
    let text = String::from_utf8_lossy(head);
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let fields = lines.take_while(|line| !line.is_empty()).map(split_field);
    match status_of(status_line)? {
        (200, _) => {
            let mut draft = Draft::default();
            for field in fields {
                let (name, value) = field?;
                draft.take(name, value)?;
            }
            draft.finish()
        }
        (status, reason) => {
            let told = fields.flatten().find(|(name, _)| name.eq_ignore_ascii_case("X-Reason"));
            Err(AnswerError::Refused { status, reason: quoted(told.map_or(reason, |(_, value)| value)) })
        }
    }
}

fn status_of(line: &str) -> Result<(u16, &str), AnswerError> {
    let rest = line.strip_prefix("HTTP/1.1 ").ok_or(HttpError::Version)?;
    let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
    let status = Some(status).filter(|status| status.len() == 3).and_then(field::number);
    let status = status.and_then(|status| u16::try_from(status).ok()).filter(|status| *status >= 100);
    Ok((status.ok_or(HttpError::FirstLine)?, reason))
}

fn split_field(line: &str) -> Result<(&str, &str), AnswerError> {
    let (name, value) = line.split_once(':').ok_or(HttpError::FieldName)?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(HttpError::FieldName.into());
    }
    Ok((name, value.trim_matches([' ', '\t'])))
}

/// A piece of the server's text that is fit for a message.
pub(super) fn quoted(text: &str) -> String {
    text.chars().take(MAX_QUOTED_CHARS).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::{ConnectRequest, DtlsKey, DtlsOffer, InsideAddress, RekeyMethod};
    use super::*;
    use crate::mtu::{MAX_TUNNEL, Mtu};
    use crate::prefix::Prefix;

    const ADDRESS: &str = "X-CSTP-Address: 10.0.0.2";

    fn parse(bytes: &[u8]) -> Result<ConnectParams, AnswerError> {
        ConnectParams::parse(bytes).map(|read| read.expect("the answer is whole").0)
    }

    fn with_fields(fields: &str) -> Result<ConnectParams, AnswerError> {
        let head = format!("HTTP/1.1 200 CONNECTED\r\n{ADDRESS}\r\nX-CSTP-MTU: 1400\r\n{fields}\r\n\r\n");
        parse(head.as_bytes())
    }

    #[test]
    fn address_and_mtu_are_enough_and_both_must_be_there() {
        let params = parse(b"HTTP/1.1 200 OK\r\nx-cstp-address:10.0.0.2\r\nX-CSTP-MTU:1400\r\n\r\n").unwrap();
        assert_eq!(params.v4, Some(InsideAddress { address: [10, 0, 0, 2].into(), prefix_length: 32 }));
        assert_eq!(params.mtu.get(), 1400);
        let missing = |name| Err(AnswerError::Missing { name });
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nX-CSTP-MTU: 1400\r\n\r\n"), missing("X-CSTP-Address"));
        assert_eq!(parse(b"HTTP/1.1 200 OK\r\nX-CSTP-Address: 10.0.0.2\r\n\r\n"), missing("X-CSTP-MTU"));
        assert_eq!(
            parse(b"HTTP/1.1 200 OK\r\nX-CSTP-Address: 10.0.0.2\r\nX-CSTP-MTU: 0\r\n\r\n"),
            missing("X-CSTP-MTU")
        );
        assert_eq!(ConnectParams::parse(b"HTTP/1.1 200 CONNECTED\r\nX-CSTP-MTU: 14"), Ok(None));
    }

    /// Covers: statement 21
    #[test]
    fn a_refusal_is_told_with_its_reason_and_401_is_final() {
        let refused = parse(b"HTTP/1.1 401 Cookie is not acceptable\r\n\r\n").unwrap_err();
        assert!(refused.is_final());
        let refused =
            parse(b"HTTP/1.1 503 Service Unavailable\r\nX-Reason: draining\x1b[2J\r\n\r\n").unwrap_err();
        assert!(!refused.is_final());
        assert_eq!(refused, AnswerError::Refused { status: 503, reason: "draining\\u{1b}[2J".into() });
        for line in [
            "HTTP/1.0 200 OK",
            "HTTP/1.1 2000 OK",
            "HTTP/1.1 +20 OK",
            "HTTP/1.1  200",
            "STF",
            "HTTP/1.1 099 x",
        ] {
            let result = parse(format!("{line}\r\n\r\n").as_bytes());
            assert!(matches!(result, Err(AnswerError::Http(_))), "{line}: {result:?}");
        }
    }

    /// Covers: statement 32
    #[test]
    fn unknown_empty_and_repeated_fields_are_taken() {
        let params = with_fields(
            "X-Unknown: \x01\r\nX-CSTP-DPD: 0\r\nX-CSTP-DPD: 30\r\nX-CSTP-DPD: 90\r\nX-CSTP-MTU: 1300\r\n\
             X-DTLS-MTU: 1410\r\nX-CSTP-Banner:\r\nX-CSTP-Default-Domain: \r\nX-CSTP-Address: 10.0.0.2\r\n\
             X-CSTP-Keepalive: none\r\nX-CSTP-Idle-Timeout: 0\r\nContent-Length: 5",
        )
        .unwrap();
        assert_eq!(params.dpd, Some(Duration::from_secs(30)));
        assert_eq!(params.mtu.get(), 1410);
        assert_eq!((params.banner, params.default_domain), (None, None));
        assert_eq!((params.keepalive, params.idle_timeout), (None, None));
    }

    /// Covers: R62, P-091
    #[test]
    fn a_known_field_that_does_not_fit_its_type_refuses_the_answer() {
        for field in [
            "X-CSTP-DNS: resolver.example",
            "X-CSTP-DNS: 10.0.0.1;id",
            "X-CSTP-DNS: 10.0.0.256",
            "X-CSTP-Address: 10.0.0",
            "X-CSTP-Netmask: 255.0.255.0",
            "X-CSTP-Address-IP6: fd00::1",
            "X-CSTP-Split-Include: 0.0.0.0/33",
            "X-CSTP-Split-Include: $(id)",
            "X-CSTP-Split-Include-IP6: fd00::/129",
            "X-CSTP-Split-Exclude: 10.0.0.0/255.0.255.0",
            "X-CSTP-Split-DNS: a b",
            "X-CSTP-Default-Domain: corp.example;reboot",
            "X-CSTP-Default-Domain: `id`",
            "X-CSTP-NBNS: fd00::1",
            "X-CSTP-DPD: -1",
            "X-CSTP-Keepalive: 4294967296",
            "X-CSTP-Session-Timeout: soon",
            "X-CSTP-Tunnel-All-DNS: yes",
            "X-CSTP-MTU: 1e3",
            "X-CSTP-Base-MTU: -1",
            "X-CSTP-Content-Encoding: lzs",
            "X-DTLS-Content-Encoding: oc-lz4",
            "X-DTLS-Port: 0",
            "X-DTLS-Port: 65536",
            "X-DTLS-App-ID: zz",
            "X-DTLS-App-ID: abc",
            "X-CSTP-Banner: \x1b]0;title\x07",
            "X-CSTP-Banner: \u{9b}2J",
        ] {
            let result = with_fields(field);
            let name = field.split(':').next().unwrap();
            assert!(
                matches!(&result, Err(AnswerError::Value { name: told, .. }) if *told == name),
                "{field}: {result:?}"
            );
            let message = result.unwrap_err().to_string();
            assert!(message.len() < 1_000 && !message.chars().any(char::is_control), "{message}");
        }
        assert_eq!(with_fields("X-CSTP-DNS"), Err(HttpError::FieldName.into()));
        assert_eq!(with_fields("X-CSTP-DNS : 10.0.0.1"), Err(HttpError::FieldName.into()));
        assert_eq!(with_fields("A: b\r\n c"), Err(HttpError::FoldedField.into()));
    }

    #[test]
    fn two_different_addresses_are_a_contradiction() {
        for fields in [
            "X-CSTP-Address: 10.0.0.3",
            "X-CSTP-Netmask: 255.0.0.0\r\nX-CSTP-Netmask: 255.255.0.0",
            "X-CSTP-Address-IP6: fd00::1/64\r\nX-CSTP-Address-IP6: fd00::2/64",
            "X-CSTP-Address-IP6: fd00::1/64\r\nX-CSTP-Address: fd00::2",
        ] {
            let result = with_fields(fields);
            assert!(matches!(result, Err(AnswerError::Contradiction { .. })), "{fields}: {result:?}");
        }
    }

    /// Covers: R63, P-090, P-091
    #[test]
    fn every_list_has_its_bound() {
        for (line, limit) in [
            ("X-CSTP-Split-Include: 10.0.0.0/8", MAX_ROUTES),
            ("X-CSTP-Split-Exclude-IP6: fd00::/8", MAX_ROUTES),
            ("X-CSTP-Split-DNS: corp.example", MAX_SPLIT_DNS),
            ("X-CSTP-DNS: 10.0.0.1", MAX_DNS_SERVERS),
            ("X-CSTP-NBNS: 10.0.0.1", MAX_DNS_SERVERS),
        ] {
            assert!(with_fields(&vec![line; limit].join("\r\n")).is_ok(), "{line}");
            let result = with_fields(&vec![line; limit + 1].join("\r\n"));
            assert!(matches!(result, Err(AnswerError::TooMany { .. })), "{line}: {result:?}");
        }
        let result = with_fields(&vec!["A: b"; MAX_ANSWER_FIELDS].join("\r\n"));
        assert_eq!(result, Err(HttpError::TooManyFields { limit: MAX_ANSWER_FIELDS }.into()));
        let result = with_fields(&format!("X-CSTP-Banner: {}", "b".repeat(MAX_LINE_BYTES)));
        assert_eq!(result, Err(HttpError::FieldTooLong { limit: MAX_LINE_BYTES }.into()));
        let long = format!("A: {}", "b".repeat(8_000));
        let result = with_fields(&vec![long.as_str(); 200].join("\r\n"));
        assert_eq!(result, Err(HttpError::HeadTooLong { limit: MAX_ANSWER_BYTES }.into()));
    }

    /// Covers: R63
    #[test]
    fn an_insane_mtu_is_clamped() {
        let mtu = |value: &str| {
            let head = format!("HTTP/1.1 200 OK\r\n{ADDRESS}\r\nX-CSTP-MTU: {value}\r\n\r\n");
            parse(head.as_bytes()).unwrap().mtu
        };
        assert_eq!(mtu("1").get(), 68);
        assert_eq!(mtu("65535"), MAX_TUNNEL);
        assert_eq!(mtu("4294967295"), MAX_TUNNEL);
    }

    /// Covers: statement 29
    #[test]
    fn dtls_needs_port_id_and_suite_and_else_is_off() {
        let id = "ab".repeat(32);
        let dtls = |fields: &str| with_fields(fields).unwrap().dtls;
        let (port, suite) = ("X-DTLS-Port: 443", "X-DTLS-CipherSuite: PSK-NEGOTIATE");
        let offer = dtls(&format!("{suite}\r\nX-DTLS-App-ID: {id}\r\n{port}\r\nX-DTLS-DPD: 5")).unwrap();
        assert_eq!((offer.port, offer.app_id, offer.dpd), (443, [0xab; 32], Some(Duration::from_secs(5))));
        assert_eq!(dtls(&format!("{suite}\r\nX-DTLS-App-ID: {id}")), None);
        assert_eq!(dtls(&format!("{port}\r\n{suite}")), None);
        assert_eq!(dtls(&format!("{port}\r\nX-DTLS-App-ID: {id}")), None);
        assert_eq!(dtls(&format!("{port}\r\n{suite}\r\nX-DTLS-App-ID: abcd")), None);
        let legacy = "X-DTLS-CipherSuite: OC-DTLS1_2-AES256-GCM";
        assert_eq!(dtls(&format!("{port}\r\n{legacy}\r\nX-DTLS-Session-ID: {id}")), None);
    }

    #[test]
    fn what_follows_the_answer_stays_with_the_caller() {
        let answer = format!("HTTP/1.1 200 OK\r\n{ADDRESS}\r\nX-CSTP-MTU: 1400\r\n\r\n");
        let bytes = [answer.as_bytes(), b"STF\x01\0\0\x03\0"].concat();
        let mut reader = AnswerReader::new();
        assert_eq!(reader.handle_bytes(&bytes), Ok(answer.len()));
        assert_eq!(reader.handle_bytes(&bytes[answer.len()..]), Ok(0));
        assert!(reader.poll_params().is_some());
        assert!(reader.poll_params().is_none());
        assert_eq!(reader.handle_bytes(&bytes[answer.len()..]), Ok(0));
    }

    #[test]
    fn an_error_stays() {
        let mut reader = AnswerReader::new();
        let error = reader.handle_bytes(b"HTTP/1.1 401 no\r\n\r\n").unwrap_err();
        assert_eq!(reader.handle_bytes(b"x"), Err(error));
        assert!(reader.poll_params().is_none());
    }

    fn timers() -> impl Strategy<Value = Option<Duration>> {
        proptest::option::of((1..=u64::from(u32::MAX)).prop_map(Duration::from_secs))
    }

    fn domains() -> impl Strategy<Value = String> {
        "[a-z0-9]{1,10}(\\.[a-z0-9-]{1,10}){0,3}"
    }

    fn prefixes() -> impl Strategy<Value = Vec<Prefix>> {
        let prefix = prop_oneof![
            (any::<[u8; 4]>(), 0..=32_u8).prop_map(|(address, length)| (IpAddr::from(address), length)),
            (any::<[u8; 16]>(), 0..=128_u8).prop_map(|(address, length)| (IpAddr::from(address), length)),
        ];
        proptest::collection::vec(
            prefix.prop_map(|(address, length)| Prefix::new(address, length).unwrap()),
            0..6,
        )
    }

    fn offers() -> impl Strategy<Value = Option<DtlsOffer>> {
        let offer = (1..=u16::MAX, any::<[u8; 32]>(), timers(), timers(), timers(), any::<bool>());
        proptest::option::of(offer.prop_map(|(port, app_id, dpd, keepalive, rekey_time, ssl)| DtlsOffer {
            key: DtlsKey::Exported,
            port,
            app_id,
            dpd,
            keepalive,
            rekey_time,
            rekey_method: if ssl { RekeyMethod::Ssl } else { RekeyMethod::None },
        }))
    }

    /// Parameters with both addresses, so that nothing is withheld from a client that takes both.
    fn params() -> impl Strategy<Value = ConnectParams> {
        let texts = (
            proptest::option::of("[!-~]([ -~]{0,30}[!-~])?"),
            proptest::option::of(domains()),
            proptest::option::of(domains()),
            proptest::option::of("[!-~]([ -~]{0,60}[!-~])?"),
        );
        let addresses = (any::<[u8; 4]>(), 0..=32_u8, any::<[u8; 16]>(), 0..=128_u8);
        let lists = (
            proptest::collection::vec(any::<IpAddr>(), 0..4),
            proptest::collection::vec(any::<Ipv4Addr>(), 0..3),
            proptest::collection::vec(domains(), 0..3),
            prefixes(),
            prefixes(),
        );
        let times = (timers(), timers(), timers(), timers(), timers(), timers());
        let rest = (any::<[bool; 2]>(), 0..3_u8, offers(), any::<u16>(), 1280..=MAX_TUNNEL.get());
        (texts, addresses, lists, times, rest).prop_map(|(texts, addresses, lists, times, rest)| {
            let (v4, v6) = (Ipv4Addr::from(addresses.0), Ipv6Addr::from(addresses.2));
            let mut include = lists.3;
            if !include.is_empty() {
                include.extend([Prefix::from(v4), Prefix::from(v6)]);
            }
            ConnectParams {
                server_name: texts.0,
                hostname: texts.1,
                default_domain: texts.2,
                banner: texts.3,
                v4: Some(InsideAddress { address: v4, prefix_length: addresses.1 }),
                v6: Some(InsideAddress { address: v6, prefix_length: addresses.3 }),
                dns: lists.0,
                nbns: lists.1,
                split_dns: lists.2,
                include,
                exclude: lists.4,
                dpd: times.0,
                keepalive: times.1,
                idle_timeout: times.2,
                rekey_time: times.3,
                session_timeout: times.4,
                session_timeout_remaining: times.5,
                tunnel_all_dns: rest.0[0],
                client_bypass_protocol: rest.0[1],
                rekey_method: [RekeyMethod::Ssl, RekeyMethod::NewTunnel, RekeyMethod::None]
                    [usize::from(rest.1)],
                dtls: rest.2,
                base_mtu: Some(Mtu::new(rest.3)),
                mtu: Mtu::new(rest.4),
            }
        })
    }

    /// Known lines with good and bad values, and anything else.
    fn soup() -> impl Strategy<Value = Vec<u8>> {
        let line = prop_oneof![
            Just(b"HTTP/1.1 200 CONNECTED\r\n".to_vec()),
            Just(b"X-CSTP-MTU: 1400\r\n".to_vec()),
            Just(b"X-CSTP-Address: 10.0.0.2\r\n".to_vec()),
            "X-(CSTP|DTLS)-(DPD|Port|Netmask|Split-Include|App-ID|Banner|DNS): [ -~]{0,12}\r\n"
                .prop_map(String::into_bytes),
            Just(b"\r\n".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..6),
        ];
        (any::<bool>(), proptest::collection::vec(line, 0..12)).prop_map(|(begun, lines)| {
            let start = if begun { &b"HTTP/1.1 200 CONNECTED\r\n"[..] } else { b"" };
            [start, &lines.concat()].concat()
        })
    }

    /// Reads `input` in pieces; gives the parameters, the error, and how many bytes were taken.
    fn read_split(input: &[u8], size: usize) -> (Option<ConnectParams>, Option<AnswerError>, usize) {
        let (mut reader, mut taken) = (AnswerReader::new(), 0);
        for piece in input.chunks(size) {
            match reader.handle_bytes(piece) {
                Ok(count) => taken += count,
                Err(error) => return (None, Some(error), 0),
            }
        }
        (reader.poll_params(), None, taken)
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed(params in params(), full_ipv6: bool, any_order: bool) {
            let peer = ConnectRequest { full_ipv6, psk_negotiate: true, ..ConnectRequest::default() };
            let mut bytes = params.encode(&peer);
            if any_order {
                bytes = reversed_but_lists(&bytes);
            }
            prop_assert_eq!(ConnectParams::parse(&bytes), Ok(Some((params, bytes.len()))));
        }

        #[test]
        fn any_split_gives_the_same_answer(input in soup(), size in 1_usize..30) {
            let whole = read_split(&input, input.len().max(1));
            prop_assert_eq!(&read_split(&input, size), &whole);
            prop_assert_eq!(&read_split(&input, 1), &whole);
        }

        #[test]
        fn no_bytes_panic(input in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = ConnectParams::parse(&input);
        }
    }

    /// The same answer with its single fields in front, last first, and then the lists as they were
    /// (statement 32).
    fn reversed_but_lists(bytes: &[u8]) -> Vec<u8> {
        const LISTS: &[&str] = &["X-CSTP-DNS", "X-CSTP-NBNS", "X-CSTP-Split-"];
        let text = std::str::from_utf8(bytes).unwrap();
        let mut lines: Vec<&str> = text.trim_end().split("\r\n").skip(1).collect();
        lines.sort_by_key(|line| LISTS.iter().any(|list| line.starts_with(list)));
        let singles = lines.iter().position(|line| LISTS.iter().any(|list| line.starts_with(list)));
        let end = singles.unwrap_or(lines.len());
        lines[..end].reverse();
        format!("HTTP/1.1 200 CONNECTED\r\n{}\r\n\r\n", lines.join("\r\n")).into_bytes()
    }
}
