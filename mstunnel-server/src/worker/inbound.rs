//! From the TUN queue of a worker, and from its mailbox, to the tunnels: the task that reads for clients.
//!
//! The kernel steers the answers of a flow to the queue its packets were written to, so that most
//! packets find their tunnel on this worker. The others go to their worker through its mailbox.
//!
//! What the kernel hands over at once (a super-packet) is split here; from then on every packet is looked at by itself.

use std::io;
use std::rc::Rc;
use std::time::Instant;

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::drop::DropReason;
use mstunnel_proto::packet::Packet;

use super::WorkerContext;
use super::mailbox::Letter;
use super::table::with;
use super::touched::Touched;
use crate::egress::READ_LEN;

/// Packets taken in one turn before other tasks of the worker get theirs; the last super-packet may bring more.
const PACKETS_PER_TURN: usize = 128;

/// The task that reads the TUN queue and the mailbox.
pub(crate) struct Inbound {
    pub(crate) context: Rc<WorkerContext>,
}

impl Inbound {
    /// Reads until the TUN is gone.
    pub(crate) async fn run(self) -> io::Result<()> {
        let context = &self.context;
        let mut packet = context.bench.buffers.take();
        let mut read = vec![0; READ_LEN].into_boxed_slice();
        let mut touched = Touched::with_capacity(PACKETS_PER_TURN);
        let mailbox = &context.shared.mailboxes[context.index];
        loop {
            let left = tokio::select! {
                readable = context.bench.egress.readable() => {
                    readable?;
                    self.read_queue(&mut read, &mut packet, &mut touched)?
                }
                () = mailbox.filled() => self.read_mailbox(&mut touched),
            };
            touched.flush(&context.bench, Instant::now());
            if left == Left::Something {
                tokio::task::yield_now().await;
            }
        }
    }

    fn read_queue(&self, read: &mut [u8], packet: &mut PacketBuf, touched: &mut Touched) -> io::Result<Left> {
        let now = Instant::now();
        let mut taken = 0;
        while taken < PACKETS_PER_TURN {
            let mut segments = match self.context.bench.egress.try_recv(read) {
                Ok(segments) => segments,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Left::Nothing),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            while let Some(next) = segments.next_into(packet.room()) {
                taken += 1;
                match next {
                    Ok(len) => {
                        packet.set_len(len);
                        self.deliver(packet, touched, Reach::AnyWorker, now);
                    }
                    Err(reason) => self.context.shared.strays.count(reason),
                }
            }
        }
        Ok(Left::Something)
    }

    fn read_mailbox(&self, touched: &mut Touched) -> Left {
        let now = Instant::now();
        let (mailbox, buffers) =
            (&self.context.shared.mailboxes[self.context.index], &self.context.bench.buffers);
        for _ in 0..PACKETS_PER_TURN {
            let Some(letter) = mailbox.take() else {
                return Left::Nothing;
            };
            match letter {
                Letter::Packet(mut packet) => {
                    self.deliver(&mut packet, touched, Reach::ThisWorker, now);
                    buffers.give(packet);
                }
                Letter::Datagram { tunnel, path, kind, from, mut bytes } => {
                    // It may have ended on the way.
                    if let Some(tunnel) = self.context.tunnels.numbered(tunnel) {
                        with(&tunnel, |tunnel| {
                            tunnel.receive(path, kind, bytes.as_mut_slice(), &self.context, now);
                            tunnel.note_handed_over(from, &path, &self.context.bench, now);
                        });
                        touched.note(&tunnel);
                    }
                    buffers.give(bytes);
                }
                Letter::Tunnel(moving) => moving.settle(&self.context),
            }
        }
        mailbox.remind();
        Left::Something
    }

    fn deliver(&self, packet: &mut PacketBuf, touched: &mut Touched, reach: Reach, now: Instant) {
        let WorkerContext { index, shared, bench, tunnels, .. } = &*self.context;
        let Ok(view) = Packet::parse(packet.as_slice()) else {
            shared.strays.count(DropReason::Malformed);
            return;
        };
        let destination = view.destination();
        if let Some(tunnel) = tunnels.at(destination) {
            with(&tunnel, |tunnel| tunnel.send(packet, bench, now));
            touched.note(&tunnel);
            return;
        }
        let elsewhere = match reach {
            Reach::AnyWorker => shared.live.worker_of(destination).filter(|worker| worker != index),
            Reach::ThisWorker => None,
        };
        let Some(worker) = elsewhere else {
            shared.strays.count(DropReason::NoSession);
            return;
        };
        let moved = std::mem::replace(packet, bench.buffers.take());
        if let Err(refused) = shared.mailboxes[worker].put(Letter::Packet(moved)) {
            shared.strays.count(DropReason::QueueFull);
            if let Some(buffer) = refused.into_buffer() {
                bench.buffers.give(buffer);
            }
        }
    }
}

/// Whether a turn ended before everything was taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Left {
    Nothing,
    Something,
}

#[derive(Clone, Copy)]
enum Reach {
    AnyWorker,
    ThisWorker,
}
