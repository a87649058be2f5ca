"""Merging branches: methods against joint training, branches stored with loss, poison, advice, memory.

    python benchmarks/merging.py methods        every merge method beside joint training: digits, and a small code LM
    python benchmarks/merging.py compressed     the same merges of branches that were committed with loss
    python benchmarks/merging.py poisoned       one of eight branches poisoned, in three ways
    python benchmarks/merging.py advice         how often `advise` is right, over sites from very different to alike
    python benchmarks/merging.py advice --fit   what fits its line best, on other seeds; written nowhere
    python benchmarks/merging.py memory         64 branches of 16 tensors merged: memory in tensors

Each writes results/merging-NAME.json. Every branch is trained by a task's own code, written as safetensors, committed
to a repository in a temporary directory and merged there: what is measured is what comes out of it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import nn
from torch.nn import functional

from measuring import quiet, spread, write
from phloem.branches import advising, joining
from phloem.branches.repository import Repository
from phloem.seeds import generator, seed_for
from phloem.tasks import corpus, digits_cnn, gpt, mlp, torch_task
from phloem.tasks.base import load_task
from phloem.tasks.datasets import Examples
from phloem.tensors import State

SITES = [f"site{number}" for number in range(8)]
#: What can be merged: the method, and whether its scale is chosen by the score on validation data.
METHODS: dict[str, tuple[dict[str, Any], bool]] = {
    "mean": ({"name": "mean"}, False),
    "task-arithmetic": ({"name": "task-arithmetic"}, True),
    "ties": ({"name": "ties", "density": 0.2}, True),
    "dare": ({"name": "dare", "density": 0.5}, True),
    "trimmed-mean": ({"name": "trimmed-mean", "trim": 0.2}, False),
    "median": ({"name": "median"}, False),
    "geometric-median": ({"name": "geometric-median"}, False),
    "krum": ({"name": "krum", "bad": 1}, False),
    "krum, keep 5": ({"name": "krum", "bad": 1, "keep": 5}, False),
}


# ---- Branches in a repository ---------------------------------------------------------------------------------


class Forest:
    """A repository with a trunk, and branches off it."""

    def __init__(self, folder: Path, trunk: State) -> None:
        self.folder, self._merges = folder, 0
        self.repo = Repository.create(folder / ".phloem")
        self.repo.commit(self._written(trunk))

    def grow(self, name: str, state: State, bits: float | None = None, examples: int | None = None) -> int:
        """Adds a branch, exactly unless `bits` are given; the bytes that it takes up."""
        self.repo.branch(name, "trunk")
        path = self._written(state)
        made = self.repo.commit(path, branch=name, bits=bits, lossless=bits is None, examples=examples)
        return made.bytes

    def state(self, ref: str) -> State:
        """What is committed."""
        self.repo.checkout(ref, self.folder / "out.safetensors")
        return dict(load_file(self.folder / "out.safetensors"))

    def merged(self, names: Sequence[str], method: Mapping[str, Any], **rest: Any) -> tuple[State, Any]:
        """A merge on a branch of its own, and its recipe."""
        self._merges += 1
        into = f"merge{self._merges}"
        self.repo.branch(into, "trunk")
        made = joining.merge(self.repo, names, into=into, method=method, **rest)
        return self.state(into), made.recipe

    def _written(self, state: State) -> Path:
        path = self.folder / "model.safetensors"
        save_file(state, path)
        return path


@contextmanager
def forest(trunk: State) -> Iterator[Forest]:
    """A forest that is gone afterwards."""
    with tempfile.TemporaryDirectory() as scratch:
        made = Forest(Path(scratch), trunk)
        try:
            yield made
        finally:
            made.repo.close()


# ---- Tasks, and what sites make of them -------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A task's data by index, and its own training: `train(state, examples, epochs, seed)`."""

    task: Any
    examples: Examples
    initial: Callable[[int], State]
    train: Callable[[State, Examples, int, int], State]
    answers: Callable[[State, Any], Any]

    def right(self, state: State, examples: Examples) -> Any:
        """Which examples the model gets right."""
        return self.answers(state, examples.inputs) == examples.labels


def digits(seed: int, alpha: float) -> Problem:
    """The digits CNN."""
    task: Any = load_task("digits", SITES, seed, {"alpha": alpha})

    def train(state: State, examples: Examples, epochs: int, seed: int) -> State:
        options = {
            "batch_size": task.batch_size,
            "learning_rate": task.learning_rate,
            "momentum": task.momentum,
        }
        return digits_cnn.sgd(state, examples, epochs=epochs, seed=seed, **options)[0]

    def answers(state: State, inputs: Any) -> Any:
        with torch.no_grad():
            scores = digits_cnn.logits(torch_task.tensors(state), torch.tensor(inputs))
        return scores.argmax(1).numpy()

    return Problem(task, task._examples, task.initial_state, train, answers)


