//! The control socket: made with the owner's rights only, answered line by line.
//!
//! | threat (R84, P-136) | answer |
//! | --- | --- |
//! | another user connects | the file is 0600 before it has its name, a missing directory is made 0700, and the peer's uid has to be the owner's or root's |
//! | a symbolic link or file of somebody else at the path | a directory that others may write is refused; only a socket is ever replaced |
//! | a second server | the path is taken over only if nobody answers there |
//! | a request without end, or none | [`MAX_REQUEST_BYTES`], [`REQUEST_TIMEOUT`] |
//! | many connections | [`MAX_CONNECTIONS`], of which [`MAX_WATCHERS`] may watch events |
//! | a reader that does not read | [`WRITE_TIMEOUT`]; a slow watcher loses the oldest events and is told |
//!
//! The server's answers are computed on the blocking pool, so that a slow one holds nobody up.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::OwnedReadHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::control::ServerControl;
use super::protocol::{Command, ErrorCode, MAX_REQUEST_BYTES, Reply, Request, Response, VERSION};

/// Connections at once. An administrator and a few programs; each costs a task and 4 KiB.
const MAX_CONNECTIONS: usize = 16;

/// Connections at once that watch events; the others stay free for questions.
const MAX_WATCHERS: usize = 8;

/// From the accept, or the last answer, to a whole request line.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// For one answer to be taken.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a failed accept (no descriptor left), so that it never becomes a busy loop.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Somebody answers at the path.
    #[error("{path}: another server answers here; is mstunnel-server running already?")]
    AlreadyRunning {
        /// `[admin] socket`.
        path: PathBuf,
    },
    /// The path is not a socket.
    #[error("{path}: there is something that is not a socket; move it away or change [admin] socket")]
    NotASocket {
        /// `[admin] socket`.
        path: PathBuf,
    },
    /// Others could put something in place of the socket.
    #[error(
        "{path}: other users may write to this directory (mode {mode:o}); choose another for [admin] socket"
    )]
    OpenDirectory {
        /// The directory of the socket.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The system refused.
    #[error("{path}: could not {what}: {source}")]
    Io {
        /// The path in question.
        path: PathBuf,
        /// What was attempted.
        what: &'static str,
        /// The answer.
        source: io::Error,
    },
}

/// A bound control socket; its file goes when this does.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    path: PathBuf,
    owner: u32,
    inode: u64,
}

/// Makes the control socket at `path`, at once, and returns the future that answers on it.
///
/// # Errors
/// [`AdminError`] when the socket cannot be made.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn serve(
    path: &Path,
    control: Arc<dyn ServerControl>,
) -> Result<impl Future<Output = ()> + use<>, AdminError> {
    Ok(AdminSocket::bind(path)?.serve(control))
}

