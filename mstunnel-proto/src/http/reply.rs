//! One response, read and checked; named apart from [`Response`](super::Response), which is built.

use std::fmt;

use super::error::HttpError;
use super::fields::Fields;
use super::head::{HeadLimits, syntax_error};
use super::limits::{
    MAX_RESPONSE_BODY_BYTES, MAX_RESPONSE_FIELD_BYTES, MAX_RESPONSE_FIELDS, MAX_RESPONSE_HEAD_BYTES,
};
use super::reply_body::BodyReader;
use super::request::{Version, parse_length};

/// The bounds of a response head.
pub(super) const RESPONSE_HEAD: HeadLimits = HeadLimits {
    head: MAX_RESPONSE_HEAD_BYTES,
    first_line: 1024,
    field: MAX_RESPONSE_FIELD_BYTES,
    fields: MAX_RESPONSE_FIELDS,
};

/// One response with its body, as the client got it: untrusted text, bounded, no control characters
/// in the head.
#[derive(Clone, PartialEq, Eq)]
pub struct Reply {
    /// The status code, 100 to 999.
    pub status: u16,
    /// The text behind the status code.
    pub reason: String,
    /// The version.
    pub version: Version,
    /// The header fields.
    pub fields: Fields,
    /// The body, at most [`MAX_RESPONSE_BODY_BYTES`].
    pub body: Vec<u8>,
    pub(super) delimited: Delimited,
}

/// What told the reader where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delimited {
    ByItself,
    ByClose,
}

impl Reply {
    /// The value of the first field called `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }

    /// The values of all fields called `name`, in order.
    pub fn header_all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.fields.get_all(name)
    }

    /// Every Set-Cookie in order, as name and value without attributes; an empty value deletes the
    /// cookie, so that the order matters (protocol.md section 9, row 12).
    pub fn set_cookies(&self) -> impl Iterator<Item = (&str, &str)> {
        self.header_all("Set-Cookie").filter_map(|field| {
            let pair = field.split(';').next().unwrap_or_default();
            let (name, value) = pair.trim_matches([' ', '\t']).split_once('=')?;
            (!name.is_empty()).then_some((name, value))
        })
    }

    /// Whether the next request may go over the same connection.
    pub fn keeps_alive(&self) -> bool {
        self.version == Version::Http11
            && self.delimited == Delimited::ByItself
            && !self.fields.has_token("Connection", "close")
    }

    /// Whether this is an interim response, to be skipped.
    pub(super) const fn is_interim(&self) -> bool {
        self.status < 200
    }

    /// Reads a whole head that passed the scanner with [`RESPONSE_HEAD`], and how its body ends.
    pub(super) fn parse_head(head: &[u8]) -> Result<(Self, BodyReader), HttpError> {
        let mut storage = vec![httparse::EMPTY_HEADER; MAX_RESPONSE_FIELDS];
        let mut parsed = httparse::Response::new(&mut storage);
        let status = parsed.parse(head).map_err(|error| syntax_error(error, MAX_RESPONSE_FIELDS))?;
        if status != httparse::Status::Complete(head.len()) {
            return Err(HttpError::FirstLine);
        }
        let mut reply = Self {
            status: parsed.code.filter(|code| *code >= 100).ok_or(HttpError::FirstLine)?,
            reason: parsed.reason.unwrap_or_default().to_owned(),
            version: if parsed.version == Some(0) { Version::Http10 } else { Version::Http11 },
            fields: Fields::from_parsed(parsed.headers),
            body: Vec::new(),
            delimited: Delimited::ByItself,
        };
        let body = reply.body_reader()?;
        if matches!(body, BodyReader::UntilClose) {
            reply.delimited = Delimited::ByClose;
        }
        Ok((reply, body))
    }

    /// # Source
    /// RFC 9112 section 6.3, without its repairs of contradicting lengths; protocol.md 2.6.
    fn body_reader(&self) -> Result<BodyReader, HttpError> {
        if self.is_interim() || matches!(self.status, 204 | 304) {
            return Ok(BodyReader::Length { missing: 0 });
        }
        let mut codings = self.header_all("Transfer-Encoding");
        let mut lengths = self.header_all("Content-Length");
        let (coding, length) = (codings.next(), lengths.next());
        if codings.next().is_some() || lengths.next().is_some() {
            return Err(HttpError::LengthConflict);
        }
        match (coding, length) {
            (Some(_), Some(_)) => Err(HttpError::LengthConflict),
            (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Ok(BodyReader::chunked()),
            (Some(_), None) => Err(HttpError::TransferEncoding),
            (None, Some(length)) => match parse_length(length)? {
                Some(missing) if missing <= MAX_RESPONSE_BODY_BYTES => Ok(BodyReader::Length { missing }),
                _ => Err(HttpError::BodyTooLong { limit: MAX_RESPONSE_BODY_BYTES }),
            },
            (None, None) => Ok(BodyReader::UntilClose),
        }
    }
}

/// Shows neither field values nor the body: they hold cookies.
impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("status", &self.status)
            .field("reason", &self.reason)
            .field("fields", &self.fields)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}
