//! Who is it: answers the questions of the login conversation.
//!
//! ```text
//! LoginDesk ── Credentials ──> Verifier ──┬── Password ──> password::PasswordFile
//!           <──  Verdict   ──             └── Bearer   ──> oidc::Oidc
//! ```
//!
//! A verdict says yes with a user and groups, no, or "cannot tell now". Why it is no never leaves
//! this module but as a DEBUG line: the client sees one constant refusal (threats.md R33, R35). A
//! method that is not configured refuses; none stands in for another.

mod credentials;
pub mod oidc;
pub mod password;
pub(crate) mod secret_file;

pub(crate) use credentials::canonical;
pub use credentials::{Credentials, Verdict};
pub use secret_file::SecretFileError;

use self::oidc::Oidc;
use self::password::PasswordFile;

/// Everything that can tell who somebody is, as configured.
pub struct Verifier {
    password: Option<PasswordFile>,
    bearer: Option<Oidc>,
}

impl Verifier {
    /// Makes a verifier of the configured methods; `None` is a method that always refuses.
    pub fn new(password: Option<PasswordFile>, bearer: Option<Oidc>) -> Self {
        Self { password, bearer }
    }

    /// Decides about `credentials`.
    ///
    /// Hash work runs on the blocking threads of the runtime that polls this. It may take as long
    /// as the hash queue is, or 2 s when the keys of a token have to be fetched first.
    pub async fn verify(&self, credentials: &Credentials) -> Verdict {
        match credentials {
            Credentials::Password { user, password, .. } => match &self.password {
                Some(file) => file.verify(user, password).await,
                None => Verdict::Rejected,
            },
            Credentials::Bearer { token, .. } => match &self.bearer {
                Some(oidc) => oidc.verify(token).await,
                None => Verdict::Rejected,
            },
        }
    }

    /// The password file, if that method is configured.
    pub fn password(&self) -> Option<&PasswordFile> {
        self.password.as_ref()
    }

    /// The token verifier, if that method is configured.
    pub fn bearer(&self) -> Option<&Oidc> {
        self.bearer.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    /// Covers: R33
    #[tokio::test]
    async fn a_method_that_is_not_configured_refuses() {
        let verifier = Verifier::new(None, None);
        let password = Credentials::Password {
            user: "alice".to_owned(),
            password: Zeroizing::new("secret".to_owned()),
            group: None,
        };
        let bearer = Credentials::Bearer { token: Zeroizing::new("a.b.c".to_owned()), group: None };
        assert!(matches!(verifier.verify(&password).await, Verdict::Rejected));
        assert!(matches!(verifier.verify(&bearer).await, Verdict::Rejected));
    }
}
