"""What a rank owes under DDP, by parameter.

Kept by name, so that it outlives DDP's buckets, a checkpoint and a change of the number of ranks. The next mean lacks
the mean of what all ranks owe. Another number of ranks keeps that: each starts from the mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phloem.errors import ConfigError, StateError
from phloem.tensors import Array

VERSION = 1


@dataclass
class Owed:
    """One rank's residuals, float32, in the unit of gradients as they come: scaled, where there is a loss scale.

    Attributes:
        own: by parameter, what this rank's frames lost and what the means lost that it had made.
    """

    own: dict[str, Array] = field(default_factory=dict)

    def of(self, name: str, shape: tuple[int, ...]) -> Array:
        """A parameter's residual, to be changed in place."""
        if name not in self.own:
            self.own[name] = np.zeros(shape, np.float32)
        return self.own[name]

    def scale(self, factor: float) -> None:
        """Multiplies everything: the loss scale has changed."""
        for array in self.own.values():
            array *= np.float32(factor)

    def settle(self) -> dict[str, Array]:
        """All that is owed, for this rank to add to its next gradient; then nothing is owed."""
        late, self.own = self.own, {}
        return late


def merged(states: Iterable[Mapping[str, Any]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """The mean of what all ranks owed, by parameter, from the states of all ranks of one step .

    Raises:
        StateError: a state is missing, of another step, version or model.
    """
    total = {name: np.zeros(shape, np.float64) for name, shape in shapes.items()}
    seen: set[int] = set()
    first: Mapping[str, Any] | None = None
    for state in states:
        check(state, shapes)
        first = first or state
        for key in ("ranks", "step"):
            if state[key] != first[key]:
                raise StateError(f"residuals of different {key}: {first[key]} and {state[key]}")
        if state["rank"] in seen:
            raise StateError(f"the residual of rank {state['rank']} came twice")
        seen.add(state["rank"])
        for name, array in state["own"].items():
            total[name] += np.asarray(array, np.float64) / state["ranks"]
    if first is None or len(seen) != first["ranks"]:
        found = "none" if first is None else f"{len(seen)} of {first['ranks']}"
        raise StateError(
            f"expected the residuals of all ranks, found {found}", hint="every rank saves its own"
        )
    return {name: array.astype(np.float32) for name, array in total.items()}


def check(state: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Nothing, if a rank's state is of this version and this model.

    Raises:
        ConfigError: it is no such state. StateError: it is of another version or model; the difference is named.
    """
    if state.get("kind") != "phloem.torch residuals":
        raise ConfigError(
            "expected what state_dict() of a compressed model gave, found something else",
            hint="load the model's own state with model.load_state_dict",
        )
    if state.get("version") != VERSION:
        raise StateError(f"residuals of version {state.get('version')!r}, and this is version {VERSION}")
    for name, array in state["own"].items():
        if name not in shapes:
            raise StateError(f"the residual of '{name}' belongs to another model")
        if tuple(array.shape) != tuple(shapes[name]):
            raise StateError(
                f"the residual of '{name}' has the shape {tuple(array.shape)}, the parameter {tuple(shapes[name])}"
            )
