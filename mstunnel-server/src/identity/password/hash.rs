//! One stored password hash: what it is, what it costs, whether a password matches it.
//!
//! ```text
//! $5$[rounds=N$]salt$43 characters                    SHA-256 crypt, the stock ocpasswd
//! $6$[rounds=N$]salt$86 characters                    SHA-512 crypt, openssl passwd -6
//! $argon2id$v=19$m=KiB,t=passes,p=lanes$salt$output   ours
//! ```
//!
//! The text comes from an operator's file, yet its cost is bounded: a typing error in `rounds=` or
//! `m=` must not make one login hold a core for minutes. Nothing here panics on any text.
//!
//! # Source
//! crypt(5) for `$5$` and `$6$`; RFC 9106 and the PHC string format for Argon2.

use std::fmt;

use argon2::Argon2;
use argon2::password_hash::phc;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use sha_crypt::{PasswordHashRef, ShaCrypt};

/// The longest password in bytes. SHA crypt takes time quadratic in it.
pub const MAX_PASSWORD_BYTES: usize = 256;
/// The most rounds of SHA crypt: about 0.6 s; the default is 5,000.
const MAX_ROUNDS: u32 = 1_000_000;
/// The fewest rounds; crypt(5) never writes less.
const MIN_ROUNDS: u32 = 1_000;
/// The rounds of a hash that names none.
const DEFAULT_ROUNDS: u32 = 5_000;
/// The most memory of Argon2 in KiB: 256 MiB, times the number of hash workers.
const MAX_ARGON2_MEMORY_KIB: u32 = 256 * 1024;
/// The most passes of Argon2.
const MAX_ARGON2_PASSES: u32 = 16;
/// The most lanes of Argon2; they are computed one after the other.
const MAX_ARGON2_LANES: u32 = 8;
/// The longest hash text; a `$6$` with everything has 122 bytes.
const MAX_HASH_BYTES: usize = 512;
/// Argon2 writes 32 bytes; less than 16 could be guessed.
const MIN_ARGON2_OUTPUT: usize = 16;

/// What computing a hash costs. Equal costs take equal time for the same password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Cost {
    Sha256 { rounds: u32 },
    Sha512 { rounds: u32 },
    Argon2id { memory_kib: u32, passes: u32, lanes: u32 },
}

impl Cost {
    /// The cost of the hashes that we write: OWASP's first choice for Argon2id.
    pub(super) const OURS: Self = Self::Argon2id {
        memory_kib: argon2::Params::DEFAULT_M_COST,
        passes: argon2::Params::DEFAULT_T_COST,
        lanes: argon2::Params::DEFAULT_P_COST,
    };
}

/// Why a hash cannot be used to log in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HashError {
    #[error("no password hash")]
    Empty,
    #[error("password hash scheme ${scheme}$ is not supported; want $5$, $6$ or $argon2id$")]
    Scheme { scheme: String },
    #[error("not a password hash; want $5$, $6$ or $argon2id$")]
    NotAHash,
    #[error("malformed ${scheme}$ hash")]
    Malformed { scheme: &'static str },
    #[error("{what} is {value}; want {min} to {max}")]
    CostOutOfRange { what: &'static str, value: u32, min: u32, max: u32 },
}

/// A well-formed hash of a supported scheme and bearable cost.
pub(super) struct StoredHash {
    text: Box<str>,
    cost: Cost,
}

impl StoredHash {
    /// Reads the text of a hash.
    ///
    /// # Errors
    /// If the scheme is not ours, the text is malformed, or the cost is above the bounds.
    pub(super) fn parse(text: &str) -> Result<Self, HashError> {
        if text.is_empty() {
            return Err(HashError::Empty);
        }
        if text.len() > MAX_HASH_BYTES || !text.is_ascii() {
            return Err(HashError::NotAHash);
        }
        let cost = match scheme(text) {
            Some("5") => Cost::Sha256 { rounds: sha_rounds(text, "5", 43, 16)? },
            Some("6") => Cost::Sha512 { rounds: sha_rounds(text, "6", 86, 4)? },
            Some("argon2id") => argon2_cost(text)?,
            Some(scheme) => return Err(HashError::Scheme { scheme: scheme.to_owned() }),
            None => return Err(HashError::NotAHash),
        };
        Ok(Self { text: text.into(), cost })
    }

    /// Makes the hash of a new password.
    ///
    /// # Errors
    /// If the operating system gives no randomness, or the password is longer than Argon2 takes.
    pub(super) fn of_password(password: &str) -> Result<Self, argon2::password_hash::Error> {
        let hash: phc::PasswordHash = Argon2::default().hash_password(password.as_bytes())?;
        Ok(Self { text: hash.to_string().into(), cost: Cost::OURS })
    }

    /// Makes a hash of this cost that belongs to nobody, to spend the time on.
    pub(super) fn decoy(cost: Cost) -> Self {
        // The work depends on the scheme and its parameters alone, so salt and output may be constant.
        let text = match cost {
            Cost::Sha256 { rounds } => format!("$5$rounds={rounds}$decoydecoydecoyd${}", ".".repeat(43)),
            Cost::Sha512 { rounds } => format!("$6$rounds={rounds}$decoydecoydecoyd${}", ".".repeat(86)),
            Cost::Argon2id { memory_kib, passes, lanes } => {
                let (salt, output) = ("ZGVjb3lkZWNveWRlY295ZA", "A".repeat(43));
                format!("$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${output}")
            }
        };
        Self { text: text.into(), cost }
    }

    /// Tells whether this is the password. Always computes the hash, unless the password is longer
    /// than any hash here can have.
    pub(super) fn matches(&self, password: &str) -> bool {
        if password.len() > MAX_PASSWORD_BYTES {
            return false;
        }
        match self.cost {
            Cost::Sha256 { .. } | Cost::Sha512 { .. } => PasswordHashRef::new(&self.text)
                .is_ok_and(|hash| ShaCrypt::default().verify_password(password.as_bytes(), hash).is_ok()),
            Cost::Argon2id { .. } => phc::PasswordHash::new(&self.text)
                .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()),
        }
    }

    pub(super) fn cost(&self) -> Cost {
        self.cost
    }

    /// The text as it stands in the file.
    pub(super) fn text(&self) -> &str {
        &self.text
    }
}

