//! Finds out how long a packet the datagram channel carries, by asking with padding.
//!
//! ```text
//!   | 3 DPD request | identifier (4) | zero .. up to the tunnel MTU |   answered at full length: it fits
//! ```
//!
//! The first question is the full tunnel MTU, which is answered within one round trip on most paths. When
//! [`TRIES`] of them are lost, the answer is searched between that and the floor by halving. The channel carries no
//! packets meanwhile; they take the stream. A path on which not even the floor is answered carries nothing.
//!
//! The size of a probe is the number of bytes behind the type, so that it is a packet's length.
//!
//! # Source
//! protocol.md 5.6, statements 53 and 61; the search is ours.

use std::time::{Duration, Instant};

use crate::buf::PacketBuf;
use crate::frame::FrameKind;

/// Questions of one size before it counts as too long: a path that loses one in four passes almost always.
const TRIES: u8 = 4;

/// How long an answer is waited for, at first; so much more for each further question of this size.
const PATIENCE: Duration = Duration::from_millis(200);

/// How near the answer has to be found, in bytes.
const GRAIN: u16 = 8;

/// A search in progress.
#[derive(Clone, Debug)]
pub struct MtuProbe {
    /// A length that is known to fit; below the floor before the first answer.
    fits: Option<u16>,
    /// A length that is too long, or was never tried.
    too_long: u16,
    floor: u16,
    asking: u16,
    tries: u8,
    identifier: u32,
    due: Instant,
    ask: bool,
}

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Packets of this length pass, in bytes.
    Fits(u16),
    /// Nothing passes.
    Nothing,
}

impl MtuProbe {
    /// Begins with a question of `max` bytes; nothing below `floor` is tried (576, or 1,280 with IPv6 inside).
    ///
    /// `identifier` tells the answers of this search from older ones; take a random number.
    pub fn new(max: u16, floor: u16, identifier: u32, now: Instant) -> Self {
        let mut probe = Self {
            fits: None,
            too_long: max.saturating_add(1),
            floor: floor.min(max),
            asking: max,
            tries: 0,
            identifier,
            due: now,
            ask: false,
        };
        probe.ask(now);
        probe
    }

    fn ask(&mut self, now: Instant) {
        self.tries += 1;
        self.due = now + PATIENCE * self.tries.into();
        self.ask = true;
    }

    /// Takes the payload of a DPD answer of the datagram channel; `Some` when the search is over.
    pub fn handle_response(&mut self, payload: &[u8], now: Instant) -> Option<Found> {
        let len = u16::try_from(payload.len()).ok()?;
        let is_ours = payload.first_chunk() == Some(&self.tag(len).to_be_bytes());
        if !is_ours || len >= self.too_long || self.fits.is_some_and(|fits| len <= fits) {
            return None;
        }
        self.fits = Some(len);
        self.next(now)
    }

