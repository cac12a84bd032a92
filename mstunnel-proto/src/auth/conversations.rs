//! All open conversations, by the hash of their context cookie, bounded in total and per source.
//!
//! A source over its own bound displaces its own oldest conversation. When the whole table is full,
//! the oldest conversation of the source that holds most goes, but never a source's only one: whoever
//! floods displaces himself, and somebody who is typing a password elsewhere stays. If every source
//! holds just one, the newcomer is refused until one of them ends or times out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Instant,
};

use super::{
    answer::QuestionId,
    bans::Source,
    conversation::{Conversation, State},
    cookie::CookieHash,
};

/// The most conversations: 6 MB, and a new one every 18 ms for 300 s.
pub const MAX_CONVERSATIONS: usize = 16_384;

/// The most conversations of one source: a building behind one address, on Monday morning.
pub const MAX_CONVERSATIONS_PER_SOURCE: usize = 256;

/// A place in the order of creation.
type Age = u64;

#[derive(Debug, Default)]
pub(super) struct Conversations {
    entries: BTreeMap<CookieHash, (Age, Conversation)>,
    by_deadline: BTreeSet<(Instant, CookieHash)>,
    by_source: BTreeMap<Source, BTreeSet<(Age, CookieHash)>>,
    by_load: BTreeSet<(usize, Source)>,
    next_age: Age,
}

/// There is no room that could be made without harm to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Conversations {
    /// Takes in a conversation, perhaps in the place of an older one.
    pub(super) fn insert(&mut self, key: CookieHash, conversation: Conversation) -> Result<(), Full> {
        if self.entries.contains_key(&key) {
            return Err(Full);
        }
        let source = conversation.source;
        let own = self.by_source.get(&source).map_or(0, BTreeSet::len);
        if own >= MAX_CONVERSATIONS_PER_SOURCE {
            self.remove_oldest_of(source);
        } else if self.entries.len() >= MAX_CONVERSATIONS {
            match self.by_load.last() {
                Some(&(load, heaviest)) if load > 1 => self.remove_oldest_of(heaviest),
                _ => return Err(Full),
            }
        }
        let age = self.next_age;
        self.next_age += 1;
        self.by_deadline.insert((conversation.deadline, key));
        self.change_load(source, |ages| ages.insert((age, key)));
        self.entries.insert(key, (age, conversation));
        Ok(())
    }

    pub(super) fn get(&self, key: &CookieHash) -> Option<&Conversation> {
        self.entries.get(key).map(|(_, conversation)| conversation)
    }

    pub(super) fn set_state(&mut self, key: &CookieHash, state: State) {
        if let Some((_, conversation)) = self.entries.get_mut(key) {
            conversation.state = state;
        }
    }

    pub(super) fn remove(&mut self, key: &CookieHash) -> Option<Conversation> {
        let (age, conversation) = self.entries.remove(key)?;
        self.by_deadline.remove(&(conversation.deadline, *key));
        self.change_load(conversation.source, |ages| ages.remove(&(age, *key)));
        Some(conversation)
    }

    /// Removes one conversation whose time is over.
    pub(super) fn remove_expired(&mut self, now: Instant) -> Option<Conversation> {
        let &(deadline, key) = self.by_deadline.first()?;
        if deadline > now {
            return None;
        }
        self.remove(&key)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.by_deadline.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn remove_oldest_of(&mut self, source: Source) {
        if let Some(&(_, key)) = self.by_source.get(&source).and_then(BTreeSet::first) {
            self.remove(&key);
        }
    }

    fn change_load(&mut self, source: Source, change: impl FnOnce(&mut BTreeSet<(Age, CookieHash)>) -> bool) {
        let ages = self.by_source.entry(source).or_default();
        self.by_load.remove(&(ages.len(), source));
        change(ages);
        if ages.is_empty() {
            self.by_source.remove(&source);
        } else {
            self.by_load.insert((ages.len(), source));
        }
    }
}

