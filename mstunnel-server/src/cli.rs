//! The command line of `mstunnel-server`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::Settings;
use crate::identity::password::{PasswdArgs, passwd_command};
use crate::{logs, serve};

/// A VPN server for OpenConnect, AnyConnect and Microsoft Tunnel clients
#[derive(Debug, Parser)]
#[command(name = "mstunnel-server", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server in the foreground
    ///
    /// Prints `listening on ADDRESS:PORT` for each address to stderr when it is ready. SIGTERM ends it
    /// in order, SIGHUP reads the configuration again.
    Serve(ServeArgs),
    /// Add a user to a password file or change a password
    Passwd(PasswdArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Read the configuration from this file
    #[arg(long, value_name = "FILE", default_value = "/etc/mstunnel/gateway.toml")]
    config: PathBuf,
    /// Check the configuration and the files it names, start nothing
    #[arg(long)]
    check: bool,
}

/// Runs the command line; the exit code is 0 for good, 1 for failed, 2 for misuse.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(args) => serve_command(&args),
        Command::Passwd(args) => passwd_command(&args).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("mstunnel-server: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn serve_command(args: &ServeArgs) -> anyhow::Result<()> {
    let (settings, warnings) = Settings::load(&args.config).map_err(|error| anyhow::anyhow!("{error}"))?;
    if args.check {
        let more = serve::check(&settings).map_err(|problems| anyhow::anyhow!(problems))?;
        for warning in warnings.iter().chain(&more) {
            say(&format!("warning: {warning}"));
        }
        say(&format!("{}: good", args.config.display()));
        return Ok(());
    }
    let logs = logs::init(&settings.log)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    serve::run(settings, logs)
}

fn say(line: &str) {
    use std::io::Write;
    // A closed stderr is the operator's choice.
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_line_is_an_imperative_without_a_full_stop() {
        let command = Cli::command();
        let helps = command.get_subcommands().flat_map(|sub| {
            let own = sub.get_about().map(ToString::to_string);
            own.into_iter()
                .chain(sub.get_arguments().filter_map(|arg| arg.get_help().map(ToString::to_string)))
        });
        for help in helps {
            assert!(!help.ends_with('.'), "{help}");
            assert!(help.chars().next().is_some_and(char::is_uppercase), "{help}");
        }
    }
}
