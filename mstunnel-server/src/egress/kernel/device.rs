//! The TUN device: one open descriptor a queue.
//!
//! A queue is made as a plain descriptor ([`TunQueue`], which is `Send` and needs no runtime) and
//! becomes [`AsyncTunQueue`] on the worker that uses it, since a descriptor belongs to the reactor of
//! the runtime that is entered when it is registered.
//!
//! One read is one IP packet without any header before it. The offload header (`IFF_VNET_HDR`,
//! packets of up to 64 KiB with a segment size) is not asked for yet: a plain write costs 3.2 us and
//! one of 16 segments 0.3 us a packet (performance.md), so that it will be; `tun-rs` has it behind
//! `offload(true)`, `recv_multiple` and `send_multiple`, all on the same two types.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;

use tun_rs::{AsyncDevice, DeviceBuilder, SyncDevice};

use super::{EgressConfig, EgressError};

/// The driver's node.
const TUN_NODE: &str = "/dev/net/tun";

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
        Ok(AsyncTunQueue { reader: AsyncDevice::new(self.0)?, writer })
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
}

impl AsyncTunQueue {
    /// Waits for a packet, or for the death of the device, which the next read then reports.
    ///
    /// # Errors
    /// When the runtime ends.
    pub async fn readable(&self) -> io::Result<()> {
        self.reader.readable().await
    }

    /// Takes one packet; a packet longer than `packet` is cut, so give it the MTU at least.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is none; see [`device_is_gone`] for the fatal ones.
    pub fn try_recv(&self, packet: &mut [u8]) -> io::Result<usize> {
        self.reader.try_recv(packet)
    }

    /// Hands one packet to the kernel.
    ///
    /// # Errors
    /// `EINVAL` when it is not an IP packet, `EIO` while the interface is down, `WouldBlock` when the
    /// kernel has no room: drop the packet then, TCP and its like repair it. See [`device_is_gone`].
    pub fn try_send(&self, packet: &[u8]) -> io::Result<usize> {
        (&self.writer).write(packet)
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
pub(super) fn open_queues(config: &EgressConfig) -> Result<Vec<TunQueue>, EgressError> {
    if !Path::new(TUN_NODE).exists() {
        return Err(EgressError::NoTunDriver);
    }
    let first = DeviceBuilder::new()
        .name(config.interface.as_str())
        .multi_queue(true)
        .offload(false)
        .enable(false)
        .build_sync()
        .map_err(|source| explain("create", config, source))?;
    let mut queues = Vec::with_capacity(config.queues);
    for _ in 1..config.queues {
        let queue = first.try_clone().map_err(|source| explain("add a queue to", config, source))?;
        queues.push(TunQueue(queue));
    }
    queues.push(TunQueue(first));
    Ok(queues)
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
