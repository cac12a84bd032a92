//! The other end of a tunnel, in memory: a host with every address, which answers as its ports say.
//!
//! | TCP port | what it does |
//! | --- | --- |
//! | [`ECHO`] | sends back what it gets, closes when the other end has |
//! | [`SOURCE`] | sends [`SOURCE_LEN`] bytes of [`pattern`] and closes |
//! | [`RESET`] | resets at the first byte |
//! | [`DEAF`] | never reads |
//! | [`WEB`] | reads a request, sends a fixed HTTP response, or an odd one for some paths, and closes |
//! | others | refused |
//!
//! UDP port [`ECHO`] and echo requests are answered, and [`HOST_V4`] answers DNS for [`NAMES`]. [`UNREACHABLE`] is answered with an ICMP error.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::connect::{ConnectParams, InsideAddress};
use mstunnel_proto::mtu::Mtu;
use mstunnel_proto::packet::checksum::Sum;
use mstunnel_proto::packet::{Packet, Protocol, too_big};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::wire::{HardwareAddress, IpCidr};
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Stack, wire};
use crate::packets::{PacketReceiver, PacketSender, Packets};
use crate::params::TunnelParams;

pub(crate) const ECHO: u16 = 7;
pub(crate) const RESET: u16 = 13;
pub(crate) const DEAF: u16 = 14;
pub(crate) const SOURCE: u16 = 19;
pub(crate) const DNS: u16 = 53;
pub(crate) const WEB: u16 = 80;
/// `long` does not fit a datagram, `two` has an address that is unreachable before one that is not, `rebound`
/// is at a loopback address, `out` where few routes lead.
pub(crate) const NAMES: &[&str] = &[
    "www.corp.example",
    "long.corp.example",
    "two.corp.example",
    "rebound.corp.example",
    "out.corp.example",
];
pub(crate) const SOURCE_LEN: usize = 300_000;
pub(crate) const UNREACHABLE: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 99);
pub(crate) const HOST_V4: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
pub(crate) const HOST_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 2);
pub(crate) const WEB_RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// Byte `at` of what [`SOURCE`] sends.
pub(crate) fn pattern(at: usize) -> u8 {
    u8::try_from((at * 7 + at / 251) % 256).unwrap()
}

/// Parameters with an address of each family and an MTU of 1,400.
pub(crate) fn params(change: impl FnOnce(&mut ConnectParams)) -> Arc<TunnelParams> {
    let mut said = ConnectParams::new(Mtu::new(1_400));
    said.v4 = Some(InsideAddress { address: Ipv4Addr::new(10, 9, 0, 5), prefix_length: 16 });
    said.v6 = Some(InsideAddress { address: "fd00:9::5".parse().unwrap(), prefix_length: 64 });
    change(&mut said);
    Arc::new(TunnelParams::new(said).unwrap())
}

/// What a test holds.
pub(crate) struct World {
    pub(crate) stack: Stack,
    pub(crate) params: watch::Sender<Arc<TunnelParams>>,
    /// The longest packet that the host got since this was set to 0.
    pub(crate) longest: Arc<AtomicUsize>,
    host: tokio::task::JoinHandle<()>,
}

impl World {
    /// A stack and a host with `listeners` sockets on each port; one packet in `loss` is lost each way.
    pub(crate) fn start(listeners: usize, loss: Option<u64>) -> Self {
        Self::with_params(params(|_| ()), listeners, loss)
    }

    pub(crate) fn with_params(params: Arc<TunnelParams>, listeners: usize, loss: Option<u64>) -> Self {
        let (sender, receiver) = watch::channel(params);
        let (ours, theirs) = Packets::pair(1_500);
        let host = Host::new(theirs, listeners, loss);
        let longest = Arc::clone(&host.longest);
        let host = tokio::spawn(host.run());
        Self { stack: Stack::start(receiver, ours), params: sender, longest, host }
    }

    /// Ends the tunnel.
    pub(crate) fn cut(&self) {
        self.host.abort();
    }
}

struct Host {
    interface: Interface,
    sockets: SocketSet<'static>,
    services: Vec<(SocketHandle, u16, usize)>,
    device: Wire,
    receiver: PacketReceiver,
    longest: Arc<AtomicUsize>,
    start: Instant,
}

/// Both directions, with loss.
struct Wire {
    sender: PacketSender,
    received: VecDeque<Vec<u8>>,
    loss: Option<u64>,
    seed: u64,
}

impl Wire {
    fn loses(&mut self) -> bool {
        let Some(one_in) = self.loss else { return false };
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed.is_multiple_of(one_in)
    }

    fn send(&mut self, packet: &[u8]) {
        assert!(packet.len() <= 1_400, "a packet of {} bytes exceeds the MTU", packet.len());
        if self.loses() {
            return;
        }
        let mut buffer = self.sender.buffer();
        assert!(buffer.fill(packet));
        let _ = self.sender.try_send(buffer);
    }
}

