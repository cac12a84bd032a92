//! The TUN device: one open descriptor a queue.
//!
//! A queue is made as a plain descriptor ([`TunQueue`], which is `Send` and needs no runtime) and
//! becomes [`AsyncTunQueue`] on the worker that uses it, since a descriptor belongs to the reactor of
//! the runtime that is entered when it is registered.
//!
//! With [`Offloads`] one read or write is a super-packet: up to 64 KB that stand for many packets, with a header before
//! them (`IFF_VNET_HDR`; [`mstunnel_proto::packet::offload`]). A plain write costs 3.2 us and one of 16 segments 0.3 us a
//! packet. A kernel that has none of it gives and takes one packet at a time.
//!
//! # Source
//! Linux `Documentation/networking/tuntap.rst`, `drivers/net/tun.c`. TCP offloads are as old as `IFF_VNET_HDR`, those of
//! UDP came with 6.2.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::AsFd;
use std::path::Path;

use mstunnel_proto::packet::offload::{HEADER_LEN, MAX_SUPER_PACKET, OffloadHeader, Segments};
use tun_rs::{AsyncDevice, DeviceBuilder, SyncDevice};

use super::{EgressConfig, EgressError};

/// The driver's node.
const TUN_NODE: &str = "/dev/net/tun";

/// Room that [`AsyncTunQueue::try_recv`] needs, so that nothing is ever cut.
pub const READ_LEN: usize = HEADER_LEN + MAX_SUPER_PACKET;

/// Which packets the device gives and takes as super-packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// None; there is no header either.
    None,
    /// Those of TCP.
    Tcp,
    /// Those of TCP and of UDP.
    TcpAndUdp,
}

impl Offloads {
    fn of(device: &SyncDevice) -> Self {
        match (device.tcp_gso(), device.udp_gso()) {
            (false, _) => Self::None,
            (true, false) => Self::Tcp,
            (true, true) => Self::TcpAndUdp,
        }
    }
}

/// One queue of the interface, not yet bound to a worker.
pub struct TunQueue(SyncDevice);

impl TunQueue {
    /// Binds the queue to the runtime of the calling worker.
    ///
    /// # Errors
    /// When the reactor cannot take one more descriptor.
    ///
    /// # Panics
    /// Outside of a tokio runtime with I/O enabled.
    pub fn into_async(self) -> io::Result<AsyncTunQueue> {
        let writer = File::from(self.0.as_fd().try_clone_to_owned()?);
        let offloads = Offloads::of(&self.0);
        Ok(AsyncTunQueue { reader: AsyncDevice::new(self.0)?, writer, offloads })
    }
}

impl std::fmt::Debug for TunQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunQueue").finish_non_exhaustive()
    }
}

/// One queue of the interface on its worker. Reads are packets for clients, writes are from them.
///
/// Writes go around the reactor: it believes a descriptor unwritable until its first turn, and the
/// driver practically never is.
pub struct AsyncTunQueue {
    reader: AsyncDevice,
    /// The same open file (and so the same queue, not blocking either) under a second descriptor.
    writer: File,
    offloads: Offloads,
}

impl AsyncTunQueue {
    /// Waits for a packet, or for the death of the device, which the next read then reports.
    ///
    /// # Errors
    /// When the runtime ends.
    pub async fn readable(&self) -> io::Result<()> {
        self.reader.readable().await
    }

