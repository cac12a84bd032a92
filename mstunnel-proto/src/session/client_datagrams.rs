//! The client's datagram channel over the life of one connection: when there is one, and what it carries.
//!
//! ```text
//!   Waiting --due--> Handshake --12 s, refused----------------> Waiting (60 s)
//!                        '------> Probing --nothing passes----> Waiting (60 s)
//!                                    '------> Open --closed by the server--> Waiting (60 s)
//!                                               '---silence----------------> Handshake, from another port
//! ```
//!
//! Packets take the stream until the channel is open, so that nobody waits for it. While it is open the session
//! decides whether to trust it, keepalives hold the NAT boxes on the way open, and a channel on which nothing was heard for twice the DPD interval is made anew from
//! another port.
//!
//! # Source
//! protocol.md 5.6 to 5.8; statements 58 to 63; R8.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use zeroize::Zeroizing;

use super::mtu_probe::{Found, MtuProbe};
use crate::buf::PacketBuf;
use crate::connect::{DtlsOffer, RekeyMethod};
use crate::dtls::{ClientChannel, ClientChannelEvent, Keying, Opened, SealError};
use crate::frame::FrameKind;
use crate::mtu::{self, Mtu};

/// The wait after a channel could not be opened (statement 60).
pub const DATAGRAM_RETRY: Duration = Duration::from_secs(60);

/// How often a server may have new keys by asking: a handshake costs it as much as us.
const MIN_REKEY_INTERVAL: Duration = Duration::from_secs(60);

/// What the channel is made of; the same for every try of one connection.
pub struct DatagramPlan {
    /// The key that both ends have from TLS.
    pub psk: Zeroizing<[u8; 32]>,
    /// What the server offers.
    pub offer: DtlsOffer,
    /// The address of the server that TLS is connected to.
    pub server: IpAddr,
    /// The tunnel MTU that the server announced.
    pub mtu: Mtu,
    /// The link MTU that both know.
    pub link: Option<Mtu>,
    /// The least that has to pass, in bytes: the floor of IPv6 if the session has it.
    pub floor: u16,
}

/// What became of the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramChange {
    /// It carries packets of this length, in bytes.
    Opened(u16),
    /// It is gone.
    Closed,
}

/// The datagram channel of one connection of a client, there or not.
///
/// After every call that takes `now`, drain: transmit, change, timeout. Each try wants a port of its own: before sending, compare [`ClientDatagrams::attempt`] with the number that the
/// socket was made for.
pub struct ClientDatagrams {
    plan: DatagramPlan,
    seed: Zeroizing<[u8; 32]>,
    drawn: u64,
    attempt: u64,
    state: State,
    ask: bool,
    keep: bool,
    change: Option<DatagramChange>,
}

enum State {
    Waiting { until: Instant },
    Live(Box<Live>),
}

struct Live {
    channel: ClientChannel,
    stage: Stage,
    heard: Instant,
    asked: Instant,
    sent: Instant,
    rekey_at: Option<Instant>,
    /// When there were new keys last, or the first ones.
    keyed: Instant,
    /// The channel is over: when its last words are out, wait until then.
    over: Option<Instant>,
}

enum Stage {
    Handshake,
    Probing(MtuProbe),
    Open,
}

impl ClientDatagrams {
    /// Begins with a handshake at the first [`ClientDatagrams::handle_timeout`]. `entropy` is what the randoms of all
    /// handshakes are drawn from.
    pub fn new(plan: DatagramPlan, entropy: [u8; 32], now: Instant) -> Self {
        Self {
            plan,
            seed: Zeroizing::new(entropy),
            drawn: 0,
            attempt: 0,
            state: State::Waiting { until: now },
            ask: false,
            keep: false,
            change: None,
        }
    }

    /// Acts on the time.
    pub fn handle_timeout(&mut self, now: Instant) {
        match &mut self.state {
            State::Waiting { until } if now < *until => {}
            State::Waiting { .. } => self.start(now),
            State::Live(live) => {
                live.channel.handle_timeout(now);
                if let Stage::Probing(probe) = &mut live.stage
                    && let Some(found) = probe.handle_timeout(now)
                {
                    self.found(found, now);
                }
                self.check_life(now);
                self.take_events(now);
            }
        }
    }

