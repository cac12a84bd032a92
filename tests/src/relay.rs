//! A bad network for datagrams: a relay in front of the server that loses, doubles, delays and damages them.
//!
//! ```text
//!   client --UDP 443--> [nft: redirect] relay --> server          (each client flow has a socket of its own)
//! ```
//!
//! The kernel of a test machine may have no netem; this needs nothing but sockets and one nft rule. The server
//! sees the relay's address instead of the client's. What happens to a datagram is drawn from a seed.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::netns::Netns;
use crate::network::Network;

/// The port of the relay in the server's namespace.
const RELAY_PORT: u16 = 5443;
/// How often a reading thread looks whether it should end.
const PERIOD: Duration = Duration::from_millis(50);
/// Flows of a test; more are not relayed.
const MAX_FLOWS: usize = 32;

/// What happens to datagrams, in percent of them; all zero lets everything through.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// Not delivered.
    pub loss: u8,
    /// Delivered twice.
    pub duplicate: u8,
    /// Delivered behind the next one.
    pub reorder: u8,
    /// Delivered with one bit changed.
    pub corrupt: u8,
    /// Not a percentage: the longest datagram that passes, in bytes of UDP payload; 0 for any.
    pub longest: usize,
}

impl Weather {
    /// Nothing gets through.
    pub const BLACK_HOLE: Self = Self { loss: 100, duplicate: 0, reorder: 0, corrupt: 0, longest: 0 };
    /// Everything does.
    pub const FAIR: Self = Self { loss: 0, duplicate: 0, reorder: 0, corrupt: 0, longest: 0 };
}

/// The relay; ends when dropped.
#[derive(Debug)]
pub struct Relay {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    weather: Mutex<Weather>,
    delivered: AtomicU64,
    longest: AtomicU64,
}

impl Relay {
    /// Puts the relay in front of UDP port 443 of the server's IPv4 addresses.
    pub fn start(network: &Network, seed: u64) -> Self {
        let server = network.server();
        let target = SocketAddr::new(network.ports(0).server_v4.into(), 443);
        let listener = server.with(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, RELAY_PORT)));
        let listener = listener.expect("the relay's port is free");
        let rules = format!(
            "table ip mst_test_relay {{ chain prerouting {{ type nat hook prerouting priority -100; \
             iifname \"cli*\" udp dport 443 redirect to :{RELAY_PORT}; }}; }}"
        );
        server.run("nft", &[&rules]);
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            weather: Mutex::default(),
            delivered: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        });
        let (inside, kept) = (server.reference(), Arc::clone(&shared));
        let thread = thread::spawn(move || relay(&listener, target, &inside, &kept, seed));
        Self { shared, thread: Some(thread) }
    }

    /// Changes the weather in both directions from now on.
    pub fn set(&self, weather: Weather) {
        *self.shared.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }

    /// Datagrams delivered so far, both directions.
    pub fn delivered(&self) -> u64 {
        self.shared.delivered.load(Ordering::Relaxed)
    }

    /// The longest datagram delivered, in bytes of UDP payload.
    pub fn longest(&self) -> u64 {
        self.shared.longest.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// From clients to the server; starts a thread for the way back of each flow.
fn relay(listener: &UdpSocket, target: SocketAddr, inside: &Netns, shared: &Arc<Shared>, seed: u64) {
    let mut flows: HashMap<SocketAddr, UdpSocket> = HashMap::new();
    let mut back = Vec::new();
    let mut path = Path::new(seed);
    let mut buffer = vec![0; 65_536];
    while let Some((len, from)) = receive(listener, &mut buffer, shared) {
        if !flows.contains_key(&from) && flows.len() < MAX_FLOWS {
            let socket = inside.with(|| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
                socket.connect(target)?;
                Ok::<_, std::io::Error>(socket)
            });
            let socket = socket.expect("a socket for a flow");
            let ways = (
                socket.try_clone().expect("a second handle"),
                listener.try_clone().expect("a second handle"),
                Arc::clone(shared),
            );
            let mut path = Path::new(seed ^ (flows.len() as u64 + 1));
            back.push(thread::spawn(move || {
                let (socket, listener, shared) = ways;
                let mut buffer = vec![0; 65_536];
                while let Some((len, _)) = receive(&socket, &mut buffer, &shared) {
                    path.carry(&mut buffer[..len], &shared, |bytes| {
                        listener.send_to(bytes, from).ok();
                    });
                }
            }));
            flows.insert(from, socket);
        }
        if let Some(socket) = flows.get(&from) {
            path.carry(&mut buffer[..len], shared, |bytes| {
                socket.send(bytes).ok();
            });
        }
    }
    for thread in back {
        thread.join().ok();
    }
}

