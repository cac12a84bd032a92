//! Logins by password, step by step.

use super::rig::*;
use crate::auth::{AuthMethod, BanConfig, Cookie, Credentials, LoginConfig, MAX_PASSWORD_BYTES, Verdict};

const AUTH_REQUEST: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
    <config-auth client=\"vpn\" type=\"auth-request\">\n<version who=\"sg\">0.1(1)</version>\n<auth id=\"main\">\n";

/// Covers: statement 3, statement 4, statement 7, statement 9, statement 13
#[test]
fn a_login_reads_like_the_real_transcript() {
    let mut rig = Rig::with(LoginConfig {
        pre_login_banner: Some("Pre login".into()),
        banner: Some("Welcome <all> & sundry".into()),
        certificate_sha1: "0123456789ABCDEF0123456789ABCDEF01234567".into(),
        ..LoginConfig::default()
    });

    let first = responded(rig.send(&request("POST", "/", &[("User-Agent", AGENT)], &init(""))));
    assert_eq!(
        head(&first),
        [
            "HTTP/1.1 200 OK",
            "Set-Cookie: webvpncontext=; expires=Thu, 01 Jan 1970 22:00:00 GMT; path=/; Secure; HttpOnly",
            "X-Transcend-Version: 1",
            "Content-Type: text/xml",
            "Content-Length: 332",
        ]
    );
    assert_eq!(
        body(&first),
        format!(
            "{AUTH_REQUEST}<banner>Pre login</banner><message>Please enter your username.</message>\n\
             <form method=\"post\" action=\"/auth\">\n\
             <input type=\"text\" name=\"username\" label=\"Username:\" />\n</form></auth>\n</config-auth>"
        )
    );

    let second = responded(rig.post("", &username("alice")));
    let context = context_in(&second);
    assert_eq!(
        head(&second),
        [
            "HTTP/1.1 200 OK".to_owned(),
            format!("Set-Cookie: {context}; Max-Age=300; Secure; HttpOnly"),
            "X-Transcend-Version: 1".to_owned(),
            "Content-Type: text/xml".to_owned(),
            "Content-Length: 310".to_owned(),
        ]
    );
    assert_eq!(
        body(&second),
        format!(
            "{AUTH_REQUEST}<message>Please enter your password.</message>\n<form method=\"post\" action=\"/auth\">\n\
             <input type=\"password\" name=\"password\" label=\"Password:\" />\n</form></auth>\n</config-auth>"
        )
    );

    rig.connection = 2;
    let (question, credentials) = asked(rig.post(&context, &password("p&amp;w")));
    let Credentials::Password { user, password, group } = credentials else { panic!("{credentials:?}") };
    assert_eq!((user.as_str(), password.as_str(), group), ("alice", "p&w", None));
    let admission = admitted(rig.say(question, accepted("alice", &["staff"])));
    assert_eq!((admission.user.as_str(), admission.method), ("alice", AuthMethod::Password));
    assert_eq!(
        (admission.groups.join(","), admission.source.to_string()),
        ("staff".to_owned(), HOME.to_owned())
    );

    let cookie = Cookie::from_random([3; 32]);
    let last = rig.desk.success(&admission, &cookie);
    let spent = head(&last)[3].clone();
    assert_eq!(
        head(&last),
        [
            "HTTP/1.1 200 OK".to_owned(),
            "Connection: Keep-Alive".to_owned(),
            "X-Transcend-Version: 1".to_owned(),
            spent.clone(),
            format!("Set-Cookie: webvpn={}; Secure; HttpOnly", cookie.text()),
            "Set-Cookie: webvpnc=; expires=Thu, 01 Jan 1970 22:00:00 GMT; path=/; Secure; HttpOnly".to_owned(),
            "Set-Cookie: webvpnc=bu:/&p:t&iu:1/&sh:0123456789ABCDEF0123456789ABCDEF01234567; path=/; Secure; HttpOnly"
                .to_owned(),
            "Content-Type: text/xml".to_owned(),
            "Content-Length: 238".to_owned(),
        ]
    );
    assert_eq!(
        body(&last),
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\" type=\"complete\">\n\
         <version who=\"sg\">0.1(1)</version>\n<auth id=\"success\">\n<title>SSL VPN Service</title>\
         <banner>Welcome &lt;all&gt; &amp; sundry</banner></auth></config-auth>\n"
    );
    assert!(spent.starts_with("Set-Cookie: webvpncontext=") && spent.ends_with("; Secure; HttpOnly"));
    assert!(
        !spent.contains(&cookie.text()) && !spent.contains(&context),
        "three values, none of them another"
    );
    assert_eq!(rig.desk.stats().conversations, 0);
}

