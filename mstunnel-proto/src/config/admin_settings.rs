//! `/etc/mstunnel/admin-settings.json`: what the agent of an existing installation writes.
//!
//! ```text
//! { "PolicyName": ..., "DisplayName": ..., "Description": ..., "Network": CIDR, "DNSServers": [...],
//!   "DefaultDomainSuffix": ..., "RoutesInclude": ["default"], "RoutesExclude": [], "ListenPort": 443 }
//! ```
//!
//! It becomes the same [`Configuration`]; members that are missing take the Graph defaults, and the
//! policy name serves as id, because the file has none.
//!
//! # Source
//! product.md b.5, second input format.

use super::configuration::{
    Configuration, DEFAULT_PORT, MAX_DISPLAY_NAME_LEN, MAX_ID_LEN, Routing, port, search_domains, text,
    text_or_empty,
};
use super::json::{Object, Report};

/// Names that only this format has; one of them decides, unless Graph's `id` is there.
const OWN_NAMES: [&str; 4] = ["PolicyName", "Network", "DNSServers", "ListenPort"];

/// The id of a file without a policy name.
const NAMELESS: &str = "admin-settings";

/// Whether the object is of this format.
pub(super) fn is_admin_settings(object: &Object<'_>) -> bool {
    !object.has("id") && OWN_NAMES.iter().any(|name| object.has(name))
}

/// Reads one `admin-settings.json`.
pub(super) fn read(mut object: Object<'_>, max_rules: usize, report: &mut Report<'_>) -> Configuration {
    let policy_name = object.take("PolicyName");
    let display_name = object.take("DisplayName");
    let description = object.take("Description");
    let domain = object.take("DefaultDomainSuffix");
    let listen_port = object.take("ListenPort");
    let routing = Routing {
        pool_v4: object.take("Network"),
        pool_v6: None,
        dns: object.take("DNSServers"),
        includes: object.take("RoutesInclude").into_iter().collect(),
        excludes: object.take("RoutesExclude").into_iter().collect(),
    };
    let id = text(policy_name, MAX_ID_LEN, report).unwrap_or_else(|| NAMELESS.to_owned());
    let mut configuration = Configuration {
        display_name: text(display_name, MAX_DISPLAY_NAME_LEN, report).unwrap_or_else(|| id.clone()),
        id,
        description: text_or_empty(description, report),
        default_domain: domain.and_then(|node| search_domains(&node, report)),
        listen_port: listen_port.and_then(|node| port(&node, report)).unwrap_or(DEFAULT_PORT),
        ..Configuration::empty(true)
    };
    let place = |name: &str| {
        object.place(match name {
            "routeIncludes" => "RoutesInclude",
            "routeExcludes" => "RoutesExclude",
            _ => "Network",
        })
    };
    routing.read_into(&mut configuration, max_rules, place, report);
    configuration.unknown = object.unknown(report);
    configuration
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_file_becomes_a_configuration() {
        let text = r#"{
            "PolicyName": "Auto-generated policy", "DisplayName": "hq", "Description": "",
            "Network": "169.254.0.0/16", "DNSServers": ["10.20.0.53"],
            "DefaultDomainSuffix": "corp.example",
            "RoutesInclude": ["default"], "RoutesExclude": ["10.99.0.0/16"], "ListenPort": 8443 }"#;
        let parsed = Configuration::parse(text, "admin-settings.json").unwrap();
        assert!(parsed.warnings.is_empty(), "{:?}", parsed.warnings);
        let configuration = parsed.value;
        assert_eq!(configuration.id, "Auto-generated policy");
        assert_eq!(configuration.display_name, "hq");
        assert_eq!(configuration.description, None);
        assert_eq!(configuration.pool_v4, Some("169.254.0.0/16".parse().unwrap()));
        assert_eq!(configuration.dns, ["10.20.0.53".parse::<std::net::IpAddr>().unwrap()]);
        assert_eq!(configuration.default_domain.as_deref(), Some("corp.example"));
        assert!(configuration.includes.is_empty());
        assert_eq!(configuration.excludes, ["10.99.0.0/16".parse().unwrap()]);
        assert_eq!(configuration.listen_port, 8443);
        assert!(configuration.imported);
        assert_eq!(configuration.advanced.session_timeout.map(|time| time.as_secs()), Some(3_600));
    }

    #[test]
    fn what_is_missing_takes_the_graph_defaults() {
        let configuration = Configuration::parse(r#"{"Network": "10.1.0.0/16"}"#, "f").unwrap().value;
        assert_eq!((configuration.id.as_str(), configuration.listen_port), (NAMELESS, 443));
        assert!(configuration.includes.is_empty() && configuration.udp);
    }

    #[test]
    fn its_problems_have_its_own_names() {
        let text = r#"{"PolicyName": "p", "Network": "10.0.0.0/8", "RoutesInclude": ["10.0.0.0/8", "x"],
            "ListenPort": "443"}"#;
        let problems = Configuration::parse(text, "f").unwrap_err().to_string();
        for place in [
            "f:2: /ListenPort: \"443\";",
            "f:1: /RoutesInclude/1: \"x\";",
            "f:1: /Network: \"10.0.0.0/8\"; want a pool that is not itself",
        ] {
            assert!(problems.contains(place), "{place} in {problems}");
        }
    }
}
