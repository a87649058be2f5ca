"""Real network links on one machine: every site and the server in a Linux network namespace of its own.

Between a site and the server lie two TUN devices. `tc tbf` limits what each sends (the site's: up; the server's: down)
and queues up to `Link.queue_seconds` of it, dropping the rest; a relay process carries every packet from one device to
the other, half a round trip late. So the kernel's own TCP meets a rate, a round trip, queueing and loss, and the
programs under test are the real ones. Packets have at most 1500 bytes and leave one by one; IPv6 is off; TCP is CUBIC
everywhere, whatever the machine's default is. A site reaches the server, but not other sites.

    with Network({"oslo": Link(10e6, 10e6, rtt_seconds=0.04)}) as network:
        server = network.popen("server", [sys.executable, "server.py", Network.server_host])
        site = network.popen("oslo", [sys.executable, "site.py", Network.server_host])
        site.wait()
        print(network.counts()["oslo"].up_bytes)

Needs Linux, root, iproute2, /dev/net/tun and c++ (the relay is relay.cpp): `why_not()` tries. The processes share one
machine's cores: a line is only as fast as they allow. `python benchmarks/links.py` measures it.
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
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
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
_QUIET = """
for f in /proc/sys/net/ipv6/conf/*/disable_ipv6; do [ ! -e $f ] || echo 1 > $f; done
echo 0 > /proc/sys/net/ipv4/ip_forward
"""
_ME = [sys.executable, "-SE", __file__]
_serial = itertools.count()


@dataclass(frozen=True)
class Link:
    """One site's line. Rates count whole IP packets; a queue of that length lies before each of its two directions.

    After a silence 5 ms at full rate pass at once, two packets at least. No queue is shorter than ten packets.
    """

    up_bits_per_second: float
    down_bits_per_second: float
    rtt_seconds: float
    queue_seconds: float = 0.15


@dataclass(frozen=True)
class Count:
    """What crossed a site's line since it exists: whole IP packets, without those that a queue dropped.

    Counted by the kernel at the server's end: what goes up when it arrives, what goes down when it leaves the queue.
    """

    up_bytes: int
    up_packets: int
    down_bytes: int
    down_packets: int


class Network:
    """The links of `links`, by site, for as long as its `with` lasts; then its processes are killed and all is removed.

    Raises: ValueError for links that cannot be; RuntimeError where a tool of the system fails, with its words.
    """

    server_host = "10.77.255.1"  # where all sites alike find the server: to listen on, for its certificate

    def __init__(self, links: Mapping[str, Link]) -> None:
        if not 1 <= len(links) <= _MOST_SITES or "server" in links:
            raise ValueError(f'expected 1 to {_MOST_SITES} sites, none of them "server", found {list(links)}')
        for site, link in links.items():
            if min(link.up_bits_per_second, link.down_bits_per_second, link.queue_seconds) <= 0:
                raise ValueError(f"{site}: expected rates and a queue above 0, found {link}")
            if link.rtt_seconds < 0:
                raise ValueError(f"{site}: expected a round trip of at least 0 seconds, found {link}")
        self.links = dict(links)

    def __enter__(self) -> Self:
        remove_stale()
        prefix = f"phloem-{os.getpid()}-{next(_serial)}"
        self._namespaces = {site: f"{prefix}-site{i}" for i, site in enumerate(self.links)}
        self._namespaces["server"] = f"{prefix}-server"
        self._processes: list[subprocess.Popen[Any]] = []
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as ours:
            undo.callback(_remove, list(self._namespaces.values()))
            _batch(["ip"], [f"netns add {name}" for name in self._namespaces.values()])
            for name in self._namespaces.values():
                _run(["ip", "netns", "exec", name, "sh", "-ec", _QUIET])
            hub, limits, ends = self._namespaces["server"], [], []
            server = [f"address add {self.server_host}/32 dev lo", "link set lo up"]
            for i, (site, link) in enumerate(self.links.items()):
                name, peer = self._namespaces[site], f"site{i}"
                here, there = _tun(name, "line", ours), _tun(hub, peer, ours)
                ends.append((here, there, link.rtt_seconds / 2))
                own = f"address add {_FIRST + i} dev line"
                _batch(["ip", "-n", name], ["link set lo up", own, _up("line"), _route("line", "default")])
                _batch(["tc", "-n", name], [_limit("line", link.up_bits_per_second, link.queue_seconds)])
                server += [_up(peer), _route(peer, f"{_FIRST + i}")]
                limits.append(_limit(peer, link.down_bits_per_second, link.queue_seconds))
            _batch(["ip", "-n", hub], server)
            _batch(["tc", "-n", hub], limits)
            self.relay = _start_relay(ends)
            undo.callback(self._end)
            self._undo = undo.pop_all()
        return self  # the devices' descriptors are the relay's alone now: both end together

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def _end(self) -> None:
        for process in (*self._processes, self.relay):
            if process.poll() is None:
                process.kill()
            process.wait()
        assert self.relay.stdin is not None
        self.relay.stdin.close()

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
        told = json.loads(_run(["ip", "-n", self._namespaces["server"], "-j", "-s", "link", "show"]))
        stats = {device["ifname"]: device["stats64"] for device in told}
        found = {}
        for i, site in enumerate(self.links):
            up, down = stats[f"site{i}"]["rx"], stats[f"site{i}"]["tx"]
            found[site] = Count(up["bytes"], up["packets"], down["bytes"], down["packets"])
        return found

    def relay_seconds(self) -> float:
        """Processor seconds of the relay so far, the kernel's work of taking its packets in included."""
        self._check_relay()
        fields = Path(f"/proc/{self.relay.pid}/stat").read_text("ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _check_relay(self) -> None:
        if self.relay.poll() is not None:
            raise RuntimeError(f"the links are down: their relay has ended with {self.relay.returncode}")


def why_not() -> str | None:
    """None if links work here, otherwise a sentence that says why not."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    missing = [name for name in ("ip", "tc", "c++") if shutil.which(name) is None]
    if missing:
        return f"not installed (iproute2, a C++ compiler): {', '.join(missing)}"
    try:
        with Network({"probe": Link(1e6, 1e6, 0.01)}) as network, answering(network):
            ask(network, ["echo"], 1)
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


def _up(device: str) -> str:
    # gso_max_segs: without it TCP hands the queue packets of up to 64 KiB, cut into 1500 bytes only behind it
    return f"link set dev {device} mtu {_MTU} gso_max_segs 1 txqueuelen 1000 up"


def _route(device: str, target: str) -> str:
    return f"route add {target} dev {device} congctl cubic"  # a namespace's default cannot always be set


def _limit(device: str, bits_per_second: float, queue_seconds: float) -> str:
    # A kernel timer may be 5 ms late, beside busy programs or on a virtual machine that has to wait, and lose nothing.
    burst = round(max(2 * _MTU, bits_per_second / 8 * 0.005))
    limit = burst + round(max(10 * _MTU, bits_per_second / 8 * queue_seconds))
    return f"qdisc add dev {device} root tbf rate {round(bits_per_second)}bit burst {burst}b limit {limit}b"


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


# ---- What the lines do: bytes in bulk and small round trips over TCP ------------------------------------------


def _serve() -> None:
    """Answers on port 7700: "up" takes bytes until they end, "down N" sends N, "echo" returns every line."""
    with socket.create_server((Network.server_host, 7700), backlog=1000) as listening:
        print("ready", flush=True)
        while True:
            threading.Thread(target=_answer, args=(listening.accept()[0],), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection, connection.makefile("rb") as coming:
        what, size = coming.readline().decode("ascii").split()
        if what == "down":
            connection.sendall(bytes(int(size)))
        while what == "echo" and (line := coming.readline()):
            connection.sendall(line)
        while what == "up" and coming.read1(65536):
            pass


def _ask(what: str, size: int) -> None:
    """Prints the seconds that `size` bytes take "up" or "down", or each of `size` round trips ("echo")."""
    seconds = []
    with (
        socket.create_connection((Network.server_host, 7700)) as connection,
        connection.makefile("rb") as coming,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started = time.perf_counter()
        connection.sendall(f"{what} {size}\n".encode("ascii"))
        for _ in range(size if what == "echo" else 0):
            started = time.perf_counter()
            connection.sendall(b".\n")
            coming.readline()
            seconds.append(time.perf_counter() - started)
        if what == "up":
            connection.sendall(bytes(size))
            connection.shutdown(socket.SHUT_WR)
        if what != "echo":
            while coming.read1(65536):  # until the other end has it all and closes
                pass
            seconds.append(time.perf_counter() - started)
    print(json.dumps(seconds))


@contextlib.contextmanager
def answering(network: Network) -> Iterator[None]:
    """While it lasts, `ask` finds a server."""
    with network.popen("server", [*_ME, "serve"], stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            server.stdout.readline()
            yield
        finally:
            server.kill()


def ask(network: Network, whats: Sequence[str], size: int) -> dict[str, list[list[float]]]:
    """For each of `whats`, every site's seconds, all at once: of `size` bytes "up" or "down", of `size` "echo"es."""
    asked = {
        what: [
            network.popen(s, [*_ME, "ask", what, str(size)], stdout=subprocess.PIPE) for s in network.links
        ]
        for what in whats
    }
    return {what: [json.loads(process.communicate()[0]) for process in asked[what]] for what in whats}


def _row(name: str, values: Sequence[float]) -> None:
    print(f"{name:44s} {min(values):9.3f} {statistics.median(values):9.3f} {max(values):9.3f}", flush=True)


def _check(
    sites: int = 10, rate: float = 10e6, rtt_seconds: float = 0.04, size_bytes: int = 10_000_000
) -> None:
    link = Link(rate, rate, rtt_seconds)
    print(f"{sites} sites at once, {link}, {size_bytes} bytes each\n{'':44s}       min    median       max")
    with Network({f"site {i}": link for i in range(sites)}) as network, answering(network):
        if shutil.which("ping"):
            argv = ["ping", "-c", "20", "-i", "0.1", Network.server_host]
            told = network.popen("site 0", argv, stdout=subprocess.PIPE, text=True).communicate()[0]
            _row("round trip of ping, ms", [float(t) for t in re.findall(r"time=([\d.]+)", told)])
        _row("round trip of TCP, ms", [1e3 * s for site in ask(network, ["echo"], 50)["echo"] for s in site])
        for whats in (["up"], ["down"], ["up", "down"]):
            before, relay_before, started = network.counts(), network.relay_seconds(), time.perf_counter()
            seconds = ask(network, whats, size_bytes)
            share = (network.relay_seconds() - relay_before) / (time.perf_counter() - started)
            after = network.counts()
            for what in whats:
                name, field = " and ".join(whats) + ": " + what, f"{what}_bytes"
                _row(f"{name}, payload Mbit/s", [size_bytes * 8e-6 / s for [s] in seconds[what]])
                counted = [getattr(after[s], field) - getattr(before[s], field) for s in after]
                _row(f"{name}, bytes counted / payload", [n / size_bytes for n in counted])
            print(f"{' and '.join(whats)}: the relay takes {share:.2f} of a core")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve"]:
            _serve()
        case ["ask", what, size]:
            _ask(what, int(size))
        case []:
            reason = why_not()
            if reason is not None:
                sys.exit(reason)
            _check()
        case _:
            sys.exit("usage: python benchmarks/links.py")
