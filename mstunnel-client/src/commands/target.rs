//! Which server, and who signs in: what every command begins with.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, bail};
use mstunnel_client::signin::{CookieFile, Credentials, Flow, OidcClient, Prompt, fetch_token, read_secret};
use mstunnel_client::tls::{Pin, TlsOptions};
use mstunnel_client::{ServerUrl, Tunnel, TunnelOptions, UseDatagrams};
use mstunnel_proto::auth::signin::{Form, Input, InputKind};
use zeroize::Zeroizing;

/// A year: for ever, and within what a clock can add.
const MAX_RECONNECT_SECONDS: u64 = 365 * 24 * 60 * 60;

/// The server and the credentials.
#[derive(Debug, clap::Args)]
pub(crate) struct Target {
    /// Connect to this server: https://HOST[:PORT][/GROUP]
    #[arg(value_name = "URL")]
    server: ServerUrl,
    /// Sign in as USER
    #[arg(long, value_name = "USER", help_heading = "Credentials")]
    user: Option<String>,
    /// Read the password from the first line of FILE (- for standard input) instead of asking
    #[arg(long, value_name = "FILE", help_heading = "Credentials", conflicts_with = "token_file")]
    password_file: Option<PathBuf>,
    /// Read a bearer token from the first line of FILE (- for standard input)
    #[arg(long, value_name = "FILE", help_heading = "Credentials")]
    token_file: Option<PathBuf>,
    /// Choose this group, by name or label
    #[arg(long, value_name = "GROUP", help_heading = "Credentials")]
    group: Option<String>,
    /// Show this client certificate (PEM, with its chain)
    #[arg(long, value_name = "FILE", help_heading = "Credentials", requires = "key")]
    certificate: Option<PathBuf>,
    /// Use this key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Credentials", requires = "certificate")]
    key: Option<PathBuf>,
    /// Get a token of this OpenID issuer
    #[arg(long, value_name = "URL", help_heading = "Credentials", requires = "client_id",
          conflicts_with_all = ["token_file", "password_file"])]
    oidc_issuer: Option<String>,
    /// Name this program to the issuer as ID
    #[arg(long, value_name = "ID", help_heading = "Credentials")]
    client_id: Option<String>,
    /// Ask the issuer for SCOPE
    #[arg(long, value_name = "SCOPE", help_heading = "Credentials", default_value = "openid profile")]
    oidc_scope: String,
    /// Sign in at the issuer with a browser of this machine, not with a code at any browser
    #[arg(long, help_heading = "Credentials", requires = "oidc_issuer")]
    browser: bool,
    /// Believe only the authorities in FILE (PEM); several times for several files
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    ca: Vec<PathBuf>,
    /// Want this key of the server (pin-sha256:BASE64); without --ca the pin alone decides
    #[arg(long, value_name = "PIN", help_heading = "Server")]
    pin: Vec<Pin>,
    /// Keep the session cookie in FILE, and begin with the one that is there
    #[arg(long, value_name = "FILE", help_heading = "Session")]
    cookie_file: Option<PathBuf>,
    /// Tell the server that this machine is called NAME
    #[arg(long, value_name = "NAME", help_heading = "Session")]
    hostname: Option<String>,
    /// Try to reconnect for SECONDS in all
    #[arg(long, value_name = "SECONDS", help_heading = "Session", default_value_t = 300,
          value_parser = clap::value_parser!(u64).range(..=MAX_RECONNECT_SECONDS))]
    reconnect_timeout: u64,
    /// Keep to TLS; no datagram channel
    #[arg(long, help_heading = "Session")]
    no_dtls: bool,
}

impl Target {
    /// Signs in and opens the tunnel; shows the server's banner on standard error.
    pub(crate) async fn open(&self) -> anyhow::Result<Tunnel> {
        self.open_marked(None).await
    }

