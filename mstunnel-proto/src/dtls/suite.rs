//! The cipher suites: what they are called in each place, and what they cost.
//!
//! | code | plain PSK | code | preset master secret (legacy) | `X-DTLS-CipherSuite` | `X-DTLS12-CipherSuite` |
//! | --- | --- | --- | --- | --- | --- |
//! | 00A9 | AES-256-GCM, SHA-384 | 009D | AES-256-GCM, SHA-384 | `OC-DTLS1_2-AES256-GCM` | `AES256-GCM-SHA384` |
//! | 00A8 | AES-128-GCM, SHA-256 | 009C | AES-128-GCM, SHA-256 | `OC-DTLS1_2-AES128-GCM` | `AES128-GCM-SHA256` |
//! | CCAB | ChaCha20, SHA-256 | CCAB | ChaCha20, SHA-256 | `OC2-DTLS1_2-CHACHA20-POLY1305` | |
//! | | | C030 | AES-256-GCM, SHA-384 | | `ECDHE-RSA-AES256-GCM-SHA384` |
//! | | | C02F | AES-128-GCM, SHA-256 | | `ECDHE-RSA-AES128-GCM-SHA256` |
//!
//! No key exchange is ever run for the legacy codes: they only name the record protection of a session
//! that never existed. Nothing without an AEAD is here (R11).
//!
//! # Source
//! RFC 5487, RFC 7905, RFC 5288; protocol.md 5.2 and 5.9.

use super::crypto::{Cipher, Hash, TAG_BYTES};
use super::record::HEADER_BYTES;
use crate::mtu::RecordSuite;

/// A cipher suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// TLS_PSK_WITH_AES_256_GCM_SHA384.
    PskAes256Gcm,
    /// TLS_PSK_WITH_AES_128_GCM_SHA256.
    PskAes128Gcm,
    /// TLS_PSK_WITH_CHACHA20_POLY1305_SHA256.
    PskChaCha20Poly1305,
    /// TLS_RSA_WITH_AES_256_GCM_SHA384, resumed only.
    RsaAes256Gcm,
    /// TLS_RSA_WITH_AES_128_GCM_SHA256, resumed only.
    RsaAes128Gcm,
    /// TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, resumed only.
    EcdheRsaAes256Gcm,
    /// TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, resumed only.
    EcdheRsaAes128Gcm,
}

/// Which header a legacy suite is asked for in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuiteHeader {
    /// `X-DTLS-CipherSuite`.
    Dtls,
    /// `X-DTLS12-CipherSuite`.
    Dtls12,
}

impl Suite {
    /// The suites of a handshake with a pre-shared key, the server's favourite first.
    pub const PSK: &'static [Self] = &[Self::PskAes256Gcm, Self::PskAes128Gcm, Self::PskChaCha20Poly1305];

    /// The code on the wire.
    pub const fn code(self) -> u16 {
        match self {
            Self::PskAes256Gcm => 0x00a9,
            Self::PskAes128Gcm => 0x00a8,
            Self::PskChaCha20Poly1305 => 0xccab,
            Self::RsaAes256Gcm => 0x009d,
            Self::RsaAes128Gcm => 0x009c,
            Self::EcdheRsaAes256Gcm => 0xc030,
            Self::EcdheRsaAes128Gcm => 0xc02f,
        }
    }

