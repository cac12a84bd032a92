//! R11 to R19, one behaviour a test.

use std::time::Duration;

use super::super::{
    CLIENT_PATIENCE, ChannelEnd, ClientChannel, ClientChannelEvent, DtlsTimer, Keying, MIN_MOVE_INTERVAL,
    ServerChannel, ServerChannelEvent, Suite, records,
};
use super::harness::{Client, PSK, World, path};
use crate::drop::DropReason;

/// Covers: statements 49, 50, 51, 52, 59.
#[test]
fn every_suite_opens_and_carries_packets_both_ways() {
    for &suite in Suite::PSK {
        let mut world = World::new(Keying::psk(PSK), Keying::psk(PSK), &[suite]);
        world.settle();
        assert_eq!(world.client.events, [ClientChannelEvent::Opened { suite }]);
        assert_eq!(
            world.server.events,
            [ServerChannelEvent::Opened { path: path(5000), suite, replaced: None }]
        );
        world.assert_alive();
        assert!(world.server.drops.is_empty() && world.client.drops.is_empty());
        // Hello, answer, hello with cookie, flight, flight, flight.
        assert_eq!((world.to_server.len(), world.to_client.len()), (3, 3));
    }
}

/// Covers: R15, R18: the numbers of messages that are left would run out within the handshake.
#[test]
fn a_hello_with_a_last_message_number_is_no_hello() {
    for number in [u16::MAX, u16::MAX - 1, u16::MAX - 15] {
        let mut world = World::open();
        let mut other = Client::new(Keying::psk(PSK), &[], 0xc2, world.now);
        let first = other.drain().remove(0);
        let answer = world.server.handle(path(6000), &first, world.now).remove(0).1;
        let mut second = other.handle(&answer, world.now).remove(0);
        // Behind the record's header and the message's type and length; the cookie covers the body only.
        second[17..19].copy_from_slice(&number.to_be_bytes());
        assert!(world.server.handle(path(6000), &second, world.now).is_empty(), "{number} was answered");
        world.assert_alive();
    }
}

/// OpenSSL and GnuTLS drop what says anything else; only a first hello may say 1.0.
#[test]
fn every_record_but_the_hello_says_version_1_2() {
    let mut world = World::open();
    let (hellos, rest) = world.to_server.split_at_mut(2);
    assert!(hellos.iter().all(|hello| hello[..3] == [22, 0xfe, 0xff]));
    for datagram in rest.iter_mut().chain(&mut world.to_client[1..]) {
        for record in records(datagram) {
            assert_eq!(record[1..3], [0xfe, 0xfd], "type {}", record[0]);
        }
    }
}

#[test]
fn the_server_prefers_its_own_first_suite() {
    let world = World::open();
    assert_eq!(world.server.channel.suite(), Some(Suite::PskAes256Gcm));
}

/// Covers: statement 60.
#[test]
fn a_client_that_hears_nothing_gives_up_after_twelve_seconds_and_says_so() {
    let mut world = World::psk();
    let start = world.now;
    let mut hellos = world.client.drain().len();
    while world.client.events.is_empty() {
        let deadline = world.client.channel.poll_timeout().unwrap();
        assert!(deadline.at > world.now);
        world.pass(deadline.at - world.now);
        hellos += world.client.drain().len();
    }
    assert_eq!(world.now - start, CLIENT_PATIENCE);
    assert_eq!(hellos, 5);
    assert_eq!(world.client.events, [ClientChannelEvent::Closed { end: ChannelEnd::HandshakeTimedOut }]);
    assert_eq!(world.client.channel.poll_timeout(), None);
}

/// Covers: P-019, R13: with the key of another connection the handshake does not finish.
#[test]
fn another_key_opens_nothing() {
    let mut world = World::new(Keying::psk(PSK), Keying::psk([0; 32]), &[]);
    world.settle();
    assert!(!world.server.channel.is_open() && !world.client.channel.is_open());
    assert_eq!(world.server.drops, [DropReason::RecordForged]);
    assert!(world.server.events.is_empty());
    world.pass(Duration::from_secs(13));
    world.settle();
    assert_eq!(world.server.channel.pending_path(), None, "a handshake is kept for 10 s");
}

