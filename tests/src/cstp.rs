//! CSTP frames, written here a second time so that the tests do not believe the code they test.
//!
//! ```text
//!  0      3   4      5   6      7      8
//! | STF 1  | length   | type | 0    | payload ..
//! ```

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Byte 6.
    pub kind: FrameType,
    /// What follows the header.
    pub payload: Vec<u8>,
}

/// Byte 6 of a frame; any value can be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameType(pub u8);

impl FrameType {
    /// One IP packet.
    pub const DATA: Self = Self(0);
    /// Asks for an answer.
    pub const DPD_REQUEST: Self = Self(3);
    /// The answer.
    pub const DPD_RESPONSE: Self = Self(4);
    /// The end of the session.
    pub const DISCONNECT: Self = Self(5);
    /// Only keeps middleboxes open.
    pub const KEEPALIVE: Self = Self(7);
    /// A compressed packet.
    pub const COMPRESSED: Self = Self(8);
}

impl Frame {
    /// A frame with this payload.
    pub fn new(kind: FrameType, payload: impl Into<Vec<u8>>) -> Self {
        Self { kind, payload: payload.into() }
    }

    /// The bytes of the frame.
    pub fn encode(&self) -> Vec<u8> {
        let len = u16::try_from(self.payload.len()).expect("a test frame fits");
        let mut bytes = vec![b'S', b'T', b'F', 1];
        bytes.extend(len.to_be_bytes());
        bytes.extend([self.kind.0, 0]);
        bytes.extend(&self.payload);
        bytes
    }

    /// Reads a record that must hold exactly one frame, as openconnect does.
    ///
    /// # Errors
    /// What a strict client would object to.
    pub fn from_record(record: &[u8]) -> Result<Self, String> {
        let Some((header, payload)) = record.split_first_chunk::<8>() else {
            return Err(format!("a record of {} bytes is shorter than a frame header", record.len()));
        };
        let declared = usize::from(u16::from_be_bytes([header[4], header[5]]));
        if !header.starts_with(b"STF\x01") || header[7] != 0 {
            return Err(format!("a record begins with {header:02x?}"));
        }
        if declared != payload.len() {
            return Err(format!("a frame declares {declared} bytes, its record has {}", payload.len()));
        }
        Ok(Self::new(FrameType(header[6]), payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_with_two_frames_or_half_a_frame_is_refused() {
        let one = Frame::new(FrameType::DPD_REQUEST, *b"abc");
        assert_eq!(Frame::from_record(&one.encode()), Ok(one.clone()));
        let two = [one.encode(), one.encode()].concat();
        assert!(Frame::from_record(&two).unwrap_err().contains("declares 3 bytes"));
        assert!(Frame::from_record(&two[..10]).is_err());
        assert!(Frame::from_record(&two[..7]).is_err());
    }
}
