//! A tunnel that keeps itself up: sign-in once, then as many connections as it takes.
//!
//! ```text
//!   open --> Up --(connection lost, keys due)--> Reconnecting --(same cookie)--> Up
//!            |                                        |
//!            '--(left, ended by the server)--> Ended <'--(cookie refused, time used up)
//! ```
//!
//! # Source
//! protocol.md 4.4 to 4.6; R4, R68.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mstunnel_proto::auth::signin::SignedIn;
use mstunnel_proto::session::Leases;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use zeroize::Zeroizing;

use crate::packets::{PacketReceiver, PacketSender, Packets};
use crate::params::TunnelParams;
use crate::patience::{Attempt, Patience};
use crate::server_url::ServerUrl;
use crate::signin::{CookieFile, CookieFileError, Credentials, SignInFailure, sign_in};
use crate::tls::{TlsOptions, TlsOptionsError};
use crate::transport::{
    Exchange, Link, LinkEnd, LocalEnd, Opened, Opening, OpeningError, Outer, OuterError, UseDatagrams, open,
};

/// Room for packets that are longer than the usual link carries, should the MTU grow at a reconnect.
const MIN_BUFFER: usize = 2_048;

/// How long [`Tunnel::leave`] waits for its BYE to be sent.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// How to open a tunnel.
#[derive(Debug)]
pub struct TunnelOptions {
    /// The server.
    pub server: ServerUrl,
    /// How it is known.
    pub tls: TlsOptions,
    /// Who the user is.
    pub credentials: Credentials,
    /// Where the session cookie is kept for the next start.
    pub cookie_file: Option<CookieFile>,
    /// The name of this machine, if the server is to know it.
    pub hostname: Option<String>,
    /// How long a lost connection is tried for in all; links that end within a minute do not begin anew.
    pub reconnect_limit: Duration,
    /// A mark for the sockets to the server (SO_MARK; needs CAP_NET_ADMIN), so that routing can tell them apart.
    pub mark: Option<u32>,
    /// Whether packets may travel as datagrams.
    pub datagrams: UseDatagrams,
}

impl TunnelOptions {
    /// Options for `server` with the defaults of the stock client.
    pub fn new(server: ServerUrl, credentials: Credentials) -> Self {
        Self {
            server,
            tls: TlsOptions::default(),
            credentials,
            cookie_file: None,
            hostname: None,
            reconnect_limit: Duration::from_secs(300),
            mark: None,
            datagrams: UseDatagrams::Yes,
        }
    }
}

