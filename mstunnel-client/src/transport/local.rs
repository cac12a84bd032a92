//! How connections and datagrams leave this host.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream};

/// This host's end of connections and datagram channels.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LocalEnd {
    /// The mark of the sockets (SO_MARK), so that routing can tell them apart.
    pub(crate) mark: Option<u32>,
    /// The address that they come from; the kernel's choice without one.
    pub(crate) source: Option<IpAddr>,
}

impl LocalEnd {
    /// Connects by TCP.
    pub(super) async fn connect(self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        if let Some(mark) = self.mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        if let Some(source) = self.source {
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.connect(address).await
    }

    /// A socket for datagrams to `address`, from a new port, without waiting.
    pub(super) fn datagrams(self, address: SocketAddr) -> io::Result<std::net::UdpSocket> {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = std::net::UdpSocket::bind((self.source.unwrap_or(any), 0))?;
        if let Some(mark) = self.mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        socket.set_nonblocking(true)?;
        socket.connect(address)?;
        Ok(socket)
    }
}
