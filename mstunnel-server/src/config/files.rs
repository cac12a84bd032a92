//! Reading of files that are named in a configuration, with a bound on their size, and for files
//! that hold a secret with a look at who else can read them (R86).

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use zeroize::Zeroizing;

/// Bits of the mode that let users beside owner and group in. A group may read: packaging gives
/// secrets to a group of their own.
const OTHERS: u32 = 0o007;

/// Secret files are keys, PFX bundles and password lists; a list of 64,000 users with long hashes
/// has 13 MB.
pub(crate) const MAX_SECRET_LEN: u64 = 64 << 20;

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The operating system refused.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A directory, a device or a pipe.
    #[error("not a regular file")]
    NotAFile,
    /// Larger than anything that belongs here.
    #[error("{len} bytes, limit {limit}")]
    TooLong {
        /// The length found.
        len: u64,
        /// The length allowed.
        limit: u64,
    },
    /// Text was expected.
    #[error("not UTF-8 text")]
    NotText,
    /// Everybody on the host may read or write the secret.
    #[error("mode {mode:04o} lets every user in; take it from them: chmod o= FILE")]
    OpenToOthers {
        /// The permission bits.
        mode: u32,
    },
    /// The secret belongs to somebody else, who could change it.
    #[error("owned by user {owner}, not by root or the user that runs the server")]
    ForeignOwner {
        /// The owner's number.
        owner: u32,
    },
}

impl FileError {
    /// What should have been there.
    pub(crate) fn want(&self) -> &'static str {
        match self {
            Self::Io(_) | Self::NotAFile => "a readable file",
            Self::TooLong { .. } | Self::NotText => "a file of the right kind",
            Self::OpenToOthers { .. } | Self::ForeignOwner { .. } => {
                "a secret file that only its owner can read"
            }
        }
    }
}

/// Reads a text file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String, FileError> {
    let bytes = read_opened(open(path)?, limit)?;
    String::from_utf8(bytes).map_err(|_| FileError::NotText)
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_bytes(path: &Path, limit: u64) -> Result<Vec<u8>, FileError> {
    read_opened(open(path)?, limit)
}

/// Reads a secret; the buffer is wiped when it is dropped.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    read_opened(open_secret(path)?, MAX_SECRET_LEN).map(Zeroizing::new)
}

/// Opens a secret file if nobody else can read it. Symbolic links are followed (product.md a.5 row
/// 39), and what counts is the file that was really opened.
pub(crate) fn open_secret(path: &Path) -> Result<File, FileError> {
    let file = open(path)?;
    let metadata = file.metadata()?;
    check_secret(metadata.mode(), metadata.uid(), effective_user())?;
    Ok(file)
}

fn check_secret(mode: u32, owner: u32, user: u32) -> Result<(), FileError> {
    if mode & OTHERS != 0 {
        return Err(FileError::OpenToOthers { mode: mode & 0o7777 });
    }
    if owner != 0 && owner != user {
        return Err(FileError::ForeignOwner { owner });
    }
    Ok(())
}

/// The effective user. `/proc/self/status` says it without `unsafe`; the owner of `/proc/self` would
/// be root once the process is not dumpable (R85). Without `/proc` only root's files are trusted.
fn effective_user() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    user_in(&status).unwrap_or(0)
}

/// The second number of the line `Uid: real effective saved filesystem`.
fn user_in(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn open(path: &Path) -> Result<File, FileError> {
    // Opening a pipe would wait for a writer, so its kind is looked at first.
    if !std::fs::metadata(path)?.is_file() {
        return Err(FileError::NotAFile);
    }
    Ok(File::open(path)?)
}

fn read_opened(file: File, limit: u64) -> Result<Vec<u8>, FileError> {
    let len = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(FileError::TooLong { len: len.max(limit + 1), limit });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn file_with_mode(mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        std::fs::write(&path, "12345").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (directory, path)
    }

    /// Covers: P-137, R86
    #[test]
    fn a_secret_that_others_can_touch_is_refused_and_a_group_may_read() {
        for mode in [0o644, 0o604, 0o602, 0o601, 0o777] {
            let (_directory, path) = file_with_mode(mode);
            let refused = read_secret(&path).unwrap_err();
            assert!(matches!(refused, FileError::OpenToOthers { mode: seen } if seen == mode), "{mode:o}");
        }
        for mode in [0o600, 0o640, 0o400, 0o660] {
            let (_directory, path) = file_with_mode(mode);
            assert_eq!(read_secret(&path).unwrap().as_slice(), b"12345", "{mode:o}");
        }
    }

    /// Covers: P-137, R86
    #[test]
    fn a_link_to_an_open_secret_is_refused_too() {
        let (directory, path) = file_with_mode(0o644);
        let link = directory.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(read_secret(&link), Err(FileError::OpenToOthers { .. })));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(read_secret(&link).is_ok());
    }

    /// Covers: P-137, R86
    #[test]
    fn a_secret_of_another_user_is_refused() {
        assert!(check_secret(0o600, 0, 1_000).is_ok());
        assert!(check_secret(0o600, 1_000, 1_000).is_ok());
        assert!(matches!(check_secret(0o600, 1_001, 1_000), Err(FileError::ForeignOwner { owner: 1_001 })));
    }

    #[test]
    fn the_effective_user_is_the_one_that_owns_new_files() {
        let (_directory, path) = file_with_mode(0o600);
        assert_eq!(effective_user(), std::fs::metadata(path).unwrap().uid());
        assert_eq!(user_in("Name:\tx\nUid:\t1000\t1001\t1002\t1003\nGid:\t7"), Some(1_001));
        assert_eq!(user_in(""), None);
    }

    #[test]
    fn only_regular_files_of_bounded_length_are_read() {
        let (directory, path) = file_with_mode(0o644);
        assert!(matches!(read_text(directory.path(), 9), Err(FileError::NotAFile)));
        assert!(matches!(read_text(&path, 4), Err(FileError::TooLong { len: 5, limit: 4 })));
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        assert!(matches!(read_text(&directory.path().join("none"), 9), Err(FileError::Io(_))));
        std::fs::write(&path, [0xff]).unwrap();
        assert!(matches!(read_text(&path, 5), Err(FileError::NotText)));
    }
}
