//! The whole product on this machine in one command, without root: an OpenID issuer, an intranet page that exists
//! only behind the tunnel, a server, and a client that signs in and fetches the page.
//!
//! `cargo run --release --bin quickstart` stays up afterwards, so that the stock `openconnect` can join;
//! `--once` ends it. Nothing is left behind.

mod files;
mod intranet;
mod issuer;
mod visit;

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use mstunnel_server::config::Settings;
use mstunnel_server::serve::Server;
use tokio::signal::unix::{SignalKind, signal};

use crate::intranet::{INTRANET, Intranet};
use crate::issuer::Issuer;

const USER: &str = "dana@corp.example";

/// The port that is tried first; any free one else.
const PORT: u16 = 4443;

/// A new token for those who join late, long before the old one ends.
const TOKEN_RENEWAL: Duration = Duration::from_secs(1200);

const USAGE: &str = "usage: quickstart [--once]";

fn main() -> ExitCode {
    let once = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => false,
        [flag] if flag == "--once" => true,
        _ => {
            let _ = writeln!(io::stderr(), "{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(once) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "quickstart: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(once: bool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let directory = tempfile::Builder::new().prefix("mstunnel-quickstart-").tempdir()?;
    let home = directory.path();

    let issuer = runtime.block_on(Issuer::bind(home))?;
    files::write_private(&home.join("oidc.json"), &issuer.oidc_json().to_string())?;
    say("issuer", &format!("{} signs tokens for {USER}", issuer.url()))?;
    let page = runtime.block_on(Intranet::bind())?;
    let page_address = page.address()?;
    runtime.spawn(page.serve());
    say("intranet", &format!("http://{INTRANET}/ exists only behind the tunnel"))?;

    let pin = files::write_certificate(home)?;
    let port = free_port()?;
    let configuration = files::write_configuration(home, port, page_address)?;
    let token = Token { issuer: issuer.signer(), path: home.join("token") };
    token.renew()?;
    runtime.spawn(issuer.serve());
    let (settings, _) = Settings::load(&configuration).map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut server = Server::start(settings).context("cannot start the server")?;
    let url = format!("https://127.0.0.1:{port}");
    say("server", &format!("{url}, TCP and UDP, no root, packets leave by ordinary sockets"))?;

    let visited = runtime.block_on(visit::visit(&url, &pin, &token.path));
    let outcome = match visited {
        Ok(()) if once => Ok(()),
        Ok(()) => invite(&url, &pin, &token.path, &server.control_socket())
            .and_then(|()| runtime.block_on(stay_up(&mut server, &token))),
        Err(error) => Err(error),
    };
    server.stop().context("the server did not end cleanly")?;
    say("ended", "nothing is left")?;
    outcome
}

/// The file with the token, for clients to sign in with.
struct Token {
    issuer: issuer::Signer,
    path: PathBuf,
}

impl Token {
    fn renew(&self) -> Result<()> {
        let fresh = self.path.with_extension("new");
        files::write_private(&fresh, &self.issuer.token(USER)?)?;
        std::fs::rename(&fresh, &self.path).context("cannot renew the token")
    }
}

/// Says how others join.
fn invite(url: &str, pin: &str, token: &Path, socket: &Path) -> Result<()> {
    say("", "")?;
    say("join", "with the stock client, no root, in a second terminal:")?;
    say(
        "",
        &format!(
            "openconnect --protocol=anyconnect --token-mode=oidc --token-secret=@{} --servercert={pin} \\\n\
             {:12}  --script-tun --script='ocproxy -D 11080' {url}",
            token.display(),
            ""
        ),
    )?;
    say("", &format!("curl --socks5-hostname 127.0.0.1:11080 http://{INTRANET}/"))?;
    say(
        "or ours",
        &format!("mstunnel-client get {url} --token-file {} --pin {pin} http://{INTRANET}/", token.display()),
    )?;
    say("watch", &format!("mst-cli --socket {} server show users", socket.display()))?;
    say("stop", "Ctrl-C")
}

async fn stay_up(server: &mut Server, token: &Token) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut renewal = tokio::time::interval(TOKEN_RENEWAL);
    loop {
        tokio::select! {
            ended = server.ended() => return ended,
            _ = interrupt.recv() => return Ok(()),
            _ = terminate.recv() => return Ok(()),
            _ = renewal.tick() => token.renew()?,
        }
    }
}

fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, PORT))
        .or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

/// One line of the story: what it is about, and what there is to say.
fn say(about: &str, what: &str) -> Result<()> {
    writeln!(io::stdout(), "{about:12}{what}").context("cannot write to the terminal")
}
