//! From a secret and two randoms to the keys of an epoch.
//!
//! ```text
//! premaster = 0020 | 32 zero bytes | 0020 | PSK                               (plain PSK, RFC 4279)
//! master    = PRF(premaster, "master secret", client random | server random)  (48 bytes)
//!           = PRF(premaster, "extended master secret", hash of the handshake) (when both said 0017)
//! block     = PRF(master, "key expansion", server random | client random)
//!           = client key | server key | client nonce part | server nonce part (no MAC keys: AEAD)
//! Finished  = PRF(master, "client finished" or "server finished", hash of the handshake), 12 bytes
//! ```
//!
//! # Source
//! RFC 5246 sections 5, 6.3, 7.4.9 and 8.1; RFC 4279 section 2; RFC 7627 section 4.

use zeroize::Zeroizing;

use super::crypto::AeadKey;
use super::suite::Suite;

/// The length of the pre-shared key that the tunnel exports from TLS.
pub const PSK_BYTES: usize = 32;

/// The length of a master secret.
pub const MASTER_SECRET_BYTES: usize = 48;

/// The length of a Finished message.
pub(crate) const VERIFY_BYTES: usize = 12;

/// The longest key block: two keys of 32 and two nonces of 12.
const MAX_KEY_BLOCK: usize = 2 * (32 + 12);

/// The two randoms of a handshake.
#[derive(Clone, Copy)]
pub(crate) struct Randoms {
    pub(crate) client: [u8; 32],
    pub(crate) server: [u8; 32],
}

/// Which end of the association we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Client,
    Server,
}

impl Role {
    pub(crate) fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// Key and nonce part of one direction.
pub(crate) struct DirectionKey {
    pub(crate) key: AeadKey,
    /// The nonce part, zero where the explicit nonce goes.
    pub(crate) iv: [u8; 12],
}

/// A master secret with its suite.
pub(crate) struct MasterSecret {
    suite: Suite,
    bytes: Zeroizing<[u8; MASTER_SECRET_BYTES]>,
}

impl MasterSecret {
    /// Takes the preset master secret of legacy mode.
    pub(crate) fn preset(suite: Suite, bytes: &[u8; MASTER_SECRET_BYTES]) -> Self {
        Self { suite, bytes: Zeroizing::new(*bytes) }
    }

    /// Derives it from a pre-shared key and the randoms.
    pub(crate) fn plain(suite: Suite, psk: &[u8; PSK_BYTES], randoms: &Randoms) -> Self {
        let seed = [&randoms.client[..], &randoms.server[..]];
        Self { suite, bytes: suite.hash().prf(&premaster(psk)[..], b"master secret", seed) }
    }

    /// Derives it from a pre-shared key and the handshake up to ClientKeyExchange.
    pub(crate) fn extended(suite: Suite, psk: &[u8; PSK_BYTES], handshake: &[u8]) -> Self {
        let hash = suite.hash();
        let seed = hash.digest(handshake);
        Self { suite, bytes: hash.prf(&premaster(psk)[..], b"extended master secret", [seed.as_ref(), &[]]) }
    }

    /// The keys that the client and the server write with.
    pub(crate) fn key_block(&self, randoms: &Randoms) -> [DirectionKey; 2] {
        let block: Zeroizing<[u8; MAX_KEY_BLOCK]> =
            self.suite.hash().prf(&self.bytes[..], b"key expansion", [&randoms.server, &randoms.client]);
        let (key_bytes, nonce_bytes) = (self.suite.key_bytes(), self.suite.fixed_nonce());
        let (keys, nonces) = block.split_at(2 * key_bytes);
        [0, 1].map(|side| {
            let mut iv = [0; 12];
            iv[..nonce_bytes].copy_from_slice(&nonces[side * nonce_bytes..][..nonce_bytes]);
            DirectionKey {
                key: AeadKey::new(self.suite.cipher(), &keys[side * key_bytes..][..key_bytes]),
                iv,
            }
        })
    }

