//! SOCKS5 messages, as functions of bytes.
//!
//! ```text
//! greeting  | 5 | n | methods (n)                     |  answer | 5 | method |
//! request   | 5 | command | 0 | address | port (2)    |  answer | 5 | reply | 0 | address | port (2) |
//! datagram  | 0 (2) | fragment | address | port (2) | data
//! address   | 1 | IPv4 (4)    | 3 | length | name    | 4 | IPv6 (16)
//! ```
//!
//! A parser says `None` for "not enough bytes yet". No message is longer than [`MAX_MESSAGE`].
//!
//! # Source
//! RFC 1928.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::dial::{Destination, Host};

/// The longest message: a greeting with 255 methods, or a request with a name of 255 bytes (262).
pub const MAX_MESSAGE: usize = 262;

/// The longest header of a datagram: with a name of 255 bytes.
pub const MAX_DATAGRAM_HEADER: usize = 262;

/// The answer to a greeting that offers "no authentication".
pub const NO_AUTHENTICATION: [u8; 2] = [5, 0];

/// The answer to a greeting that does not.
pub const NO_ACCEPTABLE_METHOD: [u8; 2] = [5, 0xFF];

/// The first message of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Greeting {
    /// Whether the client can do without authentication.
    pub is_open: bool,
}

/// What a client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub command: Command,
    /// Where, or for datagrams from where the client will send.
    pub destination: Destination,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect.
    Connect,
    /// Relay datagrams.
    Associate,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reply {
    /// Done.
    Succeeded = 0,
    /// Something of ours failed.
    GeneralFailure = 1,
    /// The rules do not allow it.
    NotAllowed = 2,
    /// No way to the network.
    NetworkUnreachable = 3,
    /// No way to the host.
    HostUnreachable = 4,
    /// The host refused.
    Refused = 5,
    /// The host did not answer in time.
    TimedOut = 6,
    /// A command that is not known here.
    CommandNotSupported = 7,
    /// A kind of address that is not known.
    AddressNotSupported = 8,
}

/// Why a message is none; a request is answered with [`SocksError::reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SocksError {
    /// Another protocol, perhaps SOCKS4 or HTTP.
    #[error("version {version}, not 5")]
    Version {
        /// What came.
        version: u8,
    },
    /// BIND, or an unknown one.
    #[error("command {command} is not supported")]
    Command {
        /// What came.
        command: u8,
    },
    /// Not an address type.
    #[error("address type {kind} is not known")]
    AddressType {
        /// What came.
        kind: u8,
    },
    /// A name that is empty or not ASCII.
    #[error("the name of the destination is not a name")]
    Name,
    /// A datagram that is a part of one.
    #[error("fragment {number} of a datagram")]
    Fragment {
        /// What came.
        number: u8,
    },
    /// A datagram that ends before its data.
    #[error("a datagram of {len} bytes ends in its header")]
    Truncated {
        /// Its length.
        len: usize,
    },
}

impl SocksError {
    /// How a request with this error is answered; `None` when what came is not a request.
    pub fn reply(self) -> Option<Reply> {
        match self {
            Self::Command { .. } => Some(Reply::CommandNotSupported),
            Self::AddressType { .. } => Some(Reply::AddressNotSupported),
            Self::Name => Some(Reply::HostUnreachable),
            Self::Version { .. } | Self::Fragment { .. } | Self::Truncated { .. } => None,
        }
    }
}

impl Greeting {
    /// Reads a greeting from the start of `bytes`, and says how long it is.
    ///
    /// # Errors
    /// [`SocksError::Version`]
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, SocksError> {
        check_version(bytes)?;
        let [_, count, rest @ ..] = bytes else { return Ok(None) };
        let Some(methods) = rest.get(..usize::from(*count)) else { return Ok(None) };
        Ok(Some((Self { is_open: methods.contains(&0) }, 2 + methods.len())))
    }
}

impl Request {
    /// Reads a request from the start of `bytes`, and says how long it is.
    ///
    /// # Errors
    /// [`SocksError`]
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, SocksError> {
        check_version(bytes)?;
        let [_, command, _reserved, rest @ ..] = bytes else { return Ok(None) };
        let command = match command {
            1 => Command::Connect,
            3 => Command::Associate,
            other => return Err(SocksError::Command { command: *other }),
        };
        let Some((destination, len)) = destination(rest)? else { return Ok(None) };
        Ok(Some((Self { command, destination }, 3 + len)))
    }
}

impl Reply {
    /// The answer to a request; `bound` is the address that the connection or the relay has here.
    pub fn encode(self, bound: SocketAddr) -> Vec<u8> {
        let mut message = vec![5, self as u8, 0];
        put_address(&mut message, bound);
        message
    }
}

/// Reads the header of a datagram from a client: where it goes, and where its data starts.
///
/// # Errors
/// [`SocksError`]: it is dropped.
pub fn parse_datagram(bytes: &[u8]) -> Result<(Destination, usize), SocksError> {
    let truncated = SocksError::Truncated { len: bytes.len() };
    let [_, _, fragment, rest @ ..] = bytes else { return Err(truncated) };
    if *fragment != 0 {
        return Err(SocksError::Fragment { number: *fragment });
    }
    let (destination, len) = destination(rest)?.ok_or(truncated)?;
    Ok((destination, 3 + len))
}

