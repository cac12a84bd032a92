//! The client's part of the quickstart: it signs in with a token, shows what it was given, and fetches the page.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use mstunnel_client::dial::{Bypass, Dialer};
use mstunnel_client::fetch::fetch;
use mstunnel_client::params::TunnelParams;
use mstunnel_client::signin::{Credentials, read_secret};
use mstunnel_client::stack::Stack;
use mstunnel_client::tls::TlsOptions;
use mstunnel_client::{Tunnel, TunnelOptions};

use crate::intranet::{GREETING, INTRANET};
use crate::say;

/// Destinations to ask the routes about, and what they are.
const DESTINATIONS: [(&str, &str); 5] = [
    ("198.18.0.80", "the intranet page"),
    ("198.18.0.53", "the company's name server"),
    ("198.19.4.7", "another host of the company"),
    ("198.19.255.9", "a subnet that the company excludes"),
    ("192.0.2.10", "somewhere on the internet"),
];

/// A device's day: sign in, look around, read the page, leave.
pub(crate) async fn visit(url: &str, pin: &str, token: &Path) -> Result<()> {
    let credentials = Credentials { token: Some(read_secret(token)?), ..Credentials::default() };
    let mut options = TunnelOptions::new(url.parse()?, credentials);
    options.tls = TlsOptions { pins: vec![pin.parse()?], ..TlsOptions::default() };
    let mut tunnel = Tunnel::open(options).await.context("the client cannot open its tunnel")?;
    say("signed in", tunnel.banner().unwrap_or("without a banner"))?;
    let params = tunnel.params();
    introduce(&params)?;

    let packets = tunnel.take_packets();
    let dialer = Dialer::new(Stack::start(tunnel.watch_params(), packets), Bypass::Refuse);
    let mut page = fetch(&dialer, &format!("http://{INTRANET}/")).await?;
    let mut body = Vec::new();
    while let Some(chunk) = page.chunk().await? {
        body.extend_from_slice(&chunk);
    }
    ensure!(String::from_utf8_lossy(&body).contains(GREETING), "the page is another one");
    say("page", &format!("{} in {} bytes: {GREETING:?}", page.status, body.len()))?;

    for (destination, what) in DESTINATIONS {
        let way = if params.tunnels(destination.parse::<IpAddr>()?) { "tunnel" } else { "beside" };
        say("route", &format!("{destination:15} {way}   {what}"))?;
    }
    tunnel.leave("the visit is over").await;
    Ok(())
}

fn introduce(params: &TunnelParams) -> Result<()> {
    let said = &params.said;
    let joined = |texts: Vec<String>| if texts.is_empty() { "none".to_owned() } else { texts.join(" ") };
    let addresses = params.leases().iter().map(|address| address.to_string()).collect();
    say("address", &format!("{}, MTU {}", joined(addresses), said.mtu))?;
    say("dns", &joined(said.dns.iter().map(ToString::to_string).collect()))?;
    say(
        "routes",
        &format!(
            "include {}, exclude {}",
            joined(said.include.iter().map(ToString::to_string).collect()),
            joined(said.exclude.iter().map(ToString::to_string).collect())
        ),
    )
}
