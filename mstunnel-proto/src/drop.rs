//! Why a packet was discarded while its session lives on; every reason is a counter.

use std::fmt;

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet or frame was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name of the counter: lower case with underscores.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

drop_reasons! {
    /// The source of a packet from the client is not its lease (R41).
    SourceNotLeased = "source_not_leased",
    /// Not an IPv4 or IPv6 packet, or its lengths disagree (R44).
    Malformed = "malformed",
    /// Longer than the channel carries.
    TooBig = "too_big",
    /// A destination that this session may not reach: access rules, other clients, the server (R42, R43).
    NotPermitted = "not_permitted",
    /// A frame type that the protocol does not know; ignored for compatibility.
    UnknownFrame = "unknown_frame",
    /// A compressed frame on a channel that negotiated no compression.
    NotNegotiated = "not_negotiated",
    /// The session's inbound queue was full; its oldest packet made room.
    QueueFull = "queue_full",
    /// The packet waited in a queue for longer than it is worth sending.
    QueueStale = "queue_stale",
    /// No session owns the destination address.
    NoSession = "no_session",
    /// More control frames than a client of good will sends.
    RateLimited = "rate_limited",
    /// The session had ended when the packet arrived.
    SessionClosed = "session_closed",
    /// The datagram channel closed between the choice of it and the sending.
    ChannelClosed = "channel_closed",
    /// The network behind the server did not take the packet.
    EgressRefused = "egress_refused",
    /// A datagram, or the rest of one, that is no DTLS record.
    NotARecord = "not_a_record",
    /// A record of a key generation that is not in use, or of a kind that has no place in its.
    RecordMisplaced = "record_misplaced",
    /// A record that came before, or that is too old to know (R16).
    RecordReplayed = "record_replayed",
    /// A record whose tag does not fit: damaged, forged, or of another association (R15).
    RecordForged = "record_forged",
    /// An alert that nobody has authenticated (R15).
    AlertInClear = "alert_in_clear",
    /// A handshake message, or a fragment of one, that is malformed, out of turn, or in contradiction to what
    /// came before (R17).
    HandshakeRefused = "handshake_refused",
    /// Handshake messages that are more than is kept for a peer who has not finished (R17).
    HandshakeTooLarge = "handshake_too_large",
    /// A ClientHello that can lead nowhere: malformed, random all zero, or no suite that we have (R11, R14).
    HelloRefused = "hello_refused",
    /// The ClientHello that the channel in use was made from, again (R18).
    HelloReplayed = "hello_replayed",
    /// A ClientHello for a session that does not live (R13).
    UnknownAppId = "unknown_app_id",
    /// A datagram of an address that belongs to no session, and no ClientHello.
    UnknownAddress = "unknown_address",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One counter for each [`DropReason`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropCounters([u64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([0; DropReason::ALL.len()])
    }
}

impl DropCounters {
    /// Counts one drop.
    pub fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// Counts `count` drops at once.
    pub fn add(&mut self, reason: DropReason, count: u64) {
        self.0[reason as usize] += count;
    }

    /// How often `reason` was counted.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }

    /// Every reason with its count, zero included.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&reason| (reason, self.get(reason)))
    }

    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        let mut counters = DropCounters::default();
        for (index, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, index);
            counters.count(reason);
            assert_eq!(counters.get(reason), 1);
        }
        assert_eq!(counters.total(), DropReason::ALL.len() as u64);
        let names: std::collections::BTreeSet<_> =
            DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
