//! `connect --tun`: a whole machine behind the tunnel, with our server and with stock ocserv.
//!
//! What leaves the machine is counted where it arrives, by the server's namespace: everything but the connection to
//! the server is a leak.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use mstunnel_tests::{Gateway, LONG, Network, Output, Process, SHORT, Setup, Stream, program, until};
use serde_json::{Value, json};
use tempfile::TempDir;

/// What the resolver of the machine is before.
const BEFORE: &str = "# of the machine\nnameserver 192.0.2.1\n";

/// A public host beyond the server, which is not corporate.
const PUBLIC: &str = "198.51.100.1";

struct World {
    network: Network,
    gateway: Gateway,
    _names: Process,
    client: PathBuf,
    state: TempDir,
    resolver: ResolvConf,
}

/// `/etc/resolv.conf` of the client's namespace, as `ip netns exec` lays it over the machine's.
struct ResolvConf(PathBuf);

impl ResolvConf {
    fn new(network: &Network) -> Self {
        let directory = Path::new("/etc/netns").join(network.client(0).name());
        fs::create_dir_all(&directory).expect("root may write to /etc/netns");
        let this = Self(directory);
        fs::write(this.path(), BEFORE).expect("a file");
        this
    }

    fn path(&self) -> PathBuf {
        self.0.join("resolv.conf")
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).expect("it is there")
    }
}

impl Drop for ResolvConf {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

impl World {
    fn start(start: fn(&Setup, &Network) -> Option<Gateway>, setup: &Setup) -> Option<Self> {
        let client = program("mstunnel-client")?;
        let network = Network::new()?;
        // A public host that the client reaches by the server's namespace without a tunnel.
        network.server().run("ip", &["addr", "add", &format!("{PUBLIC}/32"), "dev", "lo"]);
        network.server().run("ip", &["addr", "add", "2001:db8::1/128", "dev", "lo", "nodad"]);
        for (family, gateway) in [("-4", "192.0.2.1"), ("-6", "fd00:c0::1")] {
            network.client(0).run("ip", &[family, "route", "add", "default", "via", gateway]);
        }
        let resolver = ResolvConf::new(&network);
        let gateway = start(&setup.clone().set("dnsServers", json!(["10.20.0.53"])), &network)?;
        let names = network.corporate().start_names(gateway.directory());
        fs::write(gateway.directory().join("password"), "secret of alice\n").expect("a file");
        let state = tempfile::tempdir().expect("a directory for temporary files");
        let world = Self { network, gateway, _names: names, client, state, resolver };
        world.watch();
        Some(world)
    }

    /// Counts what arrives from the client beside TLS to the server and the finding of neighbours.
    fn watch(&self) {
        let port = self.gateway.address(&self.network, 0).port();
        let rules = format!(
            "table inet watch {{\n chain arriving {{\n type filter hook prerouting priority -500;\n \
             iifname \"cli0\" tcp dport {port} ip daddr 192.0.2.1 accept\n \
             iifname \"cli0\" icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit, \
             mld2-listener-report, mld-listener-report, mld-listener-done }} accept\n \
             iifname \"cli0\" counter\n }}\n}}\n"
        );
        let file = self.state.path().join("watch.nft");
        fs::write(&file, rules).expect("a file");
        self.network.server().run("nft", &["-f", &file.to_string_lossy()]);
    }

