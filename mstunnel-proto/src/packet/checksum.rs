//! The Internet checksum: computed from scratch, and updated for what has changed.
//!
//! One's complement arithmetic has two zeros. A sum over anything but zeros is never 0x0000, so a
//! checksum that was computed is never 0xFFFF; the update by `~(~HC + ~m + m')` keeps that, which the
//! shorter form of RFC 1141 does not. UDP is the exception on the wire: a computed 0x0000 is sent as
//! 0xFFFF, because 0x0000 there means that there is no checksum.
//!
//! # Source
//! RFC 1071, RFC 1624 equation 3, RFC 768.

use std::net::IpAddr;

/// A one's complement sum that is being added up; the order of even-sized parts does not matter.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum(u64);

impl Sum {
    /// Starts with the pseudo header of TCP, UDP and ICMPv6.
    ///
    /// `len` is that of transport header and payload in bytes.
    ///
    /// # Source
    /// RFC 9293 section 3.1, RFC 8200 section 8.1.
    #[must_use]
    pub fn pseudo_header(source: IpAddr, destination: IpAddr, protocol: u8, len: u32) -> Self {
        Self::default().address(source).address(destination).word(protocol.into()).bytes(&len.to_be_bytes())
    }

    /// Adds a 16-bit word.
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word))
    }

    /// Adds bytes that start at an even offset; an odd last one is followed by a zero.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let (words, rest) = rest.as_chunks::<4>();
        // 2^16 is 1 modulo 0xFFFF: adding 32-bit words and folding later is the same sum.
        let sum: u64 = words.iter().map(|word| u64::from(u32::from_be_bytes(*word))).sum();
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        Self(self.0 + sum_of_blocks(blocks) + sum + u64::from(u32::from_be_bytes(last)))
    }

    /// The sum folded into 16 bits.
    #[must_use]
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > u64::from(u16::MAX) {
            sum = (sum & 0xFFFF) + (sum >> 16);
        }
        u16::try_from(sum).expect("folded to 16 bits")
    }

    /// The checksum field that makes all of it, the field included, add up; 0 when it already does.
    #[must_use]
    pub fn checksum(self) -> u16 {
        !self.fold()
    }

    fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.bytes(&address.octets()),
            IpAddr::V6(address) => self.bytes(&address.octets()),
        }
    }
}

/// Bytes that are added up side by side: what a vector register or two hold.
const BLOCK: usize = 32;

/// Adds in the order of the host, whose swapped sum is the sum of the swapped words (RFC 1071 section 2 (B)); the halves of
/// eight bytes apart, so that nothing carries. Twice as fast as 32-bit words in network order.
fn sum_of_blocks(blocks: &[[u8; BLOCK]]) -> u64 {
    let (mut low, mut high) = ([0_u64; BLOCK / 8], [0_u64; BLOCK / 8]);
    for block in blocks {
        for ((low, high), eight) in low.iter_mut().zip(&mut high).zip(block.as_chunks::<8>().0) {
            let eight = u64::from_ne_bytes(*eight);
            *low += eight & u64::from(u32::MAX);
            *high += eight >> 32;
        }
    }
    let sum = Sum(low.iter().chain(&high).sum());
    u16::from_be(sum.fold()).into()
}

/// What has changed under a checksum; gathered once, applied to each checksum that covers it.
///
/// ```
/// use mstunnel_proto::packet::checksum::{Change, Sum};
///
/// let (old, new) = ([10, 0, 0, 2], [192, 0, 2, 1]);
/// let checksum = Sum::default().bytes(&old).word(7).checksum();
/// let updated = Change::default().bytes(&old, &new).apply(checksum);
/// assert_eq!(updated, Sum::default().bytes(&new).word(7).checksum());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Change(Sum);

impl Change {
    /// A 16-bit word was `old` and is `new`.
    #[must_use]
    pub fn word(self, old: u16, new: u16) -> Self {
        Self(self.0.word(!old).word(new))
    }

    /// Bytes at an even offset were `old` and are `new`, of the same length.
    #[must_use]
    pub fn bytes(self, old: &[u8], new: &[u8]) -> Self {
        debug_assert_eq!(old.len(), new.len(), "a change keeps the length");
        Self(self.0.word(!Sum::default().bytes(old).fold()).bytes(new))
    }

    /// The checksum field that was `field`. For the IPv4 header, TCP, ICMP and ICMPv6.
    #[must_use]
    pub fn apply(self, field: u16) -> u16 {
        self.0.word(!field).checksum()
    }

