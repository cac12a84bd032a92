//! Stock openconnect in a client's namespace, and the script it calls.
//!
//! The script writes the environment of each call to `env.N.REASON` (N counts the calls) and then sets the
//! interface up itself: addresses, MTU, one route for each split include, the default route without any.
//! What is excluded becomes unreachable, because the client knows no other way.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use tempfile::TempDir;

use crate::certificate::{write, write_private};
use crate::gateway::Gateway;
use crate::netns::Netns;
use crate::network::Network;
use crate::process::{Output, Process, Stream};
use crate::tap::Tap;
use crate::wait::{LONG, until};

const SCRIPT: &str = include_str!("client-script.sh");

/// The variables of one call of the script.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The value of a variable; empty if it is not set.
    pub fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    /// `CISCO_SPLIT_INC` with the addresses and lengths it counts, and the same for `CISCO_IPV6_SPLIT_INC`,
    /// `CISCO_SPLIT_EXC`, `CISCO_IPV6_SPLIT_EXC`.
    pub fn prefixes(&self, variable: &str) -> Vec<String> {
        let count: usize = self.get(variable).parse().unwrap_or(0);
        let part = |index: usize, part: &str| self.get(&format!("{variable}_{index}_{part}")).to_owned();
        (0..count).map(|index| part(index, "ADDR") + "/" + &part(index, "MASKLEN")).collect()
    }

    fn parse(text: &str) -> Self {
        // `env -0`: a value may contain line breaks, a banner does.
        let pairs = text.split('\0').filter_map(|pair| pair.split_once('='));
        Self(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }
}

/// The command line of an [`Openconnect`].
#[derive(Debug)]
pub struct OpenconnectBuilder<'n> {
    client: &'n Netns,
    server: SocketAddr,
    arguments: Vec<String>,
    input: Vec<u8>,
    token: Option<String>,
}

impl OpenconnectBuilder<'_> {
    /// Adds an argument as it is.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Signs in with a password, given on standard input.
    #[must_use]
    pub fn password(mut self, user: &str, password: &str) -> Self {
        self.input = format!("{password}\n").into_bytes();
        self.argument(format!("--user={user}")).argument("--passwd-on-stdin")
    }

    /// Signs in with a bearer token.
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self.argument("--token-mode=oidc")
    }

    /// Goes straight to CONNECT with the value of the cookie `webvpn`.
    #[must_use]
    pub fn cookie(self, cookie: &str) -> Self {
        self.argument(format!("--cookie=webvpn={cookie}"))
    }

    /// Connects through `tap`, which notes what is said.
    #[must_use]
    pub fn through(mut self, tap: &Tap) -> Self {
        self.arguments.retain(|argument| !argument.starts_with("--servercert="));
        self.over(tap.address()).argument(format!("--servercert={}", tap.pin()))
    }

    /// Connects to another address of the server.
    #[must_use]
    pub fn over(mut self, server: SocketAddr) -> Self {
        self.server = server;
        self
    }

    /// Starts the client.
    pub fn start(mut self) -> Openconnect {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        write(&directory.path().join("script"), SCRIPT);
        if let Some(token) = &self.token {
            let path = directory.path().join("token");
            write_private(&path, token);
            self.arguments.push(format!("--token-secret=@{}", path.display()));
        }
        let mut command = self.client.command("openconnect");
        let script = format!("/bin/sh {0}/script {0}", directory.path().display());
        command.args(["--non-inter", "--verbose", "--timestamp", "--script", &script]).args(&self.arguments);
        command.arg(format!("https://{}", self.server));
        let process = Process::start("openconnect", command, directory.path(), &self.input);
        Openconnect { process, directory }
    }

    /// Starts the client and waits until its script has set the tunnel up.
    pub fn connect(self) -> Openconnect {
        let mut client = self.start();
        client.wait_connected();
        client
    }

    /// Runs the client until it ends by itself.
    pub fn run(self) -> Output {
        let mut client = self.start();
        let code = client.process.wait_end(LONG).code();
        let process = &client.process;
        Output { code, stdout: process.text(Stream::Stdout), stderr: process.text(Stream::Stderr) }
    }

    /// Signs in only and returns the value of the cookie `webvpn`.
    pub fn authenticate(self) -> String {
        let text = self.argument("--authenticate").run().expect_success("openconnect --authenticate");
        let cookie = text.lines().find_map(|line| line.strip_prefix("COOKIE='")?.strip_suffix('\''));
        let cookie = cookie.unwrap_or_else(|| panic!("no COOKIE in {text}"));
        // It prints the whole jar or the bare value, depending on the version.
        let bare = cookie.split("; ").find_map(|pair| pair.strip_prefix("webvpn="));
        bare.unwrap_or(cookie).to_owned()
    }
}

