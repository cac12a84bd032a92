//! The questions that are with the verifier, bounded in total and per source.
//!
//! A connection asks one question at a time, and only while it lives: when it closes, its question
//! stays known until the verdict, so that a wrong secret still costs points, but can admit nobody.

use std::{collections::BTreeMap, net::IpAddr, time::Instant};

use super::{
    answer::{ConnectionId, QuestionId},
    bans::Source,
    conversation::Claim,
    cookie::CookieHash,
};

/// The most open questions: a verifier that answers in 100 ms still gives 10,000 logins a second.
pub const MAX_QUESTIONS: usize = 1024;

/// The most open questions of one source, so that one cannot take all places.
pub const MAX_QUESTIONS_PER_SOURCE: usize = 256;

/// What a question is about.
#[derive(Debug)]
pub(super) enum Subject {
    /// The password in a conversation.
    Password(CookieHash),
    /// A token.
    Bearer,
}

/// Whether the connection that asked still waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asker {
    Waits,
    Left,
}

#[derive(Debug)]
pub(super) struct Question {
    pub(super) connection: ConnectionId,
    pub(super) address: IpAddr,
    pub(super) claim: Claim,
    pub(super) subject: Subject,
    pub(super) asker: Asker,
    pub(super) deadline: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Questions {
    entries: BTreeMap<QuestionId, Question>,
    by_connection: BTreeMap<ConnectionId, QuestionId>,
    by_source: BTreeMap<Source, usize>,
    last: u64,
}

impl Questions {
    /// Whether another question of `address` finds room.
    pub(super) fn has_room(&self, address: IpAddr) -> bool {
        let own = self.by_source.get(&Source::of(address)).copied().unwrap_or_default();
        self.entries.len() < MAX_QUESTIONS && own < MAX_QUESTIONS_PER_SOURCE
    }

    /// Whether the connection has a question open.
    pub(super) fn is_waiting(&self, connection: ConnectionId) -> bool {
        self.by_connection.contains_key(&connection)
    }

    /// Takes in a question that found room.
    pub(super) fn insert(&mut self, question: Question) -> QuestionId {
        self.last += 1;
        let id = QuestionId(self.last);
        *self.by_source.entry(Source::of(question.address)).or_default() += 1;
        self.by_connection.insert(question.connection, id);
        self.entries.insert(id, question);
        id
    }

    pub(super) fn remove(&mut self, id: QuestionId) -> Option<Question> {
        let question = self.entries.remove(&id)?;
        if question.asker == Asker::Waits {
            self.by_connection.remove(&question.connection);
        }
        let source = Source::of(question.address);
        if let Some(count) = self.by_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.by_source.remove(&source);
            }
        }
        Some(question)
    }

    /// Notes that nobody waits for this question any more.
    pub(super) fn leave(&mut self, id: QuestionId) {
        if let Some(question) = self.entries.get_mut(&id)
            && question.asker == Asker::Waits
        {
            question.asker = Asker::Left;
            self.by_connection.remove(&question.connection);
        }
    }

    /// The open question of a connection.
    pub(super) fn of_connection(&self, connection: ConnectionId) -> Option<(QuestionId, &Question)> {
        let id = *self.by_connection.get(&connection)?;
        self.entries.get(&id).map(|question| (id, question))
    }

    /// Forgets the questions that the verifier never answered. There are at most [`MAX_QUESTIONS`].
    pub(super) fn expire(&mut self, now: Instant) {
        let late = |(id, question): (&QuestionId, &Question)| (question.deadline <= now).then_some(*id);
        let expired: Vec<_> = self.entries.iter().filter_map(late).collect();
        for id in expired {
            self.remove(id);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.entries.values().map(|question| question.deadline).min()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, time::Duration};

    use super::*;
    use crate::auth::conversation::Standing;

    fn from_at(source: u32, connection: u64, start: Instant) -> Question {
        Question {
            connection: ConnectionId(connection),
            address: IpAddr::V4(Ipv4Addr::from_bits(source)),
            claim: Claim { user: None, group: None, standing: Standing::Open },
            subject: Subject::Bearer,
            asker: Asker::Waits,
            deadline: start + Duration::from_secs(connection),
        }
    }

    fn from(source: u32, connection: u64) -> Question {
        from_at(source, connection, crate::testing::origin())
    }

    /// Covers: R35, P-054
    #[test]
    fn the_verifier_has_a_bounded_number_of_places() {
        let mut questions = Questions::default();
        let address = |source| IpAddr::V4(Ipv4Addr::from_bits(source));
        for n in 0..MAX_QUESTIONS {
            let source = u32::try_from(n / MAX_QUESTIONS_PER_SOURCE).unwrap();
            assert!(questions.has_room(address(source)));
            questions.insert(from(source, n as u64));
        }
        assert!(!questions.has_room(address(99)));
        let last = questions.insert(from(99, 99_999));
        questions.remove(last);
        questions.remove(QuestionId(1));
        assert!(questions.has_room(address(0)) && questions.has_room(address(99)));
        assert!(!questions.has_room(address(1)));
    }

    /// Covers: R33
    #[test]
    fn a_question_without_asker_keeps_its_place_and_frees_the_connection() {
        let mut questions = Questions::default();
        let id = questions.insert(from(1, 7));
        assert!(questions.is_waiting(ConnectionId(7)));
        questions.leave(id);
        assert!(!questions.is_waiting(ConnectionId(7)) && questions.of_connection(ConnectionId(7)).is_none());
        let next = questions.insert(from(1, 7));
        assert_eq!(questions.remove(id).map(|question| question.asker), Some(Asker::Left));
        assert_eq!(questions.of_connection(ConnectionId(7)).map(|(id, _)| id), Some(next));
    }

    #[test]
    fn a_question_that_is_never_answered_is_forgotten_at_its_deadline() {
        let mut questions = Questions::default();
        let start = crate::testing::origin();
        for connection in 1..=3 {
            questions.insert(from_at(1, connection, start));
        }
        assert_eq!(questions.next_deadline(), Some(start + Duration::from_secs(1)));
        questions.expire(start + Duration::from_secs(2));
        assert_eq!(questions.len(), 1);
        assert!(!questions.is_waiting(ConnectionId(2)) && questions.is_waiting(ConnectionId(3)));
    }
}
