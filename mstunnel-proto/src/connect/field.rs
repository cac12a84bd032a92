//! The types of single fields of the answer: one function a type, text in, value out.
//!
//! All of them refuse what they do not understand: what a server pushes ends in routes, resolvers and
//! scripts of the client's host (R62).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::params::{InsideAddress, RekeyMethod};
use crate::prefix::Prefix;

/// The longest domain name (RFC 1035 section 2.3.4, without the final dot).
const MAX_DOMAIN_BYTES: usize = 253;

/// The most domains in one list of default domains; more do not fit a resolver's search list.
const MAX_DOMAINS: usize = 16;

/// Plain digits up to 32 bits.
pub(super) fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// Seconds; the inner `None` is `0` or `none`, that is: off.
pub(super) fn timer(text: &str) -> Option<Option<Duration>> {
    if text.eq_ignore_ascii_case("none") {
        return Some(None);
    }
    let seconds = number(text)?;
    Some((seconds > 0).then(|| Duration::from_secs(seconds.into())))
}

pub(super) fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

/// `ADDRESS/LENGTH` of IPv6.
pub(super) fn inside_v6(text: &str) -> Option<InsideAddress<Ipv6Addr>> {
    let (address, length) = text.split_once('/')?;
    let prefix_length = number(length).and_then(|length| u8::try_from(length).ok())?;
    (prefix_length <= 128).then_some(InsideAddress { address: address.parse().ok()?, prefix_length })
}

/// A dotted netmask as a prefix length.
pub(super) fn netmask(text: &str) -> Option<u8> {
    ipnet::ipv4_mask_to_prefix(text.parse::<Ipv4Addr>().ok()?).ok()
}

pub(super) fn prefix(text: &str) -> Option<Prefix> {
    text.parse().ok()
}

/// One domain: letters, digits, `-` and `_` in labels; a final dot and a leading `*.` are let pass.
pub(super) fn domain(text: &str) -> Option<String> {
    let labels = text.strip_prefix("*.").unwrap_or(text);
    let labels = labels.strip_suffix('.').unwrap_or(labels);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    (labels.len() <= MAX_DOMAIN_BYTES && labels.split('.').all(label)).then(|| text.to_owned())
}

/// Domains separated by spaces.
pub(super) fn domains(text: &str) -> Option<String> {
    let fits = text.split(' ').count() <= MAX_DOMAINS && text.split(' ').all(|item| domain(item).is_some());
    fits.then(|| text.to_owned())
}

pub(super) fn rekey_method(text: &str) -> RekeyMethod {
    match text {
        "ssl" => RekeyMethod::Ssl,
        "new-tunnel" => RekeyMethod::NewTunnel,
        _ => RekeyMethod::None,
    }
}

/// Fills `out` from exactly twice as many hexadecimal digits, of either case.
pub(super) fn decode_hex(text: &str, out: &mut [u8]) -> bool {
    let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    text.len() == 2 * out.len()
        && text.as_bytes().chunks_exact(2).zip(out).all(|(pair, byte)| {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else { return false };
            *byte = high << 4 | low;
            true
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: statement 32
    #[test]
    fn none_and_zero_are_off() {
        assert_eq!(timer("none"), Some(None));
        assert_eq!(timer("0"), Some(None));
        assert_eq!(timer("90"), Some(Some(Duration::from_secs(90))));
    }

    /// Covers: R62, P-091
    #[test]
    fn numbers_are_plain_digits_that_fit() {
        for text in ["", "-1", "+1", " 1", "1s", "0x1", "4294967296", "1e9", "\u{661}"] {
            assert_eq!(number(text), None, "{text:?}");
        }
        assert_eq!(number("4294967295"), Some(u32::MAX));
    }

    /// Covers: R62, P-091
    #[test]
    fn domains_have_nothing_for_a_shell() {
        for text in
            ["corp.example", "*.corp.example", "corp.example.", "_ldap._tcp.corp", "xn--bcher-kva.example"]
        {
            assert_eq!(domain(text).as_deref(), Some(text));
        }
        for text in ["", ".", "a..b", "$(id)", "a;b", "a b", "a'b", "a/b", "-\u{e9}", "`x`", "*"] {
            assert_eq!(domain(text), None, "{text:?}");
        }
        assert_eq!(domain(&"a.".repeat(127)), Some("a.".repeat(127)));
        assert_eq!(domain(&"a.".repeat(128)), None);
        assert_eq!(domain(&"a".repeat(64)), None);
        assert_eq!(domains("a.example b.example").as_deref(), Some("a.example b.example"));
        assert_eq!(domains("a.example  b.example"), None);
        assert_eq!(domains(&["a"; 17].join(" ")), None);
    }

    #[test]
    fn inside_addresses_need_a_length_that_exists() {
        assert!(inside_v6("fd00::1/64").is_some());
        for text in ["fd00::1", "fd00::1/129", "fd00::1/", "10.0.0.1/24", "fd00::1/64/1", "fd00::1/-1"] {
            assert_eq!(inside_v6(text), None, "{text}");
        }
        assert_eq!(netmask("255.255.255.0"), Some(24));
        assert_eq!(netmask("255.0.255.0"), None);
        assert_eq!(netmask("24"), None);
    }

    #[test]
    fn hexadecimal_is_exact() {
        let mut out = [0; 2];
        assert!(decode_hex("aBc0", &mut out));
        assert_eq!(out, [0xab, 0xc0]);
        for text in ["abc", "abcdef", "abcg", "", "+bc0", "\u{e9}bc"] {
            assert!(!decode_hex(text, &mut [0; 2]), "{text}");
        }
    }
}
