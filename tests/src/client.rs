//! Our own client, `mstunnel-client`, in a client's namespace.
//!
//! Every run says as much as it can (`-vvv`), and every run is looked through: what the test named a secret
//! is in no output and on no command line (R70).

use std::ffi::OsString;
use std::fs;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::certificate::{Certificate, write_private};
use crate::gateway::{Gateway, program};
use crate::netns::Netns;
use crate::network::Network;
use crate::process::{Output, Process, Stream};
use crate::wait::{LONG, SHORT, until};

/// How long a client may take to end: a server that stalls is waited for a minute.
const END: Duration = Duration::from_secs(100);

/// The command line of a client that has not been started.
#[derive(Debug)]
pub struct Client<'n> {
    netns: &'n Netns,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, OsString)>,
    results: Option<PathBuf>,
    secrets: Vec<String>,
    directory: TempDir,
}

impl<'n> Client<'n> {
    /// `mstunnel-client COMMAND https://GATEWAY --ca ITS-AUTHORITY`, from client `index`; skips the test if the
    /// client is not built.
    pub fn to(network: &'n Network, index: usize, gateway: &Gateway, command: &str) -> Option<Self> {
        let client =
            Self::at(network.client(index), command, &format!("https://{}", gateway.address(network, index)));
        Some(client?.authority(gateway.certificate()))
    }

    /// `mstunnel-client COMMAND URL`.
    pub fn at(netns: &'n Netns, command: &str, url: &str) -> Option<Self> {
        let program = program("mstunnel-client")?;
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let arguments = ["-vvv", command, url].map(OsString::from).to_vec();
        let (environment, secrets) = (Vec::new(), Vec::new());
        Some(Self { netns, program, arguments, environment, results: None, secrets, directory })
    }

    /// Signs in with a password from a file.
    #[must_use]
    pub fn password(self, user: &str, password: &str) -> Self {
        self.arguments(&["--user", user]).secret_file("--password-file", password)
    }

    /// Signs in as the user that every [`Setup`](crate::Setup) has.
    #[must_use]
    pub fn as_alice(self) -> Self {
        self.password("alice", "secret of alice")
    }

    /// Signs in with a bearer token from a file.
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        self.secret_file("--token-file", token)
    }

    /// Shows this client certificate.
    #[must_use]
    pub fn certificate(self, certificate: &Certificate) -> Self {
        let (chain, key) = (self.path("client.crt"), self.path("client.key"));
        write_private(&chain, certificate.chain_pem());
        write_private(&key, certificate.key_pem());
        let client = self.argument("--certificate").argument(chain);
        client.argument("--key").argument(key)
    }

    /// Believes this authority too.
    #[must_use]
    pub fn authority(self, certificate: &Certificate) -> Self {
        let path = self.path(&format!("authority{}.pem", self.arguments.len()));
        write_private(&path, certificate.authority_pem());
        self.argument("--ca").argument(path)
    }

    /// Adds `OPTION FILE`, a new file with `text`, which is a secret.
    #[must_use]
    pub fn secret_file(self, option: &str, text: &str) -> Self {
        let path = self.path(option.trim_start_matches('-'));
        write_private(&path, &format!("{text}\n"));
        self.secret(text).argument(option).argument(path)
    }

    /// Names a text that must not show.
    #[must_use]
    pub fn secret(mut self, text: &str) -> Self {
        self.secrets.push(text.to_owned());
        self
    }

    /// Adds an argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(OsString::from));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Writes its results to `path` instead of a file of the test.
    #[must_use]
    pub fn results_to(mut self, path: &Path) -> Self {
        self.results = Some(path.to_owned());
        self
    }

    /// A file in the directory of this client.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts it.
    pub fn start(self) -> RunningClient {
        let mut command = match &self.results {
            None => self.netns.command(&self.program.to_string_lossy()),
            Some(path) => {
                // The shell becomes the client, so that the process is its own.
                let mut command = self.netns.command("sh");
                command.args(["-c", "exec \"$@\" >\"$0\""]).args([path, &self.program]);
                command
            }
        };
        command.args(&self.arguments).envs(self.environment);
        let process = Process::start("mstunnel-client", command, self.directory.path(), b"");
        let start = Instant::now();
        RunningClient { process, secrets: self.secrets, directory: self.directory, start, peak_kib: 0 }
    }

    /// Starts it and waits until it listens on `ports` ports.
    pub fn listen(self, ports: usize) -> RunningClient {
        let mut client = self.start();
        client.wait_for(Stream::Stderr, "listening on ", ports, LONG);
        client
    }

    /// Runs it to its end.
    pub fn run(self) -> Ended {
        self.start().end()
    }
}

