//! The server as a library: started from its files inside another program, and ended by it.
//!
//! ```text
//! embed_server /etc/mstunnel/gateway.toml
//! ```
//!
//! With `[egress] mode = "userspace"` it needs no privileges.

use std::io::{Write, stderr};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use mstunnel_server::config::Settings;
use mstunnel_server::serve::Server;

fn main() -> Result<()> {
    let path: PathBuf = std::env::args_os().nth(1).context("the path of gateway.toml is missing")?.into();
    let (settings, warnings) = Settings::load(&path).map_err(|problems| anyhow!("{problems}"))?;
    for warning in warnings {
        writeln!(stderr(), "{warning}")?;
    }
    // Threads of its own: whatever else this program does goes on beside them.
    let mut server = Server::start(settings)?;
    for address in server.listening() {
        writeln!(stderr(), "listening on {address}")?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            ended = server.ended() => ended,
            interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot wait for Ctrl-C"),
        }
    });
    server.stop()?;
    outcome
}
