"""Tables on standard output: as wide as the terminal, or wide where they go to a file or to another program."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from phloem.cli.printing import WIDE, nobody_reads
from phloem.errors import ConfigError

_PICTURES = (".png", ".svg", ".pdf")


@contextlib.contextmanager
def on_stdout() -> Iterator[Console]:
    """A console on standard output; no complaint where nobody reads any more."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    try:
        yield console
        sys.stdout.flush()
    except BrokenPipeError:
        nobody_reads()


def check_picture(path: Path | None) -> None:
    """Nothing, if a picture may be called so.

    Raises:
        ConfigError: it ends otherwise.
    """
    if path is not None and path.suffix.lower() not in _PICTURES:
        raise ConfigError(
            f"a picture's name ends in {', '.join(_PICTURES)}, found '{path}'", hint="for example -o plan.png"
        )
