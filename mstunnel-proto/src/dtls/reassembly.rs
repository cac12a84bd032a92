//! Fragments back into messages, in order, within bounds.
//!
//! Fragments of one message must agree about its type, its length and whether they were protected; what
//! disagrees is dropped (GnuTLS issue 1839). Bytes that came first stay. What a peer who has not finished can
//! make us keep is bounded by [`MAX_HANDSHAKE_BYTES`], [`MAX_HANDSHAKE_MESSAGES`] and the handshake's own
//! deadline (R17, CVE-2016-2179).

use std::collections::BTreeMap;

use super::message::{Fragment, Message, MessageType};
use crate::drop::DropReason;

/// The bytes of incomplete or early messages kept for one handshake; the messages of a PSK handshake have
/// some hundred.
pub const MAX_HANDSHAKE_BYTES: usize = 16 * 1024;

/// How many messages ahead of the expected one are kept; a PSK flight has three.
pub const MAX_HANDSHAKE_MESSAGES: u16 = 16;

/// A message with what has come of it.
#[derive(Debug)]
struct Partial {
    kind: MessageType,
    protected: bool,
    body: Vec<u8>,
    /// One bit for each byte of the body.
    have: Vec<u64>,
    missing: usize,
}

impl Partial {
    fn new(fragment: &Fragment<'_>, protected: bool) -> Self {
        Self {
            kind: fragment.kind,
            protected,
            body: vec![0; fragment.total],
            have: vec![0; fragment.total.div_ceil(64)],
            missing: fragment.total,
        }
    }

    fn agrees(&self, fragment: &Fragment<'_>, protected: bool) -> bool {
        (self.kind, self.body.len(), self.protected) == (fragment.kind, fragment.total, protected)
    }

    fn add(&mut self, fragment: &Fragment<'_>) {
        for (at, byte) in (fragment.offset..).zip(fragment.bytes) {
            let (word, bit) = (at / 64, 1 << (at % 64));
            if self.have[word] & bit == 0 {
                self.have[word] |= bit;
                self.body[at] = *byte;
                self.missing -= 1;
            }
        }
    }
}

/// What a fragment was.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// Kept; a message may be complete.
    Kept,
    /// Of a message that was taken out long ago: the peer repeats itself.
    Old,
}

/// The messages of one handshake that have come so far.
#[derive(Debug)]
pub(crate) struct Reassembly {
    expected: u16,
    partial: BTreeMap<u16, Partial>,
    held: usize,
}

impl Reassembly {
    /// Waits for the message with the number `expected`.
    pub(crate) fn new(expected: u16) -> Self {
        Self { expected, partial: BTreeMap::new(), held: 0 }
    }

    /// The first message has the number `sequence`, if none was taken out yet.
    pub(crate) fn begin_at(&mut self, sequence: u16) {
        if self.expected == 0 && sequence < MAX_HANDSHAKE_MESSAGES {
            self.expected = sequence;
            self.partial = self.partial.split_off(&sequence);
            self.held = self.partial.values().map(|partial| partial.body.len()).sum();
        }
    }

    /// Takes in a fragment.
    pub(crate) fn handle_fragment(
        &mut self,
        fragment: &Fragment<'_>,
        protected: bool,
    ) -> Result<Placed, DropReason> {
        if fragment.sequence < self.expected {
            return Ok(Placed::Old);
        }
        if fragment.sequence - self.expected >= MAX_HANDSHAKE_MESSAGES {
            return Err(DropReason::HandshakeTooLarge);
        }
        if let Some(partial) = self.partial.get_mut(&fragment.sequence) {
            if !partial.agrees(fragment, protected) {
                return Err(DropReason::HandshakeRefused);
            }
            partial.add(fragment);
            return Ok(Placed::Kept);
        }
        if fragment.total > MAX_HANDSHAKE_BYTES - self.held {
            return Err(DropReason::HandshakeTooLarge);
        }
        self.held += fragment.total;
        let mut partial = Partial::new(fragment, protected);
        partial.add(fragment);
        self.partial.insert(fragment.sequence, partial);
        Ok(Placed::Kept)
    }

    /// Takes out the expected message, when it is whole.
    ///
    /// # Errors
    /// It is whole and not `acceptable`. It is forgotten and still expected: who has made it up in clear has
    /// not taken the place of the true one (R15).
    pub(crate) fn poll_message(
        &mut self,
        acceptable: impl FnOnce(MessageType, bool) -> bool,
    ) -> Result<Option<Message>, DropReason> {
        let Some(first) = self.partial.first_entry().filter(|first| *first.key() == self.expected) else {
            return Ok(None);
        };
        if first.get().missing > 0 {
            return Ok(None);
        }
        let partial = first.remove();
        self.held -= partial.body.len();
        if !acceptable(partial.kind, partial.protected) {
            return Err(DropReason::HandshakeRefused);
        }
        let message = Message::new(partial.kind, self.expected, &partial.body);
        // A handshake of 65,536 messages does not exist.
        self.expected = self.expected.saturating_add(1);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::reader::Reader;
    use super::*;

    fn fragment(sequence: u16, total: usize, offset: usize, bytes: &[u8]) -> Fragment<'_> {
        Fragment { kind: MessageType::Finished, total, sequence, offset, bytes }
    }

