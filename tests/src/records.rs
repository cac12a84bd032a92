//! A TLS connection that shows each record by itself.
//!
//! The records are cut apart here, before rustls sees them: rustls alone would join their contents, and the
//! one rule that clients of this protocol depend on most (one frame, one record) would be invisible.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustls::{Connection, ProtocolVersion};

use crate::wait::{SHORT, read_within};

/// What came from the server within the time given.
#[derive(Debug, PartialEq, Eq)]
pub enum Heard {
    /// The plaintext of one record of application data.
    Record(Vec<u8>),
    /// The connection has ended; the text says how.
    Closed(String),
    /// Nothing, and the connection is open.
    Silence,
}

/// Either end of a connection whose handshake is done.
#[derive(Debug)]
pub(crate) struct Records {
    stream: TcpStream,
    tls: Connection,
    /// Bytes from the network that are not yet a whole record.
    inbox: Vec<u8>,
    /// Data that came behind the last flight of the handshake.
    early: VecDeque<Vec<u8>>,
}

impl Records {
    /// Finishes the handshake.
    pub(crate) fn handshake(stream: TcpStream, tls: Connection) -> Result<Self, String> {
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        stream.set_write_timeout(Some(SHORT)).map_err(|e| e.to_string())?;
        let mut records = Self { stream, tls, inbox: Vec::new(), early: VecDeque::new() };
        loop {
            records.flush().map_err(|e| e.to_string())?;
            if !records.tls.is_handshaking() {
                return Ok(records);
            }
            let data = records.read_network(SHORT)?;
            let data = data.ok_or("the peer says nothing during the handshake")?;
            records.early.extend(Some(data).filter(|data| !data.is_empty()));
        }
    }

    /// The version that was negotiated.
    pub(crate) fn version(&self) -> ProtocolVersion {
        self.tls.protocol_version().expect("the handshake is finished")
    }

    /// The TCP connection.
    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends `bytes` as one record (at most 16,384 of them).
    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.writer().write_all(bytes)?;
        self.flush()
    }

    /// Waits for the next record of application data.
    pub(crate) fn hear(&mut self, limit: Duration) -> Heard {
        if let Some(record) = self.early.pop_front() {
            return Heard::Record(record);
        }
        let end = Instant::now() + limit;
        loop {
            match self.read_network(end.saturating_duration_since(Instant::now())) {
                Ok(Some(data)) if data.is_empty() => {} // a ticket, a key update
                Ok(Some(data)) => return Heard::Record(data),
                Ok(None) => return Heard::Silence,
                Err(closed) => return Heard::Closed(closed),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.tls.wants_write() {
            self.tls.write_tls(&mut self.stream)?;
        }
        Ok(())
    }

    /// Takes one record in. `Some(empty)` is a record without application data, `None` is no record in time.
    fn read_network(&mut self, limit: Duration) -> Result<Option<Vec<u8>>, String> {
        let end = Instant::now() + limit;
        let record_len = loop {
            if let Some(header) = self.inbox.first_chunk::<5>() {
                let len = 5 + usize::from(u16::from_be_bytes([header[3], header[4]]));
                if self.inbox.len() >= len {
                    break len;
                }
            }
            let left = end.saturating_duration_since(Instant::now());
            let mut buffer = [0; 16_384];
            let read = read_within(left, |left| {
                self.stream.set_read_timeout(Some(left))?;
                self.stream.read(&mut buffer)
            });
            match read.map_err(|e| e.to_string())? {
                None => return Ok(None),
                Some(0) => return Err("end of stream".to_owned()),
                Some(len) => self.inbox.extend(&buffer[..len]),
            }
        };
        let record: Vec<u8> = self.inbox.drain(..record_len).collect();
        let mut unread = &record[..];
        while !unread.is_empty() {
            self.tls.read_tls(&mut unread).map_err(|e| e.to_string())?;
        }
        let state = self.tls.process_new_packets().map_err(|e| e.to_string())?;
        let mut data = vec![0; state.plaintext_bytes_to_read()];
        if !data.is_empty() {
            self.tls.reader().read_exact(&mut data).map_err(|e| e.to_string())?;
        }
        let closed = state.peer_has_closed();
        self.flush().ok();
        if data.is_empty() && closed { Err("close_notify".to_owned()) } else { Ok(Some(data)) }
    }
}
