//! One live tunnel of a server: a session, its datagram channel, and what they send.

use std::net::SocketAddr;
use std::time::Instant;

use mstunnel_proto::auth::CookieHash;
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::drop::DropReason;
use mstunnel_proto::dtls::{ServerChannel, ServerChannelEvent};
use mstunnel_proto::frame::FrameKind;
use mstunnel_proto::mtu::Mtu;
use mstunnel_proto::session::{Channel, Inbound, Session};

use super::audit::Audit;
use super::link::OUTER_HEADERS;
use super::server::Act;
use super::stream::ConnId;

/// One live tunnel.
pub(super) struct Tunnel {
    pub(super) session: Session,
    pub(super) audit: Audit,
    pub(super) cookie: CookieHash,
    pub(super) generation: u32,
    pub(super) link: Mtu,
    pub(super) leg: Option<Leg>,
    pub(super) inbox: Vec<u8>,
}

pub(super) struct Leg {
    pub(super) channel: ServerChannel,
    pub(super) app_id: [u8; 32],
    pub(super) settled: Option<SocketAddr>,
    pub(super) begun: Option<SocketAddr>,
}

impl Tunnel {
    /// Takes in one frame.
    pub(super) fn take(
        &mut self,
        channel: Channel,
        kind: FrameKind,
        payload: &mut [u8],
        now: Instant,
        acts: &mut Vec<Act>,
    ) {
        let leases = *self.session.leases();
        if let Inbound::Packet(packet) = self.audit.inbound(&mut self.session, channel, kind, payload, now) {
            acts.push(Act::Packet { packet: packet.to_vec(), leases });
        }
    }

    pub(super) fn put(&mut self, conn: ConnId, channel: Channel, unit: &[u8], acts: &mut Vec<Act>) {
        match (channel, &self.leg) {
            (Channel::Stream, _) => acts.push(Act::Record { conn, bytes: unit.to_vec() }),
            (Channel::Datagram, Some(leg)) if leg.channel.is_open() => {
                let mut bytes = vec![0; unit.len() + 37];
                match (leg.channel.path(), leg.channel.seal_into(unit, &mut bytes)) {
                    (Some(path), Ok(len)) => {
                        bytes.truncate(len);
                        if len + OUTER_HEADERS > usize::from(self.link.get()) {
                            acts.push(Act::Broken(format!(
                                "{len} bytes in a datagram, link {}",
                                self.link.get()
                            )));
                        }
                        acts.push(Act::Datagram { path, bytes });
                    }
                    _ => self.session.count_drop(DropReason::ChannelClosed),
                }
            }
            (Channel::Datagram, _) => self.session.count_drop(DropReason::ChannelClosed),
        }
    }

    pub(super) fn drain_leg(&mut self, out: &mut PacketBuf, acts: &mut Vec<Act>) {
        let Some(leg) = &mut self.leg else { return };
        while let Some(path) = leg.channel.poll_transmit(out) {
            acts.push(Act::Datagram { path, bytes: out.as_slice().to_vec() });
        }
        while let Some(event) = leg.channel.poll_event() {
            match event {
                ServerChannelEvent::Opened { .. } => self.session.handle_datagram_open(),
                ServerChannelEvent::Closed { .. } => self.session.handle_datagram_closed(),
                ServerChannelEvent::Moved { .. } | ServerChannelEvent::Rekeyed { .. } => {}
            }
        }
    }
}
