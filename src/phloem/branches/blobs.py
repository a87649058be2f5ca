"""Bytes wherever they lie: in memory, in a stretch of a file, in a bucket. Read at any place, from any thread."""

from __future__ import annotations

import errno
import io
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from phloem.errors import FormatError, NotFoundError, StoreError


class Blob(Protocol):
    """Some bytes of known size.

    Attributes:
        size: how many.
        name: for messages.
    """

    @property
    def size(self) -> int:
        """How many bytes there are."""
        ...

    @property
    def name(self) -> str:
        """What messages call it."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on.

        Raises:
            StoreError: they are not there, or cannot be read. FormatError: they are lost.
        """
        ...


@dataclass(frozen=True)
class Bytes:
    """A blob in memory."""

    content: bytes
    name: str = "bytes"

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return len(self.content)

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on."""
        found = self.content[offset : offset + size]
        if len(found) != size:
            raise StoreError(f"{self.name} ends before byte {offset + size}")
        return found


class Opened:
    """A file that is open for as long as anyone holds this."""

    def __init__(self, path: Path) -> None:
        """Opens it.

        Raises:
            OSError: it cannot be opened. FormatError: it is no file.
        """
        self.descriptor = -1
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would wait
        found = os.fstat(self.descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise FormatError(f"{path.name[:80]} is no file")
        self.size = found.st_size

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


@dataclass(frozen=True)
class Stretch:
    """A part of an open file."""

    file: Opened
    start: int
    size: int
    name: str

    def read(self, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on."""
        if not 0 <= offset <= offset + size <= self.size:
            raise StoreError(f"{self.name} ends before byte {offset + size}")
        try:
            found = os.pread(self.file.descriptor, size, self.start + offset)
            while len(found) < size:  # more than the system reads at once, or a file that was cut
                more = os.pread(self.file.descriptor, size - len(found), self.start + offset + len(found))
                if not more:
                    raise FormatError(f"{self.name} has become shorter while it was read")
                found += more
        except OSError as error:
            if (
                error.errno == errno.EIO
            ):  # a place on the disk that is lost costs what is there, not everything
                raise FormatError(f"{self.name} is damaged: the disk cannot read it") from error
            raise StoreError(f"{self.name} cannot be read: {error.strerror}") from error
        return found


def blob_of(path: Path, name: str) -> Stretch:
    """A whole file.

    Raises:
        NotFoundError: there is none. StoreError: it cannot be read. FormatError: it is no file.
    """
    try:
        file = Opened(path)
    except FileNotFoundError as error:
        raise NotFoundError(f"{name} is not there") from error
    except FormatError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise FormatError(f"{name} is a link that leads round in a circle") from error
        raise StoreError(f"{name} cannot be read: {error.strerror}") from error
    return Stretch(file, 0, file.size, name)


class BlobFile(io.RawIOBase):
    """A blob as a file to read from, with a place of its own."""

    def __init__(self, blob: Blob) -> None:
        super().__init__()
        self._blob, self._at = blob, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        """Goes to a place."""
        self._at = offset + (0, self._at, self._blob.size)[whence]
        return self._at

    def tell(self) -> int:
        """The place."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """What follows, up to `size` bytes."""
        left = max(self._blob.size - self._at, 0)
        found = self._blob.read(self._at, left if size < 0 else min(size, left))
        self._at += len(found)
        return found
