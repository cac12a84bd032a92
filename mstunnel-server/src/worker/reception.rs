//! From the UDP sockets of a worker to the tunnels: the task that reads datagrams of clients.
//!
//! Before a client's address is proven, a datagram costs a look into the [`Directory`](super::datagrams::Directory)
//! and a hash, is answered with at most one that is not longer, and leaves nothing behind (R12, R15).

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::{Duration, Instant};

use mstunnel_proto::drop::DropReason;
use mstunnel_proto::dtls::{ClientHello, Greeting, Path, RecordHeader, is_client_hello};

use super::WorkerContext;
use super::datagrams::{Burst, Clarity, DatagramSocket, Holder, Origin, connect};
use super::mailbox::{DatagramKind, Letter};
use super::shared::canonical;
use super::table::with;
use super::touched::Touched;
use crate::admin::ServerState;
use crate::logs::RateLimit;

/// Tunnels that one burst of the kernel usually touches; more are taken too.
const USUAL_BURST: usize = 32;

/// How long reading pauses when the kernel has no memory for us.
const PAUSE: Duration = Duration::from_millis(100);

static DEFECT: RateLimit = RateLimit::once_a_minute();

/// How often it is looked for whether a noisy client is still there.
const LOOK: Duration = Duration::from_secs(10);

/// Reads the socket at place `socket` until the server stops.
pub(crate) async fn receive_all(socket: u16, context: Rc<WorkerContext>) {
    Reception::new(socket, None, context).run().await;
}

/// Gives noisy clients sockets of their own, and reads those, until the server stops.
pub(crate) async fn set_apart(context: Rc<WorkerContext>) {
    loop {
        let path = context.apart.next().await;
        let opened = context.bench.sockets[usize::from(path.socket)].local_addr().and_then(|shared| {
            let local = path.local.unwrap_or(shared.ip());
            connect(SocketAddr::new(local, shared.port()), path.remote)
        });
        match opened {
            Ok(socket) => {
                tracing::debug!(remote = %path.remote, "a noisy client gets a socket of its own");
                tokio::task::spawn_local(receive_apart(path, socket, Rc::clone(&context)));
            }
            Err(error) => {
                // It stays with the others, and may be asked for again.
                tracing::debug!(%error, remote = %path.remote, "no socket for a noisy client");
                context.apart.leave(path);
            }
        }
    }
}

/// Reads the socket of the client at `path` while it is there.
async fn receive_apart(path: Path, socket: DatagramSocket, context: Rc<WorkerContext>) {
    let mut reception = Reception::new(path.socket, Some(socket), Rc::clone(&context));
    let is_gone = async {
        while context.shared.directory.by_remote(path.remote, Clarity::Sealed).is_some() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = reception.run() => {}
        () = is_gone => {}
    }
    context.apart.leave(path);
}

struct Reception {
    /// The place of the socket that is read, or that the client's own stands for.
    socket: u16,
    own: Option<DatagramSocket>,
    context: Rc<WorkerContext>,
    touched: Touched,
}

impl Reception {
    fn new(socket: u16, own: Option<DatagramSocket>, context: Rc<WorkerContext>) -> Self {
        Self { socket, own, context, touched: Touched::with_capacity(USUAL_BURST) }
    }

