//! The administrator's side of a running server: a local control socket and the tool that asks it.
//!
//! ```text
//! mst-cli  --JSON line-->  control socket (0600, peer uid checked)  -->  ServerControl  -->  the server
//!          <--JSON line--
//! ```
//!
//! [`ServerControl`] is all that the socket knows of the server, so that both ends are tested without
//! one. Nothing that passes here ever holds a cookie, a key or a token (threats.md R84): the row types
//! have no place for them.

mod cli;
mod client;
mod control;
mod protocol;
mod render;
mod rows;
mod run;
mod socket;
#[cfg(test)]
mod testing;
mod validate;

pub use self::cli::{
    Action, Arguments, ConfigAction, DisconnectAction, IpTable, ServerAction, ShowAction, UnbanAction,
};
pub use self::client::{Client, ClientError};
pub use self::control::ServerControl;
pub use self::protocol::{Command, ErrorCode, Outcome, Refusal, Reply, Request, Response, VERSION};
pub use self::rows::{
    BanRow, Connections, Event, EventKind, Logins, ServerState, SessionRow, Status, UserRow, drop_counts,
};
pub use self::run::{ConfigCheck, Exit, run};
pub use self::socket::{AdminError, AdminSocket, serve};
pub use self::validate::check_file;

/// Where the control socket is unless `[admin] socket` says otherwise (design.md 6).
pub const DEFAULT_SOCKET: &str = "/run/mstunnel/control.sock";
