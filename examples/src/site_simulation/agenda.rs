//! What happens when: one heap of small entries, and the bytes that are on their way.
//!
//! Events of the same instant come in the order in which they were noted, so that a run depends on nothing but
//! its seed. Timers are not taken back: one that is no longer wanted is known by its time.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::time::Instant;

/// Names bytes on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Letter(u32);

/// Something that happens. A connection is named by its client and which attempt of the client it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// The next client signs in for the first time.
    Join,
    /// A client opens a connection.
    Try { client: u32 },
    /// The request of a client is at its server; with the cookie, if it has one.
    Arrive { client: u32, attempt: u16, cookie: Option<Letter> },
    /// A server has done what the request at the head of its queue costs.
    Serve { server: u16 },
    /// A client has its answer.
    Answer { client: u32, attempt: u16, answer: Answer },
    /// A frame is at the server.
    ToServer { client: u32, attempt: u16, frame: Letter },
    /// A frame is at the client.
    ToClient { client: u32, attempt: u16, frame: Letter },
    /// The server's machine hears that the client closed the connection.
    ClosedByClient { client: u32, attempt: u16 },
    /// The client's machine hears that the connection is closed.
    ClosedByServer { client: u32, attempt: u16 },
    /// A timer of a client's connection.
    ClientTimer { client: u32, attempt: u16 },
    /// A timer of a server's connection.
    LinkTimer { server: u16, slot: u32 },
    /// A timer of a server's tables.
    ServerTimer { server: u16 },
    /// A client loses its network.
    Roam { client: u32, closes: bool },
    /// Servers die.
    Death,
    /// The balancer takes the dead servers out.
    Rota,
    /// A point of the plot is due.
    Sample,
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// 200: the address, and the cookie if it is a new one.
    Accepted { address: Ipv4Addr, cookie: Option<Letter> },
    /// 401.
    Unauthorized,
    /// 503.
    Busy,
    /// The connection was refused, or nobody answered.
    Unreachable,
}

struct Entry {
    at: Instant,
    order: u64,
    event: Event,
}

impl Ord for Entry {
    /// The earliest is the greatest: the heap gives the greatest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

/// What will happen, in order.
#[derive(Default)]
pub(crate) struct Agenda {
    entries: BinaryHeap<Entry>,
    noted: u64,
}

impl Agenda {
    /// Notes that `event` happens at `at`.
    pub(crate) fn note(&mut self, at: Instant, event: Event) {
        self.noted += 1;
        self.entries.push(Entry { at, order: self.noted, event });
    }

    /// Takes the next event.
    pub(crate) fn take_next(&mut self) -> Option<(Instant, Event)> {
        self.entries.pop().map(|entry| (entry.at, entry.event))
    }
}

/// The most bytes of one letter: a small packet in its frame, or a cookie.
const LETTER_BYTES: usize = 63;

/// The bytes on their way, in slots that are used again.
#[derive(Default)]
pub(crate) struct Letters {
    slots: Vec<(u8, [u8; LETTER_BYTES])>,
    vacant: Vec<u32>,
}

impl Letters {
    /// Sends `bytes`, of which there are never more than [`LETTER_BYTES`].
    pub(crate) fn send(&mut self, bytes: &[u8]) -> Letter {
        let mut room = [0; LETTER_BYTES];
        room[..bytes.len()].copy_from_slice(bytes);
        let slot = (u8::try_from(bytes.len()).expect("a letter is short"), room);
        if let Some(vacant) = self.vacant.pop() {
            self.slots[vacant as usize] = slot;
            return Letter(vacant);
        }
        self.slots.push(slot);
        Letter(u32::try_from(self.slots.len() - 1).expect("fewer letters than there are clients"))
    }

    /// Takes the bytes out; they lie in `room`.
    pub(crate) fn open<'r>(&mut self, letter: Letter, room: &'r mut [u8; LETTER_BYTES]) -> &'r mut [u8] {
        let (len, bytes) = self.slots[letter.0 as usize];
        self.vacant.push(letter.0);
        *room = bytes;
        &mut room[..usize::from(len)]
    }

    /// Loses a letter.
    pub(crate) fn lose(&mut self, letter: Letter) {
        self.vacant.push(letter.0);
    }

    /// Room for [`Letters::open`].
    pub(crate) fn room() -> [u8; LETTER_BYTES] {
        [0; LETTER_BYTES]
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_as_noted() {
        let (start, mut agenda) = (Instant::now(), Agenda::default());
        let later = start + Duration::from_nanos(1);
        agenda.note(later, Event::Rota);
        agenda.note(start, Event::Join);
        agenda.note(start, Event::Death);
        let order: Vec<_> = std::iter::from_fn(|| agenda.take_next()).collect();
        assert_eq!(order, [(start, Event::Join), (start, Event::Death), (later, Event::Rota)]);
    }

    #[test]
    fn a_letter_is_read_once_and_its_slot_is_used_again() {
        let mut letters = Letters::default();
        let first = letters.send(b"one");
        assert_eq!(letters.open(first, &mut Letters::room()), b"one");
        assert_eq!(letters.send(b"two"), first);
    }
}
