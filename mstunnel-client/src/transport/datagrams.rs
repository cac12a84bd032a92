//! The UDP socket beside a link, for the core's [`ClientDatagrams`].
//!
//! Every try of a channel has a socket of its own, from a new port, connected to the address that TLS has verified
//! (R65).

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use aws_lc_rs::rand;
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::dtls::{self, Opened};
use mstunnel_proto::frame::FrameKind;
use mstunnel_proto::session::{ClientDatagrams, DatagramChange, DatagramPlan};
use tokio::net::UdpSocket;

use super::channels::Scratch;
use super::local::LocalEnd;

/// Datagrams of one turn before others get theirs.
const DATAGRAMS_PER_TURN: usize = 64;

/// What is asked of the kernel to hold for us, in bytes: a few milliseconds of a fast link.
const SOCKET_BUFFER: usize = 2 << 20;

/// The datagram channel of one link, there or not.
pub(super) struct Datagrams {
    channel: ClientDatagrams,
    /// The server, at the port that it offers.
    remote: SocketAddr,
    local: LocalEnd,
    socket: Option<Socket>,
}

struct Socket {
    udp: UdpSocket,
    attempt: u64,
}

impl Socket {
    fn open(local: LocalEnd, remote: SocketAddr, attempt: u64) -> io::Result<Self> {
        let socket = local.datagrams(remote)?;
        let options = socket2::SockRef::from(&socket);
        // Smaller buffers than asked for work too.
        let _ = options.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = options.set_send_buffer_size(SOCKET_BUFFER);
        Ok(Self { udp: UdpSocket::from_std(socket)?, attempt })
    }

    /// Sends around the reactor: that believes the socket unwritable until its first turn, and the first hello would
    /// be lost.
    fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        socket2::SockRef::from(&self.udp).send(datagram)
    }
}

impl Datagrams {
    /// Begins with a handshake at once; `None` without randomness, and the session stays on TLS.
    pub(super) fn new(plan: DatagramPlan, local: LocalEnd, now: Instant) -> Option<Self> {
        let mut entropy = [0; 32];
        rand::fill(&mut entropy).ok()?;
        let remote = SocketAddr::new(plan.server, plan.offer.port);
        Some(Self { channel: ClientDatagrams::new(plan, entropy, now), remote, local, socket: None })
    }

    /// Acts on the time.
    pub(super) fn handle_timeout(&mut self, scratch: &mut Scratch, now: Instant) {
        self.channel.handle_timeout(now);
        self.drain(&mut scratch.control, now);
    }

    /// The next moment for [`Datagrams::handle_timeout`].
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.channel.poll_timeout()
    }

    /// Takes in what the socket has: the type and payload of each authentic record go to `each`. Returns whether there
    /// may be more.
    pub(super) fn receive(
        &mut self,
        scratch: &mut Scratch,
        now: Instant,
        mut each: impl FnMut(FrameKind, &mut [u8]),
    ) -> bool {
        let Some(socket) = &self.socket else { return false };
        let mut more = true;
        for _ in 0..DATAGRAMS_PER_TURN {
            let len = match socket.udp.try_recv(&mut scratch.read) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                // An ICMP error of the path, at most a hint: silence decides.
                Err(_) => continue,
            };
            for record in dtls::records(&mut scratch.read[..len]) {
                let Opened::Application(plaintext) = self.channel.handle_record(record, now) else {
                    continue;
                };
                if let Some((kind, payload)) = plaintext.split_first_mut() {
                    each(FrameKind::from_byte(*kind), payload);
                }
            }
        }
        self.drain(&mut scratch.control, now);
        more
    }

    /// Seals `packet`, which has its type already, and sends it.
    pub(super) fn send(&mut self, packet: &mut PacketBuf, now: Instant) -> bool {
        let Some(socket) = &self.socket else { return false };
        // A full socket loses the packet as a full network would; other errors are the path's.
        self.channel.seal(packet, now).is_ok() && socket.send(packet.as_slice()).is_ok()
    }

    /// Takes what became of the channel.
    pub(super) fn take_change(&mut self) -> Option<DatagramChange> {
        self.channel.poll_change()
    }

    /// Waits until the socket has datagrams; for ever without one.
    pub(super) async fn readable(&self) {
        match &self.socket {
            None => std::future::pending().await,
            // An error shows itself in the next read.
            Some(socket) => drop(socket.udp.readable().await),
        }
    }

    /// Says goodbye on DTLS level.
    pub(super) fn close(&mut self, scratch: &mut Scratch, now: Instant) {
        self.channel.close(now);
        self.drain(&mut scratch.control, now);
    }

    /// Sends what the channel has to say, each try from its own port.
    fn drain(&mut self, control: &mut PacketBuf, now: Instant) {
        let attempt = self.channel.attempt();
        if attempt > 0 && self.socket.as_ref().is_none_or(|socket| socket.attempt != attempt) {
            match Socket::open(self.local, self.remote, attempt) {
                Ok(socket) => self.socket = Some(socket),
                Err(error) => {
                    tracing::debug!(%error, "no socket for datagrams");
                    return self.channel.handle_no_socket(now);
                }
            }
        }
        let Some(socket) = &self.socket else { return };
        while self.channel.poll_transmit(control) {
            // Lost like any datagram, repeated when it matters. Too long for the local link is an answer too.
            let _ = socket.send(control.as_slice());
        }
    }
}
