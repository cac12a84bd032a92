//! The HTTP proxy port: CONNECT, and requests with an absolute URL.
//!
//! A plain request goes out on a connection of its own, in origin form and without the headers that belong to
//! one connection (RFC 9110 section 7.6.1). Bodies stream; hyper bounds heads.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{Either, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::relay::relay;
use crate::dial::{Destination, DialError, Dialer, Stream};
use crate::stack::ConnectError;

/// How long a client may take for a request head, the pause since the last answer included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest head, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// Headers that belong to one connection; and those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

type Body = Either<Incoming, Full<Bytes>>;

/// A client that asked for CONNECT, and its destination: what is left when hyper has answered.
type Tunnelled = Arc<Mutex<Option<(OnUpgrade, Stream)>>>;

/// Serves one client until its connection ends.
pub(super) async fn serve(client: TcpStream, dialer: Dialer) -> io::Result<()> {
    let tunnelled = Tunnelled::default();
    let service = service_fn(|request| {
        let (dialer, tunnelled) = (dialer.clone(), Arc::clone(&tunnelled));
        async move { Ok::<_, Infallible>(answer(request, dialer, &tunnelled).await) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // A client that has said all it has to say still wants its answer.
        .half_close(true)
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(client), service)
        .with_upgrades()
        .await
        .map_err(io::Error::other)?;
    // Here and not in a task of its own, so that it counts as a client and ends with the proxy.
    let waiting = tunnelled.lock().unwrap_or_else(PoisonError::into_inner).take();
    match waiting {
        Some((client, mut stream)) => {
            let client = client.await.map_err(io::Error::other)?;
            let client = client.downcast::<TokioIo<TcpStream>>();
            let client =
                client.map_err(|_| io::Error::other("an upgrade of something else than a TCP connection"))?;
            // What the client has said already.
            stream.write_all(&client.read_buf).await?;
            relay(client.io.into_inner(), stream).await
        }
        None => Ok(()),
    }
}

async fn answer(request: Request<Incoming>, dialer: Dialer, tunnelled: &Tunnelled) -> Response<Body> {
    let result = match *request.method() {
        Method::CONNECT => connect(request, dialer, tunnelled).await,
        _ => forward(request, dialer).await,
    };
    result.unwrap_or_else(|refusal| {
        tracing::debug!(status = %refusal.status, reason = refusal.text, "a client was refused");
        let text = format!("{}\n", refusal.text);
        let mut response = Response::new(Either::Right(Full::new(text.into())));
        *response.status_mut() = refusal.status;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        response
    })
}

/// Opens a tunnel in the tunnel (RFC 9110 section 9.3.6).
async fn connect(
    request: Request<Incoming>,
    dialer: Dialer,
    tunnelled: &Tunnelled,
) -> Result<Response<Body>, Refusal> {
    let authority = request.uri().authority().map_or("", |authority| authority.as_str());
    let destination: Destination =
        authority.parse().map_err(|_| Refusal::bad_request("CONNECT needs HOST:PORT"))?;
    let stream = dialer.connect(&destination).await?;
    let client = hyper::upgrade::on(request);
    *tunnelled.lock().unwrap_or_else(PoisonError::into_inner) = Some((client, stream));
    Ok(Response::new(Either::Right(Full::default())))
}

async fn forward(mut request: Request<Incoming>, dialer: Dialer) -> Result<Response<Body>, Refusal> {
    let uri = request.uri();
    if uri.scheme_str() != Some("http") {
        return Err(Refusal::bad_request("this is a proxy: only http:// URLs and CONNECT"));
    }
    let authority = uri.authority().ok_or_else(|| Refusal::bad_request("the URL has no host"))?.clone();
    let host = authority.host().parse().map_err(|_| Refusal::bad_request("the URL's host is not one"))?;
    let destination = Destination { host, port: authority.port_u16().unwrap_or(80) };
    // RFC 9112 section 3.2.2: the URL wins over a Host header.
    let without_user = authority.as_str().rsplit('@').next().unwrap_or_default();
    let host_header =
        HeaderValue::from_str(without_user).map_err(|_| Refusal::bad_request("the URL's host is not one"))?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() =
        path.parse::<Uri>().map_err(|_| Refusal::bad_request("the URL's path is not one"))?;
    strip(request.headers_mut());
    request.headers_mut().insert(header::HOST, host_header);
    let stream = dialer.connect(&destination).await?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(MAX_HEAD.max(512 * 1024))
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|error| Refusal::bad_gateway(&error))?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a destination's connection failed");
        }
    });
    let mut response = sender.send_request(request).await.map_err(|error| Refusal::bad_gateway(&error))?;
    strip(response.headers_mut());
    Ok(response.map(Either::Left))
}

/// Removes what belongs to one connection.
fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
}

/// An answer of the proxy itself.
struct Refusal {
    status: StatusCode,
    text: String,
}

impl Refusal {
    fn bad_request(text: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, text: text.to_owned() }
    }

    fn bad_gateway(error: &hyper::Error) -> Self {
        Self { status: StatusCode::BAD_GATEWAY, text: error.to_string() }
    }
}

impl From<DialError> for Refusal {
    fn from(error: DialError) -> Self {
        let status = match &error {
            DialError::Excluded { .. } => StatusCode::FORBIDDEN,
            DialError::Connect { error: ConnectError::TimedOut, .. } => StatusCode::GATEWAY_TIMEOUT,
            DialError::Connect {
                error: ConnectError::TooMany { .. } | ConnectError::TunnelEnded, ..
            } => StatusCode::SERVICE_UNAVAILABLE,
            DialError::Direct { error, .. } if error.kind() == io::ErrorKind::TimedOut => {
                StatusCode::GATEWAY_TIMEOUT
            }
            DialError::Resolve(_) | DialError::Connect { .. } | DialError::Direct { .. } => {
                StatusCode::BAD_GATEWAY
            }
        };
        Self { status, text: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_connection_and_those_it_names_are_stripped() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "x-private, close"),
            ("x-private", "1"),
            ("proxy-authorization", "Basic c2VjcmV0"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("accept", "*/*"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["accept"]);
    }
}
