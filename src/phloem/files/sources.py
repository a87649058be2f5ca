"""Where tensors come from: something that reads any of them, or something that hands each over once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from phloem.errors import ConfigError
from phloem.files.dtypes import Raw
from phloem.tensors import TensorSpec
from phloem.wire.contents import Contents


class Tensors(Protocol):
    """Open tensors that can be read in any order, and again; used in a `with` statement."""

    @property
    def path(self) -> Path:
        """What messages call it."""

    @property
    def contents(self) -> Contents:
        """What is in it: the tensors sorted by name, and metadata."""

    @property
    def size_bytes(self) -> int:
        """The size of all tensors."""

    def spec(self, name: str) -> TensorSpec:
        """The tensor of this name, which must be there."""

    def read(self, spec: TensorSpec) -> Raw:
        """The bytes of one tensor. Shape: (size,)."""

    def __enter__(self) -> Self:
        """Itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it."""


@runtime_checkable
class Stream(Protocol):
    """Tensors that come once each, in an order of their own, such as those of a chain of frames being decoded."""

    @property
    def contents(self) -> Contents:
        """What will come: the tensors sorted by name, and metadata."""

    def iterate(self, names: set[str] | None = None) -> Iterator[tuple[TensorSpec, Raw]]:
        """Every tensor of `contents` (of these names) once, with its bytes. Shape: (size,)."""


def matching(contents: Contents, only: str) -> Contents:
    """The tensors in whose names the pattern is found, as `re.search` does.

    >>> names = ["layers.0.weight", "layers.1.bias", "norm.weight"]
    >>> few = matching(Contents(tuple(TensorSpec(name, (3,)) for name in names)), r"layers.*weight$")
    >>> [spec.name for spec in few.specs]
    ['layers.0.weight']

    Raises:
        ConfigError: it is no pattern, or is found in no name.
    """
    try:
        pattern = re.compile(only)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"only: expected a regular expression, found '{only:.60}': {error}") from error
    found = tuple(spec for spec in contents.specs if pattern.search(spec.name))
    if not found:
        some = ", ".join(f"'{spec.name}'" for spec in contents.specs[:3])
        raise ConfigError(
            f"only: '{only:.60}' is found in none of {len(contents.specs)} names", hint=f"such as {some}"
        )
    return Contents(found, contents.metadata)


def shown(name: str) -> str:
    """A tensor's or a file's name of whatever origin, fit for a message."""
    return "".join(letter if letter.isprintable() else "?" for letter in name[:80])
