//! Route evaluation: 500 rules of /8 to /32, random destinations. Target: at most 15 ns.

#[path = "setup/routes.rs"]
mod setup;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use mstunnel_proto::prefix::Prefix;
use mstunnel_proto::routes::{RouteSet, SplitDns};
use setup::{address, destinations, numbers, rules};

fn evaluate(criterion: &mut Criterion) {
    for (name, is_v4) in [("evaluate/v4", true), ("evaluate/v6", false)] {
        let routes = rules(is_v4);
        let destinations = destinations(is_v4);
        let mut next = destinations.iter().cycle();
        criterion.bench_function(&format!("routes/{name}, 500 rules"), |bencher| {
            bencher.iter(|| next.next().map(|destination| routes.evaluate(black_box(*destination))));
        });
    }
}

fn build(criterion: &mut Criterion) {
    let prefixes: Vec<_> =
        numbers().take(5_000).filter_map(|bits| Prefix::new(address(bits, true), 24).ok()).collect();
    criterion.bench_function("routes/build from 5,000 rules", |bencher| {
        bencher.iter(|| RouteSet::new_with_limit(black_box(&prefixes), &[], 10_000).is_ok());
    });
}

fn split_dns(criterion: &mut Criterion) {
    let domains: Vec<_> = (0..500).map(|n| format!("dept{n}.corp.example")).collect();
    let split = SplitDns::new(&domains).expect("500 domains");
    criterion.bench_function("routes/split DNS, 500 domains", |bencher| {
        bencher.iter(|| split.matches(black_box("www.shop.dept250.corp.example")));
    });
}

criterion_group!(benches, evaluate, build, split_dns);
criterion_main!(benches);
