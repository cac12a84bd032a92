//! `proxy`: ports on this host that lead into the tunnel.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use anyhow::Context as _;
use mstunnel_client::dial::{Bypass, Dialer};
use mstunnel_client::proxy::{Exposure, Forward, Proxy, Service};

use super::online::{Interrupts, Online, block_on};
use super::target::Target;

/// The port of SOCKS5 when no port is asked for (RFC 1928 section 3).
const SOCKS5: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1080);

/// Offer the tunnel to programs on this host by SOCKS5, HTTP and forwarded ports
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: Target,
    /// Serve SOCKS5 on ADDRESS:PORT, or PORT of 127.0.0.1 [default without other ports: 1080]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    socks5: Vec<SocketAddr>,
    /// Serve HTTP CONNECT and plain HTTP on ADDRESS:PORT, or PORT of 127.0.0.1
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    http: Vec<SocketAddr>,
    /// Forward connections: [BIND:]PORT:HOST:PORT
    #[arg(short = 'L', value_name = "FORWARD")]
    forward: Vec<Forward>,
    /// Choose what happens to destinations outside the tunnel's routes
    #[arg(long, value_name = "WAY", value_enum, default_value = "refuse")]
    bypass: BypassArgument,
    /// Let other hosts use the ports: there is no authentication
    #[arg(long)]
    allow_network: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum BypassArgument {
    /// Refuse them
    Refuse,
    /// Reach them by this host's own network
    Direct,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let port = text.parse().map(|port: u16| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port));
    port.or_else(|_| text.parse()).map_err(|_| "not ADDRESS:PORT, nor a port".to_owned())
}

impl Args {
    pub(crate) fn execute(self) -> anyhow::Result<ExitCode> {
        block_on(async {
            let online = Online::open(&self.target).await?;
            let result = self.serve(&online).await;
            online.leave("done").await;
            result
        })?
    }

    async fn serve(&self, online: &Online) -> anyhow::Result<ExitCode> {
        let bypass = match self.bypass {
            BypassArgument::Refuse => Bypass::Refuse,
            BypassArgument::Direct => Bypass::Direct,
        };
        let exposure = if self.allow_network { Exposure::Network } else { Exposure::Loopback };
        // Before anybody is told that it listens: who reads that may send a signal.
        let mut interrupts = Interrupts::new().context("cannot watch for signals")?;
        let mut proxy = Proxy::new(Dialer::new(online.stack.clone(), bypass), exposure);
        for (address, service) in self.ports() {
            let what = match &service {
                Service::Socks5 => "socks5".to_owned(),
                Service::Http => "http".to_owned(),
                Service::Forward(destination) => format!("forward to {destination}"),
            };
            let address = proxy.listen(address, service).await?;
            writeln!(io::stderr(), "{what}: listening on {address}")?;
        }
        tokio::select! {
            () = interrupts.next() => Ok(ExitCode::SUCCESS),
            reason = online.ended() => Err(anyhow::anyhow!("the tunnel ended: {reason}")),
        }
    }

    fn ports(&self) -> Vec<(SocketAddr, Service)> {
        let socks5 = self.socks5.iter().map(|address| (*address, Service::Socks5));
        let http = self.http.iter().map(|address| (*address, Service::Http));
        let forward = self
            .forward
            .iter()
            .map(|forward| (forward.listen, Service::Forward(forward.destination.clone())));
        let ports: Vec<_> = socks5.chain(http).chain(forward).collect();
        if ports.is_empty() { vec![(SOCKS5, Service::Socks5)] } else { ports }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_alone_is_one_of_loopback() {
        assert_eq!(address("1080"), Ok(SOCKS5));
        assert_eq!(address("[::1]:3128").unwrap().to_string(), "[::1]:3128");
        assert!(address("host:1080").is_err() && address("70000").is_err());
    }
}
