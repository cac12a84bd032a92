//! Two namespaces, what runs in them, and a gateway that plays the clients.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;

use mstunnel_server::egress::{AsyncTunQueue, EgressConfig, KernelEgress, READ_LEN};

use super::packets::{destination, payload};

pub(crate) const POOL4: (&str, &str) = ("10.8.0.1", "10.8.0.0/24");
pub(crate) const POOL6: (&str, &str) = ("fd00:8::1", "fd00:8::/64");

/// How long silence has to last; answers arrive within a millisecond.
pub(crate) const QUIET: Duration = Duration::from_millis(200);

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

const ROLE: &str = "MSTUNNEL_ROLE";
const OUTSIDE: &str = "MSTUNNEL_OUTSIDE";
const TARGET: &str = "MSTUNNEL_TARGET";

/// The configuration of most tests.
pub(crate) fn config() -> EgressConfig {
    let pair = |(server, pool): (&str, &str)| (server.parse().unwrap(), pool.parse().unwrap());
    EgressConfig::new("mst0", 1400, vec![pair(POOL4), pair(POOL6)])
}

/// Runs `body` in the gateway namespace of a world made for it.
pub(crate) fn run(test: &str, body: fn()) {
    if std::env::var(ROLE).as_deref() == Ok("gateway") {
        body();
        return;
    }
    if let Some(reason) = reason_to_skip() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "{test}: not skipped in CI: {reason}");
        eprintln!("skipped: {test}: {reason}");
        return;
    }
    let world = World::new(test);
    let mut echo = world.start_echo();
    let inner = itself(&world.gateway, "gateway", &[test, "--exact", "--nocapture"])
        .env(OUTSIDE, &world.outside)
        .output()
        .unwrap();
    echo.kill().unwrap();
    echo.wait().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(inner.status.success(), "{}\n{}", said(&inner.stdout), said(&inner.stderr));
}

fn reason_to_skip() -> Option<&'static str> {
    let root = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !root.lines().any(|line| line.starts_with("Uid:\t0\t")) {
        return Some("network namespaces need root");
    }
    for (program, argument) in [("ip", "-V"), ("nft", "--version"), ("sysctl", "--version")] {
        if Command::new(program).arg(argument).output().is_err() {
            return Some("iproute2, nftables and procps have to be installed");
        }
    }
    (!std::path::Path::new("/dev/net/tun").exists()).then_some("/dev/net/tun is missing")
}

/// The namespaces; gone when dropped.
struct World {
    gateway: String,
    outside: String,
}

impl World {
    fn new(test: &str) -> Self {
        // Names are short: the pid tells runs apart, the length and first letters tell tests apart.
        let tag = format!("mst{}-{}{}", std::process::id(), &test[..8], test.len());
        let world = Self { gateway: format!("{tag}-g"), outside: format!("{tag}-o") };
        let (gateway, outside) = (&world.gateway, &world.outside);
        for namespace in [gateway, outside] {
            shell(&format!("ip netns add {namespace}"));
            shell(&format!("ip -n {namespace} link set lo up"));
        }
        shell(&format!("ip -n {gateway} link add eth0 type veth peer name eth0 netns {outside}"));
        for (namespace, four, six) in
            [(gateway, "192.0.2.1", "2001:db8::1"), (outside, "192.0.2.9", "2001:db8::9")]
        {
            shell(&format!("ip -n {namespace} addr add {four}/24 dev eth0"));
            shell(&format!("ip -n {namespace} addr add {six}/64 dev eth0 nodad"));
            shell(&format!("ip -n {namespace} link set eth0 up"));
        }
        world
    }

    fn start_echo(&self) -> Child {
        let mut child = itself(&self.outside, "echo", &["role", "--exact", "--nocapture"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        wait_for_line(&mut child, "ready");
        child
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for namespace in [&self.gateway, &self.outside] {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

/// This test program again, in a namespace and a role.
fn itself(namespace: &str, role: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]);
    command.arg(std::env::current_exe().unwrap()).args(arguments).env(ROLE, role);
    command
}

fn wait_for_line(child: &mut Child, want: &str) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.ends_with(want)), "the helper said nothing");
}

