//! The client's userspace stack: what a host behind the tunnel sends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use mstunnel_client::packets::{PacketReceiver, PacketSender, Packets};
use mstunnel_client::params::TunnelParams;
use mstunnel_client::stack::{Stack, TcpFlow};
use mstunnel_proto::connect::{ConnectParams, InsideAddress};
use mstunnel_proto::mtu::Mtu;
use mstunnel_proto::packet::{Packet, Protocol};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time;

use crate::segments::{Peer, Script, fill, is_pattern, len, packet};

const MTU: u16 = 1_400;
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 5);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 5);
const HOST_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 20, 0, 2)), 443);
const HOST_V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 2)), 443);

/// Enough for what matters; more would only be slow.
const MAX_STEPS: usize = 256;

/// A connection of the client, whose user and whose host do as the bytes say. The first byte is its family and the
/// start of the host's numbers; each eight that follow are a step: a segment or another packet of the host, or
/// something of the user, or time. Steps of the upper half come together with the next.
///
/// Both streams arrive as they were sent, every packet is whole, nothing is sent without end, and afterwards the
/// stack still carries a ping.
pub fn client_stack(data: &[u8]) {
    let _ = bytes_passed(data);
}

/// How many bytes the user has received and sent.
fn bytes_passed(data: &[u8]) -> (u32, u32) {
    let Some((&first, steps)) = data.split_first() else { return (0, 0) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(run(first, steps))
}

async fn run(first: u8, steps: &[u8]) -> (u32, u32) {
    let mut said = ConnectParams::new(Mtu::new(MTU));
    said.v4 = Some(InsideAddress { address: CLIENT_V4, prefix_length: 16 });
    said.v6 = Some(InsideAddress { address: CLIENT_V6, prefix_length: 64 });
    let params = TunnelParams::new(said).expect("good parameters");
    let (change, params) = watch::channel(Arc::new(params));
    let (ours, theirs) = Packets::pair(1_500);
    let stack = Stack::start(params, ours);
    let (sender, receiver) = theirs.split();
    let host = if first & 1 == 0 { HOST_V4 } else { HOST_V6 };
    let mut tunnel =
        Tunnel { sender, receiver, host, first: u32::from(first) << 24, peer: None, last: Vec::new() };

    let mut user = User { flow: None, received: 0, sent: 0 };
    {
        let mut connect = pin!(stack.connect(host));
        let mut is_connecting = true;
        for step in steps.as_chunks::<8>().0.iter().take(MAX_STEPS) {
            if is_connecting && let Poll::Ready(flow) = connect.as_mut().poll(&mut quiet()) {
                is_connecting = false;
                user.flow = flow.ok();
            }
            let [kind, script @ ..] = *step;
            match kind & 7 {
                0..=2 => tunnel.segment(Script(script)),
                3 => tunnel.other(kind >> 3 & 3, script),
                4 => time::advance(Duration::from_millis(u64::from(script[0]) << (script[1] & 15))).await,
                5 => user.write(usize::from(script[0]) * 64),
                6 => user.read(usize::from(script[0]) * 64, tunnel.peer.as_ref()),
                _ => match script[0] & 7 {
                    0 => user.flow = None,
                    1 => change.send_modify(|params| *params = Arc::new(params.with_mtu(1_280))),
                    _ => user.finish(),
                },
            }
            // Several packets may come at once.
            if kind & 0x80 == 0 {
                tunnel.settle().await;
            }
        }
    }
    tunnel.assert_alive(&stack).await;
    (user.received, user.sent)
}

fn quiet() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// The other side of the stack: a host with one connection.
struct Tunnel {
    sender: PacketSender,
    receiver: PacketReceiver,
    host: SocketAddr,
    first: u32,
    /// Since the client's first packet has said from where it comes.
    peer: Option<Peer>,
    /// The last packet of the client.
    last: Vec<u8>,
}

impl Tunnel {
    fn send(&self, packet: &[u8]) {
        let mut buffer = self.sender.buffer();
        assert!(buffer.fill(packet), "a packet is longer than a buffer");
        let _ = self.sender.try_send(buffer);
    }

    fn segment(&mut self, script: Script) {
        let Some(peer) = &mut self.peer else { return };
        let packet = peer.segment(script);
        self.send(&packet);
    }

    /// A packet that is no segment: an ICMP error about the last one, a datagram, or anything.
    fn other(&self, kind: u8, script: [u8; 7]) {
        let (host, is_v4) = (self.host.ip(), self.host.is_ipv4());
        let client: IpAddr = if is_v4 { CLIENT_V4.into() } else { CLIENT_V6.into() };
        let bytes = match kind {
            0 => {
                let mut message = vec![script[0], script[1], 0, 0, 0, 0, script[2], script[3]];
                let quoted = self.last.len().min(usize::from(script[4]));
                message.extend_from_slice(&self.last[..quoted]);
                packet(host, client, if is_v4 { 1 } else { 58 }, &message)
            }
            1 => packet(host, client, 17, &[&script[..4], &[0, script[4], 0, 0], &script[5..]].concat()),
            2 => packet(host, client, script[0], &script[1..]),
            _ => {
                let mut bytes = packet(host, client, 6, &[0; 20]);
                for change in script[1..].as_chunks::<2>().0 {
                    let at = usize::from(change[0]) % bytes.len();
                    bytes[at] = change[1];
                }
                bytes
            }
        };
        self.send(&bytes);
    }

    /// Lets the stack work off what it has, and takes in what it sends.
    async fn settle(&mut self) {
        for _ in 0..100 {
            let mut is_quiet = true;
            tokio::task::yield_now().await;
            while let Some(packet) = self.receiver.try_recv() {
                is_quiet = false;
                self.hear(packet.as_slice());
                self.receiver.recycle(packet);
            }
            if is_quiet {
                return;
            }
        }
        panic!("there is always more to send; the last is {:x?}", self.last);
    }

    fn hear(&mut self, bytes: &[u8]) {
        self.last = bytes.to_vec();
        let packet = Packet::parse(bytes).expect("what is sent is a packet");
        if packet.protocol() == Protocol::Tcp {
            let (port, _) = packet.ports().expect("a segment has ports");
            let client = SocketAddr::new(packet.source(), port);
            let (host, first) = (self.host, self.first);
            let peer = self.peer.get_or_insert_with(|| Peer::new(host, client, first));
            peer.hear(bytes, usize::from(MTU));
        }
    }

    /// A ping and its answer still pass.
    async fn assert_alive(&mut self, stack: &Stack) {
        let ping = match stack.ping(self.host.ip()) {
            Ok(ping) => ping,
            Err(error) => panic!("no ping: {error:?}"),
        };
        self.settle().await;
        ping.send(1, 8).await.expect("a stack that sends");
        let request = loop {
            let packet = self.receiver.recv().await.expect("a stack that lives");
            let protocol = Packet::parse(packet.as_slice()).expect("a packet").protocol();
            if protocol != Protocol::Tcp {
                break packet.as_slice().to_vec();
            }
        };
        let view = Packet::parse(&request).expect("a packet");
        let mut message = view.payload().to_vec();
        message[0] = if self.host.is_ipv4() { 0 } else { 129 };
        self.send(&packet(view.destination(), view.source(), view.protocol().number(), &message));
        let reply = time::timeout(Duration::from_secs(5), ping.recv()).await;
        assert!(matches!(reply, Ok(Ok(reply)) if reply.sequence == 1), "no answer: {reply:?}");
    }
}

/// Who uses the connection.
struct User {
    flow: Option<TcpFlow>,
    /// Bytes that were read.
    received: u32,
    /// Bytes that were written.
    sent: u32,
}

impl User {
    fn write(&mut self, limit: usize) {
        let Some(flow) = &mut self.flow else { return };
        let mut bytes = vec![0; limit];
        fill(&mut bytes, self.sent);
        if let Poll::Ready(Ok(written)) = Pin::new(flow).poll_write(&mut quiet(), &bytes) {
            self.sent += len(&bytes[..written]);
        }
    }

    fn read(&mut self, limit: usize, peer: Option<&Peer>) {
        let Some(flow) = &mut self.flow else { return };
        let mut bytes = vec![0; limit];
        let mut buffer = ReadBuf::new(&mut bytes);
        if let Poll::Ready(Ok(())) = Pin::new(flow).poll_read(&mut quiet(), &mut buffer) {
            assert!(is_pattern(buffer.filled(), self.received), "other bytes than were sent are read");
            self.received += len(buffer.filled());
            let is_end = limit > 0 && buffer.filled().is_empty();
            let is_whole = !is_end || peer.is_some_and(|peer| peer.has_ended_at(self.received));
            assert!(is_whole, "the host has not ended after {} bytes", self.received);
        }
    }

    fn finish(&mut self) {
        let Some(flow) = &mut self.flow else { return };
        let _ = Pin::new(flow).poll_shutdown(&mut quiet());
    }
}

/// What the seeds reach: a target whose connection never opens would find nothing.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed;

    /// Covers: R69, P-098
    #[test]
    fn the_bytes_of_the_corpus_pass_both_ways_in_both_families() {
        assert_eq!(bytes_passed(&seed("client_stack/both_ways")), (200, 1_280));
        assert_eq!(bytes_passed(&seed("client_stack/both_ways_v6")), (1_275, 12_800));
    }
}
