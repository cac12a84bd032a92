//! Hellos: what a ClientHello says, and both hellos as we say them.
//!
//! ```text
//! ClientHello   version | random 32 | session id 0..32 | cookie 0..255 | suites | compression | extensions
//! ServerHello   version | random 32 | session id 0..32 | suite | compression | extensions
//! ```
//!
//! A ClientHello names its session by the extension 48018 or, as every released client does, by its session
//! id; the extension wins (statements 47, 48).
//!
//! # Source
//! RFC 5246 section 7.4.1, RFC 6347 section 4.2.1, RFC 5746, RFC 7627; protocol.md 5.2 to 5.4.

use super::keys::VERIFY_BYTES;
use super::message::{Fragment, Message, MessageType};
use super::reader::Reader;
use super::reassembly::MAX_HANDSHAKE_MESSAGES;
use super::record::{ContentType, HEADER_BYTES, RecordHeader, VERSION_1_2};
use super::suite::Suite;

/// The longest App-ID: the length of a session id.
pub const MAX_APP_ID: usize = 32;

const EXTENDED_MASTER_SECRET: u16 = 0x0017;
const APP_ID: u16 = 48018;
const RENEGOTIATION_INFO: u16 = 0xff01;
const RENEGOTIATION_SCSV: u16 = 0x00ff;
const NO_COMPRESSION: u8 = 0;

/// A ClientHello, as far as we care, on the bytes that came.
#[derive(Clone, Copy)]
pub struct ClientHello<'a> {
    /// The handshake message: header and body.
    pub(crate) message: &'a [u8],
    pub(crate) message_sequence: u16,
    /// The record's sequence number, which an answer without state repeats.
    pub(crate) record_sequence: u64,
    /// Everything before and after the cookie.
    pub(crate) around_cookie: [&'a [u8]; 2],
    random: [u8; 32],
    session_id: &'a [u8],
    cookie: &'a [u8],
    suites: &'a [u8],
    app_id: Option<&'a [u8]>,
    extended_master_secret: bool,
    renegotiation: Option<&'a [u8]>,
}

impl<'a> ClientHello<'a> {
    /// Reads the ClientHello that `datagram` starts with: in clear, in one piece, in the first record.
    ///
    /// `None` if it is no such thing, if it does not speak DTLS 1.2 without compression, or if its random is
    /// all zero (R14). Never allocates.
    pub fn parse(datagram: &'a [u8]) -> Option<Self> {
        let header = RecordHeader::parse(datagram)?;
        if header.content != ContentType::Handshake || header.epoch != 0 {
            return None;
        }
        let payload = &datagram[HEADER_BYTES..HEADER_BYTES + header.len];
        let mut reader = Reader::new(payload);
        let fragment = Fragment::take(&mut reader)?;
        if !fragment.is_whole() || !reader.is_empty() {
            return None;
        }
        Self::read(&fragment, payload, header.sequence)
    }

    /// Reads a ClientHello that came through the keys in use.
    pub(crate) fn from_message(message: &'a Message) -> Option<Self> {
        let fragment = Fragment::take(&mut Reader::new(&message.bytes))?;
        Self::read(&fragment, &message.bytes, 0)
    }

    fn read(fragment: &Fragment<'a>, message: &'a [u8], record_sequence: u64) -> Option<Self> {
        if fragment.kind != MessageType::ClientHello {
            return None;
        }
        let body = fragment.bytes;
        let mut reader = Reader::new(body);
        let version = reader.u16()?;
        let random = reader.array::<32>()?;
        let session_id = reader.short().filter(|id| id.len() <= 32)?;
        let before_cookie = 2 + 32 + 1 + session_id.len();
        let cookie = reader.short()?;
        let suites = reader.long().filter(|suites| suites.len() % 2 == 0)?;
        let compression = reader.short()?;
        // DTLS versions count downwards.
        if !(0xfe00..=VERSION_1_2).contains(&version) || !compression.contains(&NO_COMPRESSION) {
            return None;
        }
        // The numbers of the messages that follow must not run out.
        if random == [0; 32] || fragment.sequence > u16::MAX - MAX_HANDSHAKE_MESSAGES {
            return None;
        }
        let mut hello = Self {
            message,
            message_sequence: fragment.sequence,
            record_sequence,
            around_cookie: [&body[..before_cookie], &body[before_cookie + 1 + cookie.len()..]],
            random,
            session_id,
            cookie,
            suites,
            app_id: None,
            extended_master_secret: false,
            renegotiation: None,
        };
        if reader.is_empty() {
            return Some(hello);
        }
        let mut extensions = Reader::new(reader.long()?);
        while !extensions.is_empty() {
            let (kind, value) = (extensions.u16()?, extensions.long()?);
            match kind {
                EXTENDED_MASTER_SECRET => hello.extended_master_secret = true,
                RENEGOTIATION_INFO => hello.renegotiation = Some(whole(value)?),
                APP_ID => hello.app_id = Some(whole(value)?),
                _ => {}
            }
        }
        reader.is_empty().then_some(hello)
    }

