//! What an open datagram channel costs, measured at the C allocator, which the cryptography uses too.

use std::time::Instant;

use mstunnel_proto::dtls::{Opened, ServerChannel, Suite};
use mstunnel_tests::{PAIR_PATH, open_pair};

/// Of which 1,216 are the two key contexts of the cryptography library (608 each), 128 the replay window.
const LIMIT: usize = 1_696;

const CHANNELS: usize = 1_000;

/// The bytes in use of all arenas of the C allocator, its own headers included.
fn in_use() -> usize {
    // SAFETY: takes no arguments, returns numbers by value.
    unsafe { libc::mallinfo2() }.uordblks
}

/// The only test of this program: the allocator's numbers are of the whole process.
#[test]
fn what_an_open_channel_costs_is_bounded() {
    let mut plaintext = [0; 100];
    for &suite in Suite::PSK {
        // Whatever is allocated once has been.
        drop(open_pair(suite));
        let mut channels: Vec<ServerChannel> = Vec::with_capacity(CHANNELS);
        let before = in_use();
        for _ in 0..CHANNELS {
            let (mut server, client) = open_pair(suite);
            let len = client.seal_into(&[7; 50], &mut plaintext).unwrap();
            let now = Instant::now();
            assert!(matches!(
                server.handle_record(PAIR_PATH, &mut plaintext[..len], now),
                Opened::Application(_)
            ));
            assert!(server.poll_timeout().is_none(), "nothing of the handshake is kept");
            channels.push(server);
        }
        let heap = (in_use() - before).div_ceil(CHANNELS);
        let inline = size_of::<ServerChannel>();
        eprintln!("{}: {inline} B inline + {heap} B heap = {} B", suite.name(), inline + heap);
        assert!(inline + heap <= LIMIT, "{}: {inline} B inline + {heap} B heap", suite.name());
    }
}
