//! Who has which App-ID and which remote address: the way from a datagram to its tunnel.
//!
//! Shared by all workers. A datagram of a known client reads one map under a lock that is written only when a
//! handshake starts and when a channel opens, moves or ends.
//!
//! Limits: one App-ID, one handshake and one remote address for each live connection; [`MAX_ROAMERS`] tunnels are
//! tried for a record from an unknown port.
//!
//! # Source
//! protocol.md 5.4; R13, R18, R19.

use std::net::{IpAddr, SocketAddr};
use std::sync::{PoisonError, RwLock};

use rustc_hash::FxHashMap;

/// Tunnels of one source address that a record from an unknown port is tried on: a household or a small
/// office behind one address. Behind a larger NAT a client whose port changes comes back by its own DPD.
pub(crate) const MAX_ROAMERS: usize = 8;

/// Length of an App-ID in bytes.
pub(crate) const APP_ID_BYTES: usize = 32;

/// Who serves a live connection: its worker, and its number there.
///
/// A number and not the session: while a session is taken over, it has two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    /// Which worker.
    pub(crate) worker: usize,
    /// Which of its tunnels.
    pub(crate) tunnel: u64,
}

/// What a datagram says about itself before any key is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clarity {
    /// Its first record is in clear: part of a handshake.
    Clear,
    /// Its first record is sealed.
    Sealed,
}

/// The ways to find a tunnel.
#[derive(Default)]
pub(crate) struct Directory {
    maps: RwLock<Maps>,
}

#[derive(Default)]
struct Maps {
    apps: FxHashMap<[u8; APP_ID_BYTES], Holder>,
    handshakes: FxHashMap<SocketAddr, Holder>,
    remotes: FxHashMap<SocketAddr, Holder>,
    /// Remote addresses with a channel, by their host.
    hosts: FxHashMap<IpAddr, Vec<SocketAddr>>,
}

impl Directory {
    /// A CONNECT was accepted with this App-ID.
    pub(crate) fn offer(&self, app_id: [u8; APP_ID_BYTES], holder: Holder) {
        self.write().apps.insert(app_id, holder);
    }

    /// The connection with this App-ID is over.
    pub(crate) fn withdraw(&self, app_id: &[u8; APP_ID_BYTES]) {
        self.write().apps.remove(app_id);
    }

    /// The tunnel that was offered this App-ID.
    pub(crate) fn by_app_id(&self, app_id: &[u8]) -> Option<Holder> {
        let app_id: &[u8; APP_ID_BYTES] = app_id.try_into().ok()?;
        self.read().apps.get(app_id).copied()
    }

    /// A handshake of `holder` goes on with `remote`; its client has shown the cookie.
    pub(crate) fn begin(&self, remote: SocketAddr, holder: Holder) {
        self.write().handshakes.insert(remote, holder);
    }

    /// The handshake of `holder` with `remote` is over, whatever its outcome.
    pub(crate) fn finish(&self, remote: SocketAddr, holder: Holder) {
        let mut maps = self.write();
        if maps.handshakes.get(&remote) == Some(&holder) {
            maps.handshakes.remove(&remote);
        }
    }

    /// A channel of `holder` is at `remote` now.
    ///
    /// An address that another tunnel had is taken over: who is there now has proven its key.
    pub(crate) fn settle(&self, remote: SocketAddr, holder: Holder) {
        let mut maps = self.write();
        if maps.remotes.insert(remote, holder).is_none() {
            maps.hosts.entry(remote.ip()).or_default().push(remote);
        }
    }

    /// What `from` is known by is known of `to` from now on; what another tunnel has taken over stays with it.
    pub(crate) fn relocate(
        &self,
        app_id: [u8; APP_ID_BYTES],
        settled: Option<SocketAddr>,
        begun: Option<SocketAddr>,
        from: Holder,
        to: Holder,
    ) {
        let mut maps = self.write();
        let Maps { apps, handshakes, remotes, .. } = &mut *maps;
        let known = [
            apps.get_mut(&app_id),
            settled.and_then(|remote| remotes.get_mut(&remote)),
            begun.and_then(|remote| handshakes.get_mut(&remote)),
        ];
        known.into_iter().flatten().filter(|holder| **holder == from).for_each(|holder| *holder = to);
    }

    /// The channel of `holder` at `remote` is gone; what another tunnel has there stays.
    pub(crate) fn leave(&self, remote: SocketAddr, holder: Holder) {
        let mut maps = self.write();
        if maps.remotes.get(&remote) != Some(&holder) {
            return;
        }
        maps.remotes.remove(&remote);
        if let Some(at_host) = maps.hosts.get_mut(&remote.ip()) {
            at_host.retain(|other| *other != remote);
            if at_host.is_empty() {
                maps.hosts.remove(&remote.ip());
            }
        }
    }

