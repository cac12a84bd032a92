//! The control plane of a whole site in virtual time: 100 servers, a million clients, and the death of a server.
//!
//! ```sh
//! cargo run --release --bin site_simulation -- --svg site.svg
//! ```
//!
//! Both ends are the machines of `mstunnel-proto`: a `Registry`, a `BanTable` and a `Session` for each live
//! connection on the servers, a `ClientSession`, a cookie and a `Backoff` on the clients. Clients sign in at a pace,
//! ask by DPD, some change their networks; then servers die and their clients come back through the others, with
//! their addresses. What the servers of a site share is modelled in `site.rs`, since the server does not share it
//! yet. The same seed gives the same run, bit for bit.

mod agenda;
mod client;
mod memory;
mod options;
mod plot;
mod progress;
mod report;
mod server;
mod simulation;
mod site;
mod steps;

use std::io::{Write, stdout};

use anyhow::{Context, Result};

use crate::options::Options;
use crate::progress::Progress;
use crate::simulation::Simulation;

fn main() -> Result<()> {
    let options = Options::read();
    let mut progress = Progress::new(&options);
    let report = Simulation::new(options.clone())?.run(|stage, sample| progress.tell(stage, sample))?;
    progress.finish();
    if let Some(path) = &options.svg {
        std::fs::write(path, plot::svg(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if options.json {
        writeln!(stdout(), "{:#}", report.json())?;
    } else {
        write!(stdout(), "{report}")?;
    }
    Ok(())
}
