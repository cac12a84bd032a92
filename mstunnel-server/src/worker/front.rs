//! The front of one connection: TLS, HTTP, sign-in, until its CONNECT opens a tunnel.
//!
//! ```text
//!   accept -> handshake (10 s) -> request ... request -> CONNECT -> tunnel
//!                                  | (10 s) desk, verifier |  registry
//!                                  +--- all within 300 s of the accept
//! ```
//!
//! Every deadline is absolute: single bytes renew nothing (R23). A program has no reason to connect and
//! say nothing, so that the first request has to come at once; between two a person types a password.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use aws_lc_rs::rand;
use mstunnel_proto::auth::{Answer, ConnectionId, Cookie, Credentials, Verdict};
use mstunnel_proto::connect::Refusal;
use mstunnel_proto::http::{
    HEAD_TIMEOUT, HttpError, MAX_REQUESTS_PER_CONNECTION, Method, REQUEST_TIMEOUT, Request, RequestReader,
    Response,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{timeout, timeout_at};
use tokio_rustls::server::TlsStream;

use super::WorkerContext;
use super::connection::{self, Opened};
use super::gate::Pass;
use super::shared::{Shared, Told, count};
use crate::admin::EventKind;

/// From the accept to the CONNECT: a person types a password, maybe a second factor.
pub(crate) const FRONT_TIMEOUT: Duration = Duration::from_secs(300);

/// A client that does not take an answer is not waited for.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes read at a time: every stranger has such a buffer (R54).
const READ_CHUNK: usize = 4096;

/// Serves one connection to its end.
pub(crate) async fn serve(stream: TcpStream, remote: SocketAddr, pass: Pass, context: Rc<WorkerContext>) {
    // In memory of its own, which goes when the tunnel is open: a session that idles for days does not keep the room that
    // its handshake and its requests took.
    let arrival = Box::pin(arrive(stream, remote, pass, Rc::clone(&context)));
    if let Some(opened) = arrival.await {
        opened.run(context).await;
    }
}

/// TLS, HTTP, sign-in and CONNECT; `None` when no tunnel came of it.
async fn arrive(
    stream: TcpStream,
    remote: SocketAddr,
    pass: Pass,
    context: Rc<WorkerContext>,
) -> Option<Opened> {
    let deadline = tokio::time::Instant::now() + FRONT_TIMEOUT;
    let displaced = pass.displaced();
    let config = context.shared.effective.load().tls.clone();
    let tls = tokio::select! {
        biased;
        () = displaced.notified() => Err(give_way()),
        tls = context.hellos.handshake(stream, config) => tls,
    };
    let tls = match tls {
        Ok(tls) => tls,
        Err(error) => {
            count(&context.shared.totals.handshakes_failed);
            tracing::debug!(%remote, %error, "no TLS handshake");
            return None;
        }
    };
    let id = ConnectionId(context.next_connection());
    let mut front = Front { tls, remote, id, unread: Vec::new(), deadline };
    let outcome = tokio::select! {
        biased;
        () = displaced.notified() => Err(give_way()),
        outcome = front.run(&context) => outcome,
    };
    context.shared.desk().handle_connection_closed(id);
    match outcome {
        Ok(Some(request)) => connection::open(front.tls, request, front.unread, remote, pass, &context).await,
        Ok(None) => {
            finish(front.tls).await;
            None
        }
        Err(error) => {
            tracing::debug!(%remote, %error, "connection lost before a session");
            None
        }
    }
}

fn give_way() -> io::Error {
    io::Error::other("gave way to another source while every place was taken")
}

struct Front {
    tls: TlsStream<TcpStream>,
    remote: SocketAddr,
    id: ConnectionId,
    unread: Vec<u8>,
    deadline: tokio::time::Instant,
}

impl Front {
    /// Answers requests; `Some` is a CONNECT to be taken on, `None` the end of the conversation.
    async fn run(&mut self, context: &Rc<WorkerContext>) -> io::Result<Option<Request>> {
        let mut first_byte_by = self.deadline.min(tokio::time::Instant::now() + HEAD_TIMEOUT);
        for _ in 0..MAX_REQUESTS_PER_CONNECTION {
            let request = match self.next_request(first_byte_by).await? {
                Next::Request(request) => request,
                Next::End => return Ok(None),
                Next::Bad(error) => {
                    self.send(&error.response()).await?;
                    return Ok(None);
                }
            };
            if matches!(request.method, Method::Connect) {
                return Ok(Some(request));
            }
            let keeps_alive = request.keeps_alive();
            let response = self.answer(&request, &context.shared).await;
            self.send(&response).await?;
            if response.closes() || !keeps_alive {
                return Ok(None);
            }
            first_byte_by = self.deadline;
        }
        Ok(None)
    }

    /// Reads one request; the time for it starts with its first byte.
    async fn next_request(&mut self, first_byte_by: tokio::time::Instant) -> io::Result<Next> {
        let mut reader = RequestReader::new();
        let mut begun: Option<tokio::time::Instant> = None;
        loop {
            if !self.unread.is_empty() {
                match reader.handle_bytes(&self.unread) {
                    Ok(consumed) => drop(self.unread.drain(..consumed)),
                    Err(error) => return Ok(Next::Bad(error)),
                }
                if let Some(request) = reader.poll_request() {
                    return Ok(Next::Request(request));
                }
                begun.get_or_insert_with(tokio::time::Instant::now);
            }
            let until = match begun {
                None => first_byte_by,
                Some(begun) if reader.is_in_head() => self.deadline.min(begun + HEAD_TIMEOUT),
                Some(begun) => self.deadline.min(begun + REQUEST_TIMEOUT),
            };
            let mut chunk = [0; READ_CHUNK];
            match timeout_at(until, self.tls.read(&mut chunk)).await {
                Ok(Ok(0)) => return Ok(Next::End),
                Ok(Ok(len)) => self.unread.extend_from_slice(&chunk[..len]),
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Next::End),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(Next::End),
            }
        }
    }

    /// Lets the login desk answer, and answers what it asks.
    async fn answer(&self, request: &Request, shared: &Shared) -> Response {
        let source = self.remote.ip();
        let Ok(random) = random() else {
            return Refusal::Unavailable("no randomness").response().close();
        };
        let mut answer = shared.desk().handle_request(self.id, source, request, random, Instant::now());
        loop {
            answer = match answer {
                Answer::Respond(response) => return response,
                Answer::Verify { question, credentials } => {
                    let verdict = self.verify(credentials, shared).await;
                    shared.desk().handle_verdict(question, verdict, Instant::now())
                }
                Answer::Admit(admission) => return self.admit(&admission, shared),
            };
        }
    }

    async fn verify(&self, credentials: Credentials, shared: &Shared) -> Verdict {
        let verifier = shared.verifier.load_full();
        let user = match &credentials {
            Credentials::Password { user, .. } => Some(user.clone()),
            Credentials::Bearer { .. } => None,
        };
        let verdict = shared
            .control
            .spawn(async move { verifier.verify(&credentials).await })
            .await
            .unwrap_or(Verdict::Unavailable);
        if matches!(verdict, Verdict::Rejected) {
            count(&shared.totals.logins_failed);
            let user = user.as_deref();
            if let Some(left_out) = shared.complaints.login_failed.permit(self.remote.ip()) {
                tracing::info!(remote = %self.remote, user, left_out, "login failed");
            }
            shared.tell(Told {
                kind: EventKind::LoginFailed,
                id: None,
                user,
                remote: Some(self.remote),
                reason: None,
            });
        }
        verdict
    }

    /// Makes the session of a completed authentication and hands out its cookie.
    fn admit(&self, admission: &mstunnel_proto::auth::Admission, shared: &Shared) -> Response {
        let Ok(random) = random() else {
            return Refusal::Unavailable("no randomness").response().close();
        };
        let cookie = Cookie::from_random(random);
        let admit = super::connection::admit_of(admission, cookie.hash());
        let admitted = shared.registry().admit(admit, Instant::now());
        shared.registry_changed.notify_one();
        match admitted {
            Ok(id) => {
                count(&shared.totals.logins_ok);
                tracing::info!(session = %id, user = admission.user, remote = %self.remote, "login");
                shared.tell(Told {
                    kind: EventKind::Login,
                    id: Some(id),
                    user: Some(&admission.user),
                    remote: Some(self.remote),
                    reason: None,
                });
                shared.desk().success(admission, &cookie)
            }
            Err(error) => {
                if let Some(left_out) = shared.complaints.login_refused.permit() {
                    tracing::warn!(%error, left_out, "login refused");
                }
                Refusal::Unavailable("the server is full").response().close()
            }
        }
    }

    async fn send(&mut self, response: &Response) -> io::Result<()> {
        send(&mut self.tls, response).await
    }
}

enum Next {
    Request(Request),
    Bad(HttpError),
    End,
}

/// Says goodbye; a peer that is gone needs none.
pub(crate) async fn finish(mut tls: TlsStream<TcpStream>) {
    let _ = timeout(WRITE_TIMEOUT, tls.shutdown()).await;
}

/// Sends one response; a client that does not take it in time is gone.
pub(crate) async fn send(tls: &mut TlsStream<TcpStream>, response: &Response) -> io::Result<()> {
    send_bytes(tls, &response.encode()).await
}

/// Sends bytes, no longer than [`WRITE_TIMEOUT`].
pub(crate) async fn send_bytes(tls: &mut TlsStream<TcpStream>, bytes: &[u8]) -> io::Result<()> {
    let sent = async {
        tls.write_all(bytes).await?;
        tls.flush().await
    };
    timeout(WRITE_TIMEOUT, sent).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// 256 bits of the operating system's generator.
pub(crate) fn random() -> Result<[u8; 32], aws_lc_rs::error::Unspecified> {
    let mut bytes = [0; 32];
    rand::fill(&mut bytes)?;
    Ok(bytes)
}
