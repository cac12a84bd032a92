//! A session cookie kept for the next start: readable by its owner only, written whole or not at all.
//!
//! The file holds one line, `HOST COOKIE`: a cookie is never sent to another server than the one that gave it.
//!
//! # Source
//! R70; R61 (no cookie to another origin).

use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::secret::{SecretError, read_secret};
use crate::server_url::ServerUrl;

/// Where a cookie is kept.
#[derive(Clone, Debug)]
pub struct CookieFile(PathBuf);

/// Why a cookie file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CookieFileError {
    /// Reading it.
    #[error(transparent)]
    Read(#[from] SecretError),
    /// Writing it.
    #[error("{path}: {source}", path = path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// Others may read it.
    #[error("{path}: mode {mode:o} lets others read the cookie; want 600", path = path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

impl CookieFile {
    /// A cookie file at `path`, which need not exist.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The cookie for `server`, if there is one.
    ///
    /// # Errors
    /// A file that is there and cannot be used.
    pub fn load(&self, server: &ServerUrl) -> Result<Option<Zeroizing<String>>, CookieFileError> {
        match std::fs::metadata(&self.0) {
            Ok(metadata) if metadata.mode() & 0o077 != 0 => {
                return Err(CookieFileError::Open { path: self.0.clone(), mode: metadata.mode() & 0o777 });
            }
            Ok(metadata) if metadata.len() == 0 => return Ok(None),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(self.failed(source)),
        }
        let line = read_secret(&self.0)?;
        let cookie = line.split_once(' ').filter(|(host, _)| *host == server.host_field());
        Ok(cookie.map(|(_, cookie)| Zeroizing::new(cookie.to_owned())))
    }

    /// Keeps `cookie` of `server`.
    ///
    /// # Errors
    /// The file system's; an older file is then as it was.
    pub fn store(&self, server: &ServerUrl, cookie: &str) -> Result<(), CookieFileError> {
        let line = Zeroizing::new(format!("{} {cookie}\n", server.host_field()));
        self.replace(&line).map_err(|source| self.failed(source))
    }

    /// Removes the file: the session is over.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self) -> Result<(), CookieFileError> {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.failed(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn replace(&self, line: &str) -> io::Result<()> {
        let mut name = self.0.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let new = self.0.with_file_name(name);
        // A left-over of a killed run has our process id only by accident; it is ours to replace.
        let _ = std::fs::remove_file(&new);
        let written = std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)
            .and_then(|mut file| file.write_all(line.as_bytes()).and_then(|()| file.sync_all()));
        let done = written.and_then(|()| std::fs::rename(&new, &self.0));
        if done.is_err() {
            let _ = std::fs::remove_file(&new);
        }
        done
    }

    fn failed(&self, source: io::Error) -> CookieFileError {
        CookieFileError::Write { path: self.0.clone(), source }
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Covers: R61, R70
    #[test]
    fn a_cookie_goes_back_to_its_server_only_and_is_nobody_elses_to_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = CookieFile::new(directory.path().join("cookie"));
        let url = |text: &str| text.parse::<ServerUrl>().unwrap();
        assert_eq!(file.load(&url("vpn.example")).unwrap(), None);
        file.store(&url("vpn.example"), "AAAA=").unwrap();
        assert_eq!(std::fs::metadata(file.path()).unwrap().mode() & 0o777, 0o600);
        assert_eq!(file.load(&url("vpn.example")).unwrap().as_deref().map(String::as_str), Some("AAAA="));
        assert_eq!(file.load(&url("evil.example")).unwrap(), None);
        assert_eq!(file.load(&url("vpn.example:444")).unwrap(), None);
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(file.load(&url("vpn.example")), Err(CookieFileError::Open { mode: 0o644, .. })));
        file.remove().unwrap();
        file.remove().unwrap();
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left");
    }
}
