//! [`ConnectParams`] to the bytes of the answer, in ocserv's spelling and order.
//!
//! | what | goes out when |
//! | --- | --- |
//! | IPv4 address, routes, name servers | the client takes IPv4 |
//! | IPv6 address, routes, name servers | the client takes IPv6 and the tunnel MTU is at least 1280 |
//! | `X-DTLS-*` | there is an offer, a base MTU, and the client asked for PSK-NEGOTIATE |
//! | `X-DTLS-Session-ID`, `X-*-Content-Encoding` | never (statement 29) |
//!
//! A client reads "no route of this family" as "everything of this family". When the parameters do
//! include prefixes, but none of a family that the client got an address of, its own address goes out
//! as the only route of that family, so that nothing else of it is tunnelled.
//!
//! # Source
//! protocol.md 3.3; statements 23, 24, 28 to 30, 67.

use std::net::IpAddr;
use std::time::Duration;

use super::params::{ConnectParams, DtlsKey, DtlsOffer, InsideAddress, RekeyMethod};
use super::request::ConnectRequest;
use crate::dtls::SuiteHeader;
use crate::http::Response;
use crate::mtu::Mtu;
use crate::prefix::Prefix;

/// The addresses that one client gets.
struct Granted {
    v4: Option<InsideAddress<std::net::Ipv4Addr>>,
    v6: Option<InsideAddress<std::net::Ipv6Addr>>,
}

impl Granted {
    fn has_family(&self, v4: bool) -> bool {
        if v4 { self.v4.is_some() } else { self.v6.is_some() }
    }
}

impl ConnectParams {
    /// The answer to `peer`, from the status line to the empty line.
    pub fn encode(&self, peer: &ConnectRequest) -> Vec<u8> {
        let granted = self.granted(peer);
        let mut answer = Response::tunnel();
        self.put_identity(&mut answer);
        put_addresses(&mut answer, &granted, peer);
        self.put_names(&mut answer, &granted, peer);
        self.put_routes(&mut answer, &granted, peer);
        self.put_timers(&mut answer);
        if let Some(offer) = self.offer_for(peer) {
            put_dtls(&mut answer, offer, self.mtu);
        }
        if let Some(base_mtu) = self.base_mtu {
            answer.push("X-CSTP-Base-MTU", base_mtu.to_string());
        }
        answer.push("X-CSTP-MTU", self.mtu.to_string());
        if let Some(banner) = &self.banner {
            answer.push("X-CSTP-Banner", banner.clone());
        }
        answer.encode()
    }

    /// Whether `peer` would get an address at all; without one the answer has to be a refusal
    /// (statement 23).
    pub fn has_address_for(&self, peer: &ConnectRequest) -> bool {
        let granted = self.granted(peer);
        granted.v4.is_some() || granted.v6.is_some()
    }

    /// The datagram channel that `peer` is offered.
    pub fn offer_for(&self, peer: &ConnectRequest) -> Option<&DtlsOffer> {
        self.dtls.as_ref().filter(|offer| {
            let is_asked = match offer.key {
                DtlsKey::Exported => peer.psk_negotiate,
                DtlsKey::Preset { .. } => !peer.psk_negotiate && peer.master_secret.is_some(),
            };
            is_asked && self.base_mtu.is_some()
        })
    }

    fn granted(&self, peer: &ConnectRequest) -> Granted {
        Granted {
            v4: self.v4.filter(|_| peer.families.v4),
            v6: self.v6.filter(|_| peer.families.v6 && self.mtu.carries_ipv6()),
        }
    }

    fn put_identity(&self, answer: &mut Response) {
        answer.push("X-CSTP-Version", "1");
        if let Some(name) = &self.server_name {
            answer.push("X-CSTP-Server-Name", name.clone());
        }
        if let Some(hostname) = &self.hostname {
            answer.push("X-CSTP-Hostname", hostname.clone());
        }
        if let Some(dpd) = self.dpd {
            answer.push("X-CSTP-DPD", seconds(dpd));
        }
        if let Some(domain) = &self.default_domain {
            answer.push("X-CSTP-Default-Domain", domain.clone());
        }
    }

    fn put_names(&self, answer: &mut Response, granted: &Granted, peer: &ConnectRequest) {
        for server in self.dns.iter().filter(|server| granted.has_family(server.is_ipv4())) {
            let name = if server.is_ipv4() { "X-CSTP-DNS" } else { peer.agent().dns_v6_field() };
            answer.push(name, server.to_string());
        }
        for server in self.nbns.iter().filter(|_| granted.v4.is_some()) {
            answer.push("X-CSTP-NBNS", server.to_string());
        }
        for domain in &self.split_dns {
            answer.push("X-CSTP-Split-DNS", domain.clone());
        }
    }

