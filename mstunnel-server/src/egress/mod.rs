//! How packets leave the server towards the network behind it, and come back.
//!
//! Four ways are planned (design.md 5); these exist:
//!
//! | module | modes | needs |
//! | --- | --- | --- |
//! | [`kernel`] | `kernel` (masquerade), `routed` (no translation) | CAP_NET_ADMIN, `/dev/net/tun`, `nft`, `nf_conntrack_netlink` |
//! | `userspace` | `userspace` | nothing |

mod kept;
pub mod kernel;
mod listed;
pub(crate) mod userspace;
mod worker;

pub(crate) use self::kept::Kept;
pub(crate) use self::kernel::forget_flows;
pub use self::kernel::{
    AsyncTunQueue, EgressConfig, EgressError, Fault, KernelEgress, Offloads, READ_LEN, TunQueue,
    device_is_gone,
};
pub use self::listed::{Allowed, NotAllowed, Published};
#[doc(hidden)]
pub use self::userspace::fuzzing::{FuzzFlow, Pumped};
pub(crate) use self::worker::{Egress, OpenEgress, Part};
