//! How the world goes on: one event after the other, and what the machines do about it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use mstunnel_proto::auth::{Credentials, Verdict};
use mstunnel_proto::session::Leases;

use super::client::{Client, Deed};
use super::judge::{Law, Toward, goes_through};
use super::probe::{Probe, Wish};
use super::server::{Act, Server, Told};
use super::settings::Settings;
use super::stream::{ConnId, End, Item};
use super::{Event, MAX_COPIES, PASSWORD, World, link};

impl World {
    pub(super) fn schedule(&mut self, after: Duration, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    pub(super) fn schedule_at(&mut self, at: Instant, event: Event) {
        self.scheduled += 1;
        self.agenda.insert((at, self.scheduled), event);
    }

    pub(super) fn happen(&mut self, event: Event) {
        match event {
            Event::Stream { conn, to, item } => self.arrive(conn, to, item),
            Event::TcpGivesUp { conn, since } => {
                if self.streams.get(conn).is_some_and(|stream| stream.held_since == Some(since)) {
                    self.break_stream(conn);
                }
            }
            Event::Accept { conn } => self.accept(conn),
            Event::Connected { conn } => {
                let Some(client) = self.streams.get(conn).map(|stream| stream.client) else { return };
                let exporter = self.exporter(conn);
                self.with_client(client, |client, now, deeds| {
                    client.handle_connected(conn, exporter, now, deeds)
                });
            }
            Event::DialFailed { client } => {
                self.with_client(client, |client, now, deeds| client.handle_closed(None, now, deeds));
            }
            Event::ToServer { server, from, mut bytes } => {
                if self.sites[server].down.is_none() {
                    self.with_server(server, |server, now, acts| {
                        server.receive_datagram(from, &mut bytes, now, acts);
                    });
                }
            }
            Event::ToClient { to, from, mut bytes } => {
                let Some(&client) = self.outside.get(&to.ip()) else { return };
                let place = &mut self.places[client];
                let inside = place.nat.inbound(to.port(), from, self.now);
                let is_here = place.nat.outside == to.ip() && place.link.up && !place.asleep;
                if let Some(port) = inside.filter(|_| is_here) {
                    self.with_client(client, |client, now, deeds| {
                        client.receive_datagram(port, &mut bytes, now, deeds);
                    });
                }
            }
            Event::Verdict { server, incarnation, conn, question, verdict } => {
                let site = &self.sites[server];
                if site.down.is_none() && site.server.incarnation == incarnation {
                    self.with_server(server, |server, now, acts| {
                        server.handle_verdict(conn, question, verdict, now, acts);
                    });
                }
            }
            Event::WakeClient(client) => {
                let place = &mut self.places[client];
                if place.armed == Some(self.now) {
                    place.armed = None;
                }
                if !place.asleep {
                    self.with_client(client, |client, now, deeds| client.handle_timeout(now, deeds));
                }
            }
            Event::WakeServer(server) => {
                self.sites[server].armed = None;
                if self.sites[server].down.is_none() {
                    self.with_server(server, |server, now, _| server.handle_timeout(now));
                }
            }
            Event::WakeConn(server, conn) => {
                self.sites[server].armed_conns.remove(&conn);
                if self.sites[server].down.is_none() {
                    self.with_server(server, |server, now, acts| server.handle_conn_timeout(conn, now, acts));
                }
            }
        }
    }

    pub(super) fn with_client<T>(
        &mut self,
        client: usize,
        work: impl FnOnce(&mut Client, Instant, &mut Vec<Deed>) -> T,
    ) -> T {
        let mut deeds = Vec::new();
        let result = work(&mut self.places[client].client, self.now, &mut deeds);
        self.arm_client(client);
        for deed in deeds {
            self.carry_out(client, deed);
        }
        result
    }

    pub(super) fn with_server<T>(
        &mut self,
        server: usize,
        work: impl FnOnce(&mut Server, Instant, &mut Vec<Act>) -> T,
    ) -> T {
        let mut acts = Vec::new();
        let result = work(&mut self.sites[server].server, self.now, &mut acts);
        self.arm_server(server);
        for conn in self.sites[server].server.take_touched() {
            self.arm_conn(server, conn);
        }
        for act in acts {
            self.enact(server, act);
        }
        result
    }

    pub(super) fn arm_client(&mut self, client: usize) {
        let place = &mut self.places[client];
        let Some(at) = place.client.deadline() else { return };
        // A sleeping client has deadlines in the past; it looks at them when it wakes.
        if at < self.now && !place.asleep {
            self.fail(format_args!("client {client} has a deadline in the past"));
        }
        let place = &mut self.places[client];
        if place.armed.is_none_or(|armed| at < armed) && at >= self.now {
            place.armed = Some(at);
            self.schedule_at(at, Event::WakeClient(client));
        }
    }

    pub(super) fn arm_server(&mut self, server: usize) {
        let site = &mut self.sites[server];
        let at = site.server.deadline();
        if site.armed.is_none_or(|armed| at < armed) {
            site.armed = Some(at);
            let at = at.max(self.now);
            self.schedule_at(at, Event::WakeServer(server));
        }
    }

    pub(super) fn arm_conn(&mut self, server: usize, conn: ConnId) {
        let site = &mut self.sites[server];
        let Some(at) = site.server.conn_deadline(conn) else { return };
        if at < self.now {
            self.fail(format_args!("{conn:?} has a deadline in the past at its server"));
        }
        let site = &mut self.sites[server];
        if site.armed_conns.get(&conn).is_none_or(|armed| at < *armed) {
            site.armed_conns.insert(conn, at);
            self.schedule_at(at, Event::WakeConn(server, conn));
        }
    }

    pub(super) fn carry_out(&mut self, client: usize, deed: Deed) {
        match deed {
            Deed::Dial => self.dial(client),
            Deed::Record { conn, bytes } => self.send_stream(conn, End::Server, Item::Record(bytes)),
            Deed::Hangup { conn } => self.hang_up(conn, End::Client),
            Deed::Datagram { port, to, bytes } => {
                let now = self.now;
                let place = &mut self.places[client];
                let from = place.nat.outbound(port, to, now);
                if place.copies.len() >= MAX_COPIES {
                    place.copies.pop_front();
                }
                place.copies.push_back((from, bytes.clone()));
                if bytes.len() + link::OUTER_HEADERS > 1_500 {
                    self.fail(format_args!("client {client} sends a datagram of {} bytes", bytes.len()));
                }
                let Some(server) = self.sites.iter().position(|site| site.server.address == to) else {
                    return;
                };
                let place = &mut self.places[client];
                for (after, bytes) in place.link.carry(bytes, &mut self.rng) {
                    self.schedule(after, Event::ToServer { server, from, bytes });
                }
            }
            Deed::Delivered { packet } => {
                let number = Probe::parse(&packet).map(|probe| probe.number);
                let verdict = self.judge.arrived(number, Toward::Client(Some(client)), &packet);
                self.judged(verdict);
            }
            Deed::SignedIn { cookie } => {
                self.trail.keep_secret(&cookie);
                self.note(format_args!("client {client} signed in"));
            }
            Deed::Opened(said) => {
                self.note(format_args!("client {client} open: {said:?}"));
                self.check_routes(client);
            }
            Deed::Over(ending) => self.note(format_args!("client {client} over: {ending:?}")),
        }
    }

    /// The routes that a client was told mean to it what they mean to the model.
    pub(super) fn check_routes(&mut self, client: usize) {
        let Some((said, routes)) = self.places[client].client.said() else { return };
        for _ in 0..8 {
            let address = IpAddr::V4(Ipv4Addr::new(10, self.rng.u8(..), self.rng.u8(..), 1));
            let tunnelled = routes.evaluate(address) == mstunnel_proto::routes::Verdict::Tunnel;
            if tunnelled != goes_through(&said.include, &said.exclude, address) {
                self.fail(format_args!(
                    "{address} goes the wrong way: {:?} {:?}",
                    said.include, said.exclude
                ));
            }
        }
    }

    pub(super) fn enact(&mut self, server: usize, act: Act) {
        match act {
            Act::Datagram { path, bytes } => {
                if bytes.len() + link::OUTER_HEADERS > 1_500 {
                    self.fail(format_args!("server {server} sends a datagram of {} bytes", bytes.len()));
                }
                let from = self.sites[server].server.address;
                let to = path.remote;
                let Some(&client) = self.outside.get(&to.ip()) else { return };
                for (after, bytes) in self.places[client].link.carry(bytes, &mut self.rng) {
                    self.schedule(after, Event::ToClient { to, from, bytes });
                }
            }
            Act::Record { conn, bytes } => {
                self.send_stream(conn, End::Client, Item::Record(bytes));
            }
            Act::Hangup { conn } => self.hang_up(conn, End::Server),
            Act::Packet { packet, leases } => self.reach_network(server, &packet, leases),
            // The far side learns what fits, and sends what it was told to all the same.
            Act::Answer => {}
            Act::Verify { conn, question, credentials } => {
                let verdict = match &credentials {
                    Credentials::Password { user, password, .. } if **password == *PASSWORD => {
                        Verdict::Accepted { user: user.clone(), groups: Vec::new() }
                    }
                    Credentials::Password { .. } | Credentials::Bearer { .. } => Verdict::Rejected,
                };
                self.note(format_args!("server {server} asked about {credentials:?}"));
                let incarnation = self.sites[server].server.incarnation;
                let after = Duration::from_millis(self.rng.u64(1..400));
                self.schedule(after, Event::Verdict { server, incarnation, conn, question, verdict });
            }
            Act::Told(told) => self.tell(server, told),
            Act::Broken(complaint) => self.fail(format_args!("server {server}: {complaint}")),
        }
    }

    /// A packet of a client comes out at the corporate side, which does as it asks.
    pub(super) fn reach_network(&mut self, server: usize, packet: &[u8], leases: Leases) {
        let probe = Probe::parse(packet);
        let verdict = self.judge.arrived(probe.map(|probe| probe.number), Toward::Network, packet);
        self.judged(verdict);
        let Some(probe) = probe else { return };
        if !leases.holds(probe.source) {
            self.fail(format_args!("a packet from {} came out of the session of {leases:?}", probe.source));
        }
        let settings = &self.sites[server].server.settings;
        if settings.pool_v4.contains(probe.destination) {
            self.fail(format_args!("a client reached a client at {}", probe.destination));
        }
        match probe.wish {
            Wish::Sink => {}
            Wish::Echo => {
                self.send_inside(server, probe.destination, probe.source, packet.len(), Wish::Sink);
            }
            Wish::Serve => {
                for _ in 0..8 {
                    self.send_inside(server, probe.destination, probe.source, 1_280, Wish::Sink);
                }
            }
        }
    }

    pub(super) fn law(&self, server: usize) -> Law {
        let server_of = &self.sites[server].server;
        let pools = server_of.registry.pools().map(|pool| (pool.prefix(), pool.stats().size)).collect();
        let Settings { cookie_timeout: window, session_timeout, max_per_user, .. } = server_of.settings;
        Law { server, window, session_timeout, max_per_user, pools }
    }

    pub(super) fn tell(&mut self, server: usize, told: Told) {
        self.note(format_args!("server {server} told {told:?}"));
        let (law, now) = (self.law(server), self.now);
        let verdict = match told {
            Told::Admitted { cookie, user } => self.judge.admitted(&law, &cookie, &user, now),
            Told::Attached { cookie, conn, leases, wants } => {
                self.judge.attached(&law, &cookie, conn, leases, wants, now)
            }
            Told::Refused { cookie, why } => self.judge.refused(&law, cookie.as_ref(), why, now),
            Told::Ended { cookie, conn, reason } => self.judge.ended(&law, &cookie, conn, reason, now),
        };
        self.judged(verdict);
    }

    pub(super) fn judged(&self, verdict: Result<(), String>) {
        if let Err(complaint) = verdict {
            self.fail(format_args!("{complaint}"));
        }
    }

    pub(super) fn note(&mut self, line: fmt::Arguments<'_>) {
        if let Some(secret) = self.trail.note(self.now - self.origin, line) {
            self.fail(format_args!("a secret was printed: {secret}"));
        }
    }

    pub(super) fn fail(&self, what: fmt::Arguments<'_>) -> ! {
        panic!(
            "world {} after {:.3} s: {what}\n\nbefore that:\n{}",
            self.seed,
            self.age().as_secs_f64(),
            self.trail.tail(40)
        );
    }
}
