//! How large a packet fits into the tunnel.
//!
//! ```text
//! |<------------------------- link MTU (base MTU) ------------------------->|
//! | IP 20 or 40 | UDP 8 | DTLS header 13 | nonce | type 1 | packet | tag    |    datagram channel
//! | IP 20 or 40 | TCP, TLS and CSTP: a byte stream, no fixed cut            |    stream channel
//! ```
//!
//! | at link 1500 | IPv4 outside | IPv6 outside |
//! | --- | --- | --- |
//! | AES-GCM, AES-CCM | 1434 | 1414 |
//! | ChaCha20-Poly1305 | 1442 | 1422 |
//! | AES-CBC-SHA1 | 1406 | 1386 |
//! | AES-CBC-SHA256 | 1394 | 1374 |
//! | stream channel alone | 1472 | 1452 |
//!
//! What a peer says about its link is a wish: it is clamped into what can be true, and never ends a
//! session (P-004).
//!
//! # Source
//! protocol.md section 7, statements 65 and 67; R9.

use std::fmt;
use std::net::IpAddr;

/// A link that carries less is not an IPv4 network any more (RFC 791: every host takes 576 bytes).
pub const MIN_LINK: Mtu = Mtu(576);

/// The link that is assumed when nobody says more: Ethernet.
pub const DEFAULT_LINK: Mtu = Mtu(1500);

/// The smallest link that IPv6 is carried over (RFC 8200 section 5).
pub const MIN_IPV6: Mtu = Mtu(1280);

/// The largest tunnel MTU: a packet and its CSTP header in one TLS record (protocol.md 4.2).
pub const MAX_TUNNEL: Mtu = Mtu(16_384 - 8);

const UDP_HEADER: u16 = 8;
const DTLS_HEADER: u16 = 13;
const PACKET_TYPE: u16 = 1;

/// What the stock client subtracts from its link, beside IP and UDP, for the MTU that it asks for;
/// ocserv adds 66 of it back when the link itself is not told.
const REQUEST_ALLOWANCE: u16 = 66;

/// A number of bytes that fits: of a link (outside) or of the tunnel (inside).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mtu(u16);

impl Mtu {
    /// Takes `bytes` as it is.
    pub const fn new(bytes: u16) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// Whether IPv6 may be used inside a tunnel of this MTU.
    ///
    /// # Source
    /// Statement 67.
    pub fn carries_ipv6(self) -> bool {
        self >= MIN_IPV6
    }

    /// The tunnel MTU of a session with a datagram channel over a link of this MTU.
    ///
    /// Counts the worst padding of the suite, so that `1 + MTU + overhead + UDP + IP` never exceeds the
    /// link (statement 65).
    #[must_use]
    pub fn over_datagrams(self, outside: IpAddr, suite: RecordSuite) -> Self {
        self.less(ip_header(outside) + UDP_HEADER + suite.overhead() + PACKET_TYPE)
    }

    /// The tunnel MTU of a session that has the stream channel alone.
    ///
    /// The stream has no packet borders, so nothing has to fit; the value is ocserv's.
    #[must_use]
    pub fn over_stream(self, outside: IpAddr) -> Self {
        self.less(ip_header(outside) + UDP_HEADER)
    }

    fn less(self, bytes: u16) -> Self {
        Self(self.0.saturating_sub(bytes)).min(MAX_TUNNEL)
    }
}

impl fmt::Display for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Mtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The kinds of DTLS records that a suite of protocol.md 5.2 makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordSuite {
    /// AES-GCM: explicit nonce 8, tag 16.
    AesGcm,
    /// AES-CCM: as GCM.
    AesCcm,
    /// ChaCha20-Poly1305: no explicit nonce, tag 16.
    ChaCha20Poly1305,
    /// AES-CBC with HMAC-SHA1: vector 16, MAC 20, padding up to 16.
    AesCbcSha1,
    /// AES-CBC with HMAC-SHA256: vector 16, MAC 32, padding up to 16.
    AesCbcSha256,
    /// 3DES-CBC with HMAC-SHA1: vector 8, MAC 20, padding up to 8.
    TripleDesCbcSha1,
}

impl RecordSuite {
    /// The bytes of a record that are not plaintext, at most.
    pub const fn overhead(self) -> u16 {
        DTLS_HEADER
            + match self {
                Self::AesGcm | Self::AesCcm => 8 + 16,
                Self::ChaCha20Poly1305 => 16,
                Self::AesCbcSha1 => 16 + 20 + 16,
                Self::AesCbcSha256 => 16 + 32 + 16,
                Self::TripleDesCbcSha1 => 8 + 20 + 8,
            }
    }
}

/// The link MTU that a session is calculated with: the smaller of the server's own and the client's.
///
/// `base` is what the client says its link carries; without it, `wanted` is the tunnel MTU that it asks
/// for. Zero says nothing; what is below [`MIN_LINK`] is raised to it, what is above the server's own
/// link is lowered to that.
///
/// # Source
/// protocol.md section 7; P-004.
pub fn link_mtu(own: Mtu, base: Option<u16>, wanted: Option<u16>, outside: IpAddr) -> Mtu {
    let own = own.max(MIN_LINK);
    let told = base.filter(|base| *base > 0).or_else(|| {
        let allowance = ip_header(outside) + UDP_HEADER + REQUEST_ALLOWANCE;
        wanted.filter(|wanted| *wanted > 0).map(|wanted| wanted.saturating_add(allowance))
    });
    told.map_or(own, |told| Mtu(told).clamp(MIN_LINK, own))
}

