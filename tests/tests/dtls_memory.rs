//! What an open datagram channel costs, measured at the C allocator, which the cryptography uses too.
//!
//! ```text
//! the session's, open or not:  ServerChannel with the secret, the client's path, two empty pointers
//! the open channel's:          2 x 608 key contexts of the cryptography library
//!                              80 the sealer, for any thread
//!                              240 the replay window of 1,024 (136), keys and nonces, what the rekey is bound to
//! ```

use std::time::Instant;

use mstunnel_proto::dtls::{Keying, Opened, ServerChannel, Suite};
use mstunnel_tests::{PAIR_PATH, open_pair};

/// What an open channel may cost beside its session: 1.5 KB.
const OPEN_LIMIT: usize = 1_536;

/// What a session may keep for a channel that its client may never open.
const SESSION_LIMIT: usize = 128;

const CHANNELS: usize = 1_000;

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
/// Covers: R17.
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
}
