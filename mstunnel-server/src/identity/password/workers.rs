//! Where hashes are computed: few at a time, few in line, off the packet path.
//!
//! A hash is made to be slow. Without a bound, a flood of wrong logins would take every core from
//! the tunnels (threats.md R35, P-054); so half of the cores may hash, a bounded number of logins
//! waits, and what comes beyond is told to come back later.

use std::sync::Arc;

use tokio::sync::Semaphore;

/// The most logins in line for a hash worker: with 5 ms a hash and one worker the last one waits
/// 0.6 s; with our Argon2 parameters about 4 s.
pub const MAX_WAITING: usize = 128;

/// Bounded concurrency for slow work on blocking threads.
#[derive(Clone)]
pub(super) struct HashWorkers {
    /// One permit for each job that is running or waiting.
    admitted: Arc<Semaphore>,
    /// One permit for each job that is running.
    running: Arc<Semaphore>,
}

impl HashWorkers {
    pub(super) fn new(workers: usize, waiting: usize) -> Self {
        let workers = workers.max(1);
        Self {
            admitted: Arc::new(Semaphore::new(workers + waiting)),
            running: Arc::new(Semaphore::new(workers)),
        }
    }

    /// Half of the cores, at least one.
    pub(super) fn for_this_machine() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self::new(cores / 2, MAX_WAITING)
    }

    /// Runs `work` when its turn comes; `None` if the line is full or the work panicked.
    ///
    /// A job that has begun keeps its place until it ends, even if nobody waits for it any more.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().ok()?;
        let running = Arc::clone(&self.running).acquire_owned().await.ok()?;
        tokio::task::spawn_blocking(move || {
            let _places = (admitted, running);
            work()
        })
        .await
        .ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use futures_util::future::join_all;

    use super::*;

    /// Covers: P-054, R35
    #[tokio::test]
    async fn a_full_line_refuses_at_once_and_takes_again_when_it_is_shorter() {
        let workers = HashWorkers::new(1, 2);
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let jobs: Vec<_> = (0..3)
            .map(|number| {
                let (workers, gate) = (workers.clone(), Arc::clone(&gate));
                tokio::spawn(async move {
                    workers
                        .run(move || {
                            gate.lock().unwrap().recv().unwrap();
                            number
                        })
                        .await
                })
            })
            .collect();
        while workers.admitted.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(workers.run(|| 9).await, None, "one runs, two wait");
        for _ in 0..3 {
            release.send(()).unwrap();
        }
        let done: Vec<_> = join_all(jobs).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(done, [Some(0), Some(1), Some(2)]);
        assert_eq!(workers.run(|| 9).await, Some(9));
    }

    /// Covers: P-054, R35
    #[tokio::test]
    async fn never_more_jobs_run_than_there_are_workers() {
        let workers = HashWorkers::new(2, 50);
        let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let jobs = (0..50).map(|_| {
            let (running, most) = (Arc::clone(&running), Arc::clone(&most));
            workers.run(move || {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                std::thread::yield_now();
                running.fetch_sub(1, Ordering::SeqCst);
            })
        });
        assert!(join_all(jobs).await.iter().all(Option::is_some));
        assert!(most.load(Ordering::SeqCst) <= 2);
    }

    #[tokio::test]
    async fn a_job_that_panics_answers_nothing_and_gives_its_place_back() {
        let workers = HashWorkers::new(1, 0);
        let outcome: Option<()> = workers.run(|| panic!("on purpose")).await;
        assert_eq!(outcome, None);
        assert_eq!(workers.run(|| 1).await, Some(1));
    }
}
