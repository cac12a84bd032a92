//! What goes wrong with the kernel's egress, said so that an administrator knows what to do.

use std::io;
use std::net::IpAddr;

use mstunnel_proto::prefix::Prefix;

/// Why the egress could not be opened, checked or closed.
#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    /// The name is not one for an interface.
    #[error(
        "[egress] interface: \"{name}\" is not an interface name (1 to 15 letters, digits, '-', '_', '.')"
    )]
    Name {
        /// What was configured, escaped and cut.
        name: String,
    },
    /// No queue, or more than the kernel has.
    #[error("{want} TUN queues, at least 1 and at most {most}")]
    Queues {
        /// What was asked for.
        want: usize,
        /// The kernel's limit.
        most: usize,
    },
    /// Nothing to route.
    #[error("no address pool is configured, the interface would carry nothing")]
    NoPool,
    /// A second pool of one family.
    #[error("pool {pool} is the second one of its family, one of each is possible")]
    TwoPools {
        /// The second pool.
        pool: Prefix,
    },
    /// The server's inside address does not lie in its pool.
    #[error("server address {address} is not in pool {pool}")]
    AddressOutsidePool {
        /// The server's inside address.
        address: IpAddr,
        /// The pool it was given with.
        pool: Prefix,
    },
    /// IPv6 needs more.
    #[error("mtu {mtu} with an IPv6 pool, at least {least}")]
    Ipv6Mtu {
        /// What was configured.
        mtu: u16,
        /// 1280.
        least: u16,
    },
    /// The kernel's TUN driver is not there.
    #[error(
        "/dev/net/tun is missing: load the driver (modprobe tun), or give the container the device \
         (--device /dev/net/tun)"
    )]
    NoTunDriver,
    /// The process may not do what is needed.
    #[error(
        "{what} needs the capability CAP_NET_ADMIN: start as root, by the packaged systemd unit, or \
         the container with --cap-add NET_ADMIN; or use [egress] mode = \"userspace\""
    )]
    NotPermitted {
        /// What was attempted.
        what: &'static str,
    },
    /// The interface name is taken by another kind of interface.
    #[error(
        "interface {name} exists and is not a TUN device: choose another name by [egress] interface, \
         or remove it (ip link del {name})"
    )]
    NameTaken {
        /// The configured name.
        name: String,
    },
    /// The interface is a TUN device that another process holds open.
    #[error(
        "interface {name} is held open by another process: is another mstunnel-server running? choose \
         another name by [egress] interface, or end that process"
    )]
    InUse {
        /// The configured name.
        name: String,
    },
    /// The table is that of another interface.
    #[error(
        "the nftables table of mstunnel-server belongs to interface {name}: end the server that has it, or give this one a \
         network namespace of its own"
    )]
    TableInUse {
        /// The interface, which a process holds open.
        name: String,
    },
    /// The TUN device could not be made.
    #[error("could not {what} interface {name}: {source}")]
    Device {
        /// What was attempted.
        what: &'static str,
        /// The interface.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The interface was deleted under us.
    #[error("interface {name} was deleted by somebody else")]
    Gone {
        /// The interface.
        name: String,
    },
    /// A route-netlink request failed.
    #[error("could not {what}: {reason}")]
    Netlink {
        /// What was attempted.
        what: String,
        /// The kernel's answer.
        reason: String,
    },
    /// A pool overlaps an address of another interface.
    #[error("pool {pool} holds {address}, the address of interface {name}: choose another pool")]
    PoolOverlaps {
        /// The pool.
        pool: Prefix,
        /// The address that is there already.
        address: IpAddr,
        /// The interface that has it.
        name: String,
    },
    /// The `nft` program is not installed.
    #[error(
        "the program nft is missing, without which nothing can be masqueraded: install the package \
         nftables, or use [egress] mode = \"routed\" with a route to the pool"
    )]
    NoNft,
    /// `nft` said no.
    #[error("nft could not {what}: {reason}")]
    Nft {
        /// What was attempted.
        what: &'static str,
        /// Its own words, on one line and cut.
        reason: String,
    },
    /// The kernel does not tell what it tracks.
    #[error(
        "the kernel does not list the flows that it tracks, so that a client could get what is sent to one that has left: \
         load the module (modprobe nf_conntrack_netlink), or use [egress] mode = \"userspace\""
    )]
    NoConntrack,
    /// The flows that the kernel tracks could not be listed or deleted.
    #[error("could not forget flows that the kernel tracks: {source}")]
    Flows {
        /// The kernel's answer.
        source: io::Error,
    },
    /// A kernel setting is off and could not be turned on.
    #[error(
        "{key} is {value} and could not be set to {want} ({source}): set it on the host (sysctl -w \
         {key}={want}), or give it to the container (--sysctl {key}={want})"
    )]
    Sysctl {
        /// The dotted name.
        key: String,
        /// What it is now.
        value: String,
        /// What it has to be.
        want: &'static str,
        /// Why it could not be written.
        source: io::Error,
    },
    /// A thread or pipe could not be made.
    #[error("could not {what}: {source}")]
    Resource {
        /// What was attempted.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// What [`KernelEgress::check`](super::KernelEgress::check) found and repaired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The interface had been set down.
    LinkDown,
    /// An address of the server was gone.
    AddressMissing(IpAddr),
    /// The table, or a rule of it, was gone.
    TableMissing,
    /// Forwarding had been turned off.
    ForwardingOff,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::LinkDown => f.write_str("the interface was down"),
            Self::AddressMissing(address) => write!(f, "address {address} was missing"),
            Self::TableMissing => f.write_str("the nftables table was missing or incomplete"),
            Self::ForwardingOff => f.write_str("forwarding was off"),
        }
    }
}
