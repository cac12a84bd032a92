//! Names to addresses, through the tunnel.
//!
//! Each question goes out from a random port with a random identifier, over UDP first and over TCP when the
//! answer is cut. A server that does not answer within two seconds is passed over for the next; all of them
//! are asked twice. Nothing falls back to the host's resolver (R67).

mod message;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::stack::{Stack, random};
pub(crate) use message::is_name;
use message::{Answer, Kind, MAX_ALIASES, Query};

/// How long one server may take for one answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How often each server is asked.
const ROUNDS: usize = 2;

/// Servers that are asked at most, whatever the tunnel's parameters say: 12 s for a name in the worst case.
pub const MAX_SERVERS: usize = 3;

/// Search domains that are tried at most.
pub const MAX_SEARCH: usize = 6;

/// The longest answer over UDP: without EDNS, RFC 1035 section 4.2.1; some servers send more.
const MAX_DATAGRAM: usize = 4_096;

const DNS_PORT: u16 = 53;

/// Asks the name servers of a tunnel.
#[derive(Clone, Debug)]
pub struct Resolver {
    stack: Stack,
}

/// Why a name has no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// Not a host name.
    #[error("{name:?} is not a host name")]
    Name {
        /// What was asked, bounded.
        name: String,
    },
    /// The server told no name servers.
    #[error("the tunnel has no name servers")]
    NoServers,
    /// There is no such name.
    #[error("no host {name}")]
    NoSuchName {
        /// The name.
        name: String,
    },
    /// There is such a name, without an address that the tunnel can reach.
    #[error("{name} has no address")]
    NoAddress {
        /// The name.
        name: String,
    },
    /// No server answered, or those that did could not or would not say.
    #[error("no name server has an answer for {name}")]
    NoAnswer {
        /// The name.
        name: String,
    },
}

/// The addresses in `message`, read as the answer to question `id` about `name`: the way in for fuzzers.
#[doc(hidden)]
pub fn fuzz_answer(id: u16, name: &str, is_v6: bool, message: &[u8]) -> Vec<IpAddr> {
    let kind = if is_v6 { Kind::Aaaa } else { Kind::A };
    let Some(Answer::Addresses(addresses)) = Query::new(id, name, kind).read(message) else {
        return Vec::new();
    };
    addresses
}

impl Resolver {
    /// A resolver over `stack`.
    pub fn new(stack: Stack) -> Self {
        Self { stack }
    }

    /// The addresses of `name`, IPv6 and IPv4 in turn as far as the tunnel has both, best first.
    ///
    /// A name without a dot is looked for in the tunnel's default domains first; one with a trailing dot only
    /// as it is.
    ///
    /// # Errors
    /// [`ResolveError`]
    pub async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        if !is_name(name) {
            return Err(ResolveError::Name { name: name.chars().take(64).collect() });
        }
        let mut error = ResolveError::NoSuchName { name: name.to_owned() };
        for candidate in self.candidates(name) {
            match self.addresses(&candidate).await {
                Ok(addresses) => return Ok(addresses),
                Err(ResolveError::NoSuchName { .. }) => {}
                Err(other) => error = other,
            }
            if matches!(error, ResolveError::NoAnswer { .. } | ResolveError::NoServers) {
                break;
            }
        }
        Err(error)
    }

    fn candidates(&self, name: &str) -> Vec<String> {
        let params = self.stack.params();
        let plain = name.strip_suffix('.').unwrap_or(name).to_owned();
        let domains = params.said.default_domain.as_deref().unwrap_or("");
        let search = domains.split([' ', ',']).filter(|domain| is_name(domain)).take(MAX_SEARCH);
        if name.contains('.') {
            return vec![plain];
        }
        search.map(|domain| format!("{plain}.{domain}")).chain([plain.clone()]).collect()
    }

    async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let leases = self.stack.params().leases();
        let ask = async |kind, has_family: bool| match has_family {
            true => self.ask(name, kind).await,
            false => Err(ResolveError::NoAddress { name: name.to_owned() }),
        };
        let (v6, v4) = tokio::join!(ask(Kind::Aaaa, leases.v6.is_some()), ask(Kind::A, leases.v4.is_some()));
        match (v6, v4) {
            (Ok(v6), Ok(v4)) => Ok(interleave(v6, v4)),
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
            // Of two reasons the one that says more.
            (Err(ResolveError::NoAddress { .. }), Err(error)) | (Err(error), Err(_)) => Err(error),
        }
    }

    /// Asks for one kind of address, following aliases that answers leave open.
    async fn ask(&self, name: &str, kind: Kind) -> Result<Vec<IpAddr>, ResolveError> {
        let mut asked = name.to_owned();
        for _ in 0..=MAX_ALIASES {
            match self.ask_servers(&asked, kind).await? {
                Answer::Addresses(addresses) if !addresses.is_empty() => return Ok(addresses),
                Answer::Alias(next) => asked = next,
                Answer::NoSuchName => return Err(ResolveError::NoSuchName { name: name.to_owned() }),
                Answer::Failed => return Err(ResolveError::NoAnswer { name: name.to_owned() }),
                Answer::Addresses(_) | Answer::Truncated => break,
            }
        }
        Err(ResolveError::NoAddress { name: name.to_owned() })
    }

    async fn ask_servers(&self, name: &str, kind: Kind) -> Result<Answer, ResolveError> {
        let params = self.stack.params();
        let servers: Vec<IpAddr> = params
            .said
            .dns
            .iter()
            .copied()
            .filter(|server| params.tunnels(*server))
            .take(MAX_SERVERS)
            .collect();
        if servers.is_empty() {
            return Err(ResolveError::NoServers);
        }
        let mut failed = None;
        for _ in 0..ROUNDS {
            for server in &servers {
                let server = SocketAddr::new(*server, DNS_PORT);
                match timeout(TIMEOUT, self.exchange(server, name, kind)).await {
                    Ok(Some(Answer::Failed)) => failed = Some(Answer::Failed),
                    Ok(Some(answer)) => return Ok(answer),
                    Ok(None) | Err(_) => {}
                }
            }
        }
        failed.ok_or_else(|| ResolveError::NoAnswer { name: name.to_owned() })
    }

    async fn exchange(&self, server: SocketAddr, name: &str, kind: Kind) -> Option<Answer> {
        let query = Query::new(random::u16(), name, kind);
        let udp = self.stack.udp(server.ip()).ok()?;
        udp.send_to(&query.encode()?, server).await.ok()?;
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let (len, from) = udp.recv_from(&mut buffer).await.ok()?;
            if from != server {
                continue;
            }
            match query.read(&buffer[..len]) {
                Some(Answer::Truncated) => return self.exchange_stream(server, name, kind).await,
                Some(answer) => return Some(answer),
                None => {}
            }
        }
    }

    /// RFC 1035 section 4.2.2: each message behind its length.
    async fn exchange_stream(&self, server: SocketAddr, name: &str, kind: Kind) -> Option<Answer> {
        let query = Query::new(random::u16(), name, kind);
        let message = query.encode()?;
        let mut flow = self.stack.connect(server).await.ok()?;
        let mut framed = u16::try_from(message.len()).ok()?.to_be_bytes().to_vec();
        framed.extend_from_slice(&message);
        flow.write_all(&framed).await.ok()?;
        let len = flow.read_u16().await.ok()?;
        let mut answer = vec![0; len.into()];
        flow.read_exact(&mut answer).await.ok()?;
        query.read(&answer)
    }
}

