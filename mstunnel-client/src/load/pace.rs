//! Who begins when, and how many are at it at the same time.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a pace that fell behind makes good at most.
const CATCH_UP: Duration = Duration::from_millis(100);

/// The pace of set-ups.
pub(super) struct Pace {
    places: Arc<Semaphore>,
    at_once: u32,
    interval: Option<Duration>,
    next: Mutex<Option<Instant>>,
}

/// A place among those that are at it, given back on drop.
pub(super) struct Turn {
    _place: OwnedSemaphorePermit,
}

impl Pace {
    /// `rate` a second, at most `at_once` at the same time.
    pub(super) fn new(rate: Option<f64>, at_once: u32) -> Self {
        let interval = rate.map(|rate| Duration::from_secs_f64(1.0 / rate));
        let places = Arc::new(Semaphore::new(at_once as usize));
        Self { places, at_once, interval, next: Mutex::new(None) }
    }

    /// Waits for a place and the time to begin.
    pub(super) async fn turn(&self) -> Turn {
        let turn = self.place().await;
        if let Some(at) = self.interval.and_then(|interval| self.take_slot(interval, Instant::now())) {
            tokio::time::sleep_until(at.into()).await;
        }
        turn
    }

    /// Waits for a place alone.
    pub(super) async fn place(&self) -> Turn {
        let place = Arc::clone(&self.places).acquire_owned().await;
        Turn { _place: place.expect("the places are never closed") }
    }

    /// Waits until nobody is at it.
    pub(super) async fn idle(&self) {
        drop(self.places.acquire_many(self.at_once).await);
    }

    /// The next moment to begin; `None` for now.
    fn take_slot(&self, interval: Duration, now: Instant) -> Option<Instant> {
        let mut next = self.next.lock().expect("no panic while this lock is held");
        let at = next.unwrap_or(now).max(now.checked_sub(CATCH_UP).unwrap_or(now));
        *next = Some(at + interval);
        Some(at).filter(|&at| at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_an_interval_apart_and_a_long_delay_is_not_made_good() {
        let pace = Pace::new(Some(100.0), 1);
        let (now, interval) = (Instant::now(), Duration::from_millis(10));
        assert_eq!(pace.take_slot(interval, now), None);
        assert_eq!(pace.take_slot(interval, now), Some(now + interval));
        assert_eq!(pace.take_slot(interval, now), Some(now + 2 * interval));
        let later = now + Duration::from_secs(60);
        let at_once = std::iter::repeat_with(|| pace.take_slot(interval, later));
        assert_eq!(at_once.take_while(Option::is_none).count(), 11, "100 ms and now");
    }

    #[tokio::test]
    async fn so_many_are_at_it_and_no_more() {
        let pace = Pace::new(None, 2);
        let (one, _two) = (pace.turn().await, pace.turn().await);
        assert_eq!(pace.places.available_permits(), 0);
        drop(one);
        let _three = pace.turn().await;
    }
}
