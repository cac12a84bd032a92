//! The commands: each a file with its arguments and what it does.

pub(crate) mod get;
mod online;
pub(crate) mod ping;
pub(crate) mod proxy;
pub(crate) mod show;
mod target;
