//! Our client under load, and where its packets go.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use aws_lc_rs::digest;
use mstunnel_tests::{
    Client, Gateway, LONG, Network, Output, Process, RunningClient, SHORT, Setup, Stream, stream_digest,
    until,
};

type Start = fn(&Setup, &Network) -> Option<Gateway>;

const BOTH: [Start; 2] = [Setup::start_ours, Setup::start_ocserv];

/// The stack's buffers are 230 MB at most; one download needs a fraction, and hundreds may have this.
const MAX_MEMORY_KIB: u64 = 200 * 1024;

const GIGABYTE: u64 = 1_000_000_000;

/// A pipe with a name, and the SHA-256 of what comes out of it.
struct Sink {
    path: PathBuf,
    digest: JoinHandle<(u64, Vec<u8>)>,
}

impl Sink {
    fn open(directory: &Path) -> Self {
        let path = directory.join("pipe");
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
        assert!(made.success());
        let inside = path.clone();
        let digest = thread::spawn(move || {
            let mut pipe = File::open(inside).expect("a pipe");
            let mut context = digest::Context::new(&digest::SHA256);
            let (mut buffer, mut total) = (vec![0; 256 * 1024], 0);
            loop {
                let len = pipe.read(&mut buffer).expect("bytes");
                if len == 0 {
                    return (total, context.finish().as_ref().to_vec());
                }
                context.update(&buffer[..len]);
                total += len as u64;
            }
        });
        Self { path, digest }
    }
}

fn gigabyte(start: Start, arrange: impl for<'n> FnOnce(Client<'n>, &Path) -> Client<'n>) {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = start(&Setup::new(), &network) else { return };
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let sink = Sink::open(directory.path());
    let Some(client) = Client::to(&network, 0, &gateway, "get") else { return };
    let client = arrange(client.as_alice(), &sink.path);
    let ended = client.argument(format!("http://10.20.0.2/stream/{GIGABYTE}/0")).start().end_within(8 * LONG);
    assert_eq!(ended.output.code, Some(0), "{:?}", ended.output);
    assert!(ended.peak_kib > 0 && ended.peak_kib < MAX_MEMORY_KIB, "{} KiB", ended.peak_kib);
    let (total, found) = sink.digest.join().expect("a digest");
    assert_eq!(total, GIGABYTE);
    assert!(found == stream_digest(GIGABYTE, 0), "other bytes than the server sent");
}

/// Covers: R69
#[test]
fn a_gigabyte_comes_whole_into_a_file_from_our_server() {
    gigabyte(Setup::start_ours, |client, path| client.argument("--output").argument(path));
}

#[test]
fn a_gigabyte_comes_whole_from_a_server_without_root() {
    gigabyte(Setup::start_as_nobody, |client, path| client.argument("--output").argument(path));
}

/// Covers: R69
#[test]
fn a_gigabyte_comes_whole_to_standard_output_from_ocserv() {
    gigabyte(Setup::start_ocserv, |client, path| client.results_to(path));
}

fn proxy(network: &Network, gateway: &Gateway, arguments: &[&str], ports: usize) -> Option<RunningClient> {
    Some(Client::to(network, 0, gateway, "proxy")?.as_alice().arguments(arguments).listen(ports))
}

fn curl(network: &Network, arguments: &[&str]) -> Output {
    let common = ["--silent", "--show-error", "--globoff", "--noproxy", "none.example", "--max-time", "20"];
    network.client(0).try_run("curl", &[&common, arguments].concat(), LONG)
}

const SOCKS: [&str; 2] = ["--socks5-hostname", "127.0.0.1:1080"];

/// Thirty clients of the proxy ask for much and read nothing: the others notice nothing, and memory has a bound.
///
/// Covers: R63, R69
#[test]
fn a_client_of_the_proxy_that_stops_reading_stops_only_itself() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let Some(gateway) = start(&Setup::new(), &network) else { return };
        let Some(mut client) = proxy(&network, &gateway, &["--socks5", "1080", "--http", "3128"], 2) else {
            return;
        };
        let lazy: Vec<TcpStream> = network.client(0).with(|| {
            (0..30)
                .map(|_| {
                    let proxy = SocketAddr::from(([127, 0, 0, 1], 3128));
                    let mut stream = TcpStream::connect(proxy).expect("the proxy listens");
                    let request =
                        "GET http://10.20.0.2/stream/50000000/0 HTTP/1.1\r\nHost: 10.20.0.2\r\n\r\n";
                    stream.write_all(request.as_bytes()).expect("a request");
                    stream
                })
                .collect()
        });
        for mut stream in &lazy {
            let mut first = [0; 12];
            stream.set_read_timeout(Some(LONG)).expect("a limit above zero");
            stream.read_exact(&mut first).expect("an answer");
            assert_eq!(&first, b"HTTP/1.1 200");
        }
        for _ in 0..3 {
            let page = curl(&network, &[&SOCKS[..], &["http://10.20.0.2/bytes/3000000"]].concat());
            assert_eq!(page.expect_success("curl beside lazy clients").len(), 3_000_000);
        }
        let peak = client.peak_kib();
        assert!(peak < MAX_MEMORY_KIB, "{peak} KiB");
        drop(lazy);
        let page = curl(&network, &[&SOCKS[..], &["http://10.20.0.2/bytes/3000000"]].concat());
        assert_eq!(page.expect_success("curl after lazy clients").len(), 3_000_000);
        assert_eq!(client.terminate().output.code, Some(0));
    }
}