    /// As [`Target::open`]; the sockets to the server carry `mark`.
    pub(crate) async fn open_marked(&self, mark: Option<u32>) -> anyhow::Result<Tunnel> {
        let mut options = TunnelOptions::new(self.server.clone(), self.credentials().await?);
        options.tls = self.tls();
        options.cookie_file = self.cookie_file.as_ref().map(CookieFile::new);
        options.hostname.clone_from(&self.hostname);
        options.reconnect_limit = std::time::Duration::from_secs(self.reconnect_timeout);
        options.mark = mark;
        options.datagrams = self.datagrams();
        let tunnel = Tunnel::open(options).await?;
        if let Some(banner) = tunnel.banner() {
            say(banner);
        }
        Ok(tunnel)
    }

    /// The server.
    pub(crate) fn server(&self) -> &ServerUrl {
        &self.server
    }

    /// How it is known.
    pub(crate) fn tls(&self) -> TlsOptions {
        TlsOptions {
            authorities: self.ca.clone(),
            pins: self.pin.clone(),
            certificate: self.certificate.clone().zip(self.key.clone()),
        }
    }

    /// What this machine is called, if the server is to know.
    pub(crate) fn hostname(&self) -> Option<&str> {
        self.hostname.as_deref()
    }

    /// Whether packets may travel as datagrams.
    pub(crate) fn datagrams(&self) -> UseDatagrams {
        if self.no_dtls { UseDatagrams::No } else { UseDatagrams::Yes }
    }

    /// Credentials that many sessions sign in with, so that nobody can be asked.
    pub(crate) async fn credentials_of_nobody(&self) -> anyhow::Result<Credentials> {
        if self.cookie_file.is_some() {
            bail!("a cookie is of one session: many sign in, so leave --cookie-file out");
        }
        let credentials = Credentials { prompt: None, ..self.credentials().await? };
        if credentials.password.is_none() && credentials.token.is_none() && self.certificate.is_none() {
            bail!(
                "nobody is asked by so many sessions: use --user with --password-file, --token-file, --certificate \
                 with --key, or --oidc-issuer"
            );
        }
        Ok(credentials)
    }

    async fn credentials(&self) -> anyhow::Result<Credentials> {
        let mut credentials = Credentials {
            user: self.user.clone(),
            group: self.group.clone(),
            password: self.password_file.as_deref().map(read_secret).transpose()?,
            token: self.token_file.as_deref().map(read_secret).transpose()?,
            ..Credentials::default()
        };
        if let (Some(issuer), Some(client_id)) = (&self.oidc_issuer, &self.client_id) {
            let client = OidcClient {
                issuer: issuer.clone(),
                client_id: client_id.clone(),
                scope: self.oidc_scope.clone(),
                authorities: self.ca.clone(),
            };
            let flow = if self.browser { Flow::Browser } else { Flow::Device };
            credentials.token = Some(fetch_token(&client, flow, &say).await.context("cannot get a token")?);
        }
        if io::stdin().is_terminal() {
            credentials.prompt = Some(Box::new(Terminal));
        } else if credentials.user.is_none()
            && credentials.token.is_none()
            && self.certificate.is_none()
            && self.cookie_file.is_none()
        {
            bail!(
                "nobody can be asked who signs in: use --user with --password-file, --token-file, --certificate with \
                 --key, --oidc-issuer or --cookie-file"
            );
        }
        Ok(credentials)
    }
}

fn say(line: &str) {
    // A closed stderr is the caller's choice.
    let _ = writeln!(io::stderr(), "{line}");
}

/// A person at the terminal.
struct Terminal;

impl Prompt for Terminal {
    fn ask(&self, form: &Form, input: &Input) -> io::Result<Zeroizing<String>> {
        for text in [&form.error, &form.message].into_iter().flatten() {
            say(text);
        }
        let label = format!("{} ", input.label);
        match input.kind {
            InputKind::Secret => rpassword::prompt_password(label).map(Zeroizing::new),
            InputKind::Text | InputKind::Hidden => {
                write!(io::stderr(), "{label}")?;
                io::stderr().flush()?;
                let mut line = Zeroizing::new(String::new());
                if io::stdin().read_line(&mut line)? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(Zeroizing::new(line.trim_end_matches(['\r', '\n']).to_owned()))
            }
        }
    }
}
