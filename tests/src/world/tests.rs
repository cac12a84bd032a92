//! The world's own tests, and the cases of threats.md that need no real network.

mod crowds;
mod datagrams;
mod histories;
mod rules;
mod sessions;

use std::time::Duration;

use mstunnel_proto::connect::Families;

use super::{ClientId, Ending, NatKind, PASSWORD, Profile, ServerId, Wish, World};

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A client behind a NAT box of that kind, signed in.
fn connect_behind(world: &mut World, nat: NatKind) -> ClientId {
    let profile =
        Profile { user: "ada".into(), password: PASSWORD.into(), datagrams: true, families: Families::BOTH };
    let client = world.add_client_with(profile, nat, ServerId(0));
    world.sign_in(client);
    world.advance(secs(10));
    client
}

/// Comes back with a cookie that has to be good no more.
fn assert_refused(world: &mut World, client: ClientId, cookie: Option<zeroize::Zeroizing<String>>) {
    world.places[client.0].client.cookie = cookie;
    world.reconnect(client);
    world.advance(secs(5));
    assert_eq!(world.ending(client), Some(Ending::CookieRefused));
}

/// Sends an echo through the tunnel; returns whether it came out at the other end within two seconds.
fn reaches(world: &mut World, client: ClientId) -> bool {
    let Ok(number) = world.probe(client, [10, 1, 0, 7].into(), 400, Wish::Echo) else { return false };
    world.advance(secs(2));
    world.has_arrived(number)
}
