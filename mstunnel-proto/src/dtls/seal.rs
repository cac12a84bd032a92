//! Record protection: [`Sealer`] for what we send, [`Opener`] for what comes.
//!
//! ```text
//! AES-GCM     nonce = iv (4 of the key block) | epoch, sequence (8, sent before the ciphertext)
//! ChaCha20    nonce = iv (12) xor 0000 | epoch, sequence                           (nothing sent)
//! both        additional data = epoch, sequence | type | version | plaintext length
//! ```
//!
//! A sealer needs no lock: its sequence is atomic, so that any thread that holds the `Arc` may send. It
//! stops for good after sequence 2^48 - 1 and never wraps (R16).
//!
//! # Source
//! RFC 6347 section 4.1.2; RFC 5288 section 3; RFC 7905 section 2.

use super::crypto::{AeadKey, TAG_BYTES};
use super::keys::DirectionKey;
use super::record::{ContentType, HEADER_BYTES, MAX_PLAINTEXT, RecordHeader, VERSION_1_2};
use super::replay::ReplayWindow;
use super::sequences::Sequences;
use super::suite::Suite;
use crate::buf::PacketBuf;
use crate::drop::DropReason;

/// Why a packet was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// There is no finished handshake, or the channel was closed.
    #[error("the datagram channel is not open")]
    NotOpen,
    /// The epoch has used all its sequence numbers: make new keys or send on the stream channel.
    #[error("all 2^48 sequence numbers of the epoch are used")]
    Exhausted,
    /// The plaintext, or the record, is longer than it may be or than the room given.
    #[error("plaintext of {len} bytes, room for {room}")]
    TooLong {
        /// The bytes of the plaintext.
        len: usize,
        /// The bytes that were allowed.
        room: usize,
    },
}

/// The sending half of one epoch.
pub struct Sealer {
    key: AeadKey,
    iv: [u8; 12],
    epoch: u16,
    suite: Suite,
    sequences: Sequences,
}

impl Sealer {
    pub(crate) fn new(suite: Suite, epoch: u16, direction: DirectionKey) -> Self {
        Self { key: direction.key, iv: direction.iv, epoch, suite, sequences: Sequences::new() }
    }

    /// The suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The key generation.
    pub fn epoch(&self) -> u16 {
        self.epoch
    }

    /// How many sequence numbers are used; new keys are due long before 2^48.
    pub fn used(&self) -> u64 {
        self.sequences.used()
    }

    /// Makes the plaintext in `packet` an application record, in place.
    ///
    /// The plaintext is the packet type and the payload. Afterwards the contents are the record; on an
    /// error they are as before.
    ///
    /// # Errors
    /// [`SealError`].
    #[inline]
    pub fn seal(&self, packet: &mut PacketBuf) -> Result<(), SealError> {
        self.seal_content(ContentType::ApplicationData, packet)
    }

    pub(crate) fn seal_content(&self, content: ContentType, packet: &mut PacketBuf) -> Result<(), SealError> {
        let header = self.claim(content, packet.len(), MAX_PLAINTEXT)?;
        let len = packet.len();
        packet.append([0; TAG_BYTES]);
        let (plaintext, tag) = packet.as_mut_slice().split_at_mut(len);
        let tag = tag.first_chunk_mut().expect("it was appended");
        self.key.seal(self.nonce(&header), &aad(&header, len), plaintext, tag);
        if self.suite.explicit_nonce() == 8 {
            packet.prepend(explicit(&header));
        }
        packet.prepend(header.bytes());
        Ok(())
    }

    /// Makes `plaintext` an application record at the start of `out` and returns the record's length.
    ///
    /// # Errors
    /// [`SealError`]; `out` needs [`Suite::overhead`] bytes more than the plaintext.
    #[inline]
    pub fn seal_into(&self, plaintext: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        self.seal_content_into(ContentType::ApplicationData, plaintext, out)
    }

