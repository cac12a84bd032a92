//! The descriptor limit of the process: raised as far as it goes, and checked against the sessions.

use rustix::process::{Resource, getrlimit, setrlimit};

/// Descriptors beside those of sessions: listeners, TUN queues, files, strangers before sign-in.
const BESIDE_SESSIONS: u64 = 512;

/// How many descriptors the flows of userspace egress may take together: half, so that sessions keep theirs (R56).
pub(crate) fn descriptors_for_flows() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / 2).unwrap_or(usize::MAX)
}

/// Raises the soft limit to the hard one, and warns when `max_clients` sessions do not fit (R56).
pub(crate) fn raise_descriptors(max_clients: u32) {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "cannot raise the descriptor limit");
        }
    }
    let want = u64::from(max_clients) + BESIDE_SESSIONS;
    if let Some(have) = getrlimit(Resource::Nofile).current
        && have < want
    {
        tracing::warn!(
            have,
            want,
            "the descriptor limit does not fit max-clients; raise LimitNOFILE or lower max-clients"
        );
    }
}
