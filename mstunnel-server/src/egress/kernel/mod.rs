//! Egress through the Linux kernel: a TUN interface, forwarding, and one nftables table of our own.
//!
//! ```text
//!  worker 0 -- queue 0 --+                      +-- eth0 --> network
//!  worker 1 -- queue 1 --+-- mst0 -- forwarding-+
//!  ...                   |   (pool route)       +-- eth1 --> ...
//!                            table inet mstunnel: fences, masquerade
//! ```
//!
//! What is made, in this order, and unmade in the reverse one:
//!
//! 1. leftovers of a killed run go: an interface of our name that nobody holds (`addresses`);
//! 2. the interface with its queues, still down (`device`);
//! 3. the table, before any packet can pass (`masquerade`);
//! 4. interface settings and forwarding (`forwarding`);
//! 5. the server's inside addresses, with the pools' lengths, which makes the pools' routes, and up.
//!
//! [`KernelEgress::open`], [`KernelEgress::check`] and [`KernelEgress::close`] block for some
//! milliseconds and may be called inside or outside of a runtime, but not on a packet path.
//!
//! Only the table `inet mstunnel` and the interface are ours. Other tables (Docker's, the
//! distribution's firewall) are never changed; a packet must please them too, so that a foreign
//! chain that drops forwarded packets by default is named in [`KernelEgress::warnings`].
//!
//! The kernel steers an answer to the queue on which packets of its flow were written, so that a
//! session mostly sees both directions on one worker; nothing may depend on it.

mod addresses;
mod conntrack;
mod device;
mod error;
mod forwarding;
mod masquerade;
mod nft;
mod ports;
mod uplink;

use std::net::IpAddr;

use mstunnel_proto::prefix::Prefix;

pub(crate) use self::conntrack::forget as forget_flows;
pub use self::device::{AsyncTunQueue, Offloads, READ_LEN, TunQueue, device_is_gone};
pub use self::error::{EgressError, Fault};
pub(crate) use self::uplink::Uplink;

/// The most queues of one interface; the kernel's limit (`MAX_TAP_QUEUES`).
pub const MAX_QUEUES: usize = 256;

/// What the kernel is asked for.
#[derive(Clone, Debug)]
pub struct EgressConfig {
    /// The interface name, 1 to 15 bytes.
    pub interface: String,
    /// The interface MTU: the largest inside MTU of any session.
    pub mtu: u16,
    /// The server's inside address and the pool it lies in, at most one pair of each family.
    pub addresses: Vec<(IpAddr, Prefix)>,
    /// How many queues, one a worker.
    pub queues: usize,
    /// Whether super-packets may be used, if the kernel has them.
    pub offload: bool,
    /// `kernel` mode when set: clients appear under the server's outside address. `routed` mode
    /// else: hosts see the clients' own addresses and need a route to the pool.
    pub masquerade: bool,
    /// Destinations that stay open although they are special (link-local, the server itself): the
    /// "unless listed" of threats.md R43. Never opens another client's address.
    pub permitted: Vec<Prefix>,
    /// The name servers that clients are told: open at the ports of DNS, and only there, wherever they are.
    pub dns: Vec<IpAddr>,
    /// Ports on which this server listens; no masqueraded flow leaves from one of them (R46).
    pub listen_ports: Vec<u16>,
}

impl EgressConfig {
    /// A masquerading interface with one queue, and nothing listed.
    pub fn new(interface: impl Into<String>, mtu: u16, addresses: Vec<(IpAddr, Prefix)>) -> Self {
        Self {
            interface: interface.into(),
            mtu,
            addresses,
            queues: 1,
            offload: true,
            masquerade: true,
            permitted: Vec::new(),
            dns: Vec::new(),
            listen_ports: Vec::new(),
        }
    }

    fn validate(&self) -> Result<(), EgressError> {
        validate_name(&self.interface)?;
        if self.queues == 0 || self.queues > MAX_QUEUES {
            return Err(EgressError::Queues { want: self.queues, most: MAX_QUEUES });
        }
        for (index, (address, pool)) in self.addresses.iter().enumerate() {
            if !pool.contains(*address) {
                return Err(EgressError::AddressOutsidePool { address: *address, pool: *pool });
            }
            if self.addresses[..index].iter().any(|(_, other)| other.is_ipv4() == pool.is_ipv4()) {
                return Err(EgressError::TwoPools { pool: *pool });
            }
            if !pool.is_ipv4() && self.mtu < MIN_IPV6_MTU {
                return Err(EgressError::Ipv6Mtu { mtu: self.mtu, least: MIN_IPV6_MTU });
            }
        }
        if self.addresses.is_empty() {
            return Err(EgressError::NoPool);
        }
        Ok(())
    }

