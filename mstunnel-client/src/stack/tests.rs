//! The stack against a host in memory, in virtual time.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::testing::{DEAF, ECHO, HOST_V4, RESET, SOURCE, SOURCE_LEN, UNREACHABLE, World, params, pattern};
use super::*;

fn host(port: u16) -> SocketAddr {
    SocketAddr::new(HOST_V4.into(), port)
}

fn host_v6(port: u16) -> SocketAddr {
    SocketAddr::new("fd00:20::2".parse().unwrap(), port)
}

async fn read_source(stack: &Stack, from: SocketAddr) {
    let mut flow = stack.connect(from).await.unwrap();
    let mut received = Vec::new();
    flow.read_to_end(&mut received).await.unwrap();
    assert_eq!(received.len(), SOURCE_LEN);
    assert!(received.iter().enumerate().all(|(at, byte)| *byte == pattern(at)));
}

async fn echo(stack: &Stack, to: SocketAddr, len: usize, salt: usize) {
    let flow = stack.connect(to).await.unwrap();
    let (mut reading, mut writing) = tokio::io::split(flow);
    let sent: Vec<u8> = (0..len).map(|at| pattern(at + salt)).collect();
    let writer = async {
        writing.write_all(&sent).await.unwrap();
        writing.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let reader = async { reading.read_to_end(&mut received).await.unwrap() };
    tokio::join!(writer, reader);
    assert!(received == sent, "flow {salt} got other bytes");
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_whole_over_both_families() {
    let world = World::start(2, None);
    read_source(&world.stack, host(SOURCE)).await;
    read_source(&world.stack, host_v6(SOURCE)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_before_a_half_close_comes_back_after_it() {
    let world = World::start(1, None);
    echo(&world.stack, host(ECHO), 200_000, 0).await;
    world.stack.settle(Duration::from_secs(60)).await;
    assert_eq!(world.stack.shared().table().flow_count(), 0);
}

#[tokio::test(start_paused = true)]
async fn bytes_arrive_whole_when_one_packet_in_thirty_is_lost_each_way() {
    let world = World::start(2, Some(30));
    read_source(&world.stack, host(SOURCE)).await;
    echo(&world.stack, host_v6(ECHO), 100_000, 3).await;
}

#[tokio::test(start_paused = true)]
async fn three_hundred_connections_at_once_get_their_own_bytes() {
    let world = World::start(300, None);
    let tasks: Vec<_> = (0..300)
        .map(|n| {
            let stack = world.stack.clone();
            tokio::spawn(async move { echo(&stack, host(ECHO), 10_000 + n, n).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_port_without_a_listener_refuses() {
    let world = World::start(1, None);
    assert_eq!(world.stack.connect(host(81)).await.unwrap_err(), ConnectError::Refused);
    assert_eq!(world.stack.connect(host_v6(81)).await.unwrap_err(), ConnectError::Refused);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_routers_call_unreachable_is_an_error_at_once() {
    let world = World::start(1, None);
    let before = tokio::time::Instant::now();
    let to = SocketAddr::new(UNREACHABLE.into(), 80);
    assert_eq!(world.stack.connect(to).await.unwrap_err(), ConnectError::Unreachable);
    assert!(before.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_is_silent_is_given_up() {
    let world = World::start(0, Some(1));
    let before = tokio::time::Instant::now();
    assert_eq!(world.stack.connect(host(80)).await.unwrap_err(), ConnectError::TimedOut);
    assert_eq!(before.elapsed().as_secs(), CONNECT_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_reset_is_an_error_and_not_an_end() {
    let world = World::start(1, None);
    let mut flow = world.stack.connect(host(RESET)).await.unwrap();
    flow.write_all(b"x").await.unwrap();
    let error = flow.read(&mut [0; 10]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_read_stops_only_its_own_writer() {
    let world = World::start(2, None);
    let mut deaf = world.stack.connect(host(DEAF)).await.unwrap();
    let bytes = vec![0; 10_000_000];
    let stuck = tokio::time::timeout(Duration::from_secs(30), deaf.write_all(&bytes));
    let (stuck, ()) = tokio::join!(stuck, echo(&world.stack, host(ECHO), 100_000, 0));
    assert!(stuck.is_err(), "ten megabytes went somewhere");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_quiet_for_an_hour_stays() {
    let world = World::start(1, None);
    let mut flow = world.stack.connect(host(ECHO)).await.unwrap();
    flow.write_all(b"one").await.unwrap();
    let mut buffer = [0; 3];
    flow.read_exact(&mut buffer).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    flow.write_all(b"two").await.unwrap();
    flow.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"two");
}

#[tokio::test(start_paused = true)]
async fn no_more_connections_than_the_limit_and_none_is_kept_after_it() {
    let world = World::start(0, Some(1));
    let open: Vec<_> = (0..MAX_FLOWS).map(|_| world.stack.shared().open_flow(host(80)).unwrap()).collect();
    let error = world.stack.connect(host(80)).await.unwrap_err();
    assert_eq!(error, ConnectError::TooMany { limit: MAX_FLOWS });
    assert_eq!(open.len(), MAX_FLOWS);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_was_dropped_is_forgotten_even_if_the_peer_says_nothing() {
    let world = World::start(1, None);
    let flow = world.stack.connect(host(DEAF)).await.unwrap();
    world.params.send(params(|_| ())).unwrap();
    drop(flow);
    tokio::time::timeout(Duration::from_secs(60), world.stack.shared().settled()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_tunnel_ends_what_is_open() {
    let world = World::start(1, None);
    let mut flow = world.stack.connect(host(DEAF)).await.unwrap();
    let udp = world.stack.udp(HOST_V4.into()).unwrap();
    world.cut();
    assert_eq!(flow.read(&mut [0; 10]).await.unwrap_err().kind(), ErrorKind::NetworkDown);
    assert_eq!(udp.recv_from(&mut [0; 10]).await.unwrap_err().kind(), ErrorKind::NetworkDown);
    assert_eq!(world.stack.connect(host(ECHO)).await.unwrap_err(), ConnectError::TunnelEnded);
    assert_eq!(world.stack.udp(HOST_V4.into()).unwrap_err(), ConnectError::TunnelEnded);
}

#[tokio::test(start_paused = true)]
async fn connections_of_an_address_that_is_gone_end_and_others_stay() {
    let world = World::start(1, None);
    let mut v4 = world.stack.connect(host(DEAF)).await.unwrap();
    let v6 = world.stack.connect(host_v6(ECHO)).await.unwrap();
    world
        .params
        .send(params(|said| {
            said.v4 = Some(mstunnel_proto::connect::InsideAddress {
                address: [10, 9, 0, 77].into(),
                prefix_length: 16,
            });
        }))
        .unwrap();
    assert_eq!(v4.read(&mut [0; 10]).await.unwrap_err().kind(), ErrorKind::ConnectionAborted);
    let (mut reading, mut writing) = tokio::io::split(v6);
    writing.write_all(b"still").await.unwrap();
    let mut buffer = [0; 5];
    reading.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"still");
}

#[tokio::test(start_paused = true)]
async fn a_smaller_mtu_holds_for_connections_that_are_open() {
    let world = World::start(1, None);
    let mut flow = world.stack.connect(host(ECHO)).await.unwrap();
    let bytes = vec![1; 20_000];
    flow.write_all(&bytes).await.unwrap();
    flow.read_exact(&mut vec![0; 20_000]).await.unwrap();
    assert_eq!(world.longest.swap(0, Relaxed), 1_400);
    world.params.send(params(|said| said.mtu = mstunnel_proto::mtu::Mtu::new(1_280))).unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    flow.write_all(&bytes).await.unwrap();
    flow.read_exact(&mut vec![0; 20_000]).await.unwrap();
    assert_eq!(world.longest.load(Relaxed), 1_280);
}

#[tokio::test(start_paused = true)]
async fn datagrams_come_back_over_both_families_and_what_is_too_long_is_refused() {
    let world = World::start(0, None);
    for to in [host(ECHO), host_v6(ECHO)] {
        let udp = world.stack.udp(to.ip()).unwrap();
        let longest = vec![7; udp.max_payload(to.ip())];
        udp.send_to(&longest, to).await.unwrap();
        let mut buffer = [0; 2_000];
        assert_eq!(udp.recv_from(&mut buffer).await.unwrap(), (longest.len(), to));
        let too_long = vec![7; longest.len() + 1];
        assert_eq!(udp.send_to(&too_long, to).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}

#[tokio::test(start_paused = true)]
async fn a_datagram_from_somebody_who_was_not_asked_is_dropped() {
    let world = World::start(0, None);
    let udp = world.stack.udp(HOST_V4.into()).unwrap();
    let other = SocketAddr::from(([10, 20, 0, 3], 53));
    let mut packet = world.stack.shared().buffer();
    let len = wire::udp(packet.room(), other, udp.local_addr(), b"surprise").unwrap();
    packet.set_len(len);
    let before = world.stack.dropped();
    driver::handle_packet(world.stack.shared(), packet, &mut Vec::new());
    assert_eq!(world.stack.dropped(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_datagram_to_an_unreachable_host_is_an_error() {
    let world = World::start(0, None);
    let udp = world.stack.udp(UNREACHABLE.into()).unwrap();
    udp.send_to(b"x", SocketAddr::new(UNREACHABLE.into(), 53)).await.unwrap();
    assert_eq!(udp.recv_from(&mut [0; 10]).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

#[tokio::test(start_paused = true)]
async fn pings_are_answered_over_both_families() {
    let world = World::start(0, None);
    for to in [IpAddr::V4(HOST_V4), "fd00:20::2".parse().unwrap()] {
        let ping = world.stack.ping(to).unwrap();
        ping.send(9, 56).await.unwrap();
        assert_eq!(ping.recv().await.unwrap(), EchoReply { sequence: 9, len: 56, hops: 64 });
    }
}

#[tokio::test(start_paused = true)]
async fn a_family_without_an_address_and_addresses_of_nobody_are_refused() {
    let world = World::with_params(params(|said| said.v6 = None), 0, None);
    let error = world.stack.connect(host_v6(80)).await.unwrap_err();
    assert_eq!(error, ConnectError::NoFamily { address: host_v6(80).ip() });
    for nobody in ["0.0.0.0:80", "224.0.0.1:80", "127.0.0.1:80", "255.255.255.255:80", "10.20.0.2:0"] {
        let nobody: SocketAddr = nobody.parse().unwrap();
        let error = world.stack.connect(nobody).await.unwrap_err();
        assert_eq!(error, ConnectError::Destination { address: nobody.ip() });
    }
}

/// Packets of a hostile network: valid ones for a connection that exists, with bytes changed and cut.
fn hostile_packet() -> impl Strategy<Value = (Vec<u8>, u16, u8, usize)> {
    (proptest::collection::vec(any::<u8>(), 20..200), any::<u16>(), 0_u8..4, 0_usize..60)
}

proptest! {
    #[test]
    fn no_packet_from_the_tunnel_stops_the_stack(packets in proptest::collection::vec(hostile_packet(), 1..40)) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let world = World::start(1, None);
            let flow = world.stack.connect(host(DEAF)).await.unwrap();
            let (local, shared) = (flow.local_addr(), world.stack.shared());
            for (bytes, port, protocol, cut) in packets {
                let packet = disguise(&bytes, local, port, protocol, cut);
                let mut buffer = shared.buffer();
                buffer.fill(&packet);
                let mut touched = Vec::new();
                driver::handle_packet(shared, buffer, &mut touched);
                for flow in touched {
                    shared.service(&flow, &mut flow.machine());
                }
            }
            echo(&world.stack, host(ECHO), 1_000, 0).await;
        });
    }
}

/// Makes `bytes` pass for a packet to `local`: right addresses, lengths and checksums around a random rest.
fn disguise(bytes: &[u8], local: SocketAddr, port: u16, protocol: u8, cut: usize) -> Vec<u8> {
    use mstunnel_proto::packet::checksum::Sum;
    let IpAddr::V4(to) = local.ip() else { unreachable!("the test connects over IPv4") };
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, [6, 17, 1, 6][usize::from(protocol)], 0, 0];
    packet.extend(HOST_V4.octets());
    packet.extend(to.octets());
    packet.extend(bytes);
    if protocol == 0 {
        // For the connection that exists, with a random sequence, flags, window and options.
        packet[20..22].copy_from_slice(&DEAF.to_be_bytes());
        packet[22..24].copy_from_slice(&local.port().to_be_bytes());
        packet[32] = 0x50 | (packet[32] & 0x0F);
    } else if protocol == 2 {
        // An error about something of ours.
        packet[20] = 3;
    } else {
        packet[22..24].copy_from_slice(&port.to_be_bytes());
    }
    packet.truncate(packet.len() - cut.min(packet.len() - 20));
    let len = u16::try_from(packet.len()).unwrap();
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    let checksum = Sum::default().bytes(&packet[..20]).checksum();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    let field = match packet[9] {
        6 => 36,
        17 => 26,
        _ => 22,
    };
    if packet.len() >= field + 2 {
        packet[field..field + 2].fill(0);
        let pseudo = match packet[9] {
            1 => Sum::default(),
            other => Sum::pseudo_header(HOST_V4.into(), to.into(), other, u32::from(len) - 20),
        };
        let checksum = pseudo.bytes(&packet[20..]).checksum();
        packet[field..field + 2].copy_from_slice(&checksum.to_be_bytes());
    }
    packet
}
