//! The files of a server, as an operator would write them; all in one directory that goes away.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine;
use serde_json::json;

use crate::intranet::INTRANET;

/// Writes a file that only its owner reads.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

/// Writes the server's certificate and key; returns the pin by which clients know it.
pub(crate) fn write_certificate(home: &Path) -> Result<String> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?
        .self_signed(&key)?;
    write_private(&home.join("site.crt"), &certificate.pem())?;
    write_private(&home.join("site.key"), &key.serialize_pem())?;
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        &rcgen::PublicKeyData::subject_public_key_info(&key),
    );
    Ok(format!("pin-sha256:{}", base64::engine::general_purpose::STANDARD.encode(digest)))
}

/// Writes the configuration of a server on 127.0.0.1 that needs no privileges, and returns where it begins.
pub(crate) fn write_configuration(home: &Path, port: u16, intranet: SocketAddr) -> Result<PathBuf> {
    let path = home.join("gateway.toml");
    write_private(
        &path,
        &format!(
            r#"configuration = "configuration.json"

[listen]
addresses = ["127.0.0.1"]
[tls]
certificate = "site.crt"
key = "site.key"
[auth]
methods = ["bearer"]
[auth.bearer]
oidc = "oidc.json"
[egress]
mode = "userspace"
[egress.publish]
"{INTRANET}" = "{intranet}"
[state]
store = "memory"
[admin]
socket = "control.sock"
"#
        ),
    )?;
    let configuration = json!({
        "id": "6f2c7b4e-0d11-4a55-9a53-2f0c9a6f1d01",
        "displayName": "quickstart",
        "network": "10.213.77.0/24",
        "dnsServers": ["198.18.0.53"],
        "defaultDomainSuffix": "corp.example",
        "routeIncludes": ["198.18.0.0/15"],
        "routeExcludes": ["198.19.255.0/24"],
        "listenPort": port,
        "disableUdpConnections": false,
        "advancedSettings": [{ "name": "banner", "value": "Welcome to mstunnel" }],
    });
    write_private(&home.join("configuration.json"), &configuration.to_string())?;
    Ok(path)
}
