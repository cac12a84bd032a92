//! Whether this process may have so many sessions: descriptors, and ports to connect from.

use rustix::process::{Resource, getrlimit, setrlimit};

use super::{LoadOptions, source_count};
use crate::transport::UseDatagrams;

/// Descriptors beside those of sessions: standard streams, the reactor, a name server.
const BESIDE_SESSIONS: u64 = 32;

/// Where the kernel says from which ports it connects.
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Why so many sessions do not fit this process.
#[derive(Debug, thiserror::Error)]
pub enum TooMany {
    /// Too few descriptors.
    #[error(
        "{sessions} sessions need {want} descriptors and this process may open {have}: raise the hard limit \
         (ulimit -Hn {want}, LimitNOFILE={want}), ask for {fit} sessions, or run several of these{hint}"
    )]
    Descriptors {
        /// What was asked for.
        sessions: u32,
        /// Descriptors that they need.
        want: u64,
        /// Descriptors that there are.
        have: u64,
        /// Sessions that fit.
        fit: u64,
        /// What else helps.
        hint: &'static str,
    },
    /// Too few ports.
    #[error(
        "{sessions} sessions need as many ports, and there are {have} from {sources} source addresses: spread them \
         with --source PREFIX (127.0.0.0/8 on loopback), or widen net.ipv4.ip_local_port_range"
    )]
    Ports {
        /// What was asked for.
        sessions: u32,
        /// Ports that there are.
        have: u128,
        /// Addresses that sessions come from.
        sources: u128,
    },
}

/// Raises the soft limit of descriptors to the hard one, and checks both.
pub(super) fn check(options: &LoadOptions) -> Result<(), TooMany> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // What cannot be raised is checked as it is.
        let _ = setrlimit(Resource::Nofile, limit);
    }
    let have = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    descriptors(options.sessions, options.datagrams, have)?;
    let ports = std::fs::read_to_string(PORT_RANGE).ok().and_then(|text| count_ports(&text));
    ports.map_or(Ok(()), |ports| check_ports(options, ports))
}

fn descriptors(sessions: u32, datagrams: UseDatagrams, have: u64) -> Result<(), TooMany> {
    let (each, hint) = match datagrams {
        UseDatagrams::Yes => (2, "; --no-dtls needs half"),
        UseDatagrams::No => (1, ""),
    };
    let want = u64::from(sessions) * each + BESIDE_SESSIONS;
    if want <= have {
        return Ok(());
    }
    let fit = have.saturating_sub(BESIDE_SESSIONS) / each;
    Err(TooMany::Descriptors { sessions, want, have, fit, hint })
}

/// The size of a range as the kernel writes it: `FIRST LAST`.
fn count_ports(text: &str) -> Option<u32> {
    let mut numbers = text.split_whitespace().map(str::parse::<u32>);
    let (first, last) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    last.checked_sub(first)?.checked_add(1)
}

fn check_ports(options: &LoadOptions, ports: u32) -> Result<(), TooMany> {
    let sources = options.sources.map_or(1, source_count);
    let have = u128::from(ports) * sources;
    if u128::from(options.sessions) <= have {
        return Ok(());
    }
    Err(TooMany::Ports { sessions: options.sessions, have, sources })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_do_not_fit_are_refused_with_what_to_do() {
        assert!(descriptors(19_968, UseDatagrams::No, 20_000).is_ok());
        let error = descriptors(19_969, UseDatagrams::No, 20_000).unwrap_err().to_string();
        assert!(error.contains("ask for 19968 sessions") && error.contains("ulimit -Hn 20001"), "{error}");
        let error = descriptors(10_000, UseDatagrams::Yes, 20_000).unwrap_err().to_string();
        assert!(error.contains("ask for 9984 sessions") && error.contains("--no-dtls"), "{error}");
    }

    #[test]
    fn the_port_range_is_counted_as_the_kernel_writes_it() {
        assert_eq!(count_ports("32768\t60999\n"), Some(28_232));
        for wrong in ["", "1", "9 1", "x y"] {
            assert_eq!(count_ports(wrong), None, "{wrong:?}");
        }
    }
}
