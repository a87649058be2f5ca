"""What a rank owes under DDP, by parameter.

Kept by name, so that it outlives DDP's buckets, a checkpoint and a change of the number of ranks. The next mean lacks
the mean of what all ranks owe. Another number of ranks keeps that: each starts from the mean.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from phloem.engines.torch.buffers import values_of
from phloem.errors import ConfigError, StateError
from phloem.tensors import Array

VERSION = 1


@dataclass
class Owed:
    """One rank's residuals, float32, in the unit of gradients as they come: scaled, where there is a loss scale.

    They lie where gradients are coded: in the processor's memory, or in a GPU's.

    A step's changes count once all of its buckets are through: `commit`, or `discard` where one of them was broken.

    Attributes:
        own: by parameter, what this rank's frames lost and what the means lost that it had made.
    """

    own: dict[str, torch.Tensor] = field(default_factory=dict)
    _pending: dict[str, torch.Tensor] = field(default_factory=dict)
    _paid: dict[str, torch.Tensor] = field(default_factory=dict)
    _spare: dict[str, torch.Tensor] = field(default_factory=dict)

    def begin(self, name: str, shape: tuple[int, ...], device: torch.device | str = "cpu") -> torch.Tensor:
        """A copy of a parameter's residual, to be changed in place: what is owed after the step."""
        tensor = self._spare.pop(name, None)
        if tensor is None or tensor.device != torch.device(device):
            tensor = torch.empty(shape, dtype=torch.float32, device=device)
        if name in self.own:
            tensor.copy_(self.own[name])
        else:
            tensor.zero_()
        self._pending[name] = tensor
        return tensor

    def pay(self, name: str) -> torch.Tensor | None:
        """A parameter's residual, to be added to its gradient: then nothing is owed of it."""
        if name in self.own:
            self._paid[name] = self.own.pop(name)
        return self._paid.get(name)

    @property
    def is_open(self) -> bool:
        """Whether a step is under way that changes something."""
        return bool(self._pending or self._paid)

    def commit(self) -> None:
        """The step is through."""
        for name, tensor in self._pending.items():
            if name in self.own:
                self._spare[name] = self.own[name]
            self.own[name] = tensor
        self._pending, self._paid = {}, {}

    def discard(self) -> None:
        """The step is not applied: what was owed before it is owed again."""
        self._spare |= self._pending
        self.own |= self._paid
        self._pending, self._paid = {}, {}

    def scale(self, factor: float) -> None:
        """Multiplies everything: the loss scale has changed."""
        for tensor in self.own.values():
            tensor *= factor


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
            total[name] += values_of(array, np.float64) / state["ranks"]
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
    for name, array in state["right"].items():
        if name not in shapes or array.ndim != 2 or len(array) != math.prod(shapes[name][1:]):
            raise StateError(f"the directions of '{name}' belong to another model")
    for key, values in state["squares"].items():
        part, _, name = key.partition("/")
        shape = shapes.get(name)
        if shape is None:
            raise StateError(f"the sizes of '{name}' belong to another model")
        rows, columns = matrix_of(shape)
        if part != "looks" and len(values) != (rows if part == "rows" else columns):
            raise StateError(f"the sizes of '{name}' belong to another model")


def matrix_of(shape: tuple[int, ...]) -> tuple[int, int]:
    """The rows and columns that a parameter is seen as; a vector is one row."""
    return (shape[0], math.prod(shape[1:])) if len(shape) > 1 else (1, math.prod(shape))
