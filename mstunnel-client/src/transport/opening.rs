//! CONNECT: from a session cookie to a live link and what the server assigns.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mstunnel_proto::auth::signin::USER_AGENT;
use mstunnel_proto::connect::{AnswerError, AnswerReader, ConnectRequest, RekeyMethod};
use mstunnel_proto::mtu::{DEFAULT_LINK, MIN_IPV6, MIN_LINK, wanted_mtu};
use mstunnel_proto::session::{ClientConfig, ClientSession, DatagramPlan, Leases};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::channels::Channels;
use super::datagrams::Datagrams;
use super::local::LocalEnd;
use super::outer::OuterConnection;
use crate::params::{ParamsError, TunnelParams};

/// How long a server may take to assign an address.
const LIMIT: Duration = Duration::from_secs(20);

/// What the key of the datagram channel is exported under. protocol.md 5.1.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-openconnect-psk";

/// What a CONNECT says.
pub(crate) struct Opening<'a> {
    /// The session cookie.
    pub(crate) cookie: &'a str,
    /// The Host field.
    pub(crate) host: String,
    /// The name of this machine, if it is to be told.
    pub(crate) hostname: Option<String>,
    /// The addresses of the session so far, on a reconnect.
    pub(crate) leases: Leases,
    /// Whether a datagram channel is wanted.
    pub(crate) datagrams: UseDatagrams,
    /// Our end of the datagram channel.
    pub(crate) local: LocalEnd,
}

/// Whether packets may travel as datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UseDatagrams {
    /// Whenever the server offers it and the path carries them.
    #[default]
    Yes,
    /// Everything stays on TLS.
    No,
}

/// A live connection.
pub(crate) struct Opened {
    pub(crate) channels: Channels,
    pub(crate) params: Arc<TunnelParams>,
    pub(crate) remote: SocketAddr,
}

/// Why the server opened no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    /// The connection broke.
    #[error("the connection broke before the tunnel was open: {0}")]
    Io(#[from] io::Error),
    /// The server says no, or says what cannot be used.
    #[error("the server opened no tunnel: {0}")]
    Answer(#[from] AnswerError),
    /// What the server assigns cannot be used.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// Nothing within the time limit.
    #[error("the server assigns no address within {} s", LIMIT.as_secs())]
    Silent,
}

impl OpeningError {
    /// Whether the cookie is good no more.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Answer(error) => error.is_final(),
            Self::Io(_) | Self::Params(_) | Self::Silent => false,
        }
    }

    /// Whether trying again with the same cookie may help: after any refusal but 401 (protocol.md 3.2).
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Io(_) | Self::Silent => true,
            Self::Answer(error @ AnswerError::Refused { .. }) => !error.is_final(),
            Self::Answer(_) | Self::Params(_) => false,
        }
    }
}

/// Opens the tunnel on `connection`.
pub(crate) async fn open(
    mut connection: OuterConnection,
    opening: Opening<'_>,
) -> Result<Opened, OpeningError> {
    let remote = connection.remote;
    let request = ConnectRequest {
        cookie: Some(opening.cookie.to_owned()),
        user_agent: Some(USER_AGENT.to_owned()),
        hostname: opening.hostname,
        base_mtu: Some(DEFAULT_LINK.get()),
        mtu: Some(wanted_mtu(DEFAULT_LINK, remote.ip()).get()),
        address_v4: opening.leases.v4,
        full_ipv6: true,
        address_v6: opening.leases.v6,
        psk_negotiate: opening.datagrams == UseDatagrams::Yes,
        ..ConnectRequest::default()
    };
    let bytes = Zeroizing::new(request.encode(&opening.host));
    let answer = async {
        connection.stream.write_all(&bytes).await?;
        connection.stream.flush().await?;
        read_answer(&mut connection).await
    };
    let (said, rest) = timeout(LIMIT, answer).await.map_err(|_| OpeningError::Silent)??;
    let now = Instant::now();
    let params = Arc::new(TunnelParams::new(said)?);
    let said = &params.said;
    let config = ClientConfig {
        dpd: said.dpd,
        keepalive: said.keepalive,
        // rustls renegotiates nothing: whatever the method, new keys come with a new connection (statement 44).
        rekey: said.rekey_time.filter(|_| said.rekey_method != RekeyMethod::None),
        mtu: said.mtu.get(),
        leases: params.leases(),
    };
    let (tcp, tls) = connection.into_parts();
    let plan =
        params.said.dtls.clone().filter(|_| opening.datagrams == UseDatagrams::Yes).and_then(|offer| {
            // Without the key the session stays on TLS.
            let psk = tls.export_keying_material([0; 32], EXPORTER_LABEL, None).ok()?;
            Some(DatagramPlan {
                psk: Zeroizing::new(psk),
                offer,
                server: remote.ip(),
                mtu: params.said.mtu,
                link: params.said.base_mtu,
                floor: if params.said.v6.is_some() { MIN_IPV6.get() } else { MIN_LINK.get() },
            })
        });
    let datagrams = plan.and_then(|plan| Datagrams::new(plan, opening.local, now));
    let channels = Channels::new(ClientSession::new(config, now), tcp, tls, datagrams, &rest);
    Ok(Opened { channels, params, remote })
}

type Answered = (mstunnel_proto::connect::ConnectParams, Vec<u8>);

async fn read_answer(connection: &mut OuterConnection) -> Result<Answered, OpeningError> {
    let mut reader = AnswerReader::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let len = connection.read(&mut buffer).await?;
        if len == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let taken = reader.handle_bytes(&buffer[..len])?;
        if let Some(params) = reader.poll_params() {
            return Ok((params, buffer[taken..len].to_vec()));
        }
    }
}
