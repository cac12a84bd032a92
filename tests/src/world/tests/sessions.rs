//! Sessions: cookies, leases, time, and what a server's death does to them.

use mstunnel_proto::drop::DropReason;

use super::super::{Death, Ending, NatKind, Rebinding, ServerId, Settings, Wish, World};
use super::{assert_refused, connect_behind, ms, reaches, secs};

const SERVER: ServerId = ServerId(0);

/// Covers: R5, R6, R51
#[test]
fn a_silent_client_is_closed_after_dpd_and_its_address_comes_back() {
    let mut world = World::seeded(7).with_latency(ms(40));
    let client = world.connect();
    world.kill_client(client, Death::Machine);
    world.advance(secs(95));
    assert_eq!(world.sessions(SERVER), 1, "the cookie waits for a reconnect");
    world.advance(secs(301));
    assert_eq!(world.sessions(SERVER), 0);
    world.end();
}

/// Covers: R4, R6, P-006
#[test]
fn a_cookie_brings_the_same_addresses_back_however_the_client_died() {
    let mut world = World::seeded(8);
    let client = world.connect();
    let first = world.leases(client);
    for (death, wait) in [(Death::Process, 2), (Death::Machine, 200), (Death::Process, 290)] {
        world.kill_client(client, death);
        world.advance(secs(wait));
        world.reconnect(client);
        world.advance(secs(5));
        assert_eq!(world.leases(client), first, "{death:?}");
        assert!(reaches(&mut world, client));
    }
    world.kill_client(client, Death::Process);
    world.advance(secs(302));
    world.reconnect(client);
    world.advance(secs(5));
    assert_eq!(world.ending(client), Some(Ending::CookieRefused));
    world.end();
}

/// Covers: R6, P-009
#[test]
fn a_goodbye_ends_the_cookie_at_once() {
    let mut world = World::seeded(9);
    let client = world.connect();
    let cookie = world.places[0].client.cookie.clone();
    world.leave(client);
    world.advance(secs(1));
    assert_eq!(world.sessions(SERVER), 0);
    assert_refused(&mut world, client, cookie);
    world.end();
}

/// Covers: R7, P-010
#[test]
fn the_new_connection_wins_and_the_session_is_one() {
    let mut world =
        World::seeded(10).with_settings(Settings { max_per_user: Some(1), ..Settings::default() });
    let client = world.connect();
    let first = world.leases(client);
    world.take_over(client);
    world.advance(secs(5));
    assert_eq!(world.leases(client), first);
    assert_eq!(world.sessions(SERVER), 1);
    assert_eq!(world.sites[0].server.tunnels().count(), 1, "the old connection has ended");
    assert!(reaches(&mut world, client));
    world.end();
}

/// Covers: R7, R15, R18, P-011
#[test]
fn what_arrives_from_the_old_session_does_not_disturb_the_new_one() {
    let mut world = World::seeded(11);
    let client = world.connect();
    world.advance(secs(5));
    assert!(reaches(&mut world, client));
    let old = world.places[0].copies.clone();
    world.take_over(client);
    for (round, (from, bytes)) in old.iter().cycle().take(200).enumerate() {
        let mut bytes = bytes.clone();
        if round % 3 == 0 {
            // A close alert in clear, as a stranger may make one.
            bytes = vec![21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 1, 0];
        }
        world.inject_datagram(SERVER, *from, bytes);
        world.advance(ms(50));
    }
    world.advance(secs(5));
    world.demand_traffic(client);
    assert_eq!(world.server_channel(client), world.channel(client));
    let dropped = world.strays(SERVER, DropReason::UnknownAppId)
        + world.strays(SERVER, DropReason::UnknownAddress)
        + world.drops(client, DropReason::RecordForged)
        + world.drops(client, DropReason::AlertInClear)
        + world.drops(client, DropReason::RecordMisplaced);
    assert!(dropped > 100, "each is counted: {dropped}");
    world.end();
}

