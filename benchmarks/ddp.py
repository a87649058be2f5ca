"""Gradients under DDP, four ranks: what compression costs in loss, and what is left of the links' time.

python benchmarks/ddp.py loss --seeds 5       (loopback: loss after a fixed number of steps, code LM)
python benchmarks/ddp.py links --runs 5       (steps over lines of 10 Mbit/s to 1 Gbit/s, code LM)
python benchmarks/ddp.py links --model resnet50 --runs 1
python benchmarks/ddp.py free --runs 5        (loopback: the free choice against bfloat16)
python benchmarks/ddp.py inflation            (steps to the same loss, from the losses of the first)
python benchmarks/ddp.py choice               (what the free choice takes over each line, beside every fixed way)

Exposed communication is what a line adds to a step: seconds of a step over it, less seconds of the same step over
loopback, where frames are made and decoded all the same. Ranks are processes in network namespaces of their own
(`links.py`); all four share this machine's cores.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from links import Link
from measuring import RESULTS, geometric_mean, paired, spread, write
from ranks import run_ranks

RANKS = 4
STEPS, EVERY = 150, 50
#: PowerSGD as torch has it, but in one bucket: on gloo its collectives mix up where there are several.
PEERS: dict[str, dict[str, Any]] = {
    "fp32": {"kind": "fp32"},
    "bf16": {"kind": "bf16"},
    "powersgd-1": {"kind": "powersgd", "rank": 1},
    "powersgd-2": {"kind": "powersgd", "rank": 2},
    "powersgd-4": {"kind": "powersgd", "rank": 4},
    "powersgd-16": {"kind": "powersgd", "rank": 16},
}
OURS: dict[str, dict[str, dict[str, Any]]] = {
    "code-lm": {
        "phloem-8": {"kind": "phloem", "matrix_rank": 8, "bits": 3},
        "phloem-16": {"kind": "phloem", "matrix_rank": 16, "bits": 4},
        "phloem-32": {"kind": "phloem", "matrix_rank": 32, "bits": 4},
    },
    "resnet50": {
        "phloem-4": {"kind": "phloem", "matrix_rank": 4, "bits": 3, "optimizer": "sgd"},
        "phloem-plain": {"kind": "phloem", "matrix_rank": 0, "bits": 0.1, "optimizer": "sgd"},
    },
}
LINES: dict[str, Link | None] = {
    "loopback": None,
    "1gbit": Link(1e9, 1e9, 0.0, burst_seconds=0.002),
    "100mbit": Link(100e6, 100e6, 0.001),  # 2 ms from rank to rank and back
    "10mbit": Link(10e6, 10e6, 0.001),
}
MOST_SECONDS = 1500.0
SKIPPED = 4  # first steps: buckets are rebuilt, PowerSGD begins, memory is new


def ranks(
    model: str, ways: list[tuple[dict[str, Any], int]], line: str = "loopback", **options: Any
) -> list[list[dict[str, Any]]]:
    """For each way, what every rank told of so many steps in it."""
    link = LINES[line]
    links = None if link is None else {f"rank-{n}": link for n in range(RANKS)}
    script = str(Path(__file__).with_name("ddp_rank.py"))
    argv = [sys.executable, script, "--model", model, "--ways", json.dumps(ways)]
    argv += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    told = run_ranks(argv, links, timeout_seconds=MOST_SECONDS)
    return [[one["ways"][n] for one in told] for n in range(len(ways))]


def step_seconds(told: list[dict[str, Any]], skip: int) -> float:
    """The median step of the slowest rank."""
    return max(statistics.median(one["seconds"][skip:]) for one in told)


def loss(seeds: int) -> dict[str, Any]:
    """The loss of every way after the same steps, over the same batches, and what it sent."""
    ways = {**PEERS, **OURS["code-lm"]}
    del ways["fp32"], ways["powersgd-1"], ways["powersgd-2"]
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for seed in range(1, seeds + 1):
        started = time.perf_counter()
        every = ranks("code-lm", [(way, STEPS) for way in ways.values()], seed=seed, every=EVERY)
        for name, told in zip(ways, every, strict=True):
            row = {"seed": seed, "losses": told[0]["losses"], "sent_bytes": told[0].get("sent_bytes")}
            rows[name].append(row)
        ends = {name: round(found[-1]["losses"][-1][1], 4) for name, found in rows.items()}
        say(f"seed {seed}: {ends}", started)
    table = {}
    for name, found in rows.items():
        ends_of = [row["losses"][-1][1] for row in found]
        gaps = [mine - row["losses"][-1][1] for mine, row in zip(ends_of, rows["bf16"], strict=True)]
        table[name] = {"loss": spread(ends_of), "minus_bf16": paired(gaps), "runs": found}
    return {"steps": STEPS, "ways": ways, "table": table}


def links(model: str, runs: int) -> dict[str, Any]:
    """Seconds of a step, by way and line. In each run loopback comes right before the line that it is the base of."""
    ways = {**PEERS, **OURS[model]}
    if model == "resnet50":
        del ways["fp32"], ways["powersgd-2"], ways["powersgd-16"]
    usual = 20 if model == "code-lm" else 8
    cells: dict[str, Any] = {}
    for run in range(runs):
        for line in LINES:
            if run and line in ("1gbit", "10mbit"):
                continue  # five runs of the line that figures are quoted of
            wanted = {name: (way, _steps(model, line, name, usual) + SKIPPED) for name, way in ways.items()}
            wanted = {name: pair for name, pair in wanted.items() if pair[1] > SKIPPED}
            started = time.perf_counter()
            every = ranks(model, list(wanted.values()), line)
            for (name, (_, count)), told in zip(wanted.items(), every, strict=True):
                cell = cells.setdefault(f"{line}/{name}", {"step": [], "codec": [], "device_bytes": []})
                cell["step"].append(step_seconds(told, SKIPPED))
                for key, values in (("codec", "codec_seconds"), ("device_bytes", "device_bytes")):
                    if values in told[0]:
                        cell[key].append(max(one[values] for one in told) / count)
            say(
                f"{line}: { ({n: round(1e3 * cells[f'{line}/{n}']['step'][-1], 1) for n in wanted}) } ms",
                started,
            )
    table = {}
    for key, cell in cells.items():
        base = cells[f"loopback/{key.split('/')[1]}"]["step"]
        table[key] = {what: spread(values) for what, values in cell.items() if values}
        table[key]["exposed"] = spread(
            [over - alone for over, alone in zip(cell["step"], base, strict=False)]
        )
        table[key]["over_loopback"] = spread(
            [over / alone for over, alone in zip(cell["step"], base, strict=False)]
        )
    return {"model": model, "ways": ways, "lines": {k: str(v) for k, v in LINES.items()}, "table": table}


def _steps(model: str, line: str, name: str, usual: int) -> int:
    """Timed steps: fewer of those that take seconds or minutes each, none of those that take minutes."""
    dense = name in ("fp32", "bf16")
    if model == "resnet50" and line == "10mbit" and not name.startswith("phloem"):
        return 0  # PowerSGD's first two steps are dense: four minutes before the first that counts
    if model == "resnet50" and line == "100mbit" and dense:
        return 2
    return 4 if line == "10mbit" and dense else usual


def free(runs: int) -> dict[str, Any]:
    """The free choice against bfloat16, where nothing slows the ranks down."""
    rows = []
    free, bf16 = {"kind": "phloem"}, PEERS["bf16"]
    for run in range(runs):
        started = time.perf_counter()
        # in turns, for the machine's own speed drifts by more than the difference
        told = ranks("code-lm", [(way, 80) for way in (free, bf16, bf16, free)], seed=run)
        seconds = [step_seconds(one, 40) for one in told]
        row = {
            "free": [seconds[0], seconds[3]],
            "bf16": seconds[1:3],
            "dense_steps": told[0][0]["dense_steps"],
        }
        row["ratio"] = (seconds[0] + seconds[3]) / (seconds[1] + seconds[2])
        rows.append(row)
        say(f"free: {row}", started)
    return {"runs": rows, "ratio": spread([row["ratio"] for row in rows])}


def steps_to(curve: Sequence[tuple[float, float]], loss: float) -> float:
    """The step at which a curve of (step, loss) has that loss: straight between points over the step's logarithm.

    Beyond its ends the nearest two points' line goes on.
    """
    segments = list(pairwise(curve))
    (first, above), (then, below) = next((pair for pair in segments if loss >= pair[1][1]), segments[-1])
    return first * math.exp(math.log(then / first) * (above - loss) / (above - below))


def inflation(table: dict[str, Any]) -> dict[str, Any]:
    """By way, its steps ÷ the steps after which bfloat16 had its last loss, over the same batches; from `loss`'s table.

    The geometric mean over seeds, and the least and the most of them.
    """
    rows = {}
    for name, cell in table.items():
        factors = []
        for row, base in zip(cell["runs"], table["bf16"]["runs"], strict=True):
            steps, loss = row["losses"][-1]
            factors.append(steps / steps_to(base["losses"], loss))
        rows[name] = {"mean": geometric_mean(factors), **spread(factors)}
    return rows


def losses_of_record() -> dict[str, Any]:
    """The table that `loss` wrote."""
    table: dict[str, Any] = json.loads((RESULTS / "ddp-loss.json").read_text("utf-8"))["table"]
    return table


def choice() -> dict[str, Any]:
    """By line, the way that the free choice takes, and its cost beside that of every fixed way.

    Cost: seconds of a step × steps to the same loss ÷ bfloat16's. A line's ways take turns in one run, there and
    back, for the machine's own speed drifts.
    """
    needs = {name: row["mean"] for name, row in inflation(losses_of_record()).items()}
    fixed = {"bf16": PEERS["bf16"], **OURS["code-lm"]}
    names = {f"thin {w['matrix_rank']} at {w['bits']} bits": name for name, w in OURS["code-lm"].items()}
    names["as they are"] = "bf16"
    ways = {"free": {"kind": "phloem"}, **fixed}
    turns = [*ways, *reversed(ways)]
    table: dict[str, Any] = {}
    for line in LINES:
        started = time.perf_counter()
        counts = {name: _steps("code-lm", line, name, 16) + SKIPPED for name in fixed} | {"free": 50}
        told = ranks("code-lm", [(ways[name], counts[name]) for name in turns], line)
        cells: dict[str, Any] = {name: {"seconds": [], "cost": []} for name in ways}
        choices = []
        for name, one in zip(turns, told, strict=True):
            skip, way = SKIPPED, name
            if name == "free":
                choices.append(one[0]["choices"][0])
                skip, way = choices[-1]["step"] + 1, names[choices[-1]["chosen"]]
            cells[name]["seconds"].append(step_seconds(one, skip))
            cells[name]["cost"].append(cells[name]["seconds"][-1] * needs[way])
        costs = {name: statistics.fmean(cell["cost"]) for name, cell in cells.items()}
        over = costs["free"] / min(costs[name] for name in fixed)
        table[line] = {"choices": choices, "ways": cells, "cost": costs, "free_over_best": over}
        milliseconds = {name: round(1e3 * cost) for name, cost in costs.items()}
        say(f"{line}: {[one['chosen'] for one in choices]}, {milliseconds} ms, {over:.2f}", started)
    return {"inflation": needs, "lines": {k: str(v) for k, v in LINES.items()}, "table": table}


def say(words: str, started: float) -> None:
    print(f"{words}  ({time.perf_counter() - started:.0f} s)", file=sys.stderr, flush=True)


def main() -> None:
    """Runs one part and writes its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("loss", "links", "free", "inflation", "choice"))
    parser.add_argument("--model", choices=tuple(OURS), default="code-lm")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    started, name = time.perf_counter(), f"ddp-{options.part}"
    if options.part == "loss":
        result, more = loss(options.seeds), f"--seeds {options.seeds}"
    elif options.part == "links":
        result, more = links(options.model, options.runs), f"--model {options.model} --runs {options.runs}"
        name += f"-{options.model}"
    elif options.part == "free":
        result, more = free(options.runs), f"--runs {options.runs}"
    elif options.part == "inflation":
        result, more = {"table": inflation(losses_of_record())}, ""
    else:
        result, more = choice(), ""
    took = {"seconds": time.perf_counter() - started}
    write(name, f"python benchmarks/ddp.py {options.part} {more}".strip(), {**result, **took})


if __name__ == "__main__":
    main()