    fn put_routes(&self, answer: &mut Response, granted: &Granted, peer: &ConnectRequest) {
        for prefix in self.routes(granted) {
            let name = if prefix.is_ipv4() || !peer.full_ipv6 {
                "X-CSTP-Split-Include"
            } else {
                "X-CSTP-Split-Include-IP6"
            };
            answer.push(name, prefix.dotted());
        }
        answer.push("X-CSTP-Tunnel-All-DNS", self.tunnel_all_dns.to_string());
        answer.push("X-CSTP-Client-Bypass-Protocol", self.client_bypass_protocol.to_string());
        for prefix in self.exclude.iter().filter(|prefix| granted.has_family(prefix.is_ipv4())) {
            let name = if prefix.is_ipv4() || !peer.full_ipv6 {
                "X-CSTP-Split-Exclude"
            } else {
                "X-CSTP-Split-Exclude-IP6"
            };
            answer.push(name, prefix.dotted());
        }
    }

    /// The included prefixes of the families that the client has an address of, see the module's text.
    fn routes(&self, granted: &Granted) -> Vec<Prefix> {
        let mut routes: Vec<Prefix> =
            self.include.iter().copied().filter(|prefix| granted.has_family(prefix.is_ipv4())).collect();
        if self.include.is_empty() {
            return routes;
        }
        let own = granted.v4.map(|own| IpAddr::V4(own.address));
        for address in own.into_iter().chain(granted.v6.map(|own| IpAddr::V6(own.address))) {
            if !routes.iter().any(|route| route.is_ipv4() == address.is_ipv4()) {
                routes.push(Prefix::single(address));
            }
        }
        routes
    }

    fn put_timers(&self, answer: &mut Response) {
        answer.push("X-CSTP-Keepalive", self.keepalive.map_or_else(|| "0".into(), seconds));
        answer.push("X-CSTP-Idle-Timeout", self.idle_timeout.map_or_else(|| "none".into(), seconds));
        answer.push("X-CSTP-Smartcard-Removal-Disconnect", "true");
        if let Some(time) = self.rekey_time {
            answer.push("X-CSTP-Rekey-Time", seconds(time));
        }
        answer.push("X-CSTP-Rekey-Method", self.rekey_method.name());
        answer.push("X-CSTP-Session-Timeout", self.session_timeout.map_or_else(|| "none".into(), seconds));
        if let Some(remaining) = self.session_timeout_remaining {
            answer.push("X-CSTP-Session-Timeout-Remaining", seconds(remaining));
        }
        answer.push("X-CSTP-Disconnected-Timeout", "none");
        answer.push("X-CSTP-Keep", "true");
        answer.push("X-CSTP-TCP-Keepalive", "true");
        answer.push("X-CSTP-License", "accept");
    }
}

fn put_addresses(answer: &mut Response, granted: &Granted, peer: &ConnectRequest) {
    if let Some(own) = granted.v4 {
        answer.push("X-CSTP-Address", own.address.to_string());
        answer.push("X-CSTP-Netmask", own.netmask().to_string());
    }
    if let Some(own) = granted.v6 {
        let with_length = format!("{}/{}", own.address, own.prefix_length);
        if peer.full_ipv6 {
            answer.push("X-CSTP-Address-IP6", with_length);
        } else {
            answer.push("X-CSTP-Address", own.address.to_string());
            answer.push("X-CSTP-Netmask", with_length);
        }
    }
}

fn put_dtls(answer: &mut Response, offer: &DtlsOffer, mtu: Mtu) {
    if let Some(dpd) = offer.dpd {
        answer.push("X-DTLS-DPD", seconds(dpd));
    }
    answer.push("X-DTLS-Port", offer.port.to_string());
    if let Some(time) = offer.rekey_time {
        answer.push("X-DTLS-Rekey-Time", seconds(time));
    }
    if offer.rekey_method == RekeyMethod::Ssl {
        answer.push("X-DTLS-Rekey-Method", offer.rekey_method.name());
    }
    answer.push("X-DTLS-Keepalive", offer.keepalive.map_or_else(|| "0".into(), seconds));
    let id: String = offer.app_id.iter().map(|byte| format!("{byte:02x}")).collect();
    match offer.key {
        DtlsKey::Exported => {
            answer.push("X-DTLS-App-ID", id);
            answer.push("X-DTLS-CipherSuite", super::request::PSK_NEGOTIATE);
        }
        DtlsKey::Preset { header, suite } => {
            answer.push("X-DTLS-Session-ID", id);
            let header = match header {
                SuiteHeader::Dtls => "X-DTLS-CipherSuite",
                SuiteHeader::Dtls12 => "X-DTLS12-CipherSuite",
            };
            answer.push(header, suite);
            answer.push("X-DTLS-MTU", mtu.to_string());
        }
    }
}

