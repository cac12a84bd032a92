//! Who answers names: systemd-resolved where it does, else `/etc/resolv.conf`.
//!
//! systemd-resolved is told per interface, and forgets when the interface goes. `/etc/resolv.conf` is exchanged for
//! one of ours in one step, and the former one, be it a file or a link, kept beside it. Where it is a mount of its
//! own (containers) it cannot be exchanged; then its text is kept in the state directory and rewritten in place.
//!
//! `/etc/resolv.conf` knows no split DNS: with it the tunnel's name servers are asked for every name.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::state::State;
use crate::device::{MARKER, Plan, resolv_conf};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The file that systemd-resolved serves.
const STUB: &str = "/run/systemd/resolve/stub-resolv.conf";

/// How much of a program's complaint is kept.
const MAX_REASON_CHARS: usize = 300;

/// Why names cannot be asked through the tunnel.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    /// A file.
    #[error("cannot {what} {}: {source}", path.display())]
    File {
        /// What was attempted.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// systemd-resolved says no.
    #[error("resolvectl {arguments}: {reason}")]
    Resolved {
        /// What it was asked.
        arguments: String,
        /// Its own words, on one line and cut.
        reason: String,
    },
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ResolverError {
    let path = path.to_owned();
    move |source| ResolverError::File { what, path, source }
}

/// How names are asked through the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolverKind {
    /// By systemd-resolved, for the device.
    Resolved,
    /// By `/etc/resolv.conf`.
    File,
}

impl ResolverKind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Resolved => "resolved",
            Self::File => "file",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        [Self::Resolved, Self::File].into_iter().find(|kind| kind.name() == name)
    }
}

/// The one that this host has.
#[derive(Debug)]
pub(super) enum Resolver {
    Resolved { interface: String },
    File(Files),
}

impl Resolver {
    /// Finds out which it is.
    pub(super) fn find(interface: &str, directory: &Path) -> Self {
        let serves = fs::read_to_string(RESOLV_CONF).is_ok_and(|text| text.contains("nameserver 127.0.0.53"));
        let has_tool = || resolvectl(&["--version"]).is_ok();
        if serves && Path::new(STUB).exists() && has_tool() {
            return Self::Resolved { interface: interface.to_owned() };
        }
        Self::File(Files::of_this_host(directory))
    }

    /// The one that `state` speaks of.
    pub(super) fn of(state: &State) -> Option<Self> {
        Some(match state.resolver? {
            ResolverKind::Resolved => Self::Resolved { interface: state.interface.clone() },
            ResolverKind::File => Self::File(Files::of_this_host(&state.directory)),
        })
    }

    pub(super) fn kind(&self) -> ResolverKind {
        match self {
            Self::Resolved { .. } => ResolverKind::Resolved,
            Self::File(_) => ResolverKind::File,
        }
    }

    /// Names are asked as `plan` says.
    pub(super) fn apply(&mut self, plan: &Plan) -> Result<(), ResolverError> {
        match self {
            Self::Resolved { interface } => {
                for arguments in resolvectl_arguments(interface, plan) {
                    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                    resolvectl(&arguments)?;
                }
                Ok(())
            }
            Self::File(files) => files.take_over(&resolv_conf(plan)),
        }
    }

    /// Names are asked as before. The device, and with it what systemd-resolved knows of it, may be gone already.
    pub(super) fn undo(&self) -> Result<(), ResolverError> {
        match self {
            Self::Resolved { interface } => {
                if let Err(error) = resolvectl(&["revert", interface]) {
                    tracing::debug!(%error, "nothing to revert");
                }
                Ok(())
            }
            Self::File(files) => files.put_back(),
        }
    }
}

/// Names are asked as before a restart of the machine, which took the state with it; says whether there was a file of
/// ours and a former one.
pub(super) fn undo_forgotten(directory: &Path) -> Result<bool, ResolverError> {
    Files::of_this_host(directory).put_back_forgotten()
}

