//! `run -- COMMAND`: a command whose only network is the tunnel, as an unprivileged user, with our server and with
//! stock ocserv.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mstunnel_tests::{
    Gateway, LONG, Network, Output, Process, SHORT, Setup, Stream, copy_program, program, until,
};
use tempfile::TempDir;

/// The user and group nobody: no rights at all.
const NOBODY: &str = "65534";

/// What curl says when there is no way to the host.
const CURL_CANNOT_CONNECT: i32 = 7;

/// A network, a server, and what an unprivileged user needs of both.
struct World {
    network: Network,
    gateway: Gateway,
    _names: Process,
    /// The program and its files, for everybody to read.
    files: TempDir,
}

impl World {
    fn start(start: fn(&Setup, &Network) -> Option<Gateway>, setup: &Setup) -> Option<Self> {
        let built = program("mstunnel-client")?;
        let network = Network::new()?;
        let gateway = start(setup, &network)?;
        let files = tempfile::tempdir().expect("a directory for temporary files");
        open(files.path(), 0o755);
        // The build directory may lie where only its owner may look.
        copy_program(&built, &files.path().join("mstunnel-client"));
        fs::copy(gateway.directory().join("authority.pem"), files.path().join("authority.pem"))
            .expect("a file");
        fs::write(files.path().join("password"), "secret of alice\n").expect("a file");
        for file in ["authority.pem", "password"] {
            open(&files.path().join(file), 0o644);
        }
        let names = network.corporate().start_names(gateway.directory());
        Some(Self { network, gateway, _names: names, files })
    }

    fn path(&self, file: &str) -> PathBuf {
        self.files.path().join(file)
    }

    /// `mstunnel-client run .. -- COMMAND` as nobody; `shell` runs before it, as root in a mount namespace.
    fn client(&self, shell: &str, command: &[&str]) -> Command {
        let device =
            if is_open_to_all(Path::new("/dev/net/tun")) { String::new() } else { tun_device(0o666) };
        let script = format!(
            "{device}\n{shell}\nexec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups --inh-caps=-all \"$@\""
        );
        let mut process = self.network.client(0).command("unshare");
        process.args(["--mount", "sh", "-e", "-c", &script, "sh"]).arg(self.path("mstunnel-client"));
        process.arg("run").arg(format!("https://{}", self.gateway.address(&self.network, 0)));
        process.args(["--user", "alice", "--password-file"]).arg(self.path("password"));
        process.arg("--ca").arg(self.path("authority.pem")).arg("--").args(command);
        process
    }

    fn start_client(&self, command: &[&str]) -> (Process, TempDir) {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        (Process::start("mstunnel-client", self.client("", command), directory.path(), b""), directory)
    }

    fn run_after(&self, shell: &str, command: &[&str], input: &[u8]) -> Output {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let mut process =
            Process::start("mstunnel-client", self.client(shell, command), directory.path(), input);
        let status = process.wait_end(LONG);
        Output {
            code: status.code(),
            stdout: process.text(Stream::Stdout),
            stderr: process.text(Stream::Stderr),
        }
    }

    fn run(&self, command: &[&str]) -> Output {
        self.run_after("", command, b"")
    }

    fn sh(&self, script: &str) -> Output {
        self.run(&["sh", "-c", script])
    }
}

fn open(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode can be set");
}

fn is_open_to_all(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o006 == 0o006)
}

/// A script that lays a device with another mode over `/dev/net/tun`, in a mount namespace of its own.
fn tun_device(mode: u32) -> String {
    format!(
        "mount -t tmpfs tmpfs /mnt; mknod -m {mode:o} /mnt/tun c 10 200; mount --bind /mnt/tun /dev/net/tun"
    )
}

fn setup() -> Setup {
    Setup::new().set("dnsServers", serde_json::json!(["10.20.0.53"]))
}

fn ours() -> Option<World> {
    World::start(Setup::start_ours, &setup())
}

fn with_both(check: impl Fn(&World)) {
    for start in [
        Setup::start_ours as fn(&Setup, &Network) -> Option<Gateway>,
        Setup::start_as_nobody,
        Setup::start_ocserv,
    ] {
        let Some(world) = World::start(start, &setup()) else { return };
        check(&world);
    }
}

