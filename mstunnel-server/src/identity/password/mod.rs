//! Logins by user name and password, out of a file of the stock `ocpasswd`'s form.
//!
//! [`PasswordFile`] answers logins and takes up a changed file when two looks, a second apart, have seen
//! the same change: an editor may write it bit by bit, and who is not there yet must not lose a session.
//! [`passwd_command`] is the body of `mstunnel-server passwd` and writes such files.
//!
//! A refusal says nothing, and takes the time of a hash whoever the user is: for an unknown user a
//! decoy is computed, for a locked one the real hash (threats.md R35, P-053).
//! A changed file that cannot be taken leaves the last good one in use and is a WARN line.

mod command;
mod file;
mod hash;
mod workers;
mod write;

use std::fmt;
use std::hash::RandomState;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tracing::{debug, info, warn};
use zeroize::Zeroizing;

pub use self::command::{PasswdArgs, passwd_command};
pub use self::file::BrokenLine;
pub use self::hash::MAX_PASSWORD_BYTES;
pub use self::workers::MAX_WAITING;
pub use self::write::{Edit, PasswdError, edit, set_password};

use self::file::{MAX_FILE_BYTES, Table};
use self::hash::StoredHash;
use self::workers::HashWorkers;
use super::credentials::{Verdict, canonical};
use super::secret_file::{self, Fingerprint, SecretFileError};

/// How often the file is looked at, at most; two looks leave of R32's 5 s room for the caller's own poll.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Why a password file was not taken.
#[derive(Debug)]
pub struct PasswordFileError {
    file: PathBuf,
    why: Why,
}

#[derive(Debug)]
enum Why {
    File(SecretFileError),
    Line(BrokenLine),
}

impl fmt::Display for PasswordFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display();
        match &self.why {
            Why::File(error) => write!(f, "{file}: {error}"),
            Why::Line(broken) => write!(f, "{file}:{}: {}", broken.line, broken.why),
        }
    }
}

impl std::error::Error for PasswordFileError {}

impl PasswordFileError {
    /// The file is there, and the operating system did not let us read it this time.
    fn is_of_the_system(&self) -> bool {
        matches!(&self.why, Why::File(SecretFileError::Io(error)) if error.kind() != io::ErrorKind::NotFound)
    }
}

/// The users of a password file. Clones share it.
#[derive(Clone)]
pub struct PasswordFile {
    inner: Arc<Inner>,
    workers: HashWorkers,
}

impl PasswordFile {
    /// Opens a password file.
    ///
    /// # Errors
    /// If it cannot be read, others can read it, or a line is not `user:groups:hash`.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, PasswordFileError> {
        let path = path.into();
        let (table, fingerprint, warnings) = read_table(&path)?;
        warnings.iter().for_each(|warning| warn!("{warning}"));
        Ok(Self {
            inner: Arc::new(Inner {
                path,
                table: ArcSwap::from_pointee(table),
                seen: Mutex::new(Seen::now(fingerprint)),
                secret: RandomState::new(),
                hashes: AtomicU64::new(0),
                generation: AtomicU64::new(0),
            }),
            workers: HashWorkers::for_this_machine(),
        })
    }

    /// Reads a password file as [`open`](Self::open) does, and returns what it warns of, one line each.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn check(path: &Path) -> Result<Vec<String>, PasswordFileError> {
        read_table(path).map(|(_, _, warnings)| warnings)
    }

    /// Decides whether `password` is the one of `user`.
    pub async fn verify(&self, user: &str, password: &Zeroizing<String>) -> Verdict {
        let (inner, user, password) = (Arc::clone(&self.inner), user.to_owned(), password.clone());
        let verdict = self.workers.run(move || inner.verify(&user, &password)).await;
        verdict.unwrap_or_else(|| {
            debug!("password not checked: the line for the hash workers is full");
            Verdict::Unavailable
        })
    }

    /// Tells whether the user exists and is not locked.
    ///
    /// For ending the sessions of users who were removed or locked (R32). Reads the file when it
    /// has changed, so it is not for the packet path.
    pub fn is_active(&self, user: &str) -> bool {
        self.inner.reload_if_due(Instant::now());
        canonical(user).is_some_and(|name| self.inner.table.load().account(&name).is_some_and(|a| !a.locked))
    }

    /// Reads the file again now, changed or not.
    ///
    /// # Errors
    /// As for [`open`](Self::open); the last good file stays in use.
    pub fn reload(&self) -> Result<(), PasswordFileError> {
        let (table, fingerprint, warnings) = read_table(&self.inner.path)?;
        warnings.iter().for_each(|warning| warn!("{warning}"));
        let mut seen = self.inner.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.table.store(Arc::new(table));
        self.inner.generation.fetch_add(1, Ordering::Relaxed);
        *seen = Seen::now(fingerprint);
        Ok(())
    }

    /// A number that changes with the users: who has seen it has seen this table.
    ///
    /// Reads the file when it has changed, as [`is_active`](Self::is_active) does.
    pub fn generation(&self) -> u64 {
        self.inner.reload_if_due(Instant::now());
        self.inner.generation.load(Ordering::Relaxed)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// How many hashes were computed since the start, for users and for nobody.
    pub fn hashes_computed(&self) -> u64 {
        self.inner.hashes.load(Ordering::Relaxed)
    }

    /// How many users the file has.
    pub fn user_count(&self) -> usize {
        self.inner.table.load().len()
    }
}

