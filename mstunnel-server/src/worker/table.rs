//! The tunnels of one worker: by inside address for packets, by number for datagrams.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use mstunnel_proto::session::Leases;
use rustc_hash::FxHashMap;

use super::live::contained;
use super::tunnel::Tunnel;

/// A tunnel that the tasks of its worker share; borrowed for a moment, never across an await.
pub(crate) type SharedTunnel = Rc<RefCell<Tunnel>>;

/// Has a tunnel do something, in a task that is not its own: its defects end its session alone.
pub(crate) fn with<R>(tunnel: &SharedTunnel, step: impl FnOnce(&mut Tunnel) -> R) -> Option<R> {
    contained(|| step(&mut tunnel.borrow_mut()), || Arc::clone(tunnel.borrow().live()))
}

/// The tunnels of one worker.
#[derive(Default)]
pub(crate) struct TunnelTable {
    by_address: RefCell<FxHashMap<IpAddr, SharedTunnel>>,
    by_number: RefCell<FxHashMap<u64, SharedTunnel>>,
}

impl TunnelTable {
    /// Enters a tunnel; at its addresses it takes the place of an older one of its session.
    pub(crate) fn enter(&self, number: u64, leases: Leases, tunnel: &SharedTunnel) {
        self.by_number.borrow_mut().insert(number, Rc::clone(tunnel));
        for address in leases.iter() {
            self.by_address.borrow_mut().insert(address, Rc::clone(tunnel));
        }
    }

    /// Removes a tunnel; what a newer one has taken over stays.
    pub(crate) fn leave(&self, number: u64, leases: Leases) {
        let Some(tunnel) = self.by_number.borrow_mut().remove(&number) else {
            return;
        };
        for address in leases.iter() {
            let mut by_address = self.by_address.borrow_mut();
            if by_address.get(&address).is_some_and(|held| Rc::ptr_eq(held, &tunnel)) {
                by_address.remove(&address);
            }
        }
    }

    /// The tunnel of the session that has `address`.
    pub(crate) fn at(&self, address: IpAddr) -> Option<SharedTunnel> {
        self.by_address.borrow().get(&address).cloned()
    }

    /// The tunnel with this number.
    pub(crate) fn numbered(&self, number: u64) -> Option<SharedTunnel> {
        self.by_number.borrow().get(&number).cloned()
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.by_number.borrow().is_empty()
    }
}
