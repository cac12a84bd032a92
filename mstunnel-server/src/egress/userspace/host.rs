//! Which addresses are this host's own, as its interfaces have them now.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv6Addr};
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
            // Where the host forwards, the kernel answers to this one too, and does not list it.
            let mask = interface.netmask.as_ref().and_then(|mask| mask.as_sockaddr_in6());
            addresses.extend(mask.map(|mask| IpAddr::from(subnet_router(v6.ip(), mask.ip()))));
        }
    }
    Ok(addresses)
}

/// The anycast address of the routers of a network (RFC 4291 section 2.6.1).
fn subnet_router(address: Ipv6Addr, mask: Ipv6Addr) -> Ipv6Addr {
    (u128::from(address) & u128::from(mask)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: R43
    #[test]
    fn the_anycast_address_of_a_network_is_this_hosts() {
        let address = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        let router = subnet_router(address("2001:db8:1::53"), address("ffff:ffff:ffff:ffff::"));
        assert_eq!(router, address("2001:db8:1::"));
        let listed = list().unwrap();
        assert!(listed.contains(&IpAddr::from(Ipv6Addr::LOCALHOST)), "its mask is all of it: {listed:?}");
    }

    #[test]
    fn loopback_is_this_hosts_and_a_documentation_address_is_not() {
        let now = Instant::now();
        let host = HostAddresses::new(now).unwrap();
        assert!(host.contains(IpAddr::from([127, 0, 0, 1]), now));
        assert!(!host.contains(IpAddr::from([192, 0, 2, 123]), now + MAX_AGE));
    }
}
