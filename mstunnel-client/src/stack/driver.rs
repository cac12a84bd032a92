//! The task that hands out what comes from the tunnel and keeps the timers.

use std::future::pending;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::packet::{Family, Packet, Protocol};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::flow::Flow;
use super::machine::{Fault, Numbers};
use super::mailbox::Mail;
use super::refusal::{About, Refusal, What};
use super::shared::Shared;
use super::table::Port;
use super::wire;
use crate::packets::PacketReceiver;
use crate::params::TunnelParams;

/// Packets that are taken in before flows are let answer: one acknowledgement for all of them.
const BATCH: usize = 64;

/// Runs until the tunnel ends.
pub(super) async fn run(
    shared: Arc<Shared>,
    mut params: watch::Receiver<Arc<TunnelParams>>,
    mut receiver: PacketReceiver,
) {
    let mut touched = Vec::with_capacity(BATCH);
    let mut has_params = true;
    loop {
        let deadline = shared.timers.first();
        tokio::select! {
            biased;
            changed = params.changed(), if has_params => match changed {
                Ok(()) => handle_params(&shared),
                // No more news; the packets say when the tunnel ends.
                Err(_) => has_params = false,
            },
            () = wait_until(deadline) => {}
            has_room = shared.room(), if shared.is_blocked() => {
                if !has_room {
                    break;
                }
                shared.service_blocked();
            }
            packet = receiver.recv() => {
                let Some(packet) = packet else { break };
                let is_full = handle_batch(&shared, packet, &mut receiver, &mut touched);
                if is_full {
                    // Those who read what came in must get their turn.
                    tokio::task::yield_now().await;
                }
            }
            () = shared.timers.earlier.notified() => {}
            () = shared.has_blocked.notified() => {}
        }
        handle_timeouts(&shared);
    }
    end(&shared);
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}

fn handle_timeouts(shared: &Shared) {
    let now = Instant::now();
    while let Some(flow) = shared.timers.take_due(now) {
        let mut machine = flow.machine();
        if machine.armed.is_some_and(|armed| armed <= now) {
            machine.armed = None;
        }
        shared.service(&flow, &mut machine);
    }
}

/// Hands out `packet` and those that wait behind it; whether there may be more.
fn handle_batch(
    shared: &Shared,
    packet: PacketBuf,
    receiver: &mut PacketReceiver,
    touched: &mut Vec<Arc<Flow>>,
) -> bool {
    let mut next = Some(packet);
    let mut count = 0;
    while let Some(packet) = next {
        handle_packet(shared, packet, touched);
        count += 1;
        next = if count < BATCH { receiver.try_recv() } else { None };
    }
    for flow in touched.drain(..) {
        let mut machine = flow.machine();
        // Its user may have read, and let it answer, in the meantime.
        if machine.is_touched {
            shared.service(&flow, &mut machine);
        }
    }
    count == BATCH
}

pub(super) fn handle_packet(shared: &Shared, packet: PacketBuf, touched: &mut Vec<Arc<Flow>>) {
    let Ok(parsed) = Packet::parse(packet.as_slice()) else {
        return shared.drop_packet(packet);
    };
    let family = parsed.family();
    // Not reassembled: what fragments are for, the MTU of connections and resolvers avoids.
    if parsed.fragment().is_some() || shared.local(family) != Some(parsed.destination()) {
        return shared.drop_packet(packet);
    }
    let source = parsed.source();
    match parsed.protocol() {
        Protocol::Tcp => {
            let Some(tcp) = parsed.tcp() else { return shared.drop_packet(packet) };
            let remote = SocketAddr::new(source, tcp.source_port());
            let Some(flow) = shared.table().flow(remote, tcp.destination_port()) else {
                return shared.drop_packet(packet);
            };
            let mut machine = flow.machine();
            if machine.has_ended_before(&tcp) {
                return shared.drop_packet(packet);
            }
            let numbers = Numbers::of(&tcp);
            machine.handle_packet(packet, numbers, Instant::now());
            if !std::mem::replace(&mut machine.is_touched, true) {
                drop(machine);
                touched.push(flow);
            }
        }
        Protocol::Udp => {
            let Some(udp) = parsed.udp().filter(|_| wire::is_intact(&parsed)) else {
                return shared.drop_packet(packet);
            };
            let from = SocketAddr::new(source, udp.source_port());
            let start = parsed.transport_offset() + wire::HEADER;
            let payload = start..start + udp.payload().len();
            deliver(shared, Port::Udp(family, udp.destination_port()), from, payload, packet);
        }
        Protocol::Icmp | Protocol::Icmpv6 => handle_icmp(shared, family, source, packet),
        Protocol::Other(_) => shared.drop_packet(packet),
    }
}

