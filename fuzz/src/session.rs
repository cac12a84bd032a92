//! The two ends of an open session, and frames of peers that send what they like.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mstunnel_proto::buf::{MAX_PACKET, PacketBuf};
use mstunnel_proto::drop::DropCounters;
use mstunnel_proto::frame::FrameKind;
use mstunnel_proto::packet::Packet;
use mstunnel_proto::session::{
    Access, Channel, ClientConfig, ClientSession, Inbound, Leases, MAX_OWED_RESPONSES, Session,
    SessionConfig, SessionId, SessionParams,
};

const LEASES: Leases =
    Leases { v4: Some(Ipv4Addr::new(10, 9, 0, 2)), v6: Some(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2)) };

/// Control frames that wait at most: owed answers, a question on each channel, a keepalive or the last word.
const MAX_WAITING: usize = MAX_OWED_RESPONSES + 3;

/// Frames to a server's session and to a client's, each with two bytes before it: the channel and how much later
/// it comes, and the length. A packet that passes is the peer's own, every drop is in one counter, what waits to be
/// sent is bounded, and a deadline lies ahead.
pub fn session_frames(mut data: &[u8]) {
    let mut now = Instant::now();
    let mut ends = Ends::open(now);
    while let Some((&[how, len], rest)) = data.split_first_chunk::<2>() {
        let (frame, rest) = rest.split_at(rest.len().min(len.into()));
        data = rest;
        match how >> 5 {
            0 => ends.server.handle_datagram_open(),
            1 => ends.client.handle_datagram_open(),
            2 => ends.server.handle_datagram_closed(),
            3 => ends.client.handle_datagram_closed(),
            _ => {}
        }
        now += Duration::from_secs(u64::from(how >> 1 & 15));
        ends.handle_timeout(now);
        let channel = if how & 1 == 0 { Channel::Stream } else { Channel::Datagram };
        if let Some((&kind, payload)) = frame.split_first() {
            ends.take_in(channel, FrameKind::from_byte(kind), payload, now);
        }
        if how & 0x80 == 0 {
            ends.drain();
        }
    }
    ends.drain();
}

struct Ends {
    server: Session,
    client: ClientSession,
    access: Access,
    /// What was said of drops, by the server and by the client.
    dropped: [u64; 2],
    closed: usize,
    over: usize,
}

impl Ends {
    fn open(now: Instant) -> Self {
        let pools = ["10.9.0.0/24", "fd00:9::/64"].map(|text| text.parse().expect("a prefix"));
        let open = ["10.9.0.1/32".parse().expect("a prefix")];
        let access = Access::new(&pools, &open, None);
        let config = SessionConfig {
            dpd: Some(Duration::from_secs(30)),
            idle_timeout: Some(Duration::from_secs(600)),
            access: access.clone(),
        };
        let params = SessionParams {
            id: SessionId::new(1),
            leases: LEASES,
            mtu: 1_300,
            ends_at: Some(now + Duration::from_secs(1_000)),
        };
        let client = ClientConfig {
            dpd: Some(Duration::from_secs(30)),
            keepalive: Some(Duration::from_secs(20)),
            rekey: Some(Duration::from_secs(900)),
            mtu: 1_300,
            leases: LEASES,
        };
        Self {
            server: Session::new(Arc::new(config), params, now),
            client: ClientSession::new(client, now),
            access,
            dropped: [0; 2],
            closed: 0,
            over: 0,
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.server.handle_timeout(now);
        self.client.handle_timeout(now);
        assert!(self.server.poll_timeout().is_none_or(|deadline| deadline.at > now), "the server is late");
        assert!(self.client.poll_timeout().is_none_or(|deadline| deadline.at > now), "the client is late");
    }

    fn take_in(&mut self, channel: Channel, kind: FrameKind, payload: &[u8], now: Instant) {
        let mut bytes = payload.to_vec();
        match self.server.decapsulate(channel, kind, &mut bytes, now) {
            Inbound::Packet(packet) => {
                let (source, destination) = addresses(packet);
                assert!(LEASES.holds(source) && self.access.permits(destination), "a foreign packet passed");
            }
            Inbound::Handled => {}
            Inbound::Dropped(_) => self.dropped[0] += 1,
        }
        let mut bytes = payload.to_vec();
        match self.client.decapsulate(channel, kind, &mut bytes, now) {
            Inbound::Packet(packet) => {
                let (_, destination) = addresses(packet);
                assert!(LEASES.holds(destination) || destination.is_multicast(), "a packet for another");
            }
            Inbound::Handled => {}
            Inbound::Dropped(_) => self.dropped[1] += 1,
        }
        assert_eq!(self.dropped[0], total(&self.server.counters().drops), "the server miscounts");
        assert_eq!(self.dropped[1], total(&self.client.counters().drops), "the client miscounts");
    }

    fn drain(&mut self) {
        let mut out = PacketBuf::new(MAX_PACKET);
        let mut waiting = 0;
        while self.server.poll_transmit(&mut out).is_some() {
            waiting += 1;
        }
        assert!(waiting <= MAX_WAITING, "the server had {waiting} frames to send");
        waiting = 0;
        while self.client.poll_transmit(&mut out).is_some() {
            waiting += 1;
        }
        assert!(waiting <= MAX_WAITING, "the client had {waiting} frames to send");
        self.closed += usize::from(self.server.poll_event().is_some());
        self.over += usize::from(self.client.poll_event().is_some());
        assert!(self.closed <= 1 && self.over <= 1, "a session ended twice");
    }
}

fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    let view = Packet::parse(packet).expect("what passes is a packet");
    (view.source(), view.destination())
}

fn total(drops: &DropCounters) -> u64 {
    drops.iter().map(|(_, count)| count).sum()
}
