//! The client's side of a sign-in: requests out, responses in, until there is a session cookie.
//!
//! ```text
//!            .-- poll_request --> POST (init, auth-reply) --------.
//!   SignIn --|                                                    |--> server
//!            '-- handle_reply <-- 200 with a form, success, 3xx --'
//!                     |
//!                     +-- Step::Ask(form)    the caller answers with SignIn::answer
//!                     +-- Step::Complete     the cookie
//!                     '-- Step::Again        another request waits (a group, a redirect)
//! ```
//!
//! Limits: [`MAX_REQUESTS`] in all, [`MAX_REDIRECTS`] of them redirects, which never leave the server that was
//! asked; the bounds of [`http`](crate::http) for each response; those of `page` for each document.
//!
//! # Source
//! protocol.md section 2; R61 to R63.

mod jar;
mod page;

use std::fmt::{self, Write};

use zeroize::Zeroizing;

use self::jar::Jar;
pub use self::page::{
    Form, Group, Input, InputKind, MAX_GROUPS, MAX_INPUTS, MAX_TEXT_CHARS, PageError, XmlProblem,
};
use self::page::{Page, clean};
use crate::auth::xml::Escaped;
use crate::http::Reply;

/// Requests of one sign-in: three attempts at three questions, and some.
pub const MAX_REQUESTS: u32 = 16;

/// Redirects of one sign-in.
pub const MAX_REDIRECTS: u32 = 5;

/// What the client calls itself: servers tell dialects by the beginning and the version of the stock client.
pub const USER_AGENT: &str =
    concat!("Open AnyConnect VPN Agent v9.01 (mstunnel ", env!("CARGO_PKG_VERSION"), ")");

/// The longest cookie that is taken for a session.
const MAX_COOKIE_BYTES: usize = 4 * 1024;

/// Bodies are padded to a multiple of this, so that their length tells little about a password.
const PAD: usize = 64;

/// What a sign-in begins with.
pub struct SignInConfig {
    /// The value of the Host field: a name, or an address, with the port unless it is 443.
    pub host: String,
    /// The path to begin with, `/` or a group URL.
    pub path: String,
    /// The group to choose, by name or label.
    pub group: Option<String>,
    /// A bearer token, sent at once.
    pub token: Option<Zeroizing<String>>,
}

/// What comes next.
#[derive(Debug)]
#[must_use]
pub enum Step {
    /// The server asks; call [`SignIn::answer`].
    Ask(Form),
    /// Another request waits.
    Again,
    /// Signed in.
    Complete(SignedIn),
}

/// A finished sign-in.
pub struct SignedIn {
    /// The session cookie, for CONNECT.
    pub cookie: Zeroizing<String>,
    /// What the server tells its users.
    pub banner: Option<String>,
}

/// Does not show the cookie.
impl fmt::Debug for SignedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedIn").field("banner", &self.banner).finish_non_exhaustive()
    }
}

/// Why a sign-in failed. Texts of the server are bounded and without control characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignInError {
    /// The server says no.
    #[error("the server refused the credentials: {said}")]
    Refused {
        /// In its words, on one line: nothing of it can pass for a message of ours.
        said: String,
    },
    /// The server wants a token.
    #[error("the server wants a bearer token (--token-file, or --oidc-issuer)")]
    TokenWanted,
    /// The server wants a client certificate.
    #[error("the server wants a client certificate (--certificate and --key)")]
    CertificateWanted,
    /// The chosen group is none of those that the server offers.
    #[error("the server has no group {group:?}; it offers {offered}")]
    NoSuchGroup {
        /// What was chosen.
        group: String,
        /// What there is.
        offered: String,
    },
    /// The server sends the client elsewhere.
    #[error("the server redirects to {location:?}; credentials go to no other server")]
    Redirected {
        /// Where.
        location: String,
    },
    /// More requests or redirects than any sign-in needs.
    #[error("the server asks without end")]
    Endless,
    /// A status that is none of the protocol.
    #[error("the server answered {status} {reason}")]
    Status {
        /// The status code.
        status: u16,
        /// Its text.
        reason: String,
    },
    /// A document that is none of the protocol.
    #[error(transparent)]
    Page(#[from] PageError),
    /// Success without a cookie.
    #[error("the server says success and gives no usable session cookie")]
    NoCookie,
}