    pub(crate) fn seal_content_into(
        &self,
        content: ContentType,
        plaintext: &[u8],
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        let header = self.claim(content, plaintext.len(), out.len().saturating_sub(self.suite.overhead()))?;
        let (head, rest) = out.split_at_mut(self.suite.prefix());
        let (ciphertext, rest) = rest.split_at_mut(plaintext.len());
        let tag = rest.first_chunk_mut::<TAG_BYTES>().expect("the room was checked");
        self.key.seal_into(self.nonce(&header), &aad(&header, plaintext.len()), plaintext, ciphertext, tag);
        self.put_head(&header, head);
        Ok(self.suite.overhead() + plaintext.len())
    }

    /// Makes an application record of a plaintext that is already in its place within `slot`, and returns the
    /// record's length.
    ///
    /// The plaintext is the `len` bytes at [`Suite::prefix`]; the tag goes behind it. For a batch of segments
    /// that were split into the sending buffer.
    ///
    /// # Errors
    /// [`SealError`]; `slot` needs [`Suite::overhead`] bytes more than the plaintext.
    #[inline]
    pub fn seal_slot(&self, slot: &mut [u8], len: usize) -> Result<usize, SealError> {
        let room = slot.len().saturating_sub(self.suite.overhead());
        let header = self.claim(ContentType::ApplicationData, len, room)?;
        let (head, rest) = slot.split_at_mut(self.suite.prefix());
        let (plaintext, rest) = rest.split_at_mut(len);
        let tag = rest.first_chunk_mut::<TAG_BYTES>().expect("the room was checked");
        self.key.seal(self.nonce(&header), &aad(&header, len), plaintext, tag);
        self.put_head(&header, head);
        Ok(self.suite.overhead() + len)
    }

    /// Takes a sequence number for a plaintext of `len` bytes that has `room`.
    #[inline]
    fn claim(&self, content: ContentType, len: usize, room: usize) -> Result<RecordHeader, SealError> {
        let room = room.min(MAX_PLAINTEXT);
        if len > room {
            return Err(SealError::TooLong { len, room });
        }
        let sequence = self.sequences.take().ok_or(SealError::Exhausted)?;
        let len = self.suite.explicit_nonce() + len + TAG_BYTES;
        Ok(RecordHeader { content, version: VERSION_1_2, epoch: self.epoch, sequence, len })
    }

    #[inline]
    fn put_head(&self, header: &RecordHeader, head: &mut [u8]) {
        head[..HEADER_BYTES].copy_from_slice(&header.bytes());
        if self.suite.explicit_nonce() == 8 {
            head[HEADER_BYTES..].copy_from_slice(&explicit(header));
        }
    }

    #[inline]
    fn nonce(&self, header: &RecordHeader) -> [u8; 12] {
        nonce(self.iv, explicit(header))
    }

    #[cfg(test)]
    pub(crate) fn skip_to(&self, sequence: u64) {
        self.sequences.skip_to(sequence);
    }

    #[cfg(test)]
    pub(crate) fn skip_to_epoch(&mut self, epoch: u16) {
        self.epoch = epoch;
    }
}

/// Shows no key.
impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer")
            .field("suite", &self.suite)
            .field("epoch", &self.epoch)
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}

/// A record that was opened.
pub(crate) struct Plain<'b> {
    pub(crate) content: ContentType,
    pub(crate) bytes: &'b mut [u8],
    /// Whether it is above all records seen before it.
    pub(crate) newest: bool,
}

/// The receiving half of one epoch.
pub(crate) struct Opener {
    key: AeadKey,
    iv: [u8; 12],
    epoch: u16,
    suite: Suite,
    window: ReplayWindow,
}

impl Opener {
    pub(crate) fn new(suite: Suite, epoch: u16, direction: DirectionKey) -> Self {
        Self { key: direction.key, iv: direction.iv, epoch, suite, window: ReplayWindow::default() }
    }

    pub(crate) fn epoch(&self) -> u16 {
        self.epoch
    }

    #[cfg(test)]
    pub(crate) fn skip_to_epoch(&mut self, epoch: u16) {
        self.epoch = epoch;
    }

