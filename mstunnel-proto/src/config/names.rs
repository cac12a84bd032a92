//! Domain names as they are written in a configuration.
//!
//! ASCII labels of letters, digits, hyphen and underscore, 1 to 63 long, 253 together, no hyphen at
//! either end (RFC 1035 section 2.3.4, RFC 1123 section 2.1; underscores live in internal zones).
//! The result is in lower case and without the final dot: names are compared by label and pushed in
//! response headers, where nothing but these characters may appear (R25).

/// The longest name in characters, RFC 1035 section 2.3.4 without the two length octets.
const MAX_NAME_LEN: usize = 253;

/// The longest label, RFC 1035 section 2.3.4.
const MAX_LABEL_LEN: usize = 63;

/// What [`domain`] accepts, for the `want` of a problem.
pub(super) const WANT_DOMAIN: &str = "a domain name of ASCII labels (for other scripts their xn-- form)";

/// Returns `text` as a domain name in lower case, or `None` if it is not one.
pub(super) fn domain(text: &str) -> Option<String> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let fits = (1..=MAX_NAME_LEN).contains(&text.len()) && text.split('.').all(is_label);
    fits.then(|| text.to_ascii_lowercase())
}

/// As [`domain`], with a leading `*.` or `.` taken off (product.md b.1, `splitDNS`).
pub(super) fn suffix(text: &str) -> Option<String> {
    domain(text.strip_prefix('*').unwrap_or(text).strip_prefix('.').unwrap_or(text))
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL_LEN).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_lowered_and_lose_their_final_dot() {
        assert_eq!(domain("Corp.Example.").as_deref(), Some("corp.example"));
        assert_eq!(domain("_ldap.xn--bcher-kva").as_deref(), Some("_ldap.xn--bcher-kva"));
    }

    #[test]
    fn the_two_wildcard_spellings_are_the_suffix() {
        for text in ["corp.example", ".corp.example", "*.corp.example"] {
            assert_eq!(suffix(text).as_deref(), Some("corp.example"), "{text}");
        }
        for text in ["*", "*.", "*corp.example", "a.*.example", "..example"] {
            assert_eq!(suffix(text), None, "{text}");
        }
    }

    /// Covers: R25
    #[test]
    fn what_could_break_a_header_or_a_resolver_is_not_a_name() {
        let long = "a".repeat(64);
        let longer = ["a".repeat(63).as_str(); 4].join(".") + ".example";
        for text in [
            "",
            ".",
            "a..b",
            "-a.example",
            "a-.example",
            "bücher.example",
            "a b",
            "a\r\nX: y",
            &long,
            &longer,
        ] {
            assert_eq!(domain(text), None, "{text:?}");
        }
    }
}
