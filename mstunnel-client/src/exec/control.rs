//! What the client and its child say to each other before the command begins.
//!
//! ```text
//!   child                                   client
//!     'R' + descriptors (TUN, netlink)  -->          namespaces are made
//!                                       <--  'G'     device is set up: run the command
//!     (end of the stream)               -->          the command runs
//!     'F' + exit code + text            -->          at any time: it does not
//! ```

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// The longest message: a sentence about what stands in the way.
const MAX_MESSAGE: usize = 2_048;

const READY: u8 = b'R';
const GO: u8 = b'G';
const FAILED: u8 = b'F';

/// What the child says.
#[derive(Debug)]
pub(super) enum Said {
    /// The namespaces are made.
    Ready {
        /// The TUN device.
        tun: OwnedFd,
        /// A netlink socket of the network namespace.
        netlink: OwnedFd,
    },
    /// Something stands in the way.
    Failed(Failure),
    /// Nothing more: the command runs, or the child is gone.
    Closed,
}

/// Why the command does not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// The exit code for the caller.
    pub(super) code: u8,
    /// A sentence.
    pub(super) text: String,
}

/// The child's side.
pub(super) fn send_ready(
    socket: &UnixStream,
    tun: BorrowedFd<'_>,
    netlink: BorrowedFd<'_>,
) -> io::Result<()> {
    let descriptors = [tun, netlink];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(&[READY])], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// The child's side: tells why there will be no command. The client may be gone; then nobody asks.
pub(super) fn send_failure(mut socket: &UnixStream, failure: &Failure) {
    let mut message = vec![FAILED, failure.code];
    message.extend(failure.text.bytes().take(MAX_MESSAGE - message.len()));
    let _ = socket.write_all(&message);
}

/// The child's side: waits until the client has set everything up; `false` when it will not.
pub(super) fn wait_for_go(mut socket: &UnixStream) -> bool {
    let mut byte = [0];
    matches!(socket.read_exact(&mut byte), Ok(())) && byte == [GO]
}

/// The client's side.
pub(super) fn send_go(mut socket: &UnixStream) -> io::Result<()> {
    socket.write_all(&[GO])
}

/// The client's side: the next thing that the child says.
pub(super) fn receive(socket: &UnixStream) -> io::Result<Said> {
    let mut bytes = [0; MAX_MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received =
        recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            descriptors.extend(passed);
        }
    }
    match (&bytes[..received.bytes], <[OwnedFd; 2]>::try_from(descriptors)) {
        ([], _) => Ok(Said::Closed),
        ([READY], Ok([tun, netlink])) => Ok(Said::Ready { tun, netlink }),
        ([FAILED, code, text @ ..], _) => {
            Ok(Said::Failed(Failure { code: *code, text: String::from_utf8_lossy(text).into_owned() }))
        }
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the child speaks another version of this program",
        )),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn descriptors_and_words_arrive() {
        let (client, child) = UnixStream::pair().unwrap();
        let file = File::open("/proc/self/status").unwrap();
        send_ready(&child, file.as_fd(), file.as_fd()).unwrap();
        let Said::Ready { tun, .. } = receive(&client).unwrap() else { panic!("not ready") };
        let mut text = String::new();
        File::from(tun).read_to_string(&mut text).unwrap();
        assert!(text.starts_with("Name:"));
        send_go(&client).unwrap();
        assert!(wait_for_go(&child));
        let failure = Failure { code: 127, text: "no such command".to_owned() };
        send_failure(&child, &failure);
        assert!(matches!(receive(&client).unwrap(), Said::Failed(told) if told == failure));
        drop(child);
        assert!(matches!(receive(&client).unwrap(), Said::Closed));
    }

    #[test]
    fn a_client_that_gives_up_starts_nothing() {
        let (client, child) = UnixStream::pair().unwrap();
        drop(client);
        assert!(!wait_for_go(&child));
    }

    #[test]
    fn a_long_complaint_is_cut_and_readiness_without_descriptors_is_an_error() {
        let (client, child) = UnixStream::pair().unwrap();
        send_failure(&child, &Failure { code: 1, text: "x".repeat(10_000) });
        assert!(
            matches!(receive(&client).unwrap(), Said::Failed(told) if told.text.len() == MAX_MESSAGE - 2)
        );
        (&child).write_all(&[READY]).unwrap();
        assert!(receive(&client).is_err());
    }
}
