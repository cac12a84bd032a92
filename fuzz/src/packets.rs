//! IP packets from inside a tunnel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::packet::{self, Packet, Unreachable};

/// The longest ICMP error: what an IPv6 one may have, RFC 4443 section 2.4 (c).
const MAX_ERROR: usize = 1_280;

const FROM_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
const FROM_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1));

/// A packet from inside a tunnel: every view of it, the MSS clamp, and the ICMP errors that quote it, which are
/// packets themselves and are never answered by another.
pub fn inner_packet(data: &[u8]) {
    if let Ok(view) = Packet::parse(data) {
        look_at(&view);
    }
    let mut clamped = data.to_vec();
    packet::clamp_mss(&mut clamped, 1280);
    assert_eq!(clamped.len(), data.len());
    for from in [FROM_V4, FROM_V6] {
        let mut out = PacketBuf::new(1_500);
        let is_answered = packet::too_big(data, 1_280, from, &mut out);
        judge_error(is_answered, data, from, out.as_slice());
        let is_answered = packet::unreachable(data, Unreachable::Prohibited, from, &mut out);
        judge_error(is_answered, data, from, out.as_slice());
    }
}

fn look_at(view: &Packet<'_>) {
    let len = view.bytes().len();
    assert!(view.transport_offset() + view.payload().len() <= len, "a payload behind its packet");
    let _ = (view.source(), view.destination(), view.ports(), view.counts_as_activity());
    let _ = (view.is_broadcast(), view.is_multicast(), view.fragment(), view.is_later_fragment());
    if let Some(tcp) = view.tcp() {
        assert!(tcp.options().len() + tcp.payload().len() < len);
        let _ = (tcp.is_syn(), tcp.is_ack(), tcp.is_fin(), tcp.is_rst());
    }
    if let Some(udp) = view.udp() {
        assert!(udp.payload().len() < len);
        let _ = udp.checksum();
    }
    if let Some(icmp) = view.icmp() {
        assert!(icmp.body().len() < len);
        let _ = (icmp.echo_id(), icmp.code());
        assert_eq!(icmp.is_error(), view.is_icmp_error());
    }
}

fn judge_error(is_answered: bool, original: &[u8], from: IpAddr, error: &[u8]) {
    if !is_answered {
        assert!(error.is_empty(), "half an answer");
        return;
    }
    let question = Packet::parse(original).expect("only a packet is answered");
    let answer = Packet::parse(error).expect("an answer is a packet");
    assert!(error.len() <= MAX_ERROR && answer.is_icmp_error());
    assert_eq!((answer.source(), answer.destination()), (from, question.source()));
    let mut again = PacketBuf::new(1_500);
    assert!(!packet::too_big(error, 1_280, question.source(), &mut again), "an error about an error");
}
