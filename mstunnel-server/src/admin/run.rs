//! What `mst-cli` does: one question, one answer, one exit code.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::Path;

use clap::Parser;
use serde::Serialize;

use super::cli::{
    Action, Arguments, ConfigAction, DisconnectAction, IpTable, ServerAction, ShowAction, UnbanAction,
};
use super::client::{Client, ClientError};
use super::protocol::{Command, ErrorCode, Reply};
use super::render;
use super::rows::{SessionRow, Status};
use crate::identity::canonical;

/// The exit codes of `mst-cli` (design.md 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Good = 0,
    /// Not done.
    Failed = 1,
    /// Not understood.
    Misuse = 2,
    /// Nobody answers at the socket.
    NotRunning = 3,
    /// The server says that it is not well.
    Unhealthy = 4,
    /// The configuration is not valid.
    InvalidConfiguration = 5,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Checks one configuration file: its warnings, or every problem, one a line.
pub type ConfigCheck = fn(&Path) -> Result<Vec<String>, String>;

/// Does what `arguments` (the program's name first) say: results to `out`, the rest to `err`.
pub fn run(
    arguments: impl IntoIterator<Item = OsString>,
    check: ConfigCheck,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return explain_usage(&error, out, err),
    };
    let mut tool = Tool { json: arguments.json, out, err };
    match tool.act(&arguments, check) {
        Ok(exit) => exit,
        Err(trouble) => tool.report(trouble),
    }
}

/// What keeps the tool from an answer.
enum Trouble {
    Client(ClientError),
    Output(io::Error),
}

impl From<ClientError> for Trouble {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<serde_json::Error> for Trouble {
    fn from(error: serde_json::Error) -> Self {
        Self::Output(error.into())
    }
}

struct Tool<'a> {
    json: bool,
    out: &'a mut dyn Write,
    err: &'a mut dyn Write,
}

