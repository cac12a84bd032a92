//! The network device that smoltcp sees: one packet in, and the tunnel's queue out.

use mstunnel_proto::buf::PacketBuf;
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::packets::{PacketSender, Slot};

/// The device of one flow.
#[derive(Debug)]
pub(super) struct Link {
    sender: PacketSender,
    mtu: usize,
    received: Option<PacketBuf>,
    blocked: bool,
}

impl Link {
    pub(super) fn new(sender: PacketSender, mtu: usize) -> Self {
        Self { sender, mtu, received: None, blocked: false }
    }

    /// The longest packet, in bytes.
    pub(super) fn mtu(&self) -> usize {
        self.mtu
    }

    /// Changes the longest packet; the interface on this device must be made anew.
    pub(super) fn set_mtu(&mut self, mtu: usize) {
        self.mtu = mtu;
    }

    /// Puts the packet that is received next.
    pub(super) fn put(&mut self, packet: PacketBuf) {
        self.received = Some(packet);
    }

    /// Whether a packet could not be sent since the last call because the queue was full.
    pub(super) fn take_blocked(&mut self) -> bool {
        std::mem::take(&mut self.blocked)
    }
}

impl Device for Link {
    type RxToken<'a> = Received<'a>;
    type TxToken<'a> = Outgoing<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received<'_>, Outgoing<'_>)> {
        let packet = self.received.take()?;
        let sender = &self.sender;
        // An answer that finds no room is lost like any other packet of a full queue.
        Some((Received { packet, sender }, Outgoing { slot: None, sender }))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Outgoing<'_>> {
        let slot = self.sender.try_reserve();
        self.blocked = slot.is_none();
        slot.map(|slot| Outgoing { slot: Some(slot), sender: &self.sender })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// The packet that was put in; its buffer goes back to the pool.
#[derive(Debug)]
pub(super) struct Received<'a> {
    packet: PacketBuf,
    sender: &'a PacketSender,
}

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let result = read(self.packet.as_slice());
        self.sender.recycle(self.packet);
        result
    }
}

/// The right to send one packet.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    slot: Option<Slot<'a>>,
    sender: &'a PacketSender,
}

impl TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut packet = self.sender.buffer();
        // `mtu` never exceeds the room of a buffer, so this is the whole packet.
        let result = write(&mut packet.room()[..len]);
        packet.set_len(len);
        match self.slot.or_else(|| self.sender.try_reserve()) {
            Some(slot) => slot.send(packet),
            None => self.sender.recycle(packet),
        }
        result
    }
}
