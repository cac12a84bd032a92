//! One network namespace: made by name, entered by threads and programs, removed when dropped.
//!
//! Names are `mst-PID-N-ROLE`, so that two runs never meet and the next run can tell what a killed one left.

use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Once;
use std::thread;
use std::time::Duration;

use crate::process::{self, Output, Process};
use crate::sys;

const PREFIX: &str = "mst-";
/// Where `ip netns` keeps its names.
const DIRECTORY: &str = "/var/run/netns";
/// The user and the group that own nothing.
pub(crate) const NOBODY: &str = "65534";
const COMMAND_LIMIT: Duration = Duration::from_secs(20);

/// A network namespace with its loopback interface up and IPv6 without duplicate address detection.
#[derive(Debug)]
pub struct Netns {
    name: String,
    /// Whether the namespace ends with this value.
    owned: bool,
}

impl Netns {
    pub(crate) fn create(number: usize, role: &str) -> Self {
        static LEFTOVERS: Once = Once::new();
        LEFTOVERS.call_once(remove_leftovers);
        let name = format!("{PREFIX}{}-{number}-{role}", std::process::id());
        ip(&["netns", "add", &name]);
        let netns = Self { name, owned: true };
        // Addresses must be usable at once, and a packet with a wrong source must not die of a kernel filter:
        // the tests ask what the server does.
        netns.write_sysctl("net/ipv6/conf/default/accept_dad", "0");
        netns.write_sysctl("net/ipv6/conf/all/accept_dad", "0");
        netns.write_sysctl("net/ipv6/conf/default/accept_ra", "0");
        netns.write_sysctl("net/ipv4/conf/all/rp_filter", "0");
        netns.write_sysctl("net/ipv4/conf/default/rp_filter", "0");
        // As distributions have it: whoever wants may ping.
        netns.write_sysctl("net/ipv4/ping_group_range", "0 2147483647");
        netns.run("ip", &["link", "set", "lo", "up"]);
        netns
    }

    /// The same namespace for a thread that may outlive the borrow; it does not keep the namespace.
    pub(crate) fn reference(&self) -> Self {
        Self { name: self.name.clone(), owned: false }
    }

    /// The name as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns what `act` returns when it is called on a thread inside the namespace.
    ///
    /// A socket belongs to the namespace it was made in, and so do the connections it accepts: it can be used
    /// outside afterwards.
    pub fn with<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let path = Path::new(DIRECTORY).join(&self.name);
                let file = File::open(&path).unwrap_or_else(|e| panic!("cannot open {path:?}: {e}"));
                sys::enter_network_namespace(&file).unwrap_or_else(|e| panic!("cannot enter {path:?}: {e}"));
                act()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that will run `program` inside; it is killed with the thread that starts it.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, "setpriv", "--pdeathsig", "KILL", "--", program]);
        command
    }

    /// As [`Netns::command`], with `program` as an unprivileged user without any capability.
    pub fn command_as_nobody(&self, program: &str) -> Command {
        let mut command = self.command("setpriv");
        let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
        // A change of user clears what the outer one has set.
        command.args([&user, &group, "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
        command.args(["--no-new-privs", "--pdeathsig", "KILL", "--", program]);
        command
    }

    /// Runs `program` inside to its end, which must be a success, and returns its standard output.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        self.try_run(program, arguments, COMMAND_LIMIT).expect_success(&format!("{program} {arguments:?}"))
    }

    /// Runs `program` inside to its end, whatever that is.
    pub fn try_run(&self, program: &str, arguments: &[&str], limit: Duration) -> Output {
        let mut command = self.command(program);
        command.args(arguments);
        process::run(program, command, b"", limit)
    }

    /// Starts `program` inside.
    pub fn start(&self, program: &str, arguments: &[&str], directory: &Path) -> Process {
        let mut command = self.command(program);
        command.args(arguments);
        Process::start(program, command, directory, b"")
    }

    /// Sends echo requests until one is answered; the neighbour may have to be found first.
    ///
    /// # Panics
    /// When none of five is answered.
    pub fn ping(&self, target: IpAddr) {
        self.run("ping", &["-c", "1", "-w", "10", "-i", "0.5", &target.to_string()]);
    }

    /// Sends two echo requests and says whether one was answered.
    pub fn reaches(&self, target: IpAddr) -> bool {
        let arguments = ["-c", "2", "-i", "0.2", "-W", "1", &target.to_string()];
        self.try_run("ping", &arguments, COMMAND_LIMIT).code == Some(0)
    }

    /// Fetches `http://HOST/PATH` with curl and returns the page.
    pub fn page(&self, host: IpAddr, path: &str) -> String {
        let url = format!("http://{}/{path}", SocketAddr::new(host, 80));
        self.run(
            "curl",
            &["--silent", "--show-error", "--globoff", "--noproxy", "*", "--max-time", "15", &url],
        )
    }

    /// Writes `value` to `/proc/sys/PATH` of the namespace.
    pub fn write_sysctl(&self, path: &str, value: &str) {
        let result = self.with(|| fs::write(Path::new("/proc/sys").join(path), value));
        result.unwrap_or_else(|e| panic!("cannot set {path} to {value} in {}: {e}", self.name));
    }

    /// Reads `/proc/sys/PATH` of the namespace.
    pub fn read_sysctl(&self, path: &str) -> String {
        let result = self.with(|| fs::read_to_string(Path::new("/proc/sys").join(path)));
        result.unwrap_or_else(|e| panic!("cannot read {path} in {}: {e}", self.name)).trim().to_owned()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.owned {
            remove(&self.name);
        }
    }
}

pub(crate) fn ip(arguments: &[&str]) -> String {
    let mut command = Command::new("ip");
    command.args(arguments);
    process::run("ip", command, b"", COMMAND_LIMIT).expect_success(&format!("ip {arguments:?}"))
}

/// Ends what still runs in the namespace `name`, by process id, and removes it.
fn remove(name: &str) {
    let quiet = |arguments: &[&str]| Command::new("ip").args(arguments).output();
    if let Ok(output) = quiet(&["netns", "pids", name]) {
        for id in
            String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.trim().parse::<i32>().ok())
        {
            sys::signal_group(-id, libc::SIGKILL).ok();
        }
    }
    quiet(&["netns", "del", name]).ok();
}

/// Removes the namespaces of runs whose process is gone.
fn remove_leftovers() {
    let names = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        if owner(&name).is_some_and(|id| !Path::new("/proc").join(id.to_string()).exists()) {
            remove(&name);
        }
    }
}

/// The process id in the name of a namespace of ours.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_have_an_owner() {
        assert_eq!(owner("mst-412-3-server"), Some(412));
        assert_eq!(owner("mst-x-3-server"), None);
        assert_eq!(owner("somebody-412-3"), None);
    }
}
