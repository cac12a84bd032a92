//! The device: made by its driver, and the loop that carries packets between it and a tunnel.
//!
//! With [`Offloads`] one read is up to 64 KB that stand for many packets, and packets of a flow that come from the tunnel
//! in a row are joined for one write; without, one read or write is one packet. Nothing is allocated per packet. A tunnel
//! that does not take packets, because it reconnects, fills the queue; the kernel then drops what more comes. The queue's
//! own fairness gives other tasks their turn.

use std::fs::File;
use std::io::{self, IoSlice, Read, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::packet::offload::{
    Coalescer, HEADER_LEN, MAX_SUPER_PACKET, OffloadHeader, Push, Segments,
};
use mstunnel_proto::session::Leases;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tun_rs::DeviceBuilder;

use super::DeviceError;
use crate::packets::{PacketReceiver, PacketSender, Packets};
use crate::params::TunnelParams;
use crate::sys;

/// The driver's node.
pub(super) const NODE: &str = "/dev/net/tun";

/// Packets from the tunnel that are joined before they are written: a few full super-packets.
const PACKETS_PER_BURST: usize = 128;

/// What the kernel keeps for us while we are busy, in super-packets of up to 64 KB: a few milliseconds at the speed that two
/// processors reach. With its usual 500, uploads keep 20 ms and more waiting there, which everything else waits behind.
const QUEUE_WITH_OFFLOADS: u32 = 128;

/// Checks that `name` is one that the kernel takes and that is nothing else in a path or a rule.
///
/// # Errors
/// [`DeviceError::Name`]
pub fn check_name(name: &str) -> Result<(), DeviceError> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_reserved = matches!(name, "." | ".." | "all" | "default" | "lo");
    if name.is_empty() || name.len() > 15 || is_reserved || !name.bytes().all(is_plain) {
        return Err(DeviceError::Name { name: name.chars().take(64).collect() });
    }
    Ok(())
}

/// Which packets a device gives and takes as super-packets ([`mstunnel_proto::packet::offload`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// None: one packet a system call, without a header.
    None,
    /// Those of TCP.
    Tcp,
    /// Those of TCP and of UDP.
    TcpAndUdp,
}

/// Makes the interface `name`, down and without addresses, in the network namespace of the calling thread.
///
/// It goes away with its last descriptor. One packet goes to a system call.
///
/// # Errors
/// [`DeviceError`]
pub fn create(name: &str) -> Result<OwnedFd, DeviceError> {
    open(name, false).map(|(device, _)| device)
}

/// As [`create`], with the offloads that the kernel has.
///
/// # Errors
/// [`DeviceError`]
pub fn create_with_offloads(name: &str) -> Result<(OwnedFd, Offloads), DeviceError> {
    // What is not about offloads is refused once more, and then told.
    open(name, true).or_else(|_| open(name, false))
}

fn open(name: &str, offload: bool) -> Result<(OwnedFd, Offloads), DeviceError> {
    check_name(name)?;
    // The builder would make the node itself where it may; whether there is one is the administrator's affair.
    File::options().read(true).write(true).open(NODE).map_err(|error| DeviceError::of_driver(name, error))?;
    let refused = |error| DeviceError::of_driver(name, error);
    let device =
        DeviceBuilder::new().name(name).offload(offload).enable(false).build_sync().map_err(refused)?;
    let offloads = match (device.tcp_gso(), device.udp_gso()) {
        (false, _) => Offloads::None,
        (true, false) => Offloads::Tcp,
        (true, true) => Offloads::TcpAndUdp,
    };
    if offloads != Offloads::None {
        // Where it is refused, the kernel's own length holds; that is no reason to do without offloads.
        let _ = device.set_tx_queue_len(QUEUE_WITH_OFFLOADS);
    }
    Ok((device.as_fd().try_clone_to_owned().map_err(refused)?, offloads))
}

/// A TUN device on the reactor of a runtime.
#[derive(Debug)]
pub struct Tun {
    device: AsyncFd<File>,
    offloads: Offloads,
}

