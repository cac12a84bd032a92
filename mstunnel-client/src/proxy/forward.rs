//! One port that leads to one destination: `-L [BIND:]PORT:HOST:PORT`.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use tokio::net::TcpStream;

use super::relay::relay;
use crate::dial::{Destination, Dialer};

/// Where to listen, and where connections go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The address on this host; loopback unless given.
    pub listen: SocketAddr,
    /// The destination.
    pub destination: Destination,
}

/// Why a text is not a forward.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not [BIND:]PORT:HOST:PORT; IPv6 addresses go in brackets")]
pub struct ForwardError {
    text: String,
}

impl FromStr for Forward {
    type Err = ForwardError;

    /// Reads `[BIND:]PORT:HOST:PORT`, as ssh does.
    fn from_str(text: &str) -> Result<Self, ForwardError> {
        parse(text).ok_or_else(|| ForwardError { text: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<Forward> {
    let mut parts = split(text)?;
    let bind = match parts.len() {
        3 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        4 => parts.remove(0).trim_matches(['[', ']']).parse().ok()?,
        _ => return None,
    };
    let [port, host, to] = parts.as_slice() else { return None };
    let destination = Destination { host: host.parse().ok()?, port: to.parse().ok()? };
    Some(Forward { listen: SocketAddr::new(bind, port.parse().ok()?), destination })
}

/// Splits at colons outside brackets.
fn split(text: &str) -> Option<Vec<&str>> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let end =
            if rest.starts_with('[') { rest.find(']')? + 1 } else { rest.find(':').unwrap_or(rest.len()) };
        let (part, after) = rest.split_at(end);
        parts.push(part);
        match after.strip_prefix(':') {
            Some(next) => rest = next,
            None if after.is_empty() => return Some(parts),
            None => return None,
        }
    }
}

/// Connects one client to `destination`.
pub(super) async fn serve(client: TcpStream, destination: &Destination, dialer: Dialer) -> io::Result<()> {
    match dialer.connect(destination).await {
        Ok(stream) => relay(client, stream).await,
        Err(error) => {
            tracing::warn!(%destination, %error, "a forwarded connection failed");
            Err(io::Error::other(error))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_are_read_as_ssh_reads_them() {
        for (text, listen, destination) in [
            ("8080:web.corp.example:80", "127.0.0.1:8080", "web.corp.example:80"),
            ("127.0.0.2:8080:10.20.0.2:80", "127.0.0.2:8080", "10.20.0.2:80"),
            ("[::1]:0:[fd00:20::2]:22", "[::1]:0", "[fd00:20::2]:22"),
        ] {
            let forward: Forward = text.parse().unwrap();
            assert_eq!(
                (forward.listen.to_string().as_str(), forward.destination.to_string().as_str()),
                (listen, destination)
            );
        }
        for wrong in
            ["", "80", "80:web", "x:web:80", "80:web:99999", "a:80:web:80", "80:fd00::1:80", "[::1:80:web:80"]
        {
            assert!(wrong.parse::<Forward>().is_err(), "{wrong}");
        }
    }
}
