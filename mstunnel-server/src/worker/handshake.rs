//! TLS handshakes of one worker: many under way, one computed at a time.
//!
//! ```text
//!   accept -> ClientHello, however slowly -> turn -> our flight -> the client's, however slowly -> turn -> TLS
//!             (costs a place at the gate)    (costs a signature)
//! ```
//!
//! Only what costs is queued for: each step of the handshake, for a second hello that we ask for costs what a
//! first one does. A client that says nothing, or stops in the middle, holds its
//! place at the gate until the deadline and nobody else up. Between two turns every other task of the
//! worker has its own, so that a crowd at the door costs a live session one signature, not a thousand.
//!
//! # Source
//! R22, R54.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use rustls::ServerConfig;
use rustls::server::Acceptor;
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

/// A TLS handshake takes a few round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A step that signs takes longer, one that asks for another hello or reads a few bytes does not.
const CHEAP: Duration = Duration::from_micros(50);

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
        let mut rest = pin!(hello.into_stream(config));
        let woken = Arc::new(Woken(Notify::new()));
        let waker = Waker::from(Arc::clone(&woken));
        loop {
            let turn = self.0.acquire().await;
            let begun = Instant::now();
            let step = rest.as_mut().poll(&mut Context::from_waker(&waker));
            if begun.elapsed() > CHEAP {
                // Kept meanwhile: what is ready on this worker comes before the next signature.
                tokio::task::yield_now().await;
            }
            drop(turn);
            match step {
                Poll::Ready(done) => return done,
                Poll::Pending => woken.0.notified().await,
            }
        }
    }
}

/// Remembers that the socket has something, also while nobody waits for it.
struct Woken(Notify);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.notify_one();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{Ipv4Addr, TcpListener};

    use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// A server's configuration, and a client of it that guesses the server's group wrong: the server asks for another
    /// hello first.
    fn strangers() -> (Arc<ServerConfig>, ClientConnection) {
        let own = rcgen::generate_simple_self_signed(["server".to_owned()]).unwrap();
        let key = own.signing_key.serialize_der().try_into().unwrap();
        let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let server = builder.with_single_cert(vec![own.cert.der().clone()], key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(own.cert.der().clone()).unwrap();
        let mut provider = default_provider();
        provider.kx_groups = vec![kx_group::SECP384R1, kx_group::X25519];
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let client = builder.with_no_client_auth();
        let client = ClientConnection::new(Arc::new(client), "server".try_into().unwrap()).unwrap();
        (Arc::new(server), client)
    }

    /// Covers: R54: what a second hello costs is the signature, and that is waited for in turn as well.
    #[tokio::test]
    async fn a_second_hello_waits_for_its_turn_too() {
        let (config, mut client) = strangers();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        let far = listener.accept().unwrap().0;
        far.set_nonblocking(true).unwrap();
        let far = TcpStream::from_std(far).unwrap();
        let hellos = Arc::new(Hellos::default());
        let handshake = tokio::spawn({
            let hellos = Arc::clone(&hellos);
            async move { hellos.handshake(far, config).await }
        });
        let heard = async |near: &mut std::net::TcpStream, patience: u32| {
            let mut bytes = [0; 4096];
            for _ in 0..patience {
                tokio::time::sleep(Duration::from_millis(5)).await;
                if let Ok(len) = near.read(&mut bytes) {
                    return bytes[..len].to_vec();
                }
            }
            Vec::new()
        };
        client.write_tls(&mut near).unwrap();
        let again = heard(&mut near, 2_000).await;
        client.read_tls(&mut &again[..]).unwrap();
        client.process_new_packets().unwrap();
        let turn = hellos.0.acquire().await.unwrap();
        client.write_tls(&mut near).unwrap();
        assert!(heard(&mut near, 40).await.is_empty(), "it was signed out of turn");
        drop(turn);
        while client.is_handshaking() {
            let bytes = heard(&mut near, 2_000).await;
            assert!(!bytes.is_empty(), "no answer");
            client.read_tls(&mut &bytes[..]).unwrap();
            client.process_new_packets().unwrap();
        }
        client.write_tls(&mut near).unwrap();
        assert!(handshake.await.unwrap().is_ok());
    }
}
