//! Numbers that look random, of a seed: for spreading things evenly, never for secrets.

/// The number at `step` of the sequence of `seed`, spread evenly over all of `u64`.
///
/// SplitMix64 (public domain): seeds may be small neighbouring numbers.
pub(crate) fn mixed(seed: u64, step: u64) -> u64 {
    let mut mixed = seed.wrapping_add((step + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_is_that_of_splitmix64() {
        // The first outputs for the seed 1234567, as published with the generator.
        assert_eq!(mixed(1_234_567, 0), 6_457_827_717_110_365_317);
        assert_eq!(mixed(1_234_567, 1), 3_203_168_211_198_807_973);
    }
}
