//! The network device that smoltcp sees: one packet in, and wherever packets go out.

use std::collections::VecDeque;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant as SmolInstant;

/// Answers to single packets that wait for the next pump; each beyond takes the place of the last.
const MAX_REPLIES: usize = 8;

/// Where packets to the client go.
pub(super) trait Exit {
    /// Whether a packet is taken now.
    fn has_room(&mut self) -> bool;

    /// Takes the packet of `len` bytes that `write` writes.
    fn send<R>(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> R) -> R;
}

/// The device, for the time of one call.
pub(super) struct Port<'a, E> {
    pub(super) mtu: usize,
    pub(super) received: Option<&'a [u8]>,
    pub(super) out: Out<'a, E>,
    /// A packet could not be sent for want of room.
    pub(super) blocked: bool,
}

/// Where packets go.
pub(super) enum Out<'a, E> {
    /// Answers to what is being received.
    Replies(&'a mut VecDeque<Vec<u8>>),
    /// What is sent now.
    Exit(&'a mut E),
    /// Nowhere.
    Nothing,
}

impl Port<'_, Nowhere> {
    pub(super) fn idle(mtu: usize) -> Self {
        Self { mtu, received: None, out: Out::Nothing, blocked: false }
    }
}

/// The exit of a machine that only receives.
pub(super) enum Nowhere {}

impl Exit for Nowhere {
    fn has_room(&mut self) -> bool {
        match *self {}
    }

    fn send<R>(&mut self, _len: usize, _write: impl FnOnce(&mut [u8]) -> R) -> R {
        match *self {}
    }
}

impl<E: Exit> Device for Port<'_, E> {
    type RxToken<'b>
        = Received<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Outgoing<'b, E>
    where
        Self: 'b;

    fn receive(&mut self, _now: SmolInstant) -> Option<(Received<'_>, Outgoing<'_, E>)> {
        let packet = self.received.take()?;
        Some((Received(packet), Outgoing(self.out.reborrow())))
    }

    fn transmit(&mut self, _now: SmolInstant) -> Option<Outgoing<'_, E>> {
        if let Out::Exit(exit) = &mut self.out
            && !exit.has_room()
        {
            self.blocked = true;
            return None;
        }
        Some(Outgoing(self.out.reborrow()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

impl<E> Out<'_, E> {
    fn reborrow(&mut self) -> Out<'_, E> {
        match self {
            Self::Replies(replies) => Out::Replies(replies),
            Self::Exit(exit) => Out::Exit(exit),
            Self::Nothing => Out::Nothing,
        }
    }
}

pub(super) struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(self.0)
    }
}

pub(super) struct Outgoing<'a, E>(Out<'a, E>);

impl<E: Exit> TxToken for Outgoing<'_, E> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        match self.0 {
            Out::Exit(exit) => exit.send(len, write),
            Out::Replies(replies) => {
                let mut packet = vec![0; len];
                let result = write(&mut packet);
                // A later acknowledgement says what the one before it said.
                if replies.len() == MAX_REPLIES {
                    replies.pop_back();
                }
                replies.push_back(packet);
                result
            }
            Out::Nothing => write(&mut vec![0; len]),
        }
    }
}
