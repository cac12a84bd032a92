//! What users, administrators, networks and strangers do.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mstunnel_proto::drop::DropReason;

use super::client::address_of;
use super::judge::Toward;
use super::link::Link;
use super::probe::{Probe, Wish};
use super::settings::Settings;
use super::stream::{End, Item};
use super::{ClientId, Death, Event, PASSWORD, Rebinding, ServerId, World};

impl World {
    /// A user signs in afresh.
    pub fn sign_in(&mut self, client: ClientId) {
        self.with_client(client.0, |client, now, deeds| client.sign_in(now, deeds));
    }

    /// A user signs in with a wrong password.
    pub fn sign_in_wrongly(&mut self, client: ClientId) {
        let right = self.places[client.0].client.profile.password.clone();
        self.places[client.0].client.profile.password = format!("not {right}");
        self.sign_in(client);
    }

    /// From now on the user types the right password.
    pub fn remember_password(&mut self, client: ClientId) {
        self.places[client.0].client.profile.password = PASSWORD.to_owned();
    }

    /// A client is started and takes the cookie that it finds.
    pub fn reconnect(&mut self, client: ClientId) {
        self.with_client(client.0, |client, now, deeds| client.reconnect(now, deeds));
    }

    /// A client opens a second connection with its cookie, although the first one lives as far as the server knows.
    pub fn take_over(&mut self, client: ClientId) {
        for conn in self.streams.of_client(client.0) {
            if let Some(stream) = self.streams.get_mut(conn) {
                stream.severed = true;
            }
        }
        self.places[client.0].client.forget();
        self.reconnect(client);
    }

    /// A user leaves.
    pub fn leave(&mut self, client: ClientId) {
        self.with_client(client.0, |client, now, deeds| client.leave(now, deeds));
    }

    /// A client ends without a word.
    pub fn kill_client(&mut self, client: ClientId, death: Death) {
        if let Some(conn) = self.places[client.0].client.forget() {
            match death {
                Death::Process => self.hang_up(conn, End::Client),
                Death::Machine => self.sever(conn),
            }
        }
        self.note(format_args!("client {} killed: {death:?}", client.0));
    }

    /// A client's machine sleeps: it hears nothing and its clock does not wake it.
    pub fn sleep(&mut self, client: ClientId) {
        self.places[client.0].asleep = true;
    }

    /// It wakes, and looks at its clock.
    pub fn wake(&mut self, client: ClientId) {
        if std::mem::replace(&mut self.places[client.0].asleep, false) {
            self.release_held(client.0);
            self.with_client(client.0, |client, now, deeds| client.handle_timeout(now, deeds));
        }
    }

    /// Changes a path.
    pub fn relink(&mut self, client: ClientId, change: impl FnOnce(&mut Link)) {
        change(&mut self.places[client.0].link);
        self.release_held(client.0);
    }

    /// Nothing passes any more.
    pub fn cut(&mut self, client: ClientId) {
        self.relink(client, |link| link.up = false);
    }

    /// A NAT box forgets; the connections that went through it are dead, and only sometimes is the client told.
    pub fn rebind(&mut self, client: ClientId, rebinding: Rebinding) {
        let outside = match rebinding {
            Rebinding::Ports => self.places[client.0].nat.outside,
            Rebinding::Address => self.new_outside(client.0),
        };
        self.places[client.0].nat.rebind(outside);
        for conn in self.streams.of_client(client.0) {
            self.sever(conn);
            if self.rng.bool() {
                self.with_client(client.0, |client, now, deeds| client.handle_closed(Some(conn), now, deeds));
            }
        }
    }

    /// A server ends without a word.
    pub fn kill_server(&mut self, server: ServerId, death: Death) {
        let site = &mut self.sites[server.0];
        if site.down.is_some() {
            return;
        }
        let stored = site.server.stored();
        site.down = Some((death, stored));
        site.armed_conns.clear();
        self.note(format_args!("server {} killed: {death:?}", server.0));
        for conn in self.streams.of_server(server.0) {
            match death {
                Death::Process => self.hang_up(conn, End::Server),
                Death::Machine => self.sever(conn),
            }
        }
    }

