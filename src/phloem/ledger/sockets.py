"""What comes from a socket: no more bytes and no later than was allowed, however slowly the other side sends."""

from __future__ import annotations

import io
import socket
import time
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class TooLateError(OSError):
    """The other side took longer than it may."""


class TooMuchError(OSError):
    """The other side sent more than it may."""


class Incoming(io.RawIOBase):
    """Reads a socket until a moment and up to a number of bytes, which `allow` sets.

    A socket's own timeout is for one read: a byte now and then keeps it waiting for ever. This one is for all of them.
    """

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection
        self._raw = cast("io.RawIOBase", connection.makefile("rb", buffering=0))
        self._until, self._left = 0.0, 0
        self.taken = 0

    def allow(self, seconds: float, size_bytes: int) -> None:
        """From now on `size_bytes` may come within `seconds`; `taken` counts them."""
        self._until, self._left = time.monotonic() + seconds, size_bytes
        self.taken = 0

    def allow_more(self, size_bytes: int) -> None:
        """So many bytes more, in the same time."""
        self._left += size_bytes

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """How many bytes were read into `buffer`; 0 at the end.

        Raises:
            TooLateError: the time is over. TooMuchError: the bytes are used up. OSError: the connection broke.
        """
        seconds = self._until - time.monotonic()
        if seconds <= 0:
            raise TooLateError("it took too long")
        if self._left <= 0:
            raise TooMuchError("it is too long")
        self._connection.settimeout(seconds)
        try:
            count = self._raw.readinto(memoryview(buffer)[: self._left])
        except TimeoutError as error:
            raise TooLateError("it took too long") from error
        found = count or 0
        self._left -= found
        self.taken += found
        return found

    def close(self) -> None:
        """Closes this end's reading."""
        self._raw.close()
        super().close()
