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
//! | [`device`] | the tunnel as a TUN device of the kernel |
//! | [`exec`] | one command in a network of its own that has nothing but the tunnel; no privileges |
//! | [`host`] | the whole machine behind the tunnel: routes, rules and resolver, put back afterwards |
//! | [`dial`] | connections by name or address, as the routes want it |
//! | [`fetch`] | one page over HTTP |
//! | [`load`] | many sessions at once, for load tests |
//! | [`proxy`] | SOCKS5, HTTP and forwards on this host that lead into the tunnel |
//! | [`resolve`] | names to addresses, through the tunnel |
//! | [`stack`] | TCP, UDP and ping over the packets, without privileges |

pub mod device;
pub mod dial;
pub mod exec;
pub mod fetch;
pub mod host;
pub mod load;
pub mod packets;
pub mod params;
mod patience;
pub mod proxy;
pub mod resolve;
mod server_url;
pub mod signin;
pub mod stack;
mod sys;
pub mod tls;
mod transport;
mod tunnel;

pub use server_url::{ServerUrl, ServerUrlError};
pub use transport::{ExchangeError, OpeningError, OuterError, UseDatagrams};
pub use tunnel::{EndReason, OpenError, Tunnel, TunnelOptions, TunnelState};