    /// A server is started again, from what the last process had stored.
    pub fn start_server(&mut self, server: ServerId) {
        let Some((_, stored)) = self.sites[server.0].down.take() else { return };
        let now = self.now;
        let law = self.law(server.0);
        self.judge.restarted(&law, now);
        self.sites[server.0].server.restart(stored, now);
        self.sites[server.0].armed = None;
        self.arm_server(server.0);
        self.note(format_args!("server {} started", server.0));
    }

    /// A server takes up other settings; pools stay as they are.
    pub fn reload(&mut self, server: ServerId, change: impl FnOnce(&mut Settings)) {
        let old = &self.sites[server.0].server.settings;
        let mut settings = old.clone();
        change(&mut settings);
        (settings.pool_v4, settings.pool_v6) = (old.pool_v4, old.pool_v6);
        self.sites[server.0].server.reload(settings);
    }

    /// An administrator ends all sessions of a client's user.
    pub fn disconnect(&mut self, client: ClientId) {
        let (server, user) =
            (self.places[client.0].server, self.places[client.0].client.profile.user.clone());
        if self.sites[server].down.is_none() {
            self.judge.disconnected(server, &user, self.now);
            self.with_server(server, |server, now, acts| server.disconnect(&user, now, acts));
        }
    }

    /// The applications of a client send `len` bytes to `destination`; returns the number by which
    /// [`World::has_arrived`] knows the packet, or why it goes nowhere.
    ///
    /// # Errors
    /// Why the client does not send it.
    pub fn probe(
        &mut self,
        client: ClientId,
        destination: IpAddr,
        len: usize,
        wish: Wish,
    ) -> Result<u64, DropReason> {
        let leases = self.places[client.0].client.leases().unwrap_or_default();
        let source = address_of(leases, destination.is_ipv6()).ok_or(DropReason::SourceNotLeased)?;
        self.next_probe += 1;
        let probe = Probe { number: self.next_probe, wish, source, destination };
        let packet = probe.packet(len);
        self.judge.sent(probe.number, Toward::Network, packet.clone());
        self.with_client(client.0, |client, now, deeds| client.send(&packet, now, deeds))?;
        Ok(probe.number)
    }

    /// The network sends a packet to an inside address; returns its number.
    pub fn probe_inside(&mut self, server: ServerId, destination: IpAddr, len: usize) -> u64 {
        let source: IpAddr = match destination {
            IpAddr::V4(_) => [10, 1, 2, 3].into(),
            IpAddr::V6(_) => "fd00::1:2:3".parse().expect("an address"),
        };
        self.send_inside(server.0, source, destination, len, Wish::Sink)
    }

    pub(super) fn send_inside(
        &mut self,
        server: usize,
        source: IpAddr,
        destination: IpAddr,
        len: usize,
        wish: Wish,
    ) -> u64 {
        self.next_probe += 1;
        let probe = Probe { number: self.next_probe, wish, source, destination };
        let packet = probe.packet(len);
        let holder = self.judge.holder(server, destination).and_then(|conn| self.streams.get(conn));
        let toward = Toward::Client(holder.map(|stream| stream.client));
        self.judge.sent(probe.number, toward, packet.clone());
        if self.sites[server].down.is_none() {
            self.with_server(server, |server, now, acts| server.deliver(&packet, now, acts));
        }
        probe.number
    }

    /// A client's connection carries these bytes, whatever they are.
    pub fn inject_frames(&mut self, client: ClientId, bytes: Vec<u8>) {
        if let Some(conn) = self.streams.of_client(client.0).last().copied() {
            self.send_stream(conn, End::Server, Item::Record(bytes));
        }
    }

    /// A stranger sends a datagram to a server.
    pub fn inject_datagram(&mut self, server: ServerId, from: SocketAddr, bytes: Vec<u8>) {
        self.schedule(Duration::from_millis(1), Event::ToServer { server: server.0, from, bytes });
    }

    /// A stranger sends again what it saw a client send, from the client's address or from its own.
    pub fn replay(&mut self, client: ClientId, which: usize, from_own: bool) {
        let place = &self.places[client.0];
        let Some((seen, bytes)) = place.copies.get(which % place.copies.len().max(1)).cloned() else {
            return;
        };
        let from = if from_own { SocketAddr::from(([192, 0, 2, 66], 6666)) } else { seen };
        self.inject_datagram(ServerId(place.server), from, bytes);
    }
}
