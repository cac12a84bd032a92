//! How many bytes this thread has allocated and not freed: the system allocator with a count.
//!
//! What is counted is what was asked for, without the allocator's own book-keeping.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
}

/// The system allocator with a count of live bytes.
struct Counting;

fn add(bytes: i64) {
    LIVE_BYTES.set(LIVE_BYTES.get() + bytes);
}

fn size(bytes: usize) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

// SAFETY: every call goes on to the system allocator unchanged. The count is a constant-initialised
// thread-local without a destructor, so that reaching it neither allocates nor fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        add(size(layout.size()));
        // SAFETY: the caller keeps the contract of `alloc`, which is that of the system allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        add(-size(layout.size()));
        // SAFETY: `pointer` came from `alloc` or `realloc`, so from the system allocator.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        add(size(new_size) - size(layout.size()));
        // SAFETY: as for `dealloc`; the caller keeps the rest of the contract.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Live bytes by who they belong to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    /// Machines and tables of the servers.
    pub(crate) servers: i64,
    /// Machines of the clients.
    pub(crate) clients: i64,
    /// What the site shares.
    pub(crate) site: i64,
}

/// Runs `work` and adds to `tally` what it allocated and did not free.
pub(crate) fn charged<T>(tally: &mut i64, work: impl FnOnce() -> T) -> T {
    let before = LIVE_BYTES.get();
    let result = work();
    *tally += LIVE_BYTES.get() - before;
    result
}

/// The most memory that the process had resident, in bytes, where the system says so.
pub(crate) fn peak_resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_charged_and_what_is_freed_is_not() {
        let mut tally = 0;
        let mut kept = charged(&mut tally, || {
            drop(vec![0_u8; 5_000]);
            Vec::<u8>::with_capacity(1_000)
        });
        assert_eq!(tally, 1_000);
        charged(&mut tally, || kept.reserve_exact(3_000));
        assert_eq!(tally, 3_000);
        charged(&mut tally, || drop(kept));
        assert_eq!(tally, 0);
    }
}
