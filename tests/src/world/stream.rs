//! The TLS connections of the world: ordered, reliable, and in records.
//!
//! A path that is down delays records, as TCP repeats them, until TCP gives up after [`TCP_PATIENCE`]. A connection
//! whose address was taken away is severed: nothing arrives any more, and nobody is told.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long TCP repeats what nobody acknowledges; Linux needs about that long.
pub(crate) const TCP_PATIENCE: Duration = Duration::from_secs(900);

/// Names a connection; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ConnId(pub(crate) u64);

/// Which end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Client,
    Server,
}

impl End {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What arrives.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    /// One TLS record, decrypted.
    Record(Vec<u8>),
    /// The other end is done, in an orderly way or by a reset: for our machines it is the same.
    Closed,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) client: usize,
    pub(crate) server: usize,
    /// Which life of the server it belongs to.
    pub(crate) incarnation: u32,
    /// The client, as the server sees it.
    pub(crate) remote: SocketAddr,
    /// Nothing arrives any more, at either end.
    pub(crate) severed: bool,
    /// Earliest arrival of what is sent next, to keep the order.
    last: [Instant; 2],
    /// What waits for the path, with whom it is for.
    pub(crate) held: VecDeque<(End, Item)>,
    /// Since when.
    pub(crate) held_since: Option<Instant>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    next: u64,
    all: BTreeMap<ConnId, Stream>,
}

impl Streams {
    pub(crate) fn open(
        &mut self,
        client: usize,
        server: usize,
        incarnation: u32,
        remote: SocketAddr,
        now: Instant,
    ) -> ConnId {
        self.next += 1;
        let conn = ConnId(self.next);
        let stream = Stream {
            client,
            server,
            incarnation,
            remote,
            severed: false,
            last: [now; 2],
            held: VecDeque::new(),
            held_since: None,
        };
        self.all.insert(conn, stream);
        conn
    }

    pub(crate) fn get(&self, conn: ConnId) -> Option<&Stream> {
        self.all.get(&conn)
    }

    pub(crate) fn get_mut(&mut self, conn: ConnId) -> Option<&mut Stream> {
        self.all.get_mut(&conn)
    }

    pub(crate) fn close(&mut self, conn: ConnId) {
        self.all.remove(&conn);
    }

    /// Those that both ends could still use.
    pub(crate) fn whole(&self) -> usize {
        self.all.values().filter(|stream| !stream.severed).count()
    }

    /// The connections of one client, the oldest first.
    pub(crate) fn of_client(&self, client: usize) -> Vec<ConnId> {
        self.all.iter().filter(|(_, stream)| stream.client == client).map(|(conn, _)| *conn).collect()
    }

    /// The connections of one server, the oldest first.
    pub(crate) fn of_server(&self, server: usize) -> Vec<ConnId> {
        self.all.iter().filter(|(_, stream)| stream.server == server).map(|(conn, _)| *conn).collect()
    }
}

impl Stream {
    /// When something sent now arrives at `to`, not before what was sent earlier.
    pub(crate) fn arrival(&mut self, to: End, latency: Duration, now: Instant) -> Instant {
        let last = &mut self.last[to as usize];
        *last = (now + latency).max(*last);
        *last
    }
}
