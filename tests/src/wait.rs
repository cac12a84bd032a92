//! Waiting with a bound: ask again every 20 ms until there is an answer or the time is up.

use std::io::{self, ErrorKind};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// For what takes milliseconds on an idle machine; the tests share two cores with each other.
pub const SHORT: Duration = Duration::from_secs(15);
/// For what takes seconds: a whole login, a reconnect, a program's orderly end.
pub const LONG: Duration = Duration::from_secs(40);

const PERIOD: Duration = Duration::from_millis(20);

/// Returns the first `Some` of `ask`, asked again and again for at most `limit`.
///
/// # Panics
/// When the time is up; the message names `what` was awaited.
pub fn until<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(start.elapsed() < limit, "waited {limit:?} in vain for {what}");
        sleep(PERIOD);
    }
}

/// Repeats a read that a signal interrupts: one with a time limit is not restarted (signal(7)).
///
/// # Errors
/// What the socket said.
pub fn uninterrupted<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match read() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            ended => return ended,
        }
    }
}

/// Reads from a socket for at most `limit`, over all signals; `None` when nothing came in time.
///
/// A read with a time limit is not restarted after a signal, not even after one that no handler is for:
/// a stop, or the freezer with which a busy CI machine pauses everything (signal(7)). Whoever takes that
/// error for the end of the connection sees servers hang up that did not.
///
/// # Errors
/// What the socket said.
pub(crate) fn read_within<T>(
    limit: Duration,
    mut read: impl FnMut(Duration) -> io::Result<T>,
) -> io::Result<Option<T>> {
    let end = Instant::now() + limit;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        match read(left) {
            Ok(value) => return Ok(Some(value)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::sys;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    /// The test `a_client_that_falls_silent_is_asked_then_dropped_and_may_come_back` failed of this once.
    #[test]
    fn a_read_goes_on_after_signals() {
        sys::ignore_by_handler(libc::SIGURG).unwrap();
        let (mut near, mut far) = pair();
        let (tell, told) = mpsc::channel();
        let reader = thread::spawn(move || {
            tell.send(sys::this_thread()).unwrap();
            let mut cut_short = 0;
            let read = read_within(LONG, |left| {
                near.set_read_timeout(Some(left))?;
                let read = near.read(&mut [0; 8]);
                cut_short += usize::from(read.as_ref().is_err_and(|e| e.kind() == ErrorKind::Interrupted));
                read
            });
            (read.unwrap(), cut_short)
        });
        let thread = told.recv().unwrap();
        for _ in 0..50 {
            sys::interrupt(thread, libc::SIGURG).unwrap();
            sleep(Duration::from_millis(2));
        }
        far.write_all(b"four").unwrap();
        let (read, cut_short) = reader.join().unwrap();
        assert_eq!(read, Some(4));
        assert!(cut_short > 0, "no signal met the read, so that nothing was tried");
    }

    #[test]
    fn a_read_in_vain_ends_in_time_and_an_error_is_told() {
        let (mut near, far) = pair();
        let mut read = |left| {
            near.set_read_timeout(Some(left))?;
            near.read(&mut [0; 8])
        };
        assert_eq!(read_within(Duration::from_millis(30), &mut read).unwrap(), None);
        drop(far);
        assert_eq!(read_within(SHORT, &mut read).unwrap(), Some(0));
        let refused = read_within::<()>(SHORT, |_| Err(ErrorKind::ConnectionReset.into()));
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
}
