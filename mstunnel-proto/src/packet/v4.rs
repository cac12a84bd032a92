//! The IPv4 header.

use std::net::Ipv4Addr;

use super::checksum::Sum;
use super::{Family, Fragment, Layout, PacketError, Protocol, check_fragment, u16_at};

/// The offset of the source address.
pub(super) const SOURCE: usize = 12;
/// The offset of the destination address.
pub(super) const DESTINATION: usize = 16;
/// The length of a header without options.
pub(super) const HEADER: usize = 20;

const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// The address at `offset` of a packet that was checked.
pub(super) fn address(bytes: &[u8], offset: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[offset], bytes[offset + 1], bytes[offset + 2], bytes[offset + 3])
}

/// Checks an IPv4 header.
pub(super) fn layout(bytes: &[u8]) -> Result<Layout, PacketError> {
    let len = bytes.len();
    if len < HEADER {
        return Err(PacketError::Truncated { len });
    }
    let header = usize::from(bytes[0] & 0x0F) * 4;
    if header < HEADER || header > len {
        return Err(PacketError::HeaderLength { header, len });
    }
    let declared = usize::from(u16_at(bytes, 2));
    if declared != len {
        return Err(PacketError::TotalLength { declared, len });
    }
    if Sum::default().bytes(&bytes[..header]).checksum() != 0 {
        return Err(PacketError::HeaderChecksum);
    }
    if header > HEADER {
        check_options(&bytes[HEADER..header])?;
    }
    Ok(Layout {
        family: Family::V4,
        protocol: Protocol::new(bytes[9], Family::V4),
        transport: header,
        fragment: fragment(bytes, len - header)?,
    })
}

fn fragment(bytes: &[u8], payload: usize) -> Result<Option<Fragment>, PacketError> {
    let field = u16_at(bytes, 6);
    let (offset, more) = ((field & 0x1FFF) * 8, field & 0x2000 != 0);
    if offset == 0 && !more {
        return Ok(None);
    }
    let fragment = Fragment { id: u16_at(bytes, 4).into(), offset, more };
    check_fragment(fragment, payload)?;
    Ok(Some(fragment))
}

fn check_options(mut options: &[u8]) -> Result<(), PacketError> {
    loop {
        match *options {
            [] | [END_OF_OPTIONS, ..] => return Ok(()),
            [NO_OPERATION, ref rest @ ..] => options = rest,
            [LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE, ..] => return Err(PacketError::SourceRoute),
            [_, len, ..] if len >= 2 => {
                options = options.get(usize::from(len)..).ok_or(PacketError::Option)?
            }
            [_, ..] => return Err(PacketError::Option),
        }
    }
}
