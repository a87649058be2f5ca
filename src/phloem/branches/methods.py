"""The merge methods of branches, by name: pure arithmetic on one tensor at a time, no files and no repository.

The driver's part is the same for every method:

    method.check(weights)                                       before anything is read
    survey = sum of method.survey(...) over the tensors         only if method.needs_survey
    resolved = method.resolve(survey, weights)                  plain JSON, recorded with the merge
    merged = method.tensor(name, base, branches, weights, resolved, key)      for every tensor

A replay takes `resolved` from the record and does the last line again: the same bits on any machine.

| name | what it is | mergekit's name |
|---|---|---|
| mean | weighted mean of the models | linear |
| task-arithmetic | base and the weighted sum of what the branches changed | task_arithmetic |
| ties | the same of each branch's largest changes, where signs agree | ties |
| dare | the same of changes kept at random | dare_linear, dare_ties |
| trimmed-mean | mean without the extremes, per coordinate | |
| median | median, per coordinate | |
| geometric-median | the model with the least sum of distances | |
| krum | mean of the branches closest to their neighbours | |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from phloem import strict
from phloem.branches.arithmetic import Branches, Doubles, Held, Resolved, stretch
from phloem.branches.distances import GeometricMedian, Krum
from phloem.branches.linear import Mean, TaskArithmetic
from phloem.branches.robust import Median, TrimmedMean
from phloem.branches.sparsify import Dare, Ties
from phloem.errors import ConfigError, nearest
from phloem.tensors import Array

__all__ = [
    "METHODS",
    "Branches",
    "Held",
    "Method",
    "Resolved",
    "from_json",
    "stretch",
    "to_json",
]


class Method(Protocol):
    """One way of merging: a frozen dataclass whose fields are its JSON. Docstrings are at `Elementwise`."""

    name: ClassVar[str]
    needs_survey: ClassVar[bool]

    def check(self, weights: Sequence[float]) -> None:
        """Refuses weights, or a number of branches, that this method cannot merge; before anything is read."""
        ...

    def survey(self, name: str, base: Array, branches: Branches) -> Doubles:
        """What the tensor adds to a statistic of the whole model; surveys of tensors add up with `+`."""
        ...

    def resolve(self, survey: Doubles | None, weights: Sequence[float]) -> Resolved:
        """The numbers that `tensor` will use, as plain JSON, from the sum of the surveys of all tensors."""
        ...

    def tensor(
        self,
        name: str,
        base: Array,
        branches: Branches,
        weights: Sequence[float],
        resolved: Resolved,
        key: int = 0,
    ) -> Array:
        """The merged tensor, float32 in base's shape."""
        ...


METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (Mean, TaskArithmetic, Ties, Dare, TrimmedMean, Median, GeometricMedian, Krum)
}


def from_json(table: Mapping[str, Any]) -> Method:
    """The method that a table describes: its "name", and the fields that are not at their defaults.

    Raises:
        ConfigError: no such method, an unknown key (the nearest is named), or a value of another type or range.

    >>> from_json({"name": "ties", "density": 0.2})
    Ties(density=0.2, scale=1.0, normalize=True)
    """
    rest = strict.as_table(table, "a merge method")
    name = rest.pop("name", None)
    if not isinstance(name, str) or name not in METHODS:
        near = nearest(name, METHODS) if isinstance(name, str) else None
        raise ConfigError(
            f"there is no merge method {name!r:.40}",
            hint=f"did you mean '{near}'?" if near else f"known: {', '.join(METHODS)}",
        )
    return strict.from_table(METHODS[name], rest, f"merge method '{name}'")


def to_json(method: Method) -> dict[str, Any]:
    """The table that `from_json` reads back as an equal method; every field is in it.

    >>> to_json(Median())
    {'name': 'median', 'scale': 1.0}
    """
    fields = dataclasses.fields(method)  # type: ignore[arg-type]
    return {
        "name": method.name,
        **{
            spec.name: float(getattr(method, spec.name))
            if spec.type == "float"
            else getattr(method, spec.name)
            for spec in fields
        },
    }