    /// Whose datagram from `remote` it is: of the handshake that goes on there, or of the channel that is there.
    pub(crate) fn by_remote(&self, remote: SocketAddr, clarity: Clarity) -> Option<Holder> {
        let maps = self.read();
        let (first, second) = match clarity {
            Clarity::Clear => (&maps.handshakes, &maps.remotes),
            Clarity::Sealed => (&maps.remotes, &maps.handshakes),
        };
        first.get(&remote).or_else(|| second.get(&remote)).copied()
    }

    /// The tunnels that may have sent an authentic record from a new port of `host`: those whose channel is
    /// there, at most [`MAX_ROAMERS`].
    pub(crate) fn roamers(&self, host: IpAddr) -> Vec<Holder> {
        let maps = self.read();
        let at_host = maps.hosts.get(&host).map_or(&[][..], Vec::as_slice);
        if at_host.len() > MAX_ROAMERS {
            return Vec::new();
        }
        at_host.iter().filter_map(|remote| maps.remotes.get(remote).copied()).collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Maps> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(tunnel: u64) -> Holder {
        Holder { worker: 0, tunnel }
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::new([192, 0, 2, 1].into(), port)
    }

    /// Covers: R13
    #[test]
    fn an_app_id_leads_to_its_tunnel_until_it_is_withdrawn() {
        let directory = Directory::default();
        directory.offer([7; 32], holder(1));
        assert_eq!(directory.by_app_id(&[7; 32]), Some(holder(1)));
        assert_eq!(directory.by_app_id(&[8; 32]), None);
        assert_eq!(directory.by_app_id(&[7; 31]), None);
        assert_eq!(directory.by_app_id(&[]), None);
        directory.withdraw(&[7; 32]);
        assert_eq!(directory.by_app_id(&[7; 32]), None);
    }

    #[test]
    fn what_was_taken_over_is_not_lost_when_the_old_one_leaves() {
        let directory = Directory::default();
        directory.settle(at(1000), holder(1));
        directory.settle(at(1000), holder(2));
        directory.leave(at(1000), holder(1));
        assert_eq!(directory.by_remote(at(1000), Clarity::Sealed), Some(holder(2)));
        directory.leave(at(1000), holder(2));
        assert_eq!(directory.by_remote(at(1000), Clarity::Sealed), None);
        let maps = directory.read();
        assert!(maps.remotes.is_empty() && maps.hosts.is_empty(), "nothing is left behind");
    }

    /// Covers: R18, R19
    #[test]
    fn a_tunnel_that_moves_takes_along_what_is_still_its_own() {
        let directory = Directory::default();
        let (old, new, other) = (holder(1), Holder { worker: 1, tunnel: 1 }, holder(2));
        directory.offer([7; 32], old);
        directory.settle(at(1000), old);
        directory.begin(at(1001), old);
        directory.relocate([7; 32], Some(at(1000)), Some(at(1001)), old, new);
        assert_eq!(directory.by_app_id(&[7; 32]), Some(new));
        assert_eq!(directory.by_remote(at(1000), Clarity::Sealed), Some(new));
        assert_eq!(directory.by_remote(at(1001), Clarity::Clear), Some(new));
        directory.settle(at(1000), other);
        directory.begin(at(1001), other);
        directory.relocate([7; 32], Some(at(1000)), Some(at(1001)), new, old);
        assert_eq!(
            directory.by_remote(at(1000), Clarity::Sealed),
            Some(other),
            "it has proven its key since"
        );
        assert_eq!(directory.by_remote(at(1001), Clarity::Clear), Some(other));
        assert_eq!(directory.by_app_id(&[7; 32]), Some(old));
    }

    /// Covers: R18
    #[test]
    fn a_handshake_takes_what_is_in_clear_and_leaves_the_channel_alone() {
        let directory = Directory::default();
        directory.settle(at(1000), holder(1));
        directory.begin(at(1000), holder(2));
        assert_eq!(directory.by_remote(at(1000), Clarity::Clear), Some(holder(2)));
        assert_eq!(directory.by_remote(at(1000), Clarity::Sealed), Some(holder(1)));
        directory.finish(at(1000), holder(1));
        assert_eq!(directory.by_remote(at(1000), Clarity::Clear), Some(holder(2)), "it is not theirs to end");
        directory.finish(at(1000), holder(2));
        assert_eq!(directory.by_remote(at(1000), Clarity::Clear), Some(holder(1)));
        assert!(directory.read().handshakes.is_empty());
    }

    /// Covers: R19
    #[test]
    fn only_tunnels_of_the_same_host_can_roam_and_only_a_few() {
        let directory = Directory::default();
        for port in 1..=8 {
            directory.settle(at(port), holder(port.into()));
        }
        assert_eq!(directory.roamers(at(9).ip()).len(), MAX_ROAMERS);
        assert!(directory.roamers([192, 0, 2, 2].into()).is_empty());
        directory.settle(at(9), holder(9));
        assert!(directory.roamers(at(9).ip()).is_empty(), "a crowd is not searched");
    }
}
