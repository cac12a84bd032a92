//! Flights: messages that are sent together, and again until the peer answers.
//!
//! ```text
//!   start --> sent --(500 ms, doubled each time, at most 8 s)--> sent again ... until answered or given up
//!                  --(the peer repeats its own flight)---------> sent again, at most every 100 ms
//! ```
//!
//! Records of one flight share datagrams; a message that is longer than the room is fragmented.
//!
//! # Source
//! RFC 6347 sections 4.2.3 and 4.2.4.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::message::{HANDSHAKE_HEADER_BYTES, Message, MessageType, fragment_header};
use super::record::{ContentType, HEADER_BYTES, RecordHeader, VERSION_1_0, VERSION_1_2};
use super::seal::{SealError, Sealer};
use super::sequences::MAX_SEQUENCE;
use crate::buf::PacketBuf;

/// When a flight is sent again for the first time: RFC 6347 says 1 s, and that a lower value may be used
/// where loss hurts; openconnect gives the whole handshake 12 s.
pub const FIRST_RESEND: Duration = Duration::from_millis(500);

/// The longest time between two transmissions of a flight.
pub const MAX_RESEND: Duration = Duration::from_secs(8);

/// What a peer's repetitions can make us send: a duplicated datagram is no reason.
const MIN_GAP: Duration = Duration::from_millis(100);

/// The longest datagram of a handshake: fits 1,280 with the headers of IPv6 and UDP and a tunnel's more.
pub const MAX_FLIGHT_DATAGRAM: usize = 1_200;

/// How the records of an epoch are written.
pub(crate) enum Writer {
    /// Epoch 0.
    Clear {
        /// The next sequence number.
        next: u64,
    },
    /// A later one.
    Sealed(Arc<Sealer>),
}

impl Writer {
    fn overhead(&self) -> usize {
        match self {
            Self::Clear { .. } => HEADER_BYTES,
            Self::Sealed(sealer) => sealer.suite().overhead(),
        }
    }

    fn put(&mut self, content: ContentType, bytes: &[u8], out: &mut [u8]) -> Result<usize, SealError> {
        match self {
            Self::Clear { next } => {
                if *next > MAX_SEQUENCE {
                    return Err(SealError::Exhausted);
                }
                // The record of a first hello says 1.0, as every client's does.
                let first_hello = content == ContentType::Handshake
                    && bytes.first() == Some(&MessageType::ClientHello.byte());
                let version = if first_hello { VERSION_1_0 } else { VERSION_1_2 };
                let header = RecordHeader { content, version, epoch: 0, sequence: *next, len: bytes.len() };
                out[..HEADER_BYTES].copy_from_slice(&header.bytes());
                out[HEADER_BYTES..HEADER_BYTES + bytes.len()].copy_from_slice(bytes);
                *next += 1;
                Ok(HEADER_BYTES + bytes.len())
            }
            Self::Sealed(sealer) => sealer.seal_content_into(content, bytes, out),
        }
    }
}

/// One part of a flight.
pub(crate) enum Item {
    /// A message in the epoch that the handshake started in.
    Message(Message),
    /// Says that the rest is of the next epoch.
    ChangeCipherSpec,
    /// A message in the next epoch.
    Protected(Message),
}

/// Where a transmission is: the item, and the bytes of its body that are sent.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Cursor {
    item: usize,
    offset: usize,
}

/// What we said last in a handshake.
#[derive(Default)]
pub(crate) struct Flight {
    items: Vec<Item>,
    cursor: Option<Cursor>,
    sent_at: Option<Instant>,
    resend: Option<(Instant, Duration)>,
}

impl Flight {
    /// A flight that is sent again until it is answered.
    pub(crate) fn new(items: Vec<Item>, now: Instant) -> Self {
        let resend = Some((now + FIRST_RESEND, FIRST_RESEND));
        Self { resend, ..Self::last(items, now) }
    }

