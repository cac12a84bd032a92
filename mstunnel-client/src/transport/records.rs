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

/// Reads of the socket in one [`Records::read`]: more than the longest record takes, and few enough that a server which
/// streams records without content (tickets, for one) does not keep its client from everything else.
const MAX_ROUNDS: usize = 16;

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
    /// So many bytes of plaintext; none when there may be more behind what was read.
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
        open(&mut self.tls, &mut self.broken, &mut Socket(&self.tcp), out)
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

/// Opens what `socket` has, up to the length of `out`.
fn open(
    tls: &mut ClientConnection,
    broken: &mut Option<rustls::Error>,
    socket: &mut impl Read,
    out: &mut [u8],
) -> io::Result<Received> {
    for _ in 0..MAX_ROUNDS {
        match tls.reader().read(out) {
            Ok(0) => return Ok(Received::End),
            Ok(len) => return Ok(Received::Bytes(len)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            // TCP ended without close_notify: the server is gone all the same.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(Received::End),
            Err(error) => return Err(error),
        }
        if let Some(error) = broken.take() {
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        match tls.read_tls(socket) {
            // A frame that says why may stand right before a fatal alert.
            Ok(_) => *broken = tls.process_new_packets().err(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Received::Nothing),
            Err(error) => return Err(error),
        }
    }
    Ok(Received::Bytes(0))
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection};
    use rustls_pki_types::PrivateKeyDer;

    use super::*;

    /// Bytes that came, and how often somebody asked for them.
    #[derive(Default)]
    struct Wire {
        bytes: Vec<u8>,
        reads: usize,
    }

    impl Read for Wire {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.reads += 1;
            if self.bytes.is_empty() {
                return Err(ErrorKind::WouldBlock.into());
            }
            let len = buf.len().min(self.bytes.len());
            buf[..len].copy_from_slice(&self.bytes[..len]);
            self.bytes.drain(..len);
            Ok(len)
        }
    }

    /// A client whose handshake is done, and a server that has `tickets` for it, which are on the wire.
    fn connected(tickets: usize) -> (ClientConnection, ServerConnection, Wire) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(vec!["vpn.example".to_owned()]).unwrap().self_signed(&key).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            )
            .unwrap();
        server.send_tls13_tickets = tickets;
        // A ticket of rustls has 81 bytes: one a record, with its header.
        server.max_fragment_size = Some(81 + 5);
        let mut client = ClientConnection::new(Arc::new(client), "vpn.example".try_into().unwrap()).unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let mut wire = Wire::default();
        while client.is_handshaking() || server.is_handshaking() {
            let mut to_server = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut to_server).unwrap();
            }
            let mut unread = &to_server[..];
            while !unread.is_empty() {
                server.read_tls(&mut unread).unwrap();
                server.process_new_packets().unwrap();
            }
            while server.wants_write() {
                server.write_tls(&mut wire.bytes).unwrap();
            }
            while client.is_handshaking() && !wire.bytes.is_empty() {
                client.read_tls(&mut wire).unwrap();
                client.process_new_packets().unwrap();
            }
        }
        (client, server, wire)
    }

    #[test]
    fn a_server_that_sends_records_without_content_does_not_keep_the_reader() {
        let (mut client, mut server, mut wire) = connected(4_000);
        server.writer().write_all(b"a frame").unwrap();
        while server.wants_write() {
            server.write_tls(&mut wire.bytes).unwrap();
        }
        let (mut broken, mut out) = (None, [0; 100]);
        let mut calls = 0;
        let received = loop {
            wire.reads = 0;
            let received = open(&mut client, &mut broken, &mut wire, &mut out).unwrap();
            assert!(wire.reads <= MAX_ROUNDS, "{} rounds in one call", wire.reads);
            calls += 1;
            if received != Received::Bytes(0) {
                break received;
            }
        };
        assert_eq!(received, Received::Bytes(7));
        assert_eq!(out[..7], *b"a frame");
        assert!(calls > 3, "{calls} calls");
    }
}