    proptest! {
        /// Covers: statement 54, R17.
        #[test]
        fn any_cut_in_any_order_with_repeats_gives_the_messages(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..5),
            order in proptest::collection::vec((any::<prop::sample::Index>(), 1usize..50), 0..300),
        ) {
            let mut reassembly = Reassembly::new(3);
            let mut got = Vec::new();
            // First a random selection of fragments, then everything once.
            let random = order.iter().map(|(index, len)| {
                let sequence = index.index(bodies.len());
                let body = &bodies[sequence];
                let start = index.index(body.len() + 1);
                (sequence, start, *len.min(&(body.len() - start)))
            });
            let all = bodies.iter().enumerate().map(|(sequence, body)| (sequence, 0, body.len()));
            for (sequence, start, len) in random.chain(all) {
                let body = &bodies[sequence];
                let piece = fragment(u16::try_from(sequence).unwrap() + 3, body.len(), start, &body[start..start + len]);
                reassembly.handle_fragment(&piece, false).unwrap();
                while let Some(message) = reassembly.poll_message(|_, _| true).unwrap() {
                    got.push(message.body().to_vec());
                }
            }
            prop_assert_eq!(got, bodies);
            prop_assert_eq!(reassembly.held, 0);
        }
    }

    /// Covers: P-025, R17.
    #[test]
    fn fragments_that_disagree_are_dropped_and_the_message_survives() {
        let mut reassembly = Reassembly::new(0);
        reassembly.handle_fragment(&fragment(0, 4, 0, b"ab"), false).unwrap();
        let refused = Err(DropReason::HandshakeRefused);
        assert_eq!(reassembly.handle_fragment(&fragment(0, 5, 2, b"cd"), false), refused);
        let other = Fragment { kind: MessageType::ClientHello, ..fragment(0, 4, 2, b"cd") };
        assert_eq!(reassembly.handle_fragment(&other, false), refused);
        assert_eq!(reassembly.handle_fragment(&fragment(0, 4, 2, b"cd"), true), refused);
        // An overlap changes nothing of what came first.
        reassembly.handle_fragment(&fragment(0, 4, 1, b"XYZ"), false).unwrap();
        assert_eq!(poll(&mut reassembly), b"abYZ");
    }

    fn poll(reassembly: &mut Reassembly) -> Vec<u8> {
        reassembly.poll_message(|_, _| true).unwrap().unwrap().body().to_vec()
    }

    /// Covers: R15.
    #[test]
    fn a_message_that_is_refused_leaves_its_place_to_the_true_one() {
        let mut reassembly = Reassembly::new(0);
        reassembly.handle_fragment(&fragment(0, 2, 0, b"no"), false).unwrap();
        assert_eq!(reassembly.poll_message(|_, protected| protected), Err(DropReason::HandshakeRefused));
        reassembly.handle_fragment(&fragment(0, 3, 0, b"yes"), true).unwrap();
        assert_eq!(poll(&mut reassembly), b"yes");
    }

    /// Covers: P-025, R17.
    #[test]
    fn what_is_kept_has_its_bounds() {
        let mut reassembly = Reassembly::new(0);
        let too_large = Err(DropReason::HandshakeTooLarge);
        assert_eq!(reassembly.handle_fragment(&fragment(0, 0xff_ffff, 0, b"a"), false), too_large);
        assert_eq!(reassembly.handle_fragment(&fragment(16, 1, 0, b"a"), false), too_large);
        for sequence in 0..15 {
            reassembly.handle_fragment(&fragment(sequence, 1_092, 0, b"a"), false).unwrap();
        }
        assert_eq!(reassembly.held, 15 * 1_092);
        assert_eq!(reassembly.handle_fragment(&fragment(15, 1_092, 0, b"a"), false), too_large);
        for at in 0..65_535 {
            reassembly.handle_fragment(&fragment(0, 1_092, at % 1_092, b"b"), false).unwrap();
        }
        assert_eq!((reassembly.held, reassembly.partial.len()), (15 * 1_092, 15));
    }

    #[test]
    fn a_fragment_beyond_its_message_is_none() {
        let whole = Message::new(MessageType::Finished, 1, b"0123456789ab");
        assert!(Fragment::take(&mut Reader::new(&whole.bytes)).unwrap().is_whole());
        let mut beyond = whole.bytes.clone();
        beyond[8] = 1;
        assert_eq!(Fragment::take(&mut Reader::new(&beyond)), None);
        assert_eq!(Fragment::take(&mut Reader::new(&whole.bytes[..20])), None);
    }

    #[test]
    fn the_first_message_may_have_a_later_number_but_only_the_first() {
        let mut incoming = Reassembly::new(0);
        incoming.begin_at(MAX_HANDSHAKE_MESSAGES);
        for early in [0, 3] {
            assert_eq!(incoming.handle_fragment(&fragment(early, 1, 0, &[1]), true), Ok(Placed::Kept));
        }
        incoming.begin_at(2);
        assert_eq!(incoming.held, 1);
        assert_eq!(incoming.handle_fragment(&fragment(1, 1, 0, &[1]), true), Ok(Placed::Old));
        assert_eq!(incoming.handle_fragment(&fragment(2, 1, 0, &[1]), true), Ok(Placed::Kept));
        assert_eq!(incoming.poll_message(|_, _| true).unwrap().unwrap().sequence, 2);
        incoming.begin_at(5);
        assert_eq!(incoming.poll_message(|_, _| true).unwrap().unwrap().sequence, 3);
    }
}
