//! Both ends of a tunnel in one process: no socket, no runtime, and a clock that jumps.
//!
//! Shows what `mstunnel-proto` asks of those who embed it: hand in bytes and the time, drain what comes out.
//! A client connects, sends a packet, is silent for ten minutes, loses the server, and comes back with
//! its cookie to the same address.

use std::io::{Write, stdout};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use etherparse::PacketBuilder;
use mstunnel_proto::auth::{AuthMethod, Cookie};
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::close::CloseReason;
use mstunnel_proto::connect::{ConnectParams, ConnectRequest, InsideAddress};
use mstunnel_proto::frame::{FrameKind, Frames};
use mstunnel_proto::http::RequestReader;
use mstunnel_proto::mtu::Mtu;
use mstunnel_proto::pool::{OwnerKey, Pool, PoolConfig};
use mstunnel_proto::session::{
    Access, Admit, Attach, Attachment, Channel, ClientConfig, ClientEvent, ClientSession, Inbound, Leases,
    Registry, RegistryConfig, Session, SessionConfig, SessionCounters, SessionParams,
};

const DPD: Duration = Duration::from_secs(30);

/// Drains every control frame that an end wants to send.
macro_rules! drain {
    ($end:expr) => {{
        let (mut frames, mut out) = (Vec::new(), PacketBuf::new(2048));
        while $end.poll_transmit(&mut out).is_some() {
            frames.extend_from_slice(out.as_slice());
        }
        frames
    }};
}

/// One accepted CONNECT: the request and the answer travel as bytes, then both ends are live.
fn connect(
    registry: &mut Registry,
    cookie: &Cookie,
    now: Instant,
) -> Result<(Session, ClientSession, Attachment)> {
    let request = ConnectRequest { cookie: Some(cookie.text()), ..ConnectRequest::default() };
    let mut reader = RequestReader::new();
    reader.handle_bytes(&request.encode("vpn.example"))?;
    let request = ConnectRequest::parse(&reader.poll_request().context("a whole request")?)?;
    let cookie = Cookie::parse(request.cookie.as_deref().unwrap_or_default()).context("a cookie")?.hash();
    let attachment = registry.attach(Attach { cookie, wants_v4: true, wants_v6: false, holder: 0 }, now)?;
    let mut said = ConnectParams::new(Mtu::new(1400));
    said.v4 = attachment.leases.v4.map(|address| InsideAddress { address, prefix_length: 24 });
    said.dpd = Some(DPD);
    let (heard, _) = ConnectParams::parse(&said.encode(&request))?.context("a whole answer")?;

    let config = SessionConfig { dpd: said.dpd, idle_timeout: None, access: Access::new(&[], &[], None) };
    let (id, leases, mtu) = (attachment.id, attachment.leases, heard.mtu.get());
    let server = Session::new(Arc::new(config), SessionParams { id, leases, mtu, ends_at: None }, now);
    let leases = Leases { v4: heard.v4.map(|v4| v4.address), v6: None };
    let config = ClientConfig { dpd: heard.dpd, keepalive: heard.keepalive, rekey: None, mtu, leases };
    Ok((server, ClientSession::new(config, now), attachment))
}

fn main() -> Result<()> {
    let (start, mut out) = (Instant::now(), stdout());
    let mut now = start;
    let config = RegistryConfig {
        cookie_timeout: Duration::from_secs(300),
        session_timeout: None,
        max_sessions: 10,
        max_per_user: None,
    };
    let mut registry =
        Registry::new(config, Some(Pool::new("10.9.0.0/24".parse()?, &PoolConfig::default())?), None);
    // A login would end here: `auth::LoginDesk` asks the questions. Real cookies are random.
    let cookie = Cookie::from_random([7; 32]);
    let (user, owner, method) = ("alice".to_owned(), OwnerKey::of_device("alice", ""), AuthMethod::Password);
    registry.admit(Admit { user, groups: vec![], group: None, method, cookie: cookie.hash(), owner }, now)?;
    let (mut server, mut client, first) = connect(&mut registry, &cookie, now)?;
    let address = server.leases().v4.context("an IPv4 address")?;
    writeln!(out, "connected as {address}")?;

    let mut datagram = Vec::new();
    PacketBuilder::ipv4(address.octets(), [198, 18, 0, 1], 64)
        .udp(4000, 53)
        .write(&mut datagram, b"a question")?;
    let mut packet = PacketBuf::new(1400);
    packet.fill(&datagram);
    client.encapsulate(&mut packet, now).map_err(|reason| anyhow::anyhow!("dropped: {reason}"))?;
    let frame = Frames::new(packet.as_mut_slice()).take_next()?.context("a whole frame")?;
    let taken = server.decapsulate(Channel::Stream, frame.kind, frame.payload, now);
    ensure!(matches!(taken, Inbound::Packet(ref bytes) if **bytes == datagram), "{taken:?}");
    writeln!(out, "a packet of {} bytes went through", datagram.len())?;

    // Ten silent minutes: the clock jumps to whatever deadline is next, and the client keeps asking.
    let mut asked = 0;
    while now < start + Duration::from_secs(600) {
        now = client.poll_timeout().context("the client asks now and then")?.at;
        client.handle_timeout(now);
        let mut frames = drain!(client);
        let mut frames = Frames::new(&mut frames);
        while let Some(frame) = frames.take_next()? {
            asked += usize::from(frame.kind == FrameKind::DpdRequest);
            let _ = server.decapsulate(Channel::Stream, frame.kind, frame.payload, now);
        }
        let mut answers = drain!(server);
        let mut answers = Frames::new(&mut answers);
        while let Some(frame) = answers.take_next()? {
            let _ = client.decapsulate(Channel::Stream, frame.kind, frame.payload, now);
        }
    }
    writeln!(out, "{} s later: alive, the client asked {asked} times", (now - start).as_secs())?;

    // The server's machine loses its network: what the client asks now, nobody hears.
    let cut = now;
    let event = loop {
        now = client.poll_timeout().context("the client gives up some time")?.at;
        client.handle_timeout(now);
        drain!(client);
        if let Some(event) = client.poll_event() {
            break event;
        }
    };
    ensure!(event == ClientEvent::Lost, "{event:?}");
    registry.detach(first.id, first.generation, CloseReason::StreamClosed, &SessionCounters::default(), now);
    let (server, ..) = connect(&mut registry, &cookie, now)?;
    let again = server.leases().v4.context("an IPv4 address")?;
    writeln!(out, "lost after {} s, back with the cookie as {again}", (now - cut).as_secs())?;
    Ok(())
}
