//! The server under test: its configuration files, its process, its control tool.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::certificate::{Certificate, write, write_private};
use crate::issuer::Issuer;
use crate::netns::NOBODY;
use crate::network::Network;
use crate::ocserv;
use crate::process::{self, Output, Process, Stream};
use crate::raw::{RawClient, Tls};
use crate::requirement;
use crate::wait::{LONG, SHORT, until};

/// Which server runs in the middle namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The one under test.
    Mstunnel,
    /// The stock one, as the reference.
    Ocserv,
}

impl Peer {
    /// What `MSTUNNEL_TEST_PEER` asks for.
    pub fn asked_for() -> Self {
        match env::var("MSTUNNEL_TEST_PEER").as_deref() {
            Ok("ocserv") => Self::Ocserv,
            _ => Self::Mstunnel,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) name: String,
    pub(crate) password: String,
    pub(crate) groups: Vec<String>,
    pub(crate) locked: bool,
}

/// Everything a server is told before it starts; the defaults suit the [`Network`].
#[derive(Clone, Debug)]
pub struct Setup {
    pub(crate) users: Vec<User>,
    /// The Graph object.
    pub(crate) configuration: Value,
    /// `gateway.toml`: section (empty for the top) -> key -> TOML text.
    sections: BTreeMap<String, BTreeMap<String, String>>,
    pub(crate) groups: Vec<String>,
    oidc: Option<Value>,
    authorities: String,
    /// Lines of `ocserv.conf` that stand instead of ours with the same names.
    pub(crate) ocserv: Vec<(String, String)>,
    unprivileged: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self::new()
    }
}

impl Setup {
    /// The IPv4 pool unless a test changes it.
    pub const POOL_V4: &'static str = "10.77.0.0/24";
    /// The IPv6 pool unless a test changes it.
    pub const POOL_V6: &'static str = "fd00:77::/64";

    /// One user alice with the password "secret of alice"; split tunnel to the corporate network; no UDP.
    pub fn new() -> Self {
        let configuration = json!({
            "@odata.type": "#microsoft.graph.microsoftTunnelConfiguration",
            "id": "6f2c7b4e-0d11-4a55-9a53-2f0c9a6f1d01",
            "displayName": "test",
            "network": Self::POOL_V4,
            "ipv6Network": Self::POOL_V6,
            "dnsServers": ["10.20.0.53"],
            "defaultDomainSuffix": "corp.example",
            "routeIncludes": ["10.20.0.0/24", "fd00:20::/64"],
            "routeExcludes": [],
            "splitDNS": [],
            "listenPort": 443,
            "advancedSettings": [],
            "disableUdpConnections": true,
        });
        let mut setup = Self {
            users: Vec::new(),
            configuration,
            sections: BTreeMap::new(),
            groups: Vec::new(),
            oidc: None,
            authorities: String::new(),
            ocserv: Vec::new(),
            unprivileged: false,
        };
        for (section, key, value) in [
            ("", "configuration", "\"configuration.json\""),
            ("listen", "addresses", "[\"0.0.0.0\", \"::\"]"),
            ("tls", "certificate", "\"site.crt\""),
            ("tls", "key", "\"site.key\""),
            ("auth", "methods", "[\"password\"]"),
            ("auth.password", "file", "\"users.passwd\""),
            ("egress", "mode", "\"kernel\""),
            ("state", "store", "\"file\""),
            ("state", "directory", "\"state\""),
            ("admin", "socket", "\"control.sock\""),
        ] {
            setup = setup.key(section, key, value);
        }
        setup.user("alice", "secret of alice", &[])
    }

    /// Adds a user.
    #[must_use]
    pub fn user(mut self, name: &str, password: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        let user = User { name: name.to_owned(), password: password.to_owned(), groups, locked: false };
        self.users.push(user);
        self
    }

    /// Adds a user whose account is locked.
    #[must_use]
    pub fn locked_user(self, name: &str, password: &str) -> Self {
        let mut setup = self.user(name, password, &[]);
        if let Some(user) = setup.users.last_mut() {
            user.locked = true;
        }
        setup
    }

    /// Sets a property of the Graph object.
    #[must_use]
    pub fn set(mut self, property: &str, value: impl Into<Value>) -> Self {
        self.configuration[property] = value.into();
        self
    }

    /// Adds one of the `advancedSettings`.
    #[must_use]
    pub fn advanced(mut self, name: &str, value: impl ToString) -> Self {
        let setting = json!({ "name": name, "value": value.to_string() });
        if let Some(settings) = self.configuration["advancedSettings"].as_array_mut() {
            settings.push(setting);
        }
        self
    }

    /// Sets a key of `gateway.toml`; `value` is TOML, the top has the empty section.
    #[must_use]
    pub fn key(mut self, section: &str, key: &str, value: &str) -> Self {
        self.sections.entry(section.to_owned()).or_default().insert(key.to_owned(), value.to_owned());
        self
    }