    /// Takes in one record of a datagram (see [`records`](crate::dtls::records)), opening it in place: the
    /// plaintext is the type and the payload of a frame.
    pub fn handle_record<'b>(&mut self, record: &'b mut [u8], now: Instant) -> Opened<'b> {
        let State::Live(live) = &mut self.state else {
            return Opened::Dropped(crate::drop::DropReason::ChannelClosed);
        };
        let opened = live.channel.handle_record(record, now);
        if let Opened::Application(plaintext) = &opened {
            live.heard = now;
            if let Stage::Probing(probe) = &mut live.stage
                && let Some((kind, payload)) = plaintext.split_first()
                && FrameKind::from_byte(*kind) == FrameKind::DpdResponse
                && let Some(found) = probe.handle_response(payload, now)
            {
                self.found(found, now);
            }
        }
        self.take_events(now);
        opened
    }

    /// Nothing can be sent from where this try began: the next one is in a minute.
    pub fn handle_no_socket(&mut self, now: Instant) {
        self.give_up(now + DATAGRAM_RETRY);
    }

    /// Says goodbye on DTLS level.
    pub fn close(&mut self, now: Instant) {
        if let State::Live(live) = &mut self.state {
            live.channel.close();
            self.take_events(now);
        }
    }

    /// Makes the plaintext in `packet`, a type and a payload, a record, in place.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn seal(&mut self, packet: &mut PacketBuf, now: Instant) -> Result<(), SealError> {
        match &mut self.state {
            State::Live(live) => {
                live.sent = now;
                live.channel.seal(packet)
            }
            State::Waiting { .. } => Err(SealError::NotOpen),
        }
    }

    /// Writes the next datagram that the channel itself wants sent; returns whether there was one.
    pub fn poll_transmit(&mut self, out: &mut PacketBuf) -> bool {
        let State::Live(live) = &mut self.state else { return false };
        if live.channel.poll_transmit(out) {
            return true;
        }
        if let Stage::Probing(probe) = &mut live.stage
            && probe.poll_transmit(out)
        {
            return live.channel.seal(out).is_ok();
        }
        let question = std::mem::take(&mut self.ask).then_some(FrameKind::DpdRequest);
        let keepalive = std::mem::take(&mut self.keep).then_some(FrameKind::Keepalive);
        if let Some(kind) = question.or(keepalive) {
            out.clear();
            out.prepend([kind.byte()]);
            return live.channel.seal(out).is_ok();
        }
        if let Some(until) = live.over {
            self.give_up(until);
        }
        false
    }

    /// Takes what became of the channel.
    pub fn poll_change(&mut self) -> Option<DatagramChange> {
        self.change.take()
    }

    /// The next moment for [`ClientDatagrams::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let live = match &self.state {
            State::Waiting { until } => return Some(*until),
            State::Live(live) => live,
        };
        let engine = live.channel.poll_timeout().map(|deadline| deadline.at);
        let stage = match &live.stage {
            Stage::Handshake => None,
            Stage::Probing(probe) => Some(probe.poll_timeout()),
            Stage::Open => {
                let question = self.plan.offer.dpd.map(|dpd| live.next_question(dpd));
                let keepalive = self.plan.offer.keepalive.map(|keepalive| live.sent + keepalive);
                question.into_iter().chain(keepalive).chain(live.rekey_at).min()
            }
        };
        engine.into_iter().chain(stage).min()
    }

    /// Counts the tries; 0 before the first. Each wants to be sent from another port than the one before.
    pub fn attempt(&self) -> u64 {
        self.attempt
    }

    /// Whether packets can be sealed.
    pub fn is_open(&self) -> bool {
        matches!(&self.state, State::Live(live) if matches!(live.stage, Stage::Open))
    }

    fn start(&mut self, now: Instant) {
        self.attempt += 1;
        let keying = Keying::psk(*self.plan.psk);
        let entropy = self.draw();
        let channel = ClientChannel::start(keying, &self.plan.offer.app_id, &[], entropy, now);
        let stage = Stage::Handshake;
        self.state = State::Live(Box::new(Live {
            channel,
            stage,
            heard: now,
            asked: now,
            sent: now,
            rekey_at: None,
            keyed: now,
            over: None,
        }));
    }

    /// 256 bits that were never used before.
    fn draw(&mut self) -> [u8; 32] {
        self.drawn += 1;
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(&*self.seed);
        hash.update(&self.drawn.to_be_bytes());
        hash.finish().as_ref().try_into().expect("SHA-256 gives 32 bytes")
    }

    fn take_events(&mut self, now: Instant) {
        while let State::Live(live) = &mut self.state
            && let Some(event) = live.channel.poll_event()
        {
            match event {
                ClientChannelEvent::Opened { suite } => {
                    let DatagramPlan { mtu, link, server, floor, .. } = self.plan;
                    let max = mtu::datagram_mtu(mtu, link, server, suite.record_suite()).get();
                    let [a, b, c, d, ..] = self.draw();
                    let probe = MtuProbe::new(max, floor, u32::from_be_bytes([a, b, c, d]), now);
                    let rekey_at = self.plan.rekey_after().map(|after| now + after);
                    if let State::Live(live) = &mut self.state {
                        live.stage = Stage::Probing(probe);
                        live.rekey_at = rekey_at;
                        live.keyed = now;
                    }
                }
                ClientChannelEvent::Rekeyed { .. } => {
                    live.rekey_at = self.plan.rekey_after().map(|after| now + after);
                    live.keyed = now;
                }
                ClientChannelEvent::RekeyAsked if now < live.keyed + MIN_REKEY_INTERVAL => {}
                ClientChannelEvent::RekeyAsked => {
                    live.rekey_at = Some(now);
                    self.check_life(now);
                }
                // The present keys are due: a new channel has new ones.
                ClientChannelEvent::RekeyFailed => live.over = Some(now),
                ClientChannelEvent::Closed { .. } => live.over = Some(now + DATAGRAM_RETRY),
            }
        }
    }

    fn found(&mut self, found: Found, now: Instant) {
        let State::Live(live) = &mut self.state else { return };
        match found {
            Found::Fits(len) => {
                live.stage = Stage::Open;
                // The search has just proven that the server is there, however long its last size took.
                (live.heard, live.asked, live.sent) = (now, now, now);
                self.change = Some(DatagramChange::Opened(len));
                // New keys may have come due during the search.
                self.check_life(now);
            }
            Found::Nothing => self.give_up(now + DATAGRAM_RETRY),
        }
    }

    /// DPD, keepalive and new keys of an open channel.
    fn check_life(&mut self, now: Instant) {
        let State::Live(live) = &mut self.state else { return };
        if !matches!(live.stage, Stage::Open) {
            return;
        }
        if let Some(dpd) = self.plan.offer.dpd {
            if now >= live.heard + 2 * dpd {
                self.give_up(now);
                return self.start(now);
            }
            if now >= live.next_question(dpd) {
                live.asked = now - dpd / 2;
                live.sent = now;
                self.ask = true;
            }
        }
        // A NAT box on the way forgets a port that nothing leaves by.
        if self.plan.offer.keepalive.is_some_and(|keepalive| now >= live.sent + keepalive) {
            live.sent = now;
            self.keep = true;
        }
        if live.rekey_at.is_some_and(|at| now >= at) {
            let entropy = self.draw();
            if let State::Live(live) = &mut self.state {
                live.channel.rekey(entropy, now);
                // Unless the channel was busy with a handshake, its end is told before.
                live.rekey_at = Some(now + DATAGRAM_RETRY);
            }
        }
    }

    fn give_up(&mut self, until: Instant) {
        if self.is_open() {
            self.change = Some(DatagramChange::Closed);
        }
        (self.ask, self.keep) = (false, false);
        self.state = State::Waiting { until };
    }
}

