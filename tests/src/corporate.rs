//! The corporate host: a web page that says who asked, an iperf3 server, a UDP listener.

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aws_lc_rs::digest;

use crate::netns::Netns;
use crate::network::Network;
use crate::process::{Process, Stream};
use crate::wait::{SHORT, read_within};

/// How often an accepting thread looks whether it should end.
const ACCEPT_PERIOD: Duration = Duration::from_millis(20);
/// The largest page, so that a typing error asks for no gigabytes.
const MAX_PAGE_BYTES: usize = 64 << 20;

/// The namespace of the corporate host, with its web server running.
#[derive(Debug)]
pub struct Corporate {
    netns: Netns,
    _web: Service,
}

impl Corporate {
    /// The port of the web server.
    pub const WEB_PORT: u16 = 80;

    /// The address of the name server, which the server tells its clients.
    pub const NAMES: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 53);

    pub(crate) fn new(netns: Netns) -> Self {
        let any: IpAddr = Ipv6Addr::UNSPECIFIED.into(); // both families
        let listener = netns.with(|| TcpListener::bind((any, Self::WEB_PORT))).expect("port 80 is free");
        let web = Service::start(listener, serve_page);
        Self { netns, _web: web }
    }

    /// The namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Starts `iperf3 -s` and waits until it listens.
    pub fn start_iperf3(&self, directory: &Path) -> Process {
        let mut process = self.netns.start("iperf3", &["--server", "--forceflush"], directory);
        process.wait_for(Stream::Stdout, "Server listening", 1, SHORT);
        process
    }

    /// Answers names on [`Corporate::NAMES`]: web.corp.example (both families) and out.corp.example (198.51.100.1,
    /// which is no corporate host). Needs dnsmasq.
    pub fn start_names(&self, directory: &Path) -> Process {
        self.netns.run("ip", &["addr", "add", &format!("{}/24", Self::NAMES), "dev", "eth0"]);
        let listen = format!("--listen-address={}", Self::NAMES);
        let arguments = [
            "--no-daemon",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--user=root",
            "--pid-file=",
            "--bind-interfaces",
            &listen,
            "--host-record=web.corp.example,10.20.0.2,fd00:20::2",
            "--host-record=out.corp.example,198.51.100.1",
        ];
        let mut names = self.netns.start("dnsmasq", &arguments, directory);
        names.wait_for(Stream::Stderr, "started", 1, SHORT);
        names
    }

    /// Listens on UDP `port` of both families.
    pub fn udp_sink(&self, port: u16) -> UdpSink {
        let socket =
            self.netns.with(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port))).expect("the port is free");
        UdpSink { socket }
    }

    /// Makes the address pools reachable, for servers that do not masquerade.
    pub fn route_pools_to_the_server(&self, pools: &[&str]) {
        for pool in pools {
            let via: IpAddr = match pool.contains(':') {
                true => Network::SERVER_INSIDE_V6.into(),
                false => Network::SERVER_INSIDE_V4.into(),
            };
            self.netns.run("ip", &["route", "add", pool, "via", &via.to_string()]);
        }
    }
}

/// A UDP socket of the corporate host: what the far side really saw.
#[derive(Debug)]
pub struct UdpSink {
    socket: UdpSocket,
}

impl UdpSink {
    /// Returns the next datagram and its source, or `None` if nothing comes within `limit`.
    pub fn receive(&self, limit: Duration) -> Option<(SocketAddr, Vec<u8>)> {
        let mut buffer = vec![0; 65_536];
        let received = read_within(limit, |left| {
            self.socket.set_read_timeout(Some(left))?;
            self.socket.recv_from(&mut buffer)
        });
        let (len, from) = received.ok()??;
        buffer.truncate(len);
        Some((SocketAddr::new(from.ip().to_canonical(), from.port()), buffer))
    }

    /// Answers a datagram.
    pub fn send(&self, to: SocketAddr, payload: &[u8]) {
        let to = match to.ip() {
            IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), to.port()),
            IpAddr::V6(_) => to,
        };
        self.socket.send_to(payload, to).expect("a datagram leaves");
    }
}

