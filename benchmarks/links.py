"""Real network links on one machine: every site and the server in a Linux network namespace of its own.

Every site has one line, with a rate up and a rate down. `tc tbf` limits what each end sends (the site's: up; the
server's: down) and queues up to `Link.queue_seconds` of it, dropping the rest. So the kernel's own TCP meets a rate, a
round trip, queueing and loss, and the programs under test are the real ones. IPv6 and ARP are off, TCP is CUBIC.

* A line with a round trip is two TUN devices; a relay process carries every packet from one to the other, half a round
  trip late. Packets have at most 1500 bytes and leave one by one. Four sites of 100 Mbit/s that send around a ring take
  half a core of the relay and nearly as much of the kernel.
* A line whose `rtt_seconds` is 0 is a veth pair, which the kernel carries alone: for fast lines. Packets of a TCP
  stream leave as the kernel bundles them, up to 64 KiB or 1 ms at once, and are counted as the packets of 1500 bytes
  that a network card would make of them.

A site reaches the server. It reaches the other sites too with `meet=True`: the server's namespace then forwards. A
packet goes up one line and down the other, both queues, both delays: from Oslo to Rome it takes half of Oslo's round
trip and half of Rome's, so the round trip between two sites is the sum of their `rtt_seconds`.

    with Network({"oslo": Link(10e6, 10e6, rtt_seconds=0.04)}) as network:
        server = network.popen("server", [sys.executable, "server.py", Network.server_host])
        site = network.popen("oslo", [sys.executable, "site.py", Network.server_host])
        site.wait()
        print(network.counts()["oslo"].up_bytes)

Needs Linux, root, iproute2, and for lines with a round trip /dev/net/tun and c++ (the relay is relay.cpp): `why_not()`
tries. The processes share one machine's cores: a line is only as fast as they allow. `python benchmarks/links.py`
measures it.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import itertools
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Self

_MTU = 1500
_TUNSETIFF, _TUN_BARE = 0x400454CA, 0x1001  # <linux/if_tun.h>: IFF_TUN | IFF_NO_PI, nothing but IP packets
_CLONE_NEWNET = 0x40000000  # <linux/sched.h>
_FIRST = IPv4Address("10.77.0.1")  # the first site's; the next have the next ones
_MOST_SITES = 400  # a process usually may open 1024 files: two for each site
_ETHERNET = 14  # bytes of a veth's packet before the IP packet
_BUNDLE_SECONDS, _MOST_BUNDLED = 0.001, 43  # of one TCP stream as one packet to a veth: 43 * 1500 < 64 KiB
_QUIET = """
for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do [ ! -e $f ] || echo 1 > $f; done
echo $0 > /proc/sys/net/ipv4/ip_forward
"""
_serial = itertools.count()


@dataclass(frozen=True)
class Link:
    """One site's line. Rates count whole IP packets; a queue of that length lies before each of its two directions.

    After a silence `burst_seconds` at full rate pass at once, two packets at least: a timer may be so late, beside busy
    programs or on a virtual machine that has to wait, and lose nothing. Where single transfers take little more, less
    is truer; 2 ms still hold 1 Gbit/s beside busy programs. No queue is shorter than ten packets.
    """

    up_bits_per_second: float
    down_bits_per_second: float
    rtt_seconds: float
    queue_seconds: float = 0.15
    burst_seconds: float = 0.005


_PROBES = {"relay": Link(1e6, 1e6, 0.01), "veth": Link(1e6, 1e6, 0)}


@dataclass(frozen=True)
class Count:
    """What crossed a site's line since it exists: whole IP packets, without those that a queue dropped.

    Counted by the kernel: what goes down when it leaves the queue at the server's end, what goes up when it arrives
    there; on a veth, where nothing is under way, when it leaves the site's queue.
    """

    up_bytes: int
    up_packets: int
    down_bytes: int
    down_packets: int


class Network:
    """The links of `links`, by site, for as long as its `with` lasts; then its processes are killed and all is removed.

    With `meet` sites reach each other too, at their `address`.

    Raises: ValueError for links that cannot be; RuntimeError where a tool of the system fails, with its words.
    """

    server_host = "10.77.255.1"  # where all sites alike find the server: to listen on, for its certificate

    def __init__(self, links: Mapping[str, Link], *, meet: bool = False) -> None:
        if not 1 <= len(links) <= _MOST_SITES or "server" in links:
            raise ValueError(f'expected 1 to {_MOST_SITES} sites, none of them "server", found {list(links)}')
        for site, link in links.items():
            rates = link.up_bits_per_second, link.down_bits_per_second
            if min(*rates, link.queue_seconds, link.burst_seconds) <= 0:
                raise ValueError(f"{site}: expected rates, a queue and a burst above 0, found {link}")
            if link.rtt_seconds < 0:
                raise ValueError(f"{site}: expected a round trip of at least 0 seconds, found {link}")
        self.links = dict(links)
        self.meet = meet
        self.relay: subprocess.Popen[bytes] | None = None  # none where no line has a round trip

    def __enter__(self) -> Self:
        remove_stale()
        prefix = f"phloem-{os.getpid()}-{next(_serial)}"
        self._namespaces = {site: f"{prefix}-site{i}" for i, site in enumerate(self.links)}
        self._namespaces["server"] = f"{prefix}-server"
        self._processes: list[subprocess.Popen[Any]] = []
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as ours:
            undo.callback(_remove, list(self._namespaces.values()))
            _batch(["ip"], [f"netns add {name}" for name in self._namespaces.values()])
            for where, name in self._namespaces.items():
                forward = self.meet and where == "server"
                _run(["ip", "netns", "exec", name, "sh", "-ec", _QUIET, str(int(forward))])
            hub, limits, ends = self._namespaces["server"], [], []
            server = [f"address add {self.server_host}/32 dev lo", "link set lo up"]
            for i, (site, link) in enumerate(self.links.items()):
                name, peer = self._namespaces[site], f"site{i}"
                if link.rtt_seconds > 0:
                    here, there = _tun(name, "line", ours), _tun(hub, peer, ours)
                    ends.append((here, there, link.rtt_seconds / 2))
                else:
                    _batch(["ip"], [_veth(name, "line", hub, peer)])
                own, up, down = f"{_FIRST + i}", link.up_bits_per_second, link.down_bits_per_second
                site_lines = ["link set lo up", f"address add {own} dev line", _up("line", link, up)]
                _batch(["ip", "-n", name], [*site_lines, _route("line", "default")])
                _batch(["tc", "-n", name], [_limit("line", link, up)])
                server += [_up(peer, link, down), _route(peer, own)]
                limits.append(_limit(peer, link, down))
            _batch(["ip", "-n", hub], server)
            _batch(["tc", "-n", hub], limits)
            if ends:
                self.relay = _start_relay(ends)
            undo.callback(self._end)
            self._undo = undo.pop_all()
        return self  # the TUN devices' descriptors are the relay's alone now: both end together

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _end(self) -> None:
        relays = [] if self.relay is None else [self.relay]
        for process in (*self._processes, *relays):
            if process.poll() is None:
                process.kill()
            process.wait()
        for relay in relays:
            assert relay.stdin is not None
            relay.stdin.close()

    def address(self, where: str) -> str:
        """The IPv4 address of a site, or of "server"."""
        return self.server_host if where == "server" else str(_FIRST + list(self.links).index(where))

    def device(self, where: str) -> str:
        """The name, in its own namespace, of the network device that has a site's (or the server's) `address`."""
        return "lo" if where == "server" else "line"

    def popen(self, where: str, argv: Sequence[str], **kwargs: Any) -> subprocess.Popen[Any]:
        """The started process `argv` at a site or at "server": pid, signals and exit status are its own."""
        command = ["ip", "netns", "exec", self._namespaces[where], *argv]
        process = subprocess.Popen(command, **kwargs)
        self._processes.append(process)
        return process

    @contextlib.contextmanager
    def inside(self, where: str) -> Iterator[None]:
        """Gives this thread, and the processes that it starts, the network of a site or of "server" meanwhile."""
        path = Path("/run/netns", self._namespaces[where])
        with Path("/proc/thread-self/ns/net").open("rb") as ours, path.open("rb") as theirs:
            _enter(theirs.fileno())
            try:
                yield
            finally:
                _enter(ours.fileno())

    def counts(self) -> dict[str, Count]:
        """What crossed each site's line so far; differences between two calls are exact once the lines are silent."""
        self._check_relay()
        hub = self._namespaces["server"]
        told = json.loads(_run(["ip", "-n", hub, "-j", "-s", "link", "show"]))
        arrived = {device["ifname"]: device["stats64"]["rx"] for device in told}
        sent = _sent(hub)
        found = {}
        for i, (site, link) in enumerate(self.links.items()):
            down_bytes, down_packets = sent[f"site{i}"]
            up_bytes, up_packets = arrived[f"site{i}"]["bytes"], arrived[f"site{i}"]["packets"]
            if link.rtt_seconds == 0:  # a device counts a bundle of packets as one, a queue does not
                up_bytes, up_packets = _sent(self._namespaces[site])["line"]
                up_bytes -= _ETHERNET * up_packets
                down_bytes -= _ETHERNET * down_packets
            found[site] = Count(up_bytes, up_packets, down_bytes, down_packets)
        return found

    def relay_seconds(self) -> float:
        """Processor seconds of the relay so far, the kernel's work of taking its packets in included."""
        self._check_relay()
        if self.relay is None:
            return 0.0
        fields = Path(f"/proc/{self.relay.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _check_relay(self) -> None:
        if self.relay is not None and self.relay.poll() is not None:
            raise RuntimeError(f"the links are down: their relay has ended with {self.relay.returncode}")


def why_not(links: Mapping[str, Link] = _PROBES) -> str | None:
    """None if such links work here (by default: both kinds), otherwise a sentence that says why not."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    missing = [name for name in ("ip", "tc", "c++") if shutil.which(name) is None]
    if missing:
        return f"not installed (iproute2, a C++ compiler): {', '.join(missing)}"
    try:
        with Network(links) as network:
            with network.inside("server"):
                server = socket.create_server((network.server_host, 0))
            with server:
                for site in links:
                    with network.inside(site):
                        socket.create_connection(server.getsockname(), 10).close()
    except (OSError, RuntimeError, ValueError) as error:
        return f"links between network namespaces cannot be made: {error}"
    return None


def remove_stale() -> None:
    """Removes the namespaces of processes that were killed. Every `Network` does so first."""
    names = [entry.name for entry in Path("/run/netns").glob("phloem-*")]
    owned = [(name, re.match(r"phloem-(\d+)-", name)) for name in names]
    _remove([name for name, owner in owned if owner and not Path("/proc", owner[1]).exists()])


def _remove(namespaces: Sequence[str]) -> None:
    with contextlib.suppress(RuntimeError):  # some were never made, or another process is removing them too
        _batch(["ip", "-force"], [f"netns delete {name}" for name in namespaces])


def _enter(namespace: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
        raise RuntimeError(f"a network namespace cannot be entered: {os.strerror(ctypes.get_errno())}")


def _run(argv: Sequence[str], told: str = "") -> str:
    done = subprocess.run(argv, input=told, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} exits with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def _batch(tool: Sequence[str], lines: Sequence[str]) -> None:
    _run([*tool, "-batch", "-"], "\n".join(lines) + "\n")


def _tun(namespace: str, name: str, ours: contextlib.ExitStack) -> int:
    """The descriptor of a new TUN device, called `name` in `namespace`; the device lasts as long as it."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    ours.callback(os.close, fd)
    made = fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", b"phloem%d", _TUN_BARE))
    first_name = made[:16].rstrip(b"\0").decode("ascii")
    _run(["ip", "link", "set", "dev", first_name, "netns", namespace, "name", name])
    return fd


def _veth(namespace: str, name: str, other_namespace: str, other_name: str) -> str:
    same = "address 02:00:00:00:00:01"  # without ARP an end takes its own for the other's
    other = f"name {other_name} {same} netns {other_namespace}"
    return f"link add dev {name} {same} netns {namespace} type veth peer {other}"


def _up(device: str, link: Link, bits_per_second: float) -> str:
    # gso_max_segs: without it TCP hands the queue packets of up to 64 KiB. A TUN's would be cut into 1500 bytes behind
    # the queue. On a veth they stay whole, and tbf cuts those that are longer than its burst: lines of 1 Gbit/s with
    # such a burst carried 0.14.
    seconds = min(_BUNDLE_SECONDS, link.burst_seconds / 2)
    bundle = 1 if link.rtt_seconds > 0 else int(bits_per_second / 8 * seconds / _MTU)
    state = f"arp off mtu {_MTU} gso_max_segs {min(max(bundle, 1), _MOST_BUNDLED)} txqueuelen 1000 up"
    return f"link set dev {device} {state}"


def _route(device: str, target: str) -> str:
    return f"route add {target} dev {device} congctl cubic"  # a namespace's default cannot always be set


def _limit(device: str, link: Link, bits_per_second: float) -> str:
    burst = round(max(2 * _MTU, bits_per_second / 8 * link.burst_seconds))
    limit = burst + round(max(10 * _MTU, bits_per_second / 8 * link.queue_seconds))
    # tbf counts a veth's Ethernet headers, too: the rate is then that of full packets
    rate = round(bits_per_second * (1 if link.rtt_seconds > 0 else (_MTU + _ETHERNET) / _MTU))
    return f"qdisc add dev {device} root tbf rate {rate}bit burst {burst}b limit {limit}b"


def _sent(namespace: str) -> dict[str, tuple[int, int]]:
    """Bytes and packets that left the queue of each device there."""
    queues = json.loads(_run(["tc", "-n", namespace, "-j", "-s", "qdisc", "show"]))
    return {queue["dev"]: (queue["bytes"], queue["packets"]) for queue in queues}


@functools.cache
def _relay_program() -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "relay")
        _run(["c++", "-O2", "-std=c++20", "-o", str(path), str(Path(__file__).with_name("relay.cpp"))])
        return path.read_bytes()


def _start_relay(ends: Sequence[tuple[int, int, float]]) -> subprocess.Popen[bytes]:
    """The process that carries packets between the two descriptors of each of `ends`; it ends with this one.

    A session of its own: Ctrl-C stops programs under test, which may still want to say goodbye over their lines.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "relay")
        path.write_bytes(_relay_program())
        path.chmod(0o700)
        argv = [str(path)]
        for here, there, delay_seconds in ends:
            argv += [str(here), str(there), str(round(delay_seconds * 1e9))]
        fds = [fd for here, there, _ in ends for fd in (here, there)]
        return subprocess.Popen(argv, stdin=subprocess.PIPE, pass_fds=fds, start_new_session=True)


if __name__ == "__main__":
    import links_check

    links_check.main()
