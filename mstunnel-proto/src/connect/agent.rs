//! Which family of clients a User-Agent names.

/// A family of clients, as far as the answer to CONNECT differs between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agent {
    /// openconnect and what derives from it.
    OpenConnect,
    /// Cisco's clients.
    AnyConnect,
    /// Anything else, or no User-Agent.
    Other,
}

/// The beginnings that are known, without regard to case.
const KNOWN: &[(&str, Agent)] = &[
    ("Open AnyConnect VPN Agent", Agent::OpenConnect),
    ("OpenConnect VPN Agent", Agent::OpenConnect),
    ("Cisco AnyConnect", Agent::AnyConnect),
    ("AnyConnect", Agent::AnyConnect),
];

impl Agent {
    /// Reads a User-Agent.
    ///
    /// # Source
    /// The prefixes of protocol.md 3.3.
    pub fn of(user_agent: Option<&str>) -> Self {
        let text = user_agent.unwrap_or_default().as_bytes();
        KNOWN
            .iter()
            .find(|(prefix, _)| {
                text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix.as_bytes()))
            })
            .map_or(Self::Other, |(_, agent)| *agent)
    }

    /// The name of the field that carries an IPv6 name server to this client.
    ///
    /// # Source
    /// protocol.md 3.3 row 9.
    pub(super) const fn dns_v6_field(self) -> &'static str {
        match self {
            Self::AnyConnect => "X-CSTP-DNS-IP6",
            Self::OpenConnect | Self::Other => "X-CSTP-DNS",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_beginnings_are_told_apart() {
        for (text, agent) in [
            ("Open AnyConnect VPN Agent v9.01-3", Agent::OpenConnect),
            ("openconnect vpn agent (PlayBook)", Agent::OpenConnect),
            ("AnyConnect Linux_64 4.10", Agent::AnyConnect),
            ("Cisco AnyConnect VPN Agent for Windows", Agent::AnyConnect),
            ("Mozilla/5.0 AnyConnect", Agent::Other),
            ("Open", Agent::Other),
            ("\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}", Agent::Other),
        ] {
            assert_eq!(Agent::of(Some(text)), agent, "{text}");
        }
        assert_eq!(Agent::of(None), Agent::Other);
    }
}
