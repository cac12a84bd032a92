//! The header fields of one head.

use std::fmt;

/// Header fields in the order they came; names are compared without regard to case.
///
/// A linear scan is the lookup: a request has at most [`MAX_FIELDS`](super::MAX_FIELDS) of them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// The value of the first field called `name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.get_all(name).next()
    }

    /// The values of all fields called `name`, in order.
    pub fn get_all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// Every field as it was spelled.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no field.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a comma-separated list called `name` has `token`, in any case.
    pub(crate) fn has_token(&self, name: &str, token: &str) -> bool {
        self.get_all(name)
            .flat_map(|value| value.split(','))
            .any(|item| item.trim_matches([' ', '\t']).eq_ignore_ascii_case(token))
    }

    /// Copies what httparse found. Bytes that are not UTF-8 become U+FFFD: such a value matches
    /// nothing, and an unknown field must not make a request fail.
    pub(super) fn from_parsed(parsed: &[httparse::Header<'_>]) -> Self {
        Self(
            parsed
                .iter()
                .map(|field| (field.name.to_owned(), String::from_utf8_lossy(field.value).into_owned()))
                .collect(),
        )
    }
}

/// Shows names only: values hold cookies, tokens and the master secret.
impl fmt::Debug for Fields {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        Fields(vec![
            ("Cookie".into(), "webvpn=secret".into()),
            ("connection".into(), "keep-alive, Close".into()),
            ("COOKIE".into(), "second".into()),
        ])
    }

    /// Covers: statement 6
    #[test]
    fn names_match_in_any_case() {
        assert_eq!(fields().get_all("cookie").collect::<Vec<_>>(), ["webvpn=secret", "second"]);
        assert_eq!(fields().get("Accept"), None);
    }

    #[test]
    fn a_token_is_found_anywhere_in_the_list_and_never_as_a_part_of_another() {
        assert!(fields().has_token("Connection", "close"));
        assert!(!fields().has_token("Connection", "clos"));
    }

    /// Covers: R58, statement 72
    #[test]
    fn debug_output_has_no_values() {
        let shown = format!("{:?}", fields());
        assert!(shown.contains("Cookie") && !shown.contains("secret"), "{shown}");
    }
}
