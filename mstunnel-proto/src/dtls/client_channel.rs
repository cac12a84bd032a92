//! The client's datagram channel.
//!
//! ```text
//!   Handshake --Finished--> Open --rekey: a handshake inside it--> Open
//!       |                     +--close_notify, fatal alert-------> Closed
//!       +--12 s, or a contradiction------------------------------> Closed: stay on TLS, try again later
//! ```

use std::sync::Arc;
use std::time::Instant;

use super::association::{Association, Change, packet};
use super::handshake::Start;
use super::hello::MAX_APP_ID;
use super::keying::{Keying, Secret};
use super::record::RecordHeader;
use super::seal::{SealError, Sealer};
use super::suite::Suite;
use super::{ChannelEnd, DtlsTimer, Opened};
use crate::buf::PacketBuf;
use crate::drop::DropReason;
use crate::timer::Deadline;

/// What happened to a client's channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientChannelEvent {
    /// The handshake has finished.
    Opened {
        /// What protects the packets.
        suite: Suite,
    },
    /// There are new keys: take [`ClientChannel::sealer`] again.
    Rekeyed {
        /// What protects the packets now.
        suite: Suite,
    },
    /// The server has asked for new keys: [`ClientChannel::rekey`], but not more often than makes sense. Nothing
    /// happens without.
    RekeyAsked,
    /// The server has refused new keys, contradicted itself, or not agreed on them in time. The present ones stay in use; another
    /// channel would have new ones.
    RekeyFailed,
    /// The channel is over. Start another one later (statement 60: after 60 s).
    Closed {
        /// Why.
        end: ChannelEnd,
    },
}

/// The client's datagram channel of one session, to one server.
///
/// After every call that takes `now`, drain: transmit, event, timeout. The plaintext of a packet is its type
/// and its payload.
pub struct ClientChannel {
    keying: Keying,
    app_id: Vec<u8>,
    suites: Vec<Suite>,
    /// What the server asked for last, to prove our address.
    cookie: Vec<u8>,
    association: Association,
    events: Vec<ClientChannelEvent>,
}

impl ClientChannel {
    /// Starts a handshake. `app_id` is what the server calls the session, at most [`MAX_APP_ID`] bytes of it;
    /// the suites are in the order of preference, empty for all of [`Suite::PSK`]. In legacy mode both come
    /// from the keying. `entropy` becomes the client's random.
    pub fn start(keying: Keying, app_id: &[u8], suites: &[Suite], entropy: [u8; 32], now: Instant) -> Self {
        let (app_id, suites) = match &keying.0 {
            Secret::Psk(_) if suites.is_empty() => (app_id, Suite::PSK),
            Secret::Psk(_) => (app_id, suites),
            Secret::Preset(preset) => (&preset.session_id[..], std::slice::from_ref(&preset.suite)),
        };
        let app_id = app_id[..app_id.len().min(MAX_APP_ID)].to_vec();
        let suites = suites.to_vec();
        let cookie = Vec::new();
        let start =
            Start { random: entropy, session_id: app_id.clone(), cookie: Vec::new(), suites: suites.clone() };
        let association = Association::client(start, &keying, now);
        Self { keying, app_id, suites, cookie, association, events: Vec::new() }
    }

    /// Takes in one record of a datagram (see [`records`](super::records)), opening it in place.
    #[inline]
    pub fn handle_record<'b>(&mut self, record: &'b mut [u8], now: Instant) -> Opened<'b> {
        let Some(header) = RecordHeader::parse(record) else {
            return Opened::Dropped(DropReason::NotARecord);
        };
        if let Some(opener) = self.association.packet_opener(&header) {
            return match opener.open(&header, record) {
                Ok(plain) => packet(plain.bytes),
                Err(reason) => Opened::Dropped(reason),
            };
        }
        let outcome = self.association.handle_record(&header, record, &self.keying, now);
        if let Some(change) = outcome.change {
            self.changed(change);
        }
        outcome.opened
    }

    /// Starts a handshake for new keys on the open channel; `entropy` becomes the client's random. Returns
    /// `false` if the channel is not open, is busy with a handshake, or has used all its epochs.
    ///
    /// Packets go on with the present keys until the handshake has finished; if it does not, they stay.
    pub fn rekey(&mut self, entropy: [u8; 32], now: Instant) -> bool {
        let start = Start {
            random: entropy,
            session_id: self.app_id.clone(),
            cookie: self.cookie.clone(),
            suites: self.suites.clone(),
        };
        self.association.rehandshake(start, &self.keying, now)
    }

    /// Makes the plaintext in `packet` a record, in place.
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

    /// Says close_notify to the server, if the channel is open, and ends it.
    pub fn close(&mut self) {
        if !self.association.is_over() {
            self.association.close();
            self.events.push(ClientChannelEvent::Closed { end: ChannelEnd::ClosedByUs });
        }
    }

    /// Sends again what is due; gives up after 12 s and says so.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(change) = self.association.handle_timeout(now) {
            self.changed(change);
        }
    }

    /// Writes the next datagram; returns whether there was one.
    pub fn poll_transmit(&mut self, out: &mut PacketBuf) -> bool {
        self.association.poll_transmit(out)
    }

    /// Takes out what happened.
    pub fn poll_event(&mut self) -> Option<ClientChannelEvent> {
        (!self.events.is_empty()).then(|| self.events.remove(0))
    }

    /// The next moment for [`ClientChannel::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Deadline<DtlsTimer>> {
        self.association.deadline()
    }

    /// What protects the packets, while the channel is open.
    pub fn suite(&self) -> Option<Suite> {
        self.sealer().map(|sealer| sealer.suite())
    }

    /// Whether packets can be sealed.
    pub fn is_open(&self) -> bool {
        self.association.is_open()
    }

    /// The sending half, which any thread may use until the next [`ClientChannelEvent`].
    pub fn sealer(&self) -> Option<&Arc<Sealer>> {
        self.association.sealer()
    }

    #[cfg(test)]
    pub(crate) fn skip_to_epoch(&mut self, epoch: u16) {
        self.association.skip_to_epoch(epoch);
    }

    fn changed(&mut self, change: Change) {
        let suite = self.suite();
        if matches!(change, Change::Established | Change::Rekeyed) {
            self.cookie = self.association.take_cookie();
        }
        self.events.extend(match (change, suite) {
            (Change::Established, Some(suite)) => Some(ClientChannelEvent::Opened { suite }),
            (Change::Rekeyed, Some(suite)) => Some(ClientChannelEvent::Rekeyed { suite }),
            (Change::RekeyAsked, _) => {
                let asked = ClientChannelEvent::RekeyAsked;
                (!self.events.contains(&asked)).then_some(asked)
            }
            (Change::RekeyFailed, _) => Some(ClientChannelEvent::RekeyFailed),
            (Change::Ended(end), _) => Some(ClientChannelEvent::Closed { end }),
            (Change::Established | Change::Rekeyed, None) => None,
        });
    }
}

/// Shows no secret.
impl std::fmt::Debug for ClientChannel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientChannel").field("suite", &self.suite()).finish_non_exhaustive()
    }
}
