//! Paths in `gateway.toml` are relative to the directory of the file that names them.

use std::path::{Path, PathBuf};

use super::document::{Item, Report};

/// The directory that relative paths start from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Base<'p>(&'p Path);

impl<'p> Base<'p> {
    /// The base of the paths inside `file`.
    pub(super) fn of(file: &'p Path) -> Self {
        Self(file.parent().unwrap_or(Path::new("")))
    }

    /// The path at `item`.
    pub(super) fn path(self, item: &Item<'_>, want: &str, report: &mut Report) -> Option<PathBuf> {
        let text = item.text(want, report)?;
        if text.contains('\0') {
            report.refuse(item, want);
            return None;
        }
        Some(self.0.join(text))
    }
}
