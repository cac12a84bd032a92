//! `get`: one page through the tunnel.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use hyper::body::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use mstunnel_client::dial::{Bypass, Dialer};
use mstunnel_client::fetch::{Page, fetch};
use tokio::sync::mpsc;

use super::online::{Online, block_on, interrupted};
use super::target::Target;

/// Parts of a page that wait for a slow disk at most, each of up to half a megabyte.
const MAX_WAITING: usize = 8;

/// How long a failed download looks whether the tunnel has ended.
const AFTERMATH: Duration = Duration::from_millis(200);

/// Fetch a page through the tunnel
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Page to fetch: http://HOST[:PORT]/PATH
    #[arg(value_name = "PAGE")]
    page: String,
    /// Write the page to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Args {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        block_on(async {
            let online = Online::open(&self.target).await?;
            let result = tokio::select! {
                result = self.download(&online) => result,
                () = interrupted() => Err(anyhow::anyhow!("interrupted")),
            };
            online.leave("done").await;
            result.map(|()| ExitCode::SUCCESS)
        })?
    }

    async fn download(&self, online: &Online) -> anyhow::Result<()> {
        let dialer = Dialer::new(online.stack.clone(), Bypass::Refuse);
        let mut page = fetch(&dialer, &self.page).await?;
        if page.status.is_client_error() || page.status.is_server_error() {
            bail!("{} answered {}", page.url, page.status);
        }
        let (sender, receiver) = mpsc::channel(MAX_WAITING);
        let bar = progress(page.len, self.output.is_some());
        let output = self.output.clone();
        let writer = tokio::task::spawn_blocking(move || write(output.as_deref(), receiver, &bar));
        let received = tokio::select! {
            received = receive(&mut page, sender) => match received {
                Err(error) => Err(blame(error, online).await),
                whole => whole,
            },
            reason = online.ended() => Err(anyhow::anyhow!("the tunnel ended: {reason}")),
        };
        // The writer's error says more: it is why the channel closed.
        writer.await.context("the writer failed")??;
        received
    }
}

/// The end of the tunnel, if that is why `error` came: connections hear of it a moment before everybody else.
async fn blame(error: anyhow::Error, online: &Online) -> anyhow::Error {
    match tokio::time::timeout(AFTERMATH, online.ended()).await {
        Ok(reason) => anyhow::anyhow!("the tunnel ended: {reason}"),
        Err(_) => error,
    }
}

async fn receive(page: &mut Page, sender: mpsc::Sender<Bytes>) -> anyhow::Result<()> {
    while let Some(chunk) = page.chunk().await? {
        if sender.send(chunk).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Writes what comes; on a thread that may block.
fn write(path: Option<&Path>, mut chunks: mpsc::Receiver<Bytes>, bar: &ProgressBar) -> anyhow::Result<()> {
    let mut out: Box<dyn Write> = match path {
        Some(path) => {
            Box::new(File::create(path).with_context(|| format!("cannot create {}", path.display()))?)
        }
        None => Box::new(io::stdout().lock()),
    };
    while let Some(chunk) = chunks.blocking_recv() {
        out.write_all(&chunk).context("cannot write the page")?;
        if chunks.is_empty() {
            // Whoever watches a slow page sees what is there.
            out.flush().context("cannot write the page")?;
        }
        bar.inc(chunk.len() as u64);
    }
    out.flush().context("cannot write the page")?;
    bar.finish_and_clear();
    Ok(())
}

/// A bar on a terminal's standard error, unless the page itself goes to that terminal.
fn progress(len: Option<u64>, is_file: bool) -> ProgressBar {
    if !io::stderr().is_terminal() || !is_file && io::stdout().is_terminal() {
        return ProgressBar::hidden();
    }
    let (bar, template) = match len {
        Some(len) => (
            ProgressBar::new(len),
            "{wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        ),
        None => (ProgressBar::no_length(), "{spinner} {binary_bytes} {binary_bytes_per_sec}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
