"""The update that codecs are compared on: the caller's, cut to a size that is soon done, or one made here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from phloem.seeds import generator
from phloem.tensors import Layout, State

MOST_PARAMETERS = 1 << 22
"""Enough for stable figures of size and speed; every codec sees the same."""


def cut(update: Mapping[str, Any], most: int = MOST_PARAMETERS) -> State:
    """The update itself if it has at most `most` parameters, else the first rows of every tensor, as float32.

    Each tensor keeps about the same share, and one row at least, so that the mixture of tensors stays.
    """
    layout = Layout.of(update)
    share = min(1.0, most / max(layout.size, 1))
    kept = {}
    for name, array in layout.named(layout.arrays(update)).items():
        rows = math.ceil(len(array) * share) if array.ndim else 0
        kept[name] = array[:rows] if array.ndim and share < 1 else array
    return {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in kept.items()}


def sample_update(seed: int = 0) -> tuple[State, str]:
    """An update to try codecs on without one's own, and a sentence that says what it is.

    One site's first epoch on the digits task where torch and scikit-learn are installed, else random numbers.
    """
    try:
        from phloem.tasks.digits import Digits
    except ImportError:
        return heavy_tailed(
            1000, 1000, seed
        ), "1,000,000 made-up values: Student's t by random rows and columns"
    sites = ["site-0", "site-1", "site-2", "site-3"]
    task = Digits(sites, seed)
    state = task.initial_state(seed)
    trained, *_ = task.train(state, task.shard(sites[0]), {}, seed)
    update = {name: trained[name] - state[name] for name in state}
    return update, "one site's first SGD epoch on the digits task, 151,306 parameters"


def heavy_tailed(rows: int, columns: int, seed: int = 0, spread: float = 0.5) -> State:
    """A matrix like an update's: Student's t with 4 degrees of freedom times lognormal scales of rows and columns."""
    rng = generator(seed, "bench", "heavy-tailed")
    matrix = rng.standard_t(4, (rows, columns)).astype(np.float32)
    matrix *= rng.lognormal(0, spread, (rows, 1)).astype(np.float32)
    matrix *= rng.lognormal(0, spread, (1, columns)).astype(np.float32)
    return {"weight": matrix}
