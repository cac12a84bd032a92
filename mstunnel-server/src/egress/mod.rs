//! How packets leave the server towards the network behind it, and come back.
//!
//! Four ways are planned (design.md 5); these exist:
//!
//! | module | modes | needs |
//! | --- | --- | --- |
//! | [`kernel`] | `kernel` (masquerade), `routed` (no translation) | CAP_NET_ADMIN, `/dev/net/tun`, `nft` |

pub mod kernel;
mod listed;

pub use self::kernel::{
    AsyncTunQueue, EgressConfig, EgressError, Fault, KernelEgress, TunQueue, device_is_gone,
};
pub use self::listed::{Allowed, NotAllowed, Published};
