//! What waits for the user of a UDP port or of echo requests: whole packets, bounded.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use mstunnel_proto::buf::PacketBuf;
use rustc_hash::FxHashSet;
use tokio::sync::Notify;

/// Packets that wait at most: a burst of a media stream, or the answers to one of a resolver.
pub(super) const MAX_WAITING: usize = 128;

/// Addresses that a port accepts packets from at most; with one more, all before it are forgotten.
pub(super) const MAX_CONTACTS: usize = 1_024;

/// Something for the user.
#[derive(Debug)]
pub(super) enum Mail {
    /// A packet; `payload` is where its contents are.
    Packet {
        packet: PacketBuf,
        payload: Range<usize>,
        from: SocketAddr,
        /// What was left of the hop limit.
        hops: u8,
    },
    /// A packet of ours to this address did not arrive.
    Unreachable { destination: SocketAddr },
    /// The tunnel ended, or its address changed: nothing comes any more.
    Ended,
}

/// The queue of one port.
#[derive(Debug)]
pub(super) struct Mailbox {
    pub(super) local: IpAddr,
    inner: Mutex<Inner>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    mails: VecDeque<Mail>,
    contacts: FxHashSet<IpAddr>,
    has_ended: bool,
}

impl Mailbox {
    pub(super) fn new(local: IpAddr) -> Self {
        Self { local, inner: Mutex::default(), arrived: Notify::new() }
    }

    /// Lets packets from `remote` in: something was sent there.
    pub(super) fn add_contact(&self, remote: IpAddr) {
        let mut inner = self.inner();
        if inner.contacts.len() >= MAX_CONTACTS && !inner.contacts.contains(&remote) {
            inner.contacts.clear();
        }
        inner.contacts.insert(remote);
    }

    /// Whether packets from `remote` are let in: nothing unsolicited is (R69).
    pub(super) fn knows(&self, remote: IpAddr) -> bool {
        self.inner().contacts.contains(&remote)
    }

    /// Puts a mail in; it comes back when there is no room.
    pub(super) fn put(&self, mail: Mail) -> Result<(), Mail> {
        let mut inner = self.inner();
        if inner.mails.len() >= MAX_WAITING {
            return Err(mail);
        }
        inner.mails.push_back(mail);
        drop(inner);
        self.arrived.notify_one();
        Ok(())
    }

    /// Says that nothing comes any more.
    pub(super) fn end(&self) {
        self.inner().has_ended = true;
        self.arrived.notify_one();
    }

    /// Waits for the next mail; for one waiter at a time.
    pub(super) async fn take(&self) -> Mail {
        loop {
            {
                let mut inner = self.inner();
                if let Some(mail) = inner.mails.pop_front() {
                    return mail;
                }
                if inner.has_ended {
                    // For whoever asks next.
                    self.arrived.notify_one();
                    return Mail::Ended;
                }
            }
            self.arrived.notified().await;
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mailbox() -> Mailbox {
        Mailbox::new([10, 9, 0, 5].into())
    }

    #[test]
    fn a_full_mailbox_gives_the_mail_back() {
        let mailbox = mailbox();
        let mail = || Mail::Unreachable { destination: ([10, 0, 0, 1], 53).into() };
        for _ in 0..MAX_WAITING {
            mailbox.put(mail()).unwrap();
        }
        assert!(mailbox.put(mail()).is_err());
    }

    #[test]
    fn only_addresses_that_were_sent_to_are_known_and_there_are_not_too_many() {
        let mailbox = mailbox();
        let address = |n: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0A00_0000 | n));
        assert!(!mailbox.knows(address(1)));
        for n in 0..=u32::try_from(MAX_CONTACTS).unwrap() {
            mailbox.add_contact(address(n));
        }
        assert!(mailbox.knows(address(u32::try_from(MAX_CONTACTS).unwrap())));
        assert!(!mailbox.knows(address(0)));
    }

    #[tokio::test]
    async fn what_came_before_the_end_is_still_handed_out() {
        let mailbox = mailbox();
        mailbox.put(Mail::Unreachable { destination: ([10, 0, 0, 1], 53).into() }).unwrap();
        mailbox.end();
        assert!(matches!(mailbox.take().await, Mail::Unreachable { .. }));
        assert!(matches!(mailbox.take().await, Mail::Ended));
        assert!(matches!(mailbox.take().await, Mail::Ended));
    }
}