    /// How many packets arrived in clear so far.
    fn leaked(&self) -> u64 {
        let text = self.network.server().run("nft", &["list", "table", "inet", "watch"]);
        let count = text.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next());
        count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("no counter in {text}"))
    }

    fn command(&self, command: &str) -> Command {
        let mut process = self.network.client(0).command(&self.client.to_string_lossy());
        process.arg(command).arg("--state-directory").arg(self.state_directory());
        process
    }

    fn state_directory(&self) -> PathBuf {
        self.state.path().join("state")
    }

    fn connect_with(&self, arguments: &[&str]) -> Process {
        let mut process = self.command("connect");
        process.arg(format!("https://{}", self.gateway.address(&self.network, 0)));
        process.args(["--user", "alice", "--password-file"]).arg(self.gateway.directory().join("password"));
        process.arg("--ca").arg(self.gateway.directory().join("authority.pem"));
        process.args(["--tun", "vpn0"]).args(arguments);
        Process::start("mstunnel-client", process, self.gateway.directory(), b"")
    }

    fn connect(&self) -> Process {
        let mut client = self.connect_with(&[]);
        client.wait_for(Stream::Stderr, "the tunnel is up", 1, LONG);
        client
    }

    /// Runs a program in the client's namespace.
    fn try_run(&self, program: &str, arguments: &[&str]) -> Output {
        self.network.client(0).try_run(program, arguments, LONG)
    }

    /// The corporate page, by way of the tunnel as its answer shows.
    fn page(&self, host: &str) {
        let url = format!("http://{host}/");
        let page = self.try_run("curl", &["-sS", "--globoff", "--max-time", "15", &url]).expect_success(host);
        assert!(page.starts_with("corporate page for "), "{host}: {page:?}");
    }

    fn reaches(&self, target: &str) -> bool {
        self.network.client(0).reaches(target.parse::<IpAddr>().expect("an address"))
    }

    /// Lets the resolver ask for a name for some seconds, whether or not there is an answer.
    fn ask(&self, name: &str) {
        self.try_run("timeout", &["3", "getent", "hosts", name]);
    }

    fn ip(&self, arguments: &[&str]) -> String {
        self.network.client(0).run("ip", arguments)
    }

    /// Everything that `connect` changes, as text.
    fn picture(&self) -> String {
        let tables = ["-4", "-6"]
            .map(|family| self.ip(&[family, "rule"]) + &self.ip(&[family, "route", "show", "table", "all"]));
        let rules = self.network.client(0).run("nft", &["list", "ruleset"]);
        let links = self.ip(&["-o", "link"]);
        format!("{}{}{rules}{links}{}", tables[0], tables[1], self.resolver.text())
    }

    fn end(&self, mut client: Process, before: &str) {
        client.signal(libc::SIGTERM);
        assert_eq!(client.wait_end(SHORT).code(), Some(0));
        assert_eq!(self.picture(), before);
        assert!(!self.state_directory().join("connect.json").exists());
    }
}

fn split() -> Setup {
    Setup::new()
}

fn full() -> Setup {
    Setup::new().set("routeIncludes", json!([]))
}

fn ours(setup: &Setup) -> Option<World> {
    World::start(Setup::start_ours, setup)
}

fn with_both(setup: &Setup, check: impl Fn(&World)) {
    for start in [
        Setup::start_ours as fn(&Setup, &Network) -> Option<Gateway>,
        Setup::start_as_nobody,
        Setup::start_ocserv,
    ] {
        let Some(world) = World::start(start, setup) else { return };
        check(&world);
    }
}

#[test]
fn a_split_tunnel_carries_its_includes_and_leaves_the_rest() {
    with_both(&split(), |world| {
        let before = world.picture();
        let client = world.connect();
        for host in ["10.20.0.2", "[fd00:20::2]", "web.corp.example", "web"] {
            world.page(host);
        }
        for target in ["10.20.0.2", "fd00:20::2"] {
            world.network.client(0).ping(target.parse().expect("an address"));
        }
        assert_eq!(world.leaked(), 0);
        assert!(world.reaches(PUBLIC) && world.reaches("2001:db8::1") && world.leaked() > 0);
        let resolver = world.resolver.text();
        assert!(resolver.ends_with("search corp.example\nnameserver 10.20.0.53\n"), "{resolver}");
        world.end(client, &before);
    });
}

#[test]
fn what_waits_in_the_device_is_bounded_for_super_packets() {
    let Some(world) = ours(&split()) else { return };
    let client = world.connect();
    let device = world.ip(&["-details", "link", "show", "vpn0"]);
    // Each of them may be 64 KB, 44 packets: the usual 500 would be 32 MB.
    assert!(device.contains("vnet_hdr on") && device.contains("qlen 128"), "{device}");
    drop(client);
}

#[test]
fn an_exclude_inside_an_include_goes_beside_the_tunnel() {
    let Some(world) = ours(&split().set("routeExcludes", json!(["10.20.0.128/25"]))) else { return };
    let client = world.connect();
    world.page("10.20.0.2");
    let table = world.ip(&["route", "show", "table", "28019"]);
    assert!(table.contains("throw 10.20.0.128/25"), "{table}");
    let way = |to: &str| world.ip(&["route", "get", to]);
    assert!(way("10.20.0.130").contains("dev eth0") && way("10.20.0.2").contains("dev vpn0"));
    drop(client);
}

