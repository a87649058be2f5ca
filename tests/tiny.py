"""A learning problem that trains in milliseconds, with every fault that a test may ask for.

`python -m tests.tiny RECIPE.json RUN [WRITES]` builds it in a process of its own, or goes on where one was
killed; with WRITES it kills its own process group before it touches the run's files for that many times.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import phloem
from phloem.seeds import generator
from phloem.tasks.base import Memory, Metric
from phloem.tensors import State

ROOT = Path(__file__).resolve().parent.parent
SPREAD = 1.2


class Blobs:
    """Softmax regression on blobs; its state has a matrix, a vector, a 0-d tensor and an empty one.

    Options for faults: `nan_site` and `bad_shape_site` break their updates after `fault_from` trainings;
    `huge_site` sends values beyond 2^100; `idle_site` has no examples; `dying_site` ends its process. `delay`
    holds every training up, `print_noise` prints in the middle of it.
    """

    metric = Metric("accuracy")

    def __init__(
        self,
        sites: Sequence[str],
        seed: int,
        features: int = 4,
        classes: int = 3,
        examples: int = 20,
        steps: int = 3,
        rate: float = 0.3,
        delay: float = 0.0,
        nan_site: str = "",
        bad_shape_site: str = "",
        huge_site: str = "",
        idle_site: str = "",
        dying_site: str = "",
        fault_from: int = 0,
        print_noise: bool = False,
    ) -> None:
        self.sites, self.seed = list(sites), seed
        self.features, self.classes, self.examples = features, classes, examples
        self.steps, self.rate, self.delay = steps, rate, delay
        self.nan_site, self.bad_shape_site, self.huge_site = nan_site, bad_shape_site, huge_site
        self.idle_site, self.dying_site, self.fault_from = idle_site, dying_site, fault_from
        self.print_noise = print_noise
        self.centres = generator(seed, "centres").normal(size=(classes, features))

    def initial_state(self, seed: int) -> State:
        draw = generator(seed, "weight")
        return {
            "weight": draw.normal(0, 0.1, (self.features, self.classes)).astype(np.float32),
            "bias": np.zeros(self.classes, np.float32),
            "scale": np.array(1.0, np.float32),
            "empty": np.zeros((0, 3), np.float32),
        }

    def shard(self, site: str) -> dict[str, Any]:
        count = 0 if site == self.idle_site else self.examples + 5 * self.sites.index(site)
        x, y = self._draw(site, count)
        return {"site": site, "x": x, "y": y}

    def train(
        self, state: State, shard: dict[str, Any], memory: Memory, seed: int
    ) -> tuple[State, Memory, int, Mapping[str, float]]:
        if self.print_noise:
            print("noise from", shard["site"], flush=True)
        if self.delay:
            threading.Event().wait(self.delay)
        times = int(memory.get("times", np.array(0)))
        faulty = times >= self.fault_from
        if faulty and shard["site"] == self.dying_site:
            os._exit(7)
        x, y = shard["x"], shard["y"]
        state = {name: array.astype(np.float64) for name, array in state.items()}
        speed = memory.get("speed", np.zeros_like(state["weight"]))
        loss = 0.0
        for step in range(self.steps if len(y) else 0):
            rows = generator(seed, step).permutation(len(y))[: max(1, len(y) // 2)]
            loss, gradients = self._gradients(state, x[rows], y[rows])
            speed = 0.5 * speed + gradients["weight"]
            gradients["weight"] = speed
            state = {name: array - self.rate * gradients[name] for name, array in state.items()}
        trained = {name: np.asarray(array, np.float32) for name, array in state.items()}
        if faulty and shard["site"] == self.nan_site:
            trained["bias"] = np.full_like(trained["bias"], np.nan)
        if faulty and shard["site"] == self.huge_site:
            trained["bias"] = np.full_like(trained["bias"], 2.0**110)
        if faulty and shard["site"] == self.bad_shape_site:
            trained["bias"] = np.zeros(self.classes + 1, np.float32)
        examples: Any = np.int64(len(y))  # NumPy's integers and floats are what tasks really give
        return trained, {"times": np.array(times + 1), "speed": speed}, examples, {"loss": loss}

    def evaluate(self, state: State, part: str) -> Mapping[str, float]:
        x, y = self._draw(f"held out for {part}", 200)
        loss, _ = self._gradients({name: array.astype(np.float64) for name, array in state.items()}, x, y)
        scores = state["scale"] * (x @ state["weight"]) + state["bias"]
        return {"accuracy": float((scores.argmax(axis=1) == y).mean()), "loss": loss}

    def _draw(self, label: str, count: int) -> tuple[Any, Any]:
        draw = generator(self.seed, "examples", label)
        y = draw.integers(self.classes, size=count)
        return self.centres[y] + SPREAD * draw.normal(size=(count, self.features)), y

    def _gradients(self, state: dict[str, Any], x: Any, y: Any) -> tuple[float, dict[str, Any]]:
        raw = x @ state["weight"]
        scores = state["scale"] * raw + state["bias"]
        scores -= scores.max(axis=1, keepdims=True)
        shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        picked = np.arange(len(y))
        loss = float(-np.log(shares[picked, y]).mean())
        shares[picked, y] -= 1
        shares /= len(y)
        return loss, {
            "weight": state["scale"] * (x.T @ shares),
            "bias": shares.sum(axis=0),
            "scale": (raw * shares).sum(),
            "empty": np.zeros((0, 3)),
        }


def table(
    *, count: int = 3, rounds: int = 4, up: Any = None, down: Any = None, task: Any = None, **sections: Any
) -> dict[str, Any]:
    """A recipe's keys for `Blobs`; a section given by name is laid over the one here."""
    recipe: dict[str, Any] = {
        "name": "tiny",
        "task": {"name": "tests.tiny:Blobs", **(task or {})},
        "sites": {"count": count},
        "rounds": {"max": rounds},
        "up": up or {"codec": "int8", "block": 16},
        "down": down or {"codec": "int8", "block": 16},
    }
    for name, section in sections.items():
        whole = isinstance(section, dict) and name in recipe
        recipe[name] = {**recipe[name], **section} if whole else section
    if recipe.get("compress") == "auto":
        del recipe["up"], recipe["down"]
    return recipe


def die_at_write(number: int, root: Path) -> None:
    """Ends this process group, as a power cut would, when something under `root` is touched once more."""
    left = number

    def count(event: str, details: tuple[Any, ...]) -> None:
        nonlocal left
        touches = event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod")
        touches = touches or (
            event == "open" and isinstance(details[2], int) and details[2] & os.O_ACCMODE != 0
        )
        if touches and str(details[0]).startswith(str(root)):
            left -= 1
            if left <= 0:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(count)


def main() -> None:
    recipe, out = Path(sys.argv[1]), Path(sys.argv[2])
    if len(sys.argv) > 3:
        die_at_write(int(sys.argv[3]), out)
    started = (out / "run.json").exists()
    where = {"resume": out} if started else {"out": out}
    phloem.build(json.loads(recipe.read_text()), **where)


if __name__ == "__main__":
    main()
