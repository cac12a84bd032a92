//! What goes wrong with a TUN device, said so that its user knows what to do.

use std::io;
use std::path::Path;

/// Why a TUN device cannot be made or set up.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// Not a name for an interface.
    #[error("{name:?} is not an interface name (1 to 15 letters, digits, '-', '_', '.')")]
    Name {
        /// What was asked for, cut.
        name: String,
    },
    /// The driver is not there.
    #[error(
        "/dev/net/tun is missing: load the driver (modprobe tun), or give the container the device \
         (--device /dev/net/tun)"
    )]
    NoDriver,
    /// Its node cannot be opened.
    #[error(
        "/dev/net/tun may not be opened by this user (mode {mode:o}): distributions ship it with mode 666, which \
         gives nobody more rights than a namespace of its own has (chmod 666 /dev/net/tun)"
    )]
    NodeMode {
        /// Its permission bits.
        mode: u32,
    },
    /// The kernel refuses the interface.
    #[error(
        "making the interface {name} needs the capability CAP_NET_ADMIN: start as root, or use `run`, which needs \
         no privileges"
    )]
    NotPermitted {
        /// The interface.
        name: String,
    },
    /// Another process has it.
    #[error("interface {name} is held by another process: choose another name by --tun, or end that process")]
    InUse {
        /// The interface.
        name: String,
    },
    /// The kernel says something else.
    #[error("cannot {what}: {source}")]
    Kernel {
        /// What was attempted.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// The server's parameters cannot be given to a kernel.
    #[error("the server assigned {what}, which no tunnel can have")]
    Assigned {
        /// What is wrong.
        what: String,
    },
}

impl DeviceError {
    pub(crate) fn kernel(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Kernel { what, source }
    }

    /// What the answer of the driver to a request for the interface `name` means.
    pub(super) fn of_driver(name: &str, source: io::Error) -> Self {
        use std::os::unix::fs::PermissionsExt;
        let node = Path::new(super::tun::NODE).metadata();
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Self::NoDriver,
            Some(libc::EACCES) => {
                Self::NodeMode { mode: node.map_or(0, |node| node.permissions().mode() & 0o777) }
            }
            Some(libc::EPERM) => Self::NotPermitted { name: name.to_owned() },
            Some(libc::EBUSY) => Self::InUse { name: name.to_owned() },
            _ => Self::Kernel { what: format!("make the interface {name}"), source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_the_driver_say_what_to_do() {
        let text = |code| DeviceError::of_driver("mst0", io::Error::from_raw_os_error(code)).to_string();
        assert!(text(libc::ENOENT).contains("modprobe tun"));
        assert!(text(libc::EACCES).contains("chmod 666 /dev/net/tun"));
        assert!(text(libc::EPERM).contains("CAP_NET_ADMIN"));
        assert!(text(libc::EBUSY).contains("--tun"));
        assert!(text(libc::EINVAL).contains("mst0"));
    }
}