/// What a helper process does in place of a test.
pub(crate) fn play_role() {
    match std::env::var(ROLE).as_deref() {
        Ok("echo") => echo(),
        Ok("holder") => {
            let _egress = KernelEgress::open(config()).unwrap();
            announce();
            std::thread::park();
        }
        Ok("burst") => burst(&std::env::var(TARGET).unwrap()),
        Ok("incapable") => {
            let error = KernelEgress::open(config()).unwrap_err();
            std::io::stdout().write_all(format!("{error}\n").as_bytes()).expect("stdout is open");
        }
        _ => {}
    }
}

/// Answers every datagram with the address that it came from.
fn echo() {
    let socket = UdpSocket::bind("[::]:9000").unwrap();
    announce();
    loop {
        let (_, from) = socket.recv_from(&mut [0; 64]).unwrap();
        let seen = SocketAddr::new(from.ip().to_canonical(), from.port());
        let _ = socket.send_to(seen.to_string().as_bytes(), from);
    }
}

/// Sends ten datagrams of a hundred bytes in one system call.
fn burst(target: &str) {
    let socket = UdpSocket::bind("[::]:0").unwrap();
    setsockopt(&socket, UdpGsoSegment, &100).unwrap();
    socket.send_to(&[7; 1000], target).unwrap();
}

fn announce() {
    let mut out = std::io::stdout();
    writeln!(out, "\nready").unwrap();
    out.flush().unwrap();
}

/// Another process with the egress open; it stays until killed.
pub(crate) fn spawn_holder() -> Child {
    // Already inside of the namespace: `exec` replaces the shell, so that the kill hits the holder.
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["role", "--exact", "--nocapture"])
        .env(ROLE, "holder")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_line(&mut child, "ready");
    child
}

