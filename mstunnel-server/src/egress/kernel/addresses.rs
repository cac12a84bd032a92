//! The interface as route netlink sees it: found, configured, looked at, removed.
//!
//! The server's address carries the length of its pool, so that the kernel makes the pool's route by
//! itself and takes it away with the interface. IPv6 addresses skip duplicate address detection
//! (`nodad`): nobody on a TUN device could answer, and the address would be unusable for a second.
//!
//! Each call runs on a thread of its own with a small runtime, so that callers may be blocking code
//! or live inside of any runtime.

use std::future::Future;
use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::{Handle, LinkUnspec};

use super::{EgressConfig, EgressError, Fault};

/// Removes an interface of our name that a killed run left behind.
///
/// A TUN device dies with the last process that holds it, unless it was made persistent. One without
/// a carrier is held by nobody and goes, with its addresses and routes.
pub(super) fn remove_stale(name: &str) -> Result<(), EgressError> {
    let name = name.to_owned();
    netlink(async move |handle| {
        let Some(link) = link_by_name(&handle, &name).await? else { return Ok(()) };
        if !is_tun(&link) {
            return Err(EgressError::NameTaken { name });
        }
        if has_carrier(&link) {
            return Err(EgressError::InUse { name });
        }
        let what = || format!("remove the stale interface {name}");
        handle.link().del(link.header.index).execute().await.map_err(|error| explain(what(), &error))
    })
}

/// Whether a process holds the interface of this name open.
pub(super) fn is_held(name: &str) -> Result<bool, EgressError> {
    let name = name.to_owned();
    netlink(async move |handle| {
        Ok(link_by_name(&handle, &name).await?.is_some_and(|link| has_carrier(&link)))
    })
}

/// The index of the interface of this name.
pub(super) fn index_of(name: &str) -> Result<u32, EgressError> {
    let name = name.to_owned();
    netlink(async move |handle| match link_by_name(&handle, &name).await? {
        Some(link) => Ok(link.header.index),
        None => Err(EgressError::Gone { name }),
    })
}

