//! Whole configurations in a directory of their own: what is read, and everything that is refused.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;

const GATEWAY: &str = r#"configuration = "configuration.json"
site = "site.json"
[listen]
addresses = ["0.0.0.0", "::"]
[tls]
certificate = "site.crt"
key = "site.key"
minimum_version = "1.2"
[auth]
methods = ["bearer", "password"]
[auth.bearer]
oidc = "oidc.json"
[auth.password]
file = "users.passwd"
[egress]
mode = "kernel"
[state]
store = "file"
directory = "state"
[admin]
socket = "/run/mstunnel/control.sock"
"#;

const CONFIGURATION: &str = r#"{"id": "c1", "displayName": "hq",
"network": "10.9.0.0/16",
"listenPort": 8443,
"routeIncludes": ["172.16.0.0/12"]}"#;

const SITE: &str = r#"{"id": "s1", "displayName": "hq", "publicAddress": "vpn.corp.example",
"microsoftTunnelConfiguration": {"id": "c1"}}"#;

/// A directory with a good configuration, to be spoilt.
struct Host(TempDir);

impl Host {
    fn new() -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        host.write("gateway.toml", GATEWAY);
        host.write("configuration.json", CONFIGURATION);
        host.write("site.json", SITE);
        host.write("oidc.json", "{}");
        host.write("users.passwd", "alice:*:$6$x$y\n");
        host.write("site.crt", include_str!("../tls/golden/site.crt"));
        host.write("site.key", include_str!("../tls/golden/site.key"));
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Replaces `from` by `to` in the good form of `name`.
    fn change(&self, name: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(name)).unwrap();
        assert!(text.contains(from), "{from}");
        self.write(name, &text.replacen(from, to, 1));
    }

    fn load(&self) -> Result<(Settings, Vec<String>), ConfigError> {
        Settings::load(&self.path("gateway.toml"))
    }

    fn settings(&self) -> Settings {
        self.load().unwrap_or_else(|error| panic!("{error}")).0
    }

    /// The problems, without the directory in front of file names.
    fn refused(&self) -> Vec<String> {
        let directory = format!("{}/", self.0.path().display());
        let Err(error) = self.load() else { return Vec::new() };
        assert_eq!(error.problems().count(), error.to_string().lines().count());
        error.to_string().lines().map(|line| line.replace(&directory, "")).collect()
    }

    fn warned(&self) -> Vec<String> {
        let directory = format!("{}/", self.0.path().display());
        let (_, warnings) = self.load().unwrap_or_else(|error| panic!("{error}"));
        warnings.iter().map(|line| line.replace(&directory, "")).collect()
    }
}

#[test]
fn a_good_configuration_has_exactly_the_values_that_are_written() {
    let host = Host::new();
    let settings = host.settings();
    let addresses: Vec<String> = settings.listen_addresses().map(|address| address.to_string()).collect();
    assert_eq!(addresses, ["0.0.0.0:8443", "[::]:8443"]);
    let source = CertificateSource::Pem {
        certificate: host.path("site.crt"),
        key: host.path("site.key"),
        password_file: None,
    };
    assert_eq!(settings.tls.source, source);
    assert_eq!(settings.auth.methods, [AuthMethod::Bearer, AuthMethod::Password]);
    assert_eq!(settings.auth.bearer.map(|bearer| bearer.oidc), Some(host.path("oidc.json")));
    assert_eq!(settings.auth.password.map(|password| password.file), Some(host.path("users.passwd")));
    assert_eq!((settings.auth.attempts, settings.auth.groups.len()), (3, 0));
    assert_eq!(settings.egress, EgressSettings::default());
    assert_eq!(settings.state.store, StateStore::File);
    assert_eq!(settings.state.directory, host.path("state"));
    assert_eq!(settings.admin.socket, PathBuf::from("/run/mstunnel/control.sock"));
    assert_eq!(settings.log, LogSettings { level: LogLevel::Info, format: LogFormat::Text });
    assert_eq!(settings.site.unwrap().id, "s1");
    assert_eq!(settings.configuration.id, "c1");
    assert_eq!(settings.max_split_rules, 500);
}