impl Conversation {
    /// The question that is open about this conversation.
    pub(super) fn question(&self) -> Option<QuestionId> {
        match self.state {
            State::Verifying { question, .. } => Some(question),
            State::Awaiting { .. } | State::Admitted | State::Refused => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        time::Duration,
    };

    use proptest::prelude::*;

    use super::*;
    use crate::auth::{
        conversation::{Claim, Standing},
        cookie::Cookie,
    };

    fn key(n: u32) -> CookieHash {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        Cookie::from_random(bytes).hash()
    }

    fn from(source: u32, deadline: Instant) -> Conversation {
        Conversation {
            state: State::Awaiting { failures: 0 },
            claim: Claim { user: None, group: None, standing: Standing::Open },
            source: Source::of(IpAddr::V4(Ipv4Addr::from_bits(source))),
            deadline,
        }
    }

    fn bound(n: usize) -> u32 {
        u32::try_from(n).unwrap()
    }

    /// Covers: R33, R36
    #[test]
    fn a_source_over_its_bound_displaces_its_own_oldest() {
        let mut table = Conversations::default();
        let deadline = crate::testing::origin();
        table.insert(key(9999), from(2, deadline)).unwrap();
        for n in 0..bound(MAX_CONVERSATIONS_PER_SOURCE) {
            table.insert(key(n), from(1, deadline)).unwrap();
        }
        table.insert(key(5000), from(1, deadline)).unwrap();
        assert!(table.get(&key(0)).is_none());
        assert!(table.get(&key(1)).is_some());
        assert!(table.get(&key(9999)).is_some());
        assert_eq!(table.len(), MAX_CONVERSATIONS_PER_SOURCE + 1);
    }

    /// Covers: R36
    #[test]
    fn a_flood_displaces_the_flooder_and_never_somebodys_only_conversation() {
        let mut table = Conversations::default();
        let deadline = crate::testing::origin();
        let flooders = bound(MAX_CONVERSATIONS / MAX_CONVERSATIONS_PER_SOURCE);
        table.insert(key(0), from(1_000_000, deadline)).unwrap();
        for n in 1..bound(MAX_CONVERSATIONS) {
            table.insert(key(n), from(n % flooders, deadline)).unwrap();
        }
        table.insert(key(1_000_000), from(2_000_000, deadline)).unwrap();
        assert!(table.get(&key(0)).is_some());
        assert_eq!(table.len(), MAX_CONVERSATIONS);
    }

    /// Covers: R36
    #[test]
    fn when_every_source_holds_just_one_the_newcomer_is_refused() {
        let mut table = Conversations::default();
        let deadline = crate::testing::origin();
        for n in 0..bound(MAX_CONVERSATIONS) {
            table.insert(key(n), from(n, deadline)).unwrap();
        }
        assert_eq!(table.insert(key(1_000_000), from(1_000_000, deadline)).unwrap_err(), Full);
        assert!(table.remove_expired(deadline).is_some());
        assert!(table.insert(key(1_000_000), from(1_000_000, deadline)).is_ok());
    }

    proptest! {
        #[test]
        fn the_indices_agree(steps in prop::collection::vec((0u32..20, 0u32..4, 0u64..5, 0u8..3), 0..100)) {
            let mut table = Conversations::default();
            let start = crate::testing::origin();
            for (name, source, secs, action) in steps {
                let at = start + Duration::from_secs(secs);
                match action {
                    0 => drop(table.insert(key(name), from(source, at))),
                    1 => drop(table.remove(&key(name))),
                    _ => drop(table.remove_expired(at)),
                }
                prop_assert_eq!(table.by_deadline.len(), table.len());
                prop_assert_eq!(table.by_source.values().map(BTreeSet::len).sum::<usize>(), table.len());
                prop_assert_eq!(table.by_load.len(), table.by_source.len());
                for (load, source) in &table.by_load {
                    prop_assert_eq!(table.by_source[source].len(), *load);
                }
            }
        }
    }
}
