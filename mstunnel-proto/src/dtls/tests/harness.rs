//! A server and a client with a network between them that the test decides about.

use std::net::SocketAddr;
use std::time::Duration;
use std::time::Instant;

use super::super::{
    ClientChannel, ClientChannelEvent, CookieKeys, Greeting, Keying, Opened, Path, ServerChannel,
    ServerChannelEvent, Suite, is_client_hello, records,
};
use crate::buf::PacketBuf;
use crate::drop::DropReason;
use crate::testing::origin;

pub(super) const APP_ID: [u8; 32] = [0xa1; 32];
pub(super) const PSK: [u8; 32] = [0x42; 32];

pub(super) fn path(port: u16) -> Path {
    Path { remote: SocketAddr::from(([198, 51, 100, 7], port)), local: None, socket: 0 }
}

/// A server with one session.
pub(super) struct Server {
    pub(super) keys: CookieKeys,
    pub(super) channel: ServerChannel,
    pub(super) packets: Vec<Vec<u8>>,
    pub(super) drops: Vec<DropReason>,
    pub(super) events: Vec<ServerChannelEvent>,
    entropy: u8,
}

impl Server {
    pub(super) fn new(keying: Keying) -> Self {
        Self {
            keys: CookieKeys::new([9; 32]),
            channel: ServerChannel::new(keying),
            packets: Vec::new(),
            drops: Vec::new(),
            events: Vec::new(),
            entropy: 0x50,
        }
    }

    /// Takes in a datagram and returns what is sent for it.
    pub(super) fn handle(&mut self, from: Path, datagram: &[u8], now: Instant) -> Vec<(Path, Vec<u8>)> {
        let mut out = PacketBuf::new(1500);
        if is_client_hello(datagram) {
            match self.keys.greet(from.remote, datagram, &mut out) {
                Greeting::Answer => return vec![(from, out.as_slice().to_vec())],
                Greeting::Dropped(reason) => self.drops.push(reason),
                Greeting::Verified(hello) if hello.app_id() != Some(&APP_ID) => {
                    self.drops.push(DropReason::UnknownAppId);
                }
                Greeting::Verified(hello) => {
                    self.entropy += 1;
                    let answer = self.channel.handle_hello(from, &hello, [self.entropy; 32], now);
                    self.drops.extend(answer.err());
                }
            }
        } else {
            let mut datagram = datagram.to_vec();
            for record in records(&mut datagram) {
                match self.channel.handle_record(from, record, now) {
                    Opened::Application(bytes) => self.packets.push(bytes.to_vec()),
                    Opened::Handled => {}
                    Opened::Dropped(reason) => self.drops.push(reason),
                }
            }
        }
        self.drain()
    }

    pub(super) fn drain(&mut self) -> Vec<(Path, Vec<u8>)> {
        let mut out = PacketBuf::new(1500);
        let mut sent = Vec::new();
        while let Some(to) = self.channel.poll_transmit(&mut out) {
            sent.push((to, out.as_slice().to_vec()));
        }
        while let Some(event) = self.channel.poll_event() {
            self.events.push(event);
        }
        sent
    }

    pub(super) fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        let mut out = vec![0; plaintext.len() + 37];
        let len = self.channel.seal_into(plaintext, &mut out).unwrap();
        out.truncate(len);
        out
    }
}

/// A client of it.
pub(super) struct Client {
    pub(super) channel: ClientChannel,
    pub(super) packets: Vec<Vec<u8>>,
    pub(super) drops: Vec<DropReason>,
    pub(super) events: Vec<ClientChannelEvent>,
}

impl Client {
    pub(super) fn new(keying: Keying, suites: &[Suite], entropy: u8, now: Instant) -> Self {
        Self {
            channel: ClientChannel::start(keying, &APP_ID, suites, [entropy; 32], now),
            packets: Vec::new(),
            drops: Vec::new(),
            events: Vec::new(),
        }
    }

    pub(super) fn handle(&mut self, datagram: &[u8], now: Instant) -> Vec<Vec<u8>> {
        let mut datagram = datagram.to_vec();
        for record in records(&mut datagram) {
            match self.channel.handle_record(record, now) {
                Opened::Application(bytes) => self.packets.push(bytes.to_vec()),
                Opened::Handled => {}
                Opened::Dropped(reason) => self.drops.push(reason),
            }
        }
        self.drain()
    }

    pub(super) fn drain(&mut self) -> Vec<Vec<u8>> {
        let mut out = PacketBuf::new(1500);
        let mut sent = Vec::new();
        while self.channel.poll_transmit(&mut out) {
            sent.push(out.as_slice().to_vec());
        }
        while let Some(event) = self.channel.poll_event() {
            self.events.push(event);
        }
        sent
    }

    pub(super) fn seal(&self, plaintext: &[u8]) -> Vec<u8> {
        let mut out = vec![0; plaintext.len() + 37];
        let len = self.channel.seal_into(plaintext, &mut out).unwrap();
        out.truncate(len);
        out
    }
}

/// Both of them, and every datagram that went between them.
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) server: Server,
    pub(super) client: Client,
    /// The client's port, as the server sees it.
    pub(super) port: u16,
    pub(super) to_server: Vec<Vec<u8>>,
    pub(super) to_client: Vec<Vec<u8>>,
}

impl World {
    pub(super) fn new(server: Keying, client: Keying, suites: &[Suite]) -> Self {
        let now = origin();
        Self {
            now,
            server: Server::new(server),
            client: Client::new(client, suites, 0xc1, now),
            port: 5000,
            to_server: Vec::new(),
            to_client: Vec::new(),
        }
    }

    pub(super) fn psk() -> Self {
        Self::new(Keying::psk(PSK), Keying::psk(PSK), &[])
    }

    /// Open on both sides.
    pub(super) fn open() -> Self {
        let mut world = Self::psk();
        world.settle();
        assert!(world.is_open());
        world
    }

    pub(super) fn is_open(&self) -> bool {
        self.server.channel.is_open() && self.client.channel.is_open()
    }

    /// Carries datagrams over a perfect network until there are none.
    pub(super) fn settle(&mut self) {
        let (mut up, mut down) = (self.client.drain(), self.server.drain());
        while !up.is_empty() || !down.is_empty() {
            for datagram in std::mem::take(&mut up) {
                down.extend(self.server.handle(path(self.port), &datagram, self.now));
                self.to_server.push(datagram);
            }
            for (to, datagram) in std::mem::take(&mut down) {
                if to == path(self.port) {
                    up.extend(self.client.handle(&datagram, self.now));
                }
                self.to_client.push(datagram);
            }
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        self.client.channel.handle_timeout(self.now);
        self.server.channel.handle_timeout(self.now);
    }

    /// One packet each way arrives.
    pub(super) fn assert_alive(&mut self) {
        let (up, down) = (self.client.seal(b"\x00up"), self.server.seal(b"\x00down"));
        let before = (self.server.packets.len(), self.client.packets.len());
        let answers = self.server.handle(path(self.port), &up, self.now);
        assert!(answers.is_empty(), "a packet is no question");
        self.client.handle(&down, self.now);
        assert_eq!(self.server.packets[before.0..], [b"\x00up"]);
        assert_eq!(self.client.packets[before.1..], [b"\x00down"]);
    }
}
