//! The whole machine behind the tunnel: a TUN device, a routing table of our own, a few packet rules, the resolver.
//!
//! ```text
//!   ip rule 3100: not fwmark MARK -> table 28019    every socket but ours, before the host's own tables
//!
//!   table 28019            full tunnel              split tunnel
//!     default              dev mst0                 -
//!     include              -                        dev mst0
//!     the same, worse      unreachable              unreachable     what is left when the device is gone
//!     exclude              throw                    throw           the host's own tables decide
//!     family without       unreachable              unreachable     R53
//!
//!   nftables, table inet mstunnel-client
//!     a packet for our address that comes by another interface is dropped           R49
//!     a packet to a tunnelled destination that leaves by another interface is too   R64
//!     the mark of our connections is put on their answers, for strict rp_filter
//! ```
//!
//! The table is asked before the host's own ones, and it says something about every destination that the tunnel
//! carries. So no route that a local network, DHCP or a router advertisement makes can pull such a packet out,
//! however specific (R64, R66). The server is reached by sockets with the mark, and by nothing else: there is no
//! route to its address (R65). Only this host's own addresses, which the kernel keeps in its table `local`, come first.
//!
//! Nothing of this depends on the client being alive: the rules, the unreachable routes and the packet rules stay
//! when it is killed, so that nothing gets out in clear (R68). [`restore`] undoes them, at the next start too; what
//! there is to undo is written down before it is done. A restart of the machine undoes all but the resolver's file,
//! which is known by its first line.

mod firewall;
mod resolver;
mod state;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use socket2::{Domain, Socket, Type};

use crate::device::{self, DeviceError, Kind, Netlink, Offloads, Plan, RouteEntry, Rule, Tun, Way};
use firewall::Firewall;
use resolver::Resolver;
use state::{Lock, State};

pub use firewall::FirewallError;
pub use resolver::{ResolverError, ResolverKind};
pub use state::{StateError, default_directory};

/// The mark of the client's own sockets (SO_MARK), "ms".
pub const MARK: u32 = 0x6d73;

/// The routing table: a number that no distribution uses.
pub const TABLE: u32 = 0x6d73;

/// Where the rule stands: behind the kernel's table `local` (0) and before what other programs and the
/// distribution add (5210 and on), so that none of them decides first.
pub const PRIORITY: u32 = 3_100;

const RULE: Rule = Rule { table: TABLE, mark: MARK, priority: PRIORITY };

/// Whether reverse path filters look at marks.
const SRC_VALID_MARK: &str = "/proc/sys/net/ipv4/conf/all/src_valid_mark";