/// Covers: P-126, R13: a balancer that sends the datagrams to another server than the connection: that server has a
/// client of its own, and never heard of this one.
#[test]
fn datagrams_that_reach_another_server_open_and_disturb_nothing_there() {
    let mut theirs = World::open();
    theirs.assert_alive();
    let mut ours = World::psk();
    let other = Keying::psk([0x24; 32]);
    ours.server.channel = ServerChannel::new(other);
    ours.client.channel =
        ClientChannel::start(Keying::psk([0x24; 32]), &[0xb2; 32], &[], [0xc2; 32], ours.now);
    // The hello gets its cookie, which proves an address and no session, and then nothing.
    let hello = ours.client.drain().remove(0);
    let answer = theirs.server.handle(path(6000), &hello, theirs.now).remove(0).1;
    let hello = ours.client.handle(&answer, ours.now).remove(0);
    assert!(theirs.server.handle(path(6000), &hello, theirs.now).is_empty());
    assert_eq!(theirs.server.drops, [DropReason::UnknownAppId]);
    ours.pass(CLIENT_PATIENCE);
    ours.client.drain();
    let end = ChannelEnd::HandshakeTimedOut;
    assert_eq!(ours.client.events, [ClientChannelEvent::Closed { end }], "it stays on TLS");
    // Balanced away from a live channel: not even as the address that the other client had.
    let mut ours = World::new(Keying::psk([0x24; 32]), Keying::psk([0x24; 32]), &[]);
    ours.settle();
    ours.assert_alive();
    let away = ours.client.seal(b"\x00away");
    assert!(!theirs.server.channel.recognizes(&away, &mut Vec::new()));
    for from in [path(6000), path(theirs.port)] {
        assert!(theirs.server.handle(from, &away, theirs.now).is_empty());
        assert_eq!(theirs.server.drops.last(), Some(&DropReason::RecordForged));
    }
    assert_eq!(theirs.server.channel.path(), Some(path(theirs.port)));
    theirs.assert_alive();
    ours.assert_alive();
}

/// Covers: R15: records of other epochs, types and versions, and alerts in clear.
#[test]
fn noise_changes_nothing_and_is_counted() {
    let mut world = World::open();
    let clear = |kind: u8, payload: &[u8]| {
        let len = u8::try_from(payload.len()).unwrap();
        [&[kind, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, len][..], payload].concat()
    };
    let mut wrong_epoch = world.client.seal(b"\x00packet");
    wrong_epoch[4] = 2;
    let mut forged = world.client.seal(b"\x00packet");
    *forged.last_mut().unwrap() ^= 1;
    for (noise, reason) in [
        (clear(21, &[2, 40]), DropReason::RecordMisplaced),
        (clear(23, b"\x00packet"), DropReason::RecordMisplaced),
        (clear(20, &[1]), DropReason::RecordMisplaced),
        (clear(22, &[20; 40]), DropReason::RecordMisplaced),
        (clear(99, &[1]), DropReason::NotARecord),
        (vec![0; 5], DropReason::NotARecord),
        (wrong_epoch, DropReason::RecordMisplaced),
        (forged, DropReason::RecordForged),
    ] {
        world.server.drops.clear();
        assert!(world.server.handle(path(5000), &noise, world.now).is_empty(), "noise gets no answer");
        assert_eq!(world.server.drops, [reason]);
        assert!(world.client.handle(&noise, world.now).is_empty());
        world.assert_alive();
    }
    assert_eq!(world.server.events.len(), 1);
}

/// Covers: R15: while a handshake is open too.
#[test]
fn an_alert_in_clear_does_not_end_a_handshake() {
    let mut world = World::psk();
    let alert = [21, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 2, 40];
    world.client.handle(&alert, world.now);
    assert_eq!(world.client.drops, [DropReason::AlertInClear]);
    world.pass(Duration::from_millis(500));
    world.settle();
    assert!(world.is_open());
}

