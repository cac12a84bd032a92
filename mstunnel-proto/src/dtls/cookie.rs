//! HelloVerifyRequest: a client proves that it receives at its address, and we keep nothing meanwhile.
//!
//! ```text
//! cookie = HMAC-SHA256(key, address | port | hello without its cookie), 32 bytes
//! answer = record 13 | handshake 12 | version 2 | length 1 | cookie 32 = 60 bytes, never more than came
//! ```
//!
//! A key is replaced every [`COOKIE_KEY_LIFETIME`] and the one before is still good, so that a cookie lives
//! for one to two lifetimes. A hello with a wrong cookie is treated as one with none. [`VerifiedHello`] can
//! only be had from here, so no state can be made for an unproven address (R12).
//!
//! # Source
//! RFC 6347 section 4.2.1.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::crypto::{MacKey, equal};
use super::hello::ClientHello;
use super::message::{Message, MessageType};
use super::record::{ContentType, HEADER_BYTES, RecordHeader, VERSION_1_0};
use crate::buf::PacketBuf;
use crate::drop::DropReason;

/// How long a key makes new cookies; a handshake takes seconds.
pub const COOKIE_KEY_LIFETIME: Duration = Duration::from_secs(60);

const COOKIE_BYTES: usize = 32;

/// The shortest hello that is answered: what it must hold to lead to anything is more (protocol.md 5.4).
const MIN_ANSWERED: usize = HEADER_BYTES + 12 + 2 + 1 + COOKIE_BYTES;

/// The keys of the cookies that are in the network now.
pub struct CookieKeys {
    current: MacKey,
    previous: Option<MacKey>,
}

/// What to do with a datagram that starts with a ClientHello.
#[derive(Debug)]
pub enum Greeting<'a> {
    /// The address is proven: look the session up by [`ClientHello::app_id`] and hand the hello to its
    /// channel.
    Verified(VerifiedHello<'a>),
    /// The answer is in the buffer: send it back where the hello came from.
    Answer,
    /// Nothing comes of it.
    Dropped(DropReason),
}

/// A ClientHello from an address that was proven by a cookie.
#[derive(Clone, Copy, Debug)]
pub struct VerifiedHello<'a>(ClientHello<'a>);

impl<'a> std::ops::Deref for VerifiedHello<'a> {
    type Target = ClientHello<'a>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl CookieKeys {
    /// Starts with a key of random bytes.
    pub fn new(entropy: [u8; 32]) -> Self {
        Self { current: MacKey::new(&entropy), previous: None }
    }

    /// Takes a new key of random bytes; due every [`COOKIE_KEY_LIFETIME`].
    pub fn rotate(&mut self, entropy: [u8; 32]) {
        self.previous = Some(std::mem::replace(&mut self.current, MacKey::new(&entropy)));
    }

    /// Looks at a datagram that starts with a ClientHello, as [`is_client_hello`] says.
    ///
    /// Keeps nothing. `answer` is written only for [`Greeting::Answer`], and never longer than `datagram`.
    pub fn greet<'a>(&self, remote: SocketAddr, datagram: &'a [u8], answer: &mut PacketBuf) -> Greeting<'a> {
        let Some(hello) = ClientHello::parse(datagram) else {
            return Greeting::Dropped(DropReason::HelloRefused);
        };
        if self.accepts(remote, &hello) {
            return Greeting::Verified(VerifiedHello(hello));
        }
        if datagram.len() < MIN_ANSWERED {
            return Greeting::Dropped(DropReason::HelloRefused);
        }
        answer.clear();
        if answer.fill(&hello_verify_request(&hello, &cookie(&self.current, remote, &hello))) {
            Greeting::Answer
        } else {
            Greeting::Dropped(DropReason::TooBig)
        }
    }

    fn accepts(&self, remote: SocketAddr, hello: &ClientHello<'_>) -> bool {
        let told = hello.cookie();
        told.len() == COOKIE_BYTES
            && (equal(&cookie(&self.current, remote, hello), told)
                || self.previous.as_ref().is_some_and(|key| equal(&cookie(key, remote, hello), told)))
    }
}

/// Shows no key.
impl std::fmt::Debug for CookieKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CookieKeys(secret)")
    }
}

/// Whether a datagram starts with a ClientHello in clear: for [`CookieKeys::greet`], and not for the channel
/// that is in use at its address.
pub fn is_client_hello(datagram: &[u8]) -> bool {
    matches!(
        RecordHeader::parse(datagram),
        Some(RecordHeader { content: ContentType::Handshake, epoch: 0, .. })
    ) && datagram.get(HEADER_BYTES) == Some(&MessageType::ClientHello.byte())
}

fn cookie(key: &MacKey, remote: SocketAddr, hello: &ClientHello<'_>) -> [u8; COOKIE_BYTES] {
    let [before, after] = hello.around_cookie;
    let port = remote.port().to_be_bytes();
    // The lengths of both parts are fixed by what they hold, so that no two inputs are the same bytes.
    match remote.ip() {
        IpAddr::V4(address) => key.sign(&[b"4", &address.octets(), &port, before, after]),
        IpAddr::V6(address) => key.sign(&[b"6", &address.octets(), &port, before, after]),
    }
}

