//! One live connection, driven to its end: the client's drive loop.
//!
//! ```text
//!   TCP -> records -> frames -> session -> user           (in batches, until the user's queue is full)
//!   UDP -> datagrams ---------> session -> user
//!   user -> session -> records -> TCP                     (in batches, until the socket is full)
//!                  '-> datagrams -> UDP
//! ```
//!
//! Back-pressure: while the socket is full nothing is taken from the user. While the user's queue is full
//! nothing is read for [`PATIENCE`], then packets are dropped and counted: a user that stops reading loses
//! packets, and the session lives on.
//!
//! # Source
//! protocol.md section 4; R8, R63, R69.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mstunnel_proto::buf::{MAX_PACKET, PacketBuf};
use mstunnel_proto::frame::{Frames, MAX_FRAME, Remainder};
use mstunnel_proto::session::{
    Channel, ClientEvent, ClientSession, DatagramChange, Inbound, SessionCounters,
};
use rustls::ClientConnection;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::datagrams::Datagrams;
use super::records::{Received, Records};
use crate::packets::{PacketReceiver, PacketSender, QUEUE};
use crate::params::TunnelParams;

/// Bytes of the read buffer: what is left of a frame, and a few full TLS records behind it.
const READ_BUFFER: usize = MAX_FRAME + 4 * 16_384;

/// Reads of one turn before the user's packets get theirs.
const READS_PER_TURN: usize = 8;

/// Packets that are sealed before a flush, so that records never pile up unbounded.
const PACKETS_PER_FLUSH: usize = 64;

/// Room in the user's queue that a read wants: a read buffer full of large packets.
const ROOM: usize = QUEUE / 4;

/// How long reading waits for a user whose queue is full.
const PATIENCE: Duration = Duration::from_millis(200);

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
    /// The server breaks the protocol.
    Fault(String),
}

/// A live connection.
pub(crate) struct Link {
    session: ClientSession,
    records: Records,
    datagrams: Option<Datagrams>,
    remainder: Remainder,
    read: Box<[u8]>,
    control: PacketBuf,
    blocked: bool,
    /// Since when the user's queue is full.
    full_since: Option<Instant>,
    user_gone: bool,
    dropped: u64,
}