    /// What names the session: the extension 48018, else the session id; `None` if there is neither, or it is
    /// longer than [`MAX_APP_ID`].
    pub fn app_id(&self) -> Option<&'a [u8]> {
        let id = self.app_id.unwrap_or(self.session_id);
        (1..=MAX_APP_ID).contains(&id.len()).then_some(id)
    }

    /// The session id.
    pub fn session_id(&self) -> &'a [u8] {
        self.session_id
    }

    /// The client's random.
    pub fn random(&self) -> [u8; 32] {
        self.random
    }

    /// The cookie; empty in a first hello.
    pub fn cookie(&self) -> &'a [u8] {
        self.cookie
    }

    /// Whether the client offers `suite`.
    pub fn offers(&self, suite: Suite) -> bool {
        self.offers_code(suite.code())
    }

    /// Whether the client binds the master secret to the handshake (RFC 7627).
    pub fn extended_master_secret(&self) -> bool {
        self.extended_master_secret
    }

    /// What the client says about the handshake before: `None` if it cannot renegotiate securely, empty in a
    /// first handshake (RFC 5746).
    pub(crate) fn renegotiation(&self) -> Option<&'a [u8]> {
        self.renegotiation.or(self.offers_code(RENEGOTIATION_SCSV).then_some(&[]))
    }

    fn offers_code(&self, code: u16) -> bool {
        self.suites.chunks_exact(2).any(|pair| pair == code.to_be_bytes())
    }
}

/// Does not show the App-ID: whoever knows it can start handshakes of the session.
impl std::fmt::Debug for ClientHello<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientHello")
            .field("len", &self.message.len())
            .field("cookie_len", &self.cookie.len())
            .finish_non_exhaustive()
    }
}

/// A field with a length of one byte that fills `value`.
fn whole(value: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(value);
    reader.short().filter(|_| reader.is_empty())
}

/// The body of a ClientHello of our client.
pub(crate) struct ClientHelloBody<'a> {
    pub(crate) random: &'a [u8; 32],
    pub(crate) session_id: &'a [u8],
    pub(crate) cookie: &'a [u8],
    pub(crate) suites: &'a [Suite],
    pub(crate) extended_master_secret: bool,
    pub(crate) renegotiation: &'a [u8],
}

impl ClientHelloBody<'_> {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = VERSION_1_2.to_be_bytes().to_vec();
        body.extend_from_slice(self.random);
        put_short(&mut body, self.session_id);
        put_short(&mut body, self.cookie);
        let suites: Vec<u8> = self.suites.iter().flat_map(|suite| suite.code().to_be_bytes()).collect();
        put_long(&mut body, &suites);
        put_short(&mut body, &[NO_COMPRESSION]);
        put_extensions(&mut body, self.extended_master_secret, Some(self.renegotiation));
        body
    }
}

/// A ServerHello: what it says, both ways.
pub(crate) struct ServerHello<'a> {
    pub(crate) random: [u8; 32],
    pub(crate) session_id: &'a [u8],
    pub(crate) suite: u16,
    pub(crate) extended_master_secret: bool,
    pub(crate) renegotiation: Option<&'a [u8]>,
}