def digits_mlp(seed: int, alpha: float) -> Problem:
    """The same images, a network of 64→64→10 and the training loop for users' own models."""
    task: Any = load_task("digits", SITES, seed, {"alpha": alpha})

    def module(state: State | None, seed: int = 0) -> nn.Module:
        layers = nn.Flatten, lambda: nn.Linear(64, 64), nn.ReLU, lambda: nn.Linear(64, 10)
        made = torch_task.built(lambda: nn.Sequential(*(layer() for layer in layers)), seed)
        if state is not None:
            torch_task.load_state(made, state)
        return made

    def train(state: State, examples: Examples, epochs: int, seed: int) -> State:
        net = module(state)
        torch_task.sgd_epochs(
            net, functional.cross_entropy, examples.inputs, examples.labels, seed=seed, epochs=epochs
        )
        return torch_task.state_of(net)

    def answers(state: State, inputs: Any) -> Any:
        with torch.no_grad():
            return module(state)(torch.tensor(inputs)).argmax(1).numpy()

    return Problem(task, task._examples, lambda seed: torch_task.state_of(module(None, seed)), train, answers)


def hospitals(seed: int, alpha: float) -> Problem:
    """The hospitals' network; the sites have other shares of malignant tumours."""
    task: Any = load_task("hospitals", SITES, seed, {"alpha": alpha})

    def train(state: State, examples: Examples, epochs: int, seed: int) -> State:
        names = ("batch_size", "learning_rate", "momentum", "weight_decay")
        return mlp.sgd(state, examples, epochs=epochs, seed=seed, **{n: getattr(task, n) for n in names})[0]

    return Problem(
        task, task._records, task.initial_state, train, lambda s, x: (mlp.scores(s, x) > 0).astype(int)
    )


@dataclass(frozen=True)
class World:
    """Sites around a trunk that was trained on a small public part.

    Attributes:
        own, held: by site what its branch is trained on, and what it holds out (a fifth).
        shares: by site how often it has each label.
        states: by site its branch.
        turned: sites whose images lie on their side.
    """

    problem: Problem
    trunk: State
    own: dict[str, Examples]
    held: dict[str, Examples]
    shares: dict[str, Any]
    states: dict[str, State]
    turned: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        problem: Problem,
        seed: int,
        public: int,
        trunk_epochs: int,
        epochs: int,
        held: float = 0.2,
        turned: int = 0,
    ) -> World:
        """Trains trunk and branches; sites with fewer than ten examples stay out."""
        draw = generator(seed, "merging", "sites")
        everyone = problem.examples
        labels = int(everyone.labels.max()) + 1
        agreed = draw.permutation(problem.task.parts.train)[:public]
        world = cls(problem, problem.initial(seed), {}, {}, {}, {}, frozenset(SITES[len(SITES) - turned :]))
        both = [
            everyone.at(agreed[::2]),
            world.seen(SITES[-1], everyone.at(agreed[1::2])),
        ]  # all upright if none turns
        world.trunk.update(problem.train(world.trunk, joined(both), trunk_epochs, seed))
        for site in SITES:
            places = draw.permutation(np.setdiff1d(problem.task.shares[site], agreed))
            if len(places) < 10:
                continue
            cut = int(held * len(places))
            world.own[site] = world.seen(site, everyone.at(places[cut:]))
            world.held[site] = world.seen(site, everyone.at(places[:cut]))
            world.shares[site] = np.bincount(everyone.labels[places], minlength=labels) / len(places)
            world.states[site] = problem.train(world.trunk, world.own[site], epochs, seed_for(seed, site))
        return world

    def seen(self, site: str, examples: Examples) -> Examples:
        """The examples as the site has them."""
        if site not in self.turned:
            return examples
        return Examples(np.ascontiguousarray(np.rot90(examples.inputs, axes=(2, 3))), examples.labels)

    def kinds(self) -> list[tuple[str, ...]]:
        """The sites by how their images lie."""
        return [tuple(s for s in self.states if (s in self.turned) == turned) for turned in (False, True)]

    @property
    def test(self) -> Examples:
        """The test part, which nobody trained on."""
        return self.problem.examples.at(self.problem.task.parts.test)

    def accuracy(self, state: State) -> float:
        """On the test part as it is, in points."""
        return 100 * float(np.mean(self.problem.right(state, self.test)))

    def serving(self, state: State, sites: Sequence[str]) -> list[float]:
        """Of each site the accuracy in points on test data with the labels that it has.

        That is what test data drawn from the site's own distribution would give on average, without the draw.
        """
        found = {}
        for turned in {site in self.turned for site in sites}:
            some = [site for site in sites if (site in self.turned) == turned]
            test, labels = self.seen(some[0], self.test), len(self.shares[some[0]])
            right = np.bincount(test.labels, weights=self.problem.right(state, test), minlength=labels)
            each = right / np.bincount(test.labels, minlength=labels)
            found |= {site: 100 * float(self.shares[site] @ each) for site in some}
        return [found[site] for site in sites]

    def pooled(self) -> Examples:
        """All that the sites train on."""
        return joined(list(self.own.values()))


