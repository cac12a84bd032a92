//! Every bound of the HTTP front.
//!
//! The server's numbers are R23; the deadlines are absolute, counted by the caller from the first
//! moment at which the peer could have sent a byte, and not renewed by single bytes.

use std::time::Duration;

/// The longest request head, from the first byte to the empty line (R23).
pub const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The most fields of a request head; the stock client sends at most 19 (R23).
pub const MAX_FIELDS: usize = 64;

/// The longest single field line, without its line end; tokens travel in one (R23).
pub const MAX_FIELD_BYTES: usize = 8 * 1024;

/// The longest request target; the same as ocserv's (protocol.md 2.1).
pub const MAX_TARGET_BYTES: usize = 255;

/// The longest method; the longest that we know is `CONNECT`.
pub const MAX_METHOD_BYTES: usize = 16;

/// The longest request line: method, target, `HTTP/1.1` and two spaces.
pub const MAX_REQUEST_LINE_BYTES: usize = MAX_METHOD_BYTES + 1 + MAX_TARGET_BYTES + 1 + 8;

/// The longest request body; a login message is under 1 KiB, a token under 16 KiB (R23).
pub const MAX_BODY_BYTES: usize = 64 * 1024;

/// How long a connection may take to send a request head (R23).
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may take to send a request, body included (R23).
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests on one connection, after which it is closed; the stock client reconnects by itself
/// (protocol.md 2.7).
pub const MAX_REQUESTS_PER_CONNECTION: u32 = 16;

/// The longest response head that the client takes: room for pages of cookies, not for a flood.
pub const MAX_RESPONSE_HEAD_BYTES: usize = 64 * 1024;

/// The most fields of a response head.
pub const MAX_RESPONSE_FIELDS: usize = 256;

/// The longest field line of a response: a redirect to an identity provider fits.
pub const MAX_RESPONSE_FIELD_BYTES: usize = 16 * 1024;

/// The longest response body that the client takes: a login document or an error page.
pub const MAX_RESPONSE_BODY_BYTES: usize = 1024 * 1024;

/// The longest line of chunk framing: a size in hexadecimal and extensions, which are ignored.
pub const MAX_CHUNK_LINE_BYTES: usize = 256;

/// Interim responses (1xx) before the real one.
pub const MAX_INTERIM_RESPONSES: u32 = 8;
