//! Finds the end of a head in linear time, and refuses what must never be in one.
//!
//! ```text
//!            byte            CR
//!   Line  ---------> Line --------> LineEnd --LF--> LineStart --CR--> HeadEnd --LF--> complete
//! ```
//!
//! The scanner looks at each byte once, whatever the split. What passed it has only CR LF line ends,
//! no NUL, no folded field, and stays inside its [`HeadLimits`]; the tokens are judged afterwards.
//! It keeps the bytes, at most `limits.head` of them, and never reserves memory for what has not come.

use super::error::HttpError;

/// The bounds of one kind of head.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    /// Bytes of the whole head.
    pub(crate) head: usize,
    /// Bytes of the first line.
    pub(crate) first_line: usize,
    /// Bytes of each other line.
    pub(crate) field: usize,
    /// Lines after the first.
    pub(crate) fields: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the first byte of a field line.
    LineStart,
    /// Inside a line.
    Line,
    /// After the CR that ends a line.
    LineEnd,
    /// After the CR of an empty line.
    HeadEnd,
    /// The empty line was seen.
    Complete,
}

/// Collects one head.
#[derive(Debug)]
pub(crate) struct HeadScanner {
    limits: HeadLimits,
    state: State,
    bytes: Vec<u8>,
    line_start: usize,
    lines: usize,
}

impl HeadScanner {
    pub(crate) const fn new(limits: HeadLimits) -> Self {
        Self { limits, state: State::Line, bytes: Vec::new(), line_start: 0, lines: 0 }
    }

    /// Takes bytes up to the end of the head and returns how many it took; see
    /// [`HeadScanner::complete`] for whether that was all of the head.
    pub(crate) fn take(&mut self, input: &[u8]) -> Result<usize, HttpError> {
        let room = self.limits.head - self.bytes.len();
        let before = self.bytes.len();
        let mut taken = 0;
        for &byte in input {
            if self.state == State::Complete {
                break;
            }
            if taken == room {
                return Err(HttpError::HeadTooLong { limit: self.limits.head });
            }
            taken += 1;
            self.state = self.step(byte, before + taken)?;
        }
        self.bytes.extend_from_slice(&input[..taken]);
        Ok(taken)
    }

    /// The head with its empty line, once it is whole.
    pub(crate) fn complete(&self) -> Option<&[u8]> {
        (self.state == State::Complete).then_some(self.bytes.as_slice())
    }

    /// Whether no byte has come yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Judges one byte; `end` is the length of the head with it.
    fn step(&mut self, byte: u8, end: usize) -> Result<State, HttpError> {
        match (self.state, byte) {
            (State::LineEnd, b'\n') => {
                self.line_start = end;
                self.lines += 1;
                Ok(State::LineStart)
            }
            (State::HeadEnd, b'\n') => Ok(State::Complete),
            (State::LineEnd | State::HeadEnd, _) => Err(HttpError::BareCarriageReturn),
            (_, b'\n') => Err(HttpError::BareLineFeed),
            (_, 0) => Err(HttpError::Nul),
            (State::LineStart, b' ' | b'\t') => Err(HttpError::FoldedField),
            (State::LineStart, b'\r') => Ok(State::HeadEnd),
            (State::LineStart, _) if self.lines > self.limits.fields => {
                Err(HttpError::TooManyFields { limit: self.limits.fields })
            }
            (State::Line, b'\r') if end - 1 == self.line_start => Err(HttpError::FirstLine),
            (State::Line, b'\r') => Ok(State::LineEnd),
            (State::LineStart | State::Line | State::Complete, _) => self.within_line(end),
        }
    }

    fn within_line(&self, end: usize) -> Result<State, HttpError> {
        let len = end - self.line_start;
        match self.lines {
            0 if len > self.limits.first_line => {
                Err(HttpError::FirstLineTooLong { limit: self.limits.first_line })
            }
            1.. if len > self.limits.field => Err(HttpError::FieldTooLong { limit: self.limits.field }),
            _ => Ok(State::Line),
        }
    }
}

