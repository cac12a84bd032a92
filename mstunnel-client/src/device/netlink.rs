//! Route netlink in words of this crate: links, addresses, routes, rules.
//!
//! A socket acts on the namespace it was opened in, whoever holds it: [`Netlink::of_socket`] takes one of another
//! namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use futures_util::TryStreamExt;
use mstunnel_proto::prefix::Prefix;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::LinkAttribute;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteScope, RouteType};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::{Handle, IpVersion, LinkUnspec, RouteMessageBuilder};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant, sleep};

use super::DeviceError;
use crate::sys;

/// A connection to the kernel's network configuration.
#[derive(Debug)]
pub(crate) struct Netlink {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A route of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RouteEntry {
    pub(crate) prefix: Prefix,
    pub(crate) kind: Kind,
}

/// What a route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Leads into the device.
    Device,
    /// Ends the search in this table; other tables decide.
    Throw,
    /// Refuses, unless a [`Kind::Device`] route of the same prefix is there.
    Unreachable,
}

/// Between routes of one prefix the lower number wins: with its device gone, what was tunnelled is unreachable.
const DEVICE_METRIC: u32 = 100;
const FALLBACK_METRIC: u32 = 4_000;

/// How long the kernel may take with an address, and how often it is looked at.
const SETTLE_LIMIT: Duration = Duration::from_secs(5);
const SETTLE_PERIOD: Duration = Duration::from_millis(2);

/// The rule that leads all sockets without a mark to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) table: u32,
    pub(crate) mark: u32,
    pub(crate) priority: u32,
}

const FAMILIES: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