fn seconds(duration: Duration) -> String {
    duration.as_secs().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mtu::{DEFAULT_LINK, Mtu};

    fn params() -> ConnectParams {
        ConnectParams {
            v4: Some(InsideAddress { address: [10, 0, 0, 2].into(), prefix_length: 24 }),
            v6: Some(InsideAddress { address: "fd00::2".parse().unwrap(), prefix_length: 64 }),
            dns: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            base_mtu: Some(DEFAULT_LINK),
            dtls: Some(DtlsOffer {
                key: DtlsKey::Exported,
                port: 443,
                app_id: [7; 32],
                dpd: None,
                keepalive: None,
                rekey_time: None,
                rekey_method: RekeyMethod::None,
            }),
            ..ConnectParams::new(Mtu::new(1434))
        }
    }

    fn peer() -> ConnectRequest {
        ConnectRequest { full_ipv6: true, psk_negotiate: true, ..ConnectRequest::default() }
    }

    fn encode(params: &ConnectParams, peer: &ConnectRequest) -> String {
        String::from_utf8(params.encode(peer)).unwrap()
    }

    /// Covers: statement 23, R3
    #[test]
    fn the_mandatory_lines_are_there_for_every_client() {
        let minimal = ConnectParams { dtls: None, base_mtu: None, ..params() };
        let text = encode(&minimal, &ConnectRequest::default());
        assert!(text.starts_with("HTTP/1.1 200 CONNECTED\r\n"));
        assert!(text.contains("\r\nX-CSTP-Address: 10.0.0.2\r\nX-CSTP-Netmask: 255.255.255.0\r\n"));
        assert!(text.contains("\r\nX-CSTP-MTU: 1434\r\n"));
        assert!(text.ends_with("\r\n\r\n"));
        assert!(!text.contains("Content-Length"));
    }

    /// Covers: statements 28, 29, 30
    /// Covers: statement 29
    #[test]
    fn a_preset_key_is_told_by_session_id_and_suite_and_only_to_who_sent_a_secret() {
        let key = DtlsKey::Preset { header: SuiteHeader::Dtls, suite: "OC-DTLS1_2-AES256-GCM" };
        let offer = params().dtls.map(|offer| DtlsOffer { key, ..offer });
        let legacy = ConnectParams { dtls: offer, ..params() };
        let asking = ConnectRequest {
            psk_negotiate: false,
            master_secret: Some(zeroize::Zeroizing::new([1; 48])),
            ..peer()
        };
        let text = encode(&legacy, &asking);
        assert!(text.contains("\r\nX-DTLS-Session-ID: 0707"), "{text}");
        assert!(text.contains("\r\nX-DTLS-CipherSuite: OC-DTLS1_2-AES256-GCM\r\nX-DTLS-MTU: "), "{text}");
        assert!(!text.contains("X-DTLS-App-ID") && !text.contains("PSK-NEGOTIATE"), "{text}");
        assert!(!encode(&legacy, &peer()).contains("X-DTLS"), "a client of PSK-NEGOTIATE");
        let silent = ConnectRequest { master_secret: None, ..asking.clone() };
        assert!(!encode(&legacy, &silent).contains("X-DTLS"));
        assert!(!encode(&params(), &asking).contains("X-DTLS"), "a key that it cannot have");
    }

    #[test]
    fn dtls_is_offered_only_when_all_of_it_is_there() {
        let text = encode(&params(), &peer());
        assert!(text.contains("\r\nX-DTLS-App-ID: 0707"));
        assert!(text.contains("\r\nX-DTLS-CipherSuite: PSK-NEGOTIATE\r\nX-CSTP-Base-MTU: 1500\r\n"));
        assert!(!text.contains("Session-ID") && !text.contains("Rekey-Time"));
        let without_asking = ConnectRequest { psk_negotiate: false, ..peer() };
        assert!(!encode(&params(), &without_asking).contains("X-DTLS"));
        assert!(!encode(&ConnectParams { dtls: None, ..params() }, &peer()).contains("X-DTLS"));
        assert!(!encode(&ConnectParams { base_mtu: None, ..params() }, &peer()).contains("X-DTLS"));
    }

    /// Covers: statement 29, R3, P-005
    #[test]
    fn no_encoding_is_ever_named() {
        let peer = ConnectRequest {
            accept_encoding: vec!["oc-lz4".into(), "lzs".into(), "deflate".into()],
            dtls_accept_encoding: vec!["oc-lz4".into()],
            ..peer()
        };
        assert!(!encode(&params(), &peer).contains("Encoding"));
    }

    /// Covers: P-004
    #[test]
    fn a_client_gets_only_the_families_that_it_takes() {
        let v4_only = ConnectRequest { families: super::super::Families { v4: true, v6: false }, ..peer() };
        let text = encode(&params(), &v4_only);
        assert!(text.contains("10.0.0.1") && !text.contains("fd00"), "{text}");
        let v6_only = ConnectRequest { families: super::super::Families { v4: false, v6: true }, ..peer() };
        let text = encode(&params(), &v6_only);
        assert!(
            text.contains("\r\nX-CSTP-Address-IP6: fd00::2/64\r\n") && !text.contains("10.0.0"),
            "{text}"
        );
        assert!(params().has_address_for(&v6_only));
        assert!(!ConnectParams { v6: None, ..params() }.has_address_for(&v6_only));
    }

    /// Covers: statement 67, R9
    #[test]
    fn ipv6_is_withheld_below_1280() {
        let with = |mtu: u16| ConnectParams { mtu: Mtu::new(mtu), v4: None, ..params() };
        assert!(with(1280).has_address_for(&peer()));
        assert!(!with(1279).has_address_for(&peer()));
        assert!(!encode(&with(1279), &peer()).contains("fd00"));
    }

    #[test]
    fn ipv6_routes_are_spelled_as_the_client_knows_them() {
        let params = ConnectParams {
            include: vec!["10.0.0.0/8".parse().unwrap(), "fd99::/32".parse().unwrap()],
            exclude: vec!["fd99:1::/48".parse().unwrap()],
            ..params()
        };
        let text = encode(&params, &peer());
        assert!(text.contains("\r\nX-CSTP-Split-Include: 10.0.0.0/255.0.0.0\r\n"));
        assert!(text.contains("\r\nX-CSTP-Split-Include-IP6: fd99::/32\r\n"));
        assert!(text.contains("\r\nX-CSTP-Split-Exclude-IP6: fd99:1::/48\r\n"));
        let text = encode(&params, &ConnectRequest { full_ipv6: false, ..peer() });
        assert!(text.contains("\r\nX-CSTP-Split-Include: fd99::/32\r\n"));
        assert!(text.contains("\r\nX-CSTP-Split-Exclude: fd99:1::/48\r\n"));
    }

    #[test]
    fn a_family_without_included_prefixes_is_not_tunnelled_as_a_whole() {
        let only_v6 = ConnectParams { include: vec!["fd99::/32".parse().unwrap()], ..params() };
        let text = encode(&only_v6, &peer());
        assert!(text.contains("\r\nX-CSTP-Split-Include: 10.0.0.2/255.255.255.255\r\n"), "{text}");
        let withheld = ConnectParams { mtu: Mtu::new(1200), ..only_v6 };
        let text = encode(&withheld, &peer());
        assert!(text.contains("\r\nX-CSTP-Split-Include: 10.0.0.2/255.255.255.255\r\n"), "{text}");
        assert!(!text.contains("fd99"), "{text}");
        assert!(!encode(&params(), &peer()).contains("Split-Include"));
    }

    /// Covers: R25, P-035
    #[test]
    fn no_text_makes_a_line() {
        let params = ConnectParams {
            banner: Some("two\r\nX-CSTP-DNS: 6.6.6.6\nlines\0".into()),
            default_domain: Some("a\r\nX-Evil: 1".into()),
            split_dns: vec!["b\nX-Evil: 2".into()],
            hostname: Some("c\rX-Evil: 3".into()),
            server_name: Some("d\r\n\r\nSTF".into()),
            ..params()
        };
        let text = encode(&params, &peer());
        assert!(text.lines().all(|line| !line.starts_with("X-Evil")), "{text}");
        assert!(text.contains("\r\nX-CSTP-Banner: two  X-CSTP-DNS: 6.6.6.6 lines \r\n"), "{text}");
        assert_eq!(text.matches("\r\n\r\n").count(), 1);
    }
}
