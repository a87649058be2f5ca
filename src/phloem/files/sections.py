"""Which tensors share a body: a section is a stretch of whole tensors that one codec call takes.

Both ends derive the sections from the table, so nothing of them is sent. First come the tensors that may be coded
with loss, in layout order; then those that travel exactly, type by type in the order of the types' codes, in layout
order. A section takes tensors until the next would make it more than 2^22 parameters; a larger tensor is alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from phloem.files.dtypes import CODED
from phloem.tensors import DTYPES, Layout, TensorSpec

MOST_PARAMETERS = 1 << 22


@dataclass(frozen=True)
class Section:
    """Consecutive tensors that are coded together.

    Attributes:
        specs: the tensors; of one type if `exact`.
        exact: whether they travel exactly, by the lossless codec.
    """

    specs: tuple[TensorSpec, ...]
    exact: bool

    @cached_property
    def size(self) -> int:
        """The number of parameters."""
        return sum(spec.size for spec in self.specs)

    @property
    def layout(self) -> Layout:
        """The section's tensors, as a codec sees them: all float32."""
        return Layout(tuple(TensorSpec(spec.name, spec.shape) for spec in self.specs))


def sections(specs: Sequence[TensorSpec], *, lossless: bool) -> list[Section]:
    """The sections of a frame with these tensors; with `lossless` all of them are exact.

    >>> names = [TensorSpec("a", (3,)), TensorSpec("b", (), "int64"), TensorSpec("c", (5, 1))]
    >>> [[spec.name for spec in section.specs] for section in sections(names, lossless=False)]
    [['a', 'c'], ['b']]
    """
    return list(_sections(tuple(specs), lossless, MOST_PARAMETERS))


@lru_cache(maxsize=4)
def _sections(specs: tuple[TensorSpec, ...], lossless: bool, most: int) -> tuple[Section, ...]:
    """As `sections`; frames of one model follow one another."""
    coded = () if lossless else CODED
    found = _grouped([spec for spec in specs if spec.dtype in coded], most, exact=False)
    for dtype in DTYPES:
        if dtype not in coded:
            found += _grouped([spec for spec in specs if spec.dtype == dtype], most, exact=True)
    return tuple(found)


def _grouped(specs: Sequence[TensorSpec], most: int, *, exact: bool) -> list[Section]:
    groups: list[list[TensorSpec]] = []
    size = 0
    for spec in specs:
        if groups and size + spec.size <= most:
            groups[-1].append(spec)
        else:
            groups.append([spec])
            size = 0
        size += spec.size
    return [Section(tuple(group), exact) for group in groups]