/// Covers: statement 14
#[test]
fn the_legacy_way_is_a_get_and_two_urlencoded_posts() {
    let mut rig = Rig::password_only();
    let fields =
        [("User-Agent", AGENT), ("Content-Type", "application/x-www-form-urlencoded"), ("X-Pad", "0")];
    let form = responded(rig.get("/", &fields));
    assert!(body(&form).contains("name=\"username\""));
    let context = context_in(&responded(rig.post("", "username=alice")));
    let (question, _) = asked(rig.post(&format!("other=1; {context}"), "password=pw"));
    assert_eq!(admitted(rig.say(question, accepted("alice", &[]))).user, "alice");
}

/// Covers: statement 11, R33
#[test]
fn the_third_wrong_password_is_a_401_and_the_conversation_is_over() {
    let mut rig = Rig::password_only();
    let context = rig.name_oneself("alice");
    for _ in 0..2 {
        let again = rig.fail(&context);
        assert_eq!(again.status(), 200);
        assert!(body(&again).contains("<message>Login failed.\nPlease enter your password.</message>"));
        assert!(!again.closes());
    }
    let last = rig.fail(&context);
    assert!(last.closes());
    assert_eq!(head(&last), ["HTTP/1.1 401 Authentication failed", "Content-Length: 0"]);
    let form = responded(rig.post(&context, &password("right")));
    assert!(body(&form).contains("name=\"username\""), "nothing goes on: a new login begins");
}

/// Covers: statement 12, P-053, R34, R35
#[test]
fn unknown_wrong_locked_and_impossible_are_the_same_bytes_and_the_same_steps() {
    // What the verifier would say, and what stands in the form, for each cause.
    let causes = [
        ("unknown user", "nobody", "grpA", Verdict::Rejected),
        ("wrong password", "alice", "grpA", Verdict::Rejected),
        ("locked user", "locked", "grpA", Verdict::Rejected),
        ("unknown group", "alice", "grpX", accepted("alice", &["grpA"])),
        ("group of others", "alice", "grpB", accepted("alice", &["grpA"])),
        ("impossible name", "al\u{200b}ice", "grpA", accepted("alice", &["grpA"])),
        ("another user", "bob", "grpA", accepted("alice", &["grpA"])),
    ];
    let mut seen = Vec::new();
    for (cause, name, group, verdict) in causes {
        let mut rig = Rig::with_groups();
        let inner = format!("<auth><username>{name}</username></auth><group-select>{group}</group-select>");
        let form = responded(rig.post("", &reply(&inner)));
        let context = context_in(&form);
        let mut transcript = vec![text(&form).replace(&context, "")];
        for _ in 0..3 {
            let (question, credentials) = asked(rig.post(&context, &password("secret")));
            assert!(
                matches!(credentials, Credentials::Password { .. }),
                "{cause}: the verifier does its work"
            );
            transcript.push(text(&responded(rig.say(question, verdict.clone()))));
        }
        assert_eq!(rig.desk.bans().points(rig.address), 30, "{cause}");
        seen.push((cause, transcript));
    }
    for (cause, transcript) in &seen[1..] {
        assert_eq!(transcript, &seen[0].1, "{cause}");
    }
}

/// Covers: P-052, R34
#[test]
fn a_name_is_verified_and_admitted_in_its_one_spelling() {
    let mut rig = Rig::with(LoginConfig { domains: vec!["corp.example".into()], ..LoginConfig::default() });
    let context = rig.name_oneself(" Alice@CORP.example ");
    let (question, credentials) = asked(rig.post(&context, &password("x")));
    assert!(matches!(credentials, Credentials::Password { user, .. } if user == "alice"));
    assert_eq!(admitted(rig.say(question, accepted("ALICE", &[]))).user, "alice");
}

