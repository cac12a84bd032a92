//! Which flow a packet belongs to.

use std::net::SocketAddr;
use std::sync::Arc;

use mstunnel_proto::packet::Family;
use rustc_hash::FxHashMap;

use super::flow::Flow;
use super::mailbox::Mailbox;
use super::{MAX_FLOWS, MAX_MAILBOXES, random};

/// Attempts to find a free port; with [`MAX_FLOWS`] of 16,384 ports taken each fails with 1 in 16.
const PORT_ATTEMPTS: usize = 32;

/// What distinguishes the connections of one address of ours: the other end and our port.
///
/// Keys come from our own connects only, so that nobody outside chooses what is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) remote: SocketAddr,
    pub(super) local_port: u16,
}

/// What receives single packets: a UDP port or an identifier of echo requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Port {
    /// A UDP port.
    Udp(Family, u16),
    /// The identifier of echo requests.
    Echo(Family, u16),
}

/// There is no room for another flow, or no free port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

/// The flows of a stack.
#[derive(Debug, Default)]
pub(super) struct Table {
    flows: FxHashMap<Key, Arc<Flow>>,
    mailboxes: FxHashMap<Port, Arc<Mailbox>>,
    has_ended: bool,
}

impl Table {
    pub(super) fn flow(&self, remote: SocketAddr, local_port: u16) -> Option<Arc<Flow>> {
        self.flows.get(&Key { remote, local_port }).cloned()
    }

    pub(super) fn mailbox(&self, port: Port) -> Option<Arc<Mailbox>> {
        self.mailboxes.get(&port).cloned()
    }

    pub(super) fn flow_count(&self) -> usize {
        self.flows.len()
    }

    /// A key for a new connection to `remote`.
    pub(super) fn free_key(&self, remote: SocketAddr) -> Result<Key, Full> {
        if self.flows.len() >= MAX_FLOWS {
            return Err(Full);
        }
        (0..PORT_ATTEMPTS)
            .map(|_| Key { remote, local_port: random::port() })
            .find(|key| !self.flows.contains_key(key))
            .ok_or(Full)
    }

    pub(super) fn insert(&mut self, flow: Arc<Flow>) {
        self.flows.insert(flow.key, flow);
    }

    /// Removes `flow`, unless another has taken its key.
    pub(super) fn remove(&mut self, flow: &Arc<Flow>) {
        if self.flows.get(&flow.key).is_some_and(|known| Arc::ptr_eq(known, flow)) {
            self.flows.remove(&flow.key);
        }
    }

    /// Adds a mailbox under a free port of the kind that `port` makes.
    pub(super) fn open(&mut self, port: impl Fn(u16) -> Port, mailbox: &Arc<Mailbox>) -> Result<u16, Full> {
        if self.mailboxes.len() >= MAX_MAILBOXES {
            return Err(Full);
        }
        let number = (0..PORT_ATTEMPTS)
            .map(|_| random::port())
            .find(|number| !self.mailboxes.contains_key(&port(*number)))
            .ok_or(Full)?;
        self.mailboxes.insert(port(number), Arc::clone(mailbox));
        Ok(number)
    }

    pub(super) fn close(&mut self, port: Port) {
        self.mailboxes.remove(&port);
    }

    pub(super) fn flows(&self) -> Vec<Arc<Flow>> {
        self.flows.values().cloned().collect()
    }

    pub(super) fn mailboxes(&self) -> Vec<Arc<Mailbox>> {
        self.mailboxes.values().cloned().collect()
    }

    /// Whether the tunnel has ended: nothing may be added.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Notes that the tunnel has ended.
    pub(super) fn end(&mut self) {
        self.has_ended = true;
    }
}
