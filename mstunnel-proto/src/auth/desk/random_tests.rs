//! Random visitors: whatever they do, only a good verdict of their own lets somebody in.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::rig::*;
use crate::auth::{
    Answer, AuthMethod, ConnectionId, Credentials, GroupChoice, LoginConfig, QuestionId, Verdict,
};

#[derive(Clone, Debug)]
enum Act {
    Get { token: bool },
    Init { context: usize },
    Name { context: usize, user: usize, group: usize },
    Password { context: usize },
    Token { context: usize },
    Both { context: usize, user: usize },
    Say { question: usize, verdict: usize },
    Close,
    Wait { secs: u64 },
}

const USERS: [&str; 3] = ["alice", "bob", "al\u{200b}ice"];
const GROUPS: [&str; 3] = ["", "grpA", "grpX"];

fn act() -> impl Strategy<Value = (u64, Act)> {
    let index = 0..4usize;
    let act = prop_oneof![
        1 => any::<bool>().prop_map(|token| Act::Get { token }),
        1 => index.clone().prop_map(|context| Act::Init { context }),
        1 => (index.clone(), 0..3usize, 0..3usize).prop_map(|(context, user, group)| Act::Name { context, user, group }),
        3 => index.clone().prop_map(|context| Act::Password { context }),
        1 => index.clone().prop_map(|context| Act::Token { context }),
        1 => (index.clone(), 0..3usize).prop_map(|(context, user)| Act::Both { context, user }),
        4 => (index, 0..5usize).prop_map(|(question, verdict)| Act::Say { question, verdict }),
        1 => Just(Act::Close),
        1 => (0..200u64).prop_map(|secs| Act::Wait { secs }),
    ];
    (0..3u64, act)
}

/// What the test knows about an open question.
struct Open {
    connection: u64,
    user: Option<String>,
    group: Option<String>,
    since: Instant,
}

