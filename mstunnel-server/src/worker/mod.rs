//! One data core: a thread with its own runtime, listeners, TUN queue and tunnels.
//!
//! A session belongs to the worker that its TCP connection landed on (SO_REUSEPORT). Workers share
//! only `Shared`, which no packet locks.

mod buffers;
mod connection;
mod datagrams;
mod front;
mod gate;
mod inbound;
mod listener;
mod live;
mod records;
mod shared;
mod tunnel;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use mstunnel_proto::buf::{MAX_PACKET, PacketBuf};
use rustc_hash::FxHashMap;
use tokio::task::LocalSet;

pub(crate) use self::front::FRONT_TIMEOUT;
pub(crate) use self::listener::bind;
pub(crate) use self::live::Live;
pub(crate) use self::shared::{Parts, Shared};
use self::tunnel::{Bench, READ_BUFFER};
use crate::admin::ServerState;
use crate::egress::TunQueue;

/// What one worker is given at its start.
pub(crate) struct Worker {
    /// Its number, from zero.
    pub(crate) index: usize,
    /// Its share of every listening address.
    pub(crate) listeners: Vec<std::net::TcpListener>,
    /// Its queue of the TUN device.
    pub(crate) tun: TunQueue,
    /// The server's inside addresses: the sources of its ICMP errors.
    pub(crate) own_addresses: Vec<IpAddr>,
    /// What all workers share.
    pub(crate) shared: Arc<Shared>,
}

/// What the tasks of one worker share.
pub(crate) struct WorkerContext {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) bench: Rc<Bench>,
    pub(crate) tunnels: Rc<inbound::Tunnels>,
    connections: Cell<u64>,
}

impl WorkerContext {
    /// A number for a connection, unique among all workers.
    pub(crate) fn next_connection(&self) -> u64 {
        let number = self.connections.get();
        self.connections.set(number + 1);
        (number << 16) | self.index as u64
    }
}

impl Worker {
    /// Runs until the server stops, on the calling thread.
    ///
    /// # Errors
    /// What made the worker useless: the TUN device is gone, or the runtime failed.
    pub(crate) fn run(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let tasks = LocalSet::new();
        let result = tasks.block_on(&runtime, self.serve());
        // Tasks that are left hold sockets; they end with the runtime.
        drop(tasks);
        result
    }

    async fn serve(self) -> io::Result<()> {
        let shared = self.shared;
        let tun = Rc::new(self.tun.into_async()?);
        let bench = Rc::new(Bench {
            read: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
            control: RefCell::new(PacketBuf::new(MAX_PACKET)),
            buffers: Arc::clone(&shared.buffers),
            tun,
            own_addresses: self.own_addresses,
        });
        let tunnels: Rc<inbound::Tunnels> = Rc::new(RefCell::new(FxHashMap::default()));
        let context = Rc::new(WorkerContext {
            index: self.index,
            shared: Arc::clone(&shared),
            bench: Rc::clone(&bench),
            tunnels: Rc::clone(&tunnels),
            connections: Cell::new(0),
        });
        for listener in self.listeners {
            tokio::task::spawn_local(listener::accept_all(listener, Rc::clone(&context)));
        }
        let inbound = inbound::Inbound {
            worker: self.index,
            tunnels: Rc::clone(&tunnels),
            bench,
            buffers: Arc::clone(&shared.buffers),
            live: Arc::clone(&shared.live),
            mailboxes: Arc::clone(&shared.mailboxes),
            strays: Arc::clone(&shared.strays),
        };
        let inbound = tokio::task::spawn_local(inbound.run());
        tokio::select! {
            // A worker without its TUN queue is half alive: the whole process ends (R82).
            ended = inbound => ended.unwrap_or_else(|panic| Err(io::Error::other(panic))),
            () = drained(&shared, &tunnels) => Ok(()),
        }
    }
}

/// Waits until the server stops and the last tunnel of this worker has said its goodbye.
async fn drained(shared: &Shared, tunnels: &inbound::Tunnels) {
    shared.reached(ServerState::Stopping).await;
    while !tunnels.borrow().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}
