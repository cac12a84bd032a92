"""One session that means harm, as `hostile` starts it in a namespace of its network; runs until it is ended.

    hostile_session.py tiny-frames|dpd SERVER PORT COOKIE FRAMES     floods over CSTP, FRAMES of them in a TLS record
    hostile_session.py slow-reader SERVER PORT COOKIE 0              opens the session and never reads again
    hostile_session.py bad-records PID                               floods from the UDP socket of the openconnect PID
    hostile_session.py packets ADDRESS MBIT                          floods ADDRESS with UDP packets, from outside the tunnel

Says `the session is up ADDRESS` when it begins and `sent N` when it is ended. Everything is built beforehand, so that what
costs here is TLS and the kernel.
"""

import ctypes
import os
import pathlib
import select
import signal
import socket
import ssl
import struct
import sys
import time

CONNECT = "CONNECT /CSCOSSLC/tunnel HTTP/1.1\r\nHost: bench\r\nCookie: webvpn={cookie}\r\nX-CSTP-Version: 1\r\n" \
          "X-CSTP-Base-MTU: 1500\r\nX-CSTP-Address-Type: IPv4\r\n\r\n"
DATA, DPD_REQUEST = 0, 3
# Sealed at once, then sent at once.
RECORDS = 64
# pidfd_getfd(2), the same on every architecture.
PIDFD_GETFD = 438
SOL_UDP, UDP_SEGMENT = 17, 103
BAD_RECORDS = 44
# Nothing is ever written to it.
NOWHERE = bytearray(1 << 20)

sent = 0


def frame(kind, payload=b""):
    return b"STF\x01" + struct.pack(">HBB", len(payload), kind, 0) + payload


class Tunnel:
    """A session over CSTP whose bytes are sealed apart from being sent."""

    def __init__(self, server, port, cookie):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.socket = socket.create_connection((server, port))
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        self.until_done(self.tls.do_handshake)
        self.tls.write(CONNECT.format(cookie=cookie).encode())
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.until_done(self.tls.read)
        lines = head.decode("latin-1").split("\r\n")
        if not lines[0].startswith("HTTP/1.1 200"):
            sys.exit(f"no tunnel: {lines[0]}")
        address = next(line.split(":")[1].strip() for line in lines if line.startswith("X-CSTP-Address:"))
        print(f"the session is up {address}", flush=True)

    def until_done(self, step):
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self.socket.sendall(self.outgoing.read())
                self.incoming.write(self.socket.recv(65_536))
            finally:
                self.socket.sendall(self.outgoing.read())

    def pass_on(self, sealed):
        """Sends `sealed`, and takes what comes without a look at it: MSG_TRUNC throws it away in the kernel."""
        left = memoryview(sealed)
        while left:
            readable, writable, _ = select.select([self.socket], [self.socket], [])
            if readable and self.socket.recv_into(NOWHERE, len(NOWHERE), socket.MSG_TRUNC) == 0:
                raise ConnectionError("end of the stream")
            if writable:
                left = left[self.socket.send(left, socket.MSG_DONTWAIT):]

    def flood(self, frames, in_record):
        global sent
        record = b"".join(frames[number % len(frames)] for number in range(in_record))
        while True:
            for _ in range(RECORDS):
                self.tls.write(record)
            self.pass_on(self.outgoing.read())
            sent += RECORDS * in_record


def datagram_socket_of(pid):
    """The connected UDP socket of a process, to be used from here too."""
    inodes = {line.split()[9] for line in pathlib.Path(f"/proc/{pid}/net/udp").read_text().splitlines()[1:]}
    number = next(int(link.name) for link in pathlib.Path(f"/proc/{pid}/fd").iterdir()
                  if os.readlink(link).removeprefix("socket:[").removesuffix("]") in inodes)
    descriptor = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, os.pidfd_open(pid), number, 0)
    if descriptor < 0:
        sys.exit(f"pidfd_getfd: {os.strerror(ctypes.get_errno())}")
    return socket.socket(fileno=descriptor)


def flood_records(pid):
    """Records of epoch 1 as short as they get, newer than any that the server has seen, with a tag that is wrong."""
    global sent
    outlet = datagram_socket_of(pid)
    print(f"the session is up {outlet.getsockname()[0]}", flush=True)
    body = os.urandom(8 + 1 + 16)
    burst = b"".join(struct.pack(">BHHHIH", 23, 0xFEFD, 1, 1, number, len(body)) + body for number in range(BAD_RECORDS))
    control = [(SOL_UDP, UDP_SEGMENT, struct.pack("H", len(burst) // BAD_RECORDS))]
    while True:
        try:
            outlet.sendmsg([burst], control)
            sent += BAD_RECORDS
        except BlockingIOError:
            select.select([], [outlet], [], 1)


def flood_packets(address, mbit):
    global sent
    packet, turn = os.urandom(1_300), 0.005
    outlet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    print(f"the session is up {address}", flush=True)
    due = time.monotonic()
    while True:
        for _ in range(round(mbit * 1e6 / 8 / len(packet) * turn)):
            outlet.sendto(packet, (address, 9))
            sent += 1
        due += turn
        time.sleep(max(0, due - time.monotonic()))


def say_and_end(*_):
    print("sent", sent, flush=True)
    os._exit(0)


def main():
    signal.signal(signal.SIGTERM, say_and_end)
    kind, *rest = sys.argv[1:]
    if kind == "bad-records":
        flood_records(int(rest[0]))
    elif kind == "packets":
        flood_packets(rest[0], float(rest[1]))
    else:
        server, port, cookie, in_record = rest
        tunnel = Tunnel(server, int(port), cookie)
        if kind == "slow-reader":
            signal.pause()
        frames = [frame(DATA), frame(DATA, b"\x45")] if kind == "tiny-frames" else [frame(DPD_REQUEST)]
        tunnel.flood(frames, int(in_record))


if __name__ == "__main__":
    try:
        main()
    except OSError as error:
        # The server has ended it.
        print("ended by the server:", error, flush=True)
        say_and_end()
