"""Models of any size with drawn weights, and a training of them that never ends: what keeping versions is timed on.

Nothing is learned. The tensors are those of a ResNet-50, 161 of them, with all widths scaled together (64 is the
real one: 25,557,032 parameters), or those of the code-lm GPT, 27 of them, made wider. Weights are Student's t with
4 degrees of freedom and the deviation that He's initialisation has. An update is Student's t again, times lognormal
scales of rows and columns (deviation 0.5), 0.3 % of the weights' deviation: heavy tails, as updates of real models
have them. A few updates are drawn once; round after round they come with other signs, moved by other numbers of
rows, so that no two rounds are alike and drawing costs little. Real updates are alike from round to round, so they
are easier than these: figures of bytes come from real training (`branches_rounds.py`, `branches_tuned.py`), never
from here.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Mapping

import numpy as np

from phloem.tasks import gpt as code_gpt
from phloem.tensors import Layout, State, TensorSpec

BLOCKS = (3, 4, 6, 3)
FREEDOM = 4
SPREAD = 0.5
STEP = 3e-3
DRAWN = 4  # different updates
CLASSES = 1000
Shapes = Mapping[str, tuple[int, ...]]


def say(text: str, started: float) -> None:
    """One line of progress."""
    print(f"{text}  {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)


def resnet50(width: int) -> Shapes:
    """The parameters of a ResNet-50 of this width, by torchvision's names.

    >>> found = resnet50(64)
    >>> len(found), sum(math.prod(shape) for shape in found.values())
    (161, 25557032)
    """
    found: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, norm: str, out: int, into: int, size: int) -> None:
        found[f"{name}.weight"] = (out, into, size, size)
        found[f"{norm}.weight"] = found[f"{norm}.bias"] = (out,)

    convolution("conv1", "bn1", width, 3, 7)
    into = width
    for layer, blocks in enumerate(BLOCKS):
        inner, out = width << layer, 4 * width << layer
        for block in range(blocks):
            at = f"layer{layer + 1}.{block}"
            convolution(f"{at}.conv1", f"{at}.bn1", inner, into, 1)
            convolution(f"{at}.conv2", f"{at}.bn2", inner, inner, 3)
            convolution(f"{at}.conv3", f"{at}.bn3", out, inner, 1)
            if block == 0:
                convolution(f"{at}.downsample.0", f"{at}.downsample.1", out, into, 1)
            into = out
    found["fc.weight"], found["fc.bias"] = (CLASSES, into), (CLASSES,)
    return found


def gpt(width: int) -> Shapes:
    """The parameters of the code-lm GPT at this width."""
    state = code_gpt.initial(code_gpt.Shape(width), np.random.default_rng(0))
    return {name: array.shape for name, array in state.items()}


def initial(shapes: Shapes, seed: int = 0) -> State:
    """The first model."""
    draw = np.random.default_rng([seed, 1])
    state: State = {}
    for name, shape in shapes.items():
        values = draw.standard_t(FREEDOM, shape).astype(np.float32) / np.float32(
            math.sqrt(2)
        )  # its deviation
        state[name] = values * np.float32(deviation(shape))
    return state


def deviation(shape: tuple[int, ...]) -> float:
    """He's, for what leaves a layer; a small one for vectors."""
    return math.sqrt(2 / (shape[0] * math.prod(shape[2:]))) if len(shape) > 1 else 0.02


class Training:
    """Updates without end: `number` says which."""

    def __init__(self, shapes: Shapes, seed: int = 0) -> None:
        self.layout = Layout(tuple(TensorSpec(name, shapes[name]) for name in sorted(shapes)))
        self._drawn = [self._draw(np.random.default_rng([seed, 2, one])) for one in range(DRAWN)]

    def update(self, number: int) -> list[np.ndarray]:
        """Update `number`, tensor by tensor in the layout's order; nobody else holds it."""
        sign = np.float32(1 - 2 * (number // DRAWN % 2))
        moved = number // (2 * DRAWN) + 1
        return [np.multiply(np.roll(one, moved, axis=0), sign) for one in self._drawn[number % DRAWN]]

    def sparse(self, number: int, share: float) -> list[np.ndarray]:
        """Update `number` with all but the largest `share` of each tensor's values set to zero."""
        found = self.update(number)
        for one in found:
            sizes = np.abs(one).reshape(-1)
            kept = max(1, round(share * sizes.size))
            if kept < sizes.size:
                limit = np.partition(sizes, sizes.size - kept)[sizes.size - kept]
                one[np.abs(one) < limit] = 0
        return found

    def _draw(self, draw: np.random.Generator) -> list[np.ndarray]:
        found = []
        for spec in self.layout.specs:
            whole = spec.shape[0], math.prod(spec.shape[1:])
            rows, columns = (np.exp(SPREAD * draw.standard_normal(n)).astype(np.float32) for n in whole)
            values = draw.standard_t(FREEDOM, whole).astype(np.float32)
            values *= np.float32(STEP * deviation(spec.shape) / math.sqrt(2))
            values *= rows[:, None]
            values *= columns
            found.append(values.reshape(spec.shape))
        return found


def versions(shapes: Shapes, count: int, *, share: float | None = None, seed: int = 0) -> Iterator[State]:
    """`count` models, each one update after the one before; with `share` only so many of the weights change."""
    state = initial(shapes, seed)
    training = Training(shapes, seed)
    for number in range(count):
        yield state
        update = training.update(number) if share is None else training.sparse(number, share)
        state = {n: state[n] + one for n, one in zip(training.layout.names, update, strict=True)}
