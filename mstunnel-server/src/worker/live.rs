//! What the rest of the server sees of a live connection: its numbers, and a way to end it.
//!
//! The connection itself belongs to one worker and is never touched from outside. It publishes its
//! counters here now and then, and finds here that it shall close.

use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use mstunnel_proto::close::CloseReason;
use mstunnel_proto::drop::{DropCounters, DropReason};
use mstunnel_proto::session::{Channel, SessionCounters, SessionId};
use rustc_hash::FxHashMap;
use std::sync::Arc;

use crate::logs::RateLimit;

/// One live connection as others see it.
pub(crate) struct Live {
    /// Which session.
    pub(crate) id: SessionId,
    /// Which worker holds it; it may move.
    worker: AtomicUsize,
    /// Where the client is.
    pub(crate) remote: SocketAddr,
    /// What the client says it is, bounded and printable.
    pub(crate) user_agent: String,
    /// The TLS version and suite.
    pub(crate) cipher: String,
    /// Since when.
    pub(crate) since: Instant,
    /// The longest packet sent to the client, in bytes.
    pub(crate) mtu: u16,
    counters: Published,
    /// Milliseconds from `since` to the last packet from the client.
    heard: AtomicU64,
    /// The version and suite of the datagram channel, while there is one.
    datagram: Mutex<Option<&'static str>>,
    /// Whether packets take it: it may be there and not be trusted.
    takes_datagrams: AtomicBool,
    asked: Mutex<Option<CloseReason>>,
    is_asked: AtomicBool,
    waker: AtomicWaker,
}

/// Who and where a connection is, as known at CONNECT.
pub(crate) struct Who {
    pub(crate) id: SessionId,
    pub(crate) worker: usize,
    pub(crate) remote: SocketAddr,
    pub(crate) user_agent: String,
    pub(crate) cipher: String,
    pub(crate) since: Instant,
    pub(crate) mtu: u16,
}