/// Covers: R53, R65, R67, R68, P-093
#[test]
fn a_full_tunnel_sends_nothing_beside_itself() {
    with_both(&full(), |world| {
        let before = world.picture();
        assert!(world.reaches(PUBLIC) && world.leaked() > 0);
        let client = world.connect();
        let leaked = world.leaked();
        for host in ["10.20.0.2", "[fd00:20::2]", "web.corp.example"] {
            world.page(host);
        }
        // By the tunnel, or not at all: the public hosts, the server's own address, a bound interface, a name.
        for target in [PUBLIC, "2001:db8::1", "192.0.2.1", "fd00:c0::1"] {
            world.reaches(target);
        }
        let attempts = format!(
            "echo leak >/dev/udp/{PUBLIC}/53; ping -c1 -W1 -I eth0 {PUBLIC}; ping -c1 -W1 -I eth0 2001:db8::1; \
             ping -c1 -W1 -b 192.0.2.3; ping -c1 -W1 -I eth0 224.0.0.251; curl --max-time 2 --interface eth0 {PUBLIC}"
        );
        world.try_run("bash", &["-c", &attempts]);
        world.ask("leak.public.example");
        assert_eq!(world.leaked(), leaked);
        world.end(client, &before);
        assert!(world.reaches(PUBLIC));
    });
}

/// Covers: R53, P-079
#[test]
fn a_full_tunnel_of_one_family_stops_the_other() {
    let Some(world) = ours(&full().set("ipv6Network", Value::Null)) else { return };
    let client = world.connect();
    let leaked = world.leaked();
    world.page("10.20.0.2");
    assert!(!world.reaches("2001:db8::1"));
    let refused = world.try_run("curl", &["-sS", "--globoff", "--max-time", "5", "http://[2001:db8::1]/"]);
    assert_eq!(refused.code, Some(7), "{refused:?}");
    assert_eq!(world.leaked(), leaked);
    drop(client);
}

/// A local network that claims the corporate prefixes, and DHCP (option 121) or router advertisements that bring
/// more specific routes: nothing of it gets a packet.
///
/// Covers: R64, R66, P-092, P-094
#[test]
fn routes_of_the_local_network_pull_nothing_out() {
    for setup in [split(), full()] {
        let Some(world) = ours(&setup) else { return };
        let client = world.connect();
        let leaked = world.leaked();
        for (family, routes) in [
            ("-4", ["0.0.0.0/1", "128.0.0.0/1", "10.20.0.0/24", "10.20.0.2/32", "10.20.0.53/32"]),
            ("-6", ["::/1", "8000::/1", "fd00:20::/64", "fd00:20::2/128", "fd00::/8"]),
        ] {
            let gateway = if family == "-4" { "192.0.2.1" } else { "fd00:c0::1" };
            for route in routes {
                world.ip(&[family, "route", "add", route, "via", gateway, "metric", "1"]);
            }
        }
        world.ip(&["addr", "add", "10.20.0.77/24", "dev", "eth0"]);
        for host in ["10.20.0.2", "[fd00:20::2]", "web.corp.example"] {
            world.page(host);
        }
        assert_eq!(world.leaked(), leaked);
        drop(client);
    }
}

/// Something cleans /run while the client lives.
///
/// Covers: R68
#[test]
fn everything_is_put_back_although_the_state_is_gone() {
    let Some(world) = ours(&full()) else { return };
    let before = world.picture();
    let client = world.connect();
    assert_ne!(world.picture(), before);
    fs::remove_dir_all(world.state_directory()).expect("it is there");
    world.end(client, &before);
}

/// Covers: R68, P-096
#[test]
fn nothing_gets_out_while_the_tunnel_reconnects() {
    let Some(mut world) = ours(&full()) else { return };
    let mut client = world.connect();
    world.page("10.20.0.2");
    let leaked = world.leaked();
    world.gateway.signal(libc::SIGKILL);
    until("the server's end", SHORT, || (!world.gateway.runs()).then_some(()));
    client.wait_for(Stream::Stderr, "reconnecting", 1, LONG);
    for target in ["10.20.0.2", "fd00:20::2", PUBLIC, "2001:db8::1"] {
        assert!(!world.reaches(target), "{target}");
    }
    world.ask("web.corp.example");
    world.gateway.start_again(&world.network);
    client.wait_for(Stream::Stderr, "connected again", 1, LONG);
    world.page("web.corp.example");
    assert_eq!(world.leaked(), leaked);
}