impl SignInError {
    /// A refusal in the server's words.
    pub fn refused(said: &str) -> Self {
        Self::Refused { said: said.split_whitespace().collect::<Vec<_>>().join(" ") }
    }
}

/// One sign-in.
pub struct SignIn {
    config: SignInConfig,
    path: String,
    jar: Jar,
    next: Option<Zeroizing<String>>,
    form: Option<Form>,
    opaque: Option<String>,
    requests: u32,
    redirects: u32,
}

impl SignIn {
    /// Begins; the first request waits.
    pub fn new(config: SignInConfig) -> Self {
        let mut sign_in = Self {
            path: config.path.clone(),
            config,
            jar: Jar::default(),
            next: None,
            form: None,
            opaque: None,
            requests: 0,
            redirects: 0,
        };
        sign_in.next = Some(sign_in.init());
        sign_in
    }

    /// The bytes of the next request, once; a secret.
    pub fn poll_request(&mut self) -> Option<Zeroizing<Vec<u8>>> {
        let body = self.next.take()?;
        let mut head = Zeroizing::new(String::with_capacity(1024));
        let pad = PAD - body.len() % PAD;
        let host = &self.config.host;
        push(
            &mut head,
            format_args!("POST {} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\n", self.path),
        );
        if let Some(cookies) = self.jar.field() {
            push(&mut head, format_args!("Cookie: {}\r\n", *cookies));
        }
        if let Some(token) = &self.config.token {
            push(&mut head, format_args!("Authorization: Bearer {}\r\n", **token));
        }
        push(
            &mut head,
            format_args!(
                "Accept: */*\r\nAccept-Encoding: identity\r\nX-Transcend-Version: 1\r\nX-Aggregate-Auth: 1\r\n\
                 X-Pad: {:0>pad$}\r\nContent-Type: application/xml; charset=utf-8\r\nContent-Length: {}\r\n\r\n",
                0,
                body.len()
            ),
        );
        let mut bytes = Zeroizing::new(Vec::with_capacity(head.len() + body.len()));
        bytes.extend_from_slice(head.as_bytes());
        bytes.extend_from_slice(body.as_bytes());
        Some(bytes)
    }

