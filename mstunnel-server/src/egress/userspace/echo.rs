//! Echo requests through ping sockets, which need no privilege where `ping_group_range` allows them.
//!
//! The kernel gives a ping socket an identifier of its own and hands it the answers to that alone; the client's
//! identifier is put back on the way to it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use mstunnel_proto::packet::Family;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use super::outlet::Entry;
use super::udp::{is_of_the_path, unreachable};
use super::{datagrams, wire};

/// How long an identifier outlives its last message: RFC 5508 REQ-2 asks for 60 seconds at least.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Answers of one turn before others get theirs.
const ANSWERS_PER_TURN: usize = 16;

/// The host's side of a flow.
#[derive(Debug)]
pub(super) struct EchoSide {
    /// A ping socket, which differs from a UDP socket only in what its bytes mean.
    socket: UdpSocket,
}

impl EchoSide {
    /// Makes a socket that is connected to `to`; sends nothing.
    pub(super) fn connect(to: IpAddr) -> io::Result<Self> {
        let socket = open(Family::of(to))?;
        socket.connect(&SocketAddr::new(to, 0).into())?;
        Ok(Self { socket: UdpSocket::from_std(socket.into())? })
    }

    /// Sends an echo request: the message from its type on, with whatever identifier and checksum.
    pub(super) fn send(&self, message: &[u8]) -> io::Result<()> {
        SockRef::from(&self.socket).send(message).map(drop)
    }
}

/// Whether the kernel lets this process open ping sockets of a family.
///
/// # Errors
/// Why not.
pub(super) fn check(family: Family) -> io::Result<()> {
    open(family).map(drop)
}

fn open(family: Family) -> io::Result<Socket> {
    let (domain, protocol) = match family {
        Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
        Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
    };
    Socket::new(domain, Type::DGRAM.nonblocking().cloexec(), Some(protocol))
}

/// Takes the answers to the client, until the flow was idle for too long.
pub(super) async fn run(entry: Entry) {
    let Some(side) = entry.echo() else { return };
    datagrams::serve(&entry, &side.socket, IDLE_TIMEOUT, |now| receive(&entry, side, now)).await;
}

fn receive(entry: &Entry, side: &EchoSide, now: Instant) -> io::Result<()> {
    let (client, key) = (entry.outlet().client(), entry.key());
    let at = wire::ip_header_len(key.client.ip());
    let mut packet = client.buffer();
    let mut outcome = Ok(());
    for _ in 0..ANSWERS_PER_TURN {
        let room = packet.room();
        let end = client.mtu().min(room.len());
        match datagrams::try_recv(&side.socket, &mut room[at..end]) {
            Ok(len) if len >= wire::HEADER => {
                let sequence = u16::from_be_bytes([room[at + 6], room[at + 7]]);
                let echo = (key.client.port(), sequence);
                let payload_len = len - wire::HEADER;
                if let Some(len) = wire::echo_reply(room, key.remote.ip(), key.client.ip(), echo, payload_len)
                {
                    packet.set_len(len);
                    client.send(&mut packet, now);
                    entry.flow().touch(now);
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            // No answer says as much to who pings.
            Err(error) if unreachable(&error).is_some() || is_of_the_path(&error) => {}
            Err(error) => {
                outcome = Err(error);
                break;
            }
        }
    }
    client.recycle(packet);
    client.flush(now);
    outcome
}
