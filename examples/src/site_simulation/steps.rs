//! What each event does: attempts, frames and timers.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use mstunnel_proto::auth::{COOKIE_BYTES, Cookie};
use mstunnel_proto::session::{ClientEvent, Leases};

use crate::agenda::{Answer, Event, Letter, Letters};
use crate::client::{Client, Phase};
use crate::memory::charged;
use crate::options::{CONNECT_TIMEOUT, ROAM_TIME};
use crate::server::{Credentials, Opened, Refusal, Request, Server};
use crate::simulation::Simulation;

/// How long a person takes to type a password again.
const RETYPE: Duration = Duration::from_secs(5);

impl Simulation {
    /// Acts on an event.
    pub(crate) fn step(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Try { client } => self.try_to_connect(client),
            Event::Arrive { client, attempt, cookie } => self.arrive(Request { client, attempt, cookie }),
            Event::Serve { server } => self.serve(server)?,
            Event::Answer { client, attempt, answer } => self.answer(client, attempt, answer)?,
            Event::ToServer { client, attempt, frame } => self.take_to_server(client, attempt, frame)?,
            Event::ToClient { client, attempt, frame } => self.take_to_client(client, attempt, frame)?,
            Event::ClosedByClient { client, attempt } => {
                let wire = self.wires[client as usize];
                if let Some(server) = &mut self.servers[usize::from(wire.server)] {
                    let (tally, now) = (&mut self.tally.servers, self.now);
                    charged(tally, || server.handle_closed(wire.slot, (client, attempt), now));
                    self.wake_server(wire.server);
                }
            }
            Event::ClosedByServer { client, attempt } => {
                let machine = &mut self.clients[client as usize];
                if machine.attempt == attempt {
                    machine.handle_closed();
                    self.drain_client(client);
                }
            }
            Event::ClientTimer { client, attempt } => {
                let (machine, tally) = (&mut self.clients[client as usize], &mut self.tally.clients);
                if machine.attempt == attempt && charged(tally, || machine.handle_timer(self.now)) {
                    self.drain_client(client);
                }
            }
            Event::LinkTimer { server, slot } => {
                if let Some(machine) = &mut self.servers[usize::from(server)]
                    && charged(&mut self.tally.servers, || machine.handle_link_timer(slot, self.now))
                {
                    self.drain_link(server, slot);
                }
            }
            Event::ServerTimer { server } => {
                if let Some(machine) = &mut self.servers[usize::from(server)] {
                    charged(&mut self.tally.servers, || machine.handle_timeout(self.now));
                    self.wake_server(server);
                }
            }
            Event::Join => self.join(),
            Event::Roam { client, closes } => self.roam(client, closes),
            Event::Death => self.kill()?,
            Event::Rota => self.site.check_health(),
            Event::Sample => {}
        }
        Ok(())
    }

    fn try_to_connect(&mut self, client: u32) {
        let machine = &mut self.clients[client as usize];
        machine.phase = Phase::Trying;
        machine.attempt = machine.attempt.wrapping_add(1);
        machine.server = Some(self.site.route(machine.server, &mut self.rng));
        let attempt = machine.attempt;
        let cookie = machine.cookie.as_ref().map(|cookie| self.letters.send(cookie.text().as_bytes()));
        let at = self.now + self.way(client) * 3;
        self.agenda.note(at, Event::Arrive { client, attempt, cookie });
    }

    fn arrive(&mut self, request: Request) {
        let Request { client, attempt, cookie } = request;
        let machine = &self.clients[client as usize];
        let number = machine.server.expect("an attempt goes to a server");
        let Some(server) = &mut self.servers[usize::from(number)] else {
            self.find_nobody(request);
            return;
        };
        if server.queue.len() < self.options.queue as usize {
            server.queue.push_back(request);
            let length = server.queue.len();
            self.counts.longest_queue = self.counts.longest_queue.max(length as u64);
            if length == 1 {
                self.note_serving(number);
            }
            return;
        }
        self.counts.busy += 1;
        if let Some(cookie) = cookie {
            self.letters.lose(cookie);
        }
        let at = self.now + self.way(client);
        self.agenda.note(at, Event::Answer { client, attempt, answer: Answer::Busy });
    }

    /// A request for a dead server: who is told of deaths is refused, the others wait in vain.
    pub(crate) fn find_nobody(&mut self, request: Request) {
        let Request { client, attempt, cookie } = request;
        self.counts.unreachable += 1;
        if let Some(cookie) = cookie {
            self.letters.lose(cookie);
        }
        let is_told = self.clients[client as usize].is_told;
        let at = self.now + if is_told { self.way(client) } else { CONNECT_TIMEOUT };
        self.agenda.note(at, Event::Answer { client, attempt, answer: Answer::Unreachable });
    }

    fn note_serving(&mut self, server: u16) {
        let cost = Duration::from_secs(1) / self.options.rate;
        self.agenda.note(self.now + cost, Event::Serve { server });
    }

    /// The connection at the head of a queue has had its turn.
    fn serve(&mut self, number: u16) -> Result<()> {
        let Some(server) = &mut self.servers[usize::from(number)] else {
            return Ok(());
        };
        let Some(Request { client, attempt, cookie }) = server.queue.pop_front() else {
            return Ok(());
        };
        let is_more = !server.queue.is_empty();
        let is_reconnect = cookie.is_some();
        let (now, who, tally) = (self.now, (client, attempt), &mut self.tally.servers);
        let (hash, new) = match cookie {
            Some(cookie) => (Server::read_cookie(self.letters.open(cookie, &mut Letters::room()))?, None),
            None => {
                // Of a seed, so that runs repeat; a server takes them from the operating system.
                let mut secret = [0; COOKIE_BYTES];
                self.rng.fill(&mut secret);
                let cookie = Cookie::from_random(secret);
                (cookie.hash(), Some(cookie))
            }
        };
        let opened = charged(tally, || {
            if !is_reconnect {
                let are_right = !self.clients[client as usize].mistypes;
                let (user, source) = (Client::user(client), Client::source(client));
                server.login(Credentials { user, source, are_right }, hash, now)?;
            }
            server.connect(who, hash, &mut self.site, now)
        });
        let answer = match opened {
            Ok(Opened { slot, address, took_over }) => {
                if new.is_some() {
                    charged(&mut self.tally.site, || {
                        let leases = Leases { v4: Some(address), v6: None };
                        let (admit, ends_at) = server.stored(slot).context("the session was just opened")?;
                        self.site.store(admit, leases, ends_at, number);
                        anyhow::Ok(())
                    })?;
                }
                self.counts.taken_over += u64::from(took_over);
                let wire = &mut self.wires[client as usize];
                (wire.server, wire.slot) = (number, slot);
                let cookie = new.map(|cookie| self.letters.send(cookie.text().as_bytes()));
                self.drain_link(number, slot);
                Answer::Accepted { address, cookie }
            }
            Err(Refusal::Unauthorized) => Answer::Unauthorized,
            Err(Refusal::Busy) => {
                self.counts.busy += 1;
                Answer::Busy
            }
        };
        self.wake_server(number);
        let at = self.now + self.way(client);
        // The stream begins with the answer: no frame comes before it.
        self.wires[client as usize].to_client = at;
        self.agenda.note(at, Event::Answer { client, attempt, answer });
        if is_more {
            self.note_serving(number);
        }
        Ok(())
    }

    fn answer(&mut self, client: u32, attempt: u16, answer: Answer) -> Result<()> {
        let machine = &mut self.clients[client as usize];
        debug_assert_eq!(machine.attempt, attempt, "a client waits for its answer");
        match answer {
            Answer::Accepted { address, cookie } => {
                if let Some(cookie) = cookie {
                    let mut room = Letters::room();
                    let text = std::str::from_utf8(self.letters.open(cookie, &mut room))?;
                    machine.cookie = Some(Cookie::parse(text).context("the server sends a cookie")?);
                }
                if !self.site.is_alive(self.wires[client as usize].server) {
                    self.counts.unreachable += 1;
                    self.try_later(client);
                    return Ok(());
                }
                self.connected(client, address)
            }
            Answer::Unauthorized if machine.cookie.take().is_some() => {
                self.counts.signed_in_again += 1;
                self.try_later(client);
                Ok(())
            }
            Answer::Unauthorized => {
                self.counts.wrong_passwords += 1;
                machine.mistypes = false;
                machine.phase = Phase::Down;
                self.agenda.note(self.now + RETYPE, Event::Try { client });
                Ok(())
            }
            Answer::Busy | Answer::Unreachable => {
                self.try_later(client);
                Ok(())
            }
        }
    }

    fn connected(&mut self, client: u32, address: Ipv4Addr) -> Result<()> {
        let machine = &mut self.clients[client as usize];
        let before = machine.address;
        let is_victim = std::mem::take(&mut machine.is_victim);
        let (options, now, tally) = (&self.options, self.now, &mut self.tally.clients);
        charged(tally, || machine.open(address, options, now));
        machine.is_up = true;
        machine.encapsulate(&mut self.out, now)?;
        self.counts.up += 1;
        match before {
            None => {}
            Some(before) if before == address => self.counts.kept += 1,
            Some(_) => self.counts.changed += 1,
        }
        if is_victim {
            self.counts.recovered += 1;
            self.counts.recovered_kept += u64::from(before == Some(address));
        }
        self.send_to_server(client);
        self.drain_client(client);
        self.check_stage();
        Ok(())
    }

    /// Waits as the policy says, or gives up.
    fn try_later(&mut self, client: u32) {
        let machine = &mut self.clients[client as usize];
        machine.phase = Phase::Down;
        match machine.backoff.next_wait() {
            Some(wait) => self.agenda.note(self.now + wait, Event::Try { client }),
            None => {
                machine.phase = Phase::GivenUp;
                self.counts.given_up += 1;
                self.check_stage();
            }
        }
    }

    /// A client is without network for a while; its server may hear of it.
    pub(crate) fn roam(&mut self, client: u32, closes: bool) {
        let machine = &mut self.clients[client as usize];
        if !machine.is_up {
            return;
        }
        machine.is_up = false;
        let (phase, attempt) = (std::mem::replace(&mut machine.phase, Phase::Down), machine.attempt);
        charged(&mut self.tally.clients, || drop(phase));
        self.counts.up -= 1;
        self.counts.roamed += 1;
        if closes {
            let at = self.now + self.way(client);
            self.agenda.note(at, Event::ClosedByClient { client, attempt });
        }
        self.agenda.note(self.now + ROAM_TIME, Event::Try { client });
    }

    fn take_to_server(&mut self, client: u32, attempt: u16, frame: Letter) -> Result<()> {
        let mut room = Letters::room();
        let bytes = self.letters.open(frame, &mut room);
        let wire = self.wires[client as usize];
        let Some(server) = &mut self.servers[usize::from(wire.server)] else {
            return Ok(());
        };
        let (tally, now) = (&mut self.tally.servers, self.now);
        let received = charged(tally, || server.receive(wire.slot, (client, attempt), bytes, now))?;
        self.counts.questions += u64::from(received.questions);
        self.counts.packets += u64::from(received.packets);
        self.drain_link(wire.server, wire.slot);
        Ok(())
    }

    fn take_to_client(&mut self, client: u32, attempt: u16, frame: Letter) -> Result<()> {
        let mut room = Letters::room();
        let bytes = self.letters.open(frame, &mut room);
        let machine = &mut self.clients[client as usize];
        if machine.attempt == attempt {
            let (tally, now) = (&mut self.tally.clients, self.now);
            self.counts.questions += u64::from(charged(tally, || machine.receive(bytes, now))?);
            self.drain_client(client);
        }
        Ok(())
    }

    /// Takes out whatever a client's connection has to say: frames, its end, its next deadline.
    fn drain_client(&mut self, client: u32) {
        while self.clients[client as usize].poll_transmit(&mut self.out) {
            self.send_to_server(client);
        }
        let machine = &mut self.clients[client as usize];
        if let Some(event) = machine.poll_event() {
            debug_assert_eq!(event, ClientEvent::Lost, "no server ends a session here");
            charged(&mut self.tally.clients, || machine.phase = Phase::Down);
            let attempt = machine.attempt;
            if std::mem::take(&mut machine.is_up) {
                self.counts.up -= 1;
            }
            let at = self.now + self.way(client);
            self.agenda.note(at, Event::ClosedByClient { client, attempt });
            self.try_later(client);
        } else if let Some(at) = machine.poll_timer() {
            let attempt = machine.attempt;
            self.agenda.note(at, Event::ClientTimer { client, attempt });
        }
    }

    fn send_to_server(&mut self, client: u32) {
        let at = self.now + self.way(client);
        let wire = &mut self.wires[client as usize];
        wire.to_server = wire.to_server.max(at);
        let (attempt, frame) =
            (self.clients[client as usize].attempt, self.letters.send(self.out.as_slice()));
        self.agenda.note(wire.to_server, Event::ToServer { client, attempt, frame });
    }

    /// The same for a server's connection.
    fn drain_link(&mut self, number: u16, slot: u32) {
        while let Some((client, attempt)) = self.servers[usize::from(number)]
            .as_mut()
            .and_then(|server| server.poll_transmit(slot, &mut self.out))
        {
            let at = self.now + self.way(client);
            let wire = &mut self.wires[client as usize];
            wire.to_client = wire.to_client.max(at);
            let frame = self.letters.send(self.out.as_slice());
            self.agenda.note(wire.to_client, Event::ToClient { client, attempt, frame });
        }
        let Some(server) = &mut self.servers[usize::from(number)] else {
            return;
        };
        if let Some((client, attempt)) = charged(&mut self.tally.servers, || server.reap(slot, self.now)) {
            let at = self.now + self.way(client);
            self.agenda.note(at, Event::ClosedByServer { client, attempt });
            self.wake_server(number);
        } else if let Some(at) = server.poll_link_timer(slot) {
            self.agenda.note(at, Event::LinkTimer { server: number, slot });
        }
    }

    fn wake_server(&mut self, number: u16) {
        if let Some(server) = &mut self.servers[usize::from(number)]
            && let Some(at) = server.poll_timeout()
        {
            self.agenda.note(at, Event::ServerTimer { server: number });
        }
    }
}
