//! One command in a network of its own that has nothing but the tunnel. No privileges.
//!
//! ```text
//!   host                                 user, network and mount namespace of the command
//!   +--------------------------+         +------------------------------------------+
//!   | client -- TLS -- server  |   fd    |  TUN device, lo      resolv.conf         |
//!   |   '-- Tun::carry --------|---------|--> addresses, routes  nsswitch.conf      |
//!   |   '-- Netlink -----------|---------|-->                    COMMAND            |
//!   +--------------------------+         +------------------------------------------+
//! ```
//!
//! A process of several threads cannot make a user namespace. The program is therefore started a second time, as
//! a child of one thread ([`enter`]), which makes the namespaces, hands over its TUN device and a netlink socket,
//! and becomes the command. The client owns that user namespace, as the kernel sees it, and so may set addresses
//! and routes in it from outside.
//!
//! There is no other interface in there: what the tunnel does not carry is unreachable, and while it reconnects
//! packets are lost. When the client ends, the command is killed; what that command has started and left behind
//! has a device that is gone.
//!
//! It holds networks apart, not programs: files, and sockets with a name in the file system, are the user's own.

mod control;
mod files;
mod inside;
mod obstacle;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::io::FdFlags;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::device::{DeviceError, Kind, Netlink, Offloads, Plan, RouteEntry, Tun, Way, resolv_conf};
use crate::sys;
use control::{Failure, Said};
use files::{Laid, nsswitch_conf, rewrite};
use inside::Inside;

/// The name of the device inside.
const INTERFACE: &str = "mst0";

/// The index of the loopback interface of every network namespace.
const LOOPBACK: u32 = 1;

/// The routing table of the namespace: its main one, which is empty but for us.
const TABLE: u32 = 254;

/// How long the child may take for its namespaces, and for the step into the command.
const LIMIT: Duration = Duration::from_secs(20);