/// Covers: R10, P-012
#[test]
fn reconnecting_does_not_lengthen_a_session() {
    let settings = Settings { session_timeout: Some(secs(60)), ..Settings::default() };
    let mut world = World::seeded(12).with_settings(settings);
    let client = world.connect();
    for _ in 0..2 {
        world.advance(secs(15));
        world.take_over(client);
        world.advance(secs(2));
        assert!(world.is_live(client));
        let (said, _) = world.places[0].client.said().unwrap();
        let left = said.session_timeout_remaining.unwrap();
        assert!(left <= secs(60) - world.age() + secs(3), "{left:?} at {:?}", world.age());
    }
    world.advance(secs(62) - world.age());
    assert_eq!(world.ending(client), Some(Ending::EndedByServer));
    assert_eq!(world.sessions(SERVER), 0);
    world.end();
}

/// Covers: R10, R5, P-008
#[test]
fn questions_and_keepalives_do_not_keep_an_idle_session() {
    let settings = Settings { idle_timeout: Some(secs(60)), ..Settings::default() };
    let mut world = World::seeded(13).with_settings(settings);
    let (idle, busy) = (world.connect(), world.connect());
    for _ in 0..12 {
        assert!(reaches(&mut world, busy));
        world.advance(secs(8));
    }
    assert_eq!(world.ending(idle), Some(Ending::EndedByServer));
    assert!(world.is_live(busy));
    world.end();
}

/// Covers: R50, R51, P-077, P-125
#[test]
fn a_full_pool_refuses_strangers_and_keeps_every_address_for_its_owner() {
    let settings = Settings { pool_v4: "10.9.0.0/29".parse().unwrap(), pool_v6: None, ..Settings::default() };
    let mut world = World::seeded(14).with_settings(settings);
    let owners: Vec<_> = (0..5).map(|_| world.connect()).collect();
    let first = world.leases(owners[0]);
    let stranger = world.add_client();
    world.sign_in(stranger);
    world.advance(secs(5));
    assert!(!world.is_live(stranger), "there are five addresses");
    world.leave(owners[0]);
    world.advance(secs(100));
    assert!(!world.is_live(stranger), "the fifth is held back");
    world.sign_in(owners[0]);
    world.advance(secs(5));
    assert_eq!(world.leases(owners[0]), first, "for its owner");
    world.leave(owners[0]);
    world.leave(stranger);
    world.advance(secs(301));
    world.sign_in(stranger);
    world.advance(secs(5));
    assert_eq!(world.leases(stranger), first, "and free after the hold-back");
    world.end();
}

/// Covers: R50, P-075
#[test]
fn who_gets_an_address_next_gets_none_of_its_former_packets() {
    let settings = Settings { pool_v4: "10.9.0.0/29".parse().unwrap(), pool_v6: None, ..Settings::default() };
    let mut world = World::seeded(15).with_settings(settings);
    let owners: Vec<_> = (0..5).map(|_| world.connect()).collect();
    let address = world.leases(owners[0]).unwrap().v4.unwrap();
    world.leave(owners[0]);
    let next = world.add_client();
    world.sign_in(next);
    let mut late = Vec::new();
    for _ in 0..60 {
        late.push(world.probe_inside(SERVER, address.into(), 500));
        world.advance(secs(6));
    }
    assert!(world.strays(SERVER, DropReason::NoSession) >= 50);
    world.sign_in(next);
    world.advance(secs(5));
    assert_eq!(world.leases(next).unwrap().v4, Some(address));
    assert!(late[..50].iter().all(|number| !world.has_arrived(*number)));
    world.demand_traffic(next);
    world.end();
}

/// Covers: R41, R42, P-064, P-065
#[test]
fn foreign_sources_and_other_clients_are_out_of_reach_on_both_channels() {
    let mut world = World::seeded(16);
    let (client, victim) = (world.connect(), world.connect());
    for udp in [false, true] {
        world.relink(client, |link| link.udp = udp);
        world.advance(secs(90));
        let other = world.leases(victim).unwrap();
        let before = world.drops(client, DropReason::NotPermitted);
        for destination in [other.v4.unwrap().into(), other.v6.unwrap().into()] {
            let number = world.probe(client, destination, 100, Wish::Sink).unwrap();
            world.advance(secs(1));
            assert!(!world.has_arrived(number), "{destination}");
        }
        assert_eq!(world.drops(client, DropReason::NotPermitted), before + 2);
    }
    let spoofed = crate::inner::udp(
        std::net::SocketAddr::new(world.leases(victim).unwrap().v4.unwrap().into(), 1),
        "10.1.0.7:7".parse().unwrap(),
        b"not mine",
    );
    let frame = [&b"STF\x01\x00"[..], &[u8::try_from(spoofed.len()).unwrap(), 0, 0], &spoofed].concat();
    world.inject_frames(client, frame);
    world.advance(secs(1));
    assert_eq!(world.drops(client, DropReason::SourceNotLeased), 1);
    world.demand_traffic(client);
    world.end();
}

