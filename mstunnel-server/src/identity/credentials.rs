//! The words between login desk and verifier, and the one spelling of a user name.

use mstunnel_proto::auth::UserName;
pub use mstunnel_proto::auth::{Credentials, Verdict};

/// A name in its one spelling.
pub(crate) fn canonical(name: &str) -> Option<String> {
    UserName::canonical(name, &[]).ok().map(|name| name.as_str().to_owned())
}