impl Link {
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
            datagrams,
            remainder,
            read: vec![0; READ_BUFFER].into_boxed_slice(),
            control: PacketBuf::new(MAX_PACKET),
            blocked: false,
            full_since: None,
            user_gone: false,
            dropped: 0,
        }
    }

    /// Drives the link until it ends, or until `leave` says with which words to leave. What the datagram channel
    /// carries, if that is less than the server announced, goes into `params`.
    pub(crate) async fn run(
        &mut self,
        to_user: &PacketSender,
        from_user: &mut PacketReceiver,
        leave: &mut mpsc::Receiver<String>,
        params: &watch::Sender<Arc<TunnelParams>>,
    ) -> LinkEnd {
        let end = self.drive(to_user, from_user, leave, params).await;
        tracing::debug!(?end, counters = ?self.counters(), dropped = self.dropped, "link ended");
        end
    }

    /// What passed.
    pub(crate) fn counters(&self) -> &SessionCounters {
        self.session.counters()
    }

    async fn drive(
        &mut self,
        to_user: &PacketSender,
        from_user: &mut PacketReceiver,
        leave: &mut mpsc::Receiver<String>,
        params: &watch::Sender<Arc<TunnelParams>>,
    ) -> LinkEnd {
        let sleep = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(sleep);
        loop {
            let more = match self.turn(to_user, from_user) {
                Ok(more) => more,
                Err(error) => {
                    self.session.handle_stream_closed();
                    return self.end().unwrap_or_else(|| LinkEnd::Lost(error.to_string()));
                }
            };
            if let Some(end) = self.end() {
                // What the session still had to say, a BYE above all, was sealed in this turn.
                self.say_goodbye().await;
                return end;
            }
            self.follow_datagrams(params);
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            let paused =
                self.full_since.map(|since| since + PATIENCE).filter(|&until| Instant::now() < until);
            let session = self.session.poll_timeout().map(|deadline| deadline.at);
            let datagrams = self.datagrams.as_ref().and_then(Datagrams::deadline);
            let wake = [paused, session, datagrams].into_iter().flatten().min();
            if let Some(at) = wake.map(tokio::time::Instant::from_std)
                && sleep.deadline() != at
            {
                sleep.as_mut().reset(at);
            }
            tokio::select! {
                // A readiness that is an error shows itself in the next turn.
                _ = self.records.readable(), if paused.is_none() => {}
                _ = self.records.writable(), if self.blocked => {}
                () = readable(self.datagrams.as_ref()), if paused.is_none() => {}
                room = to_user.room(ROOM), if paused.is_some() => {
                    if !room {
                        self.full_since = None; // nobody reads: the turn drops
                    }
                }
                packet = from_user.recv(), if self.takes_packets() && !self.user_gone => match packet {
                    Some(packet) => self.seal(packet, from_user),
                    None => self.user_gone = true,
                },
                () = sleep.as_mut(), if wake.is_some() => {}
                words = leave.recv() => match words {
                    Some(words) => self.session.leave(&words),
                    // The tunnel was dropped: the session waits for its cookie.
                    None => return LinkEnd::Lost("dropped".to_owned()),
                },
            }
        }
    }

    /// One turn: inputs, then outputs. Returns whether there is more to do at once.
    fn turn(&mut self, to_user: &PacketSender, from_user: &mut PacketReceiver) -> io::Result<bool> {
        let now = Instant::now();
        self.session.handle_timeout(now);
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.handle_timeout(now);
        }
        let mut more = self.read_frames(to_user, now)?;
        more |= self.read_datagrams(to_user, now);
        self.transmit_control()?;
        self.blocked = !self.records.flush()?;
        let mut sealed = 0;
        while self.takes_packets() && sealed < QUEUE {
            let Some(packet) = from_user.try_recv() else { break };
            self.seal(packet, from_user);
            sealed += 1;
            if sealed % PACKETS_PER_FLUSH == 0 {
                self.blocked = !self.records.flush()?;
            }
        }
        if !self.blocked {
            self.blocked = !self.records.flush()?;
        }
        more |= sealed == QUEUE && self.takes_packets();
        Ok(more)
    }

    /// Whether a packet of the user would go out now.
    fn takes_packets(&self) -> bool {
        !self.blocked || self.session.channel() == Channel::Datagram
    }

    /// Tells the session what became of the datagram channel, and the user what it carries.
    fn follow_datagrams(&mut self, params: &watch::Sender<Arc<TunnelParams>>) {
        match self.datagrams.as_mut().and_then(Datagrams::take_change) {
            Some(DatagramChange::Opened(mtu)) => {
                tracing::info!(mtu, "packets go by UDP");
                self.session.limit_mtu(mtu);
                self.session.handle_datagram_open();
                if params.borrow().said.mtu.get() > mtu {
                    params.send_modify(|params| *params = Arc::new(params.with_mtu(mtu)));
                }
            }
            Some(DatagramChange::Closed) => {
                tracing::info!("packets go by TLS");
                self.session.handle_datagram_closed();
            }
            None => {}
        }
    }

    /// Takes in datagrams while the user takes packets; returns whether there may be more.
    fn read_datagrams(&mut self, to_user: &PacketSender, now: Instant) -> bool {
        let Some(datagrams) = &mut self.datagrams else { return false };
        if self.full_since.is_some_and(|since| now < since + PATIENCE) {
            return false;
        }
        let (session, dropped) = (&mut self.session, &mut self.dropped);
        datagrams.receive(now, |kind, payload| {
            if let Inbound::Packet(bytes) = session.decapsulate(Channel::Datagram, kind, payload, now) {
                let mut packet = to_user.buffer();
                if !packet.fill(bytes) || to_user.offer(packet).is_err() {
                    *dropped += 1;
                }
            }
        })
    }

    /// Reads while there is something and the user takes it; returns whether there may be more.
    fn read_frames(&mut self, to_user: &PacketSender, now: Instant) -> io::Result<bool> {
        for _ in 0..READS_PER_TURN {
            if to_user.free() >= ROOM {
                self.full_since = None;
            } else if now < *self.full_since.get_or_insert(now) + PATIENCE {
                return Ok(false);
            }
            let kept = self.remainder.take_into(&mut self.read);
            // What is kept may be whole frames, from behind the answer to CONNECT: they count before an end does.
            let received = self.records.read(&mut self.read[kept..]);
            let len = if let Ok(Received::Bytes(len)) = received { len } else { 0 };
            let mut frames = Frames::new(&mut self.read[..kept + len]);
            loop {
                match frames.take_next() {
                    Ok(Some(frame)) => {
                        let taken = self.session.decapsulate(Channel::Stream, frame.kind, frame.payload, now);
                        if let Inbound::Packet(bytes) = taken {
                            let mut packet = to_user.buffer();
                            if !packet.fill(bytes) || to_user.offer(packet).is_err() {
                                self.dropped += 1;
                            }
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
                Received::Bytes(_) => {}
                Received::Nothing => return Ok(false),
                Received::End => {
                    self.session.handle_stream_closed();
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn seal(&mut self, mut packet: PacketBuf, from_user: &PacketReceiver) {
        let now = Instant::now();
        match self.session.encapsulate(&mut packet, now) {
            // An error of the writer is one of the connection; the next flush or read tells it.
            Ok(Channel::Stream) => drop(self.records.write_frame(packet.as_slice())),
            Ok(Channel::Datagram) => self.send_datagram(&mut packet, now),
            Err(_) => {}
        }
        from_user.recycle(packet);
    }

    fn send_datagram(&mut self, unit: &mut PacketBuf, now: Instant) {
        if !self.datagrams.as_mut().is_some_and(|datagrams| datagrams.send(unit, now)) {
            self.dropped += 1;
        }
    }

    fn transmit_control(&mut self) -> io::Result<()> {
        let mut control = std::mem::replace(&mut self.control, PacketBuf::new(0));
        let sent = self.transmit_into(&mut control);
        self.control = control;
        sent
    }

    fn transmit_into(&mut self, control: &mut PacketBuf) -> io::Result<()> {
        let now = Instant::now();
        // A server that asks without reading makes nothing grow: answers wait in the session, bounded.
        while self.blocked && self.session.poll_datagram(control) {
            self.send_datagram(control, now);
        }
        while !self.blocked
            && let Some(channel) = self.session.poll_transmit(control)
        {
            match channel {
                Channel::Stream => self.records.write_frame(control.as_slice())?,
                Channel::Datagram => self.send_datagram(control, now),
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Option<LinkEnd> {
        let left = self.session.has_left();
        Some(match self.session.poll_event()? {
            ClientEvent::Ended if left => LinkEnd::Left,
            ClientEvent::Ended => LinkEnd::Ended,
            ClientEvent::Lost => LinkEnd::Lost("the connection was lost or its keys are due".to_owned()),
            ClientEvent::ServerFault => LinkEnd::Fault("the server breaks the protocol".to_owned()),
        })
    }

    /// Sends what is sealed and closes TLS, within [`FAREWELL`].
    async fn say_goodbye(&mut self) {
        if let Some(datagrams) = &mut self.datagrams {
            datagrams.close(Instant::now());
        }
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
}

/// Waits until the datagram channel has something; for ever without one.
async fn readable(datagrams: Option<&Datagrams>) {
    match datagrams {
        Some(datagrams) => datagrams.readable().await,
        None => std::future::pending().await,
    }
}
