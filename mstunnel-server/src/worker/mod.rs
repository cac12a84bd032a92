//! One data core: a thread with its own runtime, listeners, TUN queue and tunnels.
//!
//! A session belongs to the worker that its TCP connection landed on (SO_REUSEPORT), until its datagrams turn out to land on
//! another one: then it moves there. Workers share only `Shared`, which no packet locks.

mod buffers;
mod connection;
mod datagrams;
mod front;
mod gate;
mod handshake;
mod inbound;
mod inward;
mod listener;
mod live;
mod mailbox;
mod moderation;
mod priority;
mod reception;
mod records;
mod relocation;
mod shared;
mod strays;
mod table;
mod touched;
mod tunnel;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use futures_util::FutureExt as _;
use mstunnel_proto::buf::{MAX_PACKET, PacketBuf};
use tokio::task::{JoinSet, LocalSet};

pub(crate) use self::datagrams::bind as bind_datagrams;
use self::datagrams::{Apart, DatagramSocket, Intake, Outlet};
pub(crate) use self::front::FRONT_TIMEOUT;
use self::handshake::Hellos;
pub(crate) use self::listener::bind;
pub(crate) use self::live::Live;
use self::moderation::Moderation;
use self::priority::Priority;
pub(crate) use self::shared::{Parts, Shared};
use self::table::TunnelTable;
use self::tunnel::{Bench, READ_BUFFER, WIRE_BUFFER};
use crate::admin::ServerState;
use crate::egress::Part;

/// What one worker is given at its start.
pub(crate) struct Worker {
    /// Its number, from zero.
    pub(crate) index: usize,
    /// Its share of every listening address.
    pub(crate) listeners: Vec<std::net::TcpListener>,
    /// Its share of the same addresses for UDP; none without a datagram channel.
    pub(crate) sockets: Vec<std::net::UdpSocket>,
    /// Its part of the egress.
    pub(crate) egress: Part,
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
    pub(crate) tunnels: TunnelTable,
    pub(crate) hellos: Hellos,
    pub(crate) apart: Apart,
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
        let runtime = runtime(priority::raise())?;
        let tasks = LocalSet::new();
        let result = tasks.block_on(&runtime, self.serve());
        // Tasks that are left hold sockets; they end with the runtime.
        drop(tasks);
        result
    }

    async fn serve(self) -> io::Result<()> {
        let shared = self.shared;
        let sockets: Rc<[DatagramSocket]> =
            self.sockets.into_iter().map(DatagramSocket::new).collect::<io::Result<_>>()?;
        let bench = Rc::new(Bench {
            read: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
            wire: RefCell::new(vec![0; WIRE_BUFFER].into_boxed_slice()),
            control: RefCell::new(PacketBuf::new(MAX_PACKET)),
            buffers: Arc::clone(&shared.buffers),
            egress: self.egress.into_egress()?,
            intake: RefCell::new(Intake::new(sockets.len())),
            outlet: RefCell::new(Outlet::new(Rc::clone(&sockets))),
            sockets,
            own_addresses: self.own_addresses,
        });
        let context = Rc::new(WorkerContext {
            index: self.index,
            shared,
            bench,
            tunnels: TunnelTable::default(),
            hellos: Hellos::default(),
            apart: Apart::default(),
            connections: Cell::new(0),
        });
        let mut parts = JoinSet::new();
        for listener in self.listeners {
            parts.spawn_local(listener::accept_all(listener, Rc::clone(&context)));
        }
        for socket in 0..context.bench.sockets.len() {
            let socket = u16::try_from(socket).expect("there are a few listening addresses");
            parts.spawn_local(reception::receive_all(socket, Rc::clone(&context)).map(Ok));
        }
        parts.spawn_local(reception::set_apart(Rc::clone(&context)).map(Ok));
        let inbound = inbound::Inbound { context: Rc::clone(&context) };
        parts.spawn_local(inbound.run());
        tokio::select! {
            // A worker without one of its parts is half alive: the whole process ends (R82).
            error = first_failure(&mut parts) => Err(error),
            () = drained(&context) => Ok(()),
        }
    }
}

thread_local! {
    /// The rhythm of the worker that this thread is.
    static MODERATION: RefCell<Moderation> = RefCell::default();
}

/// A runtime for the calling thread that rests when it is woken too often. Threads that it starts, to hash passwords, get
/// the priority `helpers`.
fn runtime(helpers: Priority) -> io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .on_thread_start(move || helpers.take())
        .on_thread_park(|| {
            MODERATION.with_borrow_mut(|moderation| {
                if let Some(rest) = moderation.rest(Instant::now()) {
                    std::thread::sleep(rest);
                }
                moderation.park(Instant::now());
            });
        })
        .on_thread_unpark(|| MODERATION.with_borrow_mut(|moderation| moderation.wake(Instant::now())))
        .build()
}

/// Waits until one of `parts` fails or panics; one that is done is done.
async fn first_failure(parts: &mut JoinSet<io::Result<()>>) -> io::Error {
    while let Some(ended) = parts.join_next().await {
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(panic) => return io::Error::other(panic),
        }
    }
    std::future::pending().await
}

/// Waits until the server stops and the last tunnel of this worker has said its goodbye.
async fn drained(context: &WorkerContext) {
    context.shared.reached(ServerState::Stopping).await;
    // One that moves is with nobody for a moment.
    while !context.tunnels.is_empty() || context.shared.moving.load(Ordering::SeqCst) > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: R82
    #[tokio::test(start_paused = true)]
    async fn a_part_that_fails_or_panics_is_noticed_and_one_that_is_done_is_not() {
        let mut parts = JoinSet::new();
        parts.spawn(async { Ok(()) });
        parts.spawn(std::future::pending());
        let patience = std::time::Duration::from_secs(5);
        assert!(tokio::time::timeout(patience, first_failure(&mut parts)).await.is_err());
        parts.spawn(async { Err(io::Error::other("no queue")) });
        assert_eq!(first_failure(&mut parts).await.to_string(), "no queue");
        parts.spawn(async { panic!("a defect") });
        assert!(first_failure(&mut parts).await.to_string().contains("a defect"));
    }
}
