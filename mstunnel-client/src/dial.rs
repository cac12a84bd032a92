//! To a destination by name or address: through the tunnel, past it, or not at all.
//!
//! ```text
//!   name --resolve--> addresses --routes--> Tunnel  -> Stack
//!   literal ----------'                     Direct  -> a socket of this host, only with Bypass::Direct
//!                                           refused, also what the tunnel has no address for (R53)
//! ```
//!
//! What the routes put into the tunnel never goes to a socket of the host (R66), also while the tunnel is
//! being built anew. Loopback, link-local and the like are nobody's business: never dialled, so that a name
//! server cannot point a client at this host's own services.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::params::TunnelParams;
use crate::resolve::{ResolveError, Resolver};
use crate::stack::{CONNECT_TIMEOUT, ConnectError, Stack, TcpFlow};

/// The head start of one address before the next is tried too (RFC 8305 section 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Addresses of a name that are tried at most.
pub const MAX_ATTEMPTS: usize = 8;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

/// A host by name or address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name, not checked yet.
    Name(String),
    /// An address.
    Address(IpAddr),
}

/// What happens to destinations that the tunnel's routes leave out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bypass {
    /// They are refused.
    #[default]
    Refuse,
    /// They are reached by sockets of this host; names outside the split DNS domains are asked of its resolver.
    Direct,
}

/// How an address is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through the tunnel.
    Tunnel,
    /// By a socket of this host.
    Direct,
}

/// Connects to destinations.
#[derive(Clone, Debug)]
pub struct Dialer {
    stack: Stack,
    resolver: Resolver,
    bypass: Bypass,
}

/// Why a destination was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Its name has no address.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The routes leave it out, or it is no address for this.
    #[error("{address} does not belong to the tunnel")]
    Excluded {
        /// The address.
        address: IpAddr,
    },
    /// The connection through the tunnel.
    #[error("{address}: {error}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// Why not.
        error: ConnectError,
    },
    /// The connection beside the tunnel.
    #[error("{address}, beside the tunnel: {error}")]
    Direct {
        /// Where to.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
}

impl Dialer {
    /// A dialer over `stack`.
    pub fn new(stack: Stack, bypass: Bypass) -> Self {
        let resolver = Resolver::new(stack.clone());
        Self { stack, resolver, bypass }
    }

    /// The stack underneath.
    pub fn stack(&self) -> &Stack {
        &self.stack
    }

    /// The addresses of `host`, each with its way, best first.
    ///
    /// # Errors
    /// [`DialError::Resolve`], or [`DialError::Excluded`] when there is no way to any of them.
    pub async fn addresses(&self, host: &Host) -> Result<Vec<(IpAddr, Way)>, DialError> {
        let addresses = match host {
            Host::Address(address) => vec![address.to_canonical()],
            Host::Name(name) => self.resolve(name).await?.iter().map(IpAddr::to_canonical).collect(),
        };
        let params = self.stack.params();
        let ways: Vec<_> = addresses
            .iter()
            .filter_map(|address| Some((*address, way(&params, *address, self.bypass)?)))
            .take(MAX_ATTEMPTS)
            .collect();
        match (ways.is_empty(), addresses.first()) {
            (true, Some(address)) => Err(DialError::Excluded { address: *address }),
            _ => Ok(ways),
        }
    }

    /// Connects to `destination`; the addresses of a name are tried one after the other, overlapping.
    ///
    /// # Errors
    /// [`DialError`], of the address that failed last.
    pub async fn connect(&self, destination: &Destination) -> Result<Stream, DialError> {
        let addresses = self.addresses(&destination.host).await?;
        let mut waiting = addresses.into_iter().map(|(ip, way)| (SocketAddr::new(ip, destination.port), way));
        let mut attempts = FuturesUnordered::new();
        let mut last = None;
        loop {
            match waiting.next() {
                Some((address, way)) => attempts.push(self.attempt(address, way)),
                None if attempts.is_empty() => break,
                None => {}
            }
            let is_last = waiting.len() == 0;
            tokio::select! {
                result = attempts.select_next_some(), if !attempts.is_empty() => match result {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = Some(error),
                },
                () = sleep(HEAD_START), if !is_last => {}
            }
        }
        Err(last.expect("a list of ways is not empty, and each gave a stream or an error"))
    }