impl<'a> ServerHello<'a> {
    pub(crate) fn parse(body: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(body);
        if reader.u16()? != VERSION_1_2 {
            return None;
        }
        let random = reader.array()?;
        let session_id = reader.short().filter(|id| id.len() <= 32)?;
        let suite = reader.u16()?;
        if reader.u8()? != NO_COMPRESSION {
            return None;
        }
        let mut hello =
            Self { random, session_id, suite, extended_master_secret: false, renegotiation: None };
        if reader.is_empty() {
            return Some(hello);
        }
        let mut extensions = Reader::new(reader.long()?);
        while !extensions.is_empty() {
            let (kind, value) = (extensions.u16()?, extensions.long()?);
            match kind {
                EXTENDED_MASTER_SECRET => hello.extended_master_secret = true,
                RENEGOTIATION_INFO => hello.renegotiation = Some(whole(value)?),
                _ => {}
            }
        }
        reader.is_empty().then_some(hello)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut body = VERSION_1_2.to_be_bytes().to_vec();
        body.extend_from_slice(&self.random);
        put_short(&mut body, self.session_id);
        body.extend_from_slice(&self.suite.to_be_bytes());
        body.push(NO_COMPRESSION);
        if self.extended_master_secret || self.renegotiation.is_some() {
            put_extensions(&mut body, self.extended_master_secret, self.renegotiation);
        }
        body
    }
}

/// What each side said in its last Finished, for the renegotiation after it.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct VerifyData {
    pub(crate) client: [u8; VERIFY_BYTES],
    pub(crate) server: [u8; VERIFY_BYTES],
}

impl VerifyData {
    /// Both, the client's first.
    pub(crate) fn both(&self) -> [u8; 2 * VERIFY_BYTES] {
        let mut both = [0; 2 * VERIFY_BYTES];
        both[..VERIFY_BYTES].copy_from_slice(&self.client);
        both[VERIFY_BYTES..].copy_from_slice(&self.server);
        both
    }
}

fn put_extensions(body: &mut Vec<u8>, extended_master_secret: bool, renegotiation: Option<&[u8]>) {
    let mut extensions = Vec::new();
    if extended_master_secret {
        extensions.extend_from_slice(&EXTENDED_MASTER_SECRET.to_be_bytes());
        put_long(&mut extensions, &[]);
    }
    if let Some(bound) = renegotiation {
        extensions.extend_from_slice(&RENEGOTIATION_INFO.to_be_bytes());
        let mut value = Vec::new();
        put_short(&mut value, bound);
        put_long(&mut extensions, &value);
    }
    put_long(body, &extensions);
}

fn put_short(body: &mut Vec<u8>, field: &[u8]) {
    body.push(u8::try_from(field.len()).expect("a field of ours is short"));
    body.extend_from_slice(field);
}