    /// Sets a line of `ocserv.conf`, which our server knows nothing of.
    #[must_use]
    pub fn ocserv(mut self, name: &str, value: &str) -> Self {
        self.ocserv.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Userspace egress, and a server that runs as nobody without any capability, on port 8443.
    #[must_use]
    pub fn userspace(mut self) -> Self {
        self.unprivileged = true;
        self.key("egress", "mode", "\"userspace\"").set("listenPort", 8443)
    }

    /// Offers these groups at sign-in.
    #[must_use]
    pub fn offer_groups(mut self, groups: &[&str]) -> Self {
        self.groups = groups.iter().map(|&group| group.to_owned()).collect();
        let tables: Vec<String> = groups.iter().map(|group| format!("{{ name = \"{group}\" }}")).collect();
        self.key("auth", "groups", &format!("[{}]", tables.join(", ")))
    }

    /// Signs in with tokens of `issuer` (and no password, unless `[auth] methods` is set again).
    #[must_use]
    pub fn issuer(mut self, issuer: &Issuer) -> Self {
        self.oidc = Some(issuer.oidc_json());
        self.authorities.push_str(issuer.authority_pem());
        self.key("auth", "methods", "[\"bearer\"]").key("auth.bearer", "oidc", "\"oidc.json\"")
    }

    pub(crate) fn advanced_value(&self, name: &str) -> Option<&str> {
        let settings = self.configuration["advancedSettings"].as_array()?;
        settings.iter().rfind(|setting| setting["name"] == name)?["value"].as_str()
    }

    pub(crate) fn port(&self) -> u16 {
        self.configuration["listenPort"].as_u64().and_then(|port| port.try_into().ok()).expect("a port")
    }

    /// Starts the server and waits until it listens; skips the test if the server is not built.
    pub fn start(&self, network: &Network) -> Option<Gateway> {
        match Peer::asked_for() {
            Peer::Ocserv => ocserv::start(self, network),
            Peer::Mstunnel => self.start_mstunnel(network),
        }
    }

    /// Starts stock ocserv with the same configuration; skips the test if it is not installed.
    pub fn start_ocserv(&self, network: &Network) -> Option<Gateway> {
        ocserv::start(self, network)
    }

    /// The same as `start` for tests that speak of what only our server does.
    pub fn start_ours(&self, network: &Network) -> Option<Gateway> {
        if Peer::asked_for() == Peer::Ocserv {
            requirement::skip("it is about our own server");
            return None;
        }
        self.start_mstunnel(network)
    }

    fn start_mstunnel(&self, network: &Network) -> Option<Gateway> {
        let server = program("mstunnel-server")?;
        let files = self.write_files(network);
        let process = self.spawn(&server, &files, network);
        Some(Gateway { peer: Peer::Mstunnel, process, files, setup: self.clone() })
    }

    /// The same server with userspace egress, as nobody (see [`Setup::userspace`]).
    pub fn start_as_nobody(&self, network: &Network) -> Option<Gateway> {
        self.clone().userspace().start_ours(network)
    }

    /// Starts the example that embeds the server, with the same files.
    pub fn start_embedded(&self, network: &Network) -> Option<Gateway> {
        let server = program("embed_server")?;
        let files = self.write_files(network);
        let process = self.spawn_with(&server, &[], &files, network);
        Some(Gateway { peer: Peer::Mstunnel, process, files, setup: self.clone() })
    }

    fn spawn(&self, server: &Path, files: &Files, network: &Network) -> Process {
        self.spawn_with(server, &["serve", "--config"], files, network)
    }

    fn spawn_with(&self, server: &Path, arguments: &[&str], files: &Files, network: &Network) -> Process {
        let mut command = if self.unprivileged {
            files.give_to_nobody(server);
            let mut command = network.server().command_as_nobody(&files.path(OWN_SERVER).to_string_lossy());
            command.env("HOME", files.directory.path());
            command
        } else {
            network.server().command(&server.to_string_lossy())
        };
        command.args(arguments).arg(files.path("gateway.toml"));
        if !self.authorities.is_empty() {
            command.env("SSL_CERT_FILE", files.path("trusted.pem"));
        }
        let mut process = Process::start("mstunnel-server", command, files.directory.path(), b"");
        let listeners = self.sections["listen"]["addresses"].matches('"').count() / 2;
        process.wait_for(Stream::Stderr, "listening on ", listeners, SHORT);
        process
    }

    /// Writes every file of both servers into a new directory.
    pub(crate) fn write_files(&self, network: &Network) -> Files {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let certificate = Certificate::for_addresses(&network.server_addresses());
        certificate.write(directory.path());
        let files = Files { directory, certificate };
        std::fs::create_dir(files.path("state")).expect("a new directory is empty");
        for user in &self.users {
            files.set_password(user);
        }
        self.write_configuration(&files);
        files
    }

    /// Writes what a reload reads again.
    fn write_configuration(&self, files: &Files) {
        write(&files.path("configuration.json"), &self.configuration.to_string());
        if let Some(oidc) = &self.oidc {
            write(&files.path("oidc.json"), &oidc.to_string());
        }
        write(&files.path("trusted.pem"), &self.authorities);
        let mut toml = String::new();
        for (section, keys) in &self.sections {
            if !section.is_empty() {
                writeln!(toml, "\n[{section}]").expect("writing to a string");
            }
            for (key, value) in keys {
                writeln!(toml, "{key} = {value}").expect("writing to a string");
            }
        }
        write_private(&files.path("gateway.toml"), &toml);
    }
}

/// The server's name beside its files when it runs as nobody.
const OWN_SERVER: &str = "mstunnel-server";

/// The directory with the files of one server.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) directory: TempDir,
    pub(crate) certificate: Certificate,
}

