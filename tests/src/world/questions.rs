//! What a test asks of the world, and demands of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use mstunnel_proto::auth::Cookie;
use mstunnel_proto::drop::DropReason;
use mstunnel_proto::session::{Channel, Leases};

use super::client::Ending;
use super::judge::goes_through;
use super::link::Link;
use super::probe::Wish;
use super::{ClientId, MAX_AT_ONCE, ServerId, World};

impl World {
    /// Whether the client's tunnel is open, as far as the client knows.
    pub fn is_live(&self, client: ClientId) -> bool {
        self.places[client.0].client.leases().is_some()
    }

    /// Where the client stands, in a word.
    pub fn stage(&self, client: ClientId) -> &'static str {
        self.places[client.0].client.stage()
    }

    /// How the client's last life ended.
    pub fn ending(&self, client: ClientId) -> Option<Ending> {
        self.places[client.0].client.ending()
    }

    /// The client's inside addresses.
    pub fn leases(&self, client: ClientId) -> Option<Leases> {
        self.places[client.0].client.leases()
    }

    /// The channel that the client's packets take.
    pub fn channel(&self, client: ClientId) -> Option<Channel> {
        self.places[client.0].client.channel()
    }

    /// The channel that packets for the client take at its server.
    pub fn server_channel(&self, client: ClientId) -> Option<Channel> {
        let leases = self.leases(client)?;
        let server = &self.sites[self.places[client.0].server].server;
        let (_, tunnel) = server.tunnels().find(|(_, tunnel)| *tunnel.session.leases() == leases)?;
        Some(tunnel.session.channel())
    }

    /// Whether the probe of that number has come out at the other end.
    pub fn has_arrived(&self, probe: u64) -> bool {
        self.judge.has_arrived(probe)
    }

    /// How many probes have come out.
    pub fn arrivals(&self) -> u64 {
        self.judge.arrivals()
    }

    /// How many records a server has, live and waiting.
    pub fn sessions(&self, server: ServerId) -> usize {
        self.sites[server.0].server.registry.len()
    }

    /// How many datagrams of no session a server has dropped for `reason`.
    pub fn strays(&self, server: ServerId, reason: DropReason) -> u64 {
        self.sites[server.0].server.strays.get(reason)
    }

    /// How many packets and records of the client's session its server has dropped for `reason`.
    pub fn drops(&self, client: ClientId, reason: DropReason) -> u64 {
        let server = &self.sites[self.places[client.0].server].server;
        let leases = self.leases(client).unwrap_or_default();
        let of_client = server.tunnels().filter(|(_, tunnel)| *tunnel.session.leases() == leases);
        of_client.map(|(_, tunnel)| tunnel.session.counters().drops.get(reason)).sum()
    }

    /// How many clients there are.
    pub fn clients(&self) -> impl Iterator<Item = ClientId> + use<> {
        (0..self.places.len()).map(ClientId)
    }

    /// Whether a reconnect with the client's cookie has to succeed.
    pub fn has_good_cookie(&self, client: ClientId) -> bool {
        let cookie = self.places[client.0].client.cookie.as_ref().and_then(|cookie| Cookie::parse(cookie));
        cookie.is_some_and(|cookie| self.judge.is_good(&cookie.hash(), self.now))
    }

    /// Lets time pass.
    pub fn advance(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(entry) = self.agenda.first_entry() {
            let at = entry.key().0;
            if at > until {
                break;
            }
            let event = entry.remove();
            self.at_once = if at > self.now { 0 } else { self.at_once + 1 };
            if self.at_once > MAX_AT_ONCE {
                self.fail(format_args!("time stands still"));
            }
            self.now = self.now.max(at);
            self.happened += 1;
            self.happen(event);
        }
        self.now = until;
    }

    /// Repairs every path, wakes everybody, starts every server, and demands that the world recovers: whoever has a
    /// good cookie comes back, and packets of both families pass both ways.
    pub fn recover(&mut self) {
        for client in self.clients() {
            self.remember_password(client);
            self.relink(client, |link| *link = Link::default());
            self.wake(client);
        }
        for server in 0..self.sites.len() {
            self.start_server(ServerId(server));
        }
        self.advance(Duration::from_secs(400));
        for client in self.clients() {
            if self.places[client.0].client.is_off() && self.has_good_cookie(client) {
                self.reconnect(client);
            }
        }
        self.advance(Duration::from_secs(200));
        for client in self.clients() {
            self.await_rest(client);
            match self.stage(client) {
                "live" => self.demand_traffic(client),
                "off" if !self.has_good_cookie(client) => {}
                stage => self.fail(format_args!("{client:?} is {stage}, ending {:?}", self.ending(client))),
            }
        }
    }

    /// Waits for a client that is just making new keys with a new connection.
    pub(super) fn await_rest(&mut self, client: ClientId) {
        for _ in 0..20 {
            if matches!(self.stage(client), "live" | "off") {
                return;
            }
            self.advance(Duration::from_secs(1));
        }
    }

    /// Demands that packets of each family pass in both directions; a new connection meanwhile may cost some. A client
    /// whose session is over, and who was not told because a NAT had forgotten the connection, has to find that out.
    pub fn demand_traffic(&mut self, client: ClientId) {
        let before = self.places[client.0].client.conn();
        let Some(lost) = self.find_lost(client) else { return };
        if !self.has_good_cookie(client) {
            // Asked, asked again, and given up.
            let dpd = self.places[client.0].client.said().and_then(|(said, _)| said.dpd);
            self.advance(dpd.unwrap_or_default() * 3);
            self.await_rest(client);
            if self.stage(client) == "off" {
                return;
            }
        }
        self.await_rest(client);
        if self.places[client.0].client.conn() == before || self.find_lost(client).is_some() {
            self.fail(format_args!("packet {lost} of or for {client:?} did not arrive"));
        }
    }

    /// Sends packets both ways; returns one that did not arrive.
    pub(super) fn find_lost(&mut self, client: ClientId) -> Option<u64> {
        let leases = self.leases(client).unwrap_or_default();
        let server = ServerId(self.places[client.0].server);
        let mut numbers = Vec::new();
        for address in leases.iter() {
            let Some(destination) = self.reachable(client, address.is_ipv6()) else { continue };
            match self.probe(client, destination, 200, Wish::Echo) {
                Ok(number) => numbers.push(number),
                Err(reason) => self.fail(format_args!("{client:?} cannot send: {reason}")),
            }
            numbers.push(self.probe_inside(server, address, 300));
        }
        self.advance(Duration::from_secs(2));
        numbers.into_iter().find(|number| !self.has_arrived(*number))
    }

    /// A destination in the tunnel, as the client was told.
    pub fn reachable(&mut self, client: ClientId, v6: bool) -> Option<IpAddr> {
        let (said, _) = self.places[client.0].client.said()?;
        let (include, exclude) = (said.include.clone(), said.exclude.clone());
        (0..100_u8).find_map(|last| {
            let address: IpAddr = if v6 {
                Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 1, 0, 1 + u16::from(last)).into()
            } else {
                Ipv4Addr::new(10, 1 + last, 0, 7).into()
            };
            goes_through(&include, &exclude, address).then_some(address)
        })
    }

    /// Everybody leaves; demands that nothing is left anywhere.
    pub fn end(mut self) {
        for client in self.clients() {
            self.leave(client);
        }
        self.advance(Duration::from_secs(30 * 60));
        for (number, site) in self.sites.iter().enumerate() {
            let leftovers = site.server.leftovers();
            if !leftovers.is_empty() {
                self.fail(format_args!("server {number} still has {}", leftovers.join(", ")));
            }
        }
        if self.streams.whole() > 0 {
            self.fail(format_args!("{} connections are left", self.streams.whole()));
        }
    }
}
