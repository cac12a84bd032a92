//! The UDP socket beside a link, for the core's [`ClientDatagrams`].
//!
//! Every try of a channel has a socket of its own, from a new port, connected to the address that TLS has verified
//! (R65). Packets of one turn leave as bursts that the kernel cuts into datagrams, and what arrives in a row comes in one
//! system call (UDP GSO and GRO), where the kernel has them.

use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::time::Instant;

use aws_lc_rs::rand;
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::dtls::{self, Burst, Opened, Taken};
use mstunnel_proto::frame::FrameKind;
use mstunnel_proto::session::{ClientDatagrams, DatagramChange, DatagramPlan};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimestampns;
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::channels::Scratch;
use super::local::LocalEnd;

/// Receiving system calls of one turn before others get theirs.
const READS_PER_TURN: usize = 8;

/// Trains of datagrams that one system call may bring.
const SLOTS: usize = 4;

/// Room for one train of datagrams: the longest that the kernel joins.
const SLOT: usize = 65_535;

/// The most datagrams of one burst: Linux `UDP_MAX_SEGMENTS` before 6.9.
const MAX_SEGMENTS: usize = 64;

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

/// Buffers for the moment; channels of one thread may share them, as each flushes what it sent in its turn.
pub(crate) struct DatagramBuffers {
    intake: Box<[u8]>,
    metas: [RecvMeta; SLOTS],
    burst: Burst<()>,
}

impl Default for DatagramBuffers {
    fn default() -> Self {
        Self {
            intake: vec![0; SLOTS * SLOT].into_boxed_slice(),
            metas: [RecvMeta::default(); SLOTS],
            burst: Burst::new(MAX_SEGMENTS),
        }
    }
}

struct Socket {
    udp: UdpSocket,
    state: UdpSocketState,
    attempt: u64,
}

impl Socket {
    fn open(local: LocalEnd, remote: SocketAddr, attempt: u64) -> io::Result<Self> {
        let socket = local.datagrams(remote)?;
        let options = socket2::SockRef::from(&socket);
        // Smaller buffers than asked for work too.
        let _ = options.set_recv_buffer_size(SOCKET_BUFFER);
        let _ = options.set_send_buffer_size(SOCKET_BUFFER);
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // What the line above asks the kernel for and nobody here looks at; it would be copied for every datagram.
        let _ = setsockopt(&socket, ReceiveTimestampns, &false);
        let _ = options.set_recv_tos_v4(false);
        let _ = options.set_recv_tclass_v6(false);
        Ok(Self { udp: UdpSocket::from_std(socket)?, state, attempt })
    }

    /// Sends around the reactor: that believes the socket unwritable until its first turn, and the first hello would
    /// be lost.
    fn send(&self, datagram: &[u8]) -> io::Result<usize> {
        socket2::SockRef::from(&self.udp).send(datagram)
    }

    /// Hands every datagram of one system call to `each`.
    fn receive(&self, buffers: &mut DatagramBuffers, mut each: impl FnMut(&mut [u8])) -> io::Result<()> {
        let mut chunks = buffers.intake.chunks_exact_mut(SLOT);
        let mut slots: [IoSliceMut<'_>; SLOTS] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().expect("there is room for every slot")));
        let received = self.udp.try_io(Interest::READABLE, || {
            self.state.recv(UdpSockRef::from(&self.udp), &mut slots, &mut buffers.metas)
        })?;
        for (slot, meta) in slots.iter_mut().zip(&buffers.metas).take(received) {
            slot[..meta.len].chunks_mut(meta.stride.max(1)).for_each(&mut each);
        }
        Ok(())
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
        let (channel, mut more) = (&mut self.channel, true);
        for _ in 0..READS_PER_TURN {
            let received = socket.receive(&mut scratch.datagrams, |datagram| {
                for record in dtls::records(datagram) {
                    let Opened::Application(plaintext) = channel.handle_record(record, now) else {
                        continue;
                    };
                    if let Some((kind, payload)) = plaintext.split_first_mut() {
                        each(FrameKind::from_byte(*kind), payload);
                    }
                }
            });
            match received {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    more = false;
                    break;
                }
                // An ICMP error of the path, at most a hint: silence decides.
                Err(_) => {}
            }
        }
        self.drain(&mut scratch.control, now);
        more
    }

    /// Seals `packet`, which has its type already, into the burst; [`Datagrams::flush`] sends it. Returns whether it is
    /// on its way.
    pub(super) fn send(
        &mut self,
        packet: &mut PacketBuf,
        buffers: &mut DatagramBuffers,
        now: Instant,
    ) -> bool {
        if self.socket.is_none() || self.channel.seal(packet, now).is_err() {
            return false;
        }
        let datagram = packet.as_slice();
        if buffers.burst.room((), datagram.len()).is_none() {
            self.flush(buffers);
        }
        let Some(room) = buffers.burst.room((), datagram.len()) else { return false };
        room.copy_from_slice(datagram);
        buffers.burst.commit(datagram.len());
        true
    }

    /// Hands the burst to the kernel.
    pub(super) fn flush(&self, buffers: &mut DatagramBuffers) {
        let Some(Taken { destination: (), bytes, segment }) = buffers.burst.take() else { return };
        let Some(socket) = &self.socket else { return };
        let transmit = Transmit {
            destination: self.remote,
            ecn: None,
            contents: bytes,
            segment_size: segment,
            src_ip: None,
        };
        // A full socket loses the burst as a full network would; other errors are the path's.
        if let Err(error) = socket.state.try_send(UdpSockRef::from(&socket.udp), &transmit) {
            tracing::trace!(%error, "cannot send datagrams");
        }
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
        self.flush(&mut scratch.datagrams);
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