struct Inner {
    path: PathBuf,
    table: ArcSwap<Table>,
    seen: Mutex<Seen>,
    /// Chooses the decoy of an unknown name.
    secret: RandomState,
    hashes: AtomicU64,
    generation: AtomicU64,
}

/// When the file was last looked at, and as what it was seen, taken or not.
struct Seen {
    at: Instant,
    fingerprint: Option<Fingerprint>,
    /// As what it was seen at the last look, if that was a change: somebody may be writing it.
    unsettled: Option<Option<Fingerprint>>,
    /// Whether the log knows already that it cannot be read.
    is_told: bool,
}

impl Seen {
    fn now(fingerprint: Fingerprint) -> Self {
        Self { at: Instant::now(), fingerprint: Some(fingerprint), unsettled: None, is_told: false }
    }
}

impl Inner {
    fn verify(&self, user: &str, password: &str) -> Verdict {
        self.reload_if_due(Instant::now());
        let table = self.table.load();
        let name = canonical(user);
        let account = name.as_deref().and_then(|name| table.account(name));
        let hash = account.and_then(|account| account.hash.as_ref());
        // Computed whoever it is; what a decoy answers is not looked at.
        let matches = self.compute(hash.unwrap_or_else(|| table.decoy(user, &self.secret)), password);
        match (name, account) {
            (Some(user), Some(account)) if hash.is_some() && matches && !account.locked => {
                Verdict::Accepted { user, groups: account.groups.clone() }
            }
            _ => {
                debug!(
                    known = account.is_some(),
                    locked = account.is_some_and(|a| a.locked),
                    "password refused"
                );
                Verdict::Rejected
            }
        }
    }

    fn compute(&self, hash: &StoredHash, password: &str) -> bool {
        self.hashes.fetch_add(1, Ordering::Relaxed);
        hash.matches(password)
    }

    /// Looks at the file if the last look is a second ago, and reads it if it is another one than before and stands still.
    fn reload_if_due(&self, now: Instant) {
        // Whoever comes while another looks goes on with what there is.
        let Ok(mut seen) = self.seen.try_lock() else { return };
        if now.saturating_duration_since(seen.at) < CHECK_EVERY {
            return;
        }
        seen.at = now;
        let fingerprint = Fingerprint::of(&self.path);
        if fingerprint == seen.fingerprint {
            seen.is_told = false;
            return;
        }
        if seen.unsettled != Some(fingerprint) {
            seen.unsettled = Some(fingerprint);
            return;
        }
        let outcome = read_table(&self.path);
        if outcome.as_ref().is_ok_and(|(_, read, _)| Some(*read) != fingerprint) {
            return;
        }
        self.take(&mut seen, fingerprint, outcome);
    }

    fn take(
        &self,
        seen: &mut Seen,
        fingerprint: Option<Fingerprint>,
        outcome: Result<ReadTable, PasswordFileError>,
    ) {
        match outcome {
            Ok((table, fingerprint, warnings)) => {
                warnings.iter().for_each(|warning| warn!("{warning}"));
                (seen.fingerprint, seen.is_told) = (Some(fingerprint), false);
                info!(file = %self.path.display(), users = table.len(), "changed password file taken up");
                self.table.store(Arc::new(table));
                self.generation.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                // What the system could not do now, for want of descriptors say, it may do at the next look.
                let is_read_again = error.is_of_the_system();
                if !is_read_again {
                    seen.fingerprint = fingerprint;
                }
                if !(is_read_again && seen.is_told) {
                    warn!("{error}; the last good password file stays in use");
                }
                seen.is_told = is_read_again;
            }
        }
    }
}

/// The users, the version of the file, and what is wrong with single lines.
type ReadTable = (Table, Fingerprint, Vec<String>);