/// Prints the cost only: a hash is not for logs.
impl fmt::Debug for StoredHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StoredHash").field(&self.cost).finish()
    }
}

/// The name between the first two dollar signs, if it looks like one.
fn scheme(text: &str) -> Option<&str> {
    let (name, _) = text.strip_prefix('$')?.split_once('$')?;
    let looks_like_one = (1..=16).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    looks_like_one.then_some(name)
}

/// The first characters of crypt(3)'s base64 alphabet, in the order of their values.
const LAST_CHARACTERS: &str = "./0123456789ABCD";

/// `output_len` characters, of which the last can have `last_values` values.
fn sha_rounds(
    text: &str,
    scheme: &'static str,
    output_len: usize,
    last_values: usize,
) -> Result<u32, HashError> {
    let malformed = HashError::Malformed { scheme };
    PasswordHashRef::new(text).map_err(|_| malformed.clone())?;
    let mut fields = text.split('$').skip(2).peekable();
    let rounds = match fields.next_if(|field| field.starts_with("rounds=")) {
        Some(field) => field.trim_start_matches("rounds=").parse::<u32>().map_err(|_| malformed.clone())?,
        None => DEFAULT_ROUNDS,
    };
    let (salt, output, rest) = (fields.next(), fields.next(), fields.next());
    let well_formed = salt.is_some_and(|salt| (1..=16).contains(&salt.len()))
        && output.is_some_and(|output| {
            output.len() == output_len
                && output.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.' || b == b'/')
                // The bits that the last character has too many are zero. A text that could not be
                // decoded would be refused without the work.
                && output.ends_with(|last: char| LAST_CHARACTERS.chars().take(last_values).any(|c| c == last))
        })
        && rest.is_none();
    if !well_formed {
        return Err(malformed);
    }
    in_range("rounds", rounds, MIN_ROUNDS, MAX_ROUNDS)
}

fn argon2_cost(text: &str) -> Result<Cost, HashError> {
    let malformed = HashError::Malformed { scheme: "argon2id" };
    let hash = phc::PasswordHash::new(text).map_err(|_| malformed.clone())?;
    let strong = hash.version == Some(u32::from(argon2::Version::V0x13))
        && hash.salt.is_some()
        && hash.hash.is_some_and(|output| output.len() >= MIN_ARGON2_OUTPUT);
    let params = argon2::Params::try_from(&hash).map_err(|_| malformed.clone())?;
    if !strong {
        return Err(malformed);
    }
    Ok(Cost::Argon2id {
        memory_kib: in_range("m", params.m_cost(), argon2::Params::MIN_M_COST, MAX_ARGON2_MEMORY_KIB)?,
        passes: in_range("t", params.t_cost(), argon2::Params::MIN_T_COST, MAX_ARGON2_PASSES)?,
        lanes: in_range("p", params.p_cost(), argon2::Params::MIN_P_COST, MAX_ARGON2_LANES)?,
    })
}

