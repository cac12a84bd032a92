//! A desk with a client in front of it and a verifier behind it.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    auth::{
        Admission, Answer, AuthMethod, ConnectionId, Cookie, Credentials, GroupChoice, LoginConfig,
        LoginDesk, QuestionId, Verdict,
    },
    http::{Request, RequestReader, Response},
};

pub(super) const AGENT: &str = "Open AnyConnect VPN Agent v9.01-3";
pub(super) const HOME: &str = "192.0.2.1";

const XML_HEAD: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\"";
const XML_CLIENT: &str = "aggregate-auth-version=\"2\"><version who=\"vpn\">v9.01-3</version>\
    <device-id>linux-64</device-id><capabilities><auth-method>single-sign-on-v2</auth-method></capabilities>";

/// The body of an init, with what follows the fixed elements.
pub(super) fn init(rest: &str) -> String {
    format!(
        "{XML_HEAD} type=\"init\" {XML_CLIENT}<group-access>https://h/</group-access>{rest}</config-auth>\n"
    )
}

/// The body of an auth-reply.
pub(super) fn reply(rest: &str) -> String {
    format!("{XML_HEAD} type=\"auth-reply\" {XML_CLIENT}{rest}</config-auth>\n")
}

pub(super) fn username(name: &str) -> String {
    reply(&format!("<auth><username>{name}</username></auth>"))
}

pub(super) fn password(secret: &str) -> String {
    reply(&format!("<auth><password>{secret}</password></auth>"))
}

/// A request as it comes out of the reader.
pub(super) fn request(method: &str, target: &str, fields: &[(&str, &str)], body: &str) -> Request {
    let mut head = format!("{method} {target} HTTP/1.1\r\nHost: h\r\n");
    for (name, value) in fields {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let bytes = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes();
    let mut reader = RequestReader::new();
    let mut rest = bytes.as_slice();
    loop {
        let taken = reader.handle_bytes(rest).unwrap();
        if let Some(request) = reader.poll_request() {
            return request;
        }
        assert!(taken > 0 && taken < rest.len(), "an unfinished request");
        rest = &rest[taken..];
    }
}

pub(super) struct Rig {
    pub(super) desk: LoginDesk,
    pub(super) now: Instant,
    pub(super) connection: u64,
    pub(super) address: IpAddr,
    drawn: u32,
}

impl Rig {
    pub(super) fn with(config: LoginConfig) -> Self {
        Self {
            desk: LoginDesk::new(Arc::new(config)),
            now: crate::testing::origin(),
            connection: 1,
            address: HOME.parse().unwrap(),
            drawn: 0,
        }
    }

    pub(super) fn password_only() -> Self {
        Self::with(LoginConfig { certificate_sha1: "A".repeat(40), ..LoginConfig::default() })
    }

    pub(super) fn offering(methods: &[AuthMethod]) -> Self {
        Self::with(LoginConfig { methods: methods.to_vec(), ..LoginConfig::default() })
    }

    pub(super) fn with_groups() -> Self {
        let choice = |name: &str, label: &str| GroupChoice { name: name.into(), label: label.into() };
        Self::with(LoginConfig {
            groups: vec![choice("grpA", "Group A"), choice("grpB", "Group B")],
            ..LoginConfig::default()
        })
    }

    pub(super) fn at(&mut self, address: &str) -> &mut Self {
        self.address = address.parse().unwrap();
        self
    }

    pub(super) fn wait(&mut self, secs: u64) {
        self.now += Duration::from_secs(secs);
    }

    pub(super) fn send(&mut self, request: &Request) -> Answer {
        self.drawn += 1;
        let mut random = [0xa5; 32];
        random[..4].copy_from_slice(&self.drawn.to_be_bytes());
        self.desk.handle_request(ConnectionId(self.connection), self.address, request, random, self.now)
    }

    /// A POST of `/auth` by the stock client, with the cookies given.
    pub(super) fn post(&mut self, cookies: &str, body: &str) -> Answer {
        let mut fields = vec![("User-Agent", AGENT), ("X-Transcend-Version", "1")];
        if !cookies.is_empty() {
            fields.push(("Cookie", cookies));
        }
        self.send(&request("POST", "/auth", &fields, body))
    }

    pub(super) fn get(&mut self, target: &str, fields: &[(&str, &str)]) -> Answer {
        self.send(&request("GET", target, fields, ""))
    }

    /// The first half of a login: returns the cookie of the conversation.
    pub(super) fn name_oneself(&mut self, name: &str) -> String {
        let form = responded(self.post("", &username(name)));
        assert_eq!(form.status(), 200);
        context_in(&form)
    }

    pub(super) fn say(&mut self, question: QuestionId, verdict: Verdict) -> Answer {
        self.desk.handle_verdict(question, verdict, self.now)
    }

    /// One wrong password in a conversation.
    pub(super) fn fail(&mut self, context: &str) -> Response {
        let (question, _) = asked(self.post(context, &password("wrong")));
        responded(self.say(question, Verdict::Rejected))
    }
}

pub(super) fn accepted(user: &str, groups: &[&str]) -> Verdict {
    Verdict::Accepted { user: user.into(), groups: groups.iter().map(|&group| group.to_owned()).collect() }
}

pub(super) fn responded(answer: Answer) -> Response {
    match answer {
        Answer::Respond(response) => response,
        other @ (Answer::Verify { .. } | Answer::Admit(_)) => panic!("not a response: {other:?}"),
    }
}

pub(super) fn asked(answer: Answer) -> (QuestionId, Credentials) {
    match answer {
        Answer::Verify { question, credentials } => (question, credentials),
        other @ (Answer::Respond(_) | Answer::Admit(_)) => panic!("not a question: {other:?}"),
    }
}

pub(super) fn admitted(answer: Answer) -> Admission {
    match answer {
        Answer::Admit(admission) => admission,
        other @ (Answer::Respond(_) | Answer::Verify { .. }) => panic!("not an admission: {other:?}"),
    }
}

pub(super) fn text(response: &Response) -> String {
    String::from_utf8(response.encode()).unwrap()
}

pub(super) fn body(response: &Response) -> String {
    text(response).split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// The status line and the fields, without those that every page has.
pub(super) fn head(response: &Response) -> Vec<String> {
    let ours = [
        "HTTP/",
        "Set-Cookie:",
        "Connection: Keep-Alive",
        "Content-",
        "X-Transcend",
        "WWW-",
        "X-HTTP",
        "X-Reason",
    ];
    let text = text(response);
    let (head, _) = text.split_once("\r\n\r\n").unwrap();
    head.lines()
        .filter(|line| {
            ours.iter().any(|known| line.starts_with(known)) && !line.starts_with("Content-Security")
        })
        .map(str::to_owned)
        .collect()
}

/// `webvpncontext=...` of a form that begins a conversation.
pub(super) fn context_in(response: &Response) -> String {
    let line =
        head(response).into_iter().find(|line| line.starts_with("Set-Cookie: webvpncontext=")).unwrap();
    let value = line.trim_start_matches("Set-Cookie: ").split(';').next().unwrap().to_owned();
    assert!(Cookie::parse(value.trim_start_matches("webvpncontext=")).is_some(), "{line}");
    value
}
