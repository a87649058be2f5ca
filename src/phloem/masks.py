"""Which weights of a model are kept, and the way between the whole model and the kept weights alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from phloem.tensors import Array, Layout, TensorSpec

Mask = npt.NDArray[np.bool_]
ABSENT = np.float32(-0.0)
"""What stands for a weight that is not kept: the one number that changes nothing, to the bit, when it is added."""


@dataclass(frozen=True, eq=False)
class Kept:
    """The weights that are there: the layout that frames have, and the way between it and the whole model.

    Attributes:
        whole: the model's layout.
        masks: for every tensor its kept weights, as a vector of booleans; None where all are kept.
    """

    whole: Layout
    masks: tuple[Mask | None, ...]

    @cached_property
    def layout(self) -> Layout:
        """The layout of a frame; the model's own where nothing is pruned."""
        if not self.any_masked:
            return self.whole
        return Layout(
            tuple(
                spec if mask is None else TensorSpec(spec.name, (int(np.count_nonzero(mask)),))
                for spec, mask in zip(self.whole.specs, self.masks, strict=True)
            )
        )

    @property
    def any_masked(self) -> bool:
        """Whether anything is pruned."""
        return any(mask is not None for mask in self.masks)

    def gather(self, arrays: Sequence[Array]) -> list[Array]:
        """The kept weights of whole tensors, as a frame carries them."""
        return [
            array if mask is None else array.reshape(-1)[mask]
            for array, mask in zip(arrays, self.masks, strict=True)
        ]

    def scatter(self, arrays: Sequence[Array], absent: np.float32 = ABSENT) -> list[Array]:
        """Whole tensors from what a frame carried, with `absent` for the weights that it did not."""
        whole = []
        for spec, array, mask in zip(self.whole.specs, arrays, self.masks, strict=True):
            if mask is not None:
                tensor = np.full(spec.size, absent)
                tensor[mask] = array
                array = tensor.reshape(spec.shape)
            whole.append(array)
        return whole

    def carry(self, owed: Sequence[Array], before: Kept) -> tuple[Array, ...]:
        """What is owed under the mask `before`, under this one: nothing to weights that went or have just come."""
        if self is before:
            return tuple(owed)
        carried = self.gather(before.scatter(owed))
        return tuple(np.asarray(array + np.float32(0.0)) for array in carried)  # no −0.0 among what is owed

    def by_name(self) -> Mapping[str, Mask] | None:
        """For a task: the kept weights of every masked tensor, in its shape; None where nothing is pruned."""
        if not self.any_masked:
            return None
        return {
            spec.name: mask.reshape(spec.shape)
            for spec, mask in zip(self.whole.specs, self.masks, strict=True)
            if mask is not None
        }


def everything(layout: Layout) -> Kept:
    """All weights."""
    return Kept(layout, (None,) * len(layout.specs))


def largest(keys: npt.NDArray[np.unsignedinteger], count: int) -> Mask:
    """Which `count` of the keys are largest; among equal ones those with the lower index."""
    if count <= 0 or count >= keys.size:
        return np.full(keys.size, count > 0)
    threshold = np.partition(keys, keys.size - count)[keys.size - count]
    mask: Mask = keys > threshold
    mask[np.flatnonzero(keys == threshold)[: count - int(np.count_nonzero(mask))]] = True
    return mask