/// Why the host cannot be put behind the tunnel, or back.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The device, its addresses or routes.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The packet rules.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// The resolver.
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    /// The state file.
    #[error(transparent)]
    State(#[from] StateError),
    /// Somebody else's rules are where ours go.
    #[error(
        "a routing rule of another mstunnel-client is there (priority {PRIORITY}, table {TABLE}): end that one, or \
         run `mstunnel-client restore` with its --state-directory"
    )]
    RulesThere,
    /// The server assigned an address that is this host's already.
    #[error("the server assigned {address}, which is the address of {interface}: the networks overlap")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Who has it.
        interface: String,
    },
    /// A kernel setting.
    #[error("cannot set {path} to 1: {source}")]
    Sysctl {
        /// The file.
        path: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The right to change this host's network, and the device; nothing else is changed yet.
#[derive(Debug)]
pub struct Host {
    interface: String,
    lock: Lock,
    netlink: Netlink,
    index: u32,
    tun: Option<(OwnedFd, Offloads)>,
    /// What there is to undo; written down too, for when we are killed.
    state: Option<State>,
    applied: Option<Applied>,
    resolver: Option<Resolver>,
}

/// What is set up now.
#[derive(Debug)]
struct Applied {
    plan: Plan,
    routes: Vec<RouteEntry>,
}

/// Undoes what a client that was killed has left; returns what that was, one phrase each.
///
/// # Errors
/// [`StateError::Running`] when it was not killed; else what cannot be undone.
pub async fn restore(directory: &Path) -> Result<Vec<String>, HostError> {
    let mut lock = Lock::take(directory)?;
    undo_leftovers(&mut lock).await
}

/// What is put back after a restart of the machine.
const FORGOTTEN: &str = "the resolver's file of before the machine was started again";

async fn undo_leftovers(lock: &mut Lock) -> Result<Vec<String>, HostError> {
    let netlink = Netlink::open()?;
    let Some(state) = lock.load()? else {
        // A restart of the machine takes the state and the rules with it, and leaves the resolver's file. Where the
        // rules are there, both are those of a client with another state directory.
        let is_forgotten = !netlink.has_rule(RULE).await? && resolver::undo_forgotten(lock.directory())?;
        return Ok(if is_forgotten { vec![FORGOTTEN.to_owned()] } else { Vec::new() });
    };
    undo(&netlink, &state, Resolver::of(&state).as_ref()).await?;
    lock.clear()?;
    Ok(vec![format!("routes, rules and resolver of {}", state.interface)])
}

/// Puts back everything that `state` says. The resolver first: names are asked where the routes lead.
async fn undo(netlink: &Netlink, state: &State, resolver: Option<&Resolver>) -> Result<(), HostError> {
    let resolver = resolver.map_or(Ok(()), Resolver::undo);
    let rules = async {
        netlink.remove_rules(RULE).await?;
        netlink.flush(TABLE).await
    };
    let rules = rules.await;
    let firewall = firewall::remove();
    if let Some(before) = &state.src_valid_mark {
        fs::write(SRC_VALID_MARK, before)
            .map_err(|source| HostError::Sysctl { path: SRC_VALID_MARK, source })?;
    }
    resolver?;
    rules?;
    firewall?;
    Ok(())
}

impl Host {
    /// Undoes what a killed client has left, and makes the device; the second value says what was undone.
    ///
    /// # Errors
    /// [`HostError`] says what is missing.
    pub async fn open(interface: &str, directory: &Path) -> Result<(Self, Vec<String>), HostError> {
        device::check_name(interface)?;
        check_rights(interface)?;
        let mut lock = Lock::take(directory)?;
        let undone = undo_leftovers(&mut lock).await?;
        let netlink = Netlink::open()?;
        if netlink.has_rule(RULE).await? {
            return Err(HostError::RulesThere);
        }
        Firewall::check()?;
        let tun = device::create_with_offloads(interface)?;
        let index = netlink.index_of(interface).await?.ok_or_else(|| {
            DeviceError::kernel(format!("find the interface {interface}"))(io::ErrorKind::NotFound.into())
        })?;
        let host = Self {
            interface: interface.to_owned(),
            lock,
            netlink,
            index,
            tun: Some(tun),
            state: None,
            applied: None,
            resolver: None,
        };
        Ok((host, undone))
    }

    /// The device; once.
    ///
    /// # Errors
    /// When the reactor cannot take it.
    ///
    /// # Panics
    /// When it is asked for twice.
    pub fn take_tun(&mut self) -> io::Result<Tun> {
        let (device, offloads) = self.tun.take().expect("the device of a host is taken once");
        Tun::new(device, offloads)
    }

    /// The name of the device.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// How names are asked through the tunnel; `None` while they are not.
    pub fn resolver(&self) -> Option<ResolverKind> {
        self.resolver.as_ref().map(Resolver::kind)
    }

    /// Does what `plan` says, or changes what is done to it. What must not get out is stopped first.
    ///
    /// # Errors
    /// [`HostError`]; what was done until then stays, for [`Host::close`] to undo.
    pub async fn apply(&mut self, plan: &Plan) -> Result<(), HostError> {
        for address in &plan.addresses {
            if let Some(interface) = self.netlink.holder_of(*address, self.index).await? {
                return Err(HostError::AddressTaken { address: *address, interface });
            }
        }
        let is_first = self.applied.is_none();
        let mut state = self.state.clone().unwrap_or_else(|| State::new(&self.interface));
        if is_first {
            if has_strict_reverse_path() && state.src_valid_mark.is_none() {
                state.src_valid_mark = fs::read_to_string(SRC_VALID_MARK).ok();
            }
            self.note(&state)?;
        }
        Firewall { interface: &self.interface, mark: MARK, plan }.apply()?;
        if state.src_valid_mark.is_some() {
            fs::write(SRC_VALID_MARK, "1")
                .map_err(|source| HostError::Sysctl { path: SRC_VALID_MARK, source })?;
        }
        if plan.dns.is_empty() {
            // Before the routes go that led to those of before.
            self.ask_nobody(&mut state)?;
        }
        self.configure(plan).await?;
        if is_first {
            self.netlink.add_rule(RULE).await?;
        }
        self.ask(plan, state)?;
        Ok(())
    }

    /// Writes down what there is to undo, before it is done.
    fn note(&mut self, state: &State) -> Result<(), StateError> {
        self.lock.store(state)?;
        self.state = Some(state.clone());
        Ok(())
    }

    /// The device and its table.
    async fn configure(&mut self, plan: &Plan) -> Result<(), HostError> {
        let (netlink, index) = (&self.netlink, self.index);
        netlink.set_mtu(index, plan.mtu).await?;
        if plan.addresses.iter().any(IpAddr::is_ipv6) {
            let settings = Path::new("/proc/sys/net/ipv6/conf").join(&self.interface);
            // A host without IPv6 gets it on this device only; the kernel makes up no address for it.
            let _ = fs::write(settings.join("disable_ipv6"), "0");
            let _ = fs::write(settings.join("addr_gen_mode"), "1");
        }
        netlink.set_up(index).await?;
        for address in &plan.addresses {
            netlink.add_address(index, *address).await?;
        }
        let wanted = entries(plan);
        let (before, addresses) = match self.applied.take() {
            Some(applied) => (applied.routes, applied.plan.addresses),
            None => (Vec::new(), Vec::new()),
        };
        // What refuses comes before what leads somewhere, and the old goes last: no moment has less than both.
        for route in wanted.iter().filter(|route| route.kind == Kind::Unreachable) {
            add_route(netlink, index, *route).await?;
        }
        for route in wanted.iter().filter(|route| route.kind != Kind::Unreachable) {
            add_route(netlink, index, *route).await?;
        }
        for route in before.iter().filter(|route| !wanted.contains(route)) {
            netlink.remove_route(TABLE, index, *route).await?;
        }
        for address in addresses.iter().filter(|address| !plan.addresses.contains(address)) {
            netlink.remove_address(index, *address).await?;
        }
        self.applied = Some(Applied { plan: plan.clone(), routes: wanted });
        Ok(())
    }

    /// The resolver.
    fn ask(&mut self, plan: &Plan, mut state: State) -> Result<(), HostError> {
        if plan.dns.is_empty() {
            return Ok(());
        }
        let resolver = match &mut self.resolver {
            Some(resolver) => resolver,
            None => {
                let resolver = Resolver::find(&self.interface, self.lock.directory());
                state.resolver = Some(resolver.kind());
                self.note(&state)?;
                self.resolver.insert(resolver)
            }
        };
        resolver.apply(plan)?;
        Ok(())
    }

    /// The resolver is the host's again: the server tells no name servers any more.
    fn ask_nobody(&mut self, state: &mut State) -> Result<(), HostError> {
        if let Some(resolver) = &self.resolver {
            resolver.undo()?;
            self.resolver = None;
            state.resolver = None;
            self.note(state)?;
        }
        Ok(())
    }

    /// Puts everything back, from memory: the state directory may have been cleaned meanwhile.
    ///
    /// # Errors
    /// What could not be put back; the rest is all the same, and the next start tries again.
    pub async fn close(mut self) -> Result<(), HostError> {
        if let Some(state) = &self.state {
            undo(&self.netlink, state, self.resolver.as_ref()).await?;
            self.lock.clear()?;
        }
        Ok(())
    }
}

/// Whether this process may mark sockets, which is the same right that everything here needs; asked first, because
/// it says more than whatever would fail without it.
fn check_rights(interface: &str) -> Result<(), DeviceError> {
    let socket =
        Socket::new(Domain::IPV4, Type::DGRAM, None).map_err(DeviceError::kernel("open a socket"))?;
    let marked = socket.set_mark(MARK);
    marked.map_err(|_| DeviceError::NotPermitted { name: interface.to_owned() })
}

async fn add_route(netlink: &Netlink, index: u32, route: RouteEntry) -> Result<(), DeviceError> {
    match netlink.add_route(TABLE, index, route).await {
        // A kernel without IPv6 sends none.
        Err(DeviceError::Kernel { source, .. })
            if !route.prefix.is_ipv4() && source.raw_os_error() == Some(libc::EAFNOSUPPORT) =>
        {
            Ok(())
        }
        added => added,
    }
}

/// The routes of the table.
fn entries(plan: &Plan) -> Vec<RouteEntry> {
    let mut entries = Vec::new();
    for route in &plan.routes {
        let entry = |kind| RouteEntry { prefix: route.prefix, kind };
        match route.way {
            Way::Tunnel => entries.extend([entry(Kind::Device), entry(Kind::Unreachable)]),
            Way::Beside => entries.push(entry(Kind::Throw)),
            Way::Nowhere => entries.push(entry(Kind::Unreachable)),
        }
    }
    entries
}

/// Whether some interface accepts only packets whose answer would leave by it (`rp_filter` 1).
fn has_strict_reverse_path() -> bool {
    let Ok(interfaces) = fs::read_dir("/proc/sys/net/ipv4/conf") else { return false };
    let files: Vec<PathBuf> = interfaces.flatten().map(|entry| entry.path().join("rp_filter")).collect();
    files.iter().any(|file| fs::read_to_string(file).is_ok_and(|value| value.trim() == "1"))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use mstunnel_proto::connect::{ConnectParams, InsideAddress};
    use mstunnel_proto::mtu::Mtu;

    use super::*;
    use crate::params::TunnelParams;

    /// Covers: R53, R68
    #[test]
    fn what_is_tunnelled_is_unreachable_without_its_device() {
        let mut said = ConnectParams::new(Mtu::new(1400));
        said.v4 = Some(InsideAddress { address: Ipv4Addr::new(10, 77, 0, 5), prefix_length: 24 });
        said.exclude = vec!["198.51.100.0/24".parse().unwrap()];
        let entries = entries(&Plan::new(&TunnelParams::new(said).unwrap(), 2_048).unwrap());
        let entry = |prefix: &str, kind| RouteEntry { prefix: prefix.parse().unwrap(), kind };
        let want = [
            entry("0.0.0.0/0", Kind::Device),
            entry("0.0.0.0/0", Kind::Unreachable),
            entry("198.51.100.0/24", Kind::Throw),
            entry("::/0", Kind::Unreachable),
        ];
        assert_eq!(entries, want);
    }
}
