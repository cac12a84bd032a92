//! The demo intranet: a web page that listens on the loopback, and that the server publishes inside the
//! tunnel under an address that exists nowhere else.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

/// Where the page is inside the tunnel: an address for benchmarks (RFC 2544), which no network uses.
pub(crate) const INTRANET: &str = "198.18.0.80:80";

/// What the page says, for whoever looks for it.
pub(crate) const GREETING: &str = "Welcome to the intranet";

/// The page's listener.
pub(crate) struct Intranet(TcpListener);

impl Intranet {
    /// Takes a free port of the loopback.
    pub(crate) async fn bind() -> Result<Self> {
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map(Self).context("no free port on 127.0.0.1")
    }

    /// Where the page really is.
    pub(crate) fn address(&self) -> Result<SocketAddr> {
        self.0.local_addr().context("a listener has an address")
    }

    /// Answers requests for as long as it is polled.
    pub(crate) async fn serve(self) -> Infallible {
        loop {
            let Ok((tcp, _)) = self.0.accept().await else {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            tokio::spawn(async move {
                let answer =
                    hyper::service::service_fn(|request| async move { Ok::<_, Infallible>(page(&request)) });
                // A client that goes away in the middle is its own affair.
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(tcp), answer)
                    .await;
            });
        }
    }
}

fn page(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path().replace(['<', '>', '&'], "");
    let html = format!(
        "<!doctype html>\n<title>Intranet</title>\n<h1>{GREETING}</h1>\n\
         <p>You asked for {path}. This page has no address outside the tunnel.</p>\n"
    );
    let mut response = Response::new(Full::from(html));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    response
}