/// Covers: R33
#[test]
fn a_password_beside_the_user_name_is_ignored() {
    let mut rig = Rig::password_only();
    let both = reply("<auth><username>alice</username><password>right</password></auth>");
    let form = responded(rig.post("", &both));
    assert!(body(&form).contains("name=\"password\""));
    let context = context_in(&form);
    let again = responded(rig.post(&context, &both));
    assert_ne!(context_in(&again), context, "a new name is a new conversation");
    assert_eq!(rig.desk.stats().questions, 0);
}

/// Covers: P-045
#[test]
fn an_empty_password_is_asked_about_and_a_missing_one_is_not() {
    let mut rig = Rig::password_only();
    let context = rig.name_oneself("alice");
    let form = responded(rig.post(&context, &reply("<auth></auth>")));
    assert!(body(&form).contains("<message>Please enter your password.</message>"));
    let (_, credentials) = asked(rig.post(&context, &password("")));
    assert!(matches!(credentials, Credentials::Password { password, .. } if password.is_empty()));
}

/// Covers: R35
#[test]
fn a_password_beyond_the_limit_is_wrong_and_is_not_hashed() {
    let mut rig = Rig::password_only();
    let context = rig.name_oneself("alice");
    let (question, credentials) = asked(rig.post(&context, &password(&"x".repeat(MAX_PASSWORD_BYTES + 1))));
    assert!(matches!(credentials, Credentials::Password { password, .. } if password.is_empty()));
    let again = responded(rig.say(question, accepted("alice", &[])));
    assert!(body(&again).contains("Login failed."));
    let (question, _) = asked(rig.post(&context, &password(&"x".repeat(MAX_PASSWORD_BYTES))));
    admitted(rig.say(question, accepted("alice", &[])));
}

/// Covers: statement 10, O-023, O-027
#[test]
fn a_group_is_chosen_by_a_second_init_or_in_the_reply() {
    let mut rig = Rig::with_groups();
    let options =
        |form: String| form.split("<select").nth(1).unwrap().split("</select").next().unwrap().to_owned();
    let first = options(body(&responded(rig.post("", &init("")))));
    assert!(first.find("grpA") < first.find("grpB"));
    for chosen in ["grpB", "Group B"] {
        let form = responded(rig.post("", &init(&format!("<group-select>{chosen}</group-select>"))));
        let listed = options(body(&form));
        assert!(listed.find("grpB") < listed.find("grpA"), "{listed}");
    }
    for chosen in ["grpB", "Group B"] {
        let inner = format!("<auth><username>alice</username></auth><group-select>{chosen}</group-select>");
        let context = context_in(&responded(rig.post("", &reply(&inner))));
        let (question, credentials) = asked(rig.post(&context, &password("x")));
        assert!(matches!(credentials, Credentials::Password { group: Some(group), .. } if group == "grpB"));
        let admission = admitted(rig.say(question, accepted("alice", &["grpA", "grpB"])));
        assert_eq!(admission.group.as_deref(), Some("grpB"));
    }
}

/// Covers: R34
#[test]
fn where_there_are_groups_no_login_goes_on_without_one() {
    for inner in ["", "<group-select></group-select>"] {
        let mut rig = Rig::with_groups();
        let form =
            responded(rig.post("", &reply(&format!("<auth><username>alice</username></auth>{inner}"))));
        assert!(body(&form).contains("name=\"username\""));
        assert_eq!(rig.desk.stats().conversations, 0);
    }
}

/// Covers: R33
#[test]
fn a_back_end_that_is_away_is_a_refusal_without_points() {
    let mut rig = Rig::password_only();
    let context = rig.name_oneself("alice");
    let (question, _) = asked(rig.post(&context, &password("x")));
    let response = responded(rig.say(question, Verdict::Unavailable));
    assert_eq!((response.status(), response.closes()), (503, true));
    assert_eq!(rig.desk.bans().points(rig.address), 0);
    assert_eq!(rig.desk.stats().conversations, 0);
}

