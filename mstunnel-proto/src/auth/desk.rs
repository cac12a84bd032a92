//! The login desk: every request of a server but CONNECT comes here, and leaves with an answer.
//!
//! ```text
//!            handle_request                        handle_verdict
//! request ──────────────────> Verify{question} ──(server asks its verifier)──> Admit | Respond
//!                       └───> Respond
//! ```
//!
//! **Password.** One form at a time, as ocserv does it: the user name (with the group, if there are
//! groups), then the password. A password that comes with the user name is ignored, so that every
//! login takes the same steps. Nothing is kept until a user name has come; then a conversation lives
//! under the hash of its context cookie, for 300 s at most, and can go on from any connection that
//! brings the cookie. The cookie is ours, never the client's.
//!
//! **Token.** A single step without state: challenge, then a request with the token.
//!
//! **Both.** A first POST cannot tell which of the two the client has, so a client that says
//! `X-Support-HTTP-Auth` is asked for a token first, with `X-HTTP-Auth-Support: fallback`: who has none
//! repeats the request without that field and is served the form. openconnect 9.01 does so only on the
//! second challenge, when it has fallen back from XML to GET; a GET is therefore challenged if it brings
//! the [`ASKED`](pages::ASKED) cookie of the first challenge, and a client that begins with GET (`--no-xmlpost`)
//! is served the form at once. Run against openconnect 9.01: token and password, each with and without
//! `--http-auth=Bearer`, and password with `--no-xmlpost` work; a token with `--no-xmlpost` needs a
//! server that offers tokens only. A request with a token is decided by the token alone: a bad one is
//! refused and closed, never answered with a form.
//!
//! **Uniform failure.** A name that cannot exist, a group that does not exist or is not the user's, a
//! throttled name, an unknown user, a wrong password and a locked account take the same steps, ask the
//! verifier the same question and get the same bytes (threats.md R34, R35).
//!
//! **Limits.** [`MAX_CONVERSATIONS`](super::MAX_CONVERSATIONS) and
//! [`MAX_QUESTIONS`](super::MAX_QUESTIONS), each also per source; [`MAX_PASSWORD_BYTES`]; the bans of
//! [`BanTable`]. Over a limit the answer is 503, for a banned source 429; both close.
//!
//! # Source
//! protocol.md sections 2 and 8.3; threats.md R28 to R36.

use std::{net::IpAddr, sync::Arc, time::Instant};

use zeroize::Zeroizing;

use super::{
    answer::{Admission, Answer, ConnectionId, Credentials, Health, QuestionId, Verdict},
    bans::{BanTable, Source},
    bearer::{self, Bearer},
    config::{AuthMethod, LoginConfig},
    conversation::{Claim, Conversation, Cue, Standing, State},
    conversations::Conversations,
    cookie::{Cookie, CookieHash},
    fields::{LoginFields, Step},
    pages::{self, Route},
    questions::{Asker, Question, Questions, Subject},
    replies,
    user::UserName,
};
use crate::http::{Method, Request, Response};

/// The longest password that is hashed; a longer one is wrong.
pub const MAX_PASSWORD_BYTES: usize = 1024;

/// All open logins of a server.
#[derive(Debug)]
pub struct LoginDesk {
    config: Arc<LoginConfig>,
    health: Health,
    bans: BanTable,
    conversations: Conversations,
    questions: Questions,
}

/// How much is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeskStats {
    /// Conversations by password.
    pub conversations: usize,
    /// Questions with the verifier.
    pub questions: usize,
}

/// The request that is being answered.
#[derive(Clone, Copy)]
struct Visit<'a> {
    connection: ConnectionId,
    address: IpAddr,
    request: &'a Request,
    now: Instant,
}

impl LoginDesk {
    /// Opens a desk.
    pub fn new(config: Arc<LoginConfig>) -> Self {
        Self {
            bans: BanTable::new(config.bans.clone()),
            config,
            health: Health::Ready,
            conversations: Conversations::default(),
            questions: Questions::default(),
        }
    }

    /// Takes over new settings; open conversations go on under them.
    pub fn set_config(&mut self, config: Arc<LoginConfig>) {
        self.bans.set_config(config.bans.clone());
        self.config = config;
    }

    /// Tells the desk what the health page says, and whether logins are taken.
    pub fn set_health(&mut self, health: Health) {
        self.health = health;
    }

