//! A whole server on this machine in one command: certificate, user, configuration, all throwaway.
//!
//! `cargo run --release --bin quickstart` starts it on 127.0.0.1 and prints how to reach it with the
//! stock `openconnect`. Ctrl-C ends it and leaves nothing behind. It needs root, since its packets
//! leave through a TUN device of the kernel.

mod files;
mod intranet;
mod issuer;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use base64::Engine;
use mstunnel_server::config::Settings;
use mstunnel_server::identity::password::set_password;
use mstunnel_server::serve::Server;

const USER: &str = "demo";

/// The port that is tried first; any free one else.
const PORT: u16 = 4443;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "quickstart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let directory = tempfile::Builder::new().prefix("mstunnel-quickstart-").tempdir()?;
    let home = directory.path();
    let password = random_password()?;
    say("making a throwaway certificate, a user and a configuration")?;
    let pin = write_certificate(home)?;
    set_password(&home.join("users.passwd"), USER, Some(&["staff".to_owned()]), &password)
        .context("cannot write the password file")?;
    let port = free_port()?;
    write_configuration(home, port)?;
    let (settings, _) =
        Settings::load(&home.join("gateway.toml")).map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut server = Server::start(settings)
        .context("cannot start the server (run as root: `sudo -E cargo run --release --bin quickstart`)")?;
    for address in server.listening() {
        say(&format!("listening on {address}"))?;
    }
    say("")?;
    say("connect with the stock client, in another terminal, as root:")?;
    say(&format!(
        "    echo '{password}' | openconnect --user={USER} --passwd-on-stdin --servercert pin-sha256:{pin} https://127.0.0.1:{port}"
    ))?;
    say("see who is connected:")?;
    let socket = server.control_socket();
    say(&format!(
        "    cargo run --release --bin mst-cli -- --socket {} server show users",
        socket.display()
    ))?;
    say("")?;
    say("Ctrl-C ends the server and removes everything")?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        tokio::select! {
            ended = server.ended() => ended,
            interrupted = tokio::signal::ctrl_c() => interrupted.context("cannot wait for Ctrl-C"),
            () = terminated() => Ok(()),
        }
    });
    server.stop().context("the server did not end cleanly")?;
    say("ended")?;
    outcome
}

async fn terminated() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => {
            signal.recv().await;
        }
        Err(_) => std::future::pending().await,
    }
}

/// 128 random bits as text that needs no quoting in a shell.
fn random_password() -> Result<String> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("no randomness"))?;
    Ok(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
}

/// Writes certificate and key; returns the pin that openconnect checks.
fn write_certificate(home: &Path) -> Result<String> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?
        .self_signed(&key)?;
    write_private(&home.join("site.crt"), &certificate.pem())?;
    write_private(&home.join("site.key"), &key.serialize_pem())?;
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        &rcgen::PublicKeyData::subject_public_key_info(&key),
    );
    Ok(base64::engine::general_purpose::STANDARD.encode(digest))
}

fn write_configuration(home: &Path, port: u16) -> Result<()> {
    write_private(
        &home.join("gateway.toml"),
        r#"configuration = "configuration.json"

[listen]
addresses = ["127.0.0.1"]
[tls]
certificate = "site.crt"
key = "site.key"
[auth]
methods = ["password"]
[auth.password]
file = "users.passwd"
[egress]
mode = "kernel"
interface = "mstquick0"
[state]
store = "memory"
[admin]
socket = "control.sock"
"#,
    )?;
    write_private(
        &home.join("configuration.json"),
        &format!(
            r#"{{
  "id": "6f2c7b4e-0d11-4a55-9a53-2f0c9a6f1d01",
  "displayName": "quickstart",
  "network": "10.213.77.0/24",
  "routeIncludes": ["198.18.0.0/15"],
  "listenPort": {port},
  "disableUdpConnections": true,
  "advancedSettings": [{{ "name": "banner", "value": "Welcome to mstunnel" }}]
}}
"#
        ),
    )
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

fn say(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("cannot write to the terminal")
}
