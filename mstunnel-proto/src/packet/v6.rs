//! The IPv6 header and its extension headers.

use std::net::Ipv6Addr;

use super::{Family, Fragment, Layout, PacketError, Protocol, check_fragment, u16_at};

/// The offset of the source address.
pub(super) const SOURCE: usize = 8;
/// The offset of the destination address.
pub(super) const DESTINATION: usize = 24;
/// The length of the fixed header.
pub(super) const HEADER: usize = 40;

/// The most extension headers of one packet (R44).
///
/// RFC 8200 section 4.1 knows six, one of them twice.
pub const MAX_EXTENSIONS: usize = 8;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;

/// The address at `offset` of a packet that was checked.
pub(super) fn address(bytes: &[u8], offset: usize) -> Ipv6Addr {
    let octets = bytes[offset..].first_chunk().expect("a checked packet has its addresses");
    Ipv6Addr::from_octets(*octets)
}

/// Checks an IPv6 header and walks its extension headers.
pub(super) fn layout(bytes: &[u8]) -> Result<Layout, PacketError> {
    let len = bytes.len();
    if len < HEADER {
        return Err(PacketError::Truncated { len });
    }
    let declared = HEADER + usize::from(u16_at(bytes, 4));
    if declared != len {
        return Err(PacketError::TotalLength { declared, len });
    }
    let mut next = bytes[6];
    let mut at = HEADER;
    let mut fragment = None;
    for passed in 0..=MAX_EXTENSIONS {
        let header = match next {
            HOP_BY_HOP if passed > 0 => return Err(PacketError::Extension),
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | MOBILITY | HIP | SHIM6 => {
                let length = (usize::from(byte(bytes, at + 1)?) + 1) * 8;
                if next == ROUTING && byte(bytes, at + 3)? > 0 {
                    return Err(PacketError::SourceRoute);
                }
                length
            }
            AUTHENTICATION => match byte(bytes, at + 1)? {
                0 => return Err(PacketError::Extension), // its fixed fields need 12 bytes
                words => (usize::from(words) + 2) * 4,
            },
            FRAGMENT if fragment.is_some() => return Err(PacketError::Extension),
            FRAGMENT => {
                fragment = Some(fragment_at(bytes, at)?);
                8
            }
            _ => return Ok(layout_of(next, at, fragment)),
        };
        if passed == MAX_EXTENSIONS {
            break;
        }
        next = byte(bytes, at)?;
        at += header;
        if at > len {
            break;
        }
        if fragment.is_some_and(|fragment| fragment.offset > 0) {
            return Ok(layout_of(next, at, fragment)); // what follows is not a header
        }
    }
    Err(PacketError::Extension)
}

fn layout_of(next: u8, at: usize, fragment: Option<Fragment>) -> Layout {
    let is_part = |fragment: &Fragment| fragment.offset > 0 || fragment.more;
    Layout {
        family: Family::V6,
        protocol: Protocol::new(next, Family::V6),
        transport: at,
        fragment: fragment.filter(is_part),
    }
}

fn fragment_at(bytes: &[u8], at: usize) -> Result<Fragment, PacketError> {
    let Some(&[_, _, high, low, a, b, c, d]) = bytes.get(at..at + 8) else {
        return Err(PacketError::Extension);
    };
    let field = u16::from_be_bytes([high, low]);
    let fragment =
        Fragment { id: u32::from_be_bytes([a, b, c, d]), offset: field & 0xFFF8, more: field & 1 != 0 };
    check_fragment(fragment, bytes.len() - at - 8)?;
    Ok(fragment)
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, PacketError> {
    bytes.get(at).copied().ok_or(PacketError::Extension)
}
