//! What the control socket may ask of the server.

use std::net::IpAddr;

use tokio::sync::broadcast;

use super::rows::{BanRow, Event, SessionRow, Status, UserRow};

/// A running server, as its administrator sees it.
///
/// Every method is called on a thread that may block for a moment, never on a packet path.
pub trait ServerControl: Send + Sync + 'static {
    /// The counters and the state of the whole server.
    fn status(&self) -> Status;

    /// One row for each session that has a connection now.
    fn users(&self) -> Vec<UserRow>;

    /// Every session, those that wait for their client to come back included.
    fn sessions(&self) -> Vec<SessionRow>;

    /// The session with this id.
    fn session(&self, id: u64) -> Option<SessionRow>;

    /// Every source with ban points, banned or not.
    fn bans(&self) -> Vec<BanRow>;

    /// Ends every session of `user` and kills the cookies; tells how many there were.
    fn disconnect_user(&self, user: &str) -> usize;

    /// Ends one session and kills its cookie; `false` when there is none with this id.
    fn disconnect_id(&self, id: u64) -> bool;

    /// Forgets the points of `address` (IPv6: of its /64); `false` when it had none.
    fn unban(&self, address: IpAddr) -> bool;

    /// Reads the configuration again: what changed, or why nothing did (R76).
    ///
    /// # Errors
    /// Every problem of the new configuration, one a line; the old one stays in force.
    fn reload(&self) -> Result<String, String>;

    /// Accepts no new session from now on.
    fn drain(&self);

    /// Begins the orderly end, as SIGTERM does.
    fn stop(&self);

    /// The events from now on; a reader that is too slow loses the oldest.
    fn events(&self) -> broadcast::Receiver<Event>;
}
