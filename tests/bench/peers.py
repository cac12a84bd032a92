"""The servers that are compared, and the clients that both serve.

All clients of a bench are in one namespace, each with a TUN device of its own; who sends binds itself to the device. So
fifty of them cost nothing but themselves.
"""

import json
import os
import signal
import sys
import time

from network import POOL, PORT, run

PEERS = ["ocserv", "mstunnel"]
ALL_PEERS = [*PEERS, "mstunnel+client"]
CHANNELS = ["dtls", "tls"]
DIRECTIONS = {"up": [], "down": ["--reverse"]}
URL = f"https://10.91.0.1:{PORT}"
# openconnect's own words for a datagram channel that is up.
DTLS_IS_UP = "Established DTLS connection"

# Routes to one place through many devices differ by their metric: the number of the device.
SCRIPT = """#!/bin/sh
[ "$reason" = connect ] || exit 0
ip link set dev "$TUNDEV" mtu "$INTERNAL_IP4_MTU" up
ip addr add "$INTERNAL_IP4_ADDRESS/32" dev "$TUNDEV"
ip route replace 10.92.0.0/24 dev "$TUNDEV" metric $((1 + ${TUNDEV#tun}))
echo the tunnel is up
"""


def ocserv_configuration(udp):
    """The values of Debian's sample where they matter for speed, and no limits that a bench would run into."""
    lines = {
        "auth": '"plain[passwd=users.passwd]"', "listen-host": "10.91.0.1", "tcp-port": PORT,
        "run-as-user": "root", "run-as-group": "root", "socket-file": "ocserv-socket",
        "server-cert": "site.crt", "server-key": "site.key", "isolate-workers": "true",
        "tls-priorities": '"NORMAL:%SERVER_PRECEDENCE:%COMPAT:-VERS-SSL3.0:-VERS-TLS1.0:-VERS-TLS1.1"',
        "device": "vpns", "predictable-ips": "true", "ping-leases": "false", "cisco-client-compat": "true",
        "dtls-legacy": "true", "compression": "false", "max-ban-score": 0, "rate-limit-ms": 0, "max-clients": 0,
        "max-same-clients": 0, "dpd": 90, "keepalive": 32400, "try-mtu-discovery": "false",
        "ipv4-network": POOL, "route": "10.92.0.0/24",
    }
    if udp:
        lines["udp-port"] = PORT
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def prepare(network, channels):
    """The files that both servers and the clients read, and the routes; neither server translates addresses."""
    network.write("script", SCRIPT)
    os.chmod(network.directory / "script", 0o700)
    (network.directory / "users.passwd").unlink()
    run("ocpasswd", "--passwd", "users.passwd", "bench", cwd=network.directory, input="bench\nbench\n")
    for channel in channels:
        network.write_server(channel, "routed", udp=channel == "dtls")
        network.write(f"ocserv-{channel}.conf", ocserv_configuration(udp=channel == "dtls"))
    network.within("gateway", "sysctl", "-qw", "net.ipv4.ip_forward=1")
    network.within("corporate", "ip", "route", "add", POOL, "via", "10.92.0.1")


def start_server(network, peer, channel, *before):
    """Starts the server, by the command `before` where one is given, and waits until it listens."""
    if peer == "ocserv":
        # ocserv finds its files by where it was started.
        server = network.start("gateway", "server", *before, "ocserv", "--foreground", "--config", f"ocserv-{channel}.conf")
        deadline = time.monotonic() + 20
        while f"10.91.0.1:{PORT}" not in network.within("gateway", "ss", "-Hltn"):
            if server.poll() is not None or time.monotonic() > deadline:
                sys.exit("ocserv does not listen:\n" + (network.directory / "server.log").read_text())
            time.sleep(0.05)
        return server
    server = network.start("gateway", "server", *before, network.binaries / "mstunnel-server", "serve", "--config",
                           f"{channel}.toml")
    network.wait_for("server", "listening on", server)
    return server


class Client:
    """One client, with the device tunNUMBER. `wait` for it before it is used, and `stop` it."""

    def __init__(self, network, peer, channel, number=0, *before):
        self.network, self.peer, self.channel = network, peer, channel
        self.device, self.log = f"tun{number}", f"client{number}"
        flags = ["--no-dtls"] if channel == "tls" else []
        if peer == "mstunnel+client":
            command = [network.binaries / "mstunnel-client", "connect", URL, "--user", "bench", "--password-file",
                       "password", "--pin", network.pin, "--tun", self.device, *flags]
            self.process = network.start("client", self.log, *before, *command)
            return
        command = ["openconnect", "--non-inter", "--user=bench", "--passwd-on-stdin", f"--servercert={network.pin}",
                   f"--interface={self.device}", f"--script={network.directory}/script", *flags, URL]
        self.process = network.start("client", self.log, *before, *command, given="bench\n")

    def wait(self):
        if self.peer == "mstunnel+client":
            self.network.wait_for(self.log, "the tunnel is up", self.process)
            wait_for_channel(self.network, self.channel)
            return self
        self.network.wait_for(self.log, "the tunnel is up", self.process)
        if self.channel == "dtls":
            self.network.wait_for(self.log, DTLS_IS_UP, self.process)
        return self

    def stop(self):
        # openconnect says goodbye on SIGINT.
        self.network.end(self.process, signal.SIGINT)


def wait_for_channel(network, channel):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        users = network.within("gateway", network.binaries / "mst-cli", "--socket", "control.sock", "--json", "server",
                               "show", "users")
        if [user["channel"] for user in json.loads(users)] == [channel]:
            return
        time.sleep(0.1)
    sys.exit(f"the client does not take {channel}")
