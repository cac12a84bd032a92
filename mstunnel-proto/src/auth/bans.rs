//! Bans: how often a source or a user name failed, and who has to wait.
//!
//! ```text
//!            failure                     score >= limit
//! (absent) ──────────> scored ────────────────────────────> banned
//!     ^                  │ reset time without a failure        │ ban time over
//!     └──────────────────┴─────────────────────────────────────┘
//! ```
//!
//! A source is an IPv4 address or an IPv6 /64. Sources and user names are scored apart, and a
//! user name bears [`USER_FACTOR`] times as much: distributed guessing at one name is slowed down,
//! while one stranger is banned himself long before he can keep a user from logging in.
//!
//! A ban refuses *logins*. It never ends a session and never refuses a CONNECT: whoever holds a
//! cookie has logged in already, so a server must not ask this table on that path (threats.md R36,
//! P-056). Probes earn no points (R28), therefore connections as such are not scored.
//!
//! Both tables hold at most [`MAX_ENTRIES`]; a full one forgets the entry with the lowest score
//! and the oldest failure, so that a flood of new sources displaces other beginners and not bans.
//!
//! # Source
//! threats.md R36, protocol.md section 10 (ocserv's options and points).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use crate::prefix::Prefix;

/// The most entries of each of the two tables: some 10 MB each when a flood fills them.
pub const MAX_ENTRIES: usize = 65_536;

/// How many times a source's limit a user name bears before its logins have to wait.
pub const USER_FACTOR: u32 = 5;

/// What a wrong password or token costs.
pub const POINTS_WRONG_SECRET: u32 = 10;

/// Limits of a [`BanTable`], under the names of ocserv's options.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanConfig {
    /// `max-ban-score`: a source with this many points is banned. 0 switches bans off.
    pub max_ban_score: u32,
    /// `ban-reset-time`: points are forgotten this long after the last failure.
    pub ban_reset_time: Duration,
    /// `min-reauth-time`: how long a ban lasts.
    pub min_reauth_time: Duration,
    /// Sources that are never scored or banned, such as the networks of the server itself.
    pub exempt: Vec<Prefix>,
}

impl Default for BanConfig {
    fn default() -> Self {
        Self {
            max_ban_score: 80,
            ban_reset_time: Duration::from_secs(1200),
            min_reauth_time: Duration::from_secs(300),
            exempt: Vec::new(),
        }
    }
}

/// Whom a failure is held against: an IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(IpAddr);

impl Source {
    /// The source that `address` belongs to. An IPv4-mapped IPv6 address is its IPv4 address.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => IpAddr::V4(v4),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        })
    }

    /// The IPv4 address, or the first address of the /64.
    pub fn address(self) -> IpAddr {
        self.0
    }
}

/// One row for an administrator's listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanEntry {
    /// The source (`None` for a user's row).
    pub source: Option<Source>,
    /// The user name (`None` for a source's row).
    pub user: Option<String>,
    /// The points so far.
    pub points: u32,
    /// Whether logins are refused until then.
    pub is_banned: bool,
    /// When the ban ends, or the points are forgotten.
    pub until: Instant,
}

/// Scores of sources and of user names.
#[derive(Debug)]
pub struct BanTable {
    config: BanConfig,
    sources: Scores<Source>,
    users: Scores<String>,
}

impl BanTable {
    /// Makes an empty table.
    pub fn new(config: BanConfig) -> Self {
        Self { config, sources: Scores::new(), users: Scores::new() }
    }

    /// Takes over new limits; points and running bans stay as they are, except that 0 clears all.
    pub fn set_config(&mut self, config: BanConfig) {
        self.config = config;
        if self.is_off() {
            self.sources = Scores::new();
            self.users = Scores::new();
        }
    }

