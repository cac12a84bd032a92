//! Every interleaving of what threads share without a lock, tried by loom.
//!
//! The core has one such thing: the sequence of a DTLS epoch, taken by every thread that seals for a session. It is
//! compiled from the core's own file, with loom's atomics in the place of the standard library's. The server has
//! counters, which nothing is decided by, and otherwise locks, channels and `arc-swap`.

#![cfg(test)]

use loom::sync::Arc;
use loom::sync::atomic;
use loom::thread;

#[path = "../../../mstunnel-proto/src/dtls/sequences.rs"]
mod sequences;

use sequences::{MAX_SEQUENCE, Sequences};

/// What two threads and the one that started them get, `each` numbers a thread.
fn taken(sequences: &Arc<Sequences>, each: usize) -> Vec<Option<u64>> {
    let take = move |sequences: &Sequences| (0..each).map(|_| sequences.take()).collect::<Vec<_>>();
    let others: Vec<_> = (0..2)
        .map(|_| {
            let sequences = Arc::clone(sequences);
            thread::spawn(move || take(&sequences))
        })
        .collect();
    let mut all = take(sequences);
    others.into_iter().for_each(|other| all.extend(other.join().unwrap()));
    all
}

/// Covers: R16
#[test]
fn no_number_is_given_out_twice() {
    loom::model(|| {
        let sequences = Arc::new(Sequences::new());
        let mut all = taken(&sequences, 2);
        all.sort_unstable();
        assert_eq!(all, (0..6).map(Some).collect::<Vec<_>>());
        assert_eq!(sequences.used(), 6);
    });
}

/// Covers: R16
#[test]
fn after_the_last_number_there_is_none_for_anybody() {
    loom::model(|| {
        let sequences = Arc::new(Sequences::new());
        sequences.skip_to(MAX_SEQUENCE - 1);
        let mut all = taken(&sequences, 2);
        all.sort_unstable();
        let last_two = [Some(MAX_SEQUENCE - 1), Some(MAX_SEQUENCE)];
        assert_eq!(all, [&[None; 4][..], &last_two].concat());
        assert_eq!(sequences.take(), None);
    });
}
