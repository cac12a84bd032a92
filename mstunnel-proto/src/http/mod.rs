//! HTTP/1.1 as the VPN uses it: one request at a time, before the tunnel opens.
//!
//! ```text
//! POST /auth HTTP/1.1 CRLF          request line    method SP target SP version
//! Host: vpn.example CRLF            fields          name ":" value, names in any case
//! Content-Length: 364 CRLF
//! CRLF                              end of the head
//! <?xml version="1.0" ...           body            exactly Content-Length bytes
//! ```
//!
//! Nothing here performs I/O or knows the time: a reader takes bytes in any split and gives whole
//! requests or responses, a builder gives bytes. What the syntax allows is narrower than RFC 9112:
//! one spelling of a line end, one way to say how long a body is, no folded fields. A front that is
//! this narrow cannot disagree with a proxy before it about where a request ends.
//!
//! | file | holds |
//! | --- | --- |
//! | `limits` | every bound of this module, with its reason |
//! | `error` | [`HttpError`]: what is wrong with a request or response, and the answer to it |
//! | `fields` | [`Fields`]: the header fields of one head |
//! | `head` | the line scanner that finds the end of a head in linear time |
//! | `request`, `request_reader` | the server's receiving side |
//! | `response` | the server's sending side |
//! | `reply`, `reply_body`, `response_reader` | the client's receiving side |
//!
//! # Source
//! RFC 9112; protocol.md sections 2 and 3; threats.md R23 to R25.

mod error;
mod fields;
#[cfg(test)]
mod golden;
pub(crate) mod head;
mod limits;
mod reply;
mod reply_body;
mod request;
mod request_reader;
mod response;
mod response_reader;

pub use error::HttpError;
pub use fields::Fields;
pub use limits::*;
pub use reply::Reply;
pub use request::{Method, Request, Version};
pub use request_reader::RequestReader;
pub use response::Response;
pub(crate) use response::without_controls;
pub use response_reader::ResponseReader;
