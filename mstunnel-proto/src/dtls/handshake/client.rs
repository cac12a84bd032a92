//! The client's side of a handshake.

use std::time::Instant;

use zeroize::Zeroizing;

use super::super::flight::{Flight, Item};
use super::super::hello::{ClientHelloBody, ServerHello};
use super::super::keying::{Keying, Secret};
use super::super::keys::{MasterSecret, PSK_BYTES, Randoms, Role};
use super::super::message::{Message, MessageType};
use super::super::reader::Reader;
use super::super::suite::Suite;
use super::{Base, CLIENT_PATIENCE, Core, Handshake, Progress};

/// How often a server may ask for a cookie: once, and once more when its keys have changed.
const MAX_COOKIES: u8 = 3;

/// The identity that stock clients send; servers know us by the App-ID.
const IDENTITY: &[u8] = b"\x00\x03psk";

/// What our hello says.
pub(crate) struct Start {
    pub(crate) random: [u8; 32],
    pub(crate) session_id: Vec<u8>,
    /// The last cookie that the server asked for: a hello on the live association repeats it, because a server of
    /// OpenSSL with cookies takes one without for unread, and goes on with the randoms of the handshake before.
    pub(crate) cookie: Vec<u8>,
    pub(crate) suites: Vec<Suite>,
}

/// The key exchange that the client is in for.
enum Exchange {
    Psk(Zeroizing<[u8; PSK_BYTES]>),
    Preset(MasterSecret),
}

/// What the client waits for.
pub(super) enum Stage {
    ServerHello(Box<Greeting>),
    HelloDone {
        suite: Suite,
        randoms: Randoms,
        psk: Zeroizing<[u8; PSK_BYTES]>,
        extended: bool,
        hinted: bool,
    },
    Finished {
        master: MasterSecret,
        abbreviated: bool,
    },
}

/// Our hello while it has no answer.
pub(super) struct Greeting {
    start: Start,
    exchange: Exchange,
    cookies: u8,
}

impl Greeting {
    fn hello(&self, core: &mut Core) -> Message {
        let bound = core.base.bound;
        let body = ClientHelloBody {
            random: &self.start.random,
            session_id: &self.start.session_id,
            cookie: &self.start.cookie,
            suites: &self.start.suites,
            extended_master_secret: matches!(self.exchange, Exchange::Psk(_)),
            renegotiation: bound.as_ref().map_or(&[], |bound| &bound.client),
        };
        // Only the hello that is answered is part of the handshake (RFC 6347 section 4.2.1).
        core.transcript.clear();
        core.say(MessageType::ClientHello, &body.encode())
    }
}

impl Handshake {
    /// Says hello.
    pub(crate) fn client(start: Start, keying: &Keying, base: Base, now: Instant) -> Self {
        let exchange = match &keying.0 {
            Secret::Psk(psk) => Exchange::Psk(psk.clone()),
            Secret::Preset(preset) => {
                Exchange::Preset(MasterSecret::preset(preset.suite, &preset.master_secret))
            }
        };
        let greeting = Box::new(Greeting { start, exchange, cookies: 0 });
        let mut core = Core::new(base, 0, 0);
        let hello = greeting.hello(&mut core);
        core.flight = Flight::new(vec![Item::Message(hello)], now);
        Self {
            stage: super::Stage::Client(Stage::ServerHello(greeting)),
            core,
            give_up_at: now + CLIENT_PATIENCE,
            previous: None,
        }
    }
}

impl Stage {
    pub(super) fn expects(&self, kind: MessageType) -> bool {
        match self {
            Self::ServerHello(_) => {
                matches!(kind, MessageType::HelloVerifyRequest | MessageType::ServerHello)
            }
            Self::HelloDone { hinted: false, .. } => {
                matches!(kind, MessageType::ServerKeyExchange | MessageType::ServerHelloDone)
            }
            Self::HelloDone { hinted: true, .. } => kind == MessageType::ServerHelloDone,
            Self::Finished { .. } => kind == MessageType::Finished,
        }
    }

