//! The files that name resolution inside reads.
//!
//! They are made where every user may make files, laid over those in `/etc` of the command's namespace, and
//! unlinked as soon as that is done; the client keeps the one with the name servers open, to change it when a
//! reconnect brings others.

use std::fs::{self, File};
use std::io::{self, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::stack::random;

/// A file with a name that goes away with this value, or before.
#[derive(Debug)]
pub(super) struct Laid {
    path: PathBuf,
    file: File,
}

impl Laid {
    /// Makes a file that everybody may read, in the directory for temporary files.
    pub(super) fn new(text: &str) -> io::Result<Self> {
        let random = [random::u16(), random::u16(), random::u16(), random::u16()].map(|n| format!("{n:04x}"));
        let path = std::env::temp_dir().join(format!("mstunnel-{}", random.concat()));
        let mut file = File::options().write(true).create_new(true).mode(0o644).open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(Self { path, file })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the name away and keeps the file.
    pub(super) fn into_file(self) -> io::Result<File> {
        self.file.try_clone()
    }
}

impl Drop for Laid {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Changes the text of an open file.
pub(super) fn rewrite(file: &mut File, text: &str) -> io::Result<()> {
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

/// `nsswitch.conf` with `files` and `dns` as the only sources of host names: other modules ask the host's
/// resolvers over sockets of the file system, which no network namespace holds back.
pub(super) fn nsswitch_conf(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("hosts:")).collect();
    lines.push("hosts: files dns");
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: R67
    #[test]
    fn hosts_are_asked_of_files_and_dns_alone() {
        let before = "passwd: files systemd\n  hosts: files resolve [!UNAVAIL=return] dns\n# hosts\n";
        assert_eq!(nsswitch_conf(before), "passwd: files systemd\n# hosts\nhosts: files dns\n");
    }

    #[test]
    fn a_laid_file_loses_its_name_and_takes_another_text() {
        let laid = Laid::new("one, which is longer\n").unwrap();
        let path = laid.path().to_owned();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one, which is longer\n");
        let keep = path.with_extension("kept");
        fs::hard_link(&path, &keep).unwrap();
        let mut file = laid.into_file().unwrap();
        assert!(!path.exists());
        rewrite(&mut file, "two\n").unwrap();
        assert_eq!(fs::read_to_string(&keep).unwrap(), "two\n");
        fs::remove_file(keep).unwrap();
    }
}