    /// The name for people: `DTLS1.2 PSK-AES256-GCM`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::PskAes256Gcm => "DTLS1.2 PSK-AES256-GCM",
            Self::PskAes128Gcm => "DTLS1.2 PSK-AES128-GCM",
            Self::PskChaCha20Poly1305 => "DTLS1.2 PSK-CHACHA20-POLY1305",
            Self::RsaAes256Gcm | Self::EcdheRsaAes256Gcm => "DTLS1.2 AES256-GCM",
            Self::RsaAes128Gcm | Self::EcdheRsaAes128Gcm => "DTLS1.2 AES128-GCM",
        }
    }

    /// The suites of legacy mode with their headers and names, the server's favourite first.
    pub fn legacy() -> impl Iterator<Item = (SuiteHeader, &'static str, Self)> {
        Self::LEGACY.iter().copied()
    }

    /// The suite that legacy mode calls `name` in `header`.
    pub fn from_legacy_name(header: SuiteHeader, name: &str) -> Option<Self> {
        Self::LEGACY.iter().find(|(h, n, _)| *h == header && *n == name).map(|(_, _, suite)| *suite)
    }

    /// What legacy mode calls this suite, and in which header; `None` if it is not of that mode.
    pub fn legacy_name(self) -> Option<(SuiteHeader, &'static str)> {
        Self::LEGACY.iter().find(|(.., suite)| *suite == self).map(|(header, name, _)| (*header, *name))
    }

    const LEGACY: &'static [(SuiteHeader, &'static str, Self)] = &[
        (SuiteHeader::Dtls, "OC-DTLS1_2-AES256-GCM", Self::RsaAes256Gcm),
        (SuiteHeader::Dtls, "OC-DTLS1_2-AES128-GCM", Self::RsaAes128Gcm),
        (SuiteHeader::Dtls, "OC2-DTLS1_2-CHACHA20-POLY1305", Self::PskChaCha20Poly1305),
        (SuiteHeader::Dtls12, "AES256-GCM-SHA384", Self::RsaAes256Gcm),
        (SuiteHeader::Dtls12, "AES128-GCM-SHA256", Self::RsaAes128Gcm),
        (SuiteHeader::Dtls12, "ECDHE-RSA-AES256-GCM-SHA384", Self::EcdheRsaAes256Gcm),
        (SuiteHeader::Dtls12, "ECDHE-RSA-AES128-GCM-SHA256", Self::EcdheRsaAes128Gcm),
    ];

    /// The bytes of a record that are not plaintext.
    pub const fn overhead(self) -> usize {
        self.prefix() + TAG_BYTES
    }

    /// The bytes of a record before its ciphertext: header and explicit nonce.
    pub const fn prefix(self) -> usize {
        HEADER_BYTES + self.explicit_nonce()
    }

    /// What the MTU is calculated with.
    pub const fn record_suite(self) -> RecordSuite {
        match self.cipher() {
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => RecordSuite::AesGcm,
            Cipher::ChaCha20Poly1305 => RecordSuite::ChaCha20Poly1305,
        }
    }

    pub(crate) const fn explicit_nonce(self) -> usize {
        match self.cipher() {
            Cipher::Aes128Gcm | Cipher::Aes256Gcm => 8,
            Cipher::ChaCha20Poly1305 => 0,
        }
    }

    pub(crate) const fn cipher(self) -> Cipher {
        match self {
            Self::PskAes256Gcm | Self::RsaAes256Gcm | Self::EcdheRsaAes256Gcm => Cipher::Aes256Gcm,
            Self::PskAes128Gcm | Self::RsaAes128Gcm | Self::EcdheRsaAes128Gcm => Cipher::Aes128Gcm,
            Self::PskChaCha20Poly1305 => Cipher::ChaCha20Poly1305,
        }
    }

    pub(crate) const fn hash(self) -> Hash {
        match self {
            Self::PskAes256Gcm | Self::RsaAes256Gcm | Self::EcdheRsaAes256Gcm => Hash::Sha384,
            Self::PskAes128Gcm | Self::PskChaCha20Poly1305 | Self::RsaAes128Gcm | Self::EcdheRsaAes128Gcm => {
                Hash::Sha256
            }
        }
    }

    pub(crate) const fn key_bytes(self) -> usize {
        match self.cipher() {
            Cipher::Aes128Gcm => 16,
            Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305 => 32,
        }
    }

    /// The part of the nonce that comes from the key block.
    pub(crate) const fn fixed_nonce(self) -> usize {
        12 - self.explicit_nonce()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_overhead_is_what_the_mtu_is_calculated_with() {
        for &suite in Suite::PSK {
            assert_eq!(suite.overhead(), usize::from(suite.record_suite().overhead()), "{suite:?}");
        }
        assert_eq!(Suite::PskAes128Gcm.overhead(), 37);
        assert_eq!(Suite::PskChaCha20Poly1305.overhead(), 29);
    }

    #[test]
    fn legacy_names_lead_to_the_suite_and_back() {
        for &(header, name, suite) in Suite::LEGACY {
            assert_eq!(Suite::from_legacy_name(header, name), Some(suite));
        }
        assert_eq!(Suite::RsaAes256Gcm.legacy_name(), Some((SuiteHeader::Dtls, "OC-DTLS1_2-AES256-GCM")));
        assert_eq!(Suite::PskAes128Gcm.legacy_name(), None);
        assert_eq!(Suite::from_legacy_name(SuiteHeader::Dtls, "AES256-SHA"), None);
        assert_eq!(Suite::from_legacy_name(SuiteHeader::Dtls12, "OC-DTLS1_2-AES256-GCM"), None);
    }
}