    async fn attempt(&self, address: SocketAddr, way: Way) -> Result<Stream, DialError> {
        match way {
            Way::Tunnel => match self.stack.connect(address).await {
                Ok(flow) => Ok(Stream::Tunnel(flow)),
                Err(error) => Err(DialError::Connect { address, error }),
            },
            Way::Direct => match timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => Ok(Stream::Direct(stream)),
                Ok(Err(error)) => Err(DialError::Direct { address, error }),
                Err(_) => Err(DialError::Direct { address, error: io::ErrorKind::TimedOut.into() }),
            },
        }
    }

    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, DialError> {
        let params = self.stack.params();
        let is_outside =
            !params.split_dns.is_empty() && !params.split_dns.matches(name) && name.contains('.');
        if self.bypass == Bypass::Direct && is_outside {
            return match tokio::net::lookup_host((name, 0)).await {
                Ok(found) => Ok(found.map(|address| address.ip()).collect()),
                Err(_) => Err(ResolveError::NoSuchName { name: name.to_owned() }.into()),
            };
        }
        Ok(self.resolver.resolve(name).await?)
    }
}

/// How `address` is reached; `None` for not at all.
pub fn way(params: &TunnelParams, address: IpAddr, bypass: Bypass) -> Option<Way> {
    let address = address.to_canonical();
    if !is_remote(address) {
        None
    } else if params.tunnels(address) {
        Some(Way::Tunnel)
    } else if params.claims(address) && !params.said.client_bypass_protocol {
        // No address of its family: nothing leads there, and least of all a way in clear (R53).
        None
    } else {
        (bypass == Bypass::Direct).then_some(Way::Direct)
    }
}

/// Whether `address` is one host that is not this one, nor one that only means something on a single link.
fn is_remote(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let is_this_network = v4.octets()[0] == 0;
            !is_this_network
                && !v4.is_loopback()
                && !v4.is_link_local()
                && !v4.is_multicast()
                && v4 != Ipv4Addr::BROADCAST
        }
        IpAddr::V6(v6) => {
            !v6.is_unspecified() && !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_multicast()
        }
    }
}

/// A connection to a destination.
#[derive(Debug)]
pub enum Stream {
    /// Through the tunnel.
    Tunnel(TcpFlow),
    /// By a socket of this host.
    Direct(TcpStream),
}

