//! Where the keys of a channel come from.

use std::fmt;

use zeroize::Zeroizing;

use super::keys::{MASTER_SECRET_BYTES, PSK_BYTES};
use super::suite::Suite;

/// The secret that both ends have from the TLS connection.
pub struct Keying(pub(crate) Secret);

pub(crate) enum Secret {
    Psk(Zeroizing<[u8; PSK_BYTES]>),
    /// Boxed: few sessions have it, and it is larger.
    Preset(Box<Preset>),
}

pub(crate) struct Preset {
    pub(crate) master_secret: Zeroizing<[u8; MASTER_SECRET_BYTES]>,
    pub(crate) session_id: [u8; 32],
    pub(crate) suite: Suite,
}

impl Keying {
    /// A pre-shared key: the TLS exporter with the label `EXPORTER-openconnect-psk` (protocol.md 5.1).
    pub fn psk(key: [u8; PSK_BYTES]) -> Self {
        Self(Secret::Psk(Zeroizing::new(key)))
    }

    /// The legacy mode: the master secret of the `X-DTLS-Master-Secret` header, for the session that the
    /// server named in `X-DTLS-Session-ID` and the suite that it chose.
    pub fn preset(master_secret: [u8; MASTER_SECRET_BYTES], session_id: [u8; 32], suite: Suite) -> Self {
        let master_secret = Zeroizing::new(master_secret);
        Self(Secret::Preset(Box::new(Preset { master_secret, session_id, suite })))
    }

    pub(crate) fn secret_bytes(&self) -> &[u8] {
        match &self.0 {
            Secret::Psk(key) => &key[..],
            Secret::Preset(preset) => &preset.master_secret[..],
        }
    }
}

/// Shows which of the two it is, and no secret.
impl fmt::Debug for Keying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Secret::Psk(_) => "Keying::psk(secret)",
            Secret::Preset(_) => "Keying::preset(secret)",
        })
    }
}
