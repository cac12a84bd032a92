//! The whole verifier against an issuer on loopback.

use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use super::testing::{DISCOVERY, KEYS, Reply, SigningKey, TestIssuer, claims_of};
use super::*;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn open(issuer: &TestIssuer, options: Value) -> Oidc {
    patient(Oidc::from_file(&issuer.config_file(options), None, &Handle::current()).unwrap())
}

fn patient(oidc: Oidc) -> Oidc {
    assert_eq!(oidc.patience, KEY_WAIT);
    Oidc { patience: Duration::from_secs(60), ..oidc }
}

/// Fetches at the shortest intervals, so that rotation shows within a test.
fn eager(issuer: &TestIssuer) -> Oidc {
    let (mut config, fetcher) = parts(issuer, json!({}));
    config.unknown_key_refresh = Duration::ZERO;
    patient(Oidc::start(config, fetcher, None, &Handle::current()))
}

fn parts(issuer: &TestIssuer, options: Value) -> (OidcConfig, Fetcher) {
    let file = issuer.config_file(options);
    let config = OidcConfig::parse(&std::fs::read(&file).unwrap(), &file).unwrap().0;
    let fetcher = Fetcher::new(config.ca_file.as_deref()).unwrap();
    (config, fetcher)
}

fn alice(groups: &[&str]) -> Verdict {
    let groups = groups.iter().map(|&group| group.to_owned()).collect();
    Verdict::Accepted { user: "alice@example.com".to_owned(), groups }
}