impl Host {
    fn new(packets: Packets, listeners: usize, loss: Option<u64>) -> Self {
        let (sender, receiver) = packets.split();
        let mut device = Wire { sender, received: VecDeque::new(), loss, seed: 0x9E37_79B9_7F4A_7C15 };
        let mut interface =
            Interface::new(Config::new(HardwareAddress::Ip), &mut device, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(IpAddr::V4(HOST_V4).into(), 24)).unwrap();
            addresses.push(IpCidr::new(IpAddr::V6(HOST_V6).into(), 64)).unwrap();
        });
        let mut sockets = SocketSet::new(Vec::new());
        let mut services = Vec::new();
        for port in [ECHO, RESET, DEAF, SOURCE, DNS, WEB] {
            for _ in 0..listeners {
                let buffer = || tcp::SocketBuffer::new(vec![0; 65_536]);
                let mut socket = tcp::Socket::new(buffer(), buffer());
                socket.listen(port).unwrap();
                services.push((sockets.add(socket), port, 0));
            }
        }
        let longest = Arc::default();
        Self { interface, sockets, services, device, receiver, longest, start: Instant::now() }
    }

    async fn run(mut self) {
        loop {
            let now =
                smoltcp::time::Instant::from_micros(i64::try_from(self.start.elapsed().as_micros()).unwrap());
            self.interface.poll(now, &mut self.device, &mut self.sockets);
            self.serve();
            self.interface.poll(now, &mut self.device, &mut self.sockets);
            let delay = self.interface.poll_delay(now, &self.sockets).map_or(Duration::MAX, Duration::from);
            let received = tokio::time::timeout(delay.max(Duration::from_millis(1)), self.receiver.recv());
            match received.await {
                Ok(Some(packet)) => self.receive(packet),
                Ok(None) => return,
                Err(_) => {}
            }
            for _ in 0..64 {
                let Some(packet) = self.receiver.try_recv() else { break };
                self.receive(packet);
            }
        }
    }

    fn receive(&mut self, packet: PacketBuf) {
        assert!(packet.len() <= 1_400, "a packet of {} bytes exceeds the MTU", packet.len());
        self.longest.fetch_max(packet.len(), Ordering::Relaxed);
        let bytes = packet.as_slice().to_vec();
        self.receiver.recycle(packet);
        if self.device.loses() {
            return;
        }
        let parsed = Packet::parse(&bytes).expect("the stack sends valid packets");
        if parsed.destination() == IpAddr::V4(UNREACHABLE) {
            let answer = unreachable(&bytes);
            return self.device.send(&answer);
        }
        match parsed.protocol() {
            Protocol::Tcp => self.device.received.push_back(bytes),
            Protocol::Udp => {
                assert!(wire::is_intact(&parsed));
                let udp = parsed.udp().unwrap();
                let here = SocketAddr::new(parsed.destination(), udp.destination_port());
                let there = SocketAddr::new(parsed.source(), udp.source_port());
                let answer = match here.port() {
                    ECHO => udp.payload().to_vec(),
                    DNS if here.ip() == IpAddr::V4(HOST_V4) => dns_answer(udp.payload(), true),
                    _ => return,
                };
                let mut room = [0; 1_500];
                let len = wire::udp(&mut room, here, there, &answer).unwrap();
                self.device.send(&room[..len]);
            }
            Protocol::Icmp | Protocol::Icmpv6 => {
                assert!(wire::is_intact(&parsed));
                let answer = echo_reply(&bytes);
                self.device.send(&answer);
            }
            Protocol::Other(_) => {}
        }
    }

    fn serve(&mut self) {
        for (handle, port, done) in &mut self.services {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(*handle);
            if !socket.is_open() {
                *done = 0;
                socket.listen(*port).unwrap();
            }
            match *port {
                ECHO => {
                    let mut buffer = [0; 4_096];
                    while socket.can_recv() && socket.send_capacity() - socket.send_queue() >= buffer.len() {
                        let len = socket.recv_slice(&mut buffer).unwrap();
                        socket.send_slice(&buffer[..len]).unwrap();
                    }
                    if !socket.may_recv() && socket.may_send() {
                        socket.close();
                    }
                }
                SOURCE if socket.may_send() => {
                    while *done < SOURCE_LEN {
                        let end = (*done + 4_096).min(SOURCE_LEN);
                        let bytes: Vec<u8> = (*done..end).map(pattern).collect();
                        let len = socket.send_slice(&bytes).unwrap();
                        *done += len;
                        if len < bytes.len() {
                            break;
                        }
                    }
                    if *done == SOURCE_LEN {
                        socket.close();
                    }
                }
                DNS if socket.can_recv() && socket.may_send() => {
                    let mut query = [0; 512];
                    let len = socket.recv_slice(&mut query).unwrap();
                    let answer = dns_answer(&query[2..len], false);
                    socket.send_slice(&u16::try_from(answer.len()).unwrap().to_be_bytes()).unwrap();
                    socket.send_slice(&answer).unwrap();
                    socket.close();
                }
                RESET if socket.can_recv() => socket.abort(),
                WEB if socket.can_recv() && socket.may_send() => {
                    let mut request = [0; 1_024];
                    let len = socket.recv_slice(&mut request).unwrap();
                    let request = String::from_utf8_lossy(&request[..len]);
                    let location = |to| format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\n\r\n");
                    let response = match request.split(' ').nth(1) {
                        Some("/redirect") => location("/"),
                        Some("/circle") => location("http://10.20.0.2/circle"),
                        Some("/away") => location("https://10.20.0.2/"),
                        Some("/short") => "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nshort".to_owned(),
                        _ => String::from_utf8_lossy(WEB_RESPONSE).into_owned(),
                    };
                    socket.send_slice(response.as_bytes()).unwrap();
                    socket.close();
                }
                _ => {}
            }
        }
    }
}

