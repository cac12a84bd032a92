//! UDP: the sockets of a worker, whose datagram it is, and bursts on their way out.
//!
//! ```text
//!   socket -> Directory: remote address known? -> its worker -> its tunnel
//!                         no: a ClientHello with a good cookie -> App-ID -> its worker
//!                         no: a record -> tunnels of the same source address, if it is authentic (roaming)
//! ```
//!
//! Every worker has a socket for every listening address (SO_REUSEPORT). The kernel picks one by the client's
//! address, so that a datagram often lands on another worker than its tunnel's; it then goes there through a
//! mailbox, and a tunnel with many such datagrams moves. Answers leave from the tunnel's own worker.
//!
//! | file | holds |
//! | --- | --- |
//! | `socket` | one UDP socket: many datagrams a system call, from the address that was asked |
//! | `apart` | clients whose bad datagrams are so many that they get a socket of their own |
//! | `outlet` | the sockets of a worker and its burst |
//! | `directory` | who has which App-ID and which remote address |
//! | `leg` | the datagram channel of one tunnel |

mod apart;
mod directory;
mod leg;
mod outlet;
mod socket;

pub(crate) use apart::Apart;
pub(crate) use directory::{APP_ID_BYTES, Clarity, Directory, Holder};
pub(crate) use leg::{Change, DatagramLeg, DatagramOffer};
pub(crate) use outlet::Outlet;
pub(crate) use socket::{Burst, DatagramSocket, Intake, Origin, bind, connect};
