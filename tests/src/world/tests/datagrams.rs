//! The two channels: which one carries, and what a bad network does to them.

use std::net::SocketAddr;

use mstunnel_proto::drop::DropReason;
use mstunnel_proto::session::Channel;

use super::super::{ClientId, NatKind, Rebinding, ServerId, Settings, Wish, World};
use super::{connect_behind, ms, reaches, secs};

const SERVER: ServerId = ServerId(0);

/// A world with one client whose datagram channel is open at both ends.
fn open(seed: u64) -> (World, ClientId) {
    let mut world = World::seeded(seed);
    let client = world.connect();
    assert_eq!(channels(&world, client), (Some(Channel::Datagram), Some(Channel::Datagram)));
    (world, client)
}

fn channels(world: &World, client: ClientId) -> (Option<Channel>, Option<Channel>) {
    (world.channel(client), world.server_channel(client))
}

/// Sends packets both ways for a time; returns how many of each direction arrived out of how many.
fn exchange(world: &mut World, client: ClientId, count: u32) -> (usize, usize) {
    let inside = world.leases(client).unwrap().v4.unwrap();
    let (mut up, mut down) = (Vec::new(), Vec::new());
    for _ in 0..count {
        up.extend(world.probe(client, [10, 1, 0, 7].into(), 700, Wish::Sink));
        down.push(world.probe_inside(SERVER, inside.into(), 700));
        world.advance(ms(100));
    }
    world.advance(secs(2));
    let arrived = |numbers: &[u64]| numbers.iter().filter(|number| world.has_arrived(**number)).count();
    (arrived(&up), arrived(&down))
}

/// Covers: R8, P-100, P-113
#[test]
fn blocked_datagrams_cost_a_few_seconds_and_come_back_when_they_pass_again() {
    let (mut world, client) = open(31);
    world.relink(client, |link| link.udp = false);
    let (up, down) = exchange(&mut world, client, 200);
    assert!(up > 150 && down > 150, "{up} and {down} of 200: three seconds may be lost");
    assert_eq!(channels(&world, client), (Some(Channel::Stream), Some(Channel::Stream)));
    world.relink(client, |link| link.udp = true);
    exchange(&mut world, client, 700);
    assert_eq!(channels(&world, client), (Some(Channel::Datagram), Some(Channel::Datagram)));
    assert_eq!(exchange(&mut world, client, 50), (50, 50));
    world.end();
}

/// Covers: R15, P-024: one datagram in twenty is damaged for a minute.
#[test]
fn damage_costs_what_is_damaged_and_nothing_else() {
    let (mut world, client) = open(32);
    world.relink(client, |link| link.corrupt = 50);
    let (up, down) = exchange(&mut world, client, 600);
    assert!(up > 540 && down > 540, "{up} and {down} of 600");
    assert!(world.drops(client, DropReason::RecordForged) > 10);
    assert_eq!(channels(&world, client), (Some(Channel::Datagram), Some(Channel::Datagram)));
    world.end();
}

/// Covers: R8, R16, P-022, P-111: doubles and overtaking; every packet comes out once, and the channel stays.
#[test]
fn doubles_are_dropped_and_what_was_overtaken_arrives() {
    let (mut world, client) = open(33);
    world.relink(client, |link| {
        link.duplicate = 500;
        link.jitter = ms(900);
    });
    assert_eq!(exchange(&mut world, client, 300), (300, 300));
    assert!(world.drops(client, DropReason::RecordReplayed) > 100);
    assert_eq!(channels(&world, client), (Some(Channel::Datagram), Some(Channel::Datagram)));
    world.end();
}

/// Covers: R8, P-111: loss is no reason to leave the channel.
#[test]
fn a_fifth_of_all_datagrams_lost_does_not_change_the_channel() {
    let (mut world, client) = open(34);
    world.relink(client, |link| link.loss = 200);
    let (up, down) = exchange(&mut world, client, 600);
    assert!(up > 420 && down > 420, "{up} and {down} of 600");
    world.relink(client, |link| link.loss = 0);
    world.advance(secs(70));
    assert_eq!(exchange(&mut world, client, 50), (50, 50));
    assert_eq!(channels(&world, client), (Some(Channel::Datagram), Some(Channel::Datagram)));
    world.end();
}

