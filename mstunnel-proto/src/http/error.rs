//! What can be wrong with a request or a response.

use super::limits::{MAX_BODY_BYTES, MAX_METHOD_BYTES, MAX_TARGET_BYTES};
use super::response::Response;

/// Why bytes are not an acceptable HTTP message.
///
/// Every variant ends the connection: after one of these nobody can say where the next message starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// The head has more bytes than allowed.
    #[error("head of more than {limit} bytes")]
    HeadTooLong {
        /// The most that is taken.
        limit: usize,
    },
    /// The first line has more bytes than allowed.
    #[error("first line of more than {limit} bytes")]
    FirstLineTooLong {
        /// The most that is taken.
        limit: usize,
    },
    /// One field line has more bytes than allowed.
    #[error("field of more than {limit} bytes")]
    FieldTooLong {
        /// The most that is taken.
        limit: usize,
    },
    /// The head has more fields than allowed.
    #[error("more than {limit} fields")]
    TooManyFields {
        /// The most that is taken.
        limit: usize,
    },
    /// A line feed without a carriage return before it.
    #[error("bare line feed in the head")]
    BareLineFeed,
    /// A carriage return without a line feed behind it.
    #[error("bare carriage return in the head")]
    BareCarriageReturn,
    /// A NUL byte in the head.
    #[error("NUL in the head")]
    Nul,
    /// A field line that starts with white space: the obsolete continuation of the line before.
    #[error("folded field")]
    FoldedField,
    /// The first line is not one of HTTP.
    #[error("malformed first line")]
    FirstLine,
    /// A version other than HTTP/1.0 and HTTP/1.1.
    #[error("unsupported HTTP version")]
    Version,
    /// The method has more bytes than any that exists.
    #[error("method of more than {limit} bytes")]
    MethodTooLong {
        /// The most that is taken.
        limit: usize,
    },
    /// The target has more bytes than allowed.
    #[error("target of {len} bytes, limit {limit}")]
    TargetTooLong {
        /// What came.
        len: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// A field name with a byte that is not allowed there, white space before the colon included.
    #[error("malformed field name")]
    FieldName,
    /// A field value with a control character.
    #[error("malformed field value")]
    FieldValue,
    /// A request with Transfer-Encoding, or a response with one that is not exactly `chunked`.
    #[error("transfer encoding not accepted")]
    TransferEncoding,
    /// A Content-Length that is not plain digits.
    #[error("content length is not a number")]
    ContentLength,
    /// More than one Content-Length, or one beside a Transfer-Encoding.
    #[error("more than one statement of the body's length")]
    LengthConflict,
    /// The body is longer than allowed.
    #[error("body of more than {limit} bytes")]
    BodyTooLong {
        /// The most that is taken.
        limit: usize,
    },
    /// A CONNECT with a body: what follows its head are frames.
    #[error("CONNECT with a body")]
    BodyOnConnect,
    /// The framing of a chunked body is broken.
    #[error("malformed chunk")]
    Chunk,
    /// More interim responses than anyone needs.
    #[error("more than {limit} interim responses")]
    TooManyInterim {
        /// The most that is taken.
        limit: u32,
    },
    /// The stream ended inside a message.
    #[error("connection ended inside a message")]
    Truncated,
}

impl HttpError {
    /// The server's answer: a constant body, and the connection closes.
    ///
    /// # Source
    /// R23, R24; status codes of RFC 9110 section 15.5 and RFC 6585 section 5.
    pub fn response(&self) -> Response {
        let (status, reason, body) = match self {
            Self::HeadTooLong { .. } | Self::FieldTooLong { .. } | Self::TooManyFields { .. } => (
                431,
                "Request Header Fields Too Large",
                "<html><body><h1>431 Header Too Large</h1></body></html>\n",
            ),
            Self::FirstLineTooLong { .. } | Self::TargetTooLong { .. } => {
                (414, "URI Too Long", "<html><body><h1>414 URI Too Long</h1></body></html>\n")
            }
            Self::BodyTooLong { .. } => {
                (413, "Content Too Large", "<html><body><h1>413 Content Too Large</h1></body></html>\n")
            }
            Self::BareLineFeed
            | Self::BareCarriageReturn
            | Self::Nul
            | Self::FoldedField
            | Self::FirstLine
            | Self::Version
            | Self::MethodTooLong { .. }
            | Self::FieldName
            | Self::FieldValue
            | Self::TransferEncoding
            | Self::ContentLength
            | Self::LengthConflict
            | Self::BodyOnConnect
            | Self::Chunk
            | Self::TooManyInterim { .. }
            | Self::Truncated => (400, "Bad Request", "<html><body><h1>400 Bad Request</h1></body></html>\n"),
        };
        Response::new(status, reason).body("text/html", body).close()
    }

    /// The name of the counter: lower case with underscores.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::HeadTooLong { .. } => "head_too_long",
            Self::FirstLineTooLong { .. } => "first_line_too_long",
            Self::FieldTooLong { .. } => "field_too_long",
            Self::TooManyFields { .. } => "too_many_fields",
            Self::BareLineFeed => "bare_line_feed",
            Self::BareCarriageReturn => "bare_carriage_return",
            Self::Nul => "nul",
            Self::FoldedField => "folded_field",
            Self::FirstLine => "first_line",
            Self::Version => "version",
            Self::MethodTooLong { .. } => "method_too_long",
            Self::TargetTooLong { .. } => "target_too_long",
            Self::FieldName => "field_name",
            Self::FieldValue => "field_value",
            Self::TransferEncoding => "transfer_encoding",
            Self::ContentLength => "content_length",
            Self::LengthConflict => "length_conflict",
            Self::BodyTooLong { .. } => "body_too_long",
            Self::BodyOnConnect => "body_on_connect",
            Self::Chunk => "chunk",
            Self::TooManyInterim { .. } => "too_many_interim",
            Self::Truncated => "truncated",
        }
    }

    pub(crate) const METHOD_TOO_LONG: Self = Self::MethodTooLong { limit: MAX_METHOD_BYTES };
    pub(crate) const BODY_TOO_LONG: Self = Self::BodyTooLong { limit: MAX_BODY_BYTES };

    pub(crate) const fn target_too_long(len: usize) -> Self {
        Self::TargetTooLong { len, limit: MAX_TARGET_BYTES }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: R23, R24
    #[test]
    fn every_error_is_answered_with_a_4xx_and_a_close() {
        for error in [
            HttpError::HeadTooLong { limit: 1 },
            HttpError::FieldTooLong { limit: 1 },
            HttpError::TooManyFields { limit: 1 },
            HttpError::METHOD_TOO_LONG,
            HttpError::BODY_TOO_LONG,
            HttpError::target_too_long(300),
            HttpError::BareLineFeed,
            HttpError::LengthConflict,
        ] {
            let response = error.response();
            assert!((400..500).contains(&response.status()), "{error}");
            assert!(response.closes(), "{error}");
        }
    }
}
