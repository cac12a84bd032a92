//! DTLS 1.2 with a pre-shared key: the datagram channel of a session, both ends, without I/O.
//!
//! | part | what it is |
//! | --- | --- |
//! | [`CookieKeys`], [`ClientHello`] | what a server does with a hello before it keeps anything |
//! | [`ServerChannel`] | the datagram channel of one session of a server |
//! | [`ClientChannel`] | the datagram channel of a client |
//! | [`Sealer`] | the sending half, lock-free, for any thread |
//! | [`Burst`] | datagrams to one place for one system call |
//! | [`Suite`], [`Keying`] | what protects the packets, and from what secret |
//! | [`records`], [`RecordHeader`], [`ReplayWindow`] | the record layer |
//!
//! # A server's way
//!
//! ```text
//! datagram -> is_client_hello? -> CookieKeys::greet -> Answer: send it back
//!                                                   -> Verified: session by app_id -> ServerChannel::handle_hello
//!          -> else: channel by address -> for each of records(datagram): ServerChannel::handle_record
//!          -> address unknown: channels of the same host, the one that recognizes it
//! ```
//!
//! What [`Opened::Application`] lends is a packet type and a payload, for
//! [`Session::decapsulate`](crate::session::Session::decapsulate) with
//! [`Channel::Datagram`](crate::session::Channel::Datagram).
//!
//! # What it does not do
//!
//! DTLS 1.0, suites without AEAD, certificates, compression, session tickets, first hellos in fragments. An
//! alert is sent only through keys in use, so never to a stranger. Randomness and time are arguments.
//!
//! # Source
//! RFC 6347, RFC 5246, RFC 4279, RFC 5487, RFC 7905; protocol.md section 5; R11 to R19.

mod association;
mod burst;
mod client_channel;
mod cookie;
mod crypto;
mod flight;
mod handshake;
mod hello;
mod keying;
mod keys;
mod message;
mod reader;
mod reassembly;
mod record;
mod replay;
mod seal;
mod sequences;
mod server_channel;
mod suite;
#[cfg(test)]
mod tests;

pub use burst::{Burst, Taken};
pub use client_channel::{ClientChannel, ClientChannelEvent};
pub use cookie::{COOKIE_KEY_LIFETIME, CookieKeys, Greeting, VerifiedHello, is_client_hello};
pub use flight::{FIRST_RESEND, MAX_FLIGHT_DATAGRAM, MAX_RESEND};
pub use handshake::{CLIENT_PATIENCE, LINGER, SERVER_PATIENCE};
pub use hello::{ClientHello, MAX_APP_ID};
pub use keying::Keying;
pub use keys::{MASTER_SECRET_BYTES, PSK_BYTES};
pub use reassembly::{MAX_HANDSHAKE_BYTES, MAX_HANDSHAKE_MESSAGES};
pub use record::{ContentType, HEADER_BYTES, RecordHeader, Records, records};
pub use replay::{REPLAY_WINDOW, ReplayWindow};
pub use seal::{SealError, Sealer};
pub use server_channel::{MIN_MOVE_INTERVAL, Path, ServerChannel, ServerChannelEvent};
pub use suite::{Suite, SuiteHeader};

// The models of `tests/loom` put their own in its place.
use std::sync::atomic;

use crate::drop::DropReason;

/// What became of a record.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub enum Opened<'b> {
    /// A packet type and a payload, at least one byte.
    Application(&'b mut [u8]),
    /// Consumed: drain the outputs now.
    Handled,
    /// Discarded, and to be counted by the caller; nothing has changed.
    Dropped(DropReason),
}

/// Why a channel is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelEnd {
    /// The peer said close_notify.
    ClosedByPeer,
    /// We did.
    ClosedByUs,
    /// The peer said a fatal alert, of this description.
    Alert(u8),
    /// The handshake did not finish in time.
    HandshakeTimedOut,
    /// The handshake contradicts itself, or the keys are not the same.
    HandshakeFailed,
}

/// The timers of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtlsTimer {
    /// Send the flight again.
    Resend,
    /// End the handshake.
    GiveUp,
    /// Forget the last flight and the epoch before.
    Linger,
    /// Let a channel that has moved move again.
    Rest,
}