    /// Scores a wrong secret of `source` and, if a name was given, of `user`.
    pub fn record_failure(&mut self, source: IpAddr, user: Option<&str>, now: Instant) {
        if self.is_off() {
            return;
        }
        let limit = self.config.max_ban_score;
        if !self.is_exempt(source) {
            self.sources.record(Source::of(source), limit, &self.config, now);
        }
        if let Some(user) = user {
            self.users.record(user.to_owned(), limit.saturating_mul(USER_FACTOR), &self.config, now);
        }
    }

    /// Whether logins from `source` are refused at `now`.
    pub fn is_banned(&self, source: IpAddr, now: Instant) -> bool {
        !self.is_off() && !self.is_exempt(source) && self.sources.is_banned(&Source::of(source), now)
    }

    /// Whether logins as `user` are refused at `now`, wherever they come from.
    pub fn is_user_throttled(&self, user: &str, now: Instant) -> bool {
        !self.is_off() && self.users.is_banned(user, now)
    }

    /// The points of the source that `source` belongs to.
    pub fn points(&self, source: IpAddr) -> u32 {
        self.sources.points(&Source::of(source))
    }

    /// Forgets points and ban of a source; whether there were any.
    pub fn unban(&mut self, source: IpAddr) -> bool {
        self.sources.forget(&Source::of(source))
    }

    /// Forgets points and throttling of a user name; whether there were any.
    pub fn unban_user(&mut self, user: &str) -> bool {
        self.users.forget(user)
    }

    /// Every row, sources first, each in order.
    pub fn iter(&self) -> impl Iterator<Item = BanEntry> + '_ {
        let row = |source, user, entry: &Entry| BanEntry {
            source,
            user,
            points: entry.points,
            is_banned: entry.is_banned,
            until: entry.until,
        };
        let sources = self.sources.entries.iter().map(move |(key, entry)| row(Some(*key), None, entry));
        let users = self.users.entries.iter().map(move |(key, entry)| row(None, Some(key.clone()), entry));
        sources.chain(users)
    }

    /// Ends bans and forgets points whose time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.sources.expire(now);
        self.users.expire(now);
    }

    /// The next moment at which something ends.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.sources.next_expiry().into_iter().chain(self.users.next_expiry()).min()
    }

    fn is_off(&self) -> bool {
        self.config.max_ban_score == 0
    }

    fn is_exempt(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        self.config.exempt.iter().any(|prefix| prefix.contains(source))
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    points: u32,
    is_banned: bool,
    /// When the ban ends or the points are forgotten.
    until: Instant,
}

/// A bounded table of scores, with its two orders: who goes first when it is full, who by time.
#[derive(Debug)]
struct Scores<K: Ord + Clone> {
    entries: BTreeMap<K, Entry>,
    by_rank: BTreeSet<(bool, u32, Instant, K)>,
    by_time: BTreeSet<(Instant, K)>,
}

impl<K: Ord + Clone> Scores<K> {
    fn new() -> Self {
        Self { entries: BTreeMap::new(), by_rank: BTreeSet::new(), by_time: BTreeSet::new() }
    }

    fn record(&mut self, key: K, limit: u32, config: &BanConfig, now: Instant) {
        self.expire(now);
        let before = self.entries.get(&key).copied();
        // A running ban is neither lengthened nor made worse: it ends when it was said to end.
        if before.is_some_and(|entry| entry.is_banned) {
            return;
        }
        let points = before.map_or(0, |entry| entry.points).saturating_add(POINTS_WRONG_SECRET);
        let is_banned = points >= limit;
        let wait = if is_banned { config.min_reauth_time } else { config.ban_reset_time };
        // A time past the end of the clock: the entry goes at once rather than never.
        let until = now.checked_add(wait).unwrap_or(now);
        self.forget(&key);
        if self.entries.len() >= MAX_ENTRIES {
            self.displace();
        }
        self.by_rank.insert((is_banned, points, until, key.clone()));
        self.by_time.insert((until, key.clone()));
        self.entries.insert(key, Entry { points, is_banned, until });
    }