    /// What `role` says in its Finished after `handshake`.
    pub(crate) fn verify_data(&self, role: Role, handshake: &[u8]) -> [u8; VERIFY_BYTES] {
        let hash = self.suite.hash();
        let label: &[u8] = match role {
            Role::Client => b"client finished",
            Role::Server => b"server finished",
        };
        *hash.prf(&self.bytes[..], label, [hash.digest(handshake).as_ref(), &[]])
    }
}

fn premaster(psk: &[u8; PSK_BYTES]) -> Zeroizing<[u8; 2 * (2 + PSK_BYTES)]> {
    let mut premaster = Zeroizing::new([0; 2 * (2 + PSK_BYTES)]);
    premaster[1] = 32;
    premaster[2 + PSK_BYTES + 1] = 32;
    premaster[2 + PSK_BYTES + 2..].copy_from_slice(psk);
    premaster
}

#[cfg(test)]
mod tests {
    use super::super::crypto::{Hash, TAG_BYTES};
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.chars().filter_map(|c| c.to_digit(16)).collect();
        digits.chunks(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]).unwrap()).collect()
    }

    fn counting<const N: usize>() -> [u8; N] {
        std::array::from_fn(|i| u8::try_from(i).unwrap())
    }

    const RANDOMS: Randoms = Randoms { client: [0x11; 32], server: [0x22; 32] };

    /// Covers: statement 2 (the TLS 1.2 exporter is this PRF), Appendix E.
    #[test]
    fn the_prf_gives_the_exported_keys_of_tls_1_2() {
        let psk = |hash: Hash| {
            *hash.prf::<32>(&counting::<48>(), b"EXPORTER-openconnect-psk", [&[0xaa; 32], &[0xbb; 32]])
        };
        assert_eq!(
            psk(Hash::Sha256)[..],
            hex("a7d2f56423769dc120b89aa4b05274128a4ed38fcd8db9b404438210ad51ccea")
        );
        assert_eq!(
            psk(Hash::Sha384)[..],
            hex("e1af8125d86903cdfb51e7b9c6c241ce0f9bb77d2563097053ac1cf3607b5b63")
        );
    }

    /// Covers: Appendix E.
    #[test]
    fn a_psk_gives_the_master_secret() {
        let master = |suite| *MasterSecret::plain(suite, &counting(), &RANDOMS).bytes;
        assert_eq!(
            master(Suite::PskAes128Gcm)[..],
            hex("6edc2a5959dfa53c9ef85ba8da1d4db5f4a1398db5597c4ddd1396b3763317b6\
                 877a0d5c797047c06a69ef73ae3e2dc0")
        );
        assert_eq!(master(Suite::PskChaCha20Poly1305), master(Suite::PskAes128Gcm));
        assert_eq!(
            master(Suite::PskAes256Gcm)[..],
            hex("fd023135058f1059ff6215a4332120643cc3fa24b47bcbf7fc1db86f4da29b09\
                 5459a08c4c5fd8a6b45d33acdca19964")
        );
    }

    /// Covers: Appendix E.
    #[test]
    fn the_key_block_is_cut_in_the_right_places() {
        for (suite, keys, ivs) in [
            (
                Suite::PskAes128Gcm,
                ["45ae08e20c9a0cdd7736d302c1597c28", "cc6b407536344febae2599e714a6e838"],
                ["d7328b4a", "ce612ebd"],
            ),
            (
                Suite::PskAes256Gcm,
                [
                    "d16d5835782ea55483798d6905d6cda1d548bbf722be69d8e659d6521fdf92ff",
                    "95ea9e0bb8158180295de452aac2554610d6911a219baedcc9d74b6396b45a1a",
                ],
                ["7c330cf4", "b7d12fcb"],
            ),
        ] {
            let block = MasterSecret::plain(suite, &counting(), &RANDOMS).key_block(&RANDOMS);
            for ((cut, key), iv) in block.iter().zip(keys).zip(ivs) {
                assert_eq!(cut.iv[..4], hex(iv));
                // Keys do not show themselves: the same key makes the same record.
                let known = AeadKey::new(suite.cipher(), &hex(key));
                let sealed = |key: &AeadKey| {
                    let (mut bytes, mut tag) = ([3; 9], [0; TAG_BYTES]);
                    key.seal([1; 12], &[2; 13], &mut bytes, &mut tag);
                    (bytes, tag)
                };
                assert_eq!(sealed(&cut.key), sealed(&known));
            }
        }
    }

    #[test]
    fn the_extended_master_secret_depends_on_the_handshake_alone() {
        let master =
            |handshake: &[u8]| *MasterSecret::extended(Suite::PskAes128Gcm, &counting(), handshake).bytes;
        assert_ne!(master(b"one"), master(b"other"));
        assert_ne!(master(b"one"), *MasterSecret::plain(Suite::PskAes128Gcm, &counting(), &RANDOMS).bytes);
    }
}