/// Covers: R4, R63, P-013
#[test]
fn what_the_server_changes_is_taken_up_at_a_reconnect() {
    let Some(mut world) = ours(&split().advanced("mtu", 1400)) else { return };
    let before = world.picture();
    let mut client = world.connect();
    let mtu = |world: &World| world.ip(&["-o", "link", "show", "vpn0"]);
    let first = mtu(&world);
    world.gateway.signal(libc::SIGKILL);
    until("the server's end", SHORT, || (!world.gateway.runs()).then_some(()));
    world.gateway.rewrite(|setup| {
        setup
            .set("routeIncludes", json!(["10.20.0.0/25", "203.0.113.0/24", "fd00:20::/64"]))
            .set("dnsServers", json!(["10.20.0.54"]))
            .set("advancedSettings", json!([{ "name": "mtu", "value": "1300" }]))
    });
    world.gateway.start_again(&world.network);
    client.wait_for(Stream::Stderr, "split tunnel", 2, LONG);
    client.wait_for(Stream::Stderr, "connected again", 1, LONG);
    let table = world.ip(&["route", "show", "table", "28019"]);
    assert!(
        table.contains("10.20.0.0/25 dev vpn0") && table.contains("unreachable 203.0.113.0/24"),
        "{table}"
    );
    assert!(!table.contains("10.20.0.0/24") && !table.contains("10.20.0.53"), "{table}");
    assert!(world.resolver.text().contains("nameserver 10.20.0.54\n"), "{}", world.resolver.text());
    assert_ne!(mtu(&world), first);
    world.page("10.20.0.2");
    world.end(client, &before);
}

/// Covers: R67: those of before would be asked beside the tunnel.
#[test]
fn a_server_that_tells_no_name_servers_any_more_gives_the_resolver_back() {
    let Some(mut world) = ours(&split()) else { return };
    let before = world.picture();
    let own = world.resolver.text();
    let mut client = world.connect();
    assert_ne!(world.resolver.text(), own);
    world.gateway.signal(libc::SIGKILL);
    until("the server's end", SHORT, || (!world.gateway.runs()).then_some(()));
    world.gateway.rewrite(|setup| setup.set("dnsServers", json!([])));
    world.gateway.start_again(&world.network);
    client.wait_for(Stream::Stderr, "connected again", 1, LONG);
    assert_eq!(world.resolver.text(), own);
    world.end(client, &before);
}

/// Covers: R68, P-096
#[test]
fn a_killed_client_leaks_nothing_and_the_next_start_puts_everything_back() {
    for setup in [split(), full()] {
        let Some(world) = ours(&setup) else { return };
        let before = world.picture();
        let mut client = world.connect();
        world.page("10.20.0.2");
        let leaked = world.leaked();
        client.signal(libc::SIGKILL);
        client.wait_end(SHORT);
        for target in ["10.20.0.2", "fd00:20::2"] {
            assert!(!world.reaches(target), "{target}");
        }
        world.ask("web.corp.example");
        assert_eq!(world.leaked(), leaked);
        let client = world.connect();
        assert!(client.text(Stream::Stderr).contains("put back after a kill"));
        world.page("web.corp.example");
        world.end(client, &before);
        // The same by command.
        let mut client = world.connect();
        client.signal(libc::SIGKILL);
        client.wait_end(SHORT);
        let restore = Process::start("restore", world.command("restore"), world.gateway.directory(), b"");
        let mut restore = restore;
        assert_eq!(restore.wait_end(SHORT).code(), Some(0));
        assert_eq!(world.picture(), before);
    }
}

