//! What the desk says to its server, and what it wants to hear back.

use std::{fmt, net::IpAddr};

use zeroize::Zeroizing;

use super::config::AuthMethod;
use crate::http::Response;

/// A TLS connection, numbered by the server; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// A question to the verifier; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuestionId(pub(crate) u64);

/// What to do about a request.
#[must_use]
#[derive(Debug)]
pub enum Answer {
    /// Send this.
    Respond(Response),
    /// Have these checked, off the packet path, and hand the verdict to
    /// [`handle_verdict`](super::LoginDesk::handle_verdict). Its answer goes to the connection of this request.
    Verify {
        /// Names the question.
        question: QuestionId,
        /// What to check.
        credentials: Credentials,
    },
    /// Somebody has logged in: make a session record with a fresh cookie and send
    /// [`success`](super::LoginDesk::success).
    Admit(Admission),
}

/// What a client claims. Secrets are wiped on drop and never print.
///
/// A user name is in its one spelling. A name that cannot be an account's arrives as
/// [`IMPOSSIBLE_USER`](Self::IMPOSSIBLE_USER): the verifier does the same work as for any unknown
/// one, so that time tells nothing.
pub enum Credentials {
    /// A user name and a password.
    Password {
        /// The canonical name.
        user: String,
        /// The password, as decoded from the request.
        password: Zeroizing<String>,
        /// The chosen group, one of the configured names.
        group: Option<String>,
    },
    /// A token of an identity provider.
    Bearer {
        /// The token, syntactically checked only.
        token: Zeroizing<String>,
        /// The chosen group, one of the configured names.
        group: Option<String>,
    },
}

impl Credentials {
    /// The name that stands for every name that no account can have.
    pub const IMPOSSIBLE_USER: &'static str = "\u{fffd}";
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, group, .. } => {
                f.debug_struct("Password").field("user", user).field("group", group).finish_non_exhaustive()
            }
            Self::Bearer { group, .. } => {
                f.debug_struct("Bearer").field("group", group).finish_non_exhaustive()
            }
        }
    }
}

/// What the verifier found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The credentials are good.
    Accepted {
        /// Whose they are. For a password it must be the user that was asked about.
        user: String,
        /// All groups of that user.
        groups: Vec<String>,
    },
    /// They are not: unknown, wrong and locked are one and the same.
    Rejected,
    /// Nobody could tell: a back end is away, too slow, or spoke nonsense. Counts as no and costs no points.
    Unavailable,
}

/// A complete authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The canonical user name.
    pub user: String,
    /// All groups of the user. Rules of a group hold for all its members, chosen or not.
    pub groups: Vec<String>,
    /// The group that the user chose, one of `groups`.
    pub group: Option<String>,
    /// Where the login came from.
    pub source: IpAddr,
    /// How the user proved who they are.
    pub method: AuthMethod,
}

/// Whether the server takes logins, as the health page tells it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It does.
    #[default]
    Ready,
    /// It is going down: no new logins.
    Draining,
    /// It has no room for another session; logins are still answered.
    Full,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: statement 72
    #[test]
    fn credentials_never_print_their_secret() {
        let password = Credentials::Password {
            user: "alice".into(),
            password: Zeroizing::new("hunter2".into()),
            group: None,
        };
        let bearer = Credentials::Bearer { token: Zeroizing::new("hunter2".into()), group: None };
        let printed = format!("{password:?} {bearer:?}");
        assert!(printed.contains("alice") && !printed.contains("hunter2"), "{printed}");
    }
}
