"""What the benches of this directory do with numbers: take them beside the load, find the median, and hand them out."""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

from network import CORPORATE, processor_seconds

PING_PATTERN = re.compile(r"time=([0-9.]+) ms")
SENT_PATTERN = re.compile(r"([0-9]+) packets transmitted")
# Linux rounds it up to its own ticks: 80 a second where they are of 4 ms.
PING_INTERVAL = 0.008


def arguments(documentation, seconds, of, **lists):
    """The parser of a bench with what every bench takes; `lists` are comma separated choices: (allowed, default)."""
    parser = argparse.ArgumentParser(description=documentation.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=int(os.environ.get("MSTUNNEL_BENCH_ROUNDS", 3)))
    parser.add_argument("--seconds", type=int, default=seconds, help=f"of {of} (default: {seconds})")
    for name, (allowed, default) in lists.items():
        parser.add_argument(f"--{name}", type=parse_list(allowed), default=default, metavar="LIST",
                            help=f"of {','.join(allowed)} (default: {','.join(default)})")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write every run and the medians there too")
    parser.add_argument("--binaries", type=pathlib.Path, metavar="DIRECTORY",
                        help="where the release programs are (default: build them)")
    return parser


def parse_list(allowed):
    def parse(text):
        chosen = text.split(",")
        unknown = set(chosen) - set(allowed)
        if unknown:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(allowed)}")
        return chosen
    return parse


def write_json(path, results):
    if path is not None:
        path.write_text(json.dumps(results, indent=2) + "\n")


class Ping:
    """A ping through the tunnel of `device` that runs beside something else for so many seconds."""

    def __init__(self, network, seconds, device="tun0"):
        self.seconds = seconds
        command = ["ping", "-I", device, "-i", str(PING_INTERVAL), "-w", str(seconds), CORPORATE]
        self.process = subprocess.Popen([*network.inside(network.names["client"]), *command], stdout=subprocess.PIPE,
                                        text=True)

    def percentiles(self, fewest=10):
        """Of the answers. With fewer than `fewest` the bench ends; where none came, a ping took all the time there was."""
        text = self.process.communicate()[0]
        times = sorted(float(ms) for ms in PING_PATTERN.findall(text))
        if len(times) < fewest:
            sys.exit(f"too few answers to ping:\n{text}")
        lost = 1 - len(times) / int(SENT_PATTERN.search(text).group(1))
        times = times or [1000 * self.seconds]
        at = lambda share: times[min(len(times) - 1, int(share * len(times)))]
        return {"p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "lost": lost, "answers": len(times)}


class Spent:
    """Processor seconds of a process and its descendants, and wall seconds, from here on."""

    def __init__(self, process):
        self.process = process
        self.before, self.since = processor_seconds(process), time.monotonic()

    def seconds(self):
        return processor_seconds(self.process) - self.before

    def share(self):
        """Of one processor."""
        return self.seconds() / (time.monotonic() - self.since)


def other_work(seconds=0.5):
    """The share of the processors that others keep busy; to be asked while the bench itself rests."""
    def ticks():
        fields = list(map(int, pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
        return sum(fields), fields[3] + fields[4]
    all_before, idle_before = ticks()
    time.sleep(seconds)
    all_after, idle_after = ticks()
    return 1 - (idle_after - idle_before) / max(1, all_after - all_before)


def show_other_work(busy):
    print(f"other work kept {100 * statistics.median(busy):.0f} % of the processors busy (at most {100 * max(busy):.0f} %)")


def median_of(runs):
    """The same nesting as one run, with the median of each number."""
    if isinstance(runs[0], dict):
        return {key: median_of([one[key] for one in runs]) for key in runs[0]}
    return statistics.median(runs)


def alternate(rounds, channels, peers, busy, measure):
    """The medians and all runs of `measure(peer, channel)`, by channel and peer; the peers take turns."""
    runs = {channel: {peer: [] for peer in peers} for channel in channels}
    for _ in range(rounds):
        for channel in channels:
            for peer in peers:
                busy.append(other_work())
                runs[channel][peer].append(measure(peer, channel))
    medians = {channel: {peer: median_of(of_peer) for peer, of_peer in by_peer.items()}
               for channel, by_peer in runs.items()}
    return medians, runs
