//! Inner packets, made and read by hand: what no well-behaved kernel would send.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const ICMP: u8 = 1;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;

/// The parts of a packet that tests look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inner {
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
    /// IPv4 protocol or IPv6 next header.
    pub protocol: u8,
    /// What follows the IP header.
    pub payload: Vec<u8>,
}

impl Inner {
    /// Reads a packet without options or extension headers.
    pub fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let header: &[u8; 20] = packet.first_chunk()?;
                let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
                let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
                let header_len = usize::from(header[0] & 15) * 4;
                Some(Self {
                    source: source.into(),
                    destination: destination.into(),
                    protocol: header[9],
                    payload: packet.get(header_len..)?.to_vec(),
                })
            }
            6 => {
                let header: &[u8; 40] = packet.first_chunk()?;
                let address =
                    |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&header[at..at + 16]).expect("16"));
                Some(Self {
                    source: address(8).into(),
                    destination: address(24).into(),
                    protocol: header[6],
                    payload: packet[40..].to_vec(),
                })
            }
            _ => None,
        }
    }

    /// The data of an echo reply, if the packet is one.
    pub fn echo_reply(&self) -> Option<&[u8]> {
        let reply = (self.protocol == ICMP && self.payload.first() == Some(&0))
            || (self.protocol == ICMPV6 && self.payload.first() == Some(&129));
        if reply { self.payload.get(8..) } else { None }
    }
}

/// A UDP packet; both addresses are of one family.
pub fn udp(source: SocketAddr, destination: SocketAddr, data: &[u8]) -> Vec<u8> {
    let len = u16::try_from(8 + data.len()).expect("a test packet fits");
    let mut datagram = Vec::new();
    datagram.extend(source.port().to_be_bytes());
    datagram.extend(destination.port().to_be_bytes());
    datagram.extend(len.to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(data);
    with_header(source.ip(), destination.ip(), UDP, datagram, 6)
}

/// An echo request with identifier 1.
pub fn icmp_echo(source: IpAddr, destination: IpAddr, sequence: u16, data: &[u8]) -> Vec<u8> {
    let (kind, protocol) = if source.is_ipv4() { (8, ICMP) } else { (128, ICMPV6) };
    let mut message = vec![kind, 0, 0, 0, 0, 1];
    message.extend(sequence.to_be_bytes());
    message.extend(data);
    with_header(source, destination, protocol, message, 2)
}

/// Puts the checksum at `checksum_at` of `payload` and an IP header before it.
fn with_header(
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    mut payload: Vec<u8>,
    checksum_at: usize,
) -> Vec<u8> {
    let len = u16::try_from(payload.len()).expect("a test packet fits");
    let addresses = [octets(source), octets(destination)].concat();
    let pseudo = [&addresses[..], &[0, protocol], &len.to_be_bytes()].concat();
    let covered = if protocol == ICMP { Vec::new() } else { pseudo };
    let sum = checksum(&[&covered[..], &payload].concat());
    payload[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());

    let mut packet = if source.is_ipv4() {
        let mut header = vec![0x45, 0];
        header.extend((20 + len).to_be_bytes());
        header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
        header.extend(addresses);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    } else {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend(len.to_be_bytes());
        header.extend([protocol, 64]);
        header.extend(addresses);
        header
    };
    packet.extend(payload);
    packet
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_of_a_packet_with_its_checksum_is_zero() {
        let packet =
            icmp_echo(Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 2).into(), 7, b"odd");
        assert_eq!(checksum(&packet[..20]), 0);
        assert_eq!(checksum(&packet[20..]), 0);
        let parsed = Inner::parse(&packet).unwrap();
        assert_eq!((parsed.protocol, parsed.payload.len()), (ICMP, 11));
    }

    #[test]
    fn an_ipv6_datagram_reads_back() {
        let (from, to) = ("[fd00::1]:5".parse().unwrap(), "[fd00::2]:9".parse().unwrap());
        let parsed = Inner::parse(&udp(from, to, b"data")).unwrap();
        assert_eq!((parsed.source, parsed.destination), (from.ip(), to.ip()));
        assert_eq!(&parsed.payload[8..], b"data");
    }
}
