//! Secrets come from files or a terminal, never from a command line, where every user of the machine sees them.
//!
//! # Source
//! R70.

use std::io::Read;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

/// The longest secret; a token of an issuer with many claims has 8 KiB.
pub const MAX_SECRET_BYTES: usize = 64 * 1024;

/// Why a secret cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file system.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// Too long, or not text.
    #[error("{path}: holds no secret: {why}", path = path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
}

/// Reads the first line of a file; `-` is standard input.
///
/// # Errors
/// [`SecretError`], without the secret.
pub fn read_secret(path: &Path) -> Result<Zeroizing<String>, SecretError> {
    let failed = |source| SecretError::Io { path: path.to_owned(), source };
    let content = |why| SecretError::Content { path: path.to_owned(), why };
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_SECRET_BYTES + 1));
    let limit = MAX_SECRET_BYTES as u64 + 1;
    if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        std::fs::File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() > MAX_SECRET_BYTES {
        return Err(content("it is longer than 64 KiB"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| content("it is not UTF-8"))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(content("its first line is empty"));
    }
    if line.chars().any(char::is_control) {
        return Err(content("its first line holds control characters"));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_is_the_secret_and_errors_do_not_show_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secret");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_secret(&path)
        };
        assert_eq!(read(b"geheim\r\nmore").unwrap().as_str(), "geheim");
        assert_eq!(read(b" with spaces ").unwrap().as_str(), " with spaces ");
        for bad in [&b""[..], b"\nsecond", b"gehe\x07im", b"\xff\xfe", &[b'x'; MAX_SECRET_BYTES + 1]] {
            let error = read(bad).unwrap_err().to_string();
            assert!(!error.contains("gehe") && error.contains("secret: holds no secret"), "{error}");
        }
    }
}