fn put_long(body: &mut Vec<u8>, field: &[u8]) {
    body.extend_from_slice(&u16::try_from(field.len()).expect("a field of ours is short").to_be_bytes());
    body.extend_from_slice(field);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The first datagram of stock openconnect 9.01 (protocol.md 5.2), random and App-ID replaced.
    pub(crate) fn stock(cookie: &[u8]) -> Vec<u8> {
        let mut body = b"\xfe\xfd".to_vec();
        body.extend_from_slice(&[0xa7; 32]);
        put_short(&mut body, &[0xbe; 32]);
        put_short(&mut body, cookie);
        put_long(&mut body, b"\x00\xa9\xcc\xab\xc0\xa5\x00\x8d\x00\xa8\xc0\xa4\x00\x8c\x00\xae");
        put_short(&mut body, &[0]);
        put_long(
            &mut body,
            b"\x00\x0d\x00\x22\x00\x20\x04\x01\x08\x09\x08\x04\x04\x03\x08\x07\x05\x01\x08\x0a\x08\x05\x05\x03\
              \x08\x08\x06\x01\x08\x0b\x08\x06\x06\x03\x02\x01\x02\x03\x00\x23\x00\x00\xff\x01\x00\x01\x00\
              \x00\x1c\x00\x02\x40\x00",
        );
        let sequence = u16::from(!cookie.is_empty());
        datagram(&body, sequence)
    }

    /// A hello body as the first datagram of a handshake.
    pub(crate) fn datagram(body: &[u8], sequence: u16) -> Vec<u8> {
        let message = Message::new(MessageType::ClientHello, sequence, body);
        let header = RecordHeader {
            content: ContentType::Handshake,
            version: super::super::record::VERSION_1_0,
            epoch: 0,
            sequence: sequence.into(),
            len: message.bytes.len(),
        };
        [&header.bytes()[..], &message.bytes].concat()
    }

    /// Covers: statements 47, 49, 51.
    #[test]
    fn the_stock_clients_hello_is_understood() {
        let bytes = stock(&[]);
        assert_eq!(bytes.len(), 168);
        let hello = ClientHello::parse(&bytes).unwrap();
        assert_eq!(hello.app_id(), Some(&[0xbe; 32][..]));
        assert_eq!(hello.random(), [0xa7; 32]);
        assert!(Suite::PSK.iter().all(|&suite| hello.offers(suite)));
        assert!(!hello.offers(Suite::RsaAes128Gcm));
        assert!(!hello.extended_master_secret());
        assert_eq!(hello.renegotiation(), Some(&[][..]));
        assert!(hello.cookie().is_empty());
    }

    #[test]
    fn no_cut_hello_is_a_hello() {
        let bytes = stock(&[9; 32]);
        assert_eq!(ClientHello::parse(&bytes).unwrap().cookie(), [9; 32]);
        for cut in 0..bytes.len() {
            assert!(ClientHello::parse(&bytes[..cut]).is_none(), "{cut}");
        }
        // A cut body whose lengths were made to agree must not be read beyond itself either; only the border
        // between compression and extensions makes a hello.
        let body = &bytes[HEADER_BYTES + 12..];
        let good = (0..body.len()).filter(|&cut| ClientHello::parse(&datagram(&body[..cut], 0)).is_some());
        assert_eq!(good.collect::<Vec<_>>(), [2 + 32 + 33 + 33 + 18 + 2]);
    }

    /// Covers: P-020, R14.
    #[test]
    fn a_random_of_zeros_is_refused() {
        let mut bytes = stock(&[]);
        bytes[27..59].fill(0);
        assert!(ClientHello::parse(&bytes).is_none());
        bytes[58] = 1;
        assert!(ClientHello::parse(&bytes).is_some());
    }

    /// Covers: R11: no DTLS 1.0.
    #[test]
    fn an_older_version_is_refused() {
        for version in [[0xfe, 0xff], [0xfe, 0xfe], [0x01, 0x00], [0x03, 0x03]] {
            let mut bytes = stock(&[]);
            bytes[25..27].copy_from_slice(&version);
            assert!(ClientHello::parse(&bytes).is_none(), "{version:?}");
        }
    }

    /// Covers: statement 48: the extension wins.
    #[test]
    fn the_extension_names_the_session_before_the_session_id() {
        let stock = stock(&[]);
        let mut body = stock[HEADER_BYTES + 12..stock.len() - 55].to_vec();
        put_long(&mut body, b"\xbb\x92\x00\x03\x02id");
        let bytes = datagram(&body, 0);
        assert_eq!(ClientHello::parse(&bytes).unwrap().app_id(), Some(&b"id"[..]));
    }

    #[test]
    fn hellos_of_ours_are_read_back() {
        let body = ClientHelloBody {
            random: &[1; 32],
            session_id: &[2; 32],
            cookie: &[3; 20],
            suites: Suite::PSK,
            extended_master_secret: true,
            renegotiation: &[4; 12],
        };
        let bytes = datagram(&body.encode(), 1);
        let hello = ClientHello::parse(&bytes).unwrap();
        assert!(bytes.len() >= 93, "statement 58");
        assert_eq!((hello.cookie(), hello.session_id()), (&[3; 20][..], &[2; 32][..]));
        assert!(hello.extended_master_secret());
        assert_eq!(hello.renegotiation(), Some(&[4; 12][..]));

        let body = ServerHello {
            random: [5; 32],
            session_id: &[],
            suite: 0x00a9,
            extended_master_secret: false,
            renegotiation: Some(&[]),
        }
        .encode();
        assert_eq!(body.len(), 2 + 32 + 1 + 2 + 1 + 2 + 5);
        let hello = ServerHello::parse(&body).unwrap();
        assert_eq!((hello.random, hello.suite, hello.renegotiation), ([5; 32], 0x00a9, Some(&[][..])));
    }
}
