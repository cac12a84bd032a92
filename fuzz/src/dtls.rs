//! The DTLS engine: hellos of strangers, records to a live channel, messages to open handshakes.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::dtls::{
    ClientChannel, CookieKeys, Greeting, HEADER_BYTES, Keying, Opened, Path, ServerChannel, Suite,
    is_client_hello, records,
};

const APP_ID: [u8; 32] = [3; 32];

const HERE: Path = path(5_000);
const ELSEWHERE: Path = path(6_000);

const fn path(port: u16) -> Path {
    Path { remote: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), port), local: None, socket: 0 }
}

/// A server of one session, its client, and what they say to each other.
struct Pair {
    keys: CookieKeys,
    server: ServerChannel,
    client: ClientChannel,
    now: Instant,
}

impl Pair {
    fn new(keying: fn() -> Keying) -> Self {
        let now = Instant::now();
        Self {
            keys: CookieKeys::new([1; 32]),
            server: ServerChannel::new(keying()),
            client: ClientChannel::start(keying(), &APP_ID, &[Suite::PskAes128Gcm], [4; 32], now),
            now,
        }
    }

    fn open() -> Self {
        let mut pair = Self::new(|| Keying::psk([2; 32]));
        while pair.step() {}
        assert!(pair.server.is_open() && pair.client.is_open());
        pair
    }

    /// Carries what the client has to say to the server, and the answers back; returns whether there was any.
    fn step(&mut self) -> bool {
        let said = self.drain_client();
        for datagram in &said {
            for mut answer in self.deliver(HERE, datagram) {
                for record in records(&mut answer) {
                    let _ = self.client.handle_record(record, self.now);
                }
            }
        }
        !said.is_empty()
    }

    fn deliver(&mut self, from: Path, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut out = PacketBuf::new(1_500);
        if is_client_hello(datagram) {
            match self.keys.greet(from.remote, datagram, &mut out) {
                Greeting::Answer => return vec![out.as_slice().to_vec()],
                Greeting::Verified(hello) => {
                    let _ = self.server.handle_hello(from, &hello, [5; 32], self.now);
                }
                Greeting::Dropped(_) => {}
            }
        } else {
            let mut datagram = datagram.to_vec();
            for record in records(&mut datagram) {
                let _ = self.server.handle_record(from, record, self.now);
            }
        }
        let mut answers = Vec::new();
        while self.server.poll_transmit(&mut out).is_some() {
            answers.push(out.as_slice().to_vec());
        }
        answers
    }

    fn drain_client(&mut self) -> Vec<Vec<u8>> {
        let mut out = PacketBuf::new(1_500);
        let mut said = Vec::new();
        while self.client.poll_transmit(&mut out) {
            said.push(out.as_slice().to_vec());
        }
        said
    }

    /// A packet each way still arrives.
    fn assert_alive(&mut self) {
        let mut record = [0; 100];
        let len = self.client.seal_into(b"\x00up", &mut record).expect("the client is open");
        let opened = self.server.handle_record(HERE, &mut record[..len], self.now);
        assert!(matches!(opened, Opened::Application([0, b'u', b'p'])), "the server is deaf: {opened:?}");
        let len = self.server.seal_into(b"\x00down", &mut record).expect("the server is open");
        let opened = self.client.handle_record(&mut record[..len], self.now);
        assert!(
            matches!(opened, Opened::Application([0, b'd', b'o', b'w', b'n'])),
            "the client is deaf: {opened:?}"
        );
    }
}

/// A datagram of a stranger: never answered with more than it brought, and never taken for proven.
pub fn dtls_hello(data: &[u8]) {
    let keys = CookieKeys::new([1; 32]);
    let mut answer = PacketBuf::new(1_500);
    match keys.greet(HERE.remote, data, &mut answer) {
        Greeting::Answer => assert!(answer.len() <= data.len(), "an answer outgrew its question"),
        Greeting::Verified(_) => panic!("a cookie was guessed"),
        Greeting::Dropped(_) => {}
    }
}

/// Datagrams to both ends of a live channel, from its address and from another one: packets still pass, and
/// nothing but a copy of what the peer says is answered.
pub fn dtls_record(data: &[u8]) {
    let mut pair = Pair::open();
    for from in [HERE, ELSEWHERE] {
        let answered: usize = pair.deliver(from, data).iter().map(Vec::len).sum();
        assert!(answered <= data.len(), "an answer outgrew its question");
    }
    let mut datagram = data.to_vec();
    for record in records(&mut datagram) {
        let opened = pair.client.handle_record(record, pair.now);
        assert!(!matches!(opened, Opened::Application(_)), "a tag was guessed");
    }
    assert_eq!(pair.server.path(), Some(HERE));
    assert!(pair.drain_client().is_empty(), "a stranger was answered");
    pair.assert_alive();
}

/// Handshake messages in clear to open handshakes, each chunk (its length first) in a record of its own: to a
/// server that waits for its client's key exchange, and to a client that waits for its server's hello. Whatever
/// they do, both end by themselves, and the next handshake of the session succeeds.
pub fn dtls_handshake(data: &[u8]) {
    /// Behind the headers of the record and of the message.
    const HELLO_BODY: usize = 25;

    let legacy = || Keying::preset([6; 48], APP_ID, Suite::PskAes128Gcm);
    let Some((&mode, mut rest)) = data.split_first() else {
        return;
    };
    let keying = if mode & 1 == 0 { || Keying::psk([2; 32]) } else { legacy };
    let mut pair = Pair::new(keying);
    let mut next_chunk = || {
        let (&len, more) = rest.split_first()?;
        let (chunk, more) = more.split_at(more.len().min(len.into()));
        rest = more;
        Some(chunk)
    };
    // The first hello is answered by a cookie; with the second the server has a handshake.
    pair.step();
    if mode & 2 == 0 {
        // The cookie is for the body alone: the headers may become anything.
        let changes = if mode & 4 == 0 { None } else { next_chunk() };
        for mut datagram in pair.drain_client() {
            for change in changes.unwrap_or_default().chunks_exact(2) {
                datagram[usize::from(change[0]) % HELLO_BODY] ^= change[1];
            }
            pair.deliver(HERE, &datagram);
        }
    }
    let mut number = 100u8;
    while let Some(chunk) = next_chunk() {
        number = number.wrapping_add(1);
        let len = u8::try_from(chunk.len()).expect("a chunk has a length of one byte");
        let mut record = vec![22, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 1, number, 0, len];
        record.extend_from_slice(chunk);
        assert_eq!(record.len(), HEADER_BYTES + chunk.len());
        pair.deliver(HERE, &record);
        let _ = pair.client.handle_record(&mut record, pair.now);
        pair.drain_client();
    }
    assert!(!pair.server.is_open() && !pair.client.is_open(), "a handshake finished in clear");
    for _ in 0..30 {
        pair.now += Duration::from_secs(1);
        pair.server.handle_timeout(pair.now);
        pair.client.handle_timeout(pair.now);
    }
    assert!(pair.server.poll_timeout().is_none() && pair.client.poll_timeout().is_none());
    pair.client = ClientChannel::start(keying(), &APP_ID, &[Suite::PskAes128Gcm], [7; 32], pair.now);
    while pair.step() {}
    pair.assert_alive();
}
