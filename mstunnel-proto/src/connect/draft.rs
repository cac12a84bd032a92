//! The parameters of an answer while its fields come in.
//!
//! One table says what each field is and what happens when it comes again; see the module's parent for
//! the rules.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use super::answer_reader::{AnswerError, MAX_DNS_SERVERS, MAX_ROUTES, MAX_SPLIT_DNS, quoted};
use super::field;
use super::params::{ConnectParams, DtlsKey, DtlsOffer, InsideAddress, RekeyMethod};
use super::request::PSK_NEGOTIATE;
use crate::http::without_controls;
use crate::mtu::{MAX_TUNNEL, Mtu};
use crate::prefix::Prefix;

/// The smallest tunnel MTU that is believed: what every IPv4 router forwards (RFC 791 section 3.2).
const MIN_TUNNEL: u16 = 68;

/// What is wrong with a field, before its name is known.
enum Fault {
    Value,
    TooMany(usize),
    Contradiction,
}

type Setter = fn(&mut Draft, &str) -> Result<(), Fault>;

/// Every field that means something to a client.
const KNOWN: &[(&str, Setter)] = &[
    ("X-CSTP-Server-Name", |draft, value| first(&mut draft.server_name, Some(text(value)))),
    ("X-CSTP-Hostname", |draft, value| {
        draft.hostname = draft.hostname.take().or_else(|| field::domain(value));
        Ok(())
    }),
    ("X-CSTP-DPD", |draft, value| first_nonzero(&mut draft.dpd, field::timer(value))),
    ("X-CSTP-Default-Domain", |draft, value| first(&mut draft.default_domain, field::domains(value))),
    ("X-CSTP-Address", |draft, value| match field::address(value) {
        Some(IpAddr::V4(address)) => same(&mut draft.v4, Some(address)),
        Some(IpAddr::V6(address)) => same(&mut draft.old_v6, Some(address)),
        None => Err(Fault::Value),
    }),
    ("X-CSTP-Netmask", |draft, value| {
        if value.contains(':') {
            same(&mut draft.v6, field::inside_v6(value))
        } else {
            same(&mut draft.v4_length, field::netmask(value))
        }
    }),
    ("X-CSTP-Address-IP6", |draft, value| same(&mut draft.v6, field::inside_v6(value))),
    ("X-CSTP-DNS", |draft, value| push(&mut draft.dns, field::address(value), MAX_DNS_SERVERS)),
    ("X-CSTP-DNS-IP6", |draft, value| push(&mut draft.dns, field::address(value), MAX_DNS_SERVERS)),
    ("X-CSTP-NBNS", |draft, value| push(&mut draft.nbns, value.parse().ok(), MAX_DNS_SERVERS)),
    ("X-CSTP-Split-DNS", |draft, value| push(&mut draft.split_dns, field::domain(value), MAX_SPLIT_DNS)),
    ("X-CSTP-Split-Include", |draft, value| push(&mut draft.include, field::prefix(value), MAX_ROUTES)),
    ("X-CSTP-Split-Include-IP6", |draft, value| push(&mut draft.include, field::prefix(value), MAX_ROUTES)),
    ("X-CSTP-Split-Exclude", |draft, value| push(&mut draft.exclude, field::prefix(value), MAX_ROUTES)),
    ("X-CSTP-Split-Exclude-IP6", |draft, value| push(&mut draft.exclude, field::prefix(value), MAX_ROUTES)),
    ("X-CSTP-Tunnel-All-DNS", |draft, value| first(&mut draft.tunnel_all_dns, field::boolean(value))),
    ("X-CSTP-Client-Bypass-Protocol", |draft, value| first(&mut draft.bypass, field::boolean(value))),
    ("X-CSTP-Keepalive", |draft, value| first(&mut draft.keepalive, field::timer(value))),
    ("X-CSTP-Idle-Timeout", |draft, value| first(&mut draft.idle_timeout, field::timer(value))),
    ("X-CSTP-Rekey-Time", |draft, value| first(&mut draft.rekey_time, field::timer(value))),
    ("X-CSTP-Rekey-Method", |draft, value| first(&mut draft.rekey_method, Some(field::rekey_method(value)))),
    ("X-CSTP-Session-Timeout", |draft, value| first(&mut draft.session_timeout, field::timer(value))),
    ("X-CSTP-Session-Timeout-Remaining", |draft, value| {
        first(&mut draft.session_remaining, field::timer(value))
    }),
    ("X-CSTP-Content-Encoding", |_, value| uncompressed(value)),
    ("X-CSTP-Base-MTU", |draft, value| first(&mut draft.base_mtu, mtu(value))),
    ("X-CSTP-MTU", |draft, value| largest(&mut draft.mtu, mtu(value))),
    ("X-CSTP-Banner", |draft, value| first(&mut draft.banner, Some(text(value)))),
    ("X-DTLS-Port", |draft, value| first(&mut draft.dtls_port, port(value))),
    ("X-DTLS-App-ID", |draft, value| first(&mut draft.app_id, app_id(value))),
    ("X-DTLS-CipherSuite", |draft, value| first(&mut draft.psk, Some(value == PSK_NEGOTIATE))),
    ("X-DTLS-DPD", |draft, value| first_nonzero(&mut draft.dtls_dpd, field::timer(value))),
    ("X-DTLS-Keepalive", |draft, value| first(&mut draft.dtls_keepalive, field::timer(value))),
    ("X-DTLS-Rekey-Time", |draft, value| first(&mut draft.dtls_rekey_time, field::timer(value))),
    ("X-DTLS-Rekey-Method", |draft, value| {
        first(&mut draft.dtls_rekey_method, Some(field::rekey_method(value)))
    }),
    ("X-DTLS-Content-Encoding", |_, value| uncompressed(value)),
    ("X-DTLS-MTU", |draft, value| largest(&mut draft.mtu, mtu(value))),
];

