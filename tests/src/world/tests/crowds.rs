//! Many clients at once.

use super::super::{ClientId, Death, ServerId, Settings, World};
use super::secs;

const SERVER: ServerId = ServerId(0);

/// A server and so many clients, all live.
fn crowd(seed: u64, size: usize) -> (World, Vec<ClientId>) {
    let settings = Settings {
        pool_v4: "10.9.0.0/16".parse().unwrap(),
        // Phones are asked now and then.
        dpd: secs(300),
        keepalive: secs(300),
        ..Settings::default()
    };
    let mut world = World::seeded(seed).with_settings(settings);
    let clients: Vec<_> = (0..size).map(|_| world.add_client()).collect();
    for some in clients.chunks(100) {
        some.iter().for_each(|client| world.sign_in(*client));
        world.advance(secs(1));
    }
    world.advance(secs(10));
    assert!(clients.iter().all(|client| world.is_live(*client)));
    (world, clients)
}

/// Covers: R51, R59, R60: an hour of two thousand sessions costs what their questions cost, and leaves nothing.
#[test]
fn two_thousand_idle_sessions_do_nothing_but_ask_now_and_then() {
    let (mut world, clients) = crowd(51, 2_000);
    let before = world.happened();
    world.advance(secs(3_600));
    // A question, an answer and a keepalive on each channel in five minutes, at each end, and their deadlines.
    let per_session = (world.happened() - before) as f64 / 2_000.0 / 12.0;
    assert!(per_session < 20.0, "{per_session} things happen in five minutes of one session");
    assert!(clients.iter().all(|client| world.is_live(*client)));
    world.end();
}

/// Covers: R4, R54, P-129: two thousand clients lose the server at once and are back within a minute.
#[test]
fn a_crowd_that_loses_its_server_is_back_within_a_minute() {
    let (mut world, clients) = crowd(52, 2_000);
    let before: Vec<_> = clients.iter().map(|client| world.leases(*client)).collect();
    world.kill_server(SERVER, Death::Process);
    world.advance(secs(5));
    world.start_server(SERVER);
    world.advance(secs(60));
    let after: Vec<_> = clients.iter().map(|client| world.leases(*client)).collect();
    assert!(before == after, "all are back with their addresses");
    world.end();
}

/// Covers: P-118, R76: a server takes up other settings a thousand times; its sessions stay.
#[test]
fn a_thousand_reloads_disturb_nobody() {
    let (mut world, clients) = crowd(53, 50);
    for round in 0_u32..1_000 {
        world.reload(SERVER, |settings| settings.udp = round % 2 == 0);
        world.advance(secs(1));
    }
    for client in clients {
        assert!(world.is_live(client));
    }
    world.end();
}
