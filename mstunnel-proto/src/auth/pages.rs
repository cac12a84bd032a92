//! Everything that is answered without a login: static pages, the health page, refusals.
//!
//! ```text
//! GET  /healthz                                  200 ok | 503, before any login, without state
//! GET  /            from no VPN client           200 "I am still alive!!" (load balancer probes)
//! GET, POST /  /auth  /VPN                       the login
//! GET  /1/...  /+CSCOT+/  /logout                constant bodies that Cisco clients look for
//! anything else                                  404, or 405 where only the method is wrong
//! ```
//!
//! Paths are compared, never decoded, and never become names of anything (threats.md R24).
//!
//! # Source
//! protocol.md section 2.1; product.md b.8; threats.md R24, R25, R28.

use super::answer::Health;
use crate::http::{Method, Request, Response};

const HTML: &str = "text/html";
const XML: &str = "text/xml";
const EMPTY_HTML: &str = "<html></html>\n";
const EMPTY_MANIFEST: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<vpn rev=\"1.0\">\n</vpn>\n";
const ALIVE: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<message>I am still alive!!</message>\n";
const NOT_FOUND: &str = "<html><body><h1>404 Not Found</h1></body></html>\r\n";
const NOT_ALLOWED: &str = "<html><body><h1>405 Method Not Allowed</h1></body></html>\r\n";

/// Clients that speak this protocol, by the beginning of their User-Agent.
const VPN_AGENTS: &[&str] = &[
    "Open AnyConnect VPN Agent",
    "OpenConnect",
    "AnyConnect",
    "Cisco AnyConnect",
    "Cisco Secure Client",
    "Clavister OneConnect",
    "AnyLink Secure Client",
    "mstunnel",
];

/// The cookie of a client that was asked for a token before. It names nobody and opens nothing.
pub(super) const ASKED: &str = "webvpnask";

/// Where a request belongs.
pub(super) enum Route {
    /// To the login.
    Login,
    /// To the health page.
    Health,
    /// Here is the answer.
    Page(Response),
}

/// Finds where a request belongs, by method and path alone.
pub(super) fn route(request: &Request) -> Route {
    let get = |content_type, body: &'static str| match request.method {
        Method::Get => Route::Page(Response::new(200, "OK").body(content_type, body)),
        Method::Post | Method::Connect | Method::Other(_) => Route::Page(not_allowed("GET")),
    };
    match (&request.method, request.path()) {
        (Method::Get | Method::Post, "/" | "/auth" | "/VPN") => Route::Login,
        (_, "/" | "/auth" | "/VPN") => Route::Page(not_allowed("GET, POST")),
        (Method::Get, "/healthz") => Route::Health,
        (_, "/healthz") => Route::Page(not_allowed("GET")),
        (
            _,
            "/1/index.html" | "/1/Linux" | "/1/Linux_64" | "/1/Windows" | "/1/Windows_ARM64"
            | "/1/Darwin_i386" | "/logout",
        ) => get(HTML, EMPTY_HTML),
        (_, "/1/VPNManifest.xml" | "/+CSCOT+/") => get(XML, EMPTY_MANIFEST),
        (_, "/1/binaries/update.txt") => get("text/plain", "0,0,0000\n"),
        (_, "/1/binaries/vpndownloader.sh") => get("application/x-shellscript", "#!/bin/sh\n\nexit 0\n"),
        _ => Route::Page(Response::new(404, "Not found").body(HTML, NOT_FOUND).close()),
    }
}

/// Whether a GET of `/` comes from a load balancer or a person rather than from a VPN client.
pub(super) fn is_probe(request: &Request) -> bool {
    let is_vpn = |agent: &str| VPN_AGENTS.iter().any(|known| agent.starts_with(known));
    request.method == Method::Get
        && request.path() == "/"
        && request.header("X-Transcend-Version").is_none()
        && !request.header("User-Agent").is_some_and(is_vpn)
}

/// `GET /healthz`.
pub(super) fn health(health: Health) -> Response {
    let text = "text/plain";
    match health {
        Health::Ready => Response::new(200, "OK").body(text, "ok\n"),
        Health::Draining => Response::new(503, "Service Unavailable").body(text, "draining\n"),
        Health::Full => Response::new(503, "Service Unavailable").body(text, "full\n"),
    }
}

/// `GET /` by a probe, with the words that the original uses.
pub(super) fn alive(health: Health) -> Response {
    match health {
        Health::Ready => Response::new(200, "OK").body(XML, ALIVE),
        Health::Draining | Health::Full => self::health(health),
    }
}

/// The token is missing. The connection stays open for the next try.
pub(super) fn challenge() -> Response {
    Response::new(401, "Unauthorized").header("WWW-Authenticate", "Bearer")
}

/// The token is missing, and who has none may go on without saying `X-Support-HTTP-Auth`.
pub(super) fn challenge_or_form() -> Response {
    Response::new(401, "Unauthorized")
        .header("Set-Cookie", format!("{ASKED}=1; Max-Age=60; Secure; HttpOnly"))
        .header("X-HTTP-Auth-Support", "fallback")
        .header("WWW-Authenticate", "Bearer")
}

/// The login failed for good: one answer for every cause.
pub(super) fn refused() -> Response {
    Response::new(401, "Authentication failed").close()
}

/// There is no way to log in that this client offered.
pub(super) fn no_certificate() -> Response {
    Response::new(401, "No certificate").close()
}

/// The body is nothing that we read.
pub(super) fn bad_request() -> Response {
    Response::new(400, "Bad Request").close()
}

/// The source is banned.
pub(super) fn banned() -> Response {
    Response::new(429, "Too Many Requests").close()
}

/// Not now: overload, a back end that is away, a drain, or a request too many in one conversation.
pub(super) fn unavailable(reason: &'static str) -> Response {
    Response::new(503, "Service Unavailable").header("X-Reason", reason).close()
}

fn not_allowed(allowed: &'static str) -> Response {
    Response::new(405, "Method Not Allowed").header("Allow", allowed).body(HTML, NOT_ALLOWED).close()
}