impl Netlink {
    /// Opens a connection in the namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, DeviceError> {
        let opened = rtnetlink::new_connection().map_err(DeviceError::kernel("open a netlink socket"))?;
        Ok(Self { task: tokio::spawn(opened.0), handle: opened.1 })
    }

    /// Takes a netlink socket of another namespace.
    pub(crate) fn of_socket(socket: OwnedFd) -> Self {
        let (connection, handle, _) = rtnetlink::from_socket(sys::netlink_socket(socket));
        Self { task: tokio::spawn(connection), handle }
    }

    /// The index of the interface `name`, if there is one.
    pub(crate) async fn index_of(&self, name: &str) -> Result<Option<u32>, DeviceError> {
        match self.handle.link().get().match_name(name.to_owned()).execute().try_next().await {
            Ok(link) => Ok(link.map(|link| link.header.index)),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(explain(format!("look for the interface {name}"), &error)),
        }
    }

    /// The name of the interface `index`.
    async fn name_of(&self, index: u32) -> String {
        let link = self.handle.link().get().match_index(index).execute().try_next().await;
        let attributes = link.ok().flatten().map(|link| link.attributes).unwrap_or_default();
        let name = attributes.into_iter().find_map(|attribute| {
            let LinkAttribute::IfName(name) = attribute else { return None };
            Some(name)
        });
        name.unwrap_or_else(|| index.to_string())
    }

    /// Sets an interface up.
    pub(crate) async fn set_up(&self, index: u32) -> Result<(), DeviceError> {
        let link = LinkUnspec::new_with_index(index).up().build();
        let set = self.handle.link().set(link).execute().await;
        set.map_err(|error| explain("set the interface up".to_owned(), &error))
    }

    /// Sets the MTU of an interface.
    pub(crate) async fn set_mtu(&self, index: u32, mtu: u16) -> Result<(), DeviceError> {
        let link = LinkUnspec::new_with_index(index).mtu(mtu.into()).multicast(false).build();
        let set = self.handle.link().set(link).execute().await;
        set.map_err(|error| explain(format!("set the MTU to {mtu}"), &error))
    }

    /// Gives an interface an address that nothing else is on link with.
    pub(crate) async fn add_address(&self, index: u32, address: IpAddr) -> Result<(), DeviceError> {
        let mut request = self.handle.address().add(index, address, full_length(address)).replace();
        if address.is_ipv6() {
            // Nobody on a TUN device could answer whether the address is taken.
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        let added = request.execute().await;
        added.map_err(|error| explain(format!("give the interface the address {address}"), &error))?;
        self.settle(address).await
    }

    /// Waits until the kernel takes packets for an IPv6 address: it makes the address's route a moment after it has
    /// said that the address is there, and an answer within that moment would be lost.
    async fn settle(&self, address: IpAddr) -> Result<(), DeviceError> {
        let IpAddr::V6(address) = address else { return Ok(()) };
        let is_settled = |route: &RouteMessage| {
            route.header.kind == RouteType::Local
                && route.attributes.contains(&RouteAttribute::Destination(RouteAddress::Inet6(address)))
        };
        let until = Instant::now() + SETTLE_LIMIT;
        while !self.routes(RouteMessageBuilder::<Ipv6Addr>::new().build()).await?.iter().any(is_settled) {
            if Instant::now() > until {
                let what = format!("use the address {address}");
                return Err(DeviceError::Kernel { what, source: io::ErrorKind::TimedOut.into() });
            }
            sleep(SETTLE_PERIOD).await;
        }
        Ok(())
    }

    /// The routes of one family, of all tables.
    async fn routes(&self, family: RouteMessage) -> Result<Vec<RouteMessage>, DeviceError> {
        let list = self.handle.route().get(family).execute().try_collect().await;
        list.map_err(|error| explain("list the routes".to_owned(), &error))
    }

    /// Takes an address from an interface; one that is not there is as good.
    pub(crate) async fn remove_address(&self, index: u32, address: IpAddr) -> Result<(), DeviceError> {
        let found = self.addresses().await?;
        let Some(message) = found.into_iter().find(|m| m.header.index == index && local(m) == Some(address))
        else {
            return Ok(());
        };
        match self.handle.address().del(message).execute().await {
            Ok(()) => Ok(()),
            Err(error) if errno(&error) == Some(libc::EADDRNOTAVAIL) => Ok(()),
            Err(error) => Err(explain(format!("take the address {address} from the interface"), &error)),
        }
    }

    /// The interface other than `own` that has `address`, if one has.
    pub(crate) async fn holder_of(&self, address: IpAddr, own: u32) -> Result<Option<String>, DeviceError> {
        let found = self.addresses().await?;
        match found.iter().find(|message| message.header.index != own && local(message) == Some(address)) {
            Some(message) => Ok(Some(self.name_of(message.header.index).await)),
            None => Ok(None),
        }
    }

    async fn addresses(&self) -> Result<Vec<AddressMessage>, DeviceError> {
        let list = self.handle.address().get().execute().try_collect().await;
        list.map_err(|error| explain("list the addresses".to_owned(), &error))
    }

    /// Adds a route to `table`, in place of one of the same prefix and kind.
    pub(crate) async fn add_route(
        &self,
        table: u32,
        index: u32,
        entry: RouteEntry,
    ) -> Result<(), DeviceError> {
        let added = self.handle.route().add(message(table, index, entry)).replace().execute().await;
        added.map_err(|error| explain(format!("add the route {}", entry.prefix), &error))
    }

    /// Removes a route; one that is not there is as good.
    pub(crate) async fn remove_route(
        &self,
        table: u32,
        index: u32,
        entry: RouteEntry,
    ) -> Result<(), DeviceError> {
        match self.handle.route().del(message(table, index, entry)).execute().await {
            Ok(()) => Ok(()),
            Err(error) if errno(&error) == Some(libc::ESRCH) => Ok(()),
            Err(error) => Err(explain(format!("remove the route {}", entry.prefix), &error)),
        }
    }

    /// Removes every route of `table`.
    pub(crate) async fn flush(&self, table: u32) -> Result<(), DeviceError> {
        for blank in
            [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()]
        {
            let list = self.routes(blank).await?;
            for route in list.into_iter().filter(|route| table_of(route) == table) {
                match self.handle.route().del(route).execute().await {
                    Ok(()) => {}
                    Err(error) if errno(&error) == Some(libc::ESRCH) => {}
                    Err(error) => return Err(explain(format!("empty the routing table {table}"), &error)),
                }
            }
        }
        Ok(())
    }

    /// Adds the rule, for both families as far as this kernel has them.
    pub(crate) async fn add_rule(&self, rule: Rule) -> Result<(), DeviceError> {
        for family in FAMILIES {
            let mut request = self.handle.rule().add().table_id(rule.table).priority(rule.priority);
            let message = request.message_mut();
            message.header.action = RuleAction::ToTable;
            message.header.flags |= RuleFlags::Invert;
            message.attributes.push(RuleAttribute::FwMark(rule.mark));
            message.attributes.push(RuleAttribute::FwMask(u32::MAX));
            let added = match family {
                IpVersion::V4 => request.v4().execute().await,
                IpVersion::V6 => request.v6().execute().await,
            };
            match added {
                Ok(()) => {}
                Err(error) if errno(&error) == Some(libc::EAFNOSUPPORT) => {}
                Err(error) => return Err(explain("add a routing rule".to_owned(), &error)),
            }
        }
        Ok(())
    }

    /// Whether a rule of this priority or to this table is there.
    pub(crate) async fn has_rule(&self, rule: Rule) -> Result<bool, DeviceError> {
        Ok(!self.rules(rule).await?.is_empty())
    }

    /// Removes the rules to this table; none is as good.
    pub(crate) async fn remove_rules(&self, rule: Rule) -> Result<(), DeviceError> {
        for message in self.rules(rule).await? {
            match self.handle.rule().del(message).execute().await {
                Ok(()) => {}
                Err(error) if errno(&error) == Some(libc::ENOENT) => {}
                Err(error) => return Err(explain("remove a routing rule".to_owned(), &error)),
            }
        }
        Ok(())
    }

    async fn rules(&self, rule: Rule) -> Result<Vec<RuleMessage>, DeviceError> {
        let mut found = Vec::new();
        for family in FAMILIES {
            let list: Result<Vec<RuleMessage>, _> =
                self.handle.rule().get(family).execute().try_collect().await;
            match list {
                Ok(list) => found.extend(list.into_iter().filter(|message| {
                    message.attributes.contains(&RuleAttribute::Table(rule.table))
                        && message.attributes.contains(&RuleAttribute::Priority(rule.priority))
                })),
                Err(error) if errno(&error) == Some(libc::EAFNOSUPPORT) => {}
                Err(error) => return Err(explain("list the routing rules".to_owned(), &error)),
            }
        }
        Ok(found)
    }
}

