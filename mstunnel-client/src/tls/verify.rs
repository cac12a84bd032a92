//! Who the server must be: a chain and a name, a pinned key, or both. Any error is a refusal.

use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};

use super::pin::Pin;

/// Checks the chain, if it is asked to, and then the pins, if there are any.
#[derive(Debug)]
pub(super) struct Verifier {
    chain: Option<Arc<WebPkiServerVerifier>>,
    pins: Vec<Pin>,
    algorithms: WebPkiSupportedAlgorithms,
}

/// The server's key is none of the pinned ones.
#[derive(Debug, thiserror::Error)]
#[error("the server's key is {found}, which is not pinned")]
pub(super) struct WrongKey {
    found: Pin,
}

impl Verifier {
    /// At least one of the two has to be there.
    pub(super) fn new(
        chain: Option<Arc<WebPkiServerVerifier>>,
        pins: Vec<Pin>,
        provider: &CryptoProvider,
    ) -> Self {
        assert!(chain.is_some() || !pins.is_empty(), "a server is never taken unverified");
        Self { chain, pins, algorithms: provider.signature_verification_algorithms }
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(chain) = &self.chain {
            chain.verify_server_cert(leaf, intermediates, name, ocsp, now)?;
        }
        if !self.pins.is_empty() {
            let found = Pin::of(&ParsedCertificate::try_from(leaf)?.subject_public_key_info());
            if !self.pins.contains(&found) {
                let error = OtherError(Arc::new(WrongKey { found }));
                return Err(Error::InvalidCertificate(CertificateError::Other(error)));
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// What a TLS error means to a person, and what to do.
#[expect(clippy::wildcard_enum_match_arm, reason = "rustls names every other reason well enough")]
pub fn why(error: &Error) -> String {
    let Error::InvalidCertificate(problem) = error else {
        return error.to_string();
    };
    match problem {
        // An authority of the same name with another key is another authority.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the server's certificate is signed by nobody that is trusted here; name its \
             authority with --ca, or its key with --pin"
                .to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("the server's certificate is for another name ({problem})")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the server's certificate has expired; is this machine's clock right? ({problem})")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the server's certificate is not valid yet; is this machine's clock right? ({problem})")
        }
        CertificateError::Other(other) => other.to_string(),
        other => format!("the server's certificate is not acceptable: {other}"),
    }
}