fn read_table(path: &Path) -> Result<ReadTable, PasswordFileError> {
    let error = |why| PasswordFileError { file: path.to_owned(), why };
    let (text, fingerprint) = secret_file::read(path, MAX_FILE_BYTES).map_err(|why| error(Why::File(why)))?;
    let (table, warnings, count) = Table::parse(&text).map_err(|why| error(Why::Line(why)))?;
    let file = path.display();
    let more = count.checked_sub(warnings.len()).filter(|more| *more > 0);
    let warnings = warnings.iter().map(|warning| format!("{file}:{}: {}", warning.line, warning.why));
    let warnings = warnings.chain(more.map(|more| format!("{file}: {more} more lines with warnings")));
    Ok((table, fingerprint, warnings.collect()))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    // openssl passwd -5 -salt saltsalt secret5
    const SHA5: &str = "$5$saltsalt$708Qd1GA5FblAgceNooXo6mCmXw7DIUSz5IHtzs/2E6";
    const OLD: &str = "$1$abcd$Wc30qpxq3ofmlIbOB0DRm.";

    struct Fixture {
        dir: tempfile::TempDir,
        file: PasswordFile,
    }

    impl Fixture {
        fn new(text: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            write(&dir, text, 0o600);
            let file = PasswordFile::open(dir.path().join("users")).unwrap();
            Self { dir, file }
        }

        /// Replaces the file and lets the time pass after which it is looked at again.
        fn replace(&self, text: &str, mode: u32) {
            write(&self.dir, text, mode);
            self.look();
        }

        fn look(&self) {
            self.look_once();
            self.look_once();
        }

        fn look_once(&self) {
            let at = self.file.inner.seen.lock().unwrap().at;
            self.file.inner.reload_if_due(at + CHECK_EVERY);
        }

        async fn verify(&self, user: &str, password: &str) -> Verdict {
            self.file.verify(user, &Zeroizing::new(password.to_owned())).await
        }
    }

    fn write(dir: &tempfile::TempDir, text: &str, mode: u32) {
        let new = dir.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::set_permissions(&new, Permissions::from_mode(mode)).unwrap();
        std::fs::rename(new, dir.path().join("users")).unwrap();
    }

    fn accepted(user: &str, groups: &[&str]) -> Verdict {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        Verdict::Accepted { user: user.to_owned(), groups }
    }

    /// Covers: P-045, R33
    #[tokio::test]
    async fn the_right_password_of_an_active_user_alone_is_accepted() {
        let fixture = Fixture::new(&format!(
            "alice:staff,vpn:{SHA5}\nBob:*:{SHA5}\nlocked:staff:!{SHA5}\nold:*:{OLD}\nnone:*:\nbang:*:!\n"
        ));
        assert_eq!(fixture.verify("alice", "secret5").await, accepted("alice", &["staff", "vpn"]));
        assert_eq!(fixture.verify("BOB", "secret5").await, accepted("bob", &[]));
        for (user, password) in [
            ("alice", "secret"),
            ("alice", ""),
            ("alice", "secret5 "),
            ("", "secret5"),
            ("eve", "secret5"),
            ("locked", "secret5"),
            ("old", "secret1"),
            ("none", ""),
            ("bang", ""),
            ("bang", "!"),
            ("alice:staff", "secret5"),
            ("ali\0ce", "secret5"),
            ("alice", &"x".repeat(1_000_000)),
        ] {
            assert_eq!(fixture.verify(user, password).await, Verdict::Rejected, "{user} {}", password.len());
        }
    }

    /// Covers: P-053, R35
    #[tokio::test]
    async fn one_hash_is_computed_whoever_it_is() {
        let fixture = Fixture::new(&format!("alice:*:{SHA5}\nlocked:*:!{SHA5}\nold:*:{OLD}\nbang:*:!\n"));
        for (user, password) in [
            ("alice", "secret5"),
            ("alice", "wrong"),
            ("eve", "secret5"),
            ("locked", "secret5"),
            ("locked", "wrong"),
            ("old", "secret1"),
            ("bang", "x"),
            ("", ""),
            ("\u{202e}", "x"),
        ] {
            let before = fixture.file.hashes_computed();
            fixture.verify(user, password).await;
            assert_eq!(fixture.file.hashes_computed(), before + 1, "{user:?}");
        }
    }

    /// Covers: R32: an account that was locked while the process had no descriptor left.
    #[tokio::test]
    async fn a_file_that_could_not_be_read_once_is_read_at_the_next_look() {
        let fixture = Fixture::new(&format!("alice:*:{SHA5}\n"));
        write(&fixture.dir, &format!("alice:*:!{SHA5}\n"), 0o600);
        let inner = &fixture.file.inner;
        let error = |kind: io::ErrorKind| PasswordFileError {
            file: inner.path.clone(),
            why: Why::File(SecretFileError::Io(kind.into())),
        };
        for _ in 0..2 {
            let looked = Fingerprint::of(&inner.path);
            inner.take(&mut inner.seen.lock().unwrap(), looked, Err(error(io::ErrorKind::Other)));
            assert!(inner.seen.lock().unwrap().is_told);
        }
        fixture.look();
        assert!(!fixture.file.is_active("alice"), "the lock was missed");
        assert!(!inner.seen.lock().unwrap().is_told);
    }

    /// Covers: P-049, R32
    #[tokio::test]
    async fn a_changed_file_is_taken_up_without_restart() {
        let fixture = Fixture::new(&format!("alice:*:{SHA5}\n"));
        assert!(fixture.file.is_active("alice"));
        fixture.replace(&format!("alice:*:!{SHA5}\nbob:staff:{SHA5}\n"), 0o600);
        assert!(!fixture.file.is_active("alice"), "locked");
        assert_eq!(fixture.verify("alice", "secret5").await, Verdict::Rejected);
        assert_eq!(fixture.verify("bob", "secret5").await, accepted("bob", &["staff"]));
        fixture.replace("", 0o600);
        assert!(!fixture.file.is_active("bob"), "removed");
        assert_eq!(fixture.file.user_count(), 0);
    }

    #[test]
    fn the_file_is_looked_at_once_a_second_at_most() {
        let fixture = Fixture::new(&format!("alice:*:{SHA5}\n"));
        let at = fixture.file.inner.seen.lock().unwrap().at;
        write(&fixture.dir, "", 0o600);
        fixture.file.inner.reload_if_due(at + CHECK_EVERY - Duration::from_millis(1));
        assert_eq!(fixture.file.user_count(), 1);
        fixture.file.inner.reload_if_due(at + CHECK_EVERY);
        fixture.file.inner.reload_if_due(at + 2 * CHECK_EVERY - Duration::from_millis(1));
        assert_eq!(fixture.file.user_count(), 1, "one look is not enough");
        fixture.file.inner.reload_if_due(at + 2 * CHECK_EVERY);
        assert_eq!(fixture.file.user_count(), 0);
    }

    /// Covers: R32, R86: nobody is gone because an editor has not come to them yet.
    #[test]
    fn a_file_that_is_being_written_is_read_when_it_stands_still() {
        let whole = format!("alice:*:{SHA5}\nbob:*:{SHA5}\n");
        let fixture = Fixture::new(&whole);
        let path = fixture.dir.path().join("users");
        let mut size = 0;
        for part in ["", &whole[..20], &format!("carl:*:{SHA5}\n")] {
            std::fs::write(&path, part).unwrap();
            assert!(part.is_empty() || part.len() != size, "each has another size, whatever the clock says");
            size = part.len();
            fixture.look_once();
            assert!(fixture.file.is_active("alice") && fixture.file.is_active("bob"), "after {part:?}");
        }
        fixture.look_once();
        assert!(!fixture.file.is_active("alice") && fixture.file.is_active("carl"));
    }

    /// Covers: P-137, R86
    #[tokio::test]
    async fn a_new_file_that_cannot_be_taken_leaves_the_last_good_one() {
        let fixture = Fixture::new(&format!("alice:*:{SHA5}\n"));
        for (text, mode) in [("alice:*\n", 0o600), ("bob:*:x:y\n", 0o600), ("alice:*:!\n", 0o644)] {
            fixture.replace(text, mode);
            assert_eq!(fixture.verify("alice", "secret5").await, accepted("alice", &[]), "{text:?}");
            assert!(fixture.file.reload().is_err());
        }
        std::fs::remove_file(fixture.dir.path().join("users")).unwrap();
        fixture.look();
        assert!(fixture.file.is_active("alice"));
        fixture.replace(&format!("bob:*:{SHA5}\n"), 0o600);
        assert!(!fixture.file.is_active("alice"));
        assert!(fixture.file.is_active("bob"), "a good file is taken up again");
    }

    /// Covers: P-137, R86
    #[test]
    fn opening_names_the_file_the_line_and_the_want() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        let error = |text: &str, mode| {
            write(&dir, text, mode);
            PasswordFile::open(&path).err().unwrap().to_string()
        };
        assert!(error("a:*:x\nb\n", 0o600).ends_with("users:2: want user:groups:hash"));
        assert!(error("", 0o644).ends_with("users: has mode 0644; want at most 0640 (chmod 600)"));
        assert!(PasswordFile::open(dir.path().join("none")).is_err());
        write(&dir, &format!("alice:*:{SHA5}\nold:*:{OLD}\n"), 0o600);
        let warnings = PasswordFile::check(&path).unwrap();
        assert!(matches!(&warnings[..], [one] if one.contains("users:2: ")), "{warnings:?}");
    }
}
