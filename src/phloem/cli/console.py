"""Tables on standard output, as wide as the terminal, or wide where they go elsewhere; and pictures in files."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from phloem.cli.printing import WIDE, nobody_reads, say
from phloem.errors import ConfigError, StoreError

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


@contextlib.contextmanager
def drawing(path: Path) -> Iterator[None]:
    """In here a picture is drawn to `path`; without matplotlib what else the command says is worth having, too.

    Raises:
        StoreError: it cannot be written.
    """
    try:
        yield
    except ConfigError as error:
        say(f"note: {path} was not drawn: {error}")
    except OSError as error:
        raise StoreError(f"{path} could not be written: {error.strerror}") from error
    else:
        say(f"plot: {path}")


def check_picture(path: Path | None) -> None:
    """Nothing, if a picture may be called so.

    Raises:
        ConfigError: it ends otherwise.
    """
    if path is not None and path.suffix.lower() not in _PICTURES:
        raise ConfigError(
            f"a picture's name ends in {', '.join(_PICTURES)}, found '{path}'", hint="for example -o plan.png"
        )
