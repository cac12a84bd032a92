//! Tokens, and what their issuer publishes.

use std::pin::pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use mstunnel_server::identity::Verdict;
use mstunnel_server::identity::oidc::{Oidc, fuzz_issuer};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::folder::Folder;

/// An issuer whose keys are known and never fetched: nothing drives its runtime.
struct Issuer {
    runtime: Runtime,
    oidc: Oidc,
    key: Ed25519KeyPair,
}

static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
    const URL: &str = "https://issuer.example/.well-known/openid-configuration";
    let folder = Folder::new();
    let file = folder.write(
        "oidc.json",
        json!({
            "openid_configuration_url": URL,
            "user_name_claim": "preferred_username",
            "required_claims": { "aud": "our-app" },
            "group_claims": ["groups"],
            "algorithms": ["EdDSA", "ES256", "RS256"],
        })
        .to_string()
        .as_bytes(),
    );
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a date after 1970");
    folder.write(
        "oidc-keys.json",
        json!({
            "openid_configuration_url": URL,
            "issuer": "https://issuer.example",
            "fetched": since_1970.as_secs(),
            // RFC 8037 appendix A.2, RFC 7517 appendix A.1.
            "key_set": { "keys": [
                { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" },
                { "kty": "EC", "crv": "P-256", "kid": "ec",
                  "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
                  "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM" },
            ] },
        })
        .to_string()
        .as_bytes(),
    );
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let oidc = Oidc::from_file(&file, Some(folder.path()), runtime.handle()).expect("a good configuration");
    let seed = BASE64.decode("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A").expect("RFC 8037 appendix A.1");
    let key = Ed25519KeyPair::from_seed_unchecked(&seed).expect("a key");
    Issuer { runtime, oidc, key }
});

/// A token: nobody but whom the issuer has signed for is let in, under no name but a visible one.
pub fn token(data: &[u8]) {
    let Some((token, is_signed)) = token_in(data) else {
        return;
    };
    if let Some(Verdict::Accepted { user, groups }) = verdict(&token) {
        assert!(is_signed, "a signature was guessed");
        assert!(!user.is_empty() && !user.chars().any(char::is_control), "{user:?} is let in");
        assert!(groups.iter().all(|group| !group.is_empty()));
    }
}

/// The token, and whether the issuer has signed it. The first byte says whether the rest is one as it is, or its
/// header, its claims and its signature a line each; and whether the issuer signs these instead.
fn token_in(data: &[u8]) -> Option<(String, bool)> {
    let (&mode, rest) = data.split_first()?;
    if mode & 1 == 1 {
        return Some((String::from_utf8_lossy(rest).into_owned(), false));
    }
    let mut parts = rest.splitn(3, |&byte| byte == b'\n').map(|part| BASE64.encode(part));
    let mut part = || parts.next().unwrap_or_default();
    let message = format!("{}.{}", part(), part());
    let is_signed = mode & 2 == 0;
    let signature = if is_signed { BASE64.encode(ISSUER.key.sign(message.as_bytes())) } else { part() };
    Some((format!("{message}.{signature}"), is_signed))
}

/// The verdict, unless newer keys are waited for.
fn verdict(token: &str) -> Option<Verdict> {
    let _inside = ISSUER.runtime.enter();
    match pin!(ISSUER.oidc.verify(token)).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(verdict) => Some(verdict),
        Poll::Pending => None,
    }
}

/// The token that is judged by what an issuer publishes.
static TOKEN: LazyLock<String> = LazyLock::new(|| {
    let header = json!({ "typ": "JWT", "alg": "EdDSA", "kid": "ed" });
    let claims = json!({
        "iss": "https://issuer.example",
        "aud": "our-app",
        "exp": 4_102_444_800_u64,
        "iat": 1_600_000_000,
        "preferred_username": "alice@example.com",
        "groups": ["staff", "vpn"],
    });
    let message = [header, claims].map(|part| BASE64.encode(part.to_string())).join(".");
    let signature = BASE64.encode(ISSUER.key.sign(message.as_bytes()));
    format!("{message}.{signature}")
});

const CONFIG: &[u8] = br#"{"openid_configuration_url":"https://issuer.example/.well-known/openid-configuration","user_name_claim":"preferred_username","required_claims":{"aud":"our-app"}}"#;
const DISCOVERY: &[u8] = br#"{"issuer":"https://issuer.example","jwks_uri":"https://issuer.example/keys"}"#;

/// A key set, a discovery document and an `oidc.json`, a line each; the last two have something good to stand for
/// them. A token is only accepted if its own issuer publishes the key that has signed it.
pub fn issuer(data: &[u8]) {
    let mut lines = data.splitn(3, |&byte| byte == b'\n');
    let mut line = |good| lines.next().filter(|line| !line.is_empty()).unwrap_or(good);
    let (key_set, discovery, config) = (line(b"{}"), line(DISCOVERY), line(CONFIG));
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
    let Some(Verdict::Accepted { user, .. }) = fuzz_issuer(config, discovery, key_set, &TOKEN, now) else {
        return;
    };
    assert!(!user.is_empty() && !user.chars().any(char::is_control), "{user:?} is let in");
    let document = |bytes| serde_json::from_slice::<Value>(bytes).expect("what was taken is JSON");
    assert_eq!(document(discovery)["issuer"], "https://issuer.example", "a token of another issuer");
    let is_known = |key: &Value| {
        let x = key["x"].as_str().and_then(|text| BASE64.decode(text).ok());
        key["kid"] == "ed" && x.is_some_and(|x| x == ISSUER.key.public_key().as_ref())
    };
    assert!(
        document(key_set)["keys"].as_array().is_some_and(|keys| keys.iter().any(is_known)),
        "no such key"
    );
}

/// What the seeds reach: a target whose issuer is broken would refuse everything and find nothing.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed;

    #[test]
    fn a_signed_token_is_accepted_and_the_same_without_a_signature_is_not() {
        let verdict_of = |name| verdict(&token_in(&seed(name)).unwrap().0);
        assert!(matches!(verdict_of("token/signed"), Some(Verdict::Accepted { .. })));
        assert!(matches!(verdict_of("token/unsigned"), Some(Verdict::Rejected)));
        assert!(verdict_of("token/unknown_kid").is_none(), "newer keys are waited for");
    }

    #[test]
    fn the_key_set_of_the_corpus_and_no_other_has_the_token_accepted() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000);
        let verdict_by = |keys: &[u8]| fuzz_issuer(CONFIG, DISCOVERY, keys, &TOKEN, now);
        assert!(matches!(verdict_by(&seed("issuer/ed")), Some(Verdict::Accepted { .. })));
        assert!(matches!(verdict_by(&seed("issuer/ec")), Some(Verdict::Rejected)));
        assert!(verdict_by(b"[]").is_none());
    }
}