impl Tool<'_> {
    fn act(&mut self, arguments: &Arguments, check: ConfigCheck) -> Result<Exit, Trouble> {
        let action = match &arguments.action {
            Action::Config(ConfigAction::Validate { files }) => {
                return self.validate(files.iter().map(AsRef::as_ref), check);
            }
            Action::Health => return self.health(&arguments.socket),
            Action::Server(action) => action,
        };
        let mut client = Client::connect(&arguments.socket)?;
        let command = match action {
            ServerAction::Status | ServerAction::Show(ShowAction::Status) => Command::Status,
            ServerAction::Show(ShowAction::Users) => Command::Users,
            ServerAction::Show(ShowAction::Sessions | ShowAction::User { .. }) => Command::Sessions,
            ServerAction::Show(ShowAction::Session { id }) => Command::Session { id: *id },
            ServerAction::Show(ShowAction::Ip(_)) => Command::Bans,
            ServerAction::Show(ShowAction::Events) => return self.follow(&mut client),
            ServerAction::Disconnect(DisconnectAction::User { name }) => {
                Command::DisconnectUser { user: name.clone() }
            }
            ServerAction::Disconnect(DisconnectAction::Id { id }) => Command::DisconnectId { id: *id },
            ServerAction::Unban(UnbanAction::Ip { ip }) => Command::Unban { ip: *ip },
            ServerAction::Reload => Command::Reload,
            ServerAction::Drain => Command::Drain,
            ServerAction::Stop => Command::Stop,
        };
        let reply = client.ask(command)?;
        match (reply, action) {
            (Reply::Sessions(rows), ServerAction::Show(ShowAction::User { name })) => self.user(name, rows),
            (Reply::Bans(mut rows), ServerAction::Show(ShowAction::Ip(which))) => {
                rows.retain(|row| row.banned || *which == IpTable::Points);
                self.print(&rows, || render::bans(&rows))
            }
            (reply, _) => self.show(reply),
        }
    }

    fn show(&mut self, reply: Reply) -> Result<Exit, Trouble> {
        match reply {
            Reply::Status(status) => self.print(&Healthy::of(&status), || render::status(&status)),
            Reply::Users(rows) => self.print(&rows, || render::users(&rows)),
            Reply::Sessions(rows) => self.print(&rows, || render::sessions(&rows)),
            Reply::Session(row) => self.print(&row, || render::session(&row)),
            Reply::Bans(rows) => self.print(&rows, || render::bans(&rows)),
            Reply::Disconnected(count) => {
                let value = serde_json::json!({ "disconnected": count });
                self.print(&value, || format!("disconnected {count}\n"))
            }
            Reply::Done(words) => {
                let value = serde_json::json!({ "done": words });
                self.print(&value, || format!("{words}\n"))
            }
            Reply::Event(event) => self.print(&event, || render::event(&event) + "\n"),
            Reply::Missed(count) => {
                writeln!(self.err, "mst-cli: {count} events were missed")?;
                Ok(Exit::Good)
            }
            Reply::Subscribed => Ok(Exit::Good),
        }
    }

    fn user(&mut self, name: &str, rows: Vec<SessionRow>) -> Result<Exit, Trouble> {
        let user = canonical(name);
        let is_asked_for = |session: &SessionRow| user.as_ref() == Some(&session.row.user);
        let rows: Vec<SessionRow> = rows.into_iter().filter(is_asked_for).collect();
        if rows.is_empty() {
            writeln!(self.err, "mst-cli: no session of user {name:?}")?;
            return Ok(Exit::Failed);
        }
        self.print(&rows, || rows.iter().map(render::session).collect::<Vec<_>>().join("\n"))
    }

    fn follow(&mut self, client: &mut Client) -> Result<Exit, Trouble> {
        client.ask(Command::Events)?;
        client.wait_forever()?;
        loop {
            let reply = client.receive()?;
            self.show(reply)?;
            self.out.flush()?;
        }
    }

    fn health(&mut self, socket: &Path) -> Result<Exit, Trouble> {
        let Reply::Status(status) = Client::connect(socket)?.ask(Command::Status)? else {
            return Err(ClientError::Answer { reason: "not a status".to_owned() }.into());
        };
        let state = status.state.name();
        let value = serde_json::json!({ "healthy": status.is_healthy(), "state": state, "problems": status.problems });
        self.print(&value, || render::health(&status))?;
        Ok(if status.is_healthy() { Exit::Good } else { Exit::Unhealthy })
    }

    fn validate<'p>(
        &mut self,
        files: impl Iterator<Item = &'p Path>,
        check: ConfigCheck,
    ) -> Result<Exit, Trouble> {
        let mut exit = Exit::Good;
        let mut verdicts = Vec::new();
        for file in files {
            let checked = check(file);
            let valid = checked.is_ok();
            let (warnings, problems) = match checked {
                Ok(warnings) => (warnings, Vec::new()),
                Err(problems) => (Vec::new(), problems.lines().map(str::to_owned).collect()),
            };
            if !valid {
                exit = Exit::InvalidConfiguration;
            }
            verdicts.push(Verdict { file: file.display().to_string(), valid, warnings, problems });
        }
        if self.json {
            writeln!(self.out, "{}", render::json(&verdicts)?)?;
            return Ok(exit);
        }
        for verdict in verdicts {
            for problem in &verdict.problems {
                writeln!(self.err, "{problem}")?;
            }
            for warning in &verdict.warnings {
                writeln!(self.err, "warning: {warning}")?;
            }
            writeln!(self.out, "{}: {}", verdict.file, if verdict.valid { "valid" } else { "invalid" })?;
        }
        Ok(exit)
    }

    fn print(&mut self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<Exit, Trouble> {
        if self.json {
            writeln!(self.out, "{}", render::json(value)?)?;
        } else {
            self.out.write_all(text().as_bytes())?;
        }
        Ok(Exit::Good)
    }

    fn report(&mut self, trouble: Trouble) -> Exit {
        let (exit, message) = match &trouble {
            // The reader of our output left (`| head`): not a failure to talk about.
            Trouble::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return Exit::Good,
            Trouble::Output(error) => (Exit::Failed, error.to_string()),
            Trouble::Client(error) => (exit_of(error), error.to_string()),
        };
        for line in message.lines() {
            let _ = writeln!(self.err, "mst-cli: {line}");
        }
        exit
    }
}

const fn exit_of(error: &ClientError) -> Exit {
    match error {
        ClientError::NotRunning { .. } => Exit::NotRunning,
        ClientError::Refused(refusal) => match refusal.code {
            ErrorCode::Invalid => Exit::InvalidConfiguration,
            ErrorCode::BadRequest
            | ErrorCode::Version
            | ErrorCode::NotFound
            | ErrorCode::Busy
            | ErrorCode::Denied
            | ErrorCode::Failed
            | ErrorCode::Unknown => Exit::Failed,
        },
        ClientError::Denied { .. } | ClientError::Io { .. } | ClientError::Answer { .. } => Exit::Failed,
    }
}

