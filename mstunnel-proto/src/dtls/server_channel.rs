//! The server's datagram channel of one session.
//!
//! ```text
//!                        hello, address proven           Finished
//!   (none) ─────────────────────────────────> pending ────────────> live at the pending one's path
//!   live at path A ─── hello from anywhere ──> live at A + pending ─> live at the pending one's path
//! ```
//!
//! There is at most one live association and one pending. A hello never touches the live one: it is replaced
//! when the new handshake has finished (R18). A later hello replaces a pending one, a repeated hello makes it
//! repeat itself. The hello that the live association was made from is known and dropped.
//!
//! The live association follows its client to another path when an authentic record newer than any before
//! comes from there, at most every [`MIN_MOVE_INTERVAL`] (R19).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::association::{Association, Change, packet};
use super::cookie::VerifiedHello;
use super::keying::Keying;
use super::record::{ContentType, RecordHeader};
use super::seal::{SealError, Sealer};
use super::suite::Suite;
use super::{ChannelEnd, DtlsTimer, Opened};
use crate::buf::PacketBuf;
use crate::drop::DropReason;
use crate::timer::Deadline;

/// The least time between two moves of a channel: a client that changes its network takes longer, and a
/// replaying stranger cannot make the channel flap.
pub const MIN_MOVE_INTERVAL: Duration = Duration::from_secs(1);

/// Where a datagram came from, and how to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    /// The client's address.
    pub remote: SocketAddr,
    /// Our address that the client sent to; answers leave from there. `None` if the socket knows it.
    pub local: Option<IpAddr>,
    /// The caller's number of the socket.
    pub socket: u16,
}

impl Path {
    /// As `==`, with the usual case first: this is asked of every packet.
    #[inline]
    fn is_same(&self, other: &Self) -> bool {
        let is_from_there = match (&self.remote, &other.remote) {
            (SocketAddr::V4(own), SocketAddr::V4(other)) => {
                (own.ip().to_bits(), own.port()) == (other.ip().to_bits(), other.port())
            }
            (own, other) => own == other,
        };
        is_from_there && self.socket == other.socket && self.local == other.local
    }
}

/// What happened to a server's channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerChannelEvent {
    /// A handshake has finished: packets go to `path` from now on. `replaced` is the path of the association
    /// that was live before, if there was one.
    Opened {
        /// Where the client is.
        path: Path,
        /// What protects the packets.
        suite: Suite,
        /// Where the association before was, whose records are not accepted any more.
        replaced: Option<Path>,
    },
    /// The client has new keys on the live association: take [`ServerChannel::sealer`] again.
    Rekeyed {
        /// What protects the packets now.
        suite: Suite,
    },
    /// The client is at another path.
    Moved {
        /// Where it was.
        from: Path,
        /// Where it is.
        to: Path,
    },
    /// The channel is closed; another hello opens it again.
    Closed {
        /// Where it was.
        path: Path,
        /// Why.
        end: ChannelEnd,
    },
}

/// What there is of a channel while it is open and nothing happens to it.
struct Live {
    association: Association,
    /// The start of the client's random, by which a late copy of its hello is known.
    hello: u64,
}

/// What there is for a while only: on the heap, and gone when all of it is.
#[derive(Default)]
struct Passing {
    pending: Option<Pending>,
    events: VecDeque<ServerChannelEvent>,
    /// When the channel may move again.
    rests_until: Option<Instant>,
}

struct Pending {
    path: Path,
    association: Association,
    random: [u8; 32],
}

/// The server's datagram channel of one session.
///
/// After every call that takes `now`, drain: transmit, event, timeout. The plaintext of a packet is its type
/// and its payload.
pub struct ServerChannel {
    keying: Keying,
    /// Where the live association is; without one, where the last was.
    path: Option<Path>,
    /// Boxed: a session whose client has no UDP does not pay for it.
    live: Option<Box<Live>>,
    passing: Option<Box<Passing>>,
}

impl ServerChannel {
    /// A channel that waits for its first hello.
    pub fn new(keying: Keying) -> Self {
        Self { keying, path: None, live: None, passing: None }
    }

    /// Starts a handshake, beside the live association if there is one. `entropy` becomes the server's random.
    ///
    /// # Errors
    /// The reason for which the hello is dropped: [`DropReason::HelloRefused`] if it has no suite that we have
    /// or, in legacy mode, another session id; [`DropReason::HelloReplayed`] if the live association was made
    /// from it.
    pub fn handle_hello(
        &mut self,
        path: Path,
        hello: &VerifiedHello<'_>,
        entropy: [u8; 32],
        now: Instant,
    ) -> Result<(), DropReason> {
        if self.live.as_ref().is_some_and(|live| live.hello == mark(hello.random())) {
            return Err(DropReason::HelloReplayed);
        }
        if let Some(pending) = self.pending_mut()
            && (pending.path, pending.random) == (path, hello.random())
        {
            pending.association.repeat(now);
            return Ok(());
        }
        let association = Association::server(hello, &self.keying, entropy, now)?;
        self.passing().pending = Some(Pending { path, association, random: hello.random() });
        Ok(())
    }

