//! A tunnel moves to the worker that takes in its datagrams.
//!
//! ```text
//!   TCP --> worker 0: the tunnel      the kernel picks a worker by the client's port, for TCP and for UDP by themselves
//!   UDP --> worker 1 --(mailbox)--> worker 0 --> TUN     each packet wakes two workers
//!
//!   TCP --> worker 1: the tunnel      after the move: the kernel hands over where it all happens
//!   UDP --> worker 1 --> TUN
//! ```
//!
//! With two workers it is every second client, and his packets cost half as much again. Who sends few stays where he is. A
//! tunnel takes its connections along; what is on its way to it meanwhile is a handful of packets, and lost as on any network.
//!
//! Limit: one move in [`STAY`], whatever a client does with its ports.

use std::time::{Duration, Instant};

/// Datagrams that another worker has handed over before the tunnel moves there: what little traffic there is costs less than
/// a move.
const DATAGRAMS: u32 = 64;

/// How long a tunnel stays where it is at least.
const STAY: Duration = Duration::from_secs(10);

/// What is known of the datagrams that others took in.
#[derive(Debug)]
pub(crate) struct Relocation {
    worker: usize,
    datagrams: u32,
    /// Not before.
    earliest: Option<Instant>,
}

impl Relocation {
    /// Nothing is known yet.
    pub(crate) fn new() -> Self {
        Self { worker: usize::MAX, datagrams: 0, earliest: None }
    }

    /// Another worker has handed a datagram over; `true` when it is time to move there.
    pub(crate) fn handed_over(&mut self, worker: usize, now: Instant) -> bool {
        if self.worker != worker {
            (self.worker, self.datagrams) = (worker, 0);
        }
        self.datagrams = self.datagrams.saturating_add(1);
        self.datagrams >= DATAGRAMS && self.earliest.is_none_or(|earliest| now >= earliest)
    }

    /// The tunnel has moved, or could not.
    pub(crate) fn settle(&mut self, now: Instant) {
        self.datagrams = 0;
        self.earliest = Some(now + STAY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_moves_to_who_hands_over_much_in_a_row() {
        let (mut relocation, now) = (Relocation::new(), Instant::now());
        for _ in 1..DATAGRAMS {
            assert!(!relocation.handed_over(1, now));
        }
        assert!(!relocation.handed_over(2, now), "another one begins anew");
        assert!(!relocation.handed_over(1, now));
        assert!((0..DATAGRAMS).any(|_| relocation.handed_over(1, now)));
    }

    /// Covers: R57
    #[test]
    fn a_client_that_changes_its_port_all_the_time_moves_its_tunnel_once_in_a_while() {
        let (mut relocation, start) = (Relocation::new(), Instant::now());
        let mut moves = 0;
        for millisecond in 0..30_000 {
            let now = start + Duration::from_millis(millisecond);
            let worker = usize::from(millisecond / 500 % 2 == 0);
            if (0..10).any(|_| relocation.handed_over(worker, now)) {
                relocation.settle(now);
                moves += 1;
            }
        }
        assert_eq!(moves, 3);
    }
}
