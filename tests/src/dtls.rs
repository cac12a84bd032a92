//! Our DTLS engine at the end of a UDP socket on loopback, for peers that are command-line programs.
//!
//! ```text
//!   openssl s_client, gnutls-cli   --UDP-->  DtlsEcho    says back what it hears, in upper case
//!   openssl s_server, gnutls-serv  <--UDP--  DtlsCaller  says what the test wants
//! ```

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::drop::DropReason;
use mstunnel_proto::dtls::{
    ClientChannel, ClientChannelEvent, CookieKeys, Greeting, Keying, Opened, Path, ServerChannel,
    ServerChannelEvent, Suite, is_client_hello, records,
};

use crate::wait::{SHORT, until};

/// The longest a loop waits for a datagram before it looks at the clock and the test's wishes.
const PERIOD: Duration = Duration::from_millis(10);

/// What an end has seen.
#[derive(Debug, Default)]
struct Seen {
    text: Vec<u8>,
    opened: Vec<Suite>,
    rekeyed: usize,
    refused: usize,
    closed: bool,
    drops: Vec<DropReason>,
    longest: usize,
}

/// What a test may ask of either end.
#[derive(Clone, Debug, Default)]
pub struct Witness(Arc<Mutex<Seen>>);

impl Witness {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn print_if_failing(&self) {
        if thread::panicking() {
            let seen = self.lock();
            eprintln!("---- heard by our end: {:?}\n{seen:?}", String::from_utf8_lossy(&seen.text));
        }
    }

    /// Waits until a handshake has finished and returns its suite.
    pub fn suite(&self) -> Suite {
        until("the end of the handshake", SHORT, || self.lock().opened.last().copied())
    }

    /// Waits until the peer has said `needle`.
    pub fn wait_text(&self, needle: &str) {
        let mut heard = String::new();
        until(&format!("{needle:?} from the peer"), SHORT, || {
            heard = String::from_utf8_lossy(&self.lock().text).into_owned();
            heard.contains(needle).then_some(())
        });
    }

    /// Waits until keys were renewed `count` times.
    pub fn wait_rekeyed(&self, count: usize) {
        until("new keys", SHORT, || (self.lock().rekeyed >= count).then_some(()));
    }

    /// Waits until new keys came to nothing.
    pub fn wait_refused(&self) {
        until("a refusal of new keys", SHORT, || (self.lock().refused > 0).then_some(()));
    }

    /// Waits until the channel is closed.
    pub fn wait_closed(&self) {
        until("the end of the channel", SHORT, || self.lock().closed.then_some(()));
    }

    /// What was dropped so far.
    pub fn drops(&self) -> Vec<DropReason> {
        self.lock().drops.clone()
    }

    /// The length of the longest datagram that was sent.
    pub fn longest(&self) -> usize {
        self.lock().longest
    }
}

/// Random bytes of the operating system.
fn entropy() -> [u8; 32] {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes).expect("the generator of the system works");
    bytes
}

fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
    match socket.recv_from(buffer) {
        Ok(got) => Some(got),
        // A refused port is what a program that is not up yet looks like.
        Err(e)
            if matches!(
                e.kind(),
                ErrorKind::WouldBlock
                    | ErrorKind::TimedOut
                    | ErrorKind::ConnectionRefused
                    | ErrorKind::Interrupted
            ) =>
        {
            None
        }
        Err(e) => panic!("cannot receive: {e}"),
    }
}

/// A server that says back in upper case what it hears; ends when dropped.
#[derive(Debug)]
pub struct DtlsEcho {
    port: u16,
    witness: Witness,
    stop: Sender<()>,
    thread: Option<JoinHandle<()>>,
}

impl DtlsEcho {
    /// Serves one session, whatever a client calls it.
    pub fn start(keying: Keying) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        socket.set_read_timeout(Some(PERIOD)).expect("a timeout can be set");
        let port = socket.local_addr().expect("a bound socket has an address").port();
        let witness = Witness::default();
        let (stop, stopped) = channel();
        let (seen, channel) = (witness.clone(), ServerChannel::new(keying));
        let thread = thread::spawn(move || EchoLoop { socket, channel, seen }.run(&stopped));
        Self { port, witness, stop, thread: Some(thread) }
    }

    /// The UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the server has seen.
    pub fn witness(&self) -> &Witness {
        &self.witness
    }
}