/// Covers: R8, R55, P-112: TCP stalls while datagrams pass.
#[test]
fn a_stalled_stream_does_not_stop_the_datagrams() {
    let (mut world, client) = open(35);
    world.relink(client, |link| link.tcp = false);
    assert_eq!(exchange(&mut world, client, 300), (300, 300));
    world.relink(client, |link| link.tcp = true);
    world.advance(secs(120));
    world.demand_traffic(client);
    world.end();
}

/// Covers: R19, P-026, P-114: the channel follows the client at once, although its stream is dead.
#[test]
fn the_channel_follows_an_authentic_newer_record() {
    let (mut world, client) = open(36);
    world.advance(secs(2));
    world.rebind(client, Rebinding::Ports);
    assert!(world.probe(client, [10, 1, 0, 7].into(), 100, Wish::Sink).is_ok());
    world.advance(secs(1));
    // A client whose system tells it nothing: only the datagrams pass.
    assert!(world.is_live(client));
    assert_eq!(exchange(&mut world, client, 20), (20, 20));
    world.advance(secs(130));
    world.demand_traffic(client);
    world.end();
}

/// Covers: R12, R15, R18, P-021: a stranger repeats everything that the client ever sent.
#[test]
fn what_a_stranger_repeats_changes_nothing() {
    let (mut world, client) = open(37);
    for round in 0..200 {
        world.replay(client, round, round % 2 == 0);
        let noise: Vec<u8> = (0..round).map(|byte| u8::try_from(byte % 251).unwrap()).collect();
        world.inject_datagram(SERVER, SocketAddr::from(([192, 0, 2, 66], 6_666)), noise);
        world.advance(ms(20));
    }
    assert_eq!(exchange(&mut world, client, 50), (50, 50));
    assert_eq!(channels(&world, client), (Some(Channel::Datagram), Some(Channel::Datagram)));
    world.end();
}

/// Covers: R9, statement 61: the path shrinks under a channel in use; long packets are found out and short ones pass.
#[test]
fn a_path_that_shrinks_is_measured_again_when_the_channel_is_made_anew() {
    let (mut world, client) = open(38);
    world.relink(client, |link| link.mtu = 1_400);
    world.reload(SERVER, |settings| settings.dpd = secs(20));
    assert!(reaches(&mut world, client), "short packets pass");
    world.take_over(client);
    world.advance(secs(20));
    let number = world.probe(client, [10, 1, 0, 7].into(), 1_300, Wish::Sink).unwrap();
    assert_eq!(world.probe(client, [10, 1, 0, 7].into(), 1_400, Wish::Sink), Err(DropReason::TooBig));
    world.advance(secs(2));
    assert!(world.has_arrived(number));
    assert_eq!(world.channel(client), Some(Channel::Datagram));
    world.end();
}

/// Covers: R13, P-126: the datagrams of a client reach another server than its stream.
#[test]
fn datagrams_that_reach_another_server_cross_no_session() {
    let (mut world, client) = open(39);
    let other = world.add_server(Settings::default());
    for (from, bytes) in world.places[0].copies.clone() {
        world.inject_datagram(other, from, bytes);
    }
    world.advance(secs(1));
    let dropped =
        world.strays(other, DropReason::UnknownAppId) + world.strays(other, DropReason::UnknownAddress);
    assert_eq!(dropped, world.places[0].copies.len() as u64);
    assert_eq!(exchange(&mut world, client, 20), (20, 20));
    world.end();
}

/// A NAT box that forgets a port after 30 s is kept awake, so that packets find a quiet client.
///
/// Covers: R8
#[test]
fn keepalives_hold_a_nat_box_open() {
    let mut world = World::seeded(40);
    let client = connect_behind(&mut world, NatKind::CARRIER);
    let inside = world.leases(client).unwrap().v4.unwrap();
    for _ in 0..5 {
        world.advance(secs(600));
        let number = world.probe_inside(SERVER, inside.into(), 200);
        world.advance(secs(1));
        assert!(world.has_arrived(number));
    }
    assert_eq!(world.server_channel(client), Some(Channel::Datagram));
    world.end();
}
