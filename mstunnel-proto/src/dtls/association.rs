//! One association with one peer: from its handshake over its epochs to its end.
//!
//! ```text
//!   epoch 0: handshake --Finished--> epoch n: open --rehandshake, Finished--> epoch n + 1: open ...
//!                                        |  \__ the epoch before is still read for a while
//!                                        +--close_notify or fatal alert, authentic--> closed
//! ```
//!
//! Records are accepted of the present epoch, of the next one while a handshake makes it (its Finished alone),
//! and of the one before (packets alone). Everything else is dropped and changes nothing (R15).

use std::sync::Arc;
use std::time::Instant;

use super::crypto::MacKey;
use super::flight::Writer;
use super::handshake::{Base, Handshake, Progress, Start};
use super::hello::{ClientHello, VerifyData};
use super::keying::Keying;
use super::keys::Role;
use super::message::{Fragment, Message, MessageType};
use super::reader::Reader;
use super::record::{ContentType, HEADER_BYTES, RecordHeader};
use super::seal::{Opener, Plain, Sealer};
use super::{ChannelEnd, DtlsTimer, Opened};
use crate::buf::PacketBuf;
use crate::drop::DropReason;
use crate::timer::Deadline;

const WARNING: u8 = 1;
const FATAL: u8 = 2;
const CLOSE_NOTIFY: u8 = 0;
const NO_RENEGOTIATION: u8 = 100;

/// The keys of the present epoch.
struct Keys {
    sealer: Arc<Sealer>,
    opener: Opener,
}

/// What changed by a record or by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The first handshake is over.
    Established,
    /// A later handshake is over: there is a new sealer.
    Rekeyed,
    /// The server would like a later handshake.
    RekeyAsked,
    /// A later handshake of ours came to nothing.
    RekeyFailed,
    /// The association is over.
    Ended(ChannelEnd),
}

/// What became of a record.
pub(crate) struct Outcome<'b> {
    pub(crate) opened: Opened<'b>,
    /// Whether the record is authentic and newer than any before it.
    pub(crate) newest: bool,
    pub(crate) change: Option<Change>,
}

impl<'b> Outcome<'b> {
    fn of(opened: Opened<'b>) -> Self {
        Self { opened, newest: false, change: None }
    }
}

/// One association.
pub(crate) struct Association {
    role: Role,
    closed: bool,
    alert: Option<[u8; 2]>,
    keys: Option<Keys>,
    /// What was said at the end of the handshake, if the peer renegotiates.
    bound: Option<VerifyData>,
    handshake: Option<Box<Handshake>>,
}

impl Association {
    /// The server's end, from a hello in clear.
    ///
    /// # Errors
    /// [`DropReason::HelloRefused`].
    pub(crate) fn server(
        hello: &ClientHello<'_>,
        keying: &Keying,
        random: [u8; 32],
        now: Instant,
    ) -> Result<Self, DropReason> {
        // The numbers of an answer without state were those of the hellos: ours go on from there.
        let writer = Writer::Clear { next: hello.record_sequence };
        let base = Base { writer, epoch: 0, bound: None };
        let handshake = Handshake::server(hello, keying, random, base, now)?;
        Ok(Self::new(Role::Server, handshake))
    }

    /// The client's end.
    pub(crate) fn client(start: Start, keying: &Keying, now: Instant) -> Self {
        let base = Base { writer: Writer::Clear { next: 0 }, epoch: 0, bound: None };
        Self::new(Role::Client, Handshake::client(start, keying, base, now))
    }

    fn new(role: Role, handshake: Handshake) -> Self {
        let handshake = Some(Box::new(handshake));
        Self { role, closed: false, alert: None, keys: None, bound: None, handshake }
    }

    /// Starts a handshake of a client on the live association; `false` if there is no way.
    pub(crate) fn rehandshake(&mut self, start: Start, keying: &Keying, now: Instant) -> bool {
        if self.is_negotiating() {
            return false;
        }
        let Some(base) = self.next_base() else {
            return false;
        };
        self.handshake = Some(Box::new(Handshake::client(start, keying, base, now)));
        true
    }

    /// Says close_notify; nothing is sealed or opened any more.
    pub(crate) fn close(&mut self) {
        if self.is_open() {
            self.alert = Some([WARNING, CLOSE_NOTIFY]);
        }
        self.end();
    }

