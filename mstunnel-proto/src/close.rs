//! Why a session or its connection ended, and what that does to the cookie and on the wire.
//!
//! | reason | frame sent | cookie |
//! | --- | --- | --- |
//! | user left (BYE `0xB0`), administrator, session timeout, idle timeout | DISCONNECT | dead |
//! | taken over by a reconnect | DISCONNECT on the old connection | lives on in the new connection |
//! | stream end, DPD death, stalled reader, drain | none | alive for the reconnect window |
//! | protocol error | DISCONNECT | alive for the reconnect window |
//!
//! A DISCONNECT makes the stock client give up for good (protocol.md 4.4), so that a session the
//! client shall resume ends without one.

/// Why a session's connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The user signed out: DISCONNECT with first byte `0xB0`.
    UserLeft,
    /// The client left for now: DISCONNECT without payload.
    ClientPaused,
    /// TLS or TCP ended without a DISCONNECT.
    StreamClosed,
    /// The client was asked and did not answer.
    DpdTimeout,
    /// No packets for the idle timeout.
    IdleTimeout,
    /// The session timeout, counted from authentication.
    SessionTimeout,
    /// A new connection with the same cookie took the session over.
    TakenOver,
    /// An administrator ended the session.
    AdminDisconnect,
    /// The user was removed or locked.
    AccountRevoked,
    /// The client read nothing for the stall limit.
    Stalled,
    /// The client broke the framing.
    ProtocolError,
    /// The server is going down and the client shall come back.
    ServerShutdown,
    /// A defect of ours in this session's code.
    InternalError,
}

/// What a close does to the session's cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CookieFate {
    /// The cookie is dead at once; a CONNECT with it is answered 401.
    Dies,
    /// The cookie may reconnect within the reconnect window.
    WaitsForReconnect,
    /// The cookie now belongs to a newer connection; this close must not touch it.
    BelongsToSuccessor,
}

impl CloseReason {
    /// What becomes of the cookie.
    ///
    /// # Source
    /// protocol.md 4.7 and statement 41; idle timeout ends the session for good, since a client that
    /// gets a DISCONNECT never reconnects by itself.
    pub const fn cookie_fate(self) -> CookieFate {
        match self {
            Self::UserLeft
            | Self::SessionTimeout
            | Self::IdleTimeout
            | Self::AdminDisconnect
            | Self::AccountRevoked => CookieFate::Dies,
            Self::ClientPaused
            | Self::StreamClosed
            | Self::DpdTimeout
            | Self::Stalled
            | Self::ProtocolError
            | Self::ServerShutdown
            | Self::InternalError => CookieFate::WaitsForReconnect,
            Self::TakenOver => CookieFate::BelongsToSuccessor,
        }
    }

    /// Whether a DISCONNECT frame tells the client.
    ///
    /// # Source
    /// protocol.md 4.4 and statement 42.
    pub const fn sends_disconnect(self) -> bool {
        match self {
            Self::SessionTimeout
            | Self::IdleTimeout
            | Self::AdminDisconnect
            | Self::AccountRevoked
            | Self::TakenOver
            | Self::ProtocolError => true,
            Self::UserLeft
            | Self::ClientPaused
            | Self::StreamClosed
            | Self::DpdTimeout
            | Self::Stalled
            | Self::ServerShutdown
            | Self::InternalError => false,
        }
    }

    /// The name in logs and counters: lower case with underscores.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserLeft => "user_left",
            Self::ClientPaused => "client_paused",
            Self::StreamClosed => "stream_closed",
            Self::DpdTimeout => "dpd_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::SessionTimeout => "session_timeout",
            Self::TakenOver => "taken_over",
            Self::AdminDisconnect => "admin_disconnect",
            Self::AccountRevoked => "account_revoked",
            Self::Stalled => "stalled",
            Self::ProtocolError => "protocol_error",
            Self::ServerShutdown => "server_shutdown",
            Self::InternalError => "internal_error",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_final_end_kills_the_cookie() {
        assert_eq!(CloseReason::UserLeft.cookie_fate(), CookieFate::Dies);
        assert_eq!(CloseReason::StreamClosed.cookie_fate(), CookieFate::WaitsForReconnect);
        assert_eq!(CloseReason::DpdTimeout.cookie_fate(), CookieFate::WaitsForReconnect);
        assert_eq!(CloseReason::TakenOver.cookie_fate(), CookieFate::BelongsToSuccessor);
    }

    #[test]
    fn a_client_that_shall_come_back_gets_no_disconnect() {
        for reason in [CloseReason::ServerShutdown, CloseReason::DpdTimeout, CloseReason::StreamClosed] {
            assert!(!reason.sends_disconnect(), "{reason:?}");
        }
    }
}
