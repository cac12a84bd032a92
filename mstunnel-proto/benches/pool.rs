//! Leases: a /16 with 60,000 out. Target: at most 100 ns for one lease and its release.

#[path = "setup/pool.rs"]
mod setup;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use mstunnel_proto::pool::{Pool, PoolConfig};
use setup::{Crowd, OUT};

/// So few that near caches hold all of them: what is missing to the time with [`OUT`] is the way to memory.
const FEW: u64 = 1_000;

/// The same owners come back within the hold-back.
fn reconnect(criterion: &mut Criterion) {
    for (out, said) in [(FEW, "1,000"), (OUT, "60,000")] {
        let mut crowd = Crowd::new("10.0.0.0/16", out, Duration::from_secs(300));
        let name = format!("pool/lease and release, /16, {said} out, same owner");
        criterion.bench_function(&name, |bencher| bencher.iter(|| crowd.reconnect()));
    }
}

/// Every lease goes to an owner that was never there, at once: nothing is held back.
fn strangers(criterion: &mut Criterion) {
    for (prefix, out, said) in [
        ("10.0.0.0/16", FEW, "1,000"),
        ("10.0.0.0/16", OUT, "60,000"),
        ("10.0.0.0/8", OUT, "60,000"),
        ("fd00::/64", OUT, "60,000"),
    ] {
        let mut crowd = Crowd::new(prefix, out, Duration::ZERO);
        let name = format!("pool/lease and release, {prefix}, {said} out, new owner");
        criterion.bench_function(&name, |bencher| bencher.iter(|| crowd.replace()));
    }
}

fn build(criterion: &mut Criterion) {
    let config = PoolConfig::default();
    for prefix in ["10.0.0.0/8", "fd00::/48"] {
        let prefix = prefix.parse().expect("a prefix");
        criterion.bench_function(&format!("pool/build {prefix}"), |bencher| {
            bencher.iter(|| Pool::new(black_box(prefix), &config).is_ok());
        });
    }
}

criterion_group!(benches, reconnect, strangers, build);
criterion_main!(benches);
