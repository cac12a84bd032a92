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

use mstunnel_proto::session::{DatagramChange, SessionCounters};
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, watch};

use super::channels::{Channels, LinkEnd, Scratch};
use crate::packets::{PacketReceiver, PacketSender, QUEUE};
use crate::params::TunnelParams;

/// Reads of one turn before the user's packets get theirs.
const READS_PER_TURN: usize = 8;

/// Packets that are sealed before a flush, so that records never pile up unbounded.
const PACKETS_PER_FLUSH: usize = 64;

/// Room in the user's queue that a read wants: a read buffer full of large packets.
const ROOM: usize = QUEUE / 4;

/// How long reading waits for a user whose queue is full.
const PATIENCE: Duration = Duration::from_millis(200);

/// The tunnel was dropped: the session waits for its cookie.
const DROPPED: &str = "dropped";

/// A live connection.
pub(crate) struct Link {
    channels: Channels,
    scratch: Scratch,
    /// Since when the user's queue is full.
    full_since: Option<Instant>,
    user_gone: bool,
    dropped: u64,
}

impl Link {
    /// A link over `channels`, with buffers of its own.
    pub(crate) fn new(channels: Channels) -> Self {
        Self { channels, scratch: Scratch::default(), full_since: None, user_gone: false, dropped: 0 }
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
        let dropped = self.dropped + self.channels.unsent();
        tracing::debug!(?end, counters = ?self.counters(), dropped, "link ended");
        end
    }

    /// What passed.
    pub(crate) fn counters(&self) -> &SessionCounters {
        self.channels.counters()
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
                    self.channels.handle_stream_closed();
                    return self.channels.take_end().unwrap_or_else(|| LinkEnd::Lost(error.to_string()));
                }
            };
            if let Some(end) = self.channels.take_end() {
                // What the session still had to say, a BYE above all, was sealed in this turn.
                self.channels.close_datagrams(&mut self.scratch, Instant::now());
                self.channels.say_goodbye().await;
                return end;
            }
            self.follow_datagrams(params);
            if more {
                tokio::task::yield_now().await;
                // A server that never stops sending is left all the same.
                match leave.try_recv() {
                    Ok(words) => self.channels.leave(&words),
                    Err(TryRecvError::Disconnected) => return LinkEnd::Lost(DROPPED.to_owned()),
                    Err(TryRecvError::Empty) => {}
                }
                continue;
            }
            let paused =
                self.full_since.map(|since| since + PATIENCE).filter(|&until| Instant::now() < until);
            let wake = paused.into_iter().chain(self.channels.deadline()).min();
            if let Some(at) = wake.map(tokio::time::Instant::from_std)
                && sleep.deadline() != at
            {
                sleep.as_mut().reset(at);
            }
            tokio::select! {
                () = self.channels.stream_readable(), if paused.is_none() => {}
                () = self.channels.stream_writable(), if self.channels.is_blocked() => {}
                () = self.channels.datagrams_readable(), if paused.is_none() => {}
                room = to_user.room(ROOM), if paused.is_some() => {
                    if !room {
                        self.full_since = None; // nobody reads: the turn drops
                    }
                }
                packet = from_user.recv(), if self.channels.takes_packets() && !self.user_gone => match packet {
                    Some(mut packet) => {
                        self.channels.seal(&mut packet, &mut self.scratch.datagrams, Instant::now());
                        from_user.recycle(packet);
                    }
                    None => self.user_gone = true,
                },
                () = sleep.as_mut(), if wake.is_some() => {}
                words = leave.recv() => match words {
                    Some(words) => self.channels.leave(&words),
                    None => return LinkEnd::Lost(DROPPED.to_owned()),
                },
            }
        }
    }

    /// One turn: inputs, then outputs. Returns whether there is more to do at once.
    fn turn(&mut self, to_user: &PacketSender, from_user: &mut PacketReceiver) -> io::Result<bool> {
        let now = Instant::now();
        self.channels.handle_timeout(&mut self.scratch, now);
        let mut more = self.read_stream(to_user, now)?;
        more |= self.read_datagrams(to_user, now);
        self.channels.transmit_control(&mut self.scratch, now)?;
        let mut sealed = 0;
        while self.channels.takes_packets() && sealed < QUEUE {
            let Some(mut packet) = from_user.try_recv() else { break };
            self.channels.seal(&mut packet, &mut self.scratch.datagrams, Instant::now());
            from_user.recycle(packet);
            sealed += 1;
            if sealed % PACKETS_PER_FLUSH == 0 {
                self.channels.flush(&mut self.scratch.datagrams)?;
            }
        }
        // Once more although the stream is full: datagrams do not wait for it.
        if !self.channels.is_blocked() || sealed > 0 {
            self.channels.flush(&mut self.scratch.datagrams)?;
        }
        more |= sealed == QUEUE && self.channels.takes_packets();
        Ok(more)
    }

    /// Tells the user what became of the datagram channel, and what it carries.
    fn follow_datagrams(&mut self, params: &watch::Sender<Arc<TunnelParams>>) {
        match self.channels.take_change() {
            Some(DatagramChange::Opened(mtu)) => {
                tracing::info!(mtu, "packets go by UDP");
                if params.borrow().said.mtu.get() > mtu {
                    params.send_modify(|params| *params = Arc::new(params.with_mtu(mtu)));
                }
            }
            Some(DatagramChange::Closed) => tracing::info!("packets go by TLS"),
            None => {}
        }
    }

    /// Takes in datagrams while the user takes packets; returns whether there may be more.
    fn read_datagrams(&mut self, to_user: &PacketSender, now: Instant) -> bool {
        if self.full_since.is_some_and(|since| now < since + PATIENCE) {
            return false;
        }
        let dropped = &mut self.dropped;
        self.channels.read_datagrams(&mut self.scratch, now, |bytes| offer(to_user, bytes, dropped))
    }

    /// Reads while there is something and the user takes it; returns whether there may be more.
    fn read_stream(&mut self, to_user: &PacketSender, now: Instant) -> io::Result<bool> {
        for _ in 0..READS_PER_TURN {
            if to_user.free() >= ROOM {
                self.full_since = None;
            } else if now < *self.full_since.get_or_insert(now) + PATIENCE {
                return Ok(false);
            }
            let dropped = &mut self.dropped;
            if !self.channels.read_stream(&mut self.scratch, now, |bytes| offer(to_user, bytes, dropped))? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Queues a copy of `bytes` for the user, or counts it.
fn offer(to_user: &PacketSender, bytes: &[u8], dropped: &mut u64) {
    let mut packet = to_user.buffer();
    if !packet.fill(bytes) || to_user.offer(packet).is_err() {
        *dropped += 1;
    }
}
