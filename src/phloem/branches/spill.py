"""The tensors of several states side by side, out of core: a group of tensors at a time lies in a scratch file.

Frames are decoded part by part and methods want one tensor of all states; so for each group of tensors every state is
decoded once, written down, and then read from there as often, and in as short stretches, as a method likes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from phloem.branches.arithmetic import stretch
from phloem.branches.restore import Restored
from phloem.errors import StoreError
from phloem.files.dtypes import ITEM_BYTES, Raw, floats
from phloem.files.tensorfile import bytes_of
from phloem.tensors import Array, TensorSpec

#: Parameters of a group: 64 MB of float32 of each state on the disk.
_GROUP_PARAMETERS = 1 << 24


def groups(state: Restored) -> Iterator[list[TensorSpec]]:
    """The tensors of a state in groups that its parts do not reach out of, each of limited size or one part."""
    found: list[TensorSpec] = []
    for part in state.parts:
        specs = [state.spec(name) for name in part.names]
        if found and sum(spec.size for spec in (*found, *specs)) > _GROUP_PARAMETERS:
            yield found
            found = []
        found = found + specs
    if found:
        yield found


class Spilled:
    """A group of tensors of several states, in one file."""

    def __init__(self, path: Path, states: Sequence[Restored], specs: Sequence[TensorSpec]) -> None:
        """Decodes the group of every state, one state after another.

        Raises:
            StoreError: the disk is full. FormatError: a state does not come out as it was committed.
        """
        self._path = path
        self._places: list[dict[str, int]] = []
        self._types = [{spec.name: state.spec(spec.name).dtype for spec in specs} for state in states]
        names, at = {spec.name for spec in specs}, 0
        try:
            with path.open("wb") as file:
                for state in states:
                    places = {}
                    for spec, raw in state.iterate(names, workers=1):
                        places[spec.name] = at
                        file.write(raw.data)
                        at += bytes_of(spec)
                    self._places.append(places)
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StoreError(f"{path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Removes the file."""
        os.close(self._descriptor)
        self._path.unlink(missing_ok=True)

    def raw(self, state: int, spec: TensorSpec, where: slice | None = None) -> Raw:
        """The bytes of a tensor of a state (or of a stretch of its elements), in that state's type."""
        item = ITEM_BYTES[self._types[state][spec.name]]
        start, stop = (0, spec.size) if where is None else (where.start, where.stop)
        found = np.empty((stop - start) * item, np.uint8)
        view, at, offset = found.data, 0, self._places[state][spec.name] + start * item
        while at < len(view):
            count = os.preadv(self._descriptor, [view[at:]], offset + at)
            if not count:
                raise StoreError(f"{self._path} has become shorter while it was read")
            at += count
        return found

    def values(self, state: int, spec: TensorSpec, where: slice | None = None) -> Array:
        """The same as float32, in the tensor's shape (or a row)."""
        raw = self.raw(state, spec, where)
        row = np.ascontiguousarray(floats(raw, self._types[state][spec.name]), np.float32)
        return row if where is not None else row.reshape(spec.shape)


@dataclass(frozen=True)
class OneTensor:
    """One tensor of some of the states, as merge methods read it (`phloem.branches.arithmetic.Branches`)."""

    spilled: Spilled
    spec: TensorSpec
    places: Sequence[int]
    labels: Sequence[str]

    def each(self) -> Iterator[Array]:
        """The whole tensors, one after another."""
        for place in self.places:
            yield self.spilled.values(place, self.spec)

    def chunks(self) -> Iterator[tuple[slice, Array]]:
        """Stretches of all of them side by side."""
        length = stretch(len(self.places))
        for start in range(0, self.spec.size, length):
            where = slice(start, min(start + length, self.spec.size))
            yield where, np.stack([self.spilled.values(place, self.spec, where) for place in self.places])
