//! A tunnel with a stack over it: what `get`, `ping` and `proxy` begin with.

use std::time::Duration;

use mstunnel_client::stack::Stack;
use mstunnel_client::{EndReason, Tunnel};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::target::Target;

/// How long connections may take to say goodbye before the tunnel is left.
const SETTLE: Duration = Duration::from_secs(1);

/// A tunnel that is up.
pub(super) struct Online {
    tunnel: Tunnel,
    pub(super) stack: Stack,
}

impl Online {
    /// Signs in and starts the stack.
    pub(super) async fn open(target: &Target) -> anyhow::Result<Self> {
        let mut tunnel = target.open().await?;
        let packets = tunnel.take_packets();
        let stack = Stack::start(tunnel.watch_params(), packets);
        Ok(Self { tunnel, stack })
    }

    /// Waits for the end of the tunnel.
    pub(super) async fn ended(&self) -> EndReason {
        self.tunnel.ended().await
    }

    /// Lets connections end, and leaves.
    pub(super) async fn leave(self, why: &str) {
        self.stack.settle(SETTLE).await;
        self.tunnel.leave(why).await;
    }
}

/// The runtime of a command: the tunnel's encryption and the stack on a core each.
pub(super) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Waits for SIGINT or SIGTERM.
pub(super) async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