#[test]
fn the_shortest_configuration_takes_defaults() {
    let host = Host::new();
    host.write(
        "gateway.toml",
        "configuration = \"configuration.json\"\ntls = { certificate = \"site.crt\", key = \"site.key\" }\n\
         [auth]\nmethods = [\"password\"]\npassword = { file = \"users.passwd\" }\n",
    );
    let settings = host.settings();
    assert_eq!(settings.listen.len(), 2);
    assert_eq!(settings.state.store, StateStore::Memory);
    assert_eq!((settings.egress.interface.as_str(), settings.egress.offload), ("mst0", true));
    assert_eq!(settings.admin.socket, PathBuf::from("/run/mstunnel/control.sock"));
    assert_eq!(settings.tls.minimum, mstunnel_proto::config::TlsVersion::Tls12);
    assert!(settings.site.is_none() && settings.policy.is_none());
}

/// Each row: a text of the good file, what replaces it, and the beginning of the only line expected.
#[test]
fn every_refusal_in_gateway_toml_names_file_line_value_and_want() {
    let rows = [
        (
            "configuration = \"configuration.json\"\n",
            "",
            "gateway.toml:1: configuration: missing; want a configuration JSON file",
        ),
        ("\"configuration.json\"", "7", "gateway.toml:1: configuration: 7; want a configuration JSON file"),
        (
            "\"configuration.json\"",
            "\"none.json\"",
            "gateway.toml:1: configuration: \"none.json\": No such file",
        ),
        (
            "\"configuration.json\"",
            "\".\"",
            "gateway.toml:1: configuration: \".\": not a regular file; want a readable file",
        ),
        ("\"site.json\"", "\"none.json\"", "gateway.toml:2: site: \"none.json\": No such file"),
        (
            "\"0.0.0.0\"",
            "\"0.0.0.0:443\"",
            "gateway.toml:4: listen.addresses[0]: \"0.0.0.0:443\"; want an IPv4 or IPv6 address without a port",
        ),
        ("\"0.0.0.0\"", "\"::\"", "gateway.toml:4: listen.addresses[1]: \"::\"; want every address once"),
        (
            "[\"0.0.0.0\", \"::\"]",
            "[]",
            "gateway.toml:4: listen.addresses: a list of 0; want a list of addresses, 1 to 64",
        ),
        (
            "[\"0.0.0.0\", \"::\"]",
            "\"::\"",
            "gateway.toml:4: listen.addresses: \"::\"; want a list of addresses",
        ),
        (
            "\"::\"]",
            "\"10.9.0.1\"]",
            "gateway.toml:1: configuration: \"configuration.json\": pool 10.9.0.0/16; want a pool without the listen address 10.9.0.1",
        ),
        (
            "[listen]\naddresses",
            "[listen]\nadresses",
            "gateway.toml:4: listen.adresses: unknown key; want a known key (did you mean \"addresses\"?)",
        ),
        (
            "[listen]",
            "[lisen]",
            "gateway.toml:3: lisen: unknown key; want a known key (did you mean \"listen\"?)",
        ),
        ("[listen]\n", "[[listen]]\n", "gateway.toml:3: listen: a list of 1; want a table [listen]"),
        (
            "certificate = \"site.crt\"\n",
            "",
            "gateway.toml:5: tls.certificate: missing; want certificate and key, or pfx",
        ),
        ("key = \"site.key\"\n", "", "gateway.toml:5: tls.key: missing; want certificate and key, or pfx"),
        (
            "key = \"site.key\"",
            "key = \"site.key\"\npfx = \"x\"",
            "gateway.toml:8: tls.pfx: \"x\"; want either pfx, or certificate and key",
        ),
        ("\"site.crt\"", "\"none.crt\"", "gateway.toml:6: tls.certificate: \"none.crt\": No such file"),
        (
            "\"site.crt\"",
            "\"site.key\"",
            "gateway.toml:6: tls.certificate: \"site.key\": no certificate inside; want a PEM file",
        ),
        (
            "\"site.key\"",
            "\"site.crt\"",
            "gateway.toml:7: tls.key: \"site.crt\": no private key inside; want a PEM private key",
        ),
        ("\"site.key\"", "\"\"", "gateway.toml:7: tls.key: \"\"; want a PEM file with the private key"),
        ("\"1.2\"", "\"1.1\"", "gateway.toml:8: tls.minimum_version: \"1.1\"; want one of 1.2, 1.3"),
        ("\"1.2\"", "1.2", "gateway.toml:8: tls.minimum_version: 1.2; want one of 1.2, 1.3"),
        (
            "\"1.2\"",
            "\"1.3\"\nmaximum_version = \"1.2\"",
            "gateway.toml:9: tls.maximum_version: \"1.2\"; want a version that is not older",
        ),
        (
            "minimum_version",
            "minimal_version",
            "gateway.toml:8: tls.minimal_version: unknown key; want a known key (did you mean \"minimum_version\"?)",
        ),
        (
            "methods = [\"bearer\", \"password\"]",
            "",
            "gateway.toml:9: auth.methods: missing; want a list of bearer, certificate, password",
        ),
        (
            "[\"bearer\", \"password\"]",
            "[]",
            "gateway.toml:10: auth.methods: a list of 0; want a list of bearer",
        ),
        (
            "\"bearer\", \"password\"",
            "\"bearer\", \"password\", \"password\"",
            "gateway.toml:10: auth.methods[2]: \"password\"; want every method once",
        ),
        (
            "\"bearer\", \"password\"",
            "\"bearer\", \"password\", \"kerberos\"",
            "gateway.toml:10: auth.methods[2]: \"kerberos\"; want one of bearer, certificate, password",
        ),
        ("\"oidc.json\"", "\"none.json\"", "gateway.toml:12: auth.bearer.oidc: \"none.json\": No such file"),
        (
            "\"oidc.json\"",
            "\"users.passwd\"",
            "gateway.toml:12: auth.bearer.oidc: \"users.passwd\": expected value",
        ),
        (
            "[auth.bearer]\noidc = \"oidc.json\"\n",
            "",
            "gateway.toml:9: auth.bearer: missing; want a section with oidc, because the method is offered",
        ),
        ("oidc = \"oidc.json\"", "", "gateway.toml:11: auth.bearer.oidc: missing; want an oidc.json"),
        ("\"users.passwd\"", "\"nobody\"", "gateway.toml:14: auth.password.file: \"nobody\": No such file"),
        (
            "file = \"users.passwd\"",
            "fiel = \"users.passwd\"\nfile = \"users.passwd\"",
            "gateway.toml:14: auth.password.fiel: unknown key; want a known key (did you mean \"file\"?)",
        ),
        (
            "[auth]\n",
            "[auth]\nattempts = 0\n",
            "gateway.toml:10: auth.attempts: 0; want a whole number from 1 to 10",
        ),
        (
            "[auth]\n",
            "[auth]\ngroups = [{ name = \"a\" }, { name = \"a\" }]\n",
            "gateway.toml:10: auth.groups[1].name: \"a\"; want every group once",
        ),
        (
            "[auth]\n",
            "[auth]\ngroups = [{ label = \"a\" }]\n",
            "gateway.toml:10: auth.groups[0].name: missing; want the name of the group",
        ),
        (
            "[auth]\n",
            "[auth]\ngroups = [{ name = \"a\\u0007\" }]\n",
            "gateway.toml:10: auth.groups[0].name: \"a\\u{7}\"; want 1 to 64 printable",
        ),
        (
            "[egress]\nmode = \"kernel\"",
            "[egress]\nmode = \"kernal\"",
            "gateway.toml:16: egress.mode: \"kernal\"; want one of kernel, routed, userspace, nat (did you mean \"kernel\"?)",
        ),
        (
            "[egress]\n",
            "[egress]\ninterface = \"mst0/../x\"\n",
            "gateway.toml:16: egress.interface: \"mst0/../x\"; want the name of a network interface",
        ),
        (
            "[egress]\n",
            "[egress]\ninterface = \"sixteen-letters-\"\n",
            "gateway.toml:16: egress.interface: \"sixteen-letters-\"; want",
        ),
        (
            "[egress]\n",
            "[egress]\noffload = \"of\"\n",
            "gateway.toml:16: egress.offload: \"of\"; want one of on, off (did you mean",
        ),
        ("[egress]\n", "[egress]\ninterface = \"lo\"\n", "gateway.toml:16: egress.interface: \"lo\"; want"),
        (
            "[egress]\n",
            "[egress]\nallow = [\"127.0.0.1/33\"]\n",
            "gateway.toml:16: egress.allow[0]: \"127.0.0.1/33\"; want a prefix like",
        ),
        (
            "[egress]\n",
            "[egress]\nallow = [\"0.0.0.0/0\"]\n",
            "gateway.toml:16: egress.allow[0]: \"0.0.0.0/0\"; want a prefix longer than /0",
        ),
        (
            "[egress]\n",
            "[egress]\nallow = [\"127.0.0.1\", \"127.0.0.1/32\"]\n",
            "gateway.toml:16: egress.allow[1]: \"127.0.0.1/32\"; want every prefix once",
        ),
        (
            "[egress]\n",
            "[egress]\nallow = [\"10.0.0.0/8\"]\n",
            "gateway.toml:16: egress.allow[0]: \"10.0.0.0/8\"; want a prefix outside of the pool 10.9.0.0/16",
        ),
        (
            "[egress]\n",
            "[egress]\nallow = [\"127.0.0.1:80\"]\n",
            "gateway.toml:16: egress.allow[0]: \"127.0.0.1:80\"; want a prefix without a port, or mode = \"userspace\"",
        ),
        (
            "[egress]\n",
            "[egress]\npublish = { \"198.18.0.80:80\" = \"127.0.0.1:80\" }\n",
            "gateway.toml:16: egress.publish: a table; want mode = \"userspace\"",
        ),
        (
            "mode = \"kernel\"",
            "mode = \"userspace\"\n[egress.publish]\n\"198.18.0.80\" = \"127.0.0.1:80\"",
            "gateway.toml:18: egress.publish.\"198.18.0.80\": \"198.18.0.80\"; want as the key the address and port",
        ),
        (
            "mode = \"kernel\"",
            "mode = \"userspace\"\n[egress.publish]\n\"127.0.0.1:80\" = \"127.0.0.1:80\"",
            "gateway.toml:18: egress.publish.\"127.0.0.1:80\": \"127.0.0.1:80\"; want as the key the address and port",
        ),
        (
            "mode = \"kernel\"",
            "mode = \"userspace\"\n[egress.publish]\n\"198.18.0.80:80\" = \"localhost:80\"",
            "gateway.toml:18: egress.publish.\"198.18.0.80:80\": \"localhost:80\"; want the address and port of a service",
        ),
        (
            "mode = \"kernel\"",
            "mode = \"userspace\"\n[egress.publish]\n\"10.9.0.1:80\" = \"127.0.0.1:80\"",
            "gateway.toml:18: egress.publish.\"10.9.0.1:80\": 10.9.0.1:80; want an address outside of the pool 10.9.0.0/16",
        ),
        (
            "\"file\"\n",
            "\"files\"\n",
            "gateway.toml:18: state.store: \"files\"; want one of memory, file, etcd (did you mean \"file\"?)",
        ),
        (
            "\"state\"",
            "\"oidc.json\"",
            "gateway.toml:19: state.directory: \"oidc.json\": not a directory; want a directory",
        ),
        (
            "[admin]\n",
            "[admin]\nmetrics = \"9443\"\n",
            "gateway.toml:21: admin.metrics: \"9443\"; want an address and port",
        ),
        (
            "[admin]\n",
            "[limits]\nsplit_rules = 0\n[admin]\n",
            "gateway.toml:21: limits.split_rules: 0; want a whole number from 1 to 10000",
        ),
        (
            "[admin]\n",
            "[log]\nlevel = \"loud\"\n[admin]\n",
            "gateway.toml:21: log.level: \"loud\"; want one of error, warn, info, debug, trace",
        ),
        (
            "[admin]\n",
            "[log]\nformat = \"xml\"\n[admin]\n",
            "gateway.toml:21: log.format: \"xml\"; want one of text, json",
        ),
        // Not built yet.
        (
            "\"bearer\", \"password\"",
            "\"bearer\", \"password\", \"certificate\"]\ncertificate = { ca = \"site.crt\" } #",
            "gateway.toml:10: auth.methods[2]: \"certificate\" is not available in this version; want",
        ),
        (
            "mode = \"kernel\"",
            "mode = \"nat\"",
            "gateway.toml:16: egress.mode: \"nat\" is not available in this version; want",
        ),
        (
            "store = \"file\"",
            "store = \"etcd\"",
            "gateway.toml:18: state.store: \"etcd\" is not available in this version; want",
        ),
        (
            "[admin]\n",
            "[policy]\nfile = \"policy.toml\"\n[admin]\n",
            "gateway.toml:21: policy.file: \"policy.toml\" is not available in this version; want",
        ),
    ];
    for (from, to, line) in rows {
        let host = Host::new();
        host.change("gateway.toml", from, to);
        let refused = host.refused();
        assert_eq!(refused.len(), 1, "{to}: {refused:#?}");
        assert!(refused[0].starts_with(line), "{to}: {refused:#?}");
    }
}

