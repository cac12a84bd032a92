//! TCP, UDP and ping over the packets of a tunnel, without any privilege.
//!
//! ```text
//!   Tunnel -- packets --> driver --- by addresses and ports --> Flow (a smoltcp interface each)
//!          <-- packets ------------------------------------------ Flow, UdpFlow, Ping
//! ```
//!
//! One task hands out the packets that come in and keeps the timers; what goes out is sent by whoever made
//! it, straight into the tunnel's queue. A flow is looked at only when it is touched.
//!
//! # Limits (R69)
//! Nothing that comes unasked is answered. [`MAX_FLOWS`] connections with buffers that shrink as there are
//! more of them (230 MB in all), [`MAX_MAILBOXES`] UDP ports and pings with bounded queues; fragments are
//! dropped; a queue that is full slows its sender down.

mod driver;
mod flow;
mod link;
mod machine;
mod mailbox;
mod ping;
pub(crate) mod random;
mod refusal;
mod shared;
mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod timers;
mod udp;
pub(crate) mod wire;

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mstunnel_proto::packet::Family;
use tokio::sync::watch;
use tokio::task::AbortHandle;

pub use flow::TcpFlow;
pub use ping::{EchoReply, Ping};
pub use udp::UdpFlow;

use crate::packets::Packets;
use crate::params::TunnelParams;

/// Connections at most, those that are being closed included: what a browser for a household opens.
pub const MAX_FLOWS: usize = 1_024;

/// UDP ports and pings at most.
pub const MAX_MAILBOXES: usize = 1_024;

/// How long a connection attempt may take: four SYNs, after 0, 1, 3 and 7 seconds.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// A handle of the stack over one tunnel; cheap to clone. The stack ends with the tunnel, or with the last
/// handle, flow and port.
#[derive(Clone)]
pub struct Stack {
    running: Arc<Running>,
}

impl std::fmt::Debug for Stack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stack").field("dropped", &self.dropped()).finish_non_exhaustive()
    }
}

struct Running {
    shared: Arc<shared::Shared>,
    driver: AbortHandle,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// The other end answered with a reset.
    #[error("connection refused")]
    Refused,
    /// The network said that there is no way.
    #[error("host unreachable")]
    Unreachable,
    /// No answer.
    #[error("no answer within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut,
    /// The tunnel has no address of the family.
    #[error("the tunnel carries no {family:?}", family = Family::of(*address))]
    NoFamily {
        /// The destination.
        address: IpAddr,
    },
    /// An address or port that nobody can be reached at.
    #[error("{address} is not the address of a host")]
    Destination {
        /// The destination.
        address: IpAddr,
    },
    /// [`MAX_FLOWS`] or [`MAX_MAILBOXES`] are open.
    #[error("too many connections, limit {limit}")]
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The tunnel has ended.
    #[error("the tunnel has ended")]
    TunnelEnded,
    /// The tunnel was built anew and has another address.
    #[error("the tunnel got another address")]
    AddressChanged,
}

impl Stack {
    /// Starts a stack over `packets`, on the present runtime.
    ///
    /// When `params` change, connections from an address that is gone end.
    pub fn start(params: watch::Receiver<Arc<TunnelParams>>, packets: Packets) -> Self {
        let (sender, receiver) = packets.split();
        let shared = Arc::new(shared::Shared::new(params.clone(), sender));
        let task = tokio::spawn(driver::run(Arc::clone(&shared), params, receiver));
        Self { running: Arc::new(Running { shared, driver: task.abort_handle() }) }
    }

    /// The present parameters of the tunnel.
    pub fn params(&self) -> Arc<TunnelParams> {
        self.shared().params()
    }

    /// Connects to `to` through the tunnel, whatever its routes say: those are for the caller to ask.
    ///
    /// # Errors
    /// [`ConnectError`], after [`CONNECT_TIMEOUT`] at the latest.
    pub async fn connect(&self, to: SocketAddr) -> Result<TcpFlow, ConnectError> {
        let to = SocketAddr::new(to.ip().to_canonical(), to.port());
        let (flow, local) = self.shared().open_flow(to)?;
        let flow = TcpFlow::new(self.clone(), flow, local);
        flow.step(|_| ());
        tokio::time::timeout(CONNECT_TIMEOUT, poll_fn(|cx| flow.poll_connected(cx)))
            .await
            .unwrap_or(Err(ConnectError::TimedOut))?;
        Ok(flow)
    }

    /// Opens a UDP port of the family of `destination`.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub fn udp(&self, destination: IpAddr) -> Result<UdpFlow, ConnectError> {
        UdpFlow::open(self.clone(), Family::of(destination))
    }

    /// Prepares echo requests to `destination`.
    ///
    /// # Errors
    /// [`ConnectError`]
    pub fn ping(&self, destination: IpAddr) -> Result<Ping, ConnectError> {
        Ping::open(self.clone(), destination.to_canonical())
    }

    /// Waits until connections that were let go of have said goodbye, at most for `limit`.
    pub async fn settle(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.shared().settled()).await;
    }

    /// How many packets from the tunnel were of no flow, or broken, or more than a queue holds.
    pub fn dropped(&self) -> u64 {
        self.shared().dropped()
    }

    fn shared(&self) -> &Arc<shared::Shared> {
        &self.running.shared
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
