//! The words on the control socket: one JSON object a line, in either direction.
//!
//! ```text
//! {"version":1,"command":"disconnect_user","user":"ada"}
//! {"version":1,"reply":"disconnected","value":2}
//! {"version":1,"error":{"code":"not_found","message":"no session 7"}}
//! ```
//!
//! A connection may ask several times, one after the other; `events` is answered by `{"reply":
//! "subscribed"}` and then by one `event` line each until either side closes. A request of another
//! version is refused by code `version`; unknown fields are ignored so that versions can grow.
//! A request line has at most [`MAX_REQUEST_BYTES`] bytes.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::rows::{BanRow, Event, SessionRow, Status, UserRow};

/// The version of this protocol.
pub const VERSION: u32 = 1;

/// The longest request line. The longest real one is a user name of 256 bytes, escaped.
pub(super) const MAX_REQUEST_BYTES: usize = 4096;

/// One request line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// [`VERSION`] of the asking side.
    pub version: u32,
    /// What is asked.
    #[serde(flatten)]
    pub command: Command,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Answered by [`Reply::Status`].
    Status,
    /// Answered by [`Reply::Users`].
    Users,
    /// Answered by [`Reply::Sessions`].
    Sessions,
    /// Answered by [`Reply::Session`].
    Session {
        /// The session's number.
        id: u64,
    },
    /// Answered by [`Reply::Bans`].
    Bans,
    /// Answered by [`Reply::Disconnected`].
    DisconnectUser {
        /// Whose sessions end.
        user: String,
    },
    /// Answered by [`Reply::Disconnected`].
    DisconnectId {
        /// The session that ends.
        id: u64,
    },
    /// Answered by [`Reply::Done`].
    Unban {
        /// The source that is forgiven.
        ip: IpAddr,
    },
    /// Answered by [`Reply::Done`] with what changed.
    Reload,
    /// Answered by [`Reply::Done`].
    Drain,
    /// Answered by [`Reply::Done`].
    Stop,
    /// Answered by [`Reply::Subscribed`] and then [`Reply::Event`]s.
    Events,
}

/// One answer line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// [`VERSION`] of the answering side.
    pub version: u32,
    /// The answer.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// An answer is a reply or an error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Outcome {
    /// It was done.
    Reply(Reply),
    /// It was not done.
    Error {
        /// Why.
        error: Refusal,
    },
}

/// The answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", content = "value", rename_all = "snake_case")]
pub enum Reply {
    /// The counters and the state.
    Status(Box<Status>),
    /// Connected sessions.
    Users(Vec<UserRow>),
    /// All sessions.
    Sessions(Vec<SessionRow>),
    /// One session.
    Session(Box<SessionRow>),
    /// Sources with ban points.
    Bans(Vec<BanRow>),
    /// How many sessions were told to end.
    Disconnected(usize),
    /// It was done; a few words.
    Done(String),
    /// Events follow.
    Subscribed,
    /// One event.
    Event(Event),
    /// So many events were lost because this reader was too slow.
    Missed(u64),
}

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

/// Why a request was not done, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Not a request of this protocol.
    BadRequest,
    /// A request of another version.
    Version,
    /// No such session, user or ban.
    NotFound,
    /// The new configuration is not valid; the old one stays.
    Invalid,
    /// Too many connections to the control socket.
    Busy,
    /// The asking user may not.
    Denied,
    /// The server could not.
    Failed,
    /// A code of a newer server.
    #[serde(other)]
    Unknown,
}

impl Request {
    /// A request of this version.
    pub const fn new(command: Command) -> Self {
        Self { version: VERSION, command }
    }
}

impl Response {
    /// A reply of this version.
    pub const fn reply(reply: Reply) -> Self {
        Self { version: VERSION, outcome: Outcome::Reply(reply) }
    }

    /// A refusal of this version.
    pub fn refuse(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            version: VERSION,
            outcome: Outcome::Error { error: Refusal { code, message: message.into() } },
        }
    }

    /// The line on the wire, with its line feed.
    ///
    /// # Errors
    /// When the value cannot be written as JSON, which no type of this module is capable of.
    pub fn to_line(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(response: &Response) {
        let line = response.to_line().unwrap();
        assert_eq!(line.iter().filter(|&&byte| byte == b'\n').count(), 1);
        assert_eq!(&serde_json::from_slice::<Response>(&line).unwrap(), response);
    }

    #[test]
    fn the_documented_lines_are_the_real_ones() {
        let request = Request::new(Command::DisconnectUser { user: "ada".into() });
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"version":1,"command":"disconnect_user","user":"ada"}"#
        );
        let reply = Response::reply(Reply::Disconnected(2)).to_line().unwrap();
        assert_eq!(reply, b"{\"version\":1,\"reply\":\"disconnected\",\"value\":2}\n");
        let refusal = Response::refuse(ErrorCode::NotFound, "no session 7").to_line().unwrap();
        assert_eq!(
            refusal,
            b"{\"version\":1,\"error\":{\"code\":\"not_found\",\"message\":\"no session 7\"}}\n"
        );
    }

    #[test]
    fn every_shape_of_answer_comes_back_the_same() {
        round_trip(&Response::reply(Reply::Status(Box::default())));
        round_trip(&Response::reply(Reply::Users(vec![])));
        round_trip(&Response::reply(Reply::Session(Box::new(crate::admin::testing::session()))));
        round_trip(&Response::reply(Reply::Done("line one\nline two".into())));
        round_trip(&Response::reply(Reply::Subscribed));
        round_trip(&Response::reply(Reply::Missed(3)));
        round_trip(&Response::refuse(ErrorCode::Invalid, "no"));
    }

    #[test]
    fn a_request_of_the_future_is_understood_as_far_as_it_goes() {
        let request: Request =
            serde_json::from_str(r#"{"version":1,"command":"status","later":true}"#).unwrap();
        assert_eq!(request.command, Command::Status);
        let refusal: Refusal = serde_json::from_str(r#"{"code":"melted","message":"x"}"#).unwrap();
        assert_eq!(refusal.code, ErrorCode::Unknown);
    }
}
