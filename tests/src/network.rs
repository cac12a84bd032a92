//! The namespaces client, server and corporate, and the cables between them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::corporate::Corporate;
use crate::netns::Netns;
use crate::requirement;

/// The addresses of one cable between a client and the server.
#[derive(Clone, Copy, Debug)]
pub struct PortPair {
    /// The server's IPv4 address on this cable.
    pub server_v4: Ipv4Addr,
    /// The client's.
    pub client_v4: Ipv4Addr,
    /// The server's IPv6 address on this cable.
    pub server_v6: Ipv6Addr,
    /// The client's.
    pub client_v6: Ipv6Addr,
}

impl PortPair {
    /// Cable `index` has 192.0.2.(4 index)/30 and fd00:c(index)::/64.
    fn new(index: usize) -> Self {
        let index = u8::try_from(index).expect("a test has a handful of clients");
        let v6 = |host| Ipv6Addr::new(0xfd00, 0xc0 + u16::from(index), 0, 0, 0, 0, 0, host);
        Self {
            server_v4: Ipv4Addr::new(192, 0, 2, 4 * index + 1),
            client_v4: Ipv4Addr::new(192, 0, 2, 4 * index + 2),
            server_v6: v6(1),
            client_v6: v6(2),
        }
    }
}

/// Clients, a server and a corporate host, each in a namespace of its own.
///
/// The client knows only its cable to the server, the corporate host only its own: nobody but the server can
/// carry a packet from one to the other, and the corporate host cannot answer an address of the pool.
#[derive(Debug)]
pub struct Network {
    number: usize,
    clients: Vec<(Netns, PortPair)>,
    server: Netns,
    corporate: Corporate,
}

impl Network {
    /// Makes the three namespaces, or says why it cannot (see [`requirement::skip`]).
    pub fn new() -> Option<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        if !requirement::ready() {
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let server = Netns::create(number, "server");
        let corporate = Netns::create(number, "corporate");
        connect(&server, "corp", &corporate, "eth0");
        add_address(&server, "corp", Self::SERVER_INSIDE_V4.into(), 24);
        add_address(&server, "corp", Self::SERVER_INSIDE_V6.into(), 64);
        add_address(&corporate, "eth0", Self::CORPORATE_V4.into(), 24);
        add_address(&corporate, "eth0", Self::CORPORATE_V6.into(), 64);
        let mut network = Self { number, clients: Vec::new(), server, corporate: Corporate::new(corporate) };
        network.add_client();
        Some(network)
    }

    /// The corporate host.
    pub const CORPORATE_V4: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
    /// The corporate host.
    pub const CORPORATE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 2);
    /// The server as the corporate host sees it: the source of everything masqueraded.
    pub const SERVER_INSIDE_V4: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
    /// The same for IPv6.
    pub const SERVER_INSIDE_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x20, 0, 0, 0, 0, 0, 1);

    /// Adds a namespace with its own cable to the server and returns its index (the first client has 0).
    pub fn add_client(&mut self) -> usize {
        let index = self.clients.len();
        let pair = PortPair::new(index);
        let client = Netns::create(self.number, &format!("client{index}"));
        let port = format!("cli{index}");
        connect(&self.server, &port, &client, "eth0");
        add_address(&self.server, &port, pair.server_v4.into(), 30);
        add_address(&self.server, &port, pair.server_v6.into(), 64);
        add_address(&client, "eth0", pair.client_v4.into(), 30);
        add_address(&client, "eth0", pair.client_v6.into(), 64);
        self.clients.push((client, pair));
        index
    }

    /// The namespace of client `index`.
    pub fn client(&self, index: usize) -> &Netns {
        &self.clients[index].0
    }

    /// The addresses on the cable of client `index`.
    pub fn ports(&self, index: usize) -> PortPair {
        self.clients[index].1
    }

    /// Every address of the server that a client can connect to.
    pub fn server_addresses(&self) -> Vec<IpAddr> {
        self.clients.iter().flat_map(|(_, pair)| [pair.server_v4.into(), pair.server_v6.into()]).collect()
    }

    /// The namespace of the server.
    pub fn server(&self) -> &Netns {
        &self.server
    }

    /// The corporate host and its services.
    pub fn corporate(&self) -> &Corporate {
        &self.corporate
    }
}

fn connect(left: &Netns, left_port: &str, right: &Netns, right_port: &str) {
    // Made inside one namespace and moved to the other, so that no name can collide outside.
    let peer = ["peer", "name", right_port, "netns", right.name()];
    left.run("ip", &[&["link", "add", left_port, "type", "veth"][..], &peer].concat());
    left.run("ip", &["link", "set", left_port, "up"]);
    right.run("ip", &["link", "set", right_port, "up"]);
}

fn add_address(netns: &Netns, port: &str, address: IpAddr, length: u8) {
    let prefix = format!("{address}/{length}");
    let arguments = ["addr", "add", &prefix, "dev", port];
    match address {
        IpAddr::V4(_) => netns.run("ip", &arguments),
        IpAddr::V6(_) => netns.run("ip", &[&arguments[..], &["nodad"]].concat()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cables_of_two_clients_share_no_address() {
        let (a, b) = (PortPair::new(0), PortPair::new(1));
        assert_eq!(a.server_v4.to_string(), "192.0.2.1");
        assert_eq!(b.client_v4.to_string(), "192.0.2.6");
        assert_eq!(b.server_v6.to_string(), "fd00:c1::1");
    }
}
