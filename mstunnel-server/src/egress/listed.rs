//! What an operator lists: destinations that are opened, and services that are published (R43).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use mstunnel_proto::prefix::Prefix;

/// Names are resolved at these ports; a server that clients are told to ask is open at them, wherever it is.
pub(super) const DNS_PORTS: [u16; 2] = [53, 853];

/// A destination that is open although it is special: this host, link-local, cloud metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// The addresses.
    pub prefix: Prefix,
    /// The only port of TCP and UDP that is opened; every protocol and port without.
    pub port: Option<u16>,
}

impl Allowed {
    /// Whether it opens `address`, at `port` if the protocol has ports.
    pub fn covers(&self, address: IpAddr, port: Option<u16>) -> bool {
        self.prefix.contains(address) && (self.port.is_none() || self.port == port)
    }
}

/// Why a text is no [`Allowed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither a prefix nor a prefix with a port")]
pub struct NotAllowed;

/// `10.0.0.0/8`, `127.0.0.1`, `127.0.0.1:8080`, `10.0.0.0/8:443`, `[::1]:8080`, `[fd00::/8]:443`.
impl FromStr for Allowed {
    type Err = NotAllowed;

    fn from_str(text: &str) -> Result<Self, NotAllowed> {
        if let Ok(prefix) = text.parse() {
            return Ok(Self { prefix, port: None });
        }
        let (prefix, port) = text.rsplit_once(':').ok_or(NotAllowed)?;
        let bracketed = prefix.strip_prefix('[').and_then(|prefix| prefix.strip_suffix(']'));
        let prefix: Prefix = bracketed.unwrap_or(prefix).parse().map_err(|_| NotAllowed)?;
        let port = port.parse().ok().filter(|&port| port != 0).ok_or(NotAllowed)?;
        // What looks like an IPv6 address with a port is an address with one group more.
        if bracketed.is_some() == prefix.is_ipv4() {
            return Err(NotAllowed);
        }
        Ok(Self { prefix, port: Some(port) })
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            None => self.prefix.fmt(f),
            Some(port) if self.prefix.is_ipv4() => write!(f, "{}:{port}", self.prefix),
            Some(port) => write!(f, "[{}]:{port}", self.prefix),
        }
    }
}

/// A service of the host side under an address that exists inside the tunnel only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Where clients find it.
    pub inside: SocketAddr,
    /// Where it is, as this host sees it.
    pub host: SocketAddr,
}

impl Published {
    /// Whether `inside` can be an address of one host inside the tunnel.
    pub fn is_usable_inside(inside: SocketAddr) -> bool {
        let is_host = match inside.ip() {
            IpAddr::V4(address) => {
                let [first, ..] = address.octets();
                first != 0 && first != 127 && first < 224 && !address.is_link_local()
            }
            IpAddr::V6(address) => {
                !address.is_multicast()
                    && !address.is_unspecified()
                    && !address.is_loopback()
                    && !is_link_local(address)
                    && address.to_ipv4_mapped().is_none()
            }
        };
        is_host && inside.port() != 0
    }

    /// Whether `host` can be connected to.
    pub fn is_usable_host(host: SocketAddr) -> bool {
        let address = host.ip().to_canonical();
        let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
        host.port() != 0 && !address.is_unspecified() && !address.is_multicast() && !is_broadcast
    }
}

fn is_link_local(address: Ipv6Addr) -> bool {
    address.segments()[0] & 0xFFC0 == 0xFE80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_may_have_a_port_in_both_families() {
        for (text, shown, port) in [
            ("127.0.0.1", "127.0.0.1/32", None),
            ("10.0.0.0/8", "10.0.0.0/8", None),
            ("127.0.0.1:8080", "127.0.0.1/32:8080", Some(8080)),
            ("10.0.0.0/8:443", "10.0.0.0/8:443", Some(443)),
            ("::1", "::1/128", None),
            ("[::1]:8080", "[::1/128]:8080", Some(8080)),
            ("[fd00::/8]:443", "[fd00::/8]:443", Some(443)),
        ] {
            let allowed: Allowed = text.parse().unwrap_or_else(|_| panic!("{text}"));
            assert_eq!((allowed.to_string().as_str(), allowed.port), (shown, port));
        }
        for text in
            ["", "x", "127.0.0.1:0", "127.0.0.1:65536", "10.0.0.0/33", "[127.0.0.1]:80", "[::1]", ":80"]
        {
            assert_eq!(text.parse::<Allowed>(), Err(NotAllowed), "{text}");
        }
        // An address, not a port.
        assert_eq!("fd00::1:443".parse::<Allowed>().unwrap().port, None);
    }

    #[test]
    fn a_port_opens_that_port_alone_and_no_ping() {
        let allowed: Allowed = "127.0.0.1:8080".parse().unwrap();
        let address = IpAddr::from([127, 0, 0, 1]);
        assert!(allowed.covers(address, Some(8080)));
        assert!(!allowed.covers(address, Some(8081)));
        assert!(!allowed.covers(address, None));
        assert!(!allowed.covers(IpAddr::from([127, 0, 0, 2]), Some(8080)));
    }

    #[test]
    fn what_is_published_is_one_host_on_either_side() {
        for inside in ["198.18.0.80:80", "[fd00::80]:80"] {
            assert!(Published::is_usable_inside(inside.parse().unwrap()), "{inside}");
        }
        for inside in [
            "127.0.0.1:80",
            "0.0.0.0:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "169.254.1.1:80",
            "198.18.0.80:0",
            "[::1]:80",
            "[::]:80",
            "[ff02::1]:80",
            "[fe80::1]:80",
            "[::ffff:10.0.0.1]:80",
        ] {
            assert!(!Published::is_usable_inside(inside.parse().unwrap()), "{inside}");
        }
        assert!(Published::is_usable_host("127.0.0.1:80".parse().unwrap()));
        for host in ["127.0.0.1:0", "0.0.0.0:80", "224.0.0.1:80", "255.255.255.255:80", "[::]:80"] {
            assert!(!Published::is_usable_host(host.parse().unwrap()), "{host}");
        }
    }
}
