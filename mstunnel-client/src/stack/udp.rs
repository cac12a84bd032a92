//! A UDP port inside the tunnel.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mstunnel_proto::packet::Family;

use super::mailbox::{Mail, Mailbox};
use super::table::Port;
use super::{ConnectError, Stack, wire};

/// A UDP port inside the tunnel, for any number of other ends of its family.
///
/// It receives only from addresses that it has sent to.
#[derive(Debug)]
pub struct UdpFlow {
    stack: Stack,
    mailbox: Arc<Mailbox>,
    local: SocketAddr,
}

impl UdpFlow {
    pub(super) fn open(stack: Stack, family: Family) -> Result<Self, ConnectError> {
        let port = |number| Port::Udp(family, number);
        let (mailbox, number) = stack.shared().open_mailbox(family, port)?;
        let local = SocketAddr::new(mailbox.local, number);
        Ok(Self { stack, mailbox, local })
    }

    /// The address and port of this end, inside the tunnel.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The longest payload to `destination` that fits the tunnel, in bytes.
    pub fn max_payload(&self, destination: IpAddr) -> usize {
        self.stack.shared().mtu() - wire::ip_header_len(destination) - wire::HEADER
    }

    /// Sends a datagram, waiting for room in the tunnel's queue.
    ///
    /// # Errors
    /// `InvalidInput` for a destination of the other family or a payload that is too long, `NetworkDown` when
    /// the tunnel has ended.
    pub async fn send_to(&self, payload: &[u8], destination: SocketAddr) -> io::Result<()> {
        if payload.len() > self.max_payload(destination.ip()) || destination.is_ipv4() != self.local.is_ipv4()
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.mailbox.add_contact(destination.ip());
        let shared = self.stack.shared();
        shared.send(|room| wire::udp(room, self.local, destination, payload)).await
    }

    /// Waits for a datagram; what does not fit `buffer` is cut.
    ///
    /// # Errors
    /// `ConnectionRefused` when one that was sent did not arrive; `NetworkDown` when the tunnel has ended or
    /// has got another address.
    pub async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        match self.mailbox.take().await {
            Mail::Packet { packet, payload, from, .. } => {
                let payload = &packet.as_slice()[payload];
                let len = payload.len().min(buffer.len());
                buffer[..len].copy_from_slice(&payload[..len]);
                self.stack.shared().recycle(packet);
                Ok((len, from))
            }
            Mail::Unreachable { destination } => Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                format!("{destination} is not reachable"),
            )),
            Mail::Ended => Err(io::ErrorKind::NetworkDown.into()),
        }
    }
}

impl Drop for UdpFlow {
    fn drop(&mut self) {
        let family = Family::of(self.local.ip());
        self.stack.shared().close_mailbox(Port::Udp(family, self.local.port()));
    }
}