    fn dns_servers(&self) -> Vec<Prefix> {
        self.dns.iter().copied().map(Prefix::single).collect()
    }

    fn has_ipv4(&self) -> bool {
        self.addresses.iter().any(|(_, pool)| pool.is_ipv4())
    }

    fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|(_, pool)| !pool.is_ipv4())
    }
}

/// RFC 8200 section 5: the least MTU of an interface that carries IPv6.
const MIN_IPV6_MTU: u16 = 1280;

/// What the kernel takes as an interface name (`dev_valid_name`), and a little less: the name also
/// goes into `/proc/sys` paths and nftables, where `%`, `*` and quotes mean something.
fn validate_name(name: &str) -> Result<(), EgressError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let reserved = matches!(name, "." | ".." | "all" | "default" | "lo");
    if name.is_empty() || name.len() > 15 || reserved || !name.bytes().all(plain) {
        return Err(EgressError::Name { name: name.escape_debug().take(64).collect() });
    }
    Ok(())
}

/// A TUN interface with everything around it, until closed or dropped.
#[derive(Debug)]
pub struct KernelEgress {
    config: EgressConfig,
    index: u32,
    queues: Vec<TunQueue>,
    warnings: Vec<String>,
    fenced: bool,
    open: bool,
}

impl KernelEgress {
    /// Makes the interface, its addresses and the table, and turns forwarding on.
    ///
    /// # Errors
    /// [`EgressError`] says what to do about it. Whatever was made until then is unmade.
    pub fn open(config: EgressConfig) -> Result<Self, EgressError> {
        config.validate()?;
        masquerade::refuse_another(&config.interface)?;
        addresses::remove_stale(&config.interface)?;
        let (queues, without_offloads) = device::open_queues(&config)?;
        let index = addresses::index_of(&config.interface)?;
        // From here on the value's Drop undoes what was done.
        let mut egress = Self { config, index, queues, warnings: Vec::new(), fenced: true, open: true };
        let mut warnings = egress.fence()?;
        warnings.extend(without_offloads);
        warnings.extend(forwarding::enable(&egress.config)?);
        addresses::configure(&egress.config, egress.index)?;
        egress.warnings = warnings;
        Ok(egress)
    }

    /// Applies the table. Routed mode needs no translation and so does without the program `nft`: the
    /// core keeps clients from each other and from what is special, but knows no addresses of this host.
    fn fence(&mut self) -> Result<Vec<String>, EgressError> {
        match masquerade::apply(&self.config) {
            Ok(()) => Ok(masquerade::foreign_fences()),
            Err(EgressError::NoNft) if !self.config.masquerade => {
                self.fenced = false;
                Ok(vec![
                    "the program nft is missing, so that clients reach the services of this host: install \
                         the package nftables"
                        .to_owned(),
                ])
            }
            Err(error) => Err(error),
        }
    }

    /// The queues, to be moved to the workers; empty when they were taken before.
    pub fn take_queues(&mut self) -> Vec<TunQueue> {
        std::mem::take(&mut self.queues)
    }

    /// What an administrator should look at, one sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The interface name.
    pub fn interface(&self) -> &str {
        &self.config.interface
    }

    /// Finds out whether everything is still as [`KernelEgress::open`] made it, and repairs what can
    /// be: addresses, the link's state, the table, forwarding (R82, cases P-121 and P-130). To be
    /// called every few seconds.
    ///
    /// The answer lists what was found and repaired; empty is the good case.
    ///
    /// # Errors
    /// What cannot be repaired, above all [`EgressError::Gone`]: the queues are dead and the process
    /// has to end.
    pub fn check(&self) -> Result<Vec<Fault>, EgressError> {
        let mut faults = addresses::check(&self.config, self.index)?;
        let is_unconfigured = !faults.is_empty();
        // In the order of the start, and each whatever became of the one before: the fences above all.
        let fenced = self.check_table(&mut faults);
        let forwarded = self.check_forwarding(is_unconfigured, &mut faults);
        let configured =
            if is_unconfigured { addresses::configure(&self.config, self.index) } else { Ok(()) };
        fenced.and(forwarded).and(configured)?;
        Ok(faults)
    }

