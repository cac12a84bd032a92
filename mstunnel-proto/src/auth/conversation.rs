//! One login by password, from the user name to its end.
//!
//! ```text
//!          Password                 Accepted
//! Awaiting ───────> Verifying ────────────────────────────> Admitted
//!    ^                │    │ Rejected for the last time
//!    └────────────────┘    └──────────────────────────────> Refused
//!  Rejected, attempts left   or Unavailable
//! ```
//!
//! A conversation begins when a user name has come; before that the desk keeps nothing. The user and
//! the group are fixed for its life. While a password is being verified no other can be tried, so
//! racing requests gain no attempts; only the verdict on the question that is open counts. A client
//! that hangs up during that, starts over, or takes too long has its conversation taken out of the
//! table, from whatever state; the open question then admits nobody.
//!
//! # Source
//! protocol.md section 8.3; threats.md R33.

use std::time::Instant;

use super::{answer::QuestionId, bans::Source, user::UserName};

/// Where a conversation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// The password form is out.
    Awaiting { failures: u8 },
    /// A password is with the verifier.
    Verifying { failures: u8, question: QuestionId },
    /// It ended well. The desk forgets the conversation.
    Admitted,
    /// It ended. The desk forgets the conversation.
    Refused,
}

/// What happens to a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cue {
    /// A password came, and goes to the verifier as this question.
    Password(QuestionId),
    /// The verdict on this question is yes.
    Accepted(QuestionId),
    /// The verdict on this question is no.
    Rejected(QuestionId),
    /// There is no verdict on this question.
    Unavailable(QuestionId),
}

impl State {
    /// The state after `cue`; `None` if the cue is not valid here.
    pub(crate) fn next(self, cue: Cue, attempts: u8) -> Option<Self> {
        Some(match (self, cue) {
            (Self::Awaiting { failures }, Cue::Password(question)) => Self::Verifying { failures, question },
            (Self::Verifying { question, .. }, Cue::Accepted(of)) if of == question => Self::Admitted,
            (Self::Verifying { failures, question }, Cue::Rejected(of)) if of == question => {
                let failures = failures.saturating_add(1);
                if failures < attempts { Self::Awaiting { failures } } else { Self::Refused }
            }
            (Self::Verifying { question, .. }, Cue::Unavailable(of)) if of == question => Self::Refused,
            _ => return None,
        })
    }
}

/// Whether an accepting verdict may count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It may.
    Open,
    /// It never will: the group does not exist, or the password is beyond all bounds. The client must
    /// not be able to tell, so all steps are taken as usual (threats.md R34, R35).
    Hopeless,
}

/// Who the client claims to be, fixed by the first form.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    /// `None` for a name that no account can have: no verdict is about that user.
    pub(crate) user: Option<UserName>,
    /// One of the configured groups.
    pub(crate) group: Option<String>,
    pub(crate) standing: Standing,
}

/// A conversation in the desk's table.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) state: State,
    pub(crate) claim: Claim,
    pub(crate) source: Source,
    /// When it ends, whatever happens.
    pub(crate) deadline: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    const ATTEMPTS: u8 = 2;
    const MINE: QuestionId = QuestionId(7);
    const OTHER: QuestionId = QuestionId(8);

    /// Covers: R33, P-050
    #[test]
    fn every_pair_of_state_and_cue_does_what_the_picture_says() {
        let awaiting = |failures| State::Awaiting { failures };
        let verifying = |failures| State::Verifying { failures, question: MINE };
        let states = [awaiting(0), awaiting(1), verifying(0), verifying(1), State::Admitted, State::Refused];
        let cues = [
            Cue::Password(MINE),
            Cue::Accepted(MINE),
            Cue::Accepted(OTHER),
            Cue::Rejected(MINE),
            Cue::Rejected(OTHER),
            Cue::Unavailable(MINE),
            Cue::Unavailable(OTHER),
        ];
        let picture = [
            (awaiting(0), Cue::Password(MINE), verifying(0)),
            (awaiting(1), Cue::Password(MINE), verifying(1)),
            (verifying(0), Cue::Accepted(MINE), State::Admitted),
            (verifying(1), Cue::Accepted(MINE), State::Admitted),
            (verifying(0), Cue::Rejected(MINE), awaiting(1)),
            (verifying(1), Cue::Rejected(MINE), State::Refused),
            (verifying(0), Cue::Unavailable(MINE), State::Refused),
            (verifying(1), Cue::Unavailable(MINE), State::Refused),
        ];
        for state in states {
            for cue in cues {
                let want =
                    picture.iter().find(|(from, on, _)| (*from, *on) == (state, cue)).map(|(.., to)| *to);
                assert_eq!(state.next(cue, ATTEMPTS), want, "{state:?} on {cue:?}");
            }
        }
    }

    #[test]
    fn an_allowance_of_nothing_still_ends() {
        let state = State::Verifying { failures: u8::MAX, question: MINE };
        for attempts in [0, 1, u8::MAX] {
            assert_eq!(state.next(Cue::Rejected(MINE), attempts), Some(State::Refused));
        }
    }
}
