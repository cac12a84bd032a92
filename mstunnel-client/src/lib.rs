//! A client for mstunnel and every OpenConnect server: sign-in, a tunnel that keeps itself up, and
//! three ways to use it.
//!
//! ```text
//!   signin -> cookie -> Tunnel  <-- packets -->  Stack   userspace TCP, UDP, ping; no privileges
//!                          |                     tun     a kernel TUN device
//!                          '-- TunnelParams      ...     or whatever the embedder does with IP packets
//! ```
//!
//! | part | what it is |
//! | --- | --- |
//! | [`Tunnel`] | a session that keeps itself up |
//! | [`signin`] | who the user is: passwords, tokens, cookies |
//! | [`tls`] | how the server is known |
//! | [`packets`] | the bounded queue of IP packets between a tunnel and its user |
//! | [`params`] | what the server assigned, typed |

pub mod packets;
pub mod params;
mod server_url;
pub mod signin;
pub mod tls;
mod transport;
mod tunnel;

pub use server_url::{ServerUrl, ServerUrlError};
pub use transport::{ExchangeError, OpeningError, OuterError};
pub use tunnel::{EndReason, OpenError, Tunnel, TunnelOptions, TunnelState};
