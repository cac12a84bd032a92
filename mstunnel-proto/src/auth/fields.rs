//! What one request says about a login, whichever of the two languages it is written in.

use zeroize::Zeroizing;

use super::{
    form,
    xml::{self, XmlError},
};

/// Where the client believes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It starts, or starts over.
    Init,
    /// It answers a form.
    Reply,
}

/// The fields of a request that a login looks at. The password never prints.
#[derive(PartialEq, Eq)]
pub(crate) struct LoginFields {
    pub(crate) step: Step,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Zeroizing<String>>,
    pub(crate) group: Option<String>,
}

impl LoginFields {
    /// No field at all: what a GET and an empty body say.
    pub(crate) const EMPTY: Self = Self { step: Step::Init, username: None, password: None, group: None };

    /// Reads a body: config-auth if it looks like XML, else a urlencoded form.
    ///
    /// # Errors
    /// If it is neither, or passes a limit.
    pub(crate) fn read(body: &[u8]) -> Result<Self, FieldsError> {
        let start = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body).trim_ascii_start();
        match start.first() {
            None => Ok(Self::EMPTY),
            Some(b'<') => Ok(xml::read(body)?),
            Some(_) => Ok(form::read(body)?),
        }
    }
}

impl std::fmt::Debug for LoginFields {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginFields")
            .field("step", &self.step)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "secret"))
            .field("group", &self.group)
            .finish()
    }
}

/// Why a body says nothing that we understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FieldsError {
    #[error(transparent)]
    Xml(#[from] XmlError),
    #[error(transparent)]
    Form(#[from] form::FormError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_first_byte_tells_the_language() {
        assert_eq!(LoginFields::read(b" \r\n"), Ok(LoginFields::EMPTY));
        assert_eq!(LoginFields::read(b"username=a").unwrap().username.as_deref(), Some("a"));
        let xml = b"\xef\xbb\xbf\n<config-auth><auth><username>a</username></auth></config-auth>";
        assert_eq!(LoginFields::read(xml).unwrap().username.as_deref(), Some("a"));
    }

    #[test]
    fn a_password_never_prints() {
        let fields = LoginFields::read(b"password=hunter2").unwrap();
        assert!(!format!("{fields:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn no_body_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = LoginFields::read(&bytes);
        }
    }
}
