//! Bytes to requests, in any split.
//!
//! ```text
//!   Head --empty line--> Body --last byte--> Ready --poll_request--> Head
//!     |                    |                                (no body: straight to Ready)
//!     +------ error -------+--> Failed, for good
//! ```
//!
//! A request is never begun before the one before it was taken: what a client pipelines stays with
//! the caller, and what follows a CONNECT are frames and none of our business.

use super::error::HttpError;
use super::head::HeadScanner;
use super::request::{REQUEST_HEAD, Request};

/// Reads the requests of one connection.
///
/// Holds at most one request: [`MAX_HEAD_BYTES`](super::MAX_HEAD_BYTES) of head or
/// [`MAX_BODY_BYTES`](super::MAX_BODY_BYTES) of body plus its parsed head. Memory grows with the
/// bytes that came, never with a length that was announced.
#[derive(Debug)]
pub struct RequestReader {
    state: State,
}

#[derive(Debug)]
enum State {
    Head(HeadScanner),
    Body { request: Request, missing: usize },
    Ready(Request),
    Failed(HttpError),
}

impl Default for RequestReader {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestReader {
    /// A reader at the start of a connection.
    pub const fn new() -> Self {
        Self { state: State::Head(HeadScanner::new(REQUEST_HEAD)) }
    }

    /// Takes bytes, at most to the end of one request, and returns how many it took.
    ///
    /// While a finished request waits in [`RequestReader::poll_request`] it takes nothing.
    ///
    /// # Errors
    /// The bytes are not an acceptable request. The connection is lost: every later call gives the
    /// same error, and [`HttpError::response`] is the last thing to send.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<usize, HttpError> {
        let mut taken = 0;
        loop {
            let rest = &bytes[taken..];
            match &mut self.state {
                State::Head(scanner) => match Self::take_head(scanner, rest) {
                    Ok((count, None)) => return Ok(taken + count),
                    Ok((count, Some((request, missing)))) => {
                        taken += count;
                        self.state = State::Body { request, missing };
                    }
                    Err(error) => {
                        self.state = State::Failed(error);
                        return Err(error);
                    }
                },
                State::Body { request, missing } => {
                    let count = rest.len().min(*missing);
                    request.body.extend_from_slice(&rest[..count]);
                    *missing -= count;
                    taken += count;
                    if *missing > 0 {
                        return Ok(taken);
                    }
                    self.finish();
                    return Ok(taken);
                }
                State::Ready(_) => return Ok(taken),
                State::Failed(error) => return Err(*error),
            }
        }
    }

    /// Takes the finished request out; the reader then waits for the next one.
    pub fn poll_request(&mut self) -> Option<Request> {
        if !matches!(self.state, State::Ready(_)) {
            return None;
        }
        match std::mem::replace(&mut self.state, Self::new().state) {
            State::Ready(request) => Some(request),
            State::Head(_) | State::Body { .. } | State::Failed(_) => None,
        }
    }

    /// Whether no byte of a request has come yet; a connection that ends now ends in good order.
    pub fn is_idle(&self) -> bool {
        matches!(&self.state, State::Head(scanner) if scanner.is_empty())
    }

    /// Whether a head is still to come or to be finished, for
    /// [`HEAD_TIMEOUT`](super::HEAD_TIMEOUT) against [`REQUEST_TIMEOUT`](super::REQUEST_TIMEOUT).
    pub fn is_in_head(&self) -> bool {
        matches!(self.state, State::Head(_))
    }

    fn take_head(
        scanner: &mut HeadScanner,
        bytes: &[u8],
    ) -> Result<(usize, Option<(Request, usize)>), HttpError> {
        let count = scanner.take(bytes)?;
        let parsed = scanner.complete().map(Request::parse_head).transpose()?;
        Ok((count, parsed))
    }

