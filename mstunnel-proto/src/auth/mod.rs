//! The login: from the first request to the cookie.
//!
//! | file | holds |
//! | --- | --- |
//! | `desk` | [`LoginDesk`]: every request but CONNECT in, an [`Answer`] out |
//! | `answer` | the words between desk and server: [`Credentials`], [`Verdict`], [`Admission`] |
//! | `config` | [`LoginConfig`] |
//! | `conversation`, `conversations` | the state machine of one password login; all of them, bounded |
//! | `questions` | what is with the verifier, bounded |
//! | `fields`, `form`, `xml/` | what a request says, in both languages; the documents that we answer |
//! | `bearer` | the Authorization field |
//! | `user` | [`UserName`]: one spelling of a name |
//! | `cookie` | [`Cookie`], [`CookieHash`] |
//! | `bans` | [`BanTable`] |
//! | [`signin`] | the client's side |
//! | `pages`, `replies` | answers outside of and within a login |

mod answer;
pub mod bans;
mod bearer;
mod config;
mod conversation;
mod conversations;
pub mod cookie;
mod desk;
mod fields;
mod form;
mod pages;
mod questions;
mod replies;
pub mod signin;
mod user;
mod xml;

pub use answer::{Admission, Answer, ConnectionId, Credentials, Health, QuestionId, Verdict};
pub use bans::{BanConfig, BanEntry, BanTable, MAX_ENTRIES, POINTS_WRONG_SECRET, Source, USER_FACTOR};
pub use config::{AuthMethod, GroupChoice, LoginConfig};
pub use conversations::{MAX_CONVERSATIONS, MAX_CONVERSATIONS_PER_SOURCE};
pub use cookie::{COOKIE_BYTES, COOKIE_TEXT_BYTES, Cookie, CookieHash};
pub use desk::{DeskStats, LoginDesk, MAX_PASSWORD_BYTES};
pub use questions::{MAX_QUESTIONS, MAX_QUESTIONS_PER_SOURCE};
pub use user::{MAX_USER_NAME_BYTES, UserName, UserNameError};