fn hello_verify_request(hello: &ClientHello<'_>, cookie: &[u8; COOKIE_BYTES]) -> [u8; MIN_ANSWERED] {
    let mut body = VERSION_1_0.to_be_bytes().to_vec();
    body.push(32);
    body.extend_from_slice(cookie);
    let message = Message::new(MessageType::HelloVerifyRequest, hello.message_sequence, &body).bytes;
    let header = RecordHeader {
        content: ContentType::Handshake,
        version: VERSION_1_0,
        epoch: 0,
        sequence: hello.record_sequence,
        len: message.len(),
    };
    let mut datagram = [0; MIN_ANSWERED];
    datagram[..HEADER_BYTES].copy_from_slice(&header.bytes());
    datagram[HEADER_BYTES..].copy_from_slice(&message);
    datagram
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::hello::tests::{datagram, stock};
    use super::super::hello::{ClientHelloBody, tests};
    use super::super::suite::Suite;
    use super::*;

    fn from(last: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], port))
    }

    /// The cookie that `keys` give to a client at `remote`.
    fn cookie_for(keys: &CookieKeys, remote: SocketAddr, first: &[u8]) -> Vec<u8> {
        let mut answer = PacketBuf::new(100);
        assert!(matches!(keys.greet(remote, first, &mut answer), Greeting::Answer));
        assert!(answer.len() <= first.len(), "an answer is never longer than the question");
        answer.as_slice()[HEADER_BYTES + 12 + 3..].to_vec()
    }

    fn verified(keys: &CookieKeys, remote: SocketAddr, datagram: &[u8]) -> bool {
        match keys.greet(remote, datagram, &mut PacketBuf::new(100)) {
            Greeting::Verified(_) => true,
            Greeting::Answer => false,
            Greeting::Dropped(reason) => panic!("{reason}"),
        }
    }

    /// Covers: P-018, R12, statement 52.
    #[test]
    fn a_cookie_is_good_for_its_address_its_port_and_its_hello() {
        let keys = CookieKeys::new([1; 32]);
        let cookie = cookie_for(&keys, from(1, 1000), &stock(&[]));
        let second = stock(&cookie);
        assert!(verified(&keys, from(1, 1000), &second));
        assert!(!verified(&keys, from(2, 1000), &second));
        assert!(!verified(&keys, from(1, 1001), &second));
        let mut other = second.clone();
        other[30] ^= 1;
        assert!(!verified(&keys, from(1, 1000), &other));
        let mut extension = second.clone();
        *extension.last_mut().unwrap() ^= 1;
        assert!(!verified(&keys, from(1, 1000), &extension));
        let mut forged = cookie.clone();
        forged[31] ^= 1;
        assert!(!verified(&keys, from(1, 1000), &stock(&forged)));
        assert!(!verified(&keys, from(1, 1000), &stock(&cookie[..31])));
        assert!(!verified(&CookieKeys::new([2; 32]), from(1, 1000), &second));
    }

    /// Covers: P-018, R12.
    #[test]
    fn a_cookie_outlives_one_rotation_and_not_two() {
        let mut keys = CookieKeys::new([1; 32]);
        let second = stock(&cookie_for(&keys, from(1, 1000), &stock(&[])));
        keys.rotate([2; 32]);
        assert!(verified(&keys, from(1, 1000), &second));
        keys.rotate([3; 32]);
        assert!(!verified(&keys, from(1, 1000), &second));
    }

    /// Covers: P-018, R12: hellos of 60 to 1,400 bytes.
    #[test]
    fn no_hello_is_answered_with_more_than_it_brought() {
        let keys = CookieKeys::new([1; 32]);
        for id in 0..=32 {
            for suites in [&Suite::PSK[..0], Suite::PSK] {
                let body = ClientHelloBody {
                    random: &[1; 32],
                    session_id: &[7; 32][..id],
                    cookie: &[],
                    suites,
                    extended_master_secret: false,
                    renegotiation: &[],
                };
                // Without the extensions: the shortest there is.
                let encoded = body.encode();
                let short = datagram(&encoded[..encoded.len() - 7], 0);
                let mut answer = PacketBuf::new(2000);
                match keys.greet(from(1, 1), &short, &mut answer) {
                    Greeting::Answer => assert!(answer.len() <= short.len()),
                    Greeting::Dropped(reason) => assert_eq!(reason, DropReason::HelloRefused),
                    Greeting::Verified(_) => panic!("there was no cookie"),
                }
            }
        }
        let large = datagram(&[&tests::stock(&[])[25..], &[][..]].concat(), 0);
        assert!(cookie_for(&keys, from(1, 1), &large).len() == COOKIE_BYTES);
    }

    /// The answer is the one that stock clients accept: version 1.0, the numbers of the hello.
    #[test]
    fn the_answer_repeats_the_numbers_of_the_hello() {
        let keys = CookieKeys::new([1; 32]);
        let mut answer = PacketBuf::new(100);
        let mut first = stock(&[]);
        first[10] = 5;
        assert!(matches!(keys.greet(from(1, 1), &first, &mut answer), Greeting::Answer));
        assert_eq!(
            answer.as_slice()[..28],
            *b"\x16\xfe\xff\0\0\0\0\0\0\0\x05\0\x2f\x03\0\0\x23\0\0\0\0\0\0\0\x23\xfe\xff\x20"
        );
    }

    #[test]
    fn only_a_hello_in_clear_is_a_hello() {
        let mut bytes = stock(&[]);
        assert!(is_client_hello(&bytes));
        bytes[13] = 16;
        assert!(!is_client_hello(&bytes));
        let mut bytes = stock(&[]);
        bytes[4] = 1;
        assert!(!is_client_hello(&bytes));
        assert!(!is_client_hello(&bytes[..20]));
    }
}
