//! The path between one client and the rest of the world, and its weather.

use std::time::Duration;

use fastrand::Rng;

/// What one path does to what travels on it; the same in both directions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// One way.
    pub latency: Duration,
    /// At most so much more for each datagram, so that some overtake others.
    pub jitter: Duration,
    /// Of a thousand datagrams, so many are lost.
    pub loss: u16,
    /// So many arrive twice.
    pub duplicate: u16,
    /// So many have one bit changed.
    pub corrupt: u16,
    /// The largest IP packet that passes, in bytes; larger ones vanish without a word.
    pub mtu: u16,
    /// Whether datagrams pass at all.
    pub udp: bool,
    /// Whether TCP does.
    pub tcp: bool,
    /// Whether anything passes.
    pub up: bool,
}

impl Default for Link {
    /// 20 ms, and nothing goes wrong.
    fn default() -> Self {
        Self {
            latency: Duration::from_millis(20),
            jitter: Duration::ZERO,
            loss: 0,
            duplicate: 0,
            corrupt: 0,
            mtu: 1500,
            udp: true,
            tcp: true,
            up: true,
        }
    }
}

/// IPv4 and UDP headers.
pub(crate) const OUTER_HEADERS: usize = 28;

impl Link {
    /// What arrives of a datagram, and after how long.
    pub(crate) fn carry(&self, datagram: Vec<u8>, rng: &mut Rng) -> Vec<(Duration, Vec<u8>)> {
        if !self.up || !self.udp || datagram.len() + OUTER_HEADERS > usize::from(self.mtu) {
            return Vec::new();
        }
        let copies = if happens(self.duplicate, rng) { 2 } else { 1 };
        let mut arrivals = Vec::with_capacity(copies);
        for _ in 0..copies {
            if happens(self.loss, rng) {
                continue;
            }
            let mut copy = datagram.clone();
            if happens(self.corrupt, rng) && !copy.is_empty() {
                let bit = rng.usize(..copy.len() * 8);
                copy[bit / 8] ^= 1 << (bit % 8);
            }
            arrivals.push((self.latency + self.jitter.mul_f64(rng.f64()), copy));
        }
        arrivals
    }
}

fn happens(per_mille: u16, rng: &mut Rng) -> bool {
    per_mille > 0 && rng.u16(..1000) < per_mille
}
