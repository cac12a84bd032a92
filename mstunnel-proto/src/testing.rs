//! The origin of virtual time for the tests of this crate.

use std::time::Instant;

/// Returns an instant to count from; tests add durations to it and never read a clock again.
#[expect(clippy::disallowed_methods, reason = "the origin of virtual time")]
pub(crate) fn origin() -> Instant {
    Instant::now()
}
