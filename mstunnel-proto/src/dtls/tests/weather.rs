//! The handshake over a network that loses, doubles, reorders, damages and cuts.

use std::time::Duration;

use proptest::prelude::*;

use super::super::message::{Fragment, fragment_header};
use super::super::reader::Reader;
use super::super::record::{ContentType, HEADER_BYTES, RecordHeader, records};
use super::super::{Keying, Suite};
use super::harness::{APP_ID, PSK, World, path};

/// What happens to one datagram.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Delivered,
    Lost,
    Doubled,
    /// So many milliseconds late, behind others.
    Late(u16),
    /// One bit changed.
    Damaged(u16),
    /// Each record in a datagram of its own, the last first.
    Split,
    /// Messages in clear cut into fragments of so many bytes, the last first.
    Fragmented(u8),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        6 => Just(Fate::Delivered),
        3 => Just(Fate::Lost),
        2 => Just(Fate::Doubled),
        2 => (1u16..900).prop_map(Fate::Late),
        2 => any::<u16>().prop_map(Fate::Damaged),
        2 => Just(Fate::Split),
        2 => (1u8..60).prop_map(Fate::Fragmented),
    ]
}

/// What is under way: when it arrives, whether to the server, and the bytes.
type UnderWay = Vec<(Duration, bool, Vec<u8>)>;

fn send(
    network: &mut UnderWay,
    fates: &mut impl Iterator<Item = Fate>,
    now: Duration,
    up: bool,
    datagram: &[u8],
) {
    let soon = now + Duration::from_millis(20);
    let datagram = datagram.to_vec();
    match fates.next().unwrap_or(Fate::Delivered) {
        Fate::Delivered => network.push((soon, up, datagram)),
        Fate::Lost => {}
        Fate::Doubled => network.extend([(soon, up, datagram.clone()), (soon, up, datagram)]),
        Fate::Late(by) => network.push((soon + Duration::from_millis(by.into()), up, datagram)),
        Fate::Damaged(bit) => {
            let mut damaged = datagram;
            let bit = usize::from(bit) % (damaged.len() * 8);
            // A changed first hello is another hello, and its cookie another cookie: both are tested elsewhere.
            damaged[bit / 8] ^= 1 << (bit % 8);
            network.push((soon, up, damaged));
        }
        Fate::Split => network.extend(split(datagram).into_iter().rev().map(|record| (soon, up, record))),
        Fate::Fragmented(len) => {
            let pieces = split(datagram).into_iter().flat_map(|record| cut(&record, len.into()));
            network.extend(pieces.rev().map(|record| (soon, up, record)));
        }
    }
}

fn split(mut datagram: Vec<u8>) -> Vec<Vec<u8>> {
    records(&mut datagram).map(|record| record.to_vec()).collect()
}

/// Cuts the messages of a record in clear, but no hello: a first hello in fragments is refused.
fn cut(record: &[u8], len: usize) -> Vec<Vec<u8>> {
    let header = RecordHeader::parse(record).expect("what we send is a record");
    let mut reader = Reader::new(&record[HEADER_BYTES..]);
    let whole = header.content == ContentType::Handshake && header.epoch == 0 && record[HEADER_BYTES] != 1;
    match Fragment::take(&mut reader).filter(|_| whole) {
        Some(message) if !message.bytes.is_empty() => message
            .bytes
            .chunks(len)
            .enumerate()
            .map(|(index, piece)| {
                let head =
                    fragment_header(message.kind, message.total, message.sequence, index * len, piece.len());
                let header = RecordHeader { len: head.len() + piece.len(), ..header };
                [&header.bytes()[..], &head, piece].concat()
            })
            .collect(),
        _ => vec![record.to_vec()],
    }
}

