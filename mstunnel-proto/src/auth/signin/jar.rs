//! The cookies of one sign-in.
//!
//! # Source
//! protocol.md 2.6: name and value up to the first `;`, an empty value deletes.

use std::fmt;

use zeroize::Zeroizing;

/// The most cookies that are kept; real servers set three.
const MAX_COOKIES: usize = 32;

/// The most bytes of names and values together: what fits into a request head of any server.
const MAX_BYTES: usize = 8 * 1024;

/// Cookies in the order in which they came.
#[derive(Default)]
pub(super) struct Jar(Vec<(String, Zeroizing<String>)>);

impl Jar {
    /// Takes one over; what does not fit is not kept, as with a client that never heard of it.
    pub(super) fn set(&mut self, name: &str, value: &str) {
        self.0.retain(|(known, _)| known != name);
        let bytes: usize = self.0.iter().map(|(name, value)| name.len() + value.len()).sum();
        let is_word = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';');
        let fits = self.0.len() < MAX_COOKIES && bytes + name.len() + value.len() <= MAX_BYTES;
        if !value.is_empty() && fits && is_word(name) && is_word(value) {
            self.0.push((name.to_owned(), Zeroizing::new(value.to_owned())));
        }
    }

    /// The value of a cookie.
    pub(super) fn get(&self, name: &str) -> Option<&Zeroizing<String>> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The value of a `Cookie` field; `None` without cookies.
    pub(super) fn field(&self) -> Option<Zeroizing<String>> {
        let pairs: Vec<String> = self.0.iter().map(|(name, value)| format!("{name}={}", **value)).collect();
        (!pairs.is_empty()).then(|| Zeroizing::new(pairs.join("; ")))
    }
}

/// Shows the names.
impl fmt::Debug for Jar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_cookie_replaces_and_an_empty_one_deletes() {
        let mut jar = Jar::default();
        jar.set("a", "1");
        jar.set("b", "2");
        jar.set("a", "3");
        assert_eq!(jar.field().unwrap().as_str(), "b=2; a=3");
        jar.set("b", "");
        assert_eq!(jar.field().unwrap().as_str(), "a=3");
    }

    /// Covers: R63
    #[test]
    fn a_server_cannot_fill_the_jar_or_break_the_field() {
        let mut jar = Jar::default();
        for number in 0..1_000 {
            jar.set(&format!("c{number}"), "v");
        }
        assert_eq!(jar.0.len(), MAX_COOKIES);
        let mut jar = Jar::default();
        jar.set("long", &"v".repeat(MAX_BYTES));
        jar.set("split", "a b");
        jar.set("more", "a;b");
        assert!(jar.field().is_none());
    }
}
