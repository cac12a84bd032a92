//! How often a line may be repeated, so that a flood of refusals is not a flood of lines (R58).
//!
//! A limit stands for one reason: a field beside the code that complains, or a `static`. The first
//! line of a window is written with the number of those left out before it.
//!
//! ```
//! use mstunnel_server::logs::RateLimit;
//! static TOO_MANY: RateLimit = RateLimit::once_a_minute();
//! if let Some(left_out) = TOO_MANY.permit() {
//!     tracing::warn!(left_out, "no descriptor left, accepting pauses");
//! }
//! ```

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One line a window for one reason.
#[derive(Debug)]
pub struct RateLimit {
    window: Duration,
    state: Mutex<Window>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    ends: Option<Instant>,
    left_out: u64,
}

impl Window {
    const NEW: Self = Self { ends: None, left_out: 0 };

    fn permit(&mut self, window: Duration, now: Instant) -> Option<u64> {
        if self.ends.is_some_and(|ends| now < ends) {
            self.left_out += 1;
            return None;
        }
        self.ends = now.checked_add(window);
        Some(std::mem::take(&mut self.left_out))
    }
}

impl RateLimit {
    /// One line in `window`.
    pub const fn new(window: Duration) -> Self {
        Self { window, state: Mutex::new(Window::NEW) }
    }

    /// One line a minute.
    pub const fn once_a_minute() -> Self {
        Self::new(Duration::from_secs(60))
    }

    /// `None`: leave the line out. `Some(n)`: write it; `n` were left out since the last one.
    pub fn permit(&self) -> Option<u64> {
        self.permit_at(Instant::now())
    }

    fn permit_at(&self, now: Instant) -> Option<u64> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).permit(self.window, now)
    }
}

/// One line a window for one reason and one source (an IPv4 address, an IPv6 /64).
///
/// At most [`MAX_SOURCES`] sources are remembered. While that many are within their window, further
/// ones share one window, so that a flood from everywhere is one line a window, too.
#[derive(Debug)]
pub struct SourceRateLimit {
    window: Duration,
    state: Mutex<Sources>,
}

/// 1,024 sources with some 48 bytes each; more at once is an attack, whose lines look alike.
pub const MAX_SOURCES: usize = 1024;

#[derive(Debug, Default)]
struct Sources {
    // std's seeded hasher: the keys are a peer's choice.
    each: HashMap<IpAddr, Window>,
    rest: Window,
}

impl SourceRateLimit {
    /// One line in `window` for each source.
    pub fn new(window: Duration) -> Self {
        Self { window, state: Mutex::default() }
    }

    /// As [`RateLimit::permit`], for one source.
    pub fn permit(&self, source: IpAddr) -> Option<u64> {
        self.permit_at(source, Instant::now())
    }

    fn permit_at(&self, source: IpAddr, now: Instant) -> Option<u64> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Sources { each, rest } = &mut *state;
        let key = network(source);
        if let Some(known) = each.get_mut(&key) {
            return known.permit(self.window, now);
        }
        if each.len() >= MAX_SOURCES {
            // The oldest news goes only when it is news no more; at most once a window in a flood.
            if rest.ends.is_some_and(|ends| now < ends) {
                return rest.permit(self.window, now);
            }
            each.retain(|_, window| window.ends.is_some_and(|ends| now < ends));
            if each.len() >= MAX_SOURCES {
                return rest.permit(self.window, now);
            }
        }
        each.entry(key).or_default().permit(self.window, now)
    }
}

/// One customer: the IPv4 address, also when it is mapped, or the IPv6 /64.
fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);

    #[test]
    fn the_first_of_a_window_tells_how_many_were_left_out() {
        let limit = RateLimit::new(WINDOW);
        let start = Instant::now();
        assert_eq!(limit.permit_at(start), Some(0));
        for _ in 0..5 {
            assert_eq!(limit.permit_at(start + WINDOW / 2), None);
        }
        assert_eq!(limit.permit_at(start + WINDOW), Some(5));
        assert_eq!(limit.permit_at(start + WINDOW * 3), Some(0));
    }

    #[test]
    fn sources_have_windows_of_their_own_and_a_64_is_one_source() {
        let limit = SourceRateLimit::new(WINDOW);
        let now = Instant::now();
        let ask = |text: &str| limit.permit_at(text.parse().unwrap(), now);
        assert_eq!(ask("198.51.100.1"), Some(0));
        assert_eq!(ask("::ffff:198.51.100.1"), None);
        assert_eq!(ask("198.51.100.2"), Some(0));
        assert_eq!(ask("2001:db8::1"), Some(0));
        assert_eq!(ask("2001:db8::ffff:1"), None);
        assert_eq!(ask("2001:db8:0:1::1"), Some(0));
    }

    /// Covers: P-086, R58, R59
    #[test]
    fn a_flood_from_everywhere_is_bounded_in_memory_and_lines() {
        let limit = SourceRateLimit::new(WINDOW);
        let now = Instant::now();
        let source = |number: u32| IpAddr::from(number.to_be_bytes());
        let lines = (0..100_000).filter(|&number| limit.permit_at(source(number), now).is_some()).count();
        assert_eq!(lines, MAX_SOURCES + 1);
        assert!(limit.state.lock().unwrap().each.len() <= MAX_SOURCES);
        // When the flood is over a new source is heard again, and the old ones are forgotten.
        assert_eq!(limit.permit_at(source(200_000), now + WINDOW), Some(0));
        assert_eq!(limit.state.lock().unwrap().each.len(), 1);
    }
}
