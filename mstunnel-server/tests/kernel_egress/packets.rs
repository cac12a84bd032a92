//! IP packets by hand: small, whole, with right checksums.

use std::net::IpAddr;

/// A UDP packet of either family.
pub(crate) fn udp(from: &str, from_port: u16, to: &str, to_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend(from_port.to_be_bytes());
    body.extend(to_port.to_be_bytes());
    body.extend(length(8 + payload.len()).to_be_bytes());
    body.extend([0, 0]);
    body.extend(payload);
    packet(from, to, 17, body, 6)
}

/// An ICMP or ICMPv6 echo request.
pub(crate) fn echo_request(from: &str, to: &str) -> Vec<u8> {
    let four = from.parse::<IpAddr>().unwrap().is_ipv4();
    let mut body = vec![if four { 8 } else { 128 }, 0, 0, 0, 0x12, 0x34, 0, 1];
    body.extend(b"are you there");
    packet(from, to, if four { 1 } else { 58 }, body, 2)
}

/// The UDP payload of a packet without options, as text.
pub(crate) fn payload(packet: &[u8]) -> String {
    let header = if packet[0] >> 4 == 4 { 20 } else { 40 };
    String::from_utf8_lossy(&packet[header + 8..]).into_owned()
}

/// The destination of a packet.
pub(crate) fn destination(packet: &[u8]) -> IpAddr {
    if packet[0] >> 4 == 4 {
        IpAddr::from(<[u8; 4]>::try_from(&packet[16..20]).unwrap())
    } else {
        IpAddr::from(<[u8; 16]>::try_from(&packet[24..40]).unwrap())
    }
}

fn packet(from: &str, to: &str, protocol: u8, mut body: Vec<u8>, checksum_at: usize) -> Vec<u8> {
    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let (from, to) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (from.octets().to_vec(), to.octets().to_vec()),
        (IpAddr::V6(from), IpAddr::V6(to)) => (from.octets().to_vec(), to.octets().to_vec()),
        _ => panic!("two families"),
    };
    let mut pseudo = Vec::new();
    if protocol != 1 {
        pseudo.extend(from.iter().chain(&to));
        pseudo.extend([0, protocol]);
        pseudo.extend(length(body.len()).to_be_bytes());
    }
    pseudo.extend(&body);
    let sum = checksum(&pseudo);
    body[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    let mut whole = Vec::new();
    if from.len() == 4 {
        whole.extend([0x45, 0]);
        whole.extend(length(20 + body.len()).to_be_bytes());
        whole.extend([0, 1, 0, 0, 64, protocol, 0, 0]);
        whole.extend(from.iter().chain(&to));
        let sum = checksum(&whole);
        whole[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        whole.extend([0x60, 0, 0, 0]);
        whole.extend(length(body.len()).to_be_bytes());
        whole.extend([protocol, 64]);
        whole.extend(from.iter().chain(&to));
    }
    whole.extend(body);
    whole
}

fn length(value: usize) -> u16 {
    u16::try_from(value).unwrap()
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}
