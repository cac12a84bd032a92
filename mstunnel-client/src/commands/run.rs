//! `run`: one command whose only network is the tunnel.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use mstunnel_client::Tunnel;
use mstunnel_client::device::Plan;
use mstunnel_client::exec::{ExecError, Sandbox, enter};
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::online::block_on;
use super::target::Target;

/// This program, for the child that becomes the command; right even when the file has been replaced.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// How long a command may take to end when its tunnel has.
const GRACE: Duration = Duration::from_secs(5);

/// Signals that wait at most to be passed on.
const MAX_SIGNALS: usize = 16;

/// Run a command whose only network is the tunnel; needs no privileges
///
/// The command gets a network namespace with nothing but the tunnel's addresses, routes and name servers: what the
/// tunnel does not carry is unreachable. Its exit code is passed on, 128 and the number for a signal; 127 and 126
/// say that it could not be found or run, 1 that there was no tunnel.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Command to run, with its arguments, after --
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<OsString>,
}

/// Enter the namespaces of `run`; for the program itself
#[derive(Debug, clap::Args)]
pub(crate) struct EnterArgs {
    /// What the client says, and the command
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

impl EnterArgs {
    pub(crate) fn execute(self) -> ExitCode {
        enter(&self.arguments).into()
    }
}

impl Args {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        block_on(async {
            // Before anybody is asked for a password: what stands in the way is told first.
            let sandbox = Sandbox::new(Path::new(THIS_PROGRAM), &[super::ENTER], &self.command).await?;
            let tunnel = self.target.open().await?;
            let (code, tunnel) = run(sandbox, tunnel).await?;
            tunnel.leave("done").await;
            Ok(code.into())
        })?
    }
}

/// Runs the command to its end; returns its exit code, and the tunnel to be left.
async fn run(mut sandbox: Sandbox, mut tunnel: Tunnel) -> anyhow::Result<(u8, Tunnel)> {
    let packets = tunnel.take_packets();
    let mut params = tunnel.watch_params();
    let max_packet = packets.max_packet();
    let plan = Plan::new(&params.borrow_and_update().clone(), max_packet)?;
    for note in &plan.notes {
        say(note);
    }
    sandbox.apply(&plan).await?;
    let tun = sandbox.take_tun().context("cannot use the device")?;
    let carrying = tokio::spawn(tun.carry(packets, tunnel.watch_params()));
    let mut signals = Forwarded::new()?;
    match sandbox.start().await {
        Ok(()) => {}
        Err(ExecError::Inside { code, text }) => {
            say(&text);
            return Ok((code, tunnel));
        }
        Err(error) => return Err(error.into()),
    }
    let code = loop {
        tokio::select! {
            code = sandbox.wait() => break code.context("cannot wait for the command")?,
            signal = signals.recv() => sandbox.signal(signal),
            changed = params.changed() => {
                let changed = match changed {
                    Ok(()) => {
                        let plan = Plan::new(&params.borrow_and_update().clone(), max_packet)?;
                        sandbox.apply(&plan).await.map_err(anyhow::Error::from)
                    }
                    Err(_) => Err(anyhow::anyhow!("the tunnel ended: {}", tunnel.ended().await)),
                };
                if let Err(error) = changed {
                    say(&format!("{error:#}"));
                    end(&mut sandbox).await;
                    break 1;
                }
            }
        }
    };
    carrying.abort();
    Ok((code, tunnel))
}

/// Ends a command that has lost its network.
async fn end(sandbox: &mut Sandbox) {
    sandbox.signal(Signal::TERM);
    if timeout(GRACE, sandbox.wait()).await.is_err() {
        sandbox.signal(Signal::KILL);
        let _ = sandbox.wait().await;
    }
}

/// The signals that are the command's, as they come to the client.
struct Forwarded {
    signals: mpsc::Receiver<Signal>,
}

impl Forwarded {
    fn new() -> io::Result<Self> {
        let (sender, signals) = mpsc::channel(MAX_SIGNALS);
        for (kind, passed) in [
            (SignalKind::interrupt(), Signal::INT),
            (SignalKind::quit(), Signal::QUIT),
            (SignalKind::terminate(), Signal::TERM),
            (SignalKind::hangup(), Signal::HUP),
            (SignalKind::user_defined1(), Signal::USR1),
            (SignalKind::user_defined2(), Signal::USR2),
        ] {
            let mut stream = signal(kind)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    // The terminal sends its keys to the command as well.
                    let by_terminal = matches!(passed, Signal::INT | Signal::QUIT) && is_in_foreground();
                    if !by_terminal && sender.send(passed).await.is_err() {
                        break;
                    }
                }
            });
        }
        Ok(Self { signals })
    }

    async fn recv(&mut self) -> Signal {
        match self.signals.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

/// Whether this process is in the foreground of a terminal.
fn is_in_foreground() -> bool {
    let terminal = std::fs::File::open("/dev/tty");
    terminal.is_ok_and(|tty| {
        rustix::termios::tcgetpgrp(tty).is_ok_and(|group| group == rustix::process::getpgrp())
    })
}

fn say(line: &str) {
    // A closed stderr is the caller's choice.
    let _ = writeln!(io::stderr(), "mstunnel-client: {line}");
}