/// Runs until `done` and nothing is under way, or 13 s are over; returns how long it took.
fn run(world: &mut World, fates: Vec<Fate>, done: impl Fn(&World) -> bool) -> Duration {
    let start = world.now;
    let mut fates = fates.into_iter();
    let mut network: UnderWay = Vec::new();
    loop {
        let now = world.now - start;
        for datagram in world.client.drain() {
            send(&mut network, &mut fates, now, true, &datagram);
        }
        for (to, datagram) in world.server.drain() {
            assert_eq!(to, path(world.port));
            send(&mut network, &mut fates, now, false, &datagram);
        }
        let arrival = network.iter().map(|(at, ..)| *at).min();
        if done(world) && arrival.is_none() || now > Duration::from_secs(13) {
            return now;
        }
        let timers = [world.client.channel.poll_timeout(), world.server.channel.poll_timeout()];
        let timer =
            timers.into_iter().flatten().map(|deadline| deadline.at.saturating_duration_since(start)).min();
        let Some(next) = arrival.into_iter().chain(timer).min() else {
            return now;
        };
        world.pass(next.saturating_sub(now));
        // What arrives now, in the order in which it was sent.
        let (due, later): (Vec<_>, Vec<_>) = network.drain(..).partition(|(at, ..)| *at <= next);
        network = later;
        for (_, up, datagram) in due {
            if up {
                for (_, answer) in world.server.handle(path(world.port), &datagram, world.now) {
                    send(&mut network, &mut fates, next, false, &answer);
                }
            } else {
                for answer in world.client.handle(&datagram, world.now) {
                    send(&mut network, &mut fates, next, true, &answer);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Covers: statement 54, R15, R17: whatever the network does to the first datagrams, the handshake ends well
    /// in the time that there is once the network is fair, or the client says that it gave up and tries again.
    #[test]
    fn the_handshake_survives_the_weather(
        fates in proptest::collection::vec(fate(), 0..14),
        suite in 0usize..3,
        legacy in any::<bool>(),
    ) {
        let keying = || match legacy {
            false => Keying::psk(PSK),
            true => Keying::preset([5; 48], APP_ID, Suite::PskChaCha20Poly1305),
        };
        let mut world = World::new(keying(), keying(), &[Suite::PSK[suite]]);
        let damaged = fates.iter().any(|fate| matches!(fate, Fate::Damaged(_)));
        run(&mut world, fates, World::is_open);
        if !world.is_open() {
            // Damage to what nobody can authenticate yet may break a handshake, as may a third loss in a row:
            // another one, in fair weather, succeeds, and nothing of the first is in its way.
            prop_assert!(damaged || !world.client.events.is_empty());
            world.client = super::harness::Client::new(keying(), &[Suite::PSK[suite]], 0xd7, world.now);
            run(&mut world, Vec::new(), World::is_open);
        }
        prop_assert!(world.is_open(), "{:?} {:?}", world.client.events, world.server.events);
        world.assert_alive();
    }

    /// Covers: statement 54: no single mishap costs the handshake.
    #[test]
    fn one_mishap_costs_less_than_two_seconds(at in 0usize..8, fate in fate()) {
        prop_assume!(!matches!(fate, Fate::Damaged(_)));
        let mut world = World::psk();
        let mut fates = vec![Fate::Delivered; at];
        fates.push(fate);
        let took = run(&mut world, fates, World::is_open);
        prop_assert!(world.is_open());
        prop_assert!(took < Duration::from_secs(2), "{took:?}");
        world.assert_alive();
    }

    /// Covers: statement 57, R15: new keys in bad weather; packets pass before, meanwhile and after.
    #[test]
    fn new_keys_survive_the_weather(fates in proptest::collection::vec(fate(), 0..8)) {
        let mut world = World::open();
        world.assert_alive();
        prop_assert!(world.client.channel.rekey([0xee; 32], world.now));
        run(&mut world, fates, |world| world.client.events.len() == 2);
        if world.client.channel.sealer().map(|s| s.epoch()) == Some(1) {
            // Five losses in a row, or damage: the attempt ends, the present keys stay, and another one succeeds.
            world.assert_alive();
            prop_assert!(world.client.channel.rekey([0xef; 32], world.now));
            run(&mut world, Vec::new(), |world| world.client.events.len() == 2);
        }
        prop_assert_eq!(world.server.channel.sealer().map(|s| s.epoch()), Some(2));
        prop_assert_eq!(world.client.channel.sealer().map(|s| s.epoch()), Some(2));
        world.assert_alive();
    }

    /// Covers: P-030, R15: any bytes, to a channel in use.
    #[test]
    fn any_datagram_leaves_a_live_channel_alive(
        start in prop_oneof![
            Just(vec![]),
            Just(vec![22, 0xfe, 0xfd, 0, 0]),
            Just(vec![22, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9]),
            Just(vec![21, 0xfe, 0xfd, 0, 1, 0, 0, 0, 0, 0, 9]),
        ],
        rest in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut world = World::open();
        let noise = [start, rest].concat();
        for port in [5000, 6000] {
            for (_, answer) in world.server.handle(path(port), &noise, world.now) {
                prop_assert!(answer.len() <= noise.len());
            }
        }
        prop_assert!(world.client.handle(&noise, world.now).is_empty());
        prop_assert_eq!(world.server.channel.path(), Some(path(5000)));
        world.assert_alive();
    }
}