    /// Answers any request but CONNECT.
    ///
    /// `address` is the client's, from the socket or a trusted PROXY header. `random` is fresh from the
    /// operating system's generator for every call and becomes a context cookie, if one is needed; it
    /// must not become the session's cookie too.
    pub fn handle_request(
        &mut self,
        connection: ConnectionId,
        address: IpAddr,
        request: &Request,
        random: [u8; 32],
        now: Instant,
    ) -> Answer {
        self.handle_timeout(now);
        match pages::route(request) {
            Route::Page(page) => Answer::Respond(page),
            Route::Health => Answer::Respond(pages::health(self.health)),
            Route::Login => {
                self.login(Visit { connection, address, request, now }, Cookie::from_random(random))
            }
        }
    }

    /// Takes in what the verifier found out; the answer goes to the connection that asked.
    ///
    /// If that connection has gone, or the conversation has ended meanwhile, the verdict admits nobody.
    pub fn handle_verdict(&mut self, question: QuestionId, verdict: Verdict, now: Instant) -> Answer {
        self.handle_timeout(now);
        let Some(asked) = self.questions.remove(question) else {
            return Answer::Respond(pages::refused());
        };
        let judged = self.judge(&asked, verdict, now);
        if judged == Judged::Rejected {
            let user = asked.claim.user.as_ref().map(UserName::as_str);
            self.bans.record_failure(asked.address, user, now);
        }
        if asked.asker == Asker::Left {
            return Answer::Respond(pages::refused());
        }
        match asked.subject {
            Subject::Password(key) => self.go_on(&key, question, judged),
            Subject::Bearer => match judged {
                Judged::Accepted(admission) => Answer::Admit(admission),
                Judged::Rejected => Answer::Respond(pages::refused()),
                Judged::Unavailable => Answer::Respond(pages::unavailable(NO_VERDICT)),
            },
        }
    }

    /// The success document with the cookie that the session was recorded under. Only an admission buys one.
    pub fn success(&self, _admission: &Admission, cookie: &Cookie) -> Response {
        replies::success(&self.config, cookie)
    }

    /// Takes in that a connection has closed: what it asked admits nobody any more.
    pub fn handle_connection_closed(&mut self, connection: ConnectionId) {
        let Some((id, question)) = self.questions.of_connection(connection) else {
            return;
        };
        if let Subject::Password(key) = question.subject {
            self.conversations.remove(&key);
        }
        self.questions.leave(id);
    }

    /// Ends what has become too old.
    pub fn handle_timeout(&mut self, now: Instant) {
        while self.conversations.remove_expired(now).is_some() {}
        self.questions.expire(now);
        self.bans.handle_timeout(now);
    }

    /// The next moment at which something becomes too old.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.conversations.next_deadline(), self.questions.next_deadline(), self.bans.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The bans, for listing.
    pub fn bans(&self) -> &BanTable {
        &self.bans
    }

    /// The bans, for lifting one.
    pub fn bans_mut(&mut self) -> &mut BanTable {
        &mut self.bans
    }

    /// How much is open.
    pub fn stats(&self) -> DeskStats {
        DeskStats { conversations: self.conversations.len(), questions: self.questions.len() }
    }

    fn login(&mut self, visit: Visit<'_>, context: Cookie) -> Answer {
        let request = visit.request;
        let token =
            if self.config.offers(AuthMethod::Bearer) { bearer::read(request) } else { Bearer::Absent };
        if token == Bearer::Absent && pages::is_probe(request) {
            return Answer::Respond(pages::alive(self.health));
        }
        if self.health == Health::Draining {
            return Answer::Respond(pages::unavailable("server is draining"));
        }
        if self.bans.is_banned(visit.address, visit.now) {
            return Answer::Respond(pages::banned());
        }
        if self.questions.is_waiting(visit.connection) {
            return Answer::Respond(pages::unavailable(BUSY));
        }
        let read = if request.method == Method::Get {
            Ok(LoginFields::EMPTY)
        } else {
            LoginFields::read(&request.body)
        };
        let Ok(fields) = read else {
            return Answer::Respond(pages::bad_request());
        };
        match token {
            Bearer::Malformed => {
                self.bans.record_failure(visit.address, None, visit.now);
                Answer::Respond(pages::refused())
            }
            Bearer::Token(token) => self.ask_about_token(visit, token, fields.group.as_deref()),
            Bearer::Absent => self.ask_for_credentials(visit, fields, context),
        }
    }

