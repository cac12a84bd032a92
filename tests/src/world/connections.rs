//! The TLS connections of the world: how they open, carry, stall and break.

use std::net::SocketAddr;
use std::time::Duration;

use fastrand::Rng;

use super::stream::{ConnId, End, Item, TCP_PATIENCE};
use super::{Death, Event, World, server};

impl World {
    pub(super) fn exporter(&self, conn: ConnId) -> [u8; 32] {
        server::random(&mut Rng::with_seed(self.seed ^ (conn.0 << 20)))
    }

    pub(super) fn dial(&mut self, client: usize) {
        let place = &self.places[client];
        let (number, link, latency) = (place.server, place.link.up && place.link.tcp, place.link.latency);
        let site = &self.sites[number];
        match &site.down {
            _ if !link => return,
            Some((Death::Machine, _)) => return,
            Some((Death::Process, _)) => return self.schedule(2 * latency, Event::DialFailed { client }),
            None => {}
        }
        let incarnation = site.server.incarnation;
        let remote = SocketAddr::new(place.nat.outside, 40_000 + self.rng.u16(..20_000));
        let conn = self.streams.open(client, number, incarnation, remote, self.now);
        self.schedule(3 * latency, Event::Accept { conn });
        self.schedule(4 * latency, Event::Connected { conn });
    }

    pub(super) fn accept(&mut self, conn: ConnId) {
        let Some(stream) = self.streams.get(conn) else { return };
        let (server, remote, is_severed) = (stream.server, stream.remote, stream.severed);
        let site = &self.sites[server];
        if is_severed || site.down.is_some() || site.server.incarnation != stream.incarnation {
            self.break_stream(conn);
            return;
        }
        let exporter = self.exporter(conn);
        self.with_server(server, |server, now, _| server.accept(conn, remote, exporter, now));
    }

    pub(super) fn send_stream(&mut self, conn: ConnId, to: End, item: Item) {
        let Some(stream) = self.streams.get_mut(conn).filter(|stream| !stream.severed) else { return };
        let place = &self.places[stream.client];
        if !place.carries_tcp() || !stream.held.is_empty() {
            stream.held.push_back((to, item));
            let since = *stream.held_since.get_or_insert(self.now);
            self.schedule_at(since + TCP_PATIENCE, Event::TcpGivesUp { conn, since });
            return;
        }
        let at = stream.arrival(to, place.link.latency, self.now);
        self.schedule_at(at, Event::Stream { conn, to, item });
    }

    pub(super) fn arrive(&mut self, conn: ConnId, to: End, item: Item) {
        let Some(stream) = self.streams.get_mut(conn).filter(|stream| !stream.severed) else { return };
        let (client, server, incarnation) = (stream.client, stream.server, stream.incarnation);
        if self.places[client].asleep && to == End::Client {
            stream.held.push_back((to, item));
            let since = *stream.held_since.get_or_insert(self.now);
            self.schedule_at(since + TCP_PATIENCE, Event::TcpGivesUp { conn, since });
            return;
        }
        if matches!(item, Item::Closed) {
            self.streams.close(conn);
        }
        match (to, item) {
            (End::Client, Item::Record(bytes)) => {
                self.with_client(client, |client, now, deeds| client.receive(conn, &bytes, now, deeds));
            }
            (End::Client, Item::Closed) => {
                self.with_client(client, |client, now, deeds| client.handle_closed(Some(conn), now, deeds));
            }
            (End::Server, item) => {
                let site = &self.sites[server];
                if site.down.is_some() || site.server.incarnation != incarnation {
                    // Another process, which knows nothing of it, or none.
                    return;
                }
                self.with_server(server, |server, now, acts| match item {
                    Item::Record(bytes) => server.receive(conn, &bytes, now, acts),
                    Item::Closed => server.handle_closed(conn, now, acts),
                });
            }
        }
    }

    /// One end closes the connection; the other hears of it after what was sent before.
    pub(super) fn hang_up(&mut self, conn: ConnId, by: End) {
        self.send_stream(conn, by.other(), Item::Closed);
        if self.streams.get(conn).is_some_and(|stream| stream.severed) {
            self.streams.close(conn);
        }
    }

    /// Nothing passes any more, and nobody is told.
    pub(super) fn sever(&mut self, conn: ConnId) {
        if let Some(stream) = self.streams.get_mut(conn) {
            stream.severed = true;
        }
    }

    /// Both ends hear that the connection is broken.
    pub(super) fn break_stream(&mut self, conn: ConnId) {
        let Some(stream) = self.streams.get(conn) else { return };
        let (client, server, incarnation) = (stream.client, stream.server, stream.incarnation);
        self.streams.close(conn);
        let site = &self.sites[server];
        if site.down.is_none() && site.server.incarnation == incarnation {
            self.with_server(server, |server, now, acts| server.handle_closed(conn, now, acts));
        }
        self.with_client(client, |client, now, deeds| client.handle_closed(Some(conn), now, deeds));
    }

    /// The path is up again: TCP repeats what was not acknowledged.
    pub(super) fn release_held(&mut self, client: usize) {
        if !self.places[client].carries_tcp() {
            return;
        }
        for conn in self.streams.of_client(client) {
            let Some(stream) = self.streams.get_mut(conn) else { continue };
            let Some(since) = stream.held_since.take() else { continue };
            let wait = (self.now - since).min(Duration::from_secs(60)).mul_f64(self.rng.f64());
            let latency = self.places[client].link.latency;
            for (to, item) in std::mem::take(&mut stream.held) {
                let at = stream.arrival(to, latency + wait, self.now);
                self.scheduled += 1;
                self.agenda.insert((at, self.scheduled), Event::Stream { conn, to, item });
            }
        }
    }
}