/// A thread that accepts connections and gives each a thread of its own; ends when dropped.
#[derive(Debug)]
pub(crate) struct Service {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    pub(crate) fn start(listener: TcpListener, serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, serve) = (Arc::clone(&stop), Arc::new(serve));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        stream.set_nonblocking(false).ok();
                        stream.set_read_timeout(Some(SHORT)).ok();
                        stream.set_write_timeout(Some(SHORT)).ok();
                        let serve = Arc::clone(&serve);
                        thread::spawn(move || serve(stream));
                    }
                    Err(_) => thread::sleep(ACCEPT_PERIOD),
                }
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Bytes that say where they stand, without end: blocks of 64 KiB, each with its number in front.
struct Blocks {
    block: Vec<u8>,
    number: u64,
}

impl Blocks {
    const LEN: usize = 64 * 1024;

    fn new(seed: u64) -> Self {
        let mut state = seed + 1;
        let mut byte = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        Self { block: (0..Self::LEN).map(|_| byte()).collect(), number: 0 }
    }

    /// The next block, or the first part of it that `left` has room for.
    fn next(&mut self, left: u64) -> &[u8] {
        self.block[..8].copy_from_slice(&self.number.to_be_bytes());
        self.number += 1;
        &self.block[..usize::try_from(left).unwrap_or(usize::MAX).min(Self::LEN)]
    }
}

/// The SHA-256 of the page `/stream/LEN/SEED`.
pub fn stream_digest(len: u64, seed: u64) -> Vec<u8> {
    let (mut blocks, mut left) = (Blocks::new(seed), len);
    let mut context = digest::Context::new(&digest::SHA256);
    while left > 0 {
        let block = blocks.next(left);
        context.update(block);
        left -= block.len() as u64;
    }
    context.finish().as_ref().to_vec()
}

fn serve_stream(stream: &mut TcpStream, len: u64, seed: u64) {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n");
    let (mut blocks, mut left) = (Blocks::new(seed), len);
    let mut written = stream.write_all(head.as_bytes());
    while written.is_ok() && left > 0 {
        let block = blocks.next(left);
        written = stream.write_all(block);
        left -= block.len() as u64;
    }
}

/// `/` says who asked; `/bytes/N` is N bytes long; `/stream/LEN/SEED` is LEN bytes that no other place and
/// no other seed has (see [`stream_digest`]); `/slow/N` sends one byte every 100 ms, N times; `/missing` is not there.
fn serve_page(mut stream: TcpStream) {
    let Ok(peer) = stream.peer_addr() else { return };
    let mut line = String::new();
    let mut reader = BufReader::new(&stream);
    if reader.read_line(&mut line).is_err() {
        return;
    }
    let start = Instant::now();
    let mut field = String::new();
    while reader.read_line(&mut field).is_ok_and(|len| len > 2) && start.elapsed() < SHORT {
        field.clear();
    }
    let path = line.split(' ').nth(1).unwrap_or("/");
    let number = |prefix: &str| path.strip_prefix(prefix).and_then(|n| n.parse::<usize>().ok());
    let whole = path.strip_prefix("/stream/").and_then(|rest| rest.split_once('/'));
    if let Some((Ok(len), Ok(seed))) = whole.map(|(len, seed)| (len.parse(), seed.parse())) {
        drop(reader);
        serve_stream(&mut stream, len, seed);
        return;
    }
    if path == "/missing" {
        drop(reader);
        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok();
        return;
    }
    let (body, slow) = match (number("/bytes/"), number("/slow/")) {
        (Some(n), _) => (vec![b'.'; n.min(MAX_PAGE_BYTES)], false),
        (_, Some(n)) => (vec![b'.'; n.min(MAX_PAGE_BYTES)], true),
        _ => (format!("corporate page for {}\n", peer.ip().to_canonical()).into_bytes(), false),
    };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    if stream.write_all(head.as_bytes()).is_err() {
        return;
    }
    if slow {
        for byte in body {
            thread::sleep(Duration::from_millis(100));
            if stream.write_all(&[byte]).is_err() {
                return;
            }
        }
    } else {
        stream.write_all(&body).ok();
    }
}