    fn displace(&mut self) {
        if let Some((_, _, until, key)) = self.by_rank.pop_first() {
            self.by_time.remove(&(until, key.clone()));
            self.entries.remove(&key);
        }
    }

    fn is_banned<Q: Ord + ?Sized>(&self, key: &Q, now: Instant) -> bool
    where
        K: std::borrow::Borrow<Q>,
    {
        self.entries.get(key).is_some_and(|entry| entry.is_banned && now < entry.until)
    }

    fn points<Q: Ord + ?Sized>(&self, key: &Q) -> u32
    where
        K: std::borrow::Borrow<Q>,
    {
        self.entries.get(key).map_or(0, |entry| entry.points)
    }

    fn forget<Q: Ord + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: std::borrow::Borrow<Q>,
    {
        let Some((key, entry)) = self.entries.remove_entry(key) else {
            return false;
        };
        self.by_time.remove(&(entry.until, key.clone()));
        self.by_rank.remove(&(entry.is_banned, entry.points, entry.until, key));
        true
    }

    fn expire(&mut self, now: Instant) {
        while let Some((until, key)) = self.by_time.first() {
            if *until > now {
                return;
            }
            let key = key.clone();
            self.forget(&key);
        }
    }

    fn next_expiry(&self) -> Option<Instant> {
        self.by_time.first().map(|(until, _)| *until)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::testing::origin;

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn table() -> BanTable {
        BanTable::new(BanConfig {
            max_ban_score: 50,
            ban_reset_time: secs(10),
            min_reauth_time: secs(20),
            exempt: Vec::new(),
        })
    }

    fn v4(last: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + last))
    }

    /// Covers: statement 71, P-055, O-050, R36
    #[test]
    fn five_wrong_passwords_ban_a_source_for_the_set_time_and_leave_others_alone() {
        let mut bans = table();
        let start = origin();
        for n in 0..5 {
            assert!(!bans.is_banned(v4(1), start + secs(n)));
            bans.record_failure(v4(1), None, start + secs(n));
        }
        assert!(bans.is_banned(v4(1), start + secs(4)));
        assert!(bans.is_banned(v4(1), start + secs(23)));
        assert!(!bans.is_banned(v4(2), start + secs(4)));
        assert!(!bans.is_banned(v4(1), start + secs(24)));
        bans.handle_timeout(start + secs(24));
        assert_eq!(bans.points(v4(1)), 0, "the score resets with the ban");
    }

    /// Covers: P-055, O-050
    #[test]
    fn points_are_forgotten_after_the_reset_time() {
        let mut bans = table();
        let start = origin();
        for _ in 0..4 {
            bans.record_failure(v4(1), None, start);
        }
        assert_eq!(bans.points(v4(1)), 40);
        assert_eq!(bans.poll_timeout(), Some(start + secs(10)));
        bans.record_failure(v4(1), None, start + secs(10));
        assert_eq!(bans.points(v4(1)), 10);
    }

    /// Covers: O-009, P-055, R36
    #[test]
    fn addresses_of_one_ipv6_64_count_together() {
        let mut bans = table();
        let start = origin();
        for n in 0..5u32 {
            let address: IpAddr = format!("2001:db8:0:1:{n:x}::{n:x}").parse().unwrap();
            bans.record_failure(address, None, start);
        }
        assert!(bans.is_banned("2001:db8:0:1::99".parse().unwrap(), start));
        assert!(!bans.is_banned("2001:db8:0:2::1".parse().unwrap(), start));
    }

    /// Covers: R36
    #[test]
    fn an_ipv4_mapped_address_is_the_ipv4_address() {
        assert_eq!(Source::of("::ffff:10.0.0.1".parse().unwrap()), Source::of(v4(1)));
        assert_ne!(Source::of("::ffff:10.0.0.2".parse().unwrap()), Source::of(v4(1)));
    }

    /// Covers: R36
    #[test]
    fn further_failures_do_not_lengthen_a_ban() {
        let mut bans = table();
        let start = origin();
        for _ in 0..5 {
            bans.record_failure(v4(1), None, start);
        }
        bans.record_failure(v4(1), None, start + secs(19));
        assert!(!bans.is_banned(v4(1), start + secs(20)));
    }

    /// Covers: R36
    #[test]
    fn a_user_is_throttled_only_after_more_failures_than_ban_a_single_source() {
        let mut bans = table();
        let start = origin();
        for n in 0..25 {
            assert!(!bans.is_user_throttled("alice", start), "after {n}");
            bans.record_failure(v4(n), Some("alice"), start);
        }
        assert!(bans.is_user_throttled("alice", start));
        assert!(!bans.is_user_throttled("bob", start));
        assert!(!bans.is_user_throttled("alice", start + secs(20)));
        assert!(bans.unban_user("alice"));
        assert!(!bans.is_user_throttled("alice", start));
    }

    /// Covers: R36
    #[test]
    fn zero_switches_bans_off() {
        let mut bans = table();
        let start = origin();
        for _ in 0..5 {
            bans.record_failure(v4(1), Some("alice"), start);
        }
        bans.set_config(BanConfig { max_ban_score: 0, ..BanConfig::default() });
        assert!(!bans.is_banned(v4(1), start));
        for _ in 0..1000 {
            bans.record_failure(v4(1), Some("alice"), start);
        }
        assert!(!bans.is_banned(v4(1), start));
        assert_eq!(bans.iter().count(), 0);
    }

    /// Covers: O-051
    #[test]
    fn an_exempt_source_is_never_scored() {
        let mut bans =
            BanTable::new(BanConfig { exempt: vec![Prefix::new(v4(0), 8).unwrap()], ..BanConfig::default() });
        let start = origin();
        for _ in 0..100 {
            bans.record_failure(v4(1), None, start);
        }
        assert!(!bans.is_banned(v4(1), start));
        assert!(!bans.is_banned("::ffff:10.0.0.1".parse().unwrap(), start));
    }

    /// Covers: R36
    #[test]
    fn an_administrator_sees_and_lifts_a_ban() {
        let mut bans = table();
        let start = origin();
        for _ in 0..5 {
            bans.record_failure(v4(1), Some("alice"), start);
        }
        let rows: Vec<_> = bans.iter().collect();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].source.map(Source::address), rows[0].is_banned), (Some(v4(1)), true));
        assert_eq!((rows[1].user.as_deref(), rows[1].is_banned), (Some("alice"), false));
        assert!(bans.unban(v4(1)));
        assert!(!bans.unban(v4(1)));
        assert!(!bans.is_banned(v4(1), start));
    }

    /// Covers: P-055, R36
    #[test]
    fn a_flood_of_sources_keeps_the_table_bounded_and_the_bans_in_it() {
        let mut bans = BanTable::new(BanConfig::default());
        let start = origin();
        for _ in 0..8 {
            bans.record_failure(v4(0), None, start);
        }
        for n in 1..=u32::try_from(MAX_ENTRIES).unwrap() + 1000 {
            bans.record_failure(v4(n), None, start);
        }
        assert_eq!(bans.iter().count(), MAX_ENTRIES);
        assert!(bans.is_banned(v4(0), start));
    }

    proptest! {
        #[test]
        fn the_three_indices_agree(steps in prop::collection::vec((0u32..6, 0u64..5, any::<bool>()), 0..80)) {
            let mut bans = table();
            let mut now = origin();
            for (source, wait, lift) in steps {
                now += secs(wait);
                if lift {
                    bans.unban(v4(source));
                } else {
                    bans.record_failure(v4(source), None, now);
                }
                let scores = &bans.sources;
                prop_assert_eq!(scores.entries.len(), scores.by_rank.len());
                prop_assert_eq!(scores.entries.len(), scores.by_time.len());
                bans.handle_timeout(now);
                prop_assert!(bans.poll_timeout().is_none_or(|at| at > now));
            }
        }
    }
}
