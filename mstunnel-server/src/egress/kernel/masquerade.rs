//! Our nftables table: fences between clients, server and network, and the masquerade.
//!
//! ```text
//! table inet mstunnel
//!   prerouting (raw: before connection tracking, so that what is dropped costs no entry)
//!     from elsewhere to a tunnel address         drop  (R49; routed mode: only the server's own)
//!     from the interface                         to `clients`
//!   clients
//!     source not in the pool                     drop  (R41, after the core's own check)
//!     to the server's address                    go on, to `input`
//!     to another client                          drop  (R42)
//!     to a listed prefix, or to a told name
//!       server at a port of DNS                  go on
//!     to loopback, link-local, multicast,
//!       cloud metadata                           drop  (R43)
//!   input
//!     from the interface: answers, ping of the server's address, listed prefixes, told name servers at
//!       the ports of DNS; the rest drop (R43)
//!   forward
//!     from the interface to the interface        drop  (R42)
//!     masquerade mode: from the interface without a tracked state, which would leave untranslated, drop
//!     masquerade mode: to the interface only what belongs to a client's flow (R49)
//!   output
//!     to the interface, multicast                drop  (the kernel's own MLD and IGMP chatter)
//!   postrouting (masquerade mode)
//!     source in the pool, not to the interface   masquerade from random ports of our range (R46)
//! ```
//!
//! A pool inside 169.254.0.0/16 needs no exception: its own addresses are decided before the special
//! prefixes are. The table matches the interface by name, so that it can be there first. It is
//! replaced as a whole in one transaction; a table that a killed run left goes in the same one.

use std::borrow::Cow;
use std::collections::HashSet;
use std::net::IpAddr;

use mstunnel_proto::prefix::Prefix;
use nftables::batch::Batch;
use nftables::expr::{
    CT, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, Prefix as PrefixExpression, Range,
    SetItem,
};
use nftables::schema::{Chain, NfListObject, Nftables, Rule, Table};
use nftables::stmt::{AnonymousCounter, Counter, JumpTarget, Match, NAT, NATFlag, Operator, Statement};
use nftables::types::{NfChainPolicy, NfChainType, NfFamily, NfHook};

use super::super::listed::DNS_PORTS;
use super::{EgressConfig, EgressError, nft, ports};

/// The table; nothing else of nftables is ever touched.
const TABLE: &str = "mstunnel";

/// Destinations that no client reaches unless listed (R43), beside the pools themselves. The last two
/// are metadata services of clouds outside of the link-local range (Alibaba, Amazon).
const SPECIAL: [&str; 11] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/4",
    "255.255.255.255/32",
    "::/128",
    "::1/128",
    "fe80::/10",
    "ff00::/8",
    "100.100.100.200/32",
    "fd00:ec2::254/128",
];

/// Nobody on the interface belongs to a multicast group.
const MULTICAST: [&str; 2] = ["224.0.0.0/4", "ff00::/8"];

/// Puts the table in place of whatever had its name.
pub(super) fn apply(config: &EgressConfig) -> Result<(), EgressError> {
    let rules = serde_json::to_string(&ruleset(config))
        .map_err(|error| EgressError::Nft { what: "write the rules", reason: error.to_string() })?;
    nft::run("apply the rules", &["-f", "-"], &rules).map(drop)
}

/// Removes the table; one that is gone already is as good.
pub(super) fn remove() -> Result<(), EgressError> {
    // Adding it first makes the deletion valid in any case.
    let mut batch = Batch::new();
    batch.add(table());
    batch.delete(table());
    let text = serde_json::to_string(&batch.to_nftables())
        .map_err(|error| EgressError::Nft { what: "write the rules", reason: error.to_string() })?;
    nft::run("remove the table", &["-f", "-"], &text).map(drop)
}

/// Whether every rule is in place, in its order.
pub(super) fn is_applied(config: &EgressConfig) -> Result<bool, EgressError> {
    let list = match nft::run("list the table", &["list", "table", "inet", TABLE], "") {
        Ok(list) => list,
        Err(EgressError::Nft { .. }) => return Ok(false),
        Err(error) => return Err(error),
    };
    let value: serde_json::Value = serde_json::from_str(&list).unwrap_or_default();
    let present = comments(&value);
    let want = serde_json::to_value(ruleset(config)).unwrap_or_default();
    Ok(present == comments(&want))
}

