//! A server that does what a test tells it: TLS, and behind it whatever a hostile server may think of.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv6Addr, TcpListener};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::{ServerConnection, StreamOwned};

use crate::certificate::Certificate;
use crate::corporate::Service;
use crate::issuer::server_config;
use crate::network::Network;
use crate::wait::{SHORT, until};

/// The longest time that a script lets a client wait: longer than any patience of a client.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long the end of a server waits for its scripts.
const FAREWELL: Duration = Duration::from_secs(2);
/// The longest request that is read.
const MAX_REQUEST: usize = 64 * 1024;

/// A server in the server's namespace, on both families; ends when dropped.
#[derive(Debug)]
pub struct Scripted {
    visits: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    failures: Arc<AtomicUsize>,
    _service: Service,
}

/// One TLS connection of a client, whose handshake need not be done.
#[derive(Debug)]
pub struct Visit {
    stream: StreamOwned<ServerConnection, std::net::TcpStream>,
    /// How many came before it.
    pub number: usize,
}

impl Scripted {
    /// Listens on `port`; each connection runs `script`, and is closed behind it. Where a script panics, the test
    /// fails when this is dropped.
    pub fn start(
        network: &Network,
        port: u16,
        certificate: &Certificate,
        script: impl Fn(&mut Visit) + Send + Sync + 'static,
    ) -> Self {
        let tls = server_config(certificate);
        let any = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        // A connection of the server before may hold the port for a moment.
        let listener =
            until("a free port", SHORT, || network.server().with(|| TcpListener::bind((any, port))).ok());
        let [visits, running, failures] = [(); 3].map(|()| Arc::new(AtomicUsize::new(0)));
        let [count, now, failed] = [&visits, &running, &failures].map(Arc::clone);
        let service = Service::start(listener, move |stream| {
            let Ok(connection) = ServerConnection::new(Arc::clone(&tls)) else { return };
            stream.set_nodelay(true).ok();
            let number = count.fetch_add(1, Ordering::Relaxed);
            now.fetch_add(1, Ordering::AcqRel);
            let mut visit = Visit { stream: StreamOwned::new(connection, stream), number };
            if panic::catch_unwind(AssertUnwindSafe(|| script(&mut visit))).is_err() {
                failed.fetch_add(1, Ordering::Relaxed);
            }
            now.fetch_sub(1, Ordering::AcqRel);
            visit.stream.conn.send_close_notify();
            visit.stream.flush().ok();
        });
        Self { visits, running, failures, _service: service }
    }

    /// How many connections there were.
    pub fn visits(&self) -> usize {
        self.visits.load(Ordering::Relaxed)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        // One whose client has gone is about to find out; one that holds a client is cut off by the end of the test.
        let end = Instant::now() + FAREWELL;
        while self.running.load(Ordering::Acquire) > 0 && Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        let failures = self.failures.load(Ordering::Relaxed);
        assert_eq!(failures, 0, "scripts failed, as said above");
    }
}

impl Visit {
    /// Reads a request, head and body; `None` when the client has gone.
    pub fn request(&mut self) -> Option<String> {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
                });
                if body.len() >= length.unwrap_or(0) {
                    return Some(text.into_owned());
                }
            }
            let mut byte = [0; 4096];
            match self.stream.read(&mut byte) {
                Ok(len) if len > 0 && bytes.len() < MAX_REQUEST => bytes.extend(&byte[..len]),
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// Sends `bytes`; `false` when the client takes no more.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).and_then(|()| self.stream.flush()).is_ok()
    }

    /// Sends `bytes` and, with the same write, a record that nobody can open.
    pub fn send_and_break(&mut self, bytes: &[u8]) {
        let mut wire = Vec::new();
        let tls = &mut self.stream.conn;
        tls.writer().write_all(bytes).expect("a buffer takes it");
        while tls.wants_write() {
            tls.write_tls(&mut wire).expect("a vector takes it");
        }
        wire.extend([0x17, 3, 3, 0, 32]);
        wire.extend([0; 32]);
        self.stream.sock.write_all(&wire).ok();
    }

    /// Answers with a document.
    pub fn document(&mut self, body: &str) -> bool {
        let length = body.len();
        self.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes())
    }

    /// Lets the client sign in without a question.
    pub fn admit(&mut self) -> bool {
        self.document(
            "<?xml version=\"1.0\"?><config-auth><session-token>TOKEN@1@2</session-token>\
             <auth id=\"success\"/></config-auth>",
        )
    }

    /// Answers sign-ins until the client asks for a tunnel; `false` if it never does.
    pub fn until_connect(&mut self) -> bool {
        while let Some(request) = self.request() {
            if request.starts_with("CONNECT ") {
                return true;
            }
            if !self.admit() {
                return false;
            }
        }
        false
    }

    /// Opens a tunnel of `mtu` with `fields` (each line with its end) beside address and MTU.
    pub fn tunnel(&mut self, mtu: u16, fields: &str) -> bool {
        let answer = format!(
            "HTTP/1.1 200 CONNECTED\r\nX-CSTP-Version: 1\r\nX-CSTP-Address: 10.77.0.9\r\n\
             X-CSTP-Netmask: 255.255.255.0\r\n{fields}X-CSTP-MTU: {mtu}\r\n\r\n"
        );
        self.send(answer.as_bytes())
    }

    /// Sends one CSTP frame.
    pub fn frame(&mut self, kind: u8, payload: &[u8]) -> bool {
        let len = u16::try_from(payload.len()).expect("a frame").to_be_bytes();
        self.send(&[&[b'S', b'T', b'F', 1, len[0], len[1], kind, 0], payload].concat())
    }

    /// The type and payload of the next CSTP frame; `None` when there is none within `limit`.
    pub fn hear_frame(&mut self, limit: Duration) -> Option<(u8, Vec<u8>)> {
        self.stream.sock.set_read_timeout(Some(limit)).ok()?;
        let mut head = [0; 8];
        self.stream.read_exact(&mut head).ok()?;
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[4], head[5]]))];
        self.stream.read_exact(&mut payload).ok()?;
        Some((head[6], payload))
    }

    /// Says nothing until the client has gone.
    pub fn stall(&mut self) {
        let start = Instant::now();
        let mut buffer = [0; 4096];
        while start.elapsed() < PATIENCE {
            match self.stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(_) => return,
            }
        }
    }

    /// Sends `bytes` again and again until the client takes no more.
    pub fn flood(&mut self, bytes: &[u8]) {
        let start = Instant::now();
        while start.elapsed() < PATIENCE && self.send(bytes) {}
    }

    /// Sends `bytes` one by one, `period` apart, for ever.
    pub fn trickle(&mut self, bytes: &[u8], period: Duration) {
        let start = Instant::now();
        for byte in bytes.iter().cycle() {
            if start.elapsed() > PATIENCE || !self.send(&[*byte]) {
                return;
            }
            std::thread::sleep(period);
        }
    }
}
