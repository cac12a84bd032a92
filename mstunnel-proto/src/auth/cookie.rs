//! Cookies: the secret that a login ends with, and the hash that is all we keep of it.
//!
//! ```text
//! Set-Cookie: webvpn=<base64, 44 characters> ── 32 random bytes ── SHA-256 ──> CookieHash (stored, shared)
//! ```
//!
//! A value that is not exactly the canonical base64 of 32 bytes is no cookie at all: it is refused
//! before anything is looked up. A cookie never prints itself, and its bytes are wiped when it goes.
//!
//! # Source
//! Names and alphabet: protocol.md sections 2.5 and 9.11; the rules: threats.md R31.

use std::{cmp::Ordering, fmt};

use aws_lc_rs::{constant_time, digest};
use base64::{Engine, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// The length of a cookie: 256 bits, so that guessing is not a plan.
pub const COOKIE_BYTES: usize = 32;

/// The length of a cookie on the wire: base64 with padding.
pub const COOKIE_TEXT_BYTES: usize = 44;

/// A session secret, or the name of a login conversation. Exists only between the wire and its hash.
pub struct Cookie(Zeroizing<[u8; COOKIE_BYTES]>);

impl Cookie {
    /// Makes a cookie of bytes that the caller took from the operating system's generator.
    pub fn from_random(bytes: [u8; COOKIE_BYTES]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Reads a cookie value as a client sends it.
    ///
    /// Anything but the one canonical spelling of 32 bytes is `None`: other lengths, other
    /// alphabets, missing padding, non-zero spare bits.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != COOKIE_TEXT_BYTES {
            return None;
        }
        let mut bytes = Zeroizing::new([0u8; COOKIE_BYTES]);
        // The decoder wants room for the estimate of 33 bytes.
        let mut room = Zeroizing::new([0u8; COOKIE_BYTES + 1]);
        let len = STANDARD.decode_slice(text, room.as_mut_slice()).ok()?;
        if len != COOKIE_BYTES {
            return None;
        }
        bytes.copy_from_slice(&room[..COOKIE_BYTES]);
        Some(Self(bytes))
    }

    /// Returns the value for a `Set-Cookie` line. The caller's copy is a secret too.
    pub fn text(&self) -> String {
        STANDARD.encode(self.0.as_slice())
    }

    /// Returns what is stored of this cookie.
    pub fn hash(&self) -> CookieHash {
        CookieHash::of(self.0.as_slice())
    }

    /// Returns the value that the success answer gives to `webvpncontext`.
    ///
    /// Clients expect one there; the conversation is over, so it names nothing and opens nothing.
    pub(crate) fn spent_context(&self) -> Self {
        let mut input = Zeroizing::new(b"mstunnel spent context ".to_vec());
        input.extend_from_slice(self.0.as_slice());
        Self::from_random(CookieHash::of(&input).0)
    }
}

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cookie(secret)")
    }
}

/// SHA-256 of a cookie: what session records hold and sites share.
///
/// Equality takes the same time wherever two hashes differ. The order is for ordered maps; what it
/// leaks by its time is a prefix of a hash, and nobody can choose a cookie by its hash.
#[derive(Clone, Copy)]
pub struct CookieHash([u8; digest::SHA256_OUTPUT_LEN]);

impl CookieHash {
    fn of(secret: &[u8]) -> Self {
        let mut bytes = [0u8; digest::SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, secret).as_ref());
        Self(bytes)
    }

    /// Takes back a hash from a session record.
    pub const fn from_bytes(bytes: [u8; digest::SHA256_OUTPUT_LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes, for a session record.
    pub const fn as_bytes(&self) -> &[u8; digest::SHA256_OUTPUT_LEN] {
        &self.0
    }
}

impl PartialEq for CookieHash {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl Eq for CookieHash {}

impl PartialOrd for CookieHash {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CookieHash {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl std::hash::Hash for CookieHash {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Debug for CookieHash {
    /// Four bytes: enough to tell two log lines apart.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, ..] = self.0;
        write!(f, "CookieHash({a:02x}{b:02x}{c:02x}{d:02x}..)")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Covers: R31, P-047
    #[test]
    fn a_cookie_never_prints_its_secret() {
        let cookie = Cookie::from_random([0x5a; COOKIE_BYTES]);
        let text = cookie.text();
        let printed = format!("{cookie:?} {:?}", cookie.hash());
        assert!(!printed.contains(&text[..8]), "{printed}");
        assert!(!printed.contains("5a5a"), "{printed}");
    }

    /// Covers: R31, P-046, P-047
    #[test]
    fn only_the_canonical_spelling_of_32_bytes_is_a_cookie() {
        let text = Cookie::from_random([7; COOKIE_BYTES]).text();
        assert_eq!(text.len(), COOKIE_TEXT_BYTES);
        assert!(Cookie::parse(&text).is_some());
        let spare_bits = text.replace("Bwc=", "Bwd=");
        assert_ne!(spare_bits, text);
        let longer = format!("{text}A");
        let wrong = [
            "",
            "A",
            "(null)",
            "=",
            &text[..43],
            &longer,
            &spare_bits,
            &text.replace('=', "A"),
            &text.replace('B', "-"),
            &text.replace('B', "é"),
            &text.replace('B', "\0"),
        ];
        for value in wrong {
            assert!(Cookie::parse(value).is_none(), "{value:?}");
        }
    }

    /// Covers: R31
    #[test]
    fn the_hash_is_sha_256_of_the_bytes_and_not_of_the_text() {
        let hash = Cookie::from_random([0; COOKIE_BYTES]).hash();
        assert_eq!(hash.as_bytes()[..4], [0x66, 0x68, 0x7a, 0xad], "SHA-256 of 32 zero bytes");
        assert_eq!(CookieHash::from_bytes(*hash.as_bytes()), hash);
    }

    #[test]
    fn hashes_that_differ_in_one_bit_are_not_equal() {
        let hash = Cookie::from_random([1; COOKIE_BYTES]).hash();
        for position in [0, 15, 31] {
            let mut bytes = *hash.as_bytes();
            bytes[position] ^= 1;
            assert_ne!(CookieHash::from_bytes(bytes), hash);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes: [u8; COOKIE_BYTES]) {
            let cookie = Cookie::from_random(bytes);
            let read = Cookie::parse(&cookie.text()).unwrap();
            prop_assert_eq!(read.hash(), cookie.hash());
        }

        #[test]
        fn no_text_panics_the_reader(text in ".{0,80}") {
            let _ = Cookie::parse(&text);
        }
    }
}
