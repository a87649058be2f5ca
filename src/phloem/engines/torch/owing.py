"""What a rank owes under DDP: its own residual by parameter, and that of the means it has reduced by piece.

Kept by name, so that it outlives DDP's buckets, a checkpoint and a change of the number of ranks. With n ranks the
next mean is missing Σ(own) ÷ n + Σ(reduced). A change to m ranks keeps that sum: every rank starts from the mean of
all that was owed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from phloem.engines.torch.cutting import Piece
from phloem.errors import ConfigError, StateError
from phloem.tensors import Array

VERSION = 1
_PIECE = re.compile(r"(.*)\[(\d+):(\d+)\]", re.DOTALL)


@dataclass
class Owed:
    """One rank's residuals, float32, in the unit of gradients before any loss scale.

    Attributes:
        own: by parameter, what this rank's frames lost.
        reduced: by piece, what the frames of the means lost that this rank reduced.
        steps: the quantiser steps of the last frames, by bucket and owner: a first guess for the next.
    """

    own: dict[str, Array] = field(default_factory=dict)
    reduced: dict[str, Array] = field(default_factory=dict)
    steps: dict[str, float] = field(default_factory=dict)

    def of(self, piece: Piece, shape: tuple[int, ...]) -> Array:
        """The rows of a parameter's residual that belong to a piece, to be changed in place."""
        if piece.parameter not in self.own:
            self.own[piece.parameter] = np.zeros(shape, np.float32)
        whole = self.own[piece.parameter]
        return whole[piece.first : piece.last] if whole.ndim else whole

    def of_mean(self, piece: Piece) -> Array:
        """The residual of the means of a piece, to be changed in place."""
        return self.reduced.setdefault(piece.name, np.zeros(piece.shape, np.float32))

    def scale(self, factor: float) -> None:
        """Multiplies everything: the loss scale has changed."""
        for array in (*self.own.values(), *self.reduced.values()):
            array *= np.float32(factor)
        self.steps.clear()

    def settle(self, ranks: int) -> dict[str, Array]:
        """All that is owed, by parameter, for this rank to add to its next gradient; then nothing is owed.

        What the means lost counts `ranks` times, for the mean of gradients divides by it.
        """
        late, self.own = self.own, {}
        for name, array in self.reduced.items():
            parameter, first, last = rows_of(name)
            part = late[parameter] if first is None else late[parameter][first:last]
            part += np.float32(ranks) * array
        self.reduced = {}
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
        for name, array in state["reduced"].items():
            parameter, first_row, last_row = rows_of(name)
            part = total[parameter] if first_row is None else total[parameter][first_row:last_row]
            part += np.asarray(array, np.float64)
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
    for name in state["reduced"]:
        if rows_of(name)[0] not in shapes:
            raise StateError(f"the residual of '{name}' belongs to another model")


def rows_of(name: str) -> tuple[str, int | None, int | None]:
    """A piece's parameter and rows, by its name; None where it is whole."""
    found = _PIECE.fullmatch(name)
    return (found[1], int(found[2]), int(found[3])) if found else (name, None, None)