    /// Opens a record of this epoch in place: window, tag, window.
    ///
    /// Always inline: the header stays in registers, which a short packet shows (benches/dtls.rs).
    #[inline(always)]
    pub(crate) fn open<'b>(
        &mut self,
        header: &RecordHeader,
        record: &'b mut [u8],
    ) -> Result<Plain<'b>, DropReason> {
        let sealed = self.check(header)?;
        let body = &mut record[HEADER_BYTES..HEADER_BYTES + header.len];
        let (nonce, body) = self.split(header, body);
        let bytes = self.key.open(nonce, &aad(header, sealed), body).map_err(|_| DropReason::RecordForged)?;
        let newest = self.window.is_newest(header.sequence);
        self.window.record(header.sequence);
        Ok(Plain { content: header.content, bytes, newest })
    }

    /// Whether [`Opener::open`] would open the record; changes nothing, and works in `scratch`.
    pub(crate) fn recognizes(&self, header: &RecordHeader, record: &[u8], scratch: &mut Vec<u8>) -> bool {
        let Ok(sealed) = self.check(header) else {
            return false;
        };
        let body = &record[HEADER_BYTES..HEADER_BYTES + header.len];
        let (start, body) = body.split_at(self.suite.explicit_nonce());
        let nonce = nonce(self.iv, start.try_into().unwrap_or(explicit(header)));
        let (ciphertext, tag) = body.split_at(sealed);
        scratch.clear();
        scratch.resize(sealed, 0);
        self.key.open_into(nonce, &aad(header, sealed), ciphertext, tag, scratch).is_ok()
    }

    /// What can be refused without the key; returns the length of the plaintext.
    #[inline]
    fn check(&self, header: &RecordHeader) -> Result<usize, DropReason> {
        if header.epoch != self.epoch {
            return Err(DropReason::RecordMisplaced);
        }
        let sealed = header
            .len
            .checked_sub(self.suite.explicit_nonce() + TAG_BYTES)
            .filter(|len| *len <= MAX_PLAINTEXT)
            .ok_or(DropReason::NotARecord)?;
        if !self.window.admits(header.sequence) {
            return Err(DropReason::RecordReplayed);
        }
        Ok(sealed)
    }

    #[inline]
    fn split<'b>(&self, header: &RecordHeader, body: &'b mut [u8]) -> ([u8; 12], &'b mut [u8]) {
        let (start, body) = body.split_at_mut(self.suite.explicit_nonce());
        // RFC 5288: the nonce is what was sent, whatever its sender made it of.
        let explicit: [u8; 8] = (&*start).try_into().unwrap_or_else(|_| explicit(header));
        (nonce(self.iv, explicit), body)
    }
}

/// Epoch and sequence as one number of 8 bytes.
#[inline]
fn explicit(header: &RecordHeader) -> [u8; 8] {
    header.number().to_be_bytes()
}

#[inline]
fn nonce(iv: [u8; 12], explicit: [u8; 8]) -> [u8; 12] {
    let [a, b, c, d, tail @ ..] = iv;
    let (head, tail) = (u32::from_ne_bytes([a, b, c, d]), u64::from_ne_bytes(tail));
    // With an explicit nonce the tail is zero.
    let tail = (tail ^ u64::from_ne_bytes(explicit)).to_ne_bytes();
    let [a, b, c, d] = head.to_ne_bytes();
    let [e, f, g, h, i, j, k, l] = tail;
    [a, b, c, d, e, f, g, h, i, j, k, l]
}