fn dns_answer(query: &[u8], is_datagram: bool) -> Vec<u8> {
    let query = simple_dns::Packet::parse(query).unwrap();
    let name = query.questions[0].qname.to_string();
    let is_v4 = query.questions[0].qtype == simple_dns::QTYPE::TYPE(simple_dns::TYPE::A);
    let mut reply = query.clone().into_reply();
    if !NAMES.contains(&name.as_str()) {
        *reply.rcode_mut() = simple_dns::RCODE::NameError;
    } else if is_datagram && name.starts_with("long") {
        reply.set_flags(simple_dns::PacketFlag::TRUNCATION);
    } else {
        let addresses: &[IpAddr] = match (name.split('.').next().unwrap(), is_v4) {
            ("two", true) => &[IpAddr::V4(UNREACHABLE), IpAddr::V4(HOST_V4)],
            ("rebound", true) => &[IpAddr::V4(Ipv4Addr::LOCALHOST)],
            ("out", true) => &[IpAddr::V4(Ipv4Addr::new(192, 0, 2, 80))],
            ("two" | "rebound" | "out", false) => &[],
            (_, true) => &[IpAddr::V4(HOST_V4)],
            (_, false) => &[IpAddr::V6(HOST_V6)],
        };
        for address in addresses {
            let data = match *address {
                IpAddr::V4(address) => simple_dns::rdata::RData::A(address.into()),
                IpAddr::V6(address) => simple_dns::rdata::RData::AAAA(address.into()),
            };
            let owner = query.questions[0].qname.clone();
            reply.answers.push(simple_dns::ResourceRecord::new(owner, simple_dns::CLASS::IN, 60, data));
        }
    }
    reply.build_bytes_vec().unwrap()
}

/// The answer to an echo request: addresses swapped, kind changed, checksum made anew.
fn echo_reply(request: &[u8]) -> Vec<u8> {
    let parsed = Packet::parse(request).unwrap();
    let (from, to, at) = (parsed.destination(), parsed.source(), parsed.transport_offset());
    let mut reply = request.to_vec();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            reply[12..16].copy_from_slice(&from.octets());
            reply[16..20].copy_from_slice(&to.octets());
            reply[at] = 0;
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            reply[8..24].copy_from_slice(&from.octets());
            reply[24..40].copy_from_slice(&to.octets());
            reply[at] = 129;
        }
        _ => unreachable!("a packet has one family"),
    }
    reply[at + 2..at + 4].fill(0);
    let sum = if from.is_ipv4() {
        Sum::default()
    } else {
        Sum::pseudo_header(from, to, 58, u32::try_from(reply.len() - at).unwrap())
    };
    let checksum = sum.bytes(&reply[at..]).checksum();
    reply[at + 2..at + 4].copy_from_slice(&checksum.to_be_bytes());
    reply
}

/// "Host unreachable", made from the message that the core can make.
fn unreachable(original: &[u8]) -> Vec<u8> {
    let mut out = PacketBuf::new(1_500);
    assert!(too_big(original, 576, Ipv4Addr::new(10, 20, 0, 1).into(), &mut out));
    let mut packet = out.as_slice().to_vec();
    packet[21] = 1;
    packet[22..28].fill(0);
    let checksum = Sum::default().bytes(&packet[20..]).checksum();
    packet[22..24].copy_from_slice(&checksum.to_be_bytes());
    packet
}

impl Device for Wire {
    type RxToken<'a> = In;
    type TxToken<'a> = Out<'a>;

    fn receive(&mut self, _now: smoltcp::time::Instant) -> Option<(In, Out<'_>)> {
        self.received.pop_front().map(|packet| (In(packet), Out(self)))
    }

    fn transmit(&mut self, _now: smoltcp::time::Instant) -> Option<Out<'_>> {
        let has_room = self.sender.try_reserve().is_some();
        has_room.then_some(Out(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = 1_400;
        capabilities
    }
}

struct In(Vec<u8>);

impl RxToken for In {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Out<'a>(&'a mut Wire);

impl TxToken for Out<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut packet = vec![0; len];
        let result = write(&mut packet);
        self.0.send(&packet);
        result
    }
}
