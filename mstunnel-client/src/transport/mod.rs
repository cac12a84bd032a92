//! From an address to a live session: TCP, TLS, CONNECT, and the loop that moves frames.
//!
//! | file | holds |
//! | --- | --- |
//! | `outer` | TCP and TLS to the server, by whichever address answers first |
//! | `local` | this host's end of both |
//! | `exchange` | one HTTP request and its response on that connection |
//! | `opening` | CONNECT and what the server assigns |
//! | `records` | frames to TLS records and back |
//! | `datagrams` | the UDP channel beside them: handshake, MTU, when there is one |
//! | `channels` | both ways of one live connection, and the session over them |
//! | `link` | one live connection and its user, driven to its end |

mod channels;
mod datagrams;
mod exchange;
mod link;
mod local;
mod opening;
mod outer;
mod records;

pub(crate) use channels::{Channels, LinkEnd, Scratch};
pub(crate) use exchange::Exchange;
pub(crate) use link::Link;
pub(crate) use local::LocalEnd;
pub(crate) use opening::{Opened, Opening, open};
pub(crate) use outer::{Outer, OuterConnection};

pub use exchange::ExchangeError;
pub use opening::{OpeningError, UseDatagrams};
pub use outer::OuterError;