/// Covers: R68
#[test]
fn a_tunnel_that_ends_by_itself_puts_back_or_locks_down() {
    let Some(world) = ours(&full()) else { return };
    let before = world.picture();
    let disconnect = || {
        world
            .gateway
            .mst_cli(&world.network, &["server", "disconnect", "user", "alice"])
            .expect_success("mst-cli");
    };
    let mut client = world.connect();
    disconnect();
    assert_eq!(client.wait_end(LONG).code(), Some(1));
    assert!(client.text(Stream::Stderr).contains("the tunnel ended: "));
    assert_eq!(world.picture(), before);
    let mut client = world.connect_with(&["--lockdown"]);
    client.wait_for(Stream::Stderr, "the tunnel is up", 1, LONG);
    disconnect();
    assert_eq!(client.wait_end(LONG).code(), Some(1));
    let leaked = world.leaked();
    assert!(!world.reaches(PUBLIC) && !world.reaches("2001:db8::1"));
    assert_eq!(world.leaked(), leaked);
}

/// Covers: R49, P-074, P-097
#[test]
fn the_tunnel_address_does_not_answer_on_other_interfaces() {
    let Some(world) = ours(&split()) else { return };
    let client = world.connect();
    let of = |family: &str| {
        let text = world.ip(&["-o", family, "addr", "show", "dev", "vpn0", "scope", "global"]);
        text.split_whitespace().nth(3).and_then(|word| word.split('/').next()).expect("an address").to_owned()
    };
    for (family, address, gateway) in [
        ("-4", of("-4"), world.network.ports(0).client_v4.to_string()),
        ("-6", of("-6"), world.network.ports(0).client_v6.to_string()),
    ] {
        // From the local network, where the attacker routes the tunnel's address to the victim.
        world.network.server().run("ip", &[family, "route", "replace", &address, "via", &gateway]);
        let ping = ["-c", "2", "-i", "0.2", "-W", "1", "-I", "cli0", &address];
        assert_ne!(world.network.server().try_run("ping", &ping, SHORT).code, Some(0), "{address}");
    }
    let rules = world.network.client(0).run("nft", &["list", "table", "inet", "mstunnel-client"]);
    let dropped = rules.lines().filter(|line| line.contains("daddr") && !line.contains("packets 0")).count();
    assert_eq!(dropped, 2, "{rules}");
    drop(client);
}

/// Covers: R65: the answers of the server pass a strict reverse path filter by their mark.
#[test]
fn a_strict_reverse_path_filter_lets_the_server_through() {
    let Some(world) = ours(&full()) else { return };
    for interface in ["all", "default", "eth0"] {
        world.network.client(0).write_sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "1");
    }
    let before = world.picture();
    let client = world.connect();
    world.page("10.20.0.2");
    let mark = "net/ipv4/conf/all/src_valid_mark";
    assert_eq!(world.network.client(0).read_sysctl(mark), "1");
    world.end(client, &before);
    assert_eq!(world.network.client(0).read_sysctl(mark), "0");
}

#[test]
fn a_second_client_is_told_of_the_first() {
    let Some(world) = ours(&split()) else { return };
    let client = world.connect();
    let said = |mut process: Process| {
        assert_eq!(process.wait_end(SHORT).code(), Some(1));
        process.text(Stream::Stderr)
    };
    let second = said(world.connect_with(&[]));
    assert!(second.contains("another `mstunnel-client connect` is running"), "{second}");
    drop(client);
}

#[test]
fn a_missing_right_is_named_before_anything_is_changed() {
    let Some(world) = ours(&split()) else { return };
    let before = world.picture();
    let mut process = world.network.client(0).command("setpriv");
    process.args(["--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw"]).arg(&world.client);
    process.args(["connect", "https://192.0.2.1", "--user", "alice", "--password-file", "/dev/null"]);
    process.arg("--state-directory").arg(world.state_directory());
    let mut process = Process::start("connect", process, world.gateway.directory(), b"");
    assert_eq!(process.wait_end(SHORT).code(), Some(1));
    let said = process.text(Stream::Stderr);
    assert!(said.contains("CAP_NET_ADMIN"), "{said}");
    assert_eq!(world.picture(), before);
}

#[test]
fn each_step_is_an_object_for_programs() {
    let Some(world) = ours(&split()) else { return };
    let mut client = world.connect_with(&["--json"]);
    client.wait_for(Stream::Stdout, "\"event\":\"up\"", 1, LONG);
    client.signal(libc::SIGINT);
    assert_eq!(client.wait_end(SHORT).code(), Some(0));
    let text = client.text(Stream::Stdout);
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let names: Vec<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    assert_eq!(names, ["connected", "device", "routes", "names", "up", "restored"]);
    assert_eq!(events[1]["interface"], "vpn0");
}