impl AdminSocket {
    /// Makes the socket, with its directory if that is missing.
    ///
    /// # Errors
    /// [`AdminError`], which names the path and what to do.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn bind(path: impl AsRef<Path>) -> Result<Self, AdminError> {
        let path = path.as_ref();
        let failed = |what| move |source| AdminError::Io { path: path.to_owned(), what, source };
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = directory.unwrap_or(Path::new("."));
        make_directory(directory)?;
        refuse_taken(path)?;
        // Bound under another name and renamed when its rights are right, so that no moment is open.
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}", std::process::id()));
        let fresh = path.with_file_name(name);
        remove_if_there(&fresh).map_err(failed("clear the way"))?;
        let listener = UnixListener::bind(&fresh).map_err(failed("make the socket"))?;
        fs::set_permissions(&fresh, Permissions::from_mode(0o600)).map_err(failed("set its rights"))?;
        fs::rename(&fresh, path).map_err(failed("put the socket in its place"))?;
        let made = fs::symlink_metadata(path).map_err(failed("look at the socket"))?;
        Ok(Self { listener, path: path.to_owned(), owner: made.uid(), inode: made.ino() })
    }

    /// Answers until the future is dropped.
    pub async fn serve(self, control: Arc<dyn ServerControl>) {
        let shared = Arc::new(Shared { control, watchers: Semaphore::new(MAX_WATCHERS) });
        let connections = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "could not accept on the control socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if !may_ask(&stream, self.owner) {
                turn_away(&stream, ErrorCode::Denied, "only the owner of the server and root may ask");
                continue;
            }
            let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
                turn_away(&stream, ErrorCode::Busy, "too many connections to the control socket");
                continue;
            };
            let shared = Arc::clone(&shared);
            tasks.spawn(async move {
                let _permit = permit;
                shared.converse(stream).await;
            });
        }
    }

    /// Where the socket is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for AdminSocket {
    fn drop(&mut self) {
        // Not the socket of a successor that took the path over.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

struct Shared {
    control: Arc<dyn ServerControl>,
    watchers: Semaphore,
}

impl Shared {
    async fn converse(&self, stream: UnixStream) {
        let (mut reader, mut writer) = stream.into_split();
        let mut pending = Vec::new();
        while let Ok(Some(line)) = timeout(REQUEST_TIMEOUT, next_line(&mut reader, &mut pending)).await {
            let answer = match parse(line) {
                Ok(Command::Events) => return self.watch(reader, writer).await,
                Ok(command) => self.execute(command).await,
                Err(refusal) => *refusal,
            };
            let ends = is_last(&answer);
            if !send(&mut writer, &answer).await || ends {
                return;
            }
        }
    }

    async fn execute(&self, command: Command) -> Response {
        let control = Arc::clone(&self.control);
        let name = name_of(&command);
        match tokio::task::spawn_blocking(move || answer(&*control, command)).await {
            Ok(response) => response,
            Err(_) => {
                Response::refuse(ErrorCode::Failed, format!("the server failed at {name}; see its log"))
            }
        }
    }

    async fn watch(&self, mut reader: OwnedReadHalf, mut writer: tokio::net::unix::OwnedWriteHalf) {
        let Ok(_permit) = self.watchers.try_acquire() else {
            let _ =
                send(&mut writer, &Response::refuse(ErrorCode::Busy, "too many watch events already")).await;
            return;
        };
        let mut events = self.control.events();
        if !send(&mut writer, &Response::reply(Reply::Subscribed)).await {
            return;
        }
        let mut unread = [0; 64];
        loop {
            let reply = tokio::select! {
                // Anything from the watcher, its end above all, ends the feed.
                _ = reader.read(&mut unread) => return,
                event = events.recv() => match event {
                    Ok(event) => Reply::Event(event),
                    Err(RecvError::Lagged(missed)) => Reply::Missed(missed),
                    Err(RecvError::Closed) => return,
                },
            };
            if !send(&mut writer, &Response::reply(reply)).await {
                return;
            }
        }
    }
}

fn answer(control: &dyn ServerControl, command: Command) -> Response {
    let done = |words: &str| Response::reply(Reply::Done(words.to_owned()));
    let missing = |words: String| Response::refuse(ErrorCode::NotFound, words);
    match command {
        Command::Status => Response::reply(Reply::Status(Box::new(control.status()))),
        Command::Users => Response::reply(Reply::Users(control.users())),
        Command::Sessions => Response::reply(Reply::Sessions(control.sessions())),
        Command::Session { id } => match control.session(id) {
            Some(row) => Response::reply(Reply::Session(Box::new(row))),
            None => missing(format!("no session {id}")),
        },
        Command::Bans => Response::reply(Reply::Bans(control.bans())),
        Command::DisconnectUser { user } => match control.disconnect_user(&user) {
            0 => missing(format!("no session of user {user:?}")),
            count => Response::reply(Reply::Disconnected(count)),
        },
        Command::DisconnectId { id } if control.disconnect_id(id) => Response::reply(Reply::Disconnected(1)),
        Command::DisconnectId { id } => missing(format!("no session {id}")),
        Command::Unban { ip } if control.unban(ip) => done("forgiven"),
        Command::Unban { ip } => missing(format!("{ip} has no ban points")),
        Command::Reload => match control.reload() {
            Ok(changed) => Response::reply(Reply::Done(changed)),
            Err(problems) => Response::refuse(ErrorCode::Invalid, problems),
        },
        Command::Drain => {
            control.drain();
            done("draining")
        }
        Command::Stop => {
            control.stop();
            done("stopping")
        }
        Command::Events => Response::reply(Reply::Subscribed),
    }
}

const fn name_of(command: &Command) -> &'static str {
    match command {
        Command::Status => "status",
        Command::Users => "users",
        Command::Sessions => "sessions",
        Command::Session { .. } => "session",
        Command::Bans => "bans",
        Command::DisconnectUser { .. } | Command::DisconnectId { .. } => "disconnect",
        Command::Unban { .. } => "unban",
        Command::Reload => "reload",
        Command::Drain => "drain",
        Command::Stop => "stop",
        Command::Events => "events",
    }
}

