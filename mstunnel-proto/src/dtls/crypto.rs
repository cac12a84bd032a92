//! The one place that knows which library does the cryptography.
//!
//! AEAD with nonces of the caller, the TLS 1.2 PRF, hashes, a MAC and a comparison in constant time, on
//! aws-lc-rs. Another library would be swapped in here.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{constant_time, digest, hmac, tls_prf};
use zeroize::Zeroizing;

/// The length of an AEAD tag, of every suite.
pub(crate) const TAG_BYTES: usize = 16;

/// The length of an AEAD nonce, of every suite.
pub(crate) const NONCE_BYTES: usize = 12;

/// The authenticated ciphers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cipher {
    Aes128Gcm,
    Aes256Gcm,
    ChaCha20Poly1305,
}

/// The tag did not fit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unauthentic;

/// An expanded AEAD key.
pub(crate) struct AeadKey(LessSafeKey);

impl AeadKey {
    /// Expands `key`.
    ///
    /// # Panics
    /// When `key` has not the cipher's length; keys are cut from a key block by the same table.
    pub(crate) fn new(cipher: Cipher, key: &[u8]) -> Self {
        let algorithm = match cipher {
            Cipher::Aes128Gcm => &aead::AES_128_GCM,
            Cipher::Aes256Gcm => &aead::AES_256_GCM,
            Cipher::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        };
        Self(LessSafeKey::new(UnboundKey::new(algorithm, key).expect("a key has its cipher's length")))
    }

    /// Encrypts `bytes` in place, with the tag into `tag`.
    #[inline]
    pub(crate) fn seal(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8; 13],
        bytes: &mut [u8],
        tag: &mut [u8; TAG_BYTES],
    ) {
        self.0
            .seal_in_place_scatter(Nonce::assume_unique_for_key(nonce), Aad::from(aad), bytes, &[], tag)
            .expect("a record is far shorter than the cipher's limit");
    }

    /// Encrypts `plaintext` into `ciphertext` of the same length, with the tag into `tag`.
    #[inline]
    pub(crate) fn seal_into(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8; 13],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8; TAG_BYTES],
    ) {
        self.0
            .seal_out_of_place_scatter(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                plaintext,
                ciphertext,
                &[],
                tag,
            )
            .expect("the output is as long as the input");
    }

    /// Decrypts ciphertext and tag in place. After a failure the bytes are lost.
    #[inline]
    pub(crate) fn open<'b>(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8; 13],
        bytes: &'b mut [u8],
    ) -> Result<&'b mut [u8], Unauthentic> {
        self.0
            .open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), bytes)
            .map_err(|_| Unauthentic)
    }

    /// Decrypts `ciphertext` into `plaintext` of the same length and leaves the input as it was.
    pub(crate) fn open_into(
        &self,
        nonce: [u8; NONCE_BYTES],
        aad: &[u8; 13],
        ciphertext: &[u8],
        tag: &[u8],
        plaintext: &mut [u8],
    ) -> Result<(), Unauthentic> {
        self.0
            .open_separate_gather(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(aad),
                ciphertext,
                tag,
                plaintext,
            )
            .map_err(|_| Unauthentic)
    }
}

/// The hash of a suite's PRF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hash {
    Sha256,
    Sha384,
}

impl Hash {
    /// The hash of `bytes`.
    pub(crate) fn digest(self, bytes: &[u8]) -> digest::Digest {
        match self {
            Self::Sha256 => digest::digest(&digest::SHA256, bytes),
            Self::Sha384 => digest::digest(&digest::SHA384, bytes),
        }
    }

    /// The TLS 1.2 PRF over `seed`, `N` bytes of it.
    ///
    /// # Source
    /// RFC 5246 section 5.
    pub(crate) fn prf<const N: usize>(
        self,
        secret: &[u8],
        label: &[u8],
        seed: [&[u8]; 2],
    ) -> Zeroizing<[u8; N]> {
        let algorithm = match self {
            Self::Sha256 => &tls_prf::P_SHA256,
            Self::Sha384 => &tls_prf::P_SHA384,
        };
        let out = tls_prf::Secret::new(algorithm, secret)
            .and_then(|secret| secret.derive_with_seed_concatination(label, seed[0], seed[1], N))
            .expect("no secret here is empty");
        let mut bytes = Zeroizing::new([0; N]);
        bytes.copy_from_slice(out.as_ref());
        bytes
    }
}

/// A key of HMAC-SHA256.
pub(crate) struct MacKey(hmac::Key);

impl MacKey {
    /// Takes `key`.
    pub(crate) fn new(key: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key))
    }

    /// The MAC over the concatenation of `parts`.
    pub(crate) fn sign(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(part);
        }
        context.sign().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// Whether two secrets are equal, in a time that depends on their length only.
pub(crate) fn equal(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}
