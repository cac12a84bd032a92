//! A sign-in against scripted servers, and against our own desk.

use std::sync::Arc;

use super::*;
use crate::auth::{Answer, AuthMethod, ConnectionId, Cookie, LoginConfig, LoginDesk, Verdict};
use crate::http::{RequestReader, ResponseReader};
use crate::testing::origin;

fn begin(group: Option<&str>, token: Option<&str>) -> SignIn {
    SignIn::new(SignInConfig {
        host: "vpn.example".to_owned(),
        path: "/".to_owned(),
        group: group.map(str::to_owned),
        token: token.map(|token| Zeroizing::new(token.to_owned())),
    })
}

fn reply(bytes: &[u8]) -> Reply {
    let mut reader = ResponseReader::new();
    reader.handle_bytes(bytes).expect("a response");
    reader.handle_end().expect("a whole response");
    reader.poll_reply().expect("a response")
}

fn page(inner: &str) -> Reply {
    let body = format!("<?xml version=\"1.0\"?><config-auth type=\"auth-request\">{inner}</config-auth>");
    reply(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
}

fn sent(sign_in: &mut SignIn) -> String {
    String::from_utf8(sign_in.poll_request().expect("a request waits").to_vec()).unwrap()
}

/// Lets the client talk to our own desk, which believes everybody but a wrong secret.
fn with_desk(sign_in: &mut SignIn, methods: &[AuthMethod], password: &str) -> Result<SignedIn, SignInError> {
    let config = LoginConfig { methods: methods.to_vec(), ..LoginConfig::default() };
    let mut desk = LoginDesk::new(Arc::new(config));
    for round in 0..20_u8 {
        let request = sign_in.poll_request().expect("a request waits");
        let mut reader = RequestReader::new();
        let mut rest = &request[..];
        let request = loop {
            let taken = reader.handle_bytes(rest).expect("our own desk reads our own client");
            if let Some(request) = reader.poll_request() {
                break request;
            }
            rest = &rest[taken..];
        };
        let from = "192.0.2.1".parse().unwrap();
        let mut answer = desk.handle_request(ConnectionId(1), from, &request, [round; 32], origin());
        if let Answer::Verify { question, credentials } = answer {
            let good = !format!("{credentials:?}").contains("Password") || password == "right";
            let verdict = if good {
                Verdict::Accepted { user: "alice".to_owned(), groups: Vec::new() }
            } else {
                Verdict::Rejected
            };
            answer = desk.handle_verdict(question, verdict, origin());
        }
        let response = match answer {
            Answer::Respond(response) => response,
            Answer::Admit(admission) => desk.success(&admission, &Cookie::from_random([9; 32])),
            Answer::Verify { .. } => unreachable!("a verdict ends in no question"),
        };
        match sign_in.handle_reply(&reply(&response.encode()))? {
            Step::Complete(signed_in) => return Ok(signed_in),
            Step::Again => {}
            Step::Ask(_) => sign_in.answer(|input| match input.kind {
                InputKind::Text => "alice",
                InputKind::Secret | InputKind::Hidden => password,
            })?,
        }
    }
    panic!("no end in 20 rounds");
}

#[test]
fn a_password_opens_our_own_desk_and_a_wrong_one_does_not() {
    let signed_in = with_desk(&mut begin(None, None), &[AuthMethod::Password], "right").unwrap();
    assert_eq!(
        Cookie::parse(&signed_in.cookie).map(|cookie| cookie.hash()),
        Some(Cookie::from_random([9; 32]).hash())
    );
    let refused = with_desk(&mut begin(None, None), &[AuthMethod::Password], "wrong").unwrap_err();
    assert!(matches!(refused, SignInError::Refused { .. }), "{refused}");
    let both = [AuthMethod::Bearer, AuthMethod::Password];
    assert!(with_desk(&mut begin(None, None), &both, "right").is_ok());
}

#[test]
fn a_token_opens_our_own_desk_in_one_step_and_none_is_told_what_is_missing() {
    let token = "eyJhbGciOiJFUzI1NiJ9.e30.c2ln";
    let bearer = [AuthMethod::Bearer];
    assert!(with_desk(&mut begin(None, Some(token)), &bearer, "").is_ok());
    assert_eq!(with_desk(&mut begin(None, None), &bearer, "").unwrap_err(), SignInError::TokenWanted);
}

#[test]
fn requests_are_padded_and_escaped() {
    let mut sign_in = begin(Some("a<b"), None);
    let first = sent(&mut sign_in);
    assert!(!first.contains("<group-select>"), "{first}");
    let body = first.split("\r\n\r\n").nth(1).unwrap();
    let pad = first.lines().find_map(|line| line.strip_prefix("X-Pad: ")).unwrap();
    assert_eq!((body.len() + pad.len()) % PAD, 0);
    assert!(!pad.is_empty() && pad.bytes().all(|byte| byte == b'0'));
    assert!(sign_in.poll_request().is_none());
}

#[test]
fn a_group_is_chosen_by_name_or_label_and_must_be_there() {
    let form = "<auth id=\"main\"><form action=\"/auth\"><input type=\"text\" name=\"username\"/>\
                <select name=\"group_list\"><option value=\"a\">Group A</option><option value=\"b\">Group B</option>\
                </select></form></auth>";
    for (wanted, want) in [(None, "a"), (Some("b"), "b"), (Some("Group B"), "b")] {
        let mut sign_in = begin(wanted, None);
        sent(&mut sign_in);
        let _ = sign_in.handle_reply(&page(form)).unwrap();
        sign_in.answer(|_| "alice & bob").unwrap();
        let answer = sent(&mut sign_in);
        assert!(answer.starts_with("POST /auth "), "{answer}");
        assert!(answer.contains("<username>alice &amp; bob</username>"), "{answer}");
        assert!(answer.contains(&format!("<group-select>{want}</group-select>")), "{answer}");
    }
    let mut sign_in = begin(Some("c"), None);
    let _ = sign_in.handle_reply(&page(form)).unwrap();
    let refused = sign_in.answer(|_| "alice").unwrap_err();
    assert_eq!(refused.to_string(), "the server has no group \"c\"; it offers a, b");
}

/// Covers: R61
#[test]
fn a_redirect_stays_with_the_server_and_ends() {
    let to = |location: &str| {
        reply(format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n").as_bytes())
    };
    let mut sign_in = begin(None, Some("secret-token"));
    for location in [
        "http://vpn.example/",
        "https://evil.example/",
        "https://vpn.example:444/",
        "https://vpn.example@evil/",
        "//evil.example/",
        "ftp://vpn.example/",
        "/a b",
        "",
        "https://vpn.example.evil/",
    ] {
        let mut sign_in = begin(None, Some("secret-token"));
        sent(&mut sign_in);
        let outcome = sign_in.handle_reply(&to(location));
        if location.is_empty() {
            assert!(matches!(outcome, Ok(Step::Again)), "no location is the same place");
        } else {
            assert!(matches!(outcome, Err(SignInError::Redirected { .. })), "{location}: {outcome:?}");
            assert!(sign_in.poll_request().is_none(), "{location}");
        }
    }
    sent(&mut sign_in);
    for round in 0..MAX_REDIRECTS {
        let step = sign_in.handle_reply(&to(&format!("https://VPN.example/{round}"))).unwrap();
        assert!(matches!(step, Step::Again));
        assert!(sent(&mut sign_in).starts_with(&format!("POST /{round} ")));
    }
    assert_eq!(sign_in.handle_reply(&to("/more")).unwrap_err(), SignInError::Endless);
}

/// Covers: R63
#[test]
fn a_server_that_asks_forever_is_left() {
    let form = page("<auth id=\"main\"><form><input type=\"text\" name=\"username\"/></form></auth>");
    let mut sign_in = begin(None, None);
    let mut rounds = 0;
    let end = loop {
        sent(&mut sign_in);
        match sign_in.handle_reply(&form) {
            Ok(_) => sign_in.answer(|_| "alice").unwrap(),
            Err(error) => break error,
        }
        rounds += 1;
        assert!(rounds < 100);
    };
    assert_eq!((end, rounds + 1), (SignInError::Endless, MAX_REQUESTS));
}

#[test]
fn the_reply_to_the_last_request_still_counts() {
    let form = page("<auth id=\"main\"><form><input type=\"text\" name=\"username\"/></form></auth>");
    let mut sign_in = begin(None, None);
    for _ in 1..MAX_REQUESTS {
        sent(&mut sign_in);
        assert!(matches!(sign_in.handle_reply(&form), Ok(Step::Ask(_))));
        sign_in.answer(|_| "alice").unwrap();
    }
    sent(&mut sign_in);
    let success = page("<session-token>TOK@1</session-token><auth id=\"success\"/>");
    assert!(matches!(sign_in.handle_reply(&success), Ok(Step::Complete(_))));
}

#[test]
fn success_without_a_cookie_and_refusals_in_words_are_told() {
    let mut sign_in = begin(None, None);
    let success = page("<auth id=\"success\"/>");
    assert_eq!(sign_in.handle_reply(&success).unwrap_err(), SignInError::NoCookie);
    let error = page("<auth id=\"main\"><error>locked\u{1b}[0m</error></auth>");
    let said = begin(None, None).handle_reply(&error);
    assert!(said.is_err(), "an escape character is no XML: {said:?}");
    let error = page("<auth id=\"main\"><error>locked</error></auth>");
    let refused = begin(None, None).handle_reply(&error).unwrap_err();
    assert_eq!(refused, SignInError::Refused { said: "locked".to_owned() });
    let gone = reply(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    assert!(matches!(begin(None, None).handle_reply(&gone), Err(SignInError::Status { status: 503, .. })));
}

/// Covers: R70
#[test]
fn nothing_secret_is_shown() {
    let mut sign_in = begin(None, Some("very-secret-token"));
    let signed_in = page("<session-token>very-secret-cookie</session-token><auth id=\"success\"/>");
    let step = sign_in.handle_reply(&signed_in).unwrap();
    let shown = format!("{sign_in:?} {step:?}");
    assert!(!shown.contains("very-secret"), "{shown}");
}
