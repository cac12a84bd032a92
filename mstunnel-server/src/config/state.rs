//! `[state]`: where sessions and leases outlive the process.

use std::path::PathBuf;

use super::document::{Report, Section};
use super::paths::Base;
use super::unavailable;

/// The kind of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateStore {
    /// Nothing outlives the process.
    Memory,
    /// Files in a directory of this host.
    File,
    /// Shared by the servers of a site.
    Etcd,
}

const STORES: [(&str, StateStore); 3] =
    [("memory", StateStore::Memory), ("file", StateStore::File), ("etcd", StateStore::Etcd)];

/// The checked `[state]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateSettings {
    /// The kind of store.
    pub store: StateStore,
    /// The directory of the `file` store; made at start if it is not there.
    pub directory: PathBuf,
}

/// Where systemd's `StateDirectory=mstunnel` is.
const DEFAULT_DIRECTORY: &str = "/var/lib/mstunnel";

impl Default for StateSettings {
    fn default() -> Self {
        Self { store: StateStore::Memory, directory: DEFAULT_DIRECTORY.into() }
    }
}

pub(super) fn read(section: Option<Section<'_>>, base: Base<'_>, report: &mut Report) -> StateSettings {
    let mut settings = StateSettings::default();
    let Some(mut section) = section else { return settings };
    if let Some(item) = section.take("store") {
        unavailable::check(&item, "state.store", report);
        settings.store = item.choice(&STORES, report).unwrap_or(settings.store);
    }
    if let Some(item) = section.take("directory")
        && let Some(directory) = base.path(&item, "a directory", report)
    {
        if directory.exists() && !directory.is_dir() {
            report.refuse_with(&item, &format!("{}: not a directory", item.shown()), "a directory");
        }
        settings.directory = directory;
    }
    section.finish(report);
    settings
}
