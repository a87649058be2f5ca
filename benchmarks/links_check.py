"""What the lines of `links` do: bytes in bulk and small round trips over TCP. `python benchmarks/links.py` prints it.

`answering` and `ask` are the two ends of the traffic; the table has TCP between ten sites and the server, and around a
ring of four sites that meet, at the rates of a slow line, a fast line and a data centre.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from links import Link, Network, why_not

_PORT = 7700
_ME = [sys.executable, "-SE", __file__]


def _serve(host: str) -> None:
    """Answers on port 7700: "up" takes bytes until they end, "down N" sends N, "echo" returns every line."""
    with socket.create_server((host, _PORT), backlog=1000) as listening:
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
        while what == "up" and coming.read1(1 << 18):
            pass


def _ask(host: str, what: str, size: int) -> None:
    """Prints the seconds that `size` bytes take "up" or "down", or each of `size` round trips ("echo")."""
    seconds = []
    with socket.create_connection((host, _PORT)) as connection, connection.makefile("rb") as coming:
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
            while coming.read1(1 << 18):  # until the other end has it all and closes
                pass
            seconds.append(time.perf_counter() - started)
    print(json.dumps(seconds))


@contextlib.contextmanager
def answering(network: Network, *wheres: str) -> Iterator[None]:
    """While it lasts, `ask` finds a server at "server", or at each of `wheres`."""
    with contextlib.ExitStack() as ends:
        for where in wheres or ("server",):
            argv = [*_ME, "serve", network.address(where)]
            server = ends.enter_context(network.popen(where, argv, stdout=subprocess.PIPE))
            ends.callback(server.kill)
            assert server.stdout is not None
            server.stdout.readline()
        yield


def ask(
    network: Network, whats: Sequence[str], size: int, of: Mapping[str, str] | None = None
) -> dict[str, list[list[float]]]:
    """For each of `whats`, every site's seconds, all at once: of `size` bytes "up" or "down", of `size` "echo"es.

    Each site asks the server, or the site that `of` names for it.
    """
    asked = {
        what: [
            network.popen(
                site,
                [*_ME, "ask", network.address(of[site] if of else "server"), what, str(size)],
                stdout=subprocess.PIPE,
            )
            for site in network.links
        ]
        for what in whats
    }
    return {what: [json.loads(process.communicate()[0]) for process in asked[what]] for what in whats}


def ring(network: Network) -> dict[str, str]:
    """Each site's next one; the last one's is the first."""
    sites = list(network.links)
    return dict(zip(sites, sites[1:] + sites[:1], strict=True))


def softirq_seconds() -> float:
    """Seconds of this machine's processors in the kernel's network and timer work that is no process's, so far."""
    return int(Path("/proc/stat").read_text("ascii").split()[7]) / os.sysconf("SC_CLK_TCK")


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


def _check_ring(link: Link, sites: int = 4, seconds: float = 3.0) -> None:
    size_bytes = round(link.up_bits_per_second / 8 * seconds)
    print(f"ring of {sites} sites, {link}, {size_bytes} bytes each\n{'':44s}       min    median       max")
    with Network({f"site {i}": link for i in range(sites)}, meet=True) as network:
        of = ring(network)
        with answering(network, *network.links):
            trips = ask(network, ["echo"], 50, of)["echo"]
            _row("round trip of TCP, ms", [1e3 * s for site in trips for s in site])
            before, relay_before, busy_before = network.counts(), network.relay_seconds(), softirq_seconds()
            started = time.perf_counter()
            taken = ask(network, ["up"], size_bytes, of)["up"]
            spent = time.perf_counter() - started
            relay, busy = network.relay_seconds() - relay_before, softirq_seconds() - busy_before
            after = network.counts()
            _row("to the next site: payload Mbit/s", [size_bytes * 8e-6 / s for [s] in taken])
            for field in ("up_bytes", "down_bytes"):
                counted = [getattr(after[s], field) - getattr(before[s], field) for s in after]
                _row(f"{field} counted / payload", [n / size_bytes for n in counted])
    print(f"the relay takes {relay / spent:.2f} of a core, the kernel beside processes {busy / spent:.2f}")


def main() -> None:
    reason = why_not()
    if reason is not None:
        sys.exit(reason)
    _check()
    for rate, rtt_seconds in ((10e6, 0.01), (10e6, 0), (100e6, 0.01), (100e6, 0), (1e9, 0)):
        _check_ring(Link(rate, rate, rtt_seconds))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", host]:
            _serve(host)
        case ["ask", host, what, size]:
            _ask(host, what, int(size))
        case []:
            main()
        case _:
            sys.exit("usage: python benchmarks/links.py")