/// What opening says to root without CAP_NET_ADMIN.
pub(crate) fn open_without_capability() -> String {
    let output = Command::new("setpriv")
        .args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"])
        .arg(std::env::current_exe().unwrap())
        .args(["role", "--exact", "--nocapture"])
        .env(ROLE, "incapable")
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs a command line in the namespace of the caller.
pub(crate) fn gateway_runs(line: &str) {
    shell(line);
}

/// Runs a command line in the outside namespace.
pub(crate) fn outside_runs(line: &str) {
    shell(&format!("ip netns exec {} {line}", std::env::var(OUTSIDE).unwrap()));
}

pub(crate) fn outside_routes_to_the_pools() {
    outside_runs(&format!("ip route add {} via 192.0.2.1", POOL4.1));
    outside_runs(&format!("ip -6 route add {} via 2001:db8::1", POOL6.1));
}

/// Sends a datagram from the port of the echo's host.
pub(crate) fn outside_sends_to(target: &str) {
    let outside = std::env::var(OUTSIDE).unwrap();
    let target: SocketAddr = target.parse().unwrap();
    let line = format!("echo probe > /dev/udp/{}/{}", target.ip(), target.port());
    let status = Command::new("ip").args(["netns", "exec", &outside, "bash", "-c", &line]).status().unwrap();
    assert!(status.success());
}

/// Sends a burst from the outside namespace.
pub(crate) fn outside_sends_burst_to(target: &str) {
    let outside = std::env::var(OUTSIDE).unwrap();
    let status = itself(&outside, "burst", &["role", "--exact"]).env(TARGET, target).status().unwrap();
    assert!(status.success());
}

pub(crate) fn output(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn table_exists() -> bool {
    output("nft list tables").contains("table inet mstunnel")
}

/// Whether a rule with this comment has counted a packet.
pub(crate) fn rule_counted(chain: &str, comment: &str) -> bool {
    let list = output(&format!("nft list chain inet mstunnel {chain}"));
    list.lines().any(|line| line.contains(&format!("\"{comment}\"")) && !line.contains("packets 0 "))
}

fn shell(line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An open egress whose clients are played by the test.
pub(crate) struct Gateway {
    runtime: tokio::runtime::Runtime,
    pub(crate) queues: Vec<AsyncTunQueue>,
    pub(crate) egress: KernelEgress,
    /// Packets of a super-packet that were not asked for yet.
    rest: RefCell<VecDeque<Vec<u8>>>,
}

impl Gateway {
    pub(crate) fn open(config: EgressConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        // Opened outside of the runtime, bound inside of it, as the server does.
        let mut egress = KernelEgress::open(config).unwrap();
        let queues = egress.take_queues();
        let queues =
            runtime.block_on(async { queues.into_iter().map(|queue| queue.into_async().unwrap()).collect() });
        Self { runtime, queues, egress, rest: RefCell::default() }
    }

    /// Puts a packet into the interface, as if its session had sent it.
    pub(crate) fn send(&self, packet: &[u8]) {
        // The kernel refuses some packets at once (a loopback destination): that is a drop, too.
        let _ = self.queues[0].try_send(packet);
    }

    /// Sends a datagram to the echo and returns what it answered.
    pub(crate) fn ask(&self, packet: &[u8], client: &str) -> Option<String> {
        self.send(packet);
        self.receive_for(client).map(|packet| payload(&packet))
    }

    pub(crate) fn receives_for(&self, client: &str) -> bool {
        self.receive_for(client).is_some()
    }

    /// The next packet for this client; others are passed over.
    pub(crate) fn receive_for(&self, client: &str) -> Option<Vec<u8>> {
        let client: IpAddr = client.parse().unwrap();
        self.runtime.block_on(async {
            let next = async {
                loop {
                    let packet = self.receive().await;
                    if destination(&packet) == client {
                        return packet;
                    }
                }
            };
            tokio::time::timeout(PATIENCE, next).await.ok()
        })
    }

    /// Whether nothing at all comes out of the interface for a while.
    ///
    /// But for the kernel's own reports of the groups it listens to, which it repeats when it likes.
    pub(crate) fn stays_quiet(&self) -> bool {
        let packet = async {
            loop {
                let packet = self.receive().await;
                if !is_group_report(&packet) {
                    return packet;
                }
            }
        };
        self.runtime.block_on(async {
            match tokio::time::timeout(QUIET, packet).await {
                Ok(packet) => {
                    eprintln!("not quiet: {packet:02x?}");
                    false
                }
                Err(_) => true,
            }
        })
    }

    /// Waits until reading fails.
    pub(crate) fn wait_for_error(&self) -> std::io::Error {
        self.runtime.block_on(async {
            let failing = async {
                loop {
                    self.queues[0].readable().await.unwrap();
                    match self.queues[0].try_recv(&mut [0; READ_LEN]) {
                        Ok(_) => {}
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(error) => return error,
                    }
                }
            };
            tokio::time::timeout(PATIENCE, failing).await.expect("the death of the device goes unnoticed")
        })
    }

    async fn receive(&self) -> Vec<u8> {
        loop {
            if let Some(packet) = self.rest.borrow_mut().pop_front() {
                return packet;
            }
            if self.read_queues() > 0 {
                continue;
            }
            let waiting = self.queues.iter().map(|queue| Box::pin(queue.readable()));
            let (ready, _, _) = futures_util::future::select_all(waiting).await;
            ready.unwrap();
        }
    }

    /// How many packets came with the one received last, in the same read.
    pub(crate) fn left_of_read(&self) -> usize {
        self.rest.borrow().len()
    }

    /// Reads each queue once; returns how many reads brought something.
    fn read_queues(&self) -> usize {
        let (mut read, mut packet) = (vec![0; READ_LEN], vec![0; 2048]);
        let mut count = 0;
        for queue in &self.queues {
            match queue.try_recv(&mut read) {
                Ok(mut segments) => {
                    while let Some(next) = segments.next_into(&mut packet) {
                        self.rest.borrow_mut().push_back(packet[..next.unwrap()].to_vec());
                    }
                    count += 1;
                }
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}"),
            }
        }
        count
    }
}

/// Whether `packet` goes to ff02::16, where nothing but MLDv2 reports (RFC 3810 section 5.2.14) go.
fn is_group_report(packet: &[u8]) -> bool {
    const ROUTERS: [u8; 16] = std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16).octets();
    packet.first().is_some_and(|byte| byte >> 4 == 6) && packet.get(24..40) == Some(&ROUTERS[..])
}
