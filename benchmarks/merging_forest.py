"""A repository with a trunk and branches off it, and what merges of them are called."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.numpy import load_file, save_file

from measuring import spread
from phloem.branches import joining
from phloem.branches.repository import Repository
from phloem.tensors import State

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