/// Covers: statement 16, R23, R33
#[test]
fn a_conversation_ends_at_its_age_whatever_happens_in_it() {
    let mut rig = Rig::password_only();
    let context = rig.name_oneself("alice");
    rig.wait(299);
    let (question, _) = asked(rig.post(&context, &password("x")));
    assert_eq!(rig.desk.poll_timeout(), Some(rig.now + std::time::Duration::from_secs(1)));
    rig.wait(1);
    let response = responded(rig.say(question, accepted("alice", &[])));
    assert_eq!(response.status(), 401);
    assert_eq!(rig.desk.stats().conversations, 0);
}

/// Covers: P-048, R31
#[test]
fn a_context_that_the_client_made_up_is_never_adopted() {
    let mut rig = Rig::password_only();
    let own = format!("webvpncontext={}", Cookie::from_random([9; 32]).text());
    let context = context_in(&responded(rig.post(&own, &username("alice"))));
    assert_ne!(context, own);
    for made_up in [own.as_str(), "webvpncontext=", "webvpncontext=A", "webvpncontext=\u{e9}"] {
        let form = responded(rig.post(made_up, &password("right")));
        assert!(body(&form).contains("name=\"username\""), "{made_up}");
    }
    assert_eq!(rig.desk.stats().questions, 0);
}

/// Covers: R33, P-050
#[test]
fn a_second_password_while_one_is_verified_gains_nothing() {
    let mut rig = Rig::password_only();
    let context = rig.name_oneself("alice");
    let (question, _) = asked(rig.post(&context, &password("one")));
    for connection in [1, 2] {
        rig.connection = connection;
        let busy = responded(rig.post(&context, &password("two")));
        assert_eq!(busy.status(), 503);
    }
    assert_eq!(rig.desk.stats().questions, 1);
    rig.connection = 1;
    assert_eq!(admitted(rig.say(question, accepted("alice", &[]))).user, "alice");
}

/// Covers: R33, CVE-2019-1714 class
#[test]
fn the_outcome_belongs_to_the_connection_that_asked() {
    let mut rig = Rig::password_only();
    let context = rig.name_oneself("alice");
    let (question, _) = asked(rig.post(&context, &password("x")));
    rig.desk.handle_connection_closed(crate::auth::ConnectionId(1));
    assert_eq!(responded(rig.say(question, accepted("alice", &[]))).status(), 401);
    rig.connection = 2;
    let form = responded(rig.post(&context, &password("x")));
    assert!(body(&form).contains("name=\"username\""), "the conversation went with its connection");
}

/// Covers: R33, R36
#[test]
fn hanging_up_before_the_verdict_still_costs_points() {
    let mut rig = Rig::password_only();
    let context = rig.name_oneself("alice");
    let (question, _) = asked(rig.post(&context, &password("x")));
    rig.desk.handle_connection_closed(crate::auth::ConnectionId(1));
    assert_eq!(responded(rig.say(question, Verdict::Rejected)).status(), 401);
    assert_eq!(rig.desk.bans().points(rig.address), 10);
}

/// Covers: R33
#[test]
fn a_verdict_counts_once_and_only_for_its_own_question() {
    let mut rig = Rig::password_only();
    let context = rig.name_oneself("alice");
    let (question, _) = asked(rig.post(&context, &password("x")));
    admitted(rig.say(question, accepted("alice", &[])));
    assert_eq!(responded(rig.say(question, accepted("alice", &[]))).status(), 401);
}

/// Covers: R33
#[test]
fn starting_over_while_a_password_is_verified_ends_the_conversation() {
    for start_over in [init(""), username("bob")] {
        let mut rig = Rig::password_only();
        let context = rig.name_oneself("alice");
        let (question, _) = asked(rig.post(&context, &password("x")));
        rig.connection = 2;
        assert_eq!(responded(rig.post(&context, &start_over)).status(), 200);
        assert_eq!(responded(rig.say(question, accepted("alice", &[]))).status(), 401);
    }
}