fn message(table: u32, index: u32, entry: RouteEntry) -> RouteMessage {
    let (kind, metric) = match entry.kind {
        Kind::Device => (RouteType::Unicast, DEVICE_METRIC),
        Kind::Throw => (RouteType::Throw, DEVICE_METRIC),
        Kind::Unreachable => (RouteType::Unreachable, FALLBACK_METRIC),
    };
    let with_device = entry.kind == Kind::Device;
    match entry.prefix.network() {
        IpAddr::V4(network) => {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(network, entry.prefix.length())
                .table_id(table)
                .priority(metric)
                .kind(kind);
            if with_device {
                builder.output_interface(index).scope(RouteScope::Link).build()
            } else {
                builder.build()
            }
        }
        IpAddr::V6(network) => {
            let builder = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(network, entry.prefix.length())
                .table_id(table)
                .priority(metric)
                .kind(kind);
            if with_device { builder.output_interface(index).build() } else { builder.build() }
        }
    }
}

fn table_of(route: &RouteMessage) -> u32 {
    let said = route.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Table(table) = attribute else { return None };
        Some(*table)
    });
    said.unwrap_or_else(|| route.header.table.into())
}

/// `IFA_LOCAL` is the host's own end; IPv6 has only `IFA_ADDRESS`.
fn local(message: &AddressMessage) -> Option<IpAddr> {
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

fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    let rtnetlink::Error::NetlinkError(message) = error else { return None };
    message.code.map(|code| code.get().saturating_neg())
}

fn explain(what: String, error: &rtnetlink::Error) -> DeviceError {
    let source = match errno(error) {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error.to_string()),
    };
    DeviceError::Kernel { what, source }
}
