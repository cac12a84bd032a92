//! TLS handshakes of one worker: many under way, one computed at a time.
//!
//! ```text
//!   accept -> ClientHello, however slowly -> turn -> our flight -> the client's, however slowly -> TLS
//!             (costs a place at the gate)    (costs a signature)
//! ```
//!
//! Only the step that costs is queued for. A client that says nothing, or stops in the middle, holds its
//! place at the gate until the deadline and nobody else up. Between two turns every other task of the
//! worker has its own, so that a crowd at the door costs a live session one signature, not a thousand.
//!
//! # Source
//! R22, R54.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// A TLS handshake takes a few round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The queue of those who have said hello.
pub(crate) struct Hellos(Semaphore);

impl Default for Hellos {
    fn default() -> Self {
        Self(Semaphore::new(1))
    }
}

impl Hellos {
    /// Waits until those who have said hello by now have had their turn.
    pub(crate) async fn turn(&self) {
        drop(self.0.acquire().await);
    }

    /// Finishes a handshake, in [`HANDSHAKE_TIMEOUT`] and in turn.
    ///
    /// # Errors
    /// Why there is no TLS connection; the time is up with [`io::ErrorKind::TimedOut`].
    pub(crate) async fn handshake(
        &self,
        stream: TcpStream,
        config: Arc<ServerConfig>,
    ) -> io::Result<TlsStream<TcpStream>> {
        timeout(HANDSHAKE_TIMEOUT, self.steps(stream, config))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    async fn steps(&self, stream: TcpStream, config: Arc<ServerConfig>) -> io::Result<TlsStream<TcpStream>> {
        let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let turn = self.0.acquire().await;
        let mut rest = pin!(hello.into_stream(config));
        let first = poll_fn(|cx| Poll::Ready(rest.as_mut().poll(cx))).await;
        // Kept meanwhile: what is ready on this worker comes before the next signature.
        tokio::task::yield_now().await;
        drop(turn);
        match first {
            Poll::Ready(done) => done,
            Poll::Pending => rest.await,
        }
    }
}