/// The version is looked at before the command, whose words another version may not share.
fn parse(line: Result<Vec<u8>, TooLong>) -> Result<Command, Box<Response>> {
    let refuse = |code, message: String| Err(Box::new(Response::refuse(code, message)));
    let Ok(line) = line else {
        return refuse(ErrorCode::BadRequest, format!("request of more than {MAX_REQUEST_BYTES} bytes"));
    };
    #[derive(serde::Deserialize)]
    struct Versioned {
        version: u32,
    }
    match serde_json::from_slice::<Versioned>(&line) {
        Ok(Versioned { version: VERSION }) => {}
        Ok(Versioned { version }) => {
            return refuse(
                ErrorCode::Version,
                format!("request of version {version}, this server speaks {VERSION}"),
            );
        }
        Err(error) => return refuse(ErrorCode::BadRequest, format!("not a request: {error}")),
    }
    match serde_json::from_slice::<Request>(&line) {
        Ok(request) => Ok(request.command),
        Err(error) => refuse(ErrorCode::BadRequest, format!("not a request: {error}")),
    }
}

/// After a line that was not understood nothing on the connection can be trusted.
fn is_last(response: &Response) -> bool {
    use super::protocol::{Outcome, Refusal};
    matches!(
        &response.outcome,
        Outcome::Error { error: Refusal { code: ErrorCode::BadRequest | ErrorCode::Version, .. } }
    )
}

struct TooLong;

/// The next line without its end; `None` at the end of the stream.
async fn next_line(reader: &mut OwnedReadHalf, pending: &mut Vec<u8>) -> Option<Result<Vec<u8>, TooLong>> {
    loop {
        if let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let rest = pending.split_off(end + 1);
            let mut line = std::mem::replace(pending, rest);
            line.truncate(end);
            return Some(Ok(line));
        }
        if pending.len() > MAX_REQUEST_BYTES {
            return Some(Err(TooLong));
        }
        let mut chunk = [0; 1024];
        match reader.read(&mut chunk).await {
            Ok(0) | Err(_) => return None,
            Ok(count) => pending.extend(&chunk[..count]),
        }
    }
}

async fn send(writer: &mut (impl AsyncWriteExt + Unpin), response: &Response) -> bool {
    let Ok(line) = response.to_line() else { return false };
    matches!(timeout(WRITE_TIMEOUT, writer.write_all(&line)).await, Ok(Ok(())))
}

/// Says no without waiting for anything.
fn turn_away(stream: &UnixStream, code: ErrorCode, message: &str) {
    if let Ok(line) = Response::refuse(code, message).to_line() {
        let _ = stream.try_write(&line);
    }
}

fn may_ask(stream: &UnixStream, owner: u32) -> bool {
    stream.peer_cred().is_ok_and(|peer| is_trusted(peer.uid(), owner))
}

const fn is_trusted(peer: u32, owner: u32) -> bool {
    peer == owner || peer == 0
}

fn make_directory(directory: &Path) -> Result<(), AdminError> {
    let failed = |what| move |source| AdminError::Io { path: directory.to_owned(), what, source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed("make the directory"))?;
    let found = fs::metadata(directory).map_err(failed("look at the directory"))?;
    let mode = found.mode() & 0o7777;
    // The sticky bit keeps others from replacing a file, as in /tmp.
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Err(AdminError::OpenDirectory { path: directory.to_owned(), mode });
    }
    Ok(())
}