/// One of each in turn, beginning with the first list (RFC 8305 section 4).
fn interleave(first: Vec<IpAddr>, second: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut all = Vec::new();
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return all;
        }
        all.extend(pair.into_iter().flatten());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::testing::{HOST_V4, NAMES, World, params};

    fn resolver(change: impl FnOnce(&mut mstunnel_proto::connect::ConnectParams)) -> (World, Resolver) {
        let world = World::with_params(params(change), 4, None);
        let resolver = Resolver::new(world.stack.clone());
        (world, resolver)
    }

    fn with_server(said: &mut mstunnel_proto::connect::ConnectParams) {
        said.dns = vec![HOST_V4.into()];
        said.default_domain = Some("corp.example".to_owned());
    }

    #[tokio::test(start_paused = true)]
    async fn names_get_addresses_of_both_families_through_the_tunnel() {
        let (_world, resolver) = resolver(with_server);
        let addresses = resolver.resolve("www.corp.example").await.unwrap();
        assert_eq!(addresses, ["fd00:20::2".parse().unwrap(), IpAddr::V4(HOST_V4)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_without_a_dot_is_looked_for_in_the_default_domain() {
        let (_world, resolver) = resolver(with_server);
        assert!(resolver.resolve("www").await.is_ok());
        assert_eq!(resolver.resolve("www.").await, Err(ResolveError::NoSuchName { name: "www.".to_owned() }));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_cut_is_asked_for_over_tcp() {
        let (_world, resolver) = resolver(with_server);
        assert_eq!(resolver.resolve("long.corp.example").await.unwrap().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_silent_is_passed_over_for_the_next() {
        let (_world, resolver) = resolver(|said| {
            with_server(said);
            said.dns.insert(0, "10.20.0.200".parse().unwrap());
        });
        assert!(resolver.resolve("www.corp.example").await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn silence_no_servers_and_names_that_are_none_are_errors() {
        let (_world, silent) = resolver(|said| said.dns = vec!["10.20.0.200".parse().unwrap()]);
        let name = || "www.corp.example".to_owned();
        let before = tokio::time::Instant::now();
        assert_eq!(silent.resolve(&name()).await, Err(ResolveError::NoAnswer { name: name() }));
        assert!(before.elapsed() <= TIMEOUT * 2 + Duration::from_secs(1));
        let (_world, none) = resolver(|_| ());
        assert_eq!(none.resolve(&name()).await, Err(ResolveError::NoServers));
        let wrong = ResolveError::Name { name: "a b".to_owned() };
        assert_eq!(none.resolve("a b").await, Err(wrong));
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_is_nowhere_is_said_to_be() {
        let (_world, resolver) = resolver(with_server);
        assert!(NAMES.iter().all(|name| *name != "nowhere.example"));
        let name = "nowhere.example".to_owned();
        assert_eq!(resolver.resolve(&name).await, Err(ResolveError::NoSuchName { name }));
    }
}
