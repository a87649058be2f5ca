"""The line's filter and the virtual clock against real TCP through `tc tbf`: how wrong are their predictions?

python benchmarks/adaptation_wire.py

A site sends messages of 2 kB to two seconds' worth of its line, in an order drawn from a seed, over one connection,
each answered by one byte; what is timed is what a coordinator sees, from sending to the answer. Before each transfer
the filter (`phloem.planner.link`) says how long it will take, and between which bounds four fifths lie; the virtual
clock says the round trip plus size over rate. On one line the rate falls to a fifth half-way.
"""

from __future__ import annotations

import math
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from links import Link, Network, why_not
from measuring import write
from phloem.planner.link import Line
from phloem.seeds import generator

PORT, TRANSFERS = 7700, 50
EIGHTY = 1.2816
LINES = {
    "1 Mbit/s, 40 ms": (1e6, 0.04, 1.0),
    "10 Mbit/s, 40 ms": (10e6, 0.04, 1.0),
    "100 Mbit/s, 10 ms": (100e6, 0.01, 1.0),
    "10 Mbit/s, falls to 2": (10e6, 0.04, 0.2),
}
PAYLOAD = 1448 / 1500  # of a packet, with IP's, TCP's and the timestamps' headers off


def serve(host: str) -> None:
    """Takes messages (8 bytes of length, then as many) and answers each with one byte."""
    with socket.create_server((host, PORT)) as listening:
        print("ready", flush=True)
        connection, _ = listening.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection, connection.makefile("rb") as coming:
            while head := coming.read(8):
                left = int.from_bytes(head, "little")
                while left:
                    left -= len(coming.read(min(left, 1 << 18)))
                connection.sendall(b".")


def send(network: Network, rate: float, falls: float, seed: int) -> list[tuple[int, float, float]]:
    """(bytes, seconds, the line's rate) of every transfer."""
    rng = generator(seed, "wire")
    found = []
    with network.inside("site"), socket.create_connection((Network.server_host, PORT)) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(TRANSFERS):
            if number == TRANSFERS // 2 and falls < 1:
                change(network, rate * falls)
                rate *= falls
            size = int(math.exp(rng.uniform(math.log(2e3), math.log(rate / 4))))
            started = time.perf_counter()
            line.sendall(size.to_bytes(8, "little") + bytes(size))
            line.recv(1)
            found.append((size + 8, time.perf_counter() - started, rate))
            time.sleep(0.02)
    return found


def change(network: Network, rate: float) -> None:
    """Gives the site's line another rate up."""
    burst = max(3000, round(rate * 0.005 / 8))
    words = f"qdisc change dev line root tbf rate {round(rate)}bit burst {burst} latency 150ms"
    subprocess.run(["tc", "-n", network._namespaces["site"], *words.split()], check=True)


def judged(rows: list[tuple[int, float, float]], rtt: float) -> dict[str, Any]:
    """How the filter and the clock did on these transfers."""
    line, inside, filter_errors, clock_errors = Line(), [], [], []
    for size, seconds, rate in rows:
        if line.seen >= 2:
            inside.append(line.seconds(size, -EIGHTY) <= seconds <= line.seconds(size, EIGHTY))
            filter_errors.append(abs(math.log(seconds / line.seconds(size))))
        clock_errors.append(abs(math.log(seconds / (rtt + 8 * size / rate / PAYLOAD))))
        line = line.after(size, seconds)
    return {
        "transfers": len(rows),
        "inside_80": sum(inside) / len(inside),
        "filter_error_median": statistics.median(filter_errors),
        "filter_error_p90": statistics.quantiles(filter_errors, n=10)[-1],
        "clock_error_median": statistics.median(clock_errors),
        "clock_error_p90": statistics.quantiles(clock_errors, n=10)[-1],
    }


def main() -> None:
    """Measures every line and writes the result."""
    if len(sys.argv) > 1:
        serve(sys.argv[1])
        return
    reason = why_not()
    if reason:
        sys.exit(f"no links can be made on this machine: {reason}")
    cells: dict[str, list[dict[str, Any]]] = {}
    for name, (rate, rtt, falls) in LINES.items():
        rows: list[tuple[int, float, float]] = []
        for seed in range(3):
            with Network({"site": Link(rate, rate, rtt)}) as network:
                server = network.popen(
                    "server",
                    [sys.executable, str(Path(__file__)), Network.server_host],
                    stdout=subprocess.PIPE,
                )
                assert server.stdout is not None
                server.stdout.readline()
                rows = send(network, rate, falls, seed)
            cells.setdefault(name, []).append({**judged(rows, rtt), "rows": rows})
        short = {
            key: round(statistics.median(run[key] for run in cells[name]), 3)
            for key in cells[name][0]
            if key != "rows"
        }
        print(name, short, file=sys.stderr, flush=True)
    write("adaptation-wire", "python benchmarks/adaptation_wire.py", {"lines": cells})


if __name__ == "__main__":
    main()
