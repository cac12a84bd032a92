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
//! | [`packets`] | the bounded queue of IP packets between a tunnel and its user |
//! | [`params`] | what the server assigned, typed |
//! | [`stack`] | TCP, UDP and ping over the packets, without privileges |

pub mod packets;
pub mod params;
pub mod stack;