/// Covers: R43
#[test]
fn opened_destinations_and_published_services_are_read() {
    let host = Host::new();
    host.change(
        "gateway.toml",
        "mode = \"kernel\"",
        "mode = \"userspace\"\nallow = [\"127.0.0.1/32\", \"[::1]:8080\"]\n\
         [egress.publish]\n\"198.18.0.80:80\" = \"127.0.0.1:34567\"",
    );
    let egress = host.settings().egress;
    assert_eq!(egress.mode, EgressMode::Userspace);
    assert_eq!(egress.allow, ["127.0.0.1".parse().unwrap(), "[::1]:8080".parse().unwrap()]);
    let (inside, service) = ("198.18.0.80:80".parse().unwrap(), "127.0.0.1:34567".parse().unwrap());
    assert_eq!(egress.publish, [crate::egress::Published { inside, host: service }]);
}

#[test]
fn broken_toml_and_a_missing_file_are_one_problem_each() {
    let host = Host::new();
    host.change("gateway.toml", "[tls]", "[tls");
    assert!(host.refused()[0].starts_with("gateway.toml:5: "), "{:?}", host.refused());
    host.write("gateway.toml", "x = 1\nx = 2\n");
    assert!(host.refused()[0].contains("gateway.toml:2: duplicate key"), "{:?}", host.refused());
    std::fs::remove_file(host.path("gateway.toml")).unwrap();
    assert!(host.refused()[0].starts_with("gateway.toml: No such file"), "{:?}", host.refused());
}

