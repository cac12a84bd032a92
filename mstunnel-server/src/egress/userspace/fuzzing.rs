//! One TCP flow without a socket of the host: the way in for fuzzers.

use std::net::SocketAddr;
use std::time::Instant;

use mstunnel_proto::packet::Tcp;

use super::buffers::Sizes;
use super::machine::{Machine, Next};
use super::port::Exit;

/// A flow of a client, whose host is whoever calls this.
pub struct FuzzFlow(Machine);

/// What one pump of a flow came to.
pub struct Pumped {
    /// The packets for the client.
    pub packets: Vec<Vec<u8>>,
    /// Whether there are more than were asked for.
    pub is_more: bool,
    /// Whether the flow is over.
    pub is_gone: bool,
    /// When it wants to be pumped again.
    pub at: Option<Instant>,
}

impl FuzzFlow {
    /// Accepts the flow of `syn` in the name of `here`, with buffers of `buffer` bytes.
    pub fn accept(syn: &[u8], here: SocketAddr, mtu: usize, buffer: usize, now: Instant) -> Self {
        Self(Machine::accept(syn, here, mtu, Sizes { from_client: buffer, to_client: buffer }, 1, now))
    }

    /// Takes in a packet of the client.
    pub fn handle_packet(&mut self, packet: &[u8], segment: &Tcp<'_>, now: Instant) {
        self.0.handle_packet(packet, segment, now);
    }

    /// Takes up to `limit` bytes that the client has sent.
    pub fn receive(&mut self, limit: usize) -> Vec<u8> {
        let take = |bytes: &mut [u8]| {
            let len = bytes.len().min(limit);
            (len, bytes[..len].to_vec())
        };
        self.0.receive(take).unwrap_or_default()
    }

    /// Whether the client has ended its stream and all of it was taken.
    pub fn is_drained(&self) -> bool {
        self.0.is_drained()
    }

    /// Lends room for bytes to the client to `put`, which says how many it put there; returns that.
    pub fn send(&mut self, put: impl FnOnce(&mut [u8]) -> usize) -> usize {
        let put = |room: &mut [u8]| {
            let len = put(room);
            (len, len)
        };
        self.0.send(put).unwrap_or_default()
    }

    /// Says that no more bytes will come.
    pub fn finish(&mut self) {
        self.0.finish();
    }

    /// Ends the flow with a reset to the client.
    pub fn abort(&mut self) {
        self.0.abort();
    }

    /// Sends what can be sent in up to `room` packets.
    pub fn pump(&mut self, room: usize, now: Instant) -> Pumped {
        let mut taken = Taken { packets: Vec::new(), room };
        let next = self.0.pump(&mut taken, now);
        Pumped {
            packets: taken.packets,
            is_more: matches!(next, Next::Blocked | Next::More),
            is_gone: next == Next::Gone,
            at: if let Next::At(at) = next { Some(at) } else { None },
        }
    }
}

struct Taken {
    packets: Vec<Vec<u8>>,
    room: usize,
}

impl Exit for Taken {
    fn has_room(&mut self) -> bool {
        self.packets.len() < self.room
    }

    fn send<R>(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut packet = vec![0; len];
        let result = write(&mut packet);
        self.packets.push(packet);
        result
    }
}