impl Files {
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Gives the user a password with the stock tool.
    fn set_password(&self, user: &User) {
        let file = self.path("users.passwd");
        let mut command = Command::new("ocpasswd");
        command.arg("--passwd").arg(&file);
        if !user.groups.is_empty() {
            command.arg("--group").arg(user.groups.join(","));
        }
        command.arg(&user.name);
        let input = format!("{0}\n{0}\n", user.password);
        process::run("ocpasswd", command, input.as_bytes(), SHORT).expect_success("ocpasswd");
        if user.locked {
            self.lock(&user.name);
        }
    }

    /// Lets nobody read everything, and run a copy of `server`, which may lie where nobody else looks.
    fn give_to_nobody(&self, server: &Path) {
        process::copy_program(server, &self.path(OWN_SERVER));
        let mut command = Command::new("chown");
        command.args(["-R", NOBODY]).arg(self.directory.path());
        process::run("chown", command, b"", SHORT).expect_success("chown");
    }

    fn lock(&self, user: &str) {
        let mut command = Command::new("ocpasswd");
        command.arg("--passwd").arg(self.path("users.passwd")).args(["--lock", user]);
        process::run("ocpasswd", command, b"", SHORT).expect_success("ocpasswd --lock");
    }
}

/// A server that listens; killed when dropped.
#[derive(Debug)]
pub struct Gateway {
    peer: Peer,
    process: Process,
    files: Files,
    setup: Setup,
}

