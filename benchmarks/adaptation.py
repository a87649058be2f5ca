"""Adaptation: time to target with codecs chosen every round, against every fixed level, on the same virtual lines.

python benchmarks/adaptation.py table --task digits  (src/phloem/planner/rounds.json: what a round of a level is worth;
                                                      also for code-lm, and by losses for hospitals and banks)
python benchmarks/adaptation.py fixed      (every level trains once per seed; the sizes of its messages are kept)
python benchmarks/adaptation.py matrix     (auto trains in every cell; fixed levels are replayed on the cell's lines)
python benchmarks/adaptation.py fixed --task code-lm; python benchmarks/adaptation.py matrix --task code-lm

A fixed level is the same controller bounded to that level, so both run the same code. The clock is virtual: seconds are
those of the lines and of the reference device, and bytes are the lengths of real messages of real training. The table
is made on other seeds (101 and up) than the cells (1 and up).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import phloem
from measuring import EXAMPLES, HERE, RESULTS, geometric_mean, quiet, write
from phloem.job.clock import Clock
from phloem.planner import levels
from phloem.planner.device import DECODE, ENCODE
from phloem.planner.levels import DOWN, UP
from phloem.planner.rounds import Worth
from phloem.recipe import Recipe, load_recipe

TABLE_SEEDS = (101, 102, 103, 104, 105)
LEVELS = levels.names()
MOST = {"digits": 120, "code-lm": 40}
#: Where a run stops: accuracy (not every uncompressed run comes to 0.97), nats per byte.
TARGETS = {"digits": 0.95, "code-lm": 2.3}
#: Tasks whose tables are made by losses: a level's rounds until it has the loss that bfloat16 has after these.
BY_LOSSES = {"hospitals": (6, 9, 12), "banks": (8, 12, 16)}
STRANGERS_PARAMETERS = 10_000  # a smaller model's frames are mostly headers: no example for others
TRAIN_SECONDS = {"digits": 0.1, "code-lm": 2.0, "traffic": 0.5}  # of a full core, on the virtual clock
DEVICES = {"full": 1.0, "quarter": 0.25}

FAST, SLOW = {"latency": "1ms"}, {"latency": "20ms"}
LINKS: dict[str, dict[str, Any]] = {
    "1 Mbit/s": {"up": "1mbit", "down": "1mbit", **SLOW},
    "10 Mbit/s": {"up": "10mbit", "down": "10mbit", **SLOW},
    "100 Mbit/s": {"up": "100mbit", "down": "100mbit", **SLOW},
    "1 Gbit/s": {"up": "1gbit", "down": "1gbit", **FAST},
    "10 Gbit/s": {"up": "10gbit", "down": "10gbit", **FAST},
    "cellular": {"up": "10mbit", "down": "10mbit", "trace": "cellular-3g", **SLOW},
    "drifting": {"up": "5mbit", "down": "5mbit", "trace": "drifting", **SLOW},
    "switching": {"up": "20mbit", "down": "20mbit", "trace": "switching", **SLOW},
    "unequal": {"up": "50mbit", "down": "50mbit", **SLOW},
}
CODE_LM_LINKS = ["1 Mbit/s", "1 Gbit/s", "switching"]
UNEQUAL = (
    "500kbit",
    "1mbit",
    "2mbit",
    "5mbit",
)  # of every fifth site and on; the others have the recipe's line


def recipe_of(task: str, seed: int, link: str, device: str, bounds: Sequence[str] = ()) -> Recipe:
    """A recipe of a cell; `bounds` are further changes."""
    base = load_recipe(EXAMPLES / f"{task}.toml").to_json()
    for key in ("up", "down", "later", "ledger", "links", "description", "compress", "adapt"):
        base.pop(key, None)
    base |= {"seed": seed, "link": dict(LINKS[link]), "device": {"speed": DEVICES[device]}, "compare": {}}
    base["link"]["train_seconds"] = TRAIN_SECONDS.get(task, 0.05) / DEVICES[device]
    if task in BY_LOSSES:
        base["rounds"] |= {"stop": "rounds", "max": 3 * max(BY_LOSSES[task])}
    else:
        base["rounds"] |= {"stop": "target", "target": TARGETS[task], "max": MOST[task]}
    base["run"] = {"workers": 0, "keep_updates": False, "snapshot_every": 1_000_000}
    recipe = load_recipe(base, bounds)
    if link == "unequal":
        table = recipe.to_json()
        table["links"] = {
            site: {**table["link"], "up": rate, "down": rate}
            for site, rate in zip(recipe.sites.all, UNEQUAL, strict=False)
        }
        recipe = Recipe.from_json(table)
    return recipe


def run(recipe: Recipe) -> dict[str, Any]:
    """Trains to the target: rounds, seconds on the virtual clock, and every decision with what it was told."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        done = phloem.build(recipe, out=Path(folder) / "run")
        lines = [json.loads(line) for line in (done.path / "decisions.jsonl").read_text().splitlines()]
    summary = done.summary
    return {
        "rounds": summary["rounds_to_target"],
        "seconds": summary["seconds_to_target"],
        "bytes": summary["bytes_to_target"],
        "metric": summary["metric"]["value"],
        "losses": [record.metrics.get("loss", math.nan) for record in done.records],
        "test": summary["test"],
        "parameters": summary["parameters"],
        "choice_seconds": summary["choice_seconds"],
        "work_seconds": summary["train_seconds"] + summary["codec_seconds"],
        "wall": time.perf_counter() - started,
        "lines": lines,
    }


