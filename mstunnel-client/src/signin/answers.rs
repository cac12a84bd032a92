//! What is answered to which question of a server.

use std::fmt;
use std::io;

use mstunnel_proto::auth::signin::{Form, Input, InputKind, SignInError};
use zeroize::Zeroizing;

use super::SignInFailure;

/// Asks a person.
pub trait Prompt: Send + Sync {
    /// Shows `form` and returns the answer to `input`.
    ///
    /// # Errors
    /// The terminal's.
    fn ask(&self, form: &Form, input: &Input) -> io::Result<Zeroizing<String>>;
}

/// Who the user is and what proves it. Secrets are wiped on drop and never shown.
#[derive(Default)]
pub struct Credentials {
    /// The user's name.
    pub user: Option<String>,
    /// The group to choose.
    pub group: Option<String>,
    /// The password.
    pub password: Option<Zeroizing<String>>,
    /// A bearer token.
    pub token: Option<Zeroizing<String>>,
    /// A session cookie from before: no sign-in at all while it is good.
    pub cookie: Option<Zeroizing<String>>,
    /// Who is asked for what is not here.
    pub prompt: Option<Box<dyn Prompt>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("user", &self.user)
            .field("group", &self.group)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    pub(super) fn token(&self) -> Option<Zeroizing<String>> {
        self.token.clone()
    }

    /// The answers of one sign-in.
    pub(super) fn answers(&self) -> Answers<'_> {
        Answers { credentials: self, password_given: false }
    }

    /// Whether they do without anybody at a terminal.
    pub(crate) fn are_complete(&self) -> bool {
        self.token.is_some() || self.password.is_some()
    }
}

/// Answers, each secret once: a server that asks again did not take it.
pub(super) struct Answers<'c> {
    credentials: &'c Credentials,
    password_given: bool,
}

impl Answers<'_> {
    /// The answers to `form`, one for each input that is not hidden, in order.
    pub(super) fn give(&mut self, form: &Form) -> Result<Vec<Zeroizing<String>>, SignInFailure> {
        form.inputs
            .iter()
            .filter(|input| input.kind != InputKind::Hidden)
            .map(|input| self.one(form, input))
            .collect()
    }

    fn one(&mut self, form: &Form, input: &Input) -> Result<Zeroizing<String>, SignInFailure> {
        let asks_user = input.name.starts_with("user") || input.name.starts_with("uname");
        if asks_user && let Some(user) = &self.credentials.user {
            return Ok(Zeroizing::new(user.clone()));
        }
        if input.kind == InputKind::Secret
            && let Some(password) = &self.credentials.password
        {
            if !std::mem::replace(&mut self.password_given, true) {
                return Ok(password.clone());
            }
            if self.credentials.prompt.is_none() {
                let said = form.error.as_deref().or(form.message.as_deref()).unwrap_or_default();
                return Err(SignInError::refused(said).into());
            }
        }
        match &self.credentials.prompt {
            Some(prompt) => prompt.ask(form, input).map_err(SignInFailure::Terminal),
            None => Err(SignInFailure::Unanswered { label: input.label.clone() }),
        }
    }
}
