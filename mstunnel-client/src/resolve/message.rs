//! DNS messages: a question, and what its answer says.
//!
//! An answer is taken only when its identifier and its question are those that were asked; whoever sends
//! another is passed over, so that a guess costs a guesser one packet and us nothing (RFC 5452).
//!
//! # Source
//! RFC 1035 section 4, RFC 3596.

use std::net::{IpAddr, Ipv6Addr};

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE, header_buffer};

/// Addresses that are taken from an answer at most: nobody tries more.
pub(super) const MAX_ADDRESSES: usize = 16;

/// Aliases that are followed in one answer at most.
pub(super) const MAX_ALIASES: usize = 8;

/// The shortest record on the wire: a root name, type, class, time to live, length.
const MIN_RECORD: usize = 11;

/// The kind of address that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    A,
    Aaaa,
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    id: u16,
    name: String,
    kind: Kind,
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The addresses; none when the name has none of the kind.
    Addresses(Vec<IpAddr>),
    /// The name is another's alias, and the answer does not say where that one is.
    Alias(String),
    /// There is no such name.
    NoSuchName,
    /// The answer does not fit a datagram: ask over TCP.
    Truncated,
    /// The server cannot or does not want to answer.
    Failed,
}

impl Query {
    /// A question about `name`, which [`is_name`] holds for.
    pub(super) fn new(id: u16, name: &str, kind: Kind) -> Self {
        let name = name.strip_suffix('.').unwrap_or(name).to_owned();
        Self { id, name, kind }
    }

