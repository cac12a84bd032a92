//! One token: three parts, a header that we understand, a signature of the issuer.
//!
//! ```text
//! base64url({"typ":"JWT","alg":"RS256","kid":...}) . base64url({"iss":...}) . base64url(signature)
//! ```
//!
//! The header comes from a stranger and decides nothing but which key is tried: `alg` must be on
//! our list and fit the key, `kid` is compared, and a header that wants us to fetch or to trust a
//! key of its own (`jwk`, `jku`, `x5u`, `x5c`), to understand more (`crit`), or to unpack something
//! (`enc`, `zip`, `cty`) is refused. `typ` must be there: `JWT`, or `at+jwt` of RFC 9068.
//!
//! The claims are judged before the signature, so that only a token that lacks nothing but a known
//! key can make us ask the issuer for new ones.
//!
//! # Source
//! RFC 7515, RFC 7519, RFC 8725; threats.md R37.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use jsonwebtoken::crypto::aws_lc;
use serde_json::Value;

use super::claims::{self, ClaimError, Identity};
use super::config::{self, OidcConfig};
use super::json::{self, Object};
use super::jwks::{Key, KeySet, NoKey};

/// The longest token (R37).
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// Members of a header that give us a key, a duty or a package.
const FORBIDDEN: [&str; 9] = ["jwk", "jku", "x5u", "x5c", "crit", "b64", "enc", "zip", "cty"];

/// Why a token is refused. For DEBUG lines: says nothing of what the token holds.
#[derive(Debug, thiserror::Error)]
pub(super) enum TokenError {
    #[error("token of {len} bytes, limit {MAX_TOKEN_BYTES}")]
    TooLong { len: usize },
    #[error("token is not three parts of base64url")]
    Shape,
    #[error("token header is not a JSON object: {0}")]
    HeaderJson(serde_json::Error),
    #[error("token header with {0:?}")]
    Forbidden(&'static str),
    #[error("token header without usable {0:?}")]
    Header(&'static str),
    #[error("token claims are not a JSON object: {0}")]
    ClaimsJson(serde_json::Error),
    #[error(transparent)]
    Claim(#[from] ClaimError),
    #[error("no keys of the issuer")]
    NoKeys,
    #[error("key of the token is unknown")]
    UnknownKey,
    #[error("no key of the issuer fits the token: {0:?}")]
    NoKey(NoKey),
    #[error("signature does not match")]
    Signature,
}

impl TokenError {
    /// Whether newer keys might make a difference.
    pub(super) fn wants_keys(&self) -> bool {
        matches!(self, Self::NoKeys | Self::UnknownKey)
    }
}

/// What is known of the issuer.
#[derive(Clone, Copy)]
pub(super) struct Trust<'a> {
    pub(super) issuer: &'a str,
    pub(super) keys: &'a KeySet,
}

/// Decides about a token.
///
/// # Errors
/// If anything about it is not as it should be. With no trust, that is all that can come of it.
pub(super) fn verify(
    token: &str,
    trust: Option<Trust<'_>>,
    config: &OidcConfig,
    now: SystemTime,
) -> Result<Identity, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLong { len: token.len() });
    }
    let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Shape)?;
    let (header, payload) = message.split_once('.').ok_or(TokenError::Shape)?;
    if payload.contains('.') {
        return Err(TokenError::Shape);
    }
    let (header_text, payload_text, signature) = (decode(header)?, decode(payload)?, decode(signature)?);
    let header = Header::read(&json::parse_object(&header_text).map_err(TokenError::HeaderJson)?, config)?;
    let payload = json::parse_object(&payload_text).map_err(TokenError::ClaimsJson)?;
    let identity = claims::judge(&payload, trust.map(|trust| trust.issuer), config, now)?;
    let Some(trust) = trust else { return Err(TokenError::NoKeys) };
    let keys = trust.keys.find(header.key_id.as_deref(), header.algorithm).map_err(|none| match none {
        NoKey::Unknown => TokenError::UnknownKey,
        NoKey::OtherAlgorithm | NoKey::Ambiguous => TokenError::NoKey(none),
    })?;
    if keys.into_iter().any(|key| is_signed(message, &signature, key, header.algorithm)) {
        Ok(identity)
    } else {
        Err(TokenError::Signature)
    }
}

struct Header {
    algorithm: Algorithm,
    key_id: Option<String>,
}

