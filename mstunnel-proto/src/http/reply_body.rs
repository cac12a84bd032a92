//! The body of a response: counted, chunked, or up to the end of the connection.
//!
//! ```text
//! chunked:   1a;extension CRLF     size in hexadecimal; extensions are ignored
//!            <26 bytes> CRLF
//!            0 CRLF                the last chunk
//!            Trailer: x CRLF       ignored
//!            CRLF
//! ```
//!
//! At most [`MAX_RESPONSE_BODY_BYTES`] of body, [`MAX_CHUNK_LINE_BYTES`] a framing line and
//! [`MAX_TRAILER_BYTES`] of trailer; a size only says how much may follow and reserves nothing
//! (CVE-2024-21762 and CVE-2012-3291 are what happens otherwise).
//!
//! # Source
//! RFC 9112 sections 6 and 7.1; R63.

use super::error::HttpError;
use super::limits::{MAX_CHUNK_LINE_BYTES, MAX_RESPONSE_BODY_BYTES};

/// The most bytes of trailer lines; nobody whom we talk to sends any.
const MAX_TRAILER_BYTES: usize = 4 * 1024;

/// Where the reading of one body stands.
#[derive(Debug)]
pub(super) enum BodyReader {
    /// So many bytes are missing.
    Length { missing: usize },
    /// Inside a chunked body.
    Chunked(Chunked),
    /// All there is until the connection ends.
    UntilClose,
}

#[derive(Debug)]
pub(super) enum Chunked {
    /// In a line with a size.
    Size(Line),
    /// In the data of a chunk.
    Data { missing: usize },
    /// In the line end behind the data.
    DataEnd(Line),
    /// In the lines behind the last chunk.
    Trailer { line: Line, total: usize },
    /// Behind the last line.
    Done,
}

impl BodyReader {
    pub(super) const fn chunked() -> Self {
        Self::Chunked(Chunked::Size(Line::new()))
    }

    /// Whether the body is whole.
    pub(super) const fn is_done(&self) -> bool {
        matches!(self, Self::Length { missing: 0 } | Self::Chunked(Chunked::Done))
    }

    /// Moves bytes of the body from `input` to `body`, and returns how many bytes of `input` that took.
    pub(super) fn take(&mut self, input: &[u8], body: &mut Vec<u8>) -> Result<usize, HttpError> {
        match self {
            Self::Length { missing } => {
                let count = input.len().min(*missing);
                *missing -= count;
                append(body, &input[..count])?;
                Ok(count)
            }
            Self::UntilClose => {
                append(body, input)?;
                Ok(input.len())
            }
            Self::Chunked(chunked) => {
                let mut taken = 0;
                while taken < input.len() && !matches!(chunked, Chunked::Done) {
                    taken += chunked.step(&input[taken..], body)?;
                }
                Ok(taken)
            }
        }
    }
}

impl Chunked {
    /// Takes at least one byte of `input`, which is not empty.
    fn step(&mut self, input: &[u8], body: &mut Vec<u8>) -> Result<usize, HttpError> {
        match self {
            Self::Size(line) => {
                let count = line.take(input)?;
                if let Some(text) = line.complete() {
                    let size = chunk_size(text)?;
                    if size > MAX_RESPONSE_BODY_BYTES - body.len() {
                        return Err(HttpError::BodyTooLong { limit: MAX_RESPONSE_BODY_BYTES });
                    }
                    *self = match size {
                        0 => Self::Trailer { line: Line::new(), total: 0 },
                        missing => Self::Data { missing },
                    };
                }
                Ok(count)
            }
            Self::Data { missing } => {
                let count = input.len().min(*missing);
                append(body, &input[..count])?;
                *missing -= count;
                if *missing == 0 {
                    *self = Self::DataEnd(Line::new());
                }
                Ok(count)
            }
            Self::DataEnd(line) => {
                let count = line.take(input)?;
                match line.complete() {
                    Some([]) => *self = Self::Size(Line::new()),
                    Some(_) => return Err(HttpError::Chunk),
                    None => {}
                }
                Ok(count)
            }
            Self::Trailer { line, total } => {
                let room = MAX_TRAILER_BYTES - *total;
                if room == 0 {
                    return Err(HttpError::HeadTooLong { limit: MAX_TRAILER_BYTES });
                }
                let count = line.take(&input[..input.len().min(room)])?;
                *total += count;
                match line.complete() {
                    Some([]) => *self = Self::Done,
                    Some(_) => *line = Line::new(),
                    None => {}
                }
                Ok(count)
            }
            Self::Done => Ok(0),
        }
    }
}

fn append(body: &mut Vec<u8>, bytes: &[u8]) -> Result<(), HttpError> {
    if bytes.len() > MAX_RESPONSE_BODY_BYTES - body.len() {
        return Err(HttpError::BodyTooLong { limit: MAX_RESPONSE_BODY_BYTES });
    }
    body.extend_from_slice(bytes);
    Ok(())
}