/// A client that runs; ends when dropped.
#[derive(Debug)]
pub struct RunningClient {
    process: Process,
    secrets: Vec<String>,
    directory: TempDir,
    start: Instant,
    peak_kib: u64,
}

impl Deref for RunningClient {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for RunningClient {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl RunningClient {
    /// Its scratch directory.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The most memory that it has had so far, in KiB.
    pub fn peak_kib(&mut self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = line.and_then(|rest| rest.trim().split(' ').next()?.parse().ok()).unwrap_or(0);
        self.peak_kib = self.peak_kib.max(peak);
        self.peak_kib
    }

    /// Stops it, as the sleep of its machine does.
    pub fn pause(&mut self) {
        self.process.signal(libc::SIGSTOP);
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.process.signal(libc::SIGCONT);
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(mut self) -> Ended {
        self.process.signal(libc::SIGTERM);
        let status = self.process.wait_end(SHORT);
        self.ended(status)
    }

    /// Waits for the end.
    pub fn end(self) -> Ended {
        self.end_within(END)
    }

    /// Waits for the end of a client that has much to do.
    pub fn end_within(mut self, limit: Duration) -> Ended {
        let mut is_looked_at = false;
        let status = until("the end of mstunnel-client", limit, || {
            self.peak_kib();
            is_looked_at = is_looked_at || self.has_hidden_secrets();
            self.process.has_ended()
        });
        self.ended(status)
    }

    /// Panics if `/proc` shows a secret; says whether the client was there to be looked at.
    pub fn has_hidden_secrets(&self) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", self.id())).unwrap_or_default();
        self.check("its command line", &String::from_utf8_lossy(&line));
        line.windows(15).any(|part| part == b"mstunnel-client")
    }

    fn ended(self, status: ExitStatus) -> Ended {
        let (stdout, stderr) = (self.text(Stream::Stdout), self.text(Stream::Stderr));
        self.check("its results", &stdout);
        self.check("its messages", &stderr);
        let output = Output { code: status.code(), stdout, stderr };
        Ended { output, peak_kib: self.peak_kib, took: self.start.elapsed() }
    }

    fn check(&self, place: &str, text: &str) {
        for secret in &self.secrets {
            assert!(!text.contains(secret), "a secret ({} bytes) is in {place}:\n{text}", secret.len());
        }
    }
}

/// A client that has ended.
#[derive(Debug)]
pub struct Ended {
    /// What it said.
    pub output: Output,
    /// The most memory that it was seen to have, in KiB.
    pub peak_kib: u64,
    /// How long it ran.
    pub took: Duration,
}

impl Ended {
    /// The standard output of a client that must have succeeded.
    pub fn expect_success(self, what: &str) -> String {
        self.output.expect_success(what)
    }

    /// A client that must have failed with code 1 and a message with `words`; returns the message.
    pub fn expect_failure(self, words: &str) -> String {
        let message = self.message();
        assert!(self.output.code == Some(1), "want a failure with {words:?}: {:?}", self.output);
        assert!(message.contains(words), "want {words:?} in {message:?}: {:?}", self.output);
        let is_printable = message.chars().all(|c| !c.is_control());
        assert!(is_printable && message.len() < 1_000, "no message for a terminal: {message:?}");
        message
    }

    /// Its last line on standard error.
    pub fn message(&self) -> String {
        self.output.stderr.lines().last().unwrap_or_default().to_owned()
    }
}