/// A running client; killed when dropped.
#[derive(Debug)]
pub struct Openconnect {
    process: Process,
    directory: TempDir,
}

impl Openconnect {
    /// A client of `gateway` in the namespace of client `index`, with nothing but the server's pin.
    pub fn to<'n>(network: &'n Network, index: usize, gateway: &Gateway) -> OpenconnectBuilder<'n> {
        OpenconnectBuilder {
            client: network.client(index),
            server: gateway.address(network, index),
            arguments: vec![format!("--servercert={}", gateway.certificate().pin())],
            input: Vec::new(),
            token: None,
        }
    }

    /// Runs a command line that a person was told to type, in a shell inside `netns`, with the harness's script.
    pub fn by_hand(netns: &Netns, line: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let path = directory.path().display();
        write(&directory.path().join("script"), SCRIPT);
        let added = format!("openconnect --non-inter --verbose --script '/bin/sh {path}/script {path}' ");
        let line = line.replacen("openconnect ", &added, 1);
        let mut command = netns.command("sh");
        command.args(["-c", &line]);
        let mut client = Self { process: Process::start("sh", command, directory.path(), b""), directory };
        client.wait_connected();
        client
    }

    /// The client most tests want: alice with her password, without DTLS, connected.
    pub fn alice(network: &Network, gateway: &Gateway) -> Self {
        Self::to(network, 0, gateway).password("alice", "secret of alice").argument("--no-dtls").connect()
    }

    /// Waits until the tunnel is set up and the client passes packets.
    fn wait_connected(&mut self) {
        self.wait_calls("connect", 1, LONG);
        // While the script ends, the client is deaf to SIGINT; it says this right after.
        self.wait_output("Configured as ", LONG);
    }

    /// Waits until the script has finished `count` calls for `reason`; fails if the client ends before.
    pub fn wait_calls(&mut self, reason: &str, count: usize, limit: Duration) -> Environment {
        until(&format!("call {count} of the script for {reason}"), limit, || {
            let ended = self.process.has_ended();
            let calls = self.calls(reason);
            assert!(ended.is_none() || calls.len() >= count, "openconnect ended before {reason}: {ended:?}");
            (calls.len() >= count).then(|| calls.last().cloned().unwrap_or_default())
        })
    }

    /// The environment of every finished call for `reason`, in order.
    pub fn calls(&self, reason: &str) -> Vec<Environment> {
        let mut paths: Vec<(usize, PathBuf)> = fs::read_dir(self.directory.path())
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let name = path.file_name()?.to_str()?.strip_prefix("env.")?;
                let (number, what) = name.split_once('.')?;
                (what == reason).then_some((number.parse().ok()?, path))
            })
            .collect();
        paths.sort();
        paths.iter().map(|(_, path)| Environment::parse(&read_lossy(path))).collect()
    }

    /// The environment of the last call for `connect`.
    pub fn environment(&self) -> Environment {
        self.calls("connect").pop().expect("the tunnel is up")
    }

    /// Sends a signal to the client.
    pub fn signal(&mut self, signal: i32) {
        self.process.signal(signal);
    }

    /// Waits for the client's end.
    pub fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        self.process.wait_end(limit)
    }

    /// Says whether the client still runs.
    pub fn runs(&mut self) -> bool {
        self.process.has_ended().is_none()
    }

    /// What the client has printed.
    pub fn output(&self) -> String {
        self.process.output()
    }

    /// Waits until the client has printed `text` on either output.
    pub fn wait_output(&mut self, text: &str, limit: Duration) {
        until(&format!("{text:?} from openconnect"), limit, || self.output().contains(text).then_some(()));
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_with_a_line_break_stays_whole_and_prefixes_are_counted() {
        let text = "CISCO_BANNER=one\ntwo\0CISCO_SPLIT_INC=1\0CISCO_SPLIT_INC_0_ADDR=10.0.0.0\0\
                    CISCO_SPLIT_INC_0_MASKLEN=8\0";
        let environment = Environment::parse(text);
        assert_eq!(environment.get("CISCO_BANNER"), "one\ntwo");
        assert_eq!(environment.prefixes("CISCO_SPLIT_INC"), ["10.0.0.0/8"]);
        assert_eq!(environment.prefixes("CISCO_SPLIT_EXC").len(), 0);
    }
}
