//! One request, read and checked.

use std::fmt;

use super::error::HttpError;
use super::fields::Fields;
use super::head::{HeadLimits, syntax_error};
use super::limits::{
    MAX_BODY_BYTES, MAX_FIELD_BYTES, MAX_FIELDS, MAX_HEAD_BYTES, MAX_METHOD_BYTES, MAX_REQUEST_LINE_BYTES,
    MAX_TARGET_BYTES,
};

/// The bounds of a request head.
pub(super) const REQUEST_HEAD: HeadLimits = HeadLimits {
    head: MAX_HEAD_BYTES,
    first_line: MAX_REQUEST_LINE_BYTES,
    field: MAX_FIELD_BYTES,
    fields: MAX_FIELDS,
};

/// What the request asks for; methods are compared exactly, `get` is not `GET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// A page, the health check, or the legacy login.
    Get,
    /// A step of the login.
    Post,
    /// The tunnel.
    Connect,
    /// Any other, at most [`MAX_METHOD_BYTES`] of token characters.
    Other(String),
}

/// The version on the request line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One answer, then the connection closes.
    Http10,
    /// The connection stays unless the client says `Connection: close`.
    Http11,
}

/// One request with its body.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The target as it was sent, visible ASCII; a byte above 0x7f stands as its percent-encoding, and
    /// nothing is ever decoded.
    pub target: String,
    /// The version.
    pub version: Version,
    /// The header fields.
    pub fields: Fields,
    /// The body, at most [`MAX_BODY_BYTES`].
    pub body: Vec<u8>,
}

impl Request {
    /// The value of the first field called `name`, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.fields.get(name)
    }

    /// The values of all fields called `name`, in order.
    pub fn header_all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.fields.get_all(name)
    }

    /// The value of the cookie called `name`: the first one, in any Cookie field, anywhere in its list.
    ///
    /// Names are compared exactly and values are not unquoted (protocol.md section 9, row 11).
    pub fn cookie(&self, name: &str) -> Option<&str> {
        self.header_all("Cookie").flat_map(|list| list.split(';')).find_map(|pair| {
            let (own, value) = pair.trim_matches([' ', '\t']).split_once('=')?;
            (own == name).then_some(value)
        })
    }

    /// The target before its query.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(self.target.as_str(), |(path, _)| path)
    }

    /// Whether the client expects the connection to stay open after the answer.
    ///
    /// # Source
    /// RFC 9112 section 9.3; HTTP/1.0 always closes (protocol.md 2.7).
    pub fn keeps_alive(&self) -> bool {
        self.version == Version::Http11 && !self.fields.has_token("Connection", "close")
    }

    /// Reads a whole head, and how many bytes of body follow it.
    ///
    /// `head` passed the scanner with [`REQUEST_HEAD`].
    pub(super) fn parse_head(head: &[u8]) -> Result<(Self, usize), HttpError> {
        let mut storage = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut parsed = httparse::Request::new(&mut storage);
        let status = parsed.parse(head).map_err(|error| syntax_error(error, MAX_FIELDS))?;
        if status != httparse::Status::Complete(head.len()) {
            return Err(HttpError::FirstLine);
        }
        let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
        if method.len() > MAX_METHOD_BYTES {
            return Err(HttpError::METHOD_TOO_LONG);
        }
        if target.len() > MAX_TARGET_BYTES {
            return Err(HttpError::target_too_long(target.len()));
        }
        let request = Self {
            method: Method::from_token(method),
            target: to_ascii(target),
            version: if parsed.version == Some(0) { Version::Http10 } else { Version::Http11 },
            fields: Fields::from_parsed(parsed.headers),
            body: Vec::new(),
        };
        let length = request.body_length()?;
        Ok((request, length))
    }

    /// The length of the body: at most one Content-Length of plain digits, and no other way to say it.
    ///
    /// # Source
    /// R24; RFC 9112 section 6.3 allows more.
    fn body_length(&self) -> Result<usize, HttpError> {
        if self.header("Transfer-Encoding").is_some() {
            return Err(HttpError::TransferEncoding);
        }
        let mut lengths = self.header_all("Content-Length");
        let Some(length) = lengths.next() else { return Ok(0) };
        if lengths.next().is_some() {
            return Err(HttpError::LengthConflict);
        }
        let length = parse_length(length)?.ok_or(HttpError::BODY_TOO_LONG)?;
        if length > MAX_BODY_BYTES {
            return Err(HttpError::BODY_TOO_LONG);
        }
        if length > 0 && self.method == Method::Connect {
            return Err(HttpError::BodyOnConnect);
        }
        Ok(length)
    }
}

/// Reads a Content-Length; `None` when the number is beyond `usize`.
pub(super) fn parse_length(text: &str) -> Result<Option<usize>, HttpError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(HttpError::ContentLength);
    }
    Ok(text.parse().ok())
}

/// Keeps ASCII and percent-encodes the rest, so that an 8-bit target is just an unknown one.
fn to_ascii(target: &str) -> String {
    let mut out = String::with_capacity(target.len());
    for byte in target.bytes() {
        if byte.is_ascii() {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl Method {
    fn from_token(token: &str) -> Self {
        match token {
            "GET" => Self::Get,
            "POST" => Self::Post,
            "CONNECT" => Self::Connect,
            other => Self::Other(other.to_owned()),
        }
    }

    /// The method as it is spelled on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Connect => "CONNECT",
            Self::Other(other) => other,
        }
    }
}

/// Shows neither field values nor the body: they hold passwords, tokens and cookies.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("path", &self.path())
            .field("version", &self.version)
            .field("fields", &self.fields)
            .field("body_bytes", &self.body.len())
            .finish()
    }
}
