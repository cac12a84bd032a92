//! Datagrams of a SOCKS5 client: UDP ASSOCIATE.
//!
//! ```text
//!   client -- | header | data | --> relay socket --> UdpFlow, one of each family --> destination
//! ```
//!
//! An association lives as long as the client's TCP connection, and takes datagrams only from the address of
//! that connection; the port that sends first is the one that gets the answers. Destinations that the routes
//! leave out are dropped, with `--bypass direct` too. What does not fit the tunnel is dropped: nothing here
//! fragments.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustc_hash::FxHashMap;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::relay::IDLE;
use super::socks;
use crate::dial::{Destination, Dialer, Host, Way};
use crate::stack::UdpFlow;

/// The longest datagram that is read from either side.
const MAX_DATAGRAM: usize = 65_535;

/// Names whose addresses are remembered; with one more, all are forgotten and asked anew.
const MAX_NAMES: usize = 64;

/// One client's datagrams.
pub(super) struct Association {
    socket: UdpSocket,
    client: IpAddr,
    dialer: Dialer,
    peer: Option<SocketAddr>,
    v4: Option<UdpFlow>,
    v6: Option<UdpFlow>,
    names: FxHashMap<String, SocketAddr>,
}

impl Association {
    /// Opens the relay socket on `local`, the address at which the client reached the proxy.
    pub(super) async fn open(local: IpAddr, client: IpAddr, dialer: Dialer) -> io::Result<Self> {
        let socket = UdpSocket::bind(SocketAddr::new(local, 0)).await?;
        Ok(Self { socket, client, dialer, peer: None, v4: None, v6: None, names: FxHashMap::default() })
    }

    /// The address of the relay socket.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Relays until `control`, the client's connection, ends.
    pub(super) async fn run(mut self, mut control: impl AsyncRead + Unpin) {
        let mut from_client = vec![0; MAX_DATAGRAM];
        let (mut buffer_v4, mut buffer_v6) = (vec![0; MAX_DATAGRAM], vec![0; MAX_DATAGRAM]);
        let mut out = Vec::new();
        let mut ignored = [0; 64];
        loop {
            let step = async {
                tokio::select! {
                    read = control.read(&mut ignored) => match read {
                        Ok(0) | Err(_) => Step::End,
                        Ok(_) => Step::Nothing,
                    },
                    received = self.socket.recv_from(&mut from_client) => match received {
                        Ok((len, peer)) => Step::Outbound(len, peer),
                        // An ICMP error about an answer that the client no longer wants.
                        Err(_) => Step::Nothing,
                    },
                    received = receive(self.v4.as_ref(), &mut buffer_v4) => {
                        received.map_or(Step::Nothing, |(len, from)| Step::Inbound(len, from))
                    }
                    received = receive(self.v6.as_ref(), &mut buffer_v6) => {
                        received.map_or(Step::Nothing, |(len, from)| Step::Inbound(len, from))
                    }
                }
            };
            match timeout(IDLE, step).await {
                Err(_) | Ok(Step::End) => return,
                Ok(Step::Nothing) => {}
                Ok(Step::Outbound(len, peer)) => {
                    if self.accepts(peer) && self.handle_outbound(&from_client[..len]).await.is_none() {
                        tracing::trace!("a datagram of a client is dropped");
                    }
                }
                Ok(Step::Inbound(len, from)) => {
                    let data = if from.is_ipv4() { &buffer_v4[..len] } else { &buffer_v6[..len] };
                    socks::put_datagram_header(&mut out, from);
                    out.extend_from_slice(data);
                    if let Some(peer) = self.peer {
                        // A datagram that the host cannot send is lost, like any.
                        let _ = self.socket.send_to(&out, peer).await;
                    }
                }
            }
        }
    }

    fn accepts(&mut self, peer: SocketAddr) -> bool {
        peer.ip() == self.client && *self.peer.get_or_insert(peer) == peer
    }

    /// `None` when the datagram is dropped.
    async fn handle_outbound(&mut self, datagram: &[u8]) -> Option<()> {
        let (destination, start) = socks::parse_datagram(datagram).ok()?;
        let address = self.address(destination).await?;
        let flow = if address.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        if flow.is_none() {
            *flow = Some(self.dialer.stack().udp(address.ip()).ok()?);
        }
        flow.as_ref()?.send_to(&datagram[start..], address).await.ok()
    }

    async fn address(&mut self, destination: Destination) -> Option<SocketAddr> {
        let port = destination.port;
        if let Host::Name(name) = &destination.host
            && let Some(known) = self.names.get(name)
        {
            return Some(SocketAddr::new(known.ip(), port));
        }
        let ways = self.dialer.addresses(&destination.host).await.ok()?;
        let (ip, _) = ways.into_iter().find(|(_, way)| *way == Way::Tunnel)?;
        let address = SocketAddr::new(ip, port);
        if let Host::Name(name) = destination.host {
            if self.names.len() >= MAX_NAMES {
                self.names.clear();
            }
            self.names.insert(name, address);
        }
        Some(address)
    }
}

enum Step {
    End,
    Nothing,
    Outbound(usize, SocketAddr),
    Inbound(usize, SocketAddr),
}

/// Waits for a datagram, for ever without a flow; `None` for an error about one.
async fn receive(flow: Option<&UdpFlow>, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    let Some(flow) = flow else { return std::future::pending().await };
    match flow.recv_from(buffer).await {
        Ok(received) => Some(received),
        Err(error) if error.kind() == io::ErrorKind::NetworkDown => std::future::pending().await,
        Err(_) => None,
    }
}