impl Tun {
    /// Takes the descriptor of a device, from [`create_with_offloads`] or, without any, from another namespace.
    ///
    /// # Errors
    /// When the reactor cannot take it.
    pub fn new(device: OwnedFd, offloads: Offloads) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&device, true)?;
        Ok(Self { device: sys::readable(File::from(device))?, offloads })
    }

    /// Carries packets both ways until the device or the tunnel is gone; returns why.
    ///
    /// A packet from the tunnel whose destination is not this client's address is dropped: a host that forwards
    /// would carry it into its own networks.
    pub async fn carry(self, packets: Packets, mut params: watch::Receiver<Arc<TunnelParams>>) -> io::Error {
        let (sender, mut receiver) = packets.split();
        let leases = params.borrow_and_update().leases();
        tokio::select! {
            error = self.outbound(&sender) => error,
            error = self.inbound(&mut receiver, params, leases) => error,
        }
    }

    async fn outbound(&self, sender: &PacketSender) -> io::Error {
        let mut buffer = vec![0; HEADER_LEN + MAX_SUPER_PACKET].into_boxed_slice();
        loop {
            let mut ready = match self.device.readable().await {
                Ok(ready) => ready,
                Err(error) => return error,
            };
            loop {
                let read = match self.device.get_ref().read(&mut buffer) {
                    Ok(len) => &buffer[..len],
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        ready.clear_ready();
                        break;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return error,
                };
                let segments = match self.offloads {
                    Offloads::None => Segments::whole(read),
                    Offloads::Tcp | Offloads::TcpAndUdp => Segments::new(read),
                };
                if send_all(segments, sender).await.is_err() {
                    return gone();
                }
            }
        }
    }

    async fn inbound(
        &self,
        receiver: &mut PacketReceiver,
        mut params: watch::Receiver<Arc<TunnelParams>>,
        mut leases: Leases,
    ) -> io::Error {
        let mut coalescer = match self.offloads {
            Offloads::None => None,
            Offloads::Tcp => Some(Coalescer::new(false)),
            Offloads::TcpAndUdp => Some(Coalescer::new(true)),
        };
        while let Some(first) = receiver.recv().await {
            if params.has_changed().unwrap_or(false) {
                leases = params.borrow_and_update().leases();
            }
            let (mut next, mut taken) = (Some(first), 0);
            while let Some(packet) = next {
                let written = match is_for(packet.as_slice(), leases) {
                    true => self.join(packet.as_slice(), &mut coalescer),
                    false => Ok(()),
                };
                receiver.recycle(packet);
                if let Err(error) = written {
                    return error;
                }
                taken += 1;
                next = if taken < PACKETS_PER_BURST { receiver.try_recv() } else { None };
            }
            if let Err(error) = self.end_burst(&mut coalescer) {
                return error;
            }
        }
        gone()
    }

    /// Hands a packet to the kernel, now or with others of its flow at the end of the burst.
    fn join(&self, packet: &[u8], coalescer: &mut Option<Coalescer>) -> io::Result<()> {
        let Some(coalescer) = coalescer else { return self.write(&[IoSlice::new(packet)]) };
        let push = coalescer.push(packet);
        self.write_due(coalescer)?;
        match push {
            Push::Kept => Ok(()),
            Push::Alone => self.write(&[IoSlice::new(&OffloadHeader::PLAIN.bytes()), IoSlice::new(packet)]),
        }
    }

    fn end_burst(&self, coalescer: &mut Option<Coalescer>) -> io::Result<()> {
        let Some(coalescer) = coalescer else { return Ok(()) };
        coalescer.close();
        self.write_due(coalescer)
    }

    fn write_due(&self, coalescer: &mut Coalescer) -> io::Result<()> {
        while let Some(joined) = coalescer.poll_due() {
            self.write(&[IoSlice::new(joined.bytes)])?;
        }
        Ok(())
    }

    /// Hands the parts of one write to the kernel. What it does not take (no IP packet, no room, interface down) is
    /// lost, as on any link; only a device that was deleted is an error.
    fn write(&self, parts: &[IoSlice<'_>]) -> io::Result<()> {
        match self.device.get_ref().write_vectored(parts) {
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

/// Queues every packet of one read; those that are none, or do not fit, are lost.
async fn send_all(mut segments: Segments<'_>, sender: &PacketSender) -> Result<(), PacketBuf> {
    loop {
        let mut packet = sender.buffer();
        match segments.next_into(packet.room()) {
            Some(Ok(len)) => {
                packet.set_len(len);
                sender.send(packet).await?;
            }
            Some(Err(_)) => sender.recycle(packet),
            None => {
                sender.recycle(packet);
                return Ok(());
            }
        }
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the tunnel is gone")
}

/// Whether the packet's destination is one of the client's addresses.
fn is_for(packet: &[u8], leases: Leases) -> bool {
    let destination = match packet.first().map(|byte| byte >> 4) {
        Some(4) => packet.get(16..20).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(IpAddr::from),
        Some(6) => packet.get(24..40).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()).map(IpAddr::from),
        _ => None,
    };
    match destination {
        Some(IpAddr::V4(v4)) => leases.v4 == Some(v4),
        Some(IpAddr::V6(v6)) => leases.v6 == Some(v6),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn an_interface_name_is_plain_and_fits() {
        for name in ["mst0", "vpn.work_1-2", "fifteen-letters"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "sixteen-letters-", "a/b", "..", "all", "lo", "a b", "a\"b", "mst%d", "mst*"] {
            assert!(matches!(check_name(name), Err(DeviceError::Name { .. })), "{name}");
        }
    }

    /// Covers: R62
    #[test]
    fn only_packets_for_the_lease_reach_the_kernel() {
        let leases = Leases { v4: Some(Ipv4Addr::new(10, 77, 0, 5)), v6: Some(Ipv6Addr::LOCALHOST) };
        let v4 = |destination: [u8; 4]| {
            let mut packet = [0; 20];
            packet[0] = 0x45;
            packet[16..].copy_from_slice(&destination);
            packet
        };
        assert!(is_for(&v4([10, 77, 0, 5]), leases));
        assert!(!is_for(&v4([192, 168, 1, 1]), leases));
        assert!(!is_for(&v4([10, 77, 0, 5])[..19], leases));
        let mut v6 = [0; 40];
        v6[0] = 0x60;
        assert!(!is_for(&v6, leases));
        v6[39] = 1;
        assert!(is_for(&v6, leases));
        assert!(
            !is_for(&v6, Leases { v6: None, ..leases }) && !is_for(&[], leases) && !is_for(&[0x10], leases)
        );
    }
}