/// What httparse says of a head that the scanner passed, in our words.
pub(crate) const fn syntax_error(error: httparse::Error, fields: usize) -> HttpError {
    match error {
        httparse::Error::HeaderName => HttpError::FieldName,
        httparse::Error::HeaderValue => HttpError::FieldValue,
        httparse::Error::TooManyHeaders => HttpError::TooManyFields { limit: fields },
        httparse::Error::Version => HttpError::Version,
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => HttpError::FirstLine,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { head: 64, first_line: 10, field: 20, fields: 3 };

    fn scan(bytes: &[u8]) -> Result<Option<usize>, HttpError> {
        let mut scanner = HeadScanner::new(LIMITS);
        let taken = scanner.take(bytes)?;
        Ok(scanner.complete().map(|_| taken))
    }

    #[test]
    fn the_head_ends_at_its_empty_line_and_the_rest_is_left() {
        assert_eq!(scan(b"GET /\r\na: b\r\n\r\nrest"), Ok(Some(15)));
        assert_eq!(scan(b"GET /\r\n\r\n"), Ok(Some(9)));
        assert_eq!(scan(b"GET /\r\na: b\r\n"), Ok(None));
    }

    /// Covers: R24, P-033
    #[test]
    fn every_line_end_but_cr_lf_is_refused() {
        assert_eq!(scan(b"GET /\n\n"), Err(HttpError::BareLineFeed));
        assert_eq!(scan(b"GET /\r\na: b\n\r\n"), Err(HttpError::BareLineFeed));
        assert_eq!(scan(b"GET /\r\na: b\rc\r\n"), Err(HttpError::BareCarriageReturn));
        assert_eq!(scan(b"GET /\r\na: b\r\r\n"), Err(HttpError::BareCarriageReturn));
        assert_eq!(scan(b"GET /\r\n\rx"), Err(HttpError::BareCarriageReturn));
        assert_eq!(scan(b"\r\nGET /\r\n\r\n"), Err(HttpError::FirstLine));
    }

    /// Covers: R24, P-033
    #[test]
    fn nul_and_folded_fields_are_refused() {
        assert_eq!(scan(b"GET /\0\r\n"), Err(HttpError::Nul));
        assert_eq!(scan(b"GET /\r\na: \0\r\n"), Err(HttpError::Nul));
        assert_eq!(scan(b"GET /\r\na: b\r\n c: d\r\n"), Err(HttpError::FoldedField));
        assert_eq!(scan(b"GET /\r\n\ta: b\r\n"), Err(HttpError::FoldedField));
    }

    /// Covers: R23, P-032
    #[test]
    fn each_limit_is_reached_exactly() {
        assert_eq!(scan(b"0123456789\r\n\r\n"), Ok(Some(14)));
        assert_eq!(scan(b"0123456789x"), Err(HttpError::FirstLineTooLong { limit: 10 }));
        assert_eq!(scan(b"GET /\r\n0123456789:123456789\r\n\r\n"), Ok(Some(31)));
        assert_eq!(scan(b"GET /\r\n0123456789:123456789x"), Err(HttpError::FieldTooLong { limit: 20 }));
        assert_eq!(scan(b"GET /\r\na:\r\na:\r\na:\r\n\r\n"), Ok(Some(21)));
        assert_eq!(scan(b"GET /\r\na:\r\na:\r\na:\r\na"), Err(HttpError::TooManyFields { limit: 3 }));
        let long = b"GET /\r\n0123456789:12345678\r\n0123456789:12345678\r\n0123456789:12\r\n\r\n";
        assert_eq!(scan(&long[..64]), Ok(None));
        assert_eq!(scan(long), Err(HttpError::HeadTooLong { limit: 64 }));
    }
}
