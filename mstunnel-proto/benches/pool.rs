//! Leases: a /16 with 60,000 out. Target: at most 100 ns for one lease and its release.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use mstunnel_proto::pool::{Lease, OwnerKey, Pool, PoolConfig};

const OUT: u64 = 60_000;

#[expect(clippy::disallowed_methods, reason = "the origin of virtual time")]
fn origin() -> Instant {
    Instant::now()
}

fn filled(prefix: &str, hold_back: Duration, now: Instant) -> (Pool, Vec<Lease>) {
    let config = PoolConfig { hold_back, ..PoolConfig::default() };
    let mut pool = Pool::new(prefix.parse().expect("a prefix"), &config).expect("a pool");
    let leases = (0..OUT).map(|key| pool.lease(OwnerKey::new(key), now).expect("room")).collect();
    (pool, leases)
}

/// The same owners come back within the hold-back, in no particular order.
fn reconnect(criterion: &mut Criterion) {
    let now = origin();
    let (mut pool, mut leases) = filled("10.0.0.0/16", Duration::from_secs(300), now);
    let mut which = 0;
    criterion.bench_function("pool/lease and release, /16, 60,000 out, same owner", |bencher| {
        bencher.iter(|| {
            which = (which + 7_919) % leases.len();
            let lease = leases.swap_remove(which);
            let owner = lease.owner();
            pool.release(lease, now).expect("its own lease");
            leases.push(pool.lease(black_box(owner), now).expect("held back for it"));
        });
    });
}

/// Every lease goes to an owner that was never there, at once: nothing is held back.
fn strangers(criterion: &mut Criterion) {
    let now = origin();
    for prefix in ["10.0.0.0/16", "10.0.0.0/8", "fd00::/64"] {
        let (mut pool, mut leases) = filled(prefix, Duration::ZERO, now);
        let (mut which, mut owner) = (0, OUT);
        criterion.bench_function(
            &format!("pool/lease and release, {prefix}, 60,000 out, new owner"),
            |bencher| {
                bencher.iter(|| {
                    which = (which + 7_919) % leases.len();
                    owner += 1;
                    pool.release(leases.swap_remove(which), now).expect("its own lease");
                    leases
                        .push(pool.lease(OwnerKey::new(black_box(owner)), now).expect("one was given back"));
                });
            },
        );
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
