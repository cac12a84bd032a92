//! One client of the SOCKS5 port.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::associate::Association;
use super::relay::relay;
use super::socks::{
    Command, Greeting, MAX_MESSAGE, NO_ACCEPTABLE_METHOD, NO_AUTHENTICATION, Reply, Request, SocksError,
};
use crate::dial::{DialError, Dialer};
use crate::stack::ConnectError;

/// How long a client may take to say what it wants.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// What a reply without an address carries.
const NO_ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Serves one client until it or its destination has ended.
pub(super) async fn serve(mut client: TcpStream, dialer: Dialer) -> io::Result<()> {
    let mut early = Vec::with_capacity(MAX_MESSAGE);
    let request = match timeout(HANDSHAKE, handshake(&mut client, &mut early)).await {
        Ok(request) => request?,
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    let Some(request) = request else { return client.shutdown().await };
    match request.command {
        Command::Connect => match dialer.connect(&request.destination).await {
            Ok(mut stream) => {
                let bound = stream.local_addr().unwrap_or(NO_ADDRESS);
                client.write_all(&Reply::Succeeded.encode(bound)).await?;
                stream.write_all(&early).await?;
                drop(early);
                relay(client, stream).await
            }
            Err(error) => {
                tracing::debug!(%error, "a client was refused");
                client.write_all(&reply(&error).encode(NO_ADDRESS)).await?;
                client.shutdown().await
            }
        },
        Command::Associate => {
            let (local, peer) = (client.local_addr()?.ip(), client.peer_addr()?.ip());
            match Association::open(local, peer, dialer).await {
                Ok(association) => {
                    let bound = association.local_addr()?;
                    client.write_all(&Reply::Succeeded.encode(bound)).await?;
                    association.run(client).await;
                    Ok(())
                }
                Err(error) => {
                    client.write_all(&Reply::GeneralFailure.encode(NO_ADDRESS)).await?;
                    Err(error)
                }
            }
        }
    }
}

/// Answers the greeting and reads the request, and leaves in `early` what the client has sent behind it.
///
/// `None` when the client has had its refusal.
async fn handshake(client: &mut TcpStream, early: &mut Vec<u8>) -> io::Result<Option<Request>> {
    let greeting = match read(client, early, Greeting::parse).await? {
        Ok(greeting) => greeting,
        Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
    };
    if !greeting.is_open {
        client.write_all(&NO_ACCEPTABLE_METHOD).await?;
        return Ok(None);
    }
    client.write_all(&NO_AUTHENTICATION).await?;
    match read(client, early, Request::parse).await? {
        Ok(request) => Ok(Some(request)),
        Err(error) => match error.reply() {
            Some(reply) => {
                client.write_all(&reply.encode(NO_ADDRESS)).await?;
                Ok(None)
            }
            None => Err(io::Error::new(io::ErrorKind::InvalidData, error)),
        },
    }
}

type Parsed<T> = Result<Option<(T, usize)>, SocksError>;

/// Reads until `parse` finds a message, and takes it out of `early`.
async fn read<T>(
    client: &mut TcpStream,
    early: &mut Vec<u8>,
    parse: impl Fn(&[u8]) -> Parsed<T>,
) -> io::Result<Result<T, SocksError>> {
    loop {
        match parse(early) {
            Ok(Some((message, len))) => {
                early.drain(..len);
                return Ok(Ok(message));
            }
            Ok(None) => {}
            Err(error) => return Ok(Err(error)),
        }
        // No message is longer than this, so that there is always room for more.
        let mut bytes = [0; MAX_MESSAGE];
        let room = MAX_MESSAGE - early.len();
        let len = client.read(&mut bytes[..room]).await?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        early.extend_from_slice(&bytes[..len]);
    }
}

/// The reply of RFC 1928 section 6 that says most.
fn reply(error: &DialError) -> Reply {
    match error {
        DialError::Excluded { .. } => Reply::NotAllowed,
        DialError::Resolve(_) => Reply::HostUnreachable,
        DialError::Connect { error, .. } => match error {
            ConnectError::Refused => Reply::Refused,
            ConnectError::Unreachable => Reply::HostUnreachable,
            ConnectError::TimedOut => Reply::TimedOut,
            ConnectError::NoFamily { .. } => Reply::NetworkUnreachable,
            ConnectError::Destination { .. } => Reply::NotAllowed,
            ConnectError::TooMany { .. } | ConnectError::TunnelEnded | ConnectError::AddressChanged => {
                Reply::GeneralFailure
            }
        },
        DialError::Direct { error, .. } if error.kind() == io::ErrorKind::ConnectionRefused => Reply::Refused,
        DialError::Direct { error, .. } if error.kind() == io::ErrorKind::NetworkUnreachable => {
            Reply::NetworkUnreachable
        }
        DialError::Direct { .. } => Reply::HostUnreachable,
    }
}
