//! New keys on the live association, and where numbers end.

use std::time::Duration;

use super::super::hello::ClientHelloBody;
use super::super::message::{Message, MessageType};
use super::super::{
    CLIENT_PATIENCE, ClientChannelEvent, ContentType, Keying, Opened, SealError, ServerChannelEvent, Suite,
};
use super::harness::{Client, PSK, World, path};

/// Covers: statement 57, R16.
#[test]
fn a_client_renews_its_keys_on_the_live_association() {
    let mut world = World::open();
    for round in 0..3u8 {
        let before = world.client.seal(b"\x00before");
        assert!(world.client.channel.rekey([round + 1; 32], world.now));
        assert!(!world.client.channel.rekey([round + 1; 32], world.now), "one at a time");
        world.assert_alive();
        world.pass(Duration::from_millis(500));
        world.settle();
        assert_eq!((&world.server.drops[..], &world.client.drops[..]), (&[][..], &[][..]), "round {round}");
        assert_eq!(
            world.client.events.last(),
            Some(&ClientChannelEvent::Rekeyed { suite: Suite::PskAes256Gcm })
        );
        assert_eq!(
            world.server.events.last(),
            Some(&ServerChannelEvent::Rekeyed { suite: Suite::PskAes256Gcm })
        );
        assert_eq!(world.server.channel.sealer().unwrap().epoch(), u16::from(round) + 2);
        // A record that was overtaken by the handshake still arrives.
        world.server.handle(path(5000), &before, world.now);
        assert_eq!(world.server.packets.last().unwrap(), b"\x00before");
        world.assert_alive();
        world.pass(Duration::from_secs(16));
        assert_eq!(world.server.channel.poll_timeout(), None);
        assert_eq!(world.client.channel.poll_timeout(), None);
        world.assert_alive();
    }
    assert!(world.server.drops.is_empty() && world.client.drops.is_empty());
}

#[test]
fn a_renewal_that_is_lost_leaves_the_keys_in_use() {
    let mut world = World::open();
    world.assert_alive();
    assert!(world.client.channel.rekey([7; 32], world.now));
    world.client.drain();
    world.pass(Duration::from_secs(12));
    world.client.drain();
    assert_eq!(world.client.events[1..], [ClientChannelEvent::RekeyFailed]);
    world.assert_alive();
    assert!(world.client.channel.rekey([8; 32], world.now));
    world.settle();
    assert_eq!(world.client.channel.sealer().unwrap().epoch(), 2);
}

/// Covers: P-023, R16: the last epoch has no successor, and carries on.
#[test]
fn the_epoch_stops_at_its_end_and_never_wraps() {
    let mut world = World::open();
    world.assert_alive();
    world.server.channel.skip_to_epoch(u16::MAX - 1);
    world.client.channel.skip_to_epoch(u16::MAX - 1);
    world.assert_alive();
    assert!(world.client.channel.rekey([1; 32], world.now));
    world.settle();
    assert_eq!(world.client.channel.sealer().unwrap().epoch(), u16::MAX);
    world.assert_alive();
    // Records of the first epochs, had it wrapped.
    assert!(!world.client.channel.rekey([2; 32], world.now), "there is no epoch after it");
    world.settle();
    world.assert_alive();
    assert_eq!(world.server.channel.sealer().unwrap().epoch(), u16::MAX);
    // A client that tries all the same is told, through the keys in use.
    let hello = ClientHelloBody {
        random: &[3; 32],
        session_id: &[],
        cookie: &[],
        suites: Suite::PSK,
        extended_master_secret: true,
        renegotiation: &[4; 12],
    };
    let hello = Message::new(MessageType::ClientHello, 0, &hello.encode());
    let mut record = vec![0; hello.bytes.len() + 100];
    let sealer = world.client.channel.sealer().unwrap();
    let len = sealer.seal_content_into(ContentType::Handshake, &hello.bytes, &mut record).unwrap();
    let answers = world.server.handle(path(5000), &record[..len], world.now);
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].1[0], ContentType::Alert.byte());
    assert!(world.server.drops.is_empty());
    world.assert_alive();
}