/// A host beside the tunnel: a web server at the VPN server's own address.
fn outside(network: &Network, directory: &Path) -> Process {
    std::fs::write(directory.join("index.html"), "page beside the tunnel\n").expect("a file");
    let server = network.server();
    let root = directory.to_string_lossy();
    let arguments = ["-u", "-m", "http.server", "--bind", "192.0.2.1", "--directory", &root, "8088"];
    let process = server.start("python3", &arguments, directory);
    let here = SocketAddr::from(([192, 0, 2, 1], 8088));
    until("the web server", SHORT, || server.with(|| TcpStream::connect(here).ok()));
    process
}

/// Covers: R64, R66, P-094
#[test]
fn what_the_routes_leave_out_is_refused_or_goes_by_the_host_and_nothing_else_does() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let setup = Setup::new().set("routeExcludes", serde_json::json!(["10.20.0.128/25"]));
        let Some(gateway) = start(&setup, &network) else { return };
        let directory = tempfile::tempdir().expect("a directory for temporary files");
        let _outside = outside(&network, directory.path());
        network.corporate().netns().run("ip", &["addr", "add", "10.20.0.200/24", "dev", "eth0"]);
        // A local network that claims a corporate address, and one that the tunnel leaves out.
        for address in ["10.20.0.2/32", "10.20.0.200/32"] {
            network.client(0).run("ip", &["addr", "add", address, "dev", "lo"]);
        }
        std::fs::write(directory.path().join("decoy"), "decoy\n").expect("a file");
        let root = directory.path().to_string_lossy();
        let arguments = ["-u", "-m", "http.server", "--bind", "::", "--directory", &root, "80"];
        let _decoy = network.client(0).start("python3", &arguments, directory.path());
        until("the decoy", SHORT, || network.client(0).with(|| TcpStream::connect(("10.20.0.2", 80)).ok()));

        let Some(strict) = proxy(&network, &gateway, &[], 1) else { return };
        let get = |url: &str| curl(&network, &[&SOCKS[..], &[url]].concat());
        assert!(get("http://10.20.0.2/").expect_success("tunnelled").starts_with("corporate page for "));
        for url in ["http://192.0.2.1:8088/", "http://10.20.0.200/", "http://127.0.0.1/", "http://[::1]/"] {
            let refused = get(url);
            assert_eq!(refused.code, Some(97), "{url}: {refused:?}");
        }
        assert_eq!(strict.terminate().output.code, Some(0));

        let Some(direct) = proxy(&network, &gateway, &["--bypass", "direct"], 1) else { return };
        assert!(get("http://10.20.0.2/").expect_success("tunnelled").starts_with("corporate page for "));
        assert_eq!(
            get("http://192.0.2.1:8088/index.html").expect_success("direct"),
            "page beside the tunnel\n"
        );
        assert_eq!(get("http://10.20.0.200/decoy").expect_success("excluded"), "decoy\n");
        assert_eq!(get("http://127.0.0.1/").code, Some(97), "loopback is nobody's business");
        assert_eq!(direct.terminate().output.code, Some(0));
    }
}

/// Both families outside, both inside.
///
/// Covers: statement 31
#[test]
fn a_server_is_reached_over_ipv6_too() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let Some(gateway) = start(&Setup::new(), &network) else { return };
        let url = format!("https://{}", gateway.address_v6(&network, 0));
        for page in ["http://10.20.0.2/bytes/200000", "http://[fd00:20::2]/bytes/200000"] {
            let Some(client) = Client::at(network.client(0), "get", &url) else { return };
            let page = client.as_alice().authority(gateway.certificate()).argument(page).run();
            assert_eq!(page.expect_success("get").len(), 200_000);
        }
    }
}

/// Covers: R63: the reader at the other end of the pipe has stopped.
#[test]
fn a_download_that_nobody_reads_ends_at_a_signal() {
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let Some(client) = Client::to(&network, 0, &gateway, "get") else { return };
    let pipe = client.path("pipe");
    network.client(0).run("mkfifo", &[&pipe.to_string_lossy()]);
    // Opened for both, so that neither end waits for the other.
    let mut reader = OpenOptions::new().read(true).write(true).open(&pipe).expect("a pipe");
    let client = client.as_alice().results_to(&pipe).argument("http://10.20.0.2/bytes/3000000").start();
    reader.read_exact(&mut [0]).expect("the page begins");
    // The pipe is full long before.
    sleep(Duration::from_secs(1));
    let ended = client.terminate();
    assert!(ended.took < SHORT, "{:?}", ended.took);
    ended.expect_failure("interrupted");
}

/// A download whose tunnel is ended by the server, or whose reader goes away, fails soon and says why.
///
/// Covers: R63
#[test]
fn a_download_that_cannot_go_on_fails_and_says_why() {
    for start in BOTH {
        let Some(network) = Network::new() else { return };
        let Some(gateway) = start(&Setup::new(), &network) else { return };
        let Some(client) = Client::to(&network, 0, &gateway, "get") else { return };
        let mut client = client.as_alice().argument("http://10.20.0.2/slow/600").start();
        client.wait_for(Stream::Stdout, "..", 1, LONG);
        gateway.disconnect(&network, "alice");
        let ended = client.end();
        assert!(ended.took < LONG, "{:?}", ended.took);
        ended.expect_failure("the server ended the session");
    }
    let Some(network) = Network::new() else { return };
    let Some(gateway) = Setup::new().start_ours(&network) else { return };
    let Some(client) = Client::to(&network, 0, &gateway, "get") else { return };
    let client = client.as_alice().results_to(Path::new("/dev/full"));
    client.argument("http://10.20.0.2/bytes/3000000").run().expect_failure("cannot write the page");
    let Some(client) = Client::to(&network, 0, &gateway, "get") else { return };
    let client = client.as_alice().arguments(&["--output", "/nowhere/page"]);
    client.argument("http://10.20.0.2/").run().expect_failure("cannot create /nowhere/page");
}
