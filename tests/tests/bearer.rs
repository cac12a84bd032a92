//! Signing in with a token of an OpenID issuer.

use mstunnel_tests::{Gateway, Issuer, Network, Openconnect, SHORT, Setup, until};

struct Site {
    network: Network,
    issuer: Issuer,
    gateway: Gateway,
}

fn site() -> Option<Site> {
    let network = Network::new()?;
    let issuer = Issuer::start(&network);
    let gateway = Setup::new().issuer(&issuer).advanced("max-ban-score", 0).start_ours(&network)?;
    // The key set is fetched in the background; a login waits for it, but let the tests start even.
    until("the first fetch of the key set", SHORT, || (issuer.key_set_fetches() > 0).then_some(()));
    Some(Site { network, issuer, gateway })
}

impl Site {
    /// The status and the cookie that a POST of the stock client gets with this `Authorization`.
    fn post(&self, authorization: &str) -> (u16, Option<String>) {
        let mut raw = self.gateway.raw(&self.network);
        let body =
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\" type=\"init\"/>\n";
        let answer = raw.request("POST", "/", &[("Authorization", authorization)], body);
        (answer.status, answer.cookie("webvpn"))
    }

    fn accepts(&self, token: &str) -> bool {
        match self.post(&format!("Bearer {token}")) {
            (200, Some(_)) => true,
            (status, None) if (400..500).contains(&status) => false,
            other => panic!("neither accepted nor refused: {other:?}"),
        }
    }
}

/// Covers: statement 15, statement 22
#[test]
fn a_token_signs_in_on_both_ways_of_the_stock_client() {
    let Some(site) = site() else { return };
    for http_auth in [true, false] {
        // Without --http-auth this version trips over its own list and falls back to GET.
        let mut client = Openconnect::to(&site.network, 0, &site.gateway).argument("--no-dtls");
        if http_auth {
            client = client.argument("--http-auth=Bearer");
        }
        let client = client.token(&site.issuer.sign(&site.issuer.token("ann@corp.example"))).connect();
        site.network.client(0).ping(Network::CORPORATE_V4.into());
        let users = site.gateway.show(&site.network, "users");
        assert_eq!(users[0]["user"], "ann@corp.example", "{users}");
        drop(client);
    }
}

/// Covers: statement 15
#[test]
fn without_a_token_get_and_post_are_challenged() {
    let Some(site) = site() else { return };
    for (method, path) in [("GET", "/"), ("POST", "/"), ("GET", "/auth"), ("POST", "/auth")] {
        let answer = site.gateway.raw(&site.network).request(method, path, &[], "");
        assert_eq!(
            (answer.status, answer.field("www-authenticate")),
            (401, Some("Bearer")),
            "{method} {path}"
        );
        assert_eq!(answer.body, "");
    }
    let refused = site.post("Bearer not-a-token");
    assert_eq!(refused, (401, None));
}

/// Covers: P-057, P-058, P-059, R37
#[test]
fn tokens_that_nobody_good_made_are_refused() {
    let Some(site) = site() else { return };
    let issuer = &site.issuer;
    let good = issuer.token("ann@corp.example");
    assert!(site.accepts(&issuer.sign(&good)), "the yardstick");
    let now = good.claims["iat"].as_u64().expect("a number");
    for (what, token) in [
        ("algorithm none", good.clone().parameter("alg", "none").unsigned()),
        ("algorithm None", good.clone().parameter("alg", "None").unsigned()),
        ("no signature", good.unsigned()),
        ("HMAC with the public key", {
            issuer.sign_with_public_key_as_secret(&good.clone().parameter("alg", "HS256"))
        }),
        ("another audience", issuer.sign(&good.clone().claim("aud", "somebody-else"))),
        ("another issuer", issuer.sign(&good.clone().claim("iss", "https://issuer.example"))),
        ("expired", issuer.sign(&good.clone().claim("exp", now - 600))),
        ("not yet valid", issuer.sign(&good.clone().claim("nbf", now + 600))),
        ("no expiry", issuer.sign(&good.clone().claim("exp", serde_json::Value::Null))),
        ("no user", issuer.sign(&good.clone().claim("preferred_username", serde_json::Value::Null))),
        ("an unknown key", issuer.sign(&good.clone().parameter("kid", "../../etc/passwd"))),
        ("a critical extension", issuer.sign(&good.clone().parameter("crit", serde_json::json!(["b64"])))),
    ] {
        assert!(!site.accepts(&token), "{what}");
    }
    let mut cut = issuer.sign(&good);
    cut.pop();
    assert!(!site.accepts(&cut), "a signature that was cut");
}

/// Covers: P-060, R38
#[test]
fn a_token_of_a_new_key_is_accepted_and_one_of_the_old_key_no_longer() {
    let Some(site) = site() else { return };
    let old = site.issuer.sign(&site.issuer.token("ann@corp.example"));
    assert!(site.accepts(&old));
    site.issuer.rotate();
    let new = site.issuer.sign(&site.issuer.token("ann@corp.example"));
    until("the new key", SHORT, || site.accepts(&new).then_some(()));
    assert!(!site.accepts(&old), "the old key has left the key set");
    let fetches = site.issuer.key_set_fetches();
    for number in 0..50 {
        let forged = site.issuer.token("ann@corp.example").parameter("kid", format!("invented-{number}"));
        assert!(!site.accepts(&site.issuer.sign(&forged)));
    }
    let more = site.issuer.key_set_fetches() - fetches;
    assert!(more <= 2, "50 invented key ids caused {more} fetches");
}

/// Covers: P-086, R58
#[test]
fn a_flood_of_refused_logins_is_not_a_flood_of_lines() {
    let Some(site) = site() else { return };
    let mut cut = site.issuer.sign(&site.issuer.token("ann@corp.example"));
    cut.pop();
    let start = std::time::Instant::now();
    for _ in 0..40 {
        assert!(!site.accepts(&cut));
    }
    let seconds = usize::try_from(start.elapsed().as_secs()).expect("a short test");
    let lines = site.gateway.log().matches("login failed").count();
    assert!((1..=seconds + 2).contains(&lines), "{lines} lines in {seconds} s");
    let status = site.gateway.show(&site.network, "status");
    assert_eq!(status["logins"]["failed"], 40, "the counter leaves none out: {status}");
}
