//! The TLS connection of a tunnel: one frame is one record, many records are one `writev`.
//!
//! rustls turns each `write` into exactly one record as long as the plaintext fits one and its send
//! buffer has no limit; back-pressure is therefore ours: [`Records::flush`] tells when the socket
//! takes no more, and the caller queues packets instead of writing frames.
//!
//! # Source
//! protocol.md 4.2; R1, R2.

use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::ServerConnection;
use socket2::SockRef;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;

/// The longest plaintext of a record, RFC 8446 section 5.1.
pub(crate) const LONGEST_RECORD: usize = 16_384;

/// Sealed bytes that the kernel takes beyond those that are on their way: enough to keep the path busy between two turns
/// of the worker. What waits here can neither be dropped nor overtaken, and its delay is every packet's.
const MAX_UNSENT: u32 = 64 * 1024;

/// Whether the socket took everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// All records are with the kernel.
    All,
    /// Some wait; `progress` tells whether the socket took any byte of this call.
    Blocked { progress: bool },
}

/// What a read has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// So many bytes of plaintext: none when the records carry none, or the first one is not whole yet.
    Bytes(usize),
    /// The end of the stream.
    End,
}

/// A TLS connection whose handshake is done, with its socket.
pub(crate) struct Records {
    tls: ServerConnection,
    tcp: TcpStream,
}

impl Records {
    /// Takes the connection over after the HTTP exchange.
    pub(crate) fn new(tcp: TcpStream, mut tls: ServerConnection) -> Self {
        // With a limit, a write could be cut and a frame split over two records.
        tls.set_buffer_limit(None);
        // Where it is refused, the kernel's own limits hold.
        let _ = SockRef::from(&tcp).set_tcp_notsent_lowat(MAX_UNSENT);
        Self { tls, tcp }
    }

    /// Takes the socket from another worker's runtime into that of the calling one.
    ///
    /// # Errors
    /// When a runtime refuses the socket; the connection is lost then.
    pub(crate) fn settle(self) -> io::Result<Self> {
        Ok(Self { tls: self.tls, tcp: TcpStream::from_std(self.tcp.into_std()?)? })
    }

    /// Seals `frame` into one record; nothing is sent before [`Records::flush`].
    pub(crate) fn write_frame(&mut self, frame: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(frame)
    }

    /// Hands the sealed records to the socket, as many as it takes.
    pub(crate) fn flush(&mut self) -> io::Result<Flushed> {
        let mut progress = false;
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Socket(&self.tcp)) {
                Ok(_) => progress = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Flushed::Blocked { progress });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Flushed::All)
    }

    /// Opens what one read of the socket brings, into `out`.
    ///
    /// rustls by itself reads 4 KB at a time; here one system call fills `wire`, and rustls is fed from there. Nothing
    /// stays in `wire`: `out` has to be longer than it by [`LONGEST_RECORD`], which may wait inside of rustls.
    ///
    /// `Pending` leaves the waker registered with the socket; nothing else does.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut [u8],
        out: &mut [u8],
    ) -> Poll<io::Result<Arrived>> {
        debug_assert!(out.len() >= wire.len() + LONGEST_RECORD);
        let (mut fed, mut filled, mut has_read) = (0..0, 0, false);
        loop {
            match self.read_plaintext(out, &mut filled)? {
                Plaintext::Ended if filled == 0 => return Poll::Ready(Ok(Arrived::End)),
                Plaintext::Ended => return Poll::Ready(Ok(Arrived::Bytes(filled))),
                Plaintext::Taken if !fed.is_empty() => {
                    let mut rest = &wire[fed.clone()];
                    self.feed(&mut rest)?;
                    fed.start = fed.end - rest.len();
                }
                Plaintext::Taken if filled > 0 || has_read => return Poll::Ready(Ok(Arrived::Bytes(filled))),
                Plaintext::Taken => {
                    let mut read = ReadBuf::new(wire);
                    std::task::ready!(Pin::new(&mut self.tcp).poll_read(cx, &mut read))?;
                    fed = 0..read.filled().len();
                    has_read = true;
                    if fed.is_empty() {
                        self.feed(&mut io::empty())?;
                    }
                }
            }
        }
    }

    fn feed(&mut self, bytes: &mut dyn Read) -> io::Result<()> {
        self.tls.read_tls(bytes)?;
        match self.tls.process_new_packets() {
            Ok(_) => Ok(()),
            Err(error) => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        }
    }

    /// Takes all plaintext that there is, behind the first `filled` bytes of `out`.
    fn read_plaintext(&mut self, out: &mut [u8], filled: &mut usize) -> io::Result<Plaintext> {
        while *filled < out.len() {
            match self.tls.reader().read(&mut out[*filled..]) {
                Ok(0) => return Ok(Plaintext::Ended),
                Ok(read) => *filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // A peer that closes TCP without close_notify has left all the same.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Plaintext::Ended),
                Err(error) => return Err(error),
            }
        }
        Ok(Plaintext::Taken)
    }

    /// Registers the waker for when the socket takes bytes again.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_write_ready(cx)
    }

    /// Says goodbye on TLS level; the bytes go out with the next flush.
    pub(crate) fn close_notify(&mut self) {
        self.tls.send_close_notify();
    }
}

/// What became of an attempt to read.
enum Plaintext {
    /// All that there was is taken.
    Taken,
    /// And there will be no more.
    Ended,
}

/// The socket as the blocking-style writer that rustls wants.
struct Socket<'a>(&'a TcpStream);

impl Write for Socket<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(bufs)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
