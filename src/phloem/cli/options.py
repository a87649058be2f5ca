"""What several commands share: options, and how a wrong word of a call is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated

import typer

from phloem.errors import ConfigError, FormatError


class KernelChoice(StrEnum):
    """What does the codecs' arithmetic; the results are the same to the bit."""

    auto = "auto"
    reference = "reference"
    native = "native"


class Engines(StrEnum):
    """What carries the bytes of a run."""

    local = "local"
    torch = "torch"
    flower = "flower"
    simulation = "flower-simulation"


KernelsOption = Annotated[
    KernelChoice,
    typer.Option(
        help="Native kernels, the NumPy reference, or (auto) whichever is there.", show_default=False
    ),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@contextlib.contextmanager
def as_called() -> Iterator[None]:
    """In here what is of a wrong form was typed so: the call is wrong, and no file is."""
    try:
        yield
    except FormatError as error:
        raise ConfigError(error.message, hint=error.hint) from error