/// The next datagram; `None` when the relay ends.
fn receive(socket: &UdpSocket, buffer: &mut [u8], shared: &Shared) -> Option<(usize, SocketAddr)> {
    socket.set_read_timeout(Some(PERIOD)).expect("a limit above zero");
    loop {
        if shared.stop.load(Ordering::Relaxed) {
            return None;
        }
        // An ICMP error of a server that is not there is an error here; a time-out too.
        if let Ok(received) = socket.recv_from(buffer) {
            return Some(received);
        }
    }
}

/// One direction of one flow.
struct Path {
    random: u64,
    held: Option<Vec<u8>>,
}

impl Path {
    fn new(seed: u64) -> Self {
        Self { random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, held: None }
    }

    /// A number from 0 to 99 (xorshift).
    fn percent(&mut self) -> u8 {
        u8::try_from(self.next() % 100).expect("below 100")
    }

    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 8
    }

    fn carry(&mut self, datagram: &mut [u8], shared: &Shared, mut send: impl FnMut(&[u8])) {
        let weather = *shared.weather.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = weather.longest == 0 || datagram.len() <= weather.longest;
        if !fits || self.percent() < weather.loss {
            return;
        }
        shared.longest.fetch_max(datagram.len() as u64, Ordering::Relaxed);
        if self.percent() < weather.corrupt && !datagram.is_empty() {
            let bit = usize::try_from(self.next()).unwrap_or(0) % (datagram.len() * 8);
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
        let held = self.held.take();
        if held.is_none() && self.percent() < weather.reorder {
            self.held = Some(datagram.to_vec());
            return;
        }
        let copies = if self.percent() < weather.duplicate { 2 } else { 1 };
        for _ in 0..copies {
            send(datagram);
        }
        shared.delivered.fetch_add(1, Ordering::Relaxed);
        if let Some(late) = held {
            send(&late);
            shared.delivered.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(weather: Weather) -> Vec<Vec<u8>> {
        let shared = Shared {
            stop: AtomicBool::new(false),
            weather: Mutex::new(weather),
            delivered: AtomicU64::new(0),
            longest: AtomicU64::new(0),
        };
        let (mut path, mut out) = (Path::new(7), Vec::new());
        for number in 0..100 {
            path.carry(&mut [number; 8], &shared, |bytes| out.push(bytes.to_vec()));
        }
        out
    }

    #[test]
    fn the_weather_does_what_it_says() {
        let fair: Vec<Vec<u8>> = (0..100).map(|number| vec![number; 8]).collect();
        assert_eq!(outcome(Weather::FAIR), fair);
        assert!(outcome(Weather::BLACK_HOLE).is_empty());
        assert_eq!(outcome(Weather { duplicate: 100, ..Weather::FAIR }).len(), 200);
        let corrupt = outcome(Weather { corrupt: 100, ..Weather::FAIR });
        assert!(corrupt.iter().zip(&fair).all(|(a, b)| a != b));
        let reordered = outcome(Weather { reorder: 100, ..Weather::FAIR });
        assert_eq!(reordered[..2], [vec![1; 8], vec![0; 8]]);
        let lossy = outcome(Weather { loss: 20, ..Weather::FAIR }).len();
        assert!((60..95).contains(&lossy), "{lossy}");
    }
}
