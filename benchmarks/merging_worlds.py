"""Tasks whose data is dealt out to sites, and the branches that the sites train."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from torch import nn
from torch.nn import functional

from phloem.seeds import generator, seed_for
from phloem.tasks import corpus, digits_cnn, gpt, mlp, torch_task
from phloem.tasks.base import load_task
from phloem.tasks.datasets import Examples
from phloem.tensors import State

SITES = [f"site{number}" for number in range(8)]


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


def digits_world(seed: int) -> World:
    """Eight sites with label skew of 1.0 around a trunk that is right on most images."""
    return World.of(digits(seed, 1.0), seed, public=120, trunk_epochs=10, epochs=5)


def validation(world: World) -> Callable[[Path], float]:
    """Accuracy on the task's stopping part."""
    return lambda path: float(world.problem.task.evaluate(dict(load_file(path)), "stop")["accuracy"])
