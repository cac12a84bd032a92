//! TCP and TLS to the server, by whichever of its addresses answers first.
//!
//! # Source
//! RFC 8305 (Happy Eyeballs), reduced: addresses in the resolver's order, each with a head start.

use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConfig, ClientConnection};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::local::LocalEnd;
use crate::server_url::ServerUrl;
use crate::tls;

/// The head start of an address over the next one (RFC 8305 section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// How long all addresses together may take, and then TLS.
const LIMIT: Duration = Duration::from_secs(15);

/// How long a name is asked for when there is an address that served before.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

/// The most addresses of a name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Makes connections to one server.
#[derive(Clone, Debug)]
pub(crate) struct Outer {
    url: ServerUrl,
    tls: Arc<ClientConfig>,
    local: LocalEnd,
    /// The address that was connected and verified first: a session stays with it (R65).
    settled: Option<SocketAddr>,
    /// Whether the name is asked again before that address is taken.
    asks_again: bool,
}

/// A connection whose server is verified.
pub(crate) struct OuterConnection {
    pub(crate) stream: TlsStream<TcpStream>,
    pub(crate) remote: SocketAddr,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum OuterError {
    /// The name of the server has no address.
    #[error("cannot find {host}: {source}")]
    Name {
        /// The host of the URL.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// No address answers.
    #[error("cannot reach {address}: {source}")]
    Tcp {
        /// The last address tried.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// Not the server that was meant, or no TLS at all.
    #[error("cannot trust {server}: {why}")]
    Tls {
        /// The URL.
        server: String,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Nothing within the time limit.
    #[error("{server} does not answer within {} s", LIMIT.as_secs())]
    Silent {
        /// The URL.
        server: String,
    },
}

impl Outer {
    /// Connections from `local` to `url`.
    pub(crate) fn new(url: ServerUrl, tls: Arc<ClientConfig>, local: LocalEnd) -> Self {
        Self { url, tls, local, settled: None, asks_again: false }
    }

    /// Our end.
    pub(crate) fn local(&self) -> LocalEnd {
        self.local
    }

    /// The same from this address.
    pub(crate) fn with_source(self, source: Option<IpAddr>) -> Self {
        Self { local: LocalEnd { source, ..self.local }, ..self }
    }

    /// Whether the server was found before.
    pub(crate) fn is_settled(&self) -> bool {
        self.settled.is_some()
    }

    /// The server.
    pub(crate) fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// Connects and verifies.
    pub(crate) async fn connect(&mut self) -> Result<OuterConnection, OuterError> {
        let addresses = self.addresses().await?;
        let silent = || OuterError::Silent { server: self.url.to_string() };
        let tcp = timeout(LIMIT, first_to_answer(&addresses, self.local)).await.map_err(|_| silent())??;
        // A latency hint that is refused is no reason to give up.
        let _ = tcp.set_nodelay(true);
        let remote = tcp.peer_addr().map_err(|source| OuterError::Tcp { address: addresses[0], source })?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let handshake = connector.connect(self.url.server_name(), tcp);
        let stream = timeout(LIMIT, handshake)
            .await
            .map_err(|_| silent())?
            .map_err(|error| self.refusal(error, remote))?;
        self.settled = Some(remote);
        self.asks_again = false;
        Ok(OuterConnection { stream, remote })
    }

    /// The address of the session first, if there is one; else all of the name's.
    async fn addresses(&self) -> Result<Vec<SocketAddr>, OuterError> {
        if let Some(address) = self.url.address() {
            return Ok(vec![SocketAddr::new(address, self.url.port())]);
        }
        match self.settled {
            None => self.look_up().await,
            Some(settled) if !self.asks_again => Ok(vec![settled]),
            // With the tunnel down there may be nobody to ask: its name servers are behind it.
            Some(settled) => match timeout(LOOKUP_LIMIT, self.look_up()).await {
                Ok(Ok(found)) => Ok(found),
                Ok(Err(_)) | Err(_) => Ok(vec![settled]),
            },
        }
    }

    async fn look_up(&self) -> Result<Vec<SocketAddr>, OuterError> {
        let failed = |source| OuterError::Name { host: self.url.host(), source };
        let found = tokio::net::lookup_host((self.url.host(), self.url.port())).await.map_err(failed)?;
        let found: Vec<SocketAddr> = found.take(MAX_ADDRESSES).collect();
        if found.is_empty() {
            return Err(failed(io::Error::new(io::ErrorKind::NotFound, "the name has no address")));
        }
        Ok(found)
    }

    /// Asks for the name again at the next try: the server may have moved.
    pub(crate) fn unsettle(&mut self) {
        self.asks_again = true;
    }

    fn refusal(&self, error: io::Error, address: SocketAddr) -> OuterError {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(inner) => OuterError::Tls { server: self.url.to_string(), why: tls::why(inner) },
            None => OuterError::Tcp { address, source: error },
        }
    }
}

async fn first_to_answer(addresses: &[SocketAddr], local: LocalEnd) -> Result<TcpStream, OuterError> {
    if let [address] = *addresses {
        return local.connect(address).await.map_err(|source| OuterError::Tcp { address, source });
    }
    let mut tries = JoinSet::new();
    for (place, &address) in addresses.iter().enumerate() {
        let wait = HEAD_START * u32::try_from(place).unwrap_or(u32::MAX);
        tries.spawn(async move {
            tokio::time::sleep(wait).await;
            local.connect(address).await.map_err(|source| OuterError::Tcp { address, source })
        });
    }
    let mut last = None;
    while let Some(tried) = tries.join_next().await {
        match tried {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = Some(error),
            Err(_) => {} // a try that was cancelled with the others
        }
    }
    Err(last.expect("there is at least one address"))
}

impl OuterConnection {
    /// Reads what there is; 0 at the end.
    ///
    /// An error behind bytes that came with it waits for the next read: ocserv sends a fatal alert right after
    /// the answer that says why it hangs up.
    pub(super) async fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let error = match self.stream.read(buffer).await {
            Err(error) => error,
            read => return read,
        };
        match self.stream.get_mut().1.reader().read(buffer) {
            Ok(len) if len > 0 => Ok(len),
            Ok(_) | Err(_) => Err(error),
        }
    }

    /// The parts, for the loop that moves frames.
    pub(crate) fn into_parts(self) -> (TcpStream, ClientConnection) {
        self.stream.into_inner()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the tunnel down its name servers are, too: the address that served before is tried again.
    #[tokio::test]
    async fn a_name_that_nobody_answers_for_leads_to_the_address_that_served_before() {
        let config = tls::TlsOptions::default().config();
        let Ok(config) = config else { return }; // no authorities on this machine
        // RFC 6761 section 6.4: never a name.
        let url: ServerUrl = "https://vpn.invalid".parse().unwrap();
        let mut outer = Outer::new(url, Arc::new(config), LocalEnd::default());
        let Err(error) = outer.addresses().await else { return }; // a network that answers for every name
        assert!(matches!(error, OuterError::Name { .. }), "{error}");
        let before: SocketAddr = "192.0.2.1:443".parse().unwrap();
        outer.settled = Some(before);
        outer.unsettle();
        assert_eq!(outer.addresses().await.unwrap(), [before]);
    }
}
