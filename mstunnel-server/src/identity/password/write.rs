//! Changing a password file, one user at a time, beside a running server and the stock tool.
//!
//! ```text
//! create FILE.tmp (O_EXCL: the lock, which the stock ocpasswd respects too) -> read FILE ->
//! write FILE.tmp -> sync -> rename to FILE -> sync the directory
//! ```
//!
//! Whoever reads sees the old file or the new one. Lines of other users, comments and their order
//! stay as they are. The file keeps its owner, and the right of its group to read it; nobody else
//! gets any (threats.md R86).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::file::{Line, MAX_FILE_BYTES, MAX_GROUPS, MAX_LINE_BYTES};
use super::hash::{MAX_PASSWORD_BYTES, StoredHash};
use crate::identity::credentials::canonical;
use crate::identity::secret_file::{self, SecretFileError};

/// What to do with a user. Holds a password, so it cannot be printed.
pub enum Edit<'a> {
    /// Give a new password, and groups if any are named; adds a user who is not there. Unlocks.
    Set {
        /// The password.
        password: &'a str,
        /// The groups; `None` keeps those the user has.
        groups: Option<&'a [String]>,
    },
    /// Put `!` before the hash.
    Lock,
    /// Take the `!` away.
    Unlock,
    /// Remove the user's lines.
    Delete,
}

/// Why a password file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum PasswdError {
    /// The name cannot be written or logged in with.
    #[error("{0:?} is not a user name (want 1 to 255 bytes without ':', control or invisible characters)")]
    User(String),
    /// A group cannot be written.
    #[error("{0:?} is not a group (want at least 2 characters without ':' and ',')")]
    Group(String),
    /// There are more groups, or longer ones, than a line holds.
    #[error("too many groups (at most {MAX_GROUPS}, in a line of {MAX_LINE_BYTES} bytes)")]
    TooManyGroups,
    /// The password is empty or longer than logins take.
    #[error("password of {len} bytes (want 1 to {MAX_PASSWORD_BYTES}, without control characters)")]
    Password {
        /// Its length.
        len: usize,
    },
    /// The user is not in the file.
    #[error("no user {0:?}")]
    NoSuchUser(String),
    /// Another program is changing the file, or died doing so.
    #[error("{0} exists: another program changes the file; if none does, remove it")]
    Locked(PathBuf),
    /// The file cannot be read.
    #[error("{0}: {1}")]
    File(PathBuf, SecretFileError),
    /// A line of the file is not `user:groups:hash`.
    #[error("{0}:{1}: {2}")]
    BrokenLine(PathBuf, usize, &'static str),
    /// The file cannot be written.
    #[error("{0}: {1}")]
    Write(PathBuf, io::Error),
    /// The password cannot be hashed.
    #[error("cannot hash: {0}")]
    Hash(argon2::password_hash::Error),
    /// The password cannot be read.
    #[error("cannot read the password: {0}")]
    Input(SecretFileError),
    /// Two different passwords were typed.
    #[error("the two passwords differ")]
    Mismatch,
}

/// Gives `user` of `file` this password; adds the user, and makes the file, if need be.
///
/// # Errors
/// See [`PasswdError`]; the file is then unchanged.
pub fn set_password(
    file: &Path,
    user: &str,
    groups: Option<&[String]>,
    password: &str,
) -> Result<(), PasswdError> {
    edit(file, user, &Edit::Set { password, groups })
}

/// Changes what `file` says of `user`.
///
/// # Errors
/// See [`PasswdError`]; the file is then unchanged.
pub fn edit(file: &Path, user: &str, edit: &Edit<'_>) -> Result<(), PasswdError> {
    let name = check_user(user)?;
    // Hashed before the lock is taken: it is slow.
    let change = match edit {
        Edit::Set { password, groups } => {
            let len = password.len();
            if !(1..=MAX_PASSWORD_BYTES).contains(&len) || password.chars().any(char::is_control) {
                return Err(PasswdError::Password { len });
            }
            let groups = groups.map(join_groups).transpose()?;
            Change::Set { groups, hash: StoredHash::of_password(password).map_err(PasswdError::Hash)? }
        }
        Edit::Lock => Change::Lock,
        Edit::Unlock => Change::Unlock,
        Edit::Delete => Change::Delete,
    };
    let new = NewFile::create(file)?;
    let (old, like) = read_old(file)?;
    let text = apply(&old, file, user, &name, &change)?;
    new.replace(file, &text, like.as_ref())
}

