"""How far a long piece of work is: nothing for two seconds, then one line that is drawn again, or one now and then."""

from __future__ import annotations

import time
from collections.abc import Callable

from phloem.ui.figures import size_text

QUIET_SECONDS = 2.0
_REDRAWN_EVERY, _WRITTEN_EVERY = 0.1, 5.0


class Meter:
    """Tells of progress in bytes; use it in a `with` statement, which clears the line at the end.

    Args:
        write: takes text as it is to appear.
        redraw: whether a carriage return takes the line back, as on a terminal.
        clock: seconds.
    """

    def __init__(
        self, write: Callable[[str], object], *, redraw: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._write, self._redraw, self._clock = write, redraw, clock
        self._next = clock() + QUIET_SECONDS
        self._width = 0

    def __call__(self, what: str, done: int, total: int) -> None:
        """So many bytes of so many are done."""
        if total:
            self.tell(f"{what}: {100 * done // total} % of {size_text(total)}")

    def tell(self, line: str) -> None:
        """What is being done, in one line."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + (_REDRAWN_EVERY if self._redraw else _WRITTEN_EVERY)
        if self._redraw:
            self._write(f"\r{line.ljust(self._width)}")
            self._width = len(line)
        else:
            self._write(f"{line}\n")

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, *failure: object) -> None:
        if self._width:
            self._write(f"\r{' ' * self._width}\r")