/// What systemd-resolved is told: servers; domains to search, and `~` those to route; whether it asks by default.
fn resolvectl_arguments(interface: &str, plan: &Plan) -> Vec<Vec<String>> {
    let command = |name: &str, values: Vec<String>| {
        [name.to_owned(), interface.to_owned()].into_iter().chain(values).collect::<Vec<_>>()
    };
    let is_split = !plan.split_dns.is_empty();
    let routed: Vec<String> = match is_split {
        true => plan.split_dns.iter().map(|domain| format!("~{domain}")).collect(),
        false => vec!["~.".to_owned()],
    };
    let domains = plan.search.iter().cloned().chain(routed).collect();
    vec![
        command("dns", plan.dns.iter().map(ToString::to_string).collect()),
        command("domain", domains),
        command("default-route", vec![if is_split { "no" } else { "yes" }.to_owned()]),
    ]
}

fn resolvectl(arguments: &[&str]) -> Result<(), ResolverError> {
    let refused = |reason: &str| {
        let words = reason.split_whitespace().collect::<Vec<_>>().join(" ");
        ResolverError::Resolved {
            arguments: arguments.join(" "),
            reason: words.chars().take(MAX_REASON_CHARS).collect(),
        }
    };
    let output = Command::new("resolvectl").args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| refused(&error.to_string()))?;
    if output.status.success() { Ok(()) } else { Err(refused(&String::from_utf8_lossy(&output.stderr))) }
}

/// `resolv.conf` and the places of the former one.
#[derive(Debug)]
pub(super) struct Files {
    conf: PathBuf,
    /// The former file or link itself: on the same file system, and it survives a restart of the machine.
    kept: PathBuf,
    /// A copy of its text, where it is a mount.
    copy: PathBuf,
    /// The same for as long as we live.
    former: Option<Vec<u8>>,
}

impl Files {
    fn of_this_host(directory: &Path) -> Self {
        Self::at(Path::new(RESOLV_CONF), directory)
    }

    fn at(conf: &Path, directory: &Path) -> Self {
        let kept = conf.with_added_extension("before-mstunnel");
        Self { conf: conf.to_owned(), kept, copy: directory.join("resolv.conf.before"), former: None }
    }

    /// Whether ours is there, whole or what a full disk or a kill has left of it.
    fn is_ours(&self) -> bool {
        let Ok(text) = fs::read(&self.conf) else { return false };
        is_marked(&text) || (MARKER.as_bytes().starts_with(&text) && self.has_former())
    }

    /// Whether a former one is kept, in either place, and not one of ours that never got its own.
    fn has_former(&self) -> bool {
        let is_kept_ours = || fs::read(&self.kept).is_ok_and(|text| is_marked(&text));
        (self.has_kept() && !is_kept_ours()) || self.former.is_some() || self.copy.exists()
    }

    fn take_over(&mut self, text: &str) -> Result<(), ResolverError> {
        if self.is_ours() {
            return self.rewrite(text.as_bytes());
        }
        if self.is_mount() {
            let former = fs::read(&self.conf).map_err(file("read", &self.conf))?;
            write(&self.copy, &former).map_err(file("write", &self.copy))?;
            self.former = Some(former);
            return self.rewrite(text.as_bytes());
        }
        write(&self.kept, text.as_bytes()).map_err(file("write", &self.kept))?;
        let exchanged = renameat_with(CWD, &self.kept, CWD, &self.conf, RenameFlags::EXCHANGE);
        exchanged.map_err(|error| {
            let _ = fs::remove_file(&self.kept);
            file("take over", &self.conf)(error.into())
        })
    }

    /// Exchanges the text, whole or not at all where the file is no mount.
    fn rewrite(&self, text: &[u8]) -> Result<(), ResolverError> {
        if self.is_mount() {
            return fs::write(&self.conf, text).map_err(file("write", &self.conf));
        }
        let new = self.conf.with_added_extension("mstunnel-new");
        write(&new, text).and_then(|()| fs::rename(&new, &self.conf)).map_err(|error| {
            let _ = fs::remove_file(&new);
            file("write", &self.conf)(error)
        })
    }