#[test]
fn an_unprivileged_user_fetches_pages_by_name_and_address_over_both_families() {
    with_both(|world| {
        for host in ["10.20.0.2", "[fd00:20::2]", "web.corp.example", "web"] {
            let page =
                world.run(&["curl", "-sS", "--globoff", "--max-time", "15", &format!("http://{host}/")]);
            let text = page.expect_success(host);
            assert!(text.starts_with("corporate page for "), "{host}: {text:?}");
        }
        let bytes = world.sh("curl -sS --max-time 30 http://10.20.0.2/bytes/20000000 | tr -d -c . | wc -c");
        assert_eq!(bytes.expect_success("20 MB").trim(), "20000000");
    });
}

#[test]
fn an_unprivileged_user_pings_by_name_and_address_over_both_families() {
    with_both(|world| {
        for target in ["10.20.0.2", "fd00:20::2", "web.corp.example"] {
            world.sh(&format!("ping -c1 -W5 {target}")).expect_success(target);
        }
    });
}

/// Covers: R67, R68: there is no other interface to leak by.
#[test]
fn what_is_not_in_the_tunnel_is_unreachable_from_inside() {
    let Some(world) = ours() else { return };
    let host: SocketAddr = "127.0.0.1:9000".parse().expect("an address");
    let _listener = world.network.client(0).with(|| TcpListener::bind(host)).expect("the port is free");
    let server = world.gateway.address(&world.network, 0);
    let outside =
        ["http://127.0.0.1:9000/".to_owned(), format!("http://{server}/"), "http://198.51.100.1/".to_owned()];
    for url in outside {
        // Outside there is an answer of some kind, or none within the time; inside there is no way at all.
        let page = world.run(&["curl", "-sS", "--max-time", "5", &url]);
        assert_eq!(page.code, Some(CURL_CANNOT_CONNECT), "{url}: {page:?}");
    }
    let reaches =
        |url: &str| world.network.client(0).try_run("curl", &["-sS", "--max-time", "2", url], SHORT).code;
    assert_ne!(reaches("http://127.0.0.1:9000/"), Some(CURL_CANNOT_CONNECT));
    let interfaces =
        world.sh("ls /sys/class/net 2>/dev/null; cut -d: -f1 -s /proc/net/dev | tr -d ' ' | sort");
    assert!(interfaces.expect_success("/proc/net/dev").ends_with("lo\nmst0\n"));
    let routes = world.sh("ip route show table all type unicast; ip -6 route show table main");
    let routes = routes.expect_success("ip route");
    assert!(!routes.contains("default"), "{routes}");
    // A name server of the host's own is not asked: the resolver of the machine is not in there.
    let names = world.sh("cat /etc/resolv.conf; grep hosts: /etc/nsswitch.conf").expect_success("cat");
    assert!(names.contains("nameserver 10.20.0.53\n") && !names.contains("nameserver 127."), "{names}");
    assert!(names.contains("search corp.example\n") && names.ends_with("hosts: files dns\n"), "{names}");
    assert_eq!(
        world.sh("ip link add dummy0 type dummy").code,
        Some(2),
        "the command has rights over its network"
    );
}

