//! One HTTP request and its response, on a connection that stays open if the server lets it.

use std::io;
use std::time::Duration;

use mstunnel_proto::http::{HttpError, Reply, ResponseReader};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::outer::{Outer, OuterConnection, OuterError};

/// How long a server may take for one response: a second factor may wait for a person.
const LIMIT: Duration = Duration::from_secs(60);

/// Requests over one server, reconnecting where the server closes in between.
pub(crate) struct Exchange<'o> {
    outer: &'o mut Outer,
    open: Option<OuterConnection>,
    /// Whether the open connection was never used: if it breaks, that is an answer.
    is_fresh: bool,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// No connection.
    #[error(transparent)]
    Outer(#[from] OuterError),
    /// The connection broke.
    #[error("the connection to {server} broke: {source}")]
    Io {
        /// The URL.
        server: String,
        /// What the kernel or TLS says.
        source: io::Error,
    },
    /// Not HTTP, or more of it than is taken.
    #[error("{server} does not speak HTTP as this protocol wants it: {source}")]
    Http {
        /// The URL.
        server: String,
        /// What is wrong.
        source: HttpError,
    },
    /// Nothing within the time limit.
    #[error("{server} does not answer within {} s", LIMIT.as_secs())]
    Silent {
        /// The URL.
        server: String,
    },
}

impl ExchangeError {
    /// Whether trying again may help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Outer(_) | Self::Io { .. } | Self::Silent { .. } => true,
            Self::Http { .. } => false,
        }
    }
}

impl<'o> Exchange<'o> {
    /// Nothing is connected yet.
    pub(crate) fn new(outer: &'o mut Outer) -> Self {
        Self { outer, open: None, is_fresh: false }
    }

    /// Connects before the first request, which would do it else.
    pub(crate) async fn connect(&mut self) -> Result<(), OuterError> {
        self.open = Some(self.outer.connect().await?);
        self.is_fresh = true;
        Ok(())
    }

    /// Sends `request` and reads the response.
    pub(crate) async fn run(&mut self, request: &[u8]) -> Result<Reply, ExchangeError> {
        let server = self.outer.url().to_string();
        let is_fresh = std::mem::take(&mut self.is_fresh);
        if let Some(mut kept) = self.open.take() {
            match timeout(LIMIT, converse(&mut kept, request)).await {
                Ok(Ok(reply)) => return self.keep(kept, reply, server),
                Ok(Err(source)) if is_fresh => return Err(ExchangeError::Io { server, source }),
                // A connection that was kept may have been closed by the server meanwhile: one more try.
                Ok(Err(_)) => {}
                Err(_) => return Err(ExchangeError::Silent { server }),
            }
        }
        let mut fresh = self.outer.connect().await?;
        match timeout(LIMIT, converse(&mut fresh, request)).await {
            Ok(Ok(reply)) => self.keep(fresh, reply, server),
            Ok(Err(source)) => Err(ExchangeError::Io { server, source }),
            Err(_) => Err(ExchangeError::Silent { server }),
        }
    }

    fn keep(
        &mut self,
        connection: OuterConnection,
        reply: Result<Reply, HttpError>,
        server: String,
    ) -> Result<Reply, ExchangeError> {
        let reply = reply.map_err(|source| ExchangeError::Http { server, source })?;
        if reply.keeps_alive() {
            self.open = Some(connection);
        }
        Ok(reply)
    }

    /// The open connection, for CONNECT; a new one if there is none.
    pub(crate) async fn into_connection(self) -> Result<OuterConnection, OuterError> {
        match self.open {
            Some(open) => Ok(open),
            None => self.outer.connect().await,
        }
    }
}

/// The inner error is what the server did wrong; the outer one what the network did.
async fn converse(connection: &mut OuterConnection, request: &[u8]) -> io::Result<Result<Reply, HttpError>> {
    connection.stream.write_all(request).await?;
    connection.stream.flush().await?;
    let mut reader = ResponseReader::new();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let len = match connection.read(&mut buffer).await {
            Ok(len) => len,
            // Without close_notify; the reader knows whether the response was whole.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error),
        };
        let outcome =
            if len == 0 { reader.handle_end() } else { reader.handle_bytes(&buffer[..len]).map(drop) };
        if let Err(error) = outcome {
            return Ok(Err(error));
        }
        if let Some(reply) = reader.poll_reply() {
            return Ok(Ok(reply));
        }
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}
