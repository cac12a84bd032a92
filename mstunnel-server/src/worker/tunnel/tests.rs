//! Turns of a tunnel over loopback.

use std::future::poll_fn;
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use mstunnel_proto::buf::MAX_PACKET;
use mstunnel_proto::frame::FrameHeader;
use mstunnel_proto::session::{Access, Leases, SessionConfig, SessionId, SessionParams};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use rustls_pki_types::{PrivateKeyDer, ServerName};

use super::*;
use crate::egress::Part;
use crate::egress::userspace::{Plan, UserspaceConfig};
use crate::worker::live::Who;

const LEASES: Leases = Leases { v4: Some(Ipv4Addr::new(10, 9, 0, 5)), v6: None };

/// Bytes of a read of the socket: a long record takes hundreds.
const WIRE: usize = 64;

/// The client's end.
struct Client {
    tcp: TcpStream,
    tls: ClientConnection,
}

impl Client {
    /// Sends a frame in one record; returns the bytes of that.
    fn send(&mut self, kind: FrameKind, payload: &[u8]) -> usize {
        let header = FrameHeader { kind, payload_len: payload.len() }.encode();
        self.tls.writer().write_all(&[&header[..], payload].concat()).unwrap();
        self.tls.write_tls(&mut self.tcp).unwrap()
    }
}

/// A TLS connection whose handshake is done.
fn handshake() -> (ClientConnection, ServerConnection) {
    let issued = rcgen::generate_simple_self_signed(["vpn.corp.example".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![issued.cert.der().clone()], key)
        .unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("vpn.corp.example").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::new(server)).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().unwrap();
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    (client, server)
}

async fn connect() -> (Client, Tunnel) {
    let (client, server) = handshake();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, remote) = listener.accept().await.unwrap();
    let live = Live::new(Who {
        id: SessionId::new(7),
        worker: 0,
        remote,
        user_agent: String::new(),
        cipher: String::new(),
        since: Instant::now(),
        mtu: 1400,
    });
    let access = Access::new(&[], &[], None);
    let config = SessionConfig { dpd: None, idle_timeout: None, access };
    let params = SessionParams { id: SessionId::new(7), leases: LEASES, mtu: 1400, ends_at: None };
    let session = Session::new(Arc::new(config), params, Instant::now());
    let tunnel = Tunnel::new(session, Records::new(accepted, server), None, &[], Arc::new(live));
    (Client { tcp, tls: client }, tunnel)
}

fn bench() -> Bench {
    let plan = Plan::new(UserspaceConfig {
        pools: Vec::new(),
        own_addresses: Vec::new(),
        dns: Vec::new(),
        allow: Vec::new(),
        publish: Vec::new(),
        max_descriptors: 0,
    });
    let sockets: Rc<[DatagramSocket]> = Rc::new([]);
    Bench {
        read: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
        wire: RefCell::new(vec![0; WIRE].into_boxed_slice()),
        control: RefCell::new(PacketBuf::new(MAX_PACKET)),
        buffers: Arc::new(Buffers::new(MAX_PACKET)),
        egress: Part::Userspace(Arc::new(plan.unwrap())).into_egress().unwrap(),
        intake: RefCell::new(Intake::new(0)),
        outlet: RefCell::new(Outlet::new(Rc::clone(&sockets))),
        sockets,
        own_addresses: Vec::new(),
    }
}

/// Takes frames in until `is_done`; returns how many turns that took.
async fn turns_until(tunnel: &mut Tunnel, bench: &Bench, is_done: impl Fn(&Session) -> bool) -> usize {
    let mut turns = 0;
    poll_fn(|cx| {
        turns += 1;
        let is_cut_short = tunnel.poll_frames(cx, bench, Instant::now());
        if is_done(&tunnel.session) {
            return Poll::Ready(());
        }
        assert_eq!(tunnel.session.state(), SessionState::Open, "{:?}", tunnel.session.poll_event());
        if is_cut_short {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    })
    .await;
    turns
}

/// Covers: R57
#[tokio::test]
async fn reads_that_bring_no_plaintext_end_a_turn_as_others_do_and_what_follows_is_found() {
    let (mut client, mut tunnel) = connect().await;
    let bench = bench();
    let sent = client.send(FrameKind::Unknown(0xff), &[0; 16_000]);
    let is_read = |session: &Session| session.counters().drops.get(DropReason::UnknownFrame) == 1;
    let turns = turns_until(&mut tunnel, &bench, is_read).await;
    assert!(turns >= sent / (WIRE * READS_PER_TURN), "{turns} turns for {sent} bytes");

    // It waits for more, and wakes.
    let is_closed = |session: &Session| session.state() != SessionState::Open;
    let leave = async {
        tokio::task::yield_now().await;
        client.send(FrameKind::Disconnect, b"\xb0bye");
    };
    tokio::join!(turns_until(&mut tunnel, &bench, is_closed), leave);
}

/// A task that waits.
#[derive(Default)]
struct Waits(AtomicBool);

impl Wake for Waits {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Covers: R55, R59: flows that a client opens and resets wait for its stream no longer than others need to ask again.
#[tokio::test]
async fn the_list_of_those_who_wait_for_room_is_bounded_and_forgets_nobody() {
    let (_client, mut tunnel) = connect().await;
    tunnel.blocked = true;
    let first = Arc::new(Waits::default());
    let wait = |tunnel: &mut Tunnel, task: &Arc<Waits>| {
        let waker = Waker::from(Arc::clone(task));
        assert!(tunnel.poll_room(&mut Context::from_waker(&waker)).is_pending());
        assert!(tunnel.waiting.len() <= MAX_WAITING);
    };
    wait(&mut tunnel, &first);
    for _ in 1..MAX_WAITING {
        wait(&mut tunnel, &Arc::new(Waits::default()));
    }
    assert!(!first.0.load(Ordering::Relaxed), "there is room for all of them");
    wait(&mut tunnel, &Arc::new(Waits::default()));
    assert!(first.0.load(Ordering::Relaxed), "it has to ask again");
    assert_eq!(tunnel.waiting.len(), 1);
}