/// Covers: P-021, R18, statement 55.
#[test]
fn replayed_hellos_and_flights_leave_the_live_channel_alone() {
    let mut world = World::open();
    let recorded = world.to_server.clone();
    for port in [5000, 6000] {
        for datagram in &recorded {
            for (_, answer) in world.server.handle(path(port), datagram, world.now) {
                assert!(answer.len() <= datagram.len(), "a replay is no lever");
            }
            world.assert_alive();
        }
        assert_eq!(world.server.channel.path(), Some(path(5000)));
        assert_eq!(world.server.channel.pending_path(), None);
    }
    assert_eq!(world.server.events.len(), 1);
    assert!(world.server.drops.contains(&DropReason::HelloReplayed));
}

/// Covers: R18, statement 55.
#[test]
fn a_new_handshake_takes_over_only_when_it_has_finished() {
    for port in [5000, 6000] {
        let mut world = World::open();
        let mut second = World::psk();
        second.client = super::harness::Client::new(Keying::psk(PSK), &[], 0xc2, world.now);
        let mut up = second.client.drain();
        let mut finished = false;
        while let Some(datagram) = up.pop() {
            if !finished {
                world.assert_alive();
            }
            for (to, answer) in world.server.handle(path(port), &datagram, world.now) {
                assert_eq!(to, path(port));
                up.extend(second.client.handle(&answer, world.now));
            }
            finished = second.client.channel.is_open();
        }
        assert!(finished);
        assert_eq!(
            world.server.events.last(),
            Some(&ServerChannelEvent::Opened {
                path: path(port),
                suite: Suite::PskAes256Gcm,
                replaced: Some(path(5000)),
            })
        );
        // The old association is over, the new one carries.
        let stale = world.client.seal(b"\x00stale");
        world.server.handle(path(5000), &stale, world.now);
        assert_eq!(world.server.drops.last(), Some(&DropReason::RecordForged));
        world.client = second.client;
        world.port = port;
        world.assert_alive();
    }
}

/// Covers: P-026, R19, statement 56.
#[test]
fn the_channel_follows_a_newer_authentic_record_at_most_once_a_second() {
    let mut world = World::open();
    let old = world.client.seal(b"\x00old");
    let new = world.client.seal(b"\x00new");
    let mut forged = world.client.seal(b"\x00forged");
    *forged.last_mut().unwrap() ^= 1;
    world.server.handle(path(6000), &forged, world.now);
    assert_eq!(world.server.channel.path(), Some(path(5000)), "a forged record moves nothing");
    world.server.handle(path(6000), &new, world.now);
    assert_eq!(world.server.channel.path(), Some(path(6000)));
    world.server.handle(path(5000), &old, world.now);
    assert_eq!(world.server.channel.path(), Some(path(6000)), "an older record moves nothing back");
    assert_eq!(world.server.packets.last().unwrap(), b"\x00old");
    world.server.handle(path(5000), &new, world.now);
    assert_eq!(world.server.channel.path(), Some(path(6000)), "a copy moves nothing");
    let back = world.client.seal(b"\x00back");
    world.server.handle(path(5000), &back, world.now);
    assert_eq!(world.server.channel.path(), Some(path(6000)), "too soon");
    world.pass(Duration::from_secs(1));
    let later = world.client.seal(b"\x00later");
    world.server.handle(path(5000), &later, world.now);
    assert_eq!(world.server.channel.path(), Some(path(5000)));
    assert_eq!(
        world.server.events[1..],
        [
            ServerChannelEvent::Moved { from: path(5000), to: path(6000) },
            ServerChannelEvent::Moved { from: path(6000), to: path(5000) }
        ]
    );
    let rest = world.server.channel.poll_timeout().unwrap();
    assert_eq!((rest.at, rest.timer), (world.now + MIN_MOVE_INTERVAL, DtlsTimer::Rest));
    world.pass(MIN_MOVE_INTERVAL);
    assert_eq!(world.server.channel.poll_timeout(), None, "nothing is kept of a move");
}