/// Refuses while the table is that of another interface that a process holds: whoever replaces it takes that one's fences away.
pub(super) fn refuse_another(interface: &str) -> Result<(), EgressError> {
    // Without nft, and without a table, there is nothing to take away.
    let Ok(list) = nft::run("list the table", &["list", "table", "inet", TABLE], "") else { return Ok(()) };
    let list: serde_json::Value = serde_json::from_str(&list).unwrap_or_default();
    match owner(&list) {
        Some(name) if name != interface && super::addresses::is_held(name).unwrap_or(false) => {
            Err(EgressError::TableInUse { name: name.to_owned() })
        }
        _ => Ok(()),
    }
}

/// The interface that a listed table is about: what its first fence compares with.
fn owner(listing: &serde_json::Value) -> Option<&str> {
    let objects = listing["nftables"].as_array()?;
    let fence = objects.iter().find_map(|object| {
        object.get("rule").filter(|rule| rule["chain"] == "forward" && rule["comment"] == "client to client")
    })?;
    fence["expr"][0]["match"]["right"].as_str()
}

/// The chain and comment of each rule of a listing or a batch.
fn comments(listing: &serde_json::Value) -> Vec<(&str, &str)> {
    let objects = listing["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    objects
        .iter()
        .filter_map(|object| object.get("rule").or_else(|| object.get("add")?.get("rule")))
        .filter_map(|rule| Some((rule["chain"].as_str()?, rule["comment"].as_str()?)))
        .collect()
}

/// Warns of chains of others that drop forwarded packets unless told otherwise, as Docker's does.
pub(super) fn foreign_fences() -> Vec<String> {
    let list = nft::run("list the chains", &["list", "chains"], "").unwrap_or_default();
    let list: serde_json::Value = serde_json::from_str(&list).unwrap_or_default();
    let objects = list["nftables"].as_array().map(Vec::as_slice).unwrap_or_default();
    let dropping = |chain: &&serde_json::Value| {
        chain["hook"] == "forward" && chain["policy"] == "drop" && chain["table"] != TABLE
    };
    let describe = |chain: &serde_json::Value| {
        let word = |key: &str| chain[key].as_str().unwrap_or("?").to_owned();
        format!(
            "chain {} of table {} {} drops forwarded packets by default: let it accept those from and to our \
             interface, or clients reach nothing",
            word("name"),
            word("family"),
            word("table")
        )
    };
    objects.iter().filter_map(|object| object.get("chain")).filter(dropping).map(describe).collect()
}

/// The whole table as one transaction.
fn ruleset(config: &EgressConfig) -> Nftables<'static> {
    let mut rules = Ruleset { batch: Batch::new(), interface: config.interface.clone() };
    rules.batch.add(table());
    rules.batch.delete(table());
    rules.batch.add(table());
    // A chain is there before a rule that goes to it.
    rules.clients(config);
    rules.prerouting(config);
    rules.input(config);
    rules.forward(config);
    rules.output();
    if config.masquerade {
        rules.postrouting(config);
    }
    rules.batch.to_nftables()
}

struct Ruleset {
    batch: Batch<'static>,
    interface: String,
}

impl Ruleset {
    fn prerouting(&mut self, config: &EgressConfig) {
        self.chain("prerouting", NfChainType::Filter, NfHook::Prerouting, RAW);
        for (server, pool) in &config.addresses {
            let tunnel = if config.masquerade { *pool } else { Prefix::single(*server) };
            let elsewhere = is_not_in(MetaKey::Iifname, &[&self.interface, "lo"]);
            self.rule("prerouting", "probe", vec![elsewhere, to(tunnel), counter(), DROP]);
        }
        let clients = Statement::Goto(JumpTarget { target: "clients".into() });
        self.rule("prerouting", "clients", vec![self.arriving(), clients]);
    }

