//! The TLS connection of a tunnel: one frame is one record, many records are one `writev`.
//!
//! rustls makes one record of each write that fits one, as long as its buffer has no limit; back-pressure is
//! ours: when [`Records::flush`] says that the socket takes no more, nothing is sealed.
//!
//! # Source
//! protocol.md 4.2; R1, R2.

use std::io::{self, ErrorKind, IoSlice, Read, Write};

use rustls::ClientConnection;
use tokio::net::TcpStream;

/// A TLS connection whose handshake is done, with its socket.
pub(super) struct Records {
    tls: ClientConnection,
    tcp: TcpStream,
    /// What ended TLS, told behind the plaintext that came before it.
    broken: Option<rustls::Error>,
}

/// What a read brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// So many bytes of plaintext.
    Bytes(usize),
    /// Nothing now.
    Nothing,
    /// The server has closed.
    End,
}

impl Records {
    pub(super) fn new(tcp: TcpStream, mut tls: ClientConnection) -> Self {
        // With a limit, a write could be cut and a frame split over two records.
        tls.set_buffer_limit(None);
        Self { tls, tcp, broken: None }
    }

    /// Seals `frame` into one record; nothing is sent before [`Records::flush`].
    pub(super) fn write_frame(&mut self, frame: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(frame)
    }

    /// Hands the sealed records to the socket; `false` when it takes no more.
    pub(super) fn flush(&mut self) -> io::Result<bool> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Socket(&self.tcp)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Opens what the socket has, up to the length of `out`.
    pub(super) fn read(&mut self, out: &mut [u8]) -> io::Result<Received> {
        loop {
            match self.tls.reader().read(out) {
                Ok(0) => return Ok(Received::End),
                Ok(len) => return Ok(Received::Bytes(len)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                // TCP ended without close_notify: the server is gone all the same.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Received::End),
                Err(error) => return Err(error),
            }
            if let Some(error) = self.broken.take() {
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
            match self.tls.read_tls(&mut Socket(&self.tcp)) {
                // A frame that says why may stand right before a fatal alert.
                Ok(_) => self.broken = self.tls.process_new_packets().err(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Received::Nothing),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until the socket has bytes.
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.tcp.readable().await
    }

    /// Waits until the socket takes bytes.
    pub(super) async fn writable(&self) -> io::Result<()> {
        self.tcp.writable().await
    }

    /// Makes the end of the connection a reset.
    pub(super) fn set_zero_linger(&self) -> io::Result<()> {
        self.tcp.set_zero_linger()
    }

    /// Says goodbye on TLS level; the bytes go out with the next flush.
    pub(super) fn close_notify(&mut self) {
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