enum Change {
    Set { groups: Option<String>, hash: StoredHash },
    Lock,
    Unlock,
    Delete,
}

fn check_user(user: &str) -> Result<String, PasswdError> {
    let error = || PasswdError::User(user.to_owned());
    let name = canonical(user).ok_or_else(error)?;
    if user.contains(':') || user.starts_with('#') || user.trim() != user {
        return Err(error());
    }
    Ok(name)
}

fn join_groups(groups: &[String]) -> Result<String, PasswdError> {
    for group in groups {
        let writable =
            group.trim() == group && !group.chars().any(|c| matches!(c, ':' | ',') || c.is_control());
        // The stock server takes a name of one character for a placeholder.
        if group.chars().count() < 2 || !writable {
            return Err(PasswdError::Group(group.clone()));
        }
    }
    let joined = groups.join(",");
    if groups.len() > MAX_GROUPS || joined.len() > MAX_LINE_BYTES / 2 {
        return Err(PasswdError::TooManyGroups);
    }
    Ok(if joined.is_empty() { "*".to_owned() } else { joined })
}

/// What of the old file the new one keeps.
struct Like {
    uid: u32,
    gid: u32,
    mode: u32,
}

/// The old text; empty if there is no file yet.
fn read_old(file: &Path) -> Result<(Zeroizing<String>, Option<Like>), PasswdError> {
    let wrap = |error| PasswdError::File(file.to_owned(), error);
    let metadata = match fs::symlink_metadata(file) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Zeroizing::default(), None)),
        Err(error) => return Err(wrap(error.into())),
    };
    if metadata.is_symlink() {
        return Err(wrap(SecretFileError::SymbolicLink));
    }
    if !metadata.is_file() {
        return Err(wrap(SecretFileError::NotRegular));
    }
    // A file that others could read is not refused here: writing it anew is the remedy.
    let bytes = File::open(file)
        .map_err(SecretFileError::Io)
        .and_then(|opened| secret_file::read_bounded(opened, MAX_FILE_BYTES))
        .map_err(wrap)?;
    let text =
        std::str::from_utf8(&bytes).map_err(|_| PasswdError::BrokenLine(file.to_owned(), 0, "not UTF-8"))?;
    let like = Like { uid: metadata.uid(), gid: metadata.gid(), mode: 0o600 | metadata.mode() & 0o040 };
    Ok((Zeroizing::new(text.to_owned()), Some(like)))
}

/// Makes the new text of the old one.
fn apply(
    old: &str,
    file: &Path,
    user: &str,
    name: &str,
    change: &Change,
) -> Result<Zeroizing<String>, PasswdError> {
    let mut text = Zeroizing::new(String::with_capacity(old.len() + MAX_LINE_BYTES));
    let mut found = false;
    for (number, written) in (1..).zip(old.lines()) {
        let line =
            Line::parse(written).map_err(|why| PasswdError::BrokenLine(file.to_owned(), number, why))?;
        let line = line.filter(|line| canonical(line.user).as_deref() == Some(name));
        let Some(line) = line else {
            text.push_str(written);
            text.push('\n');
            continue;
        };
        let again = std::mem::replace(&mut found, true);
        let (groups, locked, hash) = match change {
            Change::Delete => continue,
            // What further lines say of the user would lock it again, or stand there for nothing.
            Change::Set { .. } if again => continue,
            Change::Set { groups, hash } => (groups.as_deref().unwrap_or(line.groups), false, hash.text()),
            Change::Lock => (line.groups, true, line.hash),
            Change::Unlock => (line.groups, false, line.hash),
        };
        push_line(&mut text, line.user, groups, locked, hash);
    }
    if !found {
        let Change::Set { groups, hash } = change else {
            return Err(PasswdError::NoSuchUser(user.to_owned()));
        };
        push_line(&mut text, user, groups.as_deref().unwrap_or("*"), false, hash.text());
    }
    Ok(text)
}

fn push_line(text: &mut String, user: &str, groups: &str, locked: bool, hash: &str) {
    text.extend([user, ":", groups, ":", if locked { "!" } else { "" }, hash, "\n"]);
}

/// `FILE.tmp`: the lock while it is there, the new file when it is renamed.
struct NewFile {
    path: PathBuf,
    file: File,
    renamed: bool,
}

