"""What two files differ by, tensor by tensor: the update that a frame carries, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from phloem.errors import ConfigError
from phloem.files.dtypes import Floats, Raw, bytes_at, difference, floats, pieces, restored
from phloem.files.exact import as_type
from phloem.files.sections import Section
from phloem.files.sources import Tensors
from phloem.files.tensorfile import same_tensors
from phloem.tensors import Array, TensorSpec


@dataclass(frozen=True)
class Pair:
    """A new model and its base, or a new model alone."""

    new: Tensors
    base: Tensors | None

    def __post_init__(self) -> None:
        if self.base is not None:
            for spec, other in same_tensors(self.new, self.base):
                as_type(
                    np.zeros(0, np.uint8), other.dtype, spec.dtype, spec.name
                )  # or they cannot be compared

    def bases(self, specs: Sequence[TensorSpec]) -> list[Raw] | None:
        """The base's tensors, in the new tensors' types."""
        return None if self.base is None else base_tensors(self.base, specs)

    def update(self, spec: TensorSpec) -> Array:
        """The difference as float32, in the tensor's shape.

        Raises:
            ConfigError: a value is NaN or infinite, or beyond float32.
        """
        values = difference(self.new.read(spec), spec.dtype, *self._base(spec))
        if not np.isfinite(values).all():
            where = self.new.path if self.base is None else f"{self.new.path} or {self.base.path}"
            raise ConfigError(
                f"tensor '{spec.name}' of {where} holds NaN, infinity or values beyond float32",
                hint="lossless coding (--lossless) keeps every bit of such tensors",
            )
        return values.reshape(spec.shape)

    def updates(self, section: Section) -> list[Array]:
        """The differences of a section."""
        return [self.update(spec) for spec in section.specs]

    def lost(self, spec: TensorSpec, decoded: Array) -> tuple[float, float]:
        """Σ(restored − new)² and Σ(new − base)² of one tensor, in float64."""
        new, (base, base_type) = self.new.read(spec), self._base(spec)
        lost = power = 0.0
        update = decoded.reshape(-1)
        for here in pieces(spec.size):
            mine = bytes_at(new, spec.dtype, here)
            theirs = None if base is None else bytes_at(base, base_type, here)
            back = restored(update[here], spec.dtype, theirs, base_type)
            wanted = floats(mine, spec.dtype)
            lost += _energy(np.subtract(floats(back, spec.dtype), wanted, dtype=np.float64))
            power += _energy(difference(mine, spec.dtype, theirs, base_type))
        return lost, power

    def _base(self, spec: TensorSpec) -> tuple[Raw | None, str]:
        if self.base is None:
            return None, spec.dtype
        other = self.base.spec(spec.name)
        return self.base.read(other), other.dtype


def base_tensors(base: Tensors, specs: Sequence[TensorSpec]) -> list[Raw]:
    """The base's tensors of these names, in these types."""
    found = []
    for spec in specs:
        other = base.spec(spec.name)
        found.append(as_type(base.read(other), other.dtype, spec.dtype, spec.name))
    return found


def _energy(values: Floats) -> float:
    return float(np.square(values, dtype=np.float64).sum())