    /// The last flight of a handshake: sent again only when the peer repeats its own.
    pub(crate) fn last(items: Vec<Item>, now: Instant) -> Self {
        Self { items, cursor: Some(Cursor { item: 0, offset: 0 }), sent_at: Some(now), resend: None }
    }

    /// The peer has answered: nothing of this is needed again.
    pub(crate) fn answered(&mut self) {
        *self = Self::default();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The peer repeats its flight, so it has not seen ours.
    pub(crate) fn repeat(&mut self, now: Instant) {
        if self.sent_at.is_some_and(|at| now >= at + MIN_GAP) {
            self.restart(now);
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some((at, delay)) = self.resend
            && now >= at
        {
            let delay = (2 * delay).min(MAX_RESEND);
            self.resend = Some((now + delay, delay));
            self.restart(now);
        }
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.resend.map(|(at, _)| at)
    }

    fn restart(&mut self, now: Instant) {
        if !self.items.is_empty() {
            self.cursor = Some(Cursor { item: 0, offset: 0 });
            self.sent_at = Some(now);
        }
    }

    /// Writes the next datagram of the present transmission; returns whether there was one.
    ///
    /// An epoch that has no numbers left ends the transmission.
    pub(crate) fn poll_transmit(
        &mut self,
        base: &mut Writer,
        next: Option<&Arc<Sealer>>,
        out: &mut PacketBuf,
    ) -> bool {
        let mut protected = next.map(|sealer| Writer::Sealed(Arc::clone(sealer)));
        let room = out.room();
        let limit = room.len().min(MAX_FLIGHT_DATAGRAM);
        let room = &mut room[..limit];
        let mut used = 0;
        while let Some(cursor) = self.cursor {
            let Some(item) = self.items.get(cursor.item) else {
                self.cursor = None;
                break;
            };
            let (writer, message) = match item {
                Item::ChangeCipherSpec => (&mut *base, None),
                Item::Message(message) => (&mut *base, Some(message)),
                Item::Protected(message) => (
                    protected.as_mut().expect("a protected message has the keys of its epoch"),
                    Some(message),
                ),
            };
            let written = write_part(writer, message, cursor.offset, &mut room[used..]);
            match written {
                Written::Part { record, body } => {
                    used += record;
                    let offset = cursor.offset + body;
                    let done = message.is_none_or(|message| offset >= message.body().len());
                    self.cursor = Some(match done {
                        true => Cursor { item: cursor.item + 1, offset: 0 },
                        false => Cursor { offset, ..cursor },
                    });
                }
                Written::NoRoom if used > 0 => break,
                Written::NoRoom | Written::Exhausted => {
                    self.cursor = None;
                    break;
                }
            }
        }
        out.set_len(used);
        used > 0
    }
}

enum Written {
    /// So many bytes of the datagram, for so many of the message.
    Part {
        record: usize,
        body: usize,
    },
    NoRoom,
    Exhausted,
}

/// Writes one record with as much of the message as fits; no message means a ChangeCipherSpec.
fn write_part(writer: &mut Writer, message: Option<&Message>, offset: usize, out: &mut [u8]) -> Written {
    let Some(room) = out.len().checked_sub(writer.overhead()) else {
        return Written::NoRoom;
    };
    let Some(message) = message else {
        return match room {
            0 => Written::NoRoom,
            _ => put(writer, ContentType::ChangeCipherSpec, &[1], 0, out),
        };
    };
    let rest = &message.body()[offset..];
    let len = match room.checked_sub(HANDSHAKE_HEADER_BYTES) {
        Some(room) if room > 0 || rest.is_empty() => rest.len().min(room),
        _ => return Written::NoRoom,
    };
    let mut bytes =
        fragment_header(message.kind, message.body().len(), message.sequence, offset, len).to_vec();
    bytes.extend_from_slice(&rest[..len]);
    put(writer, ContentType::Handshake, &bytes, len, out)
}

fn put(writer: &mut Writer, content: ContentType, bytes: &[u8], body: usize, out: &mut [u8]) -> Written {
    match writer.put(content, bytes, out) {
        Ok(record) => Written::Part { record, body },
        Err(_) => Written::Exhausted,
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Fragment;
    use super::super::reader::Reader;
    use super::super::record::records;
    use super::*;
    use crate::testing::origin;

    fn drain(flight: &mut Flight, base: &mut Writer, room: usize) -> Vec<Vec<u8>> {
        let mut out = PacketBuf::new(room);
        let mut datagrams = Vec::new();
        while flight.poll_transmit(base, None, &mut out) {
            datagrams.push(out.as_slice().to_vec());
        }
        datagrams
    }

    fn two_messages() -> Vec<Item> {
        vec![
            Item::Message(Message::new(MessageType::ServerHello, 1, &[7; 100])),
            Item::Message(Message::new(MessageType::ServerHelloDone, 2, &[])),
        ]
    }

    #[test]
    fn a_flight_shares_one_datagram_and_has_fresh_numbers_when_it_is_repeated() {
        let now = origin();
        let mut base = Writer::Clear { next: 1 };
        let mut flight = Flight::new(two_messages(), now);
        let first = drain(&mut flight, &mut base, 1500);
        assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [13 + 12 + 100 + 13 + 12]);
        assert!(drain(&mut flight, &mut base, 1500).is_empty());
        flight.handle_timeout(now + FIRST_RESEND);
        let mut second = drain(&mut flight, &mut base, 1500).remove(0);
        let numbers: Vec<_> =
            records(&mut second).map(|record| RecordHeader::parse(record).unwrap().sequence).collect();
        assert_eq!(numbers, [3, 4]);
    }

    /// Covers: statement 54.
    #[test]
    fn a_message_that_is_too_long_is_cut_into_fragments() {
        let mut flight = Flight::new(two_messages(), origin());
        let datagrams = drain(&mut flight, &mut Writer::Clear { next: 0 }, 60);
        assert!(datagrams.iter().all(|datagram| datagram.len() <= 60));
        let mut body = Vec::new();
        for mut datagram in datagrams {
            for record in records(&mut datagram) {
                let fragment = Fragment::take(&mut Reader::new(&record[HEADER_BYTES..])).unwrap();
                if fragment.kind == MessageType::ServerHello {
                    assert_eq!((fragment.total, fragment.offset), (100, body.len()));
                    body.extend_from_slice(fragment.bytes);
                }
            }
        }
        assert_eq!(body, [7; 100]);
    }

    #[test]
    fn resending_backs_off_and_a_repetition_counts_once() {
        let start = origin();
        let mut flight = Flight::new(two_messages(), start);
        let mut base = Writer::Clear { next: 0 };
        let mut delays = Vec::new();
        let mut last = start;
        drain(&mut flight, &mut base, 1500);
        for _ in 0..6 {
            let at = flight.due().unwrap();
            flight.handle_timeout(at);
            assert_eq!(drain(&mut flight, &mut base, 1500).len(), 1);
            delays.push((at - last).as_millis());
            last = at;
        }
        assert_eq!(delays, [500, 1_000, 2_000, 4_000, 8_000, 8_000]);
        flight.repeat(last);
        assert!(drain(&mut flight, &mut base, 1500).is_empty(), "a duplicate is no repetition");
        flight.repeat(last + MIN_GAP);
        assert_eq!(drain(&mut flight, &mut base, 1500).len(), 1);
        flight.answered();
        flight.repeat(last + Duration::from_secs(5));
        assert!(drain(&mut flight, &mut base, 1500).is_empty());
        assert_eq!(flight.due(), None);
    }

    #[test]
    fn a_room_for_nothing_ends_the_transmission() {
        let mut flight = Flight::new(two_messages(), origin());
        assert!(drain(&mut flight, &mut Writer::Clear { next: 0 }, 20).is_empty());
    }
}