impl Header {
    fn read(members: &Object, config: &OidcConfig) -> Result<Self, TokenError> {
        if let Some(forbidden) = FORBIDDEN.into_iter().find(|name| members.contains_key(*name)) {
            return Err(TokenError::Forbidden(forbidden));
        }
        let text = |name: &str| members.get(name).and_then(Value::as_str);
        let algorithm = text("alg")
            .and_then(config::algorithm)
            .filter(|algorithm| config.algorithms.contains(algorithm))
            .ok_or(TokenError::Header("alg"))?;
        let is_token = text("typ").is_some_and(|typ| {
            let names = ["JWT", "at+jwt", "application/at+jwt"];
            names.iter().any(|name| name.eq_ignore_ascii_case(typ))
        });
        if !is_token {
            return Err(TokenError::Header("typ"));
        }
        let key_id = match members.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()),
            Some(_) => return Err(TokenError::Header("kid")),
        };
        Ok(Self { algorithm, key_id })
    }
}

fn decode(part: &str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_| TokenError::Shape)
}

fn is_signed(message: &str, signature: &Vec<u8>, key: &Key, algorithm: Algorithm) -> bool {
    // Our provider by name: the crate's own choice depends on what other crates switched on in it.
    (aws_lc::DEFAULT_PROVIDER.verifier_factory)(&algorithm, key.decoding_key())
        .is_ok_and(|verifier| verifier.verify(message.as_bytes(), signature).is_ok())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::identity::oidc::testing::{NOW, SigningKey, claims, config, key_set};

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(NOW)
    }

    fn judge(token: &str, keys: &[&SigningKey]) -> Result<Identity, TokenError> {
        judge_with(token, keys, &config(json!({})))
    }

    fn judge_with(token: &str, keys: &[&SigningKey], config: &OidcConfig) -> Result<Identity, TokenError> {
        let keys = key_set(keys);
        verify(token, Some(Trust { issuer: "https://issuer.example", keys: &keys }), config, now())
    }

    fn base64(text: impl AsRef<[u8]>) -> String {
        URL_SAFE_NO_PAD.encode(text)
    }

    #[test]
    fn tokens_of_every_kind_of_key_are_accepted_and_checked_against_it_alone() {
        let (rsa, ec, ed) = (SigningKey::rsa("rsa"), SigningKey::p256("ec"), SigningKey::ed25519("ed"));
        let other_ec = SigningKey::p256("ec");
        for key in [rsa, &ec, &ed] {
            let token = key.sign(&claims());
            let identity = judge(&token, &[rsa, &ec, &ed]).unwrap();
            assert_eq!(identity.user, "alice@example.com");
            // Any change of any part breaks it.
            for at in [3, token.find('.').unwrap() + 5, token.len() - 20] {
                let mut changed = token.clone().into_bytes();
                changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
                assert!(judge(&String::from_utf8(changed).unwrap(), &[rsa, &ec, &ed]).is_err());
            }
        }
        let foreign = other_ec.sign(&claims());
        assert!(matches!(judge(&foreign, &[rsa, &ec]), Err(TokenError::Signature)));
        for algorithm in ["RS512", "PS256", "PS384"] {
            let token = rsa.sign_with(&json!({"typ": "JWT", "alg": algorithm, "kid": "rsa"}), &claims());
            assert!(judge(&token, &[rsa]).is_ok(), "{algorithm}");
        }
    }

    /// Covers: P-057, R37
    #[test]
    fn no_algorithm_that_needs_no_private_key_is_accepted() {
        let key = SigningKey::rsa("rsa");
        for algorithm in [
            json!("none"),
            json!("None"),
            json!("NONE"),
            json!("nOnE"),
            json!(""),
            json!(null),
            json!(["RS256"]),
        ] {
            let header = json!({"typ": "JWT", "alg": algorithm, "kid": "rsa"});
            for signature in ["", &key.signature("x", Algorithm::RS256)] {
                let token =
                    format!("{}.{}.{signature}", base64(header.to_string()), base64(claims().to_string()));
                assert!(matches!(judge(&token, &[key]), Err(TokenError::Header("alg"))), "{algorithm}");
            }
        }
        let without = format!("{}.{}.", base64(r#"{"typ":"JWT"}"#), base64(claims().to_string()));
        assert!(matches!(judge(&without, &[key]), Err(TokenError::Header("alg"))));
    }

    /// Covers: P-057, R37
    #[test]
    fn the_public_key_is_no_secret_of_an_hmac() {
        let key = SigningKey::rsa("rsa");
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let mut header = jsonwebtoken::Header::new(algorithm);
            header.kid = Some("rsa".to_owned());
            for secret in key.public_forms() {
                let secret = jsonwebtoken::EncodingKey::from_secret(&secret);
                let token = jsonwebtoken::encode(&header, &claims(), &secret).unwrap();
                assert!(matches!(judge(&token, &[key]), Err(TokenError::Header("alg"))));
            }
        }
    }

    /// Covers: P-057, R37
    #[test]
    fn an_algorithm_that_does_not_fit_the_key_or_the_list_is_refused() {
        let (rsa, ec) = (SigningKey::rsa("rsa"), SigningKey::p256("ec"));
        // A right signature under a wrong name, and the name of the one with the key of the other.
        for (key, kid, algorithm) in [
            (rsa, "rsa", "ES256"),
            (&ec, "ec", "RS256"),
            (rsa, "ec", "RS256"),
            (&ec, "rsa", "ES256"),
            (&ec, "ec", "ES384"),
        ] {
            let token = key.sign_with(&json!({"typ": "JWT", "alg": algorithm, "kid": kid}), &claims());
            assert!(matches!(judge(&token, &[rsa, &ec]), Err(TokenError::NoKey(_))), "{kid} {algorithm}");
        }
        let only_rs256 = config(json!({"algorithms": ["RS256"]}));
        let token =
            |algorithm| rsa.sign_with(&json!({"typ": "JWT", "alg": algorithm, "kid": "rsa"}), &claims());
        assert!(judge_with(&token("RS256"), &[rsa], &only_rs256).is_ok());
        for algorithm in ["PS256", "RS384"] {
            assert!(matches!(
                judge_with(&token(algorithm), &[rsa], &only_rs256),
                Err(TokenError::Header("alg"))
            ));
        }
    }

    /// Covers: P-057, P-058, R29, R37
    #[test]
    fn a_header_with_a_key_a_duty_or_a_package_is_refused() {
        let key = SigningKey::p256("ec");
        for (member, value) in [
            ("jwk", key.jwk()),
            ("jku", json!("https://127.0.0.1/keys")),
            ("x5u", json!("https://127.0.0.1/cert")),
            ("x5c", json!(["MIIB"])),
            ("crit", json!(["exp"])),
            ("crit", json!([])),
            ("b64", json!(false)),
            ("enc", json!("A128GCM")),
            ("zip", json!("DEF")),
            ("cty", json!("JWT")),
            ("jku", json!(null)),
        ] {
            let mut header = json!({"typ": "JWT", "alg": "ES256", "kid": "ec"});
            header[member] = value;
            let token = key.sign_with(&header, &claims());
            let error = judge(&token, &[&key]).unwrap_err();
            assert!(matches!(error, TokenError::Forbidden(found) if found == member), "{member}: {error}");
        }
        // What means nothing to us is passed over, as RFC 7515 says.
        let header =
            json!({"typ": "JWT", "alg": "ES256", "kid": "ec", "x5t": "abc", "nonce": "n", "new": {}});
        assert!(judge(&key.sign_with(&header, &claims()), &[&key]).is_ok());
    }

    #[test]
    fn only_tokens_for_access_are_taken_by_their_type() {
        let key = SigningKey::p256("ec");
        let judge = |typ: Value| {
            judge(&key.sign_with(&json!({"typ": typ, "alg": "ES256", "kid": "ec"}), &claims()), &[&key])
        };
        for typ in ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"] {
            assert!(judge(json!(typ)).is_ok(), "{typ}");
        }
        for typ in [
            json!("JWE"),
            json!("dpop+jwt"),
            json!("logout+jwt"),
            json!(""),
            json!(" JWT"),
            json!(null),
            json!(["JWT"]),
        ] {
            assert!(matches!(judge(typ.clone()), Err(TokenError::Header("typ"))), "{typ}");
        }
        let absent = key.sign_with(&json!({"alg": "ES256", "kid": "ec"}), &claims());
        assert!(judge(json!("JWT")).is_ok() && self::judge(&absent, &[&key]).is_err());
    }

    /// Covers: P-058, R37
    #[test]
    fn a_key_id_chooses_a_key_or_none() {
        let (one, two) = (SigningKey::p256("one"), SigningKey::p256("two"));
        let token = |kid: Value| one.sign_with(&json!({"typ": "JWT", "alg": "ES256", "kid": kid}), &claims());
        assert!(judge(&token(json!("one")), &[&one, &two]).is_ok());
        assert!(matches!(judge(&token(json!("two")), &[&one, &two]), Err(TokenError::Signature)));
        for kid in ["three", "One", "../one", "https://127.0.0.1/one", "one' or '1'='1", "one\0", ""] {
            let error = judge(&token(json!(kid)), &[&one, &two]).unwrap_err();
            assert!(matches!(error, TokenError::UnknownKey) && error.wants_keys(), "{kid}: {error}");
        }
        for kid in [json!(1), json!(null), json!(["one"]), json!({})] {
            assert!(matches!(judge(&token(kid), &[&one, &two]), Err(TokenError::Header("kid"))));
        }
        let long = judge(&token(json!("k".repeat(4_000))), &[&one]).unwrap_err();
        assert!(!long.wants_keys(), "{long}");
        let twice = format!(
            "{}.{}.{}",
            base64(r#"{"typ":"JWT","alg":"ES256","kid":"one","kid":"two"}"#),
            base64(claims().to_string()),
            base64([0; 64])
        );
        assert!(matches!(judge(&twice, &[&one]), Err(TokenError::HeaderJson(_))));

        let without = one.sign_with(&json!({"typ": "JWT", "alg": "ES256"}), &claims());
        assert!(judge(&without, &[&one]).is_ok(), "one key needs no name");
        let error = judge(&without, &[&one, &two]).unwrap_err();
        assert!(matches!(error, TokenError::NoKey(NoKey::Ambiguous)) && !error.wants_keys());
    }

    /// Covers: R37
    #[test]
    fn what_has_not_the_shape_of_a_token_is_refused() {
        let key = SigningKey::p256("ec");
        let token = key.sign(&claims());
        let parts: Vec<_> = token.split('.').collect();
        let encrypted = format!("{token}.AAAA.AAAA");
        let padded = format!("{}.{}.{}=", parts[0], parts[1], parts[2]);
        let spaced = format!("{token} ");
        let short = format!("{}.{}", parts[0], parts[1]);
        let empty = format!("{}..{}", parts[0], parts[2]);
        for bad in ["", ".", "..", "...", "a.b.c", &encrypted, &padded, &spaced, &short, &empty] {
            assert!(judge(bad, &[&key]).is_err(), "{bad}");
        }
        let mut fat = claims();
        fat["fat"] = json!("x".repeat(MAX_TOKEN_BYTES));
        assert!(matches!(judge(&key.sign(&fat), &[&key]), Err(TokenError::TooLong { .. })));
        fat["fat"] = json!("x".repeat(8_000));
        assert!(judge(&key.sign(&fat), &[&key]).is_ok());
    }

    /// Covers: R38
    #[test]
    fn only_a_token_that_lacks_nothing_but_a_key_asks_for_keys() {
        let (key, stranger) = (SigningKey::p256("ec"), SigningKey::p256("new"));
        assert!(judge(&stranger.sign(&claims()), &[&key]).unwrap_err().wants_keys());
        for (claim, value) in
            [("exp", json!(NOW - 3_600)), ("iss", json!("https://evil.example")), ("aud", json!("else"))]
        {
            let mut bad = claims();
            bad[claim] = value;
            assert!(!judge(&stranger.sign(&bad), &[&key]).unwrap_err().wants_keys(), "{claim}");
        }
        let error = verify(&key.sign(&claims()), None, &config(json!({})), now()).unwrap_err();
        assert!(matches!(error, TokenError::NoKeys) && error.wants_keys());
    }

    proptest! {
        /// Covers: P-057, P-058, R37
        #[test]
        fn no_text_makes_the_verifier_panic_or_say_yes(
            header in "\\PC{0,60}", payload in "\\PC{0,60}", signature in proptest::collection::vec(any::<u8>(), 0..80),
            raw in "[A-Za-z0-9._-]{0,120}",
        ) {
            let keys = key_set(&[]);
            let (config, trust) = (config(json!({})), Trust { issuer: "https://issuer.example", keys: &keys });
            let token = format!("{}.{}.{}", base64(header), base64(payload), base64(signature));
            prop_assert!(verify(&token, Some(trust), &config, now()).is_err());
            prop_assert!(verify(&raw, Some(trust), &config, now()).is_err());
        }
    }
}
