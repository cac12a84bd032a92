//! What the answer to CONNECT says, typed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::dtls::SuiteHeader;
use crate::mtu::Mtu;
use crate::prefix::Prefix;

/// The parameters of a session, as the server tells them and the client gets them.
///
/// A `None` duration is off or unlimited; on the wire that is an absent field, `0` or `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectParams {
    /// The server's name for itself.
    pub server_name: Option<String>,
    /// The client's host name, echoed.
    pub hostname: Option<String>,
    /// The DPD interval of the stream channel.
    pub dpd: Option<Duration>,
    /// The domain of the network, or several separated by spaces.
    pub default_domain: Option<String>,
    /// The client's IPv4 address.
    pub v4: Option<InsideAddress<Ipv4Addr>>,
    /// The client's IPv6 address.
    pub v6: Option<InsideAddress<Ipv6Addr>>,
    /// Name servers, the first one preferred; the stock client uses three.
    pub dns: Vec<IpAddr>,
    /// WINS servers.
    pub nbns: Vec<Ipv4Addr>,
    /// The domains that are asked through the tunnel; empty for all.
    pub split_dns: Vec<String>,
    /// The prefixes that go through the tunnel; empty for everything.
    pub include: Vec<Prefix>,
    /// Whether all DNS goes through the tunnel.
    pub tunnel_all_dns: bool,
    /// Whether traffic of a family without an address here may go beside the tunnel.
    pub client_bypass_protocol: bool,
    /// The prefixes that go beside the tunnel.
    pub exclude: Vec<Prefix>,
    /// The keepalive interval of the stream channel.
    pub keepalive: Option<Duration>,
    /// After how long without packets the session ends.
    pub idle_timeout: Option<Duration>,
    /// After how much time the client makes new keys.
    pub rekey_time: Option<Duration>,
    /// How it makes them.
    pub rekey_method: RekeyMethod,
    /// How long a session lives, from authentication.
    pub session_timeout: Option<Duration>,
    /// How much of that is left.
    pub session_timeout_remaining: Option<Duration>,
    /// The datagram channel.
    pub dtls: Option<DtlsOffer>,
    /// The link MTU that was calculated with; without it no datagram channel is offered (statement 30).
    pub base_mtu: Option<Mtu>,
    /// The tunnel MTU.
    pub mtu: Mtu,
    /// A text for the user, one line.
    pub banner: Option<String>,
}

impl ConnectParams {
    /// Parameters that say nothing but the tunnel MTU: no address, no route, nothing timed.
    pub const fn new(mtu: Mtu) -> Self {
        Self {
            server_name: None,
            hostname: None,
            dpd: None,
            default_domain: None,
            v4: None,
            v6: None,
            dns: Vec::new(),
            nbns: Vec::new(),
            split_dns: Vec::new(),
            include: Vec::new(),
            tunnel_all_dns: false,
            client_bypass_protocol: false,
            exclude: Vec::new(),
            keepalive: None,
            idle_timeout: None,
            rekey_time: None,
            rekey_method: RekeyMethod::None,
            session_timeout: None,
            session_timeout_remaining: None,
            dtls: None,
            base_mtu: None,
            mtu,
            banner: None,
        }
    }
}

/// An address inside the tunnel and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InsideAddress<A> {
    /// The address.
    pub address: A,
    /// The length of the prefix, at most 32 or 128.
    pub prefix_length: u8,
}

impl InsideAddress<Ipv4Addr> {
    /// The prefix length as a netmask.
    pub fn netmask(self) -> Ipv4Addr {
        let host_bits = 32_u32.saturating_sub(self.prefix_length.into());
        Ipv4Addr::from_bits(u32::MAX.checked_shl(host_bits).unwrap_or(0))
    }
}

/// How keys are renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RekeyMethod {
    /// Inside TLS: a KeyUpdate of TLS 1.3, a renegotiation of TLS 1.2.
    Ssl,
    /// By a new connection with the same cookie.
    NewTunnel,
    /// Never.
    None,
}

impl RekeyMethod {
    /// The word on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ssl => "ssl",
            Self::NewTunnel => "new-tunnel",
            Self::None => "none",
        }
    }
}

/// Where the keys of the datagram channel come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DtlsKey {
    /// Exported from the TLS connection: `PSK-NEGOTIATE`.
    Exported,
    /// The master secret that the client sent, with this suite: for clients older than `PSK-NEGOTIATE`, as those
    /// of AnyConnect (protocol.md 5.9).
    Preset {
        /// The header that names the suite.
        header: SuiteHeader,
        /// The suite's name there.
        suite: &'static str,
    },
}

/// The datagram channel that the server offers.
#[derive(Clone, PartialEq, Eq)]
pub struct DtlsOffer {
    /// The UDP port, on the address of the TLS connection.
    pub port: u16,
    /// What the ClientHello says to be found by: fresh and random for every CONNECT (statement 28). With a preset key
    /// it is the session that is resumed.
    pub app_id: [u8; 32],
    /// Where its keys come from.
    pub key: DtlsKey,
    /// The DPD interval of the datagram channel.
    pub dpd: Option<Duration>,
    /// The keepalive interval of the datagram channel.
    pub keepalive: Option<Duration>,
    /// After how much time DTLS makes new keys.
    pub rekey_time: Option<Duration>,
    /// How it makes them; only [`RekeyMethod::Ssl`] is ever said (statement 57).
    pub rekey_method: RekeyMethod,
}

/// Does not show the App-ID: whoever knows it can start handshakes of the session.
impl fmt::Debug for DtlsOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsOffer")
            .field("port", &self.port)
            .field("key", &self.key)
            .field("dpd", &self.dpd)
            .field("keepalive", &self.keepalive)
            .field("rekey_time", &self.rekey_time)
            .field("rekey_method", &self.rekey_method)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_netmask_has_as_many_ones_as_the_prefix() {
        let mask = |prefix_length| {
            InsideAddress { address: Ipv4Addr::UNSPECIFIED, prefix_length }.netmask().to_string()
        };
        assert_eq!(mask(0), "0.0.0.0");
        assert_eq!(mask(20), "255.255.240.0");
        assert_eq!(mask(32), "255.255.255.255");
        assert_eq!(mask(200), "255.255.255.255");
    }
}