def joined(parts: Sequence[Examples]) -> Examples:
    """All of them as one."""
    return Examples(np.concatenate([p.inputs for p in parts]), np.concatenate([p.labels for p in parts]))


def shown(title: str, rows: Mapping[str, Sequence[float]], form: str = "{:8.2f}") -> None:
    """A table: the median over the seeds, and the extremes."""
    print(title)
    for name, values in rows.items():
        figures = (statistics.median(values), min(values), max(values))
        print(f"  {name:34s}" + " ".join(form.format(value) for value in figures))


def over_seeds(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Per key the spread over the seeds' rows, and means."""
    keys = [key for key, value in rows[0].items() if isinstance(value, float)]
    return {
        key: {**spread([row[key] for row in rows]), "mean": statistics.fmean(row[key] for row in rows)}
        for key in keys
    }


# ---- A small language model of code, by domain ------------------------------------------------------------------

DOMAINS = SITES[:4]
LM_STEPS = {"trunk": 240, "branch": 80}
LM = {"context": 64, "batch_size": 8}


class CodeDomains:
    """Branches of one code LM: each site has whole packages of Python's library; bits per byte on files held out."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        task = self._task(1)
        texts = [task.shard(site) for site in DOMAINS]
        everyone = np.concatenate(texts)
        self.trunk = self._trained(task.initial_state(seed), everyone, LM_STEPS["trunk"], "trunk")
        steps = LM_STEPS["branch"]
        self.states = {s: self._trained(self.trunk, t, steps, s) for s, t in zip(DOMAINS, texts, strict=True)}
        self._everyone = everyone
        self._shape = task.shape
        self._held: dict[str, dict[str, Any]] = {"stop": {}, "test": {}}
        for site, files in corpus.by_package(corpus.standard_library(), DOMAINS).items():
            parts = corpus.split_files(files, 0.05, generator(seed, "code-lm", site, "parts"))[
                1:
            ]  # as the task does
            for part, held in zip(self._held, parts, strict=True):
                blocks = corpus.blocks(corpus.joined(held), task.shape.context + 1, 96)
                self._held[part][site] = torch.tensor(blocks).long()

    def joint(self) -> State:
        """One model after as many steps as all branches together, on all their text."""
        return self._trained(self.trunk, self._everyone, len(DOMAINS) * LM_STEPS["branch"], "joint")

    def bits(self, state: State, part: str = "test") -> dict[str, float]:
        """Bits per byte by domain."""
        weights = torch_task.tensors(state)
        with torch.no_grad():
            found = {
                site: float(gpt.loss(weights, self._shape, held)) for site, held in self._held[part].items()
            }
        return {site: loss / float(np.log(2)) for site, loss in found.items()}

    def mean(self, state: State, part: str = "test") -> float:
        """Bits per byte, the mean over the domains."""
        return statistics.fmean(self.bits(state, part).values())

    def score(self, path: Path) -> float:
        """For the choice of scales: the other held-out part, the more, the better."""
        return -self.mean(dict(load_file(path)), "stop")

    def _task(self, steps: int) -> Any:
        return load_task("code-lm", DOMAINS, self.seed, {"steps": steps, **LM})

    def _trained(self, state: State, text: Any, steps: int, label: str) -> State:
        trained: State = self._task(steps).train(state, text, {}, seed_for(self.seed, label))[0]
        return trained


# ---- methods ----------------------------------------------------------------------------------------------------


def digits_world(seed: int) -> World:
    """Eight sites with label skew of 1.0 around a trunk that is right on most images."""
    return World.of(digits(seed, 1.0), seed, public=120, trunk_epochs=10, epochs=5)


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


def validation(world: World) -> Callable[[Path], float]:
    """Accuracy on the task's stopping part."""
    return lambda path: float(world.problem.task.evaluate(dict(load_file(path)), "stop")["accuracy"])


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


# ---- compressed -------------------------------------------------------------------------------------------------

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


# ---- poisoned ---------------------------------------------------------------------------------------------------


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


# ---- advice -----------------------------------------------------------------------------------------------------

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


# ---- memory -----------------------------------------------------------------------------------------------------

BRANCHES, FEW, TENSORS, SHAPE = 64, 8, 16, (1024, 1024)
TENSOR_BYTES = 4 * SHAPE[0] * SHAPE[1]
MERGES: dict[str, dict[str, Any]] = {
    "mean": {"name": "mean"},
    "ties": {"name": "ties", "density": 0.2},
    "median": {"name": "median"},
    "krum": {"name": "krum", "bad": 3},
    "advise": {},
}


def _kilobytes(key: str) -> int:
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text("ascii"))
    assert found
    return int(found[1])


