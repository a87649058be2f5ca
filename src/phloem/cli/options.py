"""The options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class KernelChoice(StrEnum):
    """What does the codecs' arithmetic; the results are the same to the bit."""

    auto = "auto"
    reference = "reference"
    native = "native"


class Engines(StrEnum):
    """What carries the bytes of a run."""

    local = "local"
    flower = "flower"
    simulation = "flower-simulation"


KernelsOption = Annotated[
    KernelChoice,
    typer.Option(
        help="Native kernels, the NumPy reference, or (auto) whichever is there.", show_default=False
    ),
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
