//! A TCP connection through the tunnel, as its user holds it.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::machine::Machine;
use super::table::Key;
use super::{ConnectError, Stack};

/// A connection in the table of the stack.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) key: Key,
    machine: Mutex<Machine>,
}

impl Flow {
    pub(super) fn new(key: Key, machine: Machine) -> Self {
        Self { key, machine: Mutex::new(machine) }
    }

    /// The machine; held for one step, never across another lock's wait.
    pub(super) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A TCP connection through the tunnel.
///
/// Shutting down the writing half sends FIN and leaves the reading half open. Dropping it closes the
/// connection in order, or resets it when there is data that was not read.
#[derive(Debug)]
pub struct TcpFlow {
    stack: Stack,
    flow: Arc<Flow>,
    local: SocketAddr,
}

impl TcpFlow {
    pub(super) fn new(stack: Stack, flow: Arc<Flow>, local: SocketAddr) -> Self {
        Self { stack, flow, local }
    }

    /// The address and port of this end, inside the tunnel.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The address and port of the other end.
    pub fn peer_addr(&self) -> SocketAddr {
        self.flow.key.remote
    }

    /// Ends the connection with a reset instead of in order.
    pub fn abort(self) {
        self.step(Machine::abort);
    }

    pub(super) fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.flow.machine().poll_connected(cx)
    }

    /// Changes the machine and lets it send what follows from that.
    pub(super) fn step<T>(&self, change: impl FnOnce(&mut Machine) -> T) -> T {
        let mut machine = self.flow.machine();
        let result = change(&mut machine);
        self.stack.shared().service(&self.flow, &mut machine);
        result
    }
}

impl AsyncRead for TcpFlow {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let mut machine = self.flow.machine();
        let len = ready!(machine.poll_read(buf.initialize_unfilled(), cx))?;
        coop.made_progress();
        buf.advance(len);
        // Reading opens the window, which the other end may have to be told.
        self.stack.shared().service(&self.flow, &mut machine);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TcpFlow {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let coop = ready!(tokio::task::coop::poll_proceed(cx));
        let mut machine = self.flow.machine();
        let len = ready!(machine.poll_write(bytes, cx))?;
        coop.made_progress();
        self.stack.shared().service(&self.flow, &mut machine);
        Poll::Ready(Ok(len))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.step(Machine::finish);
        Poll::Ready(Ok(()))
    }
}

impl Drop for TcpFlow {
    fn drop(&mut self) {
        self.step(|machine| machine.handle_orphaned(Instant::now()));
    }
}
