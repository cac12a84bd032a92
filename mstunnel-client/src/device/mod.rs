//! The tunnel as a TUN device of the kernel.
//!
//! ```text
//!   programs -- kernel -- TUN device -- Tun::carry -- packets -- Tunnel
//!                  ^
//!                  '-- Netlink: addresses, MTU, routes, as the Plan says
//! ```
//!
//! [`Plan`] is what a server's parameters mean for a kernel, without doing any of it; [`exec`](crate::exec) and
//! [`host`](crate::host) each do it in their way.

mod error;
mod netlink;
mod plan;
mod resolv_conf;
mod tun;

pub use error::DeviceError;
pub(crate) use netlink::{Kind, Netlink, RouteEntry, Rule};
pub use plan::{Plan, PlannedRoute, Way};
pub(crate) use resolv_conf::{MARKER, resolv_conf};
pub use tun::{Offloads, Tun, check_name, create, create_with_offloads};
