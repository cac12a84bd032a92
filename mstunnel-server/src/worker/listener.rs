//! Accepts connections for one worker, paced to the handshakes it can finish: a newcomer is taken when
//! those who have said hello have had their turn.
//!
//! # Source
//! R54, R56.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::WorkerContext;
use super::front;
use super::shared::{canonical, count};
use crate::admin::ServerState;
use crate::logs::RateLimit;

/// Connections waiting in the kernel for one listener; `net.core.somaxconn` may allow fewer.
const BACKLOG: i32 = 8192;

/// How long accepting pauses when the process has no descriptor or memory left.
const PAUSE: Duration = Duration::from_millis(200);

/// One line for all listeners of the process: they run out of the same descriptors.
static NO_DESCRIPTOR: RateLimit = RateLimit::once_a_minute();

/// Binds one worker's share of an address.
///
/// # Errors
/// The operating system's, for the caller to add the address to.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the server stops listening.
pub(crate) async fn accept_all(
    listener: std::net::TcpListener,
    context: Rc<WorkerContext>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        context.hellos.turn().await;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = context.shared.reached(ServerState::Stopping) => return Ok(()),
        };
        match accepted {
            Ok((stream, remote)) => {
                admit(stream, canonical(remote), &context);
                if let Some(pace) = context.shared.effective.load().accept_pace {
                    tokio::time::sleep(pace).await;
                }
            }
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: live sessions keep theirs, newcomers wait outside.
                if let Some(missed) = NO_DESCRIPTOR.permit() {
                    tracing::warn!(%error, missed, "cannot accept connections; raise the descriptor limit");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Errors of a connection that ended before it was accepted.
fn is_passing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn admit(stream: TcpStream, remote: SocketAddr, context: &Rc<WorkerContext>) {
    let totals = &context.shared.totals;
    match context.shared.gate.enter(remote.ip()) {
        Ok(pass) => {
            count(&totals.accepted);
            // A latency hint that is refused is no reason to refuse the client.
            let _ = stream.set_nodelay(true);
            let context = Rc::clone(context);
            tokio::task::spawn_local(front::serve(stream, remote, pass, context));
        }
        Err(crowded) => {
            count(&totals.refused);
            tracing::debug!(%remote, ?crowded, "too many connections without a session");
        }
    }
}
