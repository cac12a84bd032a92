//! The operations that have no safe name: leaving namespaces, and handing descriptors over by number.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use rtnetlink::sys::TokioSocket;
use rustix::thread::UnshareFlags;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Moves the calling thread, which must be the only one, into namespaces of its own.
///
/// # Errors
/// What the kernel says; `EINVAL` for a process with several threads.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    if flags.contains(UnshareFlags::FILES) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: unsafe only for CLONE_FILES, which could invalidate descriptors that others hold; refused above.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(io::Error::from)
}

/// A netlink socket for the reactor of the calling runtime, in whatever network namespace it was opened.
///
/// # Panics
/// Outside of a runtime with I/O enabled.
pub(crate) fn netlink_socket(socket: OwnedFd) -> TokioSocket {
    // SAFETY: the descriptor is open, owned, and handed over.
    unsafe { TokioSocket::from_raw_fd(socket.into_raw_fd()) }
}

/// Takes an open descriptor that this process was started with.
///
/// # Errors
/// When it is one of the standard streams or not open.
pub(crate) fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the number is not negative, and asking for flags harms no descriptor, open or not.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    rustix::io::fcntl_getfd(borrowed)?;
    // SAFETY: it is open, and whoever started this process gave it to nobody but the caller, who takes it once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Puts a file on the reactor of the calling runtime, for reading.
///
/// # Errors
/// When the reactor cannot take it.
///
/// # Panics
/// Outside of a runtime with I/O enabled.
pub(crate) fn readable(file: File) -> io::Result<AsyncFd<File>> {
    // SAFETY: a `File` keeps one open descriptor for its whole life, and `AsyncFd` owns it until it is deregistered.
    unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }.map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write, pipe};

    use super::*;

    #[test]
    fn an_open_descriptor_is_taken_once_and_a_standard_stream_or_a_closed_one_is_not() {
        let (reader, mut writer) = pipe().unwrap();
        let taken = inherited(OwnedFd::from(reader).into_raw_fd()).unwrap();
        writer.write_all(b"x").unwrap();
        let mut byte = [0];
        assert_eq!(File::from(taken).read(&mut byte).unwrap(), 1);
        assert_eq!(byte, *b"x");
        for number in [-1, libc::STDIN_FILENO, libc::STDERR_FILENO, RawFd::MAX] {
            assert!(inherited(number).is_err(), "{number}");
        }
    }

    #[tokio::test]
    async fn a_file_on_the_reactor_wakes_its_reader() {
        let (reader, mut writer) = pipe().unwrap();
        let file = readable(File::from(OwnedFd::from(reader))).unwrap();
        writer.write_all(b"x").unwrap();
        let mut byte = [0];
        let ready = file.readable().await.unwrap();
        let mut file = ready.get_inner();
        assert_eq!(file.read(&mut byte).unwrap(), 1);
        assert_eq!(byte, *b"x");
    }
}
