//! Split DNS: the domains whose names the tunnel's DNS servers resolve.
//!
//! A domain stands for itself and for every name below it, compared by whole labels: `corp.example`
//! matches `corp.example` and `www.corp.example`, never `evilcorp.example`. ASCII letters match in
//! either case; a trailing dot means nothing; names in another script are compared as they are written
//! (`xn--` stays `xn--`).
//!
//! # Limits
//! [`MAX_DOMAINS`] domains unless told otherwise; names of at most 253 bytes and labels of at most 63 (RFC 1035 section 2.3.4).
//! What is kept has no control or separator characters, so that it can go into a header as it is.

/// The most domains: each is a header line of the answer to CONNECT.
///
/// Ours; the same as [`super::MAX_RULES`], which is the other list in that answer.
pub const MAX_DOMAINS: usize = 500;

/// The longest name without its trailing dot.
const MAX_NAME: usize = 253;

/// The longest label.
const MAX_LABEL: usize = 63;

/// The domains that belong to the tunnel.
#[derive(Clone, Debug, Default)]
pub struct SplitDns {
    /// Lower case, without a leading `*.` and trailing dot; sorted, each once.
    domains: Box<[Box<str>]>,
}

impl SplitDns {
    /// Reads `domains`; a leading `*.` or `.` is accepted and means nothing.
    ///
    /// # Errors
    /// [`SplitDnsError`] when one of them is not a domain name or there are more than [`MAX_DOMAINS`].
    pub fn new<S: AsRef<str>>(domains: &[S]) -> Result<Self, SplitDnsError> {
        Self::new_with_limit(domains, MAX_DOMAINS)
    }

    /// As [`SplitDns::new`] for another limit: how many there may be is for who tells them to say.
    ///
    /// # Errors
    /// [`SplitDnsError`] when one of them is not a domain name or there are more than `limit`.
    pub fn new_with_limit<S: AsRef<str>>(domains: &[S], limit: usize) -> Result<Self, SplitDnsError> {
        let mut kept =
            domains.iter().map(|domain| normalized(domain.as_ref())).collect::<Result<Vec<_>, _>>()?;
        kept.sort_unstable();
        kept.dedup();
        if kept.len() > limit {
            return Err(SplitDnsError::TooMany { count: kept.len(), limit });
        }
        Ok(Self { domains: kept.into() })
    }

    /// Whether `name` is one of the domains or below one of them.
    ///
    /// An empty list matches nothing: what it means is for the caller to say. O(labels); never allocates.
    pub fn matches(&self, name: &str) -> bool {
        let name = name.strip_suffix('.').unwrap_or(name).as_bytes();
        let mut lower = [0; MAX_NAME];
        let Some(lower) = lower.get_mut(..name.len()) else { return false };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        let lower = &*lower;
        let starts = lower.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(dot, _)| dot + 1);
        std::iter::once(0).chain(starts).any(|start| self.contains(&lower[start..]))
    }

    /// The domains as the client is told them: normalised, sorted, each once.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        self.domains.iter().map(|domain| &**domain)
    }

    /// Whether there is no domain.
    pub fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    fn contains(&self, name: &[u8]) -> bool {
        self.domains.binary_search_by(|domain| domain.as_bytes().cmp(name)).is_ok()
    }
}

fn normalized(domain: &str) -> Result<Box<str>, SplitDnsError> {
    let bare = domain.strip_prefix('*').filter(|rest| rest.starts_with('.')).unwrap_or(domain);
    let bare = bare.strip_prefix('.').unwrap_or(bare);
    let bare = bare.strip_suffix('.').unwrap_or(bare);
    let refused = |why| SplitDnsError::NotADomain { domain: domain.chars().take(MAX_LABEL).collect(), why };
    if bare.len() > MAX_NAME {
        return Err(refused("it is longer than 253 bytes"));
    }
    for label in bare.split('.') {
        if label.is_empty() {
            return Err(refused("a label is empty"));
        }
        if label.len() > MAX_LABEL {
            return Err(refused("a label is longer than 63 bytes"));
        }
        if !label.chars().all(may_stand_in_a_label) {
            return Err(refused("a label has a character other than letters, digits, '-' and '_'"));
        }
    }
    Ok(bare.to_ascii_lowercase().into())
}