    /// The message to send; `None` when the name is not one.
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let mut packet = Packet::new_query(self.id);
        packet.set_flags(PacketFlag::RECURSION_DESIRED);
        let name = Name::new(&self.name).ok()?;
        packet.questions.push(Question::new(
            name,
            QTYPE::TYPE(self.record()),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        packet.build_bytes_vec().ok()
    }

    /// What `message` answers; `None` when it is not an answer to this question.
    pub(super) fn read(&self, message: &[u8]) -> Option<Answer> {
        // Checked before anything is allocated for as many records as the header claims.
        let claimed =
            [header_buffer::answers, header_buffer::name_servers, header_buffer::additional_records]
                .iter()
                .map(|count| count(message).map_or(0, usize::from))
                .sum::<usize>();
        if claimed * MIN_RECORD > message.len() || header_buffer::questions(message).ok()? != 1 {
            return None;
        }
        let has = |flag| header_buffer::has_flags(message, flag).unwrap_or(false);
        if header_buffer::id(message).ok()? != self.id || !has(PacketFlag::RESPONSE) {
            return None;
        }
        let packet = Packet::parse(message).ok()?;
        let [question] = packet.questions.as_slice() else { return None };
        let is_ours = question.qtype == QTYPE::TYPE(self.record()) && is_same(&question.qname, &self.name);
        if !is_ours {
            return None;
        }
        let code = packet.rcode();
        Some(if has(PacketFlag::TRUNCATION) {
            Answer::Truncated
        } else if code == RCODE::NoError {
            self.follow(&packet)
        } else if code == RCODE::NameError {
            Answer::NoSuchName
        } else {
            Answer::Failed
        })
    }

    /// Follows aliases from the name that was asked to its addresses.
    fn follow(&self, packet: &Packet<'_>) -> Answer {
        let mut name = self.name.clone();
        for _ in 0..=MAX_ALIASES {
            let records = || packet.answers.iter().filter(|record| is_same(&record.name, &name));
            let addresses: Vec<IpAddr> =
                records().filter_map(|record| self.address(&record.rdata)).take(MAX_ADDRESSES).collect();
            let alias = records().find_map(|record| {
                if let RData::CNAME(alias) = &record.rdata { Some(text(&alias.0)) } else { None }
            });
            match alias {
                Some(Some(alias)) if addresses.is_empty() => name = alias,
                Some(None) if addresses.is_empty() => return Answer::Failed,
                _ if addresses.is_empty() && name != self.name => return Answer::Alias(name),
                _ => return Answer::Addresses(addresses),
            }
        }
        Answer::Failed
    }

    fn address(&self, data: &RData<'_>) -> Option<IpAddr> {
        if let (RData::A(a), Kind::A) = (data, self.kind) {
            return Some(IpAddr::V4(a.address.into()));
        }
        if let (RData::AAAA(aaaa), Kind::Aaaa) = (data, self.kind) {
            return Some(Ipv6Addr::from(aaaa.address).into());
        }
        None
    }

    fn record(&self) -> TYPE {
        match self.kind {
            Kind::A => TYPE::A,
            Kind::Aaaa => TYPE::AAAA,
        }
    }
}

/// Whether `name` is a host name that can be asked for: labels of letters, digits, hyphens and underscores.
pub(crate) fn is_name(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

fn is_same(wire: &Name<'_>, name: &str) -> bool {
    let mut labels = name.split('.');
    wire.as_bytes()
        .all(|label| labels.next().is_some_and(|known| label.eq_ignore_ascii_case(known.as_bytes())))
        && labels.next().is_none()
}

/// The text of a name, if it is one that can be asked for.
fn text(wire: &Name<'_>) -> Option<String> {
    let labels: Option<Vec<&str>> = wire.as_bytes().map(|label| std::str::from_utf8(label).ok()).collect();
    let name = labels?.join(".");
    is_name(&name).then_some(name)
}

#[cfg(test)]
mod tests {
    use simple_dns::ResourceRecord;
    use simple_dns::rdata::{A, CNAME};

    use super::*;

    fn query() -> Query {
        Query::new(77, "www.corp.example", Kind::A)
    }

    fn answer(id: u16, question: &str, records: &[(&str, Result<[u8; 4], &str>)]) -> Vec<u8> {
        let mut packet = Packet::new_reply(id);
        packet.questions.push(Question::new(
            Name::new_unchecked(question),
            QTYPE::TYPE(TYPE::A),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        for (name, data) in records {
            let data = match data {
                Ok(address) => RData::A(A { address: u32::from_be_bytes(*address) }),
                Err(alias) => RData::CNAME(CNAME(Name::new_unchecked(alias))),
            };
            packet.answers.push(ResourceRecord::new(Name::new_unchecked(name), CLASS::IN, 60, data));
        }
        packet.build_bytes_vec().unwrap()
    }

    #[test]
    fn addresses_are_read_through_aliases_and_letters_match_in_either_case() {
        let message = answer(
            77,
            "WWW.corp.example",
            &[("www.corp.EXAMPLE", Err("web.corp.example")), ("web.corp.example", Ok([10, 20, 0, 2]))],
        );
        assert_eq!(query().read(&message), Some(Answer::Addresses(vec![[10, 20, 0, 2].into()])));
    }

    #[test]
    fn another_identifier_or_question_is_not_an_answer() {
        let records: &[_] = &[("www.corp.example", Ok([10, 20, 0, 2]))];
        assert_eq!(query().read(&answer(78, "www.corp.example", records)), None);
        assert_eq!(query().read(&answer(77, "www.corp.example.evil", records)), None);
        assert_eq!(query().read(&answer(77, "corp.example", records)), None);
        assert_eq!(query().read(&query().encode().unwrap()), None, "a question is not an answer");
    }

    #[test]
    fn addresses_of_other_names_in_an_answer_mean_nothing() {
        let message = answer(77, "www.corp.example", &[("bank.example", Ok([10, 20, 0, 66]))]);
        assert_eq!(query().read(&message), Some(Answer::Addresses(vec![])));
    }

    #[test]
    fn aliases_in_a_circle_end() {
        let message = answer(
            77,
            "www.corp.example",
            &[("www.corp.example", Err("a.example")), ("a.example", Err("www.corp.example"))],
        );
        assert_eq!(query().read(&message), Some(Answer::Failed));
    }

    #[test]
    fn an_alias_without_its_address_is_to_be_asked_for() {
        let message = answer(77, "www.corp.example", &[("www.corp.example", Err("web.other.example"))]);
        assert_eq!(query().read(&message), Some(Answer::Alias("web.other.example".to_owned())));
    }

    #[test]
    fn a_header_that_claims_more_records_than_there_are_bytes_is_refused() {
        let mut message = answer(77, "www.corp.example", &[]);
        message[6..8].copy_from_slice(&[0xFF, 0xFF]);
        assert_eq!(query().read(&message), None);
    }

    #[test]
    fn no_more_addresses_than_the_limit_are_taken() {
        let records: Vec<_> = (0..40).map(|n| ("www.corp.example", Ok([10, 20, 1, n]))).collect();
        let Some(Answer::Addresses(addresses)) = query().read(&answer(77, "www.corp.example", &records))
        else {
            panic!("not an answer");
        };
        assert_eq!(addresses.len(), MAX_ADDRESSES);
    }

    #[test]
    fn a_name_is_labels_of_host_names() {
        assert!(is_name("www.corp.example") && is_name("_ldap._tcp.corp.example.") && is_name("web"));
        let long = "a".repeat(64);
        for wrong in
            ["", ".", "a..b", "a b", "a\\.b", "a\nb", &long, &["a.".repeat(127), "a".repeat(3)].concat()]
        {
            assert!(!is_name(wrong), "{wrong:?}");
        }
    }
}
