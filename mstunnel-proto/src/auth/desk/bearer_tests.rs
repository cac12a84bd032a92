//! Logins by token, alone and beside passwords.

use super::rig::*;
use crate::auth::{AuthMethod, Credentials, LoginConfig, Verdict};

const CHALLENGE: [&str; 3] = ["HTTP/1.1 401 Unauthorized", "WWW-Authenticate: Bearer", "Content-Length: 0"];

fn stock<'a>(extra: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields =
        vec![("User-Agent", AGENT), ("X-Transcend-Version", "1"), ("X-Support-HTTP-Auth", "true")];
    fields.extend_from_slice(extra);
    fields
}

fn bearer_only() -> Rig {
    Rig::offering(&[AuthMethod::Bearer])
}

fn both() -> Rig {
    Rig::offering(&[AuthMethod::Bearer, AuthMethod::Certificate, AuthMethod::Password])
}

/// Covers: statement 15
#[test]
fn without_a_token_every_get_and_post_is_challenged_and_with_one_verified() {
    for (method, path) in [("GET", "/"), ("GET", "/auth"), ("POST", "/"), ("POST", "/auth")] {
        let mut rig = bearer_only();
        let body = if method == "POST" { init("") } else { String::new() };
        let challenge = responded(rig.send(&request(method, path, &stock(&[]), &body)));
        assert_eq!(head(&challenge), CHALLENGE, "{method} {path}");
        assert!(!challenge.closes());
        let with = stock(&[("Authorization", "Bearer TOKEN ")]);
        let (question, credentials) = asked(rig.send(&request(method, path, &with, &body)));
        assert!(
            matches!(credentials, Credentials::Bearer { token, group: None } if token.as_str() == "TOKEN")
        );
        let admission = admitted(rig.say(question, accepted("Alice@example", &["staff"])));
        assert_eq!((admission.user.as_str(), admission.method), ("alice@example", AuthMethod::Bearer));
    }
}

/// Covers: statement 15, R33
#[test]
fn a_password_does_not_help_where_only_tokens_are_offered() {
    let mut rig = bearer_only();
    for body in [username("alice"), password("x"), "username=alice&password=x".to_owned()] {
        assert_eq!(head(&responded(rig.post("", &body))), CHALLENGE);
    }
    assert_eq!(rig.desk.stats().conversations, 0);
}

/// Covers: statement 15, R36, R37
#[test]
fn a_bad_token_is_a_401_that_closes_and_costs_points() {
    let mut rig = bearer_only();
    let (question, _) = asked(rig.get("/", &stock(&[("Authorization", "Bearer x")])));
    let bad = responded(rig.say(question, Verdict::Rejected));
    let malformed = responded(rig.get("/", &stock(&[("Authorization", "Bearer x y")])));
    let two = [("Authorization", "Bearer x"), ("Authorization", "Bearer y")];
    let doubled = responded(rig.get("/", &stock(&two)));
    assert_eq!(head(&bad), ["HTTP/1.1 401 Authentication failed", "Content-Length: 0"]);
    assert!(bad.closes());
    assert_eq!((text(&malformed), text(&doubled)), (text(&bad), text(&bad)));
    assert_eq!(rig.desk.bans().points(rig.address), 30);
}

/// Covers: R33
#[test]
fn an_issuer_that_is_away_is_a_503_without_points() {
    let mut rig = bearer_only();
    let (question, _) = asked(rig.get("/", &stock(&[("Authorization", "Bearer x")])));
    assert_eq!(responded(rig.say(question, Verdict::Unavailable)).status(), 503);
    assert_eq!(rig.desk.bans().points(rig.address), 0);
}

/// Covers: R33
#[test]
fn the_outcome_of_a_token_belongs_to_its_connection() {
    let mut rig = bearer_only();
    let (question, _) = asked(rig.get("/", &stock(&[("Authorization", "Bearer x")])));
    rig.desk.handle_connection_closed(crate::auth::ConnectionId(1));
    assert_eq!(responded(rig.say(question, accepted("alice", &[]))).status(), 401);
}

/// Covers: R33, R34
#[test]
fn a_token_for_no_possible_name_or_a_group_of_others_admits_nobody() {
    for (name, groups) in
        [("", &["grpA"][..]), ("a\u{202e}b", &["grpA"]), ("alice", &["grpB"]), ("alice", &[])]
    {
        let mut rig = Rig::with_groups();
        rig.desk.set_config(std::sync::Arc::new(LoginConfig {
            methods: vec![AuthMethod::Bearer],
            groups: Rig::with_groups().desk.config.groups.clone(),
            ..LoginConfig::default()
        }));
        let body = init("<group-select>grpA</group-select>");
        let with = stock(&[("Authorization", "Bearer x")]);
        let (question, _) = asked(rig.send(&request("POST", "/", &with, &body)));
        assert_eq!(responded(rig.say(question, accepted(name, groups))).status(), 401, "{name:?} {groups:?}");
    }
}