def _measure(folder: Path, what: str, count: int, *, traced: bool) -> dict[str, float]:
    """One merge in this process: memory beyond what the process holds before, in tensors."""
    with Repository.open(folder / ".phloem") as repo:
        names = [name for name in repo.refs.branches if name.startswith("branch")][:count]
        into = f"{what}-{count}-{traced}"
        repo.branch(into, "trunk")
        if traced:
            tracemalloc.start()
        Path("/proc/self/clear_refs").write_text("5", "ascii")  # VmHWM starts anew
        before = _kilobytes("VmRSS")
        if what == "advise":
            advising.advise(repo, names)
        else:
            joining.merge(repo, names, into=into, method=MERGES[what])
        peak = _kilobytes("VmHWM") - before
    if traced:
        return {"traced": tracemalloc.get_traced_memory()[1] / TENSOR_BYTES}
    return {"resident": 1024 * peak / TENSOR_BYTES}


def memory(branches: int) -> dict[str, Any]:
    """Merges of many branches, each in a process of its own."""
    rows: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        draw = generator(0, "merging", "memory")
        trunk = {f"layer{n:02d}.weight": draw.standard_normal(SHAPE, np.float32) for n in range(TENSORS)}
        grove = Forest(folder, trunk)
        stored = []
        for number in range(branches):
            change = generator(number, "merging", "change")
            state = {
                k: v + np.float32(1e-3) * change.standard_normal(SHAPE, np.float32) for k, v in trunk.items()
            }
            stored.append(grove.grow(f"branch{number:02d}", state, 0.05))
        grove.repo.close()
        for what, count in [("mean", FEW), *((what, branches) for what in MERGES)]:
            label = f"{what} of {count}"
            rows[label] = {}
            for traced in ("", "traced"):
                argv = [sys.executable, __file__, "memory", "--alone", scratch, what, str(count), traced]
                done = subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True)
                rows[label] |= json.loads(done.stdout.splitlines()[-1])
            print(f"{label:16s}", *(f"{value:7.1f} tensors {kind}" for kind, value in rows[label].items()))
    return {
        "branches": branches, "tensors": TENSORS, "tensor_bytes": TENSOR_BYTES,
        "bits": 8 * statistics.fmean(stored) / (TENSORS * TENSOR_BYTES / 4), "merges": rows,
    }  # fmt: skip


def main() -> None:
    """Runs one part and writes its result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("methods", "compressed", "poisoned", "advice", "memory"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--lm", type=int, default=5, help="seeds of the code LM, in methods and compressed")
    parser.add_argument("--fit", action="store_true", help="of advice: find the line")
    parser.add_argument("--branches", type=int, default=BRANCHES, help="of memory")
    parser.add_argument(
        "--alone", nargs="+", help="of memory: one merge in this process (used by the others)"
    )
    given = parser.parse_args()
    quiet()
    torch.set_num_threads(1)  # sums, and so the figures, depend on it
    if given.alone:
        folder, what, count, traced = given.alone
        print(json.dumps(_measure(Path(folder), what, int(count), traced=bool(traced))))
        return
    command = f"python benchmarks/merging.py {given.part}"
    if given.part == "memory":
        command, result = f"{command} --branches {given.branches}", memory(given.branches)
    elif given.part == "advice":
        command, result = f"{command} --seeds {given.seeds}", advice(given.seeds, given.fit)
    elif given.part == "poisoned":
        command, result = f"{command} --seeds {given.seeds}", poisoned(given.seeds)
    else:
        run = {"methods": methods, "compressed": compressed}[given.part]
        command, result = f"{command} --seeds {given.seeds} --lm {given.lm}", run(given.seeds, given.lm)
    if not given.fit:
        write(f"merging-{given.part}", command, result)


if __name__ == "__main__":
    main()