    fn ask_about_token(&mut self, visit: Visit<'_>, token: Zeroizing<String>, group: Option<&str>) -> Answer {
        // A token starts another login: a half-done one by password ends here.
        if let Some(key) = context_of(visit.request) {
            self.conversations.remove(&key);
        }
        if !self.questions.has_room(visit.address) {
            return Answer::Respond(pages::unavailable(OVERLOAD));
        }
        let (group, standing) = self.choose(group);
        let claim = Claim { user: None, group: group.clone(), standing };
        let question = self.questions.insert(self.question(visit, claim, Subject::Bearer));
        Answer::Verify { question, credentials: Credentials::Bearer { token, group } }
    }

    fn ask_for_credentials(&mut self, visit: Visit<'_>, fields: LoginFields, context: Cookie) -> Answer {
        let has_fields = fields.username.is_some() || fields.password.is_some();
        if !self.config.offers(AuthMethod::Password) {
            let bearer = self.config.offers(AuthMethod::Bearer);
            return Answer::Respond(if bearer { pages::challenge() } else { pages::no_certificate() });
        }
        if self.config.offers(AuthMethod::Bearer) && !has_fields && takes_challenge(visit.request) {
            return Answer::Respond(pages::challenge_or_form());
        }
        let open = context_of(visit.request).filter(|key| self.conversations.get(key).is_some());
        match open {
            Some(key) if fields.step == Step::Reply && fields.username.is_none() => {
                self.take_password(visit, key, fields.password)
            }
            open => {
                if let Some(key) = open {
                    self.conversations.remove(&key);
                }
                self.start(visit, &fields, context)
            }
        }
    }

    /// The user name form is answered, or still to be shown.
    fn start(&mut self, visit: Visit<'_>, fields: &LoginFields, context: Cookie) -> Answer {
        let chosen = fields.group.as_deref().filter(|group| !group.is_empty());
        let name = fields.username.as_deref().filter(|name| !name.trim_ascii().is_empty());
        let must_choose = !self.config.groups.is_empty() && chosen.is_none();
        let (Some(name), false) = (name, must_choose) else {
            return Answer::Respond(replies::username_form(&self.config, chosen));
        };
        let user = UserName::canonical(name, &self.config.domains).ok();
        let (group, standing) = self.choose(chosen);
        let Some(deadline) = visit.now.checked_add(self.config.conversation_timeout) else {
            return Answer::Respond(pages::unavailable(OVERLOAD));
        };
        let conversation = Conversation {
            state: State::Awaiting { failures: 0 },
            claim: Claim { user, group, standing },
            source: Source::of(visit.address),
            deadline,
        };
        match self.conversations.insert(context.hash(), conversation) {
            Ok(()) => Answer::Respond(replies::first_password_form(&self.config, &context)),
            Err(_) => Answer::Respond(pages::unavailable(OVERLOAD)),
        }
    }

    /// The password form is answered, or still to be shown.
    fn take_password(
        &mut self,
        visit: Visit<'_>,
        key: CookieHash,
        password: Option<Zeroizing<String>>,
    ) -> Answer {
        let Some(conversation) = self.conversations.get(&key) else {
            return Answer::Respond(pages::refused());
        };
        if conversation.question().is_some() {
            return Answer::Respond(pages::unavailable(BUSY));
        }
        let Some(password) = password else {
            return Answer::Respond(replies::password_form_again(None));
        };
        if !self.questions.has_room(visit.address) {
            return Answer::Respond(pages::unavailable(OVERLOAD));
        }
        let (state, mut claim) = (conversation.state, conversation.claim.clone());
        let password = if password.len() > MAX_PASSWORD_BYTES {
            claim.standing = Standing::Hopeless;
            Zeroizing::default()
        } else {
            password
        };
        let user = claim.user.as_ref().map_or(Credentials::IMPOSSIBLE_USER, UserName::as_str).to_owned();
        let group = claim.group.clone();
        let question = self.questions.insert(self.question(visit, claim, Subject::Password(key)));
        let Some(verifying) = state.next(Cue::Password(question), self.config.attempts) else {
            self.questions.remove(question);
            return Answer::Respond(pages::refused());
        };
        self.conversations.set_state(&key, verifying);
        Answer::Verify { question, credentials: Credentials::Password { user, password, group } }
    }

