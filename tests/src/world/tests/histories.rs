//! Random histories.

use super::super::history::History;

/// Histories of one run; `MSTUNNEL_HISTORIES` asks for another number, `MSTUNNEL_SEED` for one of them alone.
const HISTORIES: u64 = 10_000;

/// Transitions of each.
const TRANSITIONS: usize = 40;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Runs histories on every core until one fails.
fn run(seeds: std::ops::Range<u64>) -> Option<(u64, String)> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let failed = std::sync::Mutex::new(None::<(u64, String)>);
    std::thread::scope(|scope| {
        for core in 0..cores {
            let (seeds, failed) = (seeds.clone(), &failed);
            scope.spawn(move || {
                for seed in seeds.filter(|seed| seed % cores == core) {
                    let is_over = failed.lock().is_ok_and(|failed| failed.is_some());
                    if is_over {
                        return;
                    }
                    if let Err(complaint) = History::random(seed, TRANSITIONS).try_run()
                        && let Ok(mut failed) = failed.lock()
                    {
                        failed.get_or_insert((seed, complaint));
                    }
                }
            });
        }
    });
    failed.into_inner().ok().flatten()
}

/// Covers: R4, R6, R7, R8, R10, R13, R15, R18, R19, R41, R50, R51, P-011
#[test]
fn ten_thousand_histories_break_no_rule() {
    let seeds = match number("MSTUNNEL_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MSTUNNEL_HISTORIES").unwrap_or(HISTORIES),
    };
    let (count, start) = (seeds.end - seeds.start, std::time::Instant::now());
    if let Some((seed, complaint)) = run(seeds) {
        let shortest = History::random(seed, TRANSITIONS).shrink();
        let last = shortest.try_run().err().unwrap_or_default();
        panic!("{complaint}\n\nthe shortest history like it (MSTUNNEL_SEED={seed}):\n{shortest:#?}\n{last}");
    }
    let rate = count as f64 / start.elapsed().as_secs_f64();
    eprintln!("{count} histories of {TRANSITIONS} transitions, {rate:.0} a second");
}
