//! A throwaway authority and the server certificate it signed.

use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, PublicKeyData,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

/// The subject attribute that holds a user's name (RFC 4519 section 2.39); ocserv's default.
const UID: [u64; 7] = [0, 9, 2342, 19_200_300, 100, 1, 1];

/// A leaf for some IP addresses with its key, signed by an authority of its own.
#[derive(Clone, Debug)]
pub struct Certificate {
    chain: String,
    key: String,
    authority: String,
    pin: String,
}

impl Certificate {
    /// Makes an ECDSA P-256 certificate whose subject alternative names are `addresses`.
    pub fn for_addresses(addresses: &[IpAddr]) -> Self {
        let names: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        Self::of(CertificateParams::new(names).expect("addresses are valid names"), "mstunnel test server")
    }

    /// The same for host names.
    pub fn for_names(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        Self::of(CertificateParams::new(names).expect("valid names"), "mstunnel test server")
    }

    /// The same for `addresses`, with a validity that ended in 2001.
    pub fn expired(addresses: &[IpAddr]) -> Self {
        let names: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
        let mut leaf = CertificateParams::new(names).expect("addresses are valid names");
        (leaf.not_before, leaf.not_after) =
            (rcgen::date_time_ymd(2000, 1, 1), rcgen::date_time_ymd(2001, 1, 1));
        Self::of(leaf, "mstunnel test server")
    }

    /// A certificate that names `common_name` in its subject and nothing else.
    pub fn without_names(common_name: &str) -> Self {
        Self::of(CertificateParams::new(Vec::new()).expect("no names"), common_name)
    }

    /// A client's certificate for `user`, who is its common name and its UID.
    pub fn for_user(user: &str) -> Self {
        let mut leaf = CertificateParams::new(Vec::new()).expect("no names");
        leaf.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        leaf.distinguished_name.push(DnType::CustomDnType(UID.to_vec()), user);
        Self::of(leaf, user)
    }

    fn of(mut leaf: CertificateParams, common_name: &str) -> Self {
        let authority_key = KeyPair::generate().expect("a key");
        let mut authority = CertificateParams::new(Vec::new()).expect("no names");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "mstunnel test authority");
        let authority_certificate = authority.self_signed(&authority_key).expect("a signed authority");
        let issuer = rcgen::Issuer::new(authority, authority_key);

        let key = KeyPair::generate().expect("a key");
        leaf.distinguished_name.push(DnType::CommonName, common_name);
        let leaf = leaf.signed_by(&key, &issuer).expect("a signed leaf");
        let spki = digest::digest(&digest::SHA256, &key.subject_public_key_info());
        Self {
            chain: leaf.pem() + &authority_certificate.pem(),
            key: key.serialize_pem(),
            authority: authority_certificate.pem(),
            pin: format!("pin-sha256:{}", STANDARD.encode(spki)),
        }
    }

    /// The leaf and its authority, PEM.
    pub fn chain_pem(&self) -> &str {
        &self.chain
    }

    /// The private key, PEM (PKCS#8).
    pub fn key_pem(&self) -> &str {
        &self.key
    }

    /// The authority alone, PEM.
    pub fn authority_pem(&self) -> &str {
        &self.authority
    }

    /// What openconnect's `--servercert` takes.
    pub fn pin(&self) -> &str {
        &self.pin
    }

    /// The authority as the only trusted one.
    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        let der = CertificateDer::from_pem_slice(self.authority.as_bytes()).expect("our own PEM");
        roots.add(der).expect("our own authority");
        roots
    }

    /// Writes `site.crt`, `site.key` (for the owner only) and `authority.pem` into `directory`.
    pub(crate) fn write(&self, directory: &Path) {
        write_private(&directory.join("site.key"), &self.key);
        write(&directory.join("site.crt"), &self.chain);
        write(&directory.join("authority.pem"), &self.authority);
    }
}

pub(crate) fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("cannot write {path:?}: {e}"));
}

pub(crate) fn write_private(path: &Path, text: &str) {
    write(path, text);
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .unwrap_or_else(|e| panic!("cannot restrict {path:?}: {e}"));
}