/// Covers: R19: how a server finds the channel of an address that it does not know.
#[test]
fn a_record_from_an_unknown_address_is_recognized_by_its_channel_alone() {
    let world = World::open();
    let stranger = World::open();
    let mut scratch = Vec::new();
    let record = world.client.seal(b"\x00packet");
    assert!(world.server.channel.recognizes(&record, &mut scratch));
    let mut own = record.clone();
    own[20] ^= 1;
    assert!(!world.server.channel.recognizes(&own, &mut scratch));
    assert!(!world.server.channel.recognizes(&world.to_server[0], &mut scratch));
    drop(stranger);
}

/// Covers: statement 54: the last flight is lost.
#[test]
fn a_client_that_missed_the_last_flight_gets_it_again() {
    let mut world = World::psk();
    let mut up = world.client.drain();
    for _ in 0..2 {
        let down = world.server.handle(path(5000), &up.remove(0), world.now);
        up = world.client.handle(&down[0].1, world.now);
    }
    let lost = world.server.handle(path(5000), &up.remove(0), world.now);
    assert_eq!(lost.len(), 1);
    assert!(world.server.channel.is_open() && !world.client.channel.is_open());
    world.pass(Duration::from_millis(500));
    world.settle();
    assert!(world.is_open());
    world.assert_alive();
    // The client's packet has confirmed it: nothing is kept any more.
    assert_eq!(world.server.channel.poll_timeout(), None);
}

/// Covers: statement 54: the ServerHelloDone is lost, which was in a datagram of its own, and the server says nothing
/// again by itself.
#[test]
fn a_client_that_missed_only_the_hello_done_asks_again() {
    let mut world = World::psk();
    let hello = world.client.drain().remove(0);
    let verify = world.server.handle(path(5000), &hello, world.now);
    let hello = world.client.handle(&verify[0].1, world.now).remove(0);
    let flight = world.server.handle(path(5000), &hello, world.now).remove(0).1;
    let first = 13 + usize::from(u16::from_be_bytes([flight[11], flight[12]]));
    assert!(first < flight.len(), "a ServerHello, and a ServerHelloDone behind it");
    assert!(world.client.handle(&flight[..first], world.now).is_empty());
    world.now += Duration::from_millis(500);
    world.client.channel.handle_timeout(world.now);
    world.settle();
    assert!(world.is_open());
    world.assert_alive();
}

#[test]
fn the_last_flight_is_forgotten_when_nobody_asks() {
    let mut world = World::open();
    assert!(world.server.channel.poll_timeout().is_some());
    world.pass(Duration::from_secs(15));
    assert_eq!(world.server.channel.poll_timeout(), None);
    world.assert_alive();
}

#[test]
fn close_notify_ends_the_other_side_and_is_answered() {
    let mut world = World::open();
    world.client.channel.close();
    world.settle();
    assert_eq!(world.client.events.last(), Some(&ClientChannelEvent::Closed { end: ChannelEnd::ClosedByUs }));
    assert_eq!(
        world.server.events.last(),
        Some(&ServerChannelEvent::Closed { path: path(5000), end: ChannelEnd::ClosedByPeer })
    );
    let mut world = World::open();
    world.server.channel.close();
    world.settle();
    assert_eq!(
        world.client.events.last(),
        Some(&ClientChannelEvent::Closed { end: ChannelEnd::ClosedByPeer })
    );
    assert!(!world.is_open() && world.server.channel.poll_timeout().is_none());
    // And opens again by another hello.
    world.client = super::harness::Client::new(Keying::psk(PSK), &[], 0xc3, world.now);
    world.settle();
    world.assert_alive();
}

