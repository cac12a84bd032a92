//! A machine and a client of smoltcp in memory, in virtual time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mstunnel_proto::packet::Packet;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{self, State};
use smoltcp::wire::{HardwareAddress, IpCidr};

use super::*;

const MTU: usize = 1_400;
const SIZES: Sizes = Sizes { from_client: 32 * 1024, to_client: 32 * 1024 };

/// smoltcp waits 10 ms for something to acknowledge along with.
const HELD_BACK: Duration = Duration::from_millis(11);

/// The exit of a machine: a list that takes so many packets.
#[derive(Default)]
struct Taken {
    packets: VecDeque<Vec<u8>>,
    room: usize,
}

impl Exit for Taken {
    fn has_room(&mut self) -> bool {
        self.packets.len() < self.room
    }

    fn send<R>(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        assert!(len <= MTU, "a packet of {len} bytes");
        let mut packet = vec![0; len];
        let result = write(&mut packet);
        self.packets.push_back(packet);
        result
    }
}

/// The client's own stack.
struct Client {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    wire: Wire,
}

#[derive(Default)]
struct Wire {
    received: VecDeque<Vec<u8>>,
    sent: VecDeque<Vec<u8>>,
}

impl Client {
    fn connect(local: SocketAddr, remote: SocketAddr) -> Self {
        let mut wire = Wire::default();
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut wire, SmolInstant::ZERO);
        let length = if local.is_ipv4() { 32 } else { 128 };
        interface
            .update_ip_addrs(|addresses| addresses.push(IpCidr::new(local.ip().into(), length)).unwrap());
        let buffer = || tcp::SocketBuffer::new(vec![0; 256 * 1024]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.connect(interface.context(), remote, local).unwrap();
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Self { interface, sockets, handle, wire }
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn read_all(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; 256 * 1024];
        let len = self.socket().recv_slice(&mut bytes).unwrap_or(0);
        bytes.truncate(len);
        bytes
    }
}

/// Both ends and the time.
struct Pair {
    client: Client,
    machine: Machine,
    exit: Taken,
    start: Instant,
    now: Instant,
    next: Next,
}

impl Pair {
    fn connect(local: &str, remote: &str) -> Self {
        let start = Instant::now();
        let remote: SocketAddr = remote.parse().unwrap();
        let mut client = Client::connect(local.parse().unwrap(), remote);
        client.interface.poll(SmolInstant::ZERO, &mut client.wire, &mut client.sockets);
        let syn = client.wire.sent.pop_front().unwrap();
        let machine = Machine::accept(&syn, remote, MTU, SIZES, 7, start);
        let exit = Taken { packets: VecDeque::new(), room: usize::MAX };
        let mut pair = Self { client, machine, exit, start, now: start, next: Next::Idle };
        pair.settle();
        assert_eq!(pair.client.socket().state(), State::Established);
        pair
    }

    /// Lets packets pass, and the time of acknowledgements that are held back, until both ends are quiet.
    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..10_000 {
            self.next = self.machine.pump(&mut self.exit, self.now);
            self.client.wire.received.append(&mut self.exit.packets);
            let time = SmolInstant::from_micros(i64::try_from((self.now - self.start).as_micros()).unwrap());
            self.client.interface.poll(time, &mut self.client.wire, &mut self.client.sockets);
            if self.client.wire.sent.is_empty() && self.exit.packets.is_empty() && self.next != Next::More {
                quiet += 1;
                self.now += HELD_BACK;
            } else {
                quiet = 0;
            }
            if quiet == 3 {
                return;
            }
            for packet in std::mem::take(&mut self.client.wire.sent) {
                let is_reset = Packet::parse(&packet).unwrap().tcp().unwrap().is_rst();
                self.machine.handle_packet(&packet, is_reset, self.now);
            }
        }
        panic!("the two never come to rest");
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.settle();
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(part) = self.machine.receive(|bytes| (bytes.len(), bytes.to_vec())) {
            all.extend(part);
        }
        all
    }

    fn send(&mut self, bytes: &[u8]) -> usize {
        let put = |room: &mut [u8]| {
            let len = bytes.len().min(room.len());
            room[..len].copy_from_slice(&bytes[..len]);
            (len, len)
        };
        self.machine.send(put).unwrap_or(0)
    }
}

fn ipv4() -> Pair {
    Pair::connect("10.9.0.5:5000", "10.20.0.2:80")
}

#[test]
fn bytes_pass_both_ways_and_each_half_closes_by_itself_in_both_families() {
    for (local, remote) in [("10.9.0.5:5000", "10.20.0.2:80"), ("[fd00:9::5]:5000", "[fd00:20::2]:80")] {
        let mut pair = Pair::connect(local, remote);
        pair.client.socket().send_slice(b"question").unwrap();
        pair.client.socket().close();
        pair.settle();
        assert!(!pair.machine.is_drained());
        assert_eq!(pair.receive(), b"question");
        assert!(pair.machine.is_drained());
        assert_eq!(pair.send(b"answer"), 6);
        pair.settle();
        assert_eq!(pair.client.read_all(), b"answer");
        pair.machine.finish();
        pair.settle();
        assert_eq!(pair.next, Next::Gone);
        assert!(!pair.machine.was_reset());
    }
}

