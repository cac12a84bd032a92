//! One handshake, of either role, full with a pre-shared key or abbreviated with a preset master secret.
//!
//! ```text
//! full      C: ClientHello                                     (HelloVerifyRequest before it: cookie.rs)
//!           S: ServerHello  ServerHelloDone
//!           C: ClientKeyExchange  [ChangeCipherSpec]  Finished
//!           S: [ChangeCipherSpec]  Finished
//! abbreviated
//!           C: ClientHello
//!           S: ServerHello  [ChangeCipherSpec]  Finished
//!           C: [ChangeCipherSpec]  Finished
//!
//! server    KeyExchange --ClientKeyExchange--> Finished --Finished--> Done      (abbreviated: from Finished)
//! client    ServerHello --ServerHello--> HelloDone --ServerHelloDone--> Finished --Finished--> Done
//!              \__________________________(abbreviated)___________________/
//! ```
//!
//! A ChangeCipherSpec that comes is ignored: which keys a record was made with, its epoch says, and a record
//! that nobody authenticated switches nothing (R15). A handshake is on the heap and goes when it is over.

mod client;
mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use client::Start;

use super::flight::{Flight, Item, Writer};
use super::hello::VerifyData;
use super::keys::{MasterSecret, Randoms, Role, VERIFY_BYTES};
use super::message::{Fragment, Message, MessageType};
use super::reader::Reader;
use super::reassembly::{Placed, Reassembly};
use super::seal::{Opener, Sealer};
use super::suite::Suite;
use crate::buf::PacketBuf;
use crate::drop::DropReason;

/// How long a server keeps a handshake that does not finish (R17).
pub const SERVER_PATIENCE: Duration = Duration::from_secs(10);

/// How long a client tries (statement 60).
pub const CLIENT_PATIENCE: Duration = Duration::from_secs(12);

/// How long the last flight, and the keys of the epoch before, are kept for a peer who missed something: a
/// client gives up after 12 s.
pub const LINGER: Duration = Duration::from_secs(15);

/// The keys that a handshake makes.
pub(crate) struct NextEpoch {
    pub(crate) sealer: Arc<Sealer>,
    pub(crate) opener: Opener,
}

/// What a handshake starts from.
pub(crate) struct Base {
    /// How its first records are written.
    pub(crate) writer: Writer,
    /// Their epoch.
    pub(crate) epoch: u16,
    /// What was said in the handshake before, if there was one.
    pub(crate) bound: Option<VerifyData>,
}

enum Stage {
    Server(server::Stage),
    Client(client::Stage),
    Done,
}

impl Stage {
    fn expects(&self, kind: MessageType) -> bool {
        match self {
            Self::Server(stage) => stage.expects(kind),
            Self::Client(stage) => stage.expects(kind),
            Self::Done => false,
        }
    }
}

/// What became of a handshake by what it was given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It goes on.
    Waiting,
    /// It is over; take the keys.
    Finished,
    /// The peer, who has the keys or claims what cannot be, contradicts it: it cannot succeed.
    Failed,
}

/// A handshake.
pub(crate) struct Handshake {
    stage: Stage,
    core: Core,
    give_up_at: Instant,
    /// The keys of the epoch before this one, for records that were overtaken.
    pub(crate) previous: Option<Opener>,
}

/// What both roles have.
struct Core {
    base: Base,
    transcript: Vec<u8>,
    incoming: Reassembly,
    /// The number of our next message.
    next_message: u16,
    flight: Flight,
    /// The suite, once it is chosen.
    suite: Option<Suite>,
    sealer: Option<Arc<Sealer>>,
    opener: Option<Opener>,
    verify: VerifyData,
    /// Whether the peer can renegotiate securely.
    renegotiates: bool,
    /// The cookie that the server has accepted from us.
    cookie: Vec<u8>,
}

impl Core {
    fn new(base: Base, expected: u16, next_message: u16) -> Self {
        Self {
            base,
            transcript: Vec::new(),
            incoming: Reassembly::new(expected),
            next_message,
            flight: Flight::default(),
            suite: None,
            sealer: None,
            opener: None,
            verify: VerifyData::default(),
            renegotiates: false,
            cookie: Vec::new(),
        }
    }

    /// Makes our next message.
    fn say(&mut self, kind: MessageType, body: &[u8]) -> Message {
        let message = Message::new(kind, self.next_message, body);
        self.next_message += 1;
        self.transcript.extend_from_slice(&message.bytes);
        message
    }

    /// Remembers a message of the peer.
    fn hear(&mut self, message: &Message) {
        self.transcript.extend_from_slice(&message.bytes);
    }

    /// Makes the keys of the next epoch.
    fn make_keys(&mut self, role: Role, suite: Suite, master: &MasterSecret, randoms: &Randoms) {
        let epoch = self.base.epoch + 1;
        let [client, server] = master.key_block(randoms);
        let (ours, theirs) = match role {
            Role::Client => (client, server),
            Role::Server => (server, client),
        };
        self.sealer = Some(Arc::new(Sealer::new(suite, epoch, ours)));
        self.opener = Some(Opener::new(suite, epoch, theirs));
        self.suite = Some(suite);
    }

