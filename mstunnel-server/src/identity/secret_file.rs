//! Reading files that decide who gets in: only if nobody else can read or change them.
//!
//! A file is taken when it is a regular file, not a symbolic link, belongs to root or to the user
//! that runs us, gives nothing to others and no writing to its group, and keeps its size bound
//! (threats.md R86, P-137). The checks are made on the opened file, not on its name.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use zeroize::Zeroizing;

/// Mode bits that make a file unfit: any right of others, and writing by the group.
const FORBIDDEN_MODE: u32 = 0o027;

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    /// The operating system refused.
    #[error("cannot read: {0}")]
    Io(#[from] io::Error),
    /// It is a symbolic link.
    #[error("is a symbolic link; name the file itself")]
    SymbolicLink,
    /// It is a directory, a pipe or a device.
    #[error("is not a regular file")]
    NotRegular,
    /// Somebody else owns it.
    #[error("belongs to uid {owner}; want root or uid {want}")]
    Owner {
        /// Who owns it.
        owner: u32,
        /// Who we are.
        want: u32,
    },
    /// Others can read or change it.
    #[error("has mode {mode:04o}; want at most 0640 (chmod 600)")]
    Mode {
        /// Its mode.
        mode: u32,
    },
    /// It is larger than it can reasonably be.
    #[error("is longer than {limit} bytes")]
    TooLong {
        /// The bound.
        limit: usize,
    },
}

/// What tells one version of a file from the next without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Fingerprint {
    /// Looks at the file of this name; `None` if it cannot be looked at.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        std::fs::symlink_metadata(path).ok().as_ref().map(Self::from)
    }
}

impl From<&Metadata> for Fingerprint {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Reads the whole of a file that only we may read, of at most `limit` bytes.
///
/// # Errors
/// If it cannot be read, or others could have read or written it.
pub(crate) fn read(path: &Path, limit: usize) -> Result<(Zeroizing<Vec<u8>>, Fingerprint), SecretFileError> {
    let file = open(path)?;
    let metadata = file.metadata()?;
    check(&metadata)?;
    let bytes = read_bounded(file, limit)?;
    Ok((bytes, Fingerprint::from(&metadata)))
}

/// Reads at most `limit` bytes of anything; more is an error.
pub(crate) fn read_bounded(from: impl Read, limit: usize) -> Result<Zeroizing<Vec<u8>>, SecretFileError> {
    let mut bytes = Zeroizing::new(Vec::new());
    from.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(SecretFileError::TooLong { limit });
    }
    Ok(bytes)
}

fn open(path: &Path) -> Result<File, SecretFileError> {
    OpenOptions::new()
        .read(true)
        // A pipe put in the file's place must not hold us up.
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(path)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ELOOP) => SecretFileError::SymbolicLink,
            _ => SecretFileError::Io(error),
        })
}

fn check(metadata: &Metadata) -> Result<(), SecretFileError> {
    if !metadata.is_file() {
        return Err(SecretFileError::NotRegular);
    }
    let want = effective_uid()?;
    if metadata.uid() != 0 && metadata.uid() != want {
        return Err(SecretFileError::Owner { owner: metadata.uid(), want });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & FORBIDDEN_MODE != 0 {
        return Err(SecretFileError::Mode { mode });
    }
    Ok(())
}

/// The user that runs us, read where no system call of our own is needed.
fn effective_uid() -> io::Result<u32> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok())
        .ok_or_else(|| io::Error::other("/proc/self/status names no effective uid"))
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn file_with_mode(mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        std::fs::write(&path, "0123456789").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    /// Covers: P-137, R86
    #[test]
    fn a_file_that_others_can_read_or_change_is_refused() {
        for mode in [0o644, 0o604, 0o602, 0o601, 0o660, 0o620, 0o777] {
            let (_dir, path) = file_with_mode(mode);
            let error = read(&path, 100).unwrap_err();
            assert!(matches!(error, SecretFileError::Mode { mode: found } if found == mode), "{mode:o}");
        }
        for mode in [0o600, 0o400, 0o640, 0o440] {
            let (_dir, path) = file_with_mode(mode);
            assert_eq!(read(&path, 100).unwrap().0.as_slice(), b"0123456789", "{mode:o}");
        }
    }

    /// Covers: P-137, R86
    #[test]
    fn a_link_a_directory_and_a_pipe_are_refused() {
        let (dir, path) = file_with_mode(0o600);
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(read(&link, 100), Err(SecretFileError::SymbolicLink)));
        assert!(matches!(read(dir.path(), 100), Err(SecretFileError::NotRegular)));
        assert!(matches!(read(Path::new("/dev/null"), 100), Err(SecretFileError::NotRegular)));
        assert!(matches!(read(&dir.path().join("none"), 100), Err(SecretFileError::Io(_))));
    }

    /// Covers: P-137, R86
    #[test]
    fn a_file_of_a_third_user_is_refused() {
        let (_dir, path) = file_with_mode(0o600);
        // Only root can give a file away; for anybody else there is nothing to test.
        if std::os::unix::fs::chown(&path, Some(12_345), None).is_ok() {
            assert!(matches!(read(&path, 100), Err(SecretFileError::Owner { owner: 12_345, .. })));
        }
    }

    #[test]
    fn a_file_longer_than_its_bound_is_refused() {
        let (_dir, path) = file_with_mode(0o600);
        assert!(read(&path, 10).is_ok());
        assert!(matches!(read(&path, 9), Err(SecretFileError::TooLong { limit: 9 })));
    }

    #[test]
    fn every_change_of_a_file_changes_its_fingerprint() {
        let (dir, path) = file_with_mode(0o600);
        let before = Fingerprint::of(&path).unwrap();
        assert_eq!(Fingerprint::of(&path), Some(before));
        assert_eq!(read(&path, 100).unwrap().1, before);
        let other = dir.path().join("other");
        std::fs::write(&other, "9876543210").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_ne!(Fingerprint::of(&path), Some(before));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(Fingerprint::of(&path), None);
    }
}
