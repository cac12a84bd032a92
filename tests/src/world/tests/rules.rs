//! The rules that hold in every world, each seen to fail when it is broken.

use std::net::IpAddr;

use mstunnel_proto::session::Leases;

use super::super::history::History;
use super::super::judge::{Judge, Toward, goes_through};
use super::super::probe::Probe;
use super::super::{Wish, World};
use super::secs;

#[test]
fn one_seed_gives_one_run_and_another_seed_another() {
    let run = |seed| History::random(seed, 15).run();
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

#[test]
#[should_panic(expected = "that nobody sent")]
fn a_packet_that_nobody_sent_ends_the_run() {
    let mut world = World::seeded(1);
    let leases = Leases { v4: Some([10, 9, 0, 5].into()), v6: None };
    world.reach_network(0, b"not a probe", leases);
}

#[test]
#[should_panic(expected = "came out of the session of")]
fn a_packet_from_a_foreign_address_ends_the_run() {
    let mut world = World::seeded(1);
    let probe = Probe {
        number: 1,
        wish: Wish::Sink,
        source: [10, 9, 0, 6].into(),
        destination: [10, 1, 0, 1].into(),
    };
    world.judge.sent(1, Toward::Network, probe.packet(60));
    world.reach_network(0, &probe.packet(60), Leases { v4: Some([10, 9, 0, 5].into()), v6: None });
}

#[test]
#[should_panic(expected = "a secret was printed")]
fn a_secret_in_what_is_printed_ends_the_run() {
    let mut world = World::seeded(1);
    world.note(format_args!("the password is {}", super::super::PASSWORD));
}

#[test]
fn a_packet_that_comes_out_twice_changed_or_elsewhere_is_found() {
    let mut judge = Judge::default();
    judge.sent(1, Toward::Client(Some(0)), vec![1, 2, 3]);
    let elsewhere = judge.arrived(Some(1), Toward::Client(Some(1)), &[1, 2, 3]).unwrap_err();
    assert!(elsewhere.contains("came out at"), "{elsewhere}");
    let changed = judge.arrived(Some(1), Toward::Client(Some(0)), &[1, 2, 4]).unwrap_err();
    assert!(changed.contains("came out as"), "{changed}");
    judge.arrived(Some(1), Toward::Client(Some(0)), &[1, 2, 3]).unwrap();
    let twice = judge.arrived(Some(1), Toward::Client(Some(0)), &[1, 2, 3]).unwrap_err();
    assert!(twice.contains("twice"), "{twice}");
}

#[test]
fn the_longest_prefix_decides_and_a_tie_goes_beside_the_tunnel() {
    let prefixes = |list: &[&str]| list.iter().map(|prefix| prefix.parse().unwrap()).collect::<Vec<_>>();
    let to: IpAddr = [10, 1, 2, 3].into();
    assert!(goes_through(&prefixes(&["10.1.0.0/16"]), &prefixes(&["10.0.0.0/8"]), to));
    assert!(!goes_through(&prefixes(&["10.0.0.0/8"]), &prefixes(&["10.1.0.0/16"]), to));
    assert!(!goes_through(&prefixes(&["10.1.0.0/16"]), &prefixes(&["10.1.0.0/16"]), to));
    assert!(goes_through(&[], &prefixes(&["10.2.0.0/16"]), to));
    assert!(!goes_through(&prefixes(&["10.2.0.0/16"]), &[], to));
}

#[test]
#[should_panic(expected = "a good cookie was refused")]
fn a_session_that_the_server_has_lost_is_found() {
    let mut world = World::seeded(5);
    let client = world.connect();
    let registry = &mut world.sites[0].server.registry;
    let id = registry.records().next().unwrap().id();
    let _ = registry.end(id, world.now);
    world.take_over(client);
    world.advance(secs(5));
}

#[test]
#[should_panic(expected = "did not arrive")]
fn a_world_whose_packets_go_nowhere_does_not_recover() {
    let mut world = World::seeded(6);
    let client = world.connect();
    world.relink(client, |link| (link.udp, link.up) = (false, false));
    world.demand_traffic(client);
}
