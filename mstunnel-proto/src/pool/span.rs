//! Which addresses of a prefix may be leased, numbered from 0.
//!
//! ```text
//! IPv4 10.0.0.0/24     .0 network   .1 server   .2 ... .254 leased    .255 broadcast
//! IPv6 fd00::/64       ::0 subnet-router anycast   ::1 server   ::2 ... leased
//! IPv6 fd00::/127      ::0 server   ::1 leased      (no anycast there: RFC 6164 section 5)
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::PoolError;
use crate::prefix::Prefix;

/// The shortest prefix of either family. Ours: more addresses than one organisation has private ones.
pub(super) const MIN_LENGTH: u8 = 8;

/// The longest IPv4 prefix: one address besides network, server and broadcast.
pub(super) const MAX_LENGTH_V4: u8 = 30;

/// The longest IPv6 prefix: one address besides the server.
pub(super) const MAX_LENGTH_V6: u8 = 127;

/// What no device may have as an address of its own.
///
/// # Source
/// RFC 6890 tables; 169.254.0.0/16 is missing because the product's documentation suggests it as a pool.
const NEVER_ASSIGNED: [(IpAddr, u8, &str); 7] = [
    (IpAddr::V4(Ipv4Addr::new(0, 0, 0, 0)), 8, "\"this network\""),
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8, "loopback"),
    (IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0)), 4, "multicast"),
    (IpAddr::V4(Ipv4Addr::new(240, 0, 0, 0)), 4, "reserved"),
    (IpAddr::V6(Ipv6Addr::UNSPECIFIED), 8, "reserved (loopback and IPv4-mapped addresses)"),
    (IpAddr::V6(Ipv6Addr::new(0xFE80, 0, 0, 0, 0, 0, 0, 0)), 10, "link-local"),
    (IpAddr::V6(Ipv6Addr::new(0xFF00, 0, 0, 0, 0, 0, 0, 0)), 8, "multicast"),
];

/// The numbering of a prefix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    prefix: Prefix,
    server: u128,
    first: u128,
    size: u64,
}

impl Span {
    /// Checks that `prefix` can be a pool.
    pub(super) fn new(prefix: Prefix) -> Result<Self, PoolError> {
        let length = prefix.length();
        let most = if prefix.is_ipv4() { MAX_LENGTH_V4 } else { MAX_LENGTH_V6 };
        if !(MIN_LENGTH..=most).contains(&length) {
            return Err(PoolError::Length { prefix, least: MIN_LENGTH, most });
        }
        for (network, length, what) in NEVER_ASSIGNED {
            if Prefix::new(network, length).is_ok_and(|never| never.overlaps(prefix)) {
                return Err(PoolError::NeverAssigned { prefix, what });
            }
        }
        let (lowest, highest) = (number(prefix.network()), number(prefix.last()));
        let (server, first, last) = match prefix.is_ipv4() {
            true => (lowest + 1, lowest + 2, highest - 1),
            false if length == MAX_LENGTH_V6 => (lowest, lowest + 1, highest),
            false => (lowest + 1, lowest + 2, highest),
        };
        // A shorter prefix than /64 has more; its lowest 2^64 - 1 are enough.
        let size = u64::try_from(last - first + 1).unwrap_or(u64::MAX);
        Ok(Self { prefix, server, first, size })
    }

    /// How many addresses have a number.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The prefix.
    pub(super) fn prefix(&self) -> Prefix {
        self.prefix
    }

    /// The server's own address.
    pub(super) fn server(&self) -> IpAddr {
        self.to_address(self.server)
    }

    /// The number of `address`; `None` when it may never be leased.
    pub(super) fn number(&self, address: IpAddr) -> Option<u64> {
        if !self.prefix.contains(address) {
            return None;
        }
        let number = number(address).checked_sub(self.first)?;
        u64::try_from(number).ok().filter(|number| *number < self.size)
    }

    /// The address with `number`, which is below [`Span::size`].
    pub(super) fn address(&self, number: u64) -> IpAddr {
        self.to_address(self.first + u128::from(number))
    }

    fn to_address(self, bits: u128) -> IpAddr {
        if self.prefix.is_ipv4() {
            let bits = u32::try_from(bits).expect("a number of an IPv4 prefix is an IPv4 address");
            Ipv4Addr::from_bits(bits).into()
        } else {
            Ipv6Addr::from_bits(bits).into()
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(prefix: &str) -> Span {
        Span::new(prefix.parse().unwrap()).unwrap()
    }

    fn shape(prefix: &str) -> (String, String, String, u64) {
        let span = span(prefix);
        let edge = |number| span.address(number).to_string();
        (span.server().to_string(), edge(0), edge(span.size() - 1), span.size())
    }

    /// Covers: R51
    #[test]
    fn network_server_broadcast_and_anycast_have_no_number() {
        let expect = |prefix: &str, server: &str, first: &str, last: &str, size| {
            assert_eq!(shape(prefix), (server.into(), first.into(), last.into(), size), "{prefix}");
        };
        expect("10.0.0.0/8", "10.0.0.1", "10.0.0.2", "10.255.255.254", (1 << 24) - 3);
        expect("192.168.40.0/24", "192.168.40.1", "192.168.40.2", "192.168.40.254", 253);
        expect("169.254.0.0/16", "169.254.0.1", "169.254.0.2", "169.254.255.254", 65_533);
        expect("192.168.40.4/30", "192.168.40.5", "192.168.40.6", "192.168.40.6", 1);
        expect("fd00::/127", "fd00::", "fd00::1", "fd00::1", 1);
        expect("fd00::/126", "fd00::1", "fd00::2", "fd00::3", 2);
        expect("fd00::/64", "fd00::1", "fd00::2", "fd00::ffff:ffff:ffff:ffff", u64::MAX - 1);
        expect("fd00::/48", "fd00::1", "fd00::2", "fd00:0:0:1::", u64::MAX);
        for address in ["192.168.40.0", "192.168.40.1", "192.168.40.255", "192.168.41.2", "::2"] {
            assert_eq!(span("192.168.40.0/24").number(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn numbers_and_addresses_are_the_same_thing_twice() {
        for prefix in ["10.0.0.0/8", "fd00::/48", "192.168.40.4/30", "fd00::/127"] {
            let span = span(prefix);
            for number in [0, span.size() / 2, span.size() - 1] {
                assert_eq!(span.number(span.address(number)), Some(number), "{prefix}");
            }
        }
    }

    /// Covers: R51
    #[test]
    fn prefixes_that_cannot_be_a_pool_are_refused() {
        for prefix in ["10.0.0.0/7", "10.0.0.0/31", "10.0.0.1/32", "fd00::1/128", "8000::/7"] {
            let error = Span::new(prefix.parse().unwrap()).unwrap_err();
            assert!(matches!(error, PoolError::Length { .. }), "{prefix}: {error}");
        }
        let never =
            ["0.0.0.0/8", "127.0.0.0/24", "224.0.0.0/8", "255.255.255.0/24", "::/96", "::ffff:0:0/96"];
        for prefix in never.into_iter().chain(["fe80::/64", "ff02::/64"]) {
            let error = Span::new(prefix.parse().unwrap()).unwrap_err();
            assert!(matches!(error, PoolError::NeverAssigned { .. }), "{prefix}: {error}");
        }
    }
}
