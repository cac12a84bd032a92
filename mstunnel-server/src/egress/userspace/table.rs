//! The flows of one session, with a limit for each kind; when it is reached, the session's own oldest flow goes (R47).

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

/// TCP connections of one session: what a browser with many tabs holds, with room for a few more programs.
pub(super) const MAX_TCP: usize = 256;

/// UDP flows of one session: names, calls, QUIC.
pub(super) const MAX_UDP: usize = 256;

/// Echo identifiers of one session at a time; each `ping` is one.
pub(super) const MAX_ECHO: usize = 32;

/// A connection that was used this recently is not taken away for a new one; the new one waits.
const MIN_IDLE: Duration = Duration::from_secs(2);

/// A kind of flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Tcp,
    Udp,
    Echo,
}

impl Kind {
    fn most(self) -> usize {
        match self {
            Self::Tcp => MAX_TCP,
            Self::Udp => MAX_UDP,
            Self::Echo => MAX_ECHO,
        }
    }

    /// How long one must have been idle before it makes room. Losing a connection costs its user something, losing
    /// the flow of a question that was answered does not.
    fn min_idle(self) -> Duration {
        match self {
            Self::Tcp => MIN_IDLE,
            Self::Udp | Self::Echo => Duration::ZERO,
        }
    }
}

/// What distinguishes the flows of a session. Clients choose it; the limits bound what a clash of hashes costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) kind: Kind,
    /// The client's end; the port of an echo flow is its identifier.
    pub(super) client: SocketAddr,
    /// The other end as the client sees it.
    pub(super) remote: SocketAddr,
}

/// One flow.
#[derive(Debug)]
pub(super) struct Flow<S> {
    active: Cell<Instant>,
    pub(super) side: S,
}

impl<S> Flow<S> {
    pub(super) fn new(side: S, now: Instant) -> Rc<Self> {
        Rc::new(Self { active: Cell::new(now), side })
    }

    /// Notes that something passed.
    pub(super) fn touch(&self, now: Instant) {
        self.active.set(now);
    }

    /// When something passed last.
    pub(super) fn active(&self) -> Instant {
        self.active.get()
    }
}

/// The kind of a new flow has its most flows, and all of them are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The flows of one session.
#[derive(Debug)]
pub(super) struct Table<S> {
    flows: FxHashMap<Key, Rc<Flow<S>>>,
}

impl<S> Default for Table<S> {
    fn default() -> Self {
        Self { flows: FxHashMap::default() }
    }
}

impl<S> Table<S> {
    pub(super) fn get(&self, key: &Key) -> Option<&Rc<Flow<S>>> {
        self.flows.get(key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Rc<Flow<S>>> {
        self.flows.values()
    }

    /// How many flows of a kind there are.
    pub(super) fn count(&self, kind: Kind) -> usize {
        self.flows.keys().filter(|key| key.kind == kind).count()
    }

    /// How many flows there are.
    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Makes room for one more flow of `kind`; the flow that had to go is returned.
    pub(super) fn make_room(&mut self, kind: Kind, now: Instant) -> Result<Option<Rc<Flow<S>>>, Full> {
        if self.count(kind) < kind.most() {
            return Ok(None);
        }
        self.take_oldest(kind, now).map(Some)
    }

    /// Takes out the flow of `kind` that was idle for longest.
    pub(super) fn take_oldest(&mut self, kind: Kind, now: Instant) -> Result<Rc<Flow<S>>, Full> {
        let of_kind = self.flows.iter().filter(|(key, _)| key.kind == kind);
        let (&key, oldest) = of_kind.min_by_key(|(_, flow)| flow.active()).ok_or(Full)?;
        if now.saturating_duration_since(oldest.active()) < kind.min_idle() {
            return Err(Full);
        }
        self.flows.remove(&key).ok_or(Full)
    }

    pub(super) fn insert(&mut self, key: Key, flow: Rc<Flow<S>>) {
        self.flows.insert(key, flow);
    }

    /// Removes `flow`, unless another has taken its key.
    pub(super) fn remove(&mut self, key: &Key, flow: &Rc<Flow<S>>) {
        if self.flows.get(key).is_some_and(|held| Rc::ptr_eq(held, flow)) {
            self.flows.remove(key);
        }
    }

    /// Takes all flows out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Rc<Flow<S>>> + '_ {
        self.flows.drain().map(|(_, flow)| flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: Kind, port: usize) -> Key {
        let port = u16::try_from(port).unwrap();
        Key { kind, client: ([10, 9, 0, 5], port).into(), remote: ([10, 20, 0, 2], 80).into() }
    }

    fn full(kind: Kind, now: Instant) -> Table<usize> {
        let mut table = Table::default();
        for port in 0..kind.most() {
            assert!(matches!(table.make_room(kind, now), Ok(None)));
            let since = now + Duration::from_millis(u64::try_from(port).unwrap());
            table.insert(key(kind, port), Flow::new(port, since));
        }
        table
    }

    /// Covers: R47
    #[test]
    fn a_full_kind_loses_its_own_oldest_flow_and_no_other() {
        let start = Instant::now();
        let mut table = full(Kind::Udp, start);
        table.insert(key(Kind::Echo, 9), Flow::new(9, start));
        table.get(&key(Kind::Udp, 0)).unwrap().touch(start + Duration::from_secs(9));
        let gone = table.make_room(Kind::Udp, start + Duration::from_secs(10)).unwrap().unwrap();
        assert_eq!(gone.side, 1);
        assert_eq!(table.count(Kind::Udp), MAX_UDP - 1);
        assert_eq!(table.count(Kind::Echo), 1);
    }

    /// Covers: R47
    #[test]
    fn a_connection_in_use_makes_no_room() {
        let start = Instant::now();
        let mut table = full(Kind::Tcp, start);
        assert!(matches!(table.make_room(Kind::Tcp, start + Duration::from_secs(1)), Err(Full)));
        assert_eq!(table.count(Kind::Tcp), MAX_TCP);
        assert_eq!(table.make_room(Kind::Tcp, start + MIN_IDLE).unwrap().unwrap().side, 0);
    }

    #[test]
    fn a_flow_removes_itself_and_not_its_successor() {
        let now = Instant::now();
        let mut table = Table::default();
        let (first, second) = (Flow::new(1, now), Flow::new(2, now));
        table.insert(key(Kind::Tcp, 1), Rc::clone(&first));
        table.insert(key(Kind::Tcp, 1), Rc::clone(&second));
        table.remove(&key(Kind::Tcp, 1), &first);
        assert_eq!(table.len(), 1);
        table.remove(&key(Kind::Tcp, 1), &second);
        assert_eq!(table.len(), 0);
    }
}
