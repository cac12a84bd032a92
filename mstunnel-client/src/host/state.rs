//! What there is to undo, written down before it is done; and the lock that lets one client at a time do it.
//!
//! `connect.lock` is held for as long as the client lives, and by the kernel's word no longer. `connect.json` is
//! there from the first change to the last thing undone. Both lie in a directory that only we may write to: what a
//! privileged client undoes must not be for others to say.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::ResolverKind;

/// The longest state file; ours has a few hundred bytes.
const MAX_STATE: u64 = 64 << 10;

/// Why the state cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another client is running.
    #[error("another `mstunnel-client connect` is running (it holds {}): one host has one at a time", path.display())]
    Running {
        /// The lock.
        path: PathBuf,
    },
    /// The directory is somebody else's.
    #[error(
        "{} may be written to by others: what a client undoes must not be for others to say; choose another \
         --state-directory, or make it yours alone (chmod 700)",
        path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// A file.
    #[error("cannot keep {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A state file that is not ours.
    #[error("{} is not a state file of this program: look at it, and remove it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
    },
}

/// Where the state is unless somebody says otherwise: `/run/mstunnel` for root, else below `XDG_RUNTIME_DIR`.
pub fn default_directory() -> PathBuf {
    let is_root = rustix::process::geteuid().is_root();
    let users = std::env::var_os("XDG_RUNTIME_DIR").filter(|_| !is_root);
    users.map_or_else(|| PathBuf::from("/run/mstunnel"), |directory| Path::new(&directory).join("mstunnel"))
}

/// What there is to undo. The rule, the table and the packet rules have fixed names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) interface: String,
    pub(super) resolver: Option<ResolverKind>,
    /// What the setting was before; `None` when it is not ours to put back.
    pub(super) src_valid_mark: Option<String>,
    /// Where the former `resolv.conf` may be.
    pub(super) directory: PathBuf,
}

impl State {
    pub(super) fn new(interface: &str) -> Self {
        Self {
            interface: interface.to_owned(),
            resolver: None,
            src_valid_mark: None,
            directory: PathBuf::new(),
        }
    }

    fn write(&self) -> String {
        let value = json!({
            "interface": self.interface,
            "resolver": self.resolver.map(ResolverKind::name),
            "src_valid_mark": self.src_valid_mark.as_deref().map(str::trim),
        });
        format!("{value:#}\n")
    }

    fn read(text: &str, directory: &Path) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let interface = value.get("interface")?.as_str()?;
        crate::device::check_name(interface).ok()?;
        let optional = |key: &str| value.get(key).map(|found| (!found.is_null()).then_some(found));
        let resolver = match optional("resolver")? {
            None => None,
            Some(name) => Some(ResolverKind::of_name(name.as_str()?)?),
        };
        let src_valid_mark = match optional("src_valid_mark")? {
            None => None,
            Some(text) => Some(text.as_str().filter(|text| matches!(*text, "0" | "1"))?.to_owned()),
        };
        Some(Self {
            interface: interface.to_owned(),
            resolver,
            src_valid_mark,
            directory: directory.to_owned(),
        })
    }
}

/// The right to change this host's network, as long as it is held.
#[derive(Debug)]
pub(super) struct Lock {
    directory: PathBuf,
    _file: File,
}

impl Lock {
    /// Takes the lock, making the directory where it is missing.
    pub(super) fn take(directory: &Path) -> Result<Self, StateError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| StateError::File { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(at(directory))?;
        let found = fs::metadata(directory).map_err(at(directory))?;
        if found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o022 != 0 {
            return Err(StateError::Directory { path: directory.to_owned() });
        }
        let path = directory.join("connect.lock");
        let file = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(at(&path))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), _file: file }),
            Err(TryLockError::WouldBlock) => Err(StateError::Running { path }),
            Err(TryLockError::Error(source)) => Err(StateError::File { path, source }),
        }
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The state, if there is something to undo.
    pub(super) fn load(&self) -> Result<Option<State>, StateError> {
        let path = self.path();
        let text = match fs::metadata(&path) {
            Ok(found) if found.len() <= MAX_STATE => fs::read_to_string(&path),
            Ok(_) => return Err(StateError::Unreadable { path }),
            Err(error) => Err(error),
        };
        match text {
            Ok(text) => match State::read(&text, &self.directory) {
                Some(state) => Ok(Some(state)),
                None => Err(StateError::Unreadable { path }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::File { path, source }),
        }
    }

    /// Writes the state, whole or not at all.
    pub(super) fn store(&mut self, state: &State) -> Result<(), StateError> {
        let path = self.path();
        let new = path.with_extension("json.new");
        let write = || {
            let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(state.write().as_bytes())?;
            fs::rename(&new, &path)
        };
        write().map_err(|source| StateError::File { path: path.clone(), source })
    }

    /// Everything is undone.
    pub(super) fn clear(&mut self) -> Result<(), StateError> {
        let path = self.path();
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(StateError::File { path, source }),
            _ => Ok(()),
        }
    }

    fn path(&self) -> PathBuf {
        self.directory.join("connect.json")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_state_is_kept_until_it_is_cleared_and_one_client_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut lock = Lock::take(&directory.path().join("new")).unwrap();
        assert!(matches!(Lock::take(lock.directory()), Err(StateError::Running { .. })));
        assert_eq!(lock.load().unwrap(), None);
        let mut state = State::new("mst0");
        state.directory = lock.directory().to_owned();
        state.resolver = Some(ResolverKind::File);
        state.src_valid_mark = Some("0".to_owned());
        lock.store(&state).unwrap();
        let path = lock.directory().to_owned();
        drop(lock);
        let mut lock = Lock::take(&path).unwrap();
        assert_eq!(lock.load().unwrap(), Some(state));
        lock.clear().unwrap();
        lock.clear().unwrap();
        assert_eq!(lock.load().unwrap(), None);
    }

    #[test]
    fn a_directory_that_others_write_to_is_not_believed() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(Lock::take(directory.path()), Err(StateError::Directory { .. })));
    }

    #[test]
    fn what_is_not_a_state_is_not_undone() {
        let directory = tempfile::tempdir().unwrap();
        let lock = Lock::take(directory.path()).unwrap();
        for text in [
            "",
            "{}",
            "{\"interface\": \"../..\", \"resolver\": null, \"src_valid_mark\": null}",
            "{\"interface\": \"mst0\", \"resolver\": \"shell\", \"src_valid_mark\": null}",
            "{\"interface\": \"mst0\", \"resolver\": null, \"src_valid_mark\": \"2\\n3\"}",
        ] {
            fs::write(lock.path(), text).unwrap();
            assert!(matches!(lock.load(), Err(StateError::Unreadable { .. })), "{text}");
        }
    }
}
