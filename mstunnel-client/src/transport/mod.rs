//! From an address to a live session: TCP, TLS, CONNECT, and the loop that moves frames.
//!
//! | file | holds |
//! | --- | --- |
//! | `outer` | TCP and TLS to the server, by whichever address answers first |
//! | `exchange` | one HTTP request and its response on that connection |
//! | `opening` | CONNECT and what the server assigns |
//! | `records` | frames to TLS records and back |
//! | `datagrams` | the UDP channel beside them: handshake, MTU, when there is one |
//! | `link` | one live connection, driven to its end |

mod datagrams;
mod exchange;
mod link;
mod opening;
mod outer;
mod records;

pub(crate) use exchange::Exchange;
pub(crate) use link::{Link, LinkEnd};
pub(crate) use opening::{Opened, Opening, open};
pub(crate) use outer::{Outer, OuterConnection};

pub use exchange::ExchangeError;
pub use opening::{OpeningError, UseDatagrams};
pub use outer::OuterError;
