//! The one place that knows which egress there is: for a server, and for each of its workers.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use mstunnel_proto::drop::DropReason;
use mstunnel_proto::packet::offload::Segments;
use mstunnel_proto::session::{Leases, SessionId};

use super::kept::Kept;
use super::kernel::{KernelEgress, TunQueue, Uplink};
use super::userspace::{Attached, Plan, ToClient, Userspace};

/// The egress of a server that starts.
#[derive(Debug)]
pub(crate) enum OpenEgress {
    Kernel(KernelEgress),
    Userspace(Arc<Plan>),
}

impl OpenEgress {
    /// What an administrator should look at, one sentence each.
    pub(crate) fn warnings(&self) -> &[String] {
        match self {
            Self::Kernel(kernel) => kernel.warnings(),
            Self::Userspace(plan) => plan.warnings(),
        }
    }

    /// The parts for `workers` workers, and what there is to look after and to close, if anything.
    pub(crate) fn into_parts(self, workers: usize) -> (Vec<Part>, Option<Kept>) {
        match self {
            Self::Kernel(mut kernel) => {
                let parts = kernel.take_queues().into_iter().map(Part::Kernel).collect();
                (parts, Some(Kept::new(kernel)))
            }
            Self::Userspace(plan) => {
                ((0..workers).map(|_| Part::Userspace(Arc::clone(&plan))).collect(), None)
            }
        }
    }
}

/// A worker's part of the egress before the worker runs.
#[derive(Debug)]
pub(crate) enum Part {
    Kernel(TunQueue),
    Userspace(Arc<Plan>),
}

impl Part {
    /// Binds the part to the runtime of the calling worker.
    ///
    /// # Errors
    /// What the system refuses.
    pub(crate) fn into_egress(self) -> io::Result<Egress> {
        Ok(match self {
            Self::Kernel(queue) => Egress::Kernel(Uplink::new(queue.into_async()?)),
            Self::Userspace(plan) => Egress::Userspace(Rc::new(Userspace::new(plan)?)),
        })
    }
}

/// The egress of one worker.
pub(crate) enum Egress {
    Kernel(Uplink),
    Userspace(Rc<Userspace>),
}

impl Egress {
    /// Sends a packet of a client towards the network; it may wait for others of its flow until [`Egress::flush`].
    ///
    /// # Errors
    /// Why it was dropped.
    pub(crate) fn send(&self, packet: &[u8], now: Instant) -> Result<(), DropReason> {
        match self {
            Self::Kernel(uplink) => uplink.send(packet),
            Self::Userspace(userspace) => userspace.send(packet, now),
        }
    }

    /// Ends a burst of packets of clients; each of their tunnels then asks [`Egress::take_refused`].
    pub(crate) fn flush(&self) {
        match self {
            Self::Kernel(uplink) => uplink.flush(),
            Self::Userspace(_) => {}
        }
    }

    /// How many packets of the session with these addresses were dropped after they had been taken.
    pub(crate) fn take_refused(&self, leases: &Leases) -> u64 {
        match self {
            Self::Kernel(uplink) => uplink.take_refused(|source| leases.holds(source)),
            Self::Userspace(_) => 0,
        }
    }

    /// Sends an ICMP error of the server's own towards the network.
    pub(crate) fn answer(&self, packet: &[u8]) {
        match self {
            Self::Kernel(uplink) => uplink.answer(packet),
            // Only our own flows send to clients, and they know the MTU.
            Self::Userspace(_) => {}
        }
    }

    /// Whether a client's packets may enter at another worker from one moment to the next: flows of our own belong to one.
    pub(crate) fn lets_tunnels_move(&self) -> bool {
        match self {
            Self::Kernel(_) => true,
            Self::Userspace(_) => false,
        }
    }

    /// Waits for a packet from the network, or for the death of the device, which the next read then reports.
    ///
    /// # Errors
    /// When the runtime ends.
    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Kernel(uplink) => uplink.readable().await,
            // Its flows bring their packets themselves.
            Self::Userspace(_) => std::future::pending().await,
        }
    }

    /// Takes packets from the network: those of one read.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when there is none; others are fatal.
    pub(crate) fn try_recv<'b>(&self, buffer: &'b mut [u8]) -> io::Result<Segments<'b>> {
        match self {
            Self::Kernel(uplink) => uplink.try_recv(buffer),
            Self::Userspace(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Tells the egress of a connection of session `id`, until the answer is dropped.
    pub(crate) fn attach(
        &self,
        id: SessionId,
        addresses: impl Iterator<Item = IpAddr>,
        client: impl FnOnce() -> Rc<dyn ToClient>,
    ) -> Option<Attached> {
        match self {
            Self::Kernel(_) => None,
            Self::Userspace(userspace) => Some(userspace.attach(id, addresses, client())),
        }
    }
}