/// Sets the MTU, the server's addresses and the interface up. May be repeated.
pub(super) fn configure(config: &EgressConfig, index: u32) -> Result<(), EgressError> {
    let config = config.clone();
    netlink(async move |handle| {
        refuse_overlap(&handle, &config, index).await?;
        let name = &config.interface;
        let mtu = LinkUnspec::new_with_index(index).mtu(config.mtu.into()).multicast(false).build();
        let set = handle.link().set(mtu).execute().await;
        set.map_err(|error| explain(format!("set the mtu of {name} to {}", config.mtu), &error))?;
        for (address, pool) in &config.addresses {
            let mut request = handle.address().add(index, *address, pool.length()).replace();
            if address.is_ipv6() {
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            let what = || format!("give {name} the address {address}/{}", pool.length());
            request.execute().await.map_err(|error| explain(what(), &error))?;
        }
        let up = LinkUnspec::new_with_index(index).up().build();
        handle.link().set(up).execute().await.map_err(|error| explain(format!("set {name} up"), &error))
    })
}

/// Tells what differs from what [`configure`] made.
pub(super) fn check(config: &EgressConfig, index: u32) -> Result<Vec<Fault>, EgressError> {
    let config = config.clone();
    netlink(async move |handle| {
        let link = link_by_name(&handle, &config.interface).await?;
        let Some(link) = link.filter(|link| link.header.index == index) else {
            return Err(EgressError::Gone { name: config.interface });
        };
        let mut faults = Vec::new();
        if !link.header.flags.contains(LinkFlags::Up) {
            faults.push(Fault::LinkDown);
        }
        let present = addresses(&handle).await?;
        for (address, _) in &config.addresses {
            if !present.iter().any(|(at, have)| *at == index && have == address) {
                faults.push(Fault::AddressMissing(*address));
            }
        }
        Ok(faults)
    })
}

/// Removes the interface; one that is gone already is as good.
pub(super) fn remove(index: u32) -> Result<(), EgressError> {
    netlink(async move |handle| match handle.link().del(index).execute().await {
        Ok(()) => Ok(()),
        Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(()),
        Err(error) => Err(explain("remove the interface".to_owned(), &error)),
    })
}

/// Refuses a pool that holds an address of this host on another interface: the fences would cut the
/// host off, and a client could be leased the address.
async fn refuse_overlap(handle: &Handle, config: &EgressConfig, own: u32) -> Result<(), EgressError> {
    for (index, address) in addresses(handle).await? {
        let inside = config.addresses.iter().find(|(_, pool)| pool.contains(address));
        let Some((_, pool)) = inside.filter(|_| index != own) else { continue };
        let link = handle.link().get().match_index(index).execute().try_next().await.ok().flatten();
        let name = link.as_ref().and_then(name_of).unwrap_or("?").to_owned();
        return Err(EgressError::PoolOverlaps { pool: *pool, address, name });
    }
    Ok(())
}

/// Every address of this host with the index of its interface.
async fn addresses(handle: &Handle) -> Result<Vec<(u32, IpAddr)>, EgressError> {
    let list = handle.address().get().execute();
    let list: Vec<AddressMessage> =
        list.try_collect().await.map_err(|error| explain("list the addresses".to_owned(), &error))?;
    Ok(list.iter().filter_map(|message| Some((message.header.index, local_address(message)?))).collect())
}

/// `IFA_LOCAL` is the host's own end; IPv6 has only `IFA_ADDRESS`.
fn local_address(message: &AddressMessage) -> Option<IpAddr> {
    let mut found = None;
    for attribute in &message.attributes {
        if let AddressAttribute::Local(address) = attribute {
            return Some(*address);
        }
        if let AddressAttribute::Address(address) = attribute {
            found = Some(*address);
        }
    }
    found
}

async fn link_by_name(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, EgressError> {
    match handle.link().get().match_name(name).execute().try_next().await {
        Ok(link) => Ok(link),
        Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
        Err(error) => Err(explain(format!("look for the interface {name}"), &error)),
    }
}

fn name_of(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| {
        let LinkAttribute::IfName(name) = attribute else { return None };
        Some(name.as_str())
    })
}

fn is_tun(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| {
        let LinkAttribute::LinkInfo(infos) = attribute else { return false };
        infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Tun)))
    })
}

/// The driver turns the carrier on while a process holds a queue, whether the interface is up or not.
fn has_carrier(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::Carrier(1..)))
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    let rtnetlink::Error::NetlinkError(message) = error else { return None };
    message.code.map(|code| code.get().saturating_neg())
}

fn explain(what: String, error: &rtnetlink::Error) -> EgressError {
    match errno(error) {
        Some(libc::EPERM) => EgressError::NotPermitted { what: "changing an interface" },
        Some(code) => EgressError::Netlink { what, reason: io::Error::from_raw_os_error(code).to_string() },
        None => EgressError::Netlink { what, reason: error.to_string() },
    }
}

/// Runs `work` with a netlink connection on a thread with a runtime of its own, and waits for it.
fn netlink<T, W, F>(work: W) -> Result<T, EgressError>
where
    T: Send + 'static,
    W: FnOnce(Handle) -> F + Send + 'static,
    F: Future<Output = Result<T, EgressError>>,
{
    let resource = |what| move |source| EgressError::Resource { what, source };
    let thread = std::thread::Builder::new().name("netlink".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(resource("start a runtime for netlink"))?;
        runtime.block_on(async move {
            let (connection, handle, _) =
                rtnetlink::new_connection().map_err(resource("open a netlink socket"))?;
            let connection = tokio::spawn(connection);
            let answer = work(handle).await;
            connection.abort();
            answer
        })
    });
    let thread = thread.map_err(resource("start a thread for netlink"))?;
    thread.join().unwrap_or_else(|_| {
        Err(EgressError::Netlink { what: "talk to the kernel".to_owned(), reason: "defect".to_owned() })
    })
}
