//! The OpenConnect / AnyConnect VPN protocol, as Microsoft Tunnel speaks it: a pure function of bytes
//! and time.
//!
//! Nothing here opens a socket, reads a clock, draws a random number or starts a thread. Time is an
//! argument (`now`, always last), randomness is an argument, bytes go in and come out. A peer can make
//! a machine drop or close, never panic or grow without a named bound (`MAX_*`).
//!
//! | part | what it is |
//! | --- | --- |
//! | [`http`], [`auth`] | requests into login conversations, questions and answers |
//! | [`connect`], [`mtu`] | CONNECT headers and typed parameters, both directions |
//! | [`frame`] | CSTP frames of the stream channel |
//! | [`dtls`] | the datagram channel: DTLS 1.2 with a pre-shared key, both ends |
//! | [`session`] | the life of a session, server's and client's side |
//! | [`pool`], [`routes`], [`packet`] | addresses, split tunnel, inner packets |
//! | [`config`] | Graph-shaped configuration |
//! | [`buf`], [`timer`], [`mod@drop`], [`close`], [`prefix`] | what the others are made of |
//!
//! # The drive loop
//!
//! One mutation, then drain in the order transmit, event, timeout, then wait. No `poll_*` takes time,
//! so draining arms nothing and terminates.
//!
//! ```
//! use std::sync::Arc;
//! use std::time::{Duration, Instant};
//!
//! use mstunnel_proto::buf::PacketBuf;
//! use mstunnel_proto::frame::Frames;
//! use mstunnel_proto::session::{
//!     Access, Channel, Inbound, Leases, Session, SessionConfig, SessionEvent, SessionId, SessionParams,
//! };
//!
//! # #[expect(clippy::disallowed_methods, reason = "an example has to start somewhere")]
//! let now = Instant::now();
//! let config = Arc::new(SessionConfig {
//!     dpd: Some(Duration::from_secs(90)),
//!     idle_timeout: None,
//!     access: Access::new(&[], &[], None),
//! });
//! let params = SessionParams {
//!     id: SessionId::new(1),
//!     leases: Leases { v4: Some([10, 9, 0, 5].into()), v6: None },
//!     mtu: 1434,
//!     ends_at: None,
//! };
//! let mut session = Session::new(config, params, now);
//! let mut out = PacketBuf::new(1500);
//!
//! // One mutation: bytes of the stream came in. Here, a DPD request.
//! let mut received = *b"STF\x01\x00\x00\x03\x00";
//! let mut frames = Frames::new(&mut received);
//! while let Some(frame) = frames.take_next()? {
//!     match session.decapsulate(Channel::Stream, frame.kind, frame.payload, now) {
//!         Inbound::Packet(packet) => drop(packet), // write it to the TUN device
//!         Inbound::Handled => {}
//!         Inbound::Dropped(reason) => println!("dropped: {reason}"),
//!     }
//! }
//! // Drain: transmit, event, timeout.
//! let mut records = Vec::new();
//! while session.poll_transmit(&mut out).is_some() {
//!     records.push(out.as_slice().to_vec()); // one frame is one TLS record
//! }
//! while let Some(SessionEvent::Closed { reason }) = session.poll_event() {
//!     println!("closed: {reason:?}");
//! }
//! let wait_until = session.poll_timeout().map(|deadline| deadline.at);
//!
//! assert_eq!(records, [b"STF\x01\x00\x00\x04\x00"]);
//! assert_eq!(wait_until, Some(now + Duration::from_secs(180)));
//! # Ok::<(), mstunnel_proto::frame::FrameError>(())
//! ```
#![forbid(unsafe_code)]

pub mod auth;
pub mod buf;
pub mod close;
pub mod config;
pub mod connect;
pub mod drop;
pub mod dtls;
pub mod frame;
pub mod http;
mod mix;
pub mod mtu;
pub mod packet;
pub mod pool;
pub mod prefix;
pub mod routes;
pub mod session;
pub mod timer;

#[cfg(test)]
mod testing;