    /// What comes from the interface. A chain of its own so that other traffic of the host pays for
    /// one comparison only.
    fn clients(&mut self, config: &EgressConfig) {
        self.batch.add(NfListObject::Chain(Chain { name: "clients".into(), ..chain() }));
        for (family, present) in [("ipv4", config.has_ipv4()), ("ipv6", config.has_ipv6())] {
            if !present {
                self.rule("clients", "spoofed", vec![is_family(family), counter(), DROP]);
            }
        }
        for (_, pool) in &config.addresses {
            self.rule("clients", "spoofed", vec![not_from(*pool), counter(), DROP]);
        }
        for (server, _) in &config.addresses {
            self.rule("clients", "server", vec![to(Prefix::single(*server)), ACCEPT]);
        }
        for (_, pool) in &config.addresses {
            self.rule("clients", "client to client", vec![to(*pool), counter(), DROP]);
        }
        for listed in by_family(&config.permitted) {
            self.rule("clients", "listed", vec![to_any(&listed), ACCEPT]);
        }
        for servers in by_family(&config.dns_servers()) {
            self.rule("clients", "dns", [vec![to_any(&servers)], to_dns_ports(), vec![ACCEPT]].concat());
        }
        for special in by_family(&prefixes(&SPECIAL)) {
            self.rule("clients", "special", vec![to_any(&special), counter(), DROP]);
        }
    }

    fn input(&mut self, config: &EgressConfig) {
        self.chain("input", NfChainType::Filter, NfHook::Input, FILTER);
        let answers = vec![self.arriving(), ct_state(&["established", "related"]), ACCEPT];
        self.rule("input", "answers", answers);
        for (server, pool) in &config.addresses {
            let ping = if pool.is_ipv4() { "icmp" } else { "icmpv6" };
            let echo = payload_is(ping, "type", Expression::String("echo-request".into()));
            let server = to(Prefix::single(*server));
            self.rule("input", "ping", vec![self.arriving(), server, echo, ACCEPT]);
        }
        for listed in by_family(&config.permitted) {
            self.rule("input", "listed", vec![self.arriving(), to_any(&listed), ACCEPT]);
        }
        for servers in by_family(&config.dns_servers()) {
            let server = vec![self.arriving(), to_any(&servers)];
            self.rule("input", "dns", [server, to_dns_ports(), vec![ACCEPT]].concat());
        }
        self.rule("input", "service", vec![self.arriving(), counter(), DROP]);
    }

    fn forward(&mut self, config: &EgressConfig) {
        self.chain("forward", NfChainType::Filter, NfHook::Forward, FILTER);
        let across = vec![self.arriving(), self.leaving(), counter(), DROP];
        self.rule("forward", "client to client", across);
        if config.masquerade {
            let untracked = vec![self.arriving(), ct_state(&["invalid"]), counter(), DROP];
            self.rule("forward", "untracked", untracked);
            let answers = vec![self.leaving(), ct_state(&["established", "related"]), ACCEPT];
            self.rule("forward", "answers", answers);
            self.rule("forward", "stranger", vec![self.leaving(), counter(), DROP]);
        }
    }

    fn output(&mut self) {
        self.chain("output", NfChainType::Filter, NfHook::Output, FILTER);
        for groups in by_family(&prefixes(&MULTICAST)) {
            self.rule("output", "multicast", vec![self.leaving(), to_any(&groups), counter(), DROP]);
        }
    }

    fn postrouting(&mut self, config: &EgressConfig) {
        self.chain("postrouting", NfChainType::NAT, NfHook::Postrouting, SRCNAT);
        let range = ports::free_range(&config.listen_ports);
        for (_, pool) in &config.addresses {
            let outward = is_not_in(MetaKey::Oifname, &[&self.interface]);
            let with_ports = vec![
                outward.clone(),
                from_prefix(*pool),
                is_in(MetaKey::L4proto, &["tcp", "udp"]),
                masquerade(Some((*range.start(), *range.end()))),
            ];
            self.rule("postrouting", "masquerade ports", with_ports);
            self.rule("postrouting", "masquerade", vec![outward, from_prefix(*pool), masquerade(None)]);
        }
    }

    fn chain(&mut self, name: &'static str, kind: NfChainType, hook: NfHook, priority: i32) {
        self.batch.add(NfListObject::Chain(Chain {
            name: name.into(),
            _type: Some(kind),
            hook: Some(hook),
            prio: Some(priority),
            policy: Some(NfChainPolicy::Accept),
            ..chain()
        }));
    }

