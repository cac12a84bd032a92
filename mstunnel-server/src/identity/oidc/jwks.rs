//! The issuer's keys: which of them may check which token.
//!
//! A key checks a token if its kind fits the algorithm that the token names, and nothing in the
//! key says otherwise (`use`, `key_ops`, `alg`). So a public key can never be taken for the secret
//! of an HMAC, nor an RSA key for an elliptic one (threats.md R37, P-057). Keys that we cannot use
//! are passed over. A `kid` is compared, and nothing else is done with it (P-058).
//!
//! # Source
//! RFC 7517; RFC 7518 section 6; RFC 8037.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::Value;

use super::json;

/// The most keys of one set; large providers publish fewer than ten.
pub(super) const MAX_KEYS: usize = 64;
/// The longest key id; a token with a longer one names no key.
pub(super) const MAX_KEY_ID_BYTES: usize = 512;

/// What a public key is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Rsa,
    P256,
    P384,
    Ed25519,
}

impl Kind {
    fn fits(self, algorithm: Algorithm) -> bool {
        use Algorithm as A;
        match self {
            Self::Rsa => {
                matches!(algorithm, A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512)
            }
            Self::P256 => algorithm == A::ES256,
            Self::P384 => algorithm == A::ES384,
            Self::Ed25519 => algorithm == A::EdDSA,
        }
    }
}

/// A public key that checks signatures.
pub(super) struct Key {
    id: Option<String>,
    kind: Kind,
    /// The one algorithm that the key says it is for.
    only: Option<KeyAlgorithm>,
    key: DecodingKey,
}

impl Key {
    fn fits(&self, algorithm: Algorithm) -> bool {
        self.kind.fits(algorithm) && self.only.is_none_or(|only| only == KeyAlgorithm::from(algorithm))
    }

    pub(super) fn decoding_key(&self) -> &DecodingKey {
        &self.key
    }

    /// Reads one member of `keys`; `None` is a key that we have no use for.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "a key of a kind or curve that is not ours is left out"
    )]
    fn read(value: &Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value.clone()).ok()?;
        let kind = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Kind::Rsa,
            AlgorithmParameters::EllipticCurve(params) if params.curve == EllipticCurve::P256 => Kind::P256,
            AlgorithmParameters::EllipticCurve(params) if params.curve == EllipticCurve::P384 => Kind::P384,
            AlgorithmParameters::OctetKeyPair(params) if params.curve == EllipticCurve::Ed25519 => {
                Kind::Ed25519
            }
            _ => return None,
        };
        let common = &jwk.common;
        let signs = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
            && common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
        let id = common.key_id.clone();
        if !signs || id.as_ref().is_some_and(|id| id.len() > MAX_KEY_ID_BYTES) {
            return None;
        }
        let key = DecodingKey::from_jwk(&jwk).ok()?;
        Some(Self { id, kind, only: common.key_algorithm, key })
    }
}

/// Why a key set is not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeySetError {
    #[error("key set is not a JSON object: {0}")]
    Json(#[from] serde_json::Error),
    #[error("key set has no array \"keys\"")]
    NoKeys,
    #[error("key set of {0} keys, limit {MAX_KEYS}")]
    TooMany(usize),
}

/// Why there is no key for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoKey {
    /// No key has this id: it may be newer than the set.
    Unknown,
    /// The keys that could be meant are not for this algorithm.
    OtherAlgorithm,
    /// The token names no key, and there are several.
    Ambiguous,
}

/// The keys of an issuer.
pub(super) struct KeySet(Vec<Key>);