    /// Takes in one record of a datagram (see [`records`](super::records)) that came by `path`, opening it in
    /// place.
    #[inline]
    pub fn handle_record<'b>(&mut self, path: Path, record: &'b mut [u8], now: Instant) -> Opened<'b> {
        let Some(header) = RecordHeader::parse(record) else {
            return Opened::Dropped(DropReason::NotARecord);
        };
        if self.passing.is_some() && self.is_for_pending(path, &header, record) {
            return self.handle_pending(&header, record, now);
        }
        let Some(live) = &mut self.live else {
            return Opened::Dropped(DropReason::UnknownAddress);
        };
        if let Some(opener) = live.association.packet_opener(&header) {
            let plain = match opener.open(&header, record) {
                Ok(plain) => plain,
                Err(reason) => return Opened::Dropped(reason),
            };
            if plain.newest && !self.path.as_ref().is_some_and(|known| known.is_same(&path)) {
                self.follow(path, now);
            }
            return packet(plain.bytes);
        }
        let outcome = live.association.handle_record(&header, record, &self.keying, now);
        if outcome.newest && self.path != Some(path) {
            self.follow(path, now);
        }
        if let Some(change) = outcome.change {
            self.changed(change);
        }
        outcome.opened
    }

    /// Whether `record` belongs to this channel although it came from an address that belongs to none: it is
    /// authentic and not a copy. Changes nothing; `scratch` is room to work in.
    ///
    /// For the channels that an unknown address may be of; then [`ServerChannel::handle_record`].
    pub fn recognizes(&self, record: &[u8], scratch: &mut Vec<u8>) -> bool {
        RecordHeader::parse(record).is_some_and(|header| {
            self.live.as_ref().is_some_and(|live| live.association.recognizes(&header, record, scratch))
        })
    }

    /// Makes the plaintext in `packet` a record for [`ServerChannel::path`], in place.
    ///
    /// # Errors
    /// [`SealError`].
    #[inline]
    pub fn seal(&self, packet: &mut PacketBuf) -> Result<(), SealError> {
        self.sealer().ok_or(SealError::NotOpen)?.seal(packet)
    }

    /// Makes `plaintext` a record at the start of `out`; returns its length.
    ///
    /// # Errors
    /// [`SealError`].
    #[inline]
    pub fn seal_into(&self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        self.sealer().ok_or(SealError::NotOpen)?.seal_into(plaintext, out)
    }

    /// Says close_notify to the client and ends what is pending.
    pub fn close(&mut self) {
        self.end_pending();
        if let Some(live) = self.live.as_mut().filter(|live| live.association.is_open()) {
            live.association.close();
            self.changed(Change::Ended(ChannelEnd::ClosedByUs));
        }
    }

    /// Sends again what is due and ends what has waited for too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(live) = &mut self.live {
            live.association.handle_timeout(now);
        }
        if let Some(pending) = self.pending_mut()
            && pending.association.handle_timeout(now).is_some()
        {
            self.end_pending();
        }
        if let Some(passing) = &mut self.passing {
            passing.rests_until = passing.rests_until.filter(|until| now < *until);
            self.tidy();
        }
    }

    /// Writes the next datagram and says where it goes.
    pub fn poll_transmit(&mut self, out: &mut PacketBuf) -> Option<Path> {
        if let Some(pending) = self.pending_mut()
            && pending.association.poll_transmit(out)
        {
            return Some(pending.path);
        }
        let live = self.live.as_mut()?;
        let said = live.association.poll_transmit(out);
        if live.association.is_gone() {
            self.live = None;
        }
        self.path.filter(|_| said)
    }

    /// Takes out what happened.
    pub fn poll_event(&mut self) -> Option<ServerChannelEvent> {
        let event = self.passing.as_mut()?.events.pop_front();
        self.tidy();
        event
    }

    /// The next moment for [`ServerChannel::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Deadline<DtlsTimer>> {
        let live = self.live.as_ref().map(|live| &live.association);
        let pending = self.pending().map(|pending| &pending.association);
        let rests_until = self.passing.as_ref().and_then(|passing| passing.rests_until);
        live.into_iter()
            .chain(pending)
            .filter_map(Association::deadline)
            .chain(rests_until.map(|at| Deadline { at, timer: DtlsTimer::Rest }))
            .min_by_key(|deadline| deadline.at)
    }

    /// Where packets go, while the channel is open.
    #[inline]
    pub fn path(&self) -> Option<Path> {
        self.path.filter(|_| self.is_open())
    }

    /// The path of the handshake that is open beside the live association or before it.
    pub fn pending_path(&self) -> Option<Path> {
        self.pending().map(|pending| pending.path)
    }

    /// What protects the packets, while the channel is open.
    pub fn suite(&self) -> Option<Suite> {
        self.sealer().map(|sealer| sealer.suite())
    }

    /// Whether packets can be sealed.
    pub fn is_open(&self) -> bool {
        self.sealer().is_some()
    }

    /// The sending half, which any thread may use until the next [`ServerChannelEvent`].
    pub fn sealer(&self) -> Option<&Arc<Sealer>> {
        self.live.as_ref()?.association.sealer()
    }

    #[cfg(test)]
    pub(crate) fn skip_to_epoch(&mut self, epoch: u16) {
        self.live.as_mut().expect("an open channel").association.skip_to_epoch(epoch);
    }

    /// Whether the record can only be of the pending handshake: in clear, or protected by its keys and not by
    /// those in use.
    fn is_for_pending(&self, path: Path, header: &RecordHeader, record: &[u8]) -> bool {
        self.pending().is_some_and(|pending| {
            pending.path == path
                && (header.epoch == 0
                    || header.content == ContentType::Handshake
                        && (self.live.is_none()
                            || pending.association.recognizes(header, record, &mut Vec::new())))
        })
    }

    fn handle_pending<'b>(
        &mut self,
        header: &RecordHeader,
        record: &'b mut [u8],
        now: Instant,
    ) -> Opened<'b> {
        // By hand, because the keying is lent beside it.
        let pending = self.passing.as_mut().and_then(|passing| passing.pending.as_mut());
        let pending = pending.expect("the caller has looked");
        let outcome = pending.association.handle_record(header, record, &self.keying, now);
        match outcome.change {
            Some(Change::Established) => self.promote(),
            Some(Change::Ended(_)) => self.end_pending(),
            Some(Change::Rekeyed | Change::RekeyAsked | Change::RekeyFailed) | None => {}
        }
        outcome.opened
    }

    fn promote(&mut self) {
        let Some(Pending { path, association, random }) = self.passing().pending.take() else {
            return;
        };
        let Some(suite) = association.sealer().map(|sealer| sealer.suite()) else {
            return;
        };
        let live = Box::new(Live { association, hello: mark(random) });
        let from = self.path.replace(path);
        let replaced = self.live.replace(live).and(from);
        let passing = self.passing();
        passing.rests_until = None;
        passing.events.push_back(ServerChannelEvent::Opened { path, suite, replaced });
    }

    /// An authentic record newer than any before came by another path.
    #[cold]
    fn follow(&mut self, to: Path, now: Instant) {
        let passing = self.passing.get_or_insert_default();
        if passing.rests_until.is_some_and(|until| now < until) {
            return;
        }
        passing.rests_until = Some(now + MIN_MOVE_INTERVAL);
        let from = self.path.replace(to);
        passing.events.extend(from.map(|from| ServerChannelEvent::Moved { from, to }));
    }

    /// Says what happened to the live association.
    #[cold]
    fn changed(&mut self, change: Change) {
        let event = match (change, self.suite(), self.path) {
            (Change::Rekeyed, Some(suite), _) => ServerChannelEvent::Rekeyed { suite },
            (Change::Ended(end), _, Some(path)) => ServerChannelEvent::Closed { path, end },
            // Without a suite or a path it was not open; the others are of a client.
            (Change::Rekeyed | Change::Established | Change::Ended(_), ..)
            | (Change::RekeyAsked | Change::RekeyFailed, ..) => return,
        };
        self.passing().events.push_back(event);
    }

    fn passing(&mut self) -> &mut Passing {
        self.passing.get_or_insert_default()
    }

    fn pending(&self) -> Option<&Pending> {
        self.passing.as_ref()?.pending.as_ref()
    }

    fn pending_mut(&mut self) -> Option<&mut Pending> {
        self.passing.as_mut()?.pending.as_mut()
    }

    fn end_pending(&mut self) {
        if let Some(passing) = &mut self.passing {
            passing.pending = None;
            self.tidy();
        }
    }

    /// Gives back the memory of what has passed.
    fn tidy(&mut self) {
        self.passing.take_if(|passing| passing.is_over());
    }
}

impl Passing {
    fn is_over(&self) -> bool {
        self.pending.is_none() && self.events.is_empty() && self.rests_until.is_none()
    }
}

/// Shows where the channel is, and no secret.
impl std::fmt::Debug for ServerChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerChannel")
            .field("path", &self.path())
            .field("suite", &self.suite())
            .field("pending", &self.pending_path())
            .finish_non_exhaustive()
    }
}

fn mark(random: [u8; 32]) -> u64 {
    let (start, _) = random.split_first_chunk().expect("32 bytes");
    u64::from_be_bytes(*start)
}