    fn put_back(&self) -> Result<(), ResolverError> {
        if self.is_ours() {
            if self.has_kept() {
                return fs::rename(&self.kept, &self.conf).map_err(file("put back", &self.conf));
            }
            if let Some(former) = self.former.clone().or_else(|| fs::read(&self.copy).ok()) {
                self.rewrite(&former)?;
            }
        } else if self.has_kept() {
            // Somebody has written another one meanwhile, which is newer than what we kept.
            fs::remove_file(&self.kept).map_err(file("remove", &self.kept))?;
        }
        match fs::remove_file(&self.copy) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("remove", &self.copy)(error)),
            _ => Ok(()),
        }
    }

    /// Puts the former one back if ours is there, whatever the state says; says whether it did.
    fn put_back_forgotten(&self) -> Result<bool, ResolverError> {
        let is_forgotten = self.is_ours() && self.has_kept();
        if is_forgotten {
            self.put_back()?;
        }
        Ok(is_forgotten)
    }

    /// Whether the former file or link itself is there to be put back.
    fn has_kept(&self) -> bool {
        fs::symlink_metadata(&self.kept).is_ok() && !self.is_mount()
    }

    /// Whether something is mounted on the file.
    fn is_mount(&self) -> bool {
        let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return false };
        let Ok(path) = fs::canonicalize(&self.conf) else { return false };
        mounts.lines().any(|line| line.split(' ').nth(4).is_some_and(|at| Path::new(at) == path))
    }
}

fn is_marked(text: &[u8]) -> bool {
    text.starts_with(MARKER.as_bytes())
}

