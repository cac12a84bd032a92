//! Unpredictable numbers: ports, sequence numbers and identifiers that an attacker has to guess.

/// Eight random bytes from the operating system's generator.
pub(crate) fn u64() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator does not fail");
    u64::from_ne_bytes(bytes)
}

/// Two random bytes.
pub(crate) fn u16() -> u16 {
    let [low, high, ..] = u64().to_ne_bytes();
    u16::from_ne_bytes([low, high])
}

/// A port of the dynamic range, 49152 to 65535 (RFC 6056 section 3.2, RFC 6335 section 6).
pub(super) fn port() -> u16 {
    49_152 | (u16() & 0x3FFF)
}
