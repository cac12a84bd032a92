//! From nothing, or from a cookie, to a live connection; timed step by step.

use std::time::{Duration, Instant};

use mstunnel_proto::connect::AnswerError;
use mstunnel_proto::session::Leases;
use zeroize::Zeroizing;

use super::Shared;
use crate::signin::{SignInFailure, sign_in};
use crate::transport::{
    Channels, Exchange, ExchangeError, Opening, OpeningError, Outer, OuterConnection, OuterError, open,
};
use crate::tunnel::OpenError;

/// How long the steps of a set-up took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    /// TCP and TLS.
    pub(super) connection: Duration,
    /// Sign-in; nothing for a set-up by cookie.
    pub(super) sign_in: Option<Duration>,
    /// CONNECT.
    pub(super) connect: Duration,
}

/// A session that is up.
pub(super) struct Up {
    pub(super) channels: Box<Channels>,
    pub(super) leases: Leases,
    pub(super) mtu: u16,
    pub(super) cookie: Zeroizing<String>,
    pub(super) times: Times,
    /// Whether its datagram channel is up.
    pub(super) has_datagrams: bool,
}

/// Signs in as session `number`, and connects.
pub(super) async fn from_credentials(shared: &Shared, number: u32) -> Result<Up, OpenError> {
    let mut outer = shared.outer(number);
    let begin = Instant::now();
    let mut exchange = Exchange::new(&mut outer);
    exchange.connect().await?;
    let connected = Instant::now();
    let (host, path) = (shared.server.host_field(), shared.server.path());
    let signed_in = sign_in(&mut exchange, host, path, &shared.credentials).await?;
    let known = Instant::now();
    let connection = exchange.into_connection().await?;
    shared.settle(&outer);
    let (channels, leases, mtu) =
        connect(shared, &outer, connection, &signed_in.cookie, Leases::default()).await?;
    let times =
        Times { connection: connected - begin, sign_in: Some(known - connected), connect: known.elapsed() };
    Ok(Up { channels, leases, mtu, cookie: signed_in.cookie, times, has_datagrams: false })
}

/// Comes back as session `number` by its cookie.
pub(super) async fn from_cookie(
    shared: &Shared,
    number: u32,
    cookie: Zeroizing<String>,
    leases: Leases,
) -> Result<Up, OpenError> {
    let mut outer = shared.outer(number);
    let begin = Instant::now();
    let connection = outer.connect().await?;
    let connected = Instant::now();
    let (channels, leases, mtu) = connect(shared, &outer, connection, &cookie, leases).await?;
    let times = Times { connection: connected - begin, sign_in: None, connect: connected.elapsed() };
    Ok(Up { channels, leases, mtu, cookie, times, has_datagrams: false })
}

async fn connect(
    shared: &Shared,
    outer: &Outer,
    connection: OuterConnection,
    cookie: &str,
    leases: Leases,
) -> Result<(Box<Channels>, Leases, u16), OpeningError> {
    let opening = Opening {
        cookie,
        host: shared.server.host_field(),
        hostname: shared.hostname.clone(),
        leases,
        datagrams: shared.datagrams,
        local: outer.local(),
    };
    let opened = open(connection, opening).await?;
    Ok((Box::new(opened.channels), opened.params.leases(), opened.params.said.mtu.get()))
}

/// The kind of a failure, under which failures are counted.
pub(super) fn kind(error: &OpenError) -> &'static str {
    match error {
        OpenError::Options(_) | OpenError::CookieFile(_) => "options",
        OpenError::Outer(error) | OpenError::SignIn(SignInFailure::Exchange(ExchangeError::Outer(error))) => {
            kind_of_outer(error)
        }
        OpenError::SignIn(SignInFailure::Exchange(ExchangeError::Io { .. })) => "broken in sign-in",
        OpenError::SignIn(SignInFailure::Exchange(ExchangeError::Http { .. })) => "not HTTP",
        OpenError::SignIn(SignInFailure::Exchange(ExchangeError::Silent { .. })) => "no answer to sign-in",
        OpenError::SignIn(
            SignInFailure::SignIn(_) | SignInFailure::Unanswered { .. } | SignInFailure::Terminal(_),
        ) => "sign-in refused",
        OpenError::Opening(OpeningError::Io(_)) => "broken in CONNECT",
        OpenError::Opening(OpeningError::Answer(AnswerError::Refused { status: 401, .. })) => {
            "cookie refused"
        }
        OpenError::Opening(OpeningError::Answer(AnswerError::Refused { .. })) => "CONNECT refused",
        OpenError::Opening(OpeningError::Answer(_) | OpeningError::Params(_)) => "not an answer to CONNECT",
        OpenError::Opening(OpeningError::Silent) => "no answer to CONNECT",
    }
}

fn kind_of_outer(error: &OuterError) -> &'static str {
    match error {
        OuterError::Name { .. } => "name not found",
        OuterError::Tcp { .. } => "no connection",
        OuterError::Tls { .. } => "server not trusted",
        OuterError::Silent { .. } => "no answer to TCP or TLS",
    }
}
