"""What the benches of this directory share: three namespaces, the files of a server, and processes that end with them.

    client 10.91.0.2 -- 10.91.0.1 gateway 10.92.0.1 -- 10.92.0.2 corporate (iperf3 --server)

veth pairs with their default offloads, MTU 1500. The client reaches the corporate network through the tunnel alone.
Everything made here goes away with the `Network`. Needs root.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PORT = 8443
POOL = "10.93.0.0/24"
CORPORATE = "10.92.0.2"
PROGRAMS = ["mstunnel-server", "mstunnel-client", "mst-cli"]


def run(*command, **options):
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True, **options).stdout


def binaries(given):
    """The directory with the release builds; `None` builds them first."""
    if given is None:
        wanted = [word for program in PROGRAMS for word in ("--bin", program)]
        subprocess.run(["cargo", "build", "--locked", "--release", "--workspace", *wanted], check=True, cwd=ROOT,
                       stdout=sys.stderr)
        given = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    for program in PROGRAMS:
        if not (given / program).is_file():
            sys.exit(f"{given / program} is not built")
    return given.resolve()


def keep_off_first_processor():
    """Keeps this process, and what it starts from here on, off the first processor, for a server that is alone there."""
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2 or processors[0] != 0:
        sys.exit("this needs two processors, one of them the first")
    os.sched_setaffinity(0, processors[1:])


def need(*programs):
    if os.geteuid() != 0:
        sys.exit("network namespaces need root")
    for program in programs:
        if shutil.which(program) is None:
            sys.exit(f"{program} is not installed")


def set_congestion_control(namespace):
    """Cubic, which Linux comes with, whatever the machine has chosen; reno where cubic is not let in. Returns which."""
    for name in ["cubic", "reno"]:
        setting = ["sysctl", "-qw", f"net.ipv4.tcp_congestion_control={name}"]
        if subprocess.run([*Network.inside(namespace), *setting], check=False, capture_output=True).returncode == 0:
            return name
    return "the machine's own"


class Network:
    """The namespaces, the files and the processes."""

    def __init__(self, programs):
        self.binaries = programs
        self.names = {role: f"mst-{os.getpid()}-bench-{role}" for role in ["client", "gateway", "corporate"]}
        self.processes = []
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="mstunnel-bench-"))

    def __enter__(self):
        for name in self.names.values():
            run("ip", "netns", "add", name)
            run(*self.inside(name), "ip", "link", "set", "lo", "up")
            self.congestion = set_congestion_control(name)
        self.cable("client", "gateway", "10.91.0")
        self.cable("corporate", "gateway", "10.92.0")
        self.write_site()
        self.start("corporate", "iperf3", "iperf3", "--server")
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            self.end(process)
        for name in self.names.values():
            subprocess.run(["ip", "netns", "del", name], check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    @staticmethod
    def inside(name):
        return ["ip", "netns", "exec", name]

    def within(self, role, *command):
        """Runs a command in the namespace of `role` and returns what it prints."""
        return run(*self.inside(self.names[role]), *command, cwd=self.directory)

    def cable(self, left, right, network):
        left_name, right_name = self.names[left], self.names[right]
        port = f"to-{left}"[:15]
        run(*self.inside(left_name), "ip", "link", "add", "eth0", "type", "veth",
            "peer", "name", port, "netns", right_name)
        for name, device, host in [(left_name, "eth0", 2), (right_name, port, 1)]:
            run(*self.inside(name), "ip", "addr", "add", f"{network}.{host}/24", "dev", device)
            run(*self.inside(name), "ip", "link", "set", device, "up")

    def write_site(self):
        """The certificate (ECDSA P-256), its pin, and the password of the user `bench`."""
        site = ["-keyout", "site.key", "-out", "site.crt", "-days", "2", "-subj", "/CN=bench",
                "-addext", "subjectAltName=IP:10.91.0.1"]
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *site,
            cwd=self.directory)
        pin = "openssl x509 -in site.crt -noout -pubkey | openssl pkey -pubin -outform der" \
              " | openssl dgst -sha256 -binary | base64"
        self.pin = "pin-sha256:" + run("sh", "-c", pin, cwd=self.directory).strip()
        self.write("password", "bench\n", secret=True)
        os.chmod(self.directory / "site.key", 0o600)
        run(self.binaries / "mstunnel-server", "passwd", "users.passwd", "bench", "--password-file", "password",
            cwd=self.directory)

    def write(self, name, text, secret=False):
        (self.directory / name).write_text(text)
        if secret:
            os.chmod(self.directory / name, 0o600)

    def write_server(self, name, mode, udp):
        """`NAME.toml` and `NAME.json` for mstunnel-server with an egress of this mode."""
        configuration = {
            "@odata.type": "#microsoft.graph.microsoftTunnelConfiguration", "id": "bench", "displayName": "bench",
            "network": POOL, "dnsServers": [CORPORATE], "routeIncludes": ["10.92.0.0/24"],
            "routeExcludes": [], "splitDNS": [], "listenPort": PORT, "advancedSettings": [],
            "disableUdpConnections": not udp,
        }
        self.write(f"{name}.json", json.dumps(configuration))
        self.write(f"{name}.toml",
                   f'configuration = "{name}.json"\n'
                   '[listen]\naddresses = ["10.91.0.1"]\n'
                   '[tls]\ncertificate = "site.crt"\nkey = "site.key"\n'
                   '[auth]\nmethods = ["password"]\npassword = { file = "users.passwd" }\n'
                   f'[egress]\nmode = "{mode}"\n'
                   '[state]\nstore = "memory"\n[admin]\nsocket = "control.sock"\n[log]\nlevel = "warn"\n')

    def start(self, role, log, *command, given=""):
        with open(self.directory / f"{log}.log", "w") as out:
            process = subprocess.Popen([*self.inside(self.names[role]), *map(str, command)], text=True,
                                       stdin=subprocess.PIPE, stdout=out, stderr=out, cwd=self.directory)
        self.processes.append(process)
        process.stdin.write(given)
        process.stdin.close()
        return process

    def end(self, process, how=signal.SIGTERM):
        if process in self.processes:
            self.processes.remove(process)
        process.send_signal(how)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wait_for(self, log, text, process):
        deadline = time.monotonic() + 20
        while text not in (self.directory / f"{log}.log").read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"{log} does not say {text!r}:\n" + (self.directory / f"{log}.log").read_text())
            time.sleep(0.05)

    def iperf(self, target, seconds, streams, *flags):
        """What iperf3 in the client's namespace has delivered: bytes, and bits a second."""
        text = self.within("client", "iperf3", "--client", target, "--parallel", streams, "--time", seconds, "--json",
                           *flags)
        end = json.loads(text)["end"]
        if "sum_received" not in end:
            sys.exit(f"iperf3 has not come to its end:\n{text[-2000:]}")
        return end["sum_received"]


def processor_seconds(process):
    """User and system time of a process and of all its descendants that live.

    `ip netns exec` and setpriv become the program, so that the id is the program's.
    """
    stats = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        stats[int(path.parent.name)] = (int(fields[1]), int(fields[11]) + int(fields[12]))
    family, grown = {process.pid}, True
    while grown:
        born = {pid for pid, (parent, _) in stats.items() if parent in family} - family
        family |= born
        grown = bool(born)
    return sum(stats[pid][1] for pid in family if pid in stats) / os.sysconf("SC_CLK_TCK")
