//! Whole handshakes with the stock peers, captured once: what they said is understood, and what we answered is
//! said again byte for byte.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Instant;

use super::super::{
    ClientChannel, CookieKeys, Greeting, Keying, Opened, Path, ServerChannel, Suite, is_client_hello, records,
};
use crate::buf::PacketBuf;
use crate::frame::FrameKind;
use crate::testing::origin;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

struct Transcript {
    psk: [u8; 32],
    app_id: [u8; 32],
    port: u16,
    datagrams: Vec<(Side, Vec<u8>)>,
}

impl Transcript {
    fn read(text: &str) -> Self {
        let mut read = Self { psk: [0; 32], app_id: [0; 32], port: 0, datagrams: Vec::new() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, value) = line.split_once(' ').unwrap();
            match name {
                "psk" => read.psk = unhex(value).try_into().unwrap(),
                "app-id" => read.app_id = unhex(value).try_into().unwrap(),
                "port" => read.port = value.parse().unwrap(),
                "C" => read.datagrams.push((Side::Client, unhex(value))),
                "S" => read.datagrams.push((Side::Server, unhex(value))),
                _ => panic!("{line}"),
            }
        }
        read
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Whether the plaintext of a probe is of `kind` and of the full tunnel MTU.
fn is_probe(plaintext: &[u8], kind: FrameKind) -> bool {
    plaintext[0] == kind.byte() && plaintext.len() == 1 + 1434
}

/// Covers: statements 49, 50, 51, 52 and 53
#[test]
fn openconnect_gets_the_answers_that_it_took() {
    let said = Transcript::read(include_str!("../../../testdata/openconnect-9.01-dtls.hex"));
    let remote = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), said.port);
    let path = Path { remote, local: None, socket: 0 };
    let (keys, now) = (CookieKeys::new([0x43; 32]), origin());
    let mut server = ServerChannel::new(Keying::psk(said.psk));
    let (mut out, mut answers) = (PacketBuf::new(2_000), Vec::new());
    let mut probe = None;
    for (_, datagram) in said.datagrams.iter().filter(|(side, _)| *side == Side::Client) {
        let mut datagram = datagram.clone();
        if is_client_hello(&datagram) {
            match keys.greet(remote, &datagram, &mut out) {
                Greeting::Answer => answers.push(out.as_slice().to_vec()),
                Greeting::Verified(hello) => {
                    assert_eq!(hello.app_id(), Some(&said.app_id[..]));
                    server.handle_hello(path, &hello, [0x42; 32], now).unwrap();
                }
                Greeting::Dropped(reason) => panic!("{reason}"),
            }
        } else {
            for record in records(&mut datagram) {
                match server.handle_record(path, record, now) {
                    Opened::Application(plaintext) => probe = Some(plaintext.to_vec()),
                    Opened::Handled => {}
                    Opened::Dropped(reason) => panic!("{reason}"),
                }
            }
        }
        while server.poll_transmit(&mut out).is_some() {
            answers.push(out.as_slice().to_vec());
        }
    }
    assert_eq!(server.suite(), Some(Suite::PskAes256Gcm));
    // The server echoes the probe at its full length.
    let mut echo = probe.expect("the client probes the MTU");
    assert!(is_probe(&echo, FrameKind::DpdRequest));
    echo[0] = FrameKind::DpdResponse.byte();
    let mut record = vec![0; 2_000];
    let len = server.seal_into(&echo, &mut record).unwrap();
    answers.push(record[..len].to_vec());
    let told: Vec<_> =
        said.datagrams.iter().filter(|(side, _)| *side == Side::Server).map(|(_, d)| d.clone()).collect();
    assert!(answers == told, "other bytes than openconnect took");
}

/// Covers: statements 58 and 59
#[test]
fn ocserv_gets_the_flights_that_it_took() {
    let said = Transcript::read(include_str!("../../../testdata/ocserv-1.1.6-dtls.hex"));
    let now: Instant = origin();
    let mut client = ClientChannel::start(Keying::psk(said.psk), &said.app_id, &[], [0x44; 32], now);
    let mut out = PacketBuf::new(2_000);
    let (mut flights, mut answered) = (Vec::new(), false);
    let mut drain = |client: &mut ClientChannel| {
        while client.poll_transmit(&mut out) {
            flights.push(out.as_slice().to_vec());
        }
    };
    drain(&mut client);
    for (_, datagram) in said.datagrams.iter().filter(|(side, _)| *side == Side::Server) {
        for record in records(&mut datagram.clone()) {
            match client.handle_record(record, now) {
                Opened::Application(plaintext) => answered |= is_probe(plaintext, FrameKind::DpdResponse),
                Opened::Handled => {}
                Opened::Dropped(reason) => panic!("{reason}"),
            }
        }
        drain(&mut client);
    }
    assert_eq!(client.suite(), Some(Suite::PskAes256Gcm));
    assert!(answered, "ocserv answered the probe at its full length");
    let told: Vec<_> = said
        .datagrams
        .iter()
        .filter(|(side, datagram)| *side == Side::Client && datagram[0] != 23)
        .map(|(_, datagram)| datagram.clone())
        .collect();
    assert!(flights == told, "other bytes than ocserv took");
}
