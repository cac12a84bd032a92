//! A program that runs beside the test, with its output in files and its end guaranteed.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use crate::sys;
use crate::wait::{SHORT, until};

/// How much of a program's output a failing test prints.
const TAIL_LINES: usize = 60;

/// One of the two outputs of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A running program in a process group of its own; dropped, it is killed with all of that group.
///
/// Its output goes to `DIRECTORY/NAME.stdout` and `NAME.stderr`. When the test is failing as the guard is
/// dropped, the ends of both are printed.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command`, gives it `input` and then the end of its standard input.
    pub fn start(name: &str, mut command: Command, directory: &Path, input: &[u8]) -> Self {
        let stdout = directory.join(format!("{name}.stdout"));
        let stderr = directory.join(format!("{name}.stderr"));
        let create =
            |path: &Path| File::create(path).unwrap_or_else(|e| panic!("cannot create {path:?}: {e}"));
        command.stdout(create(&stdout)).stderr(create(&stderr)).process_group(0);
        command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {name} ({command:?}): {e}"));
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input).unwrap_or_else(|e| panic!("cannot write to {name}: {e}"));
        }
        Self { name: name.to_owned(), child, status: None, stdout, stderr }
    }

    /// The process id, which is that of its group too.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that the program has written to `stream` so far.
    pub fn text(&self, stream: Stream) -> String {
        let path = match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        };
        String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
    }

    /// Both outputs, one after the other.
    pub fn output(&self) -> String {
        self.text(Stream::Stdout) + &self.text(Stream::Stderr)
    }

    /// Waits until `needle` has been written `times` times to `stream`; fails at once if the program ends.
    pub fn wait_for(&mut self, stream: Stream, needle: &str, times: usize, limit: Duration) {
        let what = format!("{times} x {needle:?} on the {stream:?} of {}", self.name);
        until(&what, limit, || {
            let ended = self.has_ended();
            if self.text(stream).matches(needle).count() >= times {
                return Some(());
            }
            assert!(ended.is_none(), "{} ended with {:?} before {what}", self.name, self.status);
            None
        });
    }

    /// The status, if the program has ended.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status =
                self.child.try_wait().unwrap_or_else(|e| panic!("cannot wait for {}: {e}", self.name));
        }
        self.status
    }

    /// Waits for the end of the program.
    pub fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        until(&format!("the end of {}", self.name), limit, || self.has_ended())
    }

    /// Sends `signal` (a `libc::SIG*` number) to the program itself, not to what it has started.
    pub fn signal(&mut self, signal: i32) {
        assert!(self.has_ended().is_none(), "{} has ended and can take no signal", self.name);
        let id = i32::try_from(self.child.id()).expect("a process id is positive and fits");
        // A negative group is one process; it cannot have been reused, because we have not waited for it.
        sys::signal_group(-id, signal).unwrap_or_else(|e| panic!("cannot signal {}: {e}", self.name));
    }

    /// Ends the program and everything that it has started, as a crash does, and waits for it.
    pub fn kill_group(&mut self, limit: Duration) -> ExitStatus {
        let group = i32::try_from(self.child.id()).expect("a process id is positive and fits");
        if self.has_ended().is_none() {
            sys::signal_group(group, libc::SIGKILL)
                .unwrap_or_else(|e| panic!("cannot kill {}: {e}", self.name));
        }
        self.wait_end(limit)
    }

    fn print_tail(&self) {
        for (stream, path) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            let skipped = lines.len().saturating_sub(TAIL_LINES);
            eprintln!("---- {} of {} ({skipped} earlier lines not shown)", stream, self.name);
            for line in &lines[skipped..] {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            self.print_tail();
        }
        if let Ok(group) = i32::try_from(self.child.id())
            && self.status.is_none()
        {
            sys::signal_group(group, libc::SIGKILL).ok();
            self.child.wait().ok();
        }
    }
}

/// What a program that ran to its end has said.
#[derive(Debug)]
pub struct Output {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output, as text.
    pub stdout: String,
    /// Standard error, as text.
    pub stderr: String,
}

impl Output {
    /// Returns the standard output of a program that must have succeeded.
    pub fn expect_success(self, what: &str) -> String {
        assert!(self.code == Some(0), "{what} failed with {:?}\n{}{}", self.code, self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs `command` to its end, for at most `limit`.
pub(crate) fn run(name: &str, command: Command, input: &[u8], limit: Duration) -> Output {
    let directory = tempfile::tempdir().expect("a directory for temporary files");
    let mut process = Process::start(name, command, directory.path(), input);
    let status = process.wait_end(limit);
    Output { code: status.code(), stdout: process.text(Stream::Stdout), stderr: process.text(Stream::Stderr) }
}

/// Copies a program that is to be run at once.
///
/// Another process does it: what this one holds open for writing its children hold too, until each has become what
/// it runs, and such a file cannot be run ("text file busy").
pub fn copy_program(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("--preserve=mode").arg(from).arg(to);
    run("cp", command, b"", SHORT).expect_success("cp");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_program_gets_its_input_and_gives_its_outputs_and_code() {
        let output = run("sh", shell("cat; echo bad >&2; exit 3"), b"good", Duration::from_secs(10));
        assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(3), "good", "bad\n"));
    }

    #[test]
    fn a_dropped_guard_ends_the_children_of_its_program_too() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Process::start("sh", shell("sleep 60 & echo $!; wait"), directory.path(), b"");
        process.wait_for(Stream::Stdout, "\n", 1, Duration::from_secs(10));
        let sleeper = process.text(Stream::Stdout).trim().to_owned();
        drop(process);
        until("the sleeper's end", Duration::from_secs(10), || {
            let stat = fs::read_to_string(format!("/proc/{sleeper}/stat")).unwrap_or_default();
            // Gone, or a zombie that waits for whoever adopted it.
            (stat.is_empty() || stat.contains(") Z ")).then_some(())
        });
    }
}
