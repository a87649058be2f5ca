"""Merge methods beside joint training, of branches stored with loss, and with one of them poisoned."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from measuring import spread
from merging_forest import METHODS, Forest, forest, over_seeds, shown
from merging_worlds import DOMAINS, LM, LM_STEPS, CodeDomains, World, digits_world, validation
from phloem.seeds import generator, seed_for
from phloem.tasks.datasets import Examples
from phloem.tensors import State


def merges(
    grove: Forest, names: Sequence[str], score: Callable[[Path], float], only: Sequence[str] = ()
) -> Iterator[Any]:
    """(method, merged state, recipe) of every method that these branches are enough for."""
    for label, (method, searched) in METHODS.items():
        if only and label not in only:
            continue
        if method.get("keep", 1) > len(names) - 1 or (method["name"] == "krum" and len(names) < 5):
            continue
        options = {**method, "trim": 0.25} if method["name"] == "trimmed-mean" and len(names) < 5 else method
        rest = {"scale": "search", "score": score} if searched else {}
        yield label, *grove.merged(names, options, **rest)


def grown(world: World | CodeDomains, grove: Forest, bits: float | None = None) -> float:
    """Commits every branch; the bits per parameter that they take."""
    sizes = [grove.grow(name, state, bits) for name, state in world.states.items()]
    return 8 * statistics.fmean(sizes) / sum(array.size for array in world.trunk.values())


def methods(seeds: int, lm: int) -> dict[str, Any]:
    """Every method, beside joint training and each branch alone."""
    rows: dict[str, list[dict[str, Any]]] = {"digits": [], "code_lm": []}
    for seed in range(seeds):
        world = digits_world(seed)
        alone = [world.accuracy(state) for state in world.states.values()]
        joint = world.problem.train(world.trunk, world.pooled(), 5, seed_for(seed, "joint"))
        row: dict[str, Any] = {
            "seed": seed,
            "trunk": world.accuracy(world.trunk),
            "joint": world.accuracy(joint),
        }
        row |= {"alone, mean": statistics.fmean(alone), "alone, best": max(alone)}
        with forest(world.trunk) as grove:
            grown(world, grove)
            scales = {}
            for label, state, recipe in merges(grove, list(world.states), validation(world)):
                row[label] = world.accuracy(state)
                scales |= {label: recipe.method["scale"]} if recipe.search else {}
        rows["digits"].append({**row, "scales": scales, "branches": len(world.states)})
        print(json.dumps(row), file=sys.stderr, flush=True)
    for seed in range(lm):
        code = CodeDomains(seed)
        row = {"seed": seed, "trunk": code.mean(code.trunk), "joint": code.mean(code.joint())}
        row |= {
            "alone, on all domains": statistics.fmean(map(code.mean, code.states.values())),
            "alone, on its own": statistics.fmean(
                code.bits(state)[site] for site, state in code.states.items()
            ),
        }
        with forest(code.trunk) as grove:
            grown(code, grove)
            scales = {}
            for label, state, recipe in merges(grove, DOMAINS, code.score):
                row[label] = code.mean(state)
                scales |= {label: recipe.method["scale"]} if recipe.search else {}
        rows["code_lm"].append({**row, "scales": scales})
        print(json.dumps(row), file=sys.stderr, flush=True)
    answer: dict[str, Any] = {"methods": METHODS, "lm": {**LM, **LM_STEPS, "domains": len(DOMAINS)}}
    for name, unit in (("digits", "test accuracy"), ("code_lm", "bits per byte")):
        if not rows[name]:
            continue
        answer[name] = {"seeds": rows[name], "over_seeds": over_seeds(rows[name])}
        keys = answer[name]["over_seeds"]
        shown(
            f"{name}: {unit}, median and extremes", {k: [r[k] for r in rows[name]] for k in keys}, "{:8.3f}"
        )
    return answer


BITS = (2.0, 1.0, 0.8, 0.5, 0.25)  # 1/16, 1/32, 1/40, 1/64 and 1/128 of float32
LM_BITS = (2.0, 0.8, 0.25)


def at_rates(
    seed: int,
    made: World | CodeDomains,
    rates: Sequence[float],
    measure: Callable[[State], float],
    score: Callable[[Path], float],
) -> dict[str, Any]:
    """What all merges measure of exact branches, and of those committed at each rate."""
    row: dict[str, Any] = {"seed": seed}
    for bits in (None, *rates):
        with forest(made.trunk) as grove:
            spent = grown(made, grove, bits)
            found = {label: measure(state) for label, state, _ in merges(grove, list(made.states), score)}
            alone = [measure(grove.state(name)) for name in made.states]
        row[str(bits or "exact")] = {"bits": spent, "alone, mean": statistics.fmean(alone), **found}
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def compressed(seeds: int, lm: int) -> dict[str, Any]:
    """What merges of branches that were committed with loss differ by from those of exact ones."""
    rows: dict[str, list[dict[str, Any]]] = {"digits": [], "code_lm": []}
    for seed in range(seeds):
        world = digits_world(seed)
        rows["digits"].append(at_rates(seed, world, BITS, world.accuracy, validation(world)))
    for seed in range(lm):
        code = CodeDomains(seed)
        rows["code_lm"].append(at_rates(seed, code, LM_BITS, code.mean, code.score))
    answer: dict[str, Any] = {}
    for task, some in rows.items():
        if not some:
            continue
        answer[task] = {"seeds": some, "against_exact": {}}
        for bits in list(some[0])[2:]:
            labels = [label for label in some[0][bits] if label != "bits"]
            changes = {k: [row[bits][k] - row["exact"][k] for row in some] for k in labels}
            means = {label: statistics.fmean(values) for label, values in changes.items()}
            answer[task]["against_exact"][bits] = {
                "bits": statistics.fmean(row[bits]["bits"] for row in some),
                "mean": means,
                "spread": {label: spread(values) for label, values in changes.items()},
            }
            form = "{:+8.3f}" if task == "digits" else "{:+8.4f}"
            shown(f"{task}: {bits} bits less exact, median and extremes", changes, form)
            print("  means " + "  ".join(f"{k} {v:+.3f}" for k, v in means.items()))
    return answer


def poisons(world: World, site: str, seed: int) -> dict[str, State]:
    """What the bad branch sends instead of its own model."""
    change = {name: world.states[site][name] - array for name, array in world.trunk.items()}
    size = float(np.sqrt(np.mean(np.concatenate([array.ravel() for array in change.values()]) ** 2)))
    draw = generator(seed, "merging", "poison")
    own = world.own[site]
    flipped = Examples(own.inputs, 9 - own.labels)
    return {
        "sign flipped, ten times": {k: v - np.float32(10) * change[k] for k, v in world.trunk.items()},
        "random, a hundred times": {
            k: (v + 100 * size * draw.standard_normal(v.shape)).astype(np.float32)
            for k, v in world.trunk.items()
        },
        "trained on flipped labels": world.problem.train(world.trunk, flipped, 5, seed),
    }


def poisoned(seeds: int) -> dict[str, Any]:
    """One of eight branches poisoned, against the merges of the seven others."""
    plain = ("mean", "ties", "dare", "trimmed-mean", "median", "geometric-median", "krum", "krum, keep 5")
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        world = digits_world(seed)
        bad = list(world.states)[seed % len(world.states)]
        honest = [name for name in world.states if name != bad]
        with forest(world.trunk) as grove:
            grown(world, grove, 2.0)
            row: dict[str, Any] = {"seed": seed, "bad": bad, "branches": len(world.states)}
            row["honest"] = {m: world.accuracy(s) for m, s in _unsearched(grove, honest, plain)}
            for what, state in poisons(world, bad, seed).items():
                name = f"bad-{len(row)}"
                grove.grow(name, state, 2.0)
                row[what] = {m: world.accuracy(s) for m, s in _unsearched(grove, [*honest, name], plain)}
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    lost: dict[str, Any] = {}
    for what in list(rows[0])[4:]:
        same = {m: [row[what][m] - row["honest"][m] for row in rows] for m in plain}
        mean = {m: [row[what][m] - row["honest"]["mean"] for row in rows] for m in plain}
        lost[what] = {"against_itself": same, "against_the_honest_mean": mean}
        for title, table in (("itself", same), ("the mean", mean)):
            shown(f"{what}: points against {title} of the seven honest ones", table)
    return {"bits": 2.0, "seeds": rows, "points": lost}


def _unsearched(grove: Forest, names: Sequence[str], labels: Sequence[str]) -> Iterator[tuple[str, State]]:
    """Merges with no scale to search: TIES and DARE divide by the number of branches, as a mean does."""
    for label in labels:
        options = dict(METHODS[label][0])
        if options["name"] == "dare":
            options["normalize"] = True
        yield label, grove.merged(names, options)[0]