/// The tunnel MTU that a client asks for, with the stock client's arithmetic.
///
/// # Source
/// protocol.md 3.1: link less 82 less UDP less IP.
pub fn wanted_mtu(link: Mtu, outside: IpAddr) -> Mtu {
    const STOCK_ALLOWANCE: u16 = 82;
    link.less(STOCK_ALLOWANCE + UDP_HEADER + ip_header(outside))
}

/// The tunnel MTU that a client uses on its datagram channel: what the server announced, and not more
/// than fits into the link that both know.
pub fn datagram_mtu(announced: Mtu, link: Option<Mtu>, outside: IpAddr, suite: RecordSuite) -> Mtu {
    let fits = link.map(|link| link.max(MIN_LINK).over_datagrams(outside, suite));
    announced.min(fits.unwrap_or(announced)).min(MAX_TUNNEL)
}

/// The length of the outer IP header.
fn ip_header(outside: IpAddr) -> u16 {
    if outside.to_canonical().is_ipv4() { 20 } else { 40 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

    /// Covers: statement 65
    #[test]
    fn the_table_of_the_specification_comes_out() {
        let at_1500 = |suite, outside| DEFAULT_LINK.over_datagrams(outside, suite).get();
        for (suite, v4, v6) in [
            (RecordSuite::AesGcm, 1434, 1414),
            (RecordSuite::AesCcm, 1434, 1414),
            (RecordSuite::ChaCha20Poly1305, 1442, 1422),
            (RecordSuite::AesCbcSha1, 1406, 1386),
            (RecordSuite::AesCbcSha256, 1394, 1374),
            (RecordSuite::TripleDesCbcSha1, 1422, 1402),
        ] {
            assert_eq!((at_1500(suite, V4), at_1500(suite, V6)), (v4, v6), "{suite:?}");
        }
        assert_eq!(DEFAULT_LINK.over_stream(V4).get(), 1472);
        assert_eq!(DEFAULT_LINK.over_stream(V6).get(), 1452);
        assert_eq!((wanted_mtu(DEFAULT_LINK, V4).get(), wanted_mtu(DEFAULT_LINK, V6).get()), (1390, 1370));
    }

    #[test]
    fn a_mapped_address_counts_as_ipv4() {
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(DEFAULT_LINK.over_datagrams(mapped, RecordSuite::AesGcm).get(), 1434);
    }

    /// Covers: P-004, R9
    #[test]
    fn insane_base_mtus_are_clamped_and_zero_says_nothing() {
        let link = |base| link_mtu(DEFAULT_LINK, base, None, V4).get();
        assert_eq!(link(None), 1500);
        assert_eq!(link(Some(0)), 1500);
        assert_eq!(link(Some(1)), 576);
        assert_eq!(link(Some(576)), 576);
        assert_eq!(link(Some(1280)), 1280);
        assert_eq!(link(Some(1500)), 1500);
        assert_eq!(link(Some(9000)), 1500);
        assert_eq!(link(Some(u16::MAX)), 1500);
        assert_eq!(link_mtu(Mtu::new(0), Some(0), None, V4), MIN_LINK);
    }

    #[test]
    fn the_wanted_mtu_counts_only_without_a_base_mtu() {
        assert_eq!(link_mtu(DEFAULT_LINK, Some(1400), Some(1000), V4).get(), 1400);
        assert_eq!(link_mtu(DEFAULT_LINK, None, Some(1000), V4).get(), 1094);
        assert_eq!(link_mtu(DEFAULT_LINK, None, Some(u16::MAX), V6).get(), 1500);
    }

    /// Covers: statement 67, R9
    #[test]
    fn ipv6_needs_1280_inside() {
        assert!(Mtu::new(1280).carries_ipv6());
        assert!(!Mtu::new(1279).carries_ipv6());
        assert!(!Mtu::new(1280).over_datagrams(V4, RecordSuite::AesGcm).carries_ipv6());
    }

    #[test]
    fn a_client_never_exceeds_what_fits_nor_what_was_announced() {
        let suite = RecordSuite::AesGcm;
        assert_eq!(datagram_mtu(Mtu::new(1434), Some(DEFAULT_LINK), V4, suite).get(), 1434);
        assert_eq!(datagram_mtu(Mtu::new(1472), Some(DEFAULT_LINK), V4, suite).get(), 1434);
        assert_eq!(datagram_mtu(Mtu::new(1300), Some(DEFAULT_LINK), V4, suite).get(), 1300);
        assert_eq!(datagram_mtu(Mtu::new(u16::MAX), None, V4, suite), MAX_TUNNEL);
    }

    proptest! {
        /// Covers: statement 65, P-004
        #[test]
        fn a_full_packet_always_fits_the_link(own: u16, base: Option<u16>, wanted: Option<u16>, v6: bool) {
            let outside = if v6 { V6 } else { V4 };
            let link = link_mtu(Mtu::new(own), base, wanted, outside);
            prop_assert!(link >= MIN_LINK && link.get() <= own.max(576));
            let tunnel = link.over_datagrams(outside, RecordSuite::AesCbcSha256).get();
            let ip = if v6 { 40 } else { 20 };
            prop_assert!(tunnel > 0);
            prop_assert!(u32::from(tunnel) + 1 + 77 + 8 + ip <= u32::from(link.get()));
        }
    }
}
