"""Transforms: codecs that turn an update into a few bytes and other tensors, which a further codec may carry.

On its own a transform's body is those bytes and then the tensors as float32; in a `chain` another codec takes their
place. The bytes say by themselves where they end, and with the layout they give the layout of the tensors.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from phloem.codecs.base import NO_HINTS, Held, Hints
from phloem.codecs.casts import NoCompression
from phloem.codecs.config import FromConfig
from phloem.tensors import Array, Layout


@dataclass(frozen=True, slots=True)
class Applied:
    """What a transform made of an update: its own bytes, and the tensors that are left to carry."""

    side: bytes
    arrays: list[Array]
    layout: Layout


@dataclass(frozen=True, slots=True)
class Opened:
    """A transform's bytes, read: the layout of the tensors it waits for, and what it makes of them."""

    layout: Layout
    undo: Callable[[list[Array]], list[Array]]


class Transform(FromConfig, ABC):
    """A codec in two parts, so that another codec may carry what it leaves."""

    name: ClassVar[str]

    @abstractmethod
    def apply(self, arrays: Sequence[Array], layout: Layout, hints: Hints) -> Applied:
        """The transform of `arrays`."""

    @classmethod
    @abstractmethod
    def open(cls, body: bytes, start: int, layout: Layout) -> tuple[Opened, int]:
        """The transform whose bytes begin at `start`, and the place after them.

        Raises:
            FormatError: the bytes do not describe a transform of this layout.
        """

    def encode(self, arrays: Sequence[Array], layout: Layout, hints: Hints = NO_HINTS) -> bytes:
        """The transform's bytes and the tensors it leaves, as float32."""
        applied = self.apply(arrays, layout, hints)
        return applied.side + NoCompression().encode(applied.arrays, applied.layout)

    @classmethod
    def decode(cls, body: bytes, layout: Layout, held: Held = None) -> list[Array]:
        """The update whose transform these tensors are."""
        opened, start = cls.open(body, 0, layout)
        return opened.undo(NoCompression.decode(body[start:], opened.layout))
