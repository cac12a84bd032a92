//! The server's side of a handshake.

use std::time::Instant;

use zeroize::Zeroizing;

use super::super::flight::{Flight, Item};
use super::super::hello::{ClientHello, ServerHello};
use super::super::keying::{Keying, Secret};
use super::super::keys::{MasterSecret, PSK_BYTES, Randoms, Role};
use super::super::message::{Message, MessageType};
use super::super::reader::Reader;
use super::super::suite::Suite;
use super::{Base, Core, Handshake, Progress, SERVER_PATIENCE};
use crate::drop::DropReason;

/// What the server waits for.
pub(super) enum Stage {
    KeyExchange { suite: Suite, randoms: Randoms, psk: Zeroizing<[u8; PSK_BYTES]>, extended: bool },
    Finished { master: MasterSecret, ending: Ending },
}

/// Who speaks last.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Ours,
    Theirs,
}

impl Handshake {
    /// Answers a ClientHello.
    ///
    /// # Errors
    /// [`DropReason::HelloRefused`]: no suite in common, another session's id, or a renegotiation that is not
    /// bound to the handshake before it.
    pub(crate) fn server(
        hello: &ClientHello<'_>,
        keying: &Keying,
        random: [u8; 32],
        base: Base,
        now: Instant,
    ) -> Result<Self, DropReason> {
        let bound = base.bound;
        match (hello.renegotiation(), bound) {
            (None, None) | (Some([]), None) => {}
            (Some(said), Some(bound)) if said == bound.client => {}
            _ => return Err(DropReason::HelloRefused),
        }
        let both = bound.map(|bound| bound.both());
        let renegotiation = hello.renegotiation().map(|_| both.as_ref().map_or(&[][..], |both| &both[..]));
        let randoms = Randoms { client: hello.random(), server: random };
        let mut core = Core::new(base, hello.message_sequence + 1, hello.message_sequence);
        core.transcript.extend_from_slice(hello.message);
        core.renegotiates = renegotiation.is_some();
        let stage = match &keying.0 {
            Secret::Psk(psk) => {
                let suite =
                    *Suite::PSK.iter().find(|suite| hello.offers(**suite)).ok_or(DropReason::HelloRefused)?;
                let extended = hello.extended_master_secret();
                let answer = ServerHello {
                    random,
                    // Never the client's: that would say that a session is resumed (statement 50).
                    session_id: &[],
                    suite: suite.code(),
                    extended_master_secret: extended,
                    renegotiation,
                };
                let hello = core.say(MessageType::ServerHello, &answer.encode());
                let done = core.say(MessageType::ServerHelloDone, &[]);
                core.flight = Flight::new(vec![Item::Message(hello), Item::Message(done)], now);
                Stage::KeyExchange { suite, randoms, psk: psk.clone(), extended }
            }
            Secret::Preset(preset) => {
                if hello.session_id() != preset.session_id || !hello.offers(preset.suite) {
                    return Err(DropReason::HelloRefused);
                }
                let answer = ServerHello {
                    random,
                    session_id: &preset.session_id,
                    suite: preset.suite.code(),
                    extended_master_secret: false,
                    renegotiation,
                };
                let hello = core.say(MessageType::ServerHello, &answer.encode());
                let master = MasterSecret::preset(preset.suite, &preset.master_secret);
                core.make_keys(Role::Server, preset.suite, &master, &randoms);
                let [change, finished] = core.finish(Role::Server, &master);
                core.flight = Flight::new(vec![Item::Message(hello), change, finished], now);
                Stage::Finished { master, ending: Ending::Theirs }
            }
        };
        Ok(Self {
            stage: super::Stage::Server(stage),
            core,
            give_up_at: now + SERVER_PATIENCE,
            previous: None,
        })
    }
}

impl Stage {
    pub(super) fn expects(&self, kind: MessageType) -> bool {
        match self {
            Self::KeyExchange { .. } => kind == MessageType::ClientKeyExchange,
            Self::Finished { .. } => kind == MessageType::Finished,
        }
    }

    /// Takes the message that was expected.
    pub(super) fn handle(self, core: &mut Core, message: &Message, now: Instant) -> (super::Stage, Progress) {
        match self {
            Self::KeyExchange { .. } if !is_key_exchange(message.body()) => {
                (super::Stage::Done, Progress::Failed)
            }
            Self::KeyExchange { suite, randoms, psk, extended } => {
                core.hear(message);
                let master = match extended {
                    true => MasterSecret::extended(suite, &psk, &core.transcript),
                    false => MasterSecret::plain(suite, &psk, &randoms),
                };
                core.make_keys(Role::Server, suite, &master, &randoms);
                core.flight.answered();
                (super::Stage::Server(Self::Finished { master, ending: Ending::Ours }), Progress::Waiting)
            }
            Self::Finished { master, ending } => {
                if !core.check_finished(Role::Server, &master, message) {
                    return (super::Stage::Done, Progress::Failed);
                }
                core.flight = match ending {
                    Ending::Ours => Flight::last(core.finish(Role::Server, &master).into(), now),
                    Ending::Theirs => Flight::default(),
                };
                (super::Stage::Done, Progress::Finished)
            }
        }
    }
}

/// A PSK identity and nothing else. Whose it is, the App-ID has said already.
fn is_key_exchange(body: &[u8]) -> bool {
    let mut reader = Reader::new(body);
    reader.long().is_some() && reader.is_empty()
}
