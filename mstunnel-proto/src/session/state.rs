//! The life of a session's connection.
//!
//! ```text
//!            CloseRequested             Flushed
//!   Open ----------------------> Closing -------> Closed
//!    |                              |               ^
//!    +---- PeerLeft, DpdExpired ----+---------------+
//! ```
//!
//! `Closing` waits until the DISCONNECT frame is handed to the caller. Everything else in `Closed`
//! and every second close is invalid and changes nothing, so that a session ends exactly once.

/// Where a session's connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    /// Packets flow.
    Open,
    /// Ended on our side; a DISCONNECT is still to be sent.
    Closing,
    /// Over; only counters remain.
    Closed,
}

/// What moves a [`SessionState`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cue {
    CloseRequested,
    Flushed,
    PeerLeft,
    DpdExpired,
}

impl SessionState {
    /// The state after `cue`; `None` where the cue is not valid.
    pub(crate) fn next(self, cue: Cue) -> Option<Self> {
        Some(match (self, cue) {
            (Self::Open, Cue::CloseRequested) => Self::Closing,
            (Self::Open | Self::Closing, Cue::PeerLeft | Cue::DpdExpired) => Self::Closed,
            (Self::Closing, Cue::Flushed) => Self::Closed,
            (Self::Open, Cue::Flushed)
            | (Self::Closing, Cue::CloseRequested)
            | (Self::Closed, Cue::CloseRequested | Cue::Flushed | Cue::PeerLeft | Cue::DpdExpired) => {
                return None;
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: P-014
    #[test]
    fn every_pair_is_as_drawn() {
        use SessionState::{Closed, Closing, Open};
        let picture = [
            (Open, Cue::CloseRequested, Some(Closing)),
            (Open, Cue::Flushed, None),
            (Open, Cue::PeerLeft, Some(Closed)),
            (Open, Cue::DpdExpired, Some(Closed)),
            (Closing, Cue::CloseRequested, None),
            (Closing, Cue::Flushed, Some(Closed)),
            (Closing, Cue::PeerLeft, Some(Closed)),
            (Closing, Cue::DpdExpired, Some(Closed)),
            (Closed, Cue::CloseRequested, None),
            (Closed, Cue::Flushed, None),
            (Closed, Cue::PeerLeft, None),
            (Closed, Cue::DpdExpired, None),
        ];
        for (state, cue, after) in picture {
            assert_eq!(state.next(cue), after, "{state:?} {cue:?}");
        }
    }
}
