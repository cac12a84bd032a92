//! The command line of `mstunnel-client`.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::commands::{self, connect, get, load, ping, proxy, restore, run, show};

/// A VPN client for mstunnel, ocserv and other OpenConnect servers
///
/// Signs in, opens a tunnel and uses it: for one page, for programs that speak to a proxy, for one command, or
/// for the whole machine. Results go to standard output, everything else to standard error. Exit codes: 0 good,
/// 1 failed, 2 misuse.
#[derive(Debug, Parser)]
#[command(name = "mstunnel-client", version, arg_required_else_help = true)]
struct Cli {
    /// Say more on standard error; twice for every step
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Connect(connect::Args),
    Get(get::Args),
    Load(load::Args),
    Ping(ping::Args),
    Proxy(proxy::Args),
    Restore(restore::Args),
    Run(run::Args),
    Show(show::Args),
    #[command(name = commands::ENTER, hide = true)]
    Enter(run::EnterArgs),
}

/// Runs the command line.
pub(crate) fn main() -> ExitCode {
    let cli = Cli::parse();
    log(cli.verbose);
    let done = match cli.command {
        Command::Connect(args) => args.execute(),
        Command::Get(args) => args.execute(),
        Command::Load(args) => args.execute(),
        Command::Ping(args) => args.execute(),
        Command::Proxy(args) => args.execute(),
        Command::Restore(args) => args.execute(),
        Command::Run(args) => args.execute(),
        Command::Show(args) => args.execute(),
        Command::Enter(args) => Ok(args.execute()),
    };
    done.unwrap_or_else(|error| {
        // A closed stderr is the caller's choice.
        let _ = writeln!(io::stderr(), "mstunnel-client: {}", message(&error));
        ExitCode::FAILURE
    })
}

/// An error with what caused it, as far as it does not say so itself.
fn message(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Lines of this program only: other crates' debug lines are not made for users.
fn log(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::new(format!("warn,mstunnel_client={level}"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_target(false);
    lines.with_ansi(io::stderr().is_terminal()).init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_its_help_begins_with_verbs() {
        let command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            let helps = sub.get_arguments().filter(|argument| !argument.is_hide_set()).map(|argument| {
                (
                    argument.get_id().to_string(),
                    argument.get_help().map(ToString::to_string).unwrap_or_default(),
                )
            });
            for (name, help) in helps.chain([(sub.get_name().to_owned(), about)]) {
                let first = help.split(' ').next().unwrap_or_default();
                assert!(first.starts_with(char::is_uppercase), "{name}: {help:?}");
                assert!(!help.ends_with('.'), "{name}: {help:?}");
            }
        }
    }

    #[test]
    fn no_option_reaches_the_end_of_time() {
        for (option, bound, beyond, most) in [
            ("--reconnect-timeout", "31536000", "18446744073709551615", "31536000"),
            ("--interval", "86400", "1e19", "at most 86400"),
            ("--timeout", "86400", "1e19", "at most 86400"),
        ] {
            let parse = |value| {
                Cli::try_parse_from(["mstunnel-client", "ping", "https://vpn.example", "web", option, value])
            };
            assert!(parse(bound).is_ok(), "{option}");
            let error = parse(beyond).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(beyond) && error.contains(most), "{option}: {error:?}");
        }
    }

    #[test]
    fn a_message_says_each_cause_once() {
        let cause = std::io::Error::other("alert");
        let error = anyhow::Error::new(cause).context("broke: alert").context("cannot get a token");
        assert_eq!(message(&error), "cannot get a token: broke: alert");
    }

    /// Covers: R70
    #[test]
    fn no_secret_can_be_given_on_the_command_line() {
        for sub in Cli::command().get_subcommands() {
            for argument in sub.get_arguments() {
                let name = argument.get_id().as_str();
                let is_secret = ["password", "token", "cookie", "key"].iter().any(|word| name.contains(word));
                assert!(
                    !is_secret || name.ends_with("_file") || name == "key",
                    "{name} would be a secret in argv"
                );
            }
        }
    }
}