/// Covers: statement 15, statement 73
#[test]
fn with_both_offered_a_stock_token_client_is_challenged_twice_and_let_in() {
    // openconnect --token-mode=oidc: XML POST, challenge; GET, challenge; GET with the token.
    let mut rig = both();
    let first = responded(rig.send(&request("POST", "/", &stock(&[]), &init(""))));
    assert_eq!(
        head(&first),
        [
            "HTTP/1.1 401 Unauthorized",
            "Set-Cookie: webvpnask=1; Max-Age=60; Secure; HttpOnly",
            "X-HTTP-Auth-Support: fallback",
            "WWW-Authenticate: Bearer",
            "Content-Length: 0",
        ]
    );
    rig.connection = 2;
    let asked_before = ("Cookie", "webvpnask=1");
    assert_eq!(responded(rig.get("/", &stock(&[asked_before]))).status(), 401);
    let (question, _) = asked(rig.get("/", &stock(&[("Authorization", "Bearer x"), asked_before])));
    admitted(rig.say(question, accepted("alice", &[])));
}

/// Covers: statement 73
#[test]
fn with_both_offered_a_stock_password_client_ends_at_the_form() {
    // openconnect --user: the same, but the third request comes without the field.
    let mut rig = both();
    assert_eq!(responded(rig.send(&request("POST", "/", &stock(&[]), &init("")))).status(), 401);
    let without = [("User-Agent", AGENT), ("X-Transcend-Version", "1"), ("Cookie", "webvpnask=1")];
    let form = responded(rig.get("/", &without));
    assert!(form.status() == 200 && body(&form).contains("name=\"username\""));
    let context = context_in(&responded(rig.post("webvpnask=1", "username=alice")));
    let (question, _) = asked(rig.post(&format!("webvpnask=1; {context}"), "password=pw"));
    admitted(rig.say(question, accepted("alice", &[])));
    // openconnect --no-xmlpost begins with GET, and goes on saying that it supports HTTP authentication.
    let form = responded(rig.get("/", &stock(&[])));
    assert!(form.status() == 200 && body(&form).contains("name=\"username\""));
    let context = context_in(&responded(rig.send(&request("POST", "/auth", &stock(&[]), "username=alice"))));
    let with = stock(&[("Cookie", &context)]);
    asked(rig.send(&request("POST", "/auth", &with, "password=pw")));
}

/// Covers: R33
#[test]
fn a_client_that_fails_with_a_token_is_not_let_in_by_a_password_in_the_same_request() {
    let mut rig = both();
    let context = rig.name_oneself("alice");
    let with = [("User-Agent", AGENT), ("Authorization", "Bearer x"), ("Cookie", context.as_str())];
    let (question, credentials) = asked(rig.send(&request("POST", "/auth", &with, &password("right"))));
    assert!(matches!(credentials, Credentials::Bearer { .. }));
    assert_eq!(responded(rig.say(question, Verdict::Rejected)).status(), 401);
    let form = responded(rig.post(&context, &password("right")));
    assert!(body(&form).contains("name=\"username\""), "the conversation ended when the token came");
}

/// Covers: R33
#[test]
fn where_only_passwords_are_offered_a_token_is_not_looked_at() {
    let mut rig = Rig::password_only();
    let form = responded(rig.get("/", &stock(&[("Authorization", "Bearer x")])));
    assert!(body(&form).contains("name=\"username\""));
}

/// Covers: R36
#[test]
fn a_throttled_name_still_comes_in_with_a_token() {
    let mut rig = both();
    for n in 0..40u32 {
        rig.at(&format!("198.51.100.{n}"));
        let context = rig.name_oneself("alice");
        rig.fail(&context);
    }
    rig.at(HOME);
    let (question, _) = asked(rig.get("/", &stock(&[("Authorization", "Bearer x")])));
    admitted(rig.say(question, accepted("alice", &[])));
}

#[test]
fn a_server_that_offers_only_certificates_says_so() {
    let mut rig = Rig::offering(&[AuthMethod::Certificate]);
    let response = responded(rig.post("", &username("alice")));
    assert_eq!(head(&response)[0], "HTTP/1.1 401 No certificate");
    assert!(response.closes());
}