fn in_range(what: &'static str, value: u32, min: u32, max: u32) -> Result<u32, HashError> {
    if (min..=max).contains(&value) {
        Ok(value)
    } else {
        Err(HashError::CostOutOfRange { what, value, min, max })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // openssl passwd -5 -salt saltsalt secret5
    const OPENSSL_5: &str = "$5$saltsalt$708Qd1GA5FblAgceNooXo6mCmXw7DIUSz5IHtzs/2E6";
    // openssl passwd -6 -salt Fx0pZk.w secret6
    const OPENSSL_6: &str =
        "$6$Fx0pZk.w$TGAsUzw8ZyGKEX29iOFvZD.CM8UjwYuyubwp90CDZs7v4eVnKbbntEy2i2gxbuVKsBjf.W3gtt5TYjrBOB9hz1";
    // openssl passwd -6 -salt 'rounds=20000$saltysalt' secret6
    const OPENSSL_6_ROUNDS: &str = "$6$rounds=20000$saltysalt$VEujOs/KqierYgCTj6ntiqP83S/B1sd73oFLCTQ8tBxJ1.KTZMoQr/rA8TwSlkO7Dz3Ub53dpZZiXW9FqCgJB/";
    // crypt("secret5", "$5$rounds=1000$saltysalt$") of libcrypt
    const LIBCRYPT_5_ROUNDS: &str = "$5$rounds=1000$saltysalt$IAsgatrPq4RIgHsXd6sQ8NLnxIoS9ZbUvpg1.Nf3ey8";
    // openssl passwd -1 -salt abcd secret1
    const OPENSSL_1: &str = "$1$abcd$Wc30qpxq3ofmlIbOB0DRm.";
    // crypt("secrety", "$y$j9T$abcdefgh1234$") of libcrypt
    const LIBCRYPT_Y: &str = "$y$j9T$abcdefgh1234$MkiulLlivd2dtPM22IVDDfppPIk28GlEAATIRedLdt1";

    fn error(text: &str) -> HashError {
        StoredHash::parse(text).unwrap_err()
    }

    #[test]
    fn hashes_of_other_programs_match_their_password_and_no_other() {
        for (text, password, cost) in [
            (OPENSSL_5, "secret5", Cost::Sha256 { rounds: 5_000 }),
            (OPENSSL_6, "secret6", Cost::Sha512 { rounds: 5_000 }),
            (OPENSSL_6_ROUNDS, "secret6", Cost::Sha512 { rounds: 20_000 }),
            (LIBCRYPT_5_ROUNDS, "secret5", Cost::Sha256 { rounds: 1_000 }),
        ] {
            let hash = StoredHash::parse(text).unwrap();
            assert_eq!(hash.cost(), cost, "{text}");
            assert!(hash.matches(password), "{text}");
            for wrong in ["", "secret", "Secret5", "secret55", "secret6\0", " secret6"] {
                assert!(!hash.matches(wrong), "{text} {wrong:?}");
            }
        }
    }

    #[test]
    fn a_new_hash_is_argon2id_and_matches_its_password_alone() {
        let hash = StoredHash::of_password("kömm rein").unwrap();
        assert!(hash.text().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        let read = StoredHash::parse(hash.text()).unwrap();
        assert_eq!(read.cost(), Cost::OURS);
        assert!(read.matches("kömm rein"));
        assert!(!read.matches("komm rein"));
        assert_ne!(StoredHash::of_password("kömm rein").unwrap().text(), hash.text(), "same salt twice");
    }

    #[test]
    fn a_scheme_we_do_not_have_is_named() {
        assert_eq!(error(OPENSSL_1), HashError::Scheme { scheme: "1".to_owned() });
        assert_eq!(error(LIBCRYPT_Y), HashError::Scheme { scheme: "y".to_owned() });
        assert_eq!(error("$2b$12$abc"), HashError::Scheme { scheme: "2b".to_owned() });
        assert!(matches!(error("$argon2i$v=19$m=19456,t=2,p=1$c2FsdHNhbHQ$AAAA"), HashError::Scheme { .. }));
        assert_eq!(error(""), HashError::Empty);
        assert_eq!(error("plain"), HashError::NotAHash);
        assert_eq!(error("$5"), HashError::NotAHash);
        assert_eq!(error("$\u{fc}$salt$hash"), HashError::NotAHash);
        assert!(error(OPENSSL_1).to_string().contains("$1$"));
    }

    /// Covers: R35
    #[test]
    fn a_cost_beyond_the_bound_is_refused() {
        let sha = |rounds: u32| OPENSSL_6_ROUNDS.replace("20000", &rounds.to_string());
        assert!(StoredHash::parse(&sha(MAX_ROUNDS)).is_ok());
        assert!(matches!(error(&sha(MAX_ROUNDS + 1)), HashError::CostOutOfRange { what: "rounds", .. }));
        assert!(StoredHash::parse(&sha(MIN_ROUNDS)).is_ok());
        assert!(matches!(error(&sha(MIN_ROUNDS - 1)), HashError::CostOutOfRange { .. }));
        let argon = |m: u32, t: u32, p: u32| {
            format!("$argon2id$v=19$m={m},t={t},p={p}$ZGVjb3lkZWNveWRlY295ZA${}", "A".repeat(43))
        };
        assert!(
            StoredHash::parse(&argon(MAX_ARGON2_MEMORY_KIB, MAX_ARGON2_PASSES, MAX_ARGON2_LANES)).is_ok()
        );
        assert!(matches!(
            error(&argon(MAX_ARGON2_MEMORY_KIB + 1, 1, 1)),
            HashError::CostOutOfRange { what: "m", .. }
        ));
        assert!(matches!(
            error(&argon(64, MAX_ARGON2_PASSES + 1, 1)),
            HashError::CostOutOfRange { what: "t", .. }
        ));
        assert!(matches!(
            error(&argon(256, 1, MAX_ARGON2_LANES + 1)),
            HashError::CostOutOfRange { what: "p", .. }
        ));
    }

    #[test]
    fn a_malformed_hash_is_refused() {
        for text in [
            "$5$salt",
            "$5$salt$",
            "$5$$708Qd1GA5FblAgceNooXo6mCmXw7DIUSz5IHtzs/2E6",
            "$5$saltsalt$708Qd1GA5FblAgceNooXo6mCmXw7DIUSz5IHtzs/2E",
            "$6$saltsalt$708Qd1GA5FblAgceNooXo6mCmXw7DIUSz5IHtzs/2E6",
            "$5$saltsaltsaltsalts$708Qd1GA5FblAgceNooXo6mCmXw7DIUSz5IHtzs/2E6",
            "$5$rounds=$saltsalt$708Qd1GA5FblAgceNooXo6mCmXw7DIUSz5IHtzs/2E6",
            "$5$rounds=99999999999$saltsalt$708Qd1GA5FblAgceNooXo6mCmXw7DIUSz5IHtzs/2E6",
            "$5$saltsalt$708Qd1GA5FblAgceNooXo6mCmXw7DIUSz5IHtzs/2E6$x",
            "$argon2id$v=19$m=19456,t=2,p=1$ZGVjb3lkZWNveWRlY295ZA",
            "$argon2id$v=16$m=19456,t=2,p=1$ZGVjb3lkZWNveWRlY295ZA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "$argon2id$v=19$m=19456,t=2,p=1$ZGVjb3lkZWNveWRlY295ZA$AAAAAAAAAAAAAAA",
            "$argon2id$garbage",
        ] {
            assert!(matches!(error(text), HashError::Malformed { .. }), "{text}: {:?}", error(text));
        }
    }

    /// Covers: R35, P-053
    #[test]
    fn a_decoy_costs_what_it_says_and_is_nobodys_password() {
        for cost in [
            Cost::OURS,
            Cost::Sha256 { rounds: 5_000 },
            Cost::Sha512 { rounds: 20_000 },
            Cost::Argon2id { memory_kib: 64, passes: 1, lanes: 1 },
        ] {
            let decoy = StoredHash::decoy(cost);
            assert_eq!(StoredHash::parse(decoy.text()).unwrap().cost(), cost);
            assert!(!decoy.matches("secret"));
        }
    }

    #[test]
    fn a_password_longer_than_the_bound_never_matches() {
        let longest = "x".repeat(MAX_PASSWORD_BYTES);
        let hash = StoredHash::of_password(&longest).unwrap();
        assert!(hash.matches(&longest));
        let longer = "x".repeat(MAX_PASSWORD_BYTES + 1);
        assert!(!StoredHash::of_password(&longer).unwrap().matches(&longer));
    }

    /// Covers: R86
    #[test]
    fn debug_shows_no_hash() {
        let shown = format!("{:?}", StoredHash::parse(OPENSSL_5).unwrap());
        assert_eq!(shown, "StoredHash(Sha256 { rounds: 5000 })");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// Covers: R35
        #[test]
        fn whatever_parses_is_computed(output in "[./0-9A-Za-z]{42}[./0-9A-F]", scheme in 5..=6) {
            let output = if scheme == 5 { output } else { format!("{output}{output}") };
            if let Ok(hash) = StoredHash::parse(&format!("${scheme}$rounds=1000$salt${output}")) {
                let hash = PasswordHashRef::new(hash.text()).unwrap();
                let outcome = ShaCrypt::default().verify_password(b"", hash);
                prop_assert_eq!(outcome, Err(sha_crypt::password_hash::Error::PasswordInvalid));
            }
        }
    }

    proptest! {
        /// Covers: R35
        #[test]
        fn no_text_makes_parsing_panic(text in "\\$(5|6|argon2id|1|\\PC)\\$[\\PC$,=]{0,120}") {
            let _ = StoredHash::parse(&text);
        }
    }
}
