//! One page over HTTP through the tunnel, streamed.
//!
//! A response that ends before its announced length, or with a reset, is an error. Redirects stay with
//! `http`, and there are [`MAX_REDIRECTS`] of them at most. hyper bounds heads and chunk sizes.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use crate::dial::{Destination, DestinationError, DialError, Dialer};

/// Redirects that are followed at most.
pub const MAX_REDIRECTS: usize = 5;

/// How long a server may take to begin its answer, and to go on with it.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is read ahead of whoever takes the body, in bytes: at 1 Gbit/s a few milliseconds.
const READ_AHEAD: usize = 512 * 1024;

/// A page that is being fetched.
#[derive(Debug)]
pub struct Page {
    /// Its URL after redirects.
    pub url: Uri,
    /// The status; whether it is a good one is for the caller to say.
    pub status: StatusCode,
    /// The length of the body in bytes, if the server said.
    pub len: Option<u64>,
    body: Incoming,
}

/// Why a page was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URL that this can fetch.
    #[error("{url:?} is not a http:// URL with a host")]
    Url {
        /// What was given, or where a redirect led.
        url: String,
    },
    /// The host in the URL.
    #[error("the host of {url:?}: {error}")]
    Host {
        /// The URL.
        url: String,
        /// What is wrong.
        error: DestinationError,
    },
    /// The connection.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The conversation.
    #[error("the server's answer: {}", causes(.0))]
    Http(#[from] hyper::Error),
    /// No byte for a while.
    #[error("the server is silent for {} s", PATIENCE.as_secs())]
    Silent,
    /// Redirects in a circle, perhaps.
    #[error("more than {MAX_REDIRECTS} redirects")]
    Redirects,
    /// A redirect without a usable destination.
    #[error("status {status} without a location")]
    Location {
        /// The status.
        status: StatusCode,
    },
}

/// hyper keeps what happened in the sources of an error.
fn causes(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Asks for `url` and follows redirects; the body is for [`Page::chunk`].
///
/// # Errors
/// [`FetchError`]
pub async fn fetch(dialer: &Dialer, url: &str) -> Result<Page, FetchError> {
    let mut url: Uri = url.parse().map_err(|_| FetchError::Url { url: shown(url) })?;
    for _ in 0..=MAX_REDIRECTS {
        let response = ask(dialer, &url).await?;
        let status = response.status();
        let is_redirect = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        if !is_redirect {
            let len = response.body().size_hint().exact();
            return Ok(Page { url, status, len, body: response.into_body() });
        }
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        url = follow(&url, location.ok_or(FetchError::Location { status })?)?;
    }
    Err(FetchError::Redirects)
}

impl Page {
    /// The next part of the body; `None` at its end.
    ///
    /// # Errors
    /// [`FetchError::Http`] when it is cut short, [`FetchError::Silent`]
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        loop {
            let frame = timeout(PATIENCE, self.body.frame()).await.map_err(|_| FetchError::Silent)?;
            let Some(frame) = frame else { return Ok(None) };
            // Trailers are of no interest.
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(bytes));
            }
        }
    }
}

async fn ask(dialer: &Dialer, url: &Uri) -> Result<Response<Incoming>, FetchError> {
    let wrong = || FetchError::Url { url: shown(&url.to_string()) };
    let authority = url.authority().filter(|_| url.scheme_str() == Some("http")).ok_or_else(wrong)?;
    let host =
        authority.host().parse().map_err(|error| FetchError::Host { url: shown(&url.to_string()), error })?;
    let destination = Destination { host, port: authority.port_u16().unwrap_or(80) };
    let host_header = authority.as_str().rsplit('@').next().unwrap_or_default();
    let host_header = HeaderValue::from_str(host_header).map_err(|_| wrong())?;
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() =
        url.path_and_query().map_or("/", |path| path.as_str()).parse().map_err(|_| wrong())?;
    request.headers_mut().insert(header::HOST, host_header);
    request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    let agent = HeaderValue::from_static(concat!("mstunnel-client/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(header::USER_AGENT, agent);
    let stream = dialer.connect(&destination).await?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(READ_AHEAD)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        // What goes wrong with it, the body says too.
        let _ = connection.await;
    });
    Ok(timeout(PATIENCE, sender.send_request(request)).await.map_err(|_| FetchError::Silent)??)
}

/// Where `location` leads from `url`: another URL, or a path on the same host.
fn follow(url: &Uri, location: &str) -> Result<Uri, FetchError> {
    let wrong = || FetchError::Url { url: shown(location) };
    let next: Uri = location.parse().map_err(|_| wrong())?;
    match (next.scheme_str(), location.starts_with('/') && !location.starts_with("//")) {
        (Some("http"), _) => Ok(next),
        (None, true) => {
            let mut parts = url.clone().into_parts();
            parts.path_and_query = next.into_parts().path_and_query;
            Uri::from_parts(parts).map_err(|_| wrong())
        }
        _ => Err(wrong()),
    }
}

/// Text of a user or a server, bounded; shown escaped.
fn shown(text: &str) -> String {
    text.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::Bypass;
    use crate::stack::testing::{HOST_V4, World, params};

    fn world() -> (World, Dialer) {
        let world = World::with_params(params(|said| said.dns = vec![HOST_V4.into()]), 3, None);
        let dialer = Dialer::new(world.stack.clone(), Bypass::Refuse);
        (world, dialer)
    }

    async fn body(page: &mut Page) -> Result<Vec<u8>, FetchError> {
        let mut body = Vec::new();
        while let Some(bytes) = page.chunk().await? {
            body.extend_from_slice(&bytes);
        }
        Ok(body)
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_is_fetched_by_name_and_a_redirect_is_followed() {
        let (_world, dialer) = world();
        for path in ["", "redirect"] {
            let url = format!("http://www.corp.example/{path}");
            let mut page = fetch(&dialer, &url).await.unwrap();
            assert_eq!((page.status, page.len, page.url.path()), (StatusCode::OK, Some(5), "/"));
            assert_eq!(body(&mut page).await.unwrap(), b"hello");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn redirects_in_a_circle_and_away_from_http_are_errors() {
        let (_world, dialer) = world();
        let circle = fetch(&dialer, "http://10.20.0.2/circle").await.unwrap_err();
        assert!(matches!(circle, FetchError::Redirects), "{circle}");
        let away = fetch(&dialer, "http://10.20.0.2/away").await.unwrap_err();
        assert!(matches!(away, FetchError::Url { .. }), "{away}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_cut_short_is_an_error() {
        let (_world, dialer) = world();
        let mut page = fetch(&dialer, "http://10.20.0.2/short").await.unwrap();
        let error = body(&mut page).await.unwrap_err();
        assert!(matches!(error, FetchError::Http(_)), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn only_http_urls_with_a_host_are_fetched() {
        let (_world, dialer) = world();
        for wrong in ["https://10.20.0.2/", "10.20.0.2", "/path", "http:///", "http://a b/", ""] {
            let error = fetch(&dialer, wrong).await.unwrap_err();
            assert!(matches!(error, FetchError::Url { .. } | FetchError::Host { .. }), "{wrong}: {error}");
        }
    }
}
