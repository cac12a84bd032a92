//! How packets leave the server towards the network behind it, and come back.
//!
//! Four ways are planned (design.md 5); this one exists:
//!
//! | module | modes | needs |
//! | --- | --- | --- |
//! | [`kernel`] | `kernel` (masquerade), `routed` (no translation) | CAP_NET_ADMIN, `/dev/net/tun`, `nft` |

pub mod kernel;

pub use self::kernel::{
    AsyncTunQueue, EgressConfig, EgressError, Fault, KernelEgress, TunQueue, device_is_gone,
};