impl Stream {
    /// The address of this end: inside the tunnel, or of this host.
    ///
    /// # Errors
    /// What the socket says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tunnel(flow) => Ok(flow.local_addr()),
            Self::Direct(stream) => stream.local_addr(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(flow) => Pin::new(flow).poll_read(cx, buf),
            Self::Direct(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tunnel(flow) => Pin::new(flow).poll_write(cx, bytes),
            Self::Direct(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(flow) => Pin::new(flow).poll_flush(cx),
            Self::Direct(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tunnel(flow) => Pin::new(flow).poll_shutdown(cx),
            Self::Direct(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// Why a text is not a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not HOST:PORT; an IPv6 address goes in brackets")]
pub struct DestinationError;

impl FromStr for Host {
    type Err = DestinationError;

    /// Reads a name, an IPv4 address, or an IPv6 address with or without brackets.
    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match (bare, bare.unwrap_or(text).parse()) {
            (_, Ok(address)) => Ok(Self::Address(address)),
            (None, Err(_)) if !text.is_empty() && !text.contains([':', '/', '@', ' ']) => {
                Ok(Self::Name(text.to_owned()))
            }
            _ => Err(DestinationError),
        }
    }
}

impl FromStr for Destination {
    type Err = DestinationError;

    /// Reads `HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let (host, port) = text.rsplit_once(':').ok_or(DestinationError)?;
        if host.contains(':') && !host.starts_with('[') {
            return Err(DestinationError);
        }
        Ok(Self { host: host.parse()?, port: port.parse().map_err(|_| DestinationError)? })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => write!(f, "{address}"),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::testing::{HOST_V4, UNREACHABLE, WEB, World, params};

    #[test]
    fn routes_decide_and_what_is_excluded_goes_nowhere_unless_told() {
        let params = params(|said| said.include = vec!["10.20.0.0/16".parse().unwrap()]);
        let inside = "10.20.1.1".parse().unwrap();
        let outside = "192.0.2.1".parse().unwrap();
        assert_eq!(way(&params, inside, Bypass::Direct), Some(Way::Tunnel));
        assert_eq!(way(&params, outside, Bypass::Refuse), None);
        assert_eq!(way(&params, outside, Bypass::Direct), Some(Way::Direct));
    }

    /// Covers: R53, R66
    #[test]
    fn what_the_tunnel_claims_without_an_address_of_its_family_goes_nowhere() {
        let only_v4 = |client_bypass_protocol| {
            params(|said| {
                said.v6 = None;
                said.include = vec!["10.20.0.0/16".parse().unwrap(), "fd00:20::/64".parse().unwrap()];
                said.dns = vec!["fd00:53::53".parse().unwrap()];
                said.client_bypass_protocol = client_bypass_protocol;
            })
        };
        for inside in ["fd00:20::1", "fd00:53::53"] {
            let inside = inside.parse().unwrap();
            assert_eq!(way(&only_v4(false), inside, Bypass::Direct), None, "{inside}");
            assert_eq!(way(&only_v4(true), inside, Bypass::Direct), Some(Way::Direct), "{inside}");
            assert_eq!(way(&only_v4(true), inside, Bypass::Refuse), None, "{inside}");
        }
        let outside = "fd00:21::1".parse().unwrap();
        assert_eq!(way(&only_v4(false), outside, Bypass::Direct), Some(Way::Direct));
        let full = params(|said| said.v6 = None);
        assert_eq!(way(&full, outside, Bypass::Direct), None);
        // The same host in IPv6's clothes.
        let mapped = "::ffff:10.20.1.1".parse().unwrap();
        assert_eq!(way(&only_v4(true), mapped, Bypass::Direct), Some(Way::Tunnel));
    }

    #[test]
    fn this_host_and_its_links_are_never_dialled() {
        let full = params(|_| ());
        for address in [
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
        ] {
            let address = address.parse().unwrap();
            assert_eq!(way(&full, address, Bypass::Direct), None, "{address}");
        }
    }

    #[test]
    fn destinations_read_back() {
        for text in ["web.corp.example:80", "10.20.0.2:443", "[fd00::1]:22"] {
            assert_eq!(text.parse::<Destination>().unwrap().to_string(), text);
        }
        for wrong in ["", "web", "fd00::1:22", "web:65536", ":80", "a/b:80", "[web]:80"] {
            assert_eq!(wrong.parse::<Destination>(), Err(DestinationError), "{wrong}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_with_an_address_that_fails_is_reached_at_the_next() {
        let world = World::with_params(params(|said| said.dns = vec![HOST_V4.into()]), 1, None);
        let dialer = Dialer::new(world.stack.clone(), Bypass::Refuse);
        let destination = "two.corp.example:80".parse().unwrap();
        let stream = dialer.connect(&destination).await.unwrap();
        assert!(matches!(stream, Stream::Tunnel(flow) if flow.peer_addr().ip() == HOST_V4));
        let only = Destination { host: Host::Address(UNREACHABLE.into()), port: WEB };
        let error = dialer.connect(&only).await.unwrap_err();
        assert!(matches!(error, DialError::Connect { error: ConnectError::Unreachable, .. }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_leads_out_of_the_tunnel_or_to_this_host_is_refused() {
        let world = World::with_params(
            params(|said| {
                said.dns = vec![HOST_V4.into()];
                said.include = vec!["10.99.0.0/16".parse().unwrap(), "fd00:99::/64".parse().unwrap()];
            }),
            1,
            None,
        );
        let dialer = Dialer::new(world.stack.clone(), Bypass::Refuse);
        let refused = dialer.connect(&"out.corp.example:80".parse().unwrap()).await.unwrap_err();
        assert!(matches!(refused, DialError::Excluded { .. }));
        let direct = Dialer::new(world.stack.clone(), Bypass::Direct);
        let refused = direct.connect(&"rebound.corp.example:80".parse().unwrap()).await.unwrap_err();
        assert!(matches!(refused, DialError::Excluded { address } if address.is_loopback()));
    }
}
