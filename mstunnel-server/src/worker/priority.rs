//! Workers run before the other threads of the machine, where the system lets them.
//!
//! A worker that shares its processors with many busy processes gets a turn once in a few milliseconds, with everything that
//! has arrived meanwhile; what the kernel's queue did not hold is lost, whosever it was, and the clients' flows share the
//! server by luck (`tests/bench/many-clients`; figures in `tests/bench/RESULTS.md`).
//!
//! Root may raise its priority, and so may whoever has a limit for it (`RLIMIT_NICE`; `LimitNICE=` of systemd). Who may not
//! runs as before.
//!
//! # Source
//! Linux `setpriority(2)`: the value is a thread's, and threads that it starts begin with it.

use rustix::process::{getpriority_process, setpriority_process};

/// Before nearly everything, and not the whole way: a way in for the administrator stays.
const WORKER: i32 = -15;

/// How a thread stands beside others: its nice value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Priority(i32);

impl Priority {
    /// That of the calling thread.
    pub(super) fn of_this_thread() -> Self {
        Self(getpriority_process(None).unwrap_or(0))
    }

    /// Gives it to the calling thread.
    pub(super) fn take(self) {
        // A thread may always step back; that it may not step forward was said when it wanted to.
        let _ = setpriority_process(None, self.0);
    }
}

/// Raises the calling thread to a worker's priority; returns the one that it had, for the threads that work for it.
pub(super) fn raise() -> Priority {
    let before = Priority::of_this_thread();
    if WORKER < before.0
        && let Err(error) = setpriority_process(None, WORKER)
    {
        tracing::debug!(%error, nice = WORKER, "workers run with the priority of the process");
    }
    before
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: R57
    #[test]
    fn a_worker_runs_before_others_where_it_may_and_its_helpers_do_not() {
        let (before, worker, helper) = std::thread::spawn(|| {
            let before = raise();
            let worker = Priority::of_this_thread();
            let helper = super::super::runtime(before)
                .unwrap()
                .block_on(async { tokio::task::spawn_blocking(Priority::of_this_thread).await.unwrap() });
            (before, worker, helper)
        })
        .join()
        .unwrap();
        // Not even root may, in many a container.
        let may = std::thread::spawn(|| setpriority_process(None, WORKER).is_ok()).join().unwrap();
        assert_eq!(worker, if may { Priority(WORKER) } else { before });
        assert_eq!(helper, before, "hashing a password is no packet");
    }
}