/// Covers: R76
#[test]
fn problems_of_all_files_come_at_once() {
    let host = Host::new();
    host.change("gateway.toml", "mode = \"kernel\"", "mode = \"none\"");
    host.change("gateway.toml", "[admin]", "[adnim]");
    host.change("configuration.json", "8443", "0");
    host.change("configuration.json", "10.9.0.0/16", "10.9.0.0/31");
    host.change("site.json", "vpn.corp.example", "vpn corp");
    host.write("oidc.json", "[]");
    std::fs::remove_file(host.path("users.passwd")).unwrap();
    std::fs::remove_file(host.path("site.key")).unwrap();
    let refused = host.refused();
    for part in [
        "site.json:1: /publicAddress: \"vpn corp\"; want an address or a domain name",
        "configuration.json:3: /listenPort: 0; want a whole number from 1 to 65535",
        "configuration.json:2: /network: \"10.9.0.0/31\"; want an IPv4 prefix",
        "gateway.toml:12: auth.bearer.oidc:",
        "gateway.toml:14: auth.password.file: \"users.passwd\": No such file",
        "gateway.toml:16: egress.mode: \"none\"",
        "gateway.toml:20: adnim: unknown key",
        "gateway.toml:7: tls.key: \"site.key\": No such file",
    ] {
        assert_eq!(refused.iter().filter(|line| line.starts_with(part)).count(), 1, "{part}: {refused:#?}");
    }
    assert_eq!(refused.len(), 8, "{refused:#?}");
}

