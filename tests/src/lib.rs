//! The harness of the system tests: real programs in network namespaces that the test made itself.
//!
//! ```text
//!   client 0  192.0.2.2/30 ----.                                  .---- 10.20.0.2/24 web, iperf3, UDP
//!             fd00:c0::2/64     \   server                       /      fd00:20::2/64   corporate
//!                                > 192.0.2.1, .5, ..  10.20.0.1 <
//!   client 1  192.0.2.6/30 ----/   fd00:c0::1, ..  fd00:20::1
//! ```
//!
//! A [`Network`] is the three (or more) namespaces. A [`Gateway`] is `mstunnel-server` running in the middle
//! one, or stock `ocserv` with the same configuration when `MSTUNNEL_TEST_PEER=ocserv` asks whether a test is
//! true of the reference too. [`Openconnect`] is the stock client, [`Client`] ours, [`Scripted`] a server that a
//! test tells what to do; [`RawClient`] is a TLS connection that sees
//! and sends single records; [`Issuer`] is an OpenID issuer with HTTPS, discovery and keys that rotate.
//!
//! The corporate host has no route to the address pool, so an answer from it proves masquerading.
//!
//! [`world`] is the other half: servers, clients and networks in memory, in virtual time.
//!
//! Everything here belongs to tests: a step that fails panics with the command, what was awaited and what the
//! program said. Each guard ends its own processes by id and removes its own namespaces when dropped; what a
//! killed run left behind goes away at the start of the next one. A test that cannot run (no root, no tun
//! device, a peer is not installed) says why on stderr and counts as skipped; with `CI=true` it fails.

mod certificate;
mod client;
mod corporate;
mod coverage;
mod cstp;
mod dtls;
mod gateway;
mod grants;
mod http;
mod inner;
mod issuer;
mod netns;
mod network;
mod ocserv;
mod openconnect;
mod process;
mod raw;
mod records;
mod relay;
mod requirement;
mod scripted;
mod sys;
mod tap;
mod transcript;
mod unsafe_code;
mod wait;
pub mod world;

pub use certificate::Certificate;
pub use client::{Client, Ended, RunningClient};
pub use corporate::{Corporate, UdpSink, stream_digest};
pub use cstp::{Frame, FrameType};
pub use dtls::{DtlsCaller, DtlsEcho, PAIR_PATH, Witness, open_pair};
pub use gateway::{Gateway, Peer, Setup, program, run_server};
pub use http::Answer;
pub use inner::{Inner, icmp_echo, udp};
pub use issuer::{Issuer, Token};
pub use netns::Netns;
pub use network::{Network, PortPair};
pub use openconnect::{Environment, Openconnect, OpenconnectBuilder};
pub use process::{Output, Process, Stream, copy_program};
pub use raw::{RawClient, Tls, TunnelAnswer};
pub use records::Heard;
pub use relay::{Relay, Weather};
pub use requirement::{find_program, ready, skip};
pub use scripted::{Scripted, Visit};
pub use tap::Tap;
pub use transcript::{Side, Transcript};
pub use wait::{LONG, SHORT, uninterrupted, until};
