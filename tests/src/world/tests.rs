//! The world's own tests, and the cases of threats.md that need no real network.

mod crowds;
mod datagrams;
mod histories;
mod rules;
mod sessions;

use std::time::Duration;

use super::{ClientId, Wish, World};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Sends an echo through the tunnel; returns whether it came out at the other end within two seconds.
fn reaches(world: &mut World, client: ClientId) -> bool {
    let Ok(number) = world.probe(client, [10, 1, 0, 7].into(), 400, Wish::Echo) else { return false };
    world.advance(secs(2));
    world.has_arrived(number)
}