#[test]
fn the_site_picks_the_configuration() {
    let host = Host::new();
    host.write("configuration.json", &format!("[{CONFIGURATION}, {}]", CONFIGURATION.replace("c1", "c2")));
    host.change("site.json", "\"c1\"", "\"C2\"");
    assert_eq!(host.settings().configuration.id, "c2");
    host.change("site.json", "\"C2\"", "\"c3\"");
    assert!(host.refused()[0].contains("want exactly one with the id \"c3\" that the site names"));
}

/// Covers: P-137, R86
#[test]
fn a_secret_that_everybody_can_read_stops_the_start() {
    for (name, place) in
        [("site.key", "gateway.toml:7: tls.key"), ("users.passwd", "gateway.toml:14: auth.password.file")]
    {
        let host = Host::new();
        std::fs::set_permissions(host.path(name), std::fs::Permissions::from_mode(0o644)).unwrap();
        let expected = format!("{place}: \"{name}\": mode 0644 lets every user in");
        assert!(host.refused()[0].starts_with(&expected), "{:?}", host.refused());
    }
}

#[test]
fn groups_have_labels_and_limits_can_be_raised() {
    let host = Host::new();
    host.change("gateway.toml", "[admin]", "[limits]\nsplit_rules = 1000\n[admin]");
    host.change(
        "gateway.toml",
        "[auth.bearer]",
        "[[auth.groups]]\nname = \"staff\"\nlabel = \"Staff and others\"\n[[auth.groups]]\nname = \"guests\"\n[auth.bearer]",
    );
    let settings = host.settings();
    let labels: Vec<&str> = settings.auth.groups.iter().map(|group| group.label.as_str()).collect();
    assert_eq!(labels, ["Staff and others", "guests"]);
    assert_eq!(settings.max_split_rules, 1_000);
}

