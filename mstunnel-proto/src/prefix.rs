//! An address prefix: an address with its host bits cleared and a length.
//!
//! Three spellings are read: `10.0.0.0/8`, `10.0.0.0/255.0.0.0` (IPv4 only) and a single address,
//! which is a prefix of full length. The wire spellings of protocol.md 3.3 are written by
//! [`Prefix::dotted`] (IPv4) and by `Display` (both families).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

/// An IPv4 or IPv6 prefix whose host bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(IpNet);

impl Prefix {
    /// Builds the prefix that holds `address`, clearing its host bits.
    ///
    /// # Errors
    /// [`PrefixError::Length`] when `length` is above 32 (IPv4) or 128 (IPv6).
    pub fn new(address: IpAddr, length: u8) -> Result<Self, PrefixError> {
        let most = max_length(address);
        let net =
            IpNet::new(address, length).map_err(|_| PrefixError::Length { length: length.into(), most })?;
        Ok(Self(net.trunc()))
    }

    /// Builds the prefix that holds `address` alone.
    pub fn single(address: IpAddr) -> Self {
        Self(IpNet::from(address))
    }

    /// The lowest address.
    pub fn network(self) -> IpAddr {
        self.0.network()
    }

    /// The highest address (for IPv4 pools the broadcast address).
    pub fn last(self) -> IpAddr {
        self.0.broadcast()
    }

    /// The number of leading bits that are fixed.
    pub fn length(self) -> u8 {
        self.0.prefix_len()
    }

    /// Whether the prefix is of the IPv4 family.
    pub fn is_ipv4(self) -> bool {
        matches!(self.0, IpNet::V4(_))
    }

    /// Whether `address` lies inside; never across families.
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }

    /// Whether the two prefixes share an address.
    pub fn overlaps(self, other: Self) -> bool {
        self.0.contains(&other.network()) || other.0.contains(&self.network())
    }

    /// The IPv4 netmask; `None` for IPv6.
    pub fn netmask_v4(self) -> Option<Ipv4Addr> {
        match self.0 {
            IpNet::V4(net) => Some(net.netmask()),
            IpNet::V6(_) => None,
        }
    }

    /// The form `10.0.0.0/255.0.0.0` for IPv4 and `fd00::/8` for IPv6.
    ///
    /// # Source
    /// protocol.md 3.3 row 12.
    pub fn dotted(self) -> String {
        match self.0 {
            IpNet::V4(net) => format!("{}/{}", net.network(), net.netmask()),
            IpNet::V6(net) => net.to_string(),
        }
    }

    /// The same prefix as an [`ipnet::IpNet`].
    pub fn to_ipnet(self) -> IpNet {
        self.0
    }

    /// Parses like `FromStr`, and tells whether host bits had to be cleared.
    ///
    /// # Errors
    /// As [`Prefix::from_str`].
    pub fn parse_noting_host_bits(text: &str) -> Result<(Self, bool), PrefixError> {
        let (address, length) = match text.split_once('/') {
            None => {
                let address = parse_address(text)?;
                (address, max_length(address))
            }
            Some((address, tail)) => {
                let address = parse_address(address)?;
                (address, parse_length(address, tail)?)
            }
        };
        let prefix = Self::new(address, length)?;
        Ok((prefix, prefix.network() != address))
    }
}

fn max_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn parse_address(text: &str) -> Result<IpAddr, PrefixError> {
    text.parse().map_err(|_| PrefixError::Address)
}

fn parse_length(address: IpAddr, tail: &str) -> Result<u8, PrefixError> {
    if address.is_ipv4() && tail.contains('.') {
        let mask: Ipv4Addr = tail.parse().map_err(|_| PrefixError::Mask)?;
        return ipnet::ipv4_mask_to_prefix(mask).map_err(|_| PrefixError::Mask);
    }
    if tail.is_empty() || !tail.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(PrefixError::Syntax);
    }
    let most = max_length(address);
    let length: u32 = tail.parse().map_err(|_| PrefixError::Length { length: u32::MAX, most })?;
    u8::try_from(length).ok().filter(|length| *length <= most).ok_or(PrefixError::Length { length, most })
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        Self::parse_noting_host_bits(text).map(|(prefix, _)| prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Ipv4Addr> for Prefix {
    fn from(address: Ipv4Addr) -> Self {
        Self::single(address.into())
    }
}

impl From<Ipv6Addr> for Prefix {
    fn from(address: Ipv6Addr) -> Self {
        Self::single(address.into())
    }
}

/// Why a text is not a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// The part before the slash is not an address.
    #[error("not an IPv4 or IPv6 address")]
    Address,
    /// The dotted part after the slash is not a netmask.
    #[error("the netmask is not a run of ones followed by zeros")]
    Mask,
    /// What follows the slash is not a number.
    #[error("the length after the slash is not a number")]
    Syntax,
    /// The length is more than the family has bits.
    #[error("length {length}, at most {most}")]
    Length {
        /// What was written.
        length: u32,
        /// 32 or 128.
        most: u8,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_spellings_are_one_prefix() {
        let cidr: Prefix = "192.168.40.0/24".parse().unwrap();
        assert_eq!(cidr, "192.168.40.0/255.255.255.0".parse().unwrap());
        assert_eq!(cidr.dotted(), "192.168.40.0/255.255.255.0");
        assert_eq!("10.1.2.3".parse::<Prefix>().unwrap().to_string(), "10.1.2.3/32");
    }

    #[test]
    fn host_bits_are_cleared_and_noted() {
        let (prefix, noted) = Prefix::parse_noting_host_bits("10.1.2.3/8").unwrap();
        assert_eq!((prefix.to_string().as_str(), noted), ("10.0.0.0/8", true));
    }

    #[test]
    fn what_is_not_a_prefix_is_refused_with_its_reason() {
        assert_eq!("10.0.0.0/33".parse::<Prefix>(), Err(PrefixError::Length { length: 33, most: 32 }));
        assert_eq!("10.0.0.0/255.0.255.0".parse::<Prefix>(), Err(PrefixError::Mask));
        assert_eq!("fd00::/+8".parse::<Prefix>(), Err(PrefixError::Syntax));
        assert_eq!("corp.example/8".parse::<Prefix>(), Err(PrefixError::Address));
    }

    #[test]
    fn families_never_overlap() {
        let v4: Prefix = "0.0.0.0/0".parse().unwrap();
        let v6: Prefix = "::/0".parse().unwrap();
        assert!(!v4.overlaps(v6));
        assert!(!v4.contains("::1".parse().unwrap()));
    }
}