/// Writes a new file that everybody may read, like the one that it stands for, down to the disk. What is there, be it
/// a link, goes, and nothing is written through it.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = File::options().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(split_dns: &[&str]) -> Plan {
        Plan {
            mtu: 1400,
            addresses: vec!["10.77.0.5".parse().unwrap()],
            routes: Vec::new(),
            is_full: false,
            dns: vec!["10.20.0.53".parse().unwrap(), "fd00:20::53".parse().unwrap()],
            search: vec!["corp.example".to_owned()],
            split_dns: split_dns.iter().map(|&domain| domain.to_owned()).collect(),
            notes: Vec::new(),
        }
    }

    fn files(directory: &Path) -> Files {
        Files::at(&directory.join("resolv.conf"), directory)
    }

    /// Covers: R67
    #[test]
    fn resolved_routes_all_names_or_the_split_ones() {
        let text = |plan: &Plan| {
            resolvectl_arguments("mst0", plan).iter().map(|line| line.join(" ")).collect::<Vec<_>>()
        };
        let all =
            ["dns mst0 10.20.0.53 fd00:20::53", "domain mst0 corp.example ~.", "default-route mst0 yes"];
        assert_eq!(text(&plan(&[])), all);
        let split = text(&plan(&["corp.example", "lab.example"]));
        assert_eq!(
            split[1..],
            ["domain mst0 corp.example ~corp.example ~lab.example", "default-route mst0 no"]
        );
    }

    /// Covers: R67, R68
    #[test]
    fn the_former_file_or_link_comes_back_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = files(directory.path());
        let text = resolv_conf(&plan(&[]));
        fs::write(&files.conf, "nameserver 192.0.2.1\n").unwrap();
        files.take_over(&text).unwrap();
        assert_eq!(fs::read_to_string(&files.conf).unwrap(), text);
        assert!(text.ends_with("search corp.example\nnameserver 10.20.0.53\nnameserver fd00:20::53\n"));
        files.take_over(&format!("{text}# changed\n")).unwrap();
        files.put_back().unwrap();
        files.put_back().unwrap();
        assert_eq!(fs::read_to_string(&files.conf).unwrap(), "nameserver 192.0.2.1\n");
        assert!(!files.kept.exists());

        fs::rename(&files.conf, directory.path().join("target")).unwrap();
        std::os::unix::fs::symlink("target", &files.conf).unwrap();
        files.take_over(&text).unwrap();
        assert!(!fs::symlink_metadata(&files.conf).unwrap().is_symlink());
        files.put_back().unwrap();
        assert_eq!(fs::read_link(&files.conf).unwrap(), Path::new("target"));
        assert_eq!(fs::read_to_string(&files.conf).unwrap(), "nameserver 192.0.2.1\n");
    }

    /// Covers: R68
    #[test]
    fn a_restart_of_the_machine_leaves_the_former_one_to_be_put_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = files(directory.path());
        fs::write(&files.conf, "nameserver 192.0.2.1\n").unwrap();
        assert!(!files.put_back_forgotten().unwrap());
        files.take_over(&resolv_conf(&plan(&[]))).unwrap();
        // The state directory is empty now, and that is all.
        assert!(files.put_back_forgotten().unwrap());
        assert_eq!(fs::read_to_string(&files.conf).unwrap(), "nameserver 192.0.2.1\n");
        assert!(!files.kept.exists());
        assert!(!files.put_back_forgotten().unwrap());
        // Nor does a former one hurt that somebody else's has replaced.
        files.take_over(&resolv_conf(&plan(&[]))).unwrap();
        fs::write(&files.conf, "nameserver 192.0.2.2\n").unwrap();
        assert!(!files.put_back_forgotten().unwrap());
        assert_eq!(fs::read_to_string(&files.conf).unwrap(), "nameserver 192.0.2.2\n");
    }

    #[test]
    fn ours_changes_in_one_step() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = files(directory.path());
        let text = resolv_conf(&plan(&[]));
        fs::write(&files.conf, "nameserver 192.0.2.1\n").unwrap();
        files.take_over(&text).unwrap();
        let before = File::open(&files.conf).unwrap();
        files.take_over(&format!("{text}# changed\n")).unwrap();
        assert_eq!(io::read_to_string(before).unwrap(), text);
        assert_eq!(fs::read_to_string(&files.conf).unwrap(), format!("{text}# changed\n"));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    /// Covers: R68
    #[test]
    fn the_former_one_comes_back_where_ours_is_cut() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = files(directory.path());
        let former = "nameserver 192.0.2.1\n";
        fs::write(&files.conf, former).unwrap();
        for cut in ["", &MARKER[..1], &MARKER[..MARKER.len() - 1], MARKER] {
            files.take_over(&resolv_conf(&plan(&[]))).unwrap();
            fs::write(&files.conf, cut).unwrap();
            files.put_back().unwrap();
            assert_eq!(fs::read_to_string(&files.conf).unwrap(), former, "{cut:?}");
        }
    }

    #[test]
    fn an_empty_former_one_is_kept_like_another() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = files(directory.path());
        fs::write(&files.conf, "").unwrap();
        // What a take-over that was killed before its last step has left.
        fs::write(&files.kept, resolv_conf(&plan(&[]))).unwrap();
        files.put_back().unwrap();
        files.take_over(&resolv_conf(&plan(&[]))).unwrap();
        files.put_back().unwrap();
        assert_eq!(fs::read_to_string(&files.conf).unwrap(), "");
    }

    #[test]
    fn a_kept_link_that_is_outdated_is_not_written_through() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = files(directory.path());
        let target = directory.path().join("target");
        fs::write(&target, "nameserver 192.0.2.1\n").unwrap();
        std::os::unix::fs::symlink("target", &files.conf).unwrap();
        files.take_over(&resolv_conf(&plan(&[]))).unwrap();
        // Somebody writes another one meanwhile.
        let other = directory.path().join("other");
        fs::write(&other, "nameserver 192.0.2.2\n").unwrap();
        fs::rename(other, &files.conf).unwrap();
        files.take_over(&resolv_conf(&plan(&[]))).unwrap();
        assert!(files.is_ours());
        assert_eq!(fs::read_to_string(&target).unwrap(), "nameserver 192.0.2.1\n");
        files.put_back().unwrap();
        assert_eq!(fs::read_to_string(&files.conf).unwrap(), "nameserver 192.0.2.2\n");
    }

    #[test]
    fn a_file_that_somebody_else_has_written_since_stays() {
        let directory = tempfile::tempdir().unwrap();
        let mut files = files(directory.path());
        fs::write(&files.conf, "nameserver 192.0.2.1\n").unwrap();
        files.take_over(&resolv_conf(&plan(&[]))).unwrap();
        fs::write(&files.conf, "nameserver 192.0.2.2\n").unwrap();
        files.put_back().unwrap();
        assert_eq!(fs::read_to_string(&files.conf).unwrap(), "nameserver 192.0.2.2\n");
        assert!(!files.kept.exists());
    }
}
