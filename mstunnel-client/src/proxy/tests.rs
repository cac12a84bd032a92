//! The ports, with real clients on loopback and a host in memory behind the tunnel.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::dial::Bypass;
use crate::stack::testing::{DEAF, HOST_V4, SOURCE, SOURCE_LEN, WEB_RESPONSE, World, params, pattern};

const LOOPBACK: &str = "127.0.0.1:0";

async fn start(service: Service) -> (World, Proxy, SocketAddr) {
    let world = World::with_params(
        params(|said| {
            said.dns = vec![HOST_V4.into()];
            said.include = vec!["10.20.0.0/16".parse().unwrap()];
        }),
        20,
        None,
    );
    let dialer = Dialer::new(world.stack.clone(), Bypass::Refuse);
    let mut proxy = Proxy::new(dialer, Exposure::Loopback);
    let address = proxy.listen(LOOPBACK.parse().unwrap(), service).await.unwrap();
    (world, proxy, address)
}

/// Greets, asks for `request`, and returns the reply's code.
async fn socks(client: &mut TcpStream, request: &[u8]) -> u8 {
    client.write_all(&[5, 1, 0]).await.unwrap();
    let mut method = [0; 2];
    client.read_exact(&mut method).await.unwrap();
    assert_eq!(method, [5, 0]);
    client.write_all(request).await.unwrap();
    let mut reply = [0; 10];
    client.read_exact(&mut reply).await.unwrap();
    assert_eq!((reply[0], reply[2], reply[3]), (5, 0, 1));
    reply[1]
}

fn connect_to(address: [u8; 4], port: u16) -> Vec<u8> {
    [&[5, 1, 0, 1], &address[..], &port.to_be_bytes()].concat()
}

async fn http(address: SocketAddr, request: &str) -> String {
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    client.read_to_end(&mut response).await.unwrap();
    String::from_utf8(response).unwrap()
}

#[tokio::test]
async fn socks_connects_by_address_and_by_name() {
    let (_world, _proxy, address) = start(Service::Socks5).await;
    let by_name = [&[5, 1, 0, 3, 16], &b"www.corp.example"[..], &SOURCE.to_be_bytes()].concat();
    for request in [connect_to(HOST_V4.octets(), SOURCE), by_name] {
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(socks(&mut client, &request).await, 0);
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        assert_eq!(received.len(), SOURCE_LEN);
        assert!(received.iter().enumerate().all(|(at, byte)| *byte == pattern(at)));
    }
}

#[tokio::test]
async fn socks_says_exactly_why_not() {
    let (_world, _proxy, address) = start(Service::Socks5).await;
    let nowhere = [&[5, 1, 0, 3, 15], &b"nowhere.example"[..], &[0, 80]].concat();
    for (request, reply) in [
        (connect_to([192, 0, 2, 1], 80), 2),
        (connect_to([127, 0, 0, 1], 80), 2),
        (nowhere, 4),
        (connect_to([10, 20, 0, 99], 80), 4),
        (connect_to(HOST_V4.octets(), 81), 5),
        ([&[5, 2, 0, 1], &HOST_V4.octets()[..], &[0, 80]].concat(), 7),
        (vec![5, 1, 0, 9], 8),
    ] {
        let mut client = TcpStream::connect(address).await.unwrap();
        assert_eq!(socks(&mut client, &request).await, reply, "{request:?}");
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the connection is closed after a refusal");
    }
}

#[tokio::test]
async fn a_socks_client_that_wants_authentication_is_told_no() {
    let (_world, _proxy, address) = start(Service::Socks5).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(&[5, 1, 2]).await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, [5, 0xFF]);
}

