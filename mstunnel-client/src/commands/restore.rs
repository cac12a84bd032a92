//! `restore`: what a killed `connect` has left.

use std::io::{self, Write};
use std::process::ExitCode;

use mstunnel_client::host::restore;

use super::connect::StateArgs;
use super::online::block_on;

/// Put back what a killed or locked `connect` has left
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    state: StateArgs,
}

impl Args {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        let undone = block_on(restore(&self.state.directory()))??;
        for what in &undone {
            writeln!(io::stderr(), "put back: {what}")?;
        }
        if undone.is_empty() {
            writeln!(io::stderr(), "nothing to put back")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
