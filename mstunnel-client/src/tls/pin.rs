//! `pin-sha256:BASE64`: the hash of a server's public key, as openconnect and browsers write it.
//!
//! # Source
//! RFC 7469 section 2.4: SHA-256 over the SubjectPublicKeyInfo.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A public key's hash.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin([u8; 32]);

/// Why a text is no pin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no pin: want pin-sha256: and the base64 of 32 bytes")]
pub struct PinError(String);

impl Pin {
    /// The pin of a SubjectPublicKeyInfo, DER.
    pub fn of(public_key: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, public_key);
        Self(digest.as_ref().try_into().expect("SHA-256 has 32 bytes"))
    }
}

impl FromStr for Pin {
    type Err = PinError;

    fn from_str(text: &str) -> Result<Self, PinError> {
        let refused = || PinError(text.chars().take(80).collect());
        let digest = text.strip_prefix("pin-sha256:").ok_or_else(refused)?;
        let digest = STANDARD.decode(digest).map_err(|_| refused())?;
        digest.try_into().map(Self).map_err(|_| refused())
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pin-sha256:{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_reads_what_it_writes_and_nothing_else() {
        let pin = Pin::of(b"a key");
        assert_eq!(pin.to_string().parse(), Ok(pin));
        for text in ["", "pin-sha256:", "sha256:AAAA", "pin-sha256:AAAA", "pin-sha1:AAAA"] {
            assert!(text.parse::<Pin>().is_err(), "{text}");
        }
    }
}
