//! When a worker is woken again and again at once, it rests a moment before it waits for the next event.
//!
//! ```text
//!   woken   work   rest        woken   work   rest
//!     |======|.....................|======|.................   one period: PERIOD
//!            '- packets arrive and are taken in one burst -'
//! ```
//!
//! A worker that is faster than its clients finds one packet each time it is woken, and pays for waking up, for each system
//! call and for each walk through the kernel's stack once a packet. What network cards do about it is interrupt moderation;
//! this is the same. A rest adds up to [`PERIOD`] to the delay of a packet, and only while packets keep coming: a ping on an
//! idle tunnel never meets one.

use std::time::{Duration, Instant};

/// From one turn of a busy worker to its next. At two gigabits a second some 20 full packets arrive meanwhile. Longer ones
/// save little and cost much where packets have to be acknowledged: the whole window of a flow then comes in one burst, which
/// a client's socket buffer does not hold.
const PERIOD: Duration = Duration::from_micros(100);

/// Short waits in a row before the worker rests: more than the packets of a few questions and answers that cross.
const STREAK: u32 = 16;

/// The rhythm of one worker.
#[derive(Debug, Default)]
pub(crate) struct Moderation {
    parked: Option<Instant>,
    woken: Option<Instant>,
    streak: u32,
}

impl Moderation {
    /// The worker has something to do again.
    pub(crate) fn wake(&mut self, now: Instant) {
        let was_short = self.parked.is_some_and(|parked| now.saturating_duration_since(parked) < PERIOD);
        self.streak = if was_short { self.streak.saturating_add(1) } else { 0 };
        self.woken = Some(now);
    }

    /// The worker has nothing to do; how long to rest before it waits for an event. Call [`Moderation::park`] then.
    pub(crate) fn rest(&self, now: Instant) -> Option<Duration> {
        let worked = now.saturating_duration_since(self.woken?);
        (self.streak >= STREAK).then(|| PERIOD.checked_sub(worked)).flatten().filter(|rest| !rest.is_zero())
    }

    /// The worker waits for an event from now on.
    pub(crate) fn park(&mut self, now: Instant) {
        self.parked = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORK: Duration = Duration::from_micros(20);

    /// One turn: the worker waits, works, and says how long it rests.
    fn turn(
        moderation: &mut Moderation,
        now: &mut Instant,
        wait: Duration,
        work: Duration,
    ) -> Option<Duration> {
        *now += wait;
        moderation.wake(*now);
        *now += work;
        let rest = moderation.rest(*now);
        *now += rest.unwrap_or_default();
        moderation.park(*now);
        rest
    }

    #[test]
    fn a_busy_worker_rests_until_its_period_is_over() {
        let (mut moderation, mut now) = (Moderation::default(), Instant::now());
        let short = Duration::from_micros(1);
        let rests: Vec<_> = (0..STREAK + 3).map(|_| turn(&mut moderation, &mut now, short, WORK)).collect();
        let (before, after) = rests.split_at(STREAK as usize);
        assert!(before.iter().all(Option::is_none), "{before:?}");
        assert_eq!(after, [Some(PERIOD - WORK); 3]);
        assert_eq!(
            turn(&mut moderation, &mut now, short, PERIOD),
            None,
            "enough has arrived during the work"
        );
        assert_eq!(turn(&mut moderation, &mut now, short, WORK), Some(PERIOD - WORK));
    }

    #[test]
    fn one_long_wait_ends_it() {
        let (mut moderation, mut now) = (Moderation::default(), Instant::now());
        for _ in 0..=STREAK {
            turn(&mut moderation, &mut now, Duration::ZERO, WORK);
        }
        assert_eq!(turn(&mut moderation, &mut now, PERIOD, WORK), None);
        assert_eq!(turn(&mut moderation, &mut now, Duration::ZERO, WORK), None);
    }

    #[test]
    fn questions_and_answers_never_meet_a_rest() {
        let (mut moderation, mut now) = (Moderation::default(), Instant::now());
        for _ in 0..1_000 {
            // The question, and 25 us later the answer; the next question a millisecond later.
            assert_eq!(turn(&mut moderation, &mut now, Duration::from_millis(1), WORK), None);
            assert_eq!(turn(&mut moderation, &mut now, Duration::from_micros(25), WORK), None);
        }
    }
}