/// Covers: statement 71, P-055, O-050, R36
#[test]
fn a_banned_source_is_refused_though_right_and_others_are_not() {
    let mut rig = Rig::password_only();
    for _ in 0..4 {
        let context = rig.name_oneself("alice");
        rig.fail(&context);
        rig.fail(&context);
    }
    let banned = responded(rig.post("", &username("alice")));
    assert_eq!((banned.status(), banned.closes()), (429, true));
    assert_eq!(responded(rig.get("/healthz", &[])).status(), 200);
    rig.at("192.0.2.2");
    assert_eq!(responded(rig.post("", &username("alice"))).status(), 200);
    rig.at(HOME).wait(300);
    assert_eq!(responded(rig.post("", &username("alice"))).status(), 200);
}

/// Covers: R36
#[test]
fn passwords_guessed_in_parallel_do_not_outrun_the_ban() {
    let mut rig = Rig::password_only();
    let mut questions = Vec::new();
    for connection in 0..20 {
        rig.connection = connection;
        let context = rig.name_oneself("alice");
        questions.push(asked(rig.post(&context, &password("guess"))).0);
    }
    let lucky = questions.pop().unwrap();
    let mut wrong = String::new();
    for question in questions {
        wrong = text(&responded(rig.say(question, Verdict::Rejected)));
    }
    assert_eq!(text(&responded(rig.say(lucky, accepted("alice", &[])))), wrong);
}

/// Covers: R36, P-056
#[test]
fn a_name_under_attack_from_everywhere_is_throttled_without_a_sign() {
    let mut rig = Rig::with(LoginConfig {
        bans: BanConfig { max_ban_score: 20, ..BanConfig::default() },
        ..LoginConfig::default()
    });
    for n in 0..10 {
        rig.at(&format!("198.51.100.{n}"));
        let context = rig.name_oneself("alice");
        rig.fail(&context);
    }
    rig.at(HOME);
    let context = rig.name_oneself("alice");
    let (question, _) = asked(rig.post(&context, &password("right")));
    assert!(body(&responded(rig.say(question, accepted("alice", &[])))).contains("Login failed."));
    rig.wait(300);
    let context = rig.name_oneself("alice");
    let (question, _) = asked(rig.post(&context, &password("right")));
    admitted(rig.say(question, accepted("alice", &[])));
}

/// Covers: R35, P-054
#[test]
fn one_source_cannot_take_all_places_at_the_verifier() {
    let mut rig = Rig::password_only();
    let open = |rig: &mut Rig, connection: u64| {
        rig.connection = connection;
        let context = rig.name_oneself("alice");
        rig.post(&context, &password("x"))
    };
    for n in 0..crate::auth::MAX_QUESTIONS_PER_SOURCE as u64 {
        asked(open(&mut rig, n));
    }
    assert_eq!(responded(open(&mut rig, 9000)).status(), 503);
    rig.at("192.0.2.2");
    asked(open(&mut rig, 9001));
}

/// Covers: R33, R36
#[test]
fn a_conversation_that_its_own_source_displaced_admits_nobody() {
    let mut rig = Rig::password_only();
    let context = rig.name_oneself("alice");
    let (question, _) = asked(rig.post(&context, &password("right")));
    rig.connection = 2;
    for _ in 0..crate::auth::MAX_CONVERSATIONS_PER_SOURCE {
        rig.name_oneself("bob");
    }
    assert_eq!(rig.desk.stats().conversations, crate::auth::MAX_CONVERSATIONS_PER_SOURCE);
    assert_eq!(responded(rig.say(question, accepted("alice", &[]))).status(), 401);
}

/// Covers: R33
#[test]
fn a_conversation_goes_on_from_another_address_only_with_its_cookie() {
    let mut rig = Rig::password_only();
    let context = rig.name_oneself("alice");
    let form = responded(rig.post("", &password("right")));
    assert!(body(&form).contains("name=\"username\""), "the same connection is not enough");
    rig.at("2001:db8::1").connection = 2;
    let (question, _) = asked(rig.post(&context, &password("right")));
    assert_eq!(admitted(rig.say(question, accepted("alice", &[]))).source.to_string(), "2001:db8::1");
}

#[test]
fn no_attempts_at_all_means_one() {
    let mut rig = Rig::password_only();
    rig.desk.set_config(std::sync::Arc::new(LoginConfig { attempts: 0, ..LoginConfig::default() }));
    let context = rig.name_oneself("alice");
    assert_eq!(rig.fail(&context).status(), 401);
}
