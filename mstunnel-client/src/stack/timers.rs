//! When which flow wants to be looked at again.
//!
//! A heap with lazy removal: a flow arms its earliest deadline only, and computes it anew when that has
//! come. Moving a deadline later, which every packet does, therefore costs nothing.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::{Mutex, PoisonError, Weak};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::flow::Flow;

/// The deadlines of all flows.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: Mutex<BinaryHeap<Entry>>,
    /// Tells the driver that the first deadline has become earlier.
    pub(super) earlier: Notify,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    flow: Weak<Flow>,
}

impl Timers {
    /// Adds a deadline.
    pub(super) fn arm(&self, at: Instant, flow: Weak<Flow>) {
        let mut heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = heap.peek().is_none_or(|first| at < first.at);
        heap.push(Entry { at, flow });
        drop(heap);
        if is_first {
            self.earlier.notify_one();
        }
    }

    /// The first deadline.
    pub(super) fn first(&self) -> Option<Instant> {
        self.heap.lock().unwrap_or_else(PoisonError::into_inner).peek().map(|entry| entry.at)
    }

    /// Takes out a flow whose deadline has come; flows that are gone are passed over.
    pub(super) fn take_due(&self, now: Instant) -> Option<std::sync::Arc<Flow>> {
        let mut heap = self.heap.lock().unwrap_or_else(PoisonError::into_inner);
        while heap.peek().is_some_and(|entry| entry.at <= now) {
            if let Some(flow) = heap.pop().and_then(|entry| entry.flow.upgrade()) {
                return Some(flow);
            }
        }
        None
    }
}

/// The earliest is the greatest: [`BinaryHeap`] gives the greatest first.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        other.at.cmp(&self.at)
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}