#[tokio::test]
async fn datagrams_of_a_socks_client_come_back_and_its_port_closes_with_its_connection() {
    let (_world, _proxy, address) = start(Service::Socks5).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(&[5, 1, 0]).await.unwrap();
    client.read_exact(&mut [0; 2]).await.unwrap();
    client.write_all(&[5, 3, 0, 1, 0, 0, 0, 0, 0, 0]).await.unwrap();
    let mut reply = [0; 10];
    client.read_exact(&mut reply).await.unwrap();
    let relay = SocketAddr::from(([127, 0, 0, 1], u16::from_be_bytes([reply[8], reply[9]])));
    let socket = tokio::net::UdpSocket::bind(LOOPBACK).await.unwrap();
    let by_address = [&[0, 0, 0, 1], &HOST_V4.octets()[..], &[0, 7], b"echo"].concat();
    let by_name = [&[0, 0, 0, 3, 16], &b"www.corp.example"[..], &[0, 7], b"echo"].concat();
    let excluded = [0, 0, 0, 1, 192, 0, 2, 1, 0, 7, 1];
    socket.send_to(&excluded, relay).await.unwrap();
    socket.send_to(&by_address, relay).await.unwrap();
    let mut buffer = [0; 100];
    let (len, _) = socket.recv_from(&mut buffer).await.unwrap();
    assert_eq!(buffer[..len], by_address);
    // The world of this test has no route to the name's IPv6 address.
    socket.send_to(&by_name, relay).await.unwrap();
    let (len, _) = socket.recv_from(&mut buffer).await.unwrap();
    assert_eq!(buffer[..len], by_address);
    drop(client);
    loop {
        // The relay socket goes away with the connection: then the host says so.
        if socket.connect(relay).await.is_err() || socket.send(b"x").await.is_err() {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn http_requests_and_tunnels_reach_the_host() {
    let (_world, _proxy, address) = start(Service::Http).await;
    let plain =
        http(address, "GET http://www.corp.example/a HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n")
            .await;
    assert!(plain.starts_with("HTTP/1.1 200 OK\r\n") && plain.ends_with("\r\n\r\nhello"), "{plain}");
    let tunnelled =
        http(address, "CONNECT 10.20.0.2:80 HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
            .await;
    assert!(tunnelled.starts_with("HTTP/1.1 200 OK\r\n"), "{tunnelled}");
    assert!(tunnelled.ends_with(std::str::from_utf8(WEB_RESPONSE).unwrap()), "{tunnelled}");
}

#[tokio::test]
async fn http_says_exactly_why_not() {
    let (_world, _proxy, address) = start(Service::Http).await;
    for (line, status) in [
        ("GET http://192.0.2.1/", 403),
        ("CONNECT 127.0.0.1:22", 403),
        ("GET http://nowhere.example/", 502),
        ("GET http://10.20.0.2:81/", 502),
        ("GET /", 400),
        ("GET ftp://10.20.0.2/", 400),
    ] {
        let answer = http(address, &format!("{line} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
    }
}

#[tokio::test]
async fn a_forward_leads_to_its_destination() {
    let destination = "www.corp.example:19".parse().unwrap();
    let (_world, _proxy, address) = start(Service::Forward(destination)).await;
    let mut client = TcpStream::connect(address).await.unwrap();
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    assert_eq!(received.len(), SOURCE_LEN);
}

#[tokio::test]
async fn a_client_that_stops_reading_or_writes_to_the_deaf_stops_only_itself() {
    let (_world, _proxy, address) = start(Service::Socks5).await;
    let mut stuck = TcpStream::connect(address).await.unwrap();
    assert_eq!(socks(&mut stuck, &connect_to(HOST_V4.octets(), DEAF)).await, 0);
    let writer = tokio::spawn(async move { stuck.write_all(&vec![0; 50_000_000]).await });
    let mut unread = TcpStream::connect(address).await.unwrap();
    assert_eq!(socks(&mut unread, &connect_to(HOST_V4.octets(), SOURCE)).await, 0);
    let mut client = TcpStream::connect(address).await.unwrap();
    assert_eq!(socks(&mut client, &connect_to(HOST_V4.octets(), SOURCE)).await, 0);
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.unwrap();
    assert_eq!(received.len(), SOURCE_LEN);
    assert!(!writer.is_finished());
    writer.abort();
}

#[tokio::test]
async fn other_hosts_are_let_in_only_when_that_is_asked_for() {
    let world = World::start(0, None);
    let dialer = Dialer::new(world.stack.clone(), Bypass::Refuse);
    let any: SocketAddr = "0.0.0.0:0".parse().unwrap();
    let refused = Proxy::new(dialer.clone(), Exposure::Loopback).listen(any, Service::Socks5).await;
    assert!(matches!(refused, Err(ListenError::Exposed { .. })));
    Proxy::new(dialer, Exposure::Network).listen(any, Service::Socks5).await.unwrap();
}

#[tokio::test]
async fn no_more_clients_than_the_limit_are_served_and_the_next_waits() {
    // Both ends of each client are in this process: more descriptors than many a shell allows.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    let (_world, _proxy, address) = start(Service::Socks5).await;
    let mut open = Vec::new();
    for _ in 0..MAX_CLIENTS {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&[5, 1, 0]).await.unwrap();
        client.read_exact(&mut [0; 2]).await.unwrap();
        open.push(client);
    }
    let mut next = TcpStream::connect(address).await.unwrap();
    next.write_all(&[5, 1, 0]).await.unwrap();
    let early = tokio::time::timeout(Duration::from_millis(100), next.read_exact(&mut [0; 2])).await;
    assert!(early.is_err(), "one more was served");
    open.pop();
    next.read_exact(&mut [0; 2]).await.unwrap();
}