def at_level(
    task: str, seed: int, level: str, link: str = "100 Mbit/s", device: str = "full"
) -> dict[str, Any]:
    """One fixed level, trained; the sizes of its messages by round and site."""
    found = run(recipe_of(task, seed, link, device, [f"adapt.finest='{level}'", f"adapt.coarsest='{level}'"]))
    lines = found.pop("lines")
    lost = [row[7] for line in lines[:16] for row in line["told"]["seen"].values() if row[7] >= 0]
    sizes = [{site: [row[0], row[2]] for site, row in line["told"]["seen"].items()} for line in lines]
    say(task, seed, level, found)
    return {**found, "lost": statistics.mean(lost) if lost else 0.0, "sizes": sizes}


def say(*words: Any) -> None:
    *names, found = words
    print(
        *names,
        f"rounds {found['rounds']} seconds {found['seconds'] or math.nan:.2f} metric {found['metric']:.4f}",
        f"({found['wall']:.0f} s)",
        file=sys.stderr,
        flush=True,
    )


def replay(task: str, fixed: Mapping[str, Any], level: str, recipe: Recipe) -> float | None:
    """The seconds to target that a fixed level's messages take on a cell's lines, at its cheapest effort: `fast`."""
    if fixed["rounds"] is None:
        return None
    clock, size, place = Clock(recipe), fixed["parameters"], levels.index_of(level)
    option = levels.LADDER[place].options[0]
    at = 0.0
    sizes = fixed["sizes"]
    merging = clock.merges([option.up] * len(recipe.sites.all), option.down, size)
    for number, row in enumerate(sizes):
        opening = row if number == 0 else {}
        after = sizes[number + 1] if number + 1 < len(sizes) else row
        up = max(
            works + clock.sends(site, UP, sent, at + works)
            for site, (sent, _) in row.items()
            for works in [recipe.link_of(site).train_seconds + clock.codes(site, ENCODE, option.up, size)]
        )
        up += merging
        down = max(
            clock.sends(site, DOWN, came, at + up) + clock.codes(site, DECODE, option.down, size)
            for site, (_, came) in after.items()
        )
        down = max([down, *(clock.sends(site, DOWN, came, at + up) for site, (_, came) in opening.items())])
        at += up + down
    return at


def pooled(calls: Iterable[tuple[Callable[..., Any], tuple[Any, ...]]], processes: int) -> list[Any]:
    """The answers of these calls, in their order."""
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), quiet) as pool:
        return [future.result() for future in [pool.submit(call, *words) for call, words in calls]]


# -- the table that the package carries --------------------------------------------------------------------------


