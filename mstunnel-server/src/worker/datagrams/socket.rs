//! One UDP socket: many datagrams a system call both ways, and answers from the address that was asked.
//!
//! # Source
//! R19 (answers keep the local address), P-027; RFC 8085 section 5.1.3.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::task::{Context, Poll};

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimestampns;
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use mstunnel_proto::dtls::Path;

/// Bytes that the kernel may hold for us and from us: a few milliseconds at line rate. The kernel may give
/// less (`net.core.rmem_max`).
const SOCKET_BUFFER: usize = 4 << 20;

/// Room for what one system call brings in for one slot: a GRO train of datagrams.
const SLOT: usize = 65_535;

/// The same for a client that has a socket of its own.
const CONNECTED_BUFFER: usize = 1 << 20;

/// Slots of one receiving system call for such a client. Each may bring a train of 64 datagrams, and others wait while they
/// are looked at (R57).
const CONNECTED_BATCH: usize = 1;

/// Binds one worker's share of an address.
///
/// # Errors
/// The operating system's, for the caller to add the address to.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    bind_with(address, SOCKET_BUFFER)
}

/// Binds a socket beside that of [`bind`] that the kernel gives only what comes from `remote`.
///
/// Between the two system calls in here it may be given what is for others: it is to be read like theirs.
pub(crate) fn connect(address: SocketAddr, remote: SocketAddr) -> io::Result<DatagramSocket> {
    let socket = bind_with(address, CONNECTED_BUFFER)?;
    socket.connect(remote)?;
    Ok(DatagramSocket { batch: CONNECTED_BATCH, ..DatagramSocket::new(socket)? })
}

fn bind_with(address: SocketAddr, buffer: usize) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A smaller buffer than asked for works too.
    let _ = socket.set_recv_buffer_size(buffer);
    let _ = socket.set_send_buffer_size(buffer);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// Turns off what [`UdpSocketState`] asks the kernel for and nobody here looks at: each is copied for every datagram, and
/// for the time of arrival the kernel looks at the clock for every packet of the host.
fn forgo_details(socket: &std::net::UdpSocket) {
    let options = SockRef::from(socket);
    // Where it is refused, it is only slower.
    let _ = setsockopt(socket, ReceiveTimestampns, &false);
    let _ = options.set_recv_tos_v4(false);
    let _ = options.set_recv_tclass_v6(false);
}

/// A UDP socket of one worker.
pub(crate) struct DatagramSocket {
    io: UdpSocket,
    state: UdpSocketState,
    /// Slots of one receiving system call.
    batch: usize,
}

/// Buffers for one receiving system call; one for a worker.
pub(crate) struct Intake {
    bytes: Vec<u8>,
    metas: Vec<RecvMeta>,
}

/// How much of what the kernel had one system call has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Burst {
    /// Everything.
    All,
    /// As much as it may bring; there may be more.
    Full,
}

/// Where a datagram came from, and to which address of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) remote: SocketAddr,
    pub(crate) local: Option<IpAddr>,
}

impl Intake {
    /// Buffers for `sockets` sockets that take turns; none for none.
    pub(crate) fn new(sockets: usize) -> Self {
        if sockets == 0 {
            return Self { bytes: Vec::new(), metas: Vec::new() };
        }
        Self { bytes: vec![0; SLOT * BATCH_SIZE], metas: vec![RecvMeta::default(); BATCH_SIZE] }
    }
}

impl DatagramSocket {
    /// Takes a bound socket over; within the worker's runtime.
    pub(crate) fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        forgo_details(&socket);
        Ok(Self { io: UdpSocket::from_std(socket)?, state, batch: BATCH_SIZE })
    }

    /// The address that it is bound to.
    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// Hands every datagram of one system call to `each`.
    pub(crate) fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        intake: &mut Intake,
        mut each: impl FnMut(Origin, &mut [u8]),
    ) -> Poll<io::Result<Burst>> {
        loop {
            std::task::ready!(self.io.poll_recv_ready(cx))?;
            let mut chunks = intake.bytes.chunks_exact_mut(SLOT);
            let mut slots: [IoSliceMut<'_>; BATCH_SIZE] = std::array::from_fn(|_| {
                IoSliceMut::new(chunks.next().expect("the intake has a slot for each"))
            });
            let received = self.io.try_io(Interest::READABLE, || {
                self.state.recv(
                    UdpSockRef::from(&self.io.as_fd()),
                    &mut slots[..self.batch],
                    &mut intake.metas,
                )
            });
            let received = match received {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Poll::Ready(Err(error)),
            };
            let burst = if received < self.batch { Burst::All } else { Burst::Full };
            if burst == Burst::All {
                // What arrives from now on is a new event. Saves the call that finds nothing.
                let drained = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                let _: io::Result<()> = self.io.try_io(Interest::READABLE, drained);
            }
            for (slot, meta) in slots.iter_mut().zip(&intake.metas).take(received) {
                let origin = Origin { remote: meta.addr, local: meta.dst_ip };
                for datagram in slot[..meta.len].chunks_mut(meta.stride.max(1)) {
                    each(origin, datagram);
                }
            }
            return Poll::Ready(Ok(burst));
        }
    }

    /// Sends one datagram, or with `segment` a burst of datagrams of that size (the last may be shorter).
    ///
    /// # Errors
    /// The operating system's. A full socket buffer loses the burst, as a full network would.
    pub(crate) fn send(&self, path: &Path, contents: &[u8], segment: Option<usize>) -> io::Result<()> {
        let transmit = Transmit {
            destination: path.remote,
            ecn: None,
            contents,
            segment_size: segment,
            src_ip: path.local,
        };
        self.io
            .try_io(Interest::WRITABLE, || self.state.try_send(UdpSockRef::from(&self.io.as_fd()), &transmit))
    }

    /// Datagrams that one [`DatagramSocket::send`] may hold.
    pub(crate) fn max_segments(&self) -> usize {
        self.state.max_gso_segments()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Datagrams that each call brings, while they last.
    async fn bursts(socket: &DatagramSocket, datagrams: usize) -> Vec<(usize, Burst)> {
        let (mut intake, mut bursts, mut left) = (Intake::new(1), Vec::new(), datagrams);
        while left > 0 {
            let mut taken = 0;
            let burst = poll_fn(|cx| socket.poll_recv(cx, &mut intake, |_, _| taken += 1)).await.unwrap();
            bursts.push((taken, burst));
            left -= taken;
        }
        bursts
    }

    /// Covers: R57
    #[tokio::test]
    async fn a_client_with_a_socket_of_its_own_gets_short_turns() {
        const DATAGRAMS: usize = 5;
        let shared = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = shared.local_addr().unwrap();
        let shared = DatagramSocket::new(shared).unwrap();
        let (other, noisy) = [(); 2].map(|()| std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).into();
        let own = connect(address, noisy.local_addr().unwrap()).unwrap();
        for client in [&other, &noisy] {
            for number in 0..DATAGRAMS {
                client.send_to(&vec![0; 100 + number], address).unwrap();
            }
        }
        assert_eq!(bursts(&shared, DATAGRAMS).await, [(DATAGRAMS, Burst::All)]);
        assert_eq!(bursts(&own, DATAGRAMS).await, [(CONNECTED_BATCH, Burst::Full); DATAGRAMS]);
    }
}
