//! The browser flow: the issuer sends the browser back to a port of this machine with a code, which is of
//! use only together with a secret that never left this process (PKCE).

use std::ffi::{OsStr, OsString};
use std::net::Ipv4Addr;
use std::os::unix::ffi::OsStrExt;
use std::process::Stdio;
use std::time::Duration;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use zeroize::Zeroizing;

use super::endpoint::{Endpoint, Json, printable};
use super::{OidcClient, OidcError};

/// How long a person may take.
const LIMIT: Duration = Duration::from_secs(5 * 60);

/// The longest request of a browser that is read.
const MAX_REQUEST_BYTES: usize = 16 * 1024;

/// How long a browser may take for one request: others may come before the right one.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

pub(super) async fn run(
    client: &OidcClient,
    endpoint: &Endpoint,
    discovery: &Json,
    say: &(dyn Fn(&str) + Send + Sync),
) -> Result<Json, OidcError> {
    let authorize = discovery.endpoint("authorization_endpoint")?;
    let token_url = discovery.endpoint("token_endpoint")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let redirect = format!("http://127.0.0.1:{}/callback", listener.local_addr()?.port());
    let (state, verifier) = (random()?, random()?);
    let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()));
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs([
            ("response_type", "code"),
            ("client_id", &client.client_id),
            ("redirect_uri", &redirect),
            ("scope", &client.scope),
            ("state", &state),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ])
        .finish();
    let url = format!("{authorize}{}{query}", if authorize.contains('?') { '&' } else { '?' });
    say(&format!("to sign in, open {}", printable_url(&url)));
    open_browser(&url);
    let code = tokio::time::timeout(LIMIT, wait_for_code(&listener, &state))
        .await
        .map_err(|_| OidcError::TimedOut(LIMIT.as_secs()))??;
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", &redirect),
        ("client_id", &client.client_id),
        ("code_verifier", &verifier),
    ];
    let answer = endpoint.post(&token_url, &form).await?;
    if answer.is_success { Ok(answer) } else { Err(answer.refusal()) }
}

/// The URL is ours and percent-encoded, but its beginning is the issuer's; it must stay whole.
fn printable_url(url: &str) -> String {
    url.chars().filter(char::is_ascii_graphic).collect()
}

/// 256 random bits as text.
fn random() -> Result<Zeroizing<String>, OidcError> {
    let mut bytes = Zeroizing::new([0; 32]);
    aws_lc_rs::rand::fill(bytes.as_mut_slice()).map_err(|_| std::io::Error::other("no randomness"))?;
    Ok(Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes)))
}

/// Tries to open a browser; the line that was shown is the other way.
fn open_browser(url: &str) {
    // Reaped by the runtime, whenever it ends.
    let _ = Command::new(browser(std::env::var_os("BROWSER")))
        .arg(url)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
}

/// The program that shows a page: the first that `BROWSER` names, else the desktop's choice. No shell reads
/// it, and what is more than the name of a program (`%s`, options) is for `xdg-open`, which knows them.
fn browser(named: Option<OsString>) -> OsString {
    let first = named.as_deref().map(|named| named.as_bytes().split(|&byte| byte == b':').next());
    match first.flatten() {
        Some(name) if !name.is_empty() && !name.contains(&b' ') && !name.contains(&b'%') => {
            OsStr::from_bytes(name).to_owned()
        }
        _ => "xdg-open".into(),
    }
}

/// Answers browsers until one brings the code with our state.
async fn wait_for_code(listener: &TcpListener, state: &str) -> Result<Zeroizing<String>, OidcError> {
    loop {
        let (mut stream, _) = listener.accept().await?;
        let Ok(Some(target)) = tokio::time::timeout(REQUEST_LIMIT, read_target(&mut stream)).await else {
            continue;
        };
        let outcome = read_callback(&target, state);
        let (status, text) = match &outcome {
            Some(Ok(_)) => ("200 OK", "You are signed in. This window can be closed."),
            Some(Err(_)) => ("400 Bad Request", "The sign-in was refused. This window can be closed."),
            None => ("404 Not Found", "Nothing here."),
        };
        let page = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
            text.len()
        );
        // The browser's page is a courtesy.
        let _ = stream.write_all(page.as_bytes()).await;
        let _ = stream.shutdown().await;
        if let Some(outcome) = outcome {
            return outcome;
        }
    }
}

/// The target of one GET.
async fn read_target(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|end| end == b"\r\n\r\n") {
        if bytes.len() > MAX_REQUEST_BYTES || stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    let line = bytes.split(|&byte| byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    Some(line.strip_prefix("GET ")?.split(' ').next()?.to_owned())
}

/// What a callback says; `None` for any other page, or one with another's state.
fn read_callback(target: &str, state: &str) -> Option<Result<Zeroizing<String>, OidcError>> {
    let query = target.strip_prefix("/callback?")?;
    let value = |name: &str| {
        form_urlencoded::parse(query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    };
    if value("state").as_deref() != Some(state) {
        return None;
    }
    if let Some(error) = value("error_description").or_else(|| value("error")) {
        return Some(Err(OidcError::Refused(printable(&error))));
    }
    value("code").map(|code| Ok(Zeroizing::new(code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_browser_is_the_one_that_is_named_if_it_is_a_program() {
        let named = |text: &str| browser(Some(text.into()));
        assert_eq!(named("/usr/bin/firefox"), "/usr/bin/firefox");
        assert_eq!(named("w3m:lynx"), "w3m");
        for other in
            [browser(None), named(""), named("firefox %s"), named("firefox --new-window"), named(":x")]
        {
            assert_eq!(other, "xdg-open");
        }
    }

    #[test]
    fn only_a_callback_with_our_state_counts() {
        let read = |target| read_callback(target, "ours");
        assert_eq!(read("/callback?code=c%2Fd&state=ours").unwrap().unwrap().as_str(), "c/d");
        assert!(read("/callback?code=c&state=theirs").is_none());
        assert!(read("/callback?code=c").is_none());
        assert!(read("/favicon.ico").is_none());
        assert!(read("/callback?state=ours").is_none());
        let refused = read("/callback?error=access_denied&state=ours").unwrap().unwrap_err();
        assert_eq!(refused.to_string(), "the issuer refuses: access_denied");
        assert!(read("/callback?error=access_denied&state=theirs").is_none());
    }
}
