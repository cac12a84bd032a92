//! UDP flows: one connected socket of the host for each pair of ends.
//!
//! A connected socket takes datagrams from its other end alone (R46) and tells what ICMP says about it.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use mstunnel_proto::drop::DropReason;
use mstunnel_proto::packet::{Family, Unreachable};
use socket2::SockRef;
use tokio::net::UdpSocket;

use super::outlet::Entry;
use super::{datagrams, wire};

/// How long a flow outlives its last datagram: RFC 4787 REQ-5 recommends 5 minutes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// The same for questions about names, which are answered at once; REQ-5 a allows it for well-known ports.
const DNS_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

const DNS_PORT: u16 = 53;

/// Datagrams of one turn before others get theirs.
const DATAGRAMS_PER_TURN: usize = 64;

/// The host's side of a flow.
#[derive(Debug)]
pub(super) struct UdpSide {
    socket: UdpSocket,
}

impl UdpSide {
    /// Makes a socket that is connected to `to`; sends nothing.
    pub(super) fn connect(to: SocketAddr) -> io::Result<Self> {
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = std::net::UdpSocket::bind(any)?;
        datagrams::hear_errors(&socket, Family::of(to.ip()))?;
        socket.connect(to)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: UdpSocket::from_std(socket)? })
    }

    /// Sends a datagram of the client.
    pub(super) fn send(&self, payload: &[u8]) -> io::Result<()> {
        // Around the reactor: it believes a socket unwritable until its first turn. A full socket loses datagrams.
        SockRef::from(&self.socket).send(payload).map(drop)
    }
}

/// How long a flow to `remote` may be idle.
fn idle_timeout(remote: SocketAddr) -> Duration {
    if remote.port() == DNS_PORT { DNS_IDLE_TIMEOUT } else { IDLE_TIMEOUT }
}

/// What the client is told about a datagram that could not be sent.
pub(super) fn unreachable(error: &io::Error) -> Option<Unreachable> {
    match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Some(Unreachable::Port),
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::ENETDOWN | libc::EHOSTDOWN) => {
            Some(Unreachable::Host)
        }
        Some(libc::EACCES | libc::EPERM) => Some(Unreachable::Prohibited),
        _ => None,
    }
}

/// Whether `error` is one that a message of ICMP brings about one datagram: it ends no flow, which would come back from
/// another port.
pub(super) fn is_of_the_path(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EPROTO | libc::ENOPROTOOPT))
}

/// Takes what comes back to the client, until the flow was idle for too long.
pub(super) async fn run(entry: Entry) {
    let Some(side) = entry.udp() else { return };
    let limit = idle_timeout(entry.key().remote);
    datagrams::serve(&entry, &side.socket, limit, |now| receive(&entry, side, now)).await;
}

fn receive(entry: &Entry, side: &UdpSide, now: Instant) -> io::Result<()> {
    let (client, key) = (entry.outlet().client(), entry.key());
    let at = wire::payload_offset(key.client.ip());
    let mut packet = client.buffer();
    let mut outcome = Ok(());
    for _ in 0..DATAGRAMS_PER_TURN {
        let room = packet.room();
        let mtu = client.mtu();
        // One byte more than fits tells a datagram that does not.
        let end = (mtu + 1).min(room.len());
        match datagrams::try_recv(&side.socket, &mut room[at..end]) {
            Ok(len) if at + len > mtu => client.count_drop(DropReason::TooBig),
            Ok(len) => {
                if let Some(len) = wire::udp(room, key.remote, key.client, len) {
                    packet.set_len(len);
                    client.send(&mut packet, now);
                    entry.flow().touch(now);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => match unreachable(&error) {
                Some(why) => entry.outlet().refuse_datagram(key, why, now),
                None if is_of_the_path(&error) => {}
                None => {
                    outcome = Err(error);
                    break;
                }
            },
        }
    }
    client.recycle(packet);
    client.flush(now);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_narrower_than_a_datagram_ends_no_flow() {
        let error = io::Error::from_raw_os_error;
        for code in [libc::EMSGSIZE, libc::EPROTO, libc::ENOPROTOOPT] {
            assert!(is_of_the_path(&error(code)) && unreachable(&error(code)).is_none(), "{code}");
        }
        for code in [libc::EBADF, libc::ENOTCONN, libc::ENOMEM] {
            assert!(!is_of_the_path(&error(code)), "{code}");
        }
    }

    #[test]
    fn questions_about_names_end_sooner_than_other_flows() {
        assert_eq!(idle_timeout("10.20.0.2:53".parse().unwrap()), DNS_IDLE_TIMEOUT);
        assert_eq!(idle_timeout("10.20.0.2:443".parse().unwrap()), IDLE_TIMEOUT);
    }

    #[test]
    fn each_failure_of_a_send_has_its_answer() {
        let of = |code| unreachable(&io::Error::from_raw_os_error(code));
        assert_eq!(of(libc::ECONNREFUSED), Some(Unreachable::Port));
        assert_eq!(of(libc::EHOSTUNREACH), Some(Unreachable::Host));
        assert_eq!(of(libc::EPERM), Some(Unreachable::Prohibited));
        assert_eq!(of(libc::EMSGSIZE), None);
    }
}
