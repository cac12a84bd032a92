//! The text of a password file, as the stock `ocpasswd` writes it.
//!
//! ```text
//! alice:*:$5$...                  no groups
//! bob:staff,vpn:$6$...            two groups
//! carol:admins:!$5$...            locked
//! # a comment, and empty lines, are ours
//! ```
//!
//! A line that is not `user:groups:hash` breaks the file: the caller keeps the last good one rather
//! than guess. A line that is well formed but useless (a hash we cannot check, a second line of the
//! same user) is a warning with its number. No warning names a user.
//!
//! Names are compared in their one spelling (`UserName`), so that `Alice` and `alice` are one user.
//! Of several lines of one user the first counts, as in the stock server, but a lock on any of them
//! locks the user.
//!
//! # Source
//! ocpasswd(8); groups of one character are ignored, as it says there.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::str;

use super::hash::{Cost, HashError, StoredHash};
use crate::identity::credentials::canonical;

/// The longest file: 64,000 users at 160 bytes come to 10 MiB.
pub(super) const MAX_FILE_BYTES: usize = 16 * 1024 * 1024;
/// The longest line: a name of 255 bytes, a hash of 120, and some groups.
pub(super) const MAX_LINE_BYTES: usize = 4096;
/// The most groups of one user.
pub(super) const MAX_GROUPS: usize = 64;
/// The most warnings kept of one file; the rest is only counted.
const MAX_WARNINGS: usize = 20;
/// The most different costs that decoys are made for; the most common are kept.
const MAX_DECOYS: usize = 16;

/// One line, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) user: &'a str,
    pub(super) groups: &'a str,
    pub(super) locked: bool,
    pub(super) hash: &'a str,
}

impl<'a> Line<'a> {
    /// Takes a line apart; `None` is an empty line or a comment.
    ///
    /// # Errors
    /// If it is not `user:groups:hash`.
    pub(super) fn parse(line: &'a str) -> Result<Option<Self>, &'static str> {
        if line.len() > MAX_LINE_BYTES {
            return Err("longer than 4096 bytes");
        }
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.trim().is_empty() || line.starts_with('#') {
            return Ok(None);
        }
        let mut fields = line.split(':');
        let (Some(user), Some(groups), Some(hash), None) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err("want user:groups:hash");
        };
        if user.is_empty() {
            return Err("empty user name");
        }
        let hash = hash.trim_end();
        let locked = hash.starts_with('!');
        Ok(Some(Self { user, groups, locked, hash: hash.trim_start_matches('!') }))
    }

    /// The groups, without the placeholders of one character.
    pub(super) fn groups(&self) -> impl Iterator<Item = &'a str> {
        self.groups.split(',').map(str::trim).filter(|group| group.chars().count() > 1)
    }
}

/// A line that makes the whole file unusable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct BrokenLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong.
    pub why: &'static str,
}

/// A line that is of no use, while the rest of the file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Warning {
    pub(super) line: usize,
    pub(super) why: Useless,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Useless {
    #[error("{0}; this user cannot log in")]
    Hash(#[from] HashError),
    #[error("the user of line {first} again; the first line counts, and a lock on any")]
    Again { first: usize },
    #[error("a user name that no login can give (empty, too long, or of invisible characters)")]
    Name,
    #[error("more than {MAX_GROUPS} groups; this user cannot log in")]
    Groups,
}

/// One user.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) groups: Vec<String>,
    pub(super) locked: bool,
    /// `None` where the line has nothing that a password could match.
    pub(super) hash: Option<StoredHash>,
    line: usize,
}

/// The users of a file.
pub(super) struct Table {
    accounts: HashMap<String, Account>,
    decoys: Decoys,
}