/// Why a tunnel did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The TLS options.
    #[error(transparent)]
    Options(#[from] TlsOptionsError),
    /// The cookie file.
    #[error(transparent)]
    CookieFile(#[from] CookieFileError),
    /// No connection.
    #[error(transparent)]
    Outer(#[from] OuterError),
    /// No sign-in.
    #[error(transparent)]
    SignIn(#[from] SignInFailure),
    /// No tunnel.
    #[error(transparent)]
    Opening(#[from] OpeningError),
}

impl OpenError {
    /// Whether the same may work later: the network, or a server that is busy.
    fn is_passing(&self) -> bool {
        match self {
            Self::Outer(_) => true,
            Self::SignIn(SignInFailure::Exchange(error)) => error.is_passing(),
            Self::Opening(error) => error.is_passing(),
            Self::Options(_) | Self::CookieFile(_) | Self::SignIn(_) => false,
        }
    }
}

/// Where a tunnel stands.
#[derive(Clone, Debug)]
pub enum TunnelState {
    /// Packets pass.
    Up(Arc<TunnelParams>),
    /// The connection was lost; the session waits for its cookie.
    Reconnecting {
        /// Which try this is, from one.
        attempt: u32,
        /// Why the last one failed.
        why: String,
    },
    /// Over.
    Ended(EndReason),
}

/// Why a tunnel ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndReason {
    /// We left.
    #[error("left")]
    Left,
    /// The server ended the session.
    #[error("the server ended the session")]
    ServerEnded,
    /// The cookie is good no more, and nobody signs in again.
    #[error("the session is over: {0}")]
    SessionOver(String),
    /// No connection within the time for reconnects.
    #[error("the server cannot be reached any more: {0}")]
    Unreachable(String),
    /// The server breaks the protocol.
    #[error("{0}")]
    Fault(String),
}

/// An open tunnel. Dropped, it closes without a farewell: the session waits for its cookie.
#[derive(Debug)]
pub struct Tunnel {
    packets: Option<Packets>,
    state: watch::Receiver<TunnelState>,
    params: watch::Receiver<Arc<TunnelParams>>,
    remote: watch::Receiver<SocketAddr>,
    banner: Option<String>,
    leave: mpsc::Sender<String>,
    task: JoinHandle<()>,
}

impl Tunnel {
    /// Signs in (or takes the cookie) and opens the tunnel.
    ///
    /// # Errors
    /// [`OpenError`], which says what to do where something can be done.
    pub async fn open(mut options: TunnelOptions) -> Result<Self, OpenError> {
        let tls = Arc::new(options.tls.config()?);
        let mut outer =
            Outer::new(options.server.clone(), tls, LocalEnd { mark: options.mark, source: None });
        if let (None, Some(file)) = (&options.credentials.cookie, &options.cookie_file) {
            options.credentials.cookie = file.load(&options.server)?;
        }
        let mut keeper = Keeper {
            hostname: options.hostname.take(),
            cookie: Zeroizing::new(String::new()),
            has_certificate: options.tls.certificate.is_some(),
            leases: Leases::default(),
            reconnect_limit: options.reconnect_limit,
            datagrams: options.datagrams,
            cookie_file: options.cookie_file.take(),
            credentials: options.credentials,
            outer: outer.clone(),
        };
        let mut banner = None;
        let opened = match keeper.credentials.cookie.take() {
            Some(cookie) => {
                keeper.cookie = cookie;
                let connection = outer.connect().await?;
                match keeper.open_on(connection).await {
                    // The cookie is from before, and its session is over: sign in as if there were none.
                    Err(error) if error.is_final() && keeper.can_sign_in() => None,
                    other => Some(other?),
                }
            }
            None => None,
        };
        let opened = match opened {
            Some(opened) => opened,
            None => {
                let (signed_in, opened) = keeper.sign_in_and_open().await?;
                banner = signed_in.banner;
                opened
            }
        };
        keeper.keep_cookie()?;
        let max_packet = usize::from(opened.params.said.mtu.get()).max(MIN_BUFFER);
        let (ours, users) = Packets::pair(max_packet);
        let (state_sender, state) = watch::channel(TunnelState::Up(Arc::clone(&opened.params)));
        let (params_sender, params) = watch::channel(Arc::clone(&opened.params));
        let (remote_sender, remote) = watch::channel(opened.remote);
        let (leave, asked_to_leave) = mpsc::channel(1);
        let banner = banner.or_else(|| opened.params.said.banner.clone());
        let (to_user, from_user) = ours.split();
        let told = Told { state: state_sender, params: params_sender, remote: remote_sender };
        let task = tokio::spawn(keeper.keep_up(
            Link::new(opened.channels),
            to_user,
            from_user,
            asked_to_leave,
            told,
        ));
        Ok(Self { packets: Some(users), state, params, remote, banner, leave, task })
    }

    /// What the server assigned, as of now; a reconnect may change it.
    pub fn params(&self) -> Arc<TunnelParams> {
        Arc::clone(&self.params.borrow())
    }

    /// What the server assigned, to be watched.
    pub fn watch_params(&self) -> watch::Receiver<Arc<TunnelParams>> {
        self.params.clone()
    }

    /// The user's end of the packets; once.
    ///
    /// # Panics
    /// When it is asked for twice.
    pub fn take_packets(&mut self) -> Packets {
        self.packets.take().expect("the packets of a tunnel are taken once")
    }

    /// Where the tunnel stands, to be watched.
    pub fn events(&self) -> watch::Receiver<TunnelState> {
        self.state.clone()
    }

    /// The server's address that is connected.
    pub fn server(&self) -> SocketAddr {
        *self.remote.borrow()
    }

    /// What the server tells its users.
    pub fn banner(&self) -> Option<&str> {
        self.banner.as_deref()
    }

    /// Waits until the tunnel is over.
    pub async fn ended(&self) -> EndReason {
        let mut state = self.state.clone();
        let ended = state.wait_for(|state| matches!(state, TunnelState::Ended(_))).await;
        match ended.as_deref() {
            Ok(TunnelState::Ended(reason)) => reason.clone(),
            Ok(_) | Err(_) => EndReason::Fault("the tunnel's task has ended".to_owned()),
        }
    }

    /// Ends the session for good, telling the server `why` (for its log); waits until that is sent, but not long.
    pub async fn leave(mut self, why: &str) {
        if self.leave.try_send(why.to_owned()).is_ok() {
            // A server that does not take our farewell finds the connection closed.
            let _ = tokio::time::timeout(LEAVE_LIMIT, &mut self.task).await;
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the task tells.
struct Told {
    state: watch::Sender<TunnelState>,
    params: watch::Sender<Arc<TunnelParams>>,
    remote: watch::Sender<SocketAddr>,
}

impl Told {
    fn up(&self, opened: &Opened) {
        self.params.send_replace(Arc::clone(&opened.params));
        self.remote.send_replace(opened.remote);
        self.state.send_replace(TunnelState::Up(Arc::clone(&opened.params)));
    }
}

/// What a session needs to come back.
struct Keeper {
    outer: Outer,
    credentials: Credentials,
    cookie: Zeroizing<String>,
    cookie_file: Option<CookieFile>,
    /// A client certificate, which needs nobody at a terminal either.
    has_certificate: bool,
    leases: Leases,
    hostname: Option<String>,
    reconnect_limit: Duration,
    datagrams: UseDatagrams,
}

impl Keeper {
    async fn sign_in_and_open(&mut self) -> Result<(SignedIn, Opened), OpenError> {
        let url = self.outer.url().clone();
        let mut outer = self.outer.clone();
        let mut exchange = Exchange::new(&mut outer);
        let signed_in = sign_in(&mut exchange, url.host_field(), url.path(), &self.credentials).await?;
        self.cookie.clone_from(&signed_in.cookie);
        let connection = exchange.into_connection().await?;
        self.outer = outer;
        let opened = self.open_on(connection).await?;
        Ok((signed_in, opened))
    }

    async fn open_on(
        &mut self,
        connection: crate::transport::OuterConnection,
    ) -> Result<Opened, OpeningError> {
        let opening = Opening {
            cookie: &self.cookie,
            host: self.outer.url().host_field(),
            hostname: self.hostname.clone(),
            leases: self.leases,
            datagrams: self.datagrams,
            local: self.outer.local(),
        };
        let opened = open(connection, opening).await?;
        self.leases = opened.params.leases();
        Ok(opened)
    }

    /// Whether there is anything to sign in with, or somebody to ask.
    fn can_sign_in(&self) -> bool {
        self.needs_nobody() || self.credentials.prompt.is_some()
    }

    /// Whether a sign-in needs nobody at a terminal.
    fn needs_nobody(&self) -> bool {
        self.has_certificate || self.credentials.are_complete()
    }

    fn keep_cookie(&self) -> Result<(), CookieFileError> {
        match &self.cookie_file {
            Some(file) => file.store(self.outer.url(), &self.cookie),
            None => Ok(()),
        }
    }

    fn forget_cookie(&self) {
        if let Some(file) = &self.cookie_file
            && let Err(error) = file.remove()
        {
            tracing::warn!(%error, "cannot remove the cookie file");
        }
    }

    async fn keep_up(
        mut self,
        mut link: Link,
        to_user: PacketSender,
        mut from_user: PacketReceiver,
        mut leave: mpsc::Receiver<String>,
        told: Told,
    ) {
        let mut patience = Patience::new(self.reconnect_limit);
        let reason = loop {
            let start = Instant::now();
            let why = match link.run(&to_user, &mut from_user, &mut leave, &told.params).await {
                LinkEnd::Left => break EndReason::Left,
                LinkEnd::Ended => break EndReason::ServerEnded,
                LinkEnd::Fault(why) => break EndReason::Fault(why),
                LinkEnd::Lost(why) => {
                    patience.handle_loss(start.elapsed());
                    why
                }
                LinkEnd::KeysDue => {
                    patience.handle_loss(start.elapsed());
                    "new keys are due".to_owned()
                }
            };
            tracing::info!(why, "connection lost");
            drop(link);
            let start = Instant::now();
            match self.reconnect(why, &mut patience, &mut leave, &told).await {
                Ok(opened) => {
                    patience.spend(start.elapsed());
                    // What waited meanwhile is too old to be of use.
                    while let Some(packet) = from_user.try_recv() {
                        from_user.recycle(packet);
                    }
                    tracing::info!(server = %opened.remote, "connected again");
                    told.up(&opened);
                    link = Link::new(opened.channels);
                }
                Err(reason) => break reason,
            }
        };
        match reason {
            EndReason::Left | EndReason::ServerEnded | EndReason::SessionOver(_) => self.forget_cookie(),
            EndReason::Unreachable(_) | EndReason::Fault(_) => {}
        }
        told.state.send_replace(TunnelState::Ended(reason));
    }

    /// Comes back with the cookie, or with a new sign-in where that needs nobody at a terminal.
    async fn reconnect(
        &mut self,
        mut why: String,
        patience: &mut Patience,
        leave: &mut mpsc::Receiver<String>,
        told: &Told,
    ) -> Result<Opened, EndReason> {
        let deadline = Instant::now() + patience.left();
        while let Some(Attempt { number: attempt, wait }) = patience.next_attempt() {
            told.state.send_replace(TunnelState::Reconnecting { attempt, why: why.clone() });
            let tried = tokio::select! {
                tried = timeout_at(deadline, async {
                    sleep(wait).await;
                    self.try_again(attempt).await
                }) => match tried {
                    Ok(tried) => tried,
                    Err(_) => return Err(EndReason::Unreachable(why)),
                },
                // Nobody is there to be told; the session ends by itself.
                _ = leave.recv() => return Err(EndReason::Left),
            };
            match tried {
                Ok(opened) => return Ok(opened),
                Err(Again::Later(error)) => {
                    tracing::debug!(attempt, error, "not yet");
                    why = error;
                }
                Err(Again::Never(reason)) => return Err(reason),
            }
        }
        Err(EndReason::Unreachable(why))
    }

    async fn try_again(&mut self, attempt: u32) -> Result<Opened, Again> {
        if attempt > 3 {
            // The name may lead elsewhere by now.
            self.outer.unsettle();
        }
        let connection = match self.outer.connect().await {
            Ok(connection) => connection,
            // A stranger in the server's place too: a hotel's sign-in page goes away when its guest has signed in.
            Err(error) => return Err(Again::Later(error.to_string())),
        };
        match self.open_on(connection).await {
            Ok(opened) => Ok(opened),
            Err(error) if error.is_passing() => Err(Again::Later(error.to_string())),
            Err(error) if error.is_final() && self.needs_nobody() => {
                tracing::info!("the session is over; signing in again");
                match self.sign_in_and_open().await {
                    Ok((_, opened)) => {
                        if let Err(error) = self.keep_cookie() {
                            tracing::warn!(%error, "cannot keep the cookie");
                        }
                        Ok(opened)
                    }
                    Err(error) if error.is_passing() => Err(Again::Later(error.to_string())),
                    Err(error) => Err(Again::Never(EndReason::SessionOver(error.to_string()))),
                }
            }
            Err(error) if error.is_final() => Err(Again::Never(EndReason::SessionOver(error.to_string()))),
            Err(error) => Err(Again::Never(EndReason::Fault(error.to_string()))),
        }
    }
}

enum Again {
    Later(String),
    Never(EndReason),
}
