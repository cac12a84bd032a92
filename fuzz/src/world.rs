//! A whole world, in virtual time.

use mstunnel_tests::world::history::{History, Transition};

/// Transitions of one history: as many as the random histories of the tests have.
const MAX_TRANSITIONS: usize = 40;

/// A history: eight bytes seed the world, each four that follow are a transition. Whatever happens, the rules of the
/// world hold, it recovers, and nothing is left behind.
pub fn world_history(data: &[u8]) {
    let Some((seed, mut rest)) = data.split_first_chunk::<8>() else {
        return;
    };
    let transitions = std::iter::from_fn(|| Transition::read(&mut rest)).take(MAX_TRANSITIONS).collect();
    History { seed: u64::from_be_bytes(*seed), transitions }.run();
}
