//! Asks a running server over its control socket. Blocking: a command line tool does one thing.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{Command, Outcome, Refusal, Reply, Request, Response, VERSION};

/// How long an answer may take. A reload reads files and may hash; the rest is immediate.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// The longest answer line: 64,000 sessions of 1 KiB each, four times over.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error("mstunnel-server is not running: nobody answers at {path}")]
    NotRunning {
        /// The socket that was tried.
        path: PathBuf,
    },
    /// The socket belongs to somebody else.
    #[error("{path}: permission denied; ask as root or as the user that runs the server")]
    Denied {
        /// The socket that was tried.
        path: PathBuf,
    },
    /// The server refused.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// The connection broke, or no answer came in time.
    #[error("{path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// The answer is not one.
    #[error("the server's answer is not understood ({reason}); is it of another version?")]
    Answer {
        /// What is wrong with it.
        reason: String,
    },
}

/// A connection to the control socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] when nobody listens, [`ClientError::Denied`] without the rights.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path).map_err(|source| explain(path, source))?;
        let limits = stream
            .set_read_timeout(Some(ANSWER_TIMEOUT))
            .and_then(|()| stream.set_write_timeout(Some(ANSWER_TIMEOUT)));
        limits.map_err(|source| explain(path, source))?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Asks one thing and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the server says no.
    pub fn ask(&mut self, command: Command) -> Result<Reply, ClientError> {
        let mut line = serde_json::to_vec(&Request::new(command)).map_err(|error| unclear(&error))?;
        line.push(b'\n');
        // A server that turns us away may close before it has read; its answer tells more.
        let sent = self.stream.get_ref().write_all(&line);
        match self.receive() {
            Err(ClientError::Io { .. }) if sent.is_err() => {
                Err(explain(&self.path, sent.err().unwrap_or_else(|| io::ErrorKind::BrokenPipe.into())))
            }
            answer => answer,
        }
    }

    /// Waits for the next answer line; used for events, which may be long in coming.
    ///
    /// # Errors
    /// As [`Client::ask`]; `UnexpectedEof` when the server closed.
    pub fn receive(&mut self) -> Result<Reply, ClientError> {
        let mut line = Vec::new();
        let failed = |source| explain(&self.path, source);
        let count = (&mut self.stream).take(MAX_ANSWER_BYTES).read_until(b'\n', &mut line).map_err(failed)?;
        if count == 0 {
            return Err(explain(&self.path, io::ErrorKind::UnexpectedEof.into()));
        }
        let response: Response = serde_json::from_slice(&line).map_err(|error| unclear(&error))?;
        match response.outcome {
            Outcome::Error { error } => Err(ClientError::Refused(error)),
            Outcome::Reply(_) if response.version != VERSION => {
                Err(ClientError::Answer { reason: format!("version {}", response.version) })
            }
            Outcome::Reply(reply) => Ok(reply),
        }
    }

    /// Lets the next answer take any time.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn wait_forever(&mut self) -> Result<(), ClientError> {
        self.stream.get_ref().set_read_timeout(None).map_err(|source| explain(&self.path, source))
    }
}

fn explain(path: &Path, source: io::Error) -> ClientError {
    let path = path.to_owned();
    if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
        return ClientError::NotRunning { path };
    }
    if source.kind() == io::ErrorKind::PermissionDenied {
        return ClientError::Denied { path };
    }
    ClientError::Io { path, source }
}

fn unclear(error: &serde_json::Error) -> ClientError {
    ClientError::Answer { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_socket_and_a_dead_one_both_mean_not_running() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        assert!(matches!(Client::connect(&path), Err(ClientError::NotRunning { .. })));
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(matches!(Client::connect(&path), Err(ClientError::NotRunning { .. })));
    }

    #[test]
    fn an_answer_of_another_kind_of_program_is_not_understood() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("control.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let other = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"220 ready\n").unwrap();
        });
        let mut client = Client::connect(&path).unwrap();
        assert!(matches!(client.ask(Command::Status), Err(ClientError::Answer { .. })));
        other.join().unwrap();
    }
}
