//! Connections that come and go on one way out.

use std::net::{Ipv4Addr, Ipv6Addr};

use mstunnel_proto::buf::MAX_PACKET;
use tokio::task::LocalSet;

use super::*;

const ID: SessionId = SessionId::new(7);
const V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 5));
const V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 5));

/// A client that notes from where it is sent packets.
#[derive(Default)]
struct Noted {
    sent: RefCell<Vec<IpAddr>>,
    is_full: bool,
    was_asked: Cell<bool>,
}

impl ToClient for Noted {
    fn mtu(&self) -> usize {
        1400
    }

    fn buffer(&self) -> PacketBuf {
        PacketBuf::new(MAX_PACKET)
    }

    fn recycle(&self, _: PacketBuf) {}

    fn has_room(&self) -> bool {
        !self.is_full
    }

    fn poll_room(&self, _: &mut Context<'_>) -> Poll<()> {
        self.was_asked.set(true);
        if self.is_full { Poll::Pending } else { Poll::Ready(()) }
    }

    fn send(&self, packet: &mut PacketBuf, _: Instant) {
        self.sent.borrow_mut().extend(source(packet.as_slice()));
    }

    fn flush(&self, _: Instant) {}

    fn count_drop(&self, _: DropReason) {}
}

fn userspace() -> Rc<Userspace> {
    userspace_that_allows(&[])
}

fn userspace_that_allows(allow: &[&str]) -> Rc<Userspace> {
    let plan = Plan::new(UserspaceConfig {
        pools: Vec::new(),
        own_addresses: Vec::new(),
        dns: Vec::new(),
        allow: allow.iter().map(|text| text.parse().unwrap()).collect(),
        publish: Vec::new(),
        max_descriptors: 100,
    });
    Rc::new(Userspace::new(Arc::new(plan.unwrap())).unwrap())
}

fn attach(userspace: &Rc<Userspace>, addresses: &[IpAddr]) -> (Attached, Rc<Noted>) {
    let client = Rc::new(Noted::default());
    let attached = userspace.attach(ID, addresses.iter().copied(), Rc::clone(&client) as Rc<dyn ToClient>);
    (attached, client)
}

/// A packet to itself of a protocol that does not pass: its answer comes from the same address.
fn unknown_protocol(own: IpAddr) -> Vec<u8> {
    match own {
        IpAddr::V4(own) => {
            // The checksum is that of `V4`.
            let head = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 99, 0x66, 0x6c];
            [&head[..], &own.octets(), &own.octets()].concat()
        }
        IpAddr::V6(own) => {
            let head = [0x60, 0, 0, 0, 0, 0, 99, 64];
            [&head[..], &own.octets(), &own.octets()].concat()
        }
    }
}

/// Covers: R7, R47
#[tokio::test]
async fn a_takeover_by_a_client_of_fewer_families_leaves_nothing_behind() {
    let userspace = userspace();
    let (older, _) = attach(&userspace, &[V4, V6]);
    let (newer, _) = attach(&userspace, &[V4]);
    drop(older);
    drop(newer);
    assert!(userspace.outlets.borrow().is_empty());

    let tasks = LocalSet::new();
    let (_attached, client) = attach(&userspace, &[V4, V6]);
    let answered = async {
        for own in [V4, V6] {
            let refused = userspace.send(&unknown_protocol(own), Instant::now());
            assert_eq!(refused, Err(DropReason::EgressRefused));
        }
    };
    tasks.run_until(answered).await;
    tasks.await;
    assert_eq!(*client.sent.borrow(), [V4, V6]);
}

/// A SYN of `V4` to a port of this host.
fn syn(port: u16) -> Vec<u8> {
    let IpAddr::V4(client) = V4 else { panic!("an IPv4 address") };
    let (client, host) = (client.octets(), Ipv4Addr::LOCALHOST.octets());
    let mut ip = [&[0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0][..], &client, &host].concat();
    let ports = [40_000_u16.to_be_bytes(), port.to_be_bytes()].concat();
    let mut tcp = [&ports[..], &[0; 8], &[0x50, 2, 0xff, 0xff, 0, 0, 0, 0]].concat();
    let pseudo = [&client[..], &host, &[0, 6, 0, 20], &tcp].concat();
    let (of_ip, of_tcp) = (checksum(&ip), checksum(&pseudo));
    ip[10..12].copy_from_slice(&of_ip.to_be_bytes());
    tcp[16..18].copy_from_slice(&of_tcp.to_be_bytes());
    [ip, tcp].concat()
}

fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

/// Covers: R7: a download that waited for the old connection to take more goes on by the new one.
#[tokio::test]
async fn what_waited_for_room_asks_the_client_of_a_takeover() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let userspace = userspace_that_allows(&[&format!("127.0.0.1:{port}")]);
    let full = Rc::new(Noted { is_full: true, ..Noted::default() });
    let _older = userspace.attach(ID, [V4].into_iter(), Rc::clone(&full) as Rc<dyn ToClient>);
    let tasks = LocalSet::new();
    let waits = async {
        userspace.send(&syn(port), Instant::now()).unwrap();
        while !full.was_asked.get() {
            tokio::task::yield_now().await;
        }
        let (_newer, client) = attach(&userspace, &[V4]);
        while client.sent.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(*client.sent.borrow(), [IpAddr::from(Ipv4Addr::LOCALHOST)]);
    };
    let limit = std::time::Duration::from_secs(10);
    tasks.run_until(tokio::time::timeout(limit, waits)).await.expect("an answer to the SYN");
}