    /// Reads until the server stops.
    async fn run(&mut self) {
        let (context, complaint) = (Rc::clone(&self.context), RateLimit::once_a_minute());
        loop {
            let received = tokio::select! {
                received = self.receive() => received,
                () = context.shared.reached(ServerState::Stopping) => return,
            };
            match received {
                Ok(Burst::All) => {}
                // Others of this worker have their turn between two bursts (R57).
                Ok(Burst::Full) => tokio::task::yield_now().await,
                // What a host says that has closed its port; only a connected socket hears it.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => {
                    if let Some(missed) = complaint.permit() {
                        tracing::warn!(%error, missed, "cannot read datagrams; clients go on over TLS");
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// Takes in one burst.
    async fn receive(&mut self) -> io::Result<Burst> {
        let burst = std::future::poll_fn(|cx| {
            let context = Rc::clone(&self.context);
            let now = Instant::now();
            let mut intake = context.bench.intake.borrow_mut();
            let own = self.own.take();
            let socket = own.as_ref().unwrap_or(&context.bench.sockets[usize::from(self.socket)]);
            let polled =
                socket.poll_recv(cx, &mut intake, |origin, datagram| self.take(origin, datagram, now));
            self.own = own;
            polled
        })
        .await?;
        self.touched.flush(&self.context.bench, Instant::now());
        Ok(burst)
    }

    /// Takes in one datagram. Nobody may stop the reading of all by a defect that one of them finds (R82).
    fn take(&mut self, origin: Origin, datagram: &mut [u8], now: Instant) {
        if catch_unwind(AssertUnwindSafe(|| self.sort(origin, datagram, now))).is_err() {
            self.context.shared.strays.count(DropReason::Malformed);
            if let Some(missed) = DEFECT.permit() {
                tracing::error!(remote = %origin.remote, missed, "a defect: a datagram of a stranger was dropped");
            }
        }
    }

    fn sort(&mut self, origin: Origin, datagram: &mut [u8], now: Instant) {
        let path = Path { remote: canonical(origin.remote), local: origin.local, socket: self.socket };
        if is_client_hello(datagram) {
            self.greet(path, datagram, now);
            return;
        }
        let clarity = match RecordHeader::parse(datagram) {
            Some(header) if header.epoch == 0 => Clarity::Clear,
            Some(_) => Clarity::Sealed,
            None => return self.context.shared.strays.count(DropReason::NotARecord),
        };
        match self.context.shared.directory.by_remote(path.remote, clarity) {
            Some(holder) => self.hand_over(holder, path, DatagramKind::Records, datagram, now),
            None if clarity == Clarity::Sealed => self.look_for_roamer(path, datagram, now),
            None => self.context.shared.strays.count(DropReason::UnknownAddress),
        }
    }

    /// A ClientHello: its App-ID has to be of a live session, and its sender has to have our cookie.
    ///
    /// The App-ID comes first: a stranger who knows none gets no answer at all, as from ocserv.
    fn greet(&mut self, path: Path, datagram: &mut [u8], now: Instant) {
        let WorkerContext { shared, bench, .. } = &*self.context;
        let Some(hello) = ClientHello::parse(datagram) else {
            return shared.strays.count(DropReason::HelloRefused);
        };
        let Some(holder) = hello.app_id().and_then(|app_id| shared.directory.by_app_id(app_id)) else {
            return shared.strays.count(DropReason::UnknownAppId);
        };
        let mut answer = bench.control.borrow_mut();
        match shared.greet(path.remote, datagram, &mut answer) {
            Greeting::Answer => {
                bench.outlet.borrow_mut().send(path, answer.as_slice());
            }
            Greeting::Dropped(reason) => shared.strays.count(reason),
            Greeting::Verified(_) => {
                drop(answer);
                self.hand_over(holder, path, DatagramKind::Hello, datagram, now);
            }
        }
    }

    fn hand_over(
        &mut self,
        holder: Holder,
        path: Path,
        kind: DatagramKind,
        datagram: &mut [u8],
        now: Instant,
    ) {
        let WorkerContext { index, shared, bench, tunnels, .. } = &*self.context;
        if holder.worker == *index {
            if let Some(tunnel) = tunnels.numbered(holder.tunnel) {
                with(&tunnel, |tunnel| tunnel.receive(path, kind, datagram, &self.context, now));
                self.touched.note(&tunnel);
            }
            return;
        }
        let mut bytes = bench.buffers.take();
        if !bytes.fill(datagram) {
            // Longer than any record of a client that keeps to its MTU.
            shared.strays.count(DropReason::TooBig);
            return bench.buffers.give(bytes);
        }
        let letter = Letter::Datagram { tunnel: holder.tunnel, path, kind, from: *index, bytes };
        if let Err(refused) = shared.mailboxes[holder.worker].put(letter) {
            shared.strays.count(DropReason::QueueFull);
            if let Some(buffer) = refused.into_buffer() {
                bench.buffers.give(buffer);
            }
        }
    }

    /// A record from an address that nobody has: of a client whose address has changed, if one recognizes it (R19).
    fn look_for_roamer(&mut self, path: Path, datagram: &mut [u8], now: Instant) {
        let candidates = self.context.shared.directory.roamers(path.remote.ip());
        if candidates.is_empty() {
            return self.context.shared.strays.count(DropReason::UnknownAddress);
        }
        for holder in candidates {
            self.hand_over(holder, path, DatagramKind::Stray, datagram, now);
        }
    }
}
