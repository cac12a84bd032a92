//! The child's side: leaves the host's namespaces, prepares new ones, and becomes the command.
//!
//! It is a process of one thread, as a user namespace wants it. In order:
//!
//! 1. user, network and mount namespace at once; the user stays who they are, with rights over these three only;
//! 2. name resolution: the tunnel's `resolv.conf`, a `nsswitch.conf` that asks only `files` and `dns`, and the
//!    sockets of resolvers of the host (systemd-resolved, nscd) covered: they would answer from outside;
//! 3. the TUN device, `ping` without privileges, no address that the kernel makes up;
//! 4. both descriptors go to the client, which sets addresses and routes from outside;
//! 5. the command, which dies when the client dies.

use std::ffi::OsString;
use std::fmt::Display;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::io::FdFlags;
use rustix::mount::{MountPropagationFlags, mount_bind, mount_change};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::process::{Pid, Signal, getegid, geteuid, getppid, set_parent_process_death_signal};
use rustix::thread::UnshareFlags;

use super::control::{self, Failure};
use super::{INTERFACE, obstacle};
use crate::device;
use crate::sys;

/// What a shell says of a command that is not there, and of one that cannot run.
const NOT_FOUND: u8 = 127;
const NOT_RUNNABLE: u8 = 126;

/// Sockets of resolvers outside, which name lookups must not reach.
const RESOLVERS: [&str; 4] = [
    "/run/systemd/resolve/io.systemd.Resolve",
    "/run/nscd/socket",
    "/var/run/nscd/socket",
    "/run/avahi-daemon/socket",
];

/// What the child is told.
#[derive(Debug)]
pub(super) struct Inside {
    pub(super) control: OwnedFd,
    pub(super) client: i32,
    pub(super) resolv_conf: PathBuf,
    pub(super) nsswitch_conf: Option<PathBuf>,
    pub(super) command: Vec<OsString>,
}

/// Becomes the command; returns only when it cannot.
pub(super) fn enter(inside: Inside) -> u8 {
    let control = UnixStream::from(inside.control.try_clone().unwrap_or(inside.control));
    let failure = match prepare(&control, &inside.resolv_conf, inside.nsswitch_conf.as_deref(), inside.client)
    {
        Ok(true) => run(&inside.command),
        // The client has given up and said why.
        Ok(false) => return 1,
        Err(failure) => failure,
    };
    control::send_failure(&control, &failure);
    failure.code
}

fn failed(text: impl Display) -> Failure {
    Failure { code: 1, text: text.to_string() }
}

fn prepare(
    control: &UnixStream,
    resolv_conf: &Path,
    nsswitch_conf: Option<&Path>,
    client: i32,
) -> Result<bool, Failure> {
    let cannot = |what: &'static str| move |error: io::Error| failed(format_args!("cannot {what}: {error}"));
    rustix::io::fcntl_setfd(control, FdFlags::CLOEXEC).map_err(|e| cannot("keep a socket")(e.into()))?;
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    sys::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWNS)
        .map_err(|error| failed(obstacle::explain(&error)))?;
    // The kernel wants the first one before an unprivileged user may write the second.
    for (file, text) in [
        ("setgroups", "deny".to_owned()),
        ("gid_map", format!("{group} {group} 1")),
        ("uid_map", format!("{user} {user} 1")),
    ] {
        fs::write(Path::new("/proc/self").join(file), text)
            .map_err(|error| failed(obstacle::explain(&error)))?;
    }
    resolve_inside(resolv_conf, nsswitch_conf)?;
    let tun = device::create(INTERFACE).map_err(failed)?;
    configure(group);
    let netlink = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None, // NETLINK_ROUTE is protocol 0
    )
    .map_err(|error| cannot("open a netlink socket")(error.into()))?;
    control::send_ready(control, tun.as_fd(), netlink.as_fd()).map_err(cannot("speak to the client"))?;
    if !control::wait_for_go(control) {
        return Ok(false);
    }
    // From here on: changing namespaces clears it.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|e| cannot("be bound to the client")(e.into()))?;
    // It may have died in between.
    Ok(getppid().map(Pid::as_raw_pid) == Some(client))
}

fn resolve_inside(resolv_conf: &Path, nsswitch_conf: Option<&Path>) -> Result<(), Failure> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| failed(obstacle::explain(&error.into())))?;
    let cover = |source: &Path, target: &str| {
        mount_bind(source, target).map_err(|error| {
            failed(format_args!("cannot put the tunnel's name servers in the place of {target}: {error}"))
        })
    };
    for socket in RESOLVERS {
        if fs::metadata(socket).is_ok_and(|found| found.file_type().is_socket()) {
            cover(Path::new("/dev/null"), socket)?;
        }
    }
    cover(resolv_conf, "/etc/resolv.conf")?;
    match nsswitch_conf {
        Some(file) => cover(file, "/etc/nsswitch.conf"),
        None => Ok(()),
    }
}

/// Settings of the namespace that are good to have; a read-only /proc/sys keeps none from running.
fn configure(group: u32) {
    let interface = Path::new("/proc/sys/net/ipv6/conf").join(INTERFACE);
    let settings = [
        (interface.join("disable_ipv6"), "0".to_owned()),
        // No link-local address and no router solicitation: the tunnel has exactly what the server assigned.
        (interface.join("addr_gen_mode"), "1".to_owned()),
        // The group of the user may open ping sockets; the range is of this namespace.
        (PathBuf::from("/proc/sys/net/ipv4/ping_group_range"), format!("{group} {group}")),
    ];
    for (path, value) in settings {
        if let Err(error) = fs::write(&path, value) {
            tracing::debug!(path = %path.display(), %error, "setting stays as it is");
        }
    }
}

fn run(command: &[OsString]) -> Failure {
    let Some((program, arguments)) = command.split_first() else {
        return failed("no command");
    };
    let error = Command::new(program).args(arguments).exec();
    let code = if is_found(Path::new(program)) { NOT_RUNNABLE } else { NOT_FOUND };
    Failure { code, text: format!("cannot run {}: {error}", program.display()) }
}

/// Whether there is such a file, as a shell looks for it. A directory of `PATH` that may not be entered makes the
/// kernel's answer "permission denied", which says nothing about the command.
fn is_found(program: &Path) -> bool {
    if program.components().count() > 1 || program.is_absolute() {
        return program.exists();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
