//! The quickstart does what it prints, without root.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use mstunnel_tests::{LONG, Network, Process, Stream, copy_program, program, until};
use tempfile::TempDir;

/// The programs where nobody can run them, and a directory for nobody's temporary files.
struct Place {
    directory: TempDir,
}

impl Place {
    fn with(programs: &[&str]) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        fs::set_permissions(directory.path(), Permissions::from_mode(0o777)).expect("our own directory");
        for name in programs {
            copy_program(&program(name)?, &directory.path().join(name));
        }
        Some(Self { directory })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn start(&self, network: &Network, name: &str, arguments: &[&str]) -> Process {
        let mut command = network.server().command_as_nobody(&self.path(name).to_string_lossy());
        command.args(arguments).env("TMPDIR", self.directory.path());
        Process::start(name, command, self.directory.path(), b"")
    }

    /// What is there beside the programs and what was fetched.
    fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path()).expect("our own directory");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("mstunnel-quickstart")).collect()
    }
}

#[test]
fn once_shows_the_product_and_leaves_nothing() {
    let Some(network) = Network::new() else { return };
    let Some(place) = Place::with(&["quickstart"]) else { return };
    let mut quickstart = place.start(&network, "quickstart", &["--once"]);
    assert_eq!(quickstart.wait_end(LONG).code(), Some(0), "{}", quickstart.output());
    let text = quickstart.text(Stream::Stdout);
    for wanted in ["issuer ", "intranet ", "server ", "signed in ", "address ", "dns ", "routes "] {
        assert!(text.lines().any(|line| line.starts_with(wanted)), "{wanted:?} is missing in {text}");
    }
    assert!(text.contains("200 OK") && text.contains("Welcome to the intranet"), "{text}");
    let ways =
        |way: &str| text.lines().filter(|line| line.starts_with("route ") && line.contains(way)).count();
    assert_eq!((ways(" tunnel "), ways(" beside ")), (3, 2), "{text}");
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn the_printed_commands_join_and_ctrl_c_leaves_nothing() {
    let Some(network) = Network::new() else { return };
    let Some(place) = Place::with(&["quickstart", "embed_client", "mstunnel-client", "mst-cli"]) else {
        return;
    };
    let mut quickstart = place.start(&network, "quickstart", &[]);
    quickstart.wait_for(Stream::Stdout, "Ctrl-C", 1, LONG);
    let text = quickstart.text(Stream::Stdout);
    let command = |name: &str| {
        let from = text.find(name).unwrap_or_else(|| panic!("no {name} in {text}"));
        let lines = text[from..].split_inclusive('\n');
        let mut command = String::new();
        for line in lines {
            command.push_str(line.trim_end().trim_end_matches('\\'));
            if !line.trim_end().ends_with('\\') {
                break;
            }
        }
        command
    };
    let nobody = |line: &str, name: &str| {
        let mut shell = network.server().command_as_nobody("sh");
        shell.args(["-c", &format!("PATH={}:$PATH; {line}", place.directory.path().display())]);
        Process::start(name, shell, place.directory.path(), b"")
    };

    let mut openconnect = nobody(&command("openconnect --"), "openconnect");
    let proxy = SocketAddr::from((Ipv4Addr::LOCALHOST, 11_080));
    until("ocproxy", LONG, || {
        assert!(openconnect.has_ended().is_none(), "{}", openconnect.output());
        network.server().with(|| TcpStream::connect(proxy).ok())
    });
    let mut curl = nobody(&format!("{} --silent --max-time 20", command("curl --socks5")), "curl");
    assert_eq!(curl.wait_end(LONG).code(), Some(0), "{}", curl.output());
    assert!(curl.text(Stream::Stdout).contains("Welcome to the intranet"));

    let mut ours = nobody(&command("mstunnel-client get"), "mstunnel-client");
    assert_eq!(ours.wait_end(LONG).code(), Some(0), "{}", ours.output());
    assert!(ours.text(Stream::Stdout).contains("Welcome to the intranet"));
    let mut rows = nobody(&command("mst-cli --socket"), "mst-cli");
    assert_eq!(rows.wait_end(LONG).code(), Some(0), "{}", rows.output());
    assert!(rows.text(Stream::Stdout).contains("dana@corp.example"));

    // The example that embeds the client: URL, token, page, pin.
    let line = command("mstunnel-client get");
    let words: Vec<&str> = line.split(' ').collect();
    let after = |option: &str| words[words.iter().position(|word| *word == option).expect("an option") + 1];
    let embedded = format!(
        "embed_client {} {} http://198.18.0.80/ {}",
        after("get"),
        after("--token-file"),
        after("--pin")
    );
    let mut embedded = nobody(&embedded, "embed_client");
    assert_eq!(embedded.wait_end(LONG).code(), Some(0), "{}", embedded.output());
    assert!(embedded.text(Stream::Stdout).contains("Welcome to the intranet"));

    quickstart.signal(libc::SIGINT);
    assert_eq!(quickstart.wait_end(Duration::from_secs(20)).code(), Some(0), "{}", quickstart.output());
    assert_eq!(place.left(), Vec::<String>::new());
}
