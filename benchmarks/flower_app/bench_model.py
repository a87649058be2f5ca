"""Models by name: a ResNet-50's arrays with drawn updates (`resnet50`, `tiny`), or the digits task, really trained.

A ResNet-50's state has 320 arrays: 25.6 million float32 values and 53 int64 counters. Nothing is learned with it. Its
"training" adds an update as networks have them: every tensor, row and column with a scale of its own (lognormal,
deviation 0.5), heavy tails (n·|n|), a part of rank 1 that all sites have in common and one of the site alone.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

State = dict[str, Any]

_WIDTHS = {"resnet50": 64, "tiny": 8}  # of the first convolution
_BLOCKS = (3, 4, 6, 3)
_CLASSES = 1000
_STEP = 0.01  # an update's size, of the tensor's
_COMMON, _OWN = 0.6, 0.8  # the shares of both parts: the squares add to 1
_BATCHES = 100  # a round's, for the counters


def shapes(model: str) -> dict[str, tuple[int, ...]]:
    """Every array's shape by name, in the order of torchvision's `resnet50().state_dict()`."""
    width = _WIDTHS[model]
    found: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, norm: str, out: int, into: int, size: int) -> None:
        found[f"{name}.weight"] = (out, into, size, size)
        found.update({f"{norm}.{part}": (out,) for part in ("weight", "bias", "running_mean", "running_var")})
        found[f"{norm}.num_batches_tracked"] = ()

    convolution("conv1", "bn1", width, 3, 7)
    into = width
    for layer, blocks in enumerate(_BLOCKS):
        inner, out = width << layer, 4 * width << layer
        for block in range(blocks):
            at = f"layer{layer + 1}.{block}"
            convolution(f"{at}.conv1", f"{at}.bn1", inner, into, 1)
            convolution(f"{at}.conv2", f"{at}.bn2", inner, inner, 3)
            convolution(f"{at}.conv3", f"{at}.bn3", out, inner, 1)
            if block == 0:
                convolution(f"{at}.downsample.0", f"{at}.downsample.1", out, into, 1)
            into = out
    found["fc.weight"], found["fc.bias"] = (_CLASSES, into), (_CLASSES,)
    return found


def _deviation(name: str, shape: tuple[int, ...]) -> float:
    """He's, for what leaves a layer; a small one for vectors."""
    return math.sqrt(2 / (shape[0] * math.prod(shape[2:]))) if len(shape) > 1 else 0.02


def initial(model: str, seed: int) -> State:
    """The first model of a ResNet."""
    draw, state = np.random.default_rng([seed, 0]), {}
    for name, shape in shapes(model).items():
        if name.endswith("num_batches_tracked"):
            state[name] = np.array(0, np.int64)
        elif len(shape) > 1:
            state[name] = draw.standard_normal(shape, np.float32) * np.float32(_deviation(name, shape))
        else:
            ones = name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1)
            state[name] = np.full(shape, 1.0 if ones else 0.0, np.float32)
    return state


def update(model: str, seed: int, site: int, number: int, only: str = "") -> State:
    """What `site` "learns" in round `number`, of the float arrays whose name begins with `only`."""
    found = {}
    for index, (name, shape) in enumerate(shapes(model).items()):
        if name.endswith("num_batches_tracked") or not name.startswith(only):
            continue
        whole = shape[0], math.prod(shape[1:])
        scales, common, own = (
            np.random.default_rng([seed, index, *which]) for which in ((1,), (2, number), (3, number, site))
        )
        rows, columns, tensor = (np.exp(0.5 * scales.standard_normal(n, np.float32)) for n in (*whole, 1))
        values = own.standard_normal(whole, np.float32)
        values *= np.float32(_OWN)
        left, right = (common.standard_normal(n, np.float32) for n in whole)
        left *= np.float32(_COMMON)
        size = np.multiply(left[:, None], right)
        values += size
        values *= np.abs(values, out=size)
        rows *= tensor * np.float32(
            _STEP * _deviation(name, shape) / math.sqrt(3)
        )  # n·|n| has the variance 3
        values *= rows[:, None]
        values *= columns
        found[name] = values.reshape(shape)
    return found


@functools.cache
def digits(path: str) -> tuple[Any, Any]:
    """Recipe and task of a digits recipe."""
    from phloem.engines.host import load_task_of
    from phloem.recipe import load_recipe

    recipe = load_recipe(path)
    return recipe, load_task_of(recipe)


def first(config: Any) -> State:
    """The first model of a run."""
    if config["model"] != "digits":
        return initial(str(config["model"]), int(config["seed"]))
    from phloem.engines.host import initial_state_of

    recipe, task = digits(str(config["recipe"]))
    return dict(initial_state_of(task, recipe))


def train(config: Any, state: State, site: int, number: int) -> tuple[State, int]:
    """The state after a site's training in a round, in the place of `state`, and its number of examples."""
    if config["model"] != "digits":
        for name, step in update(str(config["model"]), int(config["seed"]), site, number).items():
            state[name] = np.add(state[name], step, out=step)
        for name in state:
            if name.endswith("num_batches_tracked"):
                state[name] = state[name] + _BATCHES
        return state, 100 + site
    from phloem.seeds import seed_for

    recipe, task = digits(str(config["recipe"]))
    name = recipe.sites.all[site]
    trained, _, examples, _ = task.train(state, task.shard(name), {}, seed_for(recipe.seed, name, number))
    return dict(trained), examples


def measure(state: State) -> float:
    """One number about a model."""
    return float(sum(float(np.abs(array).mean()) for array in state.values() if array.size))