impl Gateway {
    /// Which server this is.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Its certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.files.certificate
    }

    /// Where client `index` finds it, over IPv4.
    pub fn address(&self, network: &Network, index: usize) -> SocketAddr {
        SocketAddr::new(network.ports(index).server_v4.into(), self.setup.port())
    }

    /// The same over IPv6.
    pub fn address_v6(&self, network: &Network, index: usize) -> SocketAddr {
        SocketAddr::new(network.ports(index).server_v6.into(), self.setup.port())
    }

    /// A TLS connection from client 0.
    ///
    /// # Panics
    /// When the handshake fails; see [`RawClient::try_connect`].
    pub fn raw(&self, network: &Network) -> RawClient {
        self.raw_from(network, 0)
    }

    /// A TLS connection from client `index`.
    pub fn raw_from(&self, network: &Network, index: usize) -> RawClient {
        self.try_raw(network, index, Tls::Both).unwrap_or_else(|e| panic!("no TLS connection: {e}"))
    }

    /// A TLS connection with these versions, if the server wants it.
    ///
    /// # Errors
    /// What refused the connection.
    pub fn try_raw(&self, network: &Network, index: usize, tls: Tls) -> Result<RawClient, String> {
        RawClient::try_connect(network.client(index), self.address(network, index), self.certificate(), tls)
    }

    /// The directory with its files; scratch space for the test too.
    pub fn directory(&self) -> &Path {
        self.files.directory.path()
    }

    /// The path of one of them, as an argument.
    pub fn file(&self, name: &str) -> String {
        self.files.path(name).to_string_lossy().into_owned()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.process.output()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// How many descriptors it has open.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.id())).expect("the server runs").count()
    }

    /// The same, when they have not changed for a while: its threads open theirs after it has said that it listens.
    pub fn descriptors_at_rest(&self) -> usize {
        until("descriptors at rest", SHORT, || {
            let first = self.descriptors();
            std::thread::sleep(Duration::from_millis(500));
            (self.descriptors() == first).then_some(first)
        })
    }

    /// Leaves it `count` descriptors beside those that it has open now.
    pub fn leave_descriptors(&self, count: usize) {
        let open = self.descriptors_at_rest();
        let arguments = [format!("--pid={}", self.id()), format!("--nofile={}", open + count)];
        let mut command = Command::new("prlimit");
        command.args(arguments);
        process::run("prlimit", command, b"", SHORT).expect_success("prlimit");
    }

    /// The processor time that it has used so far.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).expect("the server runs");
        // Fields 14 and 15, counted after the name, which may hold anything: ticks of 10 ms.
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let ticks =
            after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// The memory that it has in use.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("the server runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number of KiB");
        kib * 1024
    }

    /// Sends a signal to it.
    pub fn signal(&mut self, signal: i32) {
        self.process.signal(signal);
    }

    /// Waits for its end.
    pub fn wait_end(&mut self) -> ExitStatus {
        self.process.wait_end(LONG)
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.process.signal(libc::SIGTERM);
        self.process.wait_end(LONG)
    }

    /// Starts it again with the same files after it has ended.
    pub fn start_again(&mut self, network: &Network) {
        assert!(self.process.has_ended().is_some(), "the server still runs");
        if self.peer == Peer::Ocserv {
            self.process = ocserv::spawn(&self.files, network).expect("it was there at the first start");
            return;
        }
        let server = program("mstunnel-server").expect("it was there at the first start");
        self.process = self.setup.spawn(&server, &self.files, network);
    }

    /// Ends it with its helpers, as a crash does.
    pub fn kill(&mut self) -> ExitStatus {
        self.process.kill_group(SHORT)
    }

    /// Says whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.process.has_ended().is_none()
    }

    /// Writes another configuration for the next reload.
    pub fn rewrite(&mut self, change: impl FnOnce(Setup) -> Setup) {
        self.setup = change(self.setup.clone());
        self.setup.write_configuration(&self.files);
    }

    /// Locks the account of `user` with the stock tool.
    pub fn lock_user(&self, user: &str) {
        self.files.lock(user);
    }

    /// Runs `mst-cli --socket .. --json ARGUMENTS`.
    pub fn mst_cli(&self, network: &Network, arguments: &[&str]) -> Output {
        let program = program("mst-cli").expect("mst-cli is built together with the server");
        let mut command = network.server().command(&program.to_string_lossy());
        command.arg("--socket").arg(self.files.path("control.sock")).arg("--json").args(arguments);
        process::run("mst-cli", command, b"", SHORT)
    }

    /// Ends every session of `user` by the tool of the server.
    pub fn disconnect(&self, network: &Network, user: &str) {
        if self.peer == Peer::Mstunnel {
            let arguments = ["server", "disconnect", "user", user];
            self.mst_cli(network, &arguments).expect_success("mst-cli server disconnect");
            return;
        }
        let socket = self.files.path("occtl-socket");
        let socket = socket.to_string_lossy();
        let arguments = ["--socket-file", &socket, "disconnect", "user", user];
        network.server().run("occtl", &arguments);
    }

    /// What `mst-cli server show WHAT` says.
    pub fn show(&self, network: &Network, what: &str) -> Value {
        let text = self.mst_cli(network, &["server", "show", what]).expect_success("mst-cli server show");
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("not JSON ({e}): {text}"))
    }

    /// How many sessions the server counts.
    pub fn sessions(&self, network: &Network) -> u64 {
        let status = self.show(network, "status");
        status["sessions"].as_u64().unwrap_or_else(|| panic!("no number of sessions in {status}"))
    }

    /// The counter of one drop reason; a reason that never happened may be absent.
    pub fn drops(&self, network: &Network, reason: &str) -> u64 {
        let status = self.show(network, "status");
        assert!(status["drops"].is_object(), "no drops in {status}");
        status["drops"][reason].as_u64().unwrap_or(0)
    }

    pub(crate) fn of_ocserv(process: Process, files: Files, setup: Setup) -> Self {
        Self { peer: Peer::Ocserv, process, files, setup }
    }
}

/// Runs `mstunnel-server ARGUMENTS` to its end, outside of any namespace; `None` if it is not built.
pub fn run_server(arguments: &[&str], directory: &Path, input: &str) -> Option<Output> {
    let mut command = Command::new(program("mstunnel-server")?);
    command.args(arguments).current_dir(directory);
    Some(process::run("mstunnel-server", command, input.as_bytes(), SHORT))
}

/// Finds a program of the workspace beside the test executable, or skips the test.
///
/// `tests/run` builds them first; `MSTUNNEL_BIN_DIR` names another directory.
pub fn program(name: &str) -> Option<PathBuf> {
    let directory = env::var_os("MSTUNNEL_BIN_DIR").map(PathBuf::from).or_else(|| {
        // target/debug/deps/TEST -> target/debug
        Some(env::current_exe().ok()?.parent()?.parent()?.to_owned())
    })?;
    let path = directory.join(name);
    if !path.is_file() {
        requirement::skip(&format!("{} is not built (cargo build --workspace)", path.display()));
        return None;
    }
    Some(path)
}