    /// Acts on the time; `Some` when the search is over.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Found> {
        if now < self.due {
            return None;
        }
        if self.tries < TRIES {
            self.ask(now);
            return None;
        }
        self.too_long = self.asking;
        self.next(now)
    }

    /// Chooses the next length.
    fn next(&mut self, now: Instant) -> Option<Found> {
        let low = match self.fits {
            Some(fits) if self.too_long - fits <= GRAIN => return Some(Found::Fits(fits)),
            Some(fits) => fits,
            None if self.too_long <= self.floor => return Some(Found::Nothing),
            None => self.floor,
        };
        // The floor itself is asked for once nothing else is left above it.
        let middle = low + (self.too_long - low) / 2;
        self.asking = if self.fits.is_none() && self.too_long - low <= GRAIN { low } else { middle };
        self.tries = 0;
        self.ask(now);
        None
    }

    /// Takes the question to ask, as the plaintext of a datagram record.
    pub fn poll_transmit(&mut self, out: &mut PacketBuf) -> bool {
        out.clear();
        if !std::mem::take(&mut self.ask) {
            return false;
        }
        let len = usize::from(self.asking);
        let room = out.room();
        let Some(payload) = room.get_mut(..len) else { return false };
        payload.fill(0);
        if let Some(tag) = payload.first_chunk_mut() {
            *tag = self.tag(self.asking).to_be_bytes();
        }
        out.set_len(len);
        out.prepend([FrameKind::DpdRequest.byte()]);
        true
    }

    /// When [`MtuProbe::handle_timeout`] is wanted.
    pub fn poll_timeout(&self) -> Instant {
        self.due
    }

    /// What a question of `len` bytes begins with.
    fn tag(&self, len: u16) -> u32 {
        self.identifier.wrapping_add(len.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::origin;

    /// Runs a search over a path that carries `carries` bytes and loses what `is_lost` says of each question.
    fn search(
        max: u16,
        floor: u16,
        carries: u16,
        mut is_lost: impl FnMut(usize) -> bool,
    ) -> (Found, Duration, usize) {
        let (start, mut out) = (origin(), PacketBuf::new(2_000));
        let mut now = start;
        let mut probe = MtuProbe::new(max, floor, 0xDEAD_BEEF, now);
        for asked in 0.. {
            assert!(asked < 100, "the search ends");
            let mut found = None;
            if probe.poll_transmit(&mut out) {
                let payload = &out.as_slice()[1..];
                assert_eq!(out.as_slice()[0], FrameKind::DpdRequest.byte());
                if payload.len() <= carries.into() && !is_lost(asked) {
                    found = probe.handle_response(payload, now);
                }
            } else {
                now = probe.poll_timeout();
                found = probe.handle_timeout(now);
            }
            if let Some(found) = found {
                return (found, now - start, asked);
            }
        }
        unreachable!("the loop above ends")
    }

    /// Covers: statement 61
    #[test]
    fn a_usual_path_needs_one_question() {
        let (found, took, _) = search(1434, 576, 1434, |_| false);
        assert_eq!((found, took), (Found::Fits(1434), Duration::ZERO));
    }

    /// Covers: statement 61
    #[test]
    fn a_path_that_carries_nothing_is_given_up_in_bounded_time() {
        let (found, took, _) = search(1434, 576, 0, |_| false);
        assert_eq!(found, Found::Nothing);
        assert!(took < Duration::from_secs(25), "{took:?}");
    }

    /// Covers: statement 61, P-018
    #[test]
    fn an_answer_counts_only_with_its_identifier_and_its_length() {
        let now = origin();
        let mut out = PacketBuf::new(2_000);
        let mut probe = MtuProbe::new(1400, 576, 7, now);
        assert!(probe.poll_transmit(&mut out));
        let payload = out.as_slice()[1..].to_vec();
        assert_eq!(probe.handle_response(&payload[..1300], now), None, "cut short");
        assert_eq!(probe.handle_response(&[0; 1400], now), None, "no identifier");
        assert_eq!(probe.handle_response(b"", now), None, "an answer to another question");
        assert_eq!(probe.handle_response(&payload, now), Some(Found::Fits(1400)));
    }

    proptest! {
        #[test]
        fn what_is_found_passes_and_is_nearly_the_most(carries in 500_u16..1600, seed in any::<u64>()) {
            // Any question may be lost, but never two in a row.
            let (mut asked, mut was_lost) = (0_u32, false);
            let (found, ..) = search(1434, 576, carries, |_| {
                asked += 1;
                was_lost = !was_lost && seed.rotate_right(asked) & 1 == 1;
                was_lost
            });
            match found {
                Found::Nothing => prop_assert!(carries < 576),
                Found::Fits(len) => {
                    prop_assert!(len <= carries && len >= 576);
                    prop_assert!(len + GRAIN >= carries.min(1434), "{len} of {carries}");
                }
            }
        }
    }
}
