//! The server's answers.
//!
//! ```text
//! HTTP/1.1 200 OK CRLF
//! <fields in the order they were added> CRLF
//! Content-Type: text/xml CRLF
//! Content-Length: 306 CRLF                        always, but for the answer to CONNECT
//! <security fields, R25> CRLF
//! Connection: close CRLF                          when the connection ends
//! CRLF
//! ```
//!
//! Whatever text is put into a value, the bytes of a response have the lines that the code gave it
//! and no other: control characters become spaces (R25, CVE-2020-3561).

/// What browsers and scanners want to see on every page (R25).
///
/// `Clear-Site-Data` of the OWASP list is left out: it would delete the cookie of a login that runs in
/// a browser.
const SECURITY_FIELDS: &[(&str, &str)] = &[
    ("Strict-Transport-Security", "max-age=31536000 ; includeSubDomains"),
    ("X-Frame-Options", "deny"),
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'"),
    ("X-Permitted-Cross-Domain-Policies", "none"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Embedder-Policy", "require-corp"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-XSS-Protection", "0"),
    ("Cache-Control", "no-store, max-age=0"),
    ("Pragma", "no-cache"),
];

/// A response under construction.
#[derive(Clone, PartialEq, Eq)]
pub struct Response {
    status: u16,
    reason: &'static str,
    fields: Vec<(&'static str, String)>,
    body: Vec<u8>,
    content_type: Option<&'static str>,
    kind: Kind,
    end: End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Page,
    Tunnel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    KeepsAlive,
    Closes,
}

impl Response {
    /// A response without body; `status` is three digits.
    pub const fn new(status: u16, reason: &'static str) -> Self {
        Self {
            status,
            reason,
            fields: Vec::new(),
            body: Vec::new(),
            content_type: None,
            kind: Kind::Page,
            end: End::KeepsAlive,
        }
    }

    /// The answer that opens the tunnel: no length, no security fields; frames follow.
    pub(crate) const fn tunnel() -> Self {
        let mut response = Self::new(200, "CONNECTED");
        response.kind = Kind::Tunnel;
        response
    }

    /// Adds a field, after those that are there; control characters in `value` become spaces.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.push(name, value);
        self
    }

    /// [`Response::header`] for a response that is built in several functions.
    pub(crate) fn push(&mut self, name: &'static str, value: impl Into<String>) {
        self.fields.push((name, without_controls(value.into())));
    }

    /// Sets the body and its type.
    #[must_use]
    pub fn body(mut self, content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        self.content_type = Some(content_type);
        self.body = body.into();
        self
    }

    /// Says that the connection ends with this response.
    #[must_use]
    pub const fn close(mut self) -> Self {
        self.end = End::Closes;
        self
    }

    /// Whether the connection ends with this response.
    pub fn closes(&self) -> bool {
        self.end == End::Closes
    }

    /// The status code.
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// The value of the first field called `name` that was added.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as it will be sent.
    pub fn body_bytes(&self) -> &[u8] {
        &self.body
    }

    /// The bytes to send.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024 + self.body.len());
        line(&mut out, &["HTTP/1.1 ", &self.status.to_string(), " ", self.reason]);
        for (name, value) in &self.fields {
            line(&mut out, &[name, ": ", value]);
        }
        if self.kind == Kind::Page {
            if let Some(content_type) = self.content_type {
                line(&mut out, &["Content-Type: ", content_type]);
            }
            line(&mut out, &["Content-Length: ", &self.body.len().to_string()]);
            for (name, value) in SECURITY_FIELDS {
                line(&mut out, &[name, ": ", value]);
            }
            if self.end == End::Closes {
                line(&mut out, &["Connection: close"]);
            }
        }
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(&self.body);
        out
    }
}

/// Writes one line; the last guard against a control character in any part of it.
fn line(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend(part.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
    }
    out.extend_from_slice(b"\r\n");
}

/// Replaces every control character by a space: C0 and DEL, and the C1 range that some terminals obey.
pub(crate) fn without_controls(text: String) -> String {
    if text.chars().any(char::is_control) {
        text.chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
    } else {
        text
    }
}

/// Shows neither values nor the body: they hold cookies.
impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Response")
            .field("status", &self.status)
            .field("fields", &self.fields.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("body_bytes", &self.body.len())
            .field("end", &self.end)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Covers: R25, P-035
    #[test]
    fn no_text_in_a_value_makes_a_line() {
        let response = Response::new(200, "OK").header("X-Reason", "a\r\nSet-Cookie: webvpn=x\0\u{85}b");
        let bytes = response.encode();
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.contains("X-Reason: a  Set-Cookie: webvpn=x  b\r\n"), "{text}");
        assert!(!text.contains("\nSet-Cookie"), "{text}");
    }

    /// Covers: R25, P-039
    #[test]
    fn every_page_has_a_length_and_the_security_fields() {
        let text =
            String::from_utf8(Response::new(404, "Not Found").body("text/html", "gone").encode()).unwrap();
        assert!(
            text.starts_with("HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 4\r\n")
        );
        for (name, value) in SECURITY_FIELDS {
            assert!(text.contains(&format!("\r\n{name}: {value}\r\n")), "{name}");
        }
        assert!(text.ends_with("\r\n\r\ngone"));
        assert!(!text.contains("Server:") && !text.contains("mstunnel"));
    }

    #[test]
    fn a_closing_response_says_so() {
        let response = Response::new(401, "Authentication failed").close();
        assert!(response.closes());
        assert!(String::from_utf8(response.encode()).unwrap().contains("\r\nConnection: close\r\n"));
        assert!(!Response::new(200, "OK").closes());
    }

    /// Covers: statement 23
    #[test]
    fn the_answer_to_connect_has_no_length_and_no_page_fields() {
        let text = String::from_utf8(Response::tunnel().header("X-CSTP-MTU", "1434").encode()).unwrap();
        assert_eq!(text, "HTTP/1.1 200 CONNECTED\r\nX-CSTP-MTU: 1434\r\n\r\n");
    }

    /// Covers: statement 72
    #[test]
    fn debug_output_has_no_values() {
        let response =
            Response::new(200, "OK").header("Set-Cookie", "webvpn=secret").body("text/xml", "body");
        let shown = format!("{response:?}");
        assert!(!shown.contains("secret"), "{shown}");
    }
}
