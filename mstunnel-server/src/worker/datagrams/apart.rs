//! Clients whose bad datagrams are so many that they get a queue of their own.
//!
//! ```text
//!   client 1 --.
//!   client 2 ---+--> shared socket ----> worker
//!   client 3 --'                          ^
//!   noisy client ---> connected socket ---'   each read in its turn
//! ```
//!
//! The clients of a listening address share one queue in the kernel on each worker. Who sends more than the worker takes
//! fills it: the others' datagrams find it full and are lost, or wait behind his (R57). A client that keeps to the protocol
//! slows down when its packets are lost; one that sends more than [`NOISE`] bad datagrams in a [`WINDOW`] gets a socket that
//! is connected to it. The kernel prefers that one for what comes from there, which then waits and is lost apart; answers
//! leave from the shared socket as before. It belongs to the tunnel's own worker, so that the mailboxes are spared too.
//!
//! Only bad ones count. A queue of one's own is an advantage for who has much to send, and must not be had by sending much.
//!
//! Limit: [`MAX_APART`] such sockets a worker; who comes later stays with the others.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mstunnel_proto::dtls::Path;
use tokio::sync::Notify;

/// Bad datagrams in a [`WINDOW`] that make a client noisy: as many cost a worker less than a hundredth of its time, and no
/// fault of a network or change of keys makes so many.
const NOISE: u32 = 2_000;

/// How long they are counted.
const WINDOW: Duration = Duration::from_millis(100);

/// Sockets of noisy clients on one worker: descriptors that the limit of sessions does not count, with a buffer each.
const MAX_APART: usize = 32;

/// Counts the bad datagrams of one client.
#[derive(Debug, Default)]
pub(crate) struct Noise {
    since: Option<Instant>,
    datagrams: u32,
}

impl Noise {
    /// Counts a bad datagram; `true` once in a window in which the client is noisy.
    pub(crate) fn count(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= WINDOW) {
            (self.since, self.datagrams) = (Some(now), 0);
        }
        self.datagrams += 1;
        self.datagrams == NOISE
    }
}

/// The noisy clients of one worker.
#[derive(Default)]
pub(crate) struct Apart {
    /// Those that have a socket or wait for it.
    paths: RefCell<Vec<Path>>,
    waiting: RefCell<VecDeque<Path>>,
    notify: Notify,
}

impl Apart {
    /// Asks for a socket for the client at `path`, unless it has one or there are too many.
    pub(crate) fn ask(&self, path: Path) {
        let mut paths = self.paths.borrow_mut();
        if paths.contains(&path) || paths.len() >= MAX_APART {
            return;
        }
        paths.push(path);
        self.waiting.borrow_mut().push_back(path);
        self.notify.notify_one();
    }

    /// Waits for the next client that wants a socket; call [`Apart::leave`] when it has none any more.
    pub(crate) async fn next(&self) -> Path {
        loop {
            let next = self.waiting.borrow_mut().pop_front();
            match next {
                Some(path) => return path,
                None => self.notify.notified().await,
            }
        }
    }

    /// The client at `path` has no socket any more.
    pub(crate) fn leave(&self, path: Path) {
        self.paths.borrow_mut().retain(|other| *other != path);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn path(port: u16) -> Path {
        Path { socket: 0, remote: SocketAddr::new([192, 0, 2, 1].into(), port), local: None }
    }

    /// Covers: R57
    #[test]
    fn a_client_is_noisy_by_what_it_sends_in_one_window() {
        let (mut noise, now) = (Noise::default(), Instant::now());
        let counted = |noise: &mut Noise, count: u32, now| (0..count).filter(|_| noise.count(now)).count();
        assert_eq!(counted(&mut noise, NOISE - 1, now), 0);
        assert_eq!(counted(&mut noise, NOISE - 1, now + WINDOW), 0, "a new window counts from the start");
        assert_eq!(counted(&mut noise, 3 * NOISE, now + WINDOW), 1, "once a window");
        assert_eq!(counted(&mut noise, NOISE, now + 2 * WINDOW), 1);
    }

    /// Covers: R57
    #[test]
    fn each_noisy_client_gets_one_socket_and_no_more_than_the_limit() {
        let apart = Apart::default();
        let clients = u16::try_from(MAX_APART).unwrap();
        for port in (0..=clients).chain(0..=clients) {
            apart.ask(path(port));
        }
        assert_eq!(apart.waiting.borrow().len(), MAX_APART);
        apart.leave(path(0));
        apart.ask(path(clients));
        assert_eq!(apart.waiting.borrow().back(), Some(&path(clients)), "one that left makes room");
    }
}
