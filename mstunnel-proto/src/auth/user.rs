//! User names: one spelling for every factor, limit, ban, log and lease.
//!
//! ```text
//! " Alice@Corp.example "  ── trim, lower case, strip a listed domain ──>  alice
//! ```
//!
//! Two spellings that a person would call the same name must not be two identities for one factor
//! and one for the next (threats.md R34, P-052). Lower case is Unicode's. We carry no normalisation
//! tables: a name that holds combining marks, conjoining jamo, or characters that exist only for
//! compatibility (full width, ligatures, CJK compatibility) has another spelling, and is
//! [refused](UserNameError); so is one with control, invisible or direction-changing characters.
//! What is refused here must look like a wrong password to the client; see the desk.
//!
//! # Source
//! threats.md R34; the length is product.md b.8. The ranges are Unicode's blocks.

use std::fmt;

/// The longest user name in bytes.
pub const MAX_USER_NAME_BYTES: usize = 255;

/// A user name in its one spelling.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserName(String);

impl UserName {
    /// Brings a name that a peer or an identity provider gave into its one spelling.
    ///
    /// `domains` are those whose names are the same as the short ones: `name@domain` and
    /// `domain\name` become `name`.
    ///
    /// # Errors
    /// If the name is empty, too long, or could be spelled another way.
    pub fn canonical(name: &str, domains: &[String]) -> Result<Self, UserNameError> {
        if name.len() > MAX_USER_NAME_BYTES {
            return Err(UserNameError::TooLong { len: name.len() });
        }
        let lower = name.to_lowercase();
        let long = lower.trim_matches([' ', '\t']);
        let short = domains.iter().find_map(|domain| strip_domain(long, domain)).unwrap_or(long);
        let short = short.trim_matches([' ', '\t']);
        if short.is_empty() {
            return Err(UserNameError::Empty);
        }
        // Lower case may be longer than what came.
        if short.len() > MAX_USER_NAME_BYTES {
            return Err(UserNameError::TooLong { len: short.len() });
        }
        match short.chars().find(|&c| has_another_spelling(c)) {
            Some(character) => Err(UserNameError::Ambiguous { character }),
            None => Ok(Self(short.to_owned())),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a name is not a user name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UserNameError {
    /// Nothing is left of it.
    #[error("empty user name")]
    Empty,
    /// It is longer than [`MAX_USER_NAME_BYTES`].
    #[error("user name of {len} bytes, limit {MAX_USER_NAME_BYTES}")]
    TooLong {
        /// Its length.
        len: usize,
    },
    /// It holds a character that makes two spellings of one name possible, or hides.
    #[error("user name with {character:?}, which has another spelling or cannot be seen")]
    Ambiguous {
        /// The first such character.
        character: char,
    },
}

fn strip_domain<'a>(name: &'a str, domain: &str) -> Option<&'a str> {
    let domain = domain.to_lowercase();
    if let Some((short, found)) = name.rsplit_once('@')
        && found == domain
    {
        return Some(short);
    }
    name.split_once('\\').filter(|(found, _)| *found == domain).map(|(_, short)| short)
}

fn has_another_spelling(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    c.is_control()
        || c.is_whitespace()
        || matches!(u32::from(c),
            0xAD                            // soft hyphen
            | 0x300..=0x36F                 // combining marks
            | 0x1100..=0x11FF               // conjoining jamo
            | 0x180B..=0x180F               // Mongolian selectors
            | 0x1AB0..=0x1AFF | 0x1DC0..=0x1DFF
            | 0x1F00..=0x1FFF               // polytonic Greek: doubles of other blocks
            | 0x200B..=0x200F | 0x202A..=0x202E | 0x2060..=0x206F
            | 0x20D0..=0x20FF
            | 0xA960..=0xA97F | 0xD7B0..=0xD7FF
            | 0xE000..=0xF8FF               // private use
            | 0xF900..=0xFAFF               // CJK compatibility
            | 0xFB00..=0xFDFF               // ligatures and presentation forms
            | 0xFE00..=0xFEFF               // selectors, half marks, presentation forms, BOM
            | 0xFF00..=0xFFFF               // half and full width, specials
            | 0x1D400..=0x1D7FF             // mathematical letters
            | 0x2F800..=0x2FA1F
            | 0xE0000..=0x10FFFF) // tags, selectors, private use
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(name: &str) -> Result<String, UserNameError> {
        let domains = ["corp.example".to_owned()];
        UserName::canonical(name, &domains).map(|name| name.as_str().to_owned())
    }

    /// Covers: P-052, R34
    #[test]
    fn every_spelling_of_a_name_is_one_identity() {
        for name in [
            "alice",
            "Alice",
            "ALICE",
            " alice ",
            "\talice",
            "alice@corp.example",
            "Alice@CORP.Example",
            "CORP.EXAMPLE\\alice",
        ] {
            assert_eq!(canonical(name).as_deref(), Ok("alice"), "{name:?}");
        }
        assert_eq!(canonical("alice@other.example").as_deref(), Ok("alice@other.example"));
        assert_eq!(canonical("ZO\u{cb}").as_deref(), Ok("zo\u{eb}"));
        assert_eq!(canonical("\u{212a}im").as_deref(), Ok("kim"), "the Kelvin sign is a k");
    }

    /// Covers: P-052, P-035, R34
    #[test]
    fn a_name_that_can_be_spelled_another_way_or_hides_something_is_refused() {
        for name in [
            "zoe\u{308}",    // decomposed
            "a\u{200b}lice", // zero width space
            "\u{202e}ecila", // right to left
            "\u{ff41}lice",  // full width
            "\u{fb01}n",     // ligature
            "\u{1d4b6}lice", // mathematical
            "ali\0ce",
            "ali\rce",
            "ali\nce",
            "ali\u{2028}ce",
            "ali\u{a0}ce",
        ] {
            assert!(matches!(canonical(name), Err(UserNameError::Ambiguous { .. })), "{name:?}");
        }
        assert_eq!(canonical(""), Err(UserNameError::Empty));
        assert_eq!(canonical("   "), Err(UserNameError::Empty));
        assert_eq!(canonical("@corp.example"), Err(UserNameError::Empty));
        assert_eq!(canonical(&"a".repeat(256)), Err(UserNameError::TooLong { len: 256 }));
        assert!(canonical(&"a".repeat(255)).is_ok());
    }

    proptest! {
        /// Covers: R34
        #[test]
        fn the_one_spelling_of_a_spelling_is_itself(name in "\\PC{0,40}") {
            if let Ok(once) = UserName::canonical(&name, &[]) {
                let twice = UserName::canonical(once.as_str(), &[]);
                prop_assert_eq!(twice.as_ref(), Ok(&once));
            }
        }
    }
}
