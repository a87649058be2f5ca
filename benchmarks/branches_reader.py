"""A reader of so many bytes a second, for everybody who shares it: what a disk or a line of that speed would be.

Reads are real, from the page cache; what they are faster than the rate is slept away. Nothing is computed: the
times that come out are those of a clock. Threads queue for the one reader in the order in which they ask. A reader
that was idle makes up for at most `BURST_SECONDS`, so that the operating system's late waking is not counted
against anyone.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from phloem.branches.blobs import Stretch

RATE = 500e6
PIECE = 8_000_000
BURST_SECONDS = 0.001


class Reader:
    """A bucket that fills at `rate` bytes a second.

    Attributes:
        taken: how many bytes were read through it.
    """

    def __init__(self, rate: float = RATE) -> None:
        self.rate, self.taken = rate, 0
        self._lock = threading.Lock()
        self._free = time.perf_counter()

    @contextlib.contextmanager
    def slot(self, size: int) -> Iterator[None]:
        """Takes as long as reading `size` bytes does, from the moment when all who asked before have theirs."""
        with self._lock:
            self._free = max(self._free, time.perf_counter() - BURST_SECONDS) + size / self.rate
            until = self._free
            self.taken += size
        yield
        left = until - time.perf_counter()
        if left > 0:
            time.sleep(left)


@contextlib.contextmanager
def throttled(rate: float = RATE) -> Iterator[Reader]:
    """While this lasts, whatever a repository reads of packs and frames comes through one reader."""
    reader, plain = Reader(rate), Stretch.read

    def read(self: Stretch, offset: int, size: int) -> bytes:
        with reader.slot(size):
            return plain(self, offset, size)

    with mock.patch.object(Stretch, "read", read):
        yield reader


def read_file(path: Path, into: bytearray, reader: Reader | None = None) -> None:
    """Reads a whole file into memory that is there already, in pieces, through a reader if one is given."""
    view, at = memoryview(into), 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        while at < len(view):
            piece = view[at : at + PIECE]
            with reader.slot(len(piece)) if reader is not None else contextlib.nullcontext():
                at += os.preadv(descriptor, [piece], at)
    finally:
        os.close(descriptor)
