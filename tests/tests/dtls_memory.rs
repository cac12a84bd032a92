//! What an open datagram channel costs, measured at the C allocator, which the cryptography uses too.
//!
//! ```text
//! the session's, open or not:  ServerChannel with the secret, the client's path, two empty pointers
//! the open channel's:          2 x 608 key contexts of the cryptography library
//!                              80 the sealer, for any thread
//!                              240 the replay window of 1,024 (136), keys and nonces, what the rekey is bound to
//! ```

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::dtls::{
    ClientChannel, CookieKeys, Greeting, Keying, Opened, Path, SERVER_PATIENCE, ServerChannel, Suite, records,
};
use mstunnel_tests::{PAIR_PATH, open_pair};

/// What an open channel may cost beside its session: 1.5 KB.
const OPEN_LIMIT: usize = 1_536;

/// What a session may keep for a channel that its client may never open.
const SESSION_LIMIT: usize = 128;

/// What the half-open handshakes of one session may cost, and the tools of this test.
const HALF_OPEN_LIMIT: usize = 16 * 1_024;

const CHANNELS: usize = 1_000;

const HELLOS: u32 = 100_000;

/// The bytes in use of all arenas of the C allocator, its own headers included.
fn in_use() -> usize {
    // SAFETY: takes no arguments, returns numbers by value.
    unsafe { libc::mallinfo2() }.uordblks
}

/// An open channel that has taken a packet, so that nothing of its handshake is kept.
fn open_channel(suite: Suite) -> ServerChannel {
    let (mut server, client) = open_pair(suite);
    let mut record = [0; 100];
    let len = client.seal_into(&[7; 50], &mut record).expect("an open channel seals");
    let opened = server.handle_record(PAIR_PATH, &mut record[..len], Instant::now());
    assert!(matches!(opened, Opened::Application(_)));
    assert!(server.poll_timeout().is_none(), "nothing of the handshake is kept");
    server
}

/// The only test of this program: the allocator's numbers are of the whole process.
///
/// Covers: P-082, R17, R18: also the channel that 100,000 half-open handshakes are begun beside.
#[test]
fn what_an_open_channel_costs_is_bounded() {
    let mut channels: Vec<ServerChannel> = Vec::with_capacity(Suite::PSK.len() * (CHANNELS + 100) + CHANNELS);
    for &suite in Suite::PSK {
        // What is allocated once has been, and the allocator's own caches are full.
        channels.extend((0..100).map(|_| open_channel(suite)));
        let before = in_use();
        channels.extend((0..CHANNELS).map(|_| open_channel(suite)));
        // What is no multiple of the count is of the caches.
        let open = (in_use() - before) / CHANNELS;
        let inline = size_of::<ServerChannel>();
        eprintln!("{}: {open} B beside {inline} B of the session", suite.name());
        assert!(open <= OPEN_LIMIT, "{}: {open} B", suite.name());
        assert!(inline <= SESSION_LIMIT, "{inline} B");
    }
    let before = in_use();
    channels.extend((0..CHANNELS).map(|_| ServerChannel::new(Keying::psk([2; 32]))));
    assert_eq!(in_use(), before, "a channel that waits has no memory but its place");
    flood(&mut channels[0]);
}

/// Hellos of one session from proven addresses: each handshake takes the place of the one before it.
fn flood(server: &mut ServerChannel) {
    let (keys, now) = (CookieKeys::new([1; 32]), Instant::now());
    let before = in_use();
    let mut out = PacketBuf::new(1_500);
    for number in 0..HELLOS {
        let remote = SocketAddr::from((Ipv4Addr::from(0x0a00_0000 + number), 5_000));
        let mut random = [9; 32];
        random[..4].copy_from_slice(&number.to_be_bytes());
        let mut client = ClientChannel::start(Keying::psk([3; 32]), &[3; 32], &[], random, now);
        assert!(client.poll_transmit(&mut out));
        let hello = out.as_slice().to_vec();
        assert_eq!(format!("{:?}", keys.greet(remote, &hello, &mut out)), "Answer");
        for record in records(out.as_mut_slice()) {
            assert_eq!(client.handle_record(record, now), Opened::Handled);
        }
        assert!(client.poll_transmit(&mut out));
        let hello = out.as_slice().to_vec();
        let Greeting::Verified(hello) = keys.greet(remote, &hello, &mut out) else {
            panic!("the cookie is good");
        };
        server
            .handle_hello(Path { remote, ..PAIR_PATH }, &hello, random, now)
            .expect("a hello of ours is good");
        while server.poll_transmit(&mut out).is_some() {}
        let grown = in_use().saturating_sub(before);
        assert!(grown <= HALF_OPEN_LIMIT, "{grown} B after {number} hellos");
    }
    assert_eq!((server.is_open(), server.path()), (true, Some(PAIR_PATH)));
    assert!(server.poll_event().is_none());
    server.handle_timeout(now + SERVER_PATIENCE);
    assert!(server.poll_timeout().is_none(), "nothing is kept of any of them");
}
