"""Gradients under DDP, four ranks: what compression costs in loss, and what is left of the links' time.

python benchmarks/ddp.py loss --seeds 5       (loopback: loss after a fixed number of steps, code LM)
python benchmarks/ddp.py links --runs 5       (steps over lines of 10 Mbit/s to 1 Gbit/s, code LM and ResNet-50)
python benchmarks/ddp.py free --runs 5        (loopback: the free choice against bfloat16)

Exposed communication is what a line adds to a step: seconds of a step over it, less seconds of the same step over
loopback, where frames are made and decoded all the same. Ranks are processes in network namespaces of their own
(`links.py`); all four share this machine's cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from links import Link
from measuring import paired, spread, write
from ranks import run_ranks

RANKS = 4
STEPS, EVERY = 200, 50
#: The ways of the tables. PowerSGD as torch has it, but in one bucket: on gloo its collectives mix up in several.
WAYS: dict[str, dict[str, Any]] = {
    "fp32": {"kind": "fp32"},
    "bf16": {"kind": "bf16"},
    "powersgd-1": {"kind": "powersgd", "rank": 1},
    "powersgd-2": {"kind": "powersgd", "rank": 2},
    "powersgd-4": {"kind": "powersgd", "rank": 4},
    "powersgd-16": {"kind": "powersgd", "rank": 16},
    "phloem-16": {"kind": "phloem", "bits": 4, "rank": 16},
    "phloem-8": {"kind": "phloem", "bits": 3, "rank": 8},
    "phloem-plain": {"kind": "phloem", "bits": 2},
}
LINES: dict[str, Link | None] = {
    "loopback": None,
    "1gbit": Link(1e9, 1e9, 0.0, burst_seconds=0.002),
    "100mbit": Link(100e6, 100e6, 0.001),  # 2 ms from rank to rank and back
    "10mbit": Link(10e6, 10e6, 0.001),
}
MOST_SECONDS = 1500.0


def ranks(model: str, way: dict[str, Any], steps: int, line: str = "loopback", **options: Any) -> list[dict[str, Any]]:
    """What every rank told."""
    link = LINES[line]
    links = None if link is None else {f"rank-{n}": link for n in range(RANKS)}
    script = str(Path(__file__).with_name("ddp_rank.py"))
    argv = [sys.executable, script, "--model", model, "--way", json.dumps(way), "--steps", str(steps)]
    argv += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return run_ranks(argv, links, timeout_seconds=MOST_SECONDS)


def step_seconds(told: list[dict[str, Any]], skip: int) -> float:
    """The median step of the slowest rank."""
    return max(statistics.median(one["seconds"][skip:]) for one in told)


def loss(seeds: int) -> dict[str, Any]:
    """The loss of every way after the same steps, over the same batches, and what it sent."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in WAYS if name != "fp32"}
    for seed in range(1, seeds + 1):
        for name, found in rows.items():
            started = time.perf_counter()
            told = ranks("code-lm", WAYS[name], STEPS, seed=seed, every=EVERY)
            row = {"seed": seed, "losses": told[0]["losses"], "sent_bytes": told[0].get("sent_bytes")}
            found.append(row)
            say(f"{name} seed {seed}: {told[0]['losses'][-1][1]:.4f}", started)
    table = {}
    for name, found in rows.items():
        ends = [row["losses"][-1][1] for row in found]
        table[name] = {"loss": spread(ends), "runs": found}
        if name != "bf16":
            gaps = [mine - row["losses"][-1][1] for mine, row in zip(ends, rows["bf16"], strict=True)]
            table[name]["minus_bf16"] = paired(gaps) if len(gaps) > 1 else gaps
    return {"steps": STEPS, "ways": WAYS, "table": table}


#: Timed steps; a dense ResNet-50 takes minutes for one over the slowest lines.
TIMED = {"code-lm": 50, "resnet50": 8}
SLOW = {("resnet50", "10mbit"): 2, ("resnet50", "100mbit"): 4}
SKIPPED = 4


def links(runs: int) -> dict[str, Any]:
    """Seconds of a step, by model, way and line."""
    cells: dict[str, Any] = {}
    for model in ("code-lm", "resnet50"):
        for run in range(runs if model == "code-lm" else 1):
            for line in LINES:
                if run and line in ("1gbit", "10mbit"):
                    continue  # five runs of the lines that figures are quoted of
                for name, way in WAYS.items():
                    heavy = name in ("fp32", "bf16") and (model, line) in SLOW
                    steps = (SLOW[model, line] if heavy else TIMED[model]) + SKIPPED
                    if heavy and line == "10mbit":
                        continue  # two minutes for a step, which the 100 Mbit/s tell as well
                    started = time.perf_counter()
                    told = ranks(model, way, steps, line)
                    cell = cells.setdefault(f"{model}/{line}/{name}", {"step": [], "codec": [], "line_bytes": []})
                    cell["step"].append(step_seconds(told, SKIPPED))
                    if "codec_seconds" in told[0]:
                        cell["codec"].append(max(one["codec_seconds"] for one in told) / steps)
                    if told[0]["line"] is not None:
                        cell["line_bytes"].append(max(one["line"]["up_bytes"] for one in told) / steps)
                    say(f"{model} {line} {name}: {1e3 * cell['step'][-1]:.1f} ms", started)
    table = {}
    for key, cell in cells.items():
        model, _, name = key.split("/")
        rest = statistics.median(cells[f"{model}/loopback/{name}"]["step"])
        table[key] = {what: spread(values) for what, values in cell.items() if values}
        table[key]["exposed"] = spread([seconds - rest for seconds in cell["step"]])
    return {"ways": WAYS, "lines": {k: str(v) for k, v in LINES.items()}, "table": table}


def free(runs: int) -> dict[str, Any]:
    """The free choice against bfloat16, where nothing slows the ranks down."""
    rows = []
    for run in range(runs):
        row: dict[str, Any] = {}
        for name, way in (("bf16", WAYS["bf16"]), ("free", {"kind": "phloem"})):
            started = time.perf_counter()
            told = ranks("code-lm", way, 120, seed=run)
            row[name] = step_seconds(told, 40)
            row[f"{name}_dense_steps"] = told[0].get("dense_steps")
            say(f"{name}: {1e3 * row[name]:.1f} ms", started)
        row["ratio"] = row["free"] / row["bf16"]
        rows.append(row)
    return {"runs": rows, "ratio": spread([row["ratio"] for row in rows])}


def say(words: str, started: float) -> None:
    print(f"{words}  ({time.perf_counter() - started:.0f} s)", file=sys.stderr, flush=True)


def main() -> None:
    """Runs one part and writes its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("loss", "links", "free"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    started = time.perf_counter()
    if options.part == "loss":
        result, more = loss(options.seeds), f"--seeds {options.seeds}"
    else:
        result, more = (links if options.part == "links" else free)(options.runs), f"--runs {options.runs}"
    took = {"seconds": time.perf_counter() - started}
    write(f"ddp-{options.part}", f"python benchmarks/ddp.py {options.part} {more}", {**result, **took})


if __name__ == "__main__":
    main()