#[test]
fn the_stricter_tls_version_of_the_two_files_wins() {
    use mstunnel_proto::config::TlsVersion;
    let host = Host::new();
    let setting = |version: &str| {
        format!("\"advancedSettings\": [{{\"name\": \"tls-min-version\", \"value\": \"{version}\"}}], \"id\"")
    };
    host.change("configuration.json", "\"id\"", &setting("1.3"));
    assert_eq!(host.settings().tls.minimum, TlsVersion::Tls13);
    host.change("gateway.toml", "\"1.2\"", "\"1.3\"");
    host.write("configuration.json", &CONFIGURATION.replacen("\"id\"", &setting("1.2"), 1));
    assert_eq!(host.settings().tls.minimum, TlsVersion::Tls13);
}

#[test]
fn what_is_usable_but_odd_is_a_warning() {
    let host = Host::new();
    assert_eq!(host.warned().len(), 1, "the golden certificate lives too long: {:?}", host.warned());
    assert!(host.warned()[0].contains("gateway.toml:6: tls.certificate: \"site.crt\": valid for 36500 days"));
    host.change("gateway.toml", "[admin]", "[admin]\nmetrics = \"192.0.2.1:9443\"");
    host.change("gateway.toml", "[\"bearer\", \"password\"]", "[\"password\"]");
    host.change("site.json", "vpn.corp.example", "other.corp.example");
    host.change("configuration.json", "\"id\"", "\"colour\": 1, \"id\"");
    let warned = host.warned();
    for part in [
        "configuration.json:1: /colour: unknown property",
        "gateway.toml:11: auth.bearer: a section without effect; want \"bearer\" in methods, or no section",
        "gateway.toml:21: admin.metrics: \"192.0.2.1:9443\" is not available in this version; want no metrics address",
        "gateway.toml:21: admin.metrics: \"192.0.2.1:9443\"; want a loopback address",
        "gateway.toml:6: tls.certificate: \"site.crt\": names vpn.corp.example; want a certificate for the site's publicAddress other.corp.example",
    ] {
        assert!(warned.iter().any(|line| line.starts_with(part)), "{part}: {warned:#?}");
    }
    assert!(host.settings().auth.bearer.is_none());
}

