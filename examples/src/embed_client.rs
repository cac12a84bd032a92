//! The client as a library: opens a tunnel with a token and fetches one page, without privileges.
//!
//! ```text
//! embed_client https://vpn.example.com TOKEN_FILE http://intranet.corp.example/ [pin-sha256:..]
//! ```

use std::io::{Write, stdout};
use std::path::Path;

use anyhow::{Context, Result};
use mstunnel_client::dial::{Bypass, Dialer};
use mstunnel_client::fetch::fetch;
use mstunnel_client::signin::{Credentials, read_secret};
use mstunnel_client::stack::Stack;
use mstunnel_client::{Tunnel, TunnelOptions};

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut argument = |name: &str| arguments.next().with_context(|| format!("{name} is missing"));
    let (server, token_file, page) = (argument("URL")?, argument("TOKEN_FILE")?, argument("PAGE")?);

    // Who signs in, and where.
    let token = read_secret(Path::new(&token_file))?;
    let credentials = Credentials { token: Some(token), ..Credentials::default() };
    let mut options = TunnelOptions::new(server.parse()?, credentials);
    options.tls.pins = arguments.map(|pin| pin.parse()).collect::<Result<_, _>>()?;

    // A session that keeps itself up, and a TCP/IP stack over its packets.
    let mut tunnel = Tunnel::open(options).await?;
    let packets = tunnel.take_packets();
    let dialer = Dialer::new(Stack::start(tunnel.watch_params(), packets), Bypass::Refuse);

    let mut page = fetch(&dialer, &page).await?;
    while let Some(chunk) = page.chunk().await? {
        stdout().write_all(&chunk)?;
    }
    tunnel.leave("done").await;
    Ok(())
}
