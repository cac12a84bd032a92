//! The datagram channel of one tunnel: the DTLS engine, and what the directory says of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use aws_lc_rs::rand;
use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::connect::DtlsKey;
use mstunnel_proto::drop::DropReason;
use mstunnel_proto::dtls::{Keying, Opened, Path, ServerChannel, ServerChannelEvent, Suite, VerifiedHello};

use super::apart::Noise;
use super::directory::{APP_ID_BYTES, Directory, Holder};
use super::outlet::Outlet;

/// One tunnel's datagram channel, open or not.
pub(crate) struct DatagramLeg {
    channel: ServerChannel,
    directory: Arc<Directory>,
    app_id: [u8; APP_ID_BYTES],
    holder: Holder,
    /// Where the directory believes the channel to be.
    settled: Option<SocketAddr>,
    /// Where the directory believes a handshake to go on.
    begun: Option<SocketAddr>,
    noise: Noise,
}

/// What became of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is open now, or open anew.
    Opened(Suite),
    /// The client is elsewhere.
    Moved {
        /// Where it was.
        from: SocketAddr,
        /// Where it is.
        to: SocketAddr,
    },
    /// It is there no more.
    Closed,
}

/// What a client is offered for its datagram channel.
pub(crate) struct DatagramOffer {
    /// What its ClientHello is found by.
    pub(crate) app_id: [u8; APP_ID_BYTES],
    /// Where its keys come from, as the client is told.
    pub(crate) key: DtlsKey,
    /// The secret that both ends have.
    pub(crate) keying: Keying,
}

impl DatagramLeg {
    /// Makes the offer known to the directory.
    pub(crate) fn new(offer: DatagramOffer, directory: Arc<Directory>, holder: Holder) -> Self {
        directory.offer(offer.app_id, holder);
        let channel = ServerChannel::new(offer.keying);
        Self {
            channel,
            directory,
            app_id: offer.app_id,
            holder,
            settled: None,
            begun: None,
            noise: Noise::default(),
        }
    }

    /// Whether the channel is at this address of the client.
    pub(crate) fn is_at(&self, remote: SocketAddr) -> bool {
        self.settled == Some(remote)
    }

    /// Lives with `holder` from now on.
    pub(crate) fn move_to(&mut self, holder: Holder) {
        let before = std::mem::replace(&mut self.holder, holder);
        self.directory.relocate(self.app_id, self.settled, self.begun, before, holder);
    }

    /// Takes in a ClientHello whose sender is where it says to be.
    pub(crate) fn receive_hello(
        &mut self,
        path: Path,
        hello: &VerifiedHello<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let mut entropy = [0; 32];
        // Without randomness there is no handshake; the client stays on TLS.
        rand::fill(&mut entropy).map_err(|_| DropReason::HelloRefused)?;
        self.channel.handle_hello(path, hello, entropy, now)
    }

    /// Whether a record from an address that nobody has is this client's (R19); `scratch` is room to work in.
    pub(crate) fn recognizes(&self, record: &[u8], scratch: &mut Vec<u8>) -> bool {
        self.channel.recognizes(record, scratch)
    }

    /// Counts a bad datagram from an address of this client; whether it shall have a socket of its own.
    pub(crate) fn is_noisy(&mut self, now: Instant) -> bool {
        self.noise.count(now)
    }

    /// Opens one record.
    pub(crate) fn receive<'b>(&mut self, path: Path, record: &'b mut [u8], now: Instant) -> Opened<'b> {
        self.channel.handle_record(path, record, now)
    }

    /// Seals `plaintext` into the burst; whether that worked.
    pub(crate) fn put(&mut self, plaintext: &[u8], outlet: &mut Outlet) -> bool {
        let (Some(path), Some(sealer)) = (self.channel.path(), self.channel.sealer()) else {
            return false;
        };
        let len = plaintext.len() + sealer.suite().overhead();
        outlet.put(path, len, |room| sealer.seal_into(plaintext, room).is_ok())
    }

    /// Brings the directory up to date and sends what the handshake wants sent; `control` is a buffer to use.
    pub(crate) fn drain(&mut self, control: &mut PacketBuf, outlet: &mut Outlet) -> Option<Change> {
        // First: the answer to what is sent may be with another worker before the next line.
        self.tell_directory();
        while let Some(path) = self.channel.poll_transmit(control) {
            outlet.send(path, control.as_slice());
        }
        let mut change = None;
        while let Some(event) = self.channel.poll_event() {
            change = match event {
                ServerChannelEvent::Opened { suite, .. } => Some(Change::Opened(suite)),
                ServerChannelEvent::Closed { .. } => Some(Change::Closed),
                ServerChannelEvent::Moved { from, to } => {
                    Some(Change::Moved { from: from.remote, to: to.remote })
                }
                ServerChannelEvent::Rekeyed { .. } => change,
            };
        }
        change
    }

    fn tell_directory(&mut self) {
        let now_at = self.channel.path().map(|path| path.remote);
        if now_at != self.settled {
            if let Some(old) = self.settled {
                self.directory.leave(old, self.holder);
            }
            if let Some(new) = now_at {
                self.directory.settle(new, self.holder);
            }
            self.settled = now_at;
        }
        let shaking_at = self.channel.pending_path().map(|path| path.remote);
        if shaking_at != self.begun {
            if let Some(old) = self.begun {
                self.directory.finish(old, self.holder);
            }
            if let Some(new) = shaking_at {
                self.directory.begin(new, self.holder);
            }
            self.begun = shaking_at;
        }
    }

    /// Acts on the time.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.channel.handle_timeout(now);
    }

    /// When [`DatagramLeg::handle_timeout`] is wanted.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.channel.poll_timeout().map(|deadline| deadline.at)
    }

    /// Says goodbye, if anybody is there.
    pub(crate) fn close(&mut self, control: &mut PacketBuf, outlet: &mut Outlet) {
        self.channel.close();
        self.drain(control, outlet);
    }
}

impl Drop for DatagramLeg {
    fn drop(&mut self) {
        self.directory.withdraw(&self.app_id);
        if let Some(remote) = self.settled {
            self.directory.leave(remote, self.holder);
        }
        if let Some(remote) = self.begun {
            self.directory.finish(remote, self.holder);
        }
    }
}
