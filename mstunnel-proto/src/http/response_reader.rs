//! Bytes to responses, in any split: the client's side of the login.
//!
//! ```text
//!   Head --empty line--> Body --whole, or end of stream--> Ready --poll_reply--> Head
//!    ^ |                                                     (1xx: skipped, back to Head)
//!    +-+
//! ```

use super::error::HttpError;
use super::head::HeadScanner;
use super::limits::MAX_INTERIM_RESPONSES;
use super::reply::{RESPONSE_HEAD, Reply};
use super::reply_body::BodyReader;

/// Reads the responses of one connection; the bounds are the `MAX_RESPONSE_*` of this module.
#[derive(Debug)]
pub struct ResponseReader {
    state: State,
    interim: u32,
}

#[derive(Debug)]
enum State {
    Head(HeadScanner),
    Body(Box<Reply>, BodyReader),
    Ready(Box<Reply>),
    Failed(HttpError),
}

impl Default for ResponseReader {
    fn default() -> Self {
        Self::new()
    }
}

impl ResponseReader {
    /// A reader at the start of a connection.
    pub const fn new() -> Self {
        Self { state: State::Head(HeadScanner::new(RESPONSE_HEAD)), interim: 0 }
    }

    /// Takes bytes, at most to the end of one response, and returns how many it took.
    ///
    /// # Errors
    /// The bytes are not an acceptable response; every later call gives the same error.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> Result<usize, HttpError> {
        let mut taken = 0;
        while taken < bytes.len() {
            let count = self.step(&bytes[taken..]).inspect_err(|error| self.state = State::Failed(*error))?;
            if count == 0 {
                break;
            }
            taken += count;
        }
        Ok(taken)
    }

    /// The stream ended: a body that runs to the end of the connection is whole now.
    ///
    /// # Errors
    /// [`HttpError::Truncated`] when the stream ended inside a head or a counted body.
    pub fn handle_end(&mut self) -> Result<(), HttpError> {
        match std::mem::replace(&mut self.state, Self::new().state) {
            State::Body(reply, BodyReader::UntilClose) => self.state = State::Ready(reply),
            State::Head(scanner) if scanner.is_empty() => {}
            State::Ready(reply) => self.state = State::Ready(reply),
            State::Failed(error) => {
                self.state = State::Failed(error);
                return Err(error);
            }
            State::Head(_) | State::Body(..) => {
                self.state = State::Failed(HttpError::Truncated);
                return Err(HttpError::Truncated);
            }
        }
        Ok(())
    }

    /// Takes the finished response out; the reader then waits for the next one.
    pub fn poll_reply(&mut self) -> Option<Reply> {
        match std::mem::replace(&mut self.state, Self::new().state) {
            State::Ready(reply) => {
                self.interim = 0;
                Some(*reply)
            }
            other @ (State::Head(_) | State::Body(..) | State::Failed(_)) => {
                self.state = other;
                None
            }
        }
    }

    /// Takes at least one byte of `bytes`, which is not empty, unless a response is ready.
    fn step(&mut self, bytes: &[u8]) -> Result<usize, HttpError> {
        match &mut self.state {
            State::Head(scanner) => {
                let count = scanner.take(bytes)?;
                if let Some(head) = scanner.complete() {
                    let (reply, body) = Reply::parse_head(head)?;
                    self.begin_body(reply, body)?;
                }
                Ok(count)
            }
            State::Body(reply, body) => {
                let count = body.take(bytes, &mut reply.body)?;
                self.finish_if_whole();
                Ok(count)
            }
            State::Ready(_) => Ok(0),
            State::Failed(error) => Err(*error),
        }
    }

    fn begin_body(&mut self, reply: Reply, body: BodyReader) -> Result<(), HttpError> {
        if reply.is_interim() {
            self.interim += 1;
            if self.interim > MAX_INTERIM_RESPONSES {
                return Err(HttpError::TooManyInterim { limit: MAX_INTERIM_RESPONSES });
            }
            self.state = Self::new().state;
            return Ok(());
        }
        self.state = State::Body(Box::new(reply), body);
        self.finish_if_whole();
        Ok(())
    }

    fn finish_if_whole(&mut self) {
        self.state = match std::mem::replace(&mut self.state, Self::new().state) {
            State::Body(reply, body) if body.is_done() => State::Ready(reply),
            other @ (State::Head(_) | State::Body(..) | State::Ready(_) | State::Failed(_)) => other,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> Result<(Reply, usize), HttpError> {
        let mut reader = ResponseReader::new();
        let taken = reader.handle_bytes(input)?;
        let reply = reader.poll_reply().ok_or(HttpError::Truncated)?;
        Ok((reply, taken))
    }

    /// Covers: statement 20
    #[test]
    fn a_counted_body_ends_where_its_length_says() {
        let input = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbodyHTTP";
        let (reply, taken) = read(input).unwrap();
        assert_eq!((reply.status, reply.body.as_slice(), taken), (200, &b"body"[..], input.len() - 4));
        assert!(reply.keeps_alive());
    }

    #[test]
    fn a_body_without_length_ends_with_the_connection() {
        let mut reader = ResponseReader::new();
        reader.handle_bytes(b"HTTP/1.0 200 OK\r\n\r\nall ").unwrap();
        reader.handle_bytes(b"of it").unwrap();
        assert!(reader.poll_reply().is_none());
        reader.handle_end().unwrap();
        let reply = reader.poll_reply().unwrap();
        assert_eq!(reply.body, b"all of it");
        assert!(!reply.keeps_alive());
    }

    /// Covers: R63, P-090
    #[test]
    fn half_an_answer_is_an_error_and_not_a_body() {
        for half in
            [&b"HTTP/1.1 200 OK\r\nContent-Le"[..], b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"]
        {
            let mut reader = ResponseReader::new();
            reader.handle_bytes(half).unwrap();
            assert_eq!(reader.handle_end(), Err(HttpError::Truncated));
            assert!(reader.poll_reply().is_none());
        }
    }

    #[test]
    fn interim_responses_are_skipped_up_to_a_bound() {
        let interim = b"HTTP/1.1 100 Continue\r\n\r\n";
        let mut input = interim.repeat(8);
        input.extend(b"HTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!(read(&input).unwrap().0.status, 204);
        assert_eq!(read(&interim.repeat(9)), Err(HttpError::TooManyInterim { limit: 8 }));
    }

    /// Covers: R63, P-090
    #[test]
    fn contradicting_lengths_and_unknown_codings_are_refused() {
        let of = |fields: &str| read(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n").as_bytes()).map(|_| ());
        assert_eq!(of("Content-Length: 1\r\nContent-Length: 1"), Err(HttpError::LengthConflict));
        assert_eq!(of("Content-Length: 1\r\nTransfer-Encoding: chunked"), Err(HttpError::LengthConflict));
        assert_eq!(of("Transfer-Encoding: gzip, chunked"), Err(HttpError::TransferEncoding));
        assert_eq!(of("Content-Length: -1"), Err(HttpError::ContentLength));
        assert!(matches!(of("Content-Length: 99999999999999999999"), Err(HttpError::BodyTooLong { .. })));
    }

    /// Covers: statement 20
    #[test]
    fn cookies_come_in_order_with_their_deletions() {
        let input =
            b"HTTP/1.1 200 OK\r\nSet-Cookie: webvpn=abc==; Secure\r\nset-cookie: webvpnc=; path=/\r\n\
            Set-Cookie: webvpnc=bu:/&p:t; Secure\r\nContent-Length: 0\r\n\r\n";
        let (reply, _) = read(input).unwrap();
        let cookies: Vec<_> = reply.set_cookies().collect();
        assert_eq!(cookies, [("webvpn", "abc=="), ("webvpnc", ""), ("webvpnc", "bu:/&p:t")]);
    }

    /// Covers: R63, P-090
    #[test]
    fn a_flood_of_fields_is_refused() {
        let mut input = b"HTTP/1.1 200 OK\r\n".to_vec();
        input.extend(b"Set-Cookie: a=b\r\n".repeat(300));
        assert!(matches!(read(&input), Err(HttpError::TooManyFields { .. })));
    }

    #[test]
    fn an_error_stays() {
        let mut reader = ResponseReader::new();
        assert_eq!(reader.handle_bytes(b"\n"), Err(HttpError::BareLineFeed));
        assert_eq!(reader.handle_bytes(b"HTTP/1.1 200 OK\r\n\r\n"), Err(HttpError::BareLineFeed));
    }
}