def table(processes: int, tasks: Sequence[str]) -> None:
    """Measures what each level is worth on the shipped tasks, and writes `rounds.json`."""
    path = HERE.parent / "src" / "phloem" / "planner" / "rounds.json"
    saved = json.loads(path.read_text())
    known, strangers = saved["tasks"], set(saved["strangers"])
    seeds = {task: TABLE_SEEDS[:2] if task == "code-lm" else TABLE_SEEDS for task in tasks}
    cells = [(task, seed, level) for task in tasks for seed in seeds[task] for level in LEVELS[1:]]
    found = dict(zip(cells, pooled(((at_level, cell) for cell in cells), processes), strict=True))
    for task in tasks:
        rows: dict[str, list[float]] = {LEVELS[0]: [1.0, 0.0]}
        for level in LEVELS[1:]:
            ratios = [
                ratio
                for seed in seeds[task]
                for ratio in rounds_over(task, found[task, seed, level], found[task, seed, "bf16"])
            ]
            lost = statistics.mean(found[task, seed, level]["lost"] for seed in seeds[task])
            rows[level] = [round(geometric_mean(ratios), 3), round(lost, 4)]
        known[task] = rows
        if found[task, seeds[task][0], "bf16"]["parameters"] >= STRANGERS_PARAMETERS:
            strangers.add(task)
        print(task, rows, file=sys.stderr)
    command = "python benchmarks/adaptation.py table"
    text = {
        "command": command,
        "seeds": list(TABLE_SEEDS),
        "strangers": sorted(strangers),
        "tasks": dict(sorted(known.items())),
    }
    path.write_text(json.dumps(text, indent=1) + "\n", "utf-8")


def rounds_over(task: str, found: Mapping[str, Any], bf16: Mapping[str, Any]) -> list[float]:
    """A level's rounds over bfloat16's: to the target, or to each of the losses that bfloat16 came to."""
    if task not in BY_LOSSES:
        return [(found["rounds"] or 2 * MOST[task]) / (bf16["rounds"] or MOST[task])]
    return [
        rounds_to(found["losses"], loss) / rounds_to(bf16["losses"], loss)
        for loss in (min(bf16["losses"][:number]) for number in BY_LOSSES[task])
    ]


def rounds_to(losses: Sequence[float], target: float) -> float:
    """The rounds until the loss is this low, with parts of a round; twice as many as there were if it never is."""
    before = math.nan
    for number, loss in enumerate(losses, 1):
        if loss <= target:
            return number if math.isnan(before) else number - (target - loss) / (before - loss)
        before = loss
    return 2.0 * len(losses)


# -- cells ------------------------------------------------------------------------------------------------------------


def fixed(task: str, seeds: int, processes: int) -> None:
    """Every level once per seed."""
    cells = [(task, seed, level) for seed in range(1, seeds + 1) for level in LEVELS[1:]]
    found = pooled(((at_level, cell) for cell in cells), processes)
    rows = [
        {"task": t, "seed": s, "level": level, **row} for (t, s, level), row in zip(cells, found, strict=True)
    ]
    write(f"adaptation-fixed-{task}", f"python benchmarks/adaptation.py fixed --task {task}", {"rows": rows})


def auto(task: str, seed: int, link: str, device: str) -> dict[str, Any]:
    """The automatic choice in one cell."""
    found = run(recipe_of(task, seed, link, device))
    say(task, seed, link, device, found)
    lines = found.pop("lines")
    inside, transfers = (sum(line["actual"]["covered"][n] for line in lines) for n in (0, 1))
    policies = [line["policy"] for line in lines]
    return {
        **found,
        "covered": [inside, transfers],
        "switches": sum(a != b for a, b in itertools.pairwise(policies)),
        "policies": {name: policies.count(name) for name in dict.fromkeys(policies)},
        "levels": [[*line["up"], line["down"]] for line in lines],
    }


