//! Waiting with a bound: ask again every 20 ms until there is an answer or the time is up.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// For what takes milliseconds on an idle machine; the tests share two cores with each other.
pub const SHORT: Duration = Duration::from_secs(15);
/// For what takes seconds: a whole login, a reconnect, a program's orderly end.
pub const LONG: Duration = Duration::from_secs(40);

const PERIOD: Duration = Duration::from_millis(20);

/// Returns the first `Some` of `ask`, asked again and again for at most `limit`.
///
/// # Panics
/// When the time is up; the message names `what` was awaited.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for {what}");
        sleep(PERIOD);
    }
}
