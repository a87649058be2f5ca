"""How commands speak: data on standard output, words and progress on standard error. Loads nothing heavy."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from phloem.ui.meter import Meter

WIDE = 160  # columns of a table that goes to a file or to another program


def print_json(value: Any) -> None:
    """Prints a value as JSON on standard output, and nothing else there."""
    try:
        sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        nobody_reads()


def stderr_meter() -> Meter:
    """Progress on standard error, drawn again in place where that is a terminal."""

    def write(text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()

    return Meter(write, redraw=sys.stderr.isatty() and os.environ.get("TERM") != "dumb")


def say(text: str) -> None:
    """Words for people, on standard error."""
    print(text, file=sys.stderr)


def nobody_reads() -> None:
    """Whoever read has enough; no second complaint when Python closes the stream."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