    /// The UDP checksum field that was `field`: none stays none, and none appears.
    #[must_use]
    pub fn apply_udp(self, field: u16) -> u16 {
        match field {
            0 => 0,
            field => match self.apply(field) {
                0 => 0xFFFF,
                updated => updated,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::testing::*;
    use super::*;

    /// Words among which both zeros and carries are frequent.
    fn word() -> impl Strategy<Value = u16> {
        prop_oneof![Just(0), Just(1), Just(0xFFFE), Just(0xFFFF), any::<u16>()]
    }

    fn words() -> impl Strategy<Value = Vec<u16>> {
        proptest::collection::vec(word(), 1..12)
    }

    fn to_bytes(words: &[u16]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_be_bytes()).collect()
    }

    #[test]
    fn the_example_of_rfc_1071_adds_up() {
        let bytes = [0x00, 0x01, 0xF2, 0x03, 0xF4, 0xF5, 0xF6, 0xF7];
        assert_eq!(Sum::default().bytes(&bytes).fold(), 0xDDF2);
    }

    #[test]
    fn the_longest_packet_of_the_largest_words_adds_up() {
        for len in [65_535, 65_536] {
            let bytes = vec![0xFF; len];
            assert_eq!(Sum::default().bytes(&bytes).checksum(), naive_checksum(&bytes));
        }
    }

    /// The case in which the form of RFC 1141 gives 0xFFFF.
    #[test]
    fn the_example_of_rfc_1624_gives_plus_zero() {
        assert_eq!(Change::default().word(0x5555, 0x3285).apply(0xDD2F), 0x0000);
    }

    #[test]
    fn a_udp_checksum_never_appears_or_disappears() {
        assert_eq!(Change::default().word(1, 2).apply_udp(0), 0);
        assert_eq!(Change::default().word(0x5555, 0x3285).apply_udp(0xDD2F), 0xFFFF);
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Sum::default().bytes(&bytes).checksum(), naive_checksum(&bytes));
        }

        #[test]
        fn parts_of_even_length_add_up_in_any_order(a in words(), b in words(), tail in any::<u8>()) {
            let (a, b) = (to_bytes(&a), to_bytes(&b));
            let whole = naive_checksum(&[&a[..], &b, &[tail]].concat());
            prop_assert_eq!(Sum::default().bytes(&b).bytes(&[tail]).bytes(&a).checksum(), whole);
        }

        #[test]
        fn the_pseudo_header_is_that_of_the_definition(
            is_v4 in any::<bool>(), source in any::<[u8; 16]>(), to in any::<[u8; 16]>(), protocol in any::<u8>(),
            segment in proptest::collection::vec(any::<u8>(), 0..60),
        ) {
            let address = |octets: [u8; 16]| match is_v4 {
                true => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
                false => IpAddr::from(octets),
            };
            let len = u32::try_from(segment.len()).unwrap();
            let sum = Sum::pseudo_header(address(source), address(to), protocol, len).bytes(&segment);
            prop_assert_eq!(sum.checksum(), naive_transport(address(source), address(to), protocol, &segment));
        }

        /// Covers: R44, P-068
        #[test]
        fn an_update_equals_the_recomputation(before in words(), after in words(), rest in words()) {
            let len = before.len().min(after.len());
            let (before, after, rest) = (to_bytes(&before[..len]), to_bytes(&after[..len]), to_bytes(&rest));
            let checksum = |changed: &[u8]| naive_checksum(&[changed, &rest].concat());
            // All zeros are the one text that has two checksums; no header is all zeros.
            prop_assume!([&before[..], &rest].concat().iter().any(|byte| *byte != 0));
            prop_assume!([&after[..], &rest].concat().iter().any(|byte| *byte != 0));
            let change = Change::default().bytes(&before, &after);
            prop_assert_eq!(change.apply(checksum(&before)), checksum(&after));

            let on_the_wire = |checksum| if checksum == 0 { 0xFFFF } else { checksum };
            let updated = change.apply_udp(on_the_wire(checksum(&before)));
            prop_assert_eq!(updated, on_the_wire(checksum(&after)));
        }

        /// Covers: R44, P-068
        #[test]
        fn words_one_by_one_are_the_same_change(before in proptest::array::uniform6(word()), after in proptest::array::uniform6(word()), field in 0_u16..0xFFFF) {
            let by_words = before.iter().zip(&after).fold(Change::default(), |change, (old, new)| change.word(*old, *new));
            let at_once = Change::default().bytes(&to_bytes(&before), &to_bytes(&after));
            let same = |a: u16, b: u16| a == b || (a.wrapping_add(1) <= 1 && b.wrapping_add(1) <= 1);
            prop_assert!(same(by_words.apply(field), at_once.apply(field)));
        }
    }
}