impl KeySet {
    /// Reads a JWK set. Keys of no use are passed over; so the set may come out empty.
    ///
    /// # Errors
    /// If it is no JWK set, or has too many keys.
    pub(super) fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        let set = json::parse_object(text)?;
        let Some(Value::Array(keys)) = set.get("keys") else { return Err(KeySetError::NoKeys) };
        if keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany(keys.len()));
        }
        Ok(Self(keys.iter().filter_map(Key::read).collect()))
    }

    /// The keys that may have signed a token with this header. Never empty.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Vec<&Key>, NoKey> {
        let named: Vec<&Key> = match id {
            Some(id) if id.len() > MAX_KEY_ID_BYTES => return Err(NoKey::Ambiguous),
            Some(id) => self.0.iter().filter(|key| key.id.as_deref() == Some(id)).collect(),
            None if self.0.len() > 1 => return Err(NoKey::Ambiguous),
            None => self.0.iter().collect(),
        };
        if named.is_empty() {
            return Err(NoKey::Unknown);
        }
        let fitting: Vec<&Key> = named.into_iter().filter(|key| key.fits(algorithm)).collect();
        if fitting.is_empty() { Err(NoKey::OtherAlgorithm) } else { Ok(fitting) }
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    // RFC 7517 appendix A.1 and RFC 8037 appendix A.2.
    fn ec() -> Value {
        json!({"kty":"EC","crv":"P-256","kid":"ec",
            "x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"})
    }

    fn rsa() -> Value {
        json!({"kty":"RSA","kid":"rsa","e":"AQAB","n":concat!(
            "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3",
            "oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdA",
            "ZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw")})
    }

    fn ed() -> Value {
        json!({"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"})
    }

    fn set(keys: &[Value]) -> KeySet {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    fn with(mut key: Value, member: &str, value: Value) -> Value {
        key[member] = value;
        key
    }

    const ALL: [Algorithm; 12] = [
        Algorithm::HS256,
        Algorithm::HS384,
        Algorithm::HS512,
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::EdDSA,
    ];

    /// Covers: P-057, R37
    #[test]
    fn a_key_fits_the_algorithms_of_its_kind_and_no_other() {
        let keys = set(&[rsa(), ec(), ed()]);
        let fitting = |id| ALL.into_iter().filter(|&a| keys.find(Some(id), a).is_ok()).collect::<Vec<_>>();
        assert_eq!(fitting("rsa"), ALL[3..9]);
        assert_eq!(fitting("ec"), [Algorithm::ES256]);
        assert_eq!(fitting("ed"), [Algorithm::EdDSA]);
        assert!(matches!(keys.find(Some("rsa"), Algorithm::HS256), Err(NoKey::OtherAlgorithm)));
    }

    /// Covers: P-057, R37
    #[test]
    fn a_key_for_one_algorithm_or_for_encryption_is_not_used_otherwise() {
        let keys = set(&[with(rsa(), "alg", json!("RS256"))]);
        assert!(keys.find(Some("rsa"), Algorithm::RS256).is_ok());
        assert!(matches!(keys.find(Some("rsa"), Algorithm::PS256), Err(NoKey::OtherAlgorithm)));
        for (member, value) in [
            ("use", json!("enc")),
            ("use", json!("other")),
            ("key_ops", json!(["encrypt"])),
            ("key_ops", json!([])),
        ] {
            assert_eq!(set(&[with(rsa(), member, value)]).len(), 0, "{member}");
        }
        assert_eq!(
            set(&[with(rsa(), "use", json!("sig")), with(ec(), "key_ops", json!(["verify"]))]).len(),
            2
        );
        // An "alg" of encryption, or one that nobody knows, fits no signature.
        for alg in ["RSA-OAEP", "HS256", "XX999"] {
            let keys = set(&[with(rsa(), "alg", json!(alg))]);
            assert!(ALL.iter().all(|&a| keys.find(Some("rsa"), a).is_err()), "{alg}");
        }
    }

    #[test]
    fn a_token_without_key_id_is_for_an_issuer_with_one_key() {
        assert!(set(&[with(ec(), "kid", json!(null))]).find(None, Algorithm::ES256).is_ok());
        assert!(set(&[ec()]).find(None, Algorithm::ES256).is_ok());
        assert!(matches!(set(&[ec(), rsa()]).find(None, Algorithm::ES256), Err(NoKey::Ambiguous)));
        assert!(matches!(set(&[]).find(None, Algorithm::ES256), Err(NoKey::Unknown)));
    }

    /// Covers: P-058, R37
    #[test]
    fn a_key_id_is_compared_and_nothing_else() {
        let keys = set(&[ec(), rsa()]);
        for id in ["", "EC", "ec ", "ec\0", "../ec", "https://evil.example/ec", "' or 1=1 --"] {
            assert!(matches!(keys.find(Some(id), Algorithm::ES256), Err(NoKey::Unknown)), "{id:?}");
        }
        let long = "x".repeat(MAX_KEY_ID_BYTES + 1);
        assert!(matches!(keys.find(Some(&long), Algorithm::ES256), Err(NoKey::Ambiguous)), "no fetch for it");
        assert_eq!(set(&[with(ec(), "kid", json!(long))]).len(), 0);
    }

    #[test]
    fn keys_of_no_use_are_passed_over_and_the_rest_is_taken() {
        let keys = set(&[
            json!({"kty":"oct","k":"c2VjcmV0","kid":"hmac"}),
            json!({"kty":"OKP","crv":"X25519","x":"AAAA","kid":"x"}),
            json!({"kty":"OKP","crv":"Ed448","x":"AAAA","kid":"y"}),
            with(ec(), "crv", json!("P-521")),
            with(ec(), "crv", json!("secp256k1")),
            json!({"kty":"NEW","kid":"z"}),
            with(rsa(), "n", json!("***")),
            json!("text"),
            json!(null),
            ec(),
        ]);
        assert_eq!(keys.len(), 1);
        assert!(keys.find(Some("ec"), Algorithm::ES256).is_ok());
        assert!(keys.find(Some("hmac"), Algorithm::HS256).is_err());
    }

    #[test]
    fn two_keys_of_one_id_are_both_tried() {
        let keys = set(&[ec(), with(ec(), "alg", json!("ES256")), with(rsa(), "kid", json!("ec"))]);
        assert_eq!(keys.find(Some("ec"), Algorithm::ES256).unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_key_set_is_refused() {
        for text in ["", "[]", "{}", "{\"keys\":{}}", "{\"keys\":[],\"keys\":[]}", "<html>"] {
            assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
        }
        let many = json!({ "keys": vec![ec(); MAX_KEYS + 1] }).to_string();
        assert!(matches!(KeySet::parse(many.as_bytes()), Err(KeySetError::TooMany(65))));
        assert_eq!(set(&vec![ec(); MAX_KEYS]).len(), MAX_KEYS);
        assert_eq!(KeySet::parse(b"{\"keys\":[]}").unwrap().len(), 0, "all keys removed is an answer");
    }

    proptest! {
        #[test]
        fn no_bytes_make_parsing_panic(text in "\\{\"keys\":\\[\\{[\\PC\"]{0,100}\\}\\]\\}") {
            let _ = KeySet::parse(text.as_bytes());
        }
    }
}