/// Writes the header of a datagram that came from `source`, after emptying `out`.
pub fn put_datagram_header(out: &mut Vec<u8>, source: SocketAddr) {
    out.clear();
    out.extend([0, 0, 0]);
    put_address(out, source);
}

fn check_version(bytes: &[u8]) -> Result<(), SocksError> {
    match bytes.first() {
        None | Some(5) => Ok(()),
        Some(version) => Err(SocksError::Version { version: *version }),
    }
}

/// Reads an address and a port, and says how long they are.
fn destination(bytes: &[u8]) -> Result<Option<(Destination, usize)>, SocksError> {
    let [kind, rest @ ..] = bytes else { return Ok(None) };
    let (host, len) = match kind {
        1 => {
            let Some(octets) = rest.first_chunk::<4>() else { return Ok(None) };
            (Host::Address(Ipv4Addr::from(*octets).into()), 4)
        }
        4 => {
            let Some(octets) = rest.first_chunk::<16>() else { return Ok(None) };
            (Host::Address(Ipv6Addr::from(*octets).into()), 16)
        }
        3 => {
            let [len, rest @ ..] = rest else { return Ok(None) };
            let Some(name) = rest.get(..usize::from(*len)) else { return Ok(None) };
            let text = std::str::from_utf8(name).map_err(|_| SocksError::Name)?;
            // Some clients send addresses as names.
            (text.parse().map_err(|_| SocksError::Name)?, 1 + name.len())
        }
        kind => return Err(SocksError::AddressType { kind: *kind }),
    };
    let Some(port) = rest.get(len..).and_then(|rest| rest.first_chunk()) else { return Ok(None) };
    Ok(Some((Destination { host, port: u16::from_be_bytes(*port) }, 1 + len + 2)))
}

fn put_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(v4) => {
            out.push(1);
            out.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            out.push(4);
            out.extend(v6.octets());
        }
    }
    out.extend(address.port().to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(address: &[u8]) -> Vec<u8> {
        [&[5, 1, 0], address, &[0, 80]].concat()
    }

    #[test]
    fn requests_of_every_address_type_read_whole_and_not_before_their_last_byte() {
        let cases: [(&[u8], &str); 4] = [
            (&[1, 10, 20, 0, 2], "10.20.0.2:80"),
            (b"\x03\x10web.corp.example", "web.corp.example:80"),
            (b"\x03\x0910.20.0.2", "10.20.0.2:80"),
            (&[4, 0xFD, 0, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2], "[fd00:20::2]:80"),
        ];
        for (address, text) in cases {
            let bytes = request(address);
            for len in 0..bytes.len() {
                assert_eq!(Request::parse(&bytes[..len]), Ok(None), "{text} at {len}");
            }
            let (parsed, len) = Request::parse(&[&bytes[..], b"more"].concat()).unwrap().unwrap();
            assert_eq!((parsed.destination.to_string().as_str(), len), (text, bytes.len()));
            assert!(len <= MAX_MESSAGE);
        }
    }

    #[test]
    fn what_is_not_supported_has_its_own_reply() {
        let reply = |bytes: &[u8]| Request::parse(bytes).unwrap_err().reply();
        assert_eq!(reply(&[5, 2, 0, 1]), Some(Reply::CommandNotSupported));
        assert_eq!(reply(&[5, 1, 0, 9]), Some(Reply::AddressNotSupported));
        assert_eq!(reply(b"\x05\x01\x00\x03\x01\xFF\x00\x50"), Some(Reply::HostUnreachable));
        assert_eq!(reply(&[4, 1, 0, 80]), None);
    }

    #[test]
    fn a_greeting_says_whether_it_needs_authentication() {
        assert_eq!(Greeting::parse(&[5, 2, 2, 0]), Ok(Some((Greeting { is_open: true }, 4))));
        assert_eq!(Greeting::parse(&[5, 1, 2]), Ok(Some((Greeting { is_open: false }, 3))));
        assert_eq!(Greeting::parse(&[5, 2, 0]), Ok(None));
        assert_eq!(Greeting::parse(b"GET "), Err(SocksError::Version { version: b'G' }));
    }

    #[test]
    fn the_header_of_a_datagram_reads_back_and_parts_are_refused() {
        for from in ["10.20.0.2:53", "[fd00:20::2]:53"] {
            let mut bytes = Vec::new();
            put_datagram_header(&mut bytes, from.parse().unwrap());
            let (destination, start) = parse_datagram(&bytes).unwrap();
            assert_eq!((destination.to_string().as_str(), start), (from, bytes.len()));
            let cut = &bytes[..start - 1];
            assert_eq!(parse_datagram(cut), Err(SocksError::Truncated { len: cut.len() }));
            bytes[2] = 1;
            assert_eq!(parse_datagram(&bytes), Err(SocksError::Fragment { number: 1 }));
        }
    }
}
