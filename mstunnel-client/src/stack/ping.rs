//! Echo requests through the tunnel.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use mstunnel_proto::packet::Family;

use super::mailbox::{Mail, Mailbox};
use super::table::Port;
use super::{ConnectError, Stack, wire};

/// Sends echo requests to one address under an identifier of its own, and receives the answers.
#[derive(Debug)]
pub struct Ping {
    stack: Stack,
    mailbox: Arc<Mailbox>,
    id: u16,
    destination: IpAddr,
}

/// The answer to an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EchoReply {
    /// The number of the request.
    pub sequence: u16,
    /// The payload in bytes.
    pub len: usize,
    /// What was left of the hop limit.
    pub hops: u8,
}

impl Ping {
    pub(super) fn open(stack: Stack, destination: IpAddr) -> Result<Self, ConnectError> {
        let family = Family::of(destination);
        let (mailbox, id) = stack.shared().open_mailbox(family, |id| Port::Echo(family, id))?;
        mailbox.add_contact(destination);
        Ok(Self { stack, mailbox, id, destination })
    }

    /// The longest payload that fits the tunnel, in bytes.
    pub fn max_payload(&self) -> usize {
        self.stack.shared().mtu() - wire::ip_header_len(self.destination) - wire::HEADER
    }

    /// Sends request number `sequence` with `payload_len` bytes.
    ///
    /// # Errors
    /// `InvalidInput` for a payload that is too long, `NetworkDown` when the tunnel has ended.
    pub async fn send(&self, sequence: u16, payload_len: usize) -> io::Result<()> {
        if payload_len > self.max_payload() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let from = self.mailbox.local;
        let shared = self.stack.shared();
        shared
            .send(|room| wire::echo_request(room, from, self.destination, (self.id, sequence), payload_len))
            .await
    }

    /// Waits for the next answer.
    ///
    /// # Errors
    /// `HostUnreachable` when the network says so, `NetworkDown` when the tunnel has ended.
    pub async fn recv(&self) -> io::Result<EchoReply> {
        match self.mailbox.take().await {
            Mail::Packet { packet, payload, hops, .. } => {
                let message = &packet.as_slice()[payload];
                let sequence = u16::from_be_bytes([message[6], message[7]]);
                let len = message.len() - wire::HEADER;
                self.stack.shared().recycle(packet);
                Ok(EchoReply { sequence, len, hops })
            }
            Mail::Unreachable { .. } => Err(io::ErrorKind::HostUnreachable.into()),
            Mail::Ended => Err(io::ErrorKind::NetworkDown.into()),
        }
    }
}

impl Drop for Ping {
    fn drop(&mut self) {
        self.stack.shared().close_mailbox(Port::Echo(Family::of(self.destination), self.id));
    }
}
