//! The commands: each a file with its arguments and what it does.

pub(crate) mod connect;
pub(crate) mod get;
pub(crate) mod load;
mod online;
pub(crate) mod ping;
pub(crate) mod proxy;
pub(crate) mod restore;
pub(crate) mod run;
pub(crate) mod show;
mod target;

/// The name of the command by which `run` starts this program a second time.
pub(crate) const ENTER: &str = "enter-namespaces";
