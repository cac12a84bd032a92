//! Ports on this host that lead into the tunnel: SOCKS5, HTTP, and single forwards.
//!
//! ```text
//!   application -- loopback --> port -- Dialer --> tunnel, or refused, or beside it (dial.rs)
//! ```
//!
//! # Limits
//! [`MAX_CLIENTS`] connections at a time over all ports, then new ones wait in the host's backlog. A client
//! that does not read stops its own destination and nobody else. Only loopback addresses are listened on,
//! unless [`Exposure::Network`] says otherwise (R69).

mod associate;
mod forward;
mod http;
mod relay;
pub mod socks;
mod socks_client;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

pub use forward::{Forward, ForwardError};

use crate::dial::{Destination, Dialer};

/// Clients at a time: half of what the stack carries, so that connections that are closing have room.
pub const MAX_CLIENTS: usize = 512;

/// The pause after an accept that failed, for lack of descriptors for example (R60).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a port does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// SOCKS5.
    Socks5,
    /// HTTP CONNECT and plain HTTP.
    Http,
    /// A connection to one destination.
    Forward(Destination),
}

/// Who may connect to a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exposure {
    /// Programs on this host.
    #[default]
    Loopback,
    /// Whoever reaches the address: there is no authentication.
    Network,
}

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Anybody in the network could use the tunnel.
    #[error("{address} is not a loopback address, and would let anybody who reaches it into the tunnel")]
    Exposed {
        /// The address.
        address: SocketAddr,
    },
    /// The host.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
}

/// The ports, being served until this is dropped.
#[derive(Debug)]
pub struct Proxy {
    dialer: Dialer,
    exposure: Exposure,
    clients: Arc<Semaphore>,
    listeners: JoinSet<()>,
}

impl Proxy {
    /// A proxy without ports.
    pub fn new(dialer: Dialer, exposure: Exposure) -> Self {
        Self { dialer, exposure, clients: Arc::new(Semaphore::new(MAX_CLIENTS)), listeners: JoinSet::new() }
    }

    /// Serves `service` on `address`, and returns the address with its port.
    ///
    /// # Errors
    /// [`ListenError`]
    pub async fn listen(&mut self, address: SocketAddr, service: Service) -> Result<SocketAddr, ListenError> {
        if self.exposure == Exposure::Loopback && !address.ip().is_loopback() {
            return Err(ListenError::Exposed { address });
        }
        let listening = async {
            let listener = TcpListener::bind(address).await?;
            Ok((listener.local_addr()?, listener))
        };
        let (local, listener) = listening.await.map_err(|error| ListenError::Listen { address, error })?;
        self.listeners.spawn(accept(listener, service, self.dialer.clone(), Arc::clone(&self.clients)));
        Ok(local)
    }
}

/// Serves the clients of one port; with this task end all of them.
async fn accept(listener: TcpListener, service: Service, dialer: Dialer, slots: Arc<Semaphore>) {
    let mut clients = JoinSet::new();
    loop {
        while clients.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                clients.spawn(serve(client, service.clone(), dialer.clone(), slot));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(client: TcpStream, service: Service, dialer: Dialer, _slot: OwnedSemaphorePermit) {
    // Segments go on as they come: Nagle's delay would come on top of the tunnel's own.
    let _ = client.set_nodelay(true);
    let result = match service {
        Service::Socks5 => socks_client::serve(client, dialer).await,
        Service::Http => http::serve(client, dialer).await,
        Service::Forward(destination) => forward::serve(client, &destination, dialer).await,
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a client's connection ended");
    }
}