    /// Takes the message that was expected.
    pub(super) fn handle(self, core: &mut Core, message: &Message, now: Instant) -> (super::Stage, Progress) {
        let next = match self {
            Self::ServerHello(greeting) if message.kind == MessageType::HelloVerifyRequest => {
                greeting.challenged(core, message.body(), now)
            }
            Self::ServerHello(greeting) => (*greeting).answered(core, message),
            // An identity hint says nothing to us: we have one identity only.
            Self::HelloDone { suite, randoms, psk, extended, hinted: false }
                if message.kind == MessageType::ServerKeyExchange =>
            {
                core.hear(message);
                Some(Self::HelloDone { suite, randoms, psk, extended, hinted: true })
            }
            Self::HelloDone { .. } if !message.body().is_empty() => None,
            Self::HelloDone { suite, randoms, psk, extended, .. } => {
                core.hear(message);
                let exchange = core.say(MessageType::ClientKeyExchange, IDENTITY);
                let master = match extended {
                    true => MasterSecret::extended(suite, &psk, &core.transcript),
                    false => MasterSecret::plain(suite, &psk, &randoms),
                };
                core.make_keys(Role::Client, suite, &master, &randoms);
                let [change, finished] = core.finish(Role::Client, &master);
                core.flight = Flight::new(vec![Item::Message(exchange), change, finished], now);
                Some(Self::Finished { master, abbreviated: false })
            }
            Self::Finished { master, abbreviated } => {
                if !core.check_finished(Role::Client, &master, message) {
                    return (super::Stage::Done, Progress::Failed);
                }
                core.flight = match abbreviated {
                    true => Flight::last(core.finish(Role::Client, &master).into(), now),
                    false => Flight::default(),
                };
                return (super::Stage::Done, Progress::Finished);
            }
        };
        match next {
            Some(stage) => (super::Stage::Client(stage), Progress::Waiting),
            None => (super::Stage::Done, Progress::Failed),
        }
    }
}

impl Greeting {
    /// Says hello again with the cookie that the server asks for.
    fn challenged(mut self: Box<Self>, core: &mut Core, body: &[u8], now: Instant) -> Option<Stage> {
        let cookie = cookie_of(body).filter(|_| self.cookies < MAX_COOKIES)?;
        self.cookies += 1;
        self.start.cookie = cookie.to_vec();
        let hello = self.hello(core);
        core.flight = Flight::new(vec![Item::Message(hello)], now);
        Some(Stage::ServerHello(self))
    }

    /// Goes on from a ServerHello; `None` if it answers something that we have not said.
    fn answered(mut self, core: &mut Core, message: &Message) -> Option<Stage> {
        let hello = ServerHello::parse(message.body())?;
        let suite = *self.start.suites.iter().find(|suite| suite.code() == hello.suite)?;
        let bound = core.base.bound.map(|bound| bound.both());
        match (hello.renegotiation, &bound) {
            (None | Some([]), None) => {}
            (Some(said), Some(bound)) if said == bound => {}
            _ => return None,
        }
        core.renegotiates = hello.renegotiation.is_some();
        // The hello is said again until the whole of the server's flight is there (RFC 6347 section 4.2.4).
        core.hear(message);
        core.cookie = std::mem::take(&mut self.start.cookie);
        let randoms = Randoms { client: self.start.random, server: hello.random };
        let resumes = !hello.session_id.is_empty() && hello.session_id == self.start.session_id;
        match self.exchange {
            Exchange::Psk(psk) if !resumes => {
                let extended = hello.extended_master_secret;
                Some(Stage::HelloDone { suite, randoms, psk, extended, hinted: false })
            }
            Exchange::Preset(master) if resumes && !hello.extended_master_secret => {
                core.make_keys(Role::Client, suite, &master, &randoms);
                Some(Stage::Finished { master, abbreviated: true })
            }
            // The other kind of handshake than ours: somebody in the middle (protocol.md 5.9).
            Exchange::Psk(_) | Exchange::Preset(_) => None,
        }
    }
}

/// The cookie of a HelloVerifyRequest; its version says nothing.
fn cookie_of(body: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(body);
    let _version = reader.u16()?;
    reader.short().filter(|_| reader.is_empty())
}
