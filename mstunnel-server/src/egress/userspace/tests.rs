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
struct Noted(RefCell<Vec<IpAddr>>);

impl ToClient for Noted {
    fn mtu(&self) -> usize {
        1400
    }

    fn buffer(&self) -> PacketBuf {
        PacketBuf::new(MAX_PACKET)
    }

    fn recycle(&self, _: PacketBuf) {}

    fn has_room(&self) -> bool {
        true
    }

    fn poll_room(&self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn send(&self, packet: &mut PacketBuf, _: Instant) {
        self.0.borrow_mut().extend(source(packet.as_slice()));
    }

    fn flush(&self, _: Instant) {}

    fn count_drop(&self, _: DropReason) {}
}

fn userspace() -> Rc<Userspace> {
    let plan = Plan::new(UserspaceConfig {
        pools: Vec::new(),
        own_addresses: Vec::new(),
        dns: Vec::new(),
        allow: Vec::new(),
        publish: Vec::new(),
        max_descriptors: 0,
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
    assert_eq!(*client.0.borrow(), [V4, V6]);
}