impl NewFile {
    fn create(target: &Path) -> Result<Self, PasswdError> {
        let mut path = target.as_os_str().to_owned();
        path.push(".tmp");
        let path = PathBuf::from(path);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            Ok(file) => Ok(Self { path, file, renamed: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(PasswdError::Locked(path)),
            Err(error) => Err(PasswdError::Write(path, error)),
        }
    }

    fn replace(mut self, target: &Path, text: &str, like: Option<&Like>) -> Result<(), PasswdError> {
        self.write(target, text, like).map_err(|error| PasswdError::Write(target.to_owned(), error))
    }

    fn write(&mut self, target: &Path, text: &str, like: Option<&Like>) -> io::Result<()> {
        if let Some(like) = like {
            let now = self.file.metadata()?;
            if (now.uid(), now.gid()) != (like.uid, like.gid) {
                fchown(&self.file, Some(like.uid), Some(like.gid))?;
            }
        }
        self.file.set_permissions(Permissions::from_mode(like.map_or(0o600, |like| like.mode)))?;
        self.file.write_all(text.as_bytes())?;
        self.file.sync_all()?;
        fs::rename(&self.path, target)?;
        self.renamed = true;
        let directory = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        File::open(directory)?.sync_all()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.renamed {
            // Nothing better can be done about a failure: the next attempt names the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    // openssl passwd -5 -salt saltsalt secret5
    const SHA5: &str = "$5$saltsalt$708Qd1GA5FblAgceNooXo6mCmXw7DIUSz5IHtzs/2E6";

    struct Fixture {
        _dir: tempfile::TempDir,
        file: PathBuf,
    }

    impl Fixture {
        fn new(text: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join("users");
            if !text.is_empty() {
                fs::write(&file, text).unwrap();
                fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
            }
            Self { _dir: dir, file }
        }

        fn text(&self) -> String {
            fs::read_to_string(&self.file).unwrap()
        }

        fn mode(&self) -> u32 {
            fs::metadata(&self.file).unwrap().mode() & 0o777
        }

        fn tmp(&self) -> PathBuf {
            self.file.with_extension("tmp")
        }
    }

    fn matches(line: &str, password: &str) -> bool {
        StoredHash::parse(Line::parse(line).unwrap().unwrap().hash).unwrap().matches(password)
    }

    #[test]
    fn a_first_user_makes_a_file_that_only_its_owner_can_read() {
        let fixture = Fixture::new("");
        set_password(&fixture.file, "alice", None, "geheim").unwrap();
        let text = fixture.text();
        assert!(text.starts_with("alice:*:$argon2id$v=19$"), "{text}");
        assert!(text.ends_with('\n'));
        assert!(matches(text.trim_end(), "geheim"));
        assert_eq!(fixture.mode(), 0o600);
        assert!(!fixture.tmp().exists());
    }

    #[test]
    fn a_new_password_leaves_the_other_lines_and_the_users_groups_alone() {
        let fixture =
            Fixture::new(&format!("# ours\nbob:aa,bb:{SHA5}\n\nAlice:staff,vpn:!{SHA5}\ncarol:*:plain"));
        set_password(&fixture.file, "alice", None, "geheim").unwrap();
        let text = fixture.text();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[..3], ["# ours", &format!("bob:aa,bb:{SHA5}"), ""]);
        assert!(lines[3].starts_with("Alice:staff,vpn:$argon2id$"), "{}", lines[3]);
        assert_eq!(lines[4..], ["carol:*:plain"]);
        assert!(text.ends_with('\n'));
        set_password(&fixture.file, "alice", Some(&["ops".to_owned(), "eu".to_owned()]), "geheim").unwrap();
        assert!(fixture.text().contains("\nAlice:ops,eu:$argon2id$"));
        set_password(&fixture.file, "alice", Some(&[]), "geheim").unwrap();
        assert!(fixture.text().contains("\nAlice:*:$argon2id$"));
    }

    /// Covers: R32, R34
    #[test]
    fn every_line_of_a_user_is_locked_and_deleted_and_one_is_left_by_a_new_password() {
        let twice = format!("alice:*:{SHA5}\nbob:*:{SHA5}\nALICE:aa:{SHA5}\n");
        let fixture = Fixture::new(&twice);
        edit(&fixture.file, "alice", &Edit::Lock).unwrap();
        assert_eq!(fixture.text(), format!("alice:*:!{SHA5}\nbob:*:{SHA5}\nALICE:aa:!{SHA5}\n"));
        edit(&fixture.file, "alice", &Edit::Lock).unwrap();
        assert_eq!(fixture.text().matches('!').count(), 2, "locked twice is locked");
        edit(&fixture.file, "Alice", &Edit::Unlock).unwrap();
        assert_eq!(fixture.text(), twice);
        set_password(&fixture.file, "alice", None, "geheim").unwrap();
        assert_eq!(fixture.text().lines().count(), 2);
        edit(&fixture.file, "alice", &Edit::Delete).unwrap();
        assert_eq!(fixture.text(), format!("bob:*:{SHA5}\n"));
        for change in [Edit::Lock, Edit::Unlock, Edit::Delete] {
            let error = edit(&fixture.file, "alice", &change).unwrap_err();
            assert!(matches!(error, PasswdError::NoSuchUser(_)));
        }
        assert_eq!(fixture.text(), format!("bob:*:{SHA5}\n"));
        assert!(!fixture.tmp().exists());
    }

    #[test]
    fn a_file_that_another_program_changes_is_left_alone() {
        let fixture = Fixture::new(&format!("bob:*:{SHA5}\n"));
        fs::write(fixture.tmp(), "").unwrap();
        let error = set_password(&fixture.file, "alice", None, "geheim").unwrap_err();
        assert!(matches!(error, PasswdError::Locked(_)), "{error}");
        assert!(fixture.tmp().exists(), "the other's lock is the other's");
        assert_eq!(fixture.text(), format!("bob:*:{SHA5}\n"));
    }

    /// Covers: P-137, R86
    #[test]
    fn rights_of_others_are_taken_away_and_the_groups_right_to_read_stays() {
        let fixture = Fixture::new(&format!("bob:*:{SHA5}\n"));
        for (before, after) in
            [(0o644, 0o640), (0o666, 0o640), (0o640, 0o640), (0o400, 0o600), (0o600, 0o600)]
        {
            fs::set_permissions(&fixture.file, Permissions::from_mode(before)).unwrap();
            edit(&fixture.file, "bob", &Edit::Lock).unwrap();
            assert_eq!(fixture.mode(), after, "{before:o}");
        }
    }

    #[test]
    fn the_file_keeps_its_owner() {
        let fixture = Fixture::new(&format!("bob:*:{SHA5}\n"));
        // Only root can give a file away; for anybody else there is nothing to test.
        if std::os::unix::fs::chown(&fixture.file, Some(12_345), Some(54_321)).is_ok() {
            edit(&fixture.file, "bob", &Edit::Lock).unwrap();
            let now = fs::metadata(&fixture.file).unwrap();
            assert_eq!((now.uid(), now.gid()), (12_345, 54_321));
        }
    }

    #[test]
    fn what_cannot_be_a_line_is_refused_before_anything_is_written() {
        let fixture = Fixture::new("");
        for user in ["", "a:b", "a\nb", "#alice", " alice", "alice ", "a\0b", &"u".repeat(256)] {
            let error = set_password(&fixture.file, user, None, "geheim").unwrap_err();
            assert!(matches!(error, PasswdError::User(_)), "{user:?}");
        }
        for group in ["", "x", "*", "a:b", "a,b", "a\nb", " aa"] {
            let error =
                set_password(&fixture.file, "alice", Some(&[group.to_owned()]), "geheim").unwrap_err();
            assert!(matches!(error, PasswdError::Group(_)), "{group:?}");
        }
        let many: Vec<_> = (0..=MAX_GROUPS).map(|i| format!("g{i}")).collect();
        let error = set_password(&fixture.file, "alice", Some(&many), "geheim").unwrap_err();
        assert!(matches!(error, PasswdError::TooManyGroups));
        for password in ["", "a\nb", "a\0b", &"p".repeat(MAX_PASSWORD_BYTES + 1)] {
            let error = set_password(&fixture.file, "alice", None, password).unwrap_err();
            assert!(matches!(error, PasswdError::Password { .. }), "{password:?}");
        }
        assert!(!fixture.file.exists());
        assert!(!fixture.tmp().exists());
    }

    #[test]
    fn a_broken_file_and_a_link_are_left_as_they_are() {
        let fixture = Fixture::new("bob\n");
        let error = set_password(&fixture.file, "alice", None, "geheim").unwrap_err();
        assert!(error.to_string().ends_with("users:1: want user:groups:hash"), "{error}");
        assert_eq!(fixture.text(), "bob\n");
        let link = fixture.file.with_file_name("link");
        symlink(&fixture.file, &link).unwrap();
        let error = set_password(&link, "alice", None, "geheim").unwrap_err();
        assert!(matches!(error, PasswdError::File(_, SecretFileError::SymbolicLink)));
        assert!(!fixture.tmp().exists());
    }
}
