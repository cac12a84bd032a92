//! Which addresses are this host's own, as its interfaces have them now.

use std::cell::RefCell;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// How old the list may be: addresses come with containers and leases, and asking costs some microseconds.
const MAX_AGE: Duration = Duration::from_secs(2);

/// The addresses of this host, asked for again when a flow finds them old.
#[derive(Debug)]
pub(super) struct HostAddresses {
    listed: RefCell<(Vec<IpAddr>, Instant)>,
}

impl HostAddresses {
    /// Asks for the first time.
    ///
    /// # Errors
    /// The kernel does not tell, so that nothing could be fenced off.
    pub(super) fn new(now: Instant) -> io::Result<Self> {
        Ok(Self { listed: RefCell::new((list()?, now)) })
    }

    /// Whether `address` is this host's.
    pub(super) fn contains(&self, address: IpAddr, now: Instant) -> bool {
        let mut listed = self.listed.borrow_mut();
        if now.saturating_duration_since(listed.1) >= MAX_AGE {
            match list() {
                Ok(addresses) => *listed = (addresses, now),
                // Out of descriptors, most likely: the old list is better than none.
                Err(error) => tracing::debug!(%error, "cannot list this host's addresses"),
            }
        }
        listed.0.contains(&address)
    }
}

/// The addresses of all interfaces.
pub(super) fn list() -> io::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            addresses.push(v4.ip().into());
        } else if let Some(v6) = address.as_sockaddr_in6() {
            addresses.push(v6.ip().into());
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_hosts_and_a_documentation_address_is_not() {
        let now = Instant::now();
        let host = HostAddresses::new(now).unwrap();
        assert!(host.contains(IpAddr::from([127, 0, 0, 1]), now));
        assert!(!host.contains(IpAddr::from([192, 0, 2, 123]), now + MAX_AGE));
    }
}