fn may_stand_in_a_label(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '-' | '_')
}

/// Why a list is not a list of domains.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitDnsError {
    /// One of them is not a domain name.
    #[error("{domain:?} is not a domain name: {why}")]
    NotADomain {
        /// What was written, cut after 63 characters.
        domain: String,
        /// The rule it breaks.
        why: &'static str,
    },
    /// More than the limit.
    #[error("{count} split DNS domains, limit {limit}")]
    TooMany {
        /// Domains given, each counted once.
        count: usize,
        /// The most.
        limit: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_domain_matches_itself_and_what_is_below_it_by_label() {
        let split = SplitDns::new(&["corp.example"]).unwrap();
        for name in
            ["corp.example", "www.corp.example", "a.b.c.corp.example", "corp.example.", "WWW.Corp.EXAMPLE"]
        {
            assert!(split.matches(name), "{name}");
        }
        for name in ["evilcorp.example", "example", "corp.example.evil", "corp", "", ".", "corp.exampl"] {
            assert!(!split.matches(name), "{name}");
        }
    }

    #[test]
    fn the_accepted_spellings_are_one_domain() {
        let split =
            SplitDns::new(&["*.corp.example", ".CORP.example", "corp.example.", "corp.example"]).unwrap();
        assert_eq!(split.domains().collect::<Vec<_>>(), ["corp.example"]);
        assert!(split.matches("corp.example"));
    }

    #[test]
    fn international_names_are_left_as_they_are() {
        let split = SplitDns::new(&["xn--mnchen-3ya.example", "züri.example"]).unwrap();
        assert!(split.matches("vpn.xn--MNCHEN-3ya.example"));
        assert!(split.matches("vpn.züri.example"));
        assert!(!split.matches("münchen.example"));
    }

    #[test]
    fn what_could_break_a_header_line_is_refused() {
        for domain in
            ["", ".", "*.", "*", "a..b", "a b", "a,b", "a\r\nX-Evil: 1", "a\0", "a;b", "*.*.a", "a/b", "a:1"]
        {
            let error = SplitDns::new(&[domain]).unwrap_err();
            assert!(matches!(error, SplitDnsError::NotADomain { .. }), "{domain:?}");
            assert!(!error.to_string().contains(['\r', '\n', '\0']));
        }
        assert!(SplitDns::new(&["a".repeat(64)]).is_err());
        assert!(SplitDns::new(&["a".repeat(63)]).is_ok());
        assert!(SplitDns::new(&[vec!["a"; 127].join(".")]).is_ok());
        assert!(SplitDns::new(&[vec!["a"; 128].join(".")]).is_err());
    }

    #[test]
    fn the_number_of_domains_is_bounded() {
        let domains = |count| (0..count).map(|n| format!("d{n}.example")).collect::<Vec<_>>();
        assert!(SplitDns::new(&domains(MAX_DOMAINS)).is_ok());
        let error = SplitDns::new(&domains(MAX_DOMAINS + 1)).unwrap_err();
        assert_eq!(error, SplitDnsError::TooMany { count: MAX_DOMAINS + 1, limit: MAX_DOMAINS });
    }

    #[test]
    fn an_empty_list_matches_nothing() {
        let split = SplitDns::new::<&str>(&[]).unwrap();
        assert!(split.is_empty() && !split.matches("corp.example"));
    }

    proptest! {
        #[test]
        fn matching_is_equality_or_a_suffix_after_a_dot(
            domains in proptest::collection::vec("[abAB]{1,2}(\\.[abAB]{1,2}){0,2}", 0..6),
            name in "[abAB]{1,2}(\\.[abAB]{1,2}){0,4}",
        ) {
            let split = SplitDns::new(&domains).unwrap();
            let lower = name.to_lowercase();
            let model = domains.iter().map(|domain| domain.to_lowercase())
                .any(|domain| lower == domain || lower.ends_with(&format!(".{domain}")));
            prop_assert_eq!(split.matches(&name), model);
        }
    }
}
