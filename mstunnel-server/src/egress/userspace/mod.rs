//! Egress through ordinary sockets of this process: no TUN, no root, no capability.
//!
//! ```text
//!   session --+- TCP flow: Machine (smoltcp) <-> TcpStream --+
//!             +- UDP flow: connected UdpSocket --------------+--> network of this host
//!             +- echo flow: ping socket ---------------------+
//!                (one table a session, one task a flow, all on the session's worker)
//! ```
//!
//! A client's connection is accepted when the host's own is there; bytes then pass with back-pressure both ways.
//! UDP flows and echo identifiers have a socket each. Where a packet may go, `fence` decides when its flow starts.
//! A session without flows costs an empty table.
//!
//! # Limits (R47, R55, R56, R59)
//! `table`: flows of each kind for a session; the session loses its own oldest. `buffers`: bytes for a flow and for
//! a worker. `limit`: packets that the server makes by itself. Descriptors: half of what the process may open at
//! most, so that flows never keep a session out. Everything of a session ends with it, by resets.
//!
//! # What differs from a kernel
//! Fragments are not reassembled, hop limits not counted down, and only TCP, UDP and echo pass. What ICMP says on the
//! way is passed on as far as sockets tell it: refused ports and unreachable hosts.
//!
//! # Source
//! RFC 4787, RFC 5382 and RFC 5508 for timeouts; design.md section 5.

mod buffers;
mod datagrams;
mod echo;
mod fence;
pub(crate) mod fuzzing;
mod host;
mod limit;
mod machine;
mod outlet;
mod port;
mod table;
mod tcp;
mod udp;
mod wire;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use mstunnel_proto::buf::PacketBuf;
use mstunnel_proto::drop::DropReason;
use mstunnel_proto::packet::Family;
use mstunnel_proto::prefix::Prefix;
use mstunnel_proto::session::SessionId;
use rustc_hash::FxHashMap;

use self::buffers::Budget;
use self::fence::Fence;
use self::host::HostAddresses;
use self::outlet::Outlet;
use super::listed::{Allowed, Published};

/// The pause between two complaints about the same thing.
const COMPLAINT_PERIOD: Duration = Duration::from_secs(60);

/// The connection of a session as its flows see it.
pub(crate) trait ToClient {
    /// The longest packet for it, in bytes; no more than a buffer holds.
    fn mtu(&self) -> usize;

    /// An empty buffer.
    fn buffer(&self) -> PacketBuf;

    /// Gives a buffer back.
    fn recycle(&self, packet: PacketBuf);

    /// Whether the connection takes packets without making them wait.
    fn has_room(&self) -> bool;

    /// Waits for [`ToClient::has_room`].
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Sends a packet, whose buffer may be replaced; [`ToClient::flush`] follows after a burst.
    fn send(&self, packet: &mut PacketBuf, now: Instant);

    /// Sees to it that what was sent leaves.
    fn flush(&self, now: Instant);

    /// Counts a packet of this session that was dropped.
    fn count_drop(&self, reason: DropReason);
}

/// What userspace egress is told.
#[derive(Clone, Debug)]
pub(crate) struct UserspaceConfig {
    /// The prefixes of clients.
    pub(crate) pools: Vec<Prefix>,
    /// The server's own inside addresses.
    pub(crate) own_addresses: Vec<IpAddr>,
    /// The name servers that clients are told.
    pub(crate) dns: Vec<IpAddr>,
    /// What is open although it is special.
    pub(crate) allow: Vec<Allowed>,
    /// What is published.
    pub(crate) publish: Vec<Published>,
    /// Descriptors that all flows together may take.
    pub(crate) max_descriptors: usize,
}

/// Why userspace egress cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UserspaceError {
    /// Without the list, the host's own services would be open to clients.
    #[error(
        "cannot list this host's addresses, which clients must not reach: allow netlink sockets \
         (in a systemd unit, RestrictAddressFamilies= with AF_NETLINK)"
    )]
    HostAddresses(#[source] io::Error),
}

/// What all workers of a server share.
#[derive(Debug)]
pub(crate) struct Plan {
    fence: Fence,
    own: Vec<IpAddr>,
    descriptors: Arc<Descriptors>,
    warnings: Vec<String>,
}

impl Plan {
    /// Checks what the host offers.
    ///
    /// # Errors
    /// [`UserspaceError`]
    pub(crate) fn new(config: UserspaceConfig) -> Result<Self, UserspaceError> {
        host::list().map_err(UserspaceError::HostAddresses)?;
        let families = [Family::V4, Family::V6];
        let served = families
            .into_iter()
            .filter(|&family| config.own_addresses.iter().any(|own| Family::of(*own) == family));
        let warnings = served
            .filter_map(|family| echo::check(family).err().map(|error| no_echo(family, &error)))
            .collect();
        let UserspaceConfig { pools, own_addresses, dns, allow, publish, max_descriptors } = config;
        Ok(Self {
            fence: Fence::new(&pools, &dns, own_addresses.clone(), &allow, &publish),
            own: own_addresses,
            descriptors: Arc::new(Descriptors { left: AtomicUsize::new(max_descriptors) }),
            warnings,
        })
    }