    /// Takes the response to the last request.
    ///
    /// # Errors
    /// The sign-in is over; nothing of it can be used again.
    pub fn handle_reply(&mut self, reply: &Reply) -> Result<Step, SignInError> {
        self.requests += 1;
        for (name, value) in reply.set_cookies() {
            self.jar.set(name, value);
        }
        let step = match reply.status {
            200 => self.handle_page(Page::read(&reply.body)?),
            301 | 302 | 303 | 307 | 308 => self.redirect(reply.header("Location").unwrap_or_default()),
            401 => {
                let bearer = reply
                    .header_all("WWW-Authenticate")
                    .any(|field| field.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("bearer")));
                match &self.config.token {
                    None if bearer => Err(SignInError::TokenWanted),
                    _ => Err(SignInError::refused(&clean(&reply.reason))),
                }
            }
            status => Err(SignInError::Status { status, reason: clean(&reply.reason) }),
        }?;
        match step {
            Step::Ask(_) | Step::Again if self.requests >= MAX_REQUESTS => Err(SignInError::Endless),
            Step::Ask(_) | Step::Again | Step::Complete(_) => Ok(step),
        }
    }

    fn handle_page(&mut self, page: Page) -> Result<Step, SignInError> {
        if page.success {
            let cookie = page.session_token.map(Zeroizing::new).or_else(|| self.jar.get("webvpn").cloned());
            let usable = |cookie: &Zeroizing<String>| {
                cookie.len() <= MAX_COOKIE_BYTES
                    && cookie.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';')
            };
            let cookie = cookie.filter(usable).ok_or(SignInError::NoCookie)?;
            return Ok(Step::Complete(SignedIn { cookie, banner: page.banner }));
        }
        if page.wants_certificate {
            return Err(SignInError::CertificateWanted);
        }
        self.opaque = page.opaque;
        let Some(mut form) = page.form.filter(|form| !form.inputs.is_empty() || !form.groups.is_empty())
        else {
            let said = page.error.or(page.message);
            return Err(SignInError::refused(said.as_deref().unwrap_or("no reason given")));
        };
        form.message = page.message.or(page.banner);
        form.error = page.error;
        self.path.clone_from(&form.action);
        self.form = Some(form.clone());
        Ok(Step::Ask(form))
    }

    /// Follows a redirect within the same server; credentials go to no other.
    fn redirect(&mut self, location: &str) -> Result<Step, SignInError> {
        self.redirects += 1;
        if self.redirects > MAX_REDIRECTS {
            return Err(SignInError::Endless);
        }
        let elsewhere = || SignInError::Redirected { location: clean(location) };
        let path = match location.strip_prefix("https://") {
            Some(rest) => {
                let host_end = rest.find('/').unwrap_or(rest.len());
                if !rest[..host_end].eq_ignore_ascii_case(&self.config.host) {
                    return Err(elsewhere());
                }
                &rest[host_end..]
            }
            None => location,
        };
        let path = if path.is_empty() { "/" } else { path };
        let is_path = path.starts_with('/') && !path.starts_with("//");
        if !is_path || path.len() > 255 || path.bytes().any(|byte| !byte.is_ascii_graphic()) {
            return Err(elsewhere());
        }
        path.clone_into(&mut self.path);
        self.next = Some(self.init());
        Ok(Step::Again)
    }

    /// Answers the last form: `value` is asked for each input that is not hidden.
    ///
    /// # Errors
    /// The group that was chosen is not there.
    pub fn answer<S: AsRef<str>>(&mut self, mut value: impl FnMut(&Input) -> S) -> Result<(), SignInError> {
        let form = self.form.take().unwrap_or_default();
        let group = match &self.config.group {
            Some(group) if !form.groups.is_empty() => {
                let found =
                    form.groups.iter().find(|offered| offered.name == *group || offered.label == *group);
                let Some(found) = found else {
                    let offered: Vec<&str> = form.groups.iter().map(|group| group.name.as_str()).collect();
                    let offered = clean(&offered.join(", "));
                    return Err(SignInError::NoSuchGroup { group: group.clone(), offered });
                };
                Some(found.name.as_str())
            }
            _ => form.groups.first().map(|group| group.name.as_str()),
        };
        let mut body = self.head("auth-reply");
        if let Some(opaque) = &self.opaque {
            body.push_str(opaque);
        }
        body.push_str("<auth>");
        for input in &form.inputs {
            let name = match input.name.as_str() {
                "answer" | "whichpin" | "new_password" => "password",
                "verify_pin" | "verify_password" => continue,
                name => name,
            };
            match input.kind {
                InputKind::Hidden => {
                    push(&mut body, format_args!("<{name}>{}</{name}>", Escaped(&input.value)))
                }
                InputKind::Text | InputKind::Secret => {
                    push(&mut body, format_args!("<{name}>{}</{name}>", Escaped(value(input).as_ref())));
                }
            }
        }
        body.push_str("</auth>");
        if let Some(group) = group {
            push(&mut body, format_args!("<group-select>{}</group-select>", Escaped(group)));
        }
        body.push_str("</config-auth>\n");
        self.next = Some(body);
        Ok(())
    }

    fn init(&self) -> Zeroizing<String> {
        // No group yet: it is chosen from those that the form offers, and ocserv hangs up on one that it lacks.
        let mut body = self.head("init");
        let (host, path) = (&self.config.host, &self.path);
        push(
            &mut body,
            format_args!(
                "<group-access>https://{}{}</group-access></config-auth>\n",
                Escaped(host),
                Escaped(path)
            ),
        );
        body
    }

    fn head(&self, kind: &str) -> Zeroizing<String> {
        let mut body = Zeroizing::new(String::with_capacity(2048));
        push(
            &mut body,
            format_args!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<config-auth client=\"vpn\" type=\"{kind}\" \
                 aggregate-auth-version=\"2\"><version who=\"vpn\">v9.01</version><device-id>linux-64</device-id>"
            ),
        );
        body
    }
}

/// Does not show secrets.
impl fmt::Debug for SignIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignIn").field("path", &self.path).field("jar", &self.jar).finish_non_exhaustive()
    }
}

fn push(out: &mut String, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests;
