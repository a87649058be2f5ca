"""What every merge method is made of: one tensor of all branches as a stream, and exact elementwise steps.

A merge is computed again, on another machine and years later, to check a record, and must then give the same bits.
So all that reaches a merged tensor is elementwise IEEE arithmetic in float64, in branch order, rounded once to
float32: no BLAS, no library reduction over elements (their order depends on the processor), nothing from libm.

Zeros: a merged value that equals base's is base's to the bit, so what no branch changed stays as it was, −0.0
included. Every other zero comes out as +0.0.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from phloem.codecs.config import check_number
from phloem.errors import ConfigError
from phloem.tensors import Array

Doubles = npt.NDArray[np.float64]
#: What `Method.resolve` found and the merge then uses, as plain JSON: it belongs in the merge's record.
Resolved = Mapping[str, Any]

_BLOCK = (
    1 << 16
)  # elements: a few float64 blocks lie in a core's cache, and a NumPy call costs little beside them
_STRETCHES = 1 << 18  # values in the stretches of all branches together: 1 MiB, and 2 MiB as float64


class Branches(Protocol):
    """One tensor of every branch, read as often as a method needs it; never all of it in memory.

    Both ways of reading give the same values, in branch order. `chunks` has one fixed length of stretch (the last
    may be shorter), which changes the speed and the memory and never a bit of the merge.
    """

    @property
    def labels(self) -> Sequence[str]:
        """One text per branch, each once; random masks follow the label, so that they ignore the order."""
        ...

    def each(self) -> Iterator[Array]:
        """The branches' whole tensors, one after another, float32 in the tensor's shape."""
        ...

    def chunks(self) -> Iterator[tuple[slice, Array]]:
        """Stretches of the flattened tensor from its start to its end: (where, float32 array (branches, length))."""
        ...


@dataclass(frozen=True)
class Held:
    """Branches whose tensors are in memory: for small models and for tests.

    Attributes:
        arrays: one float32 array per branch, all of one shape.
        labels: their labels; by default "0", "1" and so on.
        length: elements per stretch; by default what `stretch` advises.
    """

    arrays: Sequence[Array]
    labels: Sequence[str] = ()
    length: int = 0

    def __post_init__(self) -> None:
        labels = tuple(self.labels) or tuple(str(place) for place in range(len(self.arrays)))
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "length", self.length or stretch(len(self.arrays)))
        if len(self.labels) != len(self.arrays):
            raise ConfigError(
                f"expected a label for each of {len(self.arrays)} branches, found {len(self.labels)}"
            )

    def each(self) -> Iterator[Array]:
        """The arrays."""
        yield from self.arrays

    def chunks(self) -> Iterator[tuple[slice, Array]]:
        """Stretches of the arrays, copied side by side."""
        flat = [array.reshape(-1) for array in self.arrays]
        for where in spans(flat[0].size if flat else 0, self.length):
            yield where, np.stack([array[where] for array in flat])


def stretch(count: int) -> int:
    """The advised length of stretch for `count` branches: a power of two from 2^10 to 2^16 elements.

    >>> stretch(2), stretch(8), stretch(64)
    (65536, 32768, 4096)
    """
    return 1 << min(16, max(10, (_STRETCHES // max(1, count)).bit_length() - 1))


def spans(size: int, length: int = _BLOCK) -> Iterator[slice]:
    """Slices of `length` elements, the last perhaps shorter, that make up `size` elements."""
    for start in range(0, size, length):
        yield slice(start, min(start + length, size))


# ---- Reading, with refusals -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Inputs:
    """One tensor of base and of every branch, checked as it is read.

    Attributes:
        name: the tensor's, for messages and for random masks.
        base: base's values, one row of float32, all finite.
        shape: the tensor's.
        branches: the others.
    """

    name: str
    base: Array
    shape: tuple[int, ...]
    branches: Branches

    @classmethod
    def of(cls, name: str, base: Array, branches: Branches) -> Inputs:
        """The inputs, after a look at base's tensor.

        Raises:
            ConfigError: it is not float32, or holds a NaN or an infinity; or two branches have one label.
        """
        if len(set(branches.labels)) != len(branches.labels):
            raise ConfigError(f"every branch needs a label of its own, found {list(branches.labels)!r:.200}")
        return cls(name, _checked(name, "base", base, base.shape), base.shape, branches)

    def whole(self) -> Iterator[tuple[int, Array]]:
        """(place, the branch's tensor as one row of float32) for every branch; one tensor is held at a time.

        Raises:
            ConfigError: a tensor has another shape or type than base's, or holds a NaN or an infinity.
        """
        labels, tensors = self.branches.labels, self.branches.each()
        for place, label in enumerate(labels):
            array = next(tensors, None)
            if array is None:
                raise ConfigError(f"tensor '{self.name}': expected {len(labels)} branches, read {place}")
            row = _checked(self.name, f"branch '{label}'", array, self.shape)
            del array
            yield place, row
            del row
        if next(tensors, None) is not None:
            raise ConfigError(f"tensor '{self.name}': expected {len(labels)} branches, read more")

    def stretches(self) -> Iterator[tuple[slice, Array]]:
        """(where, (branches, length) float32) from the tensor's first element to its last.

        Raises:
            ConfigError: the stretches do not make up base's tensor, or hold a NaN or an infinity.
        """
        labels, end = self.branches.labels, 0
        for where, part in self.branches.chunks():
            wanted = (len(labels), where.stop - where.start)
            if where.start != end or part.shape != wanted or part.dtype != np.float32:
                raise ConfigError(
                    f"tensor '{self.name}': expected a float32 stretch of {len(labels)} branches from element "
                    f"{end}, found {part.dtype} of shape {part.shape} from {where.start}"
                )
            if not np.isfinite(part).all():
                bad = int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])
                raise _not_finite(self.name, f"branch '{labels[bad]}'")
            end = where.stop
            yield where, part
            del part
        if end != self.base.size:
            raise ConfigError(f"tensor '{self.name}': expected {self.base.size} elements, read {end}")


def _checked(name: str, whose: str, array: Array, shape: tuple[int, ...]) -> Array:
    if array.dtype != np.float32 or array.shape != shape:
        raise ConfigError(
            f"tensor '{name}' of {whose} must be float32 of shape {shape}, found {array.dtype} of {array.shape}"
        )
    row = array.reshape(-1)
    if not all(np.isfinite(row[where]).all() for where in spans(row.size)):
        raise _not_finite(name, whose)
    return row


def _not_finite(name: str, whose: str) -> ConfigError:
    return ConfigError(
        f"tensor '{name}' of {whose} holds a NaN or an infinity",
        hint="such a model cannot be merged: leave it out",
    )


# ---- Weights --------------------------------------------------------------------------------------------------


def check_weights(weights: Sequence[float]) -> None:
    """Refuses weights that no merge can use: each must be a finite number from 0 up, and one above 0.

    Raises:
        ConfigError: there is no branch, a weight is below 0 or not finite, or their sum is outside [1e-30, 1e30].
    """
    if not weights:
        raise ConfigError("a merge needs at least one branch, found none")
    for place, weight in enumerate(weights):
        check_number("a merge", f"weights[{place}]", weight, 0.0, 1e30)
    if not 1e-30 <= math.fsum(weights) <= 1e30:
        raise ConfigError(f"the weights must add up to between 1e-30 and 1e30, found {math.fsum(weights)!r}")


def shares(weights: Sequence[float]) -> list[float]:
    """The weights divided by their (exactly rounded) sum."""
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def taking_part(weights: Sequence[float]) -> list[int]:
    """The places of the branches with a weight above 0; the others are as if they had not been passed."""
    return [place for place, weight in enumerate(weights) if weight > 0]


# ---- Elementwise steps ----------------------------------------------------------------------------------------


def weighted_sum(inputs: Inputs, factors: Sequence[float], *, deltas: bool) -> Doubles:
    """Σ factorᵢ · xᵢ, or Σ factorᵢ · (xᵢ − base) with `deltas`, added in branch order: a row of float64."""
    total = np.zeros(inputs.base.size)
    for place, row in inputs.whole():
        for where in spans(row.size) if factors[place] != 0 else ():
            term = row[where].astype(np.float64)
            if deltas:
                term -= inputs.base[where]
            term *= factors[place]
            total[where] += term
        del row
    return total


def stepped(base: Array, centre: Doubles, scale: float) -> Doubles:
    """What lies `scale` of the way from base to `centre`, which for scale 1 is `centre` itself."""
    if scale == 1.0:
        return centre
    start = base.astype(np.float64)
    return start + scale * (centre - start)


def rounded(name: str, base: Array, values: Doubles) -> Array:
    """`values` rounded once to float32, zeros as the module says; `base` are base's values at the same elements.

    Raises:
        ConfigError: a value is beyond float32.
    """
    with np.errstate(over="ignore"):
        result = values.astype(np.float32)
    if not np.isfinite(result).all():
        raise ConfigError(
            f"the merge of tensor '{name}' is beyond float32", hint="a smaller scale or weights"
        )
    result += np.float32(0.0)  # −0.0 + 0.0 = +0.0
    np.copyto(result, base, where=result == base)
    return result


def halved(values: Doubles) -> float:
    """The sum of a row, which it overwrites: the second half is added to the first until one value is left.

    Elementwise adds only, so the bits are the same everywhere; the error grows with log₂ of the length.

    >>> halved(np.array([1.0, 2.0, 3.0]))
    6.0
    """
    count = values.size
    while count > 1:
        half = (count + 1) // 2
        values[: count - half] += values[half:count]
        count = half
    return float(values[0]) if values.size else 0.0


# ---- What methods share ---------------------------------------------------------------------------------------


class Elementwise(abc.ABC):
    """A method whose merged tensor is made stretch by stretch; by default nothing is surveyed or resolved before."""

    name: ClassVar[str]
    needs_survey: ClassVar[bool] = False

    def check(self, weights: Sequence[float]) -> None:
        """Refuses weights, or a number of branches, that this method cannot merge; before anything is read.

        Raises:
            ConfigError: see `check_weights`, and what the method itself asks for.
        """
        check_weights(weights)

    def survey(self, name: str, base: Array, branches: Branches) -> Doubles:
        """What the tensor adds to a statistic of the whole model; surveys of tensors add up with `+`."""
        return np.zeros((0, 0))

    def resolve(self, survey: Doubles | None, weights: Sequence[float]) -> Resolved:
        """The numbers that `tensor` will use, as plain JSON, from the sum of the surveys of all tensors."""
        self.check(weights)
        return {}

    def tensor(
        self,
        name: str,
        base: Array,
        branches: Branches,
        weights: Sequence[float],
        resolved: Resolved,
        key: int = 0,
    ) -> Array:
        """The merged tensor, float32 in base's shape, the same bits on every machine and for every stretch length.

        Args:
            name: the tensor's, for messages and for random masks.
            base: its float32 values in the common ancestor, or in the trunk.
            branches: its values in the branches.
            weights: one per branch, in their order.
            resolved: what `resolve` gave, now or when the merge was recorded.
            key: the root of the random masks; only methods that drop at random read it.

        Raises:
            ConfigError: a shape or type that is not base's, a NaN or an infinity, a merged value beyond float32.
        """
        if len(weights) != len(branches.labels):
            raise ConfigError(
                f"expected a weight for each of {len(branches.labels)} branches, found {len(weights)}"
            )
        self.check(weights)
        inputs = Inputs.of(name, base, branches)
        merged = np.empty(base.size, np.float32)
        for where, values in self._stretches(inputs, weights, resolved, key):
            merged[where] = rounded(name, inputs.base[where], values)
        return merged.reshape(base.shape)

    @abc.abstractmethod
    def _stretches(
        self, inputs: Inputs, weights: Sequence[float], resolved: Resolved, key: int
    ) -> Iterator[tuple[slice, Doubles]]:
        """(where, merged values before rounding); together they make up the tensor."""
