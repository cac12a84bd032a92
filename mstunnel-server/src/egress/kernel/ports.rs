//! The outside ports of masqueraded flows.
//!
//! A client that may choose its outside port can make a flow whose answers look like packets for a
//! service of the server, and so take that service away from a third party (CVE-2021-3773, threats.md
//! R46). So every masqueraded TCP and UDP flow leaves from a random port of a range that holds neither
//! a port on which the server listens nor the ephemeral ports of the server's own connections.

use std::ops::RangeInclusive;

/// Above the services that hosts usually run, below the ephemeral ports of Linux (32768 on). The limit
/// this sets is 22,528 flows of one protocol to one destination address and port.
pub(super) const MASQUERADE_PORTS: RangeInclusive<u16> = 10240..=32767;

/// The largest part of [`MASQUERADE_PORTS`] without any of `listening`.
pub(super) fn free_range(listening: &[u16]) -> RangeInclusive<u16> {
    let mut taken: Vec<u16> =
        listening.iter().copied().filter(|port| MASQUERADE_PORTS.contains(port)).collect();
    taken.sort_unstable();
    let mut best = (0, *MASQUERADE_PORTS.start()..=*MASQUERADE_PORTS.start());
    let mut start = *MASQUERADE_PORTS.start();
    // Ports stay below 32768, so that one more never overflows.
    for end in taken.iter().copied().chain([*MASQUERADE_PORTS.end() + 1]) {
        let room = end.saturating_sub(start);
        if room > best.0 {
            best = (room, start..=end - 1);
        }
        start = end + 1;
    }
    best.1
}

/// The ephemeral range as `/proc/sys/net/ipv4/ip_local_port_range` tells it, if it overlaps `range`.
pub(super) fn overlap(range: &RangeInclusive<u16>, local: &str) -> Option<(u16, u16)> {
    let mut numbers = local.split_whitespace().map(str::parse::<u16>);
    let (Some(Ok(low)), Some(Ok(high))) = (numbers.next(), numbers.next()) else { return None };
    (low <= *range.end() && high >= *range.start()).then_some((low, high))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_usual_server_leaves_the_whole_range() {
        assert_eq!(free_range(&[443, 8443, 60000]), MASQUERADE_PORTS);
    }

    #[test]
    fn a_listening_port_in_the_range_halves_it() {
        assert_eq!(free_range(&[12000]), 12001..=32767);
        assert_eq!(free_range(&[30000]), 10240..=29999);
        assert_eq!(free_range(&[10240, 32767]), 10241..=32766);
    }

    #[test]
    fn the_default_ephemeral_range_of_linux_does_not_overlap() {
        assert_eq!(overlap(&MASQUERADE_PORTS, "32768\t60999\n"), None);
        assert_eq!(overlap(&MASQUERADE_PORTS, "1024 65535"), Some((1024, 65535)));
        assert_eq!(overlap(&MASQUERADE_PORTS, "rubbish"), None);
    }

    proptest! {
        /// Covers: R46
        #[test]
        fn no_masqueraded_flow_leaves_from_a_listening_port(ports in proptest::collection::vec(any::<u16>(), 0..64)) {
            let range = free_range(&ports);
            prop_assert!(ports.iter().all(|port| !range.contains(port)));
            prop_assert!(MASQUERADE_PORTS.contains(range.start()) && MASQUERADE_PORTS.contains(range.end()));
        }
    }
}
