//! From the TUN queue of a worker to the tunnels: the task that reads packets for clients.
//!
//! The kernel steers the answers of a flow to the queue its packets were written to, so that most
//! packets find their tunnel on this worker. The others go to their worker through its mailbox.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crossbeam_queue::ArrayQueue;
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::drop::DropReason;
use mstunnel_proto::packet::Packet;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::buffers::Buffers;
use super::live::LiveTable;
use super::tunnel::{Bench, Tunnel};

/// Packets read in one turn before other tasks of the worker get theirs.
const PACKETS_PER_TURN: usize = 128;

/// Packets that wait for another worker; a worker that is that far behind loses the newest.
const MAX_MAILBOX: usize = 1024;

/// The tunnels of one worker by inside address.
pub(crate) type Tunnels = RefCell<FxHashMap<IpAddr, Rc<RefCell<Tunnel>>>>;

/// Packets from other workers for the tunnels of this one.
pub(crate) struct Mailbox {
    packets: ArrayQueue<PacketBuf>,
    notify: Notify,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self { packets: ArrayQueue::new(MAX_MAILBOX), notify: Notify::new() }
    }
}

impl Mailbox {
    /// Leaves a packet; a full mailbox gives it back.
    fn put(&self, packet: PacketBuf) -> Result<(), PacketBuf> {
        self.packets.push(packet)?;
        self.notify.notify_one();
        Ok(())
    }
}

/// Packets of a worker that reached no session, by reason.
#[derive(Default)]
pub(crate) struct Strays([AtomicU64; DropReason::ALL.len()]);

impl Strays {
    fn count(&self, reason: DropReason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were for `reason`.
    pub(crate) fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }
}

/// What the inbound task works with.
pub(crate) struct Inbound {
    pub(crate) worker: usize,
    pub(crate) tunnels: Rc<Tunnels>,
    pub(crate) bench: Rc<Bench>,
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) live: Arc<LiveTable>,
    pub(crate) mailboxes: Arc<[Mailbox]>,
    pub(crate) strays: Arc<Strays>,
}

impl Inbound {
    /// Reads the TUN queue and the mailbox until the TUN is gone.
    pub(crate) async fn run(self) -> io::Result<()> {
        let mut packet = self.buffers.take();
        let mut touched: Vec<Rc<RefCell<Tunnel>>> = Vec::with_capacity(PACKETS_PER_TURN);
        let mailbox = &self.mailboxes[self.worker];
        loop {
            tokio::select! {
                readable = self.bench.tun.readable() => {
                    readable?;
                    self.read_queue(&mut packet, &mut touched)?;
                }
                () = mailbox.notify.notified() => self.read_mailbox(mailbox, &mut touched),
            }
            let now = Instant::now();
            for tunnel in touched.drain(..) {
                tunnel.borrow_mut().flush(&self.bench, now);
            }
            tokio::task::yield_now().await;
        }
    }

    fn read_queue(&self, packet: &mut PacketBuf, touched: &mut Vec<Rc<RefCell<Tunnel>>>) -> io::Result<()> {
        let now = Instant::now();
        for _ in 0..PACKETS_PER_TURN {
            match self.bench.tun.try_recv(packet.room()) {
                Ok(len) => packet.set_len(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.deliver(packet, touched, Reach::AnyWorker, now);
        }
        Ok(())
    }

    fn read_mailbox(&self, mailbox: &Mailbox, touched: &mut Vec<Rc<RefCell<Tunnel>>>) {
        let now = Instant::now();
        for _ in 0..PACKETS_PER_TURN {
            let Some(mut packet) = mailbox.packets.pop() else {
                return;
            };
            self.deliver(&mut packet, touched, Reach::ThisWorker, now);
            self.buffers.give(packet);
        }
        mailbox.notify.notify_one();
    }

    fn deliver(
        &self,
        packet: &mut PacketBuf,
        touched: &mut Vec<Rc<RefCell<Tunnel>>>,
        reach: Reach,
        now: Instant,
    ) {
        let Ok(view) = Packet::parse(packet.as_slice()) else {
            self.strays.count(DropReason::Malformed);
            return;
        };
        let destination = view.destination();
        if let Some(tunnel) = self.tunnels.borrow().get(&destination) {
            tunnel.borrow_mut().send(packet, &self.bench, now);
            if !touched.iter().any(|other| Rc::ptr_eq(other, tunnel)) {
                touched.push(Rc::clone(tunnel));
            }
            return;
        }
        let elsewhere = match reach {
            Reach::AnyWorker => self.live.worker_of(destination).filter(|&worker| worker != self.worker),
            Reach::ThisWorker => None,
        };
        let Some(worker) = elsewhere else {
            self.strays.count(DropReason::NoSession);
            return;
        };
        let moved = std::mem::replace(packet, self.buffers.take());
        if let Err(refused) = self.mailboxes[worker].put(moved) {
            self.strays.count(DropReason::QueueFull);
            self.buffers.give(refused);
        }
    }
}

#[derive(Clone, Copy)]
enum Reach {
    AnyWorker,
    ThisWorker,
}