    fn rule(&mut self, chain: &'static str, comment: &'static str, statements: Vec<Statement<'static>>) {
        self.batch.add(NfListObject::Rule(Rule {
            family: NfFamily::INet,
            table: TABLE.into(),
            chain: chain.into(),
            expr: statements.into(),
            comment: Some(comment.into()),
            ..Rule::default()
        }));
    }

    fn arriving(&self) -> Statement<'static> {
        is_in(MetaKey::Iifname, &[&self.interface])
    }

    fn leaving(&self) -> Statement<'static> {
        is_in(MetaKey::Oifname, &[&self.interface])
    }
}

/// Priorities of the hooks (`NF_IP_PRI_RAW`, `_FILTER`, `_NAT_SRC`).
const RAW: i32 = -300;
const FILTER: i32 = 0;
const SRCNAT: i32 = 100;

const DROP: Statement<'static> = Statement::Drop(None);
const ACCEPT: Statement<'static> = Statement::Accept(None);

fn table() -> NfListObject<'static> {
    NfListObject::Table(Table { family: NfFamily::INet, name: TABLE.into(), ..Table::default() })
}

fn chain() -> Chain<'static> {
    Chain { family: NfFamily::INet, table: TABLE.into(), ..Chain::default() }
}

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// The IPv4 and the IPv6 ones, without an empty list: a set has one type and at least one element.
fn by_family(prefixes: &[Prefix]) -> impl Iterator<Item = Vec<Prefix>> {
    let (four, six): (Vec<_>, Vec<_>) = prefixes.iter().partition(|prefix| prefix.is_ipv4());
    [four, six].into_iter().filter(|family| !family.is_empty())
}

fn counter() -> Statement<'static> {
    Statement::Counter(Counter::Anonymous(Some(AnonymousCounter::default())))
}

fn matching(left: NamedExpression<'static>, op: Operator, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left: Expression::Named(left), right, op })
}

fn words(values: &[&str]) -> Expression<'static> {
    let word = |value: &&str| Expression::String(Cow::Owned((*value).to_owned()));
    match values {
        [one] => word(one),
        many => {
            let items = many.iter().map(|value| SetItem::Element(word(value))).collect();
            Expression::Named(NamedExpression::Set(items))
        }
    }
}

fn is_in(key: MetaKey, values: &[&str]) -> Statement<'static> {
    matching(NamedExpression::Meta(Meta { key }), Operator::EQ, words(values))
}

fn is_not_in(key: MetaKey, values: &[&str]) -> Statement<'static> {
    matching(NamedExpression::Meta(Meta { key }), Operator::NEQ, words(values))
}

fn is_family(family: &str) -> Statement<'static> {
    is_in(MetaKey::Nfproto, &[family])
}

fn field(protocol: &'static str, field: &'static str) -> NamedExpression<'static> {
    NamedExpression::Payload(Payload::PayloadField(PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    }))
}

fn payload_is(protocol: &'static str, name: &'static str, value: Expression<'static>) -> Statement<'static> {
    matching(field(protocol, name), Operator::EQ, value)
}

fn address_field(prefix: Prefix, name: &'static str) -> NamedExpression<'static> {
    field(if prefix.is_ipv4() { "ip" } else { "ip6" }, name)
}

fn address_match(prefix: Prefix, name: &'static str, op: Operator) -> Statement<'static> {
    matching(address_field(prefix, name), op, prefix_expression(prefix))
}

/// To one of `prefixes`, which are of one family. Prefixes inside of others are left out: a set of
/// intervals refuses overlaps.
fn to_any(prefixes: &[Prefix]) -> Statement<'static> {
    let nets = prefixes.iter().map(|prefix| prefix.to_ipnet()).collect::<Vec<_>>();
    let nets: Vec<Prefix> = ipnet::IpNet::aggregate(&nets)
        .into_iter()
        .filter_map(|net| Prefix::new(net.network(), net.prefix_len()).ok())
        .collect();
    // Fails closed; `by_family` never yields an empty list.
    let [first, ..] = nets[..] else { return DROP };
    let items = nets.iter().map(|prefix| SetItem::Element(prefix_expression(*prefix))).collect();
    matching(address_field(first, "daddr"), Operator::EQ, Expression::Named(NamedExpression::Set(items)))
}

fn to_dns_ports() -> Vec<Statement<'static>> {
    let ports = DNS_PORTS.iter().map(|&port| SetItem::Element(Expression::Number(port.into()))).collect();
    let ports = Expression::Named(NamedExpression::Set(ports));
    vec![is_in(MetaKey::L4proto, &["tcp", "udp"]), payload_is("th", "dport", ports)]
}

fn to(prefix: Prefix) -> Statement<'static> {
    address_match(prefix, "daddr", Operator::EQ)
}