impl Live {
    /// Describes a connection that starts now.
    pub(crate) fn new(who: Who) -> Self {
        Self {
            id: who.id,
            worker: AtomicUsize::new(who.worker),
            remote: who.remote,
            user_agent: who.user_agent,
            cipher: who.cipher,
            since: who.since,
            mtu: who.mtu,
            heard: AtomicU64::new(0),
            counters: Published::default(),
            datagram: Mutex::new(None),
            takes_datagrams: AtomicBool::new(false),
            asked: Mutex::new(None),
            is_asked: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// Which worker holds it.
    pub(crate) fn worker(&self) -> usize {
        self.worker.load(Ordering::Relaxed)
    }

    /// Another worker holds it from now on: packets for it go there.
    pub(crate) fn move_to(&self, worker: usize) {
        self.worker.store(worker, Ordering::Relaxed);
    }

    /// Asks the connection to close; the first reason wins.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.asked.lock().expect("no panic while this lock is held").get_or_insert(reason);
        self.is_asked.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Why the connection shall close, if it shall; wakes `waker` when that changes.
    pub(crate) fn poll_close(&self, waker: &std::task::Waker) -> Option<CloseReason> {
        self.waker.register(waker);
        if !self.is_asked.load(Ordering::Acquire) {
            return None;
        }
        *self.asked.lock().expect("no panic while this lock is held")
    }

    /// Says that the datagram channel is open with this suite, or that there is none.
    pub(crate) fn set_datagram(&self, suite: Option<&'static str>) {
        *self.datagram.lock().expect("no panic while this lock is held") = suite;
    }

    /// The suite of the datagram channel, if packets take it.
    pub(crate) fn datagram(&self) -> Option<&'static str> {
        if !self.takes_datagrams.load(Ordering::Relaxed) {
            return None;
        }
        *self.datagram.lock().expect("no panic while this lock is held")
    }

    /// Publishes the connection's counters as they are at `now`, and the channel that packets take.
    pub(crate) fn publish(&self, counters: &SessionCounters, channel: Channel, now: Instant) {
        self.takes_datagrams.store(channel == Channel::Datagram, Ordering::Relaxed);
        if counters.packets_in != self.counters.packets_in.load(Ordering::Relaxed) {
            let heard = now.saturating_duration_since(self.since).as_millis();
            self.heard.store(u64::try_from(heard).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        self.counters.store(counters);
    }

    /// How long ago the last packet from the client was, as last published.
    pub(crate) fn idle(&self, now: Instant) -> Duration {
        let heard = self.since + Duration::from_millis(self.heard.load(Ordering::Relaxed));
        now.saturating_duration_since(heard)
    }

    /// The counters last published.
    pub(crate) fn counters(&self) -> SessionCounters {
        self.counters.load()
    }
}

#[derive(Default)]
struct Published {
    packets_in: AtomicU64,
    bytes_in: AtomicU64,
    packets_out: AtomicU64,
    bytes_out: AtomicU64,
    drops: [AtomicU64; DropReason::ALL.len()],
}

impl Published {
    fn store(&self, counters: &SessionCounters) {
        self.packets_in.store(counters.packets_in, Ordering::Relaxed);
        self.bytes_in.store(counters.bytes_in, Ordering::Relaxed);
        self.packets_out.store(counters.packets_out, Ordering::Relaxed);
        self.bytes_out.store(counters.bytes_out, Ordering::Relaxed);
        for (slot, (_, count)) in self.drops.iter().zip(counters.drops.iter()) {
            slot.store(count, Ordering::Relaxed);
        }
    }

    fn load(&self) -> SessionCounters {
        let mut drops = DropCounters::default();
        for (slot, &reason) in self.drops.iter().zip(DropReason::ALL) {
            drops.add(reason, slot.load(Ordering::Relaxed));
        }
        SessionCounters {
            packets_in: self.packets_in.load(Ordering::Relaxed),
            bytes_in: self.bytes_in.load(Ordering::Relaxed),
            packets_out: self.packets_out.load(Ordering::Relaxed),
            bytes_out: self.bytes_out.load(Ordering::Relaxed),
            drops,
        }
    }
}

/// Every live connection, by session and by inside address.
#[derive(Default)]
pub(crate) struct LiveTable {
    by_id: Mutex<FxHashMap<SessionId, Arc<Live>>>,
    by_address: std::sync::RwLock<FxHashMap<IpAddr, Arc<Live>>>,
}

impl LiveTable {
    /// Enters a connection, in place of an older one of the same session.
    pub(crate) fn enter(&self, live: &Arc<Live>, addresses: impl Iterator<Item = IpAddr>) {
        self.by_id.lock().expect("no panic while this lock is held").insert(live.id, Arc::clone(live));
        let mut by_address = self.by_address.write().expect("no panic while this lock is held");
        for address in addresses {
            by_address.insert(address, Arc::clone(live));
        }
    }

    /// Removes a connection, unless a newer one took its place.
    pub(crate) fn leave(&self, live: &Arc<Live>, addresses: impl Iterator<Item = IpAddr>) {
        let mut by_id = self.by_id.lock().expect("no panic while this lock is held");
        if by_id.get(&live.id).is_some_and(|held| Arc::ptr_eq(held, live)) {
            by_id.remove(&live.id);
        }
        drop(by_id);
        let mut by_address = self.by_address.write().expect("no panic while this lock is held");
        for address in addresses {
            if by_address.get(&address).is_some_and(|held| Arc::ptr_eq(held, live)) {
                by_address.remove(&address);
            }
        }
    }

    /// The live connection of a session.
    pub(crate) fn get(&self, id: SessionId) -> Option<Arc<Live>> {
        self.by_id.lock().expect("no panic while this lock is held").get(&id).cloned()
    }

    /// Every live connection, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Live>> {
        self.by_id.lock().expect("no panic while this lock is held").values().cloned().collect()
    }

    /// Which worker holds the session that owns `address`.
    pub(crate) fn worker_of(&self, address: IpAddr) -> Option<usize> {
        let by_address = self.by_address.read().expect("no panic while this lock is held");
        by_address.get(&address).map(|live| live.worker())
    }
}

static DEFECT: RateLimit = RateLimit::once_a_minute();

/// Has the code of one session do something; where that panics, its connection is asked to close, and nothing else
/// ends (R82).
pub(crate) fn contained<R>(step: impl FnOnce() -> R, live: impl FnOnce() -> Arc<Live>) -> Option<R> {
    let result = catch_unwind(AssertUnwindSafe(step));
    if result.is_err() {
        let live = live();
        // Packets that come before the connection sees it may find the defect again.
        if let Some(missed) = DEFECT.permit() {
            tracing::error!(session = %live.id, missed, "a defect ends a session");
        }
        live.close(CloseReason::InternalError);
    }
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(worker: usize) -> Arc<Live> {
        Arc::new(Live::new(Who {
            id: SessionId::new(7),
            worker,
            remote: "192.0.2.1:4000".parse().unwrap(),
            user_agent: String::new(),
            cipher: String::new(),
            since: Instant::now(),
            mtu: 1434,
        }))
    }

    /// Covers: R82
    #[test]
    fn a_defect_of_a_session_asks_its_own_connection_to_close() {
        let live = live(0);
        assert_eq!(contained(|| 7, || Arc::clone(&live)), Some(7));
        let waker = std::task::Waker::noop();
        assert_eq!(live.poll_close(waker), None);
        assert_eq!(contained(|| panic!("a defect"), || Arc::clone(&live)), None::<()>);
        assert_eq!(live.poll_close(waker), Some(CloseReason::InternalError));
    }

    /// Covers: R7
    #[test]
    fn the_end_of_an_old_connection_leaves_its_successor_in_place() {
        let address: IpAddr = "10.9.0.5".parse().unwrap();
        let table = LiveTable::default();
        let (old, new) = (live(0), live(1));
        table.enter(&old, [address].into_iter());
        table.enter(&new, [address].into_iter());
        table.leave(&old, [address].into_iter());
        assert_eq!(table.worker_of(address), Some(1));
        assert!(Arc::ptr_eq(&table.get(new.id).unwrap(), &new));
        table.leave(&new, [address].into_iter());
        assert_eq!(table.worker_of(address), None);
        assert!(table.all().is_empty());
    }

    #[test]
    fn the_first_close_reason_wins() {
        let live = live(0);
        let waker = std::task::Waker::noop();
        assert_eq!(live.poll_close(waker), None);
        live.close(CloseReason::AdminDisconnect);
        live.close(CloseReason::TakenOver);
        assert_eq!(live.poll_close(waker), Some(CloseReason::AdminDisconnect));
    }

    #[test]
    fn published_counters_are_read_back() {
        let live = live(0);
        let mut counters = SessionCounters { bytes_in: 5, packets_out: 3, ..SessionCounters::default() };
        counters.drops.count(DropReason::TooBig);
        live.publish(&counters, Channel::Stream, Instant::now());
        assert_eq!(live.counters(), counters);
    }
}