/// Covers: R76
#[test]
fn a_reload_knows_what_waits_for_a_restart() {
    let host = Host::new();
    let before = host.settings();
    assert_eq!(before.restart_needed(&host.settings(), true), Vec::<&str>::new());
    // Taken up live: routes, DNS, banners, sign-in, certificate, log level.
    host.change("configuration.json", "172.16.0.0/12", "172.17.0.0/16");
    host.change(
        "configuration.json",
        "\"id\"",
        "\"dnsServers\": [\"1.1.1.1\"], \"disableUdpConnections\": true, \"id\"",
    );
    host.change("gateway.toml", "[\"bearer\", \"password\"]", "[\"password\"]");
    host.change("gateway.toml", "[admin]", "[log]\nlevel = \"debug\"\n[admin]");
    host.write("site.crt", include_str!("../tls/golden/rsa2048.crt"));
    host.write("site.key", include_str!("../tls/golden/pkcs1.key"));
    let after = host.settings();
    assert_eq!(before.restart_needed(&after, true), Vec::<&str>::new());
    assert_ne!(before.identity.leaf_sha1(), after.identity.leaf_sha1());

    host.change("configuration.json", "8443", "8444");
    host.change("configuration.json", "10.9.0.0/16", "10.8.0.0/16");
    host.change("configuration.json", "\"id\"", "\"ipv6Network\": \"fd00::/64\", \"id\"");
    host.change("gateway.toml", "\"0.0.0.0\", ", "");
    host.change("gateway.toml", "minimum_version = \"1.2\"", "minimum_version = \"1.3\"");
    host.change(
        "gateway.toml",
        "mode = \"kernel\"",
        "mode = \"routed\"\ninterface = \"vpn0\"\noffload = \"off\"",
    );
    host.change("gateway.toml", "store = \"file\"", "store = \"memory\"");
    host.change("gateway.toml", "control.sock", "other.sock");
    host.change("gateway.toml", "level = \"debug\"", "format = \"json\"");
    let expected = [
        "listen.addresses",
        "listenPort",
        "network",
        "ipv6Network",
        "egress.mode",
        "egress.interface",
        "egress.offload",
        "state",
        "admin.socket",
        "log.format",
    ];
    assert_eq!(after.restart_needed(&host.settings(), true), expected);
    // Nothing of it is in force, and the next reload says so again.
    let mut kept = host.settings();
    kept.keep_until_restart(&after, false);
    assert_eq!(after.restart_needed(&kept, true), Vec::<&str>::new());
    assert_eq!(kept.restart_needed(&host.settings(), true), expected);
    assert_eq!(kept.tls.minimum, host.settings().tls.minimum, "new handshakes take it up");
    // UDP that has its sockets may be turned on again.
    host.change("configuration.json", "\"disableUdpConnections\": true", "\"disableUdpConnections\": false");
    for has_datagrams in [true, false] {
        let mut kept = host.settings();
        kept.keep_until_restart(&after, has_datagrams);
        assert_eq!(kept.configuration.udp, has_datagrams);
        let waits = after.restart_needed(&host.settings(), has_datagrams).contains(&"disableUdpConnections");
        assert_eq!(waits, !has_datagrams);
    }
}

