//! Both channels of one live connection and the session over them, without anybody who uses it.
//!
//! ```text
//!   TCP -> records -> frames -> session -> packets
//!   UDP -> datagrams ---------> session -> packets
//! ```
//!
//! What a turn needs only while it runs is lent to it as [`Scratch`], so that an idle connection keeps no buffers: one
//! scratch serves one tunnel, or thousands of sessions of a thread.

use std::io;
use std::time::{Duration, Instant};

use mstunnel_proto::buf::{MAX_PACKET, PacketBuf};
use mstunnel_proto::frame::{Frames, MAX_FRAME, Remainder};
use mstunnel_proto::session::{
    Channel, ClientEvent, ClientSession, ClientTimer, DatagramChange, Inbound, SessionCounters,
};
use rustls::ClientConnection;
use tokio::net::TcpStream;

use super::datagrams::{DatagramBuffers, Datagrams};
use super::records::{Received, Records};

/// Bytes of the read buffer: what is left of a frame, and a few full TLS records behind it.
const READ_BUFFER: usize = MAX_FRAME + 4 * 16_384;

/// How long a BYE may take on its way out.
const FAREWELL: Duration = Duration::from_secs(3);

/// How a link ended.
#[derive(Debug)]
pub(crate) enum LinkEnd {
    /// We left, and said so.
    Left,
    /// The server ended the session.
    Ended,
    /// The connection is gone; the cookie is good.
    Lost(String),
    /// New keys are due, which come with a new connection and the same cookie.
    KeysDue,
    /// The server breaks the protocol.
    Fault(String),
}

/// Buffers of one turn.
pub(crate) struct Scratch {
    pub(super) read: Box<[u8]>,
    /// Room for one packet, free between turns.
    pub(crate) control: PacketBuf,
    pub(crate) datagrams: DatagramBuffers,
}

impl Default for Scratch {
    fn default() -> Self {
        Self {
            read: vec![0; READ_BUFFER].into_boxed_slice(),
            control: PacketBuf::new(MAX_PACKET),
            datagrams: DatagramBuffers::default(),
        }
    }
}

/// The channels of one live connection.
pub(crate) struct Channels {
    session: ClientSession,
    records: Records,
    datagrams: Option<Box<Datagrams>>,
    remainder: Remainder,
    blocked: bool,
    keys_due: bool,
    unsent: u64,
}

impl Channels {
    /// Joins the parts; `rest` is what came behind the answer to CONNECT.
    pub(super) fn new(
        session: ClientSession,
        tcp: TcpStream,
        tls: ClientConnection,
        datagrams: Option<Datagrams>,
        rest: &[u8],
    ) -> Self {
        let mut remainder = Remainder::default();
        remainder.keep(rest);
        Self {
            session,
            records: Records::new(tcp, tls),
            datagrams: datagrams.map(Box::new),
            remainder,
            blocked: false,
            keys_due: false,
            unsent: 0,
        }
    }

