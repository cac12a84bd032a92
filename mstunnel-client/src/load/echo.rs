//! The traffic of a session: echo requests at an even pace, and their answers.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::packet::{Packet, Protocol};
use mstunnel_proto::session::Leases;

use crate::stack::wire;

/// The length of a packet, in bytes: between the many small ones and the few large ones of real traffic.
const PACKET: u16 = 512;

/// What every session sends.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// Kilobits a second of IP packets, each way.
    pub kbit_per_second: u32,
    /// Who answers.
    pub to: IpAddr,
}

/// What was sent, and what came back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EchoCounts {
    pub(super) sent: u64,
    pub(super) answered: u64,
}

/// The echo requests of one session.
pub(super) struct Echo {
    to: IpAddr,
    from: Option<IpAddr>,
    id: u16,
    sequence: u16,
    len: u16,
    interval: Duration,
    next: Instant,
    counts: EchoCounts,
}

impl Echo {
    /// Requests of session `number`; sessions begin at different moments of the interval.
    pub(super) fn new(traffic: Traffic, number: u32, leases: Leases, mtu: u16, now: Instant) -> Self {
        let from = match traffic.to {
            IpAddr::V4(_) => leases.v4.map(IpAddr::V4),
            IpAddr::V6(_) => leases.v6.map(IpAddr::V6),
        };
        let len = PACKET.min(mtu);
        let bits = f64::from(len) * 8.0;
        let interval = Duration::from_secs_f64(bits / (1_000.0 * f64::from(traffic.kbit_per_second.max(1))));
        let [.., high, low] = number.to_be_bytes();
        let next = now + interval * u32::from(low) / 256;
        let id = u16::from_be_bytes([high, low]);
        Self { to: traffic.to, from, id, sequence: 0, len, interval, next, counts: EchoCounts::default() }
    }

    /// When the next request is due.
    pub(super) fn deadline(&self) -> Instant {
        self.next
    }

    /// Writes the next request if it is due; returns whether there is one.
    pub(super) fn poll_packet(&mut self, out: &mut PacketBuf, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        // What a busy machine is late with stays undone: this measures the server.
        self.next = (self.next + self.interval).max(now);
        let Some(from) = self.from else { return false };
        self.sequence = self.sequence.wrapping_add(1);
        let payload = usize::from(self.len).saturating_sub(wire::ip_header_len(self.to) + wire::HEADER);
        let written = wire::echo_request(out.room(), from, self.to, (self.id, self.sequence), payload);
        let Some(len) = written else { return false };
        out.set_len(len);
        self.counts.sent += 1;
        true
    }

    /// Looks at a packet that came in.
    pub(super) fn take(&mut self, packet: &[u8]) {
        let Ok(packet) = Packet::parse(packet) else { return };
        let answer = match packet.protocol() {
            Protocol::Icmp => 0,
            Protocol::Icmpv6 => 129,
            Protocol::Tcp | Protocol::Udp | Protocol::Other(_) => return,
        };
        let is_ours =
            packet.icmp().is_some_and(|icmp| icmp.kind() == answer && icmp.echo_id() == Some(self.id));
        if is_ours && packet.source() == self.to && wire::is_intact(&packet) {
            self.counts.answered += 1;
        }
    }

    /// Takes what was counted since the last time.
    pub(super) fn take_counts(&mut self) -> EchoCounts {
        std::mem::take(&mut self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(number: u32, now: Instant) -> Echo {
        let traffic = Traffic { kbit_per_second: 64, to: "192.0.2.1".parse().unwrap() };
        let leases = Leases { v4: Some("10.9.0.5".parse().unwrap()), v6: None };
        Echo::new(traffic, number, leases, 1400, now)
    }

    #[test]
    fn requests_keep_the_pace_that_was_asked_for() {
        let start = Instant::now();
        let (mut echo, mut packet) = (echo(0, start), PacketBuf::new(1500));
        let mut bytes = 0;
        for millisecond in 0..1_000 {
            if echo.poll_packet(&mut packet, start + Duration::from_millis(millisecond)) {
                bytes += packet.len();
            }
        }
        // 64 kbit are 8000 bytes.
        assert!((7_500..=8_500).contains(&bytes), "{bytes}");
        assert_eq!(echo.take_counts().sent, 16);
        assert!(!echo.poll_packet(&mut packet, start), "time goes forward");
    }

    #[test]
    fn an_answer_is_one_from_the_host_to_this_session() {
        let start = Instant::now();
        let (mut ours, mut others, mut packet) = (echo(0, start), echo(1, start), PacketBuf::new(1500));
        assert!(ours.poll_packet(&mut packet, start));
        ours.take(packet.as_slice());
        assert_eq!(ours.take_counts().answered, 0, "a request is no answer");
        let answer = packet.as_mut_slice();
        let (from, to) = ([10, 9, 0, 5], [192, 0, 2, 1]);
        answer[12..16].copy_from_slice(&to);
        answer[16..20].copy_from_slice(&from);
        answer[20] = 0;
        // The type went from 8 to 0, so that the checksum grows by 0x0800.
        let sum = u32::from(u16::from_be_bytes([answer[22], answer[23]])) + 0x0800;
        let sum = u16::try_from((sum & 0xFFFF) + (sum >> 16)).unwrap();
        answer[22..24].copy_from_slice(&sum.to_be_bytes());
        ours.take(packet.as_slice());
        others.take(packet.as_slice());
        assert_eq!((ours.take_counts().answered, others.take_counts().answered), (1, 0));
    }
}