fn explain_usage(error: &clap::Error, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    // Help and version that were asked for are results; without a command the help is a complaint.
    if error.exit_code() == 0 {
        let _ = write!(out, "{error}");
        return Exit::Good;
    }
    let _ = write!(err, "{error}");
    Exit::Misuse
}

/// A status in JSON, with the verdict that the text has.
#[derive(Serialize)]
struct Healthy<'a> {
    healthy: bool,
    #[serde(flatten)]
    status: &'a Status,
}

impl<'a> Healthy<'a> {
    fn of(status: &'a Status) -> Self {
        Self { healthy: status.is_healthy(), status }
    }
}

/// What `config validate --json` says of one file.
#[derive(Serialize)]
struct Verdict {
    file: String,
    valid: bool,
    warnings: Vec<String>,
    problems: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::testing::{FakeServer, event};
    use crate::admin::{AdminSocket, rows::ServerState};
    use std::path::PathBuf;
    use std::sync::Arc;

    struct World {
        runtime: tokio::runtime::Runtime,
        fake: Arc<FakeServer>,
        path: PathBuf,
        _directory: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("control.sock");
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let fake = Arc::new(FakeServer::default());
            let socket = {
                let _entered = runtime.enter();
                AdminSocket::bind(&path).unwrap()
            };
            runtime.spawn(socket.serve(fake.clone()));
            Self { runtime, fake, path, _directory: directory }
        }

