//! The configuration as a whole: the sample of product.md b.5, everything that is refused, and what
//! is only warned of.

use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::prefix::Prefix;

const SAMPLE: &str = r##"{ "value": [ {
  "@odata.type": "#microsoft.graph.microsoftTunnelConfiguration",
  "id": "6f2c7b4e-0d11-4a55-9a53-2f0c9a6f1d01",
  "displayName": "hq-config", "description": null,
  "network": "169.254.0.0/16", "ipv6Network": "fd7a:51c0::/48",
  "dnsServers": ["10.20.0.53", "10.20.1.53"],
  "defaultDomainSuffix": "corp.example",
  "routesInclude": [], "routesExclude": [],
  "routeIncludes": ["10.0.0.0/8", "192.168.40.0/255.255.255.0"],
  "routeExcludes": ["10.99.0.0/16"],
  "splitDNS": ["corp.example", "lab.example"],
  "listenPort": 443,
  "advancedSettings": [ { "@odata.type": "microsoft.graph.keyValuePair", "name": "session-timeout", "value": "28800" } ],
  "lastUpdateDateTime": "2026-11-01T08:00:00Z",
  "roleScopeTagIds": ["0"], "disableUdpConnections": false } ] }"##;

const FILE: &str = "configuration.json";

fn prefixes(texts: &[&str]) -> Vec<Prefix> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A native configuration with `extra` members.
fn native(extra: &str) -> String {
    format!(r#"{{"id": "a", "displayName": "b", "network": "10.9.0.0/16"{extra}}}"#)
}

fn accept(text: &str) -> (Configuration, Vec<String>) {
    let parsed = Configuration::parse(text, FILE).unwrap();
    (parsed.value, parsed.warnings.iter().map(ToString::to_string).collect())
}

fn refuse(text: &str) -> Vec<Problem> {
    Configuration::parse(text, FILE).unwrap_err().into_vec()
}

fn setting(name: &str, value: &str) -> String {
    native(&format!(r#", "advancedSettings": [{{"name": "{name}", "value": "{value}"}}]"#))
}

#[test]
fn the_sample_has_exactly_the_values_that_are_written() {
    let (configuration, warnings) = accept(SAMPLE);
    assert!(warnings.is_empty(), "{warnings:?}");
    let advanced = Advanced { session_timeout: Some(Duration::from_secs(28_800)), ..Advanced::default() };
    let expected = Configuration {
        id: "6f2c7b4e-0d11-4a55-9a53-2f0c9a6f1d01".to_owned(),
        display_name: "hq-config".to_owned(),
        description: None,
        pool_v4: Some("169.254.0.0/16".parse().unwrap()),
        pool_v6: Some("fd7a:51c0::/48".parse().unwrap()),
        dns: vec!["10.20.0.53".parse().unwrap(), "10.20.1.53".parse().unwrap()],
        default_domain: Some("corp.example".to_owned()),
        includes: prefixes(&["10.0.0.0/8", "192.168.40.0/24"]),
        excludes: prefixes(&["10.99.0.0/16"]),
        split_dns: vec!["corp.example".to_owned(), "lab.example".to_owned()],
        listen_port: 443,
        udp: true,
        advanced,
        last_update: Some("2026-11-01T08:00:00Z".to_owned()),
        role_scope_tags: vec!["0".to_owned()],
        imported: true,
        unknown: Default::default(),
    };
    assert_eq!(configuration, expected);
}

#[test]
fn the_three_wrappings_hold_the_same_configuration() {
    let bare = SAMPLE.trim_start_matches("{ \"value\": [").trim_end_matches("] }");
    let expected = accept(SAMPLE).0;
    assert_eq!(accept(bare).0, expected);
    assert_eq!(accept(&format!("[{bare}]")).0, expected);
}

#[test]
fn an_imported_configuration_keeps_the_hour_and_a_native_one_has_a_day() {
    let hours = |text: &str| accept(text).0.advanced.session_timeout.map(|time| time.as_secs() / 3_600);
    let typed = r##", "@odata.type": "#microsoft.graph.microsoftTunnelConfiguration""##;
    assert_eq!(hours(&native("")), Some(24));
    assert_eq!(hours(&native(typed)), Some(1));
    assert_eq!(hours(&native(r#", "@odata.context": "https://graph.example/$metadata""#)), Some(1));
    assert_eq!(hours(&format!(r#"{{"value": [{}]}}"#, native(""))), Some(1));
    assert_eq!(hours(&setting("session-timeout", "0")), None);
}

#[test]
fn one_of_several_is_chosen_by_the_id_that_the_site_names() {
    let two = format!("[{}, {}]", native(""), native("").replace("\"a\"", "\"A2\""));
    let select = |id: &str| {
        let selection = Selection { id: Some(id.to_owned()), ..Selection::default() };
        Configuration::parse_selected(&two, FILE, &selection)
    };
    assert_eq!(select("a2").unwrap().value.id, "A2");
    let missing = select("a3").unwrap_err().to_string();
    assert!(missing.contains("0 of 2 configurations; want exactly one with the id \"a3\""), "{missing}");
    assert!(Configuration::parse(&two, FILE).unwrap_err().to_string().contains("2 of 2 configurations"));
    assert!(Configuration::parse("[]", FILE).is_err());
}

#[test]
fn both_names_of_the_route_lists_are_joined_and_doubles_go() {
    let (configuration, _) = accept(&native(
        r#", "routesInclude": ["172.16.0.0/12", "10.1.0.1"], "routeIncludes": ["172.16.0.0/255.240.0.0", "fd01::/16"],
           "routesExclude": ["172.16.1.0/24"], "routeExcludes": ["172.16.2.0/24", "172.16.1.0/24"]"#,
    ));
    assert_eq!(configuration.includes, prefixes(&["172.16.0.0/12", "fd01::/16", "10.1.0.1/32"]));
    assert_eq!(configuration.excludes, prefixes(&["172.16.2.0/24", "172.16.1.0/24"]));
}

#[test]
fn the_literal_default_is_the_full_tunnel() {
    let (configuration, warnings) = accept(&native(r#", "routesInclude": ["default", "172.16.0.0/12"]"#));
    assert!(configuration.includes.is_empty());
    assert!(warnings[0].contains("/routesInclude/0: \"default\"; want no other include"), "{warnings:?}");
}

/// Each row: members added to a native configuration, the pointer, the value as shown, a part of the want.
#[test]
fn every_refusal_names_place_value_and_want() {
    let rows: &[(&str, &str, &str, &str)] = &[
        (r#", "id": "a""#, "/id", "\"a\"", "the name is there twice"),
        (r#", "ipv6Network": "fd00::/129""#, "/ipv6Network", "\"fd00::/129\"", "at most 128"),
        (r#", "ipv6Network": "fd00::/128""#, "/ipv6Network", "\"fd00::/128\"", "/16 to /127"),
        (r#", "ipv6Network": "fd00::/8""#, "/ipv6Network", "\"fd00::/8\"", "/16 to /127"),
        (r#", "ipv6Network": "10.0.0.0/8""#, "/ipv6Network", "\"10.0.0.0/8\"", "an IPv6 prefix"),
        (r#", "ipv6Network": "ff00::/16""#, "/ipv6Network", "\"ff00::/16\"", "unicast"),
        (r#", "ipv6Network": 6"#, "/ipv6Network", "6", "an IPv6 prefix"),
        (r#", "dnsServers": "10.0.0.1""#, "/dnsServers", "\"10.0.0.1\"", "a list"),
        (r#", "dnsServers": ["dns.example"]"#, "/dnsServers/0", "\"dns.example\"", "IPv4 or IPv6"),
        (r#", "dnsServers": ["8.8.8.8", 1]"#, "/dnsServers/1", "1", "a DNS server"),
        (r#", "dnsServers": ["0.0.0.0"]"#, "/dnsServers/0", "\"0.0.0.0\"", "can reach"),
        (r#", "dnsServers": ["127.0.0.53"]"#, "/dnsServers/0", "\"127.0.0.53\"", "can reach"),
        (
            r#", "dnsServers": ["10.9.0.53"]"#,
            "/network",
            "\"10.9.0.0/16\"",
            "without the DNS server 10.9.0.53",
        ),
        (
            r#", "dnsServers": ["1.0.0.1","1.0.0.2","1.0.0.3","1.0.0.4","1.0.0.5","1.0.0.6","1.0.0.7","1.0.0.8","1.0.0.9"]"#,
            "/dnsServers",
            "9 servers",
            "at most 8",
        ),
        (r#", "defaultDomainSuffix": "-corp""#, "/defaultDomainSuffix", "\"-corp\"", "a domain name"),
        (
            r#", "defaultDomainSuffix": "a b c d e f g""#,
            "/defaultDomainSuffix",
            "\"a b c d e f g\"",
            "up to 6",
        ),
        (r#", "splitDNS": ["bücher.example"]"#, "/splitDNS/0", "\"bücher.example\"", "xn--"),
        (r#", "splitDNS": ["a.*.example"]"#, "/splitDNS/0", "\"a.*.example\"", "a domain name"),
        (r#", "splitDNS": [null]"#, "/splitDNS/0", "null", "a domain name"),
        (r#", "routeIncludes": ["10.0.0.0/33"]"#, "/routeIncludes/0", "\"10.0.0.0/33\"", "at most 32"),
        (r#", "routeIncludes": ["0.0.0.0/0"]"#, "/routeIncludes/0", "\"0.0.0.0/0\"", "\"default\""),
        (r#", "routeIncludes": ["0.0.0.0/0.0.0.0"]"#, "/routeIncludes/0", "\"0.0.0.0/0.0.0.0\"", "0.0.0.0"),
        (r#", "routesInclude": ["0.0.0.0"]"#, "/routesInclude/0", "\"0.0.0.0\"", "0.0.0.0"),
        (r#", "routeIncludes": ["::/0"]"#, "/routeIncludes/0", "\"::/0\"", "does not begin at"),
        (
            r#", "routeIncludes": ["10.0.0.0/255.0.255.0"]"#,
            "/routeIncludes/0",
            "\"10.0.0.0/255.0.255.0\"",
            "netmask",
        ),
        (r#", "routeIncludes": {}"#, "/routeIncludes", "an object", "a list of prefixes"),
        (r#", "routeIncludes": ["Default"]"#, "/routeIncludes/0", "\"Default\"", "a prefix"),
        (r#", "routeIncludes": ["10.9.0.0/16"]"#, "/network", "\"10.9.0.0/16\"", "not itself an include"),
        (r#", "routeExcludes": ["default"]"#, "/routeExcludes/0", "\"default\"", "a prefix"),
        (r#", "routesExclude": [["10.0.0.0/8"]]"#, "/routesExclude/0", "a list of 1", "a prefix"),
        (r#", "listenPort": 0"#, "/listenPort", "0", "1 to 65535"),
        (r#", "listenPort": 65536"#, "/listenPort", "65536", "1 to 65535"),
        (r#", "listenPort": -1"#, "/listenPort", "-1", "1 to 65535"),
        (r#", "listenPort": "443""#, "/listenPort", "\"443\"", "1 to 65535"),
        (r#", "listenPort": 443.5"#, "/listenPort", "443.5", "a whole number"),
        (r#", "disableUdpConnections": "true""#, "/disableUdpConnections", "\"true\"", "true or false"),
        (r#", "description": 7"#, "/description", "7", "a text"),
        (r#", "roleScopeTagIds": [0]"#, "/roleScopeTagIds/0", "0", "a text"),
        (r#", "lastUpdateDateTime": 0"#, "/lastUpdateDateTime", "0", "a time"),
        (
            r##", "@odata.type": "#microsoft.graph.microsoftTunnelSite""##,
            "/@odata.type",
            "\"#microsoft.graph.microsoftTunnelSite\"",
            "microsoftTunnelConfiguration",
        ),
        (
            r#", "@odata.nextLink": "https://graph.example/x""#,
            "/@odata.nextLink",
            "the export is incomplete",
            "a complete export",
        ),
        (r#", "advancedSettings": {"dpd": "90"}"#, "/advancedSettings", "an object", "a list of"),
        (r#", "advancedSettings": ["dpd"]"#, "/advancedSettings/0", "\"dpd\"", "pair"),
        (
            r#", "advancedSettings": [{"value": "90"}]"#,
            "/advancedSettings/0/name",
            "missing",
            "name of a setting",
        ),
        (
            r#", "advancedSettings": [{"name": "dpd", "value": ["90"]}]"#,
            "/advancedSettings/0/value",
            "a list of 1",
            "a string",
        ),
        (
            r#", "advancedSettings": [{"name": "dpd", "value": "9"}, {"name": "dpd", "value": "8"}]"#,
            "/advancedSettings/1/name",
            "\"dpd\"",
            "once",
        ),
    ];
    for (extra, pointer, value, want) in rows {
        let problems = refuse(&native(extra));
        assert_eq!(problems.len(), 1, "{extra}: {problems:?}");
        let problem = &problems[0];
        assert_eq!((problem.file.as_str(), problem.pointer.as_str()), (FILE, *pointer), "{extra}");
        assert_eq!(problem.value, *value, "{extra}");
        assert!(problem.want.contains(want), "{extra}: {}", problem.want);
        assert!(problem.line.is_some(), "{extra}");
    }
}

#[test]
fn pools_have_their_sizes() {
    let pool = |text: &str| Configuration::parse(&native("").replace("10.9.0.0/16", text), FILE).is_ok();
    for text in ["10.0.0.0/8", "10.9.0.0/255.255.0.0", "192.168.7.4/30", "169.254.0.0/16"] {
        assert!(pool(text), "{text}");
    }
    for text in ["8.0.0.0/7", "192.168.7.4/31", "192.168.7.4", "127.0.0.0/8", "224.0.0.0/8", "fd00::/48", ""]
    {
        assert!(!pool(text), "{text}");
    }
    let v6 =
        |text: &str| Configuration::parse(&native(&format!(r#", "ipv6Network": "{text}""#)), FILE).is_ok();
    assert!(v6("fd00::/127") && v6("2001:db8::/16") && !v6("fd00::1"));
}

#[test]
fn an_ipv6_pool_is_enough_and_no_pool_is_not() {
    let text = r#"{"id": "a", "displayName": "b", "ipv6Network": "fd00::/64"}"#;
    assert_eq!(accept(text).0.pool_v4, None);
    let problems = refuse(r#"{"id": "a", "displayName": "b"}"#);
    assert_eq!((problems[0].pointer.as_str(), problems[0].value.as_str()), ("/network", "missing"));
}

#[test]
fn what_must_be_there_is_missed() {
    let problems = refuse(r#"{"network": "10.9.0.0/16", "displayName": null}"#);
    let places: Vec<&str> = problems.iter().map(|problem| problem.pointer.as_str()).collect();
    assert_eq!(places, ["/id", "/displayName"]);
    for (from, to) in [("\"a\"", "\"\""), ("\"b\"", "\"a\\u0000b\""), ("\"b\"", "\" \"")] {
        assert_eq!(refuse(&native("").replacen(from, to, 1)).len(), 1, "{to}");
    }
    let long = native("").replace("\"b\"", &format!("\"{}\"", "x".repeat(201)));
    assert_eq!(refuse(&long)[0].pointer, "/displayName");
}

#[test]
fn all_problems_come_at_once_with_their_lines() {
    let text = "{\"value\": [\n{\"id\": 1,\n\"displayName\": \"x\",\n\"network\": \"10.0.0.0/40\",\n\"listenPort\": 0}\n]}";
    let lines: Vec<String> = refuse(text).iter().map(ToString::to_string).collect();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines[0].starts_with("configuration.json:2: /value/0/id: 1; want"), "{}", lines[0]);
    assert!(
        lines.iter().any(|line| line.starts_with("configuration.json:4: /value/0/network: \"10.0.0.0/40\";"))
    );
    assert!(lines.iter().any(|line| line.starts_with("configuration.json:5: /value/0/listenPort: 0;")));
}

#[test]
fn other_documents_are_refused() {
    for text in [
        "",
        "null",
        "7",
        r#"{"value": [], "value": []}"#,
        "\"x\"",
        "[7]",
        "{}",
        r#"{"value": 7}"#,
        r#"{"value": null}"#,
        "{\"id\": }",
    ] {
        assert!(!refuse(text).is_empty(), "{text}");
    }
}

#[test]
fn what_is_odd_but_usable_is_a_warning() {
    for (extra, part) in [
        (r#", "routeIncludes": ["10.1.2.3/8"]"#, "/routeIncludes/0: \"10.1.2.3/8\"; want no bits behind"),
        (r#", "routeIncludes": ["10.0.0.0/8"]"#, "/network: \"10.9.0.0/16\"; want a pool apart"),
        (r#", "routeIncludes": ["10.9.4.0/24"]"#, "/network: \"10.9.0.0/16\"; want a pool apart"),
        (r#", "dnsServers": ["1.1.1.1", "1.1.1.1"]"#, "/dnsServers/1: \"1.1.1.1\"; want every server once"),
        (
            r#", "routeInclude": []"#,
            "/routeInclude: unknown property; want a known name (did you mean \"routeIncludes\"?)",
        ),
        (r#", "colour": 1"#, "/colour: unknown property; want a known name; it is kept"),
        (
            r#", "routeIncludes": ["172.16.0.0/12"], "routeExcludes": ["192.168.0.0/16"]"#,
            "/routeExcludes: \"192.168.0.0/16\"; want a part of some include",
        ),
        (r#", "routeIncludes": ["172.16.0.0/12"], "routeExcludes": ["172.16.0.0/12"]"#, "the exclude wins"),
        (
            r#", "advancedSettings": [{"name": "session-timeuot", "value": "1"}]"#,
            "\"session-timeuot\"; want a known setting (did you mean \"session-timeout\"?)",
        ),
    ] {
        let (_, warnings) = accept(&native(extra));
        assert!(warnings.iter().any(|line| line.contains(part)), "{extra}: {warnings:?}");
    }
}

#[test]
fn unknown_properties_are_kept() {
    let (configuration, _) = accept(&native(r#", "colour": {"x": [1, null]}, "x@odata.type": "y""#));
    assert_eq!(configuration.unknown.len(), 1);
    assert_eq!(configuration.unknown["colour"]["x"][0], 1);
    assert_eq!(accept(&setting("future", "1")).0.advanced.unknown["future"], "1");
}

#[test]
fn rules_are_counted_after_merging_and_the_limit_can_be_raised() {
    let list = |count: u32, step: u32| {
        let mut text = String::new();
        for index in 0..count {
            let comma = if index == 0 { "" } else { "," };
            let net = index * step;
            write!(text, "{comma}\"172.{}.{}.0/24\"", 16 + net / 256, net % 256).unwrap();
        }
        text
    };
    let with = |includes: &str, excludes: &str| {
        native(&format!(r#", "routeIncludes": [{includes}], "routeExcludes": [{excludes}]"#))
    };
    // 2,000 neighbours merge into a few; 300 + 200 apart are just allowed; one more is not.
    assert!(Configuration::parse(&with(&list(2_000, 1), ""), FILE).is_ok());
    assert!(Configuration::parse(&with(&list(300, 2), &list(200, 2)), FILE).is_ok());
    let too_many = with(&list(301, 2), &list(200, 2));
    let problems = refuse(&too_many);
    assert_eq!(problems[0].pointer, "/routeIncludes");
    assert!(problems[0].value.starts_with("501 "), "{}", problems[0].value);
    let raised = Selection { max_rules: 501, ..Selection::default() };
    assert!(Configuration::parse_selected(&too_many, FILE, &raised).is_ok());
}

/// What costs more than one step an element is bounded before it begins.
#[test]
fn huge_lists_are_refused_without_being_compared() {
    let list = |count: u32| {
        let mut text = String::new();
        for index in 1..=count {
            let [_, a, b, c] = index.to_be_bytes();
            let comma = if index == 1 { "" } else { "," };
            write!(text, "{comma}\"172.{}.{b}.{c}\"", 16 + a).unwrap();
        }
        text
    };
    let rules = refuse(&native(&format!(r#", "routeExcludes": [{}]"#, list(10_001))));
    assert_eq!((rules[0].pointer.as_str(), rules[0].value.as_str()), ("/routeExcludes", "10001 rules"));
    let servers = refuse(&native(&format!(r#", "dnsServers": [{}]"#, list(100_000))));
    assert_eq!(servers[0].value, "100000 servers");
    let names: String = (0..50_000).map(|index| format!(", \"routeInclude{index}\": 1")).collect();
    let (configuration, warnings) = accept(&native(&names));
    assert_eq!((configuration.unknown.len(), warnings.len()), (50_000, MAX_PROBLEMS));
}

#[test]
fn every_setting_reaches_its_field_in_its_unit() {
    let read = |name: &str, value: &str| accept(&setting(name, value)).0.advanced;
    let seconds = Duration::from_secs;
    assert_eq!(read("session-timeout", "7").session_timeout, Some(seconds(7)));
    assert_eq!(read("idle-timeout", "8").idle_timeout, Some(seconds(8)));
    assert_eq!(read("idle-timeout", "8").mobile_idle_timeout, Some(seconds(8)));
    assert_eq!(read("mobile-idle-timeout", "9").mobile_idle_timeout, Some(seconds(9)));
    assert_eq!(read("mobile-idle-timeout", "9").idle_timeout, None);
    assert_eq!(read("cookie-timeout", "10").cookie_timeout, seconds(10));
    assert_eq!(read("dpd", "11").dpd, seconds(11));
    assert_eq!(read("mobile-dpd", "12").mobile_dpd, seconds(12));
    assert_eq!(read("keepalive", "13").keepalive, seconds(13));
    assert_eq!(read("rekey-time", "14").rekey_time, Some(seconds(14)));
    assert_eq!(read("rekey-time", "0").rekey_time, None);
    assert_eq!(read("rekey-method", "ssl").rekey_method, RekeyMethod::Ssl);
    assert_eq!(read("rekey-method", "new-tunnel").rekey_method, RekeyMethod::NewTunnel);
    assert_eq!(read("switch-to-tcp-timeout", "15").switch_to_tcp_timeout, Some(seconds(15)));
    assert_eq!(read("mtu", "1300").mtu, Some(1_300));
    assert!(read("try-mtu-discovery", "true").try_mtu_discovery);
    assert_eq!(read("max-clients", "16").max_clients, 16);
    assert_eq!(read("max-clients", "0").max_clients, 64_000);
    assert_eq!(read("max-same-clients", "2").max_same_clients, Some(2));
    assert_eq!(read("max-same-clients", "0").max_same_clients, None);
    assert_eq!(read("rate-limit-ms", "100").rate_limit, Some(Duration::from_millis(100)));
    assert_eq!(read("server-drain-ms", "15000").server_drain, seconds(15));
    assert_eq!(read("max-ban-score", "50").max_ban_score, Some(50));
    assert_eq!(read("max-ban-score", "0").max_ban_score, None);
    assert_eq!(read("ban-reset-time", "17").ban_reset_time, seconds(17));
    assert_eq!(read("min-reauth-time", "18").min_reauth_time, seconds(18));
    assert!(read("tunnel-all-dns", "yes").tunnel_all_dns);
    assert!(read("client-bypass-protocol", "TRUE").client_bypass_protocol);
    assert!(!read("restrict-user-to-routes", "false").restrict_user_to_routes);
    assert_eq!(read("rx-data-per-sec", "40000").rx_data_per_sec, Some(40_000));
    assert_eq!(read("tx-data-per-sec", "0").tx_data_per_sec, None);
    assert_eq!(read("banner", "Hello").banner.as_deref(), Some("Hello"));
    assert_eq!(read("banner", "").banner, None);
    assert_eq!(read("pre-login-banner", "Hi").pre_login_banner.as_deref(), Some("Hi"));
    assert_eq!(read("tls-min-version", "1.3").tls_min_version, Some(TlsVersion::Tls13));
    assert_eq!(read("tls-min-version", "TLS1.2").tls_min_version, Some(TlsVersion::Tls12));
    assert_eq!(read("log-level", "9").log_level, Some(9));
}

#[test]
fn every_name_of_a_setting_is_known() {
    for name in super::advanced::NAMES {
        let parsed = Configuration::parse(&setting(name, "1"), FILE);
        if let Ok(parsed) = parsed {
            assert!(parsed.value.advanced.unknown.is_empty(), "{name}");
        }
    }
}

#[test]
fn numbers_may_be_strings_or_numbers_only_among_the_settings() {
    let text =
        native(r#", "advancedSettings": [{"name": "dpd", "value": 30}, {"name": "mtu", "value": null}]"#);
    let advanced = accept(&text).0.advanced;
    assert_eq!((advanced.dpd, advanced.mtu), (Duration::from_secs(30), None));
}

#[test]
fn a_setting_that_cannot_be_read_is_refused_with_what_it_wants() {
    for (name, value, want) in [
        ("session-timeout", "1h", "seconds from 1 to 31536000, or 0 for none"),
        ("session-timeout", "-1", "seconds"),
        ("session-timeout", "31536001", "seconds"),
        ("cookie-timeout", "0", "seconds from 1"),
        ("dpd", "+5", "seconds"),
        ("dpd", "99999999999999999999", "seconds"),
        ("mtu", "575", "576 to 9216"),
        ("mtu", "65536", "576 to 9216"),
        ("rekey-method", "SSL", "new-tunnel"),
        ("tunnel-all-dns", "maybe", "true or false"),
        ("tls-min-version", "1.1", "1.2 or 1.3"),
        ("log-level", "10", "0 to 9"),
        ("max-clients", "64001", "0 to 64000"),
        ("rate-limit-ms", "60001", "0 to 60000"),
        ("rx-data-per-sec", "1e6", "bytes a second"),
        ("banner", "a\\u001b[2J", "without control characters"),
    ] {
        let problems = refuse(&setting(name, value));
        assert_eq!(problems.len(), 1, "{name}={value}");
        assert_eq!(problems[0].pointer, "/advancedSettings/0/value", "{name}={value}");
        assert!(problems[0].want.contains(want), "{name}={value}: {}", problems[0].want);
        assert!(problems[0].want.ends_with(&format!("for {name}")));
    }
    assert_eq!(refuse(&setting("banner", &"x".repeat(2_049))).len(), 1);
}

fn any_json() -> impl Strategy<Value = serde_json::Value> {
    let words = prop::sample::select(vec![
        "10.0.0.0/8",
        "default",
        "fd00::/64",
        "x",
        "",
        "corp.example",
        "443",
        "dpd",
        "mtu",
        "0.0.0.0/0",
    ]);
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        words.prop_map(Into::into),
        any::<String>().prop_map(Into::into),
    ];
    let names = prop::sample::select(vec![
        "value",
        "id",
        "displayName",
        "network",
        "ipv6Network",
        "dnsServers",
        "routeIncludes",
        "routesExclude",
        "splitDNS",
        "listenPort",
        "advancedSettings",
        "name",
        "@odata.type",
        "Network",
        "PolicyName",
        "/~",
        "publicAddress",
        "upgradeWindowStartTime",
        "upgradeWindowEndTime",
        "internalNetworkProbeUrl",
        "microsoftTunnelConfiguration",
    ]);
    leaf.prop_recursive(4, 48, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..8)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Covers: R89 (configuration file)
    #[test]
    fn any_json_is_read_or_refused_with_bounded_lines(value in any_json()) {
        let text = serde_json::to_string_pretty(&value).unwrap();
        let lines = text.lines().count();
        let problems = match Configuration::parse(&text, FILE) {
            Ok(parsed) => parsed.warnings,
            Err(problems) => problems.into_vec(),
        };
        let more = Site::parse(&text, FILE).map_or_else(Problems::into_vec, |parsed| parsed.warnings);
        for problem in problems.iter().chain(&more) {
            prop_assert!(problem.line.is_some_and(|line| (1..=lines).contains(&line)), "{problem} in {text}");
            prop_assert!(!problem.to_string().contains(char::is_control));
            prop_assert!(problem.to_string().len() < 4_096);
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>(), cut in 0..SAMPLE.len()) {
        let _ = Configuration::parse(&text, FILE);
        prop_assert!(Configuration::parse(&SAMPLE[..cut], FILE).is_err());
    }
}