impl Drop for DtlsEcho {
    fn drop(&mut self) {
        self.witness.print_if_failing();
        self.stop.send(()).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct EchoLoop {
    socket: UdpSocket,
    channel: ServerChannel,
    seen: Witness,
}

impl EchoLoop {
    fn run(mut self, stopped: &Receiver<()>) {
        let keys = CookieKeys::new(entropy());
        let (mut buffer, mut out) = (vec![0; 65_536], PacketBuf::new(1_500));
        while stopped.try_recv().is_err() {
            if let Some((len, remote)) = receive(&self.socket, &mut buffer) {
                let path = Path { remote, local: None, socket: 0 };
                if is_client_hello(&buffer[..len]) {
                    self.greet(&keys, path, &buffer[..len], &mut out);
                } else {
                    self.take(path, &mut buffer[..len], &mut out);
                }
            }
            self.channel.handle_timeout(Instant::now());
            while let Some(path) = self.channel.poll_transmit(&mut out) {
                self.send(path, out.as_slice());
            }
            while let Some(event) = self.channel.poll_event() {
                let mut seen = self.seen.lock();
                match event {
                    ServerChannelEvent::Opened { suite, .. } => seen.opened.push(suite),
                    ServerChannelEvent::Rekeyed { .. } => seen.rekeyed += 1,
                    ServerChannelEvent::Closed { .. } => seen.closed = true,
                    ServerChannelEvent::Moved { .. } => {}
                }
            }
        }
    }

    fn greet(&mut self, keys: &CookieKeys, path: Path, datagram: &[u8], out: &mut PacketBuf) {
        let dropped = match keys.greet(path.remote, datagram, out) {
            Greeting::Answer => {
                assert!(out.len() <= datagram.len(), "an answer is never longer than the question");
                self.send(path, out.as_slice());
                None
            }
            Greeting::Verified(hello) => {
                self.channel.handle_hello(path, &hello, entropy(), Instant::now()).err()
            }
            Greeting::Dropped(reason) => Some(reason),
        };
        self.seen.lock().drops.extend(dropped);
    }

    fn take(&mut self, path: Path, datagram: &mut [u8], out: &mut PacketBuf) {
        for record in records(datagram) {
            match self.channel.handle_record(path, record, Instant::now()) {
                Opened::Application(bytes) => {
                    self.seen.lock().text.extend_from_slice(bytes);
                    bytes.make_ascii_uppercase();
                    assert!(out.fill(bytes), "a packet of a test is short");
                    self.channel.seal(out).expect("an open channel seals");
                    self.send(path, out.as_slice());
                }
                Opened::Handled => {}
                Opened::Dropped(reason) => self.seen.lock().drops.push(reason),
            }
        }
    }

    fn send(&self, path: Path, datagram: &[u8]) {
        self.socket.send_to(datagram, path.remote).expect("loopback takes datagrams");
        let mut seen = self.seen.lock();
        seen.longest = seen.longest.max(datagram.len());
    }
}

enum Wish {
    Say(Vec<u8>),
    Rekey,
    Close,
}

/// A client that says what the test wants; ends when dropped.
#[derive(Debug)]
pub struct DtlsCaller {
    witness: Witness,
    wishes: Option<Sender<Wish>>,
    thread: Option<JoinHandle<()>>,
}

impl DtlsCaller {
    /// Calls a server on loopback.
    pub fn start(port: u16, keying: Keying, app_id: &[u8], suites: &[Suite]) -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback has a free port");
        socket.connect((Ipv4Addr::LOCALHOST, port)).expect("loopback has a route");
        socket.set_read_timeout(Some(PERIOD)).expect("a timeout can be set");
        let witness = Witness::default();
        let (wishes, wished) = channel();
        let channel = ClientChannel::start(keying, app_id, suites, entropy(), Instant::now());
        let seen = witness.clone();
        let thread = thread::spawn(move || CallLoop { socket, channel, seen }.run(&wished));
        Self { witness, wishes: Some(wishes), thread: Some(thread) }
    }

    /// What the client has seen.
    pub fn witness(&self) -> &Witness {
        &self.witness
    }

    /// Says `text`.
    pub fn say(&self, text: &str) {
        self.wish(Wish::Say(text.as_bytes().to_vec()));
    }

    /// Renews the keys.
    pub fn rekey(&self) {
        self.wish(Wish::Rekey);
    }

    /// Says close_notify.
    pub fn close(&self) {
        self.wish(Wish::Close);
    }

    fn wish(&self, wish: Wish) {
        let wishes = self.wishes.as_ref().expect("the caller is not dropped");
        wishes.send(wish).expect("the loop runs until the caller is dropped");
    }
}

impl Drop for DtlsCaller {
    fn drop(&mut self) {
        self.witness.print_if_failing();
        self.wishes = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

struct CallLoop {
    socket: UdpSocket,
    channel: ClientChannel,
    seen: Witness,
}

impl CallLoop {
    fn run(mut self, wished: &Receiver<Wish>) {
        let (mut buffer, mut out) = (vec![0; 65_536], PacketBuf::new(1_500));
        loop {
            match wished.try_recv() {
                Ok(Wish::Say(text)) => {
                    assert!(out.fill(&text), "a packet of a test is short");
                    self.channel.seal(&mut out).expect("the test speaks on an open channel");
                    self.send(out.as_slice());
                }
                Ok(Wish::Rekey) => {
                    assert!(self.channel.rekey(entropy(), Instant::now()), "an open channel takes new keys");
                }
                Ok(Wish::Close) => self.channel.close(),
                Err(std::sync::mpsc::TryRecvError::Empty) => {}
                Err(std::sync::mpsc::TryRecvError::Disconnected) => return,
            }
            while self.channel.poll_transmit(&mut out) {
                self.send(out.as_slice());
            }
            if let Some((len, _)) = receive(&self.socket, &mut buffer) {
                for record in records(&mut buffer[..len]) {
                    match self.channel.handle_record(record, Instant::now()) {
                        Opened::Application(bytes) => self.seen.lock().text.extend_from_slice(bytes),
                        Opened::Handled => {}
                        Opened::Dropped(reason) => self.seen.lock().drops.push(reason),
                    }
                }
            }
            self.channel.handle_timeout(Instant::now());
            while let Some(event) = self.channel.poll_event() {
                let mut seen = self.seen.lock();
                match event {
                    ClientChannelEvent::Opened { suite } => seen.opened.push(suite),
                    ClientChannelEvent::Rekeyed { .. } => seen.rekeyed += 1,
                    ClientChannelEvent::RekeyAsked => {
                        self.channel.rekey(entropy(), Instant::now());
                    }
                    ClientChannelEvent::RekeyFailed => seen.refused += 1,
                    ClientChannelEvent::Closed { .. } => seen.closed = true,
                }
            }
        }
    }

    fn send(&self, datagram: &[u8]) {
        // Refused while the program is not up yet: the engine sends again.
        self.socket.send(datagram).ok();
        let mut seen = self.seen.lock();
        seen.longest = seen.longest.max(datagram.len());
    }
}

/// The path of the client of [`open_pair`].
pub const PAIR_PATH: Path = Path {
    remote: SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 5_000),
    local: None,
    socket: 0,
};

/// Both ends of an open channel, in memory.
pub fn open_pair(suite: Suite) -> (ServerChannel, ClientChannel) {
    let (keys, now) = (CookieKeys::new(entropy()), Instant::now());
    let mut server = ServerChannel::new(Keying::psk([2; 32]));
    let mut client = ClientChannel::start(Keying::psk([2; 32]), &[3; 32], &[suite], entropy(), now);
    let (mut up, mut down) = (PacketBuf::new(1_500), PacketBuf::new(1_500));
    while client.poll_transmit(&mut up) {
        let mut answers = Vec::new();
        if is_client_hello(up.as_slice()) {
            match keys.greet(PAIR_PATH.remote, up.as_slice(), &mut down) {
                Greeting::Answer => answers.push(down.as_slice().to_vec()),
                Greeting::Verified(hello) => server
                    .handle_hello(PAIR_PATH, &hello, entropy(), now)
                    .expect("a hello of our client is good"),
                Greeting::Dropped(reason) => panic!("{reason}"),
            }
        } else {
            for record in records(up.as_mut_slice()) {
                assert_eq!(server.handle_record(PAIR_PATH, record, now), Opened::Handled);
            }
        }
        while server.poll_transmit(&mut down).is_some() {
            answers.push(down.as_slice().to_vec());
        }
        for mut answer in answers {
            for record in records(&mut answer) {
                assert_eq!(client.handle_record(record, now), Opened::Handled);
            }
        }
    }
    while server.poll_event().is_some() || client.poll_event().is_some() {}
    (server, client)
}
