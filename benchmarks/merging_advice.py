"""How often `advise` is right, over sites from very different to alike."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file

from merging_forest import forest
from merging_worlds import Problem, World, digits, digits_mlp, hospitals
from phloem.branches import advising

ALPHAS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
#: Per task: how to make it, public examples, and (epochs of the trunk, epochs of the branches).
SWEEPS: dict[str, tuple[Callable[[int, float], Problem], int, tuple[tuple[int, int], ...]]] = {
    "digits CNN": (digits, 120, ((4, 5), (10, 5), (20, 2), (20, 10))),
    "digits MLP": (digits_mlp, 120, ((5, 10), (20, 5))),
    "hospitals": (hospitals, 40, ((10, 10),)),
}
FIRST_SEED, FIT_SEED = 10, 100  # apart from each other, and from 0 to 3, which the rule was thought of with
PLANTED = (1.0, 10.0, 100.0)  # of sites half of which have their images on the side
EITHER = 0.5  # points: nearer, both answers are right


def point(
    task: str, alpha: float, seed: int, epochs: tuple[int, int], turned: int = 0
) -> dict[str, Any] | None:
    """What is better for these sites, and what `advise` says, without and with scores; None with fewer than three."""
    torch.set_num_threads(1)  # sums, and so the figures, depend on it
    problem, public, _ = SWEEPS[task]
    world = World.of(problem(seed, alpha), seed, public, *epochs, turned=turned)
    names = list(world.states)
    if len(names) < 3:
        return None
    with forest(world.trunk) as grove:
        for name, state in world.states.items():
            grove.grow(name, state, None, len(world.own[name]))
        said = advising.advise(grove.repo, names, score={name: _scoring(world, name) for name in names})
        free = advising.by_states(names, said.evidence)
        best = max(said.evidence.trials[1:], key=lambda trial: 0 if trial.what == "groups" else trial.mean)
        method, weights = _trials(len(names))[best.what]
        merged = grove.merged(names, method, weights=weights)[0]
        served = {
            "keep apart": [world.serving(world.states[name], [name])[0] for name in names],
            "merge": world.serving(merged, names),
        }
        parts = {"free groups": free.groups, "scored groups": said.groups}
        if turned:
            parts["planted groups"] = tuple(world.kinds())
        for key, groups in parts.items():
            if 1 < len(groups) < len(names):
                by_name: dict[str, float] = {}
                for group in groups:
                    state = (
                        grove.state(group[0]) if len(group) == 1 else grove.merged(group, {"name": "mean"})[0]
                    )
                    by_name |= dict(zip(group, world.serving(state, group), strict=True))
                served[key] = [by_name[name] for name in names]
    points = {what: statistics.fmean(values) for what, values in served.items()}
    top = max(points[what] for what in ("keep apart", "merge", "planted groups") if what in points)
    total = said.evidence.total
    assert total is not None
    row: dict[str, Any] = {
        "task": task, "alpha": alpha, "seed": seed, "epochs": epochs, "branches": len(names), "points": points,
        "gap": points["merge"] - points["keep apart"], "top": top,
        "best_merge": best.what, "cosine": said.evidence.cosine,
        "moved": total.moved, "left": total.left, "signs": total.signs, "line": said.evidence.line,
        "free": free.verdict, "scored": said.verdict,
        "gain": 100 * (best.mean - said.evidence.trials[0].mean), "noise": 100 * (said.evidence.noise or 0.0),
    }  # fmt: skip
    for kind in ("free", "scored"):
        value = points[f"{kind} groups" if row[kind] == "groups" else row[kind]]
        row[f"{kind}_lost"] = max(0.0, top - value)
        row[f"{kind}_right"] = top - value <= EITHER
    return row


def _scoring(world: World, name: str) -> Callable[[Path], float]:
    held = world.held[name]
    return lambda path: float(np.mean(world.problem.right(dict(load_file(path)), held)))


def _trials(count: int) -> dict[str, tuple[dict[str, Any], str]]:
    """The merges that `advise` tries, by the names it gives them."""
    found: dict[str, tuple[dict[str, Any], str]] = {
        "mean": ({"name": "mean"}, "equal"),
        "mean by examples": ({"name": "mean"}, "examples"),
    }
    for step in advising.STEPS:
        scale = round(step / count, 4)
        found[f"task-arithmetic at scale {scale:g}"] = ({"name": "task-arithmetic", "scale": scale}, "equal")
    return found


def sweep(tasks: Sequence[str], first: int, seeds: int) -> list[dict[str, Any]]:
    """Every point of these tasks, on all cores."""
    asked = [
        (task, alpha, seed, epochs)
        for task in tasks
        for epochs in SWEEPS[task][2]
        for seed in range(first, first + seeds)
        for alpha in ALPHAS
    ]
    return _points(asked)


def _points(asked: Sequence[tuple[Any, ...]]) -> list[dict[str, Any]]:
    rows = []
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        for done, row in enumerate(pool.map(point, *zip(*asked, strict=True)), start=1):
            rows += [row] if row else []
            if done % 40 == 0:
                print(f"{done} of {len(asked)}: {_rates(rows)}", file=sys.stderr, flush=True)
    return rows


def _rates(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """How often the two advices are right, and what always doing one thing would be."""
    n = len(rows)
    return {
        "points": n,
        "free": sum(row["free_right"] for row in rows) / n,
        "scored": sum(row["scored_right"] for row in rows) / n,
        "always merge": sum(row["top"] - row["points"]["merge"] <= EITHER for row in rows) / n,
        "always apart": sum(row["top"] - row["points"]["keep apart"] <= EITHER for row in rows) / n,
        "either": sum(abs(row["gap"]) <= EITHER for row in rows) / n,
        "free_lost": statistics.fmean(row["free_lost"] for row in rows),
        "scored_lost": statistics.fmean(row["scored_lost"] for row in rows),
    }


def advice(seeds: int, fit: bool) -> dict[str, Any]:
    """How often `advise` is right; with `fit` the line that would be most often right, on seeds of its own."""
    if fit:
        rows = sweep(["digits CNN"], FIT_SEED, seeds)
        tried = []
        for slope in np.arange(0.0, 1.55, 0.1):
            for line in np.arange(-0.2, 0.5, 0.01):
                merge = np.array([row["cosine"] >= line + slope * row["moved"] for row in rows])
                gap = np.array([row["gap"] for row in rows])
                right = float(np.mean((np.abs(gap) <= EITHER) | ((gap > 0) == merge)))
                tried.append((right, round(float(slope), 2), round(float(line), 2)))
        best = [row for row in tried if row[0] == max(tried)[0]]
        print(f"of {len(rows)} points; right, slope, line: {best}")
        for what in ("free", "scored"):
            print(what, _rates(rows)[what])
        return {"rows": rows}
    rows = sweep(list(SWEEPS), FIRST_SEED, seeds)
    planted = _points(
        [
            ("digits CNN", a, seed, (10, 5), 4)
            for a in PLANTED
            for seed in range(FIRST_SEED, FIRST_SEED + seeds)
        ]
    )
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["task"], []).append(row)
        groups.setdefault(f"{row['task']}, epochs {row['epochs'][0]} and {row['epochs'][1]}", []).append(row)
        groups.setdefault(
            "near the line" if abs(row["cosine"] - row["line"]) < advising.NEAR else "far", []
        ).append(row)
        groups.setdefault(f"alpha {row['alpha']:g}", []).append(row)
    table = {"all": _rates(rows), **{name: _rates(groups[name]) for name in sorted(groups)}}
    table["two kinds of images"] = _rates(planted)
    print(f"{'':36s}points  free scored | always merge, apart | either is right")
    for name, one in table.items():
        print(
            f"{name:36s}{one['points']:6d} {100 * one['free']:5.1f} {100 * one['scored']:5.1f} | "
            f"{100 * one['always merge']:5.1f} {100 * one['always apart']:5.1f} | {100 * one['either']:5.1f}"
        )
    rule = {
        "line": advising.LINE,
        "slope": advising.SLOPE,
        "near": advising.NEAR,
        "grouped": advising.GROUPED,
    }
    return {"rule": rule, "either_points": EITHER, "rates": table, "rows": rows, "two_kinds": planted}