    /// Moves a conversation by the verdict on its question.
    fn go_on(&mut self, key: &CookieHash, question: QuestionId, judged: Judged) -> Answer {
        let Some(conversation) = self.conversations.get(key) else {
            return Answer::Respond(pages::refused());
        };
        let cue = match &judged {
            Judged::Accepted(_) => Cue::Accepted(question),
            Judged::Rejected => Cue::Rejected(question),
            Judged::Unavailable => Cue::Unavailable(question),
        };
        let Some(state) = conversation.state.next(cue, self.config.attempts) else {
            return Answer::Respond(pages::refused());
        };
        self.conversations.set_state(key, state);
        match (state, judged) {
            (State::Awaiting { .. }, _) => Answer::Respond(replies::password_form_again(Some(LOGIN_FAILED))),
            (State::Admitted, Judged::Accepted(admission)) => {
                self.conversations.remove(key);
                Answer::Admit(admission)
            }
            (_, Judged::Unavailable) => {
                self.conversations.remove(key);
                Answer::Respond(pages::unavailable(NO_VERDICT))
            }
            (State::Admitted | State::Refused | State::Verifying { .. }, _) => {
                self.conversations.remove(key);
                Answer::Respond(pages::refused())
            }
        }
    }

    /// Decides whether a verdict counts. Every reason against it looks like a wrong secret.
    fn judge(&self, asked: &Question, verdict: Verdict, now: Instant) -> Judged {
        let (user, groups) = match verdict {
            Verdict::Accepted { user, groups } => (user, groups),
            Verdict::Rejected => return Judged::Rejected,
            Verdict::Unavailable => return Judged::Unavailable,
        };
        let Ok(user) = UserName::canonical(&user, &self.config.domains) else {
            return Judged::Rejected;
        };
        let (method, is_that_user) = match asked.subject {
            Subject::Password(_) => (AuthMethod::Password, asked.claim.user.as_ref() == Some(&user)),
            Subject::Bearer => (AuthMethod::Bearer, true),
        };
        let group = asked.claim.group.clone();
        let is_member = group.as_ref().is_none_or(|group| groups.contains(group));
        // Secrets guessed in parallel do not outrun the ban that they earn.
        // A name is throttled against guessing; nobody guesses a token, so its owner may come in with one.
        let is_throttled = method == AuthMethod::Password && self.bans.is_user_throttled(user.as_str(), now);
        let is_held_back = is_throttled || self.bans.is_banned(asked.address, now);
        if asked.claim.standing == Standing::Hopeless || !is_that_user || !is_member || is_held_back {
            return Judged::Rejected;
        }
        Judged::Accepted(Admission { user: user.to_string(), groups, group, source: asked.address, method })
    }

    /// The group that a client names, and whether a login with it can succeed.
    fn choose(&self, group: Option<&str>) -> (Option<String>, Standing) {
        match group.filter(|group| !group.is_empty()) {
            None => (None, Standing::Open),
            Some(text) => match self.config.group(text) {
                Some(choice) => (Some(choice.name.clone()), Standing::Open),
                None => (None, Standing::Hopeless),
            },
        }
    }

    fn question(&self, visit: Visit<'_>, claim: Claim, subject: Subject) -> Question {
        let deadline = visit.now.checked_add(self.config.conversation_timeout).unwrap_or(visit.now);
        let Visit { connection, address, .. } = visit;
        Question { connection, address, claim, subject, asker: Asker::Waits, deadline }
    }
}

/// What a verdict is worth.
#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Accepted(Admission),
    Rejected,
    Unavailable,
}

/// The notice above the password form after a wrong password.
const LOGIN_FAILED: &str = "Login failed.";
const BUSY: &str = "login in progress";
const OVERLOAD: &str = "too many logins";
const NO_VERDICT: &str = "authentication is unavailable";

/// Whether a client that may have a token or a password is asked for the token now.
fn takes_challenge(request: &Request) -> bool {
    let supports =
        request.header("X-Support-HTTP-Auth").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    supports && (request.method == Method::Post || request.cookie(pages::ASKED).is_some())
}

fn context_of(request: &Request) -> Option<CookieHash> {
    request.cookie("webvpncontext").and_then(Cookie::parse).map(|cookie| cookie.hash())
}

#[cfg(test)]
mod bearer_tests;
#[cfg(test)]
mod front_tests;
#[cfg(test)]
mod password_tests;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod rig;