/// Covers: P-023, R16: nothing is sent with a number twice; the client hears that it needs another channel.
#[test]
fn a_used_up_sequence_falls_back_and_another_channel_starts_anew() {
    let mut world = World::open();
    world.assert_alive();
    world.client.channel.sealer().unwrap().skip_to((1 << 48) - 1);
    let last = world.client.seal(b"\x00last");
    world.server.handle(path(5000), &last, world.now);
    assert_eq!(world.server.packets.last().unwrap(), b"\x00last");
    assert_eq!(world.client.channel.seal_into(b"\x00more", &mut [0; 100]), Err(SealError::Exhausted));
    // New keys would be asked for with a number that there is not.
    assert!(world.client.channel.rekey([1; 32], world.now));
    assert!(world.client.drain().is_empty());
    world.pass(CLIENT_PATIENCE);
    world.client.drain();
    assert_eq!(world.client.events.last(), Some(&ClientChannelEvent::RekeyFailed));
    world.client = Client::new(Keying::psk(PSK), &[], 0xc7, world.now);
    world.settle();
    world.assert_alive();
}

/// What the server's keys make of a handshake message or an alert of its own.
fn said_by_server(world: &World, content: ContentType, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 100];
    let len = world.server.channel.sealer().unwrap().seal_content_into(content, bytes, &mut out).unwrap();
    out.truncate(len);
    out
}

const HELLO_REQUEST: [u8; 12] = [0; 12];

/// Covers: statement 57, R15: a HelloRequest is a wish, if it is authentic.
#[test]
fn a_client_hears_that_the_server_wants_new_keys() {
    let mut world = World::open();
    world.assert_alive();
    let asked = said_by_server(&world, ContentType::Handshake, &HELLO_REQUEST);
    let mut forged = asked.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert!(world.client.handle(&forged, world.now).is_empty());
    assert_eq!(world.client.events.len(), 1);
    assert!(world.client.handle(&asked, world.now).is_empty(), "nothing is sent without the caller's word");
    assert_eq!(world.client.events[1..], [ClientChannelEvent::RekeyAsked]);
    // While the handshake goes on, another one is neither a wish nor a message of it.
    assert!(world.client.channel.rekey([7; 32], world.now));
    let again = said_by_server(&world, ContentType::Handshake, &HELLO_REQUEST);
    world.client.handle(&again, world.now);
    world.pass(Duration::from_millis(500));
    world.settle();
    assert_eq!(world.client.events[2..], [ClientChannelEvent::Rekeyed { suite: Suite::PskAes256Gcm }],);
    world.assert_alive();
}

#[test]
fn wishes_that_nobody_takes_out_are_one() {
    let mut world = World::open();
    for _ in 0..1_000 {
        let mut asked = said_by_server(&world, ContentType::Handshake, &HELLO_REQUEST);
        assert_eq!(world.client.channel.handle_record(&mut asked, world.now), Opened::Handled);
    }
    world.client.drain();
    assert_eq!(world.client.events[1..], [ClientChannelEvent::RekeyAsked]);
}

/// Covers: statement 57: the warning ends the handshake at once, and nothing else.
#[test]
fn a_server_may_refuse_new_keys() {
    let mut world = World::open();
    world.assert_alive();
    let refused = said_by_server(&world, ContentType::Alert, &[1, 100]);
    world.client.handle(&refused, world.now);
    assert_eq!(world.client.events.len(), 1, "nothing was asked");
    assert!(world.client.channel.rekey([7; 32], world.now));
    let refused = said_by_server(&world, ContentType::Alert, &[1, 100]);
    world.client.handle(&refused, world.now);
    assert_eq!(world.client.events[1..], [ClientChannelEvent::RekeyFailed]);
    assert_eq!(world.client.channel.poll_timeout(), None);
    world.assert_alive();
}

/// Covers: statement 57: a ServerHello that is not bound to the handshake before, from one that has the keys.
#[test]
fn a_renewal_that_contradicts_itself_is_told() {
    let mut world = World::open();
    world.assert_alive();
    assert!(world.client.channel.rekey([7; 32], world.now));
    world.client.drain();
    // Version 1.2, a random, no session, the suite, no compression, and not a word of renegotiation.
    let body = [&[0xfe, 0xfd][..], &[9; 32], &[0], &Suite::PskAes256Gcm.code().to_be_bytes(), &[0]].concat();
    let len = u8::try_from(body.len()).unwrap();
    let header = [2, 0, 0, len, 0, 0, 0, 0, 0, 0, 0, len];
    let hello = said_by_server(&world, ContentType::Handshake, &[&header[..], &body].concat());
    world.client.handle(&hello, world.now);
    assert_eq!(world.client.events[1..], [ClientChannelEvent::RekeyFailed]);
    world.assert_alive();
}
