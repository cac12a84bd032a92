//! What the operator and the service manager ask for by signal.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A request by signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// SIGTERM or SIGINT: drain, and end.
    End,
    /// SIGHUP: read the configuration again.
    Reload,
}

/// The signals that a server obeys, from now on.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes them over from the system, whose way with all three is to kill; needs a runtime around it.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::End,
            _ = self.interrupt.recv() => Request::End,
            _ = self.hangup.recv() => Request::Reload,
        }
    }

    /// Waits for one that asks for the end.
    pub(super) async fn end(&mut self) {
        while self.next().await != Request::End {}
    }
}