fn handle_icmp(shared: &Shared, family: Family, source: IpAddr, packet: PacketBuf) {
    let Ok(parsed) = Packet::parse(packet.as_slice()) else {
        return shared.drop_packet(packet);
    };
    let Some(icmp) = parsed.icmp().filter(|_| wire::is_intact(&parsed)) else {
        return shared.drop_packet(packet);
    };
    let is_reply = matches!((family, icmp.kind()), (Family::V4, 0) | (Family::V6, 129));
    match icmp.echo_id().filter(|_| is_reply) {
        Some(id) => {
            let payload = parsed.transport_offset()..packet.len();
            deliver(shared, Port::Echo(family, id), SocketAddr::new(source, 0), payload, packet);
        }
        None => match Refusal::parse(&parsed) {
            Some(refusal) if shared.local(family) == Some(refusal.source) => {
                handle_refusal(shared, refusal);
                shared.recycle(packet);
            }
            _ => shared.drop_packet(packet),
        },
    }
}

fn handle_refusal(shared: &Shared, refusal: Refusal) {
    match refusal.about {
        About::Connection { remote, local_port } => {
            let Some(flow) = shared.table().flow(remote, local_port) else { return };
            let mut machine = flow.machine();
            match refusal.what {
                What::Unreachable => machine.handle_fault(Fault::Unreachable),
                What::TooBig { mtu } => machine.handle_mtu(mtu),
            }
            shared.service(&flow, &mut machine);
        }
        About::Mailbox { port, destination } => {
            let Some(mailbox) = shared.table().mailbox(port) else { return };
            if refusal.what == What::Unreachable && mailbox.knows(destination.ip()) {
                // A full mailbox has more to say than this.
                let _ = mailbox.put(Mail::Unreachable { destination });
            }
        }
    }
}

fn deliver(
    shared: &Shared,
    port: Port,
    from: SocketAddr,
    payload: std::ops::Range<usize>,
    packet: PacketBuf,
) {
    let Some(mailbox) = shared.table().mailbox(port).filter(|mailbox| mailbox.knows(from.ip())) else {
        return shared.drop_packet(packet);
    };
    let hops = hop_limit(packet.as_slice());
    if let Err(Mail::Packet { packet, .. }) = mailbox.put(Mail::Packet { packet, payload, from, hops }) {
        shared.drop_packet(packet);
    }
}

fn hop_limit(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 4 { packet[8] } else { packet[7] }
}

/// Ends what belongs to an address that the tunnel no longer has, and lowers the MTU of the rest.
fn handle_params(shared: &Shared) {
    let mtu = shared.mtu();
    let (flows, mailboxes) = {
        let table = shared.table();
        (table.flows(), table.mailboxes())
    };
    for flow in flows {
        let mut machine = flow.machine();
        if shared.local(Family::of(machine.local())) == Some(machine.local()) {
            machine.handle_mtu(mtu);
        } else {
            machine.handle_fault(Fault::AddressChanged);
        }
        shared.service(&flow, &mut machine);
    }
    for mailbox in mailboxes {
        if shared.local(Family::of(mailbox.local)) != Some(mailbox.local) {
            mailbox.end();
        }
    }
}

fn end(shared: &Shared) {
    let (flows, mailboxes) = {
        let mut table = shared.table();
        table.end();
        (table.flows(), table.mailboxes())
    };
    for flow in flows {
        let mut machine = flow.machine();
        machine.handle_fault(Fault::TunnelEnded);
        shared.table().remove(&flow);
    }
    for mailbox in mailboxes {
        mailbox.end();
    }
}
