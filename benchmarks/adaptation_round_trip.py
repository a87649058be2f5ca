"""What the kernel's round trip is worth to the line's filter, and what its delivery rate would be.

python benchmarks/adaptation_round_trip.py

Four ranks of gloo, each behind a line of its own (`links`), send each other messages as `LocalSGD` does: four that grow
as its first levels do (6, 12, 25, 60 kB), then twelve of sizes drawn from a seed, 2 kB to half a second's worth of the
line. Each rank is ready up to a tenth of a second late. Every exchange is told to three filters (`phloem.planner.link`)
that predict the next: without the kernel's word, with its round trip, and with its delivery rate as well (the sum over
a rank's connections, the lower median over ranks, where no connection was short of things to send; taken for the
goodput with a standard deviation of half a log-second). The rows are the same for all three. What a controller chooses
by is how long messages of other sizes would take; so "ahead" is what the first exchange alone says of the drawn ones.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from links import Link, why_not
from measuring import write
from phloem import tcp
from phloem.engines.torch.leveling import exchange_seconds, round_trip_seconds
from phloem.planner.link import EIGHTY, Line
from phloem.seeds import generator
from ranks import run_ranks

RANKS, SEEDS = 4, range(20, 25)  # 0 to 17 were looked at while `Line.heard` was written
GROWING, DRAWN = (6_000, 12_000, 25_000, 60_000), 12
LINES = {  # bits per second, and the round trip between two ranks
    "10 Mbit/s, 40 ms": (10e6, 0.04),
    "100 Mbit/s, 1 ms": (100e6, 0.001),
    "10 Mbit/s, 200 ms": (10e6, 0.2),
    "1 Gbit/s, 10 ms": (1e9, 0.01),
    "loopback": (1e9, 0.0),
}
WAYS = ("without", "round trip", "round trip and rate")
RATE_NOISE = 0.5**2


def sizes(rate: float, seed: int) -> list[int]:
    """Of a run's messages."""
    rng = generator(seed, "sizes")
    longest = 0.5 * rate / 8 / (RANKS - 1)
    drawn = [int(math.exp(rng.uniform(math.log(2e3), math.log(longest)))) for _ in range(DRAWN)]
    return [*GROWING, *drawn]


def exchange(seed: int, lengths: Sequence[int]) -> None:
    """What one rank's process does and prints: of every exchange its times and what the kernel said."""
    from torch import distributed

    from phloem.engines.torch.peers import Peers

    distributed.init_process_group("gloo")
    peers, watch, rows = Peers(), tcp.Watch(), []
    rng = generator(seed, "late", distributed.get_rank())
    peers.gather(b"", 1)
    met = time.perf_counter()
    for length in lengths:
        time.sleep(float(rng.uniform(0.0, 0.1)))
        asked = time.perf_counter()
        watch.begin()
        ready = time.perf_counter()
        peers.gather(bytes(length), length)
        ended = time.perf_counter()
        round_trip = watch.end(length, RANKS - 1)
        reading = time.perf_counter() - ended + ready - asked
        said = tcp.readings(watch.known).values()
        short = not said or any(one.limited for one in said)
        rate = 0.0 if short else sum(one.delivery_rate for one in said)
        rows.append((ready - met, ended - ready, round_trip, rate, reading))
        peers.gather(b"met", 3)
        met = time.perf_counter()
    distributed.destroy_process_group()
    print(json.dumps({"rows": rows}))


def rated(line: Line, rate: float) -> Line:
    """The line with a delivery rate taken for its goodput."""
    if rate <= 0:
        return line
    var_goodput, var_fixed, covariance = line.variances
    gain = 1 / (var_goodput + RATE_NOISE)
    surprise = math.log(rate) - line.goodput
    return replace(
        line,
        goodput=line.goodput + gain * var_goodput * surprise,
        fixed=line.fixed + gain * covariance * surprise,
        variances=(
            var_goodput - gain * var_goodput**2,
            var_fixed - gain * covariance**2,
            covariance - gain * covariance * var_goodput,
        ),
    )


