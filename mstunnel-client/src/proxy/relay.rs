//! Bytes between a client of the proxy and its destination, both ways, until both have ended.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use crate::dial::Stream;

/// Without a byte either way for this long, a relay ends: RFC 5382 REQ-5 asks NATs for two hours four minutes.
pub(super) const IDLE: Duration = Duration::from_secs(2 * 3_600 + 240);

/// The same when one way has ended: what a peer needs to send the rest of an answer.
const IDLE_HALF_CLOSED: Duration = Duration::from_secs(300);

/// What is read at once, each way.
const BUFFER: usize = 32 * 1024;

/// One end of a relay.
pub(super) trait Side: AsyncRead + AsyncWrite + Unpin {
    /// Ends the connection with a reset, so that nobody takes what has come for all there is.
    fn reset(self);
}

impl Side for TcpStream {
    fn reset(self) {
        // A socket that refuses this ends in order.
        let _ = self.set_zero_linger();
    }
}

impl Side for Stream {
    fn reset(self) {
        match self {
            Self::Tunnel(flow) => flow.abort(),
            Self::Direct(stream) => stream.reset(),
        }
    }
}

/// Relays until both ways have ended, one has failed, or nothing has come for [`IDLE`].
///
/// A way that ends is passed on as a half close, and a failure as a reset of both sides. A side that stops reading stops
/// the other way's reading.
pub(super) async fn relay<A: Side, B: Side>(client: A, destination: B) -> io::Result<()> {
    let (mut client_reading, mut client_writing) = tokio::io::split(client);
    let (mut reading, mut writing) = tokio::io::split(destination);
    let activity = Activity { start: Instant::now(), last: AtomicU64::new(0), ended: AtomicU64::new(0) };
    let both = async {
        let up = copy(&mut client_reading, &mut writing, &activity);
        let down = copy(&mut reading, &mut client_writing, &activity);
        tokio::try_join!(up, down)
    };
    let result = tokio::select! {
        result = both => result.map(|((), ())| ()),
        () = activity.idle() => Err(io::ErrorKind::TimedOut.into()),
    };
    if result.is_err() {
        client_reading.unsplit(client_writing).reset();
        reading.unsplit(writing).reset();
    }
    result
}

/// When something was relayed last.
struct Activity {
    start: Instant,
    /// Milliseconds after the start.
    last: AtomicU64,
    /// Ways that have ended.
    ended: AtomicU64,
}

impl Activity {
    fn note(&self) {
        let millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// Waits until nothing has happened for too long.
    async fn idle(&self) {
        loop {
            let last = self.start + Duration::from_millis(self.last.load(Ordering::Relaxed));
            let limit = if self.ended.load(Ordering::Relaxed) == 0 { IDLE } else { IDLE_HALF_CLOSED };
            if last.elapsed() >= limit {
                return;
            }
            // A way may end in the meantime: looked at again in time for that.
            let next = (last + limit).min(Instant::now() + IDLE_HALF_CLOSED);
            sleep_until(next).await;
        }
    }
}

async fn copy<R, W>(from: &mut R, to: &mut W, activity: &Activity) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; BUFFER];
    loop {
        let len = from.read(&mut buffer).await?;
        activity.note();
        if len == 0 {
            activity.ended.fetch_add(1, Ordering::Relaxed);
            return to.shutdown().await;
        }
        to.write_all(&buffer[..len]).await?;
        activity.note();
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};
    use tokio::net::TcpListener;

    use super::*;

    impl Side for DuplexStream {
        fn reset(self) {}
    }

    /// The two ends of a connection on loopback.
    async fn connection() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    /// What was cut must not look like what is whole, whichever side cuts it.
    #[tokio::test]
    async fn a_reset_is_passed_on_as_one() {
        for cuts_client in [false, true] {
            let (client, proxy) = connection().await;
            let (other, server) = connection().await;
            let relay = tokio::spawn(relay(proxy, other));
            let (mut cut, mut left) = if cuts_client { (client, server) } else { (server, client) };
            cut.write_all(b"half").await.unwrap();
            let mut half = [0; 4];
            left.read_exact(&mut half).await.unwrap();
            cut.set_zero_linger().unwrap();
            drop(cut);
            let error = left.read(&mut half).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            relay.await.unwrap().unwrap_err();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_half_close_is_passed_on_and_the_other_way_goes_on() {
        let (mut client, proxy) = duplex(64);
        let (other, mut server) = duplex(64);
        let relay = tokio::spawn(relay(proxy, other));
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        relay.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_is_idle_ends_and_sooner_when_half_closed() {
        for (is_half_closed, limit) in [(false, IDLE), (true, IDLE_HALF_CLOSED)] {
            let (mut client, proxy) = duplex(64);
            let (other, _server) = duplex(64);
            let before = Instant::now();
            if is_half_closed {
                client.shutdown().await.unwrap();
            }
            let error = relay(proxy, other).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(before.elapsed().as_secs(), limit.as_secs());
        }
    }
}