/// What has been said so far; an outer `None` is "not said".
#[derive(Default)]
pub(super) struct Draft {
    server_name: Option<String>,
    hostname: Option<String>,
    default_domain: Option<String>,
    banner: Option<String>,
    v4: Option<Ipv4Addr>,
    v4_length: Option<u8>,
    v6: Option<InsideAddress<Ipv6Addr>>,
    old_v6: Option<Ipv6Addr>,
    dns: Vec<IpAddr>,
    nbns: Vec<Ipv4Addr>,
    split_dns: Vec<String>,
    include: Vec<Prefix>,
    exclude: Vec<Prefix>,
    tunnel_all_dns: Option<bool>,
    bypass: Option<bool>,
    dpd: Option<Duration>,
    keepalive: Option<Option<Duration>>,
    idle_timeout: Option<Option<Duration>>,
    rekey_time: Option<Option<Duration>>,
    rekey_method: Option<RekeyMethod>,
    session_timeout: Option<Option<Duration>>,
    session_remaining: Option<Option<Duration>>,
    base_mtu: Option<u16>,
    mtu: Option<u16>,
    dtls_port: Option<u16>,
    app_id: Option<Option<[u8; 32]>>,
    psk: Option<bool>,
    dtls_dpd: Option<Duration>,
    dtls_keepalive: Option<Option<Duration>>,
    dtls_rekey_time: Option<Option<Duration>>,
    dtls_rekey_method: Option<RekeyMethod>,
}

impl Draft {
    /// Takes one field. Unknown names and empty values say nothing.
    pub(super) fn take(&mut self, name: &str, value: &str) -> Result<(), AnswerError> {
        let known = KNOWN.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        let Some((name, set)) = known.filter(|_| !value.is_empty()) else { return Ok(()) };
        let controls = value.chars().any(|char| char.is_control() && char != '\t');
        let result = if controls { Err(Fault::Value) } else { set(self, value) };
        result.map_err(|fault| match fault {
            Fault::Value => AnswerError::Value { name, value: quoted(value) },
            Fault::TooMany(limit) => AnswerError::TooMany { name, limit },
            Fault::Contradiction => AnswerError::Contradiction { name },
        })
    }