def judged(rows: Sequence[Mapping[str, float]], way: str) -> list[dict[str, float]]:
    """How far every prediction after the first exchange was off, in log-seconds, and whether it was in its interval."""
    line, found = Line(), []
    for row in rows:
        size, seconds = row["size"] * (RANKS - 1), row["seconds"]
        if line.seen:
            inside = line.seconds(size, -EIGHTY) <= seconds <= line.seconds(size, EIGHTY)
            found.append({"error": abs(math.log(seconds / line.seconds(size))), "inside": float(inside)})
        if way != WAYS[0]:
            line = line.heard(row["round_trip"], seconds)
        if way == WAYS[2]:
            line = rated(line, row["rate"])
        line = line.after(size, seconds)
    return found


def ahead(rows: Sequence[Mapping[str, float]], way: str) -> list[float]:
    """How far the drawn messages' predictions are off, in log-seconds, of a filter that saw the first exchange."""
    first, line = rows[0], Line()
    if way != WAYS[0]:
        line = line.heard(first["round_trip"], first["seconds"])
    line = line.after(first["size"] * (RANKS - 1), first["seconds"])
    drawn = rows[len(GROWING) :]
    return [abs(math.log(row["seconds"] / line.seconds(row["size"] * (RANKS - 1)))) for row in drawn]


def run(name: str, seed: int) -> tuple[list[dict[str, float]], float]:
    """A run's exchanges, and the median seconds that reading took at a rank."""
    rate, rtt = LINES[name]
    lengths = sizes(rate, seed)
    links = {f"site {i}": Link(rate, rate, rtt / 2) for i in range(RANKS)} if rtt else None
    told = run_ranks([sys.executable, __file__, str(seed), json.dumps(lengths)], links, ranks=RANKS)
    rows = []
    for number, length in enumerate(lengths):
        here = [one["rows"][number] for one in told]
        rows.append(
            {
                "size": length,
                "seconds": exchange_seconds([row[:2] for row in here]),
                "round_trip": round_trip_seconds([row[2] for row in here]),
                "rate": statistics.median_low([row[3] for row in here]),
            }
        )
    return rows, statistics.median(row[4] for one in told for row in one["rows"][1:])


def summary(name: str, runs: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Medians over all runs of a line: the three predictions after the first exchange, then the others."""
    rate, rtt = LINES[name]
    off_rate = [one["rate"] * 8 / rate for rows in runs for one in rows if one["rate"]] if rtt else []
    found: dict[str, Any] = {
        "round_trip_seconds": statistics.median(one["round_trip"] for rows in runs for one in rows),
        "rates_known": sum(one["rate"] > 0 for rows in runs for one in rows) / sum(map(len, runs)),
        "rate_over_line": statistics.quantiles(off_rate, n=10)[::4] if len(off_rate) > 1 else None,
    }
    for way in WAYS:
        told = [judged(rows, way) for rows in runs]
        for part, which in (("first", slice(0, 3)), ("later", slice(3, None))):
            these = [one for rows in told for one in rows[which]]
            found[f"{way}, {part}"] = {
                "error": statistics.median(one["error"] for one in these),
                "error_p90": statistics.quantiles([one["error"] for one in these], n=10)[-1],
                "inside_80": statistics.fmean(one["inside"] for one in these),
            }
        far = [one for rows in runs for one in ahead(rows, way)]
        found[f"{way}, ahead"] = {
            "error": statistics.median(far),
            "error_p90": statistics.quantiles(far, n=10)[-1],
        }
    return found


def main() -> None:
    """Measures every line and writes the result."""
    if len(sys.argv) > 1:
        exchange(int(sys.argv[1]), json.loads(sys.argv[2]))
        return
    reason = why_not()
    if reason:
        sys.exit(f"no links can be made on this machine: {reason}")
    cells = {}
    for name in LINES:
        runs, readings = zip(*(run(name, seed) for seed in SEEDS), strict=True)
        cells[name] = {**summary(name, runs), "reading_seconds": statistics.median(readings), "runs": runs}
        short = {key: value for key, value in cells[name].items() if key != "runs"}
        print(name, json.dumps(short, indent=1), file=sys.stderr, flush=True)
    write("adaptation-round-trip", "python benchmarks/adaptation_round_trip.py", {"lines": cells})


if __name__ == "__main__":
    main()
