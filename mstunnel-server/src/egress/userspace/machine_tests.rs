//! A machine and a client of smoltcp in memory, in virtual time.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use mstunnel_proto::packet::Packet;
use mstunnel_proto::packet::checksum::Sum;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{self, State};
use smoltcp::wire::{HardwareAddress, IpCidr, TcpPacket};

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
    longest: usize,
}

impl Exit for Taken {
    fn has_room(&mut self) -> bool {
        self.packets.len() < self.room
    }

    fn send<R>(&mut self, len: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        assert!(len <= MTU, "a packet of {len} bytes");
        self.longest = self.longest.max(len);
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
        Self::connect_with(local, remote, SIZES)
    }

    fn connect_with(local: &str, remote: &str, sizes: Sizes) -> Self {
        let start = Instant::now();
        let remote: SocketAddr = remote.parse().unwrap();
        let mut client = Client::connect(local.parse().unwrap(), remote);
        client.interface.poll(SmolInstant::ZERO, &mut client.wire, &mut client.sockets);
        let syn = client.wire.sent.pop_front().unwrap();
        let machine = Machine::accept(&syn, remote, MTU, sizes, 7, start);
        let exit = Taken { room: usize::MAX, ..Taken::default() };
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
                self.handle_packet(&packet);
            }
        }
        panic!("the two never come to rest");
    }

    fn poll_client(&mut self) {
        let time = SmolInstant::from_micros(i64::try_from((self.now - self.start).as_micros()).unwrap());
        self.client.interface.poll(time, &mut self.client.wire, &mut self.client.sockets);
    }

    fn handle_packet(&mut self, packet: &[u8]) {
        let segment = Packet::parse(packet).unwrap().tcp().unwrap();
        self.machine.handle_packet(packet, &segment, self.now);
    }

    /// What the client would send of `bytes`, `ahead` of where it is.
    fn forge(&mut self, bytes: &[u8], ahead: u32) -> Vec<u8> {
        self.client.socket().send_slice(bytes).unwrap();
        self.poll_client();
        let mut packet = self.client.wire.sent.pop_front().unwrap();
        let sequence = sequence_of(&packet).wrapping_add(ahead);
        packet[24..28].copy_from_slice(&sequence.to_be_bytes());
        fill_checksum(&mut packet);
        packet
    }

    /// Lets packets pass for so long from a client whose window is closed; returns how many it got.
    fn pass_with_closed_window(&mut self, time: Duration) -> usize {
        let (until, mut count) = (self.now + time, 0);
        while self.now < until {
            self.next = self.machine.pump(&mut self.exit, self.now);
            count += self.exit.packets.len();
            self.client.wire.received.append(&mut self.exit.packets);
            let time = SmolInstant::from_micros(i64::try_from((self.now - self.start).as_micros()).unwrap());
            self.client.interface.poll(time, &mut self.client.wire, &mut self.client.sockets);
            for mut packet in std::mem::take(&mut self.client.wire.sent) {
                packet[34..36].fill(0);
                fill_checksum(&mut packet);
                self.handle_packet(&packet);
            }
            let delay = self.client.interface.poll_delay(time, &self.client.sockets);
            let client_at = delay.map_or(until, |delay| self.now + Duration::from(delay));
            let at = if let Next::At(at) = self.next { at } else { until };
            self.now = at.min(client_at).min(until).max(self.now + Duration::from_millis(1));
        }
        count
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

fn sequence_of(packet: &[u8]) -> u32 {
    Packet::parse(packet).unwrap().tcp().unwrap().sequence()
}

/// A segment of the client, with everything else as in `template`, which has no options.
fn segment(template: &[u8], flags: u8, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = [&template[..40], payload].concat();
    let len = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet[10..12].fill(0);
    let checksum = Sum::default().bytes(&packet[..20]).checksum();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    packet[33] = flags;
    fill_checksum(&mut packet);
    packet
}

fn fill_checksum(packet: &mut [u8]) {
    let mut segment = TcpPacket::new_unchecked(&mut packet[20..]);
    segment.fill_checksum(&Ipv4Addr::new(10, 9, 0, 5).into(), &Ipv4Addr::new(10, 20, 0, 2).into());
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

/// Covers: R9: a session that comes back over a narrower path, and what was under way.
#[test]
fn what_was_sent_in_large_packets_is_sent_again_in_smaller_ones() {
    for (local, remote) in [("10.9.0.5:5000", "10.20.0.2:80"), ("[fd00:9::5]:5000", "[fd00:20::2]:80")] {
        let mut pair = Pair::connect(local, remote);
        let bytes: Vec<u8> = (0..20_000_u32).map(|n| n.to_le_bytes()[0]).collect();
        assert_eq!(pair.send(&bytes), bytes.len());
        pair.machine.pump(&mut pair.exit, pair.now);
        assert_eq!(pair.exit.longest, MTU);
        pair.exit = Taken { room: usize::MAX, ..Taken::default() };
        pair.machine.shrink(1_300);
        pair.machine.shrink(MTU);
        for _ in 0..10 {
            pair.advance(Duration::from_secs(1));
        }
        assert_eq!(pair.client.read_all(), bytes);
        assert_eq!(pair.exit.longest, 1_300);
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
    // A host may be slower than TIME-WAIT is long.
    pair.advance(Duration::from_secs(11));
    assert_eq!(pair.receive(), b"last words");
    assert!(pair.machine.is_drained() && !pair.machine.has_unread());
}

/// RFC 9293 section 3.10.7.4: the text of a segment behind a FIN is ignored.
#[test]
fn bytes_behind_the_last_one_are_nobodys() {
    let mut pair = ipv4();
    let behind = pair.forge(b"all of it", 10);
    pair.client.socket().close();
    // The client sends again what it takes for lost.
    pair.advance(Duration::from_secs(2));
    for _ in 0..2 {
        pair.handle_packet(&behind);
        assert!(pair.machine.has_unread() && !pair.machine.is_drained());
    }
    assert_eq!(pair.receive(), b"all of it");
    assert!(pair.machine.is_drained() && !pair.machine.has_unread());
    pair.handle_packet(&behind);
    assert!(pair.receive().is_empty());
    assert!(pair.machine.is_drained() && !pair.machine.has_unread());
    assert_eq!(pair.send(b"answer"), 6);
    pair.settle();
    assert_eq!(pair.client.read_all(), b"answer");
}

/// Covers: R55, R69: the window of a SYN-ACK is not scaled, and smoltcp takes it for one that is.
#[test]
fn bytes_beyond_the_buffer_are_nobodys() {
    let mut pair =
        Pair::connect_with("10.9.0.5:5000", "10.20.0.2:80", Sizes { from_client: 200_000, to_client: 4_096 });
    // The buffer is 131,070 bytes, the largest of these that 65,535 shifted can tell.
    let beyond = pair.forge(&[1; 200], 131_000);
    pair.handle_packet(&beyond);
    pair.advance(Duration::from_secs(2));
    assert_eq!(pair.receive(), [1; 200]);
    let said: Vec<u8> = (0..130_800).map(|at| u8::try_from(at % 251).unwrap()).collect();
    assert_eq!(pair.client.socket().send_slice(&said).unwrap(), said.len());
    pair.advance(Duration::from_secs(2));
    let mut heard = pair.receive();
    pair.advance(Duration::from_secs(2));
    heard.extend(pair.receive());
    assert_eq!(heard.len(), 130_870, "no more than the buffer holds");
    assert!(heard[..130_800] == said && heard[130_800..] == [1; 70]);
}

/// Covers: R69: with the window full and the end one number behind it, this byte is in the window as smoltcp counts.
#[test]
fn a_byte_half_of_all_numbers_behind_the_end_is_nobodys() {
    let mut pair = ipv4();
    let template = pair.forge(b"x", 0);
    let start = sequence_of(&template);
    for at in (0..32_768).step_by(1_024) {
        let flags = if at + 1_024 == 32_768 { 0x11 } else { 0x10 };
        pair.handle_packet(&segment(&template, flags, start + at, &[7; 1_024]));
    }
    let behind = start.wrapping_add(32_768 + 1).wrapping_add((1 << 31) - 1);
    pair.handle_packet(&segment(&template, 0x10, behind, &[8]));
    assert!(pair.receive() == [7; 32_768]);
    assert!(pair.machine.is_drained());
}

/// smoltcp cuts the segment at the end of its window, and would take its FIN for the end.
#[test]
fn an_end_that_does_not_fit_the_window_is_no_end() {
    let mut pair = ipv4();
    let template = pair.forge(b"x", 0);
    let start = sequence_of(&template);
    for at in (0..31_744).step_by(1_024) {
        pair.handle_packet(&segment(&template, 0x10, start + at, &[7; 1_024]));
    }
    pair.handle_packet(&segment(&template, 0x11, start + 31_744, &[7; 1_030]));
    assert!(pair.receive() == [7; 32_768]);
    assert!(!pair.machine.is_drained(), "six bytes are missing");
    pair.next = pair.machine.pump(&mut pair.exit, pair.now);
    let last = pair.exit.packets.back().unwrap();
    assert!(Packet::parse(last).unwrap().tcp().unwrap().is_rst());
    assert_eq!(pair.next, Next::Gone);
}

#[test]
fn what_panics_ends_the_flow_alone() {
    let mut pair = ipv4();
    pair.client.socket().send_slice(b"unread").unwrap();
    pair.settle();
    assert!(pair.machine.has_unread());
    assert_eq!(pair.machine.contained(|_| panic!("as smoltcp might")), None::<()>);
    assert!(!pair.machine.has_unread() && !pair.machine.is_drained());
    assert_eq!(pair.send(b"more"), 0);
    assert_eq!(pair.machine.pump(&mut pair.exit, pair.now), Next::Gone);
}

/// The client's data comes with its end, to a flow whose host has ended.
fn with_a_last_word() -> Pair {
    last_word_of(ipv4())
}

fn last_word_of(mut pair: Pair) -> Pair {
    pair.machine.finish();
    pair.settle();
    pair.client.socket().send_slice(b"goodbye").unwrap();
    pair.client.socket().close();
    pair.poll_client();
    for packet in std::mem::take(&mut pair.client.wire.sent) {
        pair.handle_packet(&packet);
    }
    pair
}

#[test]
fn the_last_bytes_of_the_client_are_acknowledged_before_the_flow_is_forgotten() {
    let mut pair = with_a_last_word();
    assert_eq!(pair.machine.pump(&mut pair.exit, pair.now), Next::Gone);
    pair.client.wire.received.append(&mut pair.exit.packets);
    pair.poll_client();
    assert_eq!(pair.client.socket().state(), State::Closed);
    assert_eq!(pair.receive(), b"goodbye");
}

#[test]
fn the_last_bytes_of_the_client_outlive_an_exit_that_is_blocked() {
    let mut pair = with_a_last_word();
    pair.exit.room = 0;
    assert_eq!(pair.machine.pump(&mut pair.exit, pair.now), Next::Blocked);
    pair.exit.room = usize::MAX;
    pair.now += Duration::from_secs(180);
    assert_eq!(pair.machine.pump(&mut pair.exit, pair.now), Next::Gone);
    assert_eq!(pair.exit.packets.len(), 1, "an acknowledgement");
    assert_eq!(pair.receive(), b"goodbye");
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
fn a_flow_that_was_reset_before_it_was_open_is_not_opened_again() {
    let mut client = Client::connect("10.9.0.5:5000".parse().unwrap(), "10.20.0.2:80".parse().unwrap());
    client.interface.poll(SmolInstant::ZERO, &mut client.wire, &mut client.sockets);
    let syn = client.wire.sent.pop_front().unwrap();
    let (now, mut exit) = (Instant::now(), Taken { room: 1, ..Taken::default() });
    let mut machine = Machine::accept(&syn, "10.20.0.2:80".parse().unwrap(), MTU, SIZES, 7, now);
    machine.pump(&mut exit, now);
    let mut reset = syn.clone();
    // No options.
    reset[32] = 0x50;
    let heard = sequence_of(&exit.packets[0]) + 1;
    reset[28..32].copy_from_slice(&heard.to_be_bytes());
    let reset = segment(&reset, 0x14, sequence_of(&syn) + 1, b"");
    for packet in [&reset, &syn] {
        machine.handle_packet(packet, &Packet::parse(packet).unwrap().tcp().unwrap(), now);
    }
    exit.packets.clear();
    assert_eq!(machine.pump(&mut exit, now), Next::Gone);
    assert!(exit.packets.is_empty(), "a second connection in the place of the first");
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

/// Covers: R60, R69: smoltcp probes a window that was closed when the last byte came, and has nothing to probe it
/// with.
#[test]
fn a_client_that_takes_the_end_and_closes_its_window_is_not_flooded() {
    let mut pair = ipv4();
    pair.send(&[7; 2_000]);
    pair.machine.finish();
    pair.machine.pump(&mut pair.exit, pair.now);
    // The first half is acknowledged by itself.
    let second = pair.exit.packets.split_off(1);
    pair.pass_with_closed_window(Duration::from_millis(50));
    pair.exit.packets = second;
    pair.pass_with_closed_window(Duration::from_millis(50));
    assert_eq!(pair.client.read_all(), [7; 2_000]);
    let count = pair.pass_with_closed_window(Duration::from_secs(600));
    assert!(count < 30, "{count} packets in ten minutes");
    // The client's own half goes on.
    pair.client.socket().send_slice(b"still here").unwrap();
    pair.client.socket().close();
    pair.settle();
    assert_eq!(pair.receive(), b"still here");
    assert!(pair.machine.is_drained());
    assert_eq!(pair.next, Next::Gone);
}

#[test]
fn a_flow_that_was_quiet_for_minutes_ends_in_order() {
    let mut pair = ipv4();
    pair.advance(Duration::from_secs(200));
    pair.machine.finish();
    pair.settle();
    assert_eq!(pair.client.socket().state(), State::CloseWait);
    pair.client.socket().send_slice(b"one more thing").unwrap();
    pair.client.socket().close();
    pair.settle();
    assert_eq!(pair.receive(), b"one more thing");
    assert!(pair.machine.is_drained());
    assert_eq!(pair.next, Next::Gone);
}

/// Covers: R59
#[test]
fn an_end_that_nobody_acknowledges_is_given_up() {
    let mut pair = ipv4();
    pair.machine.finish();
    let start = pair.now;
    while pair.next != Next::Gone {
        pair.next = pair.machine.pump(&mut pair.exit, pair.now);
        // Its packets go nowhere.
        pair.exit.packets.clear();
        pair.now += Duration::from_secs(1);
        assert!(pair.now - start < USER_TIMEOUT + Duration::from_secs(5));
    }
    assert!(pair.now - start > USER_TIMEOUT);
}

#[test]
fn what_the_host_has_not_taken_outlives_a_late_segment() {
    let mut pair = ipv4();
    let template = pair.forge(b"x", 0);
    let start = sequence_of(&template);
    // The client sends this byte again.
    let mut pair = last_word_of(pair);
    pair.advance(Duration::from_secs(2));
    let late = segment(&template, 0x10, start + 9, b"");
    assert_eq!(pair.machine.pump(&mut pair.exit, pair.now), Next::Gone);
    pair.now += Duration::from_secs(60);
    pair.handle_packet(&late);
    assert_eq!(pair.machine.pump(&mut pair.exit, pair.now), Next::Gone);
    assert_eq!(pair.receive(), b"xgoodbye");
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