fn refuse_taken(path: &Path) -> Result<(), AdminError> {
    let failed = |what| move |source| AdminError::Io { path: path.to_owned(), what, source };
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at the socket")(error)),
    };
    if !found.file_type().is_socket() {
        return Err(AdminError::NotASocket { path: path.to_owned() });
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(AdminError::AlreadyRunning { path: path.to_owned() }),
        // What a killed server left: nobody listens. The rename replaces it.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) => Err(failed("find out whether somebody answers")(error)),
    }
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::{FakeServer, event};
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::net::UnixStream as BlockingStream;

    struct Running {
        runtime: tokio::runtime::Runtime,
        fake: Arc<FakeServer>,
        path: PathBuf,
        _directory: tempfile::TempDir,
    }

    fn running() -> Running {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("deep/control.sock");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let fake = Arc::new(FakeServer::default());
        let socket = {
            let _entered = runtime.enter();
            AdminSocket::bind(&path).unwrap()
        };
        runtime.spawn(socket.serve(fake.clone()));
        Running { runtime, fake, path, _directory: directory }
    }

    impl Running {
        fn connect(&self) -> BlockingStream {
            let stream = BlockingStream::connect(&self.path).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream
        }
    }

    fn ask(stream: &BlockingStream, line: &str) -> String {
        let mut stream = stream;
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        answer
    }

    /// Covers: P-136, R84
    #[test]
    fn the_socket_and_the_directory_made_for_it_are_the_owners_alone() {
        let running = running();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&running.path), 0o600);
        assert_eq!(mode(running.path.parent().unwrap()), 0o700);
    }

    /// Covers: P-136, R84
    #[test]
    fn only_the_owner_and_root_are_trusted() {
        assert!(is_trusted(1000, 1000));
        assert!(is_trusted(0, 1000));
        assert!(!is_trusted(1001, 1000));
        assert!(!is_trusted(1000, 0));
    }

    #[test]
    fn several_questions_are_answered_on_one_connection() {
        let running = running();
        let stream = running.connect();
        assert!(ask(&stream, "{\"version\":1,\"command\":\"status\"}\n").contains("\"reply\":\"status\""));
        assert!(ask(&stream, "{\"version\":1,\"command\":\"session\",\"id\":9}\n").contains("no session 9"));
        assert!(ask(&stream, "{\"version\":1,\"command\":\"drain\"}\n").contains("draining"));
        assert_eq!(running.fake.calls(), ["status", "session 9", "drain"]);
    }

    #[test]
    fn another_version_and_rubbish_are_refused_and_the_connection_ends() {
        let running = running();
        for (line, code) in [
            ("{\"version\":2,\"command\":\"melt\"}\n", "version"),
            ("{\"version\":1,\"command\":\"melt\"}\n", "bad_request"),
            ("GET / HTTP/1.1\r\n", "bad_request"),
        ] {
            let mut stream = running.connect();
            let answer = ask(&stream, line);
            assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{answer}");
            assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0, "still open after {line}");
        }
        assert!(running.fake.calls().is_empty());
    }

    /// Covers: P-136, R84
    #[test]
    fn a_request_without_end_is_cut_off() {
        let running = running();
        let mut stream = running.connect();
        let flood = vec![b'x'; 1 << 20];
        // The server closes while we write; either end may notice first.
        let _ = stream.write_all(&flood);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() < 300);
        assert!(ask(&running.connect(), "{\"version\":1,\"command\":\"users\"}\n").contains("users"));
    }

    /// Covers: P-136, R84
    #[test]
    fn connections_beyond_the_limit_are_told_busy_and_a_freed_place_is_used_again() {
        let running = running();
        let mut held: Vec<BlockingStream> = (0..MAX_CONNECTIONS).map(|_| running.connect()).collect();
        for stream in &held {
            assert!(ask(stream, "{\"version\":1,\"command\":\"bans\"}\n").contains("bans"));
        }
        let mut answer = String::new();
        running.connect().read_to_string(&mut answer).unwrap();
        assert!(answer.contains("\"code\":\"busy\""), "{answer}");
        let freed = held.pop().unwrap();
        drop(freed);
        // The server notices the end in its own time.
        let served = (0..200).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            let stream = running.connect();
            // It may have turned us away already.
            let _ = (&stream).write_all(b"{\"version\":1,\"command\":\"bans\"}\n");
            let mut answer = String::new();
            let _ = BufReader::new(&stream).read_line(&mut answer);
            answer.contains("\"reply\":\"bans\"")
        });
        assert!(served, "the place stayed taken");
    }

    #[test]
    fn events_flow_and_a_slow_watcher_is_told_what_it_missed() {
        let running = running();
        let stream = running.connect();
        assert!(ask(&stream, "{\"version\":1,\"command\":\"events\"}\n").contains("subscribed"));
        let mut lines = BufReader::new(stream).lines();
        running.fake.emit(event(1));
        assert!(lines.next().unwrap().unwrap().contains("\"reply\":\"event\""));
        // More at once than the channel holds, before the task runs again.
        running.runtime.block_on(async {
            tokio::spawn({
                let fake = running.fake.clone();
                async move { (0..100).for_each(|id| fake.emit(event(id))) }
            })
            .await
            .unwrap();
        });
        let missed = lines.map_while(Result::ok).take(20).any(|line| line.contains("\"reply\":\"missed\""));
        assert!(missed);
    }

    #[test]
    fn watchers_leave_places_for_questions() {
        let running = running();
        let watching: Vec<BlockingStream> = (0..MAX_WATCHERS)
            .map(|_| {
                let stream = running.connect();
                assert!(ask(&stream, "{\"version\":1,\"command\":\"events\"}\n").contains("subscribed"));
                stream
            })
            .collect();
        let refused = ask(&running.connect(), "{\"version\":1,\"command\":\"events\"}\n");
        assert!(refused.contains("\"code\":\"busy\""), "{refused}");
        assert!(ask(&running.connect(), "{\"version\":1,\"command\":\"users\"}\n").contains("users"));
        drop(watching);
    }

    #[test]
    fn a_panic_while_answering_costs_only_that_answer() {
        let running = running();
        let stream = running.connect();
        let answer = ask(&stream, "{\"version\":1,\"command\":\"disconnect_user\",\"user\":\"panic\"}\n");
        assert!(answer.contains("\"code\":\"failed\""), "{answer}");
        assert!(ask(&stream, "{\"version\":1,\"command\":\"users\"}\n").contains("users"));
    }

    #[test]
    fn a_second_server_is_refused_and_a_killed_ones_socket_is_replaced() {
        let running = running();
        let _entered = running.runtime.enter();
        assert!(matches!(AdminSocket::bind(&running.path), Err(AdminError::AlreadyRunning { .. })));
        let stale = running.path.with_file_name("stale.sock");
        drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
        assert!(stale.exists());
        let socket = AdminSocket::bind(&stale).unwrap();
        drop(socket);
        assert!(!stale.exists(), "the socket goes with its server");
    }

    #[test]
    fn what_is_not_a_socket_is_left_alone() {
        let running = running();
        let _entered = running.runtime.enter();
        let file = running.path.with_file_name("precious");
        fs::write(&file, "data").unwrap();
        assert!(matches!(AdminSocket::bind(&file), Err(AdminError::NotASocket { .. })));
        let link = running.path.with_file_name("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(matches!(AdminSocket::bind(&link), Err(AdminError::NotASocket { .. })));
        assert_eq!(fs::read_to_string(&file).unwrap(), "data");
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused() {
        let running = running();
        let _entered = running.runtime.enter();
        let open = running.path.with_file_name("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(AdminSocket::bind(open.join("s")), Err(AdminError::OpenDirectory { .. })));
        fs::set_permissions(&open, Permissions::from_mode(0o1777)).unwrap();
        assert!(AdminSocket::bind(open.join("s")).is_ok());
    }
}