#[test]
fn what_the_host_has_not_taken_outlives_the_end_of_both_halves() {
    let mut pair = ipv4();
    pair.machine.finish();
    pair.settle();
    pair.client.socket().send_slice(b"last words").unwrap();
    pair.client.socket().close();
    pair.settle();
    assert_eq!(pair.next, Next::Gone);
    assert!(pair.machine.has_unread());
    assert_eq!(pair.receive(), b"last words");
    assert!(pair.machine.is_drained() && !pair.machine.has_unread());
}

/// Covers: R55
#[test]
fn a_host_that_reads_nothing_closes_the_clients_window() {
    let mut pair = ipv4();
    let said: Vec<u8> = (0..200_000).map(|at| u8::try_from(at % 251).unwrap()).collect();
    assert_eq!(pair.client.socket().send_slice(&said).unwrap(), said.len());
    pair.settle();
    let mut heard = pair.receive();
    assert_eq!(heard.len(), SIZES.from_client);
    for _ in 0..100 {
        pair.advance(Duration::from_millis(20));
        heard.extend(pair.receive());
    }
    assert!(heard == said, "{} of {} bytes", heard.len(), said.len());
}

/// Covers: R55
#[test]
fn a_client_that_reads_nothing_gets_no_more_than_the_buffers_hold() {
    let mut pair = ipv4();
    let mut sent = 0;
    for _ in 0..1_000 {
        sent += pair.send(&[7; 4_096]);
        pair.settle();
    }
    assert!(sent <= 256 * 1024 + SIZES.to_client, "{sent} bytes");
    assert_eq!(pair.send(&[7; 4_096]), 0);
}

#[test]
fn a_reset_of_the_client_ends_the_flow_and_is_told_apart() {
    let mut pair = ipv4();
    pair.client.socket().abort();
    pair.settle();
    assert!(pair.machine.was_reset());
    assert_eq!(pair.next, Next::Gone);
}

#[test]
fn an_aborted_flow_resets_the_client() {
    let mut pair = ipv4();
    pair.machine.abort();
    pair.settle();
    assert_eq!(pair.next, Next::Gone);
    assert_eq!(pair.client.socket().state(), State::Closed);
}

/// Covers: R59
#[test]
fn a_client_that_falls_silent_with_data_outstanding_is_given_up() {
    let mut pair = ipv4();
    pair.send(b"anybody?");
    let mut waited = Duration::ZERO;
    // Its packets go nowhere from now on.
    while pair.next != Next::Gone {
        pair.next = pair.machine.pump(&mut pair.exit, pair.now);
        pair.exit.packets.clear();
        pair.now += Duration::from_secs(1);
        waited += Duration::from_secs(1);
        assert!(waited < USER_TIMEOUT + Duration::from_secs(70), "still there after {waited:?}");
    }
    assert!(waited > USER_TIMEOUT);
}

#[test]
fn a_quiet_flow_wants_nothing_and_is_not_given_up() {
    let mut pair = ipv4();
    pair.advance(Duration::from_secs(1));
    assert_eq!(pair.next, Next::Idle);
    pair.advance(Duration::from_secs(7_200));
    assert_eq!(pair.next, Next::Idle);
    assert_eq!(pair.send(b"still here"), 10);
    pair.settle();
    assert_eq!(pair.client.read_all(), b"still here");
}

/// Covers: R60
#[test]
fn a_blocked_exit_is_waited_for_and_nothing_is_lost() {
    let mut pair = ipv4();
    pair.exit.room = 0;
    assert_eq!(pair.send(b"later"), 5);
    assert_eq!(pair.machine.pump(&mut pair.exit, pair.now), Next::Blocked);
    assert!(pair.exit.packets.is_empty());
    pair.exit.room = usize::MAX;
    pair.settle();
    assert_eq!(pair.client.read_all(), b"later");
}

#[test]
fn one_pump_sends_a_bounded_burst() {
    let mut pair = ipv4();
    // The congestion window opens with what is acknowledged.
    for _ in 0..20 {
        while pair.send(&[1; 4_096]) > 0 {}
        pair.settle();
        pair.client.read_all();
        pair.settle();
    }
    while pair.send(&[1; 4_096]) > 0 {}
    pair.machine.pump(&mut pair.exit, pair.now);
    assert!((2..=PACKETS_PER_PUMP).contains(&pair.exit.packets.len()), "{}", pair.exit.packets.len());
}

impl Device for Wire {
    type RxToken<'a> = In;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _now: SmolInstant) -> Option<(In, Sent<'_>)> {
        self.received.pop_front().map(|packet| (In(packet), Sent(&mut self.sent)))
    }

    fn transmit(&mut self, _now: SmolInstant) -> Option<Sent<'_>> {
        Some(Sent(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        capabilities
    }
}

struct In(Vec<u8>);

impl RxToken for In {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Sent<'a>(&'a mut VecDeque<Vec<u8>>);

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut packet = vec![0; len];
        let result = write(&mut packet);
        self.0.push_back(packet);
        result
    }
}
