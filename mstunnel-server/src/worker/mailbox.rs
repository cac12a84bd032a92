//! What one worker leaves for another: packets and datagrams that the kernel gave to the wrong one, and tunnels that move.
//!
//! Limit: [`MAX_LETTERS`] wait; a worker that is that far behind loses the newest.

use crossbeam_queue::ArrayQueue;
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::dtls::Path;
use tokio::sync::Notify;

use super::connection::Moving;

/// Packets and datagrams that wait for another worker: a few bursts of the kernel.
const MAX_LETTERS: usize = 1024;

/// One thing for another worker.
pub(crate) enum Letter {
    /// An IP packet for a client.
    Packet(PacketBuf),
    /// A datagram of a client.
    Datagram {
        /// Whose it is, or may be.
        tunnel: u64,
        /// Where it came from.
        path: Path,
        /// What it is.
        kind: DatagramKind,
        /// Which worker took it in.
        from: usize,
        /// Its bytes.
        bytes: PacketBuf,
    },
    /// A tunnel that lives here from now on.
    Tunnel(Box<Moving>),
}

/// What a datagram is to its tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DatagramKind {
    /// A ClientHello in clear, whose cookie was good.
    Hello,
    /// Records from an address of the tunnel.
    Records,
    /// Records from an address of no tunnel: only for who recognizes them.
    Stray,
}

impl Letter {
    /// The buffer of a letter that is not wanted any more.
    pub(crate) fn into_buffer(self) -> Option<PacketBuf> {
        match self {
            Self::Packet(bytes) | Self::Datagram { bytes, .. } => Some(bytes),
            Self::Tunnel(_) => None,
        }
    }

    /// The tunnel of a letter that could not be left.
    pub(crate) fn into_tunnel(self) -> Option<Box<Moving>> {
        match self {
            Self::Tunnel(moving) => Some(moving),
            Self::Packet(_) | Self::Datagram { .. } => None,
        }
    }
}

/// The letters for one worker.
pub(crate) struct Mailbox {
    letters: ArrayQueue<Letter>,
    notify: Notify,
}

impl Default for Mailbox {
    fn default() -> Self {
        Self { letters: ArrayQueue::new(MAX_LETTERS), notify: Notify::new() }
    }
}

impl Mailbox {
    /// Leaves a letter; a full mailbox gives it back.
    pub(crate) fn put(&self, letter: Letter) -> Result<(), Letter> {
        self.letters.push(letter)?;
        self.notify.notify_one();
        Ok(())
    }

    /// Takes the oldest letter out.
    pub(crate) fn take(&self) -> Option<Letter> {
        self.letters.pop()
    }

    /// Waits until there may be letters.
    pub(crate) async fn filled(&self) {
        self.notify.notified().await;
    }

    /// Says that letters were left for a later turn.
    pub(crate) fn remind(&self) {
        self.notify.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: R55
    #[test]
    fn a_full_mailbox_gives_the_letter_back() {
        let mailbox = Mailbox::default();
        for _ in 0..MAX_LETTERS {
            assert!(mailbox.put(Letter::Packet(PacketBuf::new(0))).is_ok());
        }
        assert!(mailbox.put(Letter::Packet(PacketBuf::new(0))).is_err());
        assert!(mailbox.take().is_some());
        assert!(mailbox.put(Letter::Packet(PacketBuf::new(0))).is_ok());
    }
}