    /// Acts on the time.
    pub(crate) fn handle_timeout(&mut self, scratch: &mut Scratch, now: Instant) {
        let next = self.session.poll_timeout();
        self.keys_due |= next.is_some_and(|next| next.timer == ClientTimer::Rekey && next.at <= now);
        self.session.handle_timeout(now);
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.handle_timeout(scratch, now);
        }
    }

    /// The next moment for [`Channels::handle_timeout`].
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let session = self.session.poll_timeout().map(|deadline| deadline.at);
        let datagrams = self.datagrams.as_ref().and_then(|datagrams| datagrams.deadline());
        session.into_iter().chain(datagrams).min()
    }

    /// Takes in one read of the stream, each packet to `each`; returns whether there may be more.
    pub(crate) fn read_stream(
        &mut self,
        scratch: &mut Scratch,
        now: Instant,
        mut each: impl FnMut(&mut [u8]),
    ) -> io::Result<bool> {
        let kept = self.remainder.take_into(&mut scratch.read);
        // What is kept may be whole frames, from behind the answer to CONNECT: they count before an end does.
        let received = self.records.read(&mut scratch.read[kept..]);
        let len = if let Ok(Received::Bytes(len)) = received { len } else { 0 };
        let mut frames = Frames::new(&mut scratch.read[..kept + len]);
        loop {
            match frames.take_next() {
                Ok(Some(frame)) => {
                    let taken = self.session.decapsulate(Channel::Stream, frame.kind, frame.payload, now);
                    if let Inbound::Packet(bytes) = taken {
                        each(bytes);
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "the server breaks the framing");
                    self.session.handle_frame_error();
                    return Ok(false);
                }
            }
        }
        self.remainder.keep(frames.rest());
        match received? {
            Received::Bytes(_) => Ok(true),
            Received::Nothing => Ok(false),
            Received::End => {
                self.session.handle_stream_closed();
                Ok(false)
            }
        }
    }

    /// Takes in some datagrams, each packet to `each`; returns whether there may be more.
    pub(crate) fn read_datagrams(
        &mut self,
        scratch: &mut Scratch,
        now: Instant,
        mut each: impl FnMut(&mut [u8]),
    ) -> bool {
        let Some(datagrams) = &mut self.datagrams else { return false };
        let session = &mut self.session;
        datagrams.receive(scratch, now, |kind, payload| {
            if let Inbound::Packet(bytes) = session.decapsulate(Channel::Datagram, kind, payload, now) {
                each(bytes);
            }
        })
    }

    /// Sends what the session itself has to say, as far as the socket takes it.
    pub(crate) fn transmit_control(&mut self, scratch: &mut Scratch, now: Instant) -> io::Result<()> {
        let Scratch { control, datagrams, .. } = scratch;
        // A server that asks without reading makes nothing grow: answers wait in the session, bounded.
        while self.blocked && self.session.poll_datagram(control) {
            self.send_datagram(control, datagrams, now);
        }
        while !self.blocked
            && let Some(channel) = self.session.poll_transmit(control)
        {
            match channel {
                Channel::Stream => self.records.write_frame(control.as_slice())?,
                Channel::Datagram => self.send_datagram(control, datagrams, now),
            }
        }
        self.flush(datagrams)
    }

    /// Hands what is sealed to the sockets.
    pub(crate) fn flush(&mut self, buffers: &mut DatagramBuffers) -> io::Result<()> {
        if let Some(datagrams) = &self.datagrams {
            datagrams.flush(buffers);
        }
        self.blocked = !self.records.flush()?;
        Ok(())
    }

    /// Whether the socket took less than there was.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether a packet of the user would go out now.
    pub(crate) fn takes_packets(&self) -> bool {
        !self.blocked || self.session.channel() == Channel::Datagram
    }

    /// Seals a packet of the user, which leaves with the next flush.
    pub(crate) fn seal(&mut self, packet: &mut PacketBuf, buffers: &mut DatagramBuffers, now: Instant) {
        match self.session.encapsulate(packet, now) {
            // An error of the writer is one of the connection; the next flush or read tells it.
            Ok(Channel::Stream) => drop(self.records.write_frame(packet.as_slice())),
            Ok(Channel::Datagram) => self.send_datagram(packet, buffers, now),
            Err(_) => {}
        }
    }

    fn send_datagram(&mut self, unit: &mut PacketBuf, buffers: &mut DatagramBuffers, now: Instant) {
        if !self.datagrams.as_mut().is_some_and(|datagrams| datagrams.send(unit, buffers, now)) {
            self.unsent += 1;
        }
    }

    /// Takes what became of the datagram channel; the session knows it from then on.
    pub(crate) fn take_change(&mut self) -> Option<DatagramChange> {
        let change = self.datagrams.as_mut()?.take_change()?;
        match change {
            DatagramChange::Opened(mtu) => {
                self.session.limit_mtu(mtu);
                self.session.handle_datagram_open();
            }
            DatagramChange::Closed => self.session.handle_datagram_closed(),
        }
        Some(change)
    }

    /// The connection broke.
    pub(crate) fn handle_stream_closed(&mut self) {
        self.session.handle_stream_closed();
    }

    /// The user leaves: the BYE goes out with the next control.
    pub(crate) fn leave(&mut self, why: &str) {
        self.session.leave(why);
    }

    /// Takes how the connection ended, once.
    pub(crate) fn take_end(&mut self) -> Option<LinkEnd> {
        let left = self.session.has_left();
        Some(match self.session.poll_event()? {
            ClientEvent::Ended if left => LinkEnd::Left,
            ClientEvent::Ended => LinkEnd::Ended,
            ClientEvent::Lost if self.keys_due => LinkEnd::KeysDue,
            ClientEvent::Lost => LinkEnd::Lost("the connection was lost".to_owned()),
            ClientEvent::ServerFault => LinkEnd::Fault("the server breaks the protocol".to_owned()),
        })
    }

    /// Says goodbye on DTLS level, which waits for nobody.
    pub(crate) fn close_datagrams(&mut self, scratch: &mut Scratch, now: Instant) {
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.close(scratch, now);
        }
    }

    /// Sends what is sealed and closes TLS, within [`FAREWELL`].
    pub(crate) async fn say_goodbye(&mut self) {
        self.records.close_notify();
        let flush = async {
            while !self.records.flush()? {
                self.records.writable().await?;
            }
            Ok::<_, io::Error>(())
        };
        // Whoever does not read our farewell will find the connection closed.
        let _ = tokio::time::timeout(FAREWELL, flush).await;
    }

    /// Ends the connection as a network that is gone does: no goodbye on any level.
    pub(crate) fn cut(self) {
        // Where it fails the server reads an end instead of a reset, and the cookie is as good.
        let _ = self.records.set_zero_linger();
    }

    /// Waits until the stream has something.
    pub(crate) async fn stream_readable(&self) {
        // A readiness that is an error shows itself in the next read.
        drop(self.records.readable().await);
    }

    /// Waits until the socket of the stream takes something.
    pub(crate) async fn stream_writable(&self) {
        drop(self.records.writable().await);
    }

    /// Waits until the datagram channel has something; for ever without one.
    pub(crate) async fn datagrams_readable(&self) {
        match &self.datagrams {
            Some(datagrams) => datagrams.readable().await,
            None => std::future::pending().await,
        }
    }

    /// What passed.
    pub(crate) fn counters(&self) -> &SessionCounters {
        self.session.counters()
    }

    /// Datagrams that could not be sealed.
    pub(crate) fn unsent(&self) -> u64 {
        self.unsent
    }
}
