//! The Authorization field of a token login.
//!
//! ```text
//! Authorization: Bearer <token68>      scheme in any case, exactly one space, nothing behind
//! ```
//!
//! # Source
//! RFC 6750 section 2.1, RFC 9110 section 11.2; product.md b.8; protocol.md section 2.9.

use zeroize::Zeroizing;

use crate::http::Request;

/// The longest token. A field of the request is shorter still (8 KiB, threats.md R23).
pub(crate) const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// What a request says about a token.
#[derive(PartialEq, Eq)]
pub(crate) enum Bearer {
    /// Nothing: no field, or another scheme.
    Absent,
    /// A token, of the right form.
    Token(Zeroizing<String>),
    /// The scheme, and something that is no token; or several fields.
    Malformed,
}

/// Reads the token of a request.
pub(crate) fn read(request: &Request) -> Bearer {
    let mut fields = request.header_all("Authorization");
    let Some(value) = fields.next() else {
        return Bearer::Absent;
    };
    let first = parse(value);
    match fields.next() {
        None => first,
        Some(second) if first == Bearer::Absent && parse(second) == Bearer::Absent => Bearer::Absent,
        Some(_) => Bearer::Malformed,
    }
}

fn parse(value: &str) -> Bearer {
    // The stock client leaves a space behind the token.
    let value = value.trim_matches([' ', '\t']);
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Bearer::Absent;
    }
    let body = token.trim_end_matches('=');
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    if body.is_empty() || token.len() > MAX_TOKEN_BYTES || !body.bytes().all(is_token) {
        return Bearer::Malformed;
    }
    Bearer::Token(Zeroizing::new(token.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token(value: &str) -> Option<String> {
        match parse(value) {
            Bearer::Token(token) => Some(token.to_string()),
            Bearer::Absent | Bearer::Malformed => None,
        }
    }

    /// Covers: statement 15, R37
    #[test]
    fn the_scheme_is_in_any_case_and_the_token_as_it_is() {
        assert_eq!(token("Bearer a.b-c_d~e+f/g=="), Some("a.b-c_d~e+f/g==".into()));
        assert_eq!(token("bEARER x"), Some("x".into()));
        assert_eq!(token("Bearer x "), Some("x".into()), "as openconnect 9.01 sends it");
    }

    /// Covers: R37
    #[test]
    fn what_is_not_exactly_one_token_is_malformed() {
        for value in [
            "Bearer",
            "Bearer ",
            "Bearer  x",
            "Bearer x y",
            "Bearer x,y",
            "Bearer =",
            "Bearer a=b",
            "Bearer \"x\"",
        ] {
            assert!(parse(value) == Bearer::Malformed, "{value:?}");
        }
        assert!(parse("Bearer \u{e9}") == Bearer::Malformed);
        let longest = "a".repeat(MAX_TOKEN_BYTES);
        assert!(token(&format!("Bearer {longest}")).is_some());
        assert!(parse(&format!("Bearer {longest}a")) == Bearer::Malformed);
    }

    #[test]
    fn another_scheme_is_not_a_token() {
        for value in ["", "Basic eDp5", "Bearerx y", "Bearer=x", "Negotiate"] {
            assert!(parse(value) == Bearer::Absent, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn no_field_panics_the_reader(value in any::<String>()) {
            let _ = parse(&value);
        }
    }
}
