//! CONNECT: the request that opens the tunnel, and its answer, for both roles.
//!
//! ```text
//! client                                         server
//! CONNECT /CSCOSSLC/tunnel HTTP/1.1  ------->    ConnectRequest::parse
//! Cookie: webvpn=...                               cookie known, lease there?
//! X-CSTP-Base-MTU: 1500
//!                                    <-------    ConnectParams::encode    HTTP/1.1 200 CONNECTED
//! ConnectParams::parse                                                    X-CSTP-Address: ...
//!                                                or Refusal::response     HTTP/1.1 401 / 503
//! CSTP frames                        <------>    CSTP frames
//! ```
//!
//! Names are read in any case and written in ocserv's exact spelling and order: the stock client
//! compares them byte by byte. What the other end says is typed here, once; behind this module there are
//! addresses, prefixes and durations, no texts to be parsed again.
//!
//! | file | holds |
//! | --- | --- |
//! | `agent` | [`Agent`]: which family of clients a User-Agent names |
//! | `request` | [`ConnectRequest`], both directions |
//! | `params` | [`ConnectParams`]: everything the answer says |
//! | `answer` | [`ConnectParams`] to bytes, for a given client |
//! | `answer_reader` | bytes to [`ConnectParams`], strict and bounded |
//! | `draft` | the table of the answer's fields |
//! | `field` | the types of single answer fields |
//! | `refusal` | [`Refusal`]: 401 and 503 |
//!
//! # Source
//! protocol.md section 3; statements 23 to 32; threats.md R3, R62, R63.

mod agent;
mod answer;
mod answer_reader;
mod draft;
mod field;
#[cfg(test)]
mod golden;
mod params;
mod refusal;
mod request;

pub use agent::Agent;
pub use answer_reader::{
    AnswerError, AnswerReader, MAX_ANSWER_BYTES, MAX_ANSWER_FIELDS, MAX_DNS_SERVERS, MAX_ROUTES,
    MAX_SPLIT_DNS,
};
pub use params::{ConnectParams, DtlsKey, DtlsOffer, InsideAddress, RekeyMethod};
pub use refusal::Refusal;
pub use request::{ConnectError, ConnectRequest, Families, PSK_NEGOTIATE, TUNNEL_PATH};