/// Covers: P-022, R16.
#[test]
fn each_packet_arrives_once_however_often_it_comes() {
    let mut world = World::open();
    let sealed: Vec<_> =
        (0..3_000u16).map(|i| world.client.seal(&[&[0][..], &i.to_be_bytes()].concat())).collect();
    // Blocks of 1,000 backwards, each three times: within the window.
    for block in sealed.chunks(1_000) {
        for _ in 0..3 {
            for record in block.iter().rev() {
                world.server.handle(path(5000), record, world.now);
            }
        }
    }
    assert_eq!(world.server.packets.len(), 3_000);
    assert_eq!(world.server.drops.len(), 6_000);
    assert!(world.server.drops.iter().all(|reason| *reason == DropReason::RecordReplayed));
}

/// Covers: protocol.md 5.9.
#[test]
fn legacy_mode_resumes_the_session_that_never_was() {
    for suite in [
        Suite::RsaAes128Gcm,
        Suite::RsaAes256Gcm,
        Suite::PskChaCha20Poly1305,
        Suite::EcdheRsaAes128Gcm,
        Suite::EcdheRsaAes256Gcm,
    ] {
        let keying = || Keying::preset([5; 48], super::harness::APP_ID, suite);
        let mut world = World::new(keying(), keying(), &[]);
        world.settle();
        assert_eq!(world.client.events, [ClientChannelEvent::Opened { suite }]);
        world.assert_alive();
        world.client.channel.rekey([3; 32], world.now);
        world.settle();
        assert_eq!(world.server.channel.sealer().unwrap().epoch(), 2);
        world.assert_alive();
        assert!(world.server.drops.is_empty() && world.client.drops.is_empty());
    }
}

/// Covers: protocol.md 5.9: the other kind of handshake is somebody in the middle.
#[test]
fn neither_mode_accepts_the_handshake_of_the_other() {
    let preset = || Keying::preset([5; 48], super::harness::APP_ID, Suite::PskChaCha20Poly1305);
    let chacha = [Suite::PskChaCha20Poly1305];
    for (server, client) in [(Keying::psk(PSK), preset()), (preset(), Keying::psk(PSK))] {
        let mut world = World::new(server, client, &chacha);
        world.settle();
        assert_eq!(world.client.events, [ClientChannelEvent::Closed { end: ChannelEnd::HandshakeFailed }]);
        assert!(!world.server.channel.is_open());
    }
}

/// Covers: P-029, R11.
#[test]
fn a_hello_without_a_suite_of_ours_gets_no_handshake() {
    let mut world = World::new(Keying::psk(PSK), Keying::psk(PSK), &[Suite::RsaAes128Gcm]);
    world.settle();
    assert_eq!(world.server.drops, [DropReason::HelloRefused]);
    assert_eq!(world.to_client.len(), 1, "the cookie, and nothing after it");
}

/// Covers: statement 54: records grouped and split over datagrams.
#[test]
fn records_may_come_one_a_datagram() {
    let mut world = World::psk();
    let mut up = world.client.drain();
    while !up.is_empty() {
        let mut down = Vec::new();
        for mut datagram in std::mem::take(&mut up) {
            for record in records(&mut datagram) {
                down.extend(world.server.handle(path(5000), record, world.now));
            }
        }
        for (_, mut datagram) in down {
            for record in records(&mut datagram) {
                up.extend(world.client.handle(record, world.now));
            }
        }
    }
    assert!(world.is_open());
    world.assert_alive();
}

/// Covers: R19: what was overtaken on the way, or held back by a stranger, moves nothing.
#[test]
fn an_older_record_from_elsewhere_does_not_move_the_channel() {
    let mut world = World::open();
    let (older, newer) = (world.client.seal(b"\x00older"), world.client.seal(b"\x00newer"));
    world.server.handle(path(5000), &newer, world.now);
    world.pass(Duration::from_secs(2));
    world.server.handle(path(6000), &older, world.now);
    assert_eq!(world.server.packets, [b"\x00newer", b"\x00older"], "both are packets");
    assert_eq!(world.server.channel.path(), Some(path(5000)));
}