    /// Our ChangeCipherSpec and Finished.
    fn finish(&mut self, role: Role, master: &MasterSecret) -> [Item; 2] {
        let verify = master.verify_data(role, &self.transcript);
        *self.verify_of(role) = verify;
        [Item::ChangeCipherSpec, Item::Protected(self.say(MessageType::Finished, &verify))]
    }

    /// Checks the peer's Finished against everything before it.
    fn check_finished(&mut self, role: Role, master: &MasterSecret, message: &Message) -> bool {
        let verify = master.verify_data(role.peer(), &self.transcript);
        *self.verify_of(role.peer()) = verify;
        self.hear(message);
        super::crypto::equal(&verify, message.body())
    }

    fn verify_of(&mut self, role: Role) -> &mut [u8; VERIFY_BYTES] {
        match role {
            Role::Client => &mut self.verify.client,
            Role::Server => &mut self.verify.server,
        }
    }
}

impl Handshake {
    /// Takes in the payload of a handshake record; `protected` says that it came in the next epoch.
    ///
    /// # Errors
    /// The reason for which the record, or the rest of it, is dropped; the handshake is as it was.
    pub(crate) fn handle_payload(
        &mut self,
        payload: &[u8],
        protected: bool,
        now: Instant,
    ) -> Result<Progress, DropReason> {
        let mut reader = Reader::new(payload);
        let mut repeated = false;
        let mut progress = Progress::Waiting;
        while !reader.is_empty() {
            let fragment = Fragment::take(&mut reader).ok_or(DropReason::HandshakeRefused)?;
            if self.core.base.epoch > 0 {
                // Who asks for what is going on has not seen our hello yet. It is no part of this handshake...
                if fragment.kind == MessageType::HelloRequest {
                    continue;
                }
                // ... but is counted with it, seen or not.
                if fragment.kind == MessageType::ServerHello {
                    self.core.incoming.begin_at(fragment.sequence);
                }
            }
            match self.core.incoming.handle_fragment(&fragment, protected)? {
                Placed::Old => repeated = true,
                Placed::Kept => {}
            }
            loop {
                let stage = &self.stage;
                let acceptable =
                    |kind, protected| stage.expects(kind) && (kind == MessageType::Finished) == protected;
                let Some(message) = self.core.incoming.poll_message(acceptable)? else {
                    break;
                };
                progress = self.handle_message(&message, now);
                if progress != Progress::Waiting {
                    return Ok(progress);
                }
            }
        }
        // After the end only what is authentic makes us repeat the last flight.
        if repeated && (protected || !self.is_done()) {
            self.core.flight.repeat(now);
        }
        Ok(progress)
    }

    fn handle_message(&mut self, message: &Message, now: Instant) -> Progress {
        let (stage, progress) = match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Server(stage) => stage.handle(&mut self.core, message, now),
            Stage::Client(stage) => stage.handle(&mut self.core, message, now),
            Stage::Done => (Stage::Done, Progress::Failed),
        };
        self.stage = stage;
        if progress == Progress::Finished {
            self.give_up_at = now + LINGER;
        }
        progress
    }

    /// Sends again what is due; returns whether the time is up.
    pub(crate) fn handle_timeout(&mut self, now: Instant) -> bool {
        self.core.flight.handle_timeout(now);
        now >= self.give_up_at
    }

    /// When something is due: a flight, or the end.
    pub(crate) fn due(&self) -> Instant {
        self.core.flight.due().map_or(self.give_up_at, |due| due.min(self.give_up_at))
    }

    /// Whether the next thing due is the end.
    pub(crate) fn ends_next(&self) -> bool {
        self.due() == self.give_up_at
    }

    /// Whether the handshake is over and only lingers.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.stage, Stage::Done)
    }

    /// Whether nothing is kept for the peer any more.
    pub(crate) fn is_spent(&self) -> bool {
        self.is_done()
            && self.core.flight.is_empty()
            && self.previous.is_none()
            && self.core.cookie.is_empty()
    }

    /// Takes the cookie that the server has accepted from us.
    pub(crate) fn take_cookie(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.core.cookie)
    }

    /// The peer has used the new keys: it has our last flight.
    pub(crate) fn confirmed(&mut self) {
        self.core.flight.answered();
    }

    /// The peer says its last flight again: say ours.
    pub(crate) fn repeat(&mut self, now: Instant) {
        self.core.flight.repeat(now);
    }

    /// Writes the next datagram; returns whether there was one.
    pub(crate) fn poll_transmit(&mut self, out: &mut PacketBuf) -> bool {
        self.core.flight.poll_transmit(&mut self.core.base.writer, self.core.sealer.as_ref(), out)
    }

    /// The receiving half of the next epoch, as soon as there is one.
    pub(crate) fn opener(&mut self) -> Option<&mut Opener> {
        self.core.opener.as_mut()
    }

    /// The same, to look at.
    pub(crate) fn next_opener(&self) -> Option<&Opener> {
        self.core.opener.as_ref()
    }

    /// Takes the keys of a finished handshake.
    pub(crate) fn take_keys(&mut self) -> Option<NextEpoch> {
        let sealer = Arc::clone(self.core.sealer.as_ref()?);
        Some(NextEpoch { sealer, opener: self.core.opener.take()? })
    }

    /// What both sides said at the end, if a renegotiation may be bound to it.
    pub(crate) fn verify_data(&self) -> Option<VerifyData> {
        self.core.renegotiates.then_some(self.core.verify)
    }
}