impl Live {
    fn next_question(&self, dpd: Duration) -> Instant {
        self.asked.max(self.heard) + dpd
    }
}

impl DatagramPlan {
    fn rekey_after(&self) -> Option<Duration> {
        self.offer.rekey_time.filter(|_| self.offer.rekey_method == RekeyMethod::Ssl)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::connect::DtlsKey;
    use crate::dtls::{CookieKeys, Greeting, Path, ServerChannel, is_client_hello, records};
    use crate::testing::origin;

    const DPD: Duration = Duration::from_secs(30);
    const PSK: [u8; 32] = [7; 32];

    /// A channel, the server at the other end, and a path that carries `limit` bytes.
    struct Rig {
        client: ClientDatagrams,
        server: ServerChannel,
        keys: CookieKeys,
        limit: usize,
        now: Instant,
        sent: Vec<(Duration, u64, usize)>,
        start: Instant,
    }

    impl Rig {
        fn new() -> Self {
            Self::with_dpd(DPD)
        }

        fn with_dpd(dpd: Duration) -> Self {
            let offer = DtlsOffer {
                port: 443,
                app_id: [1; 32],
                key: DtlsKey::Exported,
                dpd: Some(dpd),
                keepalive: Some(Duration::from_secs(20)),
                rekey_time: Some(Duration::from_secs(600)),
                rekey_method: RekeyMethod::Ssl,
            };
            let plan = DatagramPlan {
                psk: Zeroizing::new(PSK),
                offer,
                server: [192, 0, 2, 1].into(),
                mtu: Mtu::new(1_434),
                link: Some(Mtu::new(1_500)),
                floor: 576,
            };
            let now = origin();
            Self {
                client: ClientDatagrams::new(plan, [3; 32], now),
                server: ServerChannel::new(Keying::psk(PSK)),
                keys: CookieKeys::new([9; 32]),
                limit: 1_500,
                now,
                sent: Vec::new(),
                start: now,
            }
        }

        /// Carries datagrams both ways until there are none; the server answers questions with their own bytes.
        fn settle(&mut self) {
            let mut out = PacketBuf::new(2_000);
            while self.client.poll_transmit(&mut out) {
                self.sent.push((self.now - self.start, self.client.attempt(), out.len()));
                if out.len() + 28 <= self.limit {
                    let mut datagram = out.as_slice().to_vec();
                    self.carry(&mut datagram);
                }
            }
        }

        fn carry(&mut self, datagram: &mut [u8]) {
            let remote = SocketAddr::from(([198, 51, 100, 1], 5_000));
            let path = Path { remote, local: None, socket: 0 };
            let mut answers = Vec::new();
            let mut out = PacketBuf::new(2_000);
            if is_client_hello(datagram) {
                match self.keys.greet(remote, datagram, &mut out) {
                    Greeting::Answer => answers.push(out.as_slice().to_vec()),
                    Greeting::Verified(hello) => {
                        self.server.handle_hello(path, &hello, [5; 32], self.now).unwrap();
                    }
                    Greeting::Dropped(reason) => panic!("{reason}"),
                }
            } else {
                for record in records(datagram) {
                    if let Opened::Application(plaintext) = self.server.handle_record(path, record, self.now)
                        && plaintext[0] == FrameKind::DpdRequest.byte()
                    {
                        plaintext[0] = FrameKind::DpdResponse.byte();
                        let mut answer = vec![0; plaintext.len() + 37];
                        let len = self.server.seal_into(plaintext, &mut answer).unwrap();
                        answers.push(answer[..len].to_vec());
                    }
                }
            }
            while self.server.poll_transmit(&mut out).is_some() {
                answers.push(out.as_slice().to_vec());
            }
            for mut answer in answers {
                for record in records(&mut answer) {
                    let _ = self.client.handle_record(record, self.now);
                }
            }
        }

        /// Jumps from deadline to deadline for `time`.
        fn pass(&mut self, time: Duration) {
            let until = self.now + time;
            self.settle();
            while let Some(at) = self.client.poll_timeout().filter(|at| *at <= until) {
                assert!(at >= self.now, "a deadline in the past");
                self.now = at;
                self.client.handle_timeout(self.now);
                self.settle();
            }
            self.now = until;
        }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    /// Covers: statement 61
    #[test]
    fn an_open_channel_says_what_it_carries() {
        for (limit, fits) in [(1_500, 1_434..=1_434), (1_300, 1_220..=1_234)] {
            let mut rig = Rig::new();
            rig.limit = limit;
            rig.pass(MINUTE);
            let Some(DatagramChange::Opened(mtu)) = rig.client.poll_change() else { panic!("not open") };
            assert!(fits.contains(&mtu), "{mtu} on a link of {limit}");
            assert!(rig.client.is_open());
        }
    }

    /// Covers: statement 60
    #[test]
    fn another_try_is_a_minute_after_the_last_one_and_from_another_port() {
        let mut rig = Rig::new();
        rig.limit = 0;
        rig.pass(5 * MINUTE);
        assert!(!rig.client.is_open());
        let first = |attempt| rig.sent.iter().find(|sent| sent.1 == attempt).map(|sent| sent.0);
        let last = |attempt| rig.sent.iter().rfind(|sent| sent.1 == attempt).map(|sent| sent.0);
        for attempt in 2..=4 {
            let wait = first(attempt).unwrap() - last(attempt - 1).unwrap();
            assert!(wait >= DATAGRAM_RETRY && wait < DATAGRAM_RETRY + Duration::from_secs(13), "{wait:?}");
        }
        rig.limit = 1_500;
        rig.pass(2 * MINUTE);
        assert!(rig.client.is_open());
    }

    /// Covers: statement 61: each size that does not fit is tried for two seconds.
    #[test]
    fn a_search_that_is_longer_than_the_servers_patience_is_no_silence() {
        let mut rig = Rig::with_dpd(Duration::from_secs(1));
        rig.limit = 1_300;
        rig.pass(5 * MINUTE);
        assert!(rig.client.is_open());
        assert_eq!(rig.client.attempt(), 1);
    }

    /// Covers: R8
    #[test]
    fn a_silent_channel_is_made_anew_after_two_intervals() {
        let mut rig = Rig::new();
        rig.pass(MINUTE);
        assert_eq!((rig.client.attempt(), rig.client.is_open()), (1, true));
        rig.limit = 0;
        rig.pass(2 * DPD);
        assert_eq!(rig.client.attempt(), 2);
        assert!(!rig.client.is_open());
    }

    #[test]
    fn a_quiet_channel_is_kept_open_for_the_boxes_on_the_way() {
        let mut rig = Rig::new();
        rig.pass(30 * MINUTE);
        let gaps = rig.sent.windows(2).map(|pair| pair[1].0 - pair[0].0);
        assert!(gaps.max().unwrap() <= Duration::from_secs(20));
    }

    /// Covers: statement 57
    #[test]
    fn keys_that_cannot_be_renewed_are_had_from_a_new_channel() {
        let mut rig = Rig::new();
        rig.pass(10 * MINUTE - Duration::from_secs(1));
        // Questions and keepalives pass, handshakes do not.
        rig.limit = 100;
        rig.pass(Duration::from_secs(20));
        rig.limit = 1_500;
        rig.pass(MINUTE);
        assert_eq!((rig.client.attempt(), rig.client.is_open()), (2, true));
    }

    /// Covers: statement 57
    #[test]
    fn keys_are_renewed_in_time() {
        let mut rig = Rig::new();
        rig.pass(11 * MINUTE);
        assert_eq!(rig.client.attempt(), 1);
        assert_eq!(rig.server.sealer().map(|sealer| sealer.epoch()), Some(2));
    }

    #[test]
    fn after_the_servers_goodbye_there_is_a_minute_of_nothing() {
        let mut rig = Rig::new();
        rig.pass(MINUTE);
        assert!(rig.client.poll_change().is_some());
        rig.server.close();
        let mut out = PacketBuf::new(2_000);
        while rig.server.poll_transmit(&mut out).is_some() {
            let mut bytes = out.as_slice().to_vec();
            for record in records(&mut bytes) {
                let _ = rig.client.handle_record(record, rig.now);
            }
        }
        rig.settle();
        assert_eq!(rig.client.poll_change(), Some(DatagramChange::Closed));
        let before = rig.sent.len();
        rig.pass(DATAGRAM_RETRY - Duration::from_millis(1));
        assert_eq!(rig.sent.len(), before);
        assert!(rig.client.seal(&mut PacketBuf::new(100), rig.now).is_err());
    }
}