/// Waits until the issuer was asked `count` times, however that went.
async fn rounds(oidc: &Oidc, count: u64) {
    while oidc.keyring.rounds() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn the_first_login_waits_for_the_first_keys() {
    let (rsa, ec, ed) = (SigningKey::rsa("rsa"), SigningKey::p256("ec"), SigningKey::ed25519("ed"));
    let issuer = TestIssuer::with_keys(&[rsa, &ec, &ed]).await;
    let oidc = open(&issuer, json!({}));
    let mut claims = claims_of(&issuer.name(), now());
    claims["groups"] = json!(["staff"]);
    for key in [rsa, &ec, &ed] {
        assert_eq!(oidc.verify(&key.sign(&claims)).await, alice(&["staff"]));
    }
    assert_eq!((issuer.hits(DISCOVERY), issuer.hits(KEYS)), (1, 1), "one fetch for all of them");
}

/// Covers: P-057, P-059, R37
#[tokio::test]
async fn a_bad_token_is_refused_without_a_fetch() {
    let key = SigningKey::p256("ec");
    let issuer = TestIssuer::with_keys(&[&key]).await;
    let oidc = eager(&issuer);
    rounds(&oidc, 1).await;
    let good = claims_of(&issuer.name(), now());
    for (claim, value) in [
        ("iss", json!("https://issuer.example")),
        ("iss", json!(format!("{}/", issuer.name()))),
        ("aud", json!("other-app")),
        ("exp", json!(now() - 120)),
        ("nbf", json!(now() + 120)),
        ("iat", json!(now() + 120)),
        ("preferred_username", json!(null)),
    ] {
        let mut claims = good.clone();
        claims[claim] = value;
        assert_eq!(oidc.verify(&key.sign(&claims)).await, Verdict::Rejected, "{claim}");
    }
    let forged = SigningKey::p256("ec").sign(&good);
    assert_eq!(oidc.verify(&forged).await, Verdict::Rejected);
    assert_eq!(oidc.verify("").await, Verdict::Rejected);
    assert_eq!(oidc.verify(&key.sign(&good)).await, alice(&[]));
    assert_eq!(issuer.hits(KEYS), 1);
}

/// Covers: P-060, R38
#[tokio::test]
async fn a_new_key_is_fetched_for_the_login_that_needs_it_and_a_removed_one_is_out() {
    let (old, new) = (SigningKey::p256("old"), SigningKey::p256("new"));
    let issuer = TestIssuer::with_keys(&[&old]).await;
    let oidc = eager(&issuer);
    let claims = claims_of(&issuer.name(), now());
    assert_eq!(oidc.verify(&old.sign(&claims)).await, alice(&[]));
    issuer.publish(&[&new]);
    assert_eq!(oidc.verify(&old.sign(&claims)).await, alice(&[]), "not known yet");
    assert_eq!(oidc.verify(&new.sign(&claims)).await, alice(&[]));
    assert_eq!(oidc.verify(&old.sign(&claims)).await, Verdict::Rejected);
}

/// Covers: P-060, R38
#[tokio::test]
async fn random_key_ids_make_the_issuer_be_asked_once_a_minute_at_most() {
    let key = SigningKey::p256("ec");
    let issuer = TestIssuer::with_keys(&[&key]).await;
    let oidc = open(&issuer, json!({}));
    rounds(&oidc, 1).await;
    let claims = claims_of(&issuer.name(), now());
    let began = std::time::Instant::now();
    for number in 0..10_000 {
        let header = json!({"typ": "JWT", "alg": "ES256", "kid": format!("random{number}")});
        // One signature for all of them: it is never looked at.
        let token = if number == 0 { key.sign_with(&header, &claims) } else { unsigned(&header, &claims) };
        assert_eq!(oidc.verify(&token).await, Verdict::Rejected);
    }
    // The regular fetch, and one a minute for all of them.
    let most = 2 + began.elapsed().as_secs() / 60;
    assert!((2..=most).contains(&issuer.hits(KEYS)), "{} fetches", issuer.hits(KEYS));
    assert_eq!(oidc.verify(&key.sign(&claims)).await, alice(&[]));
}

fn unsigned(header: &Value, claims: &Value) -> String {
    use base64::Engine;
    let part = |text: String| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    format!("{}.{}.{}", part(header.to_string()), part(claims.to_string()), "A".repeat(86))
}

/// Covers: P-060, R38
#[tokio::test]
async fn many_logins_with_unknown_keys_share_one_fetch() {
    let key = SigningKey::p256("ec");
    let issuer = TestIssuer::with_keys(&[]).await;
    let oidc = eager(&issuer);
    rounds(&oidc, 1).await;
    issuer.publish(&[&key]);
    let token = key.sign(&claims_of(&issuer.name(), now()));
    let verdicts = futures_util::future::join_all((0..50).map(|_| oidc.verify(&token))).await;
    assert!(verdicts.into_iter().all(|verdict| verdict == alice(&[])));
    assert_eq!(issuer.hits(KEYS), 2);
}

/// Covers: P-058, R29, R37
#[tokio::test]
async fn nothing_in_a_token_makes_us_connect_anywhere() {
    let key = SigningKey::p256("ec");
    let issuer = TestIssuer::with_keys(&[&key]).await;
    let listener = TestIssuer::with_keys(&[&key]).await;
    let oidc = eager(&issuer);
    rounds(&oidc, 1).await;
    let claims = claims_of(&issuer.name(), now());
    let url = listener.url(KEYS).to_string();
    for header in [
        json!({"typ": "JWT", "alg": "ES256", "kid": "ec", "jku": url}),
        json!({"typ": "JWT", "alg": "ES256", "kid": "ec", "x5u": url}),
        json!({"typ": "JWT", "alg": "ES256", "jwk": key.jwk()}),
        json!({"typ": "JWT", "alg": "ES256", "kid": url}),
    ] {
        assert_eq!(oidc.verify(&key.sign_with(&header, &claims)).await, Verdict::Rejected, "{header}");
    }
    let foreign = claims_of(&listener.name(), now());
    assert_eq!(oidc.verify(&key.sign(&foreign)).await, Verdict::Rejected);
    assert_eq!(listener.connections(), 0);
}

/// Covers: P-051, P-060, R33, R38
#[tokio::test]
async fn without_keys_nobody_is_let_in_and_the_start_does_not_fail() {
    let key = SigningKey::p256("ec");
    let issuer = TestIssuer::start().await;
    let other = TestIssuer::with_keys(&[&key]).await;
    let token = key.sign(&claims_of(&issuer.name(), now()));
    let document = |value: Value| Reply::json(&value.to_string());
    let good_discovery = document(json!({"issuer": issuer.name(), "jwks_uri": issuer.url(KEYS).to_string()}));
    let good_keys = document(json!({"keys": [key.jwk()]}));
    let away = |path: &str| Reply::Redirect(other.url(path).to_string());
    for (discovery, keys) in [
        (Reply::Status(500), good_keys.clone()),
        (Reply::json("<html>"), good_keys.clone()),
        (Reply::json(""), good_keys.clone()),
        (away(DISCOVERY), good_keys.clone()),
        (Reply::Endless, good_keys.clone()),
        (document(json!({"issuer": issuer.name()})), good_keys.clone()),
        (document(json!({"issuer": issuer.name(), "jwks_uri": "http://127.0.0.1/keys"})), good_keys.clone()),
        (good_discovery.clone(), Reply::Status(404)),
        (good_discovery.clone(), Reply::json("{}")),
        (good_discovery.clone(), away(KEYS)),
        (good_discovery.clone(), Reply::Endless),
        (good_discovery.clone(), Reply::CutOff),
    ] {
        issuer.reply(DISCOVERY, discovery);
        issuer.reply(KEYS, keys);
        let oidc = open(&issuer, json!({}));
        assert_eq!(oidc.verify(&token).await, Verdict::Unavailable);
    }
    assert_eq!(other.connections(), 0);
    issuer.reply(DISCOVERY, good_discovery);
    issuer.reply(KEYS, good_keys);
    assert_eq!(open(&issuer, json!({})).verify(&token).await, alice(&[]), "the same with a good issuer");
}

/// Covers: R38
#[tokio::test]
async fn keys_may_be_on_another_host_that_the_discovery_document_names() {
    let key = SigningKey::p256("ec");
    let (issuer, keys) = (TestIssuer::start().await, TestIssuer::with_keys(&[&key]).await);
    let document = json!({"issuer": issuer.name(), "jwks_uri": keys.url(KEYS).to_string()});
    issuer.reply(DISCOVERY, Reply::json(&document.to_string()));
    let token = key.sign(&claims_of(&issuer.name(), now()));
    // Its certificate must be good all the same.
    let oidc = open(&issuer, json!({}));
    assert_eq!(oidc.verify(&token).await, Verdict::Unavailable);
    let both = [issuer.ca_file(), keys.ca_file()].map(|file| std::fs::read_to_string(file).unwrap()).concat();
    std::fs::write(issuer.ca_file(), both).unwrap();
    let oidc = open(&issuer, json!({}));
    assert_eq!(oidc.verify(&token).await, alice(&[]));
}

/// Covers: R38
#[tokio::test]
async fn a_discovery_document_that_changes_its_issuer_changes_nothing() {
    let (key, evil) = (SigningKey::p256("ec"), SigningKey::p256("evil"));
    let issuer = TestIssuer::with_keys(&[&key]).await;
    let oidc = eager(&issuer);
    rounds(&oidc, 1).await;
    let document = json!({"issuer": "https://evil.example", "jwks_uri": issuer.url("/evil").to_string()});
    issuer.reply(DISCOVERY, Reply::json(&document.to_string()));
    issuer.reply("/evil", Reply::json(&json!({"keys": [evil.jwk()]}).to_string()));
    let claims = claims_of("https://evil.example", now());
    assert_eq!(oidc.verify(&evil.sign(&claims)).await, Verdict::Rejected);
    // A token of the right issuer with an unknown key: asked for, in vain.
    let claims = claims_of(&issuer.name(), now());
    assert_eq!(oidc.verify(&evil.sign(&claims)).await, Verdict::Unavailable);
    assert_eq!(oidc.verify(&key.sign(&claims)).await, alice(&[]), "the old keys stay");
    assert_eq!(issuer.hits("/evil"), 0);
    // A configured issuer is the measure from the first document on.
    let oidc = open(&issuer, json!({"issuer": issuer.name()}));
    assert_eq!(oidc.verify(&key.sign(&claims)).await, Verdict::Unavailable);
}

/// Covers: P-060, R38
#[tokio::test]
async fn an_issuer_that_is_away_keeps_its_keys_until_they_are_stale() {
    let key = SigningKey::p256("ec");
    let issuer = TestIssuer::with_keys(&[&key]).await;
    let oidc = eager(&issuer);
    rounds(&oidc, 1).await;
    issuer.reply(DISCOVERY, Reply::Status(503));
    assert_eq!(oidc.keyring.refresh(KEY_WAIT).await, Refresh::Failed);
    let token = key.sign(&claims_of(&issuer.name(), now()));
    assert_eq!(oidc.verify(&token).await, alice(&[]));
    let fetched = oidc.keyring.usable(SystemTime::now()).unwrap().fetched;
    let day = Duration::from_secs(86_400);
    assert!(oidc.keyring.usable(fetched + day - Duration::from_secs(1)).is_some());
    assert!(oidc.keyring.usable(fetched + day).is_none(), "after 24 hours nobody is let in");
    assert!(oidc.keyring.usable(fetched - day).is_some(), "a clock set back");
}

/// Covers: P-060, R38
#[tokio::test]
async fn keys_are_kept_for_a_start_without_the_issuer_and_no_longer_than_they_are_good() {
    let key = SigningKey::p256("ec");
    let issuer = TestIssuer::with_keys(&[&key]).await;
    let state = tempfile::tempdir().unwrap();
    let start = || {
        let (config, fetcher) = parts(&issuer, json!({}));
        Oidc::start(config, fetcher, Some(state.path()), &Handle::current())
    };
    let oidc = start();
    rounds(&oidc, 1).await;
    drop(oidc);
    issuer.reply(DISCOVERY, Reply::Status(503));
    let token = key.sign(&claims_of(&issuer.name(), now()));
    let oidc = start();
    rounds(&oidc, 1).await;
    assert_eq!(oidc.verify(&token).await, alice(&[]));

    let file = state.path().join(cache::FILE_NAME);
    let text = std::fs::read_to_string(&file).unwrap();
    let mut kept: Value = serde_json::from_str(&text).unwrap();
    kept["fetched"] = json!(now() - 86_400);
    std::fs::write(&file, kept.to_string()).unwrap();
    assert_eq!(start().verify(&token).await, Verdict::Unavailable);
    // Kept for another issuer than the file now names.
    std::fs::write(&file, text).unwrap();
    let (mut config, fetcher) = parts(&issuer, json!({}));
    config.issuer = Some("https://other.example".to_owned());
    let oidc = Oidc::start(config, fetcher, Some(state.path()), &Handle::current());
    assert!(oidc.keyring.usable(SystemTime::now()).is_none());
}

/// Covers: R38, R76: a reload while the issuer is away.
#[tokio::test]
async fn keys_are_taken_over_by_a_successor_that_asks_the_same_issuer() {
    let key = SigningKey::p256("ec");
    let issuer = TestIssuer::with_keys(&[&key]).await;
    let before = open(&issuer, json!({}));
    rounds(&before, 1).await;
    issuer.reply(DISCOVERY, Reply::Status(503));
    let token = key.sign(&claims_of(&issuer.name(), now()));
    let after = open(&issuer, json!({}));
    after.take_over(&before);
    assert_eq!(after.verify(&token).await, alice(&[]));
    // Another one, or the same asked through other authorities, has to fetch its own.
    for change in [
        |config: &mut OidcConfig| config.issuer = Some("https://other.example".to_owned()),
        |config: &mut OidcConfig| config.discovery_url = "https://other.example/".parse().unwrap(),
        |config: &mut OidcConfig| config.ca_file = None,
    ] {
        let (mut config, fetcher) = parts(&issuer, json!({}));
        change(&mut config);
        let other = Oidc::start(config, fetcher, None, &Handle::current());
        other.take_over(&before);
        assert!(other.keyring.usable(SystemTime::now()).is_none());
    }
}

/// Covers: P-051, P-060, R33
#[tokio::test(start_paused = true)]
async fn a_login_waits_two_seconds_for_a_slow_issuer_and_not_more() {
    let key = SigningKey::p256("ec");
    let issuer = TestIssuer::start().await;
    issuer.reply(DISCOVERY, Reply::Silence);
    let (config, fetcher) = parts(&issuer, json!({}));
    let keyring = Keyring::new(config, fetcher, None, SystemTime::now());
    // Nobody fetches here, so time is the paused clock's alone.
    let began = tokio::time::Instant::now();
    let oidc = Oidc {
        keyring: Arc::new(keyring),
        patience: KEY_WAIT,
        _fetching: Arc::new(AbortOnDrop(tokio::spawn(std::future::pending::<()>()).abort_handle())),
    };
    let token = key.sign(&claims_of(&issuer.name(), now()));
    assert_eq!(oidc.verify(&token).await, Verdict::Unavailable);
    assert_eq!(began.elapsed().as_secs(), 2);
}

#[tokio::test]
async fn the_issuer_is_asked_again_after_a_failure_without_anybody_waiting() {
    let key = SigningKey::p256("ec");
    let issuer = TestIssuer::with_keys(&[&key]).await;
    issuer.reply(KEYS, Reply::Status(503));
    let (mut config, fetcher) = parts(&issuer, json!({}));
    config.unknown_key_refresh = Duration::from_millis(20);
    let oidc = Oidc::start(config, fetcher, None, &Handle::current());
    rounds(&oidc, 2).await;
    issuer.publish(&[&key]);
    while oidc.keyring.usable(SystemTime::now()).is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(oidc.verify(&key.sign(&claims_of(&issuer.name(), now()))).await, alice(&[]));
}

#[tokio::test]
async fn fetching_ends_with_the_last_clone() {
    let issuer = TestIssuer::with_keys(&[]).await;
    let (mut config, fetcher) = parts(&issuer, json!({}));
    config.refresh_every = Duration::from_millis(1);
    let oidc = Oidc::start(config, fetcher, None, &Handle::current());
    let (clone, keyring) = (oidc.clone(), Arc::downgrade(&oidc.keyring));
    rounds(&oidc, 1).await;
    drop(oidc);
    assert!(keyring.upgrade().is_some());
    drop(clone);
    while keyring.upgrade().is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_named_with_the_place() {
    let issuer = TestIssuer::start().await;
    let error = |options: Value| {
        let file = issuer.config_file(options);
        Oidc::from_file(&file, None, &Handle::current()).err().unwrap().to_string()
    };
    assert!(error(json!({"leeway": 90})).ends_with("oidc.json: /leeway: 90: want seconds, 0 to 60"));
    assert!(error(json!({"ca_file": "none.pem"})).contains("oidc.json: /ca_file: "));
    assert!(Oidc::from_file(Path::new("/nonexistent/oidc.json"), None, &Handle::current()).is_err());
    let file = issuer.config_file(json!({}));
    std::fs::write(&file, " ".repeat(MAX_CONFIG_BYTES + 1)).unwrap();
    assert!(Oidc::from_file(&file, None, &Handle::current()).is_err());
}

#[tokio::test]
async fn a_user_name_can_be_made_of_several_claims() {
    let key = SigningKey::p256("ec");
    let issuer = TestIssuer::with_keys(&[&key]).await;
    let oidc = open(&issuer, json!({"user_name_claim": "{preferred_username}.{department}"}));
    rounds(&oidc, 1).await;
    let mut claims = claims_of(&issuer.name(), now());
    assert_eq!(oidc.verify(&key.sign(&claims)).await, Verdict::Rejected, "one of them is missing");
    claims["department"] = json!("hq");
    let named = Verdict::Accepted { user: "alice@example.com.hq".to_owned(), groups: Vec::new() };
    assert_eq!(oidc.verify(&key.sign(&claims)).await, named);
}