impl Table {
    /// Reads the text of a file. The second value are warnings, the third how many there were.
    ///
    /// # Errors
    /// If a line is not a line of a password file.
    pub(super) fn parse(text: &[u8]) -> Result<(Self, Vec<Warning>, usize), BrokenLine> {
        let mut accounts: HashMap<String, Account> = HashMap::new();
        let mut costs = BTreeMap::new();
        let (mut warnings, mut count) = (Vec::new(), 0);
        let mut warn = |line, why| {
            count += 1;
            if warnings.len() < MAX_WARNINGS {
                warnings.push(Warning { line, why });
            }
        };
        for (number, bytes) in (1..).zip(text.split(|&b| b == b'\n')) {
            let broken = |why| BrokenLine { line: number, why };
            let line = str::from_utf8(bytes).map_err(|_| broken("not UTF-8"))?;
            let Some(line) = Line::parse(line).map_err(broken)? else { continue };
            let Some(name) = canonical(line.user) else {
                warn(number, Useless::Name);
                continue;
            };
            if let Some(first) = accounts.get_mut(&name) {
                first.locked |= line.locked;
                warn(number, Useless::Again { first: first.line });
                continue;
            }
            let groups: Vec<String> = line.groups().take(MAX_GROUPS + 1).map(str::to_owned).collect();
            let hash = match StoredHash::parse(line.hash) {
                Ok(hash) if groups.len() <= MAX_GROUPS => {
                    *costs.entry(hash.cost()).or_insert(0_usize) += 1;
                    Some(hash)
                }
                Ok(_) => {
                    warn(number, Useless::Groups);
                    None
                }
                // Locked without a hash is a usual way to say "no password".
                Err(HashError::Empty) if line.locked => None,
                Err(why) => {
                    warn(number, Useless::Hash(why));
                    None
                }
            };
            accounts.insert(name, Account { groups, locked: line.locked, hash, line: number });
        }
        Ok((Self { accounts, decoys: Decoys::new(costs) }, warnings, count))
    }

    /// The account of this name in its one spelling.
    pub(super) fn account(&self, name: &str) -> Option<&Account> {
        self.accounts.get(name)
    }

    /// What to compute for a name that has no hash of its own.
    pub(super) fn decoy(&self, name: &str, secret: &RandomState) -> &StoredHash {
        self.decoys.choose(name, secret)
    }

    pub(super) fn len(&self) -> usize {
        self.accounts.len()
    }
}

/// Hashes of nobody, in the proportion of the costs in the file.
///
/// Where a file mixes schemes, one fixed cost for unknown users would tell them from those with
/// another. So each name is always given the same decoy, chosen by a secret hash of the name, and
/// the times of unknown names are spread as those of the users are.
struct Decoys {
    /// The sum of the weights up to and including this one; never empty.
    upto: Vec<(usize, StoredHash)>,
}

impl Decoys {
    fn new(costs: BTreeMap<Cost, usize>) -> Self {
        let mut costs: Vec<_> = costs.into_iter().collect();
        costs.sort_by_key(|&(_, count)| std::cmp::Reverse(count));
        costs.truncate(MAX_DECOYS);
        if costs.is_empty() {
            costs.push((Cost::OURS, 1));
        }
        let mut sum = 0;
        let upto = costs
            .into_iter()
            .map(|(cost, count)| {
                sum += count;
                (sum, StoredHash::decoy(cost))
            })
            .collect();
        Self { upto }
    }