    fn finish(&mut self) {
        self.state = match std::mem::replace(&mut self.state, Self::new().state) {
            State::Body { request, .. } => State::Ready(request),
            other @ (State::Head(_) | State::Ready(_) | State::Failed(_)) => other,
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::request::{Method, Version};
    use super::super::{
        MAX_BODY_BYTES, MAX_FIELD_BYTES, MAX_FIELDS, MAX_HEAD_BYTES, MAX_METHOD_BYTES, MAX_TARGET_BYTES,
    };
    use super::*;

    fn read(input: &[u8]) -> Result<Request, HttpError> {
        let mut reader = RequestReader::new();
        reader.handle_bytes(input)?;
        reader.poll_request().ok_or(HttpError::Truncated)
    }

    fn with_fields(fields: &str) -> Result<Request, HttpError> {
        read(format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n").as_bytes())
    }

    #[test]
    fn a_request_has_its_parts() {
        let input = b"POST /auth?x=1 HTTP/1.1\r\nhost: a\r\nCOOKIE: a=1; webvpn=v=2;b=3\r\nContent-Length: 2\r\n\r\nok";
        let request = read(input).unwrap();
        assert_eq!(request.method, Method::Post);
        assert_eq!((request.target.as_str(), request.path()), ("/auth?x=1", "/auth"));
        assert_eq!(request.header("HOST"), Some("a"));
        assert_eq!(request.cookie("webvpn"), Some("v=2"));
        assert_eq!(request.cookie("b"), Some("3"));
        assert_eq!(request.cookie("webvp"), None);
        assert_eq!(request.body, b"ok");
        assert!(request.keeps_alive());
    }

    #[test]
    fn a_cookie_is_found_in_the_second_cookie_field() {
        let request = with_fields("Cookie: a=1\r\nCookie: webvpn=x").unwrap();
        assert_eq!(request.cookie("webvpn"), Some("x"));
    }

    /// Covers: R24, P-033
    #[test]
    fn what_follows_a_request_stays_with_the_caller() {
        let one = b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nok";
        let two = [&one[..], b"GET /admin HTTP/1.1\r\n\r\n"].concat();
        let mut reader = RequestReader::new();
        assert_eq!(reader.handle_bytes(&two), Ok(one.len()));
        assert_eq!(reader.handle_bytes(&two[one.len()..]), Ok(0));
        assert_eq!(reader.poll_request().unwrap().body, b"ok");
        assert_eq!(reader.handle_bytes(&two[one.len()..]), Ok(two.len() - one.len()));
        assert_eq!(reader.poll_request().unwrap().path(), "/admin");
    }

    /// Covers: statement 14
    #[test]
    fn the_legacy_get_with_a_length_of_zero_is_taken() {
        let request = read(b"GET / HTTP/1.1\r\nContent-Length: 0\r\n\r\n").unwrap();
        assert_eq!((request.method, request.body.len()), (Method::Get, 0));
    }

    #[test]
    fn http_1_0_and_connection_close_end_the_connection() {
        let request = read(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
        assert_eq!(request.version, Version::Http10);
        assert!(!request.keeps_alive());
        assert!(!with_fields("connection: x, Close").unwrap().keeps_alive());
    }

    /// Covers: R24, P-032
    #[test]
    fn a_length_that_is_not_plain_digits_is_refused() {
        for value in ["-1", "+5", "0x10", "5, 5", "5 5", "", "5;", "\u{661}"] {
            let result = with_fields(&format!("Content-Length: {value}"));
            assert_eq!(result, Err(HttpError::ContentLength), "{value:?}");
        }
    }

    /// Covers: R23, P-032
    #[test]
    fn a_body_over_the_limit_is_refused_before_it_comes() {
        for value in ["65537", "2147483648", "9223372036854775808", "99999999999999999999999"] {
            let result = with_fields(&format!("Content-Length: {value}"));
            assert_eq!(result, Err(HttpError::BODY_TOO_LONG), "{value}");
        }
        let mut input = format!("POST / HTTP/1.1\r\nContent-Length: {MAX_BODY_BYTES}\r\n\r\n").into_bytes();
        input.resize(input.len() + MAX_BODY_BYTES, b'x');
        assert_eq!(read(&input).unwrap().body.len(), MAX_BODY_BYTES);
    }

    /// Covers: R24, P-033
    #[test]
    fn a_second_statement_of_the_length_is_refused() {
        assert_eq!(with_fields("Content-Length: 0\r\ncontent-length: 5"), Err(HttpError::LengthConflict));
        assert_eq!(with_fields("Content-Length: 0\r\nContent-Length: 0"), Err(HttpError::LengthConflict));
        for coding in ["chunked", "identity", "xchunked", "gzip, chunked"] {
            let alone = with_fields(&format!("Transfer-Encoding: {coding}"));
            assert_eq!(alone, Err(HttpError::TransferEncoding), "{coding}");
        }
        let both = with_fields("Content-Length: 0\r\ntransfer-encoding: chunked");
        assert_eq!(both, Err(HttpError::TransferEncoding));
        let both = with_fields("Transfer-Encoding: chunked\r\nContent-Length: 0");
        assert_eq!(both, Err(HttpError::TransferEncoding));
    }

    /// Covers: R24, P-033
    #[test]
    fn malformed_fields_are_refused() {
        assert_eq!(with_fields("Host : a"), Err(HttpError::FieldName));
        assert_eq!(with_fields("Host\t: a"), Err(HttpError::FieldName));
        assert_eq!(with_fields("no colon"), Err(HttpError::FieldName));
        assert_eq!(with_fields(": a"), Err(HttpError::FieldName));
        assert_eq!(with_fields("A: \x01"), Err(HttpError::FieldValue));
        assert_eq!(with_fields("A: \x7f"), Err(HttpError::FieldValue));
        assert_eq!(with_fields("A: b\n c"), Err(HttpError::BareLineFeed));
        assert_eq!(with_fields("A: b\r\n c"), Err(HttpError::FoldedField));
        assert_eq!(with_fields("A: b\0"), Err(HttpError::Nul));
    }

    /// Covers: R24, P-042
    #[test]
    fn request_lines_that_are_not_ours_are_refused() {
        for line in [
            "PRI * HTTP/2.0",
            "GET /",
            "GET  / HTTP/1.1",
            "GET /  HTTP/1.1",
            "GET / x HTTP/1.1",
            " GET / HTTP/1.1",
        ] {
            let result = read(format!("{line}\r\n\r\n").as_bytes());
            assert!(matches!(result, Err(HttpError::FirstLine | HttpError::Version)), "{line}: {result:?}");
        }
        assert_eq!(read(b"GET / HTTP/1.2\r\n\r\n"), Err(HttpError::Version));
        assert_eq!(read(b"get / HTTP/1.1\r\n\r\n").unwrap().method, Method::Other("get".into()));
    }

    /// Covers: R24, P-034
    #[test]
    fn a_target_is_never_decoded_and_always_ascii() {
        let request = read("GET /%2e%2e/\u{e9}\\..%00 HTTP/1.1\r\n\r\n".as_bytes()).unwrap();
        assert_eq!(request.target, "/%2e%2e/%C3%A9\\..%00");
    }

    /// Covers: R23, P-032
    #[test]
    fn every_limit_of_the_head_holds() {
        let target = |len: usize| read(format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(len - 1)).as_bytes());
        assert_eq!(target(MAX_TARGET_BYTES).unwrap().target.len(), MAX_TARGET_BYTES);
        assert_eq!(target(MAX_TARGET_BYTES + 1), Err(HttpError::target_too_long(256)));
        assert!(matches!(target(8 * 1024), Err(HttpError::FirstLineTooLong { .. })));
        let method = format!("{} / HTTP/1.1\r\n\r\n", "M".repeat(MAX_METHOD_BYTES + 1));
        assert_eq!(read(method.as_bytes()), Err(HttpError::METHOD_TOO_LONG));

        let fields = |count: usize| with_fields(&vec!["a: b"; count].join("\r\n"));
        assert_eq!(fields(MAX_FIELDS).unwrap().fields.len(), MAX_FIELDS);
        assert_eq!(fields(MAX_FIELDS + 1), Err(HttpError::TooManyFields { limit: MAX_FIELDS }));

        let field = |len: usize| with_fields(&format!("a:{}", "b".repeat(len - 2)));
        assert!(field(MAX_FIELD_BYTES).is_ok());
        assert_eq!(field(MAX_FIELD_BYTES + 1), Err(HttpError::FieldTooLong { limit: MAX_FIELD_BYTES }));

        let long = format!("a:{}", "b".repeat(8_000));
        let result = with_fields(&[long.as_str(), &long, &long].join("\r\n"));
        assert_eq!(result, Err(HttpError::HeadTooLong { limit: MAX_HEAD_BYTES }));
    }

    #[test]
    fn a_connect_with_a_body_is_refused() {
        let input = b"CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nContent-Length: 1\r\n\r\nx";
        assert_eq!(read(input), Err(HttpError::BodyOnConnect));
    }

    #[test]
    fn an_error_stays() {
        let mut reader = RequestReader::new();
        assert_eq!(reader.handle_bytes(b"GET /\n"), Err(HttpError::BareLineFeed));
        assert_eq!(reader.handle_bytes(b"GET / HTTP/1.1\r\n\r\n"), Err(HttpError::BareLineFeed));
        assert!(reader.poll_request().is_none());
    }

    #[test]
    fn the_reader_knows_whether_a_request_has_begun() {
        let mut reader = RequestReader::new();
        assert!(reader.is_idle() && reader.is_in_head());
        reader.handle_bytes(b"G").unwrap();
        assert!(!reader.is_idle() && reader.is_in_head());
        reader.handle_bytes(b"ET / HTTP/1.1\r\nContent-Length: 1\r\n\r\n").unwrap();
        assert!(!reader.is_in_head());
        reader.handle_bytes(b"x").unwrap();
        assert!(reader.poll_request().is_some() && reader.is_idle());
    }

    /// Reads `input` in pieces of the given sizes, over and over; gives all requests and the error.
    fn read_split(input: &[u8], sizes: &[usize]) -> (Vec<Request>, Option<HttpError>) {
        let (mut reader, mut requests, mut rest) = (RequestReader::new(), Vec::new(), input);
        let mut sizes = sizes.iter().cycle();
        let mut piece: &[u8] = &[];
        while !(piece.is_empty() && rest.is_empty()) {
            if piece.is_empty() {
                (piece, rest) = rest.split_at(rest.len().min(*sizes.next().unwrap_or(&1)));
            }
            match reader.handle_bytes(piece) {
                Ok(count) => piece = &piece[count..],
                Err(error) => return (requests, Some(error)),
            }
            requests.extend(reader.poll_request());
        }
        (requests, None)
    }

    /// Bytes that look like requests, and like nothing.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"GET / HTTP/1.1\r\n".to_vec()),
            Just(b"POST /auth HTTP/1.0\r\n".to_vec()),
            Just(b"Content-Length: 3\r\n".to_vec()),
            Just(b"Cookie: a=b\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\r\n\r\n".to_vec()),
            Just(b"abc".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..4),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        /// Covers: R24, P-044
        #[test]
        fn any_split_gives_the_same_requests(input in bytes(), sizes in proptest::collection::vec(1_usize..20, 1..8)) {
            let whole = read_split(&input, &[usize::MAX]);
            prop_assert_eq!(&read_split(&input, &sizes), &whole);
            prop_assert_eq!(&read_split(&input, &[1]), &whole);
        }

        /// Covers: R89, P-044
        #[test]
        fn no_bytes_panic(input in proptest::collection::vec(any::<u8>(), 0..300)) {
            read_split(&input, &[7]);
        }
    }
}