fn run(methods: Vec<AuthMethod>, acts: Vec<(u64, Act)>) -> Result<usize, TestCaseError> {
    let mut rig = Rig::with(LoginConfig {
        methods,
        groups: vec![GroupChoice { name: "grpA".into(), label: "A".into() }],
        ..LoginConfig::default()
    });
    let mut contexts: Vec<String> = Vec::new();
    let mut open: BTreeMap<QuestionId, Open> = BTreeMap::new();
    let mut order: Vec<QuestionId> = Vec::new();
    let mut admissions = 0;
    for (connection, act) in acts {
        rig.connection = connection;
        let context = |n: usize| contexts.iter().rev().nth(n).cloned().unwrap_or_default();
        let post = |rig: &mut Rig, context: String, body: String| rig.post(&context, &body);
        let answer = match act {
            Act::Get { token } => {
                let fields = [("User-Agent", AGENT), ("Authorization", "Bearer t")];
                rig.get("/", if token { &fields } else { &fields[..1] })
            }
            Act::Init { context: n } => post(&mut rig, context(n), init("")),
            Act::Name { context: n, user, group } => {
                let (user, group) = (USERS[user], GROUPS[group]);
                let inner =
                    format!("<auth><username>{user}</username></auth><group-select>{group}</group-select>");
                post(&mut rig, context(n), reply(&inner))
            }
            Act::Password { context: n } => post(&mut rig, context(n), password("x")),
            Act::Both { context: n, user } => {
                let inner =
                    format!("<auth><username>{}</username><password>x</password></auth>", USERS[user]);
                post(&mut rig, context(n), reply(&inner))
            }
            Act::Token { context: n } => {
                let cookies = context(n);
                let fields =
                    [("User-Agent", AGENT), ("Authorization", "Bearer t"), ("Cookie", cookies.as_str())];
                rig.send(&request("POST", "/", &fields, &init("")))
            }
            Act::Say { question, verdict } => {
                let Some(&id) = order.iter().rev().nth(question) else { continue };
                let verdict = match verdict {
                    0 => Verdict::Rejected,
                    1 => Verdict::Unavailable,
                    2 => accepted("bob", &["grpA"]),
                    3 => accepted("alice", &[]),
                    _ => accepted("Alice", &["grpA"]),
                };
                let asked = open.remove(&id);
                let answer = rig.say(id, verdict.clone());
                if let Answer::Admit(admission) = answer {
                    admissions += 1;
                    let Some(asked) = asked else {
                        return Err(TestCaseError::fail(
                            "admitted by a question that was closed or answered",
                        ));
                    };
                    let Verdict::Accepted { user, groups } = verdict else {
                        return Err(TestCaseError::fail("admitted without a good verdict"));
                    };
                    prop_assert!(rig.now - asked.since < Duration::from_secs(300));
                    prop_assert_eq!(&admission.user, &user.to_lowercase());
                    prop_assert!(asked.user.is_none_or(|name| name == admission.user));
                    prop_assert_eq!(&admission.group, &asked.group);
                    prop_assert!(admission.group.is_none_or(|group| groups.contains(&group)));
                }
                continue;
            }
            Act::Close => {
                rig.desk.handle_connection_closed(ConnectionId(connection));
                open.retain(|_, asked| asked.connection != connection);
                continue;
            }
            Act::Wait { secs } => {
                rig.wait(secs);
                rig.desk.handle_timeout(rig.now);
                prop_assert!(rig.desk.poll_timeout().is_none_or(|at| at > rig.now));
                continue;
            }
        };
        match answer {
            Answer::Admit(_) => return Err(TestCaseError::fail("admitted without any verdict")),
            Answer::Verify { question, credentials } => {
                let (user, group) = match credentials {
                    Credentials::Password { user, group, .. } => (Some(user), group),
                    Credentials::Bearer { group, .. } => (None, group),
                };
                open.insert(question, Open { connection, user, group, since: rig.now });
                order.push(question);
            }
            Answer::Respond(response) => {
                if text(&response).contains("Max-Age=300") {
                    contexts.push(context_in(&response));
                }
            }
        }
    }
    Ok(admissions)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Covers: R33, P-050
    #[test]
    fn no_sequence_without_a_good_verdict_of_its_own_admits_anybody(
        acts in prop::collection::vec(act(), 0..60),
        with_tokens: bool,
    ) {
        let methods = if with_tokens { vec![AuthMethod::Bearer, AuthMethod::Password] } else { vec![AuthMethod::Password] };
        run(methods, acts)?;
    }

    /// Covers: P-044
    #[test]
    fn no_body_and_no_field_panics_the_desk(
        body in prop::collection::vec(any::<u8>(), 0..200),
        cookie in "[ -~]{0,60}",
        authorization in "[ -~]{0,30}",
    ) {
        let mut rig = Rig::offering(&[AuthMethod::Bearer, AuthMethod::Password]);
        let mut visit = request("POST", "/auth", &[("Cookie", &cookie), ("Authorization", &authorization)], "");
        visit.body = body;
        let admitted = matches!(rig.send(&visit), Answer::Admit(_));
        prop_assert!(!admitted);
    }
}

/// The random walk above does reach the inside; otherwise it would prove nothing.
#[test]
fn the_walk_admits_somebody_when_it_goes_the_right_way() {
    let walk = vec![
        (0, Act::Name { context: 0, user: 0, group: 1 }),
        (0, Act::Password { context: 0 }),
        (0, Act::Say { question: 0, verdict: 4 }),
        (1, Act::Get { token: true }),
        (1, Act::Say { question: 0, verdict: 3 }),
    ];
    assert_eq!(run(vec![AuthMethod::Bearer, AuthMethod::Password], walk).unwrap(), 2);
}

#[test]
fn new_settings_hold_for_open_conversations() {
    let mut rig = Rig::password_only();
    let context = rig.name_oneself("alice");
    rig.desk.set_config(Arc::new(LoginConfig { attempts: 1, ..LoginConfig::default() }));
    assert_eq!(rig.fail(&context).status(), 401);
}