#[inline]
fn aad(header: &RecordHeader, plaintext_len: usize) -> [u8; 13] {
    let mut aad = [0; 13];
    aad[..8].copy_from_slice(&explicit(header));
    aad[8] = header.content.byte();
    aad[9..11].copy_from_slice(&header.version.to_be_bytes());
    let len = u16::try_from(plaintext_len).expect("a plaintext is shorter than 2^14");
    aad[11..].copy_from_slice(&len.to_be_bytes());
    aad
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::super::keys::{MasterSecret, Randoms};
    use super::super::sequences::MAX_SEQUENCE;
    use super::*;

    /// Both halves of one direction.
    pub(crate) fn pair(suite: Suite, epoch: u16) -> (Sealer, Opener) {
        let randoms = Randoms { client: [1; 32], server: [2; 32] };
        let [one, _] = MasterSecret::plain(suite, &[3; 32], &randoms).key_block(&randoms);
        let [other, _] = MasterSecret::plain(suite, &[3; 32], &randoms).key_block(&randoms);
        (Sealer::new(suite, epoch, one), Opener::new(suite, epoch, other))
    }

    fn sealed(sealer: &Sealer, plaintext: &[u8]) -> Vec<u8> {
        let mut out = vec![0; plaintext.len() + sealer.suite().overhead()];
        assert_eq!(sealer.seal_into(plaintext, &mut out), Ok(out.len()));
        out
    }

    fn open(opener: &mut Opener, record: &[u8]) -> Result<Vec<u8>, DropReason> {
        let mut record = record.to_vec();
        let header = RecordHeader::parse(&record).ok_or(DropReason::NotARecord)?;
        opener.open(&header, &mut record).map(|plain| plain.bytes.to_vec())
    }

    #[test]
    fn the_three_ways_to_seal_make_the_same_record() {
        for &suite in Suite::PSK {
            let (sealer, mut opener) = pair(suite, 7);
            let one = sealed(&sealer, b"\x00packet");
            sealer.skip_to(0);
            let mut buf = PacketBuf::new(100);
            buf.fill(b"packet");
            buf.prepend([0]);
            sealer.seal(&mut buf).unwrap();
            assert_eq!(buf.as_slice(), one);
            sealer.skip_to(0);
            let mut slot = vec![0; 7 + suite.overhead()];
            slot[suite.prefix()..][..7].copy_from_slice(b"\x00packet");
            assert_eq!(sealer.seal_slot(&mut slot, 7), Ok(one.len()));
            assert_eq!(slot, one);
            assert_eq!(open(&mut opener, &one).unwrap(), b"\x00packet");
        }
    }

    #[test]
    fn a_room_that_is_too_small_costs_no_sequence_number() {
        let (sealer, _) = pair(Suite::PskAes256Gcm, 1);
        assert_eq!(sealer.seal_into(&[0; 10], &mut [0; 46]), Err(SealError::TooLong { len: 10, room: 9 }));
        assert_eq!(sealer.seal_slot(&mut [0; 46], 10), Err(SealError::TooLong { len: 10, room: 9 }));
        let long = vec![0; MAX_PLAINTEXT + 1];
        assert!(sealer.seal_into(&long, &mut vec![0; 20_000]).is_err());
        assert_eq!(sealer.used(), 0);
    }

    /// Covers: P-023, R16.
    #[test]
    fn the_sequence_stops_at_its_end_and_never_wraps() {
        let (sealer, mut opener) = pair(Suite::PskAes128Gcm, u16::MAX);
        sealer.skip_to(MAX_SEQUENCE);
        let last = sealed(&sealer, b"last");
        assert_eq!(open(&mut opener, &last).unwrap(), b"last");
        for _ in 0..3 {
            assert_eq!(sealer.seal_into(b"more", &mut [0; 100]), Err(SealError::Exhausted));
        }
        assert_eq!(open(&mut opener, &last), Err(DropReason::RecordReplayed));
    }

    proptest! {
        /// Covers: P-024, R15: a damaged record is dropped and moves nothing.
        #[test]
        fn a_flipped_bit_is_never_opened_and_never_moves_the_window(
            suite in prop_oneof![Just(0usize), Just(1), Just(2)],
            at in 0usize..1_000,
            bit in 0u8..8,
        ) {
            let (sealer, mut opener) = pair(Suite::PSK[suite], 1);
            let good = sealed(&sealer, &[5; 60]);
            let mut bad = good.clone();
            let at = at % bad.len();
            bad[at] ^= 1 << bit;
            let window = opener.window.clone();
            prop_assert!(open(&mut opener, &bad).is_err());
            prop_assert_eq!(&opener.window, &window);
            prop_assert_eq!(open(&mut opener, &good).unwrap(), vec![5; 60]);
        }
    }

    #[test]
    fn a_record_is_recognized_without_being_consumed() {
        let (sealer, mut opener) = pair(Suite::PskChaCha20Poly1305, 1);
        let record = sealed(&sealer, b"hello");
        let header = RecordHeader::parse(&record).unwrap();
        let mut scratch = Vec::new();
        assert!(opener.recognizes(&header, &record, &mut scratch));
        assert!(opener.recognizes(&header, &record, &mut scratch));
        assert!(open(&mut opener, &record).is_ok());
        assert!(!opener.recognizes(&header, &record, &mut scratch));
    }
}