        fn run(&self, line: &str) -> (Exit, String, String) {
            run_at(&self.path, line)
        }
    }

    fn check(file: &Path) -> Result<Vec<String>, String> {
        if file.to_string_lossy().contains("bad") {
            return Err(
                "bad.json: /network: \"x\": want a prefix\nbad.json: /port: 0: want 1 to 65535".into()
            );
        }
        Ok(vec!["unknown key is kept".into()])
    }

    fn run_at(path: &Path, line: &str) -> (Exit, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let words =
            ["mst-cli", "--socket", path.to_str().unwrap()].into_iter().chain(line.split_whitespace());
        let exit = run(words.map(OsString::from), check, &mut out, &mut err);
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn the_status_of_a_running_server_is_text_or_one_json_object() {
        let world = World::new();
        let (exit, out, _) = world.run("server show status");
        assert_eq!(exit, Exit::Good);
        assert!(out.starts_with("State: running\nHealth: healthy\n"), "{out}");
        assert!(out.contains("Uptime: 1d 2h\n"), "{out}");
        let (_, out, _) = world.run("server show status --json");
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!((value["sessions"].as_u64(), value["uptime_seconds"].as_u64()), (Some(1), Some(93_784)));
        assert_eq!(value["drops"]["source_not_leased"].as_u64(), Some(0));
        assert_eq!(value["healthy"], true);
    }

    #[test]
    fn users_in_json_are_an_array_with_the_keys_of_the_contract() {
        let world = World::new();
        let (_, out, _) = world.run("--json server show users");
        let value: serde_json::Value = serde_json::from_str(&out).unwrap();
        let row = &value.as_array().unwrap()[0];
        for key in [
            "id",
            "user",
            "groups",
            "ipv4",
            "ipv6",
            "remote",
            "channel",
            "cipher",
            "user_agent",
            "bytes_in",
            "bytes_out",
            "connected_seconds",
        ] {
            assert!(row.get(key).is_some(), "{key}");
        }
        assert_eq!(row["channel"], "dtls");
        let (_, out, _) = world.run("server show users");
        assert!(out.starts_with("ID  USER  GROUPS"), "{out}");
        assert!(out.contains("staff,ops") && out.contains("5.0 GiB") && out.contains("1h 2m"), "{out}");
    }

    #[test]
    fn one_session_or_one_user_is_shown_and_a_missing_one_is_a_failure() {
        let world = World::new();
        assert!(world.run("server show session 7").1.contains("Cipher: PSK-NEGOTIATE AES-256-GCM\n"));
        let (exit, out, err) = world.run("server show session 8");
        assert_eq!((exit, out.as_str(), err.as_str()), (Exit::Failed, "", "mst-cli: no session 8\n"));
        assert!(world.run("server show user ada").1.contains("User: ada\n"));
        assert_eq!(world.run("server show user bob").0, Exit::Failed);
    }

    #[test]
    fn bans_are_the_banned_ones_and_points_are_all() {
        let world = World::new();
        let (_, bans, _) = world.run("server show ip bans");
        assert!(bans.contains("198.51.100.7") && !bans.contains("2001:db8:7::"), "{bans}");
        assert!(world.run("server show ip points").1.contains("2001:db8:7::"));
    }

    #[test]
    fn commands_reach_the_server_and_say_what_they_did() {
        let world = World::new();
        assert_eq!(world.run("server disconnect user ada").1, "disconnected 2\n");
        assert_eq!(world.run("server disconnect id 7 --json").1, "{\"disconnected\":1}\n");
        assert_eq!(world.run("server disconnect user bob").0, Exit::Failed);
        assert_eq!(world.run("server unban ip 198.51.100.7").0, Exit::Good);
        assert_eq!(world.run("server unban ip 2001:db8::1").0, Exit::Failed);
        assert_eq!(world.run("server drain").1, "draining\n");
        assert_eq!(world.run("server stop").1, "stopping\n");
        let calls = world.fake.calls();
        assert_eq!(calls[0], "disconnect user ada");
        assert_eq!(calls[5..], ["drain", "stop"]);
    }

    #[test]
    fn a_refused_reload_names_every_problem_and_exits_5() {
        let world = World::new();
        let (exit, _, err) = world.run("server reload");
        assert_eq!(exit, Exit::InvalidConfiguration);
        assert_eq!(err.lines().count(), 2);
        assert!(err.contains("gateway.toml:3"), "{err}");
    }

    #[test]
    fn health_is_told_by_the_exit_code() {
        let world = World::new();
        assert_eq!(world.run("health"), (Exit::Good, "Health: healthy\n".into(), String::new()));
        world.fake.status.lock().unwrap().state = ServerState::Draining;
        let (exit, out, _) = world.run("health");
        assert_eq!(exit, Exit::Unhealthy);
        assert!(out.contains("draining"));
        assert!(world.run("--json health").1.contains("\"healthy\":false"));
    }

    #[test]
    fn without_a_server_every_question_exits_3() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("none.sock");
        for line in ["health", "server show status", "server stop", "server show events"] {
            let (exit, out, err) = run_at(&path, line);
            assert_eq!((exit, out.as_str()), (Exit::NotRunning, ""), "{line}");
            assert!(err.contains("is not running") && err.contains("none.sock"), "{err}");
        }
    }

    #[test]
    fn misuse_exits_2_and_help_that_was_asked_for_exits_0() {
        let nowhere = Path::new("/nonexistent");
        let (exit, out, err) = run_at(nowhere, "server dance");
        assert_eq!((exit, out.as_str()), (Exit::Misuse, ""));
        assert!(!err.is_empty());
        let (exit, out, _) = run_at(nowhere, "--help");
        assert_eq!(exit, Exit::Good);
        assert!(out.contains("Exit codes: 0 good"));
        assert_eq!(run_at(nowhere, "").0, Exit::Misuse);
    }

    #[test]
    fn validating_files_needs_no_server_and_exits_5_on_a_bad_one() {
        let nowhere = Path::new("/nonexistent");
        let (exit, out, err) = run_at(nowhere, "config validate good.json bad.json");
        assert_eq!(exit, Exit::InvalidConfiguration);
        assert_eq!(out, "good.json: valid\nbad.json: invalid\n");
        assert!(err.contains("warning: unknown key is kept\n") && err.contains("want 1 to 65535"));
        let (exit, out, _) = run_at(nowhere, "--json config validate good.json");
        assert_eq!(exit, Exit::Good);
        assert!(out.contains("\"valid\":true"), "{out}");
    }

    #[test]
    fn events_are_followed_until_the_server_ends() {
        let world = World::new();
        let following = std::thread::spawn({
            let path = world.path.clone();
            move || run_at(&path, "--json server show events")
        });
        while world.fake.watchers() == 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        world.fake.emit(event(1));
        world.fake.emit(event(2));
        // The watcher's task writes in the turn in which it takes, and the runtime ends no turn midway.
        while world.fake.unread() > 0 {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        world.runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        let (exit, out, _) = following.join().unwrap();
        assert_eq!(exit, Exit::Failed);
        assert_eq!(out.lines().count(), 2, "{out}");
        assert!(out.lines().all(|line| line.contains("\"kind\":\"open\"")));
    }
}