#[test]
fn the_exit_code_is_that_of_the_command() {
    let Some(world) = ours() else { return };
    for (command, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -TERM $$"], 128 + libc::SIGTERM),
        (&["no-such-command-of-ours"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let output = world.run(command);
        assert_eq!(output.code, Some(code), "{command:?}: {output:?}");
        assert_eq!(output.stdout, "", "{command:?}");
    }
    let missing = world.run(&["no-such-command-of-ours"]).stderr;
    assert!(missing.contains("cannot run no-such-command-of-ours: "), "{missing}");
}

#[test]
fn the_command_is_the_same_user_and_has_the_callers_streams() {
    let Some(world) = ours() else { return };
    let output = world.run_after("", &["sh", "-c", "id -u; id -g; cat; echo err >&2"], b"from the caller\n");
    assert!(output.stderr.ends_with("err\n"), "{output:?}");
    assert_eq!(output.expect_success("id"), format!("{NOBODY}\n{NOBODY}\nfrom the caller\n"));
}

#[test]
fn signals_are_passed_on() {
    let Some(world) = ours() else { return };
    let script = "trap 'echo got TERM; exit 9' TERM; echo begun; while :; do sleep 0.1; done";
    let (mut client, _directory) = world.start_client(&["sh", "-c", script]);
    client.wait_for(Stream::Stdout, "begun", 1, LONG);
    // The client is what ip, unshare, sh and setpriv have become.
    client.signal(libc::SIGTERM);
    assert_eq!(client.wait_end(SHORT).code(), Some(9));
    assert!(client.text(Stream::Stdout).ends_with("got TERM\n"));
}

/// Covers: R68, P-096
#[test]
fn the_command_dies_with_a_killed_client() {
    let Some(world) = ours() else { return };
    let (mut client, _directory) = world.start_client(&["sh", "-c", "echo $$; exec sleep 1000"]);
    client.wait_for(Stream::Stdout, "\n", 1, LONG);
    let command = PathBuf::from("/proc").join(client.text(Stream::Stdout).trim());
    // What printed its number is the shell, a moment before it becomes the command.
    until("the command", SHORT, || {
        let line = fs::read_to_string(command.join("cmdline")).expect("it runs");
        line.starts_with("sleep").then_some(())
    });
    client.signal(libc::SIGKILL);
    client.wait_end(SHORT);
    until("the command's end", SHORT, || {
        let stat = fs::read_to_string(command.join("stat")).unwrap_or_default();
        // Gone, or a zombie that waits for whoever adopted it.
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
}

/// Covers: R4, R68
#[test]
fn the_command_keeps_its_network_through_a_reconnect() {
    let Some(mut world) = ours() else { return };
    let script = "curl -sS --max-time 15 http://10.20.0.2/ && echo first && while [ ! -e go ]; do sleep 0.1; done; \
                  curl -sS --retry 20 --retry-delay 1 --retry-all-errors --max-time 5 http://web.corp.example/ && echo second";
    let go = world.path("go");
    let script = script.replace("-e go", &format!("-e {}", go.display()));
    let (mut client, _directory) = world.start_client(&["sh", "-c", &script]);
    client.wait_for(Stream::Stdout, "first", 1, LONG);
    world.gateway.signal(libc::SIGKILL);
    until("the server's end", SHORT, || (!world.gateway.runs()).then_some(()));
    world.gateway.start_again(&world.network);
    fs::write(&go, "").expect("a file");
    assert_eq!(client.wait_end(LONG + LONG).code(), Some(0));
    assert!(client.text(Stream::Stdout).ends_with("second\n"));
}

#[test]
fn a_tunnel_that_ends_ends_the_command() {
    let Some(world) = ours() else { return };
    let (mut client, _directory) = world.start_client(&["sh", "-c", "echo begun; exec sleep 1000"]);
    client.wait_for(Stream::Stdout, "begun", 1, LONG);
    world
        .gateway
        .mst_cli(&world.network, &["server", "disconnect", "user", "alice"])
        .expect_success("mst-cli");
    assert_eq!(client.wait_end(LONG).code(), Some(1));
    let said = client.text(Stream::Stderr);
    assert!(said.contains("the tunnel ended: "), "{said}");
}

#[test]
fn what_stands_in_the_way_is_named_before_anybody_signs_in() {
    let Some(world) = ours() else { return };
    let output = world.run_after(&tun_device(0o600), &["true"], b"");
    assert_eq!(output.code, Some(1), "{output:?}");
    assert!(output.stderr.contains("chmod 666 /dev/net/tun"), "{output:?}");
    // A limit counts for the namespaces below the one it is set in.
    let mut limited = world.network.client(0).command("unshare");
    let script = "echo 0 >/proc/sys/user/max_user_namespaces; exec \"$@\"";
    limited.args(["--user", "--map-root-user", "sh", "-c", script, "sh"]).arg(world.path("mstunnel-client"));
    limited.args([
        "run",
        "https://192.0.2.1",
        "--user",
        "alice",
        "--password-file",
        "/dev/null",
        "--",
        "true",
    ]);
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let mut limited = Process::start("limited", limited, directory.path(), b"");
    assert_eq!(limited.wait_end(SHORT).code(), Some(1));
    let said = limited.text(Stream::Stderr);
    assert!(said.contains("user.max_user_namespaces is 0"), "{said}");
    assert_eq!(world.gateway.sessions(&world.network), 0);
}