/// Who limits a rate has to know that nothing is limited.
#[test]
fn a_setting_that_does_nothing_is_warned_of() {
    let host = Host::new();
    let about = |warned: &[String]| warned.iter().filter(|line| line.contains("no effect")).count();
    assert_eq!(about(&host.warned()), 0);
    let settings = r#""advancedSettings": [{"name": "rx-data-per-sec", "value": "125000"}], "id""#;
    host.change("configuration.json", "\"id\"", settings);
    let warned = host.warned();
    assert!(warned.iter().any(|line| line.contains("rx-data-per-sec has no effect")), "{warned:?}");
}

/// Covers: R43, R76: the userspace egress opens the name servers of its start.
#[test]
fn name_servers_wait_for_a_restart_where_the_egress_does() {
    let host = Host::new();
    host.change("gateway.toml", "mode = \"kernel\"", "mode = \"userspace\"");
    let before = host.settings();
    host.change("configuration.json", "\"id\"", "\"dnsServers\": [\"1.1.1.1\"], \"id\"");
    let mut after = host.settings();
    assert_eq!(before.restart_needed(&after, true), ["dnsServers"]);
    after.keep_until_restart(&before, true);
    assert_eq!(after.configuration.dns, before.configuration.dns);
}

/// Covers: R43, R76: a new network and a name server in the old one, in one reload.
#[test]
fn a_name_server_inside_the_network_that_stays_is_refused() {
    let host = Host::new();
    let before = host.settings();
    host.change("configuration.json", "10.9.0.0/16", "10.8.0.0/16");
    host.change("configuration.json", "\"id\"", "\"dnsServers\": [\"10.9.0.53\"], \"id\"");
    let mut after = host.settings();
    assert_eq!(after.refuse_dns_in_a_pool(), Ok(()));
    after.keep_until_restart(&before, true);
    assert!(after.refuse_dns_in_a_pool().unwrap_err().contains("10.9.0.53 lies in the network 10.9.0.0/16"));
}

#[test]
fn the_samples_of_the_packaging_are_good() {
    let host = Host::new();
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/etc/mstunnel");
    for name in ["gateway.toml", "configuration.json", "site.json", "oidc.json"] {
        host.write(name, &std::fs::read_to_string(samples.join(name)).unwrap());
    }
    host.write("certs/site.crt", include_str!("../tls/golden/site.crt"));
    host.write("private/site.key", include_str!("../tls/golden/site.key"));
    let settings = host.settings();
    assert_eq!(settings.configuration.listen_port, 443);
    assert_eq!(settings.configuration.advanced.session_timeout.map(|time| time.as_secs()), Some(28_800));
    let warned = host.warned();
    assert!(warned.iter().all(|line| line.contains("valid for 36500 days")), "{warned:#?}");
    // Every line of the TOML sample that is commented out is a key that exists.
    let sample = std::fs::read_to_string(samples.join("gateway.toml")).unwrap();
    let is_setting = |line: &&str| {
        line.starts_with("# ") && (line.contains(" = ") || line.contains("[")) && !line.contains("pfx")
    };
    let opened: Vec<String> = sample
        .lines()
        .map(|line| if is_setting(&line) { line[2..].to_owned() } else { line.to_owned() })
        .collect();
    host.write("gateway.toml", &opened.join("\n"));
    host.write("private/password", "x\n");
    let settings = host.settings();
    assert_eq!(settings.auth.groups[0].label, "Staff and contractors");
}

proptest::proptest! {
    #[test]
    fn any_text_in_the_place_of_a_value_is_read_or_refused(text in "[\\[\\]{}\"'=.#a-z0-9\\n ]{0,40}", line in 0..GATEWAY.lines().count()) {
        let host = Host::new();
        let changed: Vec<String> = GATEWAY.lines().enumerate().map(|(index, old)| if index == line { text.clone() } else { old.to_owned() }).collect();
        host.write("gateway.toml", &changed.join("\n"));
        if let Err(error) = host.load() {
            proptest::prop_assert!(error.problems().all(|problem| problem.file.ends_with(".toml")));
        }
    }
}
