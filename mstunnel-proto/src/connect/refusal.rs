//! The answers that refuse a CONNECT.

use crate::http::Response;

/// Why a CONNECT is refused; it decides what the client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The cookie is unknown, expired or ended: the client stops trying and has to sign in again.
    Unauthorized,
    /// No capacity, or draining: the client shows the reason and may try again.
    Unavailable(&'static str),
}

impl Refusal {
    /// The answer, after which the connection closes.
    ///
    /// # Source
    /// R3; protocol.md 3.2.
    pub fn response(self) -> Response {
        match self {
            Self::Unauthorized => Response::new(401, "Cookie is not acceptable"),
            Self::Unavailable(reason) => Response::new(503, "Service Unavailable").header("X-Reason", reason),
        }
        .close()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: statement 27, R3
    #[test]
    fn a_dead_cookie_is_401_and_a_full_server_503_with_its_reason() {
        let text = |refusal: Refusal| String::from_utf8(refusal.response().encode()).unwrap();
        assert!(text(Refusal::Unauthorized).starts_with("HTTP/1.1 401 Cookie is not acceptable\r\n"));
        let unavailable = text(Refusal::Unavailable("no address is free"));
        assert!(unavailable.starts_with(
            "HTTP/1.1 503 Service Unavailable\r\nX-Reason: no address is free\r\nContent-Length: 0\r\n"
        ));
        assert!(unavailable.contains("\r\nConnection: close\r\n"));
    }
}