    fn choose(&self, name: &str, secret: &RandomState) -> &StoredHash {
        let total = self.upto.last().map_or(1, |(sum, _)| *sum as u64);
        let point = secret.hash_one(name) % total;
        let at = self.upto.partition_point(|(sum, _)| *sum as u64 <= point);
        &self.upto[at.min(self.upto.len() - 1)].1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Written by ocpasswd 1.1.6:
    //   ocpasswd -c p alice; ocpasswd -c p -g staff,vpn bob; ocpasswd -c p -g admins carol;
    //   ocpasswd -c p -l carol; ocpasswd -c p dave
    // with the passwords secret1, secret2, secret3 and "pässwörd".
    pub(crate) const OCPASSWD: &str = "\
alice:*:$5$Ml/Smyf.5Ud/nDOO$g0SBIdaVx3Va5k0Lm1sM6h4cq32owiU6BXXiD1CSMt8
bob:staff,vpn:$5$rW76r/CTCO5AIc3K$MIOZbhyZNy02bxfQTzBpPIO8ZhlT3eIlw2q9rgVgFlA
carol:admins:!$5$wItaoYzFHa9GDDV8$P6gy1BQr2oVjEOH63l2QdpPYuOsIT8G0WJlPwCIRgy4
dave:*:$5$Yd6yKdGYNFgig1IB$OLGwb3rX00eizBQQwbqxRWjK96YMHNJNm9bH5iqqb7B
";
    const SHA5: &str = "$5$saltsalt$708Qd1GA5FblAgceNooXo6mCmXw7DIUSz5IHtzs/2E6";

    fn parse(text: &str) -> (Table, Vec<Warning>) {
        let (table, warnings, _) = Table::parse(text.as_bytes()).unwrap();
        (table, warnings)
    }

    #[test]
    fn the_file_of_the_stock_tool_is_read() {
        let (table, warnings) = parse(OCPASSWD);
        assert_eq!(warnings, []);
        assert_eq!(table.len(), 4);
        for (name, password, groups, locked) in [
            ("alice", "secret1", &[][..], false),
            ("bob", "secret2", &["staff", "vpn"][..], false),
            ("carol", "secret3", &["admins"][..], true),
            ("dave", "pässwörd", &[][..], false),
        ] {
            let account = table.account(name).unwrap();
            assert_eq!(account.groups, groups, "{name}");
            assert_eq!(account.locked, locked, "{name}");
            assert!(account.hash.as_ref().unwrap().matches(password), "{name}");
        }
        assert!(table.account("eve").is_none());
        assert!(table.account("Alice").is_none(), "the caller brings the one spelling");
    }

    #[test]
    fn a_broken_line_is_named_by_its_number() {
        for (text, line, why) in [
            (&b"alice:*:x\nbob\n"[..], 2, "want user:groups:hash"),
            (b"alice:x:y:$5$abc", 1, "want user:groups:hash"),
            (b"\n\n:*:$5$abc\n", 3, "empty user name"),
            (b"alice:*:x\nb\xffb:*:x\n", 2, "not UTF-8"),
        ] {
            let Err(broken) = Table::parse(text) else { panic!("{text:?}") };
            assert_eq!((broken.line, broken.why), (line, why));
        }
        let long = format!("alice:{}:x", "g,".repeat(MAX_LINE_BYTES));
        assert_eq!(Table::parse(long.as_bytes()).err().unwrap().line, 1);
    }

    #[test]
    fn a_user_with_a_hash_we_cannot_check_is_a_warning_with_its_line() {
        let (table, warnings) =
            parse(&format!("# users\nold:*:$1$abcd$Wc30qpxq3ofmlIbOB0DRm.\nnew:*:{SHA5}\nbare:*:\n"));
        assert!(table.account("old").unwrap().hash.is_none());
        assert!(table.account("bare").unwrap().hash.is_none());
        assert!(table.account("new").unwrap().hash.is_some());
        let shown: Vec<_> = warnings.iter().map(|w| format!("{}: {}", w.line, w.why)).collect();
        assert_eq!(shown.len(), 2);
        assert!(shown[0].starts_with("2: password hash scheme $1$ is not supported"), "{}", shown[0]);
        assert!(shown[1].starts_with("4: no password hash"), "{}", shown[1]);
        assert!(!shown.iter().any(|w| w.contains("old") || w.contains("Wc30")), "no name, no hash");
    }

    /// Covers: P-052, R34
    #[test]
    fn two_spellings_of_a_name_are_one_user_and_a_lock_on_either_locks() {
        let (table, warnings) =
            parse(&format!("Alice:aa,bb:{SHA5}\nbob:*:{SHA5}\nalice:cc:!{SHA5}\nBOB:admins:{SHA5}\n"));
        assert_eq!(table.len(), 2);
        let alice = table.account("alice").unwrap();
        assert!(alice.locked);
        assert_eq!(alice.groups, ["aa", "bb"], "the first line counts");
        let bob = table.account("bob").unwrap();
        assert!(!bob.locked);
        assert!(bob.groups.is_empty(), "no groups by a second line");
        assert_eq!(
            warnings,
            [
                Warning { line: 3, why: Useless::Again { first: 1 } },
                Warning { line: 4, why: Useless::Again { first: 2 } }
            ]
        );
    }

    #[test]
    fn comments_blank_lines_and_line_ends_of_another_system_are_no_users() {
        let (table, warnings) = parse(&format!("# alice:*:{SHA5}\r\n\r\n   \nbob:*:{SHA5}\r\nlocked:*:!\n"));
        assert_eq!(warnings, []);
        assert_eq!(table.len(), 2);
        assert!(table.account("bob").unwrap().hash.as_ref().unwrap().matches("secret5"));
        assert!(table.account("locked").unwrap().locked);
        assert_eq!(Table::parse(b"").unwrap().0.len(), 0);
    }

    #[test]
    fn groups_of_one_character_are_placeholders() {
        let (table, _) = parse(&format!("a:x:{SHA5}\nb:*,staff, vpn ,,x:{SHA5}\n"));
        assert!(table.account("a").unwrap().groups.is_empty());
        assert_eq!(table.account("b").unwrap().groups, ["staff", "vpn"]);
    }

    #[test]
    fn a_user_of_too_many_groups_cannot_log_in_with_some_of_them() {
        let groups = |n: usize| (0..n).map(|i| format!("g{i}")).collect::<Vec<_>>().join(",");
        let (table, warnings) =
            parse(&format!("a:{}:{SHA5}\nb:{}:{SHA5}", groups(MAX_GROUPS), groups(MAX_GROUPS + 1)));
        assert_eq!(table.account("a").unwrap().groups.len(), MAX_GROUPS);
        assert!(table.account("a").unwrap().hash.is_some());
        assert!(table.account("b").unwrap().hash.is_none());
        assert_eq!(warnings, [Warning { line: 2, why: Useless::Groups }]);
    }

    #[test]
    fn warnings_are_counted_but_not_kept_without_bound() {
        let text: String = (0..1000).map(|i| format!("user{i}:*:plain\n")).collect();
        let (_, warnings, count) = Table::parse(text.as_bytes()).unwrap();
        assert_eq!((warnings.len(), count), (MAX_WARNINGS, 1000));
    }

    /// Covers: R35, P-053
    #[test]
    fn unknown_names_cost_what_the_users_of_the_file_cost() {
        let secret = RandomState::new();
        let empty = parse("").0;
        assert_eq!(empty.decoy("eve", &secret).cost(), Cost::OURS);
        let uniform = parse(OCPASSWD).0;
        for name in ["eve", "mallory", "", "root"] {
            assert_eq!(uniform.decoy(name, &secret).cost(), Cost::Sha256 { rounds: 5_000 }, "{name}");
        }
        let argon = StoredHash::decoy(Cost::OURS);
        let mixed = parse(&format!("{OCPASSWD}x1:*:{0}\nx2:*:{0}\nx3:*:{0}\nx4:*:{0}\n", argon.text())).0;
        let ours = (0..1000).filter(|i| mixed.decoy(&format!("u{i}"), &secret).cost() == Cost::OURS).count();
        assert!((350..650).contains(&ours), "half of the users, {ours} of 1000 unknown names");
        for i in 0..100 {
            let name = format!("u{i}");
            assert_eq!(mixed.decoy(&name, &secret).cost(), mixed.decoy(&name, &secret).cost());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_parsing_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Table::parse(&text);
        }

        #[test]
        fn no_text_of_colons_and_dollars_makes_parsing_panic(text in "([a-z!:,*$#\\n=\\r]|\\PC){0,200}") {
            let _ = Table::parse(text.as_bytes());
        }
    }
}