def matrix(task: str, seeds: int, processes: int, links: Sequence[str], devices: Sequence[str]) -> None:
    """Auto in every cell, beside the replayed levels."""
    known: dict[int, dict[str, Any]] = {}
    for row in json.loads((RESULTS / f"adaptation-fixed-{task}.json").read_text())["rows"]:
        known.setdefault(row["seed"], {})[row["level"]] = row
    cells = [
        (task, seed, link, device) for link in links for device in devices for seed in range(1, seeds + 1)
    ]
    found = pooled(((auto, cell) for cell in cells), processes)
    rows: dict[str, Any] = {}
    for (_, seed, link, device), row in zip(cells, found, strict=True):
        recipe = recipe_of(task, seed, link, device)
        levels_took = {level: replay(task, known[seed][level], level, recipe) for level in LEVELS[1:]}
        cell = rows.setdefault(
            f"{link} / {device}", {"auto": [], "fixed": {level: [] for level in LEVELS[1:]}, "runs": []}
        )
        cell["auto"].append(row["seconds"])
        for level, seconds in levels_took.items():
            cell["fixed"][level].append(seconds)
        cell["runs"].append({"seed": seed, **row})
    result = {"proxy": proxy(task, known), **summarised(rows)}
    write(f"adaptation-{task}", f"python benchmarks/adaptation.py matrix --task {task}", result)


def proxy(task: str, known: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """How well the table, moved by what sites report that frames left out, tells the rounds that levels took.

    Of every seed and level: log(rounds over bfloat16's) as it was, and as expected.
    """
    expected, found = [], []
    for row in known.values():
        for level in LEVELS[2:]:
            if row[level]["rounds"] and row["bf16"]["rounds"]:
                worth, place = Worth.of(task), levels.index_of(level)
                for _ in range(row[level]["rounds"]):
                    worth = worth.after(place, row[level]["lost"])
                expected.append(math.log(worth.inflation(place)))
                found.append(math.log(row[level]["rounds"] / row["bf16"]["rounds"]))
    errors = [abs(e - f) for e, f in zip(expected, found, strict=True)]
    ranks = [np.argsort(np.argsort(values)) for values in (expected, found)]
    return {
        "points": len(errors),
        "median_log_error": statistics.median(errors),
        "spearman": float(np.corrcoef(ranks[0], ranks[1])[0, 1]),
    }


def summarised(rows: dict[str, Any]) -> dict[str, Any]:
    """By cell, geometric means over seeds; a run that never came to its target counts as infinite."""
    cells = {}
    for name, cell in rows.items():
        took = {level: mean_of(values) for level, values in cell["fixed"].items()}
        ours, best = mean_of(cell["auto"]), min(took, key=took.__getitem__)
        cells[name] = {
            "auto": ours,
            "best": best,
            "to_best": ours / took[best],
            "to_bf16": ours / took["bf16"],
            "fixed": took,
            "by_seed": [
                a / min(v[n] or math.inf for v in cell["fixed"].values()) if a else math.inf
                for n, a in enumerate(cell["auto"])
            ],
            "runs": cell["runs"],
        }
    single = {
        level: geometric_mean([cell["fixed"][level] / cell["auto"] for cell in cells.values()])
        for level in next(iter(cells.values()))["fixed"]
        if all(math.isfinite(cell["fixed"][level]) for cell in cells.values())
    }
    inside, transfers = (sum(run["covered"][n] for c in cells.values() for run in c["runs"]) for n in (0, 1))
    return {
        "to_best": geometric_mean([cell["to_best"] for cell in cells.values()]),
        "worst_to_best": max(cell["to_best"] for cell in cells.values()),
        "worst_to_bf16": max(cell["to_bf16"] for cell in cells.values()),
        "single_codec_over_auto": single,
        "best_single_over_auto": min(single.values()),
        "coverage": inside / max(transfers, 1),
        "cells": cells,
    }


def mean_of(values: Sequence[float | None]) -> float:
    """The geometric mean; infinite where one never came."""
    return (
        math.inf
        if any(value is None for value in values)
        else geometric_mean([float(v) for v in values if v])
    )


def main() -> None:
    """Runs one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("table", "fixed", "matrix"))
    parser.add_argument("--task", default="digits", choices=[*TARGETS, *BY_LOSSES])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--links", nargs="*", default=[])
    parser.add_argument("--devices", nargs="*", default=[])
    options = parser.parse_args()
    quiet()
    if options.part == "table":
        table(options.processes, [options.task])
    elif options.part == "fixed":
        fixed(options.task, options.seeds, options.processes)
    else:
        links = options.links or (CODE_LM_LINKS if options.task == "code-lm" else list(LINKS))
        devices = options.devices or (["full"] if options.task == "code-lm" else list(DEVICES))
        matrix(options.task, options.seeds, options.processes, links, devices)


if __name__ == "__main__":
    main()