    /// Which packets come and go as super-packets.
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// Takes one read: a packet, or the packets that a super-packet stands for.
    ///
    /// What is longer than `buffer` is cut and comes out as malformed, so give it [`READ_LEN`] bytes.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is none; see [`device_is_gone`] for the fatal ones.
    pub fn try_recv<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Segments<'b>> {
        let len = self.reader.try_recv(buffer)?;
        let read = &buffer[..len.min(buffer.len())];
        Ok(if self.offloads == Offloads::None { Segments::whole(read) } else { Segments::new(read) })
    }

    /// Hands one packet to the kernel.
    ///
    /// # Errors
    /// `EINVAL` when it is not an IP packet, `EIO` while the interface is down, `WouldBlock` when the
    /// kernel has no room: drop the packet then, TCP and its like repair it. See [`device_is_gone`].
    pub fn try_send(&self, packet: &[u8]) -> io::Result<()> {
        if self.offloads == Offloads::None {
            return (&self.writer).write(packet).map(drop);
        }
        let header = OffloadHeader::PLAIN.bytes();
        (&self.writer).write_vectored(&[IoSlice::new(&header), IoSlice::new(packet)]).map(drop)
    }

    /// Hands a packet with its offload header to the kernel; only for a queue that has [`Offloads`].
    ///
    /// # Errors
    /// As for [`AsyncTunQueue::try_send`]; the kernel takes all packets of a super-packet or none.
    pub fn try_send_super(&self, header_and_packet: &[u8]) -> io::Result<()> {
        (&self.writer).write(header_and_packet).map(drop)
    }
}

impl std::fmt::Debug for AsyncTunQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AsyncTunQueue").finish_non_exhaustive()
    }
}

/// Whether the error of a queue means that its interface was deleted: the queue never works again and
/// the process has to end (R82).
///
/// # Source
/// Linux `drivers/net/tun.c`: every operation on a detached file answers `EBADFD`.
pub fn device_is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EBADFD)
}

/// Makes the interface, down and without addresses, and opens its queues.
///
/// Also says, if the kernel has no offloads, why.
pub(super) fn open_queues(config: &EgressConfig) -> Result<(Vec<TunQueue>, Option<String>), EgressError> {
    if !Path::new(TUN_NODE).exists() {
        return Err(EgressError::NoTunDriver);
    }
    let (first, missing) = open_first(config)?;
    let mut queues = Vec::with_capacity(config.queues);
    for _ in 1..config.queues {
        let queue = first.try_clone().map_err(|source| explain("add a queue to", config, source))?;
        queues.push(TunQueue(queue));
    }
    queues.push(TunQueue(first));
    Ok((queues, missing))
}

/// Opens the device with offloads if they are wanted and there; a kernel without them still carries packets.
fn open_first(config: &EgressConfig) -> Result<(SyncDevice, Option<String>), EgressError> {
    let open = |offload| {
        let name = config.interface.as_str();
        DeviceBuilder::new().name(name).multi_queue(true).offload(offload).enable(false).build_sync()
    };
    let refused = match config.offload.then(|| open(true)) {
        Some(Ok(device)) => return Ok((device, None)),
        Some(Err(refused)) => Some(refused),
        None => None,
    };
    // What is not about offloads is refused once more, and then explained.
    let device = open(false).map_err(|source| explain("create", config, source))?;
    let missing = refused.map(|refused| {
        format!("the kernel has no offloads for TUN interfaces ({refused}): packets go one to a system call")
    });
    Ok((device, missing))
}

fn explain(what: &'static str, config: &EgressConfig, source: io::Error) -> EgressError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => EgressError::NotPermitted { what: "making a TUN interface" },
        Some(libc::ENODEV | libc::ENXIO | libc::ENOENT) => EgressError::NoTunDriver,
        Some(libc::EBUSY) => EgressError::InUse { name: config.interface.clone() },
        _ => EgressError::Device { what, name: config.interface.clone(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: i32) -> String {
        let config = EgressConfig::new("mst0", 1400, vec![]);
        explain("create", &config, io::Error::from_raw_os_error(code)).to_string()
    }

    #[test]
    fn the_errors_of_the_kernel_say_what_to_do() {
        assert!(refused(libc::EPERM).contains("--cap-add NET_ADMIN"), "{}", refused(libc::EPERM));
        assert!(refused(libc::ENODEV).contains("modprobe tun"));
        assert!(refused(libc::EBUSY).contains("another process"));
        assert!(refused(libc::EINVAL).contains("mst0"));
    }

    #[test]
    fn only_a_detached_file_means_that_the_device_is_gone() {
        assert!(device_is_gone(&io::Error::from_raw_os_error(libc::EBADFD)));
        for code in [libc::EAGAIN, libc::EIO, libc::EINVAL, libc::ENOBUFS] {
            assert!(!device_is_gone(&io::Error::from_raw_os_error(code)));
        }
    }
}
