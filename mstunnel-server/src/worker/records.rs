//! The TLS connection of a tunnel: one frame is one record, many records are one `writev`.
//!
//! rustls turns each `write` into exactly one record as long as the plaintext fits one and its send
//! buffer has no limit; back-pressure is therefore ours: [`Records::flush`] tells when the socket
//! takes no more, and the caller queues packets instead of writing frames.
//!
//! # Source
//! protocol.md 4.2; R1, R2.

use std::io::{self, IoSlice, Read, Write};
use std::task::{Context, Poll};

use rustls::ServerConnection;
use tokio::net::TcpStream;

/// Whether the socket took everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// All records are with the kernel.
    All,
    /// Some wait; `progress` tells whether the socket took any byte of this call.
    Blocked { progress: bool },
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
        Self { tls, tcp }
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

    /// Opens what the socket has, up to the length of `out`; `Ok(0)` is the end of the stream.
    ///
    /// `Pending` leaves the waker registered with the socket.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            match self.tls.reader().read(out) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // A peer that closes TCP without close_notify has left all the same.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Poll::Ready(Ok(0)),
                done => return Poll::Ready(done),
            }
            std::task::ready!(self.tcp.poll_read_ready(cx))?;
            match self.tls.read_tls(&mut Socket(&self.tcp)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(_) => {
                    self.tls
                        .process_new_packets()
                        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                }
            }
        }
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

/// The socket as the blocking-style reader and writer that rustls wants.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

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