    /// What opens the record, if it is a packet that can change nothing but the replay window: nearly all are, and
    /// [`Association::handle_record`] would make as much of it in more steps.
    #[inline]
    pub(crate) fn packet_opener(&mut self, header: &RecordHeader) -> Option<&mut Opener> {
        let opener = &mut self.keys.as_mut()?.opener;
        let quiet = header.content == ContentType::ApplicationData
            && header.epoch == opener.epoch()
            && self.handshake.is_none()
            && !self.closed;
        quiet.then_some(opener)
    }

    /// Takes in a record, opening it in place.
    pub(crate) fn handle_record<'b>(
        &mut self,
        header: &RecordHeader,
        record: &'b mut [u8],
        keying: &Keying,
        now: Instant,
    ) -> Outcome<'b> {
        self.open(header, record, keying, now).unwrap_or_else(|reason| Outcome::of(Opened::Dropped(reason)))
    }

    fn open<'b>(
        &mut self,
        header: &RecordHeader,
        record: &'b mut [u8],
        keying: &Keying,
        now: Instant,
    ) -> Result<Outcome<'b>, DropReason> {
        if self.closed {
            return Err(DropReason::SessionClosed);
        }
        let present = self.keys.as_ref().map_or(0, |keys| keys.opener.epoch());
        if header.epoch == present {
            let Some(keys) = &mut self.keys else {
                return self.handle_clear(header, &record[HEADER_BYTES..], now);
            };
            let plain = keys.opener.open(header, record)?;
            return self.handle_plain(plain, keying, now);
        }
        let Some(handshake) = &mut self.handshake else {
            return Err(DropReason::RecordMisplaced);
        };
        if present.checked_add(1) == Some(header.epoch)
            && header.content == ContentType::Handshake
            && let Some(opener) = handshake.opener()
        {
            let plain = opener.open(header, record)?;
            let progress = handshake.handle_payload(plain.bytes, true, now)?;
            return Ok(self.progressed(progress));
        }
        if header.content == ContentType::ApplicationData
            && let Some(previous) = &mut handshake.previous
        {
            let plain = previous.open(header, record)?;
            return Ok(Outcome::of(packet(plain.bytes)));
        }
        Err(DropReason::RecordMisplaced)
    }

    /// A record of epoch 0 while no keys are in use.
    fn handle_clear<'b>(
        &mut self,
        header: &RecordHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<Outcome<'b>, DropReason> {
        let handshake = self.handshake.as_mut().ok_or(DropReason::RecordMisplaced)?;
        match header.content {
            ContentType::Handshake => {
                let progress = handshake.handle_payload(&payload[..header.len], false, now)?;
                Ok(self.progressed(progress))
            }
            ContentType::ChangeCipherSpec => Ok(Outcome::of(Opened::Handled)),
            ContentType::Alert => Err(DropReason::AlertInClear),
            ContentType::ApplicationData => Err(DropReason::RecordMisplaced),
        }
    }

    /// An authentic record of the present epoch.
    fn handle_plain<'b>(
        &mut self,
        plain: Plain<'b>,
        keying: &Keying,
        now: Instant,
    ) -> Result<Outcome<'b>, DropReason> {
        let newest = plain.newest;
        let outcome = match plain.content {
            ContentType::ApplicationData => {
                if self.handshake.is_some() {
                    self.confirm();
                }
                Outcome::of(packet(plain.bytes))
            }
            ContentType::Handshake => self.handle_handshake(plain.bytes, keying, now)?,
            ContentType::ChangeCipherSpec => Outcome::of(Opened::Handled),
            ContentType::Alert => self.handle_alert(plain.bytes),
        };
        Ok(Outcome { newest, ..outcome })
    }

    /// The peer has packets for us in the present epoch, so it has our last flight.
    #[cold]
    fn confirm(&mut self) {
        if let Some(handshake) = self.handshake.as_mut().filter(|handshake| handshake.is_done()) {
            handshake.confirmed();
            if handshake.is_spent() {
                self.handshake = None;
            }
        }
    }

    fn handle_handshake<'b>(
        &mut self,
        payload: &[u8],
        keying: &Keying,
        now: Instant,
    ) -> Result<Outcome<'b>, DropReason> {
        let first = Fragment::take(&mut Reader::new(payload)).ok_or(DropReason::HandshakeRefused)?;
        if let Some(handshake) = self.handshake.as_mut().filter(|handshake| !handshake.is_done()) {
            let progress = handshake.handle_payload(payload, false, now)?;
            return Ok(self.progressed(progress));
        }
        match (first.kind, self.role) {
            (MessageType::ClientHello, Role::Server) => self.handle_hello(&first, keying, now)?,
            (MessageType::Finished, _) => {
                if let Some(handshake) = &mut self.handshake {
                    handshake.repeat(now);
                }
            }
            (MessageType::HelloRequest, Role::Client) => {
                return Ok(Outcome { change: Some(Change::RekeyAsked), ..Outcome::of(Opened::Handled) });
            }
            _ => return Err(DropReason::HandshakeRefused),
        }
        Ok(Outcome::of(Opened::Handled))
    }

    /// A client wants new keys. A hello that is not bound to the handshake before gets the warning that
    /// RFC 5746 has for it.
    fn handle_hello(
        &mut self,
        first: &Fragment<'_>,
        keying: &Keying,
        now: Instant,
    ) -> Result<(), DropReason> {
        if !first.is_whole() {
            return Err(DropReason::HelloRefused);
        }
        let message = Message::new(first.kind, first.sequence, first.bytes);
        let hello = ClientHello::from_message(&message).ok_or(DropReason::HelloRefused)?;
        let Some(base) = self.next_base().filter(|base| base.bound.is_some()) else {
            self.alert = Some([WARNING, NO_RENEGOTIATION]);
            return Ok(());
        };
        let random = self.next_random(keying, hello.random());
        self.handshake = Some(Box::new(Handshake::server(&hello, keying, random, base, now)?));
        Ok(())
    }

    /// A random for a hello of ours on the live association. It is secret from strangers, and differs with
    /// every handshake, because the first one's random was true entropy and is in what was said at its end.
    fn next_random(&self, keying: &Keying, client_random: [u8; 32]) -> [u8; 32] {
        let bound = self.bound.map(|bound| bound.both()).unwrap_or_default();
        MacKey::new(keying.secret_bytes()).sign(&[b"server random", &bound, &client_random])
    }

    /// What a handshake on the live association starts from; `None` if there can be none.
    fn next_base(&self) -> Option<Base> {
        let keys = self.keys.as_ref().filter(|_| !self.closed)?;
        let epoch = keys.sealer.epoch();
        // The last epoch has no successor (R16).
        epoch.checked_add(1)?;
        let writer = Writer::Sealed(Arc::clone(&keys.sealer));
        Some(Base { writer, epoch, bound: self.bound })
    }

    fn handle_alert<'b>(&mut self, alert: &[u8]) -> Outcome<'b> {
        let end = match *alert {
            [WARNING, NO_RENEGOTIATION] if self.is_negotiating() => {
                let change = self.give_up_rekey();
                return Outcome { change, ..Outcome::of(Opened::Handled) };
            }
            [_, CLOSE_NOTIFY] => ChannelEnd::ClosedByPeer,
            [FATAL, description] => ChannelEnd::Alert(description),
            _ => return Outcome::of(Opened::Handled),
        };
        if end == ChannelEnd::ClosedByPeer {
            self.alert = Some([WARNING, CLOSE_NOTIFY]);
        }
        self.end();
        Outcome { change: Some(Change::Ended(end)), ..Outcome::of(Opened::Handled) }
    }

    fn progressed<'b>(&mut self, progress: Progress) -> Outcome<'b> {
        let change = match progress {
            Progress::Waiting => None,
            Progress::Finished => Some(self.switch()),
            // It counts as over already.
            Progress::Failed if self.keys.is_some() => self.forget_rekey(),
            Progress::Failed => self.give_up(ChannelEnd::HandshakeFailed),
        };
        Outcome { change, ..Outcome::of(Opened::Handled) }
    }

    /// Takes the keys of a finished handshake into use.
    fn switch(&mut self) -> Change {
        let handshake = self.handshake.as_mut().expect("the handshake that finished");
        let keys = handshake.take_keys().expect("a finished handshake has keys");
        self.bound = handshake.verify_data();
        let before = self.keys.replace(Keys { sealer: keys.sealer, opener: keys.opener });
        let change = if before.is_some() { Change::Rekeyed } else { Change::Established };
        handshake.previous = before.map(|keys| keys.opener);
        if handshake.is_spent() {
            self.handshake = None;
        }
        change
    }

    /// Gives up the open handshake, and the association if it was its first.
    fn give_up(&mut self, end: ChannelEnd) -> Option<Change> {
        if self.keys.is_some() {
            return self.give_up_rekey();
        }
        self.end();
        Some(Change::Ended(end))
    }

    /// Gives up new keys; those in use are still good.
    fn give_up_rekey(&mut self) -> Option<Change> {
        if self.is_negotiating() {
            return self.forget_rekey();
        }
        self.handshake = None;
        None
    }

    fn forget_rekey(&mut self) -> Option<Change> {
        self.handshake = None;
        (self.role == Role::Client).then_some(Change::RekeyFailed)
    }

    fn end(&mut self) {
        self.closed = true;
        self.handshake = None;
    }

    /// Sends again what is due, and ends what has waited for too long.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> Option<Change> {
        let handshake = self.handshake.as_mut()?;
        if !handshake.handle_timeout(now) {
            return None;
        }
        self.give_up(ChannelEnd::HandshakeTimedOut)
    }

    /// Writes the next datagram; returns whether there was one.
    pub(crate) fn poll_transmit(&mut self, out: &mut PacketBuf) -> bool {
        if let Some(handshake) = &mut self.handshake
            && handshake.poll_transmit(out)
        {
            return true;
        }
        let Some(alert) = self.alert.take() else {
            return false;
        };
        let Some(keys) = &self.keys else {
            return false;
        };
        out.fill(&alert) && keys.sealer.seal_content(ContentType::Alert, out).is_ok()
    }

    /// When something is due, and what.
    pub(crate) fn deadline(&self) -> Option<Deadline<DtlsTimer>> {
        let handshake = self.handshake.as_ref()?;
        let timer = match (handshake.ends_next(), handshake.is_done()) {
            (false, _) => DtlsTimer::Resend,
            (true, false) => DtlsTimer::GiveUp,
            (true, true) => DtlsTimer::Linger,
        };
        Some(Deadline { at: handshake.due(), timer })
    }

    /// The peer repeats its hello: repeat the answer.
    pub(crate) fn repeat(&mut self, now: Instant) {
        if let Some(handshake) = &mut self.handshake {
            handshake.repeat(now);
        }
    }

    /// The sending half of the present epoch, while the association is open.
    pub(crate) fn sealer(&self) -> Option<&Arc<Sealer>> {
        self.keys.as_ref().filter(|_| !self.closed).map(|keys| &keys.sealer)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.keys.is_some() && !self.closed
    }

    pub(crate) fn is_over(&self) -> bool {
        self.closed
    }

    /// Whether everything is said that there was to say, and the association is over.
    pub(crate) fn is_gone(&self) -> bool {
        self.closed && self.alert.is_none()
    }

    /// Takes the cookie that the server has accepted in the last handshake.
    pub(crate) fn take_cookie(&mut self) -> Vec<u8> {
        let cookie = self.handshake.as_mut().map(|handshake| handshake.take_cookie()).unwrap_or_default();
        self.handshake.take_if(|handshake| handshake.is_spent());
        cookie
    }

    /// Whether a handshake is open.
    pub(crate) fn is_negotiating(&self) -> bool {
        self.handshake.as_ref().is_some_and(|handshake| !handshake.is_done())
    }

    /// As if so many handshakes had been; the keys stay, nothing else may hold them.
    #[cfg(test)]
    pub(crate) fn skip_to_epoch(&mut self, epoch: u16) {
        let keys = self.keys.as_mut().expect("an open association");
        Arc::get_mut(&mut keys.sealer).expect("no handshake has the keys").skip_to_epoch(epoch);
        keys.opener.skip_to_epoch(epoch);
    }

    /// Whether the record is authentic here; changes nothing.
    pub(crate) fn recognizes(&self, header: &RecordHeader, record: &[u8], scratch: &mut Vec<u8>) -> bool {
        let present = self.keys.as_ref().map(|keys| &keys.opener);
        let next = self.handshake.as_ref().and_then(|handshake| handshake.next_opener());
        present.into_iter().chain(next).any(|opener| opener.recognizes(header, record, scratch))
    }
}

/// A packet for the session; an empty record, which some stacks send, is none.
#[inline]
pub(crate) fn packet(bytes: &mut [u8]) -> Opened<'_> {
    if bytes.is_empty() { Opened::Handled } else { Opened::Application(bytes) }
}