    /// The parameters, when all that must be there is.
    pub(super) fn finish(self) -> Result<ConnectParams, AnswerError> {
        let mtu = self.mtu.filter(|mtu| *mtu > 0).ok_or(AnswerError::Missing { name: "X-CSTP-MTU" })?;
        let v6 = self.inside_v6()?;
        if self.v4.is_none() && v6.is_none() {
            return Err(AnswerError::Missing { name: "X-CSTP-Address" });
        }
        let dtls = self.offer();
        Ok(ConnectParams {
            server_name: self.server_name,
            hostname: self.hostname,
            dpd: self.dpd,
            default_domain: self.default_domain,
            v4: self.v4.map(|address| InsideAddress { address, prefix_length: self.v4_length.unwrap_or(32) }),
            v6,
            dns: self.dns,
            nbns: self.nbns,
            split_dns: self.split_dns,
            include: self.include,
            tunnel_all_dns: self.tunnel_all_dns.unwrap_or(false),
            client_bypass_protocol: self.bypass.unwrap_or(false),
            exclude: self.exclude,
            keepalive: self.keepalive.flatten(),
            idle_timeout: self.idle_timeout.flatten(),
            rekey_time: self.rekey_time.flatten(),
            rekey_method: self.rekey_method.unwrap_or(RekeyMethod::None),
            session_timeout: self.session_timeout.flatten(),
            session_timeout_remaining: self.session_remaining.flatten(),
            dtls,
            base_mtu: self.base_mtu.map(Mtu::new),
            mtu: Mtu::new(mtu).clamp(Mtu::new(MIN_TUNNEL), MAX_TUNNEL),
            banner: self.banner,
        })
    }

    /// The IPv6 address by its new name, or by the old pair; the pair without a length is one host.
    fn inside_v6(&self) -> Result<Option<InsideAddress<Ipv6Addr>>, AnswerError> {
        match (self.v6, self.old_v6) {
            (Some(v6), Some(old)) if v6.address != old => {
                Err(AnswerError::Contradiction { name: "X-CSTP-Address" })
            }
            (None, Some(address)) => Ok(Some(InsideAddress { address, prefix_length: 128 })),
            (v6, _) => Ok(v6),
        }
    }

    /// The datagram channel: only with a port, an App-ID that we can send, and PSK-NEGOTIATE.
    fn offer(&self) -> Option<DtlsOffer> {
        Some(DtlsOffer {
            port: self.dtls_port?,
            app_id: self.app_id.flatten().filter(|_| self.psk == Some(true))?,
            key: DtlsKey::Exported,
            dpd: self.dtls_dpd,
            keepalive: self.dtls_keepalive.flatten(),
            rekey_time: self.dtls_rekey_time.flatten(),
            rekey_method: self.dtls_rekey_method.unwrap_or(RekeyMethod::None),
        })
    }
}

fn first<T>(slot: &mut Option<T>, value: Option<T>) -> Result<(), Fault> {
    let value = value.ok_or(Fault::Value)?;
    slot.get_or_insert(value);
    Ok(())
}

fn first_nonzero(slot: &mut Option<Duration>, value: Option<Option<Duration>>) -> Result<(), Fault> {
    *slot = slot.or(value.ok_or(Fault::Value)?);
    Ok(())
}

fn same<T: PartialEq>(slot: &mut Option<T>, value: Option<T>) -> Result<(), Fault> {
    let value = value.ok_or(Fault::Value)?;
    if slot.as_ref().is_some_and(|old| *old != value) {
        return Err(Fault::Contradiction);
    }
    *slot = Some(value);
    Ok(())
}

fn largest(slot: &mut Option<u16>, value: Option<u16>) -> Result<(), Fault> {
    *slot = (*slot).max(Some(value.ok_or(Fault::Value)?));
    Ok(())
}

fn push<T>(list: &mut Vec<T>, value: Option<T>, limit: usize) -> Result<(), Fault> {
    let value = value.ok_or(Fault::Value)?;
    if list.len() == limit {
        return Err(Fault::TooMany(limit));
    }
    list.push(value);
    Ok(())
}

fn text(value: &str) -> String {
    without_controls(value.to_owned())
}

/// A number of bytes; what is beyond 16 bits is as large as that.
fn mtu(value: &str) -> Option<u16> {
    field::number(value).map(|bytes| u16::try_from(bytes).unwrap_or(u16::MAX))
}

fn port(value: &str) -> Option<u16> {
    field::number(value).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
}

/// 64 hexadecimal digits; the inner `None` is a shorter id, which other servers may use and we do not.
fn app_id(value: &str) -> Option<Option<[u8; 32]>> {
    let mut id = [0; 32];
    if field::decode_hex(value, &mut id) {
        return Some(Some(id));
    }
    let shorter = value.len() < 64 && value.len().is_multiple_of(2);
    (shorter && value.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(None)
}

/// This client offers no codec, so that a server that names one does not follow the protocol
/// (statement 39).
fn uncompressed(value: &str) -> Result<(), Fault> {
    if value.eq_ignore_ascii_case("none") { Ok(()) } else { Err(Fault::Value) }
}
