//! Bytes between a client of the proxy and its destination, both ways, until both have ended.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until};

/// Without a byte either way for this long, a relay ends: RFC 5382 REQ-5 asks NATs for two hours four minutes.
pub(super) const IDLE: Duration = Duration::from_secs(2 * 3_600 + 240);

/// The same when one way has ended: what a peer needs to send the rest of an answer.
const IDLE_HALF_CLOSED: Duration = Duration::from_secs(300);

/// What is read at once, each way.
const BUFFER: usize = 32 * 1024;

/// Relays until both ways have ended, one has failed, or nothing has come for [`IDLE`].
///
/// A way that ends is passed on as a half close. A side that stops reading stops the other way's reading.
pub(super) async fn relay<A, B>(client: A, destination: B) -> io::Result<()>
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let (client_reading, client_writing) = tokio::io::split(client);
    let (reading, writing) = tokio::io::split(destination);
    let activity = Activity { start: Instant::now(), last: AtomicU64::new(0), ended: AtomicU64::new(0) };
    let both = async {
        tokio::try_join!(copy(client_reading, writing, &activity), copy(reading, client_writing, &activity))
    };
    tokio::select! {
        result = both => result.map(|((), ())| ()),
        () = activity.idle() => Err(io::ErrorKind::TimedOut.into()),
    }
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

async fn copy<R, W>(mut from: R, mut to: W, activity: &Activity) -> io::Result<()>
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
    use tokio::io::duplex;

    use super::*;

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