fn from_prefix(prefix: Prefix) -> Statement<'static> {
    address_match(prefix, "saddr", Operator::EQ)
}

fn not_from(prefix: Prefix) -> Statement<'static> {
    address_match(prefix, "saddr", Operator::NEQ)
}

fn prefix_expression(prefix: Prefix) -> Expression<'static> {
    let full = match prefix.network() {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    };
    let address = Expression::String(prefix.network().to_string().into());
    if prefix.length() == full {
        return address;
    }
    Expression::Named(NamedExpression::Prefix(PrefixExpression {
        addr: Box::new(address),
        len: prefix.length().into(),
    }))
}

fn ct_state(states: &[&str]) -> Statement<'static> {
    let key = NamedExpression::CT(CT { key: "state".into(), family: None, dir: None });
    matching(key, Operator::IN, words(states))
}

fn masquerade(ports: Option<(u16, u16)>) -> Statement<'static> {
    let port = |number: u16| Expression::Number(number.into());
    Statement::Masquerade(Some(NAT {
        addr: None,
        family: None,
        port: ports.map(|(low, high)| Expression::Range(Box::new(Range { range: [port(low), port(high)] }))),
        flags: Some(HashSet::from([NATFlag::FullyRandom])),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> EgressConfig {
        let mut config = EgressConfig::new(
            "mst0",
            1400,
            vec![
                ("169.254.0.1".parse().unwrap(), "169.254.0.0/16".parse().unwrap()),
                ("fd00:8::1".parse().unwrap(), "fd00:8::/64".parse().unwrap()),
            ],
        );
        config.permitted = vec!["169.254.169.254".parse().unwrap()];
        config
    }

    fn order(config: &EgressConfig, chain: &str) -> Vec<String> {
        let rules = serde_json::to_value(ruleset(config)).unwrap();
        comments(&rules)
            .into_iter()
            .filter(|(of, _)| *of == chain)
            .map(|(_, comment)| comment.to_owned())
            .collect()
    }

    /// Covers: R42, R43
    #[test]
    fn other_clients_are_fenced_off_before_any_listed_or_special_prefix_is_looked_at() {
        let order = order(&config(), "clients");
        let last_client = order.iter().rposition(|name| name == "client to client").unwrap();
        let first_listed = order.iter().position(|name| name == "listed").unwrap();
        let first_special = order.iter().position(|name| name == "special").unwrap();
        let server = order.iter().rposition(|name| name == "server").unwrap();
        assert!(server < order.iter().position(|name| name == "client to client").unwrap());
        assert!(last_client < first_listed && first_listed < first_special, "{order:?}");
    }

    #[test]
    fn every_prefix_of_the_tables_is_one() {
        assert_eq!(prefixes(&SPECIAL).len(), SPECIAL.len());
        assert_eq!(prefixes(&MULTICAST).len(), MULTICAST.len());
    }

    #[test]
    fn routed_mode_translates_nothing_and_lets_the_network_open_flows() {
        let mut config = config();
        config.masquerade = false;
        assert!(order(&config, "postrouting").is_empty());
        assert_eq!(order(&config, "forward"), ["client to client"]);
    }

    /// Covers: R46
    #[test]
    fn masqueraded_ports_are_random_and_avoid_the_listening_ones() {
        let mut config = config();
        config.listen_ports = vec![20000];
        let text = serde_json::to_string(&ruleset(&config)).unwrap();
        assert!(text.contains(r#"{"range":[20001,32767]}"#), "{text}");
        assert_eq!(text.matches("fully-random").count(), 4);
    }

    #[test]
    fn a_family_without_a_pool_is_dropped_altogether() {
        let mut config = config();
        config.addresses.truncate(1);
        let text = serde_json::to_string(&ruleset(&config)).unwrap();
        assert!(text.contains(r#""right":"ipv6""#), "{text}");
    }
}