/// Why there is no command in a network of its own.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// The child cannot be started or talked to.
    #[error("cannot {what}: {source}")]
    Child {
        /// What was attempted.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Something stands in the way inside; the text says what, and what to do.
    #[error("{text}")]
    Inside {
        /// What the command's exit code would be: 127 not found, 126 not runnable, 1 everything before.
        code: u8,
        /// A sentence.
        text: String,
    },
    /// The device inside cannot be set up.
    #[error("inside the command's network: {0}")]
    Device(#[from] DeviceError),
}

impl From<Failure> for ExecError {
    fn from(Failure { code, text }: Failure) -> Self {
        Self::Inside { code, text }
    }
}

fn child(what: &'static str) -> impl FnOnce(io::Error) -> ExecError {
    move |source| ExecError::Child { what, source }
}

/// The child's whole life: what [`Sandbox::new`] starts ends here, with `arguments` as it gave them. Call it before
/// anything starts a thread; returns only when the command cannot be run, with the exit code.
pub fn enter(arguments: &[OsString]) -> u8 {
    let Some((inside, command)) = arguments.split_first_chunk::<4>() else { return 2 };
    let number = |text: &OsString| text.to_str().and_then(|text| text.parse().ok());
    let [control, client, resolv_conf, nsswitch_conf] = inside;
    let (Some(control), Some(client)) = (number(control), number(client)) else { return 2 };
    let Ok(control) = sys::inherited(control) else { return 2 };
    inside::enter(Inside {
        control,
        client,
        resolv_conf: resolv_conf.into(),
        nsswitch_conf: (!nsswitch_conf.is_empty()).then(|| nsswitch_conf.into()),
        command: command.to_vec(),
    })
}

/// A network namespace with a TUN device in it, and the child that will be the command. Dropped, the child dies.
#[derive(Debug)]
pub struct Sandbox {
    child: Child,
    control: UnixStream,
    tun: Option<OwnedFd>,
    netlink: Netlink,
    index: u32,
    resolv_conf: File,
    /// What the device is set up for.
    addresses: Vec<IpAddr>,
    routes: Vec<RouteEntry>,
}

impl Sandbox {
    /// Starts `program` with `arguments`, which calls [`enter`] with what follows them, and makes the namespaces.
    ///
    /// The command dies with the thread that calls this.
    ///
    /// # Errors
    /// [`ExecError`] names the setting that stands in the way, where there is one.
    pub async fn new(program: &Path, arguments: &[&str], command: &[OsString]) -> Result<Self, ExecError> {
        let resolv_conf = Laid::new("").map_err(child("make a temporary file"))?;
        let nsswitch_conf = match fs::read_to_string("/etc/nsswitch.conf") {
            Ok(text) => Some(Laid::new(&nsswitch_conf(&text)).map_err(child("make a temporary file"))?),
            Err(_) => None,
        };
        let (control, theirs) = UnixStream::pair().map_err(child("make a pair of sockets"))?;
        control.set_read_timeout(Some(LIMIT)).map_err(child("limit the wait"))?;
        // Inherited by this one child: nothing else of this program starts one meanwhile.
        rustix::io::fcntl_setfd(&theirs, FdFlags::empty()).map_err(|e| child("share a socket")(e.into()))?;
        let started = Command::new(program)
            .args(arguments)
            .arg(theirs.as_raw_fd().to_string())
            .arg(std::process::id().to_string())
            .arg(resolv_conf.path())
            .arg(nsswitch_conf.as_ref().map_or(Path::new(""), Laid::path))
            .args(command)
            .kill_on_drop(true)
            .spawn()
            .map_err(child("start the child"))?;
        drop(theirs);
        let (tun, netlink) = match hear(&control).await? {
            Said::Ready { tun, netlink } => (tun, netlink),
            Said::Failed(failure) => return Err(failure.into()),
            Said::Closed => {
                let source = io::Error::from(io::ErrorKind::UnexpectedEof);
                return Err(child("hear from the child")(source));
            }
        };
        let netlink = Netlink::of_socket(netlink);
        let index = netlink.index_of(INTERFACE).await?.ok_or_else(|| DeviceError::Kernel {
            what: format!("find the interface {INTERFACE}"),
            source: io::ErrorKind::NotFound.into(),
        })?;
        Ok(Self {
            child: started,
            control,
            tun: Some(tun),
            netlink,
            index,
            resolv_conf: resolv_conf.into_file().map_err(child("keep a temporary file"))?,
            addresses: Vec::new(),
            routes: Vec::new(),
        })
    }

    /// The device; once.
    ///
    /// # Errors
    /// When the reactor cannot take it.
    ///
    /// # Panics
    /// When it is asked for twice.
    pub fn take_tun(&mut self) -> io::Result<Tun> {
        let device = self.tun.take().expect("the device of a sandbox is taken once");
        Tun::new(device, Offloads::None)
    }

    /// Sets the network inside up as `plan` says, or changes it.
    ///
    /// # Errors
    /// [`ExecError`]
    pub async fn apply(&mut self, plan: &Plan) -> Result<(), ExecError> {
        rewrite(&mut self.resolv_conf, &resolv_conf(plan)).map_err(child("write the name servers"))?;
        let (netlink, index) = (&self.netlink, self.index);
        netlink.set_mtu(index, plan.mtu).await?;
        netlink.set_up(LOOPBACK).await?;
        netlink.set_up(index).await?;
        for address in &plan.addresses {
            netlink.add_address(index, *address).await?;
        }
        let routes: Vec<RouteEntry> = plan
            .routes
            .iter()
            .map(|route| {
                let kind = match route.way {
                    Way::Tunnel => Kind::Device,
                    // Beside the tunnel there is nothing in here.
                    Way::Beside | Way::Nowhere => Kind::Unreachable,
                };
                RouteEntry { prefix: route.prefix, kind }
            })
            .collect();
        for route in self.routes.iter().filter(|route| !routes.contains(route)) {
            netlink.remove_route(TABLE, index, *route).await?;
        }
        for route in &routes {
            netlink.add_route(TABLE, index, *route).await?;
        }
        for address in self.addresses.iter().filter(|address| !plan.addresses.contains(address)) {
            netlink.remove_address(index, *address).await?;
        }
        self.addresses.clone_from(&plan.addresses);
        self.routes = routes;
        Ok(())
    }

    /// Lets the child become the command; returns when it has.
    ///
    /// # Errors
    /// [`ExecError::Inside`] with 127 or 126 when there is no such command.
    pub async fn start(&mut self) -> Result<(), ExecError> {
        control::send_go(&self.control).map_err(child("speak to the child"))?;
        match hear(&self.control).await? {
            Said::Closed => Ok(()),
            Said::Failed(failure) => Err(failure.into()),
            Said::Ready { .. } => Err(child("understand the child")(io::ErrorKind::InvalidData.into())),
        }
    }

    /// Sends a signal to the command; one that has ended takes none.
    pub fn signal(&self, signal: Signal) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(id) = id {
            // It may end at this moment.
            let _ = kill_process(id, signal);
        }
    }

    /// Waits for the command's end; returns its exit code, or 128 and the number of the signal that ended it.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn wait(&mut self) -> io::Result<u8> {
        self.child.wait().await.map(exit_code)
    }
}

/// Waits for the child's next word on a thread that may block.
async fn hear(control: &UnixStream) -> Result<Said, ExecError> {
    let listening = control.try_clone().map_err(child("hear from the child"))?;
    let heard = tokio::task::spawn_blocking(move || control::receive(&listening)).await;
    heard.map_err(io::Error::other).and_then(|said| said).map_err(child("hear from the child"))
}

/// As a shell says it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(exit_code(ExitStatus::from_raw(3 << 8)), 3);
        assert_eq!(exit_code(ExitStatus::from_raw(libc::SIGTERM)), 143);
    }

    #[test]
    fn arguments_that_are_not_ours_are_misuse() {
        for arguments in [&["1"][..], &["x", "1", "a", ""], &["9999", "1", "a", "", "true"]] {
            let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
            assert_eq!(enter(&arguments), 2, "{arguments:?}");
        }
    }
}