    /// What an administrator should look at, one sentence each.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// Says what is missing for `ping`.
fn no_echo(family: Family, error: &io::Error) -> String {
    let family = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    format!(
        "clients' {family} pings get no answer, because the kernel refuses ping sockets to this process ({error}): allow \
         its group, for example with sysctl -w net.ipv4.ping_group_range=\"0 2147483647\", which is for both families"
    )
}

/// The descriptors that flows may still take.
#[derive(Debug)]
struct Descriptors {
    left: AtomicUsize,
}

impl Descriptors {
    fn take(self: &Arc<Self>) -> Option<Ticket> {
        let one_less = |left: usize| left.checked_sub(1);
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        taken.is_ok().then(|| Ticket(Arc::clone(self)))
    }
}

/// The right to one descriptor.
#[derive(Debug)]
struct Ticket(Arc<Descriptors>);

impl Drop for Ticket {
    fn drop(&mut self) {
        self.0.left.fetch_add(1, Ordering::Relaxed);
    }
}

/// What the outlets of one worker share.
struct Common {
    plan: Arc<Plan>,
    host: HostAddresses,
    budget: Budget,
    complained: Cell<Option<Instant>>,
}

impl Common {
    fn complain_of_descriptors(&self, now: Instant) {
        let complained = self.complained.get();
        if complained.is_none_or(|at| now.saturating_duration_since(at) >= COMPLAINT_PERIOD) {
            self.complained.set(Some(now));
            tracing::warn!("no descriptor is left for clients' connections; raise LimitNOFILE");
        }
    }
}

/// The userspace egress of one worker.
pub(crate) struct Userspace {
    common: Rc<Common>,
    outlets: RefCell<FxHashMap<IpAddr, Rc<Session>>>,
}

/// A session with its way out, for as long as one of its connections is there.
struct Session {
    id: SessionId,
    outlet: Rc<Outlet>,
    /// Those of all its connections: a later one may have fewer.
    addresses: RefCell<Vec<IpAddr>>,
    /// How many connections hold it: two for a moment, when one takes over from the other.
    holders: Cell<usize>,
}

impl Userspace {
    /// Starts on the calling worker.
    ///
    /// # Errors
    /// As [`Plan::new`].
    pub(crate) fn new(plan: Arc<Plan>) -> io::Result<Self> {
        let host = HostAddresses::new(Instant::now())?;
        let common = Common { plan, host, budget: Budget::default(), complained: Cell::new(None) };
        Ok(Self { common: Rc::new(common), outlets: RefCell::default() })
    }

    /// Takes a packet of a client whose source was checked.
    ///
    /// # Errors
    /// Why it was dropped.
    pub(crate) fn send(&self, packet: &[u8], now: Instant) -> Result<(), DropReason> {
        let source = source(packet).ok_or(DropReason::Malformed)?;
        let outlet = self.outlets.borrow().get(&source).map(|session| Rc::clone(&session.outlet));
        outlet.ok_or(DropReason::NoSession)?.handle_packet(packet, now)
    }

    /// Opens the way out for a connection of session `id`, which goes on with what an earlier one has opened.
    pub(crate) fn attach(
        self: &Rc<Self>,
        id: SessionId,
        addresses: impl Iterator<Item = IpAddr>,
        client: Rc<dyn ToClient>,
    ) -> Attached {
        let addresses: Vec<IpAddr> = addresses.collect();
        let mut outlets = self.outlets.borrow_mut();
        let held = addresses.iter().filter_map(|address| outlets.get(address)).find(|held| held.id == id);
        let session = match held.cloned() {
            Some(session) => {
                session.outlet.set_client(client);
                session
            }
            None => {
                let outlet = Outlet::new(Rc::clone(&self.common), client, Instant::now());
                Rc::new(Session { id, outlet, addresses: RefCell::default(), holders: Cell::new(0) })
            }
        };
        session.holders.set(session.holders.get() + 1);
        let mut known = session.addresses.borrow_mut();
        for address in addresses {
            outlets.insert(address, Rc::clone(&session));
            if !known.contains(&address) {
                known.push(address);
            }
        }
        drop(known);
        Attached { userspace: Rc::clone(self), session }
    }
}

/// A connection's hold on the way out of its session; the flows end with the last one.
pub(crate) struct Attached {
    userspace: Rc<Userspace>,
    session: Rc<Session>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        let holders = self.session.holders.get() - 1;
        self.session.holders.set(holders);
        if holders > 0 {
            return;
        }
        let mut outlets = self.userspace.outlets.borrow_mut();
        for address in self.session.addresses.borrow().iter() {
            if outlets.get(address).is_some_and(|held| Rc::ptr_eq(held, &self.session)) {
                outlets.remove(address);
            }
        }
        drop(outlets);
        self.session.outlet.end();
    }
}

/// The source address, read at its place in a packet that was checked before.
fn source(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(12..16)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        6 => packet.get(8..24)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

/// Eight bytes that nobody can guess: sequence numbers come from them.
fn random() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system's random generator does not fail");
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests;