/// The size in front of a chunk; white space before an extension is let pass, as RFC 9112 asks.
fn chunk_size(line: &[u8]) -> Result<usize, HttpError> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    if digits.is_empty() {
        return Err(HttpError::Chunk);
    }
    digits.iter().try_fold(0_usize, |size, &digit| {
        let digit = char::from(digit).to_digit(16).ok_or(HttpError::Chunk)?;
        size.checked_mul(16)
            .and_then(|size| size.checked_add(digit as usize))
            .ok_or(HttpError::BodyTooLong { limit: MAX_RESPONSE_BODY_BYTES })
    })
}

/// One CR LF line of framing.
#[derive(Debug)]
pub(super) struct Line {
    bytes: Vec<u8>,
}

impl Line {
    const fn new() -> Self {
        Self { bytes: Vec::new() }
    }

    /// Takes bytes up to the line feed.
    fn take(&mut self, input: &[u8]) -> Result<usize, HttpError> {
        let end = input.iter().position(|byte| *byte == b'\n').map_or(input.len(), |at| at + 1);
        if self.bytes.len() + end > MAX_CHUNK_LINE_BYTES {
            return Err(HttpError::Chunk);
        }
        self.bytes.extend_from_slice(&input[..end]);
        if self.bytes.last() == Some(&b'\n') && self.complete().is_none() {
            return Err(HttpError::BareLineFeed);
        }
        Ok(end)
    }

    /// The line without its end, once it is whole.
    fn complete(&self) -> Option<&[u8]> {
        self.bytes.strip_suffix(b"\r\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> Result<(Vec<u8>, usize, bool), HttpError> {
        let (mut reader, mut body) = (BodyReader::chunked(), Vec::new());
        let taken = reader.take(input, &mut body)?;
        Ok((body, taken, reader.is_done()))
    }

    /// Covers: statement 20
    #[test]
    fn chunks_are_joined_and_the_next_message_is_left() {
        let input = b"4\r\nWiki\r\n6;x=y\r\npedia!\r\n0\r\nTrailer: x\r\n\r\nHTTP";
        let (body, taken, done) = read(input).unwrap();
        assert_eq!((body.as_slice(), taken, done), (&b"Wikipedia!"[..], input.len() - 4, true));
    }

    #[test]
    fn a_chunked_body_may_come_byte_by_byte() {
        let (mut reader, mut body) = (BodyReader::chunked(), Vec::new());
        for byte in b"a\r\n0123456789\r\n0\r\n\r\n" {
            assert!(!reader.is_done());
            assert_eq!(reader.take(&[*byte], &mut body), Ok(1));
        }
        assert!(reader.is_done());
        assert_eq!(body, b"0123456789");
    }

    /// Covers: R63, P-090
    #[test]
    fn sizes_that_lie_are_refused_without_memory() {
        let too_long = HttpError::BodyTooLong { limit: MAX_RESPONSE_BODY_BYTES };
        assert_eq!(read(b"ffffffffffffffffffff\r\n"), Err(too_long));
        assert_eq!(read(b"100001\r\n"), Err(too_long));
        assert_eq!(read(b"-1\r\n"), Err(HttpError::Chunk));
        assert_eq!(read(b"+1\r\n"), Err(HttpError::Chunk));
        assert_eq!(read(b"\r\n"), Err(HttpError::Chunk));
        assert_eq!(read(b"1\r\nabc\r\n"), Err(HttpError::Chunk));
        assert_eq!(read(b"1\nabc"), Err(HttpError::BareLineFeed));
        assert_eq!(read(&[b'0'; 300]), Err(HttpError::Chunk));
    }

    /// Covers: R63, P-090
    #[test]
    fn trailers_without_end_are_refused() {
        let mut input = b"0\r\n".to_vec();
        input.extend(b"a: b\r\n".repeat(1_000));
        assert_eq!(read(&input), Err(HttpError::HeadTooLong { limit: MAX_TRAILER_BYTES }));
    }

    /// Found by the fuzzer: of two limits, the one that is passed first in the stream is the one that is named.
    #[test]
    fn how_a_long_trailer_is_refused_does_not_depend_on_how_it_is_cut() {
        let mut input = b"0\r\n".to_vec();
        input.extend(b"a: b\r\n".repeat(MAX_TRAILER_BYTES / 6 - 10));
        input.extend([b'x'; 2 * MAX_CHUNK_LINE_BYTES]);
        for size in [1, 7, 100, input.len()] {
            let (mut reader, mut body) = (BodyReader::chunked(), Vec::new());
            let refused = input.chunks(size).find_map(|piece| reader.take(piece, &mut body).err());
            assert_eq!(
                refused,
                Some(HttpError::HeadTooLong { limit: MAX_TRAILER_BYTES }),
                "{size} at a time"
            );
        }
    }
}
