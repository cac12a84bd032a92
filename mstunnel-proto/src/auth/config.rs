//! What an operator decides about logins.

use std::time::Duration;

use super::bans::BanConfig;

/// A way to prove who one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AuthMethod {
    /// A token of an identity provider in the Authorization field.
    Bearer,
    /// A certificate in the TLS handshake. The desk does not ask for one yet.
    Certificate,
    /// A user name form, then a password form.
    Password,
}

/// A group that a user may choose at login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupChoice {
    /// The name that rules and accounts know.
    pub name: String,
    /// What people read. Clients may send it back instead of the name.
    pub label: String,
}

/// The settings of a [`LoginDesk`](super::LoginDesk).
#[derive(Clone, Debug)]
pub struct LoginConfig {
    /// What is offered. Each method stands alone: failing one is never made good by another.
    pub methods: Vec<AuthMethod>,
    /// Shown with the user name form.
    pub pre_login_banner: Option<String>,
    /// Shown with the success document.
    pub banner: Option<String>,
    /// The groups to choose from; empty means that there is no choice.
    pub groups: Vec<GroupChoice>,
    /// Wrong passwords that end a conversation; the last one is answered 401. At least 1.
    pub attempts: u8,
    /// The age at which a conversation ends, whatever happens in it.
    pub conversation_timeout: Duration,
    /// SHA-1 of the server certificate, 40 upper-case hexadecimal digits, for the `webvpnc` cookie.
    pub certificate_sha1: String,
    /// Domains whose user names are the same as the short ones (see [`UserName`](super::UserName)).
    pub domains: Vec<String>,
    /// When failures turn into bans.
    pub bans: BanConfig,
}

impl Default for LoginConfig {
    fn default() -> Self {
        Self {
            methods: vec![AuthMethod::Password],
            pre_login_banner: None,
            banner: None,
            groups: Vec::new(),
            attempts: 3,
            conversation_timeout: Duration::from_secs(300),
            certificate_sha1: String::new(),
            domains: Vec::new(),
            bans: BanConfig::default(),
        }
    }
}

impl LoginConfig {
    pub(crate) fn offers(&self, method: AuthMethod) -> bool {
        self.methods.contains(&method)
    }

    /// The group that a client means: by name, else by label.
    pub(crate) fn group(&self, text: &str) -> Option<&GroupChoice> {
        let by_name = self.groups.iter().find(|choice| choice.name == text);
        by_name.or_else(|| self.groups.iter().find(|choice| choice.label == text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: O-027, P-038
    #[test]
    fn a_group_is_found_by_name_before_label() {
        let choice = |name: &str, label: &str| GroupChoice { name: name.into(), label: label.into() };
        let groups = vec![choice("a", "b"), choice("b", "Group B")];
        let config = LoginConfig { groups, ..LoginConfig::default() };
        assert_eq!(config.group("b").map(|group| group.name.as_str()), Some("b"));
        assert_eq!(config.group("Group B").map(|group| group.name.as_str()), Some("b"));
        assert_eq!(config.group("B"), None);
        assert_eq!(config.group(""), None);
    }
}