/// Covers: R4, R10, P-110
#[test]
fn a_server_that_is_killed_and_started_has_all_its_sessions_back() {
    for death in [Death::Process, Death::Machine] {
        let mut world = World::seeded(17);
        let clients: Vec<_> = (0..200).map(|_| world.add_client()).collect();
        clients.iter().for_each(|client| world.sign_in(*client));
        world.advance(secs(10));
        let before: Vec<_> = clients.iter().map(|client| world.leases(*client)).collect();
        assert!(before.iter().all(Option::is_some));
        world.kill_server(SERVER, death);
        world.advance(secs(5));
        world.start_server(SERVER);
        // A client that is not told finds out by DPD, within three intervals.
        world.advance(if death == Death::Process { secs(30) } else { secs(125) });
        let after: Vec<_> = clients.iter().map(|client| world.leases(*client)).collect();
        assert_eq!(before, after, "{death:?}");
        world.demand_traffic(clients[0]);
        world.end();
    }
}

/// Covers: R50: a restart gives no address away too early.
#[test]
fn an_address_stays_in_hold_back_across_a_restart() {
    let settings = Settings { pool_v4: "10.9.0.0/29".parse().unwrap(), pool_v6: None, ..Settings::default() };
    let mut world = World::seeded(18).with_settings(settings);
    let owners: Vec<_> = (0..5).map(|_| world.connect()).collect();
    world.leave(owners[0]);
    world.advance(secs(1));
    world.kill_server(SERVER, Death::Process);
    world.advance(secs(5));
    world.start_server(SERVER);
    let stranger = world.add_client();
    world.sign_in(stranger);
    world.advance(secs(60));
    assert!(!world.is_live(stranger));
    world.end();
}

/// Covers: R7, R19, P-114: every kind of NAT box forgets, and another network takes over.
#[test]
fn a_client_that_changes_its_network_keeps_its_addresses() {
    for nat in [NatKind::HOME, NatKind::CARRIER, NatKind::OPEN] {
        for rebinding in [Rebinding::Ports, Rebinding::Address] {
            let mut world = World::seeded(19);
            let client = connect_behind(&mut world, nat);
            let first = world.leases(client);
            world.rebind(client, rebinding);
            world.advance(secs(130));
            assert_eq!(world.leases(client), first, "{nat:?} {rebinding:?}");
            world.demand_traffic(client);
            world.end();
        }
    }
}

/// Covers: R32: an administrator's word ends the session and its cookie.
#[test]
fn who_is_disconnected_stays_out() {
    let mut world = World::seeded(20);
    let client = world.connect();
    let cookie = world.places[0].client.cookie.clone();
    world.disconnect(client);
    world.advance(secs(1));
    assert_eq!(world.ending(client), Some(Ending::EndedByServer));
    assert_refused(&mut world, client, cookie);
    world.end();
}

/// Covers: R10, statement 43: a phone that slept for hours finds its session or signs in again, never hangs.
#[test]
fn a_client_that_slept_comes_back_or_is_told() {
    for (hours, comes_back) in [(0, true), (8, false)] {
        let mut world = World::seeded(21);
        let client = world.connect();
        world.sleep(client);
        world.advance(secs(3_600 * hours + 150));
        world.wake(client);
        world.advance(secs(200));
        assert_eq!(world.is_live(client), comes_back, "{hours} h: {:?}", world.ending(client));
        if !comes_back {
            assert_eq!(world.ending(client), Some(Ending::CookieRefused));
            world.sign_in(client);
            world.advance(secs(10));
        }
        world.demand_traffic(client);
        world.end();
    }
}
