//! Sealing and opening DTLS records, beside the raw AEAD of the same library.
//!
//! Both sides of a pair do [`BURST`] packets in turn, in alternating order, on memory that was written a moment
//! ago. `best` is the ratio of the fastest turns, `median` that of the ratios of neighbours, which a busy machine
//! disturbs alike but not quite: ours has more code and state to be evicted. The target is at most 1.05.
//! `-- --test` runs each pair a few times and judges nothing.

#[path = "setup/dtls.rs"]
mod setup;

use std::time::Duration;

use mstunnel_proto::dtls::Suite;
use setup::{BURST, Into, Open, RawInto, RawOpen, RawSeal, RawSlots, Seal, Side, Slots, clock, open_channel};

fn main() {
    // The only argument that matters; cargo adds its own `--bench`.
    let rounds = if std::env::args().any(|argument| argument == "--test") { 3 } else { 20_000 };
    eprintln!(
        "{:<30} {:>5} {:<9} {:>8} {:>8} {:>6} {:>6}",
        "suite", "bytes", "what", "raw ns", "ours ns", "best", "median"
    );
    for &suite in Suite::PSK {
        for len in [64, 1_400] {
            let line = |what: &str, pair: Pair| {
                let (Pair { raw, ours, median }, name, best) = (&pair, suite.name(), pair.ours / pair.raw);
                eprintln!("{name:<30} {len:>5} {what:<9} {raw:>8.1} {ours:>8.1} {best:>6.3} {median:>6.3}");
            };
            let (server, client) = open_channel(suite);
            line("seal", pair(rounds, &mut RawSeal::new(suite, len), &mut Seal::new(&server, len)));
            let sealer = server.sealer().expect("an open channel has a sealer");
            line("seal_slot", pair(rounds, &mut RawSlots::new(suite, len), &mut Slots::new(sealer, len)));
            line("seal_into", pair(rounds, &mut RawInto::new(suite, len), &mut Into::new(sealer, len)));
            line("open", pair(rounds, &mut RawOpen::new(suite, len), &mut Open::new(server, client, len)));
        }
    }
}

/// Nanoseconds for one packet, the best of all turns, and the median of the ratios.
struct Pair {
    raw: f64,
    ours: f64,
    median: f64,
}

fn pair(rounds: usize, raw: &mut dyn Side, ours: &mut dyn Side) -> Pair {
    let mut ratios = Vec::with_capacity(rounds);
    let mut best = [Duration::MAX; 2];
    for round in 0..rounds {
        let (first, second) = match round % 2 {
            0 => (turn(raw), turn(ours)),
            _ => {
                let ours = turn(ours);
                (turn(raw), ours)
            }
        };
        best = [best[0].min(first), best[1].min(second)];
        ratios.push(second.as_secs_f64() / first.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    let [raw, ours] = best.map(|best| best.as_secs_f64() * 1e9 / BURST as f64);
    Pair { raw, ours, median: ratios[ratios.len() / 2] }
}

fn turn(side: &mut dyn Side) -> Duration {
    side.prepare();
    let start = clock();
    side.run();
    clock() - start
}
