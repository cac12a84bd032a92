//! Rule 3 of every run: in = out + drops, and each drop is in exactly one counter.

use std::time::Instant;

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::drop::DropReason;
use mstunnel_proto::frame::FrameKind;
use mstunnel_proto::session::{Channel, Inbound, Session};

/// Counts along with a session's own counters.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    complaint: Option<String>,
}

/// Packets, bytes, and what was dropped.
type Sums = (u64, u64, u64);

fn sums_in(session: &Session) -> Sums {
    let counters = session.counters();
    (counters.packets_in, counters.bytes_in, counters.drops.total())
}

fn sums_out(session: &Session) -> Sums {
    let counters = session.counters();
    (counters.packets_out, counters.bytes_out, counters.drops.total())
}

impl Audit {
    /// As [`Session::decapsulate`].
    pub(crate) fn inbound<'b>(
        &mut self,
        session: &mut Session,
        channel: Channel,
        kind: FrameKind,
        payload: &'b mut [u8],
        now: Instant,
    ) -> Inbound<'b> {
        let before = sums_in(session);
        let drops = session.counters().drops.clone();
        let outcome = session.decapsulate(channel, kind, payload, now);
        let wanted = match &outcome {
            Inbound::Packet(packet) => (before.0 + 1, before.1 + packet.len() as u64, before.2),
            Inbound::Handled => before,
            Inbound::Dropped(_) => (before.0, before.1, before.2 + 1),
        };
        let counted = match &outcome {
            Inbound::Dropped(reason) => session.counters().drops.get(*reason) == drops.get(*reason) + 1,
            Inbound::Packet(_) | Inbound::Handled => true,
        };
        if sums_in(session) != wanted || !counted {
            self.complaint =
                Some(format!("{kind:?} in gave {outcome:?}: {:?}, not {wanted:?}", sums_in(session)));
        }
        outcome
    }

    /// As [`Session::encapsulate`].
    pub(crate) fn outbound(
        &mut self,
        session: &mut Session,
        packet: &mut PacketBuf,
        now: Instant,
    ) -> Result<Channel, DropReason> {
        let (before, len) = (sums_out(session), packet.len() as u64);
        let outcome = session.encapsulate(packet, now);
        let wanted = match outcome {
            Ok(_) => (before.0 + 1, before.1 + len, before.2),
            Err(_) => (before.0, before.1, before.2 + 1),
        };
        if sums_out(session) != wanted {
            self.complaint =
                Some(format!("a packet out gave {outcome:?}: {:?}, not {wanted:?}", sums_out(session)));
        }
        outcome
    }

    /// What is wrong, if anything is.
    pub(crate) fn check(&mut self, session: &Session) -> Option<String> {
        let complaint = self.complaint.take()?;
        Some(format!("session {}: {complaint}", session.id()))
    }
}
