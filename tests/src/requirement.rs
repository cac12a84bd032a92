//! What the machine must offer, and what happens when it does not.

use std::env;
use std::io::{self, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::thread;

/// The programs that every interop test needs.
const PROGRAMS: &[&str] = &["ip", "nft", "setpriv", "openconnect", "ocpasswd", "ping", "curl", "iperf3"];

/// Says whether interop tests can run here; if not, prints why (see [`skip`]).
pub fn ready() -> bool {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    match REASON.get_or_init(missing) {
        None => true,
        Some(reason) => {
            skip(reason);
            false
        }
    }
}

/// Prints the line `skipped: TEST: REASON` that `tests/run` counts.
///
/// The line goes around the capture of the test runner, so that it is seen although the test passes.
///
/// # Panics
/// With `CI=true`: there, a test that does not run is a failure.
pub fn skip(reason: &str) {
    let thread = thread::current();
    let name = thread.name().unwrap_or("a test");
    assert!(
        env::var("CI").as_deref() != Ok("true"),
        "{name} cannot run, and CI=true allows no skip: {reason}"
    );
    // Written at once, because several tests may skip at the same time.
    let line = format!("skipped: {name}: {reason}\n");
    io::stderr().write_all(line.as_bytes()).ok();
}

/// Finds `program` in `PATH` and in the system directories that a user's `PATH` often lacks.
pub fn find_program(program: &str) -> Option<String> {
    let path = env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/bin", "/bin"])
        .map(|directory| format!("{directory}/{program}"))
        .find(|candidate| Path::new(candidate).is_file())
}

fn missing() -> Option<String> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let root =
        status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"));
    if !root {
        return Some("network namespaces need root".to_owned());
    }
    if !Path::new("/dev/net/tun").exists() {
        return Some("there is no /dev/net/tun".to_owned());
    }
    PROGRAMS
        .iter()
        .find(|program| find_program(program).is_none())
        .map(|program| format!("{program} is not installed (tests/run installs it)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_every_system_is_found_and_an_invented_one_is_not() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }
}
