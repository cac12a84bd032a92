//! Steps to be counted by cachegrind, which says how many instructions they take whatever else the machine does.
//!
//! `counted STEP N` prepares the step and does it `N` times; the difference of two runs is what the step takes.
//! `counted --list` names the steps. `tests/bench/core-steps` runs and prints it.

#[path = "setup/dtls.rs"]
mod dtls;
#[path = "setup/pool.rs"]
mod pool;
#[path = "setup/routes.rs"]
mod routes;

use std::hint::black_box;
use std::time::Duration;

use dtls::{BURST, Into, Open, RawInto, RawOpen, RawSeal, RawSlots, Seal, Side, Slots, open_channel};
use mstunnel_proto::dtls::Suite;
use pool::{Crowd, OUT};

/// Prepares a step, and does it so often.
type Step = fn(u64);

const STEPS: &[(&str, Step)] = &[
    ("routes/evaluate/v4, 500 rules", |times| evaluate(true, times)),
    ("routes/evaluate/v6, 500 rules", |times| evaluate(false, times)),
    ("pool/lease and release, /16, 1,000 out, same owner", |times| reconnect(1_000, times)),
    ("pool/lease and release, /16, 60,000 out, same owner", |times| reconnect(OUT, times)),
    ("pool/lease and release, /16, 1,000 out, new owner", |times| replace("10.0.0.0/16", 1_000, times)),
    ("pool/lease and release, /16, 60,000 out, new owner", |times| replace("10.0.0.0/16", OUT, times)),
    ("pool/lease and release, /8, 60,000 out, new owner", |times| replace("10.0.0.0/8", OUT, times)),
    ("dtls/raw AEAD in place, 64 bytes", |times| packets(&mut RawSeal::new(SUITE, 64), times)),
    ("dtls/seal, 64 bytes", |times| packets(&mut Seal::new(&open_channel(SUITE).0, 64), times)),
    ("dtls/raw AEAD in a slot, 64 bytes", |times| packets(&mut RawSlots::new(SUITE, 64), times)),
    ("dtls/seal_slot, 64 bytes", |times| {
        let (server, _) = open_channel(SUITE);
        packets(&mut Slots::new(server.sealer().expect("an open channel has a sealer"), 64), times);
    }),
    ("dtls/raw AEAD into a slot, 64 bytes", |times| packets(&mut RawInto::new(SUITE, 64), times)),
    ("dtls/seal_into, 64 bytes", |times| {
        let (server, _) = open_channel(SUITE);
        packets(&mut Into::new(server.sealer().expect("an open channel has a sealer"), 64), times);
    }),
    ("dtls/raw AEAD in a slot and opened, 64 bytes", |times| packets(&mut RawOpen::new(SUITE, 64), times)),
    ("dtls/seal_slot and handle_record, 64 bytes", |times| {
        let (server, client) = open_channel(SUITE);
        packets(&mut Open::new(server, client, 64), times);
    }),
];

const SUITE: Suite = Suite::PskAes256Gcm;

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--list"] => STEPS.iter().for_each(|(name, _)| eprintln!("{name}")),
        // What cargo test asks of every bench.
        ["--test"] => STEPS.iter().for_each(|(_, step)| step(1)),
        [name, times] => {
            let (_, step) = STEPS.iter().find(|(other, _)| *other == name).expect("a step that --list names");
            step(times.parse().expect("a number of times"));
        }
        _ => eprintln!("counted STEP N | --list | --test"),
    }
}

fn evaluate(is_v4: bool, times: u64) {
    let rules = routes::rules(is_v4);
    let destinations = routes::destinations(is_v4);
    for (_, destination) in (0..times).zip(destinations.iter().cycle()) {
        black_box(rules.evaluate(black_box(*destination)));
    }
}

fn reconnect(out: u64, times: u64) {
    let mut crowd = Crowd::new("10.0.0.0/16", out, Duration::from_secs(300));
    (0..times).for_each(|_| crowd.reconnect());
}

fn replace(prefix: &str, out: u64, times: u64) {
    let mut crowd = Crowd::new(prefix, out, Duration::ZERO);
    (0..times).for_each(|_| crowd.replace());
}

/// Whole turns, of `BURST` packets each.
fn packets(side: &mut dyn Side, times: u64) {
    for _ in 0..times / BURST as u64 {
        side.prepare();
        side.run();
    }
}
