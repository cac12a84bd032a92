//! A tunnel with a stack over it: what `get`, `ping` and `proxy` begin with.

use std::future::poll_fn;
use std::io;
use std::task::Poll;
use std::time::Duration;

use mstunnel_client::stack::Stack;
use mstunnel_client::{EndReason, Tunnel};
use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// Runs a command on a runtime of its own: the tunnel's encryption and the stack on a core each.
///
/// What still blocks when the command has ended, a write that nobody reads or a name that nobody resolves, ends with the
/// process.
pub(super) fn block_on<F: Future>(command: F) -> io::Result<F::Output> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let output = runtime.block_on(command);
    runtime.shutdown_background();
    Ok(output)
}

/// Waits for SIGINT or SIGTERM, which are watched for from its first poll on.
pub(super) async fn interrupted() {
    match Interrupts::new() {
        Ok(mut interrupts) => interrupts.next().await,
        Err(_) => std::future::pending().await,
    }
}

/// Signals that ask for an end, from now on.
#[derive(Debug)]
pub(super) struct Interrupts(Vec<Signal>);

impl Interrupts {
    /// Takes SIGINT and SIGTERM over from the system, whose way is to kill.
    pub(super) fn new() -> io::Result<Self> {
        Self::of(&[SignalKind::interrupt(), SignalKind::terminate()])
    }

    /// The same with SIGHUP: the terminal has gone.
    pub(super) fn or_hangup() -> io::Result<Self> {
        Self::of(&[SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()])
    }

    fn of(kinds: &[SignalKind]) -> io::Result<Self> {
        kinds.iter().map(|&kind| signal(kind)).collect::<io::Result<_>>().map(Self)
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        poll_fn(|cx| {
            let is_there = self.0.iter_mut().any(|signal| signal.poll_recv(cx).is_ready());
            if is_there { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
