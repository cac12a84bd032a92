//! What the driver and the users of a stack share.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::packet::Family;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::flow::Flow;
use super::link::Link;
use super::machine::{Buffers, Machine, Next};
use super::mailbox::Mailbox;
use super::table::{Port, Table};
use super::timers::Timers;
use super::{ConnectError, MAX_FLOWS, MAX_MAILBOXES};
use crate::packets::PacketSender;
use crate::params::TunnelParams;

/// The smallest MTU that is used: RFC 791 makes every host take 576 bytes, and smoltcp needs room for headers.
const MIN_MTU: usize = 576;

/// The shared part.
#[derive(Debug)]
pub(super) struct Shared {
    params: watch::Receiver<Arc<TunnelParams>>,
    sender: PacketSender,
    table: Mutex<Table>,
    pub(super) timers: Timers,
    blocked: Mutex<Vec<Arc<Flow>>>,
    /// Tells the driver that flows wait for room in the tunnel's queue.
    pub(super) has_blocked: Notify,
    /// Tells [`Shared::settled`] that a flow is gone.
    gone: Notify,
    dropped: AtomicU64,
}

impl Shared {
    pub(super) fn new(params: watch::Receiver<Arc<TunnelParams>>, sender: PacketSender) -> Self {
        Self {
            params,
            sender,
            table: Mutex::default(),
            timers: Timers::default(),
            blocked: Mutex::default(),
            has_blocked: Notify::new(),
            gone: Notify::new(),
            dropped: AtomicU64::new(0),
        }
    }

    pub(super) fn params(&self) -> Arc<TunnelParams> {
        Arc::clone(&self.params.borrow())
    }

    /// The longest packet, in bytes: what the server said, as far as our buffers reach.
    pub(super) fn mtu(&self) -> usize {
        let said = usize::from(self.params.borrow().said.mtu.get());
        said.min(self.sender.max_packet()).max(MIN_MTU)
    }

    /// Our address of `family`.
    pub(super) fn local(&self, family: Family) -> Option<IpAddr> {
        let leases = self.params.borrow().leases();
        match family {
            Family::V4 => leases.v4.map(IpAddr::V4),
            Family::V6 => leases.v6.map(IpAddr::V6),
        }
    }

    /// Adds a connection; it starts when it is serviced.
    pub(super) fn open_flow(&self, remote: SocketAddr) -> Result<(Arc<Flow>, SocketAddr), ConnectError> {
        let address = remote.ip();
        let is_host = !address.is_unspecified() && !address.is_multicast() && !address.is_loopback();
        if !is_host || address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) || remote.port() == 0 {
            return Err(ConnectError::Destination { address });
        }
        let local = self.local(Family::of(address)).ok_or(ConnectError::NoFamily { address })?;
        let link = Link::new(self.sender.clone(), self.mtu());
        let mut table = self.table();
        if table.has_ended() {
            return Err(ConnectError::TunnelEnded);
        }
        let key = table.free_key(remote).map_err(|_| ConnectError::TooMany { limit: MAX_FLOWS })?;
        let local = SocketAddr::new(local, key.local_port);
        let buffers = Buffers::beside(table.flow_count());
        let machine = Machine::connect(local, remote, link, buffers, Instant::now())?;
        let flow = Arc::new(Flow::new(key, machine));
        table.insert(Arc::clone(&flow));
        Ok((flow, local))
    }

    /// Lets a flow send what it can, and does what it wants done next.
    ///
    /// Locks the table, the timers or the list of the blocked, in no case two of them at a time.
    pub(super) fn service(&self, flow: &Arc<Flow>, machine: &mut Machine) {
        match machine.pump(Instant::now()) {
            Next::Blocked if machine.is_blocked => {}
            Next::Blocked => {
                machine.is_blocked = true;
                self.blocked().push(Arc::clone(flow));
                self.has_blocked.notify_one();
            }
            Next::At(at) => {
                if machine.armed.is_none_or(|armed| at < armed) {
                    machine.armed = Some(at);
                    self.timers.arm(at, Arc::downgrade(flow));
                }
            }
            Next::Idle => {}
            Next::Gone => {
                self.table().remove(flow);
                self.gone.notify_one();
            }
        }
    }

    /// Services the flows that found the queue full, in the order in which they did.
    pub(super) fn service_blocked(&self) {
        let blocked = std::mem::take(&mut *self.blocked());
        for flow in blocked {
            let mut machine = flow.machine();
            machine.is_blocked = false;
            self.service(&flow, &mut machine);
        }
    }

    /// Whether flows wait for room in the queue.
    pub(super) fn is_blocked(&self) -> bool {
        !self.blocked().is_empty()
    }

    /// Waits for room in the tunnel's queue; false when the tunnel is gone.
    pub(super) async fn room(&self) -> bool {
        self.sender.room(1).await
    }

    /// Opens a port of a kind and returns it with its number.
    pub(super) fn open_mailbox(
        &self,
        family: Family,
        port: impl Fn(u16) -> Port,
    ) -> Result<(Arc<Mailbox>, u16), ConnectError> {
        let unspecified = match family {
            Family::V4 => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        let local = self.local(family).ok_or(ConnectError::NoFamily { address: unspecified })?;
        let mailbox = Arc::new(Mailbox::new(local));
        let mut table = self.table();
        if table.has_ended() {
            return Err(ConnectError::TunnelEnded);
        }
        let number =
            table.open(port, &mailbox).map_err(|_| ConnectError::TooMany { limit: MAX_MAILBOXES })?;
        Ok((mailbox, number))
    }

    pub(super) fn close_mailbox(&self, port: Port) {
        self.table().close(port);
    }

    /// Sends the packet that `write` writes, waiting for room in the tunnel's queue.
    pub(super) async fn send(&self, write: impl FnOnce(&mut [u8]) -> Option<usize>) -> io::Result<()> {
        let mut packet = self.sender.buffer();
        let Some(len) = write(packet.room()) else {
            self.sender.recycle(packet);
            return Err(io::ErrorKind::InvalidInput.into());
        };
        packet.set_len(len);
        self.sender.send(packet).await.map_err(|_| io::ErrorKind::NetworkDown.into())
    }

    /// An empty buffer.
    #[cfg(test)]
    pub(super) fn buffer(&self) -> PacketBuf {
        self.sender.buffer()
    }

    pub(super) fn recycle(&self, packet: PacketBuf) {
        self.sender.recycle(packet);
    }

    /// Counts and recycles a packet that nobody gets.
    pub(super) fn drop_packet(&self, packet: PacketBuf) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        self.sender.recycle(packet);
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits until no connection is left.
    pub(super) async fn settled(&self) {
        while self.table().flow_count() > 0 {
            self.gone.notified().await;
        }
    }

    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn blocked(&self) -> MutexGuard<'_, Vec<Arc<Flow>>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
