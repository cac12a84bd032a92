//! What two real peers said inside TLS, as a text that people can read and review.
//!
//! ```text
//! # openconnect 9.01-3, ocserv 1.1.6-3
//! client
//!     POST / HTTP/1.1\r\n
//!     Host: 192.0.2.1\r\n
//! server
//!     STF\x01\x00\x00\x03\x00
//! ```
//!
//! Each `client` or `server` is one record; its bytes follow with `\xNN` for what is not printable, broken
//! after line feeds. Spaces after the first four of a line are data.

/// Who sent a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The server.
    Server,
}

/// The records of one connection in the order in which they were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transcript {
    /// Sender and plaintext.
    pub records: Vec<(Side, Vec<u8>)>,
}

impl Transcript {
    /// Everything that `side` said, in one piece.
    pub fn bytes_of(&self, side: Side) -> Vec<u8> {
        self.records.iter().filter(|(from, _)| *from == side).flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    /// The text.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for (side, bytes) in &self.records {
            text.push_str(match side {
                Side::Client => "client\n",
                Side::Server => "server\n",
            });
            for line in bytes.split_inclusive(|&byte| byte == b'\n') {
                text.push_str(&format!("    {}\n", line.escape_ascii()));
            }
        }
        text
    }

    /// Reads the text.
    ///
    /// # Panics
    /// When it is not such a text.
    pub fn from_text(text: &str) -> Self {
        let mut records = Vec::new();
        for line in text.lines() {
            match line {
                "client" => records.push((Side::Client, Vec::new())),
                "server" => records.push((Side::Server, Vec::new())),
                _ if line.is_empty() || line.starts_with('#') => {}
                _ => {
                    let escaped = line.strip_prefix("    ").unwrap_or_else(|| panic!("not a line: {line}"));
                    let (_, bytes) = records.last_mut().expect("a side before the first bytes");
                    bytes.extend(unescape(escaped));
                }
            }
        }
        Self { records }
    }
}

/// The inverse of `escape_ascii`.
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = text.bytes();
    let mut plain = Vec::new();
    while let Some(byte) = bytes.next() {
        if byte != b'\\' {
            plain.push(byte);
            continue;
        }
        let mut next = || bytes.next().expect("an escape is whole");
        plain.push(match next() {
            b'r' => b'\r',
            b'n' => b'\n',
            b't' => b'\t',
            b'x' => {
                let digits = [next(), next()];
                let digits = std::str::from_utf8(&digits).expect("two ASCII digits");
                u8::from_str_radix(digits, 16).expect("two hexadecimal digits")
            }
            other => other, // a backslash or a quote
        });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_the_text() {
        let all: Vec<u8> = (0..=255).collect();
        let transcript = Transcript {
            records: vec![(Side::Client, all.clone()), (Side::Server, b"  two\r\nlines\\x41".to_vec())],
        };
        let text = format!("# a comment\n{}", transcript.to_text());
        assert_eq!(Transcript::from_text(&text), transcript);
        assert_eq!(transcript.bytes_of(Side::Client), all);
    }
}