    fn check_table(&self, faults: &mut Vec<Fault>) -> Result<(), EgressError> {
        if self.fenced && !masquerade::is_applied(&self.config)? {
            masquerade::apply(&self.config)?;
            faults.push(Fault::TableMissing);
        }
        Ok(())
    }

    /// The interface's settings too, without which it may take no address.
    fn check_forwarding(&self, is_unconfigured: bool, faults: &mut Vec<Fault>) -> Result<(), EgressError> {
        let is_off = !forwarding::is_enabled(&self.config);
        if is_off || is_unconfigured {
            forwarding::enable(&self.config)?;
        }
        faults.extend(is_off.then_some(Fault::ForwardingOff));
        Ok(())
    }

    /// Opens other name servers than those of the start (see [`EgressConfig::dns`]).
    ///
    /// # Errors
    /// The table could not be replaced, and is as it was.
    pub fn set_dns(&mut self, dns: Vec<IpAddr>) -> Result<(), EgressError> {
        if self.config.dns == dns {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.config.dns, dns);
        let applied = if self.fenced { masquerade::apply(&self.config) } else { Ok(()) };
        if applied.is_err() {
            self.config.dns = before;
        }
        applied
    }

    /// Whether clients appear under the server's address, so that the kernel has to keep their flows.
    pub(super) fn masquerades(&self) -> bool {
        self.config.masquerade
    }

    /// Removes the interface and the table. Forwarding stays on (see `forwarding`).
    ///
    /// # Errors
    /// What could not be removed; the rest is removed all the same.
    pub fn close(mut self) -> Result<(), EgressError> {
        self.undo()
    }

    fn undo(&mut self) -> Result<(), EgressError> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        self.queues.clear();
        // The interface first: without the table nothing may pass any more.
        let removed = addresses::remove(self.index);
        let cleared = if self.fenced { masquerade::remove() } else { Ok(()) };
        removed.and(cleared)
    }
}

impl Drop for KernelEgress {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            tracing::warn!(interface = %self.config.interface, %error, "could not clean up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> EgressConfig {
        EgressConfig::new("mst0", 1400, vec![("10.8.0.1".parse().unwrap(), "10.8.0.0/24".parse().unwrap())])
    }

    #[test]
    fn an_interface_name_is_one_the_kernel_takes_and_nothing_more() {
        for name in ["mst0", "a", "vpn-outside.12", "fifteen_bytes_x"] {
            assert!(validate_name(name).is_ok(), "{name}");
        }
        for name in ["", "sixteen_bytes_xy", "a b", "a/b", "..", "mst%d", "mst*", "lo", "all", "m\"", "ü"] {
            assert!(matches!(validate_name(name), Err(EgressError::Name { .. })), "{name}");
        }
    }

    #[test]
    fn an_address_outside_its_pool_is_refused() {
        let mut config = config();
        config.addresses[0].0 = "10.9.0.1".parse().unwrap();
        assert!(matches!(config.validate(), Err(EgressError::AddressOutsidePool { .. })));
    }

    #[test]
    fn two_pools_of_a_family_are_refused_and_one_of_each_is_taken() {
        let mut config = config();
        config.addresses.push(("fd00:8::1".parse().unwrap(), "fd00:8::/64".parse().unwrap()));
        config.validate().unwrap();
        config.addresses.push(("10.9.0.1".parse().unwrap(), "10.9.0.0/24".parse().unwrap()));
        assert!(matches!(config.validate(), Err(EgressError::TwoPools { .. })));
    }

    #[test]
    fn an_ipv6_pool_needs_the_ipv6_minimum_mtu() {
        let mut config = config();
        config.addresses.push(("fd00:8::1".parse().unwrap(), "fd00:8::/64".parse().unwrap()));
        config.mtu = 1279;
        assert!(matches!(config.validate(), Err(EgressError::Ipv6Mtu { .. })));
    }

    #[test]
    fn queues_are_at_least_one_and_at_most_what_the_kernel_has() {
        let mut config = config();
        config.queues = 0;
        assert!(config.validate().is_err());
        config.queues = MAX_QUEUES + 1;
        assert!(config.validate().is_err());
    }
}
