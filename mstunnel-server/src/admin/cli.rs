//! The words of `mst-cli` (design.md 7, product.md c.1).

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::DEFAULT_SOCKET;

/// Look after a running mstunnel-server
#[derive(Debug, Parser)]
#[command(name = "mst-cli", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Arguments {
    /// Use another control socket
    #[arg(long, global = true, value_name = "PATH", env = "MSTUNNEL_SOCKET", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Print JSON for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// What is to be done.
    #[command(subcommand)]
    pub action: Action,
}

const EXIT_CODES: &str =
    "Exit codes: 0 good, 1 failed, 2 misuse, 3 not running, 4 unhealthy, 5 invalid configuration";

/// The first word.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Ask or steer the server
    #[command(subcommand)]
    Server(ServerAction),
    /// Work on configuration files, without a server
    #[command(subcommand)]
    Config(ConfigAction),
    /// Tell by the exit code whether the server is healthy
    Health,
}

/// After `server`.
#[derive(Debug, Subcommand)]
pub enum ServerAction {
    /// Show the state of the server
    Status,
    /// Show a part of the server
    #[command(subcommand)]
    Show(ShowAction),
    /// End sessions for good
    #[command(subcommand)]
    Disconnect(DisconnectAction),
    /// Forgive a banned source
    #[command(subcommand)]
    Unban(UnbanAction),
    /// Read the configuration again
    Reload,
    /// Accept no new session; the old ones go on, and come back
    Drain,
    /// Stop the server in an orderly way: it drains first, and a second stop ends that
    Stop,
}

/// After `server show`.
#[derive(Debug, Subcommand)]
pub enum ShowAction {
    /// Show the state and the counters
    Status,
    /// List the connected users
    Users,
    /// List all sessions, those that wait for their client included
    Sessions,
    /// Show one session
    Session {
        /// Name the session by its number
        id: u64,
    },
    /// Show the sessions of one user
    User {
        /// Name the user
        name: String,
    },
    /// List sources with ban points
    #[command(subcommand)]
    Ip(IpTable),
    /// Follow what happens, until interrupted
    Events,
}

/// After `server show ip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum IpTable {
    /// List the banned sources
    Bans,
    /// List every source with points, banned or not
    Points,
}

/// After `server disconnect`.
#[derive(Debug, Subcommand)]
pub enum DisconnectAction {
    /// End every session of one user
    User {
        /// Name the user
        name: String,
    },
    /// End one session
    Id {
        /// Name the session by its number
        id: u64,
    },
}

/// After `server unban`.
#[derive(Debug, Subcommand)]
pub enum UnbanAction {
    /// Forgive an address; for IPv6 its whole /64
    Ip {
        /// Name the address
        ip: IpAddr,
    },
}

/// After `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigAction {
    /// Check files and name every problem
    Validate {
        /// Name gateway.toml or Graph JSON files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// The verbs that help lines begin with; a new one is added here by hand and so looked at.
    const VERBS: [&str; 18] = [
        "Accept", "Ask", "Check", "End", "Follow", "Forgive", "List", "Look", "Name", "Print", "Read",
        "Show", "Stop", "Tell", "Use", "Work", "Write", "Set",
    ];

    fn walk(command: &clap::Command, seen: &mut Vec<(String, String)>) {
        let name = command.get_name().to_owned();
        let about = command.get_about().map(ToString::to_string).unwrap_or_default();
        seen.push((name.clone(), about));
        for argument in command.get_arguments() {
            let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
            seen.push((format!("{name} {}", argument.get_id()), help));
        }
        for inner in command.get_subcommands() {
            walk(inner, seen);
        }
    }

    #[test]
    fn every_help_line_starts_with_an_imperative_verb_and_has_no_full_stop() {
        let mut command = Arguments::command();
        command.build();
        let mut seen = Vec::new();
        walk(&command, &mut seen);
        assert!(seen.len() > 30, "{}", seen.len());
        for (place, help) in seen {
            let first = help.split(' ').next().unwrap_or_default();
            assert!(VERBS.contains(&first), "{place}: {help:?} starts with no known verb");
            assert!(!help.ends_with('.'), "{place}: {help:?}");
        }
    }

    #[test]
    fn the_command_lines_of_the_contract_are_understood() {
        for line in [
            "server show status",
            "server show status --json",
            "--json server show users",
            "--socket /tmp/x server show sessions",
            "server show session 7",
            "server show user ada",
            "server show ip bans",
            "server show events",
            "server disconnect user ada",
            "server disconnect id 7",
            "server unban ip 2001:db8::1",
            "server reload",
            "server drain",
            "server stop",
            "config validate a.json b.toml",
            "health",
        ] {
            let words = std::iter::once("mst-cli").chain(line.split(' '));
            assert!(Arguments::try_parse_from(words).is_ok(), "{line}");
        }
    }

    #[test]
    fn misuse_is_refused() {
        for line in
            ["", "server", "server show", "server show session x", "server unban ip 1.2.3", "config validate"]
        {
            let words = std::iter::once("mst-cli").chain(line.split_whitespace());
            assert!(Arguments::try_parse_from(words).is_err(), "{line}");
        }
    }
}
